// One job at a time on a thread of its own, so that computing and writing overlap.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "base/result.h"

namespace planish {

// Use from one thread. Destroyed, it waits for the job at hand.
class Background {
 public:
  Background() = default;
  ~Background();
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

  // Waits for the job before, then starts this one: with two buffers, the one that it does not read is free
  // to be filled. After an error nothing is started any more, and the error is returned.
  Status Start(std::function<Status()> job);
  // Waits for the last job; the first error of all.
  Status Wait();

 private:
  void Work();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<Status()> job_;  // not null: waiting or running
  Status status_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace planish
