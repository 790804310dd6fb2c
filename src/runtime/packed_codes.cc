#include "runtime/packed_codes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "layer/code_order.h"
#include "runtime/packed_blocks.h"

namespace planish {
namespace {

using packed::KernelSet;
using packed::Offsets;
using packed::Scales;

const uint8_t* Raw(const Blob& blob) { return reinterpret_cast<const uint8_t*>(blob.bytes.data()); }

// One value of a packed run; the same definition as the codes of layer/matrix.h.
uint8_t ValueAt(const Blob& run, int64_t index, int bits) {
  const int64_t bit = index * bits;
  const int shift = static_cast<int>(bit & 7);
  const uint8_t* in = Raw(run) + (bit >> 3);
  uint32_t word = in[0];
  if (shift + bits > 8) word |= static_cast<uint32_t>(in[1]) << 8;
  return static_cast<uint8_t>((word >> shift) & ((1u << bits) - 1u));
}

// ---- levels as bytes ----

struct LevelTables {
  std::vector<std::array<int8_t, packed::kTableEntries>> tables;
  float unit = 1;   // value = entry * unit
  float worst = 0;  // largest error, relative to the largest level
  // For sets: the place in the table of each set's codes.
  std::array<std::array<uint8_t, packed::kTableEntries>, packed::kTableEntries> place = {};
};

// The multiple that makes whole numbers of all levels, else the one that leaves the least error.
float BestMultiple(const std::vector<float>& levels) {
  float largest = 0;
  for (const float level : levels) largest = std::max(largest, std::fabs(level));
  if (!(largest > 0)) return 1;
  const float most = 127 / largest;
  const auto error = [&](float multiple) {
    double sum = 0;
    for (const float level : levels) {
      const double off = std::nearbyint(level * multiple) / static_cast<double>(multiple) - level;
      sum += off * off;
    }
    return sum;
  };
  for (float multiple = 0x1p-10f; multiple <= most && multiple <= 0x1p14f; multiple *= 2) {
    if (error(multiple) == 0) return multiple;
  }
  float best = most;
  constexpr int kTries = 2048;
  for (int i = 0; i < kTries; ++i) {
    const float multiple = most * (1 - static_cast<float>(i) / (2 * kTries));
    if (error(multiple) < error(best)) best = multiple;
  }
  return best;
}

// Levels [sets, count]. Nothing when sets differ in more than one level, or a level is not a number.
std::optional<LevelTables> MakeTables(const Mat<float>& levels) {
  LevelTables made;
  const int64_t sets = levels.rows(), count = levels.cols();
  std::vector<float> base, last;
  for (int64_t c = 0; c < count; ++c) {
    bool common = true;
    for (int64_t s = 1; s < sets; ++s) {
      common =
          common && std::find(levels.row(s), levels.row(s) + count, levels(0, c)) != levels.row(s) + count;
    }
    if (common) base.push_back(levels(0, c));
  }
  const bool single = sets == 1;
  if (!single && static_cast<int64_t>(base.size()) != count - 1) return std::nullopt;
  std::vector<float> all = base;
  for (int64_t s = 0; s < sets && !single; ++s) {
    for (int64_t c = 0; c < count; ++c) {
      const auto found = std::find(base.begin(), base.end(), levels(s, c));
      made.place[static_cast<size_t>(s)][static_cast<size_t>(c)] =
          static_cast<uint8_t>(found - base.begin());  // count - 1: the set's own
      if (found == base.end()) last.push_back(levels(s, c));
    }
    if (static_cast<int64_t>(last.size()) != s + 1) return std::nullopt;
  }
  all.insert(all.end(), last.begin(), last.end());
  if (!std::all_of(all.begin(), all.end(), [](float level) { return std::isfinite(level); }))
    return std::nullopt;
  const float multiple = BestMultiple(all);
  made.unit = 1 / multiple;
  float largest = 0;
  for (const float level : all) {
    made.worst = std::max(made.worst, std::fabs(std::nearbyint(level * multiple) / multiple - level));
    largest = std::max(largest, std::fabs(level));
  }
  made.worst /= std::max(largest, 1e-30f);
  for (const std::vector<float>* list : {&base, &last}) {
    if (list->empty()) continue;
    auto& table = made.tables.emplace_back();
    table.fill(0);
    for (size_t i = 0; i < list->size(); ++i) {
      table[i] = static_cast<int8_t>(std::nearbyint((*list)[i] * multiple));
    }
  }
  return made;
}

Mat<float> LevelsOf(const Coded& coded) {
  Mat<float> levels(coded.grid.NumSets(), coded.grid.NumLevels());
  for (int64_t i = 0; i < levels.rows() * levels.cols(); ++i) {
    F16 half;
    std::memcpy(&half, coded.levels.bytes.data() + 2 * i, 2);
    levels.data()[i] = ToFloat(half);
  }
  return levels;
}

// ---- grids ----

// What the columns of a step take from their group, for one row.
void ReadGroups(const Coded& coded, const PackedShape& shape, int64_t row, int64_t i, TileCodes& out) {
  const GridSpec& grid = coded.grid;
  const int64_t group = grid.GroupSize(shape.cols), groups = grid.NumGroups(shape.cols);
  for (int64_t s = 0; s < out.steps; ++s) {
    // The second step of a pair of 16 columns may lie past the matrix.
    const int64_t g = row * groups + std::min(s * shape.step / group, groups - 1), at = i * out.steps + s;
    if (grid.scale == ScaleKind::kHalf) {
      std::memcpy(&out.scales[at], coded.scales.bytes.data() + 2 * g, 2);
    } else if (grid.scale != ScaleKind::kNone) {
      out.scales[at] = ValueAt(coded.scales, g, grid.scale == ScaleKind::kSteps ? grid.scale_bits : 8);
    }
    if (grid.HasZeros()) out.offsets[at] = ValueAt(coded.zeros, g, grid.ZeroBits());
    if (HasSets(shape.kind)) out.sets[at] = ValueAt(coded.sets, g, 2);
  }
  if (grid.scale == ScaleKind::kSteps) std::memcpy(&out.units[i], coded.units.bytes.data() + 2 * row, 2);
}

TileCodeSource GridCodes(const Matrix& matrix, const PackedShape& shape,
                         std::shared_ptr<const LevelTables> levels) {
  return [matrix, shape, levels](const KernelSet& kernels, int64_t row, int64_t count, TileCodes& out) {
    const auto& coded = std::get<Coded>(matrix.body);
    std::vector<std::byte> buffer;
    const CodeRuns runs = RunsOf(matrix, row, count, 0, matrix.cols, buffer);
    for (int64_t i = 0; i < count; ++i) {
      uint8_t* codes = out.codes.data() + i * out.stride;
      kernels.unpack(reinterpret_cast<const uint8_t*>(runs.data + i * runs.stride), matrix.cols,
                     coded.grid.bits, codes);
      ReadGroups(coded, shape, row + i, i, out);
      for (int64_t k = 0; HasSets(shape.kind) && k < matrix.cols; ++k) {
        codes[k] = levels->place[out.sets[i * out.steps + k / shape.step]][codes[k]];
      }
    }
  };
}

// ---- tables of rows and groups ----

// The tables of a layer whose rows have their own, as entries of bytes. Under scales of groups they share the
// unit; tables of values have a scale each, fp16 over a power of two.
struct RowTables {
  Mat<float> levels;  // [tables, entries]
  bool own_scales = false, of_steps = false;
  float unit = 1;

