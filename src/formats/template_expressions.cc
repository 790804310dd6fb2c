#include "formats/template_expressions.h"

#include <utility>

#include "base/names.h"
#include "formats/template_filters.h"

namespace planish::jinja {
namespace {

constexpr int kMaxExprDepth = 300;  // of the tree, which long chains of operators make deep too

Result<ExprPtr> Checked(ExprPtr node) {
  const auto grow = [&](const ExprPtr& child) {
    if (child != nullptr) node->depth = std::max(node->depth, child->depth + 1);
  };
  for (const auto& child : node->operands) grow(child);
  for (const auto& keyword : node->keywords) grow(keyword.second);
  if (node->depth <= kMaxExprDepth) return node;
  return AtLine(node->line, fmt::format("the expression has more than {} operations in each other, the limit",
                                        kMaxExprDepth));
}

// Makes a node over `operands`, whose depth is bounded.
template <typename... Operands>
Result<ExprPtr> Make(Expr::Kind kind, int line, Operands... operands) {
  auto node = std::make_unique<Expr>();
  node->kind = kind;
  node->line = line;
  (node->operands.push_back(std::move(operands)), ...);
  return Checked(std::move(node));
}

}  // namespace

ExprPtr ExpressionParser::Constant(Value value) const {
  auto node = std::make_unique<Expr>();
  node->line = Now().line;
  node->constant = std::move(value);
  return node;
}

Result<ExprPtr> ExpressionParser::ParseTuple(bool with_condition) {
  const int line = Now().line;
  PLANISH_TRY(ExprPtr first, with_condition ? ParseExpression() : ParseOr());
  if (!Now().IsOperator(",")) return first;
  auto tuple = std::make_unique<Expr>();
  tuple->kind = Expr::Kind::kTuple;
  tuple->line = line;
  tuple->operands.push_back(std::move(first));
  while (TakeOperator(",")) {
    const bool ended =
        Now().kind == TokenKind::kBlockEnd || Now().kind == TokenKind::kVariableEnd || Now().IsOperator(")");
    if (ended) break;
    PLANISH_TRY(ExprPtr item, with_condition ? ParseExpression() : ParseOr());
    tuple->operands.push_back(std::move(item));
    if (tuple->operands.size() > kMaxElements) return Expected("fewer items");
  }
  return Checked(std::move(tuple));
}

Result<ExprPtr> ExpressionParser::ParseExpression() {
  const Nested nested(nesting_);
  PLANISH_RETURN_IF_ERROR(CheckNesting(Now().line));
  PLANISH_TRY(ExprPtr value, ParseOr());
  while (Now().IsName("if")) {
    const int line = Now().line;
    Skip();
    PLANISH_TRY(ExprPtr condition, ParseOr());
    ExprPtr otherwise;
    if (TakeName("else")) {
      PLANISH_TRY(otherwise, ParseExpression());
    }
    PLANISH_TRY(value, Make(Expr::Kind::kCondition, line, std::move(value), std::move(condition),
                            std::move(otherwise)));
  }
  return value;
}

Result<ExprPtr> ExpressionParser::ParseOr() {
  PLANISH_TRY(ExprPtr left, ParseAnd());
  while (Now().IsName("or")) {
    const int line = Now().line;
    Skip();
    PLANISH_TRY(ExprPtr right, ParseAnd());
    PLANISH_TRY(left, Make(Expr::Kind::kOr, line, std::move(left), std::move(right)));
  }
  return left;
}

Result<ExprPtr> ExpressionParser::ParseAnd() {
  PLANISH_TRY(ExprPtr left, ParseNot());
  while (Now().IsName("and")) {
    const int line = Now().line;
    Skip();
    PLANISH_TRY(ExprPtr right, ParseNot());
    PLANISH_TRY(left, Make(Expr::Kind::kAnd, line, std::move(left), std::move(right)));
  }
  return left;
}

Result<ExprPtr> ExpressionParser::ParseNot() {
  if (!Now().IsName("not")) return ParseCompare();
  const Nested nested(nesting_);
  const int line = Now().line;
  PLANISH_RETURN_IF_ERROR(CheckNesting(line));
  Skip();
  PLANISH_TRY(ExprPtr operand, ParseNot());
  return Make(Expr::Kind::kNot, line, std::move(operand));
}

std::string ExpressionParser::TakeComparison() {
  for (const std::string_view op : {"==", "!=", "<", "<=", ">", ">="}) {
    if (TakeOperator(op)) return std::string(op);
  }
  if (TakeName("in")) return "in";
  if (Now().IsName("not") && Next().IsName("in")) {
    Skip();
    Skip();
    return "not in";
  }
  return "";
}

Result<ExprPtr> ExpressionParser::ParseCompare() {
  const int line = Now().line;
  PLANISH_TRY(ExprPtr first, ParseSum());
  std::string op = TakeComparison();
  if (op.empty()) return first;
  auto node = std::make_unique<Expr>();
  node->kind = Expr::Kind::kCompare;
  node->line = line;
  node->operands.push_back(std::move(first));
  while (!op.empty()) {
    PLANISH_TRY(ExprPtr right, ParseSum());
    node->ops.push_back(std::move(op));
    node->operands.push_back(std::move(right));
    op = TakeComparison();
  }
  return Checked(std::move(node));
}

Result<ExprPtr> ExpressionParser::Arithmetic(int line, std::string op, ExprPtr left, ExprPtr right) {
  PLANISH_TRY(ExprPtr node, Make(Expr::Kind::kArithmetic, line, std::move(left), std::move(right)));
  node->ops.push_back(std::move(op));
  return node;
}

std::string ExpressionParser::TakeOneOf(std::initializer_list<std::string_view> ops) {
  for (const std::string_view op : ops) {
    if (TakeOperator(op)) return std::string(op);
  }
  return "";
}

Result<ExprPtr> ExpressionParser::ParseSum() {
  PLANISH_TRY(ExprPtr left, ParseConcatenation());
  while (true) {
    const int line = Now().line;
    std::string op = TakeOneOf({"+", "-"});
    if (op.empty()) return left;
    PLANISH_TRY(ExprPtr right, ParseConcatenation());
    PLANISH_TRY(left, Arithmetic(line, std::move(op), std::move(left), std::move(right)));
  }
}

Result<ExprPtr> ExpressionParser::ParseConcatenation() {
  const int line = Now().line;
  PLANISH_TRY(ExprPtr first, ParseProduct());
  if (!Now().IsOperator("~")) return first;
  auto node = std::make_unique<Expr>();
  node->kind = Expr::Kind::kConcatenate;
  node->line = line;
  node->operands.push_back(std::move(first));
  while (TakeOperator("~")) {
    PLANISH_TRY(ExprPtr right, ParseProduct());
    node->operands.push_back(std::move(right));
  }
  return Checked(std::move(node));
}

Result<ExprPtr> ExpressionParser::ParseProduct() {
  PLANISH_TRY(ExprPtr left, ParsePower());
  while (true) {
    const int line = Now().line;
    std::string op = TakeOneOf({"*", "/", "//", "%"});
    if (op.empty()) return left;
    PLANISH_TRY(ExprPtr right, ParsePower());
    PLANISH_TRY(left, Arithmetic(line, std::move(op), std::move(left), std::move(right)));
  }
}

Result<ExprPtr> ExpressionParser::ParsePower() {
  PLANISH_TRY(ExprPtr left, ParseUnary(true));
  while (Now().IsOperator("**")) {
    const int line = Now().line;
    Skip();
    PLANISH_TRY(ExprPtr right, ParseUnary(true));
    PLANISH_TRY(left, Arithmetic(line, "**", std::move(left), std::move(right)));
  }
  return left;
}

Result<ExprPtr> ExpressionParser::ParseUnary(bool with_filters) {
  const int line = Now().line;
  ExprPtr node;
  const std::string sign = TakeOneOf({"-", "+"});
  if (!sign.empty()) {
    const Nested nested(nesting_);
    PLANISH_RETURN_IF_ERROR(CheckNesting(line));
    PLANISH_TRY(ExprPtr operand, ParseUnary(false));
    PLANISH_TRY(node, Make(sign == "-" ? Expr::Kind::kNegate : Expr::Kind::kPlus, line, std::move(operand)));
  } else {
    PLANISH_TRY(node, ParsePrimary());
  }
  PLANISH_TRY(node, ParsePostfix(std::move(node)));
  if (!with_filters) return node;
  while (true) {
    if (Now().IsOperator("|")) {
      PLANISH_TRY(node, ParseFilters(std::move(node)));
    } else if (Now().IsName("is")) {
      PLANISH_TRY(node, ParseTest(std::move(node)));
    } else if (Now().IsOperator("(")) {
      PLANISH_TRY(node, ParseCall(std::move(node)));
    } else {
      return node;
    }
  }
}

Result<ExprPtr> ExpressionParser::ParsePrimary() {
  const Token& token = Now();
  switch (token.kind) {
    case TokenKind::kName:
      return ParseName();
    case TokenKind::kString: {
      std::string text;
      while (Now().kind == TokenKind::kString) {
        text += Now().text;
        Skip();
      }
      ExprPtr node = Constant(Value(Text{std::make_shared<const std::string>(std::move(text))}));
      node->line = token.line;
      return node;
    }
    case TokenKind::kInteger:
    case TokenKind::kFloat: {
      ExprPtr node = Constant(token.kind == TokenKind::kFloat ? Value(token.number) : Value(token.integer));
      Skip();
      return node;
    }
    default:
      break;
  }
  if (TakeOperator("(")) return ParseParentheses(token.line);
  if (TakeOperator("[")) return ParseElements(token.line, "]");
  if (TakeOperator("{")) return ParseElements(token.line, "}");
  return Expected("an expression");
}

Result<ExprPtr> ExpressionParser::ParseName() {
  const std::string& name = Now().text;
  ExprPtr node = Constant({});
  if (name == "true" || name == "True" || name == "false" || name == "False") {
    node->constant = Value(name == "true" || name == "True");
  } else if (name == "none" || name == "None") {
    node->constant = Value(None{});
  } else {
    if (in_macro_ && (name == "varargs" || name == "kwargs" || name == "caller")) {
      return AtLine(Now().line, NotSupported("macro variable", name).message);
    }
    node->kind = Expr::Kind::kName;
    node->name = name;
  }
  Skip();
  return node;
}

Result<ExprPtr> ExpressionParser::ParseParentheses(int line) {
  if (TakeOperator(")")) return Make(Expr::Kind::kTuple, line);
  PLANISH_TRY(ExprPtr inner, ParseTuple());
  PLANISH_RETURN_IF_ERROR(ExpectOperator(")"));
  return inner;
}

Result<ExprPtr> ExpressionParser::ParseElements(int line, std::string_view close) {
  auto node = std::make_unique<Expr>();
  node->kind = close == "]" ? Expr::Kind::kList : Expr::Kind::kDict;
  node->line = line;
  while (!Now().IsOperator(close)) {
    if (!node->operands.empty()) PLANISH_RETURN_IF_ERROR(ExpectOperator(","));
    if (Now().IsOperator(close)) break;
    PLANISH_TRY(ExprPtr item, ParseExpression());
    node->operands.push_back(std::move(item));
    if (close == "}") {
      PLANISH_RETURN_IF_ERROR(ExpectOperator(":"));
      PLANISH_TRY(ExprPtr value, ParseExpression());
      node->operands.push_back(std::move(value));
    }
    if (node->operands.size() > kMaxElements) return Expected("fewer items");
  }
  Skip();
  return Checked(std::move(node));
}

Result<ExprPtr> ExpressionParser::ParsePostfix(ExprPtr node) {
  while (true) {
    const int line = Now().line;
    if (TakeOperator(".")) {
      PLANISH_TRY(node, ParseAttribute(std::move(node), line));
    } else if (TakeOperator("[")) {
      PLANISH_TRY(node, ParseSubscript(std::move(node), line));
    } else if (Now().IsOperator("(")) {
      PLANISH_TRY(node, ParseCall(std::move(node)));
    } else {
      return node;
    }
  }
}

Result<ExprPtr> ExpressionParser::ParseAttribute(ExprPtr object, int line) {
  if (Now().kind == TokenKind::kInteger) {
    ExprPtr index = Constant(Value(Now().integer));
    Skip();
    return Make(Expr::Kind::kItem, line, std::move(object), std::move(index));
  }
  if (Now().kind != TokenKind::kName) return Expected("the name of an attribute, or a number");
  PLANISH_TRY(ExprPtr node, Make(Expr::Kind::kAttribute, line, std::move(object)));
  node->name = Now().text;
  Skip();
  return node;
}

Result<ExprPtr> ExpressionParser::ParseSubscript(ExprPtr object, int line) {
  ExprPtr parts[3];
  size_t count = 0;
  bool slice = false;
  if (!Now().IsOperator(":")) {
    PLANISH_TRY(parts[0], ParseExpression());
  }
  while (Now().IsOperator(":") && count < 2) {
    slice = true;
    ++count;
    Skip();
    if (!Now().IsOperator(":") && !Now().IsOperator("]")) {
      PLANISH_TRY(parts[count], ParseExpression());
    }
  }
  if (Now().IsOperator(",")) return AtLine(line, NotSupported("subscript with", "several indices").message);
  PLANISH_RETURN_IF_ERROR(ExpectOperator("]"));
  if (!slice) return Make(Expr::Kind::kItem, line, std::move(object), std::move(parts[0]));
  return Make(Expr::Kind::kSlice, line, std::move(object), std::move(parts[0]), std::move(parts[1]),
              std::move(parts[2]));
}

Status ExpressionParser::ParseArguments(Expr& node) {
  PLANISH_RETURN_IF_ERROR(ExpectOperator("("));
  bool first = true;
  while (!Now().IsOperator(")")) {
    if (!std::exchange(first, false)) PLANISH_RETURN_IF_ERROR(ExpectOperator(","));
    if (Now().IsOperator(")")) break;
    if (Now().IsOperator("*") || Now().IsOperator("**")) {
      return AtLine(Now().line, NotSupported("argument", Now().text + "args").message);
    }
    if (Now().kind == TokenKind::kName && Next().IsOperator("=")) {
      std::string name = Now().text;
      Skip();
      Skip();
      PLANISH_TRY(ExprPtr value, ParseExpression());
      node.keywords.emplace_back(std::move(name), std::move(value));
    } else {
      if (!node.keywords.empty()) return Expected("a named argument, as the one before");
      PLANISH_TRY(ExprPtr value, ParseExpression());
      node.operands.push_back(std::move(value));
    }
    if (node.operands.size() + node.keywords.size() > kMaxArguments) return Expected("fewer arguments");
  }
  Skip();
  return {};
}

Result<ExprPtr> ExpressionParser::ParseCall(ExprPtr callee) {
  auto node = std::make_unique<Expr>();
  node->kind = Expr::Kind::kCall;
  node->line = Now().line;
  node->operands.push_back(std::move(callee));
  PLANISH_RETURN_IF_ERROR(ParseArguments(*node));
  return Checked(std::move(node));
}

Result<ExprPtr> ExpressionParser::ParseFilters(ExprPtr input) {
  while (TakeOperator("|")) {
    PLANISH_TRY(input, ParseOneFilter(std::move(input)));
  }
  return input;
}

Result<ExprPtr> ExpressionParser::ParseOneFilter(ExprPtr input) {
  auto node = std::make_unique<Expr>();
  node->kind = Expr::Kind::kFilter;
  node->line = Now().line;
  PLANISH_TRY(node->name, ExpectName());
  const auto filter = FindFilter(node->name);
  if (!filter.ok()) return AtLine(node->line, filter.error().message);
  node->filter = *filter;
  node->operands.push_back(std::move(input));
  if (Now().IsOperator("(")) PLANISH_RETURN_IF_ERROR(ParseArguments(*node));
  return Checked(std::move(node));
}

Result<ExprPtr> ExpressionParser::ParseTest(ExprPtr input) {
  auto node = std::make_unique<Expr>();
  node->kind = Expr::Kind::kTest;
  node->line = Now().line;
  Skip();  // is
  const bool negated = TakeName("not");
  PLANISH_TRY(node->name, ExpectName());
  const auto test = FindTest(node->name);
  if (!test.ok()) return AtLine(node->line, test.error().message);
  node->test = *test;
  node->operands.push_back(std::move(input));
  if (Now().IsOperator("(")) {
    PLANISH_RETURN_IF_ERROR(ParseArguments(*node));
  } else if (StartsArgument()) {
    if (Now().IsName("is"))
      return AtLine(Now().line, "found 'is' behind a test: put the first in parentheses");
    PLANISH_TRY(ExprPtr argument, ParsePrimary());
    PLANISH_TRY(argument, ParsePostfix(std::move(argument)));
    node->operands.push_back(std::move(argument));
  }
  const int line = node->line;
  PLANISH_TRY(ExprPtr checked, Checked(std::move(node)));
  if (!negated) return checked;
  return Make(Expr::Kind::kNot, line, std::move(checked));
}

bool ExpressionParser::StartsArgument() const {
  const Token& token = Now();
  switch (token.kind) {
    case TokenKind::kString:
    case TokenKind::kInteger:
    case TokenKind::kFloat:
      return true;
    case TokenKind::kName:
      return token.text != "else" && token.text != "or" && token.text != "and";
    default:
      return token.IsOperator("[") || token.IsOperator("{");
  }
}

}  // namespace planish::jinja
