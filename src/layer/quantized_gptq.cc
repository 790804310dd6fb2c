// GPTQ and AWQ checkpoints. Layouts: https://github.com/ModelCloud/GPTQModel and
// https://github.com/casper-hansen/AutoAWQ.
//
// GPTQ packs codes along the input: the words of column o of qweight [in b / 32, out] are one little-endian
// run of bits, which is the row that Coded stores. AWQ packs eight columns into a word, in the order 0 2 4 6
// 1 3 5 7 from the lowest bits up.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/names.h"
#include "layer/bit_run.h"
#include "layer/quantized_parts.h"
#include "layer/quantized_settings.h"

namespace planish::quantized {
namespace {

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

// What both formats have: words of codes beside scales.
class WordReader : public QuantizedReader {
 public:
  bool Holds(const std::string& weight) const override {
    return checkpoint_.Has(ModuleOf(weight) + ".qweight");
  }

 protected:
  WordReader(const Checkpoint& checkpoint, QuantizeSettings settings)
      : QuantizedReader(checkpoint), settings_(std::move(settings)) {}
  // The settings of a module, which must be one that is quantized.
  Result<ModuleSettings> SettingsOf(const std::string& module) const {
    PLANISH_TRY(ModuleSettings settings, settings_.Of(module));
    if (settings.plain_reason.empty()) return settings;
    return InputError(fmt::format(
        "tensor '{0}.qweight': {1} says that '{0}' is not quantized, expected a plain '{0}.weight'; where "
        "the "
        "tensors are right, --ignore-config-fields quantization_config.{2} reads the config without",
        module, settings.plain_reason, settings.plain_field));
  }

 private:
  QuantizeSettings settings_;
};

class GptqReader : public WordReader {
 public:
  static Result<std::unique_ptr<QuantizedReader>> Open(const Json& config, const Checkpoint& checkpoint,
                                                       const std::vector<std::string>& order);
  Result<Matrix> Read(const std::string& weight, int64_t rows, int64_t cols) override;

 private:
  using WordReader::WordReader;
  Status CheckWords(const std::string& module, const TensorView& words, const Stated& stated) const;
  Status ReadGroups(const std::string& module, int64_t groups, const ModuleSettings& settings,
                    Stated& stated) const;
  Status ReadZeros(const std::string& module, int64_t groups, const ModuleSettings& settings, Stated& stated);

