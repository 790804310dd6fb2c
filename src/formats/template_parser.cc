#include "formats/template_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>

#include "base/names.h"
#include "formats/template_filters.h"

namespace planish::jinja {
namespace {

constexpr int kMaxNesting = 100;         // of brackets and statements
constexpr int kMaxExprDepth = 300;       // of the tree, which long chains of operators make deep too
constexpr size_t kMaxElements = 10'000;  // of one list or dict
constexpr size_t kMaxArguments = 200;

constexpr std::string_view kUnsupportedStatements[] = {"block", "extends", "include",    "import",
                                                       "from",  "call",    "autoescape", "do",
                                                       "trans", "debug",   "pluralize"};

class Parser {
 public:
  explicit Parser(const std::vector<Token>& tokens) : tokens_(tokens) {}

  Result<Body> Run() {
    PLANISH_TRY(Body body, ParseBody({}, {}));
    return body;
  }

 private:
  struct Nested {
    explicit Nested(int& depth) : depth_(depth) { ++depth_; }
    ~Nested() { --depth_; }
    int& depth_;
  };
  struct Open {  // a statement whose end is awaited
    std::string name;
    int line = 1;
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

  // Makes a node over `operands`, whose depth is bounded.
  template <typename... Operands>
  Result<ExprPtr> Make(Expr::Kind kind, int line, Operands... operands) {
    auto node = std::make_unique<Expr>();
    node->kind = kind;
    node->line = line;
    (node->operands.push_back(std::move(operands)), ...);
    return Checked(std::move(node));
  }
  static Result<ExprPtr> Checked(ExprPtr node) {
    const auto grow = [&](const ExprPtr& child) {
      if (child != nullptr) node->depth = std::max(node->depth, child->depth + 1);
    };
    for (const auto& child : node->operands) grow(child);
    for (const auto& keyword : node->keywords) grow(keyword.second);
    if (node->depth <= kMaxExprDepth) return node;
    return AtLine(
        node->line,
        fmt::format("the expression has more than {} operations in each other, the limit", kMaxExprDepth));
  }
  ExprPtr Constant(Value value) const {
    auto node = std::make_unique<Expr>();
    node->line = Now().line;
    node->constant = std::move(value);
    return node;
  }

  // One expression, or a tuple without parentheses.
  Result<ExprPtr> ParseTuple(bool with_condition = true) {
    const int line = Now().line;
    PLANISH_TRY(ExprPtr first, with_condition ? ParseExpression() : ParseOr());
    if (!Now().IsOperator(",")) return first;
    auto tuple = std::make_unique<Expr>();
    tuple->kind = Expr::Kind::kTuple;
    tuple->line = line;
    tuple->operands.push_back(std::move(first));
    while (TakeOperator(",")) {
      const bool ended = Now().kind == TokenKind::kBlockEnd || Now().kind == TokenKind::kVariableEnd ||
                         Now().IsOperator(")");
      if (ended) break;
      PLANISH_TRY(ExprPtr item, with_condition ? ParseExpression() : ParseOr());
      tuple->operands.push_back(std::move(item));
      if (tuple->operands.size() > kMaxElements) return Expected("fewer items");
    }
    return Checked(std::move(tuple));
  }

