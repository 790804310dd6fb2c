// GPTQ and AWQ checkpoints. Layouts: https://github.com/ModelCloud/GPTQModel and
// https://github.com/casper-hansen/AutoAWQ.
//
// GPTQ packs codes along the input: the words of column o of qweight [in b / 32, out] are one little-endian
// run of bits, which is the row that Coded stores. AWQ packs eight columns into a word, in the order 0 2 4 6
// 1 3 5 7 from the lowest bits up.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "base/names.h"
#include "layer/bit_run.h"
#include "layer/quantized_parts.h"

namespace planish::quantized {
namespace {

bool IsGptqBits(int64_t bits) { return bits == 2 || bits == 3 || bits == 4 || bits == 8; }

Result<int64_t> FirstInt(const Json& config, std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    if (config.contains(key) && !config[key].is_null()) return JsonInt(config, key);
  }
  return JsonInt(config, *keys.begin());
}

Result<std::string> FirstString(const Json& config, std::initializer_list<const char*> keys,
                                const std::string& fallback) {
  for (const char* key : keys) {
    if (config.contains(key) && !config[key].is_null()) return JsonString(config, key);
  }
  return fallback;
}

// [groups, out] -> [out, groups].
std::vector<float> Transposed(const std::vector<float>& scales, int64_t groups, int64_t out) {
  std::vector<float> turned(scales.size());
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t o = 0; o < out; ++o) {
      turned[static_cast<size_t>(o * groups + g)] = scales[static_cast<size_t>(g * out + o)];
    }
  }
  return turned;
}

Status CheckGroup(int64_t group) {
  if (group == -1 || (group >= 1 && group <= (int64_t{1} << 24))) return {};
  return InputError(fmt::format("group_size: expected -1 or a positive size, found {}", group));
}

// What both formats have: words of codes beside scales.
class WordReader : public QuantizedReader {
 public:
  bool Holds(const std::string& weight) const override {
    return checkpoint_.Has(ModuleOf(weight) + ".qweight");
  }

 protected:
  using QuantizedReader::QuantizedReader;
};

class GptqReader : public WordReader {
 public:
  static Result<std::unique_ptr<QuantizedReader>> Open(const Json& config, const Checkpoint& checkpoint) {
    auto reader = std::unique_ptr<GptqReader>(new GptqReader(checkpoint));
    PLANISH_RETURN_IF_ERROR(reader->ReadConfig(config));
    return std::unique_ptr<QuantizedReader>(std::move(reader));
  }
  Result<Matrix> Read(const std::string& weight, int64_t rows, int64_t cols) override;

 private:
  using WordReader::WordReader;
  Status ReadConfig(const Json& config);
  Status AddSizes(const Json& object);
  Result<int> BitsOf(const std::string& module, int64_t out, int64_t in) const;
  Status ReadGroups(const std::string& module, int64_t groups, Stated& stated) const;
  Status ReadZeros(const std::string& module, int64_t groups, Stated& stated);

  std::set<int64_t> bits_;
  std::vector<int64_t> group_sizes_;  // the general one first, then those of single modules
  bool v1_ = true, warned_ = false;
};

Status GptqReader::AddSizes(const Json& object) {
  PLANISH_TRY(const int64_t bits, FirstInt(object, {"bits", "w_bit", "wbits"}));
  PLANISH_TRY(const int64_t group, FirstInt(object, {"group_size", "q_group_size"}));
  if (!IsGptqBits(bits)) return InputError(fmt::format("bits: expected 2, 3, 4 or 8, found {}", bits));
  PLANISH_RETURN_IF_ERROR(CheckGroup(group));
  bits_.insert(bits);
  group_sizes_.push_back(group);
  return {};
}

Status GptqReader::ReadConfig(const Json& config) {
  PLANISH_RETURN_IF_ERROR(AddSizes(config));
  PLANISH_TRY(const std::string format, FirstString(config, {"checkpoint_format", "format"}, "gptq"));
  if (format != "gptq" && format != "gptq_v2") {
    return InputError(fmt::format(
        "checkpoint_format '{}': expected gptq or gptq_v2 (codes repacked for one kernel cannot be read; use "
        "the checkpoint they were made from)",
        Abbreviate(format)));
  }
  v1_ = format == "gptq";
  PLANISH_TRY(const std::string pack, JsonString(config, "pack_dtype", "int32"));
  if (pack != "int32") return InputError(fmt::format("pack_dtype '{}': expected int32", Abbreviate(pack)));
  if (!config.contains("dynamic") || config["dynamic"].is_null()) return {};
  const Json& dynamic = config["dynamic"];
  if (!dynamic.is_object()) return InputError("dynamic: expected an object");
  for (const auto& [pattern, change] : dynamic.items()) {
    if (pattern.starts_with("-:") || !change.is_object()) continue;
    Json merged = {{"bits", *bits_.begin()}, {"group_size", group_sizes_.front()}};
    merged.update(change);
    const Status added = AddSizes(merged);
    if (!added.ok()) return added.error().At(fmt::format("dynamic '{}'", Abbreviate(pattern)));
  }
  return {};
}

