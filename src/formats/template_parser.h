// Parses the tokens of a template.
#pragma once

#include "formats/template_ast.h"
#include "formats/template_lexer.h"

namespace planish::jinja {

// Errors: "line 3: expected ..., found ..."; statements, filters and tests that are not supported, named.
Result<Body> ParseTemplate(const std::vector<Token>& tokens);

}  // namespace planish::jinja
