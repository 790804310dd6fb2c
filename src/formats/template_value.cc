#include "formats/template_value.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/names.h"
#include "formats/template_access.h"
#include "formats/template_text.h"
#include "formats/tokenizer_unicode.h"

namespace planish::jinja {
namespace {

constexpr int kMaxValueDepth = 100;
constexpr size_t kBytesAStep = 64;

std::string StringKey(std::string_view text) { return std::string(1, 's').append(text); }

// A float that is an integer has the integer's key, as in Python.
Result<std::string> KeyOf(const Value& key) {
  if (const std::string* text = key.AsString()) return StringKey(*text);
  if (const auto integer = key.AsInt()) return fmt::format("n{}", *integer);
  if (const double* number = key.As<double>()) {
    constexpr double kLimit = 9e18;
    if (std::fabs(*number) < kLimit && std::trunc(*number) == *number) {
      return fmt::format("n{}", static_cast<int64_t>(*number));
    }
    return fmt::format("f{}", *number);
  }
  if (key.IsNone()) return std::string("none");
  return InputError(fmt::format("found a key of type {}, expected a string, number or none", TypeName(key)));
}

// Text that is charged as it grows.
class Sink {
 public:
  explicit Sink(Meter& meter) : meter_(meter) {}
  Status Append(std::string_view text) {
    PLANISH_RETURN_IF_ERROR(meter_.Memory(text.size()));
    out_ += text;
    return {};
  }
  Status AppendRepr(std::string_view text) {
    PLANISH_RETURN_IF_ERROR(meter_.Memory(text.size()));
    const size_t before = out_.size();
    jinja::AppendRepr(text, out_);
    return meter_.Memory(out_.size() - before);
  }
  Meter& meter() { return meter_; }
  std::string Take() { return std::move(out_); }

 private:
  Meter& meter_;
  std::string out_;
};

Status WriteRepr(const Value& value, Sink& sink);

Status WriteItems(const List& list, Sink& sink) {
  for (size_t i = 0; i < list.items.size(); ++i) {
    if (i > 0) PLANISH_RETURN_IF_ERROR(sink.Append(", "));
    PLANISH_RETURN_IF_ERROR(WriteRepr(list.items[i], sink));
  }
  return {};
}

Status WriteListRepr(const List& list, Sink& sink) {
  using Flavor = List::Flavor;
  const char *open = "[", *close = "]";
  switch (list.flavor) {
    case Flavor::kList:
      break;
    case Flavor::kTuple:
      open = "(";
      close = list.items.size() == 1 ? ",)" : ")";
      break;
    case Flavor::kKeys:
      open = "dict_keys([";
      close = "])";
      break;
    case Flavor::kItems:
      open = "dict_items([";
      close = "])";
      break;
    case Flavor::kValues:
      open = "dict_values([";
      close = "])";
      break;
    case Flavor::kRange:
    case Flavor::kGenerator:
      return InputError(fmt::format("a {} has no text: make it a list first (| list)",
                                    list.flavor == Flavor::kRange ? "range" : "generator"));
  }
  PLANISH_RETURN_IF_ERROR(sink.Append(open));
  PLANISH_RETURN_IF_ERROR(WriteItems(list, sink));
  return sink.Append(close);
}

Status WriteDictRepr(const Dict& dict, Sink& sink) {
  PLANISH_RETURN_IF_ERROR(sink.Append("{"));
  bool first = true;
  for (const auto& [key, item] : dict.entries) {
    if (!std::exchange(first, false)) PLANISH_RETURN_IF_ERROR(sink.Append(", "));
    PLANISH_RETURN_IF_ERROR(WriteRepr(key, sink));
    PLANISH_RETURN_IF_ERROR(sink.Append(": "));
    PLANISH_RETURN_IF_ERROR(WriteRepr(item, sink));
  }
  return sink.Append("}");
}

Status WriteRepr(const Value& value, Sink& sink) {
  PLANISH_RETURN_IF_ERROR(sink.meter().Work());
  if (const std::string* text = value.AsString()) return sink.AppendRepr(*text);
  if (value.IsUndefined()) return sink.Append("Undefined");
  if (value.IsNone()) return sink.Append("None");
  if (const bool* b = value.As<bool>()) return sink.Append(*b ? "True" : "False");
  if (const int64_t* i = value.As<int64_t>()) return sink.Append(fmt::format("{}", *i));
  if (const double* d = value.As<double>()) return sink.Append(FloatRepr(*d));
  if (const List* list = value.AsList()) return WriteListRepr(*list, sink);
  if (const Dict* dict = value.AsDict()) return WriteDictRepr(*dict, sink);
  return InputError(fmt::format("a value of type {} has no text", TypeName(value)));
}

std::string JsonString(std::string_view text, bool ensure_ascii) {
  std::string out = "\"";
  size_t length = 0;
  for (size_t at = 0; at < text.size(); at += length) {
    const uint32_t c = Utf8Decode(text.data() + at, &length);
    constexpr std::string_view kEscaped = "\"\\\n\r\t\b\f", kNames = "\"\\nrtbf";
    const size_t known = c < 0x80 ? kEscaped.find(static_cast<char>(c)) : kEscaped.npos;
    if (known != kEscaped.npos) {
      out.push_back('\\');
      out.push_back(kNames[known]);
    } else if (c < 0x20 || (ensure_ascii && c >= 0x7F && c < 0x10000)) {
      out += fmt::format("\\u{:04x}", c);
    } else if (ensure_ascii && c >= 0x10000) {
      out +=
          fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + ((c - 0x10000) >> 10), 0xDC00 + ((c - 0x10000) & 0x3FF));
    } else {
      out += text.substr(at, length);
    }
  }
  out.push_back('"');
  return out;
}

std::string JsonNumber(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return FloatRepr(value);
}

class JsonWriter {
 public:
  JsonWriter(Sink& sink, const JsonStyle& style) : sink_(sink), style_(style) {}