// The number of words says how wide a code is; it must be a width that the configuration has.
Result<int> GptqReader::BitsOf(const std::string& module, int64_t out, int64_t in) const {
  PLANISH_TRY(const TensorView words, checkpoint_.Get(module + ".qweight"));
  for (const int64_t bits : bits_) {
    if (in * bits % 32 != 0 || words.shape != std::vector<int64_t>{in * bits / 32, out}) continue;
    if (words.type == DType::kI32) return static_cast<int>(bits);
  }
  return InputError(fmt::format(
      "tensor '{}.qweight': expected I32 [{} b / 32, {}] with b = {} from the config, found {} {}", module,
      in, out, fmt::join(bits_, " or "), DTypeName(words.type), ShapeText(words.shape)));
}

Status GptqReader::ReadGroups(const std::string& module, int64_t groups, Stated& stated) const {
  const int64_t in = stated.cols;
  const auto fits = [&](int64_t size) { return groups == (size == -1 ? 1 : (in + size - 1) / size); };
  const auto it = std::ranges::find_if(group_sizes_, fits);
  const std::string name = module + ".g_idx";
  if (it != group_sizes_.end()) stated.grid.group = *it == -1 || *it >= in ? 0 : *it;
  if (!checkpoint_.Has(name)) {
    if (it != group_sizes_.end()) return {};
    return InputError(
        fmt::format("tensor '{}.scales': {} groups of {} inputs, which no group_size of the "
                    "config ({}) gives",
                    module, groups, in, fmt::join(group_sizes_, ", ")));
  }
  PLANISH_TRY(const TensorView view, Expect(checkpoint_, name, {DType::kI32}, {in}));
  bool in_order = it != group_sizes_.end();
  for (int64_t j = 0; j < in; ++j) {
    const auto g = static_cast<int32_t>(WordAt(view, j));
    if (g < 0 || g >= groups) {
      return InputError(
          fmt::format("tensor '{}': element {}: expected a group below {}, found {}", name, j, groups, g));
    }
    in_order = in_order && g == j / stated.grid.GroupSize(in);
    stated.columns.push_back(g);
  }
  if (in_order) stated.columns.clear();
  return {};
}

Status GptqReader::ReadZeros(const std::string& module, int64_t groups, Stated& stated) {
  const int bits = stated.grid.bits;
  const std::string name = module + ".qzeros";
  if (stated.rows * bits % 32 != 0) {
    return InputError(
        fmt::format("tensor '{}': {} zeros of {} bits do not fill words", name, stated.rows, bits));
  }
  PLANISH_TRY(const TensorView view,
              Expect(checkpoint_, name, {DType::kI32}, {groups, stated.rows * bits / 32}));
  stated.zeros.resize(static_cast<size_t>(groups * stated.rows));
  const int64_t row_bytes = stated.rows * bits / 8;
  bool beyond = false;
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t o = 0; o < stated.rows; ++o) {
      const int zero = RunValue(view.data + g * row_bytes, o, bits) + (v1_ ? 1 : 0);
      beyond = beyond || zero >> bits != 0;
      stated.zeros[static_cast<size_t>(o * groups + g)] = static_cast<uint16_t>(zero);
    }
  }
  if (beyond && !warned_) {
    warned_ = true;
    notes_.push_back(
        fmt::format("{}: zero points are stored less one, and a stored {} is read as {}, as the format says; "
                    "some programs "
                    "mean 0 by it",
                    name, (1 << bits) - 1, 1 << bits));
  }
  return {};
}

Result<Matrix> GptqReader::Read(const std::string& weight, int64_t rows, int64_t cols) {
  const std::string module = ModuleOf(weight);
  Stated stated{.rows = rows, .cols = cols};
  PLANISH_TRY(stated.grid.bits, BitsOf(module, rows, cols));
  PLANISH_TRY(const TensorView words, checkpoint_.Get(module + ".qweight"));
  PLANISH_TRY(const TensorView scales, checkpoint_.Get(module + ".scales"));
  if (scales.shape.size() != 2 || scales.shape[1] != rows || scales.shape[0] < 1 || scales.shape[0] > cols) {
    return InputError(fmt::format("tensor '{}.scales': expected [groups, {}], found {}", module, rows,
                                  ShapeText(scales.shape)));
  }
  const int64_t groups = scales.shape[0];
  PLANISH_RETURN_IF_ERROR(ReadGroups(module, groups, stated));
  PLANISH_TRY(const auto values, ReadFloats(checkpoint_, module + ".scales", scales.shape));
  stated.scales = Transposed(values, groups, rows);
  PLANISH_RETURN_IF_ERROR(ReadZeros(module, groups, stated));
  stated.codes = {words.bytes(), checkpoint_.owner()};
  stated.order = CodeOrder::kColumns;
  Matrix matrix = ToParts(std::move(stated));
  CountDecoded(matrix);
  return matrix;
}

