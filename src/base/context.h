// Where and how a computation runs. Every engine takes Context& first; there are no globals.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/cpu.h"
#include "base/progress.h"
#include "base/result.h"
#include "base/thread_pool.h"

namespace planish {

// fast    the best kernels of this machine; the same bytes for any number of threads.
// strict  the same bytes on any CPU: only kernels whose operations and order are fixed.
enum class Profile { kFast, kStrict };
inline const char* ProfileName(Profile p) { return p == Profile::kStrict ? "strict" : "fast"; }

struct Context {
  ThreadPool* pool = nullptr;  // never null inside an engine
  Isa isa = Isa::kScalar;
  Profile profile = Profile::kFast;
  uint64_t seed = 0;
  const std::atomic<bool>* cancel = nullptr;  // set by Ctrl-C; engines poll it between units of work
  ProgressSink* progress = nullptr;           // null: silent

  bool Cancelled() const { return cancel != nullptr && cancel->load(std::memory_order_relaxed); }
  // The error to return when Cancelled() is seen.
  Status CheckCancelled() const {
    if (Cancelled()) return InterruptedError("interrupted");
    return {};
  }
};

}  // namespace planish