  Status Write(const Value& value) {
    PLANISH_RETURN_IF_ERROR(sink_.meter().Work());
    if (const std::string* text = value.AsString()) return WriteString(*text);
    if (value.IsNone()) return sink_.Append("null");
    if (const bool* b = value.As<bool>()) return sink_.Append(*b ? "true" : "false");
    if (const int64_t* i = value.As<int64_t>()) return sink_.Append(fmt::format("{}", *i));
    if (const double* d = value.As<double>()) return sink_.Append(JsonNumber(*d));
    if (const Dict* dict = value.AsDict()) return WriteDict(*dict);
    const List* list = value.AsList();
    if (list != nullptr && (list->flavor == List::Flavor::kList || list->flavor == List::Flavor::kTuple)) {
      return WriteList(*list);
    }
    PLANISH_RETURN_IF_ERROR(CheckDefined(value));
    return InputError(fmt::format("tojson: an object of type {} cannot be written as JSON", TypeName(value)));
  }

 private:
  Status WriteString(std::string_view text) {
    PLANISH_RETURN_IF_ERROR(sink_.meter().Memory(text.size()));
    return sink_.Append(JsonString(text, style_.ensure_ascii));
  }
  Status NewLine() {
    if (!style_.indent) return {};
    PLANISH_RETURN_IF_ERROR(sink_.Append("\n"));
    for (int i = 0; i < level_; ++i) PLANISH_RETURN_IF_ERROR(sink_.Append(*style_.indent));
    return {};
  }
  Status Before(bool first) {
    if (!first) PLANISH_RETURN_IF_ERROR(sink_.Append(style_.item_separator));
    return NewLine();
  }
  Status WriteList(const List& list) {
    if (list.items.empty()) return sink_.Append("[]");
    PLANISH_RETURN_IF_ERROR(sink_.Append("["));
    ++level_;
    bool first = true;
    for (const Value& item : list.items) {
      PLANISH_RETURN_IF_ERROR(Before(std::exchange(first, false)));
      PLANISH_RETURN_IF_ERROR(Write(item));
    }
    --level_;
    PLANISH_RETURN_IF_ERROR(NewLine());
    return sink_.Append("]");
  }
  Status WriteKey(const Value& key) {
    if (const std::string* text = key.AsString()) return WriteString(*text);
    if (key.IsNone()) return WriteString("null");
    if (const bool* b = key.As<bool>()) return WriteString(*b ? "true" : "false");
    if (const int64_t* i = key.As<int64_t>()) return WriteString(fmt::format("{}", *i));
    return WriteString(JsonNumber(*key.As<double>()));
  }
  // Sorted by insertion: a sort whose order can fail, over keys that are few.
  Status Sort(std::vector<const std::pair<Value, Value>*>& order) {
    for (size_t i = 1; i < order.size(); ++i) {
      for (size_t j = i; j > 0; --j) {
        PLANISH_TRY(const bool less, Less(sink_.meter(), order[j]->first, order[j - 1]->first));
        if (!less) break;
        std::swap(order[j], order[j - 1]);
      }
    }
    return {};
  }
  Status WriteDict(const Dict& dict) {
    if (dict.entries.empty()) return sink_.Append("{}");
    std::vector<const std::pair<Value, Value>*> order;
    for (const auto& entry : dict.entries) order.push_back(&entry);
    if (style_.sort_keys) PLANISH_RETURN_IF_ERROR(Sort(order));
    PLANISH_RETURN_IF_ERROR(sink_.Append("{"));
    ++level_;
    bool first = true;
    for (const auto* entry : order) {
      PLANISH_RETURN_IF_ERROR(Before(std::exchange(first, false)));
      PLANISH_RETURN_IF_ERROR(WriteKey(entry->first));
      PLANISH_RETURN_IF_ERROR(sink_.Append(style_.key_separator));
      PLANISH_RETURN_IF_ERROR(Write(entry->second));
    }
    --level_;
    PLANISH_RETURN_IF_ERROR(NewLine());
    return sink_.Append("}");
  }

