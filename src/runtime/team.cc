#include "runtime/team.h"

#include <sched.h>

#include "base/check.h"

namespace planish {
namespace {

// Spins before a thread lets others have its CPU; some 50 us. Waits inside Run are shorter unless a CPU is
// busy with something else, and then yielding is what ends them.
constexpr int kSpins = 2000;
// Rounds of that before a thread without work sleeps: a few milliseconds, the time between tokens.
constexpr int kIdleRounds = 100;

void Relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

template <class Done>
void SpinUntil(const Done& done) {
  for (int spins = 0; !done(); ++spins) {
    if (spins < kSpins) {
      Relax();
    } else {
      std::this_thread::yield();
    }
  }
}

std::vector<int> AllowedCpus() {
  std::vector<int> cpus;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

}  // namespace

Team::Team(int threads, bool pinned) {
  PLANISH_CHECK(threads > 0) << threads;
  // More threads than CPUs would stand in each other's way when pinned.
  if (pinned) cpus_ = AllowedCpus();
  if (static_cast<int>(cpus_.size()) < threads) cpus_.clear();
  for (int member = 1; member < threads; ++member) {
    threads_.emplace_back([this, member] { Work(member); });
  }
}

Team::~Team() {
  {
    std::lock_guard lock(mutex_);
    stop_.store(true);
  }
  wake_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void Team::Pin(int member) const {
  if (cpus_.empty()) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpus_[static_cast<size_t>(member)], &set);
  sched_setaffinity(0, sizeof(set), &set);  // without it the thread is only slower
}

void Team::Work(int member) {
  Pin(member);
  for (uint64_t seen = 0;; ++seen) {
    const auto called = [&] { return started_.load(std::memory_order_acquire) != seen || stop_.load(); };
    for (int i = 0; i < kIdleRounds * kSpins && !called(); ++i) {
      Relax();
      if (i % kSpins == kSpins - 1) std::this_thread::yield();
    }
    if (!called()) {
      std::unique_lock lock(mutex_);
      ++sleepers_;
      wake_.wait(lock, called);
      --sleepers_;
    }
    if (stop_.load()) return;
    (*body_)(member);
    finished_.fetch_add(1, std::memory_order_acq_rel);
  }
}

void Team::Run(const std::function<void(int)>& body) {
  if (threads_.empty()) return body(0);
  cpu_set_t own;
  CPU_ZERO(&own);
  const bool restore = !cpus_.empty() && sched_getaffinity(0, sizeof(own), &own) == 0;
  Pin(0);
  body_ = &body;
  finished_.store(0, std::memory_order_relaxed);
  bool asleep = false;
  {
    std::lock_guard lock(mutex_);
    started_.fetch_add(1, std::memory_order_acq_rel);
    asleep = sleepers_ > 0;
  }
  if (asleep) wake_.notify_all();
  body(0);
  SpinUntil([&] { return finished_.load(std::memory_order_acquire) == size() - 1; });
  if (restore) sched_setaffinity(0, sizeof(own), &own);
}

void Team::Meet() {
  if (threads_.empty()) return;
  const uint64_t meeting = meetings_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size() - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    meetings_.store(meeting + 1, std::memory_order_release);
    return;
  }
  SpinUntil([&] { return meetings_.load(std::memory_order_acquire) != meeting; });
}

}  // namespace planish