  // The scale of a table, in units.
  F16 ScaleOf(int64_t table) const {
    float largest = 0;
    for (int64_t c = 0; c < levels.cols(); ++c) largest = std::max(largest, std::fabs(levels(table, c)));
    return ToF16(largest / (127 * unit));
  }
  void Encode(int64_t table, uint8_t* out) const {
    const float width = own_scales ? ToFloat(ScaleOf(table)) * unit : unit;
    for (int64_t c = 0; c < levels.cols(); ++c) {
      const float entry =
          width > 0 ? std::clamp(std::nearbyint(levels(table, c) / width), -128.0f, 127.0f) : 0;
      out[c] = static_cast<uint8_t>(static_cast<int>(entry) + 128);
    }
  }
};

// Nothing when a level is not a number.
std::shared_ptr<const RowTables> MakeRowTables(const Coded& coded) {
  auto made = std::make_shared<RowTables>();
  const GridSpec& grid = coded.grid;
  const int64_t entries = grid.NumLevels();
  made->levels.Resize(static_cast<int64_t>(coded.levels.bytes.size()) / (2 * entries), entries);
  made->own_scales = grid.scale == ScaleKind::kNone;
  made->of_steps = grid.tables == TableScope::kGroup;
  float largest = 0;
  for (int64_t i = 0; i < made->levels.rows() * entries; ++i) {
    F16 half;
    std::memcpy(&half, coded.levels.bytes.data() + 2 * i, 2);
    const float level = ToFloat(half);
    if (!std::isfinite(level)) return nullptr;
    made->levels.data()[i] = level;
    largest = std::max(largest, std::fabs(level));
  }
  if (!(largest > 0)) return made;
  // Scales are fp16 numbers of at most 2^15.
  made->unit = made->own_scales ? std::exp2(std::ceil(std::log2(largest / 127)) - 15) : largest / 127;
  return made;
}

TileCodeSource RowTableCodes(const Matrix& matrix, const PackedShape& shape,
                             std::shared_ptr<const RowTables> tables) {
  return [codes = GridCodes(matrix, shape, nullptr), tables, shape, grid = std::get<Coded>(matrix.body).grid](
             const KernelSet& kernels, int64_t row, int64_t count, TileCodes& out) {
    codes(kernels, row, count, out);
    const int64_t group = grid.GroupSize(shape.cols), groups = grid.NumGroups(shape.cols);
    const int64_t of_row = tables->of_steps ? out.steps : 1;
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t s = 0; s < of_row; ++s) {
        const int64_t g = std::min(s * shape.step / group, groups - 1);
        const int64_t table = grid.TableOf(row + i, g, groups, 0);
        tables->Encode(table, out.tables.data() + packed::kTableEntries * (i * of_row + s));
        if (!tables->own_scales) continue;
        const F16 scale = tables->ScaleOf(table);
        if (tables->of_steps) out.scales[i * out.steps + s] = scale.bits;
        if (!tables->of_steps) out.units[i] = scale.bits;
      }
      for (int64_t s = 0; tables->own_scales && !tables->of_steps && s < out.steps; ++s) {
        out.scales[i * out.steps + s] = 1;
      }
    }
  };
}

