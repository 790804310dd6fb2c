// What stands behind a dot or in brackets, and the methods of Python's types.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/template_filters.h"
#include "formats/template_value.h"

namespace planish::jinja {

// What `namespace()` makes; owned by the rendering.
struct Namespace {
  std::vector<std::pair<std::string, Value>> values;
  Value* Find(std::string_view name);
};

// The variable `loop`.
struct LoopState {
  std::vector<Value> items;
  size_t index = 0;
  int depth = 1;
};

// object.name: an attribute or method, else the item of that name; undefined when there is neither. Errors:
// an undefined object, names with two underscores in front.
Result<Value> GetAttribute(Meter& meter, const Value& object, const std::string& name);
// object[key]: the item, else the attribute of that name; undefined when there is neither.
Result<Value> GetItem(Meter& meter, const Value& object, const Value& key);
// The item at "a.b.0", as filters with an attribute take it.
Result<Value> GetPath(Meter& meter, const Value& object, const Value& path);

// object[start:stop:step], null for what was left out.
Result<Value> GetSlice(Meter& meter, const Value& object, const Value* start, const Value* stop,
                       const Value* step);

// Errors: methods that change a value or are not supported, by name.
Result<Value> CallMethod(Meter& meter, const Value& self, std::string_view name, const Args& args);

}  // namespace planish::jinja
