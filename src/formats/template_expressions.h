// The expressions of templates: operators, filters, tests, calls, from the weakest to the strongest binding.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <string>
#include <vector>

#include "formats/template_ast.h"
#include "formats/template_lexer.h"

namespace planish::jinja {

inline constexpr int kMaxNesting = 100;         // of brackets and statements
inline constexpr size_t kMaxElements = 10'000;  // of one list or dict
inline constexpr size_t kMaxArguments = 200;

// Tokens read one after the other; statements (template_parser.cc) are read by what derives from this.
class ExpressionParser {
 public:
  explicit ExpressionParser(const std::vector<Token>& tokens) : tokens_(tokens) {}

 protected:
  struct Nested {
    explicit Nested(int& depth) : depth_(depth) { ++depth_; }
    ~Nested() { --depth_; }
    int& depth_;
  };

  const Token& Now() const { return tokens_[at_]; }
  const Token& Next() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  void Skip() {
    if (at_ + 1 < tokens_.size()) ++at_;
  }
  bool TakeOperator(std::string_view op) {
    if (!Now().IsOperator(op)) return false;
    Skip();
    return true;
  }
  bool TakeName(std::string_view name) {
    if (!Now().IsName(name)) return false;
    Skip();
    return true;
  }
  Error Expected(const std::string& what) const {
    return AtLine(Now().line, fmt::format("expected {}, found {}", what, Describe(Now())));
  }
  Status ExpectOperator(std::string_view op) {
    if (!TakeOperator(op)) return Expected(fmt::format("'{}'", op));
    return {};
  }
  Status Expect(TokenKind kind) {
    if (Now().kind != kind) return Expected(Describe({.kind = kind, .text = ""}));
    Skip();
    return {};
  }
  Result<std::string> ExpectName() {
    if (Now().kind != TokenKind::kName) return Expected("a name");
    std::string name = Now().text;
    Skip();
    return name;
  }
  Status CheckNesting(int line) const {
    if (nesting_ <= kMaxNesting) return {};
    return AtLine(line, fmt::format("brackets and statements lie in each other more than {} deep, the limit",
                                    kMaxNesting));
  }

  // One expression, or a tuple without parentheses.
  Result<ExprPtr> ParseTuple(bool with_condition = true);
  Result<ExprPtr> ParseExpression();
  // "| a | b(c)": none is fine, and gives back what was given.
  Result<ExprPtr> ParseFilters(ExprPtr input);
  Result<ExprPtr> ParseOneFilter(ExprPtr input);

  int nesting_ = 0;
  bool in_macro_ = false;

 private:
  ExprPtr Constant(Value value) const;
  Result<ExprPtr> ParseOr();
  Result<ExprPtr> ParseAnd();
  Result<ExprPtr> ParseNot();
  // The comparison at hand, consumed; empty: none.
  std::string TakeComparison();
  Result<ExprPtr> ParseCompare();
  Result<ExprPtr> Arithmetic(int line, std::string op, ExprPtr left, ExprPtr right);
  std::string TakeOneOf(std::initializer_list<std::string_view> ops);
  Result<ExprPtr> ParseSum();
  Result<ExprPtr> ParseConcatenation();
  Result<ExprPtr> ParseProduct();
  // From the left, unlike Python's.
  Result<ExprPtr> ParsePower();
  // Filters apply to the sign and its operand together: -3 | abs is 3.
  Result<ExprPtr> ParseUnary(bool with_filters);
  Result<ExprPtr> ParsePrimary();
  Result<ExprPtr> ParseName();
  Result<ExprPtr> ParseParentheses(int line);
  // Of a list, or keys and values of a dict.
  Result<ExprPtr> ParseElements(int line, std::string_view close);
  Result<ExprPtr> ParsePostfix(ExprPtr node);
  Result<ExprPtr> ParseAttribute(ExprPtr object, int line);
  Result<ExprPtr> ParseSubscript(ExprPtr object, int line);
  // "(a, b, name=c)" behind what is called.
  Status ParseArguments(Expr& node);
  Result<ExprPtr> ParseCall(ExprPtr callee);
  Result<ExprPtr> ParseTest(ExprPtr input);
  // A test takes the next value as its argument, whatever the test.
  bool StartsArgument() const;

  const std::vector<Token>& tokens_;
  size_t at_ = 0;
};

}  // namespace planish::jinja
