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

struct ThreadPool::Impl {
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::mutex callers;  // one loop at a time
  std::condition_variable wake;
  std::atomic<uint64_t> generation{0};
  std::atomic<bool> stop{false};
  std::atomic<int> running{0};
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

  void Work(int worker) {
    uint64_t seen = 0;
    for (;;) {
      int spins = 0;
      while (generation.load(std::memory_order_acquire) == seen && spins++ < kSpins) Relax();
      if (generation.load(std::memory_order_acquire) == seen) {
        std::unique_lock lock(mutex);
        wake.wait(lock, [&] { return generation.load(std::memory_order_acquire) != seen; });
      }
      seen = generation.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_acquire)) return;
      Drain(worker);
      running.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  void Publish() {
    std::lock_guard lock(mutex);
    generation.fetch_add(1, std::memory_order_acq_rel);
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
  impl_->stop.store(true);
  impl_->Publish();
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
  impl_->running.store(static_cast<int>(impl_->threads.size()));
  impl_->Publish();
  impl_->wake.notify_all();
  impl_->Drain(0);
  for (int spins = 0; impl_->running.load(std::memory_order_acquire) != 0;) {
    if (++spins < kSpins) {
      Relax();
    } else {
      std::this_thread::yield();
    }
  }
}

}  // namespace planish
