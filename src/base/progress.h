// Progress of long work: a unit with a total, a rate and the time left. Engines report through
// ProgressSink; the program decides whether that becomes a bar, plain lines or JSON lines.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <string>

namespace planish {

class ProgressSink {
 public:
  virtual ~ProgressSink() = default;
  // `done` of `total` units ("tokens", "layers", "bytes") of the named stage are finished.
  virtual void Update(const std::string& stage, double done, double total, const std::string& unit) = 0;
  // A message worth a line of its own (a fallback taken, a layer finished).
  virtual void Note(const std::string& message) = 0;
};

// Writes to stderr: a bar redrawn in place on a terminal, a line every ten seconds elsewhere.
// Nothing is shown for a stage in its first two seconds. Thread-safe.
class ConsoleProgress : public ProgressSink {
 public:
  enum class Style { kAuto, kBar, kLines, kQuiet };
  explicit ConsoleProgress(Style style = Style::kAuto, std::FILE* out = stderr);
  ~ConsoleProgress() override;
  void Update(const std::string& stage, double done, double total, const std::string& unit) override;
  void Note(const std::string& message) override;

 private:
  using Clock = std::chrono::steady_clock;
  void EraseBar();
  std::mutex mutex_;
  std::FILE* out_;
  Style style_;
  std::string stage_;
  Clock::time_point start_, last_;
  double start_done_ = 0;
  bool bar_shown_ = false;
};

// "1:02:03", "4:05", "7 s".
std::string FormatDuration(double seconds);
// "1.23 GB", "45.6 MB", "789 B" (powers of ten).
std::string FormatBytes(double bytes);
// 12345678 -> "12.3 M".
std::string FormatCount(double count);

}  // namespace planish
