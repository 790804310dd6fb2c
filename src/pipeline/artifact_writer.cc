#include "pipeline/artifact_writer.h"

#include <fmt/format.h>

#include <map>
#include <set>

#include "base/file.h"
#include "formats/checkpoint_writer.h"
#include "layer/artifact.h"
#include "model/folder.h"

namespace planish {
namespace {

// Tensors of the artifact in the checkpoint's order, a compressed one replaced by its parts.
struct Contents {
  std::vector<TensorSource> tensors;
  OrderedJson descriptions = OrderedJson::object();
  std::vector<Blob> owned;  // keeps bytes alive that no matrix holds
};

bool IsOriginal(const Matrix& matrix) { return std::holds_alternative<Dense>(matrix.body); }

void AddParts(const Linear& linear, Contents& contents) {
  std::vector<PartTensor> parts;
  OrderedJson description = DescribeParts(linear.w, linear.name, parts);
  contents.owned.push_back(DescribeBias(linear, description, parts));
  if (!IsOriginal(linear.w)) contents.descriptions[linear.name] = std::move(description);
  for (const auto& part : parts) {
    if (part.owner != nullptr) contents.owned.push_back({part.bytes, part.owner});
    contents.tensors.push_back({{part.name, part.type, part.shape}, nullptr, part.bytes});
  }
}

Result<Contents> Collect(const Model& model) {
  Contents contents;
  std::map<std::string, const Linear*> compressed;
  std::map<std::string, std::vector<const Linear*>> banks;  // of tensors with all experts of a layer
  std::set<std::string> replaced;                           // biases that a layer's own takes the place of
  for (size_t i = 0; i < model.linears.size(); ++i) {
    const Linear& linear = model.linears[i];
    const std::string& bank = model.program.linears[i].bank.tensor;
    if (!IsOriginal(linear.w)) compressed[linear.name] = &linear;
    if (linear.own_bias && !model.program.linears[i].bias.empty())
      replaced.insert(model.program.linears[i].bias);
    if (!bank.empty() && !model.checkpoint.Has(linear.name)) banks[bank].push_back(&linear);
  }
  const Json described =
      model.config.value("quantization_config", Json::object()).value("tensors", Json::object());
  std::map<std::string, const Linear*> quantized;  // by another program; each written once, as its parts
  for (const Linear& linear : model.linears) quantized[linear.name] = &linear;
  for (const TensorInfo* info : model.checkpoint.tensors()) {
    if (const auto made = model.quantized_tensors.find(info->name); made != model.quantized_tensors.end()) {
      const auto first = quantized.find(made->second);
      if (first == quantized.end()) continue;
      AddParts(*first->second, contents);
      quantized.erase(first);
      continue;
    }
    // Blocks of a GGUF file are listed under their tensor's name and a suffix.
    constexpr std::string_view kBlocks = ".blocks";
    const std::string name =
        info->name.ends_with(kBlocks) ? info->name.substr(0, info->name.size() - kBlocks.size()) : info->name;
    if (replaced.contains(info->name)) continue;
    const auto linear = compressed.find(name);
    const auto bank = banks.find(info->name);
    if (linear != compressed.end()) {
      AddParts(*linear->second, contents);
    } else if (bank != banks.end()) {  // written expert by expert, compressed or not
      for (const Linear* member : bank->second) AddParts(*member, contents);
    } else {
      // Described though original: a GGUF file keeps it the other way round than the family's checkpoints.
      if (described.contains(name))
        contents.descriptions[name] = OrderedJson::parse(DumpJson(described[name]));
      PLANISH_TRY(const TensorView view, model.checkpoint.Get(info->name));
      contents.tensors.push_back({{info->name, info->type, info->shape}, nullptr, view.bytes()});
    }
  }
  return contents;
}

}  // namespace

Status WriteArtifact(const Context& context, const Model& model, const Manifest& manifest,
                     const std::string& folder) {
  PLANISH_RETURN_IF_ERROR(RemoveTree(folder));
  PLANISH_RETURN_IF_ERROR(MakeDirectories(folder));
  PLANISH_TRY(const Contents contents, Collect(model));
  PLANISH_RETURN_IF_ERROR(WriteTensors(context, contents.tensors, folder));
  PLANISH_RETURN_IF_ERROR(CarryCompanions(model, folder));
  OrderedJson config = OrderedJson::parse(DumpJson(model.config));
  config["quantization_config"] = {
      {"quant_method", "planish"}, {"version", kArtifactVersion}, {"tensors", contents.descriptions}};
  PLANISH_RETURN_IF_ERROR(WriteConfig(config, folder));
  OrderedJson json;
  json["version"] = kArtifactVersion;
  for (const auto& [part, value] : manifest.fingerprint) json["fingerprint"][part] = value;
  json["recipe"] = manifest.recipe;
  json["layers"] = manifest.layers;
  return WriteFileAtomically(JoinPath(folder, kManifestName), DumpJson(json, 1) + "\n");
}

Result<Fingerprint> ReadArtifactFingerprint(const std::string& folder) {
  const std::string path = JoinPath(folder, kManifestName);
  PLANISH_TRY(const std::string text, ReadTextFile(path));
  const auto parsed = ParseJson(text);
  if (!parsed.ok()) return parsed.error().At(path);
  const Json& json = *parsed;
  Fingerprint fingerprint;
  if (!json.is_object() || !json.contains("fingerprint") || !json["fingerprint"].is_object()) {
    return InputError(fmt::format("{}: no fingerprint", path));
  }
  for (const auto& [part, value] : json["fingerprint"].items()) {
    if (value.is_string()) fingerprint[part] = value.get<std::string>();
  }
  return fingerprint;
}

}  // namespace planish