  bool v1_ = true, warned_ = false;
};

Result<std::unique_ptr<QuantizedReader>> GptqReader::Open(const Json& config, const Checkpoint& checkpoint,
                                                          const std::vector<std::string>& order) {
  PLANISH_TRY(auto settings, QuantizeSettings::Parse(config, {2, 3, 4, 8}, order));
  PLANISH_TRY(const std::string format, FirstString(config, {"checkpoint_format", "format"}, "gptq"));
  if (format != "gptq" && format != "gptq_v2") {
    return InputError(fmt::format(
        "checkpoint_format '{}': expected gptq or gptq_v2 (codes repacked for one kernel cannot be read; use "
        "the checkpoint they were made from)",
        Abbreviate(format)));
  }
  PLANISH_TRY(const std::string pack, JsonString(config, "pack_dtype", "int32"));
  if (pack != "int32") return InputError(fmt::format("pack_dtype '{}': expected int32", Abbreviate(pack)));
  auto reader = std::unique_ptr<GptqReader>(new GptqReader(checkpoint, std::move(settings)));
  reader->v1_ = format == "gptq";
  return std::unique_ptr<QuantizedReader>(std::move(reader));
}

Status GptqReader::CheckWords(const std::string& module, const TensorView& words,
                              const Stated& stated) const {
  const int64_t in = stated.cols, bits = stated.grid.bits;
  if (words.type == DType::kI32 && in * bits % 32 == 0 &&
      words.shape == std::vector<int64_t>{in * bits / 32, stated.rows})
    return {};
  return InputError(fmt::format(
      "tensor '{}.qweight': expected I32 [{} b / 32, {}] with b = {} from the config, found {} {}", module,
      in, stated.rows, bits, DTypeName(words.type), ShapeText(words.shape)));
}

// Which group each input is of. An index is free in files of `desc_act`; where that is false, programs leave
// it out of account.
Status GptqReader::ReadGroups(const std::string& module, int64_t groups, const ModuleSettings& settings,
                              Stated& stated) const {
  const int64_t in = stated.cols, group = settings.group;
  stated.grid.group = group == -1 || group >= in ? 0 : group;
  if (groups != stated.grid.NumGroups(in)) {
    return InputError(
        fmt::format("tensor '{}.scales': {} groups of {} inputs, but group_size {} of the config gives {}",
                    module, groups, in, group, stated.grid.NumGroups(in)));
  }
  const std::string name = module + ".g_idx";
  if (!checkpoint_.Has(name)) {
    if (!settings.act_order.value_or(false) || groups == 1) return {};
    return InputError(fmt::format(
        "no tensor '{}': desc_act is true, so that it is needed to tell the group of each input; where "
        "groups "
        "are runs of inputs after all, --ignore-config-fields quantization_config.desc_act reads them so",
        name));
  }
  PLANISH_TRY(const TensorView view, Expect(checkpoint_, name, {DType::kI32}, {in}));
  bool in_order = true;
  for (int64_t j = 0; j < in; ++j) {
    const auto g = static_cast<int32_t>(WordAt(view, j));
    const int64_t run = j / stated.grid.GroupSize(in);
    if (g < 0 || g >= groups) {
      return InputError(
          fmt::format("tensor '{}': element {}: expected a group below {}, found {}", name, j, groups, g));
    }
    if (g != run && settings.act_order == std::optional<bool>(false)) {
      return InputError(fmt::format(
          "tensor '{}': element {} is group {}, but desc_act is false and group_size {} gives group {}; "
          "--ignore-config-fields quantization_config.desc_act reads the groups of the tensor, "
          "--ignore-tensors {} those of the config",
          name, j, g, group, run, name));
    }
    in_order = in_order && g == run;
    stated.columns.push_back(g);
  }
  if (in_order) stated.columns.clear();
  return {};
}

// Of symmetric codes all zeros are in the middle, which also tells the versions apart.
Status GptqReader::ReadZeros(const std::string& module, int64_t groups, const ModuleSettings& settings,
                             Stated& stated) {
  const int bits = stated.grid.bits, middle = 1 << (bits - 1);
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
      if (settings.symmetric.value_or(false) && zero != middle) {
        const bool other = zero + (v1_ ? -1 : 1) == middle;
        return InputError(fmt::format(
            "tensor '{}': zero point {} of output {}, group {}, but sym is true, for which {} is expected{}; "
            "--ignore-config-fields quantization_config.sym reads it as it is",
            name, zero, o, g, middle,
            other ? fmt::format(" (checkpoint_format {} would give that)", v1_ ? "gptq_v2" : "gptq") : ""));
      }
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
  PLANISH_TRY(const ModuleSettings settings, SettingsOf(module));
  PLANISH_RETURN_IF_ERROR(CheckOnly(checkpoint_, module, {"qweight", "qzeros", "scales", "g_idx"}));
  Stated stated{.rows = rows, .cols = cols};
  stated.grid.bits = static_cast<int>(settings.bits);
  PLANISH_TRY(const TensorView words, checkpoint_.Get(module + ".qweight"));
  PLANISH_RETURN_IF_ERROR(CheckWords(module, words, stated));
  PLANISH_TRY(const TensorView scales, checkpoint_.Get(module + ".scales"));
  if (scales.shape.size() != 2 || scales.shape[1] != rows || scales.shape[0] < 1 || scales.shape[0] > cols) {
    return InputError(fmt::format("tensor '{}.scales': expected [groups, {}], found {}", module, rows,
                                  ShapeText(scales.shape)));
  }
  const int64_t groups = scales.shape[0];
  PLANISH_RETURN_IF_ERROR(ReadGroups(module, groups, settings, stated));
  PLANISH_TRY(const auto values, ReadFloats(checkpoint_, module + ".scales", scales.shape));
  stated.scales = Transposed(values, groups, rows);
  PLANISH_RETURN_IF_ERROR(ReadZeros(module, groups, settings, stated));
  stated.codes = {words.bytes(), checkpoint_.owner()};
  stated.order = CodeOrder::kColumns;
  Matrix matrix = ToParts(std::move(stated));
  CountDecoded(matrix);
  return matrix;
}

class AwqReader : public WordReader {
 public:
  static Result<std::unique_ptr<QuantizedReader>> Open(const Json& config, const Checkpoint& checkpoint,
                                                       const std::vector<std::string>& order) {
    // GPTQModel writes both, and of AWQ zero_point is the one that holds.
    Json stated = config;
    if (!JsonMember(config, "zero_point").is_null()) stated.erase("sym");
    PLANISH_TRY(auto settings, QuantizeSettings::Parse(stated, {4}, order));
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
    auto reader = std::unique_ptr<AwqReader>(new AwqReader(checkpoint, std::move(settings)));
    reader->zero_point_ = !stated.contains("sym");
    return std::unique_ptr<QuantizedReader>(std::move(reader));
  }
  Result<Matrix> Read(const std::string& weight, int64_t rows, int64_t cols) override;

