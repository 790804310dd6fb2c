// Makes packed layers from the parts of a linear: first a plan, which knows the bytes, then the bytes, tile
// by tile on all threads.
//
// What is packed as it is: codes that a kernel knows (packed_codes.h), alone or with a low-rank path of two
// factors; dense weights of f32, f16 and bf16. Anything else is packed as bf16 from its decoded rows (f32
// where only the order of groups has no kernel), and the plan's note says why. Factors on integer grids keep
// their codes where steps allow; fp16 factors and others become int8 with a scale for each row and step (U:
// 32 ranks), which the note says too.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/context.h"
#include "layer/linear.h"
#include "runtime/packed_codes.h"
#include "runtime/packed_kernels.h"
#include "runtime/packed_layout.h"
#include "tensor/buffer.h"

namespace planish {

struct PackOptions {
  // Of the layers that share an input; used where the weights' groups allow it. 0: the step with fewest
  // bytes.
  int preferred_step = 0;
  // Scales as bytes under an fp16 scale for each row: fewer bytes, scales rounded to 1/255 of the row's
  // largest.
  bool scales8 = false;
  // Weights to be added to the others, in any order.
  std::vector<PackedOutlier> outliers;
};

struct PackPlan {
  PackedShape shape;
  PackedLayout layout;
  std::string note;  // what is not packed as it is stored, and why; for `inspect`

  TileCodeSource main, u;
  Matrix dense;  // for dense kinds
  std::shared_ptr<const PackPlan> v;
  std::vector<float> bias;
  std::vector<std::array<int8_t, 16>> tables;
  std::vector<PackedOutlier> outliers;  // sorted by row, then column

  int64_t bytes() const { return layout.total; }
};

// Shares the matrix's bytes, which may be a mapped file. Errors: outliers outside the matrix, sizes that
// overflow.
Result<PackPlan> PlanPackedLinear(const Linear& linear, const PackOptions& options = {});

// Writes plan.bytes() bytes; the same bytes for any number of threads and any kernels.
void PackLinear(const Context& context, const PackPlan& plan, std::span<std::byte> out);

// The memory of all packed layers of a model: one buffer on huge pages where the system has them.
class PackedArena {
 public:
  // One place for each size. Errors: a sum that overflows, no memory.
  static Result<PackedArena> Make(std::span<const int64_t> sizes);
  size_t size() const { return places_.size(); }
  std::span<std::byte> place(size_t i) const { return places_[i]; }
  // Everything, places in order at multiples of 64 bytes.
  std::span<std::byte> bytes() { return buffer_.bytes(); }

 private:
  Buffer buffer_;
  std::vector<std::span<std::byte>> places_;
};

}  // namespace planish
