#include "runtime/packed_blocks.h"

#include <cstring>

#include "grids/gguf_tables.h"

namespace planish {
namespace {

using packed::KernelSet;
using packed::Offsets;
using packed::Scales;

// One block, as gguf_decode.cc lays out its bytes.
struct BlockCodes {
  uint8_t codes[256];
  uint16_t scales[16], offsets[16];
  uint16_t unit, offset_unit;
};

uint16_t HalfBits(const uint8_t* b) {
  uint16_t bits;
  std::memcpy(&bits, b, 2);
  return bits;
}
uint32_t Word(const uint8_t* b) {
  uint32_t word;
  std::memcpy(&word, b, 4);
  return word;
}
uint16_t Negated(uint16_t half) { return half ^ 0x8000u; }

// Blocks of 32: low nibbles are elements 0 to 15, high ones 16 to 31.
void Nibbles32(const uint8_t* q, uint8_t* codes) {
  for (int i = 0; i < 16; ++i) {
    codes[i] = q[i] & 15;
    codes[i + 16] = q[i] >> 4;
  }
}
void FifthBits(uint32_t high, uint8_t* codes) {
  for (int i = 0; i < 32; ++i) codes[i] |= static_cast<uint8_t>(((high >> i) & 1) << 4);
}

void ReadQ4_0(const uint8_t* b, BlockCodes& out) {
  out.scales[0] = HalfBits(b);
  Nibbles32(b + 2, out.codes);
}
void ReadQ4_1(const uint8_t* b, BlockCodes& out) {
  out.scales[0] = HalfBits(b);
  out.offsets[0] = Negated(HalfBits(b + 2));
  Nibbles32(b + 4, out.codes);
}
void ReadQ5_0(const uint8_t* b, BlockCodes& out) {
  out.scales[0] = HalfBits(b);
  Nibbles32(b + 6, out.codes);
  FifthBits(Word(b + 2), out.codes);
}
void ReadQ5_1(const uint8_t* b, BlockCodes& out) {
  out.scales[0] = HalfBits(b);
  out.offsets[0] = Negated(HalfBits(b + 2));
  Nibbles32(b + 8, out.codes);
  FifthBits(Word(b + 4), out.codes);
}
void ReadQ8_0(const uint8_t* b, BlockCodes& out) {
  out.scales[0] = HalfBits(b);
  for (int i = 0; i < 32; ++i) out.codes[i] = b[2 + i] ^ 0x80u;
}
void ReadMxfp4(const uint8_t* b, BlockCodes& out) {
  out.scales[0] = b[0];
  Nibbles32(b + 1, out.codes);
}
void ReadNvfp4(const uint8_t* b, BlockCodes& out) {
  for (int k = 0; k < 4; ++k) {
    const uint8_t bits = b[k] & 0x7f;
    out.scales[k] = bits == 0x7f ? 0 : bits;
    for (int i = 0; i < 8; ++i) {
      out.codes[16 * k + i] = b[4 + 8 * k + i] & 15;
      out.codes[16 * k + i + 8] = b[4 + 8 * k + i] >> 4;
    }
  }
}

// The k-th pair of 6-bit scale and minimum of Q4_K and Q5_K.
void ReadScalesAndMinima(const uint8_t* b, BlockCodes& out) {
  out.unit = HalfBits(b);
  out.offset_unit = HalfBits(b + 2);
  const uint8_t* s = b + 4;
  for (int k = 0; k < 8; ++k) {
    const int scale = k < 4 ? s[k] & 63 : (s[k + 4] & 15) | (s[k - 4] >> 6) << 4;
    const int min = k < 4 ? s[k + 4] & 63 : (s[k + 4] >> 4) | (s[k] >> 6) << 4;
    out.scales[k] = static_cast<uint16_t>(scale);
    out.offsets[k] = static_cast<uint16_t>(min);
  }
}
void ReadQ4_K(const uint8_t* b, BlockCodes& out) {
  ReadScalesAndMinima(b, out);
  for (int k = 0; k < 256; ++k) out.codes[k] = (b[16 + 32 * (k / 64) + k % 32] >> (4 * (k / 32 % 2))) & 15;
}
void ReadQ5_K(const uint8_t* b, BlockCodes& out) {
  ReadScalesAndMinima(b, out);
  for (int k = 0; k < 256; ++k) {
    const int low = (b[48 + 32 * (k / 64) + k % 32] >> (4 * (k / 32 % 2))) & 15;
    out.codes[k] = static_cast<uint8_t>(low | ((b[16 + k % 32] >> (k / 32)) & 1) << 4);
  }
}
void ReadQ2_K(const uint8_t* b, BlockCodes& out) {
  out.unit = HalfBits(b + 80);
  out.offset_unit = HalfBits(b + 82);
  for (int k = 0; k < 16; ++k) out.scales[k] = b[k];
  for (int k = 0; k < 256; ++k) out.codes[k] = (b[16 + 32 * (k / 128) + k % 32] >> (2 * (k / 32 % 4))) & 3;
}
void ReadQ3_K(const uint8_t* b, BlockCodes& out) {
  const uint8_t* s = b + 96;
  out.unit = HalfBits(b + 108);
  for (int k = 0; k < 16; ++k) {
    const int low = k < 8 ? s[k] & 15 : s[k - 8] >> 4, high = (s[8 + k % 4] >> (2 * (k / 4))) & 3;
    out.scales[k] = static_cast<uint16_t>(low | high << 4);
  }
  for (int k = 0; k < 256; ++k) {
    const int low = (b[32 + 32 * (k / 128) + k % 32] >> (2 * (k / 32 % 4))) & 3;
    out.codes[k] = static_cast<uint8_t>(low | ((b[k % 32] >> (k / 32)) & 1) << 2);
  }
}
void ReadQ6_K(const uint8_t* b, BlockCodes& out) {
  out.unit = HalfBits(b + 208);
  for (int k = 0; k < 16; ++k) out.scales[k] = b[192 + k] ^ 0x80u;
  for (int k = 0; k < 256; ++k) {
    const int g = k / 128, h = k / 32 % 4, i = k % 32;
    const int low = (b[64 * g + 32 * (h % 2) + i] >> (4 * (h / 2))) & 15;
    out.codes[k] = static_cast<uint8_t>(low | ((b[128 + 32 * g + i] >> (2 * h)) & 3) << 4);
  }
}
void ReadIq4Xs(const uint8_t* b, BlockCodes& out) {
  out.unit = HalfBits(b);
  const uint16_t high = HalfBits(b + 2);
  for (int k = 0; k < 8; ++k) {
    const int low = (b[4 + k / 2] >> (4 * (k % 2))) & 15;
    out.scales[k] = static_cast<uint16_t>(low | ((high >> (2 * k)) & 3) << 4);
    Nibbles32(b + 8 + 16 * k, out.codes + 32 * k);
  }
}
void ReadQ2_0(const uint8_t* b, BlockCodes& out) {
  out.scales[0] = HalfBits(b);
  for (int k = 0; k < 64; ++k) out.codes[k] = (b[2 + k / 4] >> (2 * (k % 4))) & 3;
}
void ReadQ1_0(const uint8_t* b, BlockCodes& out) {
  out.scales[0] = HalfBits(b);
  for (int k = 0; k < 128; ++k) out.codes[k] = (b[2 + k / 8] >> (k % 8)) & 1;
}
void ReadTq2_0(const uint8_t* b, BlockCodes& out) {
  out.scales[0] = HalfBits(b + 64);
  for (int k = 0; k < 256; ++k) out.codes[k] = (b[32 * (k / 128) + k % 32] >> (2 * (k % 128 / 32))) & 3;
}

enum class Table : uint8_t { kNone, kIq4, kE2m1, kSigns };

struct BlockForm {
  GgufType type;
  int group;  // columns of a scale
  PackedKind kind;
  Scales scales;
  Offsets offsets;
  int zero, scale_bias;
  Table table;
  void (*read)(const uint8_t*, BlockCodes&);
};

using enum packed::Kind;
constexpr BlockForm kForms[] = {
    {GgufType::kQ4_0, 32, kInt4, Scales::kHalf, Offsets::kConstant, 8, 0, Table::kNone, ReadQ4_0},
    {GgufType::kQ4_1, 32, kInt4, Scales::kHalf, Offsets::kHalf, 0, 0, Table::kNone, ReadQ4_1},
    {GgufType::kQ5_0, 32, kInt8, Scales::kHalf, Offsets::kConstant, 16, 0, Table::kNone, ReadQ5_0},
    {GgufType::kQ5_1, 32, kInt8, Scales::kHalf, Offsets::kHalf, 0, 0, Table::kNone, ReadQ5_1},
    {GgufType::kQ8_0, 32, kInt8, Scales::kHalf, Offsets::kConstant, 128, 0, Table::kNone, ReadQ8_0},
    {GgufType::kQ2_K, 16, kInt2, Scales::kBlockNibbles, Offsets::kBlockNibbles, 0, 0, Table::kNone, ReadQ2_K},
    {GgufType::kQ3_K, 16, kInt3, Scales::kBlockBytes, Offsets::kConstant, 4, 32, Table::kNone, ReadQ3_K},
    {GgufType::kQ4_K, 32, kInt4, Scales::kBlockBytes, Offsets::kBlockBytes, 0, 0, Table::kNone, ReadQ4_K},
    {GgufType::kQ5_K, 32, kInt8, Scales::kBlockBytes, Offsets::kBlockBytes, 0, 0, Table::kNone, ReadQ5_K},
    {GgufType::kQ6_K, 16, kInt8, Scales::kBlockBytes, Offsets::kConstant, 32, 128, Table::kNone, ReadQ6_K},
    {GgufType::kIQ4_NL, 32, kTable4, Scales::kHalf, Offsets::kConstant, 128, 0, Table::kIq4, ReadQ4_0},
    {GgufType::kIQ4_XS, 32, kTable4, Scales::kBlockBytes, Offsets::kConstant, 128, 32, Table::kIq4,
     ReadIq4Xs},
    {GgufType::kMXFP4, 32, kTable4, Scales::kPowers, Offsets::kConstant, 128, 0, Table::kE2m1, ReadMxfp4},
    {GgufType::kNVFP4, 16, kTable4, Scales::kE4M3, Offsets::kConstant, 128, 0, Table::kE2m1, ReadNvfp4},
    {GgufType::kQ1_0, 128, kTable2, Scales::kHalf, Offsets::kConstant, 128, 0, Table::kSigns, ReadQ1_0},
    {GgufType::kQ2_0, 64, kInt2, Scales::kHalf, Offsets::kConstant, 1, 0, Table::kNone, ReadQ2_0},
    {GgufType::kTQ2_0, 256, kInt2, Scales::kHalf, Offsets::kConstant, 1, 0, Table::kNone, ReadTq2_0},
};

void SetTable(Table table, CodePlan& plan) {
  if (table == Table::kNone) return;
  auto& entries = plan.tables.emplace_back();
  entries.fill(0);
  for (size_t i = 0; i < entries.size(); ++i) {
    if (table == Table::kIq4) entries[i] = kIq4Values[i];
    if (table == Table::kE2m1) entries[i] = static_cast<int8_t>(2 * kE2m1Values[i]);
    if (table == Table::kSigns && i < 2) entries[i] = i == 0 ? -1 : 1;
  }
  plan.shape.num_tables = 1;
  if (table == Table::kE2m1) plan.shape.unit = 0.5f;
}

TileCodeSource SourceOf(const BlockForm& form, const Matrix& matrix, int step) {
  return [&form, matrix, step](const KernelSet&, int64_t row, int64_t count, TileCodes& out) {
    const GgufTypeInfo& info = InfoOf(form.type);
    const int64_t blocks = matrix.cols / info.block, steps = info.block / step;
    const auto* bytes = reinterpret_cast<const uint8_t*>(std::get<Blocks>(matrix.body).data.bytes.data());
    BlockCodes block = {};
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t b = 0; b < blocks; ++b) {
        form.read(bytes + ((row + i) * blocks + b) * info.bytes, block);
        std::memcpy(out.codes.data() + i * out.stride + b * info.block, block.codes,
                    static_cast<size_t>(info.block));
        for (int64_t s = 0; s < steps; ++s) {
          const int64_t at = i * out.steps + b * steps + s;
          out.scales[at] = block.scales[s * step / form.group];
          out.offsets[at] = block.offsets[s * step / form.group];
        }
        if (form.scales != Scales::kBlockBytes && form.scales != Scales::kBlockNibbles) continue;
        out.units[i * out.blocks + b] = block.unit;
        out.offset_units[i * out.blocks + b] = block.offset_unit;
      }
    }
  };
}

}  // namespace

std::optional<CodePlan> PlanBlockCodes(const Matrix& matrix, const Blocks& blocks, int preferred_step) {
  for (const BlockForm& form : kForms) {
    if (form.type != blocks.type) continue;
    CodePlan plan;
    plan.shape.rows = matrix.rows;
    plan.shape.cols = matrix.cols;
    plan.shape.kind = form.kind;
    plan.shape.scales = form.scales;
    plan.shape.offsets = form.offsets;
    plan.shape.zero = form.zero;
    plan.shape.scale_bias = form.scale_bias;
    SetTable(form.table, plan);
    plan.shape.step = std::min(form.group, 128);
    const bool fits = preferred_step >= 32 && form.group % preferred_step == 0;
    if (fits && form.scales == Scales::kHalf) plan.shape.step = preferred_step;
    plan.source = SourceOf(form, matrix, plan.shape.step);
    return plan;
  }
  return std::nullopt;
}

}  // namespace planish
