// Methods of str, dict, list and of the variable `loop`.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "base/names.h"
#include "formats/template_access.h"
#include "formats/template_text.h"
#include "formats/tokenizer_unicode.h"

namespace planish::jinja {
namespace {

using Bound = std::vector<const Value*>;

Result<std::string> StringArgument(std::string_view callee, const Value& value) {
  if (const std::string* text = value.AsString()) return *text;
  PLANISH_RETURN_IF_ERROR(CheckDefined(value));
  return InputError(fmt::format("{}: expected a string, found a value of type {}", callee, TypeName(value)));
}
Result<int64_t> IntArgument(std::string_view callee, const Value* value, int64_t fallback) {
  if (value == nullptr) return fallback;
  if (const auto integer = value->AsInt()) return *integer;
  PLANISH_RETURN_IF_ERROR(CheckDefined(*value));
  return InputError(
      fmt::format("{}: expected an integer, found a value of type {}", callee, TypeName(*value)));
}
Status NotEmpty(std::string_view callee, std::string_view separator) {
  if (separator.empty()) return InputError(fmt::format("{}: found an empty separator", callee));
  return {};
}

Result<Value> StringList(Meter& meter, const std::vector<std::string_view>& parts,
                         List::Flavor flavor = List::Flavor::kList) {
  std::vector<Value> items;
  for (const std::string_view part : parts) {
    PLANISH_TRY(Value item, MakeString(meter, std::string(part)));
    items.push_back(std::move(item));
  }
  return MakeList(meter, std::move(items), flavor);
}

enum class Side : uint8_t { kLeft, kRight, kBoth };

Result<Value> Strip(Meter& meter, std::string_view name, const std::string& text, const Args& args,
                    Side side) {
  PLANISH_TRY(const Bound bound, args.Bind(name, {"chars"}));
  std::string_view rest = text;
  std::string set;
  const bool has_set = bound[0] != nullptr && !bound[0]->IsNone();
  if (has_set) {
    PLANISH_TRY(set, StringArgument(name, *bound[0]));
    PLANISH_RETURN_IF_ERROR(meter.Work(text.size() * (set.size() + 1)));
  }
  if (side != Side::kRight) rest = has_set ? StripLeft(rest, set) : StripLeft(rest);
  if (side != Side::kLeft) rest = has_set ? StripRight(rest, set) : StripRight(rest);
  return MakeString(meter, std::string(rest));
}

std::vector<std::string_view> SplitSpace(std::string_view text, int64_t limit) {
  std::vector<std::string_view> parts;
  for (text = StripLeft(text); !text.empty(); text = StripLeft(text)) {
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.push_back(StripRight(text));
      break;
    }
    size_t end = 0, length = 0;
    while (end < text.size() && !IsSpace(Utf8Decode(text.data() + end, &length))) end += length;
    parts.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  return parts;
}

std::vector<std::string_view> SplitFromLeft(std::string_view text, std::string_view separator,
                                            int64_t limit) {
  std::vector<std::string_view> parts;
  size_t start = 0;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t found = text.find(separator, start);
    if (found == text.npos) break;
    parts.push_back(text.substr(start, found - start));
    start = found + separator.size();
  }
  parts.push_back(text.substr(start));
  return parts;
}

std::vector<std::string_view> SplitFromRight(std::string_view text, std::string_view separator,
                                             int64_t limit) {
  std::vector<std::string_view> parts;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t found = text.size() < separator.size() ? text.npos : text.rfind(separator);
    if (found == text.npos) break;
    parts.push_back(text.substr(found + separator.size()));
    text = text.substr(0, found);
  }
  parts.push_back(text);
  std::ranges::reverse(parts);
  return parts;
}

