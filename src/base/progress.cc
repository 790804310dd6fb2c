#include "base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

namespace planish {

std::string FormatDuration(double seconds) {
  constexpr double kLongest = 1e12;  // keeps an infinite estimate out of the conversion
  const auto s = static_cast<int64_t>(std::llround(std::min(std::max(0.0, seconds), kLongest)));
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{}:{:02}", s / 60, s % 60);
  return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

namespace {
std::string WithPrefix(double value, const char* unit) {
  constexpr const char* kPrefix[] = {"", "k", "M", "G", "T", "P"};
  int i = 0;
  // The bounds are where rounding would carry into a digit more: 999.6 kB is printed as 1.00 MB.
  while (std::abs(value) >= 999.5 && i < 5) value /= 1000, ++i;
  if (i == 0) return fmt::format("{:.0f} {}", value, unit);
  const double magnitude = std::abs(value);
  return fmt::format("{:.{}f} {}{}", value,
                     magnitude < 9.995   ? 2
                     : magnitude < 99.95 ? 1
                                         : 0,
                     kPrefix[i], unit);
}
}  // namespace

std::string FormatBytes(double bytes) { return WithPrefix(bytes, "B"); }

std::string FormatCount(double count) {
  std::string text = WithPrefix(count, "");
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text;
}

ConsoleProgress::ConsoleProgress(Style style, std::FILE* out) : out_(out), style_(style) {
  if (style_ == Style::kAuto) style_ = isatty(fileno(out)) ? Style::kBar : Style::kLines;
}

ConsoleProgress::~ConsoleProgress() { EraseBar(); }

void ConsoleProgress::EraseBar() {
  if (bar_shown_) std::fputs("\r\033[K", out_);
  bar_shown_ = false;
}

void ConsoleProgress::Update(const std::string& stage, double done, double total, const std::string& unit) {
  if (style_ == Style::kQuiet) return;
  std::lock_guard lock(mutex_);
  const auto now = Clock::now();
  if (stage != stage_) {
    stage_ = stage;
    start_ = last_ = now;
    start_done_ = done;
    EraseBar();
    return;
  }
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const double since_last = std::chrono::duration<double>(now - last_).count();
  const bool finished = done >= total;
  if (elapsed < 2.0 || since_last < (style_ == Style::kBar ? 0.2 : finished ? 0.0 : 10.0)) return;
  last_ = now;
  const double rate = (done - start_done_) / elapsed;
  const double left = rate > 0 ? (total - done) / rate : 0;
  const double share = total > 0 ? std::clamp(done / total, 0.0, 1.0) : 1.0;
  const std::string text =
      fmt::format("{}: {}/{} {} ({:.0f} %), {} {}/s, {} left", stage, FormatCount(done), FormatCount(total),
                  unit, 100 * share, FormatCount(rate), unit, FormatDuration(left));
  if (style_ == Style::kLines) {
    fmt::print(out_, "{}\n", text);
  } else {
    constexpr int kWidth = 24;
    const int filled = static_cast<int>(share * kWidth);
    fmt::print(out_, "\r\033[K[{}{}] {}", std::string(filled, '#'), std::string(kWidth - filled, '.'), text);
    bar_shown_ = true;
  }
  std::fflush(out_);
}

void ConsoleProgress::Note(const std::string& message) {
  if (style_ == Style::kQuiet) return;
  std::lock_guard lock(mutex_);
  EraseBar();
  fmt::print(out_, "{}\n", message);
  std::fflush(out_);
}

}  // namespace planish
