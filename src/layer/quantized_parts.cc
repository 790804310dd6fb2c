#include "layer/quantized_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "layer/bit_run.h"
#include "layer/code_order.h"
#include "math/gemm.h"

namespace planish::quantized {

std::string ModuleOf(const std::string& weight) {
  constexpr std::string_view kSuffix = ".weight";
  return weight.ends_with(kSuffix) ? weight.substr(0, weight.size() - kSuffix.size()) : weight;
}

Result<bool> MatchesFromFront(const Regex& regex, std::string_view text) {
  Regex::Matcher matcher(regex, text);
  size_t begin = 0, end = 0;
  // The leftmost match starts at the front if any does.
  const bool found = matcher.Next(&begin, &end) && begin == 0;
  PLANISH_RETURN_IF_ERROR(matcher.status());
  return found;
}

Status CheckOnly(const Checkpoint& checkpoint, const std::string& module,
                 std::initializer_list<std::string_view> makers) {
  for (const std::string_view suffix : kWeightTensors) {
    const std::string name = fmt::format("{}.{}", module, suffix);
    if (std::ranges::find(makers, suffix) != makers.end() || !checkpoint.Has(name)) continue;
    return InputError(fmt::format(
        "tensor '{}' stands beside '{}.{}', and would change or replace its values; expected of that weight "
        "only {} (tensors of two checkpoints in one folder?); --ignore-tensors {} reads it without",
        name, module, *makers.begin(), fmt::join(makers, ", "), name));
  }
  return {};
}

Result<TensorView> Expect(const Checkpoint& checkpoint, const std::string& name,
                          std::initializer_list<DType> types, const std::vector<int64_t>& shape) {
  PLANISH_TRY(const TensorView view, checkpoint.Get(name));
  if (std::ranges::find(types, view.type) != types.end() && view.shape == shape) return view;
  std::vector<std::string_view> names;
  for (const DType type : types) names.push_back(DTypeName(type));
  return InputError(fmt::format("tensor '{}': expected {} {}, found {} {}", name, fmt::join(names, " or "),
                                ShapeText(shape), DTypeName(view.type), ShapeText(view.shape)));
}

Result<std::vector<float>> ReadFloats(const Checkpoint& checkpoint, const std::string& name,
                                      const std::vector<int64_t>& shape) {
  PLANISH_TRY(const TensorView view,
              Expect(checkpoint, name, {DType::kF16, DType::kBF16, DType::kF32}, shape));
  std::vector<float> values(static_cast<size_t>(view.NumElements()));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = LoadElement(view.data, view.type, static_cast<int64_t>(i));
    if (!std::isfinite(values[i])) {
      return InputError(fmt::format("tensor '{}': element {} is {}", name, i, values[i]));
    }
  }
  return values;
}

uint32_t WordAt(const TensorView& view, int64_t index) {
  uint32_t word;
  std::memcpy(&word, view.data + 4 * index, 4);
  return word;
}

Blob MakeBlob(int64_t bytes, const std::function<void(uint8_t*)>& fill) {
  if (bytes == 0) return {};
  auto buffer = std::make_shared<Buffer>(static_cast<size_t>(bytes));
  std::memset(buffer->data(), 0, static_cast<size_t>(bytes));
  fill(reinterpret_cast<uint8_t*>(buffer->data()));
  const auto view = std::as_const(*buffer).bytes();
  return {view, std::move(buffer)};
}

