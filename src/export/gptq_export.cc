// Layouts as in layer/quantized_gptq.cc, the other way round.
#include "export/gptq_export.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>

#include "export/compressed_tensors_export.h"
#include "export/quantized_plan.h"
#include "layer/bit_run.h"
#include "layer/code_order.h"

namespace planish {
namespace {

using Source = std::shared_ptr<CodeSource>;

void Store(std::span<std::byte> out, int64_t index, uint32_t word) {
  std::memcpy(out.data() + 4 * index, &word, 4);
}

// [groups, out] F16 from the rows of Coded.
TensorSource Scales(const CodedLinear& linear, const Source& source) {
  const int64_t rows = linear.rows(), groups = linear.grid.NumGroups(linear.cols());
  return {{linear.module + ".scales", DType::kF16, {groups, rows}},
          [=](int64_t row, int64_t count, std::span<std::byte> out) -> Status {
            PLANISH_TRY(const Coded* coded, source->Scales(linear));
            const std::byte* scales = coded->scales.bytes.data();
            for (int64_t g = row; g < row + count; ++g) {
              for (int64_t o = 0; o < rows; ++o) {
                std::memcpy(out.data() + 2 * ((g - row) * rows + o), scales + 2 * (o * groups + g), 2);
              }
            }
            return {};
          },
          {}};
}

TensorSource GptqWords(const CodedLinear& linear, const Source& source) {
  const int64_t rows = linear.rows(), cols = linear.cols(), bits = linear.grid.bits;
  return {{linear.module + ".qweight", DType::kI32, {cols * bits / 32, rows}},
          [=](int64_t row, int64_t count, std::span<std::byte> out) -> Status {
            const int64_t first = row * 32 / bits,
                          end = std::min(cols, ((row + count) * 32 + bits - 1) / bits);
            PLANISH_TRY(const CodePanel codes, source->Get(linear, {0, rows, first, end - first}));
            const auto& coded = std::get<Coded>(codes.matrix->body);
            if (coded.order == CodeOrder::kColumns) {
              std::memcpy(out.data(), coded.codes.bytes.data() + 4 * row * rows, out.size());
              return {};
            }
            std::vector<std::byte> buffer;
            constexpr int64_t kTile = 32;
            for (int64_t o0 = 0; o0 < rows; o0 += kTile) {
              const int64_t tile = std::min(kTile, rows - o0);
              const CodeRuns runs = RunsOf(*codes.matrix, o0, tile, first - codes.col, end - first, buffer);
              const std::byte* from = runs.data + 4 * row - (codes.col + runs.first) * bits / 8;
              for (int64_t r = 0; r < count; ++r) {
                for (int64_t o = 0; o < tile; ++o) {
                  std::memcpy(out.data() + 4 * (r * rows + o0 + o), from + o * runs.stride + 4 * r, 4);
                }
              }
            }
            return {};
          },
          {}};
}

TensorSource GptqZeros(const CodedLinear& linear, const Source& source, int less) {
  const int64_t rows = linear.rows(), groups = linear.grid.NumGroups(linear.cols());
  const int bits = linear.grid.bits;
  return {{linear.module + ".qzeros", DType::kI32, {groups, rows * bits / 32}},
          [=](int64_t row, int64_t count, std::span<std::byte> out) -> Status {
            PLANISH_TRY(const Coded* coded, source->Scales(linear));
            std::vector<uint8_t> zeros(static_cast<size_t>(rows));
            for (int64_t g = row; g < row + count; ++g) {
              for (int64_t o = 0; o < rows; ++o) {
                zeros[static_cast<size_t>(o)] = static_cast<uint8_t>(ZeroCode(*coded, groups, o, g) - less);
              }
              PackRun(zeros.data(), rows, bits,
                      reinterpret_cast<uint8_t*>(out.data()) + (g - row) * rows * bits / 8);
            }
            return {};
          },
          {}};
}

TensorSource GptqGroupIndex(const CodedLinear& linear) {
  const int64_t group = linear.grid.GroupSize(linear.cols());
  const TensorSpec spec{linear.module + ".g_idx", DType::kI32, {linear.cols()}};
  if (const auto index = GroupIndexOf(linear); !index.empty()) return {spec, nullptr, index};
  return {spec,
          [cols = linear.cols(), group](int64_t, int64_t, std::span<std::byte> out) -> Status {
            for (int64_t j = 0; j < cols; ++j) Store(out, j, static_cast<uint32_t>(j / group));
            return {};
          },
          {}};
}

bool FillsWords(const GridSpec& grid, const LinearSlot& slot) {
  return slot.in * grid.bits % 32 == 0 && slot.out * grid.bits % 32 == 0;
}

// Which other formats hold codes of that grid and shape.
std::string HeldElsewhere(const GridSpec& grid, const LinearSlot& slot, bool by_gptq) {
  std::string text;
  if (by_gptq && GptqHolds(grid) && FillsWords(grid, slot)) text = "--to gptq";
  if (CompressedTensorsHolds(grid) && !slot.transposed) {
    text += text.empty() ? "--to compressed-tensors" : " or compressed-tensors";
  }
  return (text.empty() ? text : text + " holds it, ") +
         "--to hf-bf16 holds decoded weights, which can then be rounded to any format";
}

Refusal RefuseGptq(const GridSpec& grid, const LinearSlot& slot, const Matrix* codes, bool v1) {
  if (!GptqHolds(grid)) {
    return {fmt::format("{} is no grid of 2-, 3-, 4- or 8-bit integers with fp16 scales", GridText(grid)),
            HeldElsewhere(grid, slot, false)};
  }
  if (!FillsWords(grid, slot)) {
    return {fmt::format("[{}, {}] codes of {} bits do not fill 32-bit words", slot.out, slot.in, grid.bits),
            HeldElsewhere(grid, slot, false)};
  }
  if (!v1 || codes == nullptr) return {};
  const auto& coded = std::get<Coded>(codes->body);
  const int64_t groups = grid.NumGroups(slot.in);
  for (int64_t i = 0; i < slot.out; ++i) {
    for (int64_t g = 0; g < groups; ++g) {
      if (ZeroCode(coded, groups, i, g) == 0)
        return {"version 1 has no zero point of 0", "--to gptq (version 2) has"};
    }
  }
  return {};
}

int64_t GroupField(const GridSpec& grid) { return grid.group == 0 ? -1 : grid.group; }

// A key of `dynamic` whose regular expression matches just this name.
std::string Exactly(char sign, const std::string& module) {
  std::string pattern(1, sign);
  pattern += ":^";
  for (const char c : module) {
    if (c == '.') pattern += '\\';
    pattern += c;
  }
  pattern += '$';
  return pattern;
}

// The width and group that most modules have stand at the top, those of the others in `dynamic`.
OrderedJson GptqConfig(const QuantizedPlan& plan, bool v1) {
  std::map<std::pair<int, int64_t>, int> counts;
  for (const CodedLinear& l : plan.coded) ++counts[{l.grid.bits, GroupField(l.grid)}];
  const auto most = std::ranges::max_element(counts, {}, [](const auto& c) { return c.second; })->first;
  bool symmetric = true;
  OrderedJson dynamic = OrderedJson::object();
  for (const CodedLinear& l : plan.coded) {
    symmetric = symmetric && l.grid.symmetric;
    if (std::pair(l.grid.bits, GroupField(l.grid)) == most) continue;
    const OrderedJson own = {{"bits", l.grid.bits}, {"group_size", GroupField(l.grid)}};
    dynamic[Exactly('+', l.module)] = own;
    // vLLM looks for the name of the layer that it joins this one in.
    if (const std::string joined = JoinedName(l.module); !joined.empty()) dynamic[Exactly('+', joined)] = own;
  }
  for (const std::string& module : plan.plain) {
    if (module == "lm_head") continue;
    dynamic[Exactly('-', module)] = OrderedJson::object();
    const std::string joined = JoinedName(module);
    if (!joined.empty()) dynamic[Exactly('-', joined)] = OrderedJson::object();
  }
  OrderedJson config;
  config["quant_method"] = "gptq";
  config["bits"] = most.first;
  config["group_size"] = most.second;
  config["desc_act"] =
      std::ranges::any_of(plan.coded, [](const CodedLinear& l) { return !GroupIndexOf(l).empty(); });
  config["sym"] = symmetric;
  config["lm_head"] = false;
  config["checkpoint_format"] = v1 ? "gptq" : "gptq_v2";
  config["pack_dtype"] = "int32";
  config["true_sequential"] = true;
  if (!dynamic.empty()) config["dynamic"] = dynamic;
  return config;
}

Result<Converted> WriteGptq(const Context& context, const Model& model, const ConvertOptions& options,
                            const std::string& output, bool v1) {
  QuantizedFormat format;
  format.name = v1 ? "GPTQ (version 1)" : "GPTQ";
  format.refuse = [v1](const GridSpec& grid, const LinearSlot& slot, const Matrix* codes) {
    return RefuseGptq(grid, slot, codes, v1);
  };
  format.rounding = {.bits = 4, .group = 128, .symmetric = true};
  format.only_rounding = false;
  format.always_zeros = true;
  PLANISH_TRY(QuantizedPlan plan, PlanQuantized(context, model, options, format));
  const auto source = std::make_shared<CodeSource>(context);
  for (const CodedLinear& linear : plan.coded) {
    plan.tensors.push_back(GptqWords(linear, source));
    plan.tensors.push_back(GptqZeros(linear, source, v1 ? 1 : 0));
    plan.tensors.push_back(Scales(linear, source));
    plan.tensors.push_back(GptqGroupIndex(linear));
  }
  // Outputs whose zeros fill whole words: three words hold 32 of 3 bits.
  int unit = 1;
  for (const CodedLinear& linear : plan.coded) unit = std::max(unit, 32 / std::gcd(32, linear.grid.bits));
  NoteServing(plan.coded, unit, plan.notes);
  const OrderedJson config = GptqConfig(plan, v1);
  return WriteQuantizedFolder(context, model, std::move(plan), config, "quantize_config.json",
                              options.FolderShardBytes(), output);
}

// ---- AWQ ----

TensorSource AwqWords(const CodedLinear& linear, const Source& source) {
  const int64_t rows = linear.rows(), cols = linear.cols();
  return {{linear.module + ".qweight", DType::kI32, {cols, rows / 8}},
          [=](int64_t row, int64_t count, std::span<std::byte> out) -> Status {
            PLANISH_TRY(const CodePanel codes, source->Get(linear, {0, rows, row, count}));
            const auto& coded = std::get<Coded>(codes.matrix->body);
            if (coded.order == CodeOrder::kEights) {
              std::memcpy(out.data(), coded.codes.bytes.data() + row * rows / 2, out.size());
              return {};
            }
            std::vector<std::byte> buffer;
            for (int64_t o = 0; o < rows; o += 8) {
              const CodeRuns runs = RunsOf(*codes.matrix, o, 8, row - codes.col, count, buffer);
              for (int64_t i = 0; i < count; ++i) {
                const int64_t at = row + i - codes.col - runs.first;
                uint32_t word = 0;
                for (int j = 0; j < 8; ++j) {
                  const auto byte = static_cast<uint32_t>(runs.data[j * runs.stride + at / 2]);
                  word |= (byte >> (at % 2 * 4) & 15u) << (4 * kAwqSlots[j]);
                }
                Store(out, i * (rows / 8) + o / 8, word);
              }
            }
            return {};
          },
          {}};
}

TensorSource AwqZeros(const CodedLinear& linear, const Source& source) {
  const int64_t rows = linear.rows(), groups = linear.grid.NumGroups(linear.cols());
  return {{linear.module + ".qzeros", DType::kI32, {groups, rows / 8}},
          [=](int64_t row, int64_t count, std::span<std::byte> out) -> Status {
            PLANISH_TRY(const Coded* coded, source->Scales(linear));
            for (int64_t g = row; g < row + count; ++g) {
              for (int64_t o = 0; o < rows; o += 8) {
                uint32_t word = 0;
                for (int j = 0; j < 8; ++j) {
                  word |= static_cast<uint32_t>(ZeroCode(*coded, groups, o + j, g)) << (4 * kAwqSlots[j]);
                }
                Store(out, (g - row) * (rows / 8) + o / 8, word);
              }
            }
            return {};
          },
          {}};
}

Refusal RefuseAwq(const GridSpec& grid, const LinearSlot& slot, const Matrix* codes) {
  if (!grid.PlainInteger() || grid.bits != 4) {
    return {fmt::format("{} is no grid of 4-bit integers with fp16 scales", GridText(grid)),
            HeldElsewhere(grid, slot, true)};
  }
  if (slot.transposed) {
    return {"a weight stored [in, out], which its loaders do not know", HeldElsewhere(grid, slot, true)};
  }
  if (slot.out % 8 != 0)
    return {fmt::format("{} outputs are no multiple of 8", slot.out), HeldElsewhere(grid, slot, true)};
  if (slot.in % grid.GroupSize(slot.in) != 0) {
    return {fmt::format("{} inputs are no multiple of the group of {}", slot.in, grid.group),
            "compress with a --group that divides them; a shorter last group: " +
                HeldElsewhere(grid, slot, true)};
  }
  if (codes != nullptr && std::get<Coded>(codes->body).Scattered()) {
    return {"groups in the order of activations, for which it has no index", HeldElsewhere(grid, slot, true)};
  }
  return {};
}

// There is one group size for all: that of most layers.
Status CheckOneGroup(const std::vector<CodedLinear>& coded) {
  std::map<int64_t, int> counts;
  for (const CodedLinear& l : coded) ++counts[GroupField(l.grid)];
  const int64_t most = std::ranges::max_element(counts, {}, [](const auto& c) { return c.second; })->first;
  Refusals refusals;
  for (const CodedLinear& l : coded) {
    if (GroupField(l.grid) == most) continue;
    const auto text = [](int64_t field) {
      return field < 0 ? std::string("whole rows") : fmt::format("groups of {}", field);
    };
    refusals.Add(
        {fmt::format("{} beside {}, and it has one size for all", text(GroupField(l.grid)), text(most)),
         "compress with one --group, or --to gptq or compressed-tensors hold them"},
        l.module);
  }
  return refusals.ToStatus("AWQ");
}

}  // namespace

bool GptqHolds(const GridSpec& grid) {
  return grid.PlainInteger() && (grid.bits == 2 || grid.bits == 3 || grid.bits == 4 || grid.bits == 8);
}

Result<Converted> WriteGptqV2(const Context& context, const Model& model, const ConvertOptions& options,
                              const std::string& output) {
  return WriteGptq(context, model, options, output, false);
}
Result<Converted> WriteGptqV1(const Context& context, const Model& model, const ConvertOptions& options,
                              const std::string& output) {
  return WriteGptq(context, model, options, output, true);
}

Result<Converted> WriteAwq(const Context& context, const Model& model, const ConvertOptions& options,
                           const std::string& output) {
  QuantizedFormat format;
  format.name = "AWQ";
  format.refuse = RefuseAwq;
  format.rounding = {.bits = 4, .group = 128};
  format.only_rounding = false;
  format.always_zeros = true;
  PLANISH_TRY(QuantizedPlan plan, PlanQuantized(context, model, options, format));
  PLANISH_RETURN_IF_ERROR(CheckOneGroup(plan.coded));
  const auto source = std::make_shared<CodeSource>(context);
  bool symmetric = true;
  for (const CodedLinear& linear : plan.coded) {
    symmetric = symmetric && linear.grid.symmetric;
    plan.tensors.push_back(AwqWords(linear, source));
    plan.tensors.push_back(AwqZeros(linear, source));
    plan.tensors.push_back(Scales(linear, source));
  }
  NoteServing(plan.coded, 8, plan.notes);
  OrderedJson config;
  config["quant_method"] = "awq";
  config["bits"] = 4;
  config["group_size"] = GroupField(plan.coded.front().grid);
  config["zero_point"] = !symmetric;
  config["version"] = "gemm";
  config["modules_to_not_convert"] = plan.plain.empty() ? OrderedJson(nullptr) : OrderedJson(plan.plain);
  return WriteQuantizedFolder(context, model, std::move(plan), config, "", options.FolderShardBytes(),
                              output);
}

}  // namespace planish
