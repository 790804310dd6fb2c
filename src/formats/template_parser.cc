// The statements of templates; their expressions are in template_expressions.
#include "formats/template_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>

#include "base/names.h"
#include "formats/template_expressions.h"
#include "formats/template_filters.h"

namespace planish::jinja {
namespace {

constexpr std::string_view kUnsupportedStatements[] = {"block", "extends", "include",    "import",
                                                       "from",  "call",    "autoescape", "do",
                                                       "trans", "debug",   "pluralize"};

class Parser : ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Result<Body> Run() {
    PLANISH_TRY(Body body, ParseBody({}, {}));
    return body;
  }

 private:
  struct Open {  // a statement whose end is awaited
    std::string name;
    int line = 1;
  };

  // Statements up to a tag that starts with one of `ends`, which is left to be read; none: to the end.
  Result<Body> ParseBody(std::initializer_list<std::string_view> ends, const Open& open) {
    const Nested nested(nesting_);
    PLANISH_RETURN_IF_ERROR(CheckNesting(Now().line));
    Body body;
    while (Now().kind != TokenKind::kEnd) {
      if (Now().kind == TokenKind::kText) {
        Statement text;
        text.line = Now().line;
        text.text = Now().text;
        body.push_back(std::move(text));
        Skip();
      } else if (Now().kind == TokenKind::kVariableBegin) {
        PLANISH_TRY(Statement output, ParseOutput());
        body.push_back(std::move(output));
      } else {
        PLANISH_RETURN_IF_ERROR(Expect(TokenKind::kBlockBegin));
        const bool ended = std::ranges::any_of(ends, [&](std::string_view end) { return Now().IsName(end); });
        if (ended) return body;
        PLANISH_TRY(Statement statement, ParseStatement(ends, open));
        body.push_back(std::move(statement));
        PLANISH_RETURN_IF_ERROR(Expect(TokenKind::kBlockEnd));
      }
    }
    if (ends.size() == 0) return body;
    return Expected(fmt::format("{} of the '{}' in line {}", Names(ends), open.name, open.line));
  }
  static std::string Names(std::initializer_list<std::string_view> names) {
    std::string out;
    for (const auto& name : names) out += fmt::format("{}'{}'", out.empty() ? "" : " or ", name);
    return out;
  }

  Result<Statement> ParseOutput() {
    Statement output;
    output.kind = Statement::Kind::kOutput;
    output.line = Now().line;
    Skip();
    PLANISH_TRY(ExprPtr value, ParseTuple());
    output.exprs.push_back(std::move(value));
    PLANISH_RETURN_IF_ERROR(Expect(TokenKind::kVariableEnd));
    return output;
  }

  Result<Statement> ParseStatement(std::initializer_list<std::string_view> ends, const Open& open) {
    const int line = Now().line;
    if (Now().kind != TokenKind::kName) return Expected("the name of a statement");
    const std::string name = Now().text;
    Skip();
    if (name == "if") return ParseIf(line);
    if (name == "for") return ParseFor(line);
    if (name == "set") return ParseSet(line);
    if (name == "macro") return ParseMacro(line);
    if (name == "with") return ParseWith(line);
    if (name == "filter") return ParseFilterBlock(line);
    if (name == "generation") return ParseScope(line);
    if (name == "break" || name == "continue") {
      if (loops_ == 0) return AtLine(line, fmt::format("found '{}' outside a 'for'", name));
      Statement jump;
      jump.kind = name == "break" ? Statement::Kind::kBreak : Statement::Kind::kContinue;
      jump.line = line;
      return jump;
    }
    if (std::ranges::find(kUnsupportedStatements, name) != std::end(kUnsupportedStatements)) {
      return AtLine(line, NotSupported("statement", name).message);
    }
    const bool is_end = name.starts_with("end") || name == "else" || name == "elif";
    if (is_end && ends.size() > 0) {
      return AtLine(line, fmt::format("expected {} of the '{}' in line {}, found '{}'", Names(ends),
                                      open.name, open.line, Abbreviate(name, 40)));
    }
    if (is_end) return AtLine(line, fmt::format("found '{}', which closes nothing", Abbreviate(name, 40)));
    return AtLine(line,
                  fmt::format("expected a statement (if, for, set, macro, with, filter, break, continue, "
                              "generation, raw), found '{}'",
                              Abbreviate(name, 40)));
  }

