// Products of packed layers with many tokens: prompts, and batches of more sequences than one kernel takes.
//
// A tile of 16 rows is multiplied with eight tokens at a time while its codes lie in the first-level cache,
// so that memory brings the weights once for all of them; tokens go in blocks whose codes stay in the
// second-level cache beside the tile. The result has the bits of MultiplyTiles for every token.
//
// Roofline: compute, 8-bit multiply-adds; unpacking a tile's codes is shared by eight tokens.
#pragma once

#include <string>
#include <vector>

#include "base/context.h"
#include "runtime/packed_linear.h"

namespace planish {

// Whether many tokens go faster by these kernels than by products of matrices over decoded rows: always with
// 8-bit dots; without them for integers of up to 4 bits, whose dots are 16-bit sums (packed_bench prefill).
bool FastFromCodes(const packed::KernelSet& kernels, PackedKind kind);

// Not thread-safe; keeps the memory of quantized inputs.
class PackedPrefill {
 public:
  // y [x.rows, layer.rows()] = W x + U (V x) + bias. Error: an input that is NaN or infinite; `where` begins
  // the message.
  Status Multiply(const Context& context, const packed::KernelSet& kernels, const PackedLinear& layer,
                  MatView<const float> x, MatView<float> y, const MultiplyOptions& options,
                  const std::string& where);

 private:
  // Eight tokens each.
  std::vector<QuantizedInput> inputs_, paths_;
  Mat<float> path_outputs_;
};

}  // namespace planish
