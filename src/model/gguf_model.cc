#include "model/gguf_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include "base/names.h"
#include "layer/artifact.h"
#include "layer/matrix.h"
#include "model/gguf_family.h"
#include "model/gguf_rope.h"
#include "tensor/buffer.h"

namespace planish {
namespace {

// A count or width a program may have: what follows multiplies them.
Result<int64_t> ReadCount(const GgufFile& file, const std::string& key) {
  PLANISH_TRY(const int64_t value, file.Int(key));
  if (value < 1 || value > (int64_t{1} << 24)) {
    return InputError(fmt::format("key '{}': expected 1 to 2^24, found {}", key, value));
  }
  return value;
}

// Heads, their widths and the positions they are rotated by.
Status ReadHeads(const GgufFile& file, const GgufFamily& family, const std::string& a, Json& config) {
  const GgufSizes& names = family.sizes;
  const auto hidden = config[names.hidden].get<int64_t>();
  PLANISH_TRY(const int64_t heads, ReadCount(file, a + "attention.head_count"));
  PLANISH_TRY(const int64_t kv_heads, file.Int(a + "attention.head_count_kv", heads));
  config[names.heads] = heads;
  if (names.kv_heads != nullptr) {
    config[names.kv_heads] = kv_heads;
  } else if (kv_heads != heads) {
    return InputError(fmt::format("{}attention.head_count_kv: expected {} as there are heads, found {}", a,
                                  heads, kv_heads));
  }
  const int64_t usual = hidden / heads;
  PLANISH_TRY(const int64_t head_dim, file.Int(a + "attention.key_length", usual));
  if (family.head_dim) config["head_dim"] = head_dim;
  if (!family.head_dim && head_dim != usual) {
    return InputError(fmt::format("{}attention.key_length: expected {}, found {}", a, usual, head_dim));
  }
  if (family.theta != nullptr) {
    PLANISH_TRY(config["rope_theta"],
                file.Number(a + "rope.freq_base", Json::parse(family.theta).get<double>()));
  }
  PLANISH_TRY(const int64_t rotated, file.Int(a + "rope.dimension_count", head_dim));
  const bool fits = family.partial ? rotated >= 1 && rotated <= head_dim : rotated == head_dim;
  if (family.theta != nullptr && !fits) {
    return InputError(fmt::format("{}rope.dimension_count: expected {}{}, found {}", a,
                                  family.partial ? "1 to " : "", head_dim, rotated));
  }
  if (family.partial && head_dim > 0) {
    config["partial_rotary_factor"] = static_cast<double>(rotated) / static_cast<double>(head_dim);
  }
  return {};
}

// Attention over latents: the lengths of the heads that they stand for, which older files give as those of
// the keys and values themselves.
Status ReadLatent(const GgufFile& file, const GgufFamily& family, const std::string& a, Json& config) {
  const std::string at = a + "attention.";
  PLANISH_TRY(const int64_t heads, ReadCount(file, at + "head_count"));
  config[family.sizes.heads] = config[family.sizes.kv_heads] = heads;
  const bool newer = file.Has(at + "key_length_mla");
  PLANISH_TRY(const int64_t key, ReadCount(file, at + (newer ? "key_length_mla" : "key_length")));
  PLANISH_TRY(const int64_t value, ReadCount(file, at + (newer ? "value_length_mla" : "value_length")));
  PLANISH_TRY(const int64_t rotated, ReadCount(file, a + "rope.dimension_count"));
  if (rotated >= key) {
    return InputError(fmt::format(
        "{}rope.dimension_count: expected less than the {} of a head's key, found {}", a, key, rotated));
  }
  config["qk_nope_head_dim"] = key - rotated;
  config["qk_rope_head_dim"] = rotated;
  config["v_head_dim"] = value;
  PLANISH_TRY(config["kv_lora_rank"], ReadCount(file, at + "kv_lora_rank"));
  config["q_lora_rank"] = nullptr;
  if (file.Has(at + "q_lora_rank")) {
    PLANISH_TRY(config["q_lora_rank"], ReadCount(file, at + "q_lora_rank"));
  }
  PLANISH_TRY(config["rope_theta"],
              file.Number(a + "rope.freq_base", Json::parse(family.theta).get<double>()));
  return {};
}

// How the experts of such models are chosen.
Status ReadRouting(const GgufFile& file, const std::string& a, Json& config) {
  constexpr int64_t kSoftmax = 1, kSigmoid = 2;
  PLANISH_TRY(const int64_t gate, file.Int(a + "expert_gating_func", kSoftmax));
  if (gate != kSoftmax && gate != kSigmoid) {
    return InputError(fmt::format("{}expert_gating_func: expected 1 or 2, found {}", a, gate));
  }
  PLANISH_TRY(const int64_t groups, file.Int(a + "expert_group_count", 1));
  PLANISH_TRY(const int64_t open, file.Int(a + "expert_group_used_count", groups));
  config["scoring_func"] = gate == kSigmoid ? "sigmoid" : "softmax";
  config["topk_method"] = gate == kSigmoid ? "noaux_tc" : groups > 1 ? "group_limited_greedy" : "greedy";
  config["n_group"] = groups;
  config["topk_group"] = open;
  PLANISH_TRY(const bool normalized, file.Bool(a + "expert_weights_norm", false));
  config["norm_topk_prob"] = normalized;
  return {};
}

// Heads of state-space layers.
Status ReadScan(const GgufFile& file, const std::string& a, Json& config) {
  const auto hidden = config["hidden_size"].get<int64_t>();
  PLANISH_TRY(const int64_t inner, ReadCount(file, a + "ssm.inner_size"));
  PLANISH_TRY(const int64_t heads, ReadCount(file, a + "ssm.time_step_rank"));
  if (inner % hidden != 0 || inner % heads != 0) {
    return InputError(
        fmt::format("{}ssm.inner_size: expected a multiple of the width {} and of {} heads, "
                    "found {}",
                    a, hidden, heads, inner));
  }
  config["num_heads"] = heads;
  config["head_dim"] = inner / heads;
  config["expand"] = inner / hidden;
  return {};
}

// The rows of the embedding are what others say of the vocabulary's size.
Status CheckVocabulary(const GgufFile& file, const std::string& a, int64_t rows) {
  PLANISH_TRY(const int64_t stated, file.Int(a + "vocab_size", rows));
  if (stated != rows) {
    return InputError(
        fmt::format("{}vocab_size: expected {}, the rows of token_embd.weight, found {}", a, rows, stated));
  }
  constexpr const char* kTokens = "tokenizer.ggml.tokens";
  const auto tokens = file.metadata().find(kTokens);
  if (tokens == file.metadata().end() || tokens->second.kind != GgufKind::kArray) return {};
  if (tokens->second.count == rows) return {};
  return InputError(fmt::format("{}: expected {}, one for every row of token_embd.weight, found {}", kTokens,
                                rows, tokens->second.count));
}

Status ReadSizes(const GgufFile& file, const GgufFamily& family, const std::string& a, Json& config) {
  const GgufSizes& names = family.sizes;
  PLANISH_TRY(config[names.hidden], ReadCount(file, a + "embedding_length"));
  PLANISH_TRY(config[names.layers], ReadCount(file, a + "block_count"));
  if (!family.scan) {
    PLANISH_TRY(config[names.inter], ReadCount(file, a + "feed_forward_length"));
    PLANISH_TRY(config[names.positions], ReadCount(file, a + "context_length"));
  }
  PLANISH_RETURN_IF_ERROR(family.latent ? ReadLatent(file, family, a, config)
                          : family.scan ? ReadScan(file, a, config)
                                        : ReadHeads(file, family, a, config));
  const std::string eps =
      a + (family.layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon");
  if (!file.Has(eps)) return InputError(fmt::format("key '{}' is missing", eps));
  PLANISH_TRY(config[family.eps], file.Number(eps, 0));
  const GgufTensor* table = file.Find("token_embd.weight");
  if (table == nullptr) return InputError("tensor 'token_embd.weight' is missing");
  config["vocab_size"] = table->rows();
  PLANISH_RETURN_IF_ERROR(CheckVocabulary(file, a, table->rows()));
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
    if (family.latent) PLANISH_RETURN_IF_ERROR(ReadRouting(file, a, config));
  } else {
    PLANISH_TRY(const int64_t experts, file.Int(a + "expert_count", 0));
    if (experts > 0)
      return InputError(fmt::format("{}expert_count {}: expected none in this family", a, experts));
  }
  return {};
}

// What follows from sizes, or from the pattern of windows.
Status ReadDerived(const GgufFile& file, const GgufFamily& family, const std::string& a, Json& config) {
  if (family.largest_layers > 0) {
    const bool by_hidden = config["num_hidden_layers"] == family.largest_layers;
    config["query_pre_attn_scalar"] =
        by_hidden ? config["hidden_size"].get<int64_t>() / config["num_attention_heads"].get<int64_t>()
                  : config["head_dim"].get<int64_t>();
  }
  if (family.windows == GgufFamily::Windows::kPattern) {
    PLANISH_TRY(config["sliding_window_pattern"], file.Int(a + "attention.sliding_window_pattern", 6));
  }
  return {};
}

Status ReadTokenIds(const GgufFile& file, Json& config) {
  for (const auto& [kind, field] :
       {std::pair("bos", "bos_token_id"), {"eos", "eos_token_id"}, {"padding", "pad_token_id"}}) {
    const std::string key = fmt::format("tokenizer.ggml.{}_token_id", kind);
    if (!file.Has(key)) continue;
    PLANISH_TRY(config[field], file.Int(key));
  }
  return {};
}

Result<Json> ReadConfig(const GgufFile& file, const GgufFamily& family) {
  const std::string a = std::string(family.arch) + ".";
  Json config;
  config["model_type"] = family.model_type;
  PLANISH_RETURN_IF_ERROR(ReadSizes(file, family, a, config));
  PLANISH_RETURN_IF_ERROR(ReadKeys(file, family, a, config));
  PLANISH_RETURN_IF_ERROR(ReadDerived(file, family, a, config));
  PLANISH_RETURN_IF_ERROR(ReadGgufRope(file, family, config));
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

// A vector whose values the file has changed: `change(value)` turns each back, or is an error for it.
template <class Change>
Result<std::span<const std::byte>> Changed(const GgufTensor& tensor, Owner& owner, Change change) {
  if (tensor.type != GgufType::kF32) {
    return InputError(
        fmt::format("tensor '{}': type {}, expected F32", Abbreviate(tensor.name), InfoOf(tensor.type).name));
  }
  Buffer copy(tensor.bytes.size());
  for (size_t i = 0; i + 4 <= copy.size(); i += 4) {
    float value;
    std::memcpy(&value, tensor.bytes.data() + i, 4);
    const Result<float> changed = change(value);
    if (!changed.ok()) {
      return changed.error().At(fmt::format("tensor '{}': element {}", Abbreviate(tensor.name), i / 4));
    }
    std::memcpy(copy.data() + i, &*changed, 4);
  }
  owner.copies.push_back(std::move(copy));
  return std::as_const(owner.copies.back()).bytes();
}

// A vector's shape in Hugging Face's files; its values where they are others.
Status ReadForm(const GgufTensor& tensor, GgufName::Form form, std::vector<int64_t>& shape,
                std::span<const std::byte>& bytes, Owner& owner) {
  if (form == GgufName::Form::kPlain) return {};
  if (form == GgufName::Form::kKernels) {
    shape = {tensor.rows(), 1, tensor.cols()};
    return {};
  }
  shape = {tensor.rows() * tensor.cols()};
  if (form != GgufName::Form::kNegatedPowers) return {};
  PLANISH_TRY(bytes, Changed(tensor, owner, [](float value) -> Result<float> {
                if (value < 0 && std::isfinite(value)) return static_cast<float>(std::log(-double{value}));
                return InputError(fmt::format("found {}, expected a number below 0", value));
              }));
  return {};
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

// The rows of a vector, one by one: `name` has a star for their number.
Status AddRows(const GgufTensor& tensor, const std::string& name, const std::vector<int64_t>& shape,
               Json& config, std::vector<Checkpoint::Loose>& tensors) {
  constexpr int64_t kMaxRows = int64_t{1} << 16;
  if (shape.size() != 2 || tensor.type != GgufType::kF32 || shape[0] < 1 || shape[0] > kMaxRows) {
    return InputError(fmt::format("tensor '{}': expected at most {} rows of F32, found {} [{}]",
                                  Abbreviate(tensor.name), kMaxRows, InfoOf(tensor.type).name,
                                  fmt::join(shape, ", ")));
  }
  const size_t size = tensor.bytes.size() / static_cast<size_t>(shape[0]);
  for (int64_t i = 0; i < shape[0]; ++i) {
    std::string own = name;
    own.replace(name.find('*'), 1, std::to_string(i));
    AddPart(own, tensor.type, {shape[1]}, tensor.bytes.subspan(static_cast<size_t>(i) * size, size), false,
            config, tensors);
  }
  return {};
}

// A tensor of a layer behind the last would be lost without a word.
Status CheckLayer(const GgufTensor& tensor, const GgufFamily& family, const Json& config) {
  constexpr std::string_view kLayer = "blk.";
  const std::string_view name = tensor.name;
  if (!name.starts_with(kLayer)) return {};
  const auto layers = config.at(family.sizes.layers).get<int64_t>();
  int64_t layer = 0;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + kLayer.size(), end, layer);
  if (error == std::errc() && layer < layers) return {};
  return InputError(fmt::format(
      "tensor '{}': the file's block_count is {}, so that layers end at blk.{} (is it from another file?)",
      Abbreviate(tensor.name), layers, layers - 1));
}

Status AddTensor(const GgufTensor& tensor, const GgufFamily& family, const GgufRowOrder& order, Json& config,
                 Owner& owner, std::vector<Checkpoint::Loose>& tensors) {
  const auto name = HfNameOf(family, tensor.name);
  if (!name)
    return InputError(fmt::format("tensor '{}' has no place in this architecture", Abbreviate(tensor.name)));
  PLANISH_RETURN_IF_ERROR(CheckLayer(tensor, family, config));
  const bool blocks = DTypeOf(tensor.type) == DType::kU8;
  if (blocks && (!InfoOf(tensor.type).decodes || tensor.dims.size() < 2)) {
    return InputError(fmt::format("tensor '{}': values of type {} cannot be read", Abbreviate(tensor.name),
                                  InfoOf(tensor.type).name));
  }
  std::vector<int64_t> shape(tensor.dims.rbegin(), tensor.dims.rend());
  const size_t star = name->find('*');
  if (star != std::string::npos && family.experts == nullptr) {
    return AddRows(tensor, *name, shape, config, tensors);
  }
  if (star != std::string::npos) {  // the experts of a layer
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
  const GgufName::Form form = FormOf(family, tensor.name);
  if (form != GgufName::Form::kPlain && blocks) {
    return InputError(
        fmt::format("tensor '{}': type {}, expected F32", Abbreviate(tensor.name), InfoOf(tensor.type).name));
  }
  PLANISH_RETURN_IF_ERROR(ReadForm(tensor, form, shape, bytes, owner));
  if (order.kind != GgufFamily::Rows::kAsIs) {
    const int64_t rows = shape.front();
    if (!order.Fits(rows) || (shape.size() == 1 && blocks)) {
      return InputError(fmt::format("tensor '{}': {} rows for {} heads", tensor.name, rows, order.heads));
    }
    bytes = ReorderRows(bytes, rows, order, owner);
  }
  if (StoresPlus(family, tensor.name)) {
    // Norms without the 1 that the file has added to them.
    PLANISH_TRY(bytes, Changed(tensor, owner,
                               [&](float value) -> Result<float> { return value - family.norm_plus; }));
  }
  // A gate of one row is a vector there.
  if (shape.size() == 1 && tensor.name.ends_with("_shexp.weight")) shape.insert(shape.begin(), 1);
  const bool turned = family.transposed && tensor.name.starts_with("blk.");
  AddPart(*name, tensor.type, std::move(shape), bytes, turned, config, tensors);
  return {};
}

// ---- keys and values from latents

constexpr std::string_view kKeys = ".attn_k_b.weight", kValues = ".attn_v_b.weight";

// One tensor's values as matrices of floats, one below the other.
Result<Mat<float>> ReadFloats(const GgufTensor& tensor, int64_t rows, int64_t cols) {
  if (tensor.cols() != cols || tensor.rows() != rows) {
    return InputError(fmt::format("tensor '{}': expected {} rows of {}, found {} of {}",
                                  Abbreviate(tensor.name), rows, cols, tensor.rows(), tensor.cols()));
  }
  const DType type = DTypeOf(tensor.type);
  if (type == DType::kU8 && !InfoOf(tensor.type).decodes) {
    return InputError(fmt::format("tensor '{}': values of type {} cannot be read", Abbreviate(tensor.name),
                                  InfoOf(tensor.type).name));
  }
  const Blob blob{tensor.bytes, nullptr};
  return Reconstruct(type == DType::kU8 ? Matrix{rows, cols, Blocks{tensor.type, blob}}
                                        : DenseMatrix(rows, cols, type, blob));
}

// kv_b_proj [heads * (nope + value), rank] of every head's keys [rank, nope] and values [value, rank].
Status JoinLatent(const GgufFile& file, const std::string& keys_name, Json& config, Owner& owner,
                  std::vector<Checkpoint::Loose>& tensors) {
  const std::string layer = keys_name.substr(0, keys_name.size() - kKeys.size());
  if (file.Find(layer + ".attn_kv_b.weight") != nullptr) return {};  // has both, as they were
  const GgufTensor* second = file.Find(layer + std::string(kValues));
  if (second == nullptr) {
    return InputError(fmt::format("tensor '{}{}' is missing beside '{}'", layer, kValues, keys_name));
  }
  const auto size = [&](const char* field) { return config[field].get<int64_t>(); };
  const int64_t heads = size("num_attention_heads"), rank = size("kv_lora_rank");
  const int64_t nope = size("qk_nope_head_dim"), value = size("v_head_dim"), head = nope + value;
  PLANISH_TRY(const Mat<float> keys, ReadFloats(*file.Find(keys_name), heads * rank, nope));
  PLANISH_TRY(const Mat<float> values, ReadFloats(*second, heads * value, rank));
  Buffer joined(static_cast<size_t>(heads * head * rank) * sizeof(float));
  auto* out = reinterpret_cast<float*>(joined.data());
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < nope; ++i) {
      for (int64_t j = 0; j < rank; ++j) out[(h * head + i) * rank + j] = keys(h * rank + j, i);
    }
    for (int64_t i = 0; i < value; ++i) {
      std::copy_n(values.row(h * value + i), rank, out + (h * head + nope + i) * rank);
    }
  }
  owner.copies.push_back(std::move(joined));
  const std::string number = layer.substr(std::string_view("blk.").size());
  AddPart("model.layers." + number + ".self_attn.kv_b_proj.weight", GgufType::kF32, {heads * head, rank},
          std::as_const(owner.copies.back()).bytes(), false, config, tensors);
  return {};
}

}  // namespace

Result<GgufModel> ReadGgufModel(const std::shared_ptr<const GgufFile>& file) {
  GgufModel model;
  PLANISH_TRY(const GgufFamily* family, GgufFamilyOf(*file));
  PLANISH_TRY(model.config, ReadConfig(*file, *family));
  model.config["quantization_config"] = {
      {"quant_method", "planish"}, {"version", kArtifactVersion}, {"tensors", Json::object()}};
  const std::string a = std::string(family->arch) + ".";
  PLANISH_TRY(const int64_t heads, file->Int(a + "attention.head_count", 0));
  PLANISH_TRY(const int64_t kv_heads, file->Int(a + "attention.head_count_kv", heads));
  auto owner = std::make_shared<Owner>();
  owner->file = file;
  std::vector<Checkpoint::Loose> tensors;
  for (const GgufTensor& tensor : file->tensors()) {
    if (family->theta != nullptr && IsRopeTensor(tensor.name)) continue;
    if (family->latent && (tensor.name.ends_with(kKeys) || tensor.name.ends_with(kValues))) {
      if (tensor.name.ends_with(kKeys)) {
        PLANISH_RETURN_IF_ERROR(JoinLatent(*file, tensor.name, model.config, *owner, tensors));
      }
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

Result<GgufModel> OpenGgufModel(const std::string& path) {
  PLANISH_TRY(const auto file, GgufFile::Open(path));
  auto model = ReadGgufModel(file);
  if (!model.ok()) return model.error().At(path);
  return model;
}

}  // namespace planish
