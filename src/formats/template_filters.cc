#include "formats/template_filters.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>

#include "base/checked.h"
#include "base/names.h"
#include "formats/template_access.h"
#include "formats/template_text.h"
#include "formats/tokenizer_unicode.h"

namespace planish::jinja {
namespace {

using Bound = std::vector<const Value*>;

Result<bool> Flag(const Value* value, bool fallback) {
  if (value == nullptr) return fallback;
  return Truth(*value);
}
bool Given(const Value* value) { return value != nullptr && !value->IsNone(); }

Result<int64_t> IntOf(std::string_view callee, const Value* value, int64_t fallback) {
  if (value == nullptr) return fallback;
  if (const auto integer = value->AsInt()) return *integer;
  PLANISH_RETURN_IF_ERROR(CheckDefined(*value));
  return InputError(
      fmt::format("{}: expected an integer, found a value of type {}", callee, TypeName(*value)));
}

// What compares strings without regard to case compares instead of them.
Result<Value> SortKey(Meter& meter, const Value& item, const Value* attribute, bool case_sensitive) {
  Value key = item;
  if (Given(attribute)) {
    PLANISH_TRY(key, GetPath(meter, item, *attribute));
  }
  if (case_sensitive || key.AsString() == nullptr) return key;
  return MakeString(meter, Lower(*key.AsString()));
}

struct Keyed {
  Value key, item;
};

// Stable; merges halves, with an order that can fail.
Status SortKeyed(Meter& meter, std::vector<Keyed>& items, bool reverse) {
  if (items.size() < 2) return {};
  const auto middle = items.begin() + static_cast<int64_t>(items.size() / 2);
  std::vector<Keyed> left(items.begin(), middle), right(middle, items.end());
  PLANISH_RETURN_IF_ERROR(meter.Memory(items.size() * sizeof(Keyed)));
  PLANISH_RETURN_IF_ERROR(SortKeyed(meter, left, reverse));
  PLANISH_RETURN_IF_ERROR(SortKeyed(meter, right, reverse));
  size_t i = 0, j = 0;
  for (Keyed& out : items) {
    bool take_right = i == left.size();
    if (!take_right && j < right.size()) {
      PLANISH_TRY(take_right,
                  reverse ? Less(meter, left[i].key, right[j].key) : Less(meter, right[j].key, left[i].key));
    }
    out = std::move(take_right ? right[j++] : left[i++]);
  }
  return {};
}

Result<std::vector<Keyed>> KeyedItems(Meter& meter, const Value& input, const Value* attribute,
                                      bool case_sensitive) {
  PLANISH_TRY(std::vector<Value> items, Iterate(meter, input));
  std::vector<Keyed> keyed;
  for (Value& item : items) {
    PLANISH_TRY(Value key, SortKey(meter, item, attribute, case_sensitive));
    keyed.push_back({std::move(key), std::move(item)});
  }
  return keyed;
}

Result<Value> ItemsOf(Meter& meter, std::vector<Keyed> keyed, List::Flavor flavor = List::Flavor::kList) {
  std::vector<Value> items;
  for (Keyed& one : keyed) items.push_back(std::move(one.item));
  return MakeList(meter, std::move(items), flavor);
}

Result<Value> Sort(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY(const Bound bound, args.Bind("sort", {"reverse", "case_sensitive", "attribute"}));
  PLANISH_TRY(const bool reverse, Flag(bound[0], false));
  PLANISH_TRY(const bool case_sensitive, Flag(bound[1], false));
  PLANISH_TRY(std::vector<Keyed> keyed, KeyedItems(meter, input, bound[2], case_sensitive));
  PLANISH_RETURN_IF_ERROR(SortKeyed(meter, keyed, reverse));
  return ItemsOf(meter, std::move(keyed));
}

Result<Value> DictSort(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY(const Bound bound, args.Bind("dictsort", {"case_sensitive", "by", "reverse"}));
  PLANISH_TRY(const bool case_sensitive, Flag(bound[0], false));
  PLANISH_TRY(const bool reverse, Flag(bound[2], false));
  bool by_value = false;
  if (bound[1] != nullptr) {
    const std::string* by = bound[1]->AsString();
    if (by == nullptr || (*by != "key" && *by != "value"))
      return InputError("dictsort: by: expected 'key' or 'value'");
    by_value = *by == "value";
  }
  PLANISH_RETURN_IF_ERROR(CheckDefined(input));
  const Dict* dict = input.AsDict();
  if (dict == nullptr)
    return InputError(fmt::format("dictsort: expected a dict, found a {}", TypeName(input)));
  std::vector<Keyed> keyed;
  for (const auto& [key, value] : dict->entries) {
    PLANISH_TRY(Value pair, MakeList(meter, {key, value}, List::Flavor::kTuple));
    PLANISH_TRY(Value order, SortKey(meter, by_value ? value : key, nullptr, case_sensitive));
    keyed.push_back({std::move(order), std::move(pair)});
  }
  PLANISH_RETURN_IF_ERROR(SortKeyed(meter, keyed, reverse));
  return ItemsOf(meter, std::move(keyed));
}

Result<Value> Unique(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY(const Bound bound, args.Bind("unique", {"case_sensitive", "attribute"}));
  PLANISH_TRY(const bool case_sensitive, Flag(bound[0], false));
  PLANISH_TRY(std::vector<Keyed> keyed, KeyedItems(meter, input, bound[1], case_sensitive));
  std::vector<Keyed> kept;
  for (Keyed& one : keyed) {
    const List* list = one.key.AsList();
    if (one.key.AsDict() != nullptr || (list != nullptr && list->flavor == List::Flavor::kList)) {
      return InputError(fmt::format("unique: a {} cannot be compared so", TypeName(one.key)));
    }
    bool seen = false;
    for (size_t i = 0; i < kept.size() && !seen; ++i) {
      PLANISH_TRY(seen, Equal(meter, kept[i].key, one.key));
    }
    if (!seen) kept.push_back(std::move(one));
  }
  return ItemsOf(meter, std::move(kept), List::Flavor::kGenerator);
}

template <bool kMax>
Result<Value> Extreme(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY(const Bound bound, args.Bind(kMax ? "max" : "min", {"case_sensitive", "attribute"}));
  PLANISH_TRY(const bool case_sensitive, Flag(bound[0], false));
  PLANISH_TRY(const std::vector<Keyed> keyed, KeyedItems(meter, input, bound[1], case_sensitive));
  if (keyed.empty()) return UndefinedBecause("No aggregated item, sequence was empty.");
  const Keyed* best = keyed.data();
  for (const Keyed& one : keyed) {
    PLANISH_TRY(const bool better, kMax ? Less(meter, best->key, one.key) : Less(meter, one.key, best->key));
    if (better) best = &one;
  }
  return best->item;
}

Result<Value> Sum(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY(const Bound bound, args.Bind("sum", {"attribute", "start"}));
  PLANISH_TRY(const std::vector<Value> items, Iterate(meter, input));
  Value total = bound[1] == nullptr ? Value(int64_t{0}) : *bound[1];
  for (const Value& item : items) {
    Value term = item;
    if (Given(bound[0])) {
      PLANISH_TRY(term, GetPath(meter, item, *bound[0]));
    }
    PLANISH_TRY(total, Arithmetic(meter, "+", total, term));
  }
  return total;
}

Result<Value> Trim(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY(const Bound bound, args.Bind("trim", {"chars"}));
  PLANISH_TRY(const std::string text, ToText(meter, input));
  if (!Given(bound[0])) return MakeString(meter, std::string(StripLeft(StripRight(text))), input.IsMarkup());
  const std::string* set = bound[0]->AsString();
  if (set == nullptr) return InputError("trim: chars: expected a string");
  PLANISH_RETURN_IF_ERROR(meter.Work(text.size() * (set->size() + 1)));
  return MakeString(meter, std::string(StripLeft(StripRight(text, *set), *set)), input.IsMarkup());
}

Result<Value> LengthOf(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY([[maybe_unused]] const Bound none, args.Bind("length", {}));
  PLANISH_RETURN_IF_ERROR(meter.Work(input.AsString() != nullptr ? input.AsString()->size() : 0));
  PLANISH_TRY(const int64_t length, Length(input));
  return Value(length);
}

Result<Value> Join(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY(const Bound bound, args.Bind("join", {"d", "attribute"}));
  std::string separator;
  if (bound[0] != nullptr) {
    PLANISH_TRY(separator, ToText(meter, *bound[0]));
  }
  PLANISH_TRY(const std::vector<Value> items, Iterate(meter, input));
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    Value item = items[i];
    if (Given(bound[1])) {
      PLANISH_TRY(item, GetPath(meter, item, *bound[1]));
    }
    PLANISH_TRY(const std::string text, ToText(meter, item));
    PLANISH_RETURN_IF_ERROR(meter.Memory(text.size() + separator.size()));
    if (i > 0) out += separator;
    out += text;
  }
  return MakeString(meter, std::move(out));
}

Result<Value> ToList(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY([[maybe_unused]] const Bound none, args.Bind("list", {}));
  PLANISH_TRY(std::vector<Value> items, Iterate(meter, input));
  return MakeList(meter, std::move(items));
}

Result<Value> First(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY([[maybe_unused]] const Bound none, args.Bind("first", {}));
  const List* list = input.AsList();
  if (list != nullptr && list->taken < list->items.size()) {
    const size_t at = list->taken;
    if (list->flavor == List::Flavor::kGenerator) ++list->taken;
    return list->items[at];
  }
  PLANISH_TRY(const std::vector<Value> items, Iterate(meter, input));
  if (items.empty()) return UndefinedBecause("No first item, sequence was empty.");
  return items.front();
}

Result<Value> Last(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY([[maybe_unused]] const Bound none, args.Bind("last", {}));
  const List* list = input.AsList();
  if (list != nullptr && list->flavor == List::Flavor::kGenerator) {
    return InputError("last: a generator has no last item: make it a list first (| list)");
  }
  PLANISH_TRY(const std::vector<Value> items, Iterate(meter, input));
  if (items.empty()) return UndefinedBecause("No last item, sequence was empty.");
  return items.back();
}

Result<Value> Reverse(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY([[maybe_unused]] const Bound none, args.Bind("reverse", {}));
  PLANISH_TRY(std::vector<Value> items, Iterate(meter, input));
  std::ranges::reverse(items);
  if (input.AsString() == nullptr) return MakeList(meter, std::move(items), List::Flavor::kGenerator);
  std::string out;
  for (const Value& item : items) out += *item.AsString();
  return MakeString(meter, std::move(out));
}

Result<Value> UpperCase(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY([[maybe_unused]] const Bound none, args.Bind("upper", {}));
  PLANISH_TRY(const std::string text, ToText(meter, input));
  PLANISH_TRY(std::string out, Upper(text));
  return MakeString(meter, std::move(out), input.IsMarkup());
}
Result<Value> LowerCase(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY([[maybe_unused]] const Bound none, args.Bind("lower", {}));
  PLANISH_TRY(const std::string text, ToText(meter, input));
  return MakeString(meter, Lower(text), input.IsMarkup());
}
Result<Value> CapitalCase(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY([[maybe_unused]] const Bound none, args.Bind("capitalize", {}));
  PLANISH_TRY(const std::string text, ToText(meter, input));
  PLANISH_TRY(std::string out, Capitalize(text));
  return MakeString(meter, std::move(out), input.IsMarkup());
}

// Unlike the method, words begin only behind white space, "-" and opening brackets.
Result<Value> TitleCase(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY([[maybe_unused]] const Bound none, args.Bind("title", {}));
  PLANISH_TRY(const std::string text, ToText(meter, input));
  std::string out, word;
  const auto finish = [&]() -> Status {
    PLANISH_TRY(const std::string cased, Capitalize(word));
    out += cased;
    word.clear();
    return {};
  };
  size_t length = 0;
  for (size_t at = 0; at < text.size(); at += length) {
    const uint32_t c = Utf8Decode(text.data() + at, &length);
    const bool between = IsSpace(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
    if (!between) {
      word.append(text, at, length);
      continue;
    }
    PLANISH_RETURN_IF_ERROR(finish());
    out.append(text, at, length);
  }
  PLANISH_RETURN_IF_ERROR(finish());
  return MakeString(meter, std::move(out));
}

Result<Value> Replace(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY(const Bound bound, args.Bind("replace", {"old", "new", "count"}, 2));
  if (input.IsMarkup()) return NotSupported("filter of text marked as safe:", "replace");
  Args texts;
  for (size_t i = 0; i < 2; ++i) {
    PLANISH_TRY(std::string text, ToText(meter, *bound[i]));
    PLANISH_TRY(Value value, MakeString(meter, std::move(text)));
    texts.positional.push_back(std::move(value));
  }
  if (Given(bound[2])) texts.positional.push_back(*bound[2]);
  PLANISH_TRY(std::string text, ToText(meter, input));
  PLANISH_TRY(const Value self, MakeString(meter, std::move(text)));
  return CallMethod(meter, self, "replace", texts);
}

Result<Value> Default(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY(const Bound bound, args.Bind("default", {"default_value", "boolean"}));
  PLANISH_TRY(const bool any_false, Flag(bound[1], false));
  PLANISH_TRY(const bool truth, Truth(input));
  if (!input.IsUndefined() && !(any_false && !truth)) return input;
  if (bound[0] == nullptr) return MakeString(meter, "");
  return *bound[0];
}

Result<Value> ToJson(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY(const Bound bound, args.Bind("tojson", {"ensure_ascii", "indent", "separators", "sort_keys"}));
  JsonStyle style;
  PLANISH_TRY(style.ensure_ascii, Flag(bound[0], false));
  PLANISH_TRY(style.sort_keys, Flag(bound[3], false));
  if (Given(bound[1])) {
    if (const std::string* text = bound[1]->AsString()) {
      style.indent = *text;
    } else {
      constexpr int64_t kMaxIndent = 100;
      PLANISH_TRY(const int64_t width, IntOf("tojson: indent", bound[1], 0));
      if (width > kMaxIndent)
        return InputError(fmt::format("tojson: indent: expected at most {}", kMaxIndent));
      style.indent = std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
    }
    style.item_separator.resize(1);  // no space at the end of a line
  }
  if (Given(bound[2])) {
    const List* pair = bound[2]->AsList();
    const bool two = pair != nullptr && pair->items.size() == 2 && pair->items[0].AsString() != nullptr &&
                     pair->items[1].AsString() != nullptr;
    if (!two) return InputError("tojson: separators: expected two strings");
    style.item_separator = *pair->items[0].AsString();
    style.key_separator = *pair->items[1].AsString();
  }
  PLANISH_TRY(std::string text, ToJsonText(meter, input, style));
  return MakeString(meter, std::move(text));
}

// Nothing of a value that is false, none for example.
Result<std::vector<Value>> IterateIfTrue(Meter& meter, const Value& input) {
  PLANISH_TRY(const bool any, Truth(input));
  if (!any) return std::vector<Value>();
  return Iterate(meter, input);
}

// map('filter', ...) or map(attribute='a', default=...).
Result<Value> Map(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY(const std::vector<Value> items, IterateIfTrue(meter, input));
  std::vector<Value> out;
  if (args.positional.empty()) {
    PLANISH_TRY(const Bound bound, args.Bind("map", {"", "attribute", "default"}));
    if (bound[1] == nullptr) return InputError("map: expected the name of a filter, or attribute=");
    for (const Value& item : items) {
      PLANISH_TRY(Value value, GetPath(meter, item, *bound[1]));
      out.push_back(value.IsUndefined() && bound[2] != nullptr ? *bound[2] : std::move(value));
    }
    return MakeList(meter, std::move(out), List::Flavor::kGenerator);
  }
  const std::string* name = args.positional[0].AsString();
  if (name == nullptr) return InputError("map: expected the name of a filter");
  PLANISH_TRY(const Filter* filter, FindFilter(*name));
  const Args rest{{args.positional.begin() + 1, args.positional.end()}, args.named};
  for (const Value& item : items) {
    PLANISH_TRY(Value value, filter->apply(meter, item, rest));
    out.push_back(std::move(value));
  }
  return MakeList(meter, std::move(out), List::Flavor::kGenerator);
}

// select, reject (kAttribute false) and selectattr, rejectattr.
template <bool kKeep, bool kAttribute>
Result<Value> Select(Meter& meter, const Value& input, const Args& args) {
  const std::string callee = std::string(kKeep ? "select" : "reject") + (kAttribute ? "attr" : "");
  constexpr size_t kTestAt = kAttribute ? 1 : 0;
  if (args.positional.size() < kTestAt) return InputError(callee + ": expected the name of an attribute");
  const Test* test = nullptr;
  Args rest{{}, args.named};
  if (args.positional.size() > kTestAt) {
    const std::string* name = args.positional[kTestAt].AsString();
    if (name == nullptr) return InputError(callee + ": expected the name of a test");
    PLANISH_TRY(test, FindTest(*name));
    rest.positional.assign(args.positional.begin() + kTestAt + 1, args.positional.end());
  }
  PLANISH_TRY(const std::vector<Value> items, IterateIfTrue(meter, input));
  std::vector<Value> out;
  for (const Value& item : items) {
    Value value = item;
    if (kAttribute) {
      PLANISH_TRY(value, GetPath(meter, item, args.positional[0]));
    }
    PLANISH_TRY(const bool holds, test == nullptr ? Truth(value) : test->apply(meter, value, rest));
    if (holds == kKeep) out.push_back(item);
  }
  return MakeList(meter, std::move(out), List::Flavor::kGenerator);
}

Result<Value> Items(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY([[maybe_unused]] const Bound none, args.Bind("items", {}));
  if (input.IsUndefined()) return MakeList(meter, {}, List::Flavor::kGenerator);
  if (input.AsDict() == nullptr)
    return InputError(fmt::format("items: expected a dict, found a {}", TypeName(input)));
  PLANISH_TRY(const Value pairs, CallMethod(meter, input, "items", {}));
  return MakeList(meter, pairs.AsList()->items, List::Flavor::kGenerator);
}

Result<Value> ToInt(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY(const Bound bound, args.Bind("int", {"default", "base"}));
  if (bound[1] != nullptr) return NotSupported("argument", "base of int");
  const Value fallback = bound[0] == nullptr ? Value(int64_t{0}) : *bound[0];
  PLANISH_RETURN_IF_ERROR(CheckDefined(input));
  PLANISH_RETURN_IF_ERROR(meter.Work());
  if (const auto integer = input.AsInt()) return Value(*integer);
  std::optional<double> number = input.AsNumber();
  if (const std::string* text = input.AsString()) {
    std::string_view digits = StripLeft(StripRight(*text));
    if (digits.starts_with('+')) digits.remove_prefix(1);
    int64_t integer = 0;
    const char* end = digits.data() + digits.size();
    const auto parsed = std::from_chars(digits.data(), end, integer);
    if (!digits.empty() && parsed.ec == std::errc() && parsed.ptr == end) return Value(integer);
    double value = 0;
    const auto as_double = std::from_chars(digits.data(), end, value);
    if (!digits.empty() && as_double.ec == std::errc() && as_double.ptr == end) number = value;
  }
  constexpr double kLimit = 9.2e18;
  if (!number || !(std::fabs(*number) < kLimit)) return fallback;
  return Value(static_cast<int64_t>(std::trunc(*number)));
}

Result<Value> ToFloat(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY(const Bound bound, args.Bind("float", {"default"}));
  PLANISH_RETURN_IF_ERROR(CheckDefined(input));
  PLANISH_RETURN_IF_ERROR(meter.Work());
  if (const auto number = input.AsNumber()) return Value(*number);
  if (const std::string* text = input.AsString()) {
    std::string_view digits = StripLeft(StripRight(*text));
    if (digits.starts_with('+')) digits.remove_prefix(1);
    double value = 0;
    const char* end = digits.data() + digits.size();
    const auto parsed = std::from_chars(digits.data(), end, value);
    if (!digits.empty() && parsed.ec == std::errc() && parsed.ptr == end) return Value(value);
  }
  return bound[0] == nullptr ? Value(0.0) : *bound[0];
}

Result<Value> ToStringFilter(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY([[maybe_unused]] const Bound none, args.Bind("string", {}));
  if (input.AsString() != nullptr) return input;
  PLANISH_TRY(std::string text, ToText(meter, input));
  return MakeString(meter, std::move(text));
}

Result<Value> Safe(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY([[maybe_unused]] const Bound none, args.Bind("safe", {}));
  PLANISH_TRY(std::string text, ToText(meter, input));
  return MakeString(meter, std::move(text), /*markup=*/true);
}

Result<Value> Escape(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY([[maybe_unused]] const Bound none, args.Bind("escape", {}));
  if (input.IsMarkup()) return input;
  PLANISH_TRY(const std::string text, ToText(meter, input));
  return MakeString(meter, EscapeHtml(text), /*markup=*/true);
}

Result<Value> Abs(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY([[maybe_unused]] const Bound none, args.Bind("abs", {}));
  PLANISH_RETURN_IF_ERROR(meter.Work());
  if (const auto integer = input.AsInt()) {
    const auto positive = *integer < 0 ? CheckedSub(int64_t{0}, *integer) : integer;
    if (!positive) return InputError("abs: the result exceeds 64 bits");
    return Value(*positive);
  }
  if (const double* number = input.As<double>()) return Value(std::fabs(*number));
  PLANISH_RETURN_IF_ERROR(CheckDefined(input));
  return InputError(fmt::format("abs: expected a number, found a {}", TypeName(input)));
}

// To the even neighbor at a tie, as Python's round; the nearest decimal is found through its digits.
Result<Value> Round(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY(const Bound bound, args.Bind("round", {"precision", "method"}));
  PLANISH_RETURN_IF_ERROR(meter.Work());
  PLANISH_TRY(const int64_t precision, IntOf("round", bound[0], 0));
  constexpr int64_t kMaxPrecision = 15;
  if (precision < 0 || precision > kMaxPrecision) {
    return InputError(
        fmt::format("round: expected a precision of 0 to {}, found {}", kMaxPrecision, precision));
  }
  std::string method = "common";
  if (bound[1] != nullptr) {
    PLANISH_TRY(method, ToText(meter, *bound[1]));
  }
  if (method != "common" && method != "ceil" && method != "floor") {
    return InputError(
        fmt::format("round: expected the method common, ceil or floor, found '{}'", Abbreviate(method)));
  }
  const auto number = input.AsNumber();
  if (!number) {
    PLANISH_RETURN_IF_ERROR(CheckDefined(input));
    return InputError(fmt::format("round: expected a number, found a {}", TypeName(input)));
  }
  if (method == "common") {
    if (const auto integer = input.AsInt()) return Value(*integer);
    if (!std::isfinite(*number)) return Value(*number);
    return Value(std::stod(fmt::format("{:.{}f}", *number, precision)));
  }
  const double scale = std::pow(10.0, static_cast<double>(precision));
  return Value((method == "ceil" ? std::ceil(*number * scale) : std::floor(*number * scale)) / scale);
}

Result<Value> Indent(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY(const Bound bound, args.Bind("indent", {"width", "first", "blank"}));
  PLANISH_TRY(const bool first, Flag(bound[1], false));
  PLANISH_TRY(const bool blank, Flag(bound[2], false));
  std::string indent(4, ' ');
  if (bound[0] != nullptr && bound[0]->AsString() != nullptr) {
    indent = *bound[0]->AsString();
  } else if (bound[0] != nullptr) {
    PLANISH_TRY(const int64_t width, IntOf("indent", bound[0], 4));
    constexpr int64_t kMaxWidth = 10'000;
    if (width > kMaxWidth)
      return InputError(fmt::format("indent: expected a width of at most {}", kMaxWidth));
    indent.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  PLANISH_RETURN_IF_ERROR(CheckDefined(input));
  if (input.AsString() == nullptr) {
    return InputError(fmt::format("indent: expected a string, found a {}", TypeName(input)));
  }
  PLANISH_TRY(std::string text, ToText(meter, input));
  text += '\n';
  std::string out;
  const auto lines = SplitLines(text);
  PLANISH_RETURN_IF_ERROR(meter.Memory(text.size() + lines.size() * indent.size()));
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += '\n';
    if (i == 0 ? first : blank || !lines[i].empty()) out += indent;
    out += lines[i];
  }
  return MakeString(meter, std::move(out));
}

Result<Value> Batch(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY(const Bound bound, args.Bind("batch", {"linecount", "fill_with"}, 1));
  PLANISH_TRY(const int64_t size, IntOf("batch", bound[0], 1));
  constexpr int64_t kMaxSize = 100'000;
  if (size < 1 || size > kMaxSize)
    return InputError(fmt::format("batch: expected 1 to {}, found {}", kMaxSize, size));
  PLANISH_TRY(std::vector<Value> items, Iterate(meter, input));
  std::vector<Value> out;
  for (size_t at = 0; at < items.size(); at += static_cast<size_t>(size)) {
    const size_t end = std::min(items.size(), at + static_cast<size_t>(size));
    std::vector<Value> part(items.begin() + static_cast<int64_t>(at),
                            items.begin() + static_cast<int64_t>(end));
    if (Given(bound[1])) part.resize(static_cast<size_t>(size), *bound[1]);
    PLANISH_TRY(Value list, MakeList(meter, std::move(part)));
    out.push_back(std::move(list));
  }
  return MakeList(meter, std::move(out), List::Flavor::kGenerator);
}

Result<Value> WordCount(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY([[maybe_unused]] const Bound none, args.Bind("wordcount", {}));
  PLANISH_TRY(const std::string text, ToText(meter, input));
  int64_t words = 0;
  bool in_word = false;
  size_t length = 0;
  for (size_t at = 0; at < text.size(); at += length) {
    const uint32_t c = Utf8Decode(text.data() + at, &length);
    const bool part = IsLetter(c) || (c >= '0' && c <= '9') || c == '_' ||
                      (c >= 0x80 && (CharClassTable::Get()[c] & kNumber) != 0);
    words += part && !in_word ? 1 : 0;
    in_word = part;
  }
  return Value(words);
}

Result<Value> Attr(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY(const Bound bound, args.Bind("attr", {"name"}, 1));
  const std::string* name = bound[0]->AsString();
  if (name == nullptr) return InputError("attr: expected a name");
  if (input.AsDict() != nullptr) return NotSupported("filter of dicts:", "attr");
  return GetAttribute(meter, input, *name);
}

Result<Value> FormatFilter(Meter& meter, const Value& input, const Args& args) {
  if (!args.named.empty()) return NotSupported("argument", "named ones of format");
  if (input.IsMarkup()) return NotSupported("filter of text marked as safe:", "format");
  PLANISH_TRY(const std::string format, ToText(meter, input));
  return FormatPercent(meter, format, args.positional);
}

constexpr Filter kFilters[] = {
    {"abs", Abs},
    {"attr", Attr},
    {"batch", Batch},
    {"capitalize", CapitalCase},
    {"count", LengthOf},
    {"d", Default},
    {"default", Default},
    {"dictsort", DictSort},
    {"e", Escape},
    {"escape", Escape},
    {"first", First},
    {"float", ToFloat},
    {"format", FormatFilter},
    {"indent", Indent},
    {"int", ToInt},
    {"items", Items},
    {"join", Join},
    {"last", Last},
    {"length", LengthOf},
    {"list", ToList},
    {"lower", LowerCase},
    {"map", Map},
    {"max", Extreme<true>},
    {"min", Extreme<false>},
    {"reject", Select<false, false>},
    {"rejectattr", Select<false, true>},
    {"replace", Replace},
    {"reverse", Reverse},
    {"round", Round},
    {"safe", Safe},
    {"select", Select<true, false>},
    {"selectattr", Select<true, true>},
    {"sort", Sort},
    {"string", ToStringFilter},
    {"sum", Sum},
    {"title", TitleCase},
    {"tojson", ToJson},
    {"trim", Trim},
    {"unique", Unique},
    {"upper", UpperCase},
    {"wordcount", WordCount},
};

constexpr std::string_view kLeftOut[] = {"center", "filesizeformat", "forceescape", "groupby",  "pprint",
                                         "random", "slice",          "striptags",   "truncate", "urlencode",
                                         "urlize", "wordwrap",       "xmlattr"};

}  // namespace

Result<std::vector<const Value*>> Args::Bind(std::string_view callee, const std::vector<const char*>& params,
                                             size_t required) const {
  if (positional.size() > params.size()) {
    return InputError(
        fmt::format("{}: expected at most {} arguments, found {}", callee, params.size(), positional.size()));
  }
  std::vector<const Value*> bound(params.size(), nullptr);
  for (size_t i = 0; i < positional.size(); ++i) bound[i] = &positional[i];
  for (const auto& [name, value] : named) {
    const auto it = std::ranges::find(params, std::string_view(name));
    if (it == params.end()) {
      return InputError(
          fmt::format("{}: found the argument '{}', which it does not have", callee, Abbreviate(name)));
    }
    const Value*& slot = bound[static_cast<size_t>(it - params.begin())];
    if (slot != nullptr) return InputError(fmt::format("{}: found the argument '{}' twice", callee, name));
    slot = &value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (bound[i] == nullptr)
      return InputError(fmt::format("{}: the argument '{}' is missing", callee, params[i]));
  }
  return bound;
}

Error NotSupported(std::string_view what, std::string_view name) {
  return InputError(
      fmt::format("{} '{}' is not supported (docs/chat.md lists what is)", what, Abbreviate(name, 60)));
}

Result<const Filter*> FindFilter(std::string_view name) {
  const auto it = std::ranges::find(kFilters, name, [](const Filter& f) { return std::string_view(f.name); });
  if (it != std::end(kFilters)) return &*it;
  if (std::ranges::find(kLeftOut, name) != std::end(kLeftOut)) return NotSupported("filter", name);
  std::vector<std::string> known;
  for (const Filter& filter : kFilters) known.emplace_back(filter.name);
  const std::string hint = DidYouMean(name, known);
  return InputError(
      fmt::format("there is no filter '{}'{}{}", Abbreviate(name, 60), hint.empty() ? "" : "; ", hint));
}

std::string EscapeHtml(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out.push_back(c);
    }
  }
  return out;
}

}  // namespace planish::jinja
