#include "runtime/shapes.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "base/names.h"
#include "base/random.h"
#include "grids/gguf_encode.h"
#include "model/family.h"

namespace planish {
namespace {

struct Shape {
  const char* name;
  int hidden, inter, layers, heads, kv_heads, head_dim, vocab;
};
constexpr Shape kShapes[] = {{"smollm2-135m", 576, 1536, 30, 9, 3, 64, 49152},
                             {"llama-1b", 2048, 8192, 16, 32, 8, 64, 128256},
                             {"llama-8b-block", 4096, 14336, 1, 32, 8, 128, 4096}};

Json ConfigOf(const Shape& shape) {
  return {{"model_type", "llama"},
          {"hidden_size", shape.hidden},
          {"intermediate_size", shape.inter},
          {"num_hidden_layers", shape.layers},
          {"num_attention_heads", shape.heads},
          {"num_key_value_heads", shape.kv_heads},
          {"head_dim", shape.head_dim},
          {"vocab_size", shape.vocab},
          {"max_position_embeddings", 131072},
          {"rms_norm_eps", 1e-5},
          {"tie_word_embeddings", true}};
}

Blob Owned(int64_t bytes, const std::function<void(std::byte*)>& fill) {
  auto buffer = std::make_shared<Buffer>(static_cast<size_t>(bytes));
  fill(buffer->data());
  const std::span<const std::byte> view = buffer->bytes();
  return {view, std::move(buffer)};
}

Blob RandomBytes(const Context& context, int64_t bytes, uint64_t seed, uint64_t stream) {
  return Owned(bytes, [&](std::byte* data) {
    constexpr int64_t kChunk = 1 << 16;
    context.pool->ParallelFor((bytes + kChunk - 1) / kChunk, [&](int64_t chunk) {
      // One random start a chunk, then a xorshift: quality enough for codes nobody looks at.
      uint64_t x = Random(seed, stream).Bits(static_cast<uint64_t>(chunk)) | 1;
      const int64_t end = std::min(bytes, (chunk + 1) * kChunk);
      for (int64_t i = chunk * kChunk; i < end; i += 8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        std::memcpy(data + i, &x, static_cast<size_t>(std::min<int64_t>(8, end - i)));
      }
    });
  });
}

// Equal scales: the stored form of about `scale`.
void SetScales(const GridSpec& grid, float scale, int64_t rows, int64_t groups, Coded& coded) {
  const auto repeat = [](int64_t count, const auto& value) {
    return Owned(count * static_cast<int64_t>(sizeof(value)), [&](std::byte* data) {
      for (int64_t i = 0; i < count; ++i) std::memcpy(data + i * sizeof(value), &value, sizeof(value));
    });
  };
  switch (grid.scale) {
    case ScaleKind::kHalf:
      coded.scales = repeat(groups, ToF16(scale));
      return;
    case ScaleKind::kSteps:  // all ones: the largest step
      coded.scales = repeat(PackedBytes(groups, grid.scale_bits), uint8_t{0xff});
      coded.units = repeat(rows, ToF16(scale / static_cast<float>((1 << grid.scale_bits) - 1)));
      return;
    case ScaleKind::kE8M0:
      coded.scales = repeat(groups, static_cast<uint8_t>(127 + std::lround(std::log2(scale))));
      return;
    case ScaleKind::kNone:
      return;
    case ScaleKind::kE4M3:
      coded.scales = repeat(groups, uint8_t{0x38});  // 1
      coded.units = repeat(1, scale);
      return;
  }
}

// The root of the mean square of codes that are all as frequent.
float SpreadOf(const GridSpec& grid, Coded& coded) {
  if (grid.Uniform()) return static_cast<float>(1 << grid.bits) / std::sqrt(12.0f);
  // Learned levels are as fast as any.
  const Mat<float> levels =
      FixedLevels(grid.Learned() ? GridSpec{.bits = grid.bits, .levels = LevelKind::kNormal} : grid);
  double sum = 0;
  coded.levels = Owned(levels.rows() * levels.cols() * 2, [&](std::byte* data) {
    for (int64_t i = 0; i < levels.rows() * levels.cols(); ++i) {
      const F16 level = ToF16(levels.data()[i]);
      std::memcpy(data + 2 * i, &level, 2);
      sum += double{levels.data()[i]} * levels.data()[i];
    }
  });
  return static_cast<float>(std::sqrt(sum / static_cast<double>(levels.rows() * levels.cols())));
}

Matrix RandomWeight(const Context& context, const LinearSlot& slot, const ShapeOptions& options,
                    uint64_t stream) {
  const auto deviation = static_cast<float>(0.5 / std::sqrt(static_cast<double>(slot.in)));
  const int bits = slot.in_layer ? options.bits : options.head_bits;
  const GridSpec layers = options.grid.value_or(GridSpec{bits, options.group, false});
  const GridSpec grid_of = slot.in_layer ? layers : GridSpec{bits, options.group, false};
  Matrix codes = RandomOnGrid(context, slot.out, slot.in, grid_of, deviation, options.seed, stream * 3);
  const int64_t rank = std::min({options.rank, slot.out, slot.in});
  if (rank == 0 || !slot.in_layer) return codes;
  const IntegerGrid grid{8, 0, true};
  ProductPart path;
  path.factors.push_back(RandomOnGrid(context, slot.out, rank, grid, 0.1f, options.seed, stream * 3 + 1));
  path.factors.push_back(RandomOnGrid(context, rank, slot.in, grid, deviation, options.seed, stream * 3 + 2));
  SumPart sum;
  sum.terms.push_back(std::move(codes));
  sum.terms.push_back({slot.out, slot.in, std::move(path)});
  return {slot.out, slot.in, std::move(sum)};
}

// Some rows of normal values, over and over.
Matrix RandomBlocks(const Context& context, int64_t rows, int64_t cols, GgufType type, float deviation,
                    uint64_t seed, uint64_t stream) {
  constexpr int64_t kRows = 16;
  const Random random(seed, stream);
  Mat<float> values(kRows, cols);
  for (int64_t i = 0; i < kRows * cols; ++i) {
    values.data()[i] = deviation * static_cast<float>(random.Normal(static_cast<uint64_t>(i)));
  }
  const auto row_bytes = static_cast<size_t>(GgufRowBytes(type, cols));
  Buffer some(row_bytes * kRows), all(row_bytes * static_cast<size_t>(rows));
  EncodeBlocks(context, type, values, {}, some.data());
  for (int64_t i = 0; i < rows; ++i) {
    std::memcpy(all.data() + row_bytes * static_cast<size_t>(i),
                some.data() + row_bytes * static_cast<size_t>(i % kRows), row_bytes);
  }
  return BlockMatrix(type, rows, cols, std::move(all));
}

}  // namespace

Matrix RandomOnGrid(const Context& context, int64_t rows, int64_t cols, const GridSpec& grid, float deviation,
                    uint64_t seed, uint64_t stream) {
  const GridSpec fitted = FitToRows(grid, cols);
  if (fitted.InBlocks()) {
    return RandomBlocks(context, rows, cols, fitted.block_type, deviation, seed, stream);
  }
  Coded coded;
  coded.grid = grid;
  const int64_t groups = rows * grid.NumGroups(cols);
  coded.codes = RandomBytes(context, rows * PackedBytes(cols, grid.bits), seed, 4 * stream);
  const float spread = SpreadOf(grid, coded);
  SetScales(grid, deviation / spread, rows, groups, coded);
  if (grid.HasZeros()) {
    coded.zeros = RandomBytes(context, PackedBytes(groups, grid.ZeroBits()), seed, 4 * stream + 1);
  }
  if (grid.NumSets() > 1) coded.sets = RandomBytes(context, PackedBytes(groups, 2), seed, 4 * stream + 2);
  return {rows, cols, std::move(coded)};
}

std::vector<std::string> ShapeNames() {
  std::vector<std::string> names;
  for (const Shape& shape : kShapes) names.push_back(shape.name);
  return names;
}

Result<Model> RandomModel(const Context& context, const std::string& name, const ShapeOptions& options) {
  const Shape* chosen = nullptr;
  for (const Shape& shape : kShapes) {
    if (name == shape.name) chosen = &shape;
  }
  if (chosen == nullptr) {
    const std::string hint = DidYouMean(name, ShapeNames());
    return InputError(fmt::format("no shape '{}'; known: {}{}", Abbreviate(name),
                                  fmt::join(ShapeNames(), ", "), hint.empty() ? "" : "; " + hint));
  }
  Model model;
  model.path = model.name = name;
  model.config = ConfigOf(*chosen);
  PLANISH_TRY(model.program, BuildProgram(model.config));
  for (size_t i = 0; i < model.program.linears.size(); ++i) {
    const LinearSlot& slot = model.program.linears[i];
    model.linears.push_back({slot.weight, RandomWeight(context, slot, options, i), {}});
  }
  for (const VectorSlot& slot : model.program.vectors) {
    model.vectors.emplace_back(static_cast<size_t>(slot.size), 1.0f);
  }
  return model;
}

}  // namespace planish
