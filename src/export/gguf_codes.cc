// Layouts: grids/gguf_decode.cc.
#include "export/gguf_codes.h"

#include <cstring>
#include <vector>

#include "base/check.h"
#include "export/quantized_plan.h"
#include "grids/gguf_encode.h"
#include "layer/bit_run.h"
#include "layer/code_order.h"

namespace planish {
namespace {

constexpr int64_t kBlock = 32;

// Bits of a step; 0: a type with other scales.
int StepBits(GgufType type) {
  switch (type) {
    case GgufType::kQ4_0:
      return 4;
    case GgufType::kQ5_0:
      return 5;
    case GgufType::kQ8_0:
      return 8;
    default:
      return 0;
  }
}

// Thirty-two steps behind their scale, which is there already.
void StoreSteps(GgufType type, const int* steps, std::byte* out) {
  if (type == GgufType::kQ8_0) {
    for (int j = 0; j < kBlock; ++j) out[j] = static_cast<std::byte>(steps[j] & 255);
    return;
  }
  const bool five = type == GgufType::kQ5_0;
  const int middle = five ? 16 : 8;
  uint32_t high = 0;
  std::byte* nibbles = out + (five ? 4 : 0);
  for (int j = 0; j < kBlock / 2; ++j) {
    const int low = steps[j] + middle, upper = steps[j + kBlock / 2] + middle;
    nibbles[j] = static_cast<std::byte>((low & 15) | (upper & 15) << 4);
    high |= static_cast<uint32_t>(low >> 4) << j | static_cast<uint32_t>(upper >> 4) << (j + kBlock / 2);
  }
  if (five) std::memcpy(out, &high, 4);
}

bool IsMxfp4(const GridSpec& grid) {
  return grid.levels == LevelKind::kMinifloat && grid.bits == 4 && grid.exponent_bits == 2 &&
         grid.scale == ScaleKind::kE8M0 && grid.group == kBlock;
}

bool Mxfp4ToBlocks(const Matrix& matrix, int64_t row, int64_t rows, std::byte* out) {
  const auto& coded = std::get<Coded>(matrix.body);
  const int64_t groups = coded.grid.NumGroups(matrix.cols),
                block_bytes = GgufRowBytes(GgufType::kMXFP4, kBlock);
  const std::vector<uint8_t> table = MinifloatCodes(coded.grid);
  std::vector<uint8_t> codes(static_cast<size_t>(matrix.cols));
  std::vector<std::byte> buffer;
  const CodeRuns runs = RunsOf(matrix, row, rows, 0, matrix.cols, buffer);
  bool finite = true;
  for (int64_t i = 0; i < rows; ++i) {
    UnpackRun(runs.data + i * runs.stride, 0, matrix.cols, coded.grid.bits, codes.data());
    for (uint8_t& code : codes) code = table[code];
    for (int64_t g = 0; g < groups; ++g, out += block_bytes) {
      const auto e = static_cast<uint8_t>(coded.scales.bytes[static_cast<size_t>((row + i) * groups + g)]);
      finite = finite && e != 255;  // no number
      PackMxfp4(e, codes.data() + g * kBlock, reinterpret_cast<uint8_t*>(out));
    }
  }
  return finite;
}

}  // namespace

bool HoldsCodes(GgufType type, const Matrix& matrix) {
  const auto* coded = std::get_if<Coded>(&matrix.body);
  if (type == GgufType::kMXFP4) {
    return coded != nullptr && IsMxfp4(coded->grid) && matrix.cols % kBlock == 0;
  }
  const int bits = StepBits(type);
  if (coded == nullptr || bits == 0 || !coded->grid.PlainInteger() || coded->Scattered()) return false;
  // From -2^(b - 1) on where zero lies in the middle, else anything between two codes.
  const int widest = coded->grid.bits + (coded->grid.symmetric ? 0 : 1);
  return widest <= bits && matrix.cols % kBlock == 0 && coded->grid.GroupSize(matrix.cols) % kBlock == 0;
}

bool CodesToBlocks(GgufType type, const Matrix& matrix, int64_t row, int64_t rows, std::byte* out) {
  PLANISH_CHECK(HoldsCodes(type, matrix)) << Describe(matrix);
  if (type == GgufType::kMXFP4) return Mxfp4ToBlocks(matrix, row, rows, out);
  const auto& coded = std::get<Coded>(matrix.body);
  const int64_t groups = coded.grid.NumGroups(matrix.cols), size = coded.grid.GroupSize(matrix.cols);
  const int64_t block_bytes = GgufRowBytes(type, kBlock);
  std::vector<uint8_t> codes(static_cast<size_t>(matrix.cols));
  std::vector<std::byte> buffer;
  const CodeRuns runs = RunsOf(matrix, row, rows, 0, matrix.cols, buffer);
  bool finite = true;
  for (int64_t i = 0; i < rows; ++i) {
    UnpackRun(runs.data + i * runs.stride, 0, matrix.cols, coded.grid.bits, codes.data());
    for (int64_t j = 0; j < matrix.cols; j += kBlock, out += block_bytes) {
      const int64_t group = j / size;
      const int zero = ZeroCode(coded, groups, row + i, group);
      const std::byte* scale = coded.scales.bytes.data() + 2 * ((row + i) * groups + group);
      finite = finite && (static_cast<int>(scale[1]) & 0x7c) != 0x7c;
      std::memcpy(out, scale, 2);
      int steps[kBlock];
      for (int64_t k = 0; k < kBlock; ++k) steps[k] = codes[static_cast<size_t>(j + k)] - zero;
      StoreSteps(type, steps, out + 2);
    }
  }
  return finite;
}

}  // namespace planish