// Kind, zeros and tables; false when there is no kernel.
bool SetGridKind(const Coded& coded, CodePlan& plan, std::shared_ptr<const LevelTables>& levels) {
  const GridSpec& grid = coded.grid;
  PackedShape& shape = plan.shape;
  if (grid.Uniform()) {
    constexpr PackedKind kOfBits[] = {PackedKind::kInt2, PackedKind::kInt3, PackedKind::kInt4};
    shape.kind = grid.bits > 4 ? PackedKind::kInt8 : kOfBits[std::max(grid.bits, 2) - 2];
    shape.zero = grid.HasZeros() ? 0 : 1 << (grid.bits - 1);
    if (grid.HasZeros()) {
      shape.offsets = grid.ZeroBits() <= 4 ? Offsets::kNibbles : Offsets::kBytes;
      shape.zero_shift = grid.ZeroBits() - grid.bits;
    }
    return true;
  }
  if (grid.bits > 4 || grid.InBlocks()) return false;
  auto tables = MakeTables(LevelsOf(coded));
  if (!tables.has_value()) return false;
  constexpr PackedKind kOfBits[] = {PackedKind::kTable2, PackedKind::kTable3, PackedKind::kTable4};
  shape.kind = kOfBits[std::max(grid.bits, 2) - 2];
  if (grid.NumSets() > 1) {
    if (grid.bits < 3) return false;
    shape.kind = grid.bits == 3 ? PackedKind::kSets3 : PackedKind::kSets4;
  }
  shape.zero = 128;
  shape.unit = tables->unit;
  shape.num_tables = static_cast<int64_t>(tables->tables.size());
  plan.tables = tables->tables;
  if (tables->worst > 0) {
    plan.note = fmt::format("levels of {} rounded to 8 bits, off by up to {:.2f} % of the largest",
                            GridText(grid), 100 * tables->worst);
  }
  levels = std::make_shared<const LevelTables>(*std::move(tables));
  return true;
}

bool SetGridScales(const Coded& coded, PackedShape& shape) {
  switch (coded.grid.scale) {
    case ScaleKind::kHalf:
      shape.scales = Scales::kHalf;
      return true;
    case ScaleKind::kSteps:
      shape.scales = Scales::kRowBytes;
      return true;
    case ScaleKind::kE8M0:
      shape.scales = Scales::kPowers;
      return true;
    case ScaleKind::kNone:
      return false;
    case ScaleKind::kE4M3: {
      shape.scales = Scales::kE4M3;
      float unit = 0;
      std::memcpy(&unit, coded.units.bytes.data(), 4);
      shape.unit *= unit;
      // Neither signs nor the pattern that is no number.
      return std::isfinite(shape.unit) && shape.unit > 0 &&
             std::all_of(coded.scales.bytes.begin(), coded.scales.bytes.end(),
                         [](std::byte b) { return static_cast<uint8_t>(b) < 0x7f; });
    }
  }
  return false;
}

