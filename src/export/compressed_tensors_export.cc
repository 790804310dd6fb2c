// Layouts as in layer/quantized_compressed.cc, the other way round.
#include "export/compressed_tensors_export.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <optional>

#include "export/gptq_export.h"
#include "export/quantized_plan.h"
#include "layer/bit_run.h"
#include "layer/code_order.h"

namespace planish {
namespace {

using Source = std::shared_ptr<CodeSource>;

enum class Layout { kPacked, kInt8, kFloat8, kNvFloat4, kMxFloat4, kMxFloat8 };
constexpr const char* kLayoutNames[] = {"pack-quantized",       "int-quantized",        "float-quantized",
                                        "nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp8-quantized"};

struct NamedScheme {
  const char* name;
  const char* grid;  // of grids/names.cc
  int64_t group;     // -1: as the grid has it
  bool symmetric;
  const char* inputs;  // "", "int8" or "fp8": quantized by the server, token by token
};
constexpr NamedScheme kSchemes[] = {
    {"auto", "int4", 128, true, ""},        {"w4a16", "int4", 128, true, ""},
    {"w4a16_asym", "int4", 128, false, ""}, {"w8a16", "int8", 128, true, ""},
    {"w8a8", "int8", 0, true, "int8"},      {"fp8_dynamic", "e4m3", 0, false, "fp8"},
    {"nvfp4a16", "nvfp4", -1, false, ""},   {"mxfp4a16", "mxfp4", -1, false, ""},
};

GridSpec GridOf(const NamedScheme& scheme) {
  GridSpec grid = FindGrid(scheme.grid).value();
  if (scheme.group >= 0) grid.group = scheme.group;
  if (grid.Uniform()) grid.symmetric = scheme.symmetric;
  return grid;
}

// Layout of codes, or nothing. Whether int8 is packed or plain depends on the scheme.
std::optional<Layout> LayoutOf(const GridSpec& grid, bool plain_int8) {
  if (grid.PlainInteger()) return plain_int8 ? Layout::kInt8 : Layout::kPacked;
  if (grid.levels != LevelKind::kMinifloat) return std::nullopt;
  const bool e2m1 = grid.bits == 4 && grid.exponent_bits == 2,
             e4m3 = grid.bits == 8 && grid.exponent_bits == 4;
  if (e4m3 && grid.scale == ScaleKind::kHalf) return Layout::kFloat8;
  if (e4m3 && grid.scale == ScaleKind::kE8M0 && grid.group == 32) return Layout::kMxFloat8;
  if (e2m1 && grid.scale == ScaleKind::kE8M0 && grid.group == 32) return Layout::kMxFloat4;
  if (e2m1 && grid.scale == ScaleKind::kE4M3 && grid.group == 16) return Layout::kNvFloat4;
  return std::nullopt;
}

// Rows of codes, each filled by `fill` from the row's packed codes.
template <typename FillRow>
TensorSource RowsSource(const CodedLinear& linear, const Source& source, const char* suffix, DType type,
                        int64_t width, FillRow fill) {
  const int64_t bytes = width * DTypeBits(type) / 8, cols = linear.cols();
  return {{linear.module + suffix, type, {linear.rows(), width}},
          [=](int64_t row, int64_t count, std::span<std::byte> out) -> Status {
            PLANISH_TRY(const CodePanel codes, source->Get(linear, {row, count, 0, cols}));
            std::vector<std::byte> buffer;
            CodeRuns runs;
            for (int64_t i = 0; i < count; ++i) {
              const int64_t at = i % kRunRows;
              if (at == 0) {
                runs = RunsOf(*codes.matrix, row - codes.row + i, std::min(kRunRows, count - i), 0, cols,
                              buffer);
              }
              fill(runs.data + at * runs.stride, out.data() + i * bytes);
            }
            return {};
          },
          {}};
}

// The tensor of scales, whose bytes are those of Coded.
TensorSource Scales(const CodedLinear& linear, const Source& source, DType type) {
  const int64_t groups = linear.grid.NumGroups(linear.cols()), bytes = groups * DTypeBits(type) / 8;
  return {{linear.module + ".weight_scale", type, {linear.rows(), groups}},
          [=](int64_t row, int64_t, std::span<std::byte> out) -> Status {
            PLANISH_TRY(const Coded* coded, source->Scales(linear));
            std::memcpy(out.data(), coded->scales.bytes.data() + row * bytes, out.size());
            return {};
          },
          {}};
}

TensorSource PackedZeros(const CodedLinear& linear, const Source& source) {
  const int64_t rows = linear.rows(), groups = linear.grid.NumGroups(linear.cols());
  const int bits = linear.grid.bits;
  return {{linear.module + ".weight_zero_point", DType::kI32, {(rows * bits + 31) / 32, groups}},
          [=](int64_t row, int64_t count, std::span<std::byte> out) -> Status {
            PLANISH_TRY(const Coded* coded, source->Scales(linear));
            for (int64_t r = row; r < row + count; ++r) {
              for (int64_t g = 0; g < groups; ++g) {
                uint32_t word = 0;
                for (int64_t bit = 32 * r; bit < std::min(32 * (r + 1), rows * bits); ++bit) {
                  const auto zero = static_cast<uint32_t>(ZeroCode(*coded, groups, bit / bits, g));
                  word |= (zero >> (bit % bits) & 1u) << (bit - 32 * r);
                }
                std::memcpy(out.data() + 4 * ((r - row) * groups + g), &word, 4);
              }
            }
            return {};
          },
          {}};
}

TensorSource Shape(const CodedLinear& linear) {
  return {{linear.module + ".weight_shape", DType::kI64, {2}},
          [rows = linear.rows(), cols = linear.cols()](int64_t, int64_t, std::span<std::byte> out) -> Status {
            std::memcpy(out.data(), &rows, 8);
            std::memcpy(out.data() + 8, &cols, 8);
            return {};
          },
          {}};
}

TensorSource GroupIndex(const CodedLinear& linear) {
  return {{linear.module + ".weight_g_idx", DType::kI32, {linear.cols()}}, nullptr, GroupIndexOf(linear)};
}

TensorSource GlobalScale(const CodedLinear& linear, const Source& source) {
  return {{linear.module + ".weight_global_scale", DType::kF32, {1}},
          [=](int64_t, int64_t, std::span<std::byte> out) -> Status {
            PLANISH_TRY(const Coded* coded, source->Scales(linear));
            const float divisor = DivisorOfUnit(*coded).value();
            std::memcpy(out.data(), &divisor, 4);
            return {};
          },
          {}};
}

void AddTensors(const CodedLinear& linear, Layout layout, const Source& source,
                std::vector<TensorSource>& out) {
  const int64_t cols = linear.cols(), row_bytes = PackedBytes(cols, linear.grid.bits);
  const std::vector<uint8_t> table =
      linear.grid.Uniform() ? std::vector<uint8_t>() : MinifloatCodes(linear.grid);
  const auto bytes = [=](const std::byte* from, std::byte* to) {
    for (int64_t j = 0; j < cols; ++j) to[j] = static_cast<std::byte>(table[static_cast<size_t>(from[j])]);
  };
  const auto nibbles = [=](const std::byte* from, std::byte* to) {
    for (int64_t j = 0; j < row_bytes; ++j) {
      const auto byte = static_cast<size_t>(from[j]);
      to[j] = static_cast<std::byte>(table[byte & 15] | table[byte >> 4] << 4);
    }
  };
  switch (layout) {
    case Layout::kPacked: {
      const int64_t words = (cols * linear.grid.bits + 31) / 32;
      const auto copy = [=](const std::byte* from, std::byte* to) {
        std::memset(to, 0, static_cast<size_t>(4 * words));
        std::memcpy(to, from, static_cast<size_t>(row_bytes));
      };
      out.push_back(RowsSource(linear, source, ".weight_packed", DType::kI32, words, copy));
      out.push_back(Scales(linear, source, DType::kF16));
      out.push_back(Shape(linear));
      if (!linear.grid.symmetric) out.push_back(PackedZeros(linear, source));
      if (!GroupIndexOf(linear).empty()) out.push_back(GroupIndex(linear));
      return;
    }
    case Layout::kInt8: {
      const auto flip = [=](const std::byte* from, std::byte* to) {
        for (int64_t j = 0; j < cols; ++j) to[j] = from[j] ^ std::byte{0x80};
      };
      out.push_back(RowsSource(linear, source, ".weight", DType::kI8, cols, flip));
      out.push_back(Scales(linear, source, DType::kF16));
      return;
    }
    case Layout::kFloat8:
    case Layout::kMxFloat8:
      out.push_back(RowsSource(linear, source, ".weight", DType::kF8E4M3, cols, bytes));
      out.push_back(Scales(linear, source, layout == Layout::kFloat8 ? DType::kF16 : DType::kU8));
      return;
    case Layout::kMxFloat4:
    case Layout::kNvFloat4:
      out.push_back(RowsSource(linear, source, ".weight_packed", DType::kU8, cols / 2, nibbles));
      out.push_back(Scales(linear, source, layout == Layout::kNvFloat4 ? DType::kF8E4M3 : DType::kU8));
      if (layout == Layout::kNvFloat4) out.push_back(GlobalScale(linear, source));
      return;
  }
}

OrderedJson Args(int bits, const char* type, bool symmetric, const char* strategy, int64_t group,
                 bool dynamic) {
  OrderedJson args;
  args["num_bits"] = bits;
  args["type"] = type;
  args["symmetric"] = symmetric;
  args["strategy"] = strategy;
  args["group_size"] = group > 0 ? OrderedJson(group) : OrderedJson(nullptr);
  args["block_structure"] = nullptr;
  args["dynamic"] = dynamic;
  args["actorder"] = nullptr;
  args["observer"] = dynamic ? OrderedJson(nullptr) : OrderedJson("minmax");
  args["observer_kwargs"] = OrderedJson::object();
  return args;
}

OrderedJson WeightArgs(const GridSpec& grid, Layout layout, bool scattered) {
  const bool is_float = !grid.Uniform();
  const char* strategy = layout == Layout::kNvFloat4 ? "tensor_group" : grid.group > 0 ? "group" : "channel";
  OrderedJson args =
      Args(grid.bits, is_float ? "float" : "int", is_float || grid.symmetric, strategy, grid.group, false);
  if (scattered) args["actorder"] = "group";
  if (layout == Layout::kNvFloat4) args["scale_dtype"] = "torch.float8_e4m3fn";
  if (layout == Layout::kMxFloat4 || layout == Layout::kMxFloat8) args["scale_dtype"] = "torch.uint8";
  return args;
}

bool SameScheme(const CodedLinear& l, const CodedLinear& m) {
  const GridSpec &a = l.grid, &b = m.grid;
  return a.bits == b.bits && a.levels == b.levels && a.group == b.group && a.scale == b.scale &&
         a.symmetric == b.symmetric && GroupIndexOf(l).empty() == GroupIndexOf(m).empty();
}

OrderedJson Config(const QuantizedPlan& plan, const NamedScheme& scheme, bool tied_head) {
  std::vector<std::vector<const CodedLinear*>> groups;
  for (const CodedLinear& l : plan.coded) {
    const auto it = std::ranges::find_if(groups, [&](const auto& g) { return SameScheme(*g.front(), l); });
    if (it == groups.end()) {
      groups.push_back({&l});
    } else {
      it->push_back(&l);
    }
  }
  OrderedJson config_groups;
  std::string format;
  for (size_t k = 0; k < groups.size(); ++k) {
    const GridSpec& grid = groups[k].front()->grid;
    const Layout layout = LayoutOf(grid, *scheme.inputs != '\0').value();
    const std::string name = kLayoutNames[static_cast<int>(layout)];
    format = format.empty() || format == name ? name : "mixed-precision";
    OrderedJson group;
    group["targets"] = OrderedJson::array();
    if (groups.size() == 1) {
      group["targets"].push_back("Linear");
    } else {
      for (const CodedLinear* l : groups[k]) group["targets"].push_back(l->module);
    }
    group["weights"] = WeightArgs(grid, layout, !GroupIndexOf(*groups[k].front()).empty());
    group["input_activations"] = nullptr;
    if (scheme.inputs == std::string_view("int8"))
      group["input_activations"] = Args(8, "int", true, "token", 0, true);
    if (scheme.inputs == std::string_view("fp8"))
      group["input_activations"] = Args(8, "float", true, "token", 0, true);
    group["output_activations"] = nullptr;
    group["format"] = name;
    config_groups[fmt::format("group_{}", k)] = std::move(group);
  }
  std::vector<std::string> ignore = plan.plain;
  if (tied_head && std::ranges::find(ignore, "lm_head") == ignore.end()) ignore.push_back("lm_head");
  OrderedJson config;
  config["quant_method"] = "compressed-tensors";
  config["format"] = format;
  config["quantization_status"] = "compressed";
  config["global_compression_ratio"] = nullptr;
  config["config_groups"] = std::move(config_groups);
  config["ignore"] = ignore;
  config["kv_cache_scheme"] = nullptr;
  return config;
}

constexpr const char* kDecoded =
    "--to hf-bf16 holds decoded weights, which can then be rounded to any format";

// Loaders sort the columns by group and cut them into runs of the group's size.
Refusal RefuseIndex(const GridSpec& grid, const Coded& coded, int64_t cols) {
  if (!coded.Scattered()) return {};
  std::vector<int64_t> sizes(static_cast<size_t>(grid.NumGroups(cols)));
  for (int64_t j = 0; j < cols; ++j) {
    int32_t g;
    std::memcpy(&g, coded.group_of.bytes.data() + 4 * j, 4);
    ++sizes[static_cast<size_t>(g)];
  }
  for (size_t g = 0; g + 1 < sizes.size(); ++g) {
    if (sizes[g] == grid.group) continue;
    return {
        fmt::format("an index of groups with {} columns in group {} in place of {}", sizes[g], g, grid.group),
        GptqHolds(grid) ? "--to gptq holds it" : kDecoded};
  }
  return {};
}

Refusal Refuse(const GridSpec& grid, const LinearSlot& slot, const Matrix* codes, bool plain_int8) {
  const auto layout = LayoutOf(grid, plain_int8);
  if (!layout) {
    return {
        fmt::format("{} is none of its grids (integers of 2 to 8 bits with fp16 scales, e4m3, mxfp4, mxfp8, "
                    "nvfp4)",
                    GridText(grid)),
        kDecoded};
  }
  if (slot.transposed) {
    return {"a weight stored [in, out], which its loaders do not know",
            GptqHolds(grid) ? "--to gptq or gguf:q4_k hold it" : kDecoded};
  }
  if ((*layout == Layout::kMxFloat4 || *layout == Layout::kNvFloat4 || *layout == Layout::kMxFloat8) &&
      slot.in % grid.group != 0) {
    return {fmt::format("{} inputs are no multiple of the block of {}", slot.in, grid.group), kDecoded};
  }
  if (*layout == Layout::kNvFloat4 && codes != nullptr && !DivisorOfUnit(std::get<Coded>(codes->body))) {
    return {
        "NVFP4 scales there are divided by a number, and none gives the scales that these are "
        "multiplied to",
        "`planish compress` again, which multiplies by a power of two, or --to hf-bf16 first, whose values "
        "--to compressed-tensors:nvfp4a16 rounds"};
  }
  return codes == nullptr ? Refusal() : RefuseIndex(grid, std::get<Coded>(codes->body), slot.in);
}

}  // namespace

bool CompressedTensorsHolds(const GridSpec& grid) { return LayoutOf(grid, false).has_value(); }

std::vector<std::string> CompressedTensorsSchemes() {
  std::vector<std::string> names;
  for (const NamedScheme& scheme : kSchemes) names.push_back(scheme.name);
  return names;
}

Result<Converted> WriteCompressedTensors(const Context& context, const Model& model,
                                         const ConvertOptions& options, const std::string& output) {
  const auto* scheme = std::ranges::find_if(kSchemes, [&](const auto& s) { return options.type == s.name; });
  PLANISH_CHECK(scheme != std::end(kSchemes)) << options.type;
  const bool plain_int8 = *scheme->inputs != '\0';
  QuantizedFormat format;
  format.name = "compressed-tensors";
  if (options.type != "auto") format.name += ":" + options.type;
  format.refuse = [plain_int8](const GridSpec& grid, const LinearSlot& slot, const Matrix* codes) {
    return Refuse(grid, slot, codes, plain_int8);
  };
  format.rounding = GridOf(*scheme);
  format.only_rounding = options.type != "auto";
  PLANISH_TRY(QuantizedPlan plan, PlanQuantized(context, model, options, format));
  const auto source = std::make_shared<CodeSource>(context);
  for (const CodedLinear& linear : plan.coded) {
    AddTensors(linear, LayoutOf(linear.grid, plain_int8).value(), source, plan.tensors);
  }
  NoteServing(plan.coded, 1, plan.notes);
  const bool odd = std::ranges::any_of(plan.coded, [](const CodedLinear& l) {
    return l.grid.Uniform() && l.grid.bits != 4 && l.grid.bits != 8;
  });
  if (odd) plan.notes.push_back("vLLM computes with packed integers of 4 and 8 bits only");
  const OrderedJson config = Config(plan, *scheme, true);
  return WriteQuantizedFolder(context, model, std::move(plan), config, "", options.FolderShardBytes(),
                              output);
}

}  // namespace planish