Result<Value> Split(Meter& meter, std::string_view name, const std::string& text, const Args& args) {
  PLANISH_TRY(const Bound bound, args.Bind(name, {"sep", "maxsplit"}));
  PLANISH_TRY(const int64_t limit, IntArgument(name, bound[1], -1));
  PLANISH_RETURN_IF_ERROR(meter.Work(text.size()));
  const bool from_right = name == "rsplit";
  if (bound[0] == nullptr || bound[0]->IsNone()) {
    if (from_right && limit >= 0) return NotSupported("method", "rsplit with a limit and no separator");
    return StringList(meter, SplitSpace(text, limit));
  }
  PLANISH_TRY(const std::string separator, StringArgument(name, *bound[0]));
  PLANISH_RETURN_IF_ERROR(NotEmpty(name, separator));
  return StringList(
      meter, from_right ? SplitFromRight(text, separator, limit) : SplitFromLeft(text, separator, limit));
}

Result<Value> Partition(Meter& meter, std::string_view name, const std::string& text, const Args& args) {
  PLANISH_TRY(const Bound bound, args.Bind(name, {"sep"}, 1));
  PLANISH_TRY(const std::string separator, StringArgument(name, *bound[0]));
  PLANISH_RETURN_IF_ERROR(NotEmpty(name, separator));
  const bool right = name == "rpartition";
  const size_t at = right ? text.rfind(separator) : text.find(separator);
  const std::string_view all = text;
  if (at == text.npos) {
    return StringList(meter,
                      right ? std::vector<std::string_view>{"", "", all}
                            : std::vector{all, all.substr(0, 0), all.substr(0, 0)},
                      List::Flavor::kTuple);
  }
  return StringList(meter, {all.substr(0, at), separator, all.substr(at + separator.size())},
                    List::Flavor::kTuple);
}

// startswith and endswith: a string, or any of a tuple.
Result<Value> Affix(std::string_view name, const std::string& text, const Args& args) {
  PLANISH_TRY(const Bound bound, args.Bind(name, {"prefix", "start", "end"}, 1));
  if (bound[1] != nullptr || bound[2] != nullptr)
    return NotSupported("method", std::string(name) + " with a range");
  const auto matches = [&](const std::string& affix) {
    return name == "startswith" ? text.starts_with(affix) : text.ends_with(affix);
  };
  const List* list = bound[0]->AsList();
  if (list == nullptr || list->flavor != List::Flavor::kTuple) {
    PLANISH_TRY(const std::string affix, StringArgument(name, *bound[0]));
    return Value(matches(affix));
  }
  for (const Value& item : list->items) {
    PLANISH_TRY(const std::string affix, StringArgument(name, item));
    if (matches(affix)) return Value(true);
  }
  return Value(false);
}

// `count` matches at most, negative: all. An empty pattern stands between all characters.
Result<std::string> ReplaceAll(Meter& meter, const std::string& text, const std::string& from,
                               const std::string& to, int64_t count) {
  PLANISH_RETURN_IF_ERROR(meter.Work(text.size()));
  std::string out;
  size_t at = 0;
  int64_t done = 0;
  while (count < 0 || done < count) {
    const size_t found = from.empty() ? at : text.find(from, at);
    if (found == text.npos) break;
    PLANISH_RETURN_IF_ERROR(meter.Memory(found - at + to.size()));
    out.append(text, at, found - at);
    out += to;
    ++done;
    at = found + from.size();
    if (!from.empty()) continue;
    if (at == text.size()) return out;
    const size_t length = Utf8Length(text[at]);
    out.append(text, at, length);
    at += length;
  }
  return out.append(text, std::min(at, text.size()));
}

Result<Value> Replace(Meter& meter, const std::string& text, const Args& args) {
  PLANISH_TRY(const Bound bound, args.Bind("replace", {"old", "new", "count"}, 2));
  PLANISH_TRY(const std::string from, StringArgument("replace", *bound[0]));
  PLANISH_TRY(const std::string to, StringArgument("replace", *bound[1]));
  PLANISH_TRY(const int64_t count, IntArgument("replace", bound[2], -1));
  PLANISH_TRY(std::string out, ReplaceAll(meter, text, from, to, count));
  return MakeString(meter, std::move(out));
}