// Chooses among the steps that fit groups of `group`; false when none does.
bool SetStep(int64_t group, int preferred_step, bool step_tables, PackedShape& shape) {
  int64_t best_bytes = 0;
  int best = 0;
  for (const int step : {128, 64, 32, 16}) {
    if (!StepFits(group, shape.cols, step) || (step == 16 && best != 0)) continue;
    shape.step = step;
    if (step_tables) shape.num_tables = PackedSteps(shape.cols, step);
    const auto layout = LayOutPacked(shape);
    if (!layout.ok()) return false;
    if (best == 0 || layout->main_bytes < best_bytes || step == preferred_step) {
      best = step;
      best_bytes = step == preferred_step ? 0 : layout->main_bytes;
    }
  }
  shape.step = best;
  if (step_tables && best != 0) shape.num_tables = PackedSteps(shape.cols, best);
  return best != 0;
}

std::optional<CodePlan> PlanRowTables(const Matrix& matrix, const Coded& coded, int preferred_step) {
  const GridSpec& grid = coded.grid;
  const auto tables = MakeRowTables(coded);
  if (tables == nullptr) return std::nullopt;
  CodePlan plan;
  PackedShape& shape = plan.shape;
  constexpr PackedKind kOfBits[] = {PackedKind::kRows2, PackedKind::kRows3, PackedKind::kRows4};
  shape.kind = kOfBits[grid.bits - 2];
  shape.rows = matrix.rows;
  shape.cols = matrix.cols;
  shape.zero = 128;
  shape.num_tables = 1;
  shape.unit = tables->unit;
  if (tables->own_scales) {
    shape.scales = tables->of_steps ? Scales::kHalf : Scales::kRowBytes;
  } else if (!SetGridScales(coded, shape)) {
    return std::nullopt;
  }
  const bool groups = tables->of_steps || !tables->own_scales;
  const int64_t group = groups ? grid.GroupSize(matrix.cols) : matrix.cols;
  if (!SetStep(group, preferred_step, tables->of_steps, shape)) return std::nullopt;
  plan.note = fmt::format("levels of {} rounded to 8 bits, off by up to 0.4 % of the largest{}",
                          GridText(grid), tables->own_scales ? " of their table" : "");
  plan.source = RowTableCodes(matrix, shape, tables);
  return plan;
}

}  // namespace

std::optional<CodePlan> PlanCodes(const Matrix& matrix, int preferred_step) {
  if (const auto* blocks = std::get_if<Blocks>(&matrix.body)) {
    return PlanBlockCodes(matrix, *blocks, preferred_step);
  }
  const auto* coded = std::get_if<Coded>(&matrix.body);
  if (coded == nullptr || coded->Scattered()) return std::nullopt;
  if (coded->grid.tables != TableScope::kTensor) return PlanRowTables(matrix, *coded, preferred_step);
  CodePlan plan;
  plan.shape.rows = matrix.rows;
  plan.shape.cols = matrix.cols;
  std::shared_ptr<const LevelTables> levels;
  if (!SetGridKind(*coded, plan, levels) || !SetGridScales(*coded, plan.shape) ||
      !SetStep(coded->grid.GroupSize(matrix.cols), preferred_step, false, plan.shape)) {
    return std::nullopt;
  }
  plan.source = GridCodes(matrix, plan.shape, std::move(levels));
  return plan;
}

CodePlan PlanRoundedCodes(const Matrix& matrix, int step) {
  CodePlan plan;
  plan.shape.kind = PackedKind::kInt8;
  plan.shape.zero = 128;
  plan.shape.step = step;
  plan.shape.rows = matrix.rows;
  plan.shape.cols = matrix.cols;
  plan.note = fmt::format("{} factor rounded to int8 in steps of {}", Describe(matrix), step);
  plan.source = [matrix, step](const KernelSet&, int64_t row, int64_t count, TileCodes& out) {
    Mat<float> values(count, matrix.cols);
    ReadRows(matrix, row, count, 0, matrix.cols, values.data(), matrix.cols);
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t s = 0; s < out.steps; ++s) {
        const int64_t begin = s * step, end = std::min(matrix.cols, begin + step);
        float largest = 0;
        for (int64_t k = begin; k < end; ++k) largest = std::max(largest, std::fabs(values(i, k)));
        const F16 scale = ToF16(largest / 127.0f);
        const float width = ToFloat(scale), inverse = width > 0 ? 1.0f / width : 0.0f;
        out.scales[i * out.steps + s] = scale.bits;
        for (int64_t k = begin; k < end; ++k) {
          const float code = std::clamp(std::nearbyint(values(i, k) * inverse), -128.0f, 127.0f);
          out.codes[i * out.stride + k] = static_cast<uint8_t>(static_cast<int>(code) + 128);
        }
      }
    }
  };
  return plan;
}

}  // namespace planish
