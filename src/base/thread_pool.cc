#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "base/check.h"

namespace planish {
namespace {

thread_local bool in_parallel_region = false;

// Spinning this many times (a few tens of microseconds) before sleeping bridges the gaps between
// the loops of one forward pass, where a futex round trip would cost more than the work.
constexpr int kSpins = 4000;

int UsableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

inline void Relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

// `state` says which loop there is and who is in it: the loop's number, whether it still takes workers, and
// how many it took that are not done. A worker that wakes late finds the loop closed and leaves it alone,
// so that the caller waits only for those that really work: a core busy with another program costs
// nothing.
struct ThreadPool::Impl {
  static constexpr uint64_t kOpen = 1 << 16, kLoop = 1 << 17, kActive = kOpen - 1;

  std::vector<std::thread> threads;
  std::mutex mutex;
  std::mutex callers;  // one loop at a time
  std::condition_variable wake;
  int sleepers = 0;  // under mutex
  std::atomic<uint64_t> state{0};
  std::atomic<bool> stop{false};
  std::atomic<int64_t> next{0};
  int64_t n = 0;
  const std::function<void(int64_t, int)>* body = nullptr;

  void Drain(int worker) {
    in_parallel_region = true;
    for (;;) {
      const int64_t i = next.fetch_add(1, std::memory_order_relaxed);
      if (i >= n) break;
      (*body)(i, worker);
    }
    in_parallel_region = false;
  }

  bool Idle(uint64_t seen) const {
    return state.load(std::memory_order_acquire) / kLoop == seen && !stop.load(std::memory_order_acquire);
  }

  void Work(int worker) {
    for (uint64_t seen = 0;;) {
      for (int spins = 0; Idle(seen) && spins < kSpins; ++spins) Relax();
      if (Idle(seen)) {
        std::unique_lock lock(mutex);
        ++sleepers;
        wake.wait(lock, [&] { return !Idle(seen); });
        --sleepers;
      }
      if (stop.load(std::memory_order_acquire)) return;
      uint64_t now = state.load(std::memory_order_acquire);
      while ((now & kOpen) != 0) {
        if (!state.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel)) continue;
        Drain(worker);
        state.fetch_sub(1, std::memory_order_acq_rel);
        break;
      }
      seen = now / kLoop;
    }
  }

  // Opens the next loop; n and body are set.
  void Publish() {
    bool asleep = false;
    {
      std::lock_guard lock(mutex);
      const uint64_t loop = state.load(std::memory_order_relaxed) / kLoop + 1;
      state.store(loop * kLoop + kOpen, std::memory_order_release);
      asleep = sleepers > 0;
    }
    if (asleep) wake.notify_all();
  }

  // Closes the loop, whose iterations are all begun, and waits for those who run the last ones.
  void Finish() {
    state.fetch_and(~kOpen, std::memory_order_acq_rel);
    for (int spins = 0; (state.load(std::memory_order_acquire) & kActive) != 0;) {
      if (++spins < kSpins) {
        Relax();
      } else {
        std::this_thread::yield();
      }
    }
  }
};

ThreadPool::ThreadPool(int threads) : impl_(std::make_unique<Impl>()) {
  PLANISH_CHECK(threads >= 0) << threads;
  if (threads == 0) threads = UsableCores();
  for (int worker = 1; worker < threads; ++worker) {
    impl_->threads.emplace_back([this, worker] { impl_->Work(worker); });
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->stop.store(true);
  }
  impl_->wake.notify_all();
  for (auto& thread : impl_->threads) thread.join();
}

int ThreadPool::NumThreads() const { return static_cast<int>(impl_->threads.size()) + 1; }

void ThreadPool::ParallelFor(int64_t n, const std::function<void(int64_t, int)>& body) {
  if (n <= 0) return;
  if (in_parallel_region || impl_->threads.empty() || n == 1) {
    for (int64_t i = 0; i < n; ++i) body(i, 0);
    return;
  }
  std::lock_guard callers(impl_->callers);
  impl_->n = n;
  impl_->body = &body;
  impl_->next.store(0);
  impl_->Publish();
  impl_->Drain(0);
  impl_->Finish();
}

}  // namespace planish
