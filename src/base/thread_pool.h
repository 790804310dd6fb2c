// A pool of worker threads for loops whose iterations are independent. Which thread runs an
// iteration is left open, so results stay the same for any number of threads as long as an
// iteration depends on its index alone: split work by data, never by NumThreads().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace planish {

class ThreadPool {
 public:
  // `threads` includes the caller; 0 means one per core that this process may use.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int NumThreads() const;

  // Runs body(i, worker) for i in [0, n), worker in [0, NumThreads()): at any moment each worker
  // number runs one iteration, so it may index scratch memory. Iterations start in ascending
  // order. A call from inside a body runs its whole loop on the calling thread, as worker 0 of a
  // private numbering.
  void ParallelFor(int64_t n, const std::function<void(int64_t, int)>& body);
  void ParallelFor(int64_t n, const std::function<void(int64_t)>& body) {
    ParallelFor(n, [&](int64_t i, int) { body(i); });
  }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace planish
