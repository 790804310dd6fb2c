// A packed linear layer over bytes that somebody else keeps alive, and its product with a few tokens,
// computed straight from codes.
//
// The steps of y = W x + U (V x) + b for one layer; threads divide tiles as they like, a tile's result does
// not depend on the division, nor on the tokens beside one, nor (bit by bit) on the kernel set:
// - x.Set(kernels, inputs, layer.InputFormFor(options)), once for all layers that read the input;
// - with a low-rank path MultiplyTiles(kernels, *layer.v(), x, nullptr, ...) makes V x [tokens, rank], and
//   t.Set(kernels, V x, LowRankForm(options)) quantizes it;
// - MultiplyTiles(kernels, layer, x, &t, ...).
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "runtime/packed_input.h"
#include "runtime/packed_layout.h"

namespace planish {

// The kernels for a set of instructions: its fastest variant that this processor has. scalar and sse4 give
// the definition. On Arm every choice gives NEON if the processor has dot products.
const packed::KernelSet& SelectPackedKernels(Isa isa);
// Every set that this processor can run, the definition first.
std::vector<const packed::KernelSet*> SupportedPackedKernels();

struct MultiplyOptions {
  bool exact_inputs = false;  // codes times float inputs, not int8
};

// The form of V x, the input of U.
inline InputForm LowRankForm(const MultiplyOptions& options) {
  return {kLowRankStep, !options.exact_inputs, options.exact_inputs};
}

class PackedLinear {
 public:
  // A view of bytes from PackLinear, maybe by way of a file. Checks every number that addresses memory.
  // Errors: too few bytes, a broken header, tables of outliers that are out of order or out of range, a V
  // that does not fit.
  static Result<PackedLinear> FromBytes(std::span<const std::byte> bytes);

  const PackedShape& shape() const { return shape_; }
  const PackedLayout& layout() const { return layout_; }
  int64_t rows() const { return shape_.rows; }
  int64_t cols() const { return shape_.cols; }
  int64_t tiles() const { return layout_.tiles; }
  // Null without a low-rank path; else [rank, cols].
  const PackedLinear* v() const { return v_.get(); }
  // All bytes, V included: what a file stores and what one token reads.
  std::span<const std::byte> bytes() const { return bytes_; }
  // First byte of a tile's weights.
  const std::byte* TileData(int64_t tile) const { return At(layout_.tile_data + tile * layout_.tile_bytes); }
  InputForm InputFormFor(const MultiplyOptions& options) const;
  std::string Describe() const { return DescribePacked(shape_); }

 private:
  friend void MultiplyTiles(const packed::KernelSet&, const PackedLinear&, const QuantizedInput&,
                            const QuantizedInput*, int64_t, int64_t, MatView<float>, const MultiplyOptions&,
                            const std::byte*);
  const std::byte* At(int64_t offset) const { return bytes_.data() + offset; }
  Status CheckOutliers() const;
  void AddOutliers(const QuantizedInput& x, int64_t tile, float* acc) const;

  std::span<const std::byte> bytes_;
  PackedShape shape_;
  PackedLayout layout_;
  std::shared_ptr<const PackedLinear> v_;
};

// Widens `form` to serve both. False, and nothing changed, when they quantize by different steps: then the
// caller keeps a QuantizedInput for each.
bool JoinInputForms(const InputForm& other, InputForm& form);

// y [tokens, rows]: rows of tiles [tile_begin, tile_end) are set. t is the quantized V x, null exactly when
// the layer has no low-rank path. The inputs must have the forms and sizes that the layer asks for (checked).
// `next`: what the thread will read afterwards, fetched beside the last tile. Single-threaded; calls for
// disjoint tiles may run side by side.
void MultiplyTiles(const packed::KernelSet& kernels, const PackedLinear& layer, const QuantizedInput& x,
                   const QuantizedInput* t, int64_t tile_begin, int64_t tile_end, MatView<float> y,
                   const MultiplyOptions& options = {}, const std::byte* next = nullptr);

}  // namespace planish
