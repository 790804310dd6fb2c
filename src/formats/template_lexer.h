// Tokens of a template, with the rules of Jinja's environment as transformers sets it up: trim_blocks (the
// newline behind a block or comment tag is dropped), lstrip_blocks (blanks between the start of a line and
// such a tag are dropped), "-" and "+" at either end of a tag, one newline at the end of the source dropped.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace planish::jinja {

enum class TokenKind : uint8_t {
  kText,           // between tags
  kBlockBegin,     // {%
  kBlockEnd,       // %}
  kVariableBegin,  // {{
  kVariableEnd,    // }}
  kName,
  kString,  // its value, escapes resolved
  kInteger,
  kFloat,
  kOperator,
  kEnd,  // of the template
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string text;
  int line = 1;
  int64_t integer = 0;
  double number = 0;
  bool IsOperator(std::string_view op) const { return kind == TokenKind::kOperator && text == op; }
  bool IsName(std::string_view name) const { return kind == TokenKind::kName && text == name; }
};

// "line 3: message", an input error.
Error AtLine(int line, const std::string& message);
// How a token is named in messages: 'endfor', the string "x", the end of the tag, ...
std::string Describe(const Token& token);

// `source` is valid UTF-8. The last token is kEnd. Errors: a tag that is not closed, brackets that do not
// match, a character or an escape that the language does not have.
Result<std::vector<Token>> Tokenize(std::string_view source);

}  // namespace planish::jinja