  Sink& sink_;
  const JsonStyle& style_;
  int level_ = 0;
};

Result<bool> EqualLists(Meter& meter, const List& a, const List& b) {
  if (a.flavor != b.flavor || a.items.size() != b.items.size()) return false;
  for (size_t i = 0; i < a.items.size(); ++i) {
    PLANISH_TRY(const bool equal, Equal(meter, a.items[i], b.items[i]));
    if (!equal) return false;
  }
  return true;
}

Result<bool> EqualDicts(Meter& meter, const Dict& a, const Dict& b) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, item] : a.entries) {
    PLANISH_TRY(const Value* other, Find(b, key));
    if (other == nullptr) return false;
    PLANISH_TRY(const bool equal, Equal(meter, item, *other));
    if (!equal) return false;
  }
  return true;
}

}  // namespace

Status Meter::Work(size_t bytes) {
  steps_ += 1 + static_cast<int64_t>(bytes / kBytesAStep);
  if (steps_ <= limits_.steps) return {};
  return InputError(fmt::format("the rendering took more than {} steps, the limit", limits_.steps));
}
Status Meter::Memory(size_t bytes) {
  memory_ += static_cast<int64_t>(bytes);
  if (memory_ > limits_.memory_bytes) {
    return InputError(
        fmt::format("the rendering made values of more than {} bytes, the limit", limits_.memory_bytes));
  }
  return Work(bytes);
}
Status Meter::Output(size_t total_bytes) const {
  if (static_cast<int64_t>(total_bytes) <= limits_.output_bytes) return {};
  return InputError(fmt::format("the text exceeds {} bytes, the limit", limits_.output_bytes));
}

std::optional<int64_t> Value::AsInt() const {
  if (const bool* b = As<bool>()) return *b ? 1 : 0;
  if (const int64_t* i = As<int64_t>()) return *i;
  return std::nullopt;
}
std::optional<double> Value::AsNumber() const {
  if (const double* d = As<double>()) return *d;
  if (const auto i = AsInt()) return static_cast<double>(*i);
  return std::nullopt;
}
int Value::depth() const {
  if (const List* list = AsList()) return list->depth;
  if (const Dict* dict = AsDict()) return dict->depth;
  if (const auto* loop = As<std::shared_ptr<const LoopState>>()) return (*loop)->depth;
  if (const Callable* callable = As<Callable>())
    return callable->self == nullptr ? 0 : callable->self->depth() + 1;
  return 0;
}

Value UndefinedBecause(std::string hint) {
  return Value(Undefined{std::make_shared<const std::string>(std::move(hint))});
}

