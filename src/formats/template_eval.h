// Walks a parsed template.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "formats/template_access.h"
#include "formats/template_ast.h"

namespace planish::jinja {

// One rendering. Scopes are as in Jinja: `for`, `with`, `macro`, a block of `set` or `filter` and
// `generation` have variables of their own, `if` has not; a macro sees its own variables and those of the
// template.
class Renderer {
 public:
  explicit Renderer(const TemplateInput& input) : input_(input), meter_(input.limits) {}
  Result<std::string> Run(const Body& body);

 private:
  enum class Flow : uint8_t { kNext, kBreak, kContinue };
  struct Scope {
    std::vector<std::pair<std::string_view, Value>> variables;
  };
  // The scopes that a name is looked up in: those of the frame at hand, then the template's.
  struct Frame {
    std::vector<Scope> scopes;
  };
  class ScopeGuard;
  class DepthGuard;

  Status LoadVariables();
  const Value* Lookup(std::string_view name);
  Status Assign(std::string_view name, Value value);
  Status AssignTarget(const Target& target, Value value);
  Status AssignTargets(const Statement& statement, Value value);

  Result<Flow> RunBody(const Body& body, std::string& out);
  Result<Flow> RunStatement(const Statement& statement, std::string& out);
  Result<Flow> RunIf(const Statement& statement, std::string& out);
  Result<Flow> RunFor(const Statement& statement, std::string& out);
  Result<Flow> RunWith(const Statement& statement, std::string& out);
  Status RunBlock(const Statement& statement, std::string& out);
  // The items that a loop runs over, after its filter.
  Result<std::vector<Value>> LoopItems(const Statement& statement);
  Status Write(std::string_view text, std::string& out);

  // Errors have the line of the innermost expression that failed.
  Result<Value> Eval(const Expr& expr);
  Result<Value> EvalKind(const Expr& expr);
  Result<Value> EvalItems(const Expr& expr);
  Result<Value> EvalDict(const Expr& expr);
  Result<Value> EvalSlice(const Expr& expr);
  Result<Value> EvalCompare(const Expr& expr);
  Result<Value> EvalSign(const Expr& expr);
  Result<Value> EvalConcatenate(const Expr& expr);
  Result<Value> EvalCondition(const Expr& expr);
  Result<Value> EvalCall(const Expr& expr);
  Result<Value> ApplyFilters(const Expr* filters, Value input);
  Result<Args> EvalArgs(const Expr& expr);
  Result<Value> Call(const Callable& callable, const Args& args);
  Result<Value> CallMacro(const Macro& macro, const Args& args);
  Result<Value> CallGlobal(const std::string& name, const Args& args);
  Result<Value> MakeRange(const Args& args);
  Result<Value> MakeNamespace(const Args& args);
  Result<Value> MakeDictOf(const Args& args);
  Result<Value> FormatTime(const Args& args);

  const TemplateInput& input_;
  Meter meter_;
  Scope globals_;
  Frame frame_;  // of the macro at hand; without scopes: the template itself
  int depth_ = 0;
  std::deque<Namespace> namespaces_;
  const Value* filter_input_ = nullptr;  // of a filter that starts a chain without an operand
};

// strftime in English. Errors: a directive that is not supported.
Result<std::string> FormatTemplateTime(const TemplateTime& time, std::string_view format);

}  // namespace planish::jinja
