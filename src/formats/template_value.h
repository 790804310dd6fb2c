// Values of the template language, with Python's rules for truth, equality, order and text.
//
// Lists and dicts never change once made, so that values form no cycles; what does change (a namespace) is
// owned by the rendering and only pointed to. Everything whose cost grows with a value is charged to a Meter.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "formats/template.h"

namespace planish::jinja {

// What one rendering may still use. Errors name the limit.
class Meter {
 public:
  explicit Meter(const TemplateLimits& limits) : limits_(limits) {}
  // A step, and as many more as `bytes` that are looked at cost.
  Status Work(size_t bytes = 0);
  // Bytes of a new value. Counted over the whole rendering, not given back.
  Status Memory(size_t bytes);
  Status Output(size_t total_bytes) const;
  const TemplateLimits& limits() const { return limits_; }

 private:
  TemplateLimits limits_;
  int64_t steps_ = 0, memory_ = 0;
};

class Value;
struct Macro;
struct LoopState;
struct Namespace;

struct Undefined {
  std::shared_ptr<const std::string> hint;  // what error says when it is used
};
struct None {};
struct Text {
  std::shared_ptr<const std::string> text;
  bool markup = false;  // marked by the filter `safe`: + escapes what is joined to it
};
// Lists and what behaves like them when it is walked through.
struct List {
  enum class Flavor : uint8_t { kList, kTuple, kRange, kKeys, kItems, kValues, kGenerator };
  Flavor flavor = Flavor::kList;
  int depth = 1;
  std::vector<Value> items;
  mutable size_t taken = 0;  // of a generator, which is walked through once
};
struct Dict {
  int depth = 1;
  std::vector<std::pair<Value, Value>> entries;   // in order of insertion
  std::unordered_map<std::string, size_t> index;  // by KeyOf
};
// Something that can be called: a global function, a method bound to its value, a macro, a loop's cycle.
struct Callable {
  const Macro* macro = nullptr;  // owned by the template
  std::string name;
  std::shared_ptr<const Value> self;  // null: a global function
};

class Value {
 public:
  using Body =
      std::variant<Undefined, None, bool, int64_t, double, Text, std::shared_ptr<const List>,
                   std::shared_ptr<const Dict>, Namespace*, std::shared_ptr<const LoopState>, Callable>;
  Value() = default;                            // undefined
  Value(Body body) : body_(std::move(body)) {}  // NOLINT: implicit by design

  template <typename T>
  const T* As() const {
    return std::get_if<T>(&body_);
  }
  bool IsUndefined() const { return As<Undefined>() != nullptr; }
  bool IsNone() const { return As<None>() != nullptr; }
  const std::string* AsString() const {
    const Text* text = As<Text>();
    return text == nullptr ? nullptr : text->text.get();
  }
  bool IsMarkup() const { return As<Text>() != nullptr && As<Text>()->markup; }
  const List* AsList() const {
    const auto* list = As<std::shared_ptr<const List>>();
    return list == nullptr ? nullptr : list->get();
  }
  const Dict* AsDict() const {
    const auto* dict = As<std::shared_ptr<const Dict>>();
    return dict == nullptr ? nullptr : dict->get();
  }
  // Of bool and int; Python counts true as 1.
  std::optional<int64_t> AsInt() const;
  std::optional<double> AsNumber() const;
  int depth() const;

 private:
  Body body_ = Undefined{};
};

// Values that are charged. Errors: the meter's, containers in containers too deep, keys that are none.
Result<Value> MakeString(Meter& meter, std::string text, bool markup = false);
Result<Value> MakeList(Meter& meter, std::vector<Value> items, List::Flavor flavor = List::Flavor::kList);
Result<Value> MakeDict(Meter& meter, std::vector<std::pair<Value, Value>> entries);
Result<Value> FromJson(Meter& meter, const OrderedJson& json, int depth = 0);
Value UndefinedBecause(std::string hint);

// The entry of a key, null: none. Error: a key that cannot be one (a list).
Result<const Value*> Find(const Dict& dict, const Value& key);
const Value* Find(const Dict& dict, std::string_view key);

// Python's name of the type: "str", "list", ...; and as Jinja names an object in messages.
std::string TypeName(const Value& value);
std::string ObjectName(const Value& value);
// "'x' is undefined" when the value is.
Status CheckDefined(const Value& value);

Result<bool> Truth(const Value& value);
Result<bool> Equal(Meter& meter, const Value& a, const Value& b);
// a < b, for numbers, strings and lists. Error: types without an order.
Result<bool> Less(Meter& meter, const Value& a, const Value& b, const char* op = "<");
// item in container. Error: a container that holds nothing.
Result<bool> Contains(Meter& meter, const Value& container, const Value& item);
// What a `for` walks through: items, keys, characters; nothing of an undefined value. A generator is empty
// afterwards. Error: not iterable.
Result<std::vector<Value>> Iterate(Meter& meter, const Value& value);
// The number of items. Error: the type has none.
Result<int64_t> Length(const Value& value);

// Python's str() and repr(). Errors: values without a text (functions, namespaces, generators).
Result<std::string> ToText(Meter& meter, const Value& value);
Result<std::string> ToRepr(Meter& meter, const Value& value);

struct JsonStyle {
  bool ensure_ascii = false, sort_keys = false;
  std::optional<std::string> indent;  // one level of it
  std::string item_separator = ", ", key_separator = ": ";
};
// Python's json.dumps.
Result<std::string> ToJsonText(Meter& meter, const Value& value, const JsonStyle& style);

}  // namespace planish::jinja
