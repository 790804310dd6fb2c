#include "base/background.h"

namespace planish {

Background::~Background() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

Status Background::Start(std::function<Status()> job) {
  if (!thread_.joinable()) thread_ = std::thread([this] { Work(); });
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !job_; });
    if (!status_.ok()) return status_;
    job_ = std::move(job);
  }
  changed_.notify_all();
  return {};
}

Status Background::Wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !job_; });
  return status_;
}

void Background::Work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stop_ || job_; });
    if (!job_) return;
    lock.unlock();
    Status status = job_();
    lock.lock();
    if (status_.ok()) status_ = std::move(status);
    job_ = nullptr;
    changed_.notify_all();
  }
}

}  // namespace planish