Result<Value> MakeString(Meter& meter, std::string text, bool markup) {
  PLANISH_RETURN_IF_ERROR(meter.Memory(sizeof(std::string) + text.size()));
  return Value(Text{std::make_shared<const std::string>(std::move(text)), markup});
}

namespace {
Result<int> DepthAround(int depth, const Value& item) {
  depth = std::max(depth, item.depth() + 1);
  if (depth <= kMaxValueDepth) return depth;
  return InputError(fmt::format("values lie in each other more than {} deep, the limit", kMaxValueDepth));
}
}  // namespace

Result<Value> MakeList(Meter& meter, std::vector<Value> items, List::Flavor flavor) {
  PLANISH_RETURN_IF_ERROR(meter.Memory(sizeof(List) + items.size() * sizeof(Value)));
  auto list = std::make_shared<List>();
  list->flavor = flavor;
  for (const Value& item : items) {
    PLANISH_TRY(list->depth, DepthAround(list->depth, item));
  }
  list->items = std::move(items);
  return Value(std::shared_ptr<const List>(std::move(list)));
}

Result<Value> MakeDict(Meter& meter, std::vector<std::pair<Value, Value>> entries) {
  auto dict = std::make_shared<Dict>();
  for (auto& [key, item] : entries) {
    PLANISH_TRY(std::string name, KeyOf(key));
    PLANISH_TRY(dict->depth, DepthAround(dict->depth, item));
    constexpr size_t kEntryBytes = 2 * sizeof(Value) + 64;
    PLANISH_RETURN_IF_ERROR(meter.Memory(kEntryBytes + name.size()));
    const auto [it, fresh] = dict->index.try_emplace(std::move(name), dict->entries.size());
    if (fresh) {
      dict->entries.emplace_back(std::move(key), std::move(item));
    } else {
      dict->entries[it->second].second = std::move(item);
    }
  }
  PLANISH_RETURN_IF_ERROR(meter.Memory(sizeof(Dict)));
  return Value(std::shared_ptr<const Dict>(std::move(dict)));
}

Result<Value> FromJson(Meter& meter, const OrderedJson& json, int depth) {
  if (depth >= kMaxValueDepth) {
    return InputError(fmt::format("values lie in each other more than {} deep, the limit", kMaxValueDepth));
  }
  switch (json.type()) {
    case OrderedJson::value_t::boolean:
      return Value(json.get<bool>());
    case OrderedJson::value_t::number_integer:
      return Value(json.get<int64_t>());
    case OrderedJson::value_t::number_unsigned:
      if (json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
        return InputError(
            fmt::format("found the number {}, expected one of at most 64 bits", json.get<uint64_t>()));
      }
      return Value(json.get<int64_t>());
    case OrderedJson::value_t::number_float:
      return Value(json.get<double>());
    case OrderedJson::value_t::string: {
      const auto& text = json.get_ref<const std::string&>();
      if (FindInvalidUtf8(text)) return InputError("found a string that is not UTF-8");
      return MakeString(meter, text);
    }
    case OrderedJson::value_t::array: {
      std::vector<Value> items;
      for (const auto& item : json) {
        PLANISH_TRY(Value value, FromJson(meter, item, depth + 1));
        items.push_back(std::move(value));
      }
      return MakeList(meter, std::move(items));
    }
    case OrderedJson::value_t::object: {
      std::vector<std::pair<Value, Value>> entries;
      for (const auto& [key, item] : json.items()) {
        PLANISH_TRY(Value name, MakeString(meter, key));
        PLANISH_TRY(Value value, FromJson(meter, item, depth + 1));
        entries.emplace_back(std::move(name), std::move(value));
      }
      return MakeDict(meter, std::move(entries));
    }
    default:
      return Value(None{});
  }
}

Result<const Value*> Find(const Dict& dict, const Value& key) {
  PLANISH_TRY(const std::string name, KeyOf(key));
  const auto it = dict.index.find(name);
  return it == dict.index.end() ? nullptr : &dict.entries[it->second].second;
}
const Value* Find(const Dict& dict, std::string_view key) {
  const auto it = dict.index.find(StringKey(key));
  return it == dict.index.end() ? nullptr : &dict.entries[it->second].second;
}