namespace {

bool IsHalf(float value) { return ToFloat(ToF16(value)) == value; }

Blob Halves(const Stated& s, int64_t count) {
  return MakeBlob(2 * count, [&](uint8_t* to) {
    for (int64_t k = 0; k < count; ++k) {
      const F16 half = ToF16(s.scales[s.scales.size() == 1 ? 0 : static_cast<size_t>(k)]);
      std::memcpy(to + 2 * k, &half, 2);
    }
  });
}

Matrix Decoded(const Stated& s) {
  const int64_t group = s.grid.GroupSize(s.cols);
  const int64_t groups = s.grid.NumGroups(s.cols);
  const Mat<float> levels = s.grid.Uniform() ? Mat<float>() : FixedLevels(s.grid);
  const auto middle = static_cast<uint16_t>(1 << (s.grid.bits - 1));
  std::vector<uint8_t> codes(static_cast<size_t>(s.cols));
  const Matrix stored{s.rows, s.cols, Coded{.grid = s.grid, .order = s.order, .codes = s.codes}};
  std::vector<std::byte> buffer;
  CodeRuns runs;
  Blob values = MakeBlob(s.rows * s.cols * 4, [&](uint8_t* to) {
    for (int64_t i = 0; i < s.rows; ++i) {
      const int64_t at = i % kRunRows;
      if (at == 0) runs = RunsOf(stored, i, std::min(kRunRows, s.rows - i), 0, s.cols, buffer);
      UnpackRun(runs.data + at * runs.stride, 0, s.cols, s.grid.bits, codes.data());
      for (int64_t j = 0; j < s.cols; ++j, to += 4) {
        const auto g = static_cast<size_t>(
            i * groups + (s.columns.empty() ? j / group : s.columns[static_cast<size_t>(j)]));
        const uint8_t code = codes[static_cast<size_t>(j)];
        const float scale = s.scales[s.scales.size() == 1 ? 0 : g];
        const float step = s.grid.Uniform()
                               ? static_cast<float>(code - (s.zeros.empty() ? middle : s.zeros[g]))
                               : levels(0, code);
        const float value = step * scale;
        std::memcpy(to, &value, 4);
      }
    }
  });
  return DenseMatrix(s.rows, s.cols, DType::kF32, std::move(values));
}

}  // namespace

Matrix ToParts(Stated s) {
  const int64_t groups = s.grid.NumGroups(s.cols), count = s.rows * groups, top = s.grid.NumLevels() - 1;
  const auto middle = static_cast<uint16_t>(1 << (s.grid.bits - 1));
  if (std::ranges::all_of(s.zeros, [&](uint16_t z) { return z == middle; })) s.zeros.clear();
  s.grid.symmetric = s.grid.Uniform() && s.zeros.empty();
  const bool halves = std::ranges::all_of(s.scales, IsHalf);
  const bool zeros_fit = std::ranges::all_of(s.zeros, [&](uint16_t z) { return z <= top; });
  if (!zeros_fit || (!halves && (s.scales.size() > 1 || !s.columns.empty()))) return Decoded(s);
  Coded coded;
  coded.group_of = MakeBlob(4 * static_cast<int64_t>(s.columns.size()),
                            [&](uint8_t* to) { std::memcpy(to, s.columns.data(), 4 * s.columns.size()); });
  if (halves) {
    s.grid.scale = ScaleKind::kHalf;
    coded.scales = Halves(s, count);
  } else {  // one fp32 scale for the whole matrix: the unit of FP8 scales that are all 1
    constexpr uint8_t kOne = 7 << 3;
    s.grid.scale = ScaleKind::kE4M3;
    coded.scales = MakeBlob(count, [&](uint8_t* to) { std::memset(to, kOne, static_cast<size_t>(count)); });
    coded.units = MakeBlob(4, [&](uint8_t* to) { std::memcpy(to, s.scales.data(), 4); });
  }
  coded.grid = s.grid;
  coded.order = s.order;
  coded.codes = std::move(s.codes);
  if (!s.zeros.empty()) {
    const std::vector<uint8_t> zeros(s.zeros.begin(), s.zeros.end());
    coded.zeros = MakeBlob(PackedBytes(count, s.grid.bits),
                           [&](uint8_t* to) { PackRun(zeros.data(), count, s.grid.bits, to); });
  }
  if (!s.grid.Uniform()) {
    const Mat<float> levels = FixedLevels(s.grid);
    coded.levels = MakeBlob(2 * levels.rows() * levels.cols(), [&](uint8_t* to) {
      for (int64_t k = 0; k < levels.rows() * levels.cols(); ++k) {
        const F16 half = ToF16(levels.data()[k]);
        std::memcpy(to + 2 * k, &half, 2);
      }
    });
  }
  return {s.rows, s.cols, std::move(coded)};
}

}  // namespace planish::quantized