class AwqReader : public WordReader {
 public:
  static Result<std::unique_ptr<QuantizedReader>> Open(const Json& config, const Checkpoint& checkpoint) {
    auto reader = std::unique_ptr<AwqReader>(new AwqReader(checkpoint));
    PLANISH_TRY(const int64_t bits, FirstInt(config, {"bits", "w_bit"}));
    if (bits != 4) return InputError(fmt::format("bits: expected 4, found {}", bits));
    PLANISH_TRY(reader->group_, FirstInt(config, {"group_size", "q_group_size"}));
    PLANISH_RETURN_IF_ERROR(CheckGroup(reader->group_));
    PLANISH_TRY(reader->has_zeros_, JsonBool(config, "zero_point", true));
    PLANISH_TRY(std::string version, JsonString(config, "version", "gemm"));
    std::ranges::transform(version, version.begin(), [](unsigned char c) { return std::tolower(c); });
    if (version != "gemm") {
      return InputError(fmt::format("version '{}': expected gemm (other layouts of AWQ cannot be read)",
                                    Abbreviate(version)));
    }
    PLANISH_TRY(const std::string format, FirstString(config, {"checkpoint_format", "format"}, "gemm"));
    if (format != "gemm" && format != "awq") {
      return InputError(fmt::format(
          "checkpoint_format '{}': expected gemm (codes repacked for one kernel cannot be read; use the "
          "checkpoint they were made from)",
          Abbreviate(format)));
    }
    return std::unique_ptr<QuantizedReader>(std::move(reader));
  }
  Result<Matrix> Read(const std::string& weight, int64_t rows, int64_t cols) override;

 private:
  using WordReader::WordReader;
  int64_t group_ = 128;
  bool has_zeros_ = true;
};

// Column 8 c + j lies in word c.
uint8_t AwqCode(const TensorView& words, int64_t row, int64_t col) {
  return static_cast<uint8_t>(WordAt(words, row * words.shape[1] + col / 8) >> (4 * kAwqSlots[col % 8]) & 15);
}

Result<Matrix> AwqReader::Read(const std::string& weight, int64_t rows, int64_t cols) {
  const std::string module = ModuleOf(weight);
  if (rows % 8 != 0) return InputError(fmt::format("'{}': {} outputs are no multiple of 8", module, rows));
  if (group_ != -1 && cols % group_ != 0) {
    return InputError(fmt::format("'{}': {} inputs are no multiple of group_size {}", module, cols, group_));
  }
  Stated stated{.rows = rows, .cols = cols};
  stated.grid.bits = 4;
  stated.grid.group = group_ == -1 || group_ >= cols ? 0 : group_;
  const int64_t groups = stated.grid.NumGroups(cols);
  PLANISH_TRY(const TensorView words,
              Expect(checkpoint_, module + ".qweight", {DType::kI32}, {cols, rows / 8}));
  PLANISH_TRY(const auto scales, ReadFloats(checkpoint_, module + ".scales", {groups, rows}));
  stated.scales = Transposed(scales, groups, rows);
  if (has_zeros_ || checkpoint_.Has(module + ".qzeros")) {
    PLANISH_TRY(const TensorView zeros,
                Expect(checkpoint_, module + ".qzeros", {DType::kI32}, {groups, rows / 8}));
    for (int64_t o = 0; o < rows; ++o) {
      for (int64_t g = 0; g < groups; ++g) stated.zeros.push_back(AwqCode(zeros, g, o));
    }
  }
  stated.codes = {words.bytes(), checkpoint_.owner()};
  stated.order = CodeOrder::kEights;
  Matrix matrix = ToParts(std::move(stated));
  CountDecoded(matrix);
  return matrix;
}

}  // namespace

Result<std::unique_ptr<QuantizedReader>> OpenGptq(const Json& config, const Checkpoint& checkpoint) {
  return GptqReader::Open(config, checkpoint);
}
Result<std::unique_ptr<QuantizedReader>> OpenAwq(const Json& config, const Checkpoint& checkpoint) {
  return AwqReader::Open(config, checkpoint);
}

}  // namespace planish::quantized