  Result<Statement> ParseIf(int line) {
    Statement statement;
    statement.kind = Statement::Kind::kIf;
    statement.line = line;
    while (true) {
      PLANISH_TRY(ExprPtr condition, ParseTuple(false));
      statement.exprs.push_back(std::move(condition));
      PLANISH_RETURN_IF_ERROR(Expect(TokenKind::kBlockEnd));
      PLANISH_TRY(Body body, ParseBody({"elif", "else", "endif"}, {"if", line}));
      statement.bodies.push_back(std::move(body));
      if (!TakeName("elif")) break;
    }
    if (TakeName("else")) {
      PLANISH_RETURN_IF_ERROR(Expect(TokenKind::kBlockEnd));
      PLANISH_TRY(Body body, ParseBody({"endif"}, {"if", line}));
      statement.bodies.push_back(std::move(body));
    }
    Skip();  // endif
    return statement;
  }

  Result<Statement> ParseFor(int line) {
    Statement statement;
    statement.kind = Statement::Kind::kFor;
    statement.line = line;
    PLANISH_RETURN_IF_ERROR(ParseTargets(statement, "in"));
    if (!TakeName("in")) return Expected("'in'");
    PLANISH_TRY(ExprPtr items, ParseTuple(false));
    statement.exprs.push_back(std::move(items));
    ExprPtr filter;
    if (TakeName("if")) {
      PLANISH_TRY(filter, ParseExpression());
    }
    statement.exprs.push_back(std::move(filter));
    if (Now().IsName("recursive")) return AtLine(line, NotSupported("loop modifier", "recursive").message);
    PLANISH_RETURN_IF_ERROR(Expect(TokenKind::kBlockEnd));
    const int outside = loops_;
    ++loops_;
    ++scopes_;
    auto loop = ParseBody({"else", "endfor"}, {"for", line});
    loops_ = outside;
    if (!loop.ok()) return loop.error();
    statement.bodies.push_back(std::move(*loop));
    if (TakeName("else")) {
      PLANISH_RETURN_IF_ERROR(Expect(TokenKind::kBlockEnd));
      PLANISH_TRY(Body body, ParseBody({"endfor"}, {"for", line}));
      statement.bodies.push_back(std::move(body));
    }
    --scopes_;
    Skip();  // endfor
    return statement;
  }

  // Names, separated by commas; in parentheses or not.
  Status ParseTargets(Statement& statement, std::string_view end) {
    const bool brackets = TakeOperator("(");
    while (true) {
      Target target;
      constexpr std::string_view kConstants[] = {"true", "True", "false", "False", "none", "None"};
      const bool constant = std::ranges::find(kConstants, Now().text) != std::end(kConstants);
      if (Now().kind == TokenKind::kName && constant) return Expected("a variable's name");
      PLANISH_TRY(target.name, ExpectName());
      if (target.name == "loop" && end == "in")
        return AtLine(statement.line, "found 'loop' as a loop's variable");
      if (end != "in" && TakeOperator(".")) {
        PLANISH_TRY(target.attribute, ExpectName());
      }
      statement.targets.push_back(std::move(target));
      if (statement.targets.size() > kMaxElements) return Expected("fewer variables");
      if (!TakeOperator(",")) break;
      statement.unpack = true;
      if (Now().kind != TokenKind::kName || Now().IsName(end)) break;
    }
    return brackets ? ExpectOperator(")") : Status();
  }

  Result<Statement> ParseSet(int line) {
    Statement statement;
    statement.kind = Statement::Kind::kSet;
    statement.line = line;
    PLANISH_RETURN_IF_ERROR(ParseTargets(statement, "="));
    if (TakeOperator("=")) {
      PLANISH_TRY(ExprPtr value, ParseTuple());
      statement.exprs.push_back(std::move(value));
      return statement;
    }
    if (statement.unpack) return Expected("'='");
    statement.kind = Statement::Kind::kSetBlock;
    ExprPtr filters;
    PLANISH_TRY(filters, ParseFilters(nullptr));
    statement.exprs.push_back(std::move(filters));
    if (Now().kind != TokenKind::kBlockEnd) return Expected("'=' or the end of the tag ('%}')");
    PLANISH_RETURN_IF_ERROR(ParseScopedBody(statement, "endset", "set"));
    return statement;
  }