Result<Value> Search(Meter& meter, std::string_view name, const std::string& text, const Args& args) {
  PLANISH_TRY(const Bound bound, args.Bind(name, {"sub", "start", "end"}, 1));
  if (bound[1] != nullptr || bound[2] != nullptr)
    return NotSupported("method", std::string(name) + " with a range");
  PLANISH_TRY(const std::string part, StringArgument(name, *bound[0]));
  PLANISH_RETURN_IF_ERROR(meter.Work(text.size()));
  if (name == "count") {
    if (part.empty()) return Value(static_cast<int64_t>(CountCharacters(text)) + 1);
    return Value(static_cast<int64_t>(SplitFromLeft(text, part, -1).size()) - 1);
  }
  const size_t at = name.starts_with('r') ? text.rfind(part) : text.find(part);
  if (at != text.npos)
    return Value(static_cast<int64_t>(CountCharacters(std::string_view(text).substr(0, at))));
  if (name.ends_with("find")) return Value(int64_t{-1});
  return InputError(fmt::format("{}: the string does not hold '{}'", name, Abbreviate(part, 40)));
}

Result<Value> JoinStrings(Meter& meter, const std::string& separator, const Args& args) {
  PLANISH_TRY(const Bound bound, args.Bind("join", {"iterable"}, 1));
  PLANISH_TRY(const std::vector<Value> items, Iterate(meter, *bound[0]));
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    PLANISH_TRY(const std::string text, StringArgument("join", items[i]));
    PLANISH_RETURN_IF_ERROR(meter.Memory(separator.size() + text.size()));
    if (i > 0) out += separator;
    out += text;
  }
  return MakeString(meter, std::move(out));
}

// ljust, rjust, center, zfill.
Result<Value> Pad(Meter& meter, std::string_view name, const std::string& text, const Args& args) {
  PLANISH_TRY(const Bound bound, args.Bind(name, {"width", "fillchar"}, 1));
  PLANISH_TRY(const int64_t width, IntArgument(name, bound[0], 0));
  std::string fill = name == "zfill" ? "0" : " ";
  if (bound[1] != nullptr) {
    PLANISH_TRY(fill, StringArgument(name, *bound[1]));
    if (name == "zfill" || CountCharacters(fill) != 1) {
      return InputError(fmt::format("{}: expected one character to fill with", name));
    }
  }
  const int64_t missing = width - static_cast<int64_t>(CountCharacters(text));
  if (missing <= 0) return MakeString(meter, text);
  if (missing > meter.limits().memory_bytes) return InputError(fmt::format("{}: a width of {}", name, width));
  PLANISH_RETURN_IF_ERROR(meter.Memory(static_cast<size_t>(missing) * fill.size()));
  // Python puts the odd one left when the width is odd.
  const int64_t left = name == "ljust" ? 0 : name == "center" ? missing / 2 + (missing & width & 1) : missing;
  std::string before, after;
  for (int64_t i = 0; i < left; ++i) before += fill;
  for (int64_t i = left; i < missing; ++i) after += fill;
  const bool sign = name == "zfill" && !text.empty() && (text[0] == '-' || text[0] == '+');
  return MakeString(meter, sign ? text.substr(0, 1) + before + text.substr(1) : before + text + after);
}

