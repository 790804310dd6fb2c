// The parsed template.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "formats/template_value.h"

namespace planish::jinja {

struct Filter;
struct Test;

struct Expr {
  enum class Kind : uint8_t {
    kConstant,
    kName,         // name
    kList,         // operands
    kTuple,        // operands
    kDict,         // operands: key, value, key, value, ...
    kAttribute,    // operands[0].name
    kItem,         // operands[0][operands[1]]
    kSlice,        // operands[0][operands[1]:operands[2]:operands[3]], null where left out
    kCall,         // operands[0](operands[1], ..., keywords)
    kFilter,       // operands[0] | filter(operands[1], ..., keywords); operands[0] null in a filter block
    kTest,         // operands[0] is test(operands[1], ...)
    kNot,          // not operands[0]
    kNegate,       // -operands[0]
    kPlus,         // +operands[0]
    kAnd,          // operands[0] and operands[1]
    kOr,           // operands[0] or operands[1]
    kCompare,      // operands[0] ops[0] operands[1] ops[1] operands[2] ...
    kArithmetic,   // operands[0] ops[0] operands[1]
    kConcatenate,  // operands[0] ~ operands[1] ~ ...
    kCondition,    // operands[0] if operands[1] else operands[2], which may be null
  };
  Kind kind = Kind::kConstant;
  int line = 1;
  int depth = 1;
  std::string name;
  Value constant;
  const Filter* filter = nullptr;
  const Test* test = nullptr;
  std::vector<std::unique_ptr<Expr>> operands;
  std::vector<std::pair<std::string, std::unique_ptr<Expr>>> keywords;
  std::vector<std::string> ops;
};
using ExprPtr = std::unique_ptr<Expr>;

struct Statement;
using Body = std::vector<Statement>;

// What `set` and `for` assign to: x, or ns.x.
struct Target {
  std::string name;
  std::string attribute;  // of a namespace; empty: a variable
};

struct Macro {
  std::string name;
  int line = 1;
  std::vector<std::string> params;
  std::vector<ExprPtr> defaults;  // of the last parameters
  Body body;
};

struct Statement {
  enum class Kind : uint8_t {
    kText,      // text
    kOutput,    // {{ exprs[0] }}
    kIf,        // {% if exprs[i] %} bodies[i] ...; one body more: else
    kFor,       // targets in exprs[0], filter exprs[1] (may be null); bodies: loop, else
    kSet,       // targets = exprs[0]
    kSetBlock,  // targets[0] = bodies[0], through the filters of exprs[0] (may be null)
    kFilter,    // bodies[0] through the filters of exprs[0]
    kWith,      // targets[i] = exprs[i] in bodies[0]
    kMacro,     // macro
    kScope,     // bodies[0] with variables of its own ({% generation %})
    kBreak,
    kContinue,
  };
  Kind kind = Kind::kText;
  int line = 1;
  std::string text;
  bool unpack = false;  // targets take the items of one value, even when there is one target
  std::vector<ExprPtr> exprs;
  std::vector<Target> targets;
  std::vector<Body> bodies;
  std::unique_ptr<Macro> macro;
};

}  // namespace planish::jinja
