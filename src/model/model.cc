#include "model/model.h"

#include <fmt/format.h>

#include <atomic>
#include <cmath>
#include <filesystem>

#include "base/file.h"
#include "layer/artifact.h"
#include "model/family.h"
#include "model/gguf_model.h"

namespace planish {
namespace {

constexpr int64_t kMaxConfigBytes = int64_t{64} << 20;

Result<Json> ReadJsonFile(const std::string& path) {
  PLANISH_TRY(const std::string text, ReadTextFile(path, kMaxConfigBytes));
  auto json = ParseJson(text);
  if (!json.ok()) return json.error().At(path);
  return json;
}

Result<std::vector<float>> ReadVector(const std::string& name, int64_t size, const Checkpoint& checkpoint) {
  PLANISH_TRY(const TensorView view, checkpoint.Get(name));
  if (!IsComputable(view.type) || view.shape != std::vector<int64_t>{size}) {
    return InputError(fmt::format("tensor '{}': expected {} values of BF16, F16 or F32, found {} [{}]", name,
                                  size, DTypeName(view.type), fmt::join(view.shape, ", ")));
  }
  std::vector<float> values(static_cast<size_t>(size));
  for (int64_t i = 0; i < size; ++i) {
    values[static_cast<size_t>(i)] = LoadElement(view.data, view.type, i);
    if (!std::isfinite(values[static_cast<size_t>(i)])) {
      return InputError(
          fmt::format("tensor '{}': element {} is {}", name, i, values[static_cast<size_t>(i)]));
    }
  }
  return values;
}

Result<Linear> BindLinear(const LinearSlot& slot, const Json& parts, const Checkpoint& checkpoint) {
  Linear linear;
  linear.name = slot.weight;
  const auto description = parts.find(slot.weight);
  if (description != parts.end()) {
    PLANISH_TRY(linear.w, ReadParts(*description, slot.weight, slot.out, slot.in, checkpoint));
  } else {
    PLANISH_TRY(linear.w, ReadDenseTensor(slot.weight, slot.out, slot.in, checkpoint));
  }
  if (!slot.bias.empty()) {
    PLANISH_TRY(linear.bias, ReadVector(slot.bias, slot.out, checkpoint));
  }
  return linear;
}

// The descriptions of compressed matrices in an artifact's config; empty for an original model.
Result<Json> ReadPartsTable(const Json& config) {
  if (!config.contains("quantization_config") || !config["quantization_config"].is_object())
    return Json::object();
  const Json& q = config["quantization_config"];
  PLANISH_TRY(const int64_t version, JsonInt(q, "version"));
  if (version != kArtifactVersion) {
    return InputError(fmt::format("quantization_config: version {} is not known, this program reads {}",
                                  version, kArtifactVersion));
  }
  const auto tensors = q.find("tensors");
  if (tensors == q.end() || !tensors->is_object()) {
    return InputError("quantization_config: field 'tensors' is missing");
  }
  return *tensors;
}

Status ReadGenerationConfig(const std::string& path, Program& program) {
  if (!FileExists(path)) return {};
  PLANISH_TRY(const Json json, ReadJsonFile(path));
  if (!json.is_object() || !json.contains("eos_token_id")) return {};
  const Json& eos = json["eos_token_id"];
  const auto add = [&](const Json& id) {
    if (id.is_number_integer() && id >= 0 && id < program.vocab &&
        std::ranges::find(program.eos_ids, id.get<int32_t>()) == program.eos_ids.end()) {
      program.eos_ids.push_back(id.get<int32_t>());
    }
  };
  if (eos.is_array()) {
    for (const auto& id : eos) add(id);
  } else {
    add(eos);
  }
  return {};
}

Result<Model> Bind(const std::string& path) {
  Model model;
  model.path = path;
  model.name = std::filesystem::path(path).filename().string();
  const bool gguf = FileExists(path);
  const std::string config_path = gguf ? path : JoinPath(path, "config.json");
  if (gguf) {
    PLANISH_TRY(GgufModel opened, OpenGgufModel(path));
    model.config = std::move(opened.config);
    model.checkpoint = std::move(opened.checkpoint);
  } else {
    PLANISH_TRY(model.config, ReadJsonFile(config_path));
  }
  auto program = BuildProgram(model.config);
  if (!program.ok()) return program.error().At(config_path);
  model.program = std::move(program).value();
  auto parts = ReadPartsTable(model.config);
  if (!parts.ok()) return parts.error().At(config_path);
  if (!gguf) {
    PLANISH_TRY(model.checkpoint, Checkpoint::Open(path));
  }
  for (const auto& slot : model.program.linears) {
    auto linear = BindLinear(slot, *parts, model.checkpoint);
    if (!linear.ok()) return linear.error().At(path);
    model.linears.push_back(std::move(linear).value());
  }
  for (const auto& slot : model.program.vectors) {
    auto vector = ReadVector(slot.name, slot.size, model.checkpoint);
    if (!vector.ok()) return vector.error().At(path);
    model.vectors.push_back(std::move(vector).value());
  }
  PLANISH_RETURN_IF_ERROR(ReadGenerationConfig(JoinPath(path, "generation_config.json"), model.program));
  return model;
}

}  // namespace

std::string ResolveModelPath(const std::string& path) {
  if (path == "demo" && !DirectoryExists(path) && DirectoryExists("embedded:demo")) return "embedded:demo";
  return path;
}

Result<Model> LoadModel(const std::string& given) {
  const std::string path = ResolveModelPath(given);
  if (!DirectoryExists(path) && !FileExists(path)) {
    return InputError(
        fmt::format("{}: no such folder; expected a Hugging Face model folder with config.json and "
                    "safetensors files, a GGUF file, or 'demo'",
                    given));
  }
  return Bind(path);
}

int64_t Model::Bytes() const { return checkpoint.file_bytes(); }

double Model::LinearBitsPerWeight() const {
  int64_t bytes = 0;
  for (size_t i = 0; i < linears.size(); ++i)
    bytes += program.linears[i].in_layer ? StoredBytes(linears[i].w) : 0;
  return 8.0 * static_cast<double>(bytes) / static_cast<double>(program.LinearWeights());
}

Status CheckFinite(const Context& context, const Model& model) {
  for (const auto& linear : model.linears) {
    std::atomic<int64_t> bad_row{linear.w.rows};
    context.pool->ParallelFor((linear.w.rows + 63) / 64, [&](int64_t panel) {
      const int64_t row = panel * 64, count = std::min<int64_t>(64, linear.w.rows - row);
      Mat<float> rows(count, linear.w.cols);
      ReadRows(linear.w, row, count, 0, linear.w.cols, rows.data(), linear.w.cols);
      for (int64_t i = 0; i < count; ++i) {
        if (FindNonFinite({rows.row(i), static_cast<size_t>(rows.cols())}) < 0) continue;
        int64_t seen = bad_row.load();
        while (row + i < seen && !bad_row.compare_exchange_weak(seen, row + i)) {
        }
        return;
      }
    });
    if (bad_row < linear.w.rows) {
      Mat<float> row(1, linear.w.cols);
      ReadRows(linear.w, bad_row, 1, 0, linear.w.cols, row.data(), linear.w.cols);
      const int64_t col = FindNonFinite({row.row(0), static_cast<size_t>(row.cols())});
      return InputError(fmt::format("{}: tensor '{}': element [{}, {}] is {}; the checkpoint is damaged",
                                    model.path, linear.name, bad_row.load(), col, row(0, col)));
    }
  }
  return {};
}

}  // namespace planish