std::string TypeName(const Value& value) {
  if (value.IsUndefined()) return "Undefined";
  if (value.IsNone()) return "NoneType";
  if (value.As<bool>() != nullptr) return "bool";
  if (value.As<int64_t>() != nullptr) return "int";
  if (value.As<double>() != nullptr) return "float";
  if (value.AsString() != nullptr) return "str";
  if (value.AsDict() != nullptr) return "dict";
  if (value.As<Namespace*>() != nullptr) return "Namespace";
  if (value.As<std::shared_ptr<const LoopState>>() != nullptr) return "LoopContext";
  if (const List* list = value.AsList()) {
    switch (list->flavor) {
      case List::Flavor::kList:
        return "list";
      case List::Flavor::kTuple:
        return "tuple";
      case List::Flavor::kRange:
        return "range";
      case List::Flavor::kKeys:
        return "dict_keys";
      case List::Flavor::kItems:
        return "dict_items";
      case List::Flavor::kValues:
        return "dict_values";
      case List::Flavor::kGenerator:
        return "generator";
    }
  }
  return "function";
}

std::string ObjectName(const Value& value) {
  if (value.IsUndefined()) return "Undefined";
  if (value.IsNone()) return "None";
  return TypeName(value) + " object";
}

Status CheckDefined(const Value& value) {
  const Undefined* undefined = value.As<Undefined>();
  if (undefined == nullptr) return {};
  return InputError(undefined->hint == nullptr ? "the value is undefined" : *undefined->hint);
}

Result<bool> Truth(const Value& value) {
  if (value.IsUndefined() || value.IsNone()) return false;
  if (const auto integer = value.AsInt()) return *integer != 0;
  if (const double* number = value.As<double>()) return *number != 0;
  if (const std::string* text = value.AsString()) return !text->empty();
  if (const Dict* dict = value.AsDict()) return !dict->entries.empty();
  if (const List* list = value.AsList()) {
    return list->flavor == List::Flavor::kGenerator || !list->items.empty();
  }
  return true;
}

Result<bool> Equal(Meter& meter, const Value& a, const Value& b) {
  PLANISH_RETURN_IF_ERROR(meter.Work());
  const auto x = a.AsInt(), y = b.AsInt();
  if (x && y) return *x == *y;
  const auto u = a.AsNumber(), v = b.AsNumber();
  if (u && v) return *u == *v;
  if (a.AsString() != nullptr && b.AsString() != nullptr) {
    PLANISH_RETURN_IF_ERROR(meter.Work(std::min(a.AsString()->size(), b.AsString()->size())));
    return *a.AsString() == *b.AsString();
  }
  if (a.IsUndefined() || b.IsUndefined()) return a.IsUndefined() && b.IsUndefined();
  if (a.IsNone() || b.IsNone()) return a.IsNone() && b.IsNone();
  if (a.AsList() != nullptr && b.AsList() != nullptr) return EqualLists(meter, *a.AsList(), *b.AsList());
  if (a.AsDict() != nullptr && b.AsDict() != nullptr) return EqualDicts(meter, *a.AsDict(), *b.AsDict());
  if (a.As<Namespace*>() != nullptr && b.As<Namespace*>() != nullptr) {
    return *a.As<Namespace*>() == *b.As<Namespace*>();
  }
  return false;
}

Result<bool> Less(Meter& meter, const Value& a, const Value& b, const char* op) {
  PLANISH_RETURN_IF_ERROR(meter.Work());
  const auto x = a.AsInt(), y = b.AsInt();
  if (x && y) return *x < *y;
  const auto u = a.AsNumber(), v = b.AsNumber();
  if (u && v) return *u < *v;
  if (a.AsString() != nullptr && b.AsString() != nullptr) {
    PLANISH_RETURN_IF_ERROR(meter.Work(std::min(a.AsString()->size(), b.AsString()->size())));
    return *a.AsString() < *b.AsString();  // bytes of UTF-8 order as characters do
  }
  PLANISH_RETURN_IF_ERROR(CheckDefined(a));
  PLANISH_RETURN_IF_ERROR(CheckDefined(b));
  const List *left = a.AsList(), *right = b.AsList();
  if (left == nullptr || right == nullptr || left->flavor != right->flavor ||
      left->flavor > List::Flavor::kTuple) {
    return InputError(
        fmt::format("'{}' is not supported between '{}' and '{}'", op, TypeName(a), TypeName(b)));
  }
  for (size_t i = 0; i < std::min(left->items.size(), right->items.size()); ++i) {
    PLANISH_TRY(const bool equal, Equal(meter, left->items[i], right->items[i]));
    if (!equal) return Less(meter, left->items[i], right->items[i], op);
  }
  return left->items.size() < right->items.size();
}

