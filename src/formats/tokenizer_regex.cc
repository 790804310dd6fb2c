#include "formats/tokenizer_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include "base/check.h"
#include "formats/tokenizer_unicode.h"

namespace planish {
namespace {

constexpr size_t kMaxPatternBytes = 8192;
// Steps of backtracking per start position and kibibytes of memory: far above what any real
// pattern needs, so that a hostile one fails instead of hanging.
constexpr uint32_t kMatchLimit = 200000;
constexpr uint32_t kHeapLimitKib = 65536;

// Class contents. PCRE2's \s has U+180E, which is no White_Space; its \w lacks marks and connectors.
constexpr std::string_view kSpaceSet =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}"
    "\\x{3000}";
constexpr std::string_view kNotSpaceSet =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}";
// What Oniguruma's \w holds: Alphabetic (with the circled and squared letters of category So), M,
// Nd, Pc and, of the other numbers, those of Latin-1.
constexpr std::string_view kWordSet =
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}"
    "\\x{1f170}-\\x{1f189}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}";

// Classes in brackets as Oniguruma has them; no sets for those that PCRE2's properties do not give.
struct PosixClass {
  std::string_view name, set, negated;
};
constexpr PosixClass kPosixClasses[] = {
    {"alpha", "\\p{Alphabetic}", "\\P{Alphabetic}"},
    {"alnum", "\\p{Alphabetic}\\p{Nd}", ""},
    {"blank", "\\x{9}\\p{Zs}", ""},
    {"cntrl", "\\p{Cc}", "\\P{Cc}"},
    {"digit", "\\p{Nd}", "\\P{Nd}"},
    {"lower", "\\p{Lowercase}", "\\P{Lowercase}"},
    {"punct", "\\p{P}\\p{S}", ""},
    {"space", kSpaceSet, kNotSpaceSet},
    {"upper", "\\p{Uppercase}", "\\P{Uppercase}"},
    {"word", "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}", ""},
    {"xdigit", "0-9A-Fa-f", ""},
};

// Rewrites an Oniguruma (Ruby syntax) pattern for PCRE2, or refuses what has no equal.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  Result<std::string> Run() {
    while (at_ < in_.size()) {
      const char c = in_[at_];
      Status status;
      if (c == '\\') {
        status = Escape();
      } else if (in_class_) {
        status = ClassCharacter(c);
      } else {
        status = PlainCharacter(c);
      }
      PLANISH_RETURN_IF_ERROR(status);
    }
    return std::move(out_);
  }

 private:
  Error Refuse(std::string_view construct) const {
    return InputError(fmt::format("{} at offset {} of the regex is not supported", construct, at_));
  }
  void Copy(size_t bytes) {
    out_.append(in_.substr(at_, bytes));
    at_ += bytes;
  }
  void Set(std::string_view content, bool negated) {
    if (in_class_) {
      out_.append(content);
    } else {
      out_.append(negated ? "[^" : "[").append(content).append("]");
    }
    at_ += 2;
  }

  Status Escape() {
    const char next = at_ + 1 < in_.size() ? in_[at_ + 1] : '\0';
    switch (next) {
      case 's':
        Set(kSpaceSet, false);
        return {};
      case 'S':
        Set(in_class_ ? kNotSpaceSet : kSpaceSet, true);
        return {};
      case 'w':
        Set(kWordSet, false);
        return {};
      case 'W':
        if (in_class_) return Refuse("\\W inside a class");
        Set(kWordSet, true);
        return {};
      case 'b':
      case 'B':
        if (in_class_) {  // a backspace
          Copy(2);
          return {};
        }
        // A change (\b) or none (\B) between word and other characters.
        out_.append(fmt::format("(?:(?<=[{0}])(?{1}[{0}])|(?<![{0}])(?{2}[{0}]))", kWordSet,
                                next == 'b' ? "!" : "=", next == 'b' ? "=" : "!"));
        at_ += 2;
        return {};
      case 'h':
      case 'H':
      case 'C':
      case 'y':
      case 'Y':
      case 'M':
        return Refuse(fmt::format("\\{}", next));
      case 'u': {
        const std::string_view digits = in_.substr(at_ + 2, 4);
        if (digits.size() != 4 || digits.find_first_not_of("0123456789abcdefABCDEF") != digits.npos) {
          return Refuse("\\u without four hexadecimal digits");
        }
        out_.append("\\x{").append(digits).append("}");
        at_ += 6;
        return {};
      }
      default:
        Copy(at_ + 1 < in_.size() ? 2 : 1);
        return {};
    }
  }

  // "[:name:]" or "[:^name:]", ending at `close`.
  Status Posix(size_t close) {
    const bool negated = in_.substr(at_ + 2, 1) == "^";
    const size_t begin = at_ + 2 + (negated ? 1 : 0);
    const std::string_view name = in_.substr(begin, close - begin);
    for (const PosixClass& known : kPosixClasses) {
      const std::string_view set = negated ? known.negated : known.set;
      if (known.name != name || set.empty()) continue;
      out_.append(set);
      at_ = close + 2;
      return {};
    }
    return Refuse(fmt::format("[:{}{}:]", negated ? "^" : "", name));
  }

  Status ClassCharacter(char c) {
    if (c == '[') {
      if (in_.substr(at_, 2) != "[:") return Refuse("a class inside a class");
      const size_t close = in_.find(":]", at_ + 2);
      if (close == std::string_view::npos) return Refuse("'[:' without ':]'");
      return Posix(close);
    }
    if (in_.substr(at_, 2) == "&&") return Refuse("class intersection '&&'");
    if (c == ']') in_class_ = false;
    Copy(1);
    return {};
  }

  Status PlainCharacter(char c) {
    if (c == '[') {
      in_class_ = true;
      Copy(1);
      if (at_ < in_.size() && in_[at_] == '^') Copy(1);
      // A bracket that closes at once is a literal in PCRE2 and an error in Oniguruma.
      if (at_ < in_.size() && in_[at_] == ']') return Refuse("an empty class");
      return {};
    }
    if (c == '(' && at_ + 1 < in_.size()) {
      if (in_[at_ + 1] == '*') return Refuse("'(*'");
      if (in_[at_ + 1] == '?') {
        // Inline options: only i and x mean the same in both.
        size_t i = at_ + 2;
        while (i < in_.size() && (in_[i] == 'i' || in_[i] == 'x' || in_[i] == '-')) ++i;
        if (i < in_.size() &&
            std::string_view("msnaJUWDSPyCR0123456789+&|").find(in_[i]) != std::string_view::npos) {
          return Refuse(fmt::format("'(?{}'", in_[i]));
        }
      }
    }
    Copy(1);
    return {};
  }

  std::string_view in_;
  size_t at_ = 0;
  bool in_class_ = false;
  std::string out_;
};

