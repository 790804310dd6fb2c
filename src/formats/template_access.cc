#include "formats/template_access.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <iterator>

#include "base/names.h"
#include "formats/template_text.h"
#include "formats/tokenizer_unicode.h"

namespace planish::jinja {
namespace {

// All that Python's types have, so that an attribute means what it means there; what cannot be called here is
// refused when it is called.
constexpr std::string_view kStringMethods[] = {
    "capitalize", "casefold",     "center",       "count",   "encode",     "endswith",    "expandtabs",
    "find",       "format",       "format_map",   "index",   "isalnum",    "isalpha",     "isascii",
    "isdecimal",  "isdigit",      "isidentifier", "islower", "isnumeric",  "isprintable", "isspace",
    "istitle",    "isupper",      "join",         "ljust",   "lower",      "lstrip",      "maketrans",
    "partition",  "removeprefix", "removesuffix", "replace", "rfind",      "rindex",      "rjust",
    "rpartition", "rsplit",       "rstrip",       "split",   "splitlines", "startswith",  "strip",
    "swapcase",   "title",        "translate",    "upper",   "zfill"};
constexpr std::string_view kDictMethods[] = {"clear", "copy",    "fromkeys",   "get",    "items", "keys",
                                             "pop",   "popitem", "setdefault", "update", "values"};
constexpr std::string_view kListMethods[] = {"append", "clear", "copy",   "count",   "extend", "index",
                                             "insert", "pop",   "remove", "reverse", "sort"};
constexpr std::string_view kTupleMethods[] = {"count", "index"};

bool IsNumberAttribute(std::string_view name) {
  constexpr std::string_view kNames[] = {
      "as_integer_ratio", "bit_count", "bit_length", "conjugate", "denominator",
      "from_bytes",       "fromhex",   "hex",        "imag",      "is_integer",
      "numerator",        "real",      "to_bytes"};
  return std::ranges::find(kNames, name) != std::end(kNames);
}

bool HasMethod(const Value& object, std::string_view name) {
  const auto in = [&](const auto& list) { return std::ranges::find(list, name) != std::end(list); };
  if (object.AsString() != nullptr) return in(kStringMethods);
  if (object.AsDict() != nullptr) return in(kDictMethods);
  const List* list = object.AsList();
  if (list == nullptr) return false;
  if (list->flavor == List::Flavor::kList) return in(kListMethods);
  return list->flavor <= List::Flavor::kRange && in(kTupleMethods);
}

Result<Value> LoopAttribute(const LoopState& loop, const std::string& name) {
  const auto number = [](size_t n) { return Value(static_cast<int64_t>(n)); };
  const size_t size = loop.items.size();
  if (name == "index") return number(loop.index + 1);
  if (name == "index0") return number(loop.index);
  if (name == "revindex") return number(size - loop.index);
  if (name == "revindex0") return number(size - loop.index - 1);
  if (name == "first") return Value(loop.index == 0);
  if (name == "last") return Value(loop.index + 1 == size);
  if (name == "length") return number(size);
  if (name == "depth") return number(1);
  if (name == "depth0") return number(0);
  if (name == "previtem") {
    return loop.index == 0 ? UndefinedBecause("there is no previous item") : loop.items[loop.index - 1];
  }
  if (name == "nextitem") {
    return loop.index + 1 == size ? UndefinedBecause("there is no next item") : loop.items[loop.index + 1];
  }
  return NotSupported("loop attribute", name);
}

Value NoAttribute(const Value& object, std::string_view name) {
  return UndefinedBecause(
      fmt::format("'{}' has no attribute '{}'", ObjectName(object), Abbreviate(name, 60)));
}

Result<Value> ItemAt(Meter& meter, const Value& object, int64_t index) {
  const auto none = [&] {
    return UndefinedBecause(fmt::format("{} has no element {}", ObjectName(object), index));
  };
  if (const List* list = object.AsList()) {
    if (list->flavor > List::Flavor::kRange) return none();
    const auto size = static_cast<int64_t>(list->items.size());
    if (index < -size || index >= size) return none();
    return list->items[static_cast<size_t>(index < 0 ? index + size : index)];
  }
  const std::string* text = object.AsString();
  if (text == nullptr) return none();
  PLANISH_RETURN_IF_ERROR(meter.Work(text->size()));
  const auto size = static_cast<int64_t>(CountCharacters(*text));
  if (index < -size || index >= size) return none();
  size_t at = 0;
  for (int64_t i = index < 0 ? index + size : index; i > 0; --i) at += Utf8Length((*text)[at]);
  return MakeString(meter, text->substr(at, Utf8Length((*text)[at])), object.IsMarkup());
}

struct SliceRange {
  int64_t start, count, step;
};

// Positions that Python's slice names among `size`.
Result<SliceRange> Positions(int64_t size, const Value* start, const Value* stop, const Value* step) {
  const auto read = [](const Value* value) -> Result<std::optional<int64_t>> {
    if (value == nullptr || value->IsNone()) return std::optional<int64_t>();
    const auto integer = value->AsInt();
    if (!integer) {
      PLANISH_RETURN_IF_ERROR(CheckDefined(*value));
      return InputError(fmt::format("found a slice index of type {}, expected an integer", TypeName(*value)));
    }
    return std::optional<int64_t>(*integer);
  };
  PLANISH_TRY(const auto from, read(start));
  PLANISH_TRY(const auto to, read(stop));
  PLANISH_TRY(const auto by, read(step));
  int64_t stride = by.value_or(1);
  if (stride == 0) return InputError("found a slice step of 0");
  stride = std::clamp(stride, -size - 1, size + 1);
  const int64_t low = stride > 0 ? 0 : -1, high = stride > 0 ? size : size - 1;
  const auto place = [&](const std::optional<int64_t>& at, int64_t fallback) {
    if (!at) return fallback;
    return std::clamp(*at < 0 ? *at + size : *at, low, high);
  };
  const int64_t first = place(from, stride > 0 ? low : high), last = place(to, stride > 0 ? high : low);
  const int64_t distance = stride > 0 ? last - first : first - last;
  const int64_t width = stride > 0 ? stride : -stride;
  return SliceRange{first, distance <= 0 ? 0 : (distance + width - 1) / width, stride};
}

}  // namespace

Value* Namespace::Find(std::string_view name) {
  const auto it = std::ranges::find(values, name, &std::pair<std::string, Value>::first);
  return it == values.end() ? nullptr : &it->second;
}

Result<Value> GetAttribute(Meter& meter, const Value& object, const std::string& name) {
  PLANISH_RETURN_IF_ERROR(CheckDefined(object));
  if (const auto* space = object.As<Namespace*>()) {
    PLANISH_RETURN_IF_ERROR(meter.Work((*space)->values.size()));
    if (const Value* value = (*space)->Find(name)) return *value;
    return NoAttribute(object, name);
  }
  if (const auto* loop = object.As<std::shared_ptr<const LoopState>>()) {
    if (name == "cycle") return Value(Callable{nullptr, name, std::make_shared<const Value>(object)});
    return LoopAttribute(**loop, name);
  }
  if (HasMethod(object, name)) {
    PLANISH_RETURN_IF_ERROR(meter.Memory(sizeof(Value)));
    return Value(Callable{nullptr, name, std::make_shared<const Value>(object)});
  }
  if (const Dict* dict = object.AsDict()) {
    if (const Value* value = Find(*dict, name)) return *value;
  }
  if (object.AsNumber() && IsNumberAttribute(name)) return NotSupported("attribute of numbers", name);
  if (name.starts_with("__")) {
    return InputError(fmt::format(
        "access to '{}' is refused: names with two underscores are not a template's", Abbreviate(name, 60)));
  }
  return NoAttribute(object, name);
}

Result<Value> GetItem(Meter& meter, const Value& object, const Value& key) {
  PLANISH_RETURN_IF_ERROR(CheckDefined(object));
  if (const Dict* dict = object.AsDict()) {
    const auto found = Find(*dict, key);
    if (found.ok() && *found != nullptr) return **found;
  } else if (const auto index = key.AsInt()) {
    return ItemAt(meter, object, *index);
  }
  if (const std::string* name = key.AsString()) return GetAttribute(meter, object, *name);
  PLANISH_RETURN_IF_ERROR(meter.Work());
  std::string shown = TypeName(key);
  if (const auto number = key.AsInt()) shown = fmt::format("{}", *number);
  return UndefinedBecause(fmt::format("{} has no element {}", ObjectName(object), shown));
}

Result<Value> GetPath(Meter& meter, const Value& object, const Value& path) {
  const std::string* text = path.AsString();
  if (text == nullptr) return GetItem(meter, object, path);
  Value value = object;
  size_t at = 0;
  while (true) {
    const size_t dot = std::min(text->find('.', at), text->size());
    const std::string part = text->substr(at, dot - at);
    int64_t index = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool is_index = error == std::errc() && end == part.data() + part.size() && part[0] != '-';
    PLANISH_TRY(const Value key, is_index ? Result<Value>(Value(index)) : MakeString(meter, part));
    PLANISH_TRY(value, GetItem(meter, value, key));
    if (dot == text->size()) return value;
    at = dot + 1;
  }
}

Result<Value> GetSlice(Meter& meter, const Value& object, const Value* start, const Value* stop,
                       const Value* step) {
  PLANISH_RETURN_IF_ERROR(CheckDefined(object));
  if (const std::string* text = object.AsString()) {
    PLANISH_RETURN_IF_ERROR(meter.Memory(text->size() * sizeof(size_t)));
    const std::vector<size_t> offsets = CharacterOffsets(*text);
    PLANISH_TRY(const SliceRange range,
                Positions(static_cast<int64_t>(offsets.size()) - 1, start, stop, step));
    std::string out;
    for (int64_t i = 0, at = range.start; i < range.count; ++i, at += range.step) {
      const auto character = static_cast<size_t>(at);
      out.append(*text, offsets[character], offsets[character + 1] - offsets[character]);
    }
    return MakeString(meter, std::move(out), object.IsMarkup());
  }
  const List* list = object.AsList();
  if (list == nullptr || list->flavor > List::Flavor::kRange) {
    return InputError(fmt::format("a value of type {} cannot be sliced", TypeName(object)));
  }
  PLANISH_TRY(const SliceRange range, Positions(static_cast<int64_t>(list->items.size()), start, stop, step));
  std::vector<Value> items;
  PLANISH_RETURN_IF_ERROR(meter.Work(static_cast<size_t>(range.count) * sizeof(Value)));
  for (int64_t i = 0, at = range.start; i < range.count; ++i, at += range.step) {
    items.push_back(list->items[static_cast<size_t>(at)]);
  }
  return MakeList(meter, std::move(items), list->flavor);
}

}  // namespace planish::jinja
