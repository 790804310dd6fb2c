#include "base/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace planish {
namespace {

// Builds nothing: only looks for what the tree parser would accept silently.
class StrictScan : public nlohmann::json_sax<Json> {
 public:
  explicit StrictScan(const JsonLimits& limits) : limits_(limits) {}
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return Push(); }
  bool end_object() override { return Pop(); }
  bool start_array(std::size_t) override { return Push(); }
  bool end_array() override { return Pop(); }
  bool key(string_t& name) override {
    if (keys_.back().insert(name).second) return true;
    problem_ = fmt::format("key '{}' appears twice in one object", name);
    return false;
  }
  bool parse_error(std::size_t offset, const std::string&, const nlohmann::detail::exception&) override {
    problem_ = fmt::format("not valid JSON at byte {}", offset);
    return false;
  }
  const std::string& problem() const { return problem_; }

 private:
  bool Push() {
    if (static_cast<int>(keys_.size()) >= limits_.depth) {
      problem_ = fmt::format("nested deeper than {} levels", limits_.depth);
      return false;
    }
    keys_.emplace_back();
    return true;
  }
  bool Pop() {
    keys_.pop_back();
    return true;
  }
  JsonLimits limits_;
  std::vector<std::set<std::string>> keys_;
  std::string problem_;
};

// Collects the keys of the object at a path.
class KeyScan : public nlohmann::json_sax<Json> {
 public:
  explicit KeyScan(const std::vector<std::string>& path) : path_(path) {}
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return Push(); }
  bool end_object() override { return Pop(); }
  bool start_array(std::size_t) override { return Push(); }
  bool end_array() override { return Pop(); }
  bool key(string_t& name) override {
    if (at_.size() == path_.size() + 1 && std::equal(path_.begin(), path_.end(), at_.begin())) {
      keys_.push_back(name);
    }
    at_.back() = name;
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override {
    return false;
  }
  std::vector<std::string> TakeKeys() { return std::move(keys_); }

 private:
  bool Push() {
    at_.emplace_back();
    return true;
  }
  bool Pop() {
    at_.pop_back();
    return true;
  }
  const std::vector<std::string>& path_;
  std::vector<std::string> at_;  // the member in which the scan is, of every level that is open
  std::vector<std::string> keys_;
};

std::string Found(const Json& value) { return DumpJson(value).substr(0, 60); }

const Json* Find(const Json& object, const std::string& key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) return nullptr;
  return &*it;
}

Error Missing(const std::string& key) { return InputError(fmt::format("field '{}' is missing", key)); }

Error WrongType(const std::string& key, const char* expected, const Json& found) {
  return InputError(fmt::format("field '{}': expected {}, found {}", key, expected, Found(found)));
}

Result<int64_t> AsInt(const std::string& key, const Json& value) {
  if (value.is_number_unsigned()) {
    const auto u = value.get<uint64_t>();
    if (u <= static_cast<uint64_t>(INT64_MAX)) return static_cast<int64_t>(u);
  } else if (value.is_number_integer()) {
    return value.get<int64_t>();
  }
  return WrongType(key, "an integer", value);
}

}  // namespace

Result<Json> ParseJson(std::string_view text, const JsonLimits& limits) {
  // The lexer takes a zero byte for the end of its input and would ignore what follows.
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos) {
    return InputError(fmt::format("not valid JSON at byte {}: zero byte", zero));
  }
  StrictScan scan(limits);
  if (!Json::sax_parse(text.begin(), text.end(), &scan)) return InputError(scan.problem());
  Json value = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) return InputError("not valid JSON");
  return value;
}

std::vector<std::string> JsonKeysInOrder(std::string_view text, const std::vector<std::string>& path) {
  KeyScan scan(path);
  return Json::sax_parse(text.begin(), text.end(), &scan) ? scan.TakeKeys() : std::vector<std::string>();
}

Result<int64_t> JsonInt(const Json& object, const std::string& key) {
  const Json* value = Find(object, key);
  if (value == nullptr) return Missing(key);
  return AsInt(key, *value);
}

Result<int64_t> JsonInt(const Json& object, const std::string& key, int64_t fallback) {
  const Json* value = Find(object, key);
  if (value == nullptr) return fallback;
  return AsInt(key, *value);
}

Result<double> JsonNumber(const Json& object, const std::string& key) {
  const Json* value = Find(object, key);
  if (value == nullptr) return Missing(key);
  if (!value->is_number()) return WrongType(key, "a number", *value);
  return value->get<double>();
}

Result<double> JsonNumber(const Json& object, const std::string& key, double fallback) {
  if (Find(object, key) == nullptr) return fallback;
  return JsonNumber(object, key);
}

Result<bool> JsonBool(const Json& object, const std::string& key, bool fallback) {
  const Json* value = Find(object, key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) return WrongType(key, "true or false", *value);
  return value->get<bool>();
}

Result<std::string> JsonString(const Json& object, const std::string& key) {
  const Json* value = Find(object, key);
  if (value == nullptr) return Missing(key);
  if (!value->is_string()) return WrongType(key, "a string", *value);
  return value->get<std::string>();
}

Result<std::string> JsonString(const Json& object, const std::string& key, const std::string& fallback) {
  if (Find(object, key) == nullptr) return fallback;
  return JsonString(object, key);
}

Json JsonMember(const Json& object, const char* key) {
  const auto it = object.is_object() ? object.find(key) : object.end();
  return it == object.end() ? Json() : *it;
}

std::string DumpJson(const Json& value, int indent) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}
std::string DumpJson(const OrderedJson& value, int indent) {
  return value.dump(indent, ' ', false, OrderedJson::error_handler_t::replace);
}

}  // namespace planish