std::string PcreMessage(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

// Compiled code needs more machine stack than the default 32 KiB for some patterns.
pcre2_jit_stack* ThreadJitStack() {
  thread_local const std::unique_ptr<pcre2_jit_stack, decltype(&pcre2_jit_stack_free)> stack(
      pcre2_jit_stack_create(32 * 1024, 1024 * 1024, nullptr), &pcre2_jit_stack_free);
  return stack.get();
}

}  // namespace

struct Regex::Code {
  pcre2_code* code = nullptr;
  pcre2_match_context* context = nullptr;
  Code() = default;
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
  ~Code() {
    pcre2_match_context_free(context);
    pcre2_code_free(code);
  }
};

Result<Regex> Regex::Compile(std::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return InputError(
        fmt::format("a regex of {} bytes; at most {} are accepted", pattern.size(), kMaxPatternBytes));
  }
  auto translated = Translator(pattern).Run();
  if (!translated.ok()) return translated.error().At(fmt::format("regex '{}'", pattern));
  auto code = std::make_shared<Code>();
  const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> compile(
      pcre2_compile_context_create(nullptr), &pcre2_compile_context_free);
  // Lines end at \n alone and ^ and $ mean lines, as in Ruby syntax.
  pcre2_set_newline(compile.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  code->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated->data()), translated->size(),
                             PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                             &offset, compile.get());
  if (code->code == nullptr) {
    return InputError(fmt::format("regex '{}': {} (at offset {} of '{}')", pattern, PcreMessage(error),
                                  offset, *translated));
  }
  // Without a just-in-time compiler on this machine matching is slower, with equal results.
  pcre2_jit_compile(code->code, PCRE2_JIT_COMPLETE);
  code->context = pcre2_match_context_create(nullptr);
  pcre2_set_match_limit(code->context, kMatchLimit);
  pcre2_set_heap_limit(code->context, kHeapLimitKib);
  pcre2_jit_stack_assign(
      code->context, [](void*) { return ThreadJitStack(); }, nullptr);
  Regex regex;
  regex.code_ = std::move(code);
  return regex;
}

Regex::Matcher::Matcher(const Regex& regex, std::string_view text)
    : regex_(regex), text_(text), data_(pcre2_match_data_create(1, nullptr)) {}

Regex::Matcher::~Matcher() { pcre2_match_data_free(static_cast<pcre2_match_data*>(data_)); }

bool Regex::Matcher::Next(size_t* begin, size_t* end) {
  auto* data = static_cast<pcre2_match_data*>(data_);
  while (status_.ok() && from_ <= text_.size()) {
    const int rc = pcre2_match(regex_.code_->code, reinterpret_cast<PCRE2_SPTR>(text_.data()), text_.size(),
                               from_, PCRE2_NO_UTF_CHECK, data, regex_.code_->context);
    if (rc == PCRE2_ERROR_NOMATCH) return false;
    if (rc < 0) {
      status_ = InputError(fmt::format("a regex of the tokenizer gave up at byte {} of a piece of {}: {}",
                                       from_, text_.size(), PcreMessage(rc)));
      return false;
    }
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data);
    // \K in a look-around can put the start behind the end or before an earlier match.
    if (range[0] > range[1] || range[1] < from_) {
      status_ = InputError("a regex of the tokenizer matched a range that runs backwards (\\K?)");
      return false;
    }
    if (range[0] == range[1] && range[1] == last_end_) {
      if (from_ == text_.size()) return false;
      from_ += Utf8Length(text_[from_]);
      continue;
    }
    *begin = range[0];
    *end = from_ = last_end_ = range[1];
    return true;
  }
  return false;
}

}  // namespace planish