  Result<ExprPtr> ParseExpression() {
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

  Result<ExprPtr> ParseOr() {
    PLANISH_TRY(ExprPtr left, ParseAnd());
    while (Now().IsName("or")) {
      const int line = Now().line;
      Skip();
      PLANISH_TRY(ExprPtr right, ParseAnd());
      PLANISH_TRY(left, Make(Expr::Kind::kOr, line, std::move(left), std::move(right)));
    }
    return left;
  }

  Result<ExprPtr> ParseAnd() {
    PLANISH_TRY(ExprPtr left, ParseNot());
    while (Now().IsName("and")) {
      const int line = Now().line;
      Skip();
      PLANISH_TRY(ExprPtr right, ParseNot());
      PLANISH_TRY(left, Make(Expr::Kind::kAnd, line, std::move(left), std::move(right)));
    }
    return left;
  }

  Result<ExprPtr> ParseNot() {
    if (!Now().IsName("not")) return ParseCompare();
    const Nested nested(nesting_);
    const int line = Now().line;
    PLANISH_RETURN_IF_ERROR(CheckNesting(line));
    Skip();
    PLANISH_TRY(ExprPtr operand, ParseNot());
    return Make(Expr::Kind::kNot, line, std::move(operand));
  }

  // The comparison at hand, consumed; empty: none.
  std::string TakeComparison() {
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

  Result<ExprPtr> ParseCompare() {
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

  Result<ExprPtr> Arithmetic(int line, std::string op, ExprPtr left, ExprPtr right) {
    PLANISH_TRY(ExprPtr node, Make(Expr::Kind::kArithmetic, line, std::move(left), std::move(right)));
    node->ops.push_back(std::move(op));
    return node;
  }
  std::string TakeOneOf(std::initializer_list<std::string_view> ops) {
    for (const std::string_view op : ops) {
      if (TakeOperator(op)) return std::string(op);
    }
    return "";
  }

  Result<ExprPtr> ParseSum() {
    PLANISH_TRY(ExprPtr left, ParseConcatenation());
    while (true) {
      const int line = Now().line;
      std::string op = TakeOneOf({"+", "-"});
      if (op.empty()) return left;
      PLANISH_TRY(ExprPtr right, ParseConcatenation());
      PLANISH_TRY(left, Arithmetic(line, std::move(op), std::move(left), std::move(right)));
    }
  }

  Result<ExprPtr> ParseConcatenation() {
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

  Result<ExprPtr> ParseProduct() {
    PLANISH_TRY(ExprPtr left, ParsePower());
    while (true) {
      const int line = Now().line;
      std::string op = TakeOneOf({"*", "/", "//", "%"});
      if (op.empty()) return left;
      PLANISH_TRY(ExprPtr right, ParsePower());
      PLANISH_TRY(left, Arithmetic(line, std::move(op), std::move(left), std::move(right)));
    }
  }

  // From the left, unlike Python's.
  Result<ExprPtr> ParsePower() {
    PLANISH_TRY(ExprPtr left, ParseUnary(true));
    while (Now().IsOperator("**")) {
      const int line = Now().line;
      Skip();
      PLANISH_TRY(ExprPtr right, ParseUnary(true));
      PLANISH_TRY(left, Arithmetic(line, "**", std::move(left), std::move(right)));
    }
    return left;
  }

  // Filters apply to the sign and its operand together: -3 | abs is 3.
  Result<ExprPtr> ParseUnary(bool with_filters) {
    const int line = Now().line;
    ExprPtr node;
    const std::string sign = TakeOneOf({"-", "+"});
    if (!sign.empty()) {
      const Nested nested(nesting_);
      PLANISH_RETURN_IF_ERROR(CheckNesting(line));
      PLANISH_TRY(ExprPtr operand, ParseUnary(false));
      PLANISH_TRY(node,
                  Make(sign == "-" ? Expr::Kind::kNegate : Expr::Kind::kPlus, line, std::move(operand)));
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

  Result<ExprPtr> ParsePrimary() {
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

  Result<ExprPtr> ParseName() {
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

  Result<ExprPtr> ParseParentheses(int line) {
    if (TakeOperator(")")) return Make(Expr::Kind::kTuple, line);
    PLANISH_TRY(ExprPtr inner, ParseTuple());
    PLANISH_RETURN_IF_ERROR(ExpectOperator(")"));
    return inner;
  }

  // Of a list, or keys and values of a dict.
  Result<ExprPtr> ParseElements(int line, std::string_view close) {
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

  Result<ExprPtr> ParsePostfix(ExprPtr node) {
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

  Result<ExprPtr> ParseAttribute(ExprPtr object, int line) {
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

  Result<ExprPtr> ParseSubscript(ExprPtr object, int line) {
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

  // "(a, b, name=c)" behind what is called.
  Status ParseArguments(Expr& node) {
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

  Result<ExprPtr> ParseCall(ExprPtr callee) {
    auto node = std::make_unique<Expr>();
    node->kind = Expr::Kind::kCall;
    node->line = Now().line;
    node->operands.push_back(std::move(callee));
    PLANISH_RETURN_IF_ERROR(ParseArguments(*node));
    return Checked(std::move(node));
  }

  // "| a | b(c)": none is fine, and gives back what was given.
  Result<ExprPtr> ParseFilters(ExprPtr input) {
    while (TakeOperator("|")) {
      PLANISH_TRY(input, ParseOneFilter(std::move(input)));
    }
    return input;
  }

  Result<ExprPtr> ParseOneFilter(ExprPtr input) {
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

  Result<ExprPtr> ParseTest(ExprPtr input) {
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
  // A test takes the next value as its argument, whatever the test.
  bool StartsArgument() const {
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

  const std::vector<Token>& tokens_;
  size_t at_ = 0;
  int nesting_ = 0;
  int loops_ = 0;   // around the statement at hand, in the same scope
  int scopes_ = 0;  // around it that have variables of their own
  bool in_macro_ = false;
};

}  // namespace

Result<Body> ParseTemplate(const std::vector<Token>& tokens) { return Parser(tokens).Run(); }

}  // namespace planish::jinja
