#include "runtime/packed_layout.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "base/checked.h"

namespace planish {
namespace {

constexpr char kMagic[8] = {'P', 'L', 'P', 'A', 'C', 'K', 'E', 'D'};
constexpr uint32_t kVersion = 3;
constexpr uint8_t kBias = 4;

struct KindInfo {
  const char* name;
  int bits;
};
constexpr KindInfo kKinds[] = {{"int2", 2},   {"int3", 3},   {"int4", 4},  {"int8", 8},  {"table2", 2},
                               {"table3", 3}, {"table4", 4}, {"sets3", 3}, {"sets4", 4}, {"rows2", 2},
                               {"rows3", 3},  {"rows4", 4},  {"bf16", 16}, {"f16", 16},  {"f32", 32}};
static_assert(std::size(kKinds) == packed::kCodeKinds + packed::kDenseKinds);

// For people, "" where it needs no word.
constexpr const char* kScaleNames[] = {"",
                                       ", scales of 8 bits under rows",
                                       ", scales of 8 bits under blocks",
                                       ", scales of 4 bits under blocks",
                                       ", scales powers of two",
                                       ", scales of FP8"};
constexpr const char* kOffsetNames[] = {"",
                                        ", zeros of 4 bits",
                                        ", zeros of 8 bits",
                                        ", minima",
                                        ", minima of 8 bits under blocks",
                                        ", minima of 4 bits under blocks"};
static_assert(std::size(kScaleNames) == packed::kNumScales && std::size(kOffsetNames) == packed::kNumOffsets);

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

int64_t SegmentBytes(Bytes& bytes, const PackedShape& shape, int64_t steps) {
  const int64_t n = BlockSteps(shape.step);
  const int64_t full = PackedBlockHeader(shape, n);
  const int64_t rest = steps % n == 0 ? 0 : PackedBlockHeader(shape, steps % n);
  const int64_t tables = bytes.Mul(HasStepTables(shape) ? steps : 1, PackedTableBytes(shape.kind));
  const int64_t rows = bytes.Add(shape.scales == packed::Scales::kRowBytes ? 64 : 0, tables);
  const int64_t headers = bytes.Add(bytes.Mul(steps / n, full), bytes.Add(rest, rows));
  return bytes.Add(headers, bytes.Mul(steps, PackedStepBytes(shape.kind, shape.step)));
}

// Forms of scales and offsets that do not exist or fit each other.
Status CheckForms(const PackedShape& s) {
  const auto scales = static_cast<int>(s.scales), offsets = static_cast<int>(s.offsets);
  if (scales >= packed::kNumScales || offsets >= packed::kNumOffsets) {
    return InputError(fmt::format("scales of form {}, offsets of form {}, expected below {} and {}", scales,
                                  offsets, packed::kNumScales, packed::kNumOffsets));
  }
  if (!IsCoded(s.kind) && (scales != 0 || offsets != 0)) {
    return InputError("scales and offsets belong to codes");
  }
  if (HasTable(s.kind) && offsets != 0) return InputError("offsets are stored for integer codes only");
  const bool nibbles = s.scales == packed::Scales::kBlockNibbles;
  if (nibbles != (s.offsets == packed::Offsets::kBlockNibbles)) {
    return InputError("scales and offsets of 4 bits under blocks share their bytes: both, or none");
  }
  if (s.zero < 0 || s.zero > 255 || s.u_zero < 0 || s.u_zero > 255) {
    return InputError(fmt::format("zeros {} and {}, expected 0 to 255", s.zero, s.u_zero));
  }
  if (s.zero_shift < 0 || s.zero_shift > 8 || s.scale_bias < 0 || s.scale_bias > 255) {
    return InputError(fmt::format("zero steps of 2^-{}, bias {} of scales; expected 0 to 8 and 0 to 255",
                                  s.zero_shift, s.scale_bias));
  }
  if (!std::isfinite(s.unit) || s.unit <= 0) {
    return InputError(fmt::format("unit {} of scales, expected a positive number", s.unit));
  }
  return {};
}

Status CheckShape(const PackedShape& s) {
  constexpr int64_t kMaxSide = int64_t{1} << 31;
  if (static_cast<size_t>(s.kind) >= std::size(kKinds)) {
    return InputError(fmt::format("unknown kind {} of packed weights", static_cast<int>(s.kind)));
  }
  if (s.rows < 1 || s.cols < 1 || s.rows > kMaxSide || s.cols > kMaxSide) {
    return InputError(fmt::format("shape [{}, {}], expected 1 to 2^31 rows and columns", s.rows, s.cols));
  }
  const bool coded = IsCoded(s.kind);
  const bool step_ok = coded ? s.step == 16 || s.step == 32 || s.step == 64 || s.step == 128 : s.step == 0;
  if (!step_ok) {
    return InputError(fmt::format("step {}, expected {}", s.step, coded ? "16, 32, 64 or 128" : "0 (dense)"));
  }
  PLANISH_RETURN_IF_ERROR(CheckForms(s));
  if (s.rank < 0 || s.rank > kMaxSide || (s.rank > 0) != (s.v_bytes > 0) || s.v_bytes < 0) {
    return InputError(fmt::format("rank {} with {} bytes of V", s.rank, s.v_bytes));
  }
  if (s.rank > 0 && !coded) return InputError("a low-rank path beside dense weights");
  if (s.num_outliers < 0) return InputError(fmt::format("{} outliers", s.num_outliers));
  const int64_t steps = coded ? PackedSteps(s.cols, s.step) : 0;
  const int64_t tables = HasSets(s.kind) ? 2 : HasTable(s.kind) ? 1 : 0;
  if (s.num_tables != tables && !(HasRowTables(s.kind) && s.num_tables == steps)) {
    return InputError(
        fmt::format("{} tables, expected {}", s.num_tables,
                    HasRowTables(s.kind) ? fmt::format("1 or {}", steps) : std::to_string(tables)));
  }
  return {};
}

}  // namespace

int PackedBits(PackedKind kind) { return kKinds[static_cast<int>(kind)].bits; }
const char* PackedKindName(PackedKind kind) { return kKinds[static_cast<int>(kind)].name; }

int64_t PackedSteps(int64_t cols, int step) {
  return CeilDiv(cols, UnitColumns(step)) * (UnitColumns(step) / step);
}
int64_t PackedTableBytes(PackedKind kind) {
  return HasRowTables(kind) ? int64_t{kTileRows} << PackedBits(kind) : 0;
}

int64_t PackedBlockHeader(const PackedShape& s, int64_t n) {
  using packed::Offsets;
  using packed::Scales;
  const int64_t nibbles = 16 * ((n + 1) / 2);
  int64_t bytes = (s.scales == Scales::kHalf ? 32 : 16) * n;
  if (s.scales == Scales::kBlockBytes || s.scales == Scales::kBlockNibbles) bytes += 32;
  if (s.offsets == Offsets::kBlockBytes || s.offsets == Offsets::kBlockNibbles) bytes += 32;
  if (s.offsets == Offsets::kNibbles) bytes += nibbles;
  if (s.offsets == Offsets::kBytes || s.offsets == Offsets::kBlockBytes) bytes += 16 * n;
  if (s.offsets == Offsets::kHalf) bytes += 32 * n;
  if (HasSets(s.kind)) bytes += nibbles;
  return (bytes + 63) / 64 * 64;
}

Result<PackedLayout> LayOutPacked(const PackedShape& s) {
  PLANISH_RETURN_IF_ERROR(CheckShape(s));
  Bytes bytes;
  PackedLayout at;
  at.tiles = CeilDiv(s.rows, kTileRows);
  if (IsCoded(s.kind)) {
    at.steps = PackedSteps(s.cols, s.step);
    at.padded_cols = at.steps * s.step;
    at.main_bytes = SegmentBytes(bytes, s, at.steps);
  } else {
    at.padded_cols = CeilDiv(s.cols, 4) * 4;
    at.main_bytes = bytes.Mul(at.padded_cols, int64_t{2} * PackedBits(s.kind));
  }
  at.u_steps = CeilDiv(s.rank, kLowRankStep);
  if (s.rank > 0) {
    PackedShape u;
    u.kind = PackedKind::kInt8;
    u.step = kLowRankStep;
    at.u_bytes = SegmentBytes(bytes, u, at.u_steps);
  }
  at.tile_bytes = bytes.Add(at.main_bytes, at.u_bytes);
  at.bias = sizeof(PackedHeader);
  at.tables = bytes.Align(bytes.Add(at.bias, s.has_bias ? bytes.Mul(at.tiles, 4 * kTileRows) : 0));
  at.outlier_index =
      bytes.Align(bytes.Add(at.tables, HasRowTables(s.kind) ? 0 : s.num_tables * packed::kTableEntries));
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
  h.flags = s.has_bias ? kBias : uint8_t{0};
  h.zero = static_cast<uint8_t>(s.zero);
  h.u_zero = static_cast<uint8_t>(s.u_zero);
  h.step = s.step;
  h.scales = static_cast<uint8_t>(s.scales);
  h.offsets = static_cast<uint8_t>(s.offsets);
  h.zero_shift = static_cast<uint8_t>(s.zero_shift);
  h.scale_bias = static_cast<uint8_t>(s.scale_bias);
  h.unit = s.unit;
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
  if ((h.flags & ~kBias) != 0) {
    return InputError(fmt::format("unknown flags {:#x} of a packed layer", h.flags));
  }
  PackedShape s;
  s.kind = static_cast<PackedKind>(h.kind);
  s.scales = static_cast<packed::Scales>(h.scales);
  s.offsets = static_cast<packed::Offsets>(h.offsets);
  s.zero_shift = h.zero_shift;
  s.scale_bias = h.scale_bias;
  s.unit = h.unit;
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
  text += kScaleNames[static_cast<int>(s.scales)];
  text += kOffsetNames[static_cast<int>(s.offsets)];
  if (HasRowTables(s.kind)) text += HasStepTables(s) ? ", tables of rows and steps" : ", tables of rows";
  if (s.rank > 0) text += fmt::format(" + low-rank {}", s.rank);
  if (s.num_outliers > 0) text += fmt::format(" + {} outliers", s.num_outliers);
  if (s.has_bias) text += " + bias";
  return text;
}

}  // namespace planish
