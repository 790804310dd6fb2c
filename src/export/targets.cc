// The list of formats. A format is added by its own file and one row here.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "base/names.h"
#include "export/compressed_tensors_export.h"
#include "export/gguf_export.h"
#include "export/gptq_export.h"
#include "export/hf_export.h"
#include "export/lora_export.h"
#include "export/target.h"

namespace planish {
namespace {

std::string Lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

std::vector<std::string> GgufTypes() {
  std::vector<std::string> names = {"q8_0"};
  for (const char* name : {"f32", "f16", "bf16"}) names.push_back(name);
  for (const GgufTypeInfo& info : AllGgufTypes()) {
    if (info.encodes && info.type != GgufType::kQ8_0) names.push_back(Lower(info.name));
  }
  return names;
}

Result<Converted> WriteGguf(const Context& context, const Model& model, const ConvertOptions& options,
                            const std::string& output) {
  const GgufExport gguf{.type = ParseGgufType(options.type).value(),
                        .paths = options.paths,
                        .importance = options.importance,
                        .importance_source = options.importance_source,
                        .split_bytes = options.shard_bytes};
  PLANISH_TRY(GgufExported done, ExportGguf(context, model, gguf, output));
  Converted converted{done.tensors, done.bytes, std::move(done.notes)};
  if (done.paths.size() > 1) {
    converted.path = done.paths.front();
    converted.notes.push_back(
        fmt::format("{} files: {} to {}", done.paths.size(), done.paths.front(), done.paths.back()));
  }
  return converted;
}

template <DType type>
Result<Converted> WriteHf(const Context& context, const Model& model, const ConvertOptions& options,
                          const std::string& output) {
  return ExportHf(context, model, type, options, output);
}

Result<Converted> WriteLora(const Context& context, const Model& model, const ConvertOptions& options,
                            const std::string& output) {
  return options.type == "gguf" ? ExportGgufLora(context, model, output)
                                : ExportPeftLora(context, model, output);
}

constexpr ConvertTarget kTargets[] = {
    {"gguf", "for llama.cpp and what is built on it: a file, or parts", GgufTypes, false, WriteGguf,
     /*takes_importance=*/true},
    {"gptq", "GPTQ version 2: integers of 2, 3, 4, 8 bits (vLLM, SGLang, transformers)", nullptr, false,
     WriteGptqV2, /*takes_importance=*/false, /*divides=*/true, /*joined=*/true},
    {"gptq-v1", "GPTQ version 1: for older loaders; no zero point of 0", nullptr, false, WriteGptqV1,
     /*takes_importance=*/false, /*divides=*/true, /*joined=*/true},
    {"awq", "AWQ: 4-bit integers (vLLM, SGLang, transformers)", nullptr, false, WriteAwq,
     /*takes_importance=*/false, /*divides=*/true, /*joined=*/true},
    {"compressed-tensors", "for vLLM and SGLang; auto keeps the model's codes", CompressedTensorsSchemes,
     true, WriteCompressedTensors, /*takes_importance=*/false, /*divides=*/true, /*joined=*/true},
    {"hf-bf16", "a Hugging Face folder of decoded weights", nullptr, false, WriteHf<DType::kBF16>},
    {"hf-f16", "the same in F16", nullptr, false, WriteHf<DType::kF16>},
    {"hf-f32", "the same in F32", nullptr, false, WriteHf<DType::kF32>},
    {"lora", "the low-rank paths alone, as an adapter for the model without them",
     [] {
       return std::vector<std::string>{"peft", "gguf"};
     },
     true, WriteLora, /*takes_importance=*/false, /*divides=*/false, /*joined=*/false,
     /*takes_tokenizer=*/false},
};

std::string Listing() {
  std::vector<std::string> lines;
  for (const ConvertTarget& target : kTargets) {
    std::string line = target.name;
    if (target.types != nullptr) {
      const auto types = target.types();
      line = target.type_optional ? fmt::format("{0}, {0}:TYPE", line) : fmt::format("{}:TYPE", line);
      line += fmt::format(" (TYPE: {})", fmt::join(types, ", "));
    }
    lines.push_back(std::move(line));
  }
  return fmt::format("{}", fmt::join(lines, "; "));
}

}  // namespace

std::span<const ConvertTarget> AllConvertTargets() { return kTargets; }

Result<const ConvertTarget*> ParseConvertTarget(const std::string& text, ConvertOptions& options) {
  const size_t colon = std::min(text.find(':'), text.size());
  const std::string name = text.substr(0, colon);
  const auto* target = std::ranges::find_if(kTargets, [&](const auto& t) { return name == t.name; });
  const auto wrong = [&] {
    return InputError(fmt::format("--to: expected one of {}; found '{}'", Listing(), Abbreviate(text)));
  };
  if (target == std::end(kTargets)) return wrong();
  const bool given = colon < text.size();
  if (target->types == nullptr) {
    if (given) return wrong();
    return target;
  }
  const auto types = target->types();
  options.type = given ? Lower(text.substr(colon + 1)) : types.front();
  const bool known = std::ranges::find(types, options.type) != types.end();
  if (!known || (!given && !target->type_optional)) return wrong();
  return target;
}

}  // namespace planish
