// Operators and times.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/checked.h"
#include "formats/template_eval.h"
#include "formats/template_filters.h"

namespace planish::jinja {
namespace {

Error Unsupported(const std::string& op, const Value& left, const Value& right) {
  return InputError(
      fmt::format("'{}': found a {} and a {}, which it does not join", op, TypeName(left), TypeName(right)));
}

Result<Value> Fits(std::optional<int64_t> value, const std::string& op) {
  if (!value) return InputError(fmt::format("the result of '{}' exceeds 64 bits", op));
  return Value(*value);
}

std::optional<int64_t> Power(int64_t base, int64_t exponent) {
  std::optional<int64_t> result = 1;
  while (exponent > 0 && result) {
    if (base == 0 || base == 1) return base;
    if (base == -1) return exponent % 2 == 0 ? 1 : -1;
    result = CheckedMul(*result, base);
    --exponent;
  }
  return result;
}

Result<Value> Integers(const std::string& op, int64_t a, int64_t b) {
  if (op == "+") return Fits(CheckedAdd(a, b), op);
  if (op == "-") return Fits(CheckedSub(a, b), op);
  if (op == "*") return Fits(CheckedMul(a, b), op);
  if (op == "**") {
    if (b < 0) return Value(std::pow(static_cast<double>(a), static_cast<double>(b)));
    return Fits(Power(a, b), op);
  }
  if (b == 0) return InputError(fmt::format("'{}': division by zero", op));
  if (op == "/") return Value(static_cast<double>(a) / static_cast<double>(b));
  if (b == -1) return op == "%" ? Value(int64_t{0}) : Fits(CheckedSub(int64_t{0}, a), op);
  // Python rounds down, C++ to zero.
  const int64_t rest = a % b;
  const bool adjust = rest != 0 && (rest < 0) != (b < 0);
  if (op == "%") return Value(adjust ? rest + b : rest);
  return Value(a / b - (adjust ? 1 : 0));
}

Result<Value> Floats(const std::string& op, double a, double b) {
  if (op == "+") return Value(a + b);
  if (op == "-") return Value(a - b);
  if (op == "*") return Value(a * b);
  if (op == "**") {
    const double power = std::pow(a, b);
    if (std::isnan(power) || std::isinf(power)) return InputError("'**': the result is not a number");
    return Value(power);
  }
  if (b == 0) return InputError(fmt::format("'{}': division by zero", op));
  if (op == "/") return Value(a / b);
  double rest = std::fmod(a, b);
  if (rest != 0 && (rest < 0) != (b < 0)) rest += b;
  if (op == "%") return Value(rest);
  return Value(std::round((a - rest) / b));
}

Result<Value> JoinText(Meter& meter, const Value& left, const Value& right) {
  const bool markup = left.IsMarkup() || right.IsMarkup();
  const auto part = [&](const Value& value) {
    return markup && !value.IsMarkup() ? EscapeHtml(*value.AsString()) : *value.AsString();
  };
  PLANISH_RETURN_IF_ERROR(meter.Memory(left.AsString()->size() + right.AsString()->size()));
  return MakeString(meter, part(left) + part(right), markup);
}

Result<Value> Repeat(Meter& meter, const Value& value, int64_t times) {
  const std::string* text = value.AsString();
  const List* list = value.AsList();
  const size_t size = text != nullptr ? text->size() : list->items.size() * sizeof(Value);
  const auto count = static_cast<size_t>(std::max<int64_t>(times, 0));
  const auto total = CheckedMul(std::max<size_t>(size, 1), count);
  if (!total || *total > static_cast<size_t>(meter.limits().memory_bytes)) {
    return InputError(
        fmt::format("'*': the result exceeds {} bytes, the limit", meter.limits().memory_bytes));
  }
  PLANISH_RETURN_IF_ERROR(meter.Memory(*total));
  if (text != nullptr) {
    std::string out;
    for (size_t i = 0; i < count; ++i) out += *text;
    return MakeString(meter, std::move(out), value.IsMarkup());
  }
  std::vector<Value> items;
  for (size_t i = 0; i < count; ++i) items.insert(items.end(), list->items.begin(), list->items.end());
  return MakeList(meter, std::move(items), list->flavor);
}

bool Repeats(const Value& value) {
  return value.AsString() != nullptr ||
         (value.AsList() != nullptr && value.AsList()->flavor <= List::Flavor::kTuple);
}

}  // namespace

Result<Value> Arithmetic(Meter& meter, const std::string& op, const Value& left, const Value& right) {
  const std::string* text = left.AsString();
  if (op == "%" && text != nullptr) {
    if (left.IsMarkup()) return NotSupported("operator of text marked as safe:", op);
    const List* list = right.AsList();
    const bool tuple = list != nullptr && list->flavor == List::Flavor::kTuple;
    // What could be indexed by "%(name)s" may stay unused.
    const bool may_be_left = right.AsDict() != nullptr || right.IsUndefined() || (list != nullptr && !tuple);
    return FormatPercent(meter, *text, tuple ? list->items : std::vector<Value>{right}, may_be_left);
  }
  PLANISH_RETURN_IF_ERROR(CheckDefined(left));
  PLANISH_RETURN_IF_ERROR(CheckDefined(right));
  const auto a = left.AsInt(), b = right.AsInt();
  if (a && b) return Integers(op, *a, *b);
  const auto x = left.AsNumber(), y = right.AsNumber();
  if (x && y) return Floats(op, *x, *y);
  if (op == "+") {
    if (text != nullptr && right.AsString() != nullptr) return JoinText(meter, left, right);
    const List *first = left.AsList(), *second = right.AsList();
    if (Repeats(left) && Repeats(right) && first != nullptr && second != nullptr &&
        first->flavor == second->flavor) {
      std::vector<Value> items = first->items;
      items.insert(items.end(), second->items.begin(), second->items.end());
      return MakeList(meter, std::move(items), first->flavor);
    }
  }
  if (op == "*" && Repeats(left) && b) return Repeat(meter, left, *b);
  if (op == "*" && Repeats(right) && a) return Repeat(meter, right, *a);
  return Unsupported(op, left, right);
}

Result<std::string> FormatTemplateTime(const TemplateTime& time, std::string_view format) {
  static constexpr std::array kMonths = {"January",   "February", "March",    "April",
                                         "May",       "June",     "July",     "August",
                                         "September", "October",  "November", "December"};
  static constexpr std::array kDays = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                       "Thursday", "Friday", "Saturday"};
  static constexpr std::array kBefore = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
  const bool valid = time.year >= 1 && time.year <= 9999 && time.month >= 1 && time.month <= 12 &&
                     time.day >= 1 && time.day <= 31 && time.hour >= 0 && time.hour < 24 &&
                     time.minute >= 0 && time.minute < 60 && time.second >= 0 && time.second <= 61;
  if (!valid) return InputError("strftime_now: the time given is none");
  const auto month = static_cast<size_t>(time.month - 1);
  const bool leap = (time.year % 4 == 0 && time.year % 100 != 0) || time.year % 400 == 0;
  const int day_of_year = kBefore[month] + time.day + (leap && time.month > 2 ? 1 : 0);
  const int years = time.year - 1;
  const auto weekday =
      static_cast<size_t>((years * 365 + years / 4 - years / 100 + years / 400 + day_of_year) % 7);
  const int hour12 = time.hour % 12 == 0 ? 12 : time.hour % 12;
  std::string out;
  for (size_t at = 0; at < format.size(); ++at) {
    if (format[at] != '%') {
      out.push_back(format[at]);
      continue;
    }
    ++at;
    const bool bare = at < format.size() && format[at] == '-';  // without leading zeros
    if (bare) ++at;
    const char directive = at < format.size() ? format[at] : '\0';
    const auto number = [&](int value, int width) { out += fmt::format("{:0{}}", value, bare ? 1 : width); };
    switch (directive) {
      case 'Y':
        number(time.year, 4);
        break;
      case 'y':
        number(time.year % 100, 2);
        break;
      case 'm':
        number(time.month, 2);
        break;
      case 'd':
        number(time.day, 2);
        break;
      case 'e':
        out += fmt::format("{:{}}", time.day, bare ? 1 : 2);
        break;
      case 'H':
        number(time.hour, 2);
        break;
      case 'I':
        number(hour12, 2);
        break;
      case 'M':
        number(time.minute, 2);
        break;
      case 'S':
        number(time.second, 2);
        break;
      case 'j':
        number(day_of_year, 3);
        break;
      case 'w':
        number(static_cast<int>(weekday), 1);
        break;
      case 'B':
        out += kMonths[month];
        break;
      case 'b':
      case 'h':
        out += std::string_view(kMonths[month]).substr(0, 3);
        break;
      case 'A':
        out += kDays[weekday];
        break;
      case 'a':
        out += std::string_view(kDays[weekday]).substr(0, 3);
        break;
      case 'p':
        out += time.hour < 12 ? "AM" : "PM";
        break;
      case 'F':
        out += fmt::format("{:04}-{:02}-{:02}", time.year, time.month, time.day);
        break;
      case 'T':
        out += fmt::format("{:02}:{:02}:{:02}", time.hour, time.minute, time.second);
        break;
      case 'D':
        out += fmt::format("{:02}/{:02}/{:02}", time.month, time.day, time.year % 100);
        break;
      case '%':
        out.push_back('%');
        break;
      default:
        return NotSupported("directive of strftime_now",
                            directive == '\0' ? "%" : std::string("%") + directive);
    }
  }
  return out;
}

}  // namespace planish::jinja
