#include "model/gguf_model.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "base/names.h"
#include "layer/artifact.h"
#include "tensor/buffer.h"

namespace planish {
namespace {

struct Name {
  const char* gguf;
  const char* hf;
};
constexpr Name kTopNames[] = {
    {"token_embd", "model.embed_tokens"}, {"output_norm", "model.norm"}, {"output", "lm_head"}};
constexpr Name kLayerNames[] = {{"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
                                {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
                                {"attn_output", "self_attn.o_proj"}, {"attn_q_norm", "self_attn.q_norm"},
                                {"attn_k_norm", "self_attn.k_norm"}, {"ffn_norm", "post_attention_layernorm"},
                                {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
                                {"ffn_down", "mlp.down_proj"}};
constexpr const char* kRopeFreqs = "rope_freqs.weight";

// "N.rest" -> its two halves, if N is a number of at most 4 digits.
bool SplitLayer(std::string_view text, std::string& number, std::string& rest) {
  const size_t dot = text.find('.');
  if (dot == std::string_view::npos || dot == 0 || dot > 4) return false;
  number = text.substr(0, dot);
  rest = text.substr(dot + 1);
  return number.find_first_not_of("0123456789") == std::string::npos;
}

// "stem.weight" or "stem.bias" translated between the columns of the tables.
std::optional<std::string> Translate(const std::string& name, const char* Name::*from, const char* Name::*to,
                                     const std::string& from_layer, const std::string& to_layer) {
  const size_t dot = name.rfind('.');
  if (dot == std::string::npos) return std::nullopt;
  const std::string stem = name.substr(0, dot), suffix = name.substr(dot);
  if (suffix != ".weight" && suffix != ".bias") return std::nullopt;
  std::string number, rest;
  if (stem.starts_with(from_layer) && SplitLayer(stem.substr(from_layer.size()), number, rest)) {
    for (const Name& n : kLayerNames) {
      if (rest == n.*from) return to_layer + number + "." + n.*to + suffix;
    }
    return std::nullopt;
  }
  for (const Name& n : kTopNames) {
    if (stem == n.*from) return n.*to + suffix;
  }
  return std::nullopt;
}

Status ReadRopeScaling(const GgufFile& file, const std::string& a, Json& config) {
  PLANISH_TRY(const std::string type, file.String(a + "rope.scaling.type", "none"));
  PLANISH_TRY(const double factor, file.Number(a + "rope.scaling.factor", 1.0));
  if (type == "none" || (type == "linear" && factor == 1)) return {};
  if (type != "linear" && type != "yarn") {
    return InputError(
        fmt::format("{}rope.scaling.type '{}': expected none, linear or yarn", a, Abbreviate(type)));
  }
  config["rope_scaling"] = {{"rope_type", type}, {"factor", factor}};
  const std::string original = a + "rope.scaling.original_context_length";
  if (file.Has(original)) {
    PLANISH_TRY(const int64_t positions, file.Int(original));
    config["rope_scaling"]["original_max_position_embeddings"] = positions;
  }
  return {};
}

Status ReadSizes(const GgufFile& file, const std::string& a, Json& config) {
  PLANISH_TRY(config["hidden_size"], file.Int(a + "embedding_length"));
  PLANISH_TRY(config["num_hidden_layers"], file.Int(a + "block_count"));
  PLANISH_TRY(config["intermediate_size"], file.Int(a + "feed_forward_length"));
  PLANISH_TRY(const int64_t heads, file.Int(a + "attention.head_count"));
  PLANISH_TRY(config["num_key_value_heads"], file.Int(a + "attention.head_count_kv", heads));
  config["num_attention_heads"] = heads;
  PLANISH_TRY(config["max_position_embeddings"], file.Int(a + "context_length"));
  if (heads < 1) return InputError(fmt::format("{}attention.head_count: {}", a, heads));
  PLANISH_TRY(const int64_t hidden, file.Int(a + "embedding_length"));
  PLANISH_TRY(config["head_dim"], file.Int(a + "attention.key_length", hidden / heads));
  if (!file.Has(a + "attention.layer_norm_rms_epsilon")) {
    return InputError(fmt::format("key '{}attention.layer_norm_rms_epsilon' is missing", a));
  }
  PLANISH_TRY(config["rms_norm_eps"], file.Number(a + "attention.layer_norm_rms_epsilon", 0));
  PLANISH_TRY(config["rope_theta"], file.Number(a + "rope.freq_base", 10000));
  const GgufTensor* table = file.Find("token_embd.weight");
  if (table == nullptr) return InputError("tensor 'token_embd.weight' is missing");
  config["vocab_size"] = table->rows();
  config["tie_word_embeddings"] = file.Find("output.weight") == nullptr;
  return {};
}

Status ReadTokenIds(const GgufFile& file, Json& config) {
  for (const char* kind : {"bos", "eos"}) {
    const std::string key = fmt::format("tokenizer.ggml.{}_token_id", kind);
    if (!file.Has(key)) continue;
    PLANISH_TRY(config[fmt::format("{}_token_id", kind)], file.Int(key));
  }
  return {};
}

Result<Json> ReadConfig(const GgufFile& file) {
  PLANISH_TRY(const std::string arch, file.String("general.architecture"));
  if (arch != "llama" && arch != "qwen2" && arch != "qwen3") {
    return InputError(
        fmt::format("general.architecture '{}': expected llama, qwen2 or qwen3", Abbreviate(arch)));
  }
  const std::string a = arch + ".";
  Json config;
  config["model_type"] = arch;
  PLANISH_RETURN_IF_ERROR(ReadSizes(file, a, config));
  PLANISH_RETURN_IF_ERROR(ReadRopeScaling(file, a, config));
  PLANISH_RETURN_IF_ERROR(ReadTokenIds(file, config));
  PLANISH_TRY(const int64_t experts, file.Int(a + "expert_count", 0));
  if (experts > 0)
    return InputError(fmt::format("{}expert_count {}: experts cannot be read yet", a, experts));
  PLANISH_TRY(const int64_t window, file.Int(a + "attention.sliding_window", 0));
  if (arch == "llama") {
    if (window > 0) {
      config["model_type"] = "mistral";
      config["sliding_window"] = window;
    } else {
      config["attention_bias"] = file.Find("blk.0.attn_q.bias") != nullptr;
      config["mlp_bias"] = file.Find("blk.0.ffn_up.bias") != nullptr;
    }
  }
  return config;
}

DType DTypeOf(GgufType type) {
  switch (type) {
    case GgufType::kF32:
      return DType::kF32;
    case GgufType::kF16:
      return DType::kF16;
    case GgufType::kBF16:
      return DType::kBF16;
    default:
      return DType::kU8;
  }
}

// What keeps a checkpoint's bytes: the file, and the copies with rows in another order.
struct Owner {
  std::shared_ptr<const GgufFile> file;
  std::vector<Buffer> copies;
};

std::span<const std::byte> UnpermuteRows(const GgufTensor& tensor, int64_t rows, int64_t heads,
                                         Owner& owner) {
  const int64_t row_bytes = static_cast<int64_t>(tensor.bytes.size()) / rows;
  Buffer copy(tensor.bytes.size());
  for (int64_t i = 0; i < rows; ++i) {
    std::memcpy(copy.data() + GgufSourceRow(i, rows / heads) * row_bytes, tensor.bytes.data() + i * row_bytes,
                static_cast<size_t>(row_bytes));
  }
  owner.copies.push_back(std::move(copy));
  return std::as_const(owner.copies.back()).bytes();
}

Status AddTensor(const GgufTensor& tensor, Json& config, Owner& owner,
                 std::vector<Checkpoint::Loose>& tensors) {
  const auto name = Translate(tensor.name, &Name::gguf, &Name::hf, "blk.", "model.layers.");
  if (!name)
    return InputError(fmt::format("tensor '{}' has no place in this architecture", Abbreviate(tensor.name)));
  const DType type = DTypeOf(tensor.type);
  const bool blocks = type == DType::kU8;
  if (blocks && !InfoOf(tensor.type).decodes) {
    return InputError(fmt::format("tensor '{}': values of type {} cannot be read", Abbreviate(tensor.name),
                                  InfoOf(tensor.type).name));
  }
  Checkpoint::Loose loose;
  loose.info.name = *name;
  loose.info.type = type;
  loose.info.shape.assign(tensor.dims.rbegin(), tensor.dims.rend());
  loose.bytes = tensor.bytes;
  if (const int64_t heads = GgufPermutedHeads(tensor.name, config); heads > 0) {
    const int64_t rows = tensor.dims.size() == 1 ? tensor.dims[0] : tensor.rows();
    if (rows % (2 * heads) != 0 || (tensor.dims.size() == 1 && blocks)) {
      return InputError(fmt::format("tensor '{}': {} rows for {} heads", tensor.name, rows, heads));
    }
    loose.bytes = UnpermuteRows(tensor, rows, heads, owner);
  }
  if (blocks) {
    Json& parts = config["quantization_config"]["tensors"][*name];
    parts = {{"kind", "blocks"},
             {"tensor", *name},
             {"type", InfoOf(tensor.type).name},
             {"rows", tensor.rows()},
             {"cols", tensor.cols()}};
    loose.info.name += ".blocks";
    loose.info.shape = {tensor.rows(), GgufRowBytes(tensor.type, tensor.cols())};
  }
  tensors.push_back(std::move(loose));
  return {};
}

// llama3's scaling lies in the file as divisors of the frequencies.
Status ReadRopeFactors(const GgufTensor& tensor, Json& config) {
  if (tensor.type != GgufType::kF32) {
    return InputError(
        fmt::format("tensor '{}': type {}, expected F32", kRopeFreqs, InfoOf(tensor.type).name));
  }
  Json factors = Json::array();
  for (size_t i = 0; i + 4 <= tensor.bytes.size(); i += 4) {
    float factor;
    std::memcpy(&factor, tensor.bytes.data() + i, 4);
    if (!(factor > 0) || !std::isfinite(factor)) {
      return InputError(fmt::format("tensor '{}': factor {} is {}", kRopeFreqs, i / 4, factor));
    }
    factors.push_back(factor);
  }
  config["rope_scaling"] = {{"rope_type", "factors"}, {"factors", std::move(factors)}};
  return {};
}

Result<GgufModel> Read(const std::shared_ptr<const GgufFile>& file) {
  GgufModel model;
  PLANISH_TRY(model.config, ReadConfig(*file));
  model.config["quantization_config"] = {
      {"quant_method", "planish"}, {"version", kArtifactVersion}, {"tensors", Json::object()}};
  auto owner = std::make_shared<Owner>();
  owner->file = file;
  std::vector<Checkpoint::Loose> tensors;
  for (const GgufTensor& tensor : file->tensors()) {
    if (tensor.name == kRopeFreqs) {
      PLANISH_RETURN_IF_ERROR(ReadRopeFactors(tensor, model.config));
      continue;
    }
    PLANISH_RETURN_IF_ERROR(AddTensor(tensor, model.config, *owner, tensors));
  }
  // Nothing but floats: an original like any other.
  if (model.config["quantization_config"]["tensors"].empty()) model.config.erase("quantization_config");
  model.checkpoint = Checkpoint::OfTensors(file->path(), std::move(tensors), owner, file->file_bytes());
  return model;
}

}  // namespace

Result<GgufModel> OpenGgufModel(const std::string& path) {
  PLANISH_TRY(const auto file, GgufFile::Open(path));
  auto model = Read(file);
  if (!model.ok()) return model.error().At(path);
  return model;
}

std::optional<std::string> GgufNameOf(const std::string& name) {
  return Translate(name, &Name::hf, &Name::gguf, "model.layers.", "blk.");
}

int64_t GgufPermutedHeads(const std::string& gguf_name, const Json& config) {
  if (config["model_type"] != "llama" && config["model_type"] != "mistral") return 0;
  const bool q = gguf_name.find(".attn_q.") != std::string::npos;
  const bool k = gguf_name.find(".attn_k.") != std::string::npos;
  if (!q && !k) return 0;
  auto heads = k ? config.find("num_key_value_heads") : config.end();
  if (heads == config.end() || !heads->is_number_integer()) heads = config.find("num_attention_heads");
  return heads != config.end() && heads->is_number_integer() ? heads->get<int64_t>() : 0;
}

Status AddHyperParameters(const Json& config, const Program& program, GgufMetadata& metadata) {
  const std::string& family = program.family;
  if (family != "llama" && family != "mistral" && family != "qwen2" && family != "qwen3") {
    return InputError(fmt::format(
        "family '{}' cannot be written as GGUF yet: expected llama, mistral, qwen2 or qwen3", family));
  }
  const std::string arch = family == "mistral" ? "llama" : family, a = arch + ".";
  PLANISH_TRY(const int64_t heads, JsonInt(config, "num_attention_heads"));
  PLANISH_TRY(const int64_t kv_heads, JsonInt(config, "num_key_value_heads", heads));
  PLANISH_TRY(const int64_t inter, JsonInt(config, "intermediate_size"));
  PLANISH_TRY(const double eps, JsonNumber(config, "rms_norm_eps", 1e-6));
  const Json parameters = config.contains("rope_parameters") && config["rope_parameters"].is_object()
                              ? config["rope_parameters"]
                              : Json::object();
  PLANISH_TRY(const double top_theta, JsonNumber(config, "rope_theta", 10000.0));
  PLANISH_TRY(const double theta, JsonNumber(parameters, "rope_theta", top_theta));
  const Json scaling = config.contains("rope_scaling") && config["rope_scaling"].is_object()
                           ? config["rope_scaling"]
                           : parameters;
  PLANISH_TRY(const std::string old_type, JsonString(scaling, "type", "default"));
  PLANISH_TRY(const std::string type, JsonString(scaling, "rope_type", old_type));
  if (type != "default") {
    return InputError(fmt::format("rope_type '{}' cannot be written as GGUF yet", Abbreviate(type)));
  }
  metadata.String("general.architecture", arch);
  metadata.Int(a + "context_length", program.max_positions);
  metadata.Int(a + "embedding_length", program.hidden);
  metadata.Int(a + "block_count", static_cast<int64_t>(program.blocks.size()) - 2);
  metadata.Int(a + "feed_forward_length", inter);
  metadata.Int(a + "attention.head_count", heads);
  metadata.Int(a + "attention.head_count_kv", kv_heads);
  metadata.Float(a + "attention.layer_norm_rms_epsilon", static_cast<float>(eps));
  const auto head_dim = static_cast<int64_t>(2 * program.ropes.front().inv_freq.size());
  if (arch != "qwen2") {
    metadata.Int(a + "attention.key_length", head_dim);
    metadata.Int(a + "attention.value_length", head_dim);
  } else if (head_dim * heads != program.hidden) {
    return InputError("qwen2 as GGUF needs heads * head_dim = hidden size");
  }
  if (arch == "llama") metadata.Int(a + "rope.dimension_count", head_dim);
  metadata.Float(a + "rope.freq_base", static_cast<float>(theta));
  metadata.Int(a + "vocab_size", program.vocab);
  if (family == "mistral" && config.contains("sliding_window") &&
      config["sliding_window"].is_number_integer()) {
    metadata.Int(a + "attention.sliding_window", config["sliding_window"].get<int64_t>());
  }
  return {};
}

}  // namespace planish
