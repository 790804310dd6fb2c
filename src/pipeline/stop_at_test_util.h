// Interrupting a run from inside, for tests of resuming.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "base/progress.h"

namespace planish {

// Asks to stop at one of its reports.
class StopAt : public ProgressSink {
 public:
  explicit StopAt(int stop) : stop_(stop) {}
  void Update(const std::string&, double, double, const std::string&) override {
    if (++count_ == stop_) cancel.store(true);
  }
  void Note(const std::string& text) override { notes.push_back(text); }
  int count() const { return count_; }
  std::atomic<bool> cancel{false};
  std::vector<std::string> notes;

 private:
  int stop_, count_ = 0;
};

}  // namespace planish
