// Packed layers from arbitrary bytes: no crash, input errors with messages; and what is accepted can be
// multiplied, with the same bits by the definition and by this machine's fastest kernels.
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/check.h"
#include "runtime/packed_linear.h"

namespace {

using namespace planish;

// One token, 0.5, 1, 1.5, ... with changing signs.
Mat<float> Multiply(const packed::KernelSet& kernels, const PackedLinear& layer, bool exact) {
  const MultiplyOptions options{exact};
  Mat<float> x(1, layer.cols()), path, y(1, layer.rows());
  for (int64_t k = 0; k < layer.cols(); ++k) {
    x(0, k) = static_cast<float>(k % 7 + 1) * (k % 2 == 0 ? 0.5f : -0.5f);
  }
  QuantizedInput in, t;
  in.Set(kernels, x, layer.InputFormFor(options));
  if (layer.v() != nullptr) {
    path.Resize(1, layer.v()->rows());
    MultiplyTiles(kernels, *layer.v(), in, nullptr, 0, layer.v()->tiles(), path, options);
    t.Set(kernels, path, LowRankForm(options));
  }
  MultiplyTiles(kernels, layer, in, layer.v() != nullptr ? &t : nullptr, 0, layer.tiles(), y, options);
  return y;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // An owned copy of the exact size, aligned as packed layers are.
  Buffer bytes(size);
  if (size > 0) std::memcpy(bytes.data(), data, size);
  const auto layer = PackedLinear::FromBytes(bytes.bytes());
  if (!layer.ok()) {
    PLANISH_CHECK(layer.error().code == Code::kInput && !layer.error().message.empty());
    return 0;
  }
  PLANISH_CHECK(layer->bytes().size() <= size);
  constexpr int64_t kMostWork = 1 << 20;
  if (layer->tiles() * kTileRows * layer->layout().padded_cols > kMostWork) return 0;
  const packed::KernelSet& fastest = *SupportedPackedKernels().back();
  for (const bool exact : {false, true}) {
    const Mat<float> expected = Multiply(packed::kScalarKernels, *layer, exact);
    const Mat<float> got = Multiply(fastest, *layer, exact);
    for (int64_t i = 0; i < layer->rows(); ++i) {
      const float a = expected(0, i), b = got(0, i);
      PLANISH_CHECK((std::isnan(a) && std::isnan(b)) ||
                    std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b))
          << "row " << i << ": " << a << " and " << b;
    }
  }
  return 0;
}
