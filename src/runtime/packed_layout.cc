#include "runtime/packed_layout.h"

#include <fmt/format.h>

#include <cstring>

#include "base/checked.h"

namespace planish {
namespace {

constexpr char kMagic[8] = {'P', 'L', 'P', 'A', 'C', 'K', 'E', 'D'};
constexpr uint32_t kVersion = 1;
constexpr uint8_t kAsymmetric = 1, kScales8 = 2, kBias = 4;

struct KindInfo {
  const char* name;
  int bits;
};
constexpr KindInfo kKinds[] = {{"int2", 2}, {"int3", 3},  {"int4", 4}, {"table4", 4},
                               {"int8", 8}, {"bf16", 16}, {"f16", 16}, {"f32", 32}};
static_assert(std::size(kKinds) == packed::kCodeKinds + packed::kDenseKinds);

// Sums and products that remember an overflow.
class Bytes {
 public:
  int64_t Mul(int64_t a, int64_t b) { return Keep(CheckedMul(a, b)); }
  int64_t Add(int64_t a, int64_t b) { return Keep(CheckedAdd(a, b)); }
  int64_t Align(int64_t a) { return Add(a, kPackedAlignment - 1) & ~(kPackedAlignment - 1); }
  bool ok() const { return ok_; }

 private:
  int64_t Keep(std::optional<int64_t> value) {
    ok_ = ok_ && value.has_value();
    return value.value_or(0);
  }
  bool ok_ = true;
};

int64_t CeilDiv(int64_t a, int64_t b) { return a / b + (a % b != 0 ? 1 : 0); }

int64_t SegmentBytes(Bytes& bytes, PackedKind kind, bool asymmetric, bool scales8, int64_t steps, int step) {
  const int64_t n = packed::kBlockSteps;
  const int64_t full = PackedBlockHeader(kind, asymmetric, scales8, n);
  const int64_t rest = steps % n == 0 ? 0 : PackedBlockHeader(kind, asymmetric, scales8, steps % n);
  const int64_t headers = bytes.Add(bytes.Mul(steps / n, full), rest + (scales8 ? 64 : 0));
  return bytes.Add(headers, bytes.Mul(steps, PackedStepBytes(kind, step)));
}

Status CheckShape(const PackedShape& s) {
  constexpr int64_t kMaxSide = int64_t{1} << 31;
  if (static_cast<size_t>(s.kind) >= std::size(kKinds)) {
    return InputError(fmt::format("unknown kind {} of packed weights", static_cast<int>(s.kind)));
  }
  if (s.rows < 1 || s.cols < 1 || s.rows > kMaxSide || s.cols > kMaxSide) {
    return InputError(fmt::format("shape [{}, {}], expected 1 to 2^31 rows and columns", s.rows, s.cols));
  }
  const bool coded = IsCoded(s.kind), table = s.kind == PackedKind::kTable4;
  const bool step_ok = coded ? s.step == 32 || s.step == 64 || s.step == 128 : s.step == 0;
  if (!step_ok) {
    return InputError(fmt::format("step {}, expected {}", s.step, coded ? "32, 64 or 128" : "0 (dense)"));
  }
  if ((!coded || table) && s.asymmetric) return InputError("zeros are stored for integer codes only");
  if (!coded && s.scales8) return InputError("8-bit scales belong to codes");
  if (s.zero < 0 || s.zero > 255 || s.u_zero < 0 || s.u_zero > 255) {
    return InputError(fmt::format("zeros {} and {}, expected 0 to 255", s.zero, s.u_zero));
  }
  if (s.rank < 0 || s.rank > kMaxSide || (s.rank > 0) != (s.v_bytes > 0) || s.v_bytes < 0) {
    return InputError(fmt::format("rank {} with {} bytes of V", s.rank, s.v_bytes));
  }
  if (s.rank > 0 && !coded) return InputError("a low-rank path beside dense weights");
  if (s.num_outliers < 0) return InputError(fmt::format("{} outliers", s.num_outliers));
  const int64_t steps = coded ? CeilDiv(s.cols, s.step) : 0;
  const bool tables_ok = table ? s.num_tables == 1 || s.num_tables == steps : s.num_tables == 0;
  if (!tables_ok) {
    return InputError(fmt::format("{} tables, expected {}", s.num_tables,
                                  table ? fmt::format("1 or {}", steps) : std::string("none")));
  }
  return {};
}

}  // namespace

int PackedBits(PackedKind kind) { return kKinds[static_cast<int>(kind)].bits; }
const char* PackedKindName(PackedKind kind) { return kKinds[static_cast<int>(kind)].name; }

int64_t PackedBlockHeader(PackedKind kind, bool asymmetric, bool scales8, int64_t n) {
  const int64_t zeros = !asymmetric ? 0 : PackedBits(kind) == 8 ? 16 * n : 16 * ((n + 1) / 2);
  return ((scales8 ? 16 : 32) * n + zeros + 63) / 64 * 64;
}

Result<PackedLayout> LayOutPacked(const PackedShape& s) {
  PLANISH_RETURN_IF_ERROR(CheckShape(s));
  Bytes bytes;
  PackedLayout at;
  at.tiles = CeilDiv(s.rows, kTileRows);
  if (IsCoded(s.kind)) {
    at.steps = CeilDiv(s.cols, s.step);
    at.padded_cols = at.steps * s.step;
    at.main_bytes = SegmentBytes(bytes, s.kind, s.asymmetric, s.scales8, at.steps, s.step);
  } else {
    at.padded_cols = CeilDiv(s.cols, 4) * 4;
    at.main_bytes = bytes.Mul(at.padded_cols, int64_t{2} * PackedBits(s.kind));
  }
  at.u_steps = CeilDiv(s.rank, kLowRankStep);
  if (s.rank > 0) {
    at.u_bytes = SegmentBytes(bytes, PackedKind::kInt8, false, false, at.u_steps, kLowRankStep);
  }
  at.tile_bytes = bytes.Add(at.main_bytes, at.u_bytes);
  at.bias = sizeof(PackedHeader);
  at.tables = bytes.Align(bytes.Add(at.bias, s.has_bias ? bytes.Mul(at.tiles, 4 * kTileRows) : 0));
  at.outlier_index =
      bytes.Align(bytes.Add(at.tables, bytes.Mul(s.num_tables, int64_t{packed::kTableEntries})));
  const int64_t index_bytes = s.num_outliers > 0 ? bytes.Mul(bytes.Add(at.tiles, 1), int64_t{8}) : 0;
  at.outliers = bytes.Align(bytes.Add(at.outlier_index, index_bytes));
  at.tile_data = bytes.Align(
      bytes.Add(at.outliers, bytes.Mul(s.num_outliers, static_cast<int64_t>(sizeof(PackedOutlier)))));
  at.v = bytes.Align(bytes.Add(at.tile_data, bytes.Mul(at.tiles, at.tile_bytes)));
  at.total = bytes.Align(bytes.Add(at.v, s.v_bytes));
  if (!bytes.ok()) {
    return InputError(fmt::format("a packed layer [{}, {}] exceeds 2^63 bytes", s.rows, s.cols));
  }
  return at;
}

PackedHeader MakePackedHeader(const PackedShape& s, const PackedLayout& layout) {
  PackedHeader h = {};
  std::memcpy(h.magic, kMagic, sizeof(kMagic));
  h.version = kVersion;
  h.kind = static_cast<uint8_t>(s.kind);
  h.flags = static_cast<uint8_t>((s.asymmetric ? kAsymmetric : 0) | (s.scales8 ? kScales8 : 0) |
                                 (s.has_bias ? kBias : 0));
  h.zero = static_cast<uint8_t>(s.zero);
  h.u_zero = static_cast<uint8_t>(s.u_zero);
  h.step = s.step;
  h.rows = s.rows;
  h.cols = s.cols;
  h.rank = s.rank;
  h.num_tables = s.num_tables;
  h.num_outliers = s.num_outliers;
  h.v_bytes = s.v_bytes;
  h.total = layout.total;
  return h;
}

Result<PackedShape> ReadPackedHeader(const PackedHeader& h) {
  if (std::memcmp(h.magic, kMagic, sizeof(kMagic)) != 0) return InputError("not a packed layer: wrong magic");
  if (h.version != kVersion) {
    return InputError(
        fmt::format("packed layer of version {}, expected {} (pack again)", h.version, kVersion));
  }
  if ((h.flags & ~(kAsymmetric | kScales8 | kBias)) != 0) {
    return InputError(fmt::format("unknown flags {:#x} of a packed layer", h.flags));
  }
  PackedShape s;
  s.kind = static_cast<PackedKind>(h.kind);
  s.asymmetric = (h.flags & kAsymmetric) != 0;
  s.scales8 = (h.flags & kScales8) != 0;
  s.has_bias = (h.flags & kBias) != 0;
  s.step = h.step;
  s.zero = h.zero;
  s.u_zero = h.u_zero;
  s.rows = h.rows;
  s.cols = h.cols;
  s.rank = h.rank;
  s.num_tables = h.num_tables;
  s.num_outliers = h.num_outliers;
  s.v_bytes = h.v_bytes;
  PLANISH_TRY(const PackedLayout layout, LayOutPacked(s));
  if (layout.total != h.total) {
    return InputError(fmt::format("packed layer of {} bytes, its shape needs {}", h.total, layout.total));
  }
  return s;
}

std::string DescribePacked(const PackedShape& s) {
  std::string text = PackedKindName(s.kind);
  if (IsCoded(s.kind)) text += fmt::format(" step {}", s.step);
  if (s.asymmetric) text += " asym";
  if (s.scales8) text += " scales8";
  if (s.rank > 0) text += fmt::format(" + low-rank {}", s.rank);
  if (s.num_outliers > 0) text += fmt::format(" + {} outliers", s.num_outliers);
  if (s.has_bias) text += " + bias";
  return text;
}

}  // namespace planish