Result<bool> Contains(Meter& meter, const Value& container, const Value& item) {
  if (const std::string* text = container.AsString()) {
    if (item.AsString() == nullptr) {
      PLANISH_RETURN_IF_ERROR(CheckDefined(item));
      return InputError(
          fmt::format("'in' of a string: expected a string on the left, found a {}", TypeName(item)));
    }
    PLANISH_RETURN_IF_ERROR(meter.Work(text->size()));
    return text->find(*item.AsString()) != std::string::npos;
  }
  if (const Dict* dict = container.AsDict()) {
    if (item.IsUndefined()) return false;
    PLANISH_TRY(const Value* found, Find(*dict, item));
    return found != nullptr;
  }
  if (const List* list = container.AsList()) {
    for (size_t i = list->taken; i < list->items.size(); ++i) {
      if (list->flavor == List::Flavor::kGenerator) list->taken = i + 1;
      PLANISH_TRY(const bool equal, Equal(meter, list->items[i], item));
      if (equal) return true;
    }
    return false;
  }
  if (container.IsUndefined()) return false;
  return InputError(
      fmt::format("'in': found a {} on the right, expected a string, list or dict", TypeName(container)));
}

Result<std::vector<Value>> Iterate(Meter& meter, const Value& value) {
  std::vector<Value> items;
  if (value.IsUndefined()) return items;
  if (const List* list = value.AsList()) {
    const size_t from = list->taken;
    PLANISH_RETURN_IF_ERROR(meter.Memory((list->items.size() - from) * sizeof(Value)));
    if (list->flavor == List::Flavor::kGenerator) list->taken = list->items.size();
    items.assign(list->items.begin() + static_cast<int64_t>(from), list->items.end());
    return items;
  }
  if (const Dict* dict = value.AsDict()) {
    PLANISH_RETURN_IF_ERROR(meter.Memory(dict->entries.size() * sizeof(Value)));
    for (const auto& entry : dict->entries) items.push_back(entry.first);
    return items;
  }
  if (const std::string* text = value.AsString()) {
    for (size_t at = 0; at < text->size(); at += Utf8Length((*text)[at])) {
      PLANISH_TRY(Value character, MakeString(meter, text->substr(at, Utf8Length((*text)[at]))));
      items.push_back(std::move(character));
    }
    return items;
  }
  return InputError(fmt::format("found a value of type {}, expected one to iterate over", TypeName(value)));
}

Result<int64_t> Length(const Value& value) {
  if (value.IsUndefined()) return int64_t{0};
  if (const std::string* text = value.AsString()) return static_cast<int64_t>(CountCharacters(*text));
  if (const Dict* dict = value.AsDict()) return static_cast<int64_t>(dict->entries.size());
  const List* list = value.AsList();
  if (list != nullptr && list->flavor != List::Flavor::kGenerator)
    return static_cast<int64_t>(list->items.size());
  return InputError(fmt::format("a value of type {} has no length", TypeName(value)));
}

Result<std::string> ToText(Meter& meter, const Value& value) {
  if (const std::string* text = value.AsString()) {
    PLANISH_RETURN_IF_ERROR(meter.Memory(text->size()));
    return *text;
  }
  if (value.IsUndefined()) return std::string();
  return ToRepr(meter, value);
}

Result<std::string> ToRepr(Meter& meter, const Value& value) {
  Sink sink(meter);
  PLANISH_RETURN_IF_ERROR(WriteRepr(value, sink));
  return sink.Take();
}

Result<std::string> ToJsonText(Meter& meter, const Value& value, const JsonStyle& style) {
  Sink sink(meter);
  PLANISH_RETURN_IF_ERROR(JsonWriter(sink, style).Write(value));
  return sink.Take();
}

}  // namespace planish::jinja