  // "%} body {% end": the body has variables of its own.
  Status ParseScopedBody(Statement& statement, std::string_view end, std::string_view open,
                         bool jumps_out = false) {
    PLANISH_RETURN_IF_ERROR(Expect(TokenKind::kBlockEnd));
    const int outside = loops_;
    if (!jumps_out) loops_ = 0;
    ++scopes_;
    auto body = ParseBody({end}, {std::string(open), statement.line});
    --scopes_;
    loops_ = outside;
    if (!body.ok()) return body.error();
    statement.bodies.push_back(std::move(*body));
    Skip();
    return {};
  }

  Result<Statement> ParseScope(int line) {
    Statement statement;
    statement.kind = Statement::Kind::kScope;
    statement.line = line;
    PLANISH_RETURN_IF_ERROR(ParseScopedBody(statement, "endgeneration", "generation"));
    return statement;
  }

  Result<Statement> ParseWith(int line) {
    Statement statement;
    statement.kind = Statement::Kind::kWith;
    statement.line = line;
    while (Now().kind != TokenKind::kBlockEnd) {
      if (!statement.exprs.empty()) PLANISH_RETURN_IF_ERROR(ExpectOperator(","));
      PLANISH_TRY(std::string name, ExpectName());
      PLANISH_RETURN_IF_ERROR(ExpectOperator("="));
      PLANISH_TRY(ExprPtr value, ParseExpression());
      statement.targets.push_back({.name = std::move(name), .attribute = ""});
      statement.exprs.push_back(std::move(value));
    }
    PLANISH_RETURN_IF_ERROR(ParseScopedBody(statement, "endwith", "with", /*jumps_out=*/true));
    return statement;
  }

  Result<Statement> ParseFilterBlock(int line) {
    Statement statement;
    statement.kind = Statement::Kind::kFilter;
    statement.line = line;
    PLANISH_TRY(ExprPtr first, ParseOneFilter(nullptr));
    PLANISH_TRY(ExprPtr filters, ParseFilters(std::move(first)));
    statement.exprs.push_back(std::move(filters));
    PLANISH_RETURN_IF_ERROR(ParseScopedBody(statement, "endfilter", "filter"));
    return statement;
  }

  Result<Statement> ParseMacro(int line) {
    if (scopes_ > 0) {
      return AtLine(line,
                    "found a macro inside a 'for', 'with', 'set', 'filter' or macro: only macros of the "
                    "template itself are supported");
    }
    Statement statement;
    statement.kind = Statement::Kind::kMacro;
    statement.line = line;
    auto macro = std::make_unique<Macro>();
    macro->line = line;
    PLANISH_TRY(macro->name, ExpectName());
    PLANISH_RETURN_IF_ERROR(ExpectOperator("("));
    while (!Now().IsOperator(")")) {
      if (!macro->params.empty()) PLANISH_RETURN_IF_ERROR(ExpectOperator(","));
      PLANISH_TRY(std::string param, ExpectName());
      if (std::ranges::find(macro->params, param) != macro->params.end()) {
        return AtLine(line, fmt::format("parameter '{}' stands twice", Abbreviate(param, 40)));
      }
      if (TakeOperator("=")) {
        PLANISH_TRY(ExprPtr value, ParseExpression());
        macro->defaults.push_back(std::move(value));
      } else if (!macro->defaults.empty()) {
        return AtLine(line, fmt::format("parameter '{}' needs a default, as those before it have one",
                                        Abbreviate(param, 40)));
      }
      macro->params.push_back(std::move(param));
      if (macro->params.size() > kMaxArguments) return Expected("fewer parameters");
    }
    Skip();  // )
    in_macro_ = true;
    const Status body = ParseScopedBody(statement, "endmacro", "macro");
    in_macro_ = false;
    if (!body.ok()) return body.error();
    macro->body = std::move(statement.bodies.back());
    statement.bodies.clear();
    statement.macro = std::move(macro);
    return statement;
  }

  int loops_ = 0;   // around the statement at hand, in the same scope
  int scopes_ = 0;  // around it that have variables of their own
};

}  // namespace

Result<Body> ParseTemplate(const std::vector<Token>& tokens) { return Parser(tokens).Run(); }

}  // namespace planish::jinja
