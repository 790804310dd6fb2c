// Where and how a computation runs. Every engine takes Context& first; there are no globals.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string_view>

#include "base/cpu.h"
#include "base/progress.h"
#include "base/result.h"
#include "base/thread_pool.h"

namespace planish {

// fast    the best kernels of this machine; the same bytes for any number of threads.
// strict  the same bytes on any CPU: only kernels whose operations and order are fixed.
enum class Profile { kFast, kStrict };
inline const char* ProfileName(Profile p) { return p == Profile::kStrict ? "strict" : "fast"; }

// How the elements of the two factors of a matrix product are taken; sums are fp32 always.
//   kF32    as they are
//   kBF16   rounded to bf16: 8 significant bits
//   kSplit  as two bf16, their value and the rest: 16 bits. The product of the two rests may be left out.
// Only for profile `fast`. Processors without products of bf16 round and multiply in fp32.
enum class Precision { kF32, kBF16, kSplit };
std::string_view PrecisionName(Precision precision);  // "fp32", "bf16", "split"
std::optional<Precision> ParsePrecision(std::string_view name);

struct Context {
  ThreadPool* pool = nullptr;  // never null inside an engine
  Isa isa = Isa::kScalar;
  Profile profile = Profile::kFast;
  // Of the linears of forward passes and of the sums of squares of their inputs; what solves for weights
  // computes in fp32 or better whatever is said here.
  Precision precision = Precision::kF32;
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