Result<Value> IsKind(std::string_view name, const std::string& text, const Args& args) {
  PLANISH_TRY([[maybe_unused]] const Bound none, args.Bind(name, {}));
  bool all = !text.empty(), upper = false, lower = false;
  size_t length = 0;
  for (size_t at = 0; at < text.size(); at += length) {
    const uint32_t c = Utf8Decode(text.data() + at, &length);
    const bool digit = c >= '0' && c <= '9';
    if (c >= 0x80 && name != "isspace" && name != "isalpha") {
      return NotSupported("method", std::string(name) + " of characters outside ASCII");
    }
    upper |= c >= 'A' && c <= 'Z';
    lower |= c >= 'a' && c <= 'z';
    if (name == "isspace") all &= IsSpace(c);
    if (name == "isalpha") all &= IsLetter(c);
    if (name == "isalnum") all &= IsLetter(c) || digit;
    if (name == "isdigit" || name == "isdecimal" || name == "isnumeric") all &= digit;
  }
  if (name == "isupper") return Value(upper && !lower);
  if (name == "islower") return Value(lower && !upper);
  return Value(all);
}

// "{} {0} {name}".format(...): plain fields only.
Result<Value> Format(Meter& meter, const std::string& text, const Args& args) {
  std::string out;
  size_t automatic = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    const bool doubled = at + 1 < text.size() && text[at + 1] == c;
    if ((c != '{' && c != '}') || doubled) {
      out.push_back(c);
      if (c == '{' || c == '}') ++at;
      continue;
    }
    const size_t end = text.find('}', at);
    if (c == '}' || end == text.npos) return InputError("format: found a single brace");
    const std::string field = text.substr(at + 1, end - at - 1);
    at = end;
    const Value* value = nullptr;
    if (field.find_first_of("!:.[{") != field.npos) return NotSupported("format field", "{" + field + "}");
    const bool number = field.find_first_not_of("0123456789") == field.npos && field.size() < 9;
    if (number) {
      const size_t index = field.empty() ? automatic++ : std::stoul(field);
      if (index < args.positional.size()) value = &args.positional[index];
    }
    for (const auto& [name, named] : args.named) {
      if (!number && name == field) value = &named;
    }
    if (value == nullptr)
      return InputError(fmt::format("format: no value for '{{{}}}'", Abbreviate(field, 40)));
    PLANISH_TRY(const std::string shown, ToText(meter, *value));
    out += shown;
  }
  return MakeString(meter, std::move(out));
}

Result<Value> Cased(Meter& meter, std::string_view name, const std::string& text, const Args& args) {
  PLANISH_TRY([[maybe_unused]] const Bound none, args.Bind(name, {}));
  PLANISH_RETURN_IF_ERROR(meter.Work(text.size()));
  if (name == "lower") return MakeString(meter, Lower(text));
  PLANISH_TRY(std::string out, name == "upper"   ? Upper(text)
                               : name == "title" ? Title(text)
                                                 : Capitalize(text));
  return MakeString(meter, std::move(out));
}

Result<Value> CallString(Meter& meter, const std::string& text, std::string_view name, const Args& args) {
  if (name == "strip") return Strip(meter, name, text, args, Side::kBoth);
  if (name == "lstrip") return Strip(meter, name, text, args, Side::kLeft);
  if (name == "rstrip") return Strip(meter, name, text, args, Side::kRight);
  if (name == "split" || name == "rsplit") return Split(meter, name, text, args);
  if (name == "startswith" || name == "endswith") return Affix(name, text, args);
  if (name == "replace") return Replace(meter, text, args);
  if (name == "partition" || name == "rpartition") return Partition(meter, name, text, args);
  if (name == "join") return JoinStrings(meter, text, args);
  if (name == "format") return Format(meter, text, args);
  if (name == "lower" || name == "upper" || name == "title" || name == "capitalize") {
    return Cased(meter, name, text, args);
  }
  if (name == "find" || name == "rfind" || name == "index" || name == "rindex" || name == "count") {
    return Search(meter, name, text, args);
  }
  if (name == "ljust" || name == "rjust" || name == "center" || name == "zfill")
    return Pad(meter, name, text, args);
  if (name == "removeprefix" || name == "removesuffix") {
    PLANISH_TRY(const Bound bound, args.Bind(name, {"affix"}, 1));
    PLANISH_TRY(const std::string affix, StringArgument(name, *bound[0]));
    const bool prefix = name == "removeprefix";
    if (!(prefix ? text.starts_with(affix) : text.ends_with(affix))) return MakeString(meter, text);
    return MakeString(meter, text.substr(prefix ? affix.size() : 0, text.size() - affix.size()));
  }
  if (name == "splitlines") {
    PLANISH_TRY(const Bound bound, args.Bind(name, {"keepends"}));
    if (bound[0] != nullptr) return NotSupported("method", "splitlines with keepends");
    return StringList(meter, SplitLines(text));
  }
  constexpr std::string_view kTests[] = {"isspace",   "isalpha",   "isalnum", "isdigit",
                                         "isdecimal", "isnumeric", "isupper", "islower"};
  if (std::ranges::find(kTests, name) != std::end(kTests)) return IsKind(name, text, args);
  return NotSupported("method of strings", name);
}

