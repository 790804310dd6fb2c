// Threads that work through a token together: they start within a microsecond, meet at barriers of a
// tenth of one, and sleep when there is nothing to do. The pool of base/ hands out iterations to whoever is
// free; here every thread has its own part, so that it reads one stream of weights and nothing is handed out.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace planish {

class Team {
 public:
  // `threads` includes the caller of Run. Pinned: each thread stays on one of the CPUs that the process may
  // use, the caller too while it is inside Run.
  explicit Team(int threads, bool pinned = true);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return static_cast<int>(threads_.size()) + 1; }
  // body(member) on every thread at once, member in [0, size()). Members may call Meet. Not reentrant; one
  // caller at a time.
  void Run(const std::function<void(int)>& body);
  // Returns when every member has called it as often; what was written before is seen after.
  void Meet();

  // The half-open part of `count` equal units that is member `member`'s of `size`; the parts differ by at
  // most one unit.
  struct Part {
    int64_t begin, end;
  };
  static Part PartOf(int64_t count, int member, int size) {
    return {count * member / size, count * (member + 1) / size};
  }

 private:
  void Work(int member);
  void Pin(int member) const;

  std::vector<int> cpus_;  // empty: not pinned
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  int sleepers_ = 0;  // under mutex_
  const std::function<void(int)>* body_ = nullptr;
  alignas(64) std::atomic<uint64_t> started_{0};
  alignas(64) std::atomic<int> finished_{0};
  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint64_t> meetings_{0};
};

}  // namespace planish
