#include "model/gguf_model.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "base/names.h"
#include "layer/artifact.h"
#include "model/gguf_family.h"
#include "tensor/buffer.h"

namespace planish {
namespace {

constexpr const char* kRopeFreqs = "rope_freqs.weight";

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

// A count or width a program may have: what follows multiplies them.
Result<int64_t> ReadCount(const GgufFile& file, const std::string& key) {
  PLANISH_TRY(const int64_t value, file.Int(key));
  if (value < 1 || value > (int64_t{1} << 24)) {
    return InputError(fmt::format("key '{}': expected 1 to 2^24, found {}", key, value));
  }
  return value;
}

Status ReadSizes(const GgufFile& file, const GgufFamily& family, const std::string& a, Json& config) {
  const GgufSizes& names = family.sizes;
  PLANISH_TRY(const int64_t hidden, ReadCount(file, a + "embedding_length"));
  PLANISH_TRY(const int64_t heads, ReadCount(file, a + "attention.head_count"));
  PLANISH_TRY(const int64_t kv_heads, file.Int(a + "attention.head_count_kv", heads));
  config[names.hidden] = hidden;
  config[names.heads] = heads;
  if (names.kv_heads != nullptr) {
    config[names.kv_heads] = kv_heads;
  } else if (kv_heads != heads) {
    return InputError(fmt::format("{}attention.head_count_kv: expected {} as there are heads, found {}", a,
                                  heads, kv_heads));
  }
  PLANISH_TRY(config[names.layers], ReadCount(file, a + "block_count"));
  PLANISH_TRY(config[names.inter], ReadCount(file, a + "feed_forward_length"));
  PLANISH_TRY(config[names.positions], ReadCount(file, a + "context_length"));
  const int64_t usual = hidden / heads;
  PLANISH_TRY(const int64_t head_dim, file.Int(a + "attention.key_length", usual));
  if (family.head_dim) config["head_dim"] = head_dim;
  if (!family.head_dim && head_dim != usual) {
    return InputError(fmt::format("{}attention.key_length: expected {}, found {}", a, usual, head_dim));
  }
  const std::string eps =
      a + (family.layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon");
  if (!file.Has(eps)) return InputError(fmt::format("key '{}' is missing", eps));
  PLANISH_TRY(config[family.eps], file.Number(eps, 0));
  if (family.theta != nullptr) {
    PLANISH_TRY(config["rope_theta"],
                file.Number(a + "rope.freq_base", Json::parse(family.theta).get<double>()));
  }
  PLANISH_TRY(const int64_t rotated, file.Int(a + "rope.dimension_count", head_dim));
  if (family.partial && head_dim > 0) {
    config["partial_rotary_factor"] = static_cast<double>(rotated) / static_cast<double>(head_dim);
  }
  const GgufTensor* table = file.Find("token_embd.weight");
  if (table == nullptr) return InputError("tensor 'token_embd.weight' is missing");
  config["vocab_size"] = table->rows();
  config["tie_word_embeddings"] = file.Find("output.weight") == nullptr;
  return {};
}

Status ReadKeys(const GgufFile& file, const GgufFamily& family, const std::string& a, Json& config) {
  for (const GgufKey& key : family.keys) {
    const std::string name = a + key.key;
    if (!file.Has(name)) {
      if (key.fallback != nullptr) config[key.field] = Json::parse(key.fallback);
      continue;
    }
    switch (key.kind) {
      case GgufKey::Kind::kInt: {
        PLANISH_TRY(config[key.field], file.Int(name));
        break;
      }
      case GgufKey::Kind::kFloat: {
        PLANISH_TRY(config[key.field], file.Number(name, 0));
        break;
      }
      case GgufKey::Kind::kBool: {
        PLANISH_TRY(const bool flag, file.Bool(name, false));
        config[key.field] = flag;
        break;
      }
    }
  }
  for (const GgufImplied& implied : family.implied) config[implied.field] = Json::parse(implied.value);
  for (const GgufName& flag : family.flags) config[flag.hf] = file.Find(flag.gguf) != nullptr;
  if (family.experts != nullptr) {
    PLANISH_TRY(config[family.experts], ReadCount(file, a + "expert_count"));
    PLANISH_TRY(config["num_experts_per_tok"], ReadCount(file, a + "expert_used_count"));
    config["norm_topk_prob"] = family.normalized;
  } else {
    PLANISH_TRY(const int64_t experts, file.Int(a + "expert_count", 0));
    if (experts > 0)
      return InputError(fmt::format("{}expert_count {}: expected none in this family", a, experts));
  }
  return {};
}

// What a family's own reader of configs cannot know from single keys.
Status ReadFamilyFields(const GgufFile& file, const GgufFamily& family, const std::string& a, Json& config) {
  const std::string_view name = family.family;
  if (name == "gemma2" || name == "gemma3") {
    // The file says nothing of the scores' scale; in the largest model of each it is another.
    const int64_t largest = name == "gemma2" ? 46 : 62;
    const bool by_hidden = config["num_hidden_layers"] == largest;
    config["query_pre_attn_scalar"] =
        by_hidden ? config["hidden_size"].get<int64_t>() / config["num_attention_heads"].get<int64_t>()
                  : config["head_dim"].get<int64_t>();
  }
  if (name == "gemma3") {
    PLANISH_TRY(config["sliding_window_pattern"], file.Int(a + "attention.sliding_window_pattern", 6));
  }
  if (name == "falcon") config["num_ln_in_parallel_attn"] = family.tensor != nullptr ? 2 : 1;
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

Result<Json> ReadConfig(const GgufFile& file, const GgufFamily& family) {
  const std::string a = std::string(family.arch) + ".";
  Json config;
  config["model_type"] = family.model_type;
  PLANISH_RETURN_IF_ERROR(ReadSizes(file, family, a, config));
  PLANISH_RETURN_IF_ERROR(ReadKeys(file, family, a, config));
  PLANISH_RETURN_IF_ERROR(ReadFamilyFields(file, family, a, config));
  PLANISH_RETURN_IF_ERROR(ReadRopeScaling(file, a, config));
  PLANISH_RETURN_IF_ERROR(ReadTokenIds(file, config));
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

// The rows of a tensor in Hugging Face's order.
std::span<const std::byte> ReorderRows(std::span<const std::byte> bytes, int64_t rows,
                                       const GgufRowOrder& order, Owner& owner) {
  const int64_t row_bytes = static_cast<int64_t>(bytes.size()) / rows;
  Buffer copy(bytes.size());
  for (int64_t i = 0; i < rows; ++i) {
    std::memcpy(copy.data() + order.Source(i, rows) * row_bytes, bytes.data() + i * row_bytes,
                static_cast<size_t>(row_bytes));
  }
  owner.copies.push_back(std::move(copy));
  return std::as_const(owner.copies.back()).bytes();
}

// Norms without the 1 that the file has added to them.
Result<std::span<const std::byte>> SubtractPlus(const GgufTensor& tensor, float plus, Owner& owner) {
  if (tensor.type != GgufType::kF32) {
    return InputError(
        fmt::format("tensor '{}': type {}, expected F32", Abbreviate(tensor.name), InfoOf(tensor.type).name));
  }
  Buffer copy(tensor.bytes.size());
  for (size_t i = 0; i + 4 <= copy.size(); i += 4) {
    float value;
    std::memcpy(&value, tensor.bytes.data() + i, 4);
    value -= plus;
    std::memcpy(copy.data() + i, &value, 4);
  }
  owner.copies.push_back(std::move(copy));
  return std::as_const(owner.copies.back()).bytes();
}

// One matrix or vector of the file under its Hugging Face name. Matrices that the family's checkpoints keep
// the other way round are described as parts, which always lie as [out, in]; so are blocks.
void AddPart(const std::string& name, GgufType type, std::vector<int64_t> shape,
             std::span<const std::byte> bytes, bool as_part, Json& config,
             std::vector<Checkpoint::Loose>& tensors) {
  Checkpoint::Loose loose;
  loose.info.name = name;
  loose.info.type = DTypeOf(type);
  loose.info.shape = std::move(shape);
  loose.bytes = bytes;
  const bool blocks = loose.info.type == DType::kU8;
  if (blocks || (as_part && loose.info.shape.size() == 2)) {
    const int64_t rows = loose.info.shape.front(), cols = loose.info.shape.back();
    Json& parts = config["quantization_config"]["tensors"][name];
    parts = {{"kind", blocks ? "blocks" : "dense"}, {"tensor", name}, {"rows", rows}, {"cols", cols}};
    if (blocks) {
      parts["type"] = InfoOf(type).name;
      loose.info.name += ".blocks";
      loose.info.shape = {rows, GgufRowBytes(type, cols)};
    }
  }
  tensors.push_back(std::move(loose));
}

Status AddTensor(const GgufTensor& tensor, const GgufFamily& family, const GgufRowOrder& order, Json& config,
                 Owner& owner, std::vector<Checkpoint::Loose>& tensors) {
  const auto name = HfNameOf(family, tensor.name);
  if (!name)
    return InputError(fmt::format("tensor '{}' has no place in this architecture", Abbreviate(tensor.name)));
  const bool blocks = DTypeOf(tensor.type) == DType::kU8;
  if (blocks && (!InfoOf(tensor.type).decodes || tensor.dims.size() < 2)) {
    return InputError(fmt::format("tensor '{}': values of type {} cannot be read", Abbreviate(tensor.name),
                                  InfoOf(tensor.type).name));
  }
  std::vector<int64_t> shape(tensor.dims.rbegin(), tensor.dims.rend());
  if (const size_t star = name->find('*'); star != std::string::npos) {  // the experts of a layer
    const auto experts = config[family.experts].get<int64_t>();
    if (shape.size() != 3 || shape.front() != experts) {
      return InputError(fmt::format("tensor '{}': expected {} matrices, found dimensions [{}]",
                                    Abbreviate(tensor.name), experts, fmt::join(shape, ", ")));
    }
    const size_t size = tensor.bytes.size() / static_cast<size_t>(experts);
    for (int64_t e = 0; e < experts; ++e) {
      std::string own = *name;
      own.replace(star, 1, std::to_string(e));
      AddPart(own, tensor.type, {shape[1], shape[2]},
              tensor.bytes.subspan(static_cast<size_t>(e) * size, size), false, config, tensors);
    }
    return {};
  }
  if (shape.size() > 2) {
    return InputError(fmt::format("tensor '{}': expected a matrix, found dimensions [{}]",
                                  Abbreviate(tensor.name), fmt::join(shape, ", ")));
  }
  std::span<const std::byte> bytes = tensor.bytes;
  if (order.kind != GgufFamily::Rows::kAsIs) {
    const int64_t rows = shape.front();
    if (!order.Fits(rows) || (shape.size() == 1 && blocks)) {
      return InputError(fmt::format("tensor '{}': {} rows for {} heads", tensor.name, rows, order.heads));
    }
    bytes = ReorderRows(bytes, rows, order, owner);
  }
  if (StoresPlus(family, tensor.name)) {
    PLANISH_TRY(bytes, SubtractPlus(tensor, family.norm_plus, owner));
  }
  // A gate of one row is a vector there.
  if (shape.size() == 1 && tensor.name.ends_with("_shexp.weight")) shape.insert(shape.begin(), 1);
  const bool turned = std::string_view(family.family) == "gpt2" && tensor.name.starts_with("blk.");
  AddPart(*name, tensor.type, std::move(shape), bytes, turned, config, tensors);
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
  PLANISH_TRY(const GgufFamily* family, GgufFamilyOf(*file));
  PLANISH_TRY(model.config, ReadConfig(*file, *family));
  model.config["quantization_config"] = {
      {"quant_method", "planish"}, {"version", kArtifactVersion}, {"tensors", Json::object()}};
  const std::string a = std::string(family->arch) + ".";
  PLANISH_TRY(const int64_t heads, file->Int(a + "attention.head_count"));
  PLANISH_TRY(const int64_t kv_heads, file->Int(a + "attention.head_count_kv", heads));
  auto owner = std::make_shared<Owner>();
  owner->file = file;
  std::vector<Checkpoint::Loose> tensors;
  for (const GgufTensor& tensor : file->tensors()) {
    if (tensor.name == kRopeFreqs) {
      PLANISH_RETURN_IF_ERROR(ReadRopeFactors(tensor, model.config));
      continue;
    }
    const GgufRowOrder order = RowOrderOf(*family, tensor.name, heads, kv_heads);
    PLANISH_RETURN_IF_ERROR(AddTensor(tensor, *family, order, model.config, *owner, tensors));
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

}  // namespace planish
