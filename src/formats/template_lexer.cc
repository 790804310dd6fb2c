#include "formats/template_lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "base/names.h"
#include "formats/template_text.h"
#include "formats/tokenizer_unicode.h"

namespace planish::jinja {
namespace {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool IsNamePart(char c) { return IsNameStart(c) || IsDigit(c); }

// The longest operators first.
constexpr std::string_view kOperators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                           "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                           ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};

// Every kind of line end becomes "\n", and the last one of the source is dropped.
std::string NormalizeNewlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out.push_back(source[i]);
    } else {
      out.push_back('\n');
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(source) {}

  Result<std::vector<Token>> Run() {
    while (at_ < source_.size()) PLANISH_RETURN_IF_ERROR(TextAndTag());
    Add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  char Peek(size_t ahead = 0) const { return at_ + ahead < source_.size() ? source_[at_ + ahead] : '\0'; }
  bool Follows(std::string_view text) const { return source_.substr(at_).starts_with(text); }
  void Advance(size_t bytes) {
    const std::string_view skipped = source_.substr(at_, bytes);
    line_ += static_cast<int>(std::ranges::count(skipped, '\n'));
    if (!skipped.empty()) line_starting_ = skipped.back() == '\n';
    at_ += skipped.size();
  }
  void Add(TokenKind kind, std::string_view text) {
    tokens_.push_back({.kind = kind, .text = std::string(text), .line = line_});
  }
  void SkipSpace() { Advance(source_.size() - at_ - StripLeft(source_.substr(at_)).size()); }

  // Text before a tag, cut by the tag's sign and by lstrip_blocks.
  std::string_view CutBefore(std::string_view text, char sign, bool is_variable) const {
    if (sign == '-') return StripRight(text);
    if (sign == '+' || is_variable) return text;
    const size_t newline = text.rfind('\n');
    const size_t start = newline == text.npos ? 0 : newline + 1;
    if (start == 0 && !line_starting_) return text;
    return text.find_first_not_of(" \t", start) == text.npos ? text.substr(0, start) : text;
  }

  // Behind a block or comment tag: "-" drops all white space, "+" nothing, else one newline goes. False: the
  // tag does not end here.
  bool CloseTag(std::string_view end) {
    const char sign = Peek();
    if ((sign == '-' || sign == '+') && source_.substr(at_ + 1).starts_with(end)) {
      Advance(1 + end.size());
      if (sign == '-') SkipSpace();
      return true;
    }
    if (!Follows(end)) return false;
    Advance(end.size());
    if (Peek() == '\n') Advance(1);
    return true;
  }

  size_t FindTag() const {
    for (size_t i = at_; i + 1 < source_.size(); ++i) {
      if (source_[i] == '{' && (source_[i + 1] == '{' || source_[i + 1] == '%' || source_[i + 1] == '#')) {
        return i;
      }
    }
    return source_.size();
  }

  Status TextAndTag() {
    const size_t tag = FindTag();
    const std::string_view text = source_.substr(at_, tag - at_);
    if (tag == source_.size()) {
      Add(TokenKind::kText, text);
      Advance(text.size());
      return {};
    }
    const char kind = source_[tag + 1];
    char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    if (sign != '-' && (sign != '+' || kind == '{')) sign = '\0';
    // {{+ 1 }} is a plus, not a sign of the tag.
    const std::string_view kept = CutBefore(text, sign, kind == '{');
    if (!kept.empty()) Add(TokenKind::kText, kept);
    Advance(text.size());
    const int begin_line = line_;
    const size_t tag_bytes = sign == '\0' ? 2 : 3;
    if (kind == '#') {
      Advance(tag_bytes);
      return Comment(begin_line);
    }
    if (kind == '%' && IsRaw(tag + tag_bytes)) return Raw(begin_line, tag_bytes);
    Add(kind == '{' ? TokenKind::kVariableBegin : TokenKind::kBlockBegin, "");
    Advance(tag_bytes);
    return Tag(kind == '{' ? TokenKind::kVariableEnd : TokenKind::kBlockEnd, begin_line);
  }

  Status Comment(int begin_line) {
    while (at_ < source_.size()) {
      if (CloseTag("#}")) return {};
      Advance(1);
    }
    return AtLine(begin_line, "expected '#}' to end the comment, found the end of the template");
  }

  // {% raw %}: a tag of its own, whose text is not looked at.
  bool IsRaw(size_t at) const {
    const std::string_view rest = StripLeft(source_.substr(at));
    if (!rest.starts_with("raw")) return false;
    const std::string_view end = StripLeft(rest.substr(3));
    return end.starts_with("%}") || end.starts_with("-%}");
  }
  Status Raw(int begin_line, size_t tag_bytes) {
    Advance(tag_bytes);
    SkipSpace();
    Advance(3);
    SkipSpace();
    const bool strip = Peek() == '-';
    Advance(strip ? 3 : 2);
    if (strip) SkipSpace();
    for (size_t i = at_; i + 1 < source_.size(); ++i) {
      if (source_[i] != '{' || source_[i + 1] != '%') continue;
      const char sign = i + 2 < source_.size() ? source_[i + 2] : '\0';
      const bool signed_tag = sign == '-' || sign == '+';
      const std::string_view name = StripLeft(source_.substr(i + (signed_tag ? 3 : 2)));
      if (!name.starts_with("endraw")) continue;
      const std::string_view end = StripLeft(name.substr(6));
      if (!end.starts_with("%}") && !end.starts_with("-%}") && !end.starts_with("+%}")) continue;
      const std::string_view text = source_.substr(at_, i - at_);
      Add(TokenKind::kText, CutBefore(text, signed_tag ? sign : '\0', false));
      Advance(source_.size() - end.size() - at_);
      CloseTag("%}");
      return {};
    }
    return AtLine(begin_line, "expected '{% endraw %}', found the end of the template");
  }

  Status Tag(TokenKind end, int begin_line) {
    const std::string_view end_text = end == TokenKind::kVariableEnd ? "}}" : "%}";
    std::vector<char> open;
    while (true) {
      // Inside brackets "}}" closes two of them, not the tag.
      if (open.empty()) {
        const int end_line = line_;
        const bool closed = end == TokenKind::kBlockEnd ? CloseTag(end_text) : CloseVariable();
        if (closed) {
          tokens_.push_back({.kind = end, .text = "", .line = end_line});
          return {};
        }
      }
      if (at_ >= source_.size()) {
        return AtLine(begin_line,
                      fmt::format("expected '{}' to end the tag, found the end of the template", end_text));
      }
      SkipSpace();
      if (at_ < source_.size() && !(open.empty() && EndsTag(end_text))) {
        PLANISH_RETURN_IF_ERROR(OneToken(open));
      }
    }
  }
  bool EndsTag(std::string_view end) const {
    if (Follows(end)) return true;
    const bool sign = Peek() == '-' || (Peek() == '+' && end == "%}");
    return sign && source_.substr(at_ + 1).starts_with(end);
  }
  bool CloseVariable() {
    if (Follows("-}}")) {
      Advance(3);
      SkipSpace();
      return true;
    }
    if (!Follows("}}")) return false;
    Advance(2);
    return true;
  }

  Status OneToken(std::vector<char>& open) {
    const char c = Peek();
    if (IsDigit(c)) return Number();
    if (IsNameStart(c)) {
      size_t length = 1;
      while (IsNamePart(Peek(length))) ++length;
      Add(TokenKind::kName, source_.substr(at_, length));
      Advance(length);
      return {};
    }
    if (c == '\'' || c == '"') return String(c);
    for (const std::string_view op : kOperators) {
      if (!Follows(op)) continue;
      PLANISH_RETURN_IF_ERROR(Balance(op[0], open));
      Add(TokenKind::kOperator, op);
      Advance(op.size());
      return {};
    }
    const size_t length = Utf8Length(c);
    return AtLine(line_, fmt::format("found the character '{}', which no expression holds outside a string",
                                     EscapeForMessage(source_.substr(at_, length))));
  }

  Status Balance(char c, std::vector<char>& open) const {
    if (c == '(' || c == '[' || c == '{') open.push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
    if (c != ')' && c != ']' && c != '}') return {};
    if (open.empty()) return AtLine(line_, fmt::format("found '{}', which closes nothing", c));
    if (open.back() != c) return AtLine(line_, fmt::format("expected '{}', found '{}'", open.back(), c));
    open.pop_back();
    return {};
  }

  // Digits with single underscores between them.
  size_t Digits(size_t from) const {
    size_t length = 0;
    while (IsDigit(Peek(from + length)) ||
           (length > 0 && Peek(from + length) == '_' && IsDigit(Peek(from + length + 1)))) {
      ++length;
    }
    return length;
  }

  Status Number() {
    const bool after_dot = at_ > 0 && source_[at_ - 1] == '.';
    const char second = Peek(1);
    if (Peek() == '0' && std::string_view("xXoObB").find(second) != std::string_view::npos) {
      return AtLine(line_, fmt::format("found '0{}': only decimal numbers are supported", second));
    }
    size_t length = Digits(0);
    bool is_float = false;
    if (!after_dot && Peek(length) == '.' && Digits(length + 1) > 0) {
      is_float = true;
      length += 1 + Digits(length + 1);
    }
    if (!after_dot && (Peek(length) == 'e' || Peek(length) == 'E')) {
      const size_t sign = Peek(length + 1) == '+' || Peek(length + 1) == '-' ? 2 : 1;
      if (const size_t digits = Digits(length + sign); digits > 0) {
        is_float = true;
        length += sign + digits;
      }
    }
    const std::string_view shown = source_.substr(at_, length);
    std::string digits(shown);
    std::erase(digits, '_');
    Add(is_float ? TokenKind::kFloat : TokenKind::kInteger, shown);
    Token& token = tokens_.back();
    const auto parse = [&](auto& value) {
      const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
      return error == std::errc() && end == digits.data() + digits.size();
    };
    if (is_float ? !parse(token.number) : !parse(token.integer)) {
      return AtLine(line_,
                    fmt::format("found the number {}, expected one of at most 64 bits", Abbreviate(shown)));
    }
    Advance(length);
    return {};
  }

  Status String(char quote) {
    const int begin_line = line_;
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) {
      return AtLine(begin_line,
                    fmt::format("expected {} to end the string, found the end of the template", quote));
    }
    PLANISH_TRY(std::string value, Unescape(source_.substr(at_ + 1, end - at_ - 1)));
    tokens_.push_back({.kind = TokenKind::kString, .text = std::move(value), .line = begin_line});
    Advance(end + 1 - at_);
    return {};
  }

  Result<std::string> Unescape(std::string_view body) const {
    std::string out;
    for (size_t i = 0; i < body.size(); ++i) {
      if (body[i] != '\\') {
        out.push_back(body[i]);
        continue;
      }
      PLANISH_TRY(const size_t used, Escape(body.substr(i + 1), out));
      i += used;
    }
    return out;
  }

  // What follows a backslash; returns the bytes it took. As in Python, an unknown one stays as it stands.
  Result<size_t> Escape(std::string_view rest, std::string& out) const {
    constexpr std::string_view kNames = "\n\\'\"abfnrtv";
    static constexpr char kTable[] = {0, '\\', '\'', '"', '\a', '\b', '\f', '\n', '\r', '\t', '\v'};
    static_assert(sizeof(kTable) == kNames.size());
    const char c = rest[0];
    if (const size_t known = kNames.find(c); known != kNames.npos) {
      if (c != '\n') out.push_back(kTable[known]);
      return size_t{1};
    }
    const bool octal = c >= '0' && c <= '7';
    const size_t digits = octal ? 3 : c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (c == 'N') return AtLine(line_, "found the escape '\\N{...}', which is not supported: write \\uXXXX");
    if (digits == 0) {
      out.push_back('\\');
      return size_t{0};
    }
    const size_t start = octal ? 0 : 1;
    uint32_t code = 0;
    const std::string_view text = rest.substr(start, digits);
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), code, octal ? 8 : 16);
    const auto used = static_cast<size_t>(end - text.data());
    const bool surrogate = code >= 0xD800 && code < 0xE000;
    if (error != std::errc() || (!octal && used != digits) || code > 0x10FFFF || surrogate) {
      return AtLine(line_,
                    fmt::format("found the escape '\\{}', expected {} digits of a character", c, digits));
    }
    AppendUtf8(code, &out);
    return start + used;
  }

  std::string_view source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // what was read last ended a line
  std::vector<Token> tokens_;
};

}  // namespace

Error AtLine(int line, const std::string& message) {
  return InputError(fmt::format("line {}: {}", line, message));
}

std::string Describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::kText:
      return "text";
    case TokenKind::kBlockBegin:
      return "'{%'";
    case TokenKind::kBlockEnd:
      return "the end of the tag ('%}')";
    case TokenKind::kVariableBegin:
      return "'{{'";
    case TokenKind::kVariableEnd:
      return "the end of the tag ('}}')";
    case TokenKind::kString:
      return fmt::format("the string \"{}\"", EscapeForMessage(Abbreviate(token.text, 40)));
    case TokenKind::kEnd:
      return "the end of the template";
    default:
      return fmt::format("'{}'", Abbreviate(token.text, 40));
  }
}

Result<std::vector<Token>> Tokenize(std::string_view source) {
  return Lexer(NormalizeNewlines(source)).Run();
}

}  // namespace planish::jinja