Result<Value> CallDict(Meter& meter, const Dict& dict, const Value& self, std::string_view name,
                       const Args& args) {
  if (name == "get") {
    PLANISH_TRY(const Bound bound, args.Bind(name, {"key", "default"}, 1));
    PLANISH_TRY(const Value* found, Find(dict, *bound[0]));
    if (found != nullptr) return *found;
    return bound[1] == nullptr ? Value(None{}) : *bound[1];
  }
  if (name == "copy") return self;
  if (name != "keys" && name != "values" && name != "items") return NotSupported("method of dicts", name);
  PLANISH_TRY([[maybe_unused]] const Bound none, args.Bind(name, {}));
  std::vector<Value> items;
  for (const auto& [key, value] : dict.entries) {
    if (name == "keys") {
      items.push_back(key);
    } else if (name == "values") {
      items.push_back(value);
    } else {
      PLANISH_TRY(Value pair, MakeList(meter, {key, value}, List::Flavor::kTuple));
      items.push_back(std::move(pair));
    }
  }
  return MakeList(meter, std::move(items),
                  name == "keys"     ? List::Flavor::kKeys
                  : name == "values" ? List::Flavor::kValues
                                     : List::Flavor::kItems);
}

Result<Value> CallList(Meter& meter, const List& list, const Value& self, std::string_view name,
                       const Args& args) {
  if (name == "copy") return self;
  if (name != "index" && name != "count") return NotSupported("method of lists", name);
  PLANISH_TRY(const Bound bound, args.Bind(name, {"value"}, 1));
  int64_t count = 0;
  for (size_t i = 0; i < list.items.size(); ++i) {
    PLANISH_TRY(const bool equal, Equal(meter, list.items[i], *bound[0]));
    if (equal && name == "index") return Value(static_cast<int64_t>(i));
    count += equal ? 1 : 0;
  }
  if (name == "count") return Value(count);
  return InputError("index: the list does not hold the value");
}

}  // namespace

Result<Value> CallMethod(Meter& meter, const Value& self, std::string_view name, const Args& args) {
  constexpr std::string_view kChanging[] = {"append", "clear",   "extend",     "insert", "pop",   "popitem",
                                            "remove", "reverse", "setdefault", "sort",   "update"};
  if (self.AsString() == nullptr && std::ranges::find(kChanging, name) != std::end(kChanging)) {
    return InputError(fmt::format("'{}' would change a {}, which a template may not", name, TypeName(self)));
  }
  if (self.IsMarkup()) return NotSupported("method of text marked as safe:", name);
  if (const std::string* text = self.AsString()) return CallString(meter, *text, name, args);
  if (const Dict* dict = self.AsDict()) return CallDict(meter, *dict, self, name, args);
  if (const List* list = self.AsList()) return CallList(meter, *list, self, name, args);
  const auto* loop = self.As<std::shared_ptr<const LoopState>>();
  if (loop == nullptr || args.positional.empty() || !args.named.empty()) {
    return InputError("loop.cycle: expected one value or more");
  }
  return args.positional[(*loop)->index % args.positional.size()];
}

}  // namespace planish::jinja
