// The hyper-parameters of a model as GGUF keys: the way out; gguf_model.cc is the way in.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/names.h"
#include "model/family.h"
#include "model/gguf_family.h"
#include "model/gguf_model.h"

namespace planish {
namespace {

// What the program says of its attention and experts, which has all defaults resolved.
struct Shapes {
  AttentionShape attention;
  ScanShape scan;
  RouteShape route;
  int64_t routers = 0;
  float eps = 0;
  std::vector<bool> rotated, slides;  // by layer
};

Shapes ShapesOf(const Program& program) {
  Shapes shapes;
  for (size_t b = 1; b + 1 < program.blocks.size(); ++b) {
    bool rotated = false;
    for (const Op& op : program.blocks[b].ops) {
      if (const auto* attention = std::get_if<AttentionOp>(&op.body)) {
        shapes.attention = attention->shape;
        shapes.slides.push_back(attention->shape.window > 0);
      }
      if (const auto* scan = std::get_if<ScanOp>(&op.body)) shapes.scan = scan->shape;
      if (const auto* norm = std::get_if<RmsNormOp>(&op.body)) shapes.eps = norm->eps;
      if (const auto* norm = std::get_if<LayerNormOp>(&op.body)) shapes.eps = norm->eps;
      if (const auto* route = std::get_if<RouteOp>(&op.body)) {
        shapes.route = route->shape;
        ++shapes.routers;
      }
      rotated = rotated || std::holds_alternative<RopeOp>(op.body);
    }
    shapes.rotated.push_back(rotated);
  }
  return shapes;
}

Json FieldOf(const Json& config, const char* field, const char* fallback) {
  const auto found = config.find(field);
  if (found != config.end() && !found->is_null()) return *found;
  return fallback == nullptr ? Json() : Json::parse(fallback);
}

Status CheckImplied(const GgufFamily& family, const Json& config) {
  for (const GgufImplied& implied : family.implied) {
    if (implied.fallback == nullptr) continue;
    const Json value = FieldOf(config, implied.field, implied.fallback);
    // Names of one activation.
    const auto same = [](Json a) {
      return a == "swish" ? Json("silu") : a == "gelu_fast" ? Json("gelu_new") : a;
    };
    if (same(value) == Json::parse(implied.value)) continue;
    return CannotHold(family, fmt::format("{} = {}, it means {}", implied.field, Abbreviate(DumpJson(value)),
                                          implied.value));
  }
  return {};
}

// The experts, where the family has some: in all layers but the first `dense`.
Status CheckExperts(const GgufFamily& family, const Shapes& shapes, int64_t dense) {
  const auto layers = static_cast<int64_t>(shapes.rotated.size());
  if (family.experts == nullptr) return {};
  if (shapes.routers != layers - dense) {
    return CannotHold(family, "layers without experts among layers with them");
  }
  if (!family.latent && shapes.route.normalize != family.normalized) {
    return CannotHold(family, fmt::format("experts' weights {} their sum",
                                          shapes.route.normalize ? "divided by" : "not divided by"));
  }
  return {};
}

// Latents are normalized by the one epsilon there is, and scores scaled by yarn's mscale_all_dim.
Status CheckLatent(const GgufFamily& family, const Json& config, const Shapes& shapes) {
  if (std::fabs(shapes.eps - 1e-6f) > 1e-9f) {
    return CannotHold(family, fmt::format("rms_norm_eps {} beside the latents' 1e-6", shapes.eps));
  }
  PLANISH_TRY(const int64_t dense, JsonInt(config, "first_k_dense_replace", 0));
  return CheckExperts(family, shapes, dense);
}

Status CheckShapes(const GgufFamily& family, const Program& program, const Shapes& shapes) {
  const AttentionShape& attention = shapes.attention;
  bool own_scale = false;
  for (const GgufKey& key : family.keys)
    own_scale = own_scale || std::string_view(key.key) == "attention.scale";
  const auto layers = static_cast<int64_t>(shapes.rotated.size());
  const bool by_hidden = family.largest_layers > 0 && layers == family.largest_layers;
  const auto width = static_cast<double>(by_hidden ? program.hidden / attention.heads : attention.head_dim);
  if (!own_scale && std::fabs(attention.scale * std::sqrt(width) - 1) > 1e-5) {
    return CannotHold(family,
                      fmt::format("scores scaled by {}, it means {}", attention.scale, 1 / std::sqrt(width)));
  }
  for (size_t i = 0; i < shapes.rotated.size(); ++i) {
    const bool skipped =
        family.unrotated_every > 0 && (i + 1) % static_cast<size_t>(family.unrotated_every) == 0;
    if (shapes.rotated[i] == (family.theta != nullptr && !skipped)) continue;
    return CannotHold(family, fmt::format("layer {} {} rotation", i, shapes.rotated[i] ? "with" : "without"));
  }
  using Windows = GgufFamily::Windows;
  for (size_t i = 0; i < shapes.slides.size() && family.windows != Windows::kPattern; ++i) {
    const bool slides = family.windows == Windows::kAlternate ? i % 2 == 0 : shapes.slides.front();
    if (shapes.slides[i] == slides) continue;
    return CannotHold(family, fmt::format("layer {}'s window beside those of the layers before it", i));
  }
  if (!family.head_dim && attention.head_dim * attention.heads != program.hidden) {
    return CannotHold(family, fmt::format("{} heads of {} for a width of {}", attention.heads,
                                          attention.head_dim, program.hidden));
  }
  return CheckExperts(family, shapes, 0);
}

Status AddKeys(const GgufFamily& family, const Json& config, GgufMetadata& metadata) {
  const std::string a = std::string(family.arch) + ".";
  for (const GgufKey& key : family.keys) {
    const bool null = key.null != nullptr && config.contains(key.field) && config[key.field].is_null();
    const Json value = null ? Json::parse(key.null) : FieldOf(config, key.field, key.fallback);
    if (null && value.is_null()) return CannotHold(family, fmt::format("{} = null", key.field));
    if (value.is_null()) continue;
    const bool fits = key.kind == GgufKey::Kind::kBool  ? value.is_boolean()
                      : key.kind == GgufKey::Kind::kInt ? value.is_number_integer()
                                                        : value.is_number();
    if (!fits) {
      return InputError(fmt::format("field '{}': {} does not fit the key '{}{}'", key.field,
                                    Abbreviate(DumpJson(value)), a, key.key));
    }
    if (key.kind == GgufKey::Kind::kInt) metadata.Int(a + key.key, value.get<int64_t>());
    if (key.kind == GgufKey::Kind::kFloat) metadata.Float(a + key.key, value.get<float>());
    if (key.kind == GgufKey::Kind::kBool) metadata.Bool(a + key.key, value.get<bool>());
  }
  return {};
}

// Rows of the first layer's plain up projection, of an expert where there is none.
Result<int64_t> InterOf(const GgufFamily& family, const Json& config, const Program& program) {
  int64_t inter = 0;
  for (const LinearSlot& slot : program.linears) {
    const auto place = GgufPlaceOf(family, program, slot.weight);
    if (!place) continue;
    if (place->name == "blk.0.ffn_up.weight") inter = slot.out;
    if (place->name == "blk.0.ffn_up_exps.weight" && inter == 0) inter = slot.out;
  }
  if (family.gate_up) inter /= 2;
  if (family.experts == nullptr) return inter;
  return JsonInt(config, family.sizes.inter, inter);
}

// Sliding layers: every one but each `pattern`-th.
Status AddPattern(const GgufFamily& family, const std::vector<bool>& slides, GgufMetadata& metadata) {
  const auto full = std::find(slides.begin(), slides.end(), false) - slides.begin();
  const auto pattern = static_cast<int64_t>(full) + 1;
  for (size_t i = 0; i < slides.size(); ++i) {
    if (slides[i] != ((static_cast<int64_t>(i) + 1) % pattern != 0)) {
      return CannotHold(family, fmt::format("layer {}'s window beside those of the layers before it", i));
    }
  }
  metadata.Int(std::string(family.arch) + ".attention.sliding_window_pattern", pattern);
  return {};
}

// The linear of the first layer that has it, by its GGUF name after the number.
const LinearSlot* FirstSlot(const GgufFamily& family, const Program& program, std::string_view rest) {
  for (const LinearSlot& slot : program.linears) {
    const auto place = GgufPlaceOf(family, program, slot.weight);
    if (place && place->name.ends_with(rest)) return &slot;
  }
  return nullptr;
}

void AddHeads(const GgufFamily& family, const AttentionShape& attention, GgufMetadata& metadata) {
  const std::string a = std::string(family.arch) + ".attention.";
  metadata.Int(a + "head_count", attention.heads);
  metadata.Int(a + "head_count_kv", attention.kv_heads);
  if (!family.head_dim) return;
  metadata.Int(a + "key_length", attention.head_dim);
  metadata.Int(a + "value_length", attention.ValueDim());
}

// One head of keys and values as wide as the latent, which is what attention over latents sees; the heads
// that they stand for have lengths of their own.
void AddLatent(const GgufFamily& family, const Program& program, const Shapes& shapes,
               GgufMetadata& metadata) {
  const std::string a = std::string(family.arch) + ".", at = a + "attention.";
  const AttentionShape& attention = shapes.attention;
  const int64_t rank = FirstSlot(family, program, ".attn_kv_b.weight")->in;
  const auto rotated = static_cast<int64_t>(2 * program.ropes.front().inv_freq.size());
  metadata.Int(at + "head_count", attention.heads);
  metadata.Int(at + "head_count_kv", 1);
  metadata.Int(at + "key_length", rank + rotated);
  metadata.Int(at + "value_length", rank);
  metadata.Int(at + "key_length_mla", attention.head_dim);
  metadata.Int(at + "value_length_mla", attention.ValueDim());
  metadata.Int(at + "kv_lora_rank", rank);
  const LinearSlot* low = FirstSlot(family, program, ".attn_q_a.weight");
  if (low != nullptr) metadata.Int(at + "q_lora_rank", low->out);
  const RouteShape& route = shapes.route;
  metadata.Bool(a + "expert_weights_norm", route.normalize);
  metadata.Int(a + "expert_gating_func", route.score == ScoreFunction::kSigmoid ? 2 : 1);
  if (route.open_groups == route.groups) return;
  metadata.Int(a + "expert_group_count", route.groups);
  metadata.Int(a + "expert_group_used_count", route.open_groups);
}

void AddScan(const GgufFamily& family, const ScanShape& scan, GgufMetadata& metadata) {
  const std::string a = std::string(family.arch) + ".";
  metadata.Int(a + "attention.head_count", 0);
  metadata.Int(a + "ssm.inner_size", scan.heads * scan.head_dim);
  metadata.Int(a + "ssm.time_step_rank", scan.heads);
}

// The text model's fields at the top, the rotation of Gemma 3's sliding layers under its older name.
Json TextFields(const Json& config) {
  Json text =
      config.contains("text_config") && config["text_config"].is_object() ? config["text_config"] : config;
  const auto theta = Json::json_pointer("/rope_parameters/sliding_attention/rope_theta");
  if (text.contains(theta)) text["rope_local_base_freq"] = text[theta];
  return text;
}

Result<const GgufFamily*> WritableFamily(const Program& program) {
  if (const GgufFamily* family = GgufFamilyOf(program); family != nullptr) return family;
  std::vector<std::string> known;
  for (const Family* f : AllFamilies()) {
    if (!f->gguf.empty()) known.emplace_back(f->model_type);
  }
  return Error{Code::kRefused, fmt::format("family '{}' cannot be written as GGUF: expected one of {}",
                                           program.family, fmt::join(known, ", "))};
}

}  // namespace

Result<std::vector<GgufRopeTensor>> AddHyperParameters(const Json& config, const Program& program,
                                                       GgufMetadata& metadata) {
  PLANISH_TRY(const GgufFamily* family, WritableFamily(program));
  const Json text = TextFields(config);
  const Shapes shapes = ShapesOf(program);
  PLANISH_RETURN_IF_ERROR(CheckImplied(*family, text));
  if (family->latent) {
    PLANISH_RETURN_IF_ERROR(CheckLatent(*family, text, shapes));
  } else if (!family->scan) {
    PLANISH_RETURN_IF_ERROR(CheckShapes(*family, program, shapes));
  }
  const std::string a = std::string(family->arch) + ".";
  metadata.String("general.architecture", family->arch);
  metadata.Int(a + "context_length", program.max_positions);
  metadata.Int(a + "embedding_length", program.hidden);
  metadata.Int(a + "block_count", static_cast<int64_t>(shapes.rotated.size()));
  PLANISH_TRY(const int64_t inter, InterOf(*family, text, program));
  metadata.Int(a + "feed_forward_length", inter);
  if (family->latent) {
    AddLatent(*family, program, shapes, metadata);
  } else if (family->scan) {
    AddScan(*family, shapes.scan, metadata);
  } else {
    AddHeads(*family, shapes.attention, metadata);
  }
  metadata.Float(
      a + (family->layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon"),
      shapes.eps);
  metadata.Int(a + "vocab_size", program.vocab);
  if (family->experts != nullptr) {
    metadata.Int(a + "expert_count", shapes.route.experts);
    metadata.Int(a + "expert_used_count", shapes.route.chosen);
  }
  if (family->windows == GgufFamily::Windows::kPattern) {
    PLANISH_RETURN_IF_ERROR(AddPattern(*family, shapes.slides, metadata));
  }
  PLANISH_RETURN_IF_ERROR(AddKeys(*family, text, metadata));
  return WriteGgufRope(*family, text, program, metadata);
}

}  // namespace planish
