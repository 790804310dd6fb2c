#include "formats/template_eval.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/checked.h"
#include "base/names.h"
#include "formats/template_filters.h"
#include "formats/template_lexer.h"
#include "formats/template_parser.h"
#include "formats/text.h"

namespace planish::jinja {
namespace {

constexpr std::array kGlobals = {"range", "dict", "namespace", "raise_exception", "strftime_now"};

// Adds the line, unless a place further in has given one.
Error Placed(const Error& error, int line) {
  return error.message.starts_with("line ") ? error : AtLine(line, error.message);
}

}  // namespace

class Renderer::ScopeGuard {
 public:
  explicit ScopeGuard(Frame& frame) : frame_(frame) { frame_.scopes.emplace_back(); }
  ~ScopeGuard() { frame_.scopes.pop_back(); }
  ScopeGuard(const ScopeGuard&) = delete;
  ScopeGuard& operator=(const ScopeGuard&) = delete;

 private:
  Frame& frame_;
};

class Renderer::DepthGuard {
 public:
  explicit DepthGuard(int& depth) : depth_(depth) { ++depth_; }
  ~DepthGuard() { --depth_; }
  DepthGuard(const DepthGuard&) = delete;
  DepthGuard& operator=(const DepthGuard&) = delete;

 private:
  int& depth_;
};

Result<std::string> Renderer::Run(const Body& body) {
  PLANISH_RETURN_IF_ERROR(LoadVariables());
  std::string out;
  PLANISH_TRY([[maybe_unused]] const Flow flow, RunBody(body, out));
  return out;
}

Status Renderer::LoadVariables() {
  if (!input_.variables.is_object()) return InputError("the variables of a template: expected an object");
  for (const auto& [name, json] : input_.variables.items()) {
    auto value = FromJson(meter_, json);
    if (!value.ok()) return value.error().At(fmt::format("variable '{}'", Abbreviate(name, 60)));
    globals_.variables.emplace_back(name, std::move(*value));
  }
  return {};
}

const Value* Renderer::Lookup(std::string_view name) {
  const auto in = [&](Scope& scope) -> const Value* {
    const auto it = std::ranges::find(scope.variables, name, &std::pair<std::string_view, Value>::first);
    return it == scope.variables.end() ? nullptr : &it->second;
  };
  for (auto scope = frame_.scopes.rbegin(); scope != frame_.scopes.rend(); ++scope) {
    if (const Value* value = in(*scope)) return value;
  }
  return in(globals_);
}

Status Renderer::Assign(std::string_view name, Value value) {
  Scope& scope = frame_.scopes.empty() ? globals_ : frame_.scopes.back();
  PLANISH_RETURN_IF_ERROR(meter_.Work(scope.variables.size()));
  const auto it = std::ranges::find(scope.variables, name, &std::pair<std::string_view, Value>::first);
  if (it != scope.variables.end()) {
    it->second = std::move(value);
    return {};
  }
  PLANISH_RETURN_IF_ERROR(meter_.Memory(sizeof(Value)));
  scope.variables.emplace_back(name, std::move(value));
  return {};
}

Status Renderer::AssignTarget(const Target& target, Value value) {
  if (target.attribute.empty()) return Assign(target.name, std::move(value));
  const Value* found = Lookup(target.name);
  const auto* space = found == nullptr ? nullptr : found->As<Namespace*>();
  if (space == nullptr) {
    return InputError(fmt::format("'{}.{} =': expected a namespace, found a value of type {}", target.name,
                                  target.attribute, found == nullptr ? "Undefined" : TypeName(*found)));
  }
  PLANISH_RETURN_IF_ERROR(meter_.Work((*space)->values.size()));
  if (Value* old = (*space)->Find(target.attribute)) {
    *old = std::move(value);
    return {};
  }
  PLANISH_RETURN_IF_ERROR(meter_.Memory(sizeof(Value) + target.attribute.size()));
  (*space)->values.emplace_back(target.attribute, std::move(value));
  return {};
}

Status Renderer::AssignTargets(const Statement& statement, Value value) {
  if (!statement.unpack) return AssignTarget(statement.targets[0], std::move(value));
  PLANISH_TRY(std::vector<Value> items, Iterate(meter_, value));
  if (items.size() != statement.targets.size()) {
    return InputError(fmt::format("expected {} values for {} variables, found {}", statement.targets.size(),
                                  statement.targets.size(), items.size()));
  }
  for (size_t i = 0; i < items.size(); ++i) {
    PLANISH_RETURN_IF_ERROR(AssignTarget(statement.targets[i], std::move(items[i])));
  }
  return {};
}

Status Renderer::Write(std::string_view text, std::string& out) {
  PLANISH_RETURN_IF_ERROR(meter_.Output(out.size() + text.size()));
  PLANISH_RETURN_IF_ERROR(meter_.Memory(text.size()));
  out += text;
  return {};
}

Result<Renderer::Flow> Renderer::RunBody(const Body& body, std::string& out) {
  for (const Statement& statement : body) {
    auto flow = RunStatement(statement, out);
    if (!flow.ok()) return Placed(flow.error(), statement.line);
    if (*flow != Flow::kNext) return *flow;
  }
  return Flow::kNext;
}

Result<Renderer::Flow> Renderer::RunStatement(const Statement& statement, std::string& out) {
  using Kind = Statement::Kind;
  switch (statement.kind) {
    case Kind::kText:
      PLANISH_RETURN_IF_ERROR(Write(statement.text, out));
      return Flow::kNext;
    case Kind::kOutput: {
      PLANISH_TRY(const Value value, Eval(*statement.exprs[0]));
      PLANISH_TRY(const std::string text, ToText(meter_, value));
      PLANISH_RETURN_IF_ERROR(Write(text, out));
      return Flow::kNext;
    }
    case Kind::kIf:
      return RunIf(statement, out);
    case Kind::kFor:
      return RunFor(statement, out);
    case Kind::kSet: {
      PLANISH_TRY(Value value, Eval(*statement.exprs[0]));
      PLANISH_RETURN_IF_ERROR(AssignTargets(statement, std::move(value)));
      return Flow::kNext;
    }
    case Kind::kSetBlock:
    case Kind::kFilter:
    case Kind::kScope:
      PLANISH_RETURN_IF_ERROR(RunBlock(statement, out));
      return Flow::kNext;
    case Kind::kWith:
      return RunWith(statement, out);
    case Kind::kMacro:
      PLANISH_RETURN_IF_ERROR(Assign(statement.macro->name,
                                     Value(Callable{statement.macro.get(), statement.macro->name, nullptr})));
      return Flow::kNext;
    case Kind::kBreak:
      return Flow::kBreak;
    case Kind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Result<Renderer::Flow> Renderer::RunIf(const Statement& statement, std::string& out) {
  for (size_t i = 0; i < statement.exprs.size(); ++i) {
    PLANISH_TRY(const Value value, Eval(*statement.exprs[i]));
    PLANISH_TRY(const bool holds, Truth(value));
    if (holds) return RunBody(statement.bodies[i], out);
  }
  if (statement.bodies.size() == statement.exprs.size()) return Flow::kNext;
  return RunBody(statement.bodies.back(), out);
}

Result<std::vector<Value>> Renderer::LoopItems(const Statement& statement) {
  PLANISH_TRY(const Value value, Eval(*statement.exprs[0]));
  PLANISH_TRY(std::vector<Value> items, Iterate(meter_, value));
  if (statement.exprs[1] == nullptr) return items;
  std::vector<Value> kept;
  for (Value& item : items) {
    const ScopeGuard scope(frame_);
    PLANISH_RETURN_IF_ERROR(AssignTargets(statement, item));
    PLANISH_TRY(const Value test, Eval(*statement.exprs[1]));
    PLANISH_TRY(const bool holds, Truth(test));
    if (holds) kept.push_back(std::move(item));
  }
  return kept;
}

Result<Renderer::Flow> Renderer::RunFor(const Statement& statement, std::string& out) {
  auto loop = std::make_shared<LoopState>();
  PLANISH_TRY(loop->items, LoopItems(statement));
  if (loop->items.empty()) {
    if (statement.bodies.size() == 1) return Flow::kNext;
    const ScopeGuard scope(frame_);
    return RunBody(statement.bodies[1], out);
  }
  for (const Value& item : loop->items) loop->depth = std::max(loop->depth, item.depth() + 1);
  for (size_t i = 0; i < loop->items.size(); ++i) {
    loop->index = i;
    const ScopeGuard scope(frame_);
    PLANISH_RETURN_IF_ERROR(meter_.Work());
    PLANISH_RETURN_IF_ERROR(Assign("loop", Value(std::shared_ptr<const LoopState>(loop))));
    PLANISH_RETURN_IF_ERROR(AssignTargets(statement, loop->items[i]));
    PLANISH_TRY(const Flow flow, RunBody(statement.bodies[0], out));
    if (flow == Flow::kBreak) break;
  }
  return Flow::kNext;
}

Result<Renderer::Flow> Renderer::RunWith(const Statement& statement, std::string& out) {
  std::vector<Value> values;
  for (const ExprPtr& expr : statement.exprs) {
    PLANISH_TRY(Value value, Eval(*expr));
    values.push_back(std::move(value));
  }
  const ScopeGuard scope(frame_);
  for (size_t i = 0; i < values.size(); ++i) {
    PLANISH_RETURN_IF_ERROR(AssignTarget(statement.targets[i], std::move(values[i])));
  }
  return RunBody(statement.bodies[0], out);
}

Status Renderer::RunBlock(const Statement& statement, std::string& out) {
  std::string text;
  {
    const ScopeGuard scope(frame_);
    PLANISH_TRY([[maybe_unused]] const Flow flow, RunBody(statement.bodies[0], text));
  }
  PLANISH_TRY(Value value, MakeString(meter_, std::move(text)));
  if (!statement.exprs.empty() && statement.exprs[0] != nullptr) {
    PLANISH_TRY(value, ApplyFilters(statement.exprs[0].get(), std::move(value)));
  }
  if (statement.kind == Statement::Kind::kSetBlock)
    return AssignTarget(statement.targets[0], std::move(value));
  PLANISH_TRY(const std::string shown, ToText(meter_, value));
  return Write(shown, out);
}

Result<Value> Renderer::ApplyFilters(const Expr* filters, Value input) {
  const Value* outside = std::exchange(filter_input_, &input);
  auto result = Eval(*filters);
  filter_input_ = outside;
  return result;
}

Result<Value> Renderer::Eval(const Expr& expr) {
  const DepthGuard depth(depth_);
  if (depth_ > meter_.limits().depth) {
    return AtLine(expr.line,
                  fmt::format("expressions and macros lie in each other more than {} deep, the limit",
                              meter_.limits().depth));
  }
  const Status work = meter_.Work();
  if (!work.ok()) return AtLine(expr.line, work.error().message);
  auto value = EvalKind(expr);
  if (!value.ok()) return Placed(value.error(), expr.line);
  return value;
}

Result<Value> Renderer::EvalKind(const Expr& expr) {
  using Kind = Expr::Kind;
  switch (expr.kind) {
    case Kind::kConstant:
      return expr.constant;
    case Kind::kName: {
      PLANISH_RETURN_IF_ERROR(meter_.Work(globals_.variables.size()));
      if (const Value* value = Lookup(expr.name)) return *value;
      if (std::ranges::find(kGlobals, expr.name) != kGlobals.end())
        return Value(Callable{nullptr, expr.name, nullptr});
      if (expr.name == "self") return NotSupported("variable", expr.name);
      return UndefinedBecause(fmt::format("'{}' is undefined", Abbreviate(expr.name, 60)));
    }
    case Kind::kList:
    case Kind::kTuple:
      return EvalItems(expr);
    case Kind::kDict:
      return EvalDict(expr);
    case Kind::kAttribute: {
      PLANISH_TRY(const Value object, Eval(*expr.operands[0]));
      return GetAttribute(meter_, object, expr.name);
    }
    case Kind::kItem: {
      PLANISH_TRY(const Value object, Eval(*expr.operands[0]));
      PLANISH_TRY(const Value key, Eval(*expr.operands[1]));
      return GetItem(meter_, object, key);
    }
    case Kind::kSlice:
      return EvalSlice(expr);
    case Kind::kCall:
      return EvalCall(expr);
    case Kind::kFilter: {
      Value input;
      if (expr.operands[0] != nullptr) {
        PLANISH_TRY(input, Eval(*expr.operands[0]));
      } else {
        input = *filter_input_;
      }
      PLANISH_TRY(const Args args, EvalArgs(expr));
      return expr.filter->apply(meter_, input, args);
    }
    case Kind::kTest: {
      PLANISH_TRY(const Value input, Eval(*expr.operands[0]));
      PLANISH_TRY(const Args args, EvalArgs(expr));
      PLANISH_TRY(const bool holds, expr.test->apply(meter_, input, args));
      return Value(holds);
    }
    case Kind::kNot: {
      PLANISH_TRY(const Value operand, Eval(*expr.operands[0]));
      PLANISH_TRY(const bool holds, Truth(operand));
      return Value(!holds);
    }
    case Kind::kNegate:
    case Kind::kPlus:
      return EvalSign(expr);
    case Kind::kAnd:
    case Kind::kOr: {
      PLANISH_TRY(Value left, Eval(*expr.operands[0]));
      PLANISH_TRY(const bool holds, Truth(left));
      if (holds == (expr.kind == Kind::kOr)) return left;
      return Eval(*expr.operands[1]);
    }
    case Kind::kCompare:
      return EvalCompare(expr);
    case Kind::kArithmetic: {
      PLANISH_TRY(const Value left, Eval(*expr.operands[0]));
      PLANISH_TRY(const Value right, Eval(*expr.operands[1]));
      return Arithmetic(meter_, expr.ops[0], left, right);
    }
    case Kind::kConcatenate:
      return EvalConcatenate(expr);
    case Kind::kCondition:
      return EvalCondition(expr);
  }
  return Value();
}

Result<Value> Renderer::EvalItems(const Expr& expr) {
  std::vector<Value> items;
  for (const ExprPtr& operand : expr.operands) {
    PLANISH_TRY(Value item, Eval(*operand));
    items.push_back(std::move(item));
  }
  return MakeList(meter_, std::move(items),
                  expr.kind == Expr::Kind::kTuple ? List::Flavor::kTuple : List::Flavor::kList);
}

Result<Value> Renderer::EvalDict(const Expr& expr) {
  std::vector<std::pair<Value, Value>> entries;
  for (size_t i = 0; i < expr.operands.size(); i += 2) {
    PLANISH_TRY(Value key, Eval(*expr.operands[i]));
    PLANISH_TRY(Value item, Eval(*expr.operands[i + 1]));
    entries.emplace_back(std::move(key), std::move(item));
  }
  return MakeDict(meter_, std::move(entries));
}

Result<Value> Renderer::EvalSlice(const Expr& expr) {
  PLANISH_TRY(const Value object, Eval(*expr.operands[0]));
  Value parts[3];
  const Value* given[3] = {};
  for (size_t i = 0; i < 3; ++i) {
    if (expr.operands[i + 1] == nullptr) continue;
    PLANISH_TRY(parts[i], Eval(*expr.operands[i + 1]));
    given[i] = &parts[i];
  }
  return GetSlice(meter_, object, given[0], given[1], given[2]);
}

Result<Value> Renderer::EvalCompare(const Expr& expr) {
  PLANISH_TRY(Value left, Eval(*expr.operands[0]));
  for (size_t i = 0; i < expr.ops.size(); ++i) {
    PLANISH_TRY(Value right, Eval(*expr.operands[i + 1]));
    const std::string& op = expr.ops[i];
    bool holds = false;
    if (op == "==" || op == "!=") {
      PLANISH_TRY(holds, Equal(meter_, left, right));
      holds = holds == (op == "==");
    } else if (op == "in" || op == "not in") {
      PLANISH_TRY(holds, Contains(meter_, right, left));
      holds = holds == (op == "in");
    } else if (op[0] == '<') {
      PLANISH_TRY(holds, Less(meter_, left, right, op.c_str()));
    } else {
      PLANISH_TRY(holds, Less(meter_, right, left, op.c_str()));
    }
    if (!holds && (op == "<=" || op == ">=")) {
      PLANISH_TRY(holds, Equal(meter_, left, right));
    }
    if (!holds) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

Result<Value> Renderer::EvalSign(const Expr& expr) {
  PLANISH_TRY(const Value operand, Eval(*expr.operands[0]));
  const bool negate = expr.kind == Expr::Kind::kNegate;
  if (const double* number = operand.As<double>()) return Value(negate ? -*number : *number);
  if (const auto integer = operand.AsInt()) {
    const auto value = negate ? CheckedSub(int64_t{0}, *integer) : integer;
    if (!value) return InputError("the result of '-' exceeds 64 bits");
    return Value(*value);
  }
  PLANISH_RETURN_IF_ERROR(CheckDefined(operand));
  return InputError(
      fmt::format("'{}': expected a number, found a {}", negate ? "-" : "+", TypeName(operand)));
}

Result<Value> Renderer::EvalConcatenate(const Expr& expr) {
  std::string out;
  for (const ExprPtr& operand : expr.operands) {
    PLANISH_TRY(const Value value, Eval(*operand));
    PLANISH_TRY(const std::string text, ToText(meter_, value));
    out += text;
  }
  return MakeString(meter_, std::move(out));
}

Result<Value> Renderer::EvalCondition(const Expr& expr) {
  PLANISH_TRY(const Value condition, Eval(*expr.operands[1]));
  PLANISH_TRY(const bool holds, Truth(condition));
  if (holds) return Eval(*expr.operands[0]);
  if (expr.operands[2] != nullptr) return Eval(*expr.operands[2]);
  return UndefinedBecause("the inline 'if' was false and has no 'else'");
}

Result<Args> Renderer::EvalArgs(const Expr& expr) {
  Args args;
  for (size_t i = 1; i < expr.operands.size(); ++i) {
    PLANISH_TRY(Value value, Eval(*expr.operands[i]));
    args.positional.push_back(std::move(value));
  }
  for (const auto& [name, operand] : expr.keywords) {
    PLANISH_TRY(Value value, Eval(*operand));
    args.named.emplace_back(name, std::move(value));
  }
  return args;
}

Result<Value> Renderer::EvalCall(const Expr& expr) {
  PLANISH_TRY(const Value callee, Eval(*expr.operands[0]));
  PLANISH_RETURN_IF_ERROR(CheckDefined(callee));
  const Callable* callable = callee.As<Callable>();
  if (callable == nullptr)
    return InputError(fmt::format("a value of type {} cannot be called", TypeName(callee)));
  PLANISH_TRY(const Args args, EvalArgs(expr));
  return Call(*callable, args);
}

Result<Value> Renderer::Call(const Callable& callable, const Args& args) {
  if (callable.macro != nullptr) return CallMacro(*callable.macro, args);
  if (callable.self != nullptr) return CallMethod(meter_, *callable.self, callable.name, args);
  return CallGlobal(callable.name, args);
}

Result<Value> Renderer::CallMacro(const Macro& macro, const Args& args) {
  std::vector<const char*> params;
  for (const std::string& param : macro.params) params.push_back(param.c_str());
  PLANISH_TRY(const auto bound, args.Bind(fmt::format("macro '{}'", Abbreviate(macro.name, 60)), params));
  // The caller's variables are not the macro's.
  Frame outside = std::exchange(frame_, Frame{});
  frame_.scopes.emplace_back();
  std::string out;
  const Status status = [&]() -> Status {
    const size_t required = params.size() - macro.defaults.size();
    for (size_t i = 0; i < params.size(); ++i) {
      Value value = UndefinedBecause(fmt::format("parameter '{}' was not provided", macro.params[i]));
      if (bound[i] != nullptr) {
        value = *bound[i];
      } else if (i >= required) {
        PLANISH_TRY(value, Eval(*macro.defaults[i - required]));
      }
      PLANISH_RETURN_IF_ERROR(Assign(macro.params[i], std::move(value)));
    }
    PLANISH_TRY([[maybe_unused]] const Flow flow, RunBody(macro.body, out));
    return {};
  }();
  frame_ = std::move(outside);
  if (!status.ok()) return status.error();
  return MakeString(meter_, std::move(out));
}

Result<Value> Renderer::CallGlobal(const std::string& name, const Args& args) {
  if (name == "range") return MakeRange(args);
  if (name == "dict") return MakeDictOf(args);
  if (name == "namespace") return MakeNamespace(args);
  if (name == "strftime_now") return FormatTime(args);
  PLANISH_TRY(const auto bound, args.Bind(name, {"message"}, 1));
  PLANISH_TRY(const std::string message, ToText(meter_, *bound[0]));
  return InputError(fmt::format("the template refuses: {}", message));
}

Result<Value> Renderer::MakeRange(const Args& args) {
  constexpr int64_t kMaxRange = 100'000;  // as Jinja's sandbox
  if (args.positional.empty() || args.positional.size() > 3 || !args.named.empty()) {
    return InputError("range: expected one to three integers");
  }
  int64_t numbers[3] = {};
  for (size_t i = 0; i < args.positional.size(); ++i) {
    const auto integer = args.positional[i].AsInt();
    PLANISH_RETURN_IF_ERROR(CheckDefined(args.positional[i]));
    if (!integer) {
      return InputError(fmt::format("range: expected an integer, found a {}", TypeName(args.positional[i])));
    }
    numbers[i] = *integer;
  }
  const bool one = args.positional.size() == 1;
  const int64_t start = one ? 0 : numbers[0], stop = one ? numbers[0] : numbers[1];
  const int64_t step = args.positional.size() == 3 ? numbers[2] : 1;
  if (step == 0) return InputError("range: found a step of 0");
  std::vector<Value> items;
  for (int64_t at = start; step > 0 ? at < stop : at > stop;) {
    if (static_cast<int64_t>(items.size()) == kMaxRange) {
      return InputError(fmt::format("range: more than {} numbers, the limit", kMaxRange));
    }
    items.emplace_back(at);
    const auto next = CheckedAdd(at, step);
    if (!next) break;
    at = *next;
  }
  return MakeList(meter_, std::move(items), List::Flavor::kRange);
}

Result<Value> Renderer::MakeDictOf(const Args& args) {
  std::vector<std::pair<Value, Value>> entries;
  if (args.positional.size() > 1) return InputError("dict: expected at most one value before the named ones");
  if (!args.positional.empty()) {
    const Dict* dict = args.positional[0].AsDict();
    if (dict == nullptr) return NotSupported("argument of dict", TypeName(args.positional[0]));
    entries = dict->entries;
  }
  for (const auto& [name, value] : args.named) {
    PLANISH_TRY(Value key, MakeString(meter_, name));
    entries.emplace_back(std::move(key), value);
  }
  return MakeDict(meter_, std::move(entries));
}

Result<Value> Renderer::MakeNamespace(const Args& args) {
  PLANISH_TRY(const Value dict, MakeDictOf(args));
  PLANISH_RETURN_IF_ERROR(meter_.Memory(sizeof(Namespace)));
  Namespace& space = namespaces_.emplace_back();
  for (const auto& [key, value] : dict.AsDict()->entries) {
    const std::string* name = key.AsString();
    if (name == nullptr) return InputError("namespace: expected names as keys");
    space.values.emplace_back(*name, value);
  }
  return Value(&space);
}

Result<Value> Renderer::FormatTime(const Args& args) {
  PLANISH_TRY(const auto bound, args.Bind("strftime_now", {"format"}, 1));
  const std::string* format = bound[0]->AsString();
  if (format == nullptr) return InputError("strftime_now: expected a string");
  if (!input_.now) return InputError("strftime_now: no time was given to this rendering");
  PLANISH_TRY(std::string text, FormatTemplateTime(*input_.now, *format));
  return MakeString(meter_, std::move(text));
}

}  // namespace planish::jinja

namespace planish {

struct Template::Impl {
  jinja::Body body;
};

Result<Template> Template::Parse(std::string_view source) {
  if (source.size() > kMaxSourceBytes) {
    return InputError(
        fmt::format("found a template of {} bytes, expected at most {}", source.size(), kMaxSourceBytes));
  }
  PLANISH_RETURN_IF_ERROR(ValidateUtf8(source));
  PLANISH_TRY(const auto tokens, jinja::Tokenize(source));
  auto impl = std::make_shared<Impl>();
  PLANISH_TRY(impl->body, jinja::ParseTemplate(tokens));
  return Template(std::move(impl));
}

Result<std::string> Template::Render(const TemplateInput& input) const {
  return jinja::Renderer(input).Run(impl_->body);
}

}  // namespace planish
