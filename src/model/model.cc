#include "model/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>
#include <string_view>

#include "base/file.h"
#include "base/names.h"
#include "formats/gguf_folder.h"
#include "layer/artifact.h"
#include "layer/quantized.h"
#include "model/family.h"
#include "model/gguf_model.h"
#include "model/load.h"
#include "model/unread_tensors.h"
#include "model/vector_tensors.h"

namespace planish {
namespace {

constexpr int64_t kMaxConfigBytes = int64_t{64} << 20;

// JSON has no infinity, but configs written by Python have: outside of strings the words become
// {"__float__": "Infinity"}, as newer libraries write it.
std::string QuoteBareFloats(const std::string& text) {
  std::string out;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (in_string && text[i] == '\\') {
      out.append(text, i, 2);
      ++i;
      continue;
    }
    if (text[i] == '"') in_string = !in_string;
    bool word = false;
    for (const std::string_view name : {"-Infinity", "Infinity", "NaN"}) {
      if (in_string || word || text.compare(i, name.size(), name) != 0) continue;
      out += fmt::format(R"({{"__float__":"{}"}})", name);
      i += name.size() - 1;
      word = true;
    }
    if (!word) out += text[i];
  }
  return out;
}

Result<std::string> ReadJsonText(const std::string& path) {
  PLANISH_TRY(const std::string text, ReadTextFile(path, kMaxConfigBytes));
  return QuoteBareFloats(text);
}

Result<Json> ReadJsonFile(const std::string& path) {
  PLANISH_TRY(const std::string text, ReadJsonText(path));
  auto json = ParseJson(text);
  if (!json.ok()) return json.error().At(path);
  return json;
}

Result<std::vector<float>> ReadVector(const VectorSlot& slot, const Checkpoint& checkpoint) {
  const std::string& name = slot.name;
  if (name.find('*') != std::string::npos) {
    std::vector<float> rows;
    for (const std::string& row : TensorsOf(slot)) {
      PLANISH_TRY(const auto values, ReadVector({row, slot.shape.back(), {}, slot.plus}, checkpoint));
      rows.insert(rows.end(), values.begin(), values.end());
    }
    return rows;
  }
  PLANISH_TRY(const TensorView view, checkpoint.Get(name));
  const auto shape = slot.shape.empty() ? std::vector<int64_t>{slot.size} : slot.shape;
  if (!IsComputable(view.type) || view.shape != shape) {
    return InputError(fmt::format("tensor '{}': expected {} values of BF16, F16 or F32, found {} [{}]", name,
                                  shape.size() == 1 ? std::to_string(slot.size) : ShapeText(shape),
                                  DTypeName(view.type), fmt::join(view.shape, ", ")));
  }
  std::vector<float> values(static_cast<size_t>(slot.size));
  for (int64_t i = 0; i < slot.size; ++i) {
    values[static_cast<size_t>(i)] = LoadElement(view.data, view.type, i);
    if (!std::isfinite(values[static_cast<size_t>(i)])) {
      return InputError(
          fmt::format("tensor '{}': element {} is {}", name, i, values[static_cast<size_t>(i)]));
    }
    values[static_cast<size_t>(i)] += slot.plus;
  }
  return values;
}

// The tensor [in, out] as a matrix [out, in] of its own.
Result<Matrix> ReadTransposed(const LinearSlot& slot, const Checkpoint& checkpoint) {
  PLANISH_TRY(const Matrix stored, ReadDenseTensor(slot.weight, slot.in, slot.out, checkpoint));
  const auto& dense = std::get<Dense>(stored.body);
  const auto size = static_cast<size_t>(DTypeBits(dense.type) / 8);
  const auto out = static_cast<size_t>(slot.out), in = static_cast<size_t>(slot.in);
  auto turned = std::make_shared<Buffer>(out * in * size);
  constexpr size_t kTile = 64;  // rows and columns that stay in the first cache
  for (size_t i0 = 0; i0 < in; i0 += kTile) {
    for (size_t o0 = 0; o0 < out; o0 += kTile) {
      for (size_t o = o0; o < std::min(out, o0 + kTile); ++o) {
        for (size_t i = i0; i < std::min(in, i0 + kTile); ++i) {
          std::memcpy(turned->data() + (o * in + i) * size, dense.data.bytes.data() + (i * out + o) * size,
                      size);
        }
      }
    }
  }
  const std::span<const std::byte> bytes = turned->bytes();
  return DenseMatrix(slot.out, slot.in, dense.type, {bytes, std::move(turned)});
}

// Its rows of the tensor that holds all experts.
Result<Matrix> ReadBank(const LinearSlot& slot, const Checkpoint& checkpoint) {
  const auto& bank = slot.bank;
  PLANISH_TRY(const TensorView view, checkpoint.Get(bank.tensor));
  const std::vector<int64_t> shape = {bank.experts, bank.rows, slot.in};
  if (!IsComputable(view.type) || view.shape != shape) {
    return InputError(fmt::format("tensor '{}': expected BF16, F16 or F32 {}, found {} {}", bank.tensor,
                                  ShapeText(shape), DTypeName(view.type), ShapeText(view.shape)));
  }
  const int64_t row_bytes = slot.in * DTypeBits(view.type) / 8;
  const int64_t first = (slot.expert * bank.rows + bank.first_row) * row_bytes;
  return DenseMatrix(
      slot.out, slot.in, view.type,
      {view.bytes().subspan(static_cast<size_t>(first), static_cast<size_t>(slot.out * row_bytes)),
       checkpoint.owner()});
}

Result<Matrix> ReadPlain(const LinearSlot& slot, const Checkpoint& checkpoint) {
  if (!slot.bank.tensor.empty() && !checkpoint.Has(slot.weight) && checkpoint.Has(slot.bank.tensor))
    return ReadBank(slot, checkpoint);
  if (slot.transposed) return ReadTransposed(slot, checkpoint);
  return ReadDenseTensor(slot.weight, slot.out, slot.in, checkpoint);
}

// What stands in the place of plain tensors: parts of an artifact, or a reader of another program's.
struct Compressed {
  Json parts = Json::object();
  std::unique_ptr<QuantizedReader> reader;
  bool Holds(const std::string& weight) const {
    return parts.contains(weight) || (reader != nullptr && reader->Holds(weight));
  }
};

Result<Linear> BindLinear(const LinearSlot& slot, const Compressed& compressed,
                          const Checkpoint& checkpoint) {
  Linear linear;
  linear.name = slot.weight;
  const Json& parts = compressed.parts;
  const auto description = parts.find(slot.weight);
  if (description != parts.end()) {
    PLANISH_TRY(linear.w, ReadParts(*description, slot.weight, slot.out, slot.in, checkpoint));
    PLANISH_RETURN_IF_ERROR(ReadBias(*description, checkpoint, linear));
  } else if (compressed.reader != nullptr && compressed.reader->Holds(slot.weight)) {
    PLANISH_TRY(linear.w, compressed.reader->Read(slot.weight, slot.out, slot.in));
  } else {
    if (compressed.reader != nullptr) PLANISH_RETURN_IF_ERROR(compressed.reader->CheckPlain(slot.weight));
    PLANISH_TRY(linear.w, ReadPlain(slot, checkpoint));
  }
  if (!slot.bias.empty() && !linear.own_bias) {
    PLANISH_TRY(linear.bias, ReadVector({slot.bias, slot.out, {}, 0}, checkpoint));
  }
  return linear;
}

// The descriptions of compressed matrices in an artifact's config, or the reader of another program's format;
// neither for an original model.
Result<Compressed> ReadCompressed(const Json& config, const Checkpoint& checkpoint,
                                  const std::vector<std::string>& order_of_rules) {
  Compressed compressed;
  if (!config.contains("quantization_config") || !config["quantization_config"].is_object())
    return compressed;
  const Json& q = config["quantization_config"];
  PLANISH_TRY(const std::string method, JsonString(q, "quant_method", ""));
  if (IsQuantizedMethod(method)) {
    auto reader = OpenQuantized(q, checkpoint, order_of_rules);
    if (!reader.ok()) return reader.error().At("quantization_config");
    compressed.reader = std::move(reader).value();
    return compressed;
  }
  PLANISH_TRY(const int64_t version, JsonInt(q, "version"));
  if (version != kArtifactVersion) {
    return InputError(fmt::format("quantization_config: version {} is not known, this program reads {}",
                                  version, kArtifactVersion));
  }
  const auto tensors = q.find("tensors");
  if (tensors == q.end() || !tensors->is_object()) {
    return InputError("quantization_config: field 'tensors' is missing");
  }
  compressed.parts = *tensors;
  return compressed;
}

// The tensors of a matrix that a description puts together, which ReadParts has taken and so is not deep:
// those under the names that its parts state, alone or with a suffix.
void AddTensorsOf(const Json& description, std::set<std::string>& read) {
  for (const auto& [key, value] : description.items()) {
    if (value.is_structured()) AddTensorsOf(value, read);
    if ((key != "tensor" && key != "bias") || !value.is_string()) continue;
    read.insert(value.get<std::string>());
    read.insert(value.get<std::string>() + ".");
  }
}

// The names of all tensors that a bound model was read from, as CheckTensorsRead takes them.
std::set<std::string> TensorsRead(const Program& program, const Compressed& compressed,
                                  const Checkpoint& checkpoint) {
  std::set<std::string> read;
  for (const LinearSlot& slot : program.linears) {
    const auto description = compressed.parts.find(slot.weight);
    if (description != compressed.parts.end()) AddTensorsOf(*description, read);
    if (compressed.reader != nullptr) {
      for (auto& name : compressed.reader->TensorsOf(slot.weight)) read.insert(std::move(name));
    }
    read.insert(slot.weight);
    read.insert(slot.bias);
    if (!checkpoint.Has(slot.weight)) read.insert(slot.bank.tensor);
  }
  for (const VectorSlot& slot : program.vectors) {
    for (auto& name : TensorsOf(slot)) read.insert(std::move(name));
  }
  return read;
}

// Names of tensors as this checkpoint spells them: other prefixes are tried where a name is not there.
void UseNamesOf(const Checkpoint& checkpoint, const Compressed& compressed, Program& program) {
  const auto has = [&](const std::string& name) { return checkpoint.Has(name) || compressed.Holds(name); };
  const auto spell = [&](std::string& name) {
    if (name.empty() || has(name)) return;
    for (const auto& [prefix, other] : program.prefixes) {
      if (!name.starts_with(prefix)) continue;
      const std::string spelled = other + name.substr(prefix.size());
      if (!has(spelled)) continue;
      name = spelled;
      return;
    }
  };
  for (auto& slot : program.linears) {
    spell(slot.weight);
    spell(slot.bias);
    spell(slot.bank.tensor);
  }
  for (auto& slot : program.vectors) spell(slot.name);
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

constexpr const char* kGptqConfig = "quantize_config.json";
constexpr const char* kAwqConfig = "quant_config.json";

// Older GPTQ and AWQ folders keep their settings in a file of their own. Others repeat them there.
Status ReadOwnConfig(const std::string& path, Json& config) {
  if (!config.is_object()) return {};
  for (const auto& [name, method] : {std::pair(kGptqConfig, "gptq"), std::pair(kAwqConfig, "awq")}) {
    const std::string file = JoinPath(path, name);
    if (!FileExists(file)) continue;
    PLANISH_TRY(Json own, ReadJsonFile(file));
    if (!own.is_object()) return InputError(fmt::format("{}: expected an object", file));
    Json& stated = config["quantization_config"];
    if (stated.is_null()) {
      if (!own.contains("quant_method")) own["quant_method"] = method;
      stated = std::move(own);
    } else {
      const Status same = CheckSameSettings(stated, own, name);
      if (!same.ok()) return same.error().At("quantization_config").At(JoinPath(path, "config.json"));
    }
  }
  return {};
}

// The keys of `dynamic` as the file that has the settings states them.
std::vector<std::string> OrderOfRules(const std::string& path) {
  for (const auto& [name, place] :
       {std::pair("config.json", std::vector<std::string>{"quantization_config", "dynamic"}),
        std::pair(kGptqConfig, std::vector<std::string>{"dynamic"}),
        std::pair(kAwqConfig, std::vector<std::string>{"dynamic"})}) {
    const auto text = FileExists(JoinPath(path, name)) ? ReadJsonText(JoinPath(path, name)) : std::string();
    if (!text.ok()) continue;
    auto keys = JsonKeysInOrder(*text, place);
    if (!keys.empty()) return keys;
  }
  return {};
}

// Every linear and vector of the program, from the checkpoint.
Status BindTensors(const Compressed& compressed, Model& model) {
  for (const auto& slot : model.program.linears) {
    PLANISH_TRY(Linear linear, BindLinear(slot, compressed, model.checkpoint));
    model.linears.push_back(std::move(linear));
    if (compressed.reader == nullptr || !compressed.reader->Holds(slot.weight)) continue;
    for (auto& name : compressed.reader->TensorsOf(slot.weight)) {
      model.quantized_tensors[std::move(name)] = slot.weight;
    }
  }
  for (const auto& slot : model.program.vectors) {
    PLANISH_TRY(auto vector, ReadVector(slot, model.checkpoint));
    model.vectors.push_back(std::move(vector));
  }
  if (compressed.reader != nullptr) model.notes = compressed.reader->Notes();
  return CheckTensorsRead(model.program, TensorsRead(model.program, compressed, model.checkpoint),
                          model.checkpoint);
}

// The GGUF file that holds the tensors: the path itself, or the one in a folder without safetensors. Empty:
// safetensors.
Result<std::string> GgufOf(const std::string& path) {
  return FileExists(path) ? Result<std::string>(path) : GgufOfFolder(path);
}

// Both describe one model: config.json, whose fields stay, and the file with its tensors. What both state as
// numbers or flags must be the same, but for ids of tokens and the longest context, which are settings.
Status JoinConfigs(const Json& stated, Json& config) {
  for (const auto& [name, value] : stated.items()) {
    const bool setting = name.ends_with("_token_id") || name == "max_position_embeddings";
    const auto own = config.find(name);
    if (setting || own == config.end() || !(value.is_number() || value.is_boolean())) continue;
    const bool same = own->is_number() && value.is_number() ? own->get<float>() == value.get<float>()
                                                            : own->is_null() || *own == value;
    if (same) continue;
    return InputError(fmt::format("field '{}' is {}, the GGUF file beside it says {}", name,
                                  Abbreviate(DumpJson(*own)), DumpJson(value)));
  }
  config.erase("quantization_config");
  if (stated.contains("quantization_config")) config["quantization_config"] = stated["quantization_config"];
  return {};
}

// The configuration, and the tensors of a GGUF file.
Status OpenFiles(const std::string& path, const std::string& gguf, const std::string& config_path,
                 Model& model) {
  if (gguf != path) {
    PLANISH_TRY(model.config, ReadJsonFile(config_path));
    PLANISH_RETURN_IF_ERROR(ReadOwnConfig(path, model.config));
  }
  if (gguf.empty()) return {};
  PLANISH_TRY(GgufModel opened, OpenGgufModel(gguf));
  model.checkpoint = std::move(opened.checkpoint);
  if (gguf == path) {
    model.config = std::move(opened.config);
    return {};
  }
  if (!model.config.is_object()) return InputError(config_path + ": expected an object");
  const Status joined = JoinConfigs(opened.config, model.config);
  return joined.ok() ? joined : joined.error().At(config_path);
}

Result<Model> Bind(const std::string& path, const LoadOptions& options) {
  Model model;
  model.path = path;
  model.name = std::filesystem::path(path).filename().string();
  PLANISH_TRY(const std::string gguf, GgufOf(path));
  const std::string config_path = gguf == path ? path : JoinPath(path, "config.json");
  PLANISH_RETURN_IF_ERROR(OpenFiles(path, gguf, config_path, model));
  IgnoreFields(options.ignored_fields, model.config);
  auto program = BuildProgram(model.config);
  if (!program.ok()) return program.error().At(config_path);
  model.program = std::move(program).value();
  if (gguf.empty()) {
    PLANISH_TRY(model.checkpoint, Checkpoint::Open(path));
  }
  if (!options.ignored_tensors.empty()) {
    model.checkpoint = WithoutTensors(model.checkpoint, options.ignored_tensors);
  }
  auto compressed = ReadCompressed(model.config, model.checkpoint, OrderOfRules(path));
  if (!compressed.ok()) return compressed.error().At(config_path);
  if (gguf.empty()) UseNamesOf(model.checkpoint, *compressed, model.program);
  const Status bound = BindTensors(*compressed, model);
  if (!bound.ok()) {
    const bool placed = bound.error().message.starts_with(path + ": ");
    return placed ? bound.error() : bound.error().At(path);
  }
  PLANISH_RETURN_IF_ERROR(ReadGenerationConfig(JoinPath(path, "generation_config.json"), model.program));
  return model;
}

}  // namespace

std::string ResolveModelPath(const std::string& path) {
  if (path == "demo" && !DirectoryExists(path) && DirectoryExists("embedded:demo")) return "embedded:demo";
  return path;
}

Result<Model> LoadModel(const std::string& path) { return LoadModel(path, LoadOptions()); }

Result<Model> LoadModel(const std::string& given, const LoadOptions& options) {
  const std::string path = ResolveModelPath(given);
  if (!DirectoryExists(path) && !FileExists(path)) {
    return InputError(
        fmt::format("{}: no such folder; expected a Hugging Face model folder with config.json and "
                    "safetensors files, a GGUF file, or 'demo'",
                    given));
  }
  return Bind(path, options);
}

int64_t Model::Bytes() const { return checkpoint.file_bytes(); }

double Model::LinearBitsPerWeight() const {
  int64_t bytes = 0;
  for (size_t i = 0; i < linears.size(); ++i)
    bytes += program.linears[i].in_layer && !program.linears[i].keep ? StoredBytes(linears[i]) : 0;
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