 private:
  using WordReader::WordReader;
  Status ReadZeros(const std::string& module, int64_t groups, bool symmetric, Stated& stated) const;

  bool zero_point_ = true;  // the field says whether there are zero points, not `sym`
};

// Column 8 c + j lies in word c.
uint8_t AwqCode(const TensorView& words, int64_t row, int64_t col) {
  return static_cast<uint8_t>(WordAt(words, row * words.shape[1] + col / 8) >> (4 * kAwqSlots[col % 8]) & 15);
}

// Files without zero points have none, or 8 for all.
Status AwqReader::ReadZeros(const std::string& module, int64_t groups, bool symmetric, Stated& stated) const {
  const std::string name = module + ".qzeros";
  const int64_t rows = stated.rows;
  if (!checkpoint_.Has(name)) {
    if (symmetric) return {};
    return InputError(fmt::format(
        "no tensor '{}': expected, as zero_point is true (or not stated, which means the same)", name));
  }
  PLANISH_TRY(const TensorView zeros, Expect(checkpoint_, name, {DType::kI32}, {groups, rows / 8}));
  for (int64_t o = 0; o < rows; ++o) {
    for (int64_t g = 0; g < groups; ++g) {
      const uint8_t zero = AwqCode(zeros, g, o);
      if (symmetric && zero != 8) {
        return InputError(
            fmt::format("tensor '{}': zero point {} of output {}, group {}, but {}, for which 8 is expected; "
                        "--ignore-config-fields quantization_config.{} reads it as it is",
                        name, zero, o, g, zero_point_ ? "zero_point is false" : "sym is true",
                        zero_point_ ? "zero_point" : "sym"));
      }
      stated.zeros.push_back(zero);
    }
  }
  return {};
}

Result<Matrix> AwqReader::Read(const std::string& weight, int64_t rows, int64_t cols) {
  const std::string module = ModuleOf(weight);
  PLANISH_TRY(const ModuleSettings settings, SettingsOf(module));
  PLANISH_RETURN_IF_ERROR(CheckOnly(checkpoint_, module, {"qweight", "qzeros", "scales"}));
  const int64_t group = settings.group;
  if (rows % 8 != 0) return InputError(fmt::format("'{}': {} outputs are no multiple of 8", module, rows));
  if (group != -1 && cols % group != 0) {
    return InputError(fmt::format("'{}': {} inputs are no multiple of group_size {}", module, cols, group));
  }
  Stated stated{.rows = rows, .cols = cols};
  stated.grid.bits = 4;
  stated.grid.group = group == -1 || group >= cols ? 0 : group;
  const int64_t groups = stated.grid.NumGroups(cols);
  PLANISH_TRY(const TensorView words,
              Expect(checkpoint_, module + ".qweight", {DType::kI32}, {cols, rows / 8}));
  PLANISH_TRY(const auto scales, ReadFloats(checkpoint_, module + ".scales", {groups, rows}));
  stated.scales = Transposed(scales, groups, rows);
  PLANISH_RETURN_IF_ERROR(ReadZeros(module, groups, settings.symmetric.value_or(false), stated));
  stated.codes = {words.bytes(), checkpoint_.owner()};
  stated.order = CodeOrder::kEights;
  Matrix matrix = ToParts(std::move(stated));
  CountDecoded(matrix);
  return matrix;
}

}  // namespace

Result<std::unique_ptr<QuantizedReader>> OpenGptq(const Json& config, const Checkpoint& checkpoint,
                                                  const std::vector<std::string>& order) {
  return GptqReader::Open(config, checkpoint, order);
}
Result<std::unique_ptr<QuantizedReader>> OpenAwq(const Json& config, const Checkpoint& checkpoint,
                                                 const std::vector<std::string>& order) {
  return AwqReader::Open(config, checkpoint, order);
}

}  // namespace planish::quantized
