// JSON from outside: nlohmann-json without its exceptions, with duplicate keys and deep nesting
// refused, and typed access whose errors name the field.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace planish {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

struct JsonLimits {
  int depth = 64;
};

// Parses one document. Errors: not UTF-8, syntax (with the byte offset), a key twice in one object,
// nesting deeper than the limit. Bare NaN and Infinity are syntax errors.
Result<Json> ParseJson(std::string_view text, const JsonLimits& limits = {});

// The names of an object's members in the order of a text that ParseJson has taken, which the tree does not
// keep; `path` leads to the object. Empty where there is none.
std::vector<std::string> JsonKeysInOrder(std::string_view text, const std::vector<std::string>& path);

// Member access with the field's name in the error. The fallback serves a missing or null member; a
// member of the wrong type is always an error.
Result<int64_t> JsonInt(const Json& object, const std::string& key);
Result<int64_t> JsonInt(const Json& object, const std::string& key, int64_t fallback);
Result<double> JsonNumber(const Json& object, const std::string& key);
Result<double> JsonNumber(const Json& object, const std::string& key, double fallback);
Result<bool> JsonBool(const Json& object, const std::string& key, bool fallback);
Result<std::string> JsonString(const Json& object, const std::string& key);
Result<std::string> JsonString(const Json& object, const std::string& key, const std::string& fallback);
// A member as it is, or null if there is none or `object` is no object.
Json JsonMember(const Json& object, const char* key);

// Compact text; strings that are not UTF-8 get replacement characters instead of an exception.
std::string DumpJson(const Json& value, int indent = -1);
std::string DumpJson(const OrderedJson& value, int indent = -1);

}  // namespace planish
