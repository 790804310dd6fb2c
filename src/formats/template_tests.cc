// The tests behind `is`, and Python's "%" of strings.
#include <fmt/format.h>
#include <fmt/printf.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "base/names.h"
#include "formats/template_access.h"
#include "formats/template_filters.h"
#include "formats/template_text.h"

namespace planish::jinja {
namespace {

Status NoArguments(const Args& args) {
  PLANISH_TRY([[maybe_unused]] const auto none, args.Bind("the test", {}));
  return {};
}
Result<const Value*> OneArgument(const Args& args) {
  PLANISH_TRY(const auto bound, args.Bind("the test", {"other"}, 1));
  return bound[0];
}

// A test of the value alone.
template <bool (*kHolds)(const Value&)>
Result<bool> Simple(Meter&, const Value& input, const Args& args) {
  PLANISH_RETURN_IF_ERROR(NoArguments(args));
  return kHolds(input);
}
bool IsDefined(const Value& v) { return !v.IsUndefined(); }
bool IsUndefinedTest(const Value& v) { return v.IsUndefined(); }
bool IsNoneTest(const Value& v) { return v.IsNone(); }
bool IsBoolean(const Value& v) { return v.As<bool>() != nullptr; }
bool IsTrue(const Value& v) { return IsBoolean(v) && *v.As<bool>(); }
bool IsFalse(const Value& v) { return IsBoolean(v) && !*v.As<bool>(); }
bool IsInteger(const Value& v) { return v.As<int64_t>() != nullptr; }
bool IsFloat(const Value& v) { return v.As<double>() != nullptr; }
bool IsNumber(const Value& v) { return v.AsNumber().has_value(); }
bool IsString(const Value& v) { return v.AsString() != nullptr; }
bool IsMapping(const Value& v) { return v.AsDict() != nullptr; }
bool IsIterable(const Value& v) {
  return v.IsUndefined() || v.AsString() != nullptr || v.AsDict() != nullptr || v.AsList() != nullptr;
}
bool IsSequence(const Value& v) {
  if (v.IsUndefined() || v.AsString() != nullptr || v.AsDict() != nullptr) return true;
  return v.AsList() != nullptr && v.AsList()->flavor <= List::Flavor::kRange;
}
bool IsCallable(const Value& v) { return v.As<Callable>() != nullptr || v.IsUndefined(); }
bool IsEscaped(const Value& v) { return v.IsMarkup(); }

template <bool kUpper>
Result<bool> IsCase(Meter& meter, const Value& input, const Args& args) {
  PLANISH_RETURN_IF_ERROR(NoArguments(args));
  PLANISH_TRY(std::string text, ToText(meter, input));
  PLANISH_TRY(const Value self, MakeString(meter, std::move(text)));
  PLANISH_TRY(const Value holds, CallMethod(meter, self, kUpper ? "isupper" : "islower", {}));
  return Truth(holds);
}

Result<int64_t> IntegerFor(std::string_view test, const Value& value) {
  if (const auto integer = value.AsInt()) return *integer;
  PLANISH_RETURN_IF_ERROR(CheckDefined(value));
  return InputError(fmt::format("is {}: expected an integer, found a {}", test, TypeName(value)));
}
template <bool kOdd>
Result<bool> IsOdd(Meter&, const Value& input, const Args& args) {
  PLANISH_RETURN_IF_ERROR(NoArguments(args));
  if (const double* number = input.As<double>()) {
    return std::fmod(std::fabs(*number), 2) == (kOdd ? 1 : 0);
  }
  PLANISH_TRY(const int64_t value, IntegerFor(kOdd ? "odd" : "even", input));
  return (value % 2 != 0) == kOdd;
}
Result<bool> DivisibleBy(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY(const Value* other, OneArgument(args));
  if (input.AsNumber() && other->AsNumber()) {
    PLANISH_TRY(const Value rest, Arithmetic(meter, "%", input, *other));
    return *rest.AsNumber() == 0;
  }
  PLANISH_TRY([[maybe_unused]] const int64_t value, IntegerFor("divisibleby", input));
  PLANISH_TRY([[maybe_unused]] const int64_t divisor, IntegerFor("divisibleby", *other));
  return false;
}

Result<bool> IsEqual(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY(const Value* other, OneArgument(args));
  return Equal(meter, input, *other);
}
Result<bool> IsUnequal(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY(const bool equal, IsEqual(meter, input, args));
  return !equal;
}
Result<bool> IsLess(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY(const Value* other, OneArgument(args));
  return Less(meter, input, *other, "<");
}
Result<bool> IsGreater(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY(const Value* other, OneArgument(args));
  return Less(meter, *other, input, ">");
}
Result<bool> IsAtMost(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY(const bool equal, IsEqual(meter, input, args));
  if (equal) return true;
  return IsLess(meter, input, args);
}
Result<bool> IsAtLeast(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY(const bool equal, IsEqual(meter, input, args));
  if (equal) return true;
  return IsGreater(meter, input, args);
}
Result<bool> IsIn(Meter& meter, const Value& input, const Args& args) {
  PLANISH_TRY(const Value* other, OneArgument(args));
  return Contains(meter, *other, input);
}
// Identity: of what has one value only. Equal strings and numbers may or may not be one object in Python.
Result<bool> SameAs(Meter&, const Value& input, const Args& args) {
  PLANISH_TRY(const Value* other, OneArgument(args));
  const auto single = [](const Value& v) { return v.IsNone() || IsBoolean(v); };
  if (single(input) || single(*other)) {
    if (input.IsNone() || other->IsNone()) return input.IsNone() && other->IsNone();
    return IsBoolean(input) && IsBoolean(*other) && IsTrue(input) == IsTrue(*other);
  }
  return NotSupported("test of values that are neither none nor a truth value:", "sameas");
}

template <bool kFilter>
Result<bool> IsNamed(Meter&, const Value& input, const Args& args) {
  PLANISH_RETURN_IF_ERROR(NoArguments(args));
  const std::string* name = input.AsString();
  if (name == nullptr) return false;
  return kFilter ? FindFilter(*name).ok() : FindTest(*name).ok();
}

constexpr Test kTests[] = {
    {"!=", IsUnequal},
    {"<", IsLess},
    {"<=", IsAtMost},
    {"==", IsEqual},
    {">", IsGreater},
    {">=", IsAtLeast},
    {"boolean", Simple<IsBoolean>},
    {"callable", Simple<IsCallable>},
    {"defined", Simple<IsDefined>},
    {"divisibleby", DivisibleBy},
    {"eq", IsEqual},
    {"equalto", IsEqual},
    {"escaped", Simple<IsEscaped>},
    {"even", IsOdd<false>},
    {"false", Simple<IsFalse>},
    {"filter", IsNamed<true>},
    {"float", Simple<IsFloat>},
    {"ge", IsAtLeast},
    {"greaterthan", IsGreater},
    {"gt", IsGreater},
    {"in", IsIn},
    {"integer", Simple<IsInteger>},
    {"iterable", Simple<IsIterable>},
    {"le", IsAtMost},
    {"lessthan", IsLess},
    {"lower", IsCase<false>},
    {"lt", IsLess},
    {"mapping", Simple<IsMapping>},
    {"ne", IsUnequal},
    {"none", Simple<IsNoneTest>},
    {"number", Simple<IsNumber>},
    {"odd", IsOdd<true>},
    {"sameas", SameAs},
    {"sequence", Simple<IsSequence>},
    {"string", Simple<IsString>},
    {"test", IsNamed<false>},
    {"true", Simple<IsTrue>},
    {"undefined", Simple<IsUndefinedTest>},
    {"upper", IsCase<true>},
};

// One conversion of a format: "%-5.2f" without the percent sign is flags "-", width 5, precision 2, kind 'f'.
struct Conversion {
  std::string flags;
  int width = 0;
  int precision = -1;
  char kind = 's';
};

Result<Conversion> ReadConversion(const std::string& format, size_t& at) {
  constexpr int kMaxWidth = 1000;
  Conversion conversion;
  const auto number = [&](int& out) {
    out = 0;
    while (at < format.size() && format[at] >= '0' && format[at] <= '9' && out <= kMaxWidth) {
      out = out * 10 + (format[at++] - '0');
    }
  };
  while (at < format.size() && std::string_view("-+ 0#").find(format[at]) != std::string_view::npos) {
    conversion.flags += format[at++];
    if (conversion.flags.size() > 5) return InputError("format: too many flags");
  }
  number(conversion.width);
  if (at < format.size() && format[at] == '.') {
    ++at;
    number(conversion.precision);
  }
  if (at >= format.size()) return InputError("format: the text ends within a conversion");
  if (conversion.width > kMaxWidth || conversion.precision > kMaxWidth) {
    return InputError(fmt::format("format: expected a width of at most {}", kMaxWidth));
  }
  conversion.kind = format[at++];
  if (std::string_view("srdifFeEgGxXo%").find(conversion.kind) == std::string_view::npos) {
    return NotSupported("conversion", std::string("%") + conversion.kind);
  }
  return conversion;
}

Result<std::string> Convert(Meter& meter, const Conversion& conversion, const Value& value) {
  const std::string width = conversion.width > 0 ? fmt::format("{}", conversion.width) : "";
  const std::string precision = conversion.precision >= 0 ? fmt::format(".{}", conversion.precision) : "";
  const std::string start = "%" + conversion.flags + width + precision;
  if (conversion.kind == 's' || conversion.kind == 'r') {
    PLANISH_TRY(std::string text, conversion.kind == 's' ? ToText(meter, value) : ToRepr(meter, value));
    if (conversion.width == 0 && conversion.precision < 0) return text;
    std::vector<size_t> offsets = CharacterOffsets(text);
    const auto keep = static_cast<size_t>(std::max(conversion.precision, 0));
    if (conversion.precision >= 0 && keep + 1 < offsets.size()) {
      text.resize(offsets[keep]);
      offsets.resize(keep + 1);
    }
    const auto wide = static_cast<size_t>(conversion.width);
    if (offsets.size() > wide) return text;
    const std::string fill(wide + 1 - offsets.size(), ' ');
    return conversion.flags.find('-') != std::string::npos ? text + fill : fill + text;
  }
  const auto number = value.AsNumber();
  if (!number) {
    PLANISH_RETURN_IF_ERROR(CheckDefined(value));
    return InputError(
        fmt::format("format: %{} expects a number, found a {}", conversion.kind, TypeName(value)));
  }
  if (std::string_view("fFeEgG").find(conversion.kind) != std::string_view::npos) {
    return fmt::sprintf(start + conversion.kind, *number);
  }
  constexpr double kLimit = 9.2e18;
  if (!(std::abs(*number) < kLimit) || (conversion.kind != 'd' && conversion.kind != 'i' && !value.AsInt())) {
    return InputError(fmt::format("format: %{} expects an integer", conversion.kind));
  }
  const int64_t integer = value.AsInt() ? *value.AsInt() : static_cast<int64_t>(*number);
  if (conversion.kind == 'd' || conversion.kind == 'i') return fmt::sprintf(start + "d", integer);
  if (integer < 0 || conversion.flags.find('#') != std::string::npos) {
    return NotSupported("conversion", fmt::format("%{} of this value", conversion.kind));
  }
  return fmt::sprintf(start + conversion.kind, static_cast<uint64_t>(integer));
}

}  // namespace

Result<const Test*> FindTest(std::string_view name) {
  const auto it = std::ranges::find(kTests, name, [](const Test& t) { return std::string_view(t.name); });
  if (it != std::end(kTests)) return &*it;
  std::vector<std::string> known;
  for (const Test& test : kTests) known.emplace_back(test.name);
  const std::string hint = DidYouMean(name, known);
  return InputError(
      fmt::format("there is no test '{}'{}{}", Abbreviate(name, 60), hint.empty() ? "" : "; ", hint));
}

Result<Value> FormatPercent(Meter& meter, const std::string& format, const std::vector<Value>& values,
                            bool may_be_left) {
  std::string out;
  size_t used = 0;
  for (size_t at = 0; at < format.size();) {
    if (format[at] != '%') {
      out.push_back(format[at++]);
      continue;
    }
    ++at;
    PLANISH_TRY(const Conversion conversion, ReadConversion(format, at));
    if (conversion.kind == '%') {
      out.push_back('%');
      continue;
    }
    if (used == values.size()) return InputError("format: there are fewer values than conversions");
    PLANISH_TRY(const std::string text, Convert(meter, conversion, values[used++]));
    PLANISH_RETURN_IF_ERROR(meter.Memory(text.size()));
    out += text;
  }
  if (used != values.size() && !may_be_left)
    return InputError("format: there are more values than conversions");
  return MakeString(meter, std::move(out));
}

}  // namespace planish::jinja
