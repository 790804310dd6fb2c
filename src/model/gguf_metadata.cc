// The hyper-parameters of a model as GGUF keys: the way out; gguf_model.cc is the way in.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/names.h"
#include "model/gguf_family.h"
#include "model/gguf_model.h"

namespace planish {
namespace {

// What the program says of its attention and experts, which has all defaults resolved.
struct Shapes {
  AttentionShape attention;
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

Error Cannot(const GgufFamily& family, const std::string& what) {
  return InputError(fmt::format("GGUF's architecture '{}' cannot hold {}", family.arch, what));
}

Status CheckImplied(const GgufFamily& family, const Json& config) {
  for (const GgufImplied& implied : family.implied) {
    const Json value = FieldOf(config, implied.field, implied.fallback);
    // Names of one activation.
    const auto same = [](Json a) {
      return a == "swish" ? Json("silu") : a == "gelu_fast" ? Json("gelu_new") : a;
    };
    if (same(value) == Json::parse(implied.value)) continue;
    return Cannot(family, fmt::format("{} = {}, it means {}", implied.field, Abbreviate(DumpJson(value)),
                                      implied.value));
  }
  return {};
}

Status CheckShapes(const GgufFamily& family, const Program& program, const Shapes& shapes) {
  const AttentionShape& attention = shapes.attention;
  bool own_scale = false;
  for (const GgufKey& key : family.keys)
    own_scale = own_scale || std::string_view(key.key) == "attention.scale";
  const std::string_view name = family.family;
  const auto layers = static_cast<int64_t>(shapes.rotated.size());
  const bool by_hidden = (name == "gemma2" && layers == 46) || (name == "gemma3" && layers == 62);
  const auto width = static_cast<double>(by_hidden ? program.hidden / attention.heads : attention.head_dim);
  if (!own_scale && std::fabs(attention.scale * std::sqrt(width) - 1) > 1e-5) {
    return Cannot(family,
                  fmt::format("scores scaled by {}, it means {}", attention.scale, 1 / std::sqrt(width)));
  }
  for (size_t i = 0; i < shapes.rotated.size(); ++i) {
    const bool skipped =
        family.unrotated_every > 0 && (i + 1) % static_cast<size_t>(family.unrotated_every) == 0;
    if (shapes.rotated[i] == (family.theta != nullptr && !skipped)) continue;
    return Cannot(family, fmt::format("layer {} {} rotation", i, shapes.rotated[i] ? "with" : "without"));
  }
  for (size_t i = 0; i < shapes.slides.size() && name != "gemma3"; ++i) {
    if (shapes.slides[i] == (name == "gemma2" ? i % 2 == 0 : shapes.slides.front())) continue;
    return Cannot(family, fmt::format("layer {}'s window beside those of the layers before it", i));
  }
  if (!family.head_dim && attention.head_dim * attention.heads != program.hidden) {
    return Cannot(family, fmt::format("{} heads of {} for a width of {}", attention.heads, attention.head_dim,
                                      program.hidden));
  }
  if (family.experts == nullptr) return {};
  if (shapes.routers != layers) return Cannot(family, "layers without experts among layers with them");
  if (shapes.route.normalize != family.normalized) {
    return Cannot(family, fmt::format("experts' weights {} their sum",
                                      shapes.route.normalize ? "divided by" : "not divided by"));
  }
  return {};
}

Result<double> ReadTheta(const GgufFamily& family, const Json& config) {
  const Json parameters = config.contains("rope_parameters") && config["rope_parameters"].is_object()
                              ? config["rope_parameters"]
                              : Json::object();
  // Gemma 3 nests one set for each kind of layer.
  const Json nested = parameters.contains("full_attention") ? parameters["full_attention"] : parameters;
  const Json scaling =
      config.contains("rope_scaling") && config["rope_scaling"].is_object() ? config["rope_scaling"] : nested;
  PLANISH_TRY(const std::string old_type, JsonString(scaling, "type", "default"));
  PLANISH_TRY(const std::string type, JsonString(scaling, "rope_type", old_type));
  if (type != "default") {
    return InputError(fmt::format("rope_type '{}' cannot be written as GGUF yet", Abbreviate(type)));
  }
  PLANISH_TRY(const double own,
              JsonNumber(config, "rotary_emb_base", Json::parse(family.theta).get<double>()));
  PLANISH_TRY(const double top, JsonNumber(config, "rope_theta", own));
  return JsonNumber(nested, "rope_theta", top);
}

Status AddKeys(const GgufFamily& family, const Json& config, GgufMetadata& metadata) {
  const std::string a = std::string(family.arch) + ".";
  for (const GgufKey& key : family.keys) {
    const Json value = FieldOf(config, key.field, key.fallback);
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
  if (std::string_view(family.family) == "phi3") inter /= 2;  // gate and up in one
  if (family.experts == nullptr) return inter;
  return JsonInt(config, family.sizes.inter, inter);
}

// Sliding layers of Gemma 3: every one but each `pattern`-th.
Status AddPattern(const GgufFamily& family, const std::vector<bool>& slides, GgufMetadata& metadata) {
  const auto full = std::find(slides.begin(), slides.end(), false) - slides.begin();
  const auto pattern = static_cast<int64_t>(full) + 1;
  for (size_t i = 0; i < slides.size(); ++i) {
    if (slides[i] != ((static_cast<int64_t>(i) + 1) % pattern != 0)) {
      return Cannot(family, fmt::format("layer {}'s window beside those of the layers before it", i));
    }
  }
  metadata.Int(std::string(family.arch) + ".attention.sliding_window_pattern", pattern);
  return {};
}

}  // namespace

Status AddHyperParameters(const Json& config, const Program& program, GgufMetadata& metadata) {
  const GgufFamily* family = GgufFamilyOf(program);
  if (family == nullptr) {
    std::vector<std::string> known;
    for (const GgufFamily& f : AllGgufFamilies()) {
      if (known.empty() || known.back() != f.family) known.emplace_back(f.family);
    }
    return InputError(fmt::format("family '{}' cannot be written as GGUF: expected one of {}", program.family,
                                  fmt::join(known, ", ")));
  }
  const Json& text =
      config.contains("text_config") && config["text_config"].is_object() ? config["text_config"] : config;
  const Shapes shapes = ShapesOf(program);
  PLANISH_RETURN_IF_ERROR(CheckImplied(*family, text));
  PLANISH_RETURN_IF_ERROR(CheckShapes(*family, program, shapes));
  const std::string a = std::string(family->arch) + ".";
  const AttentionShape& attention = shapes.attention;
  metadata.String("general.architecture", family->arch);
  metadata.Int(a + "context_length", program.max_positions);
  metadata.Int(a + "embedding_length", program.hidden);
  metadata.Int(a + "block_count", static_cast<int64_t>(shapes.rotated.size()));
  PLANISH_TRY(const int64_t inter, InterOf(*family, text, program));
  metadata.Int(a + "feed_forward_length", inter);
  metadata.Int(a + "attention.head_count", attention.heads);
  metadata.Int(a + "attention.head_count_kv", attention.kv_heads);
  metadata.Float(
      a + (family->layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon"),
      shapes.eps);
  if (family->head_dim) {
    metadata.Int(a + "attention.key_length", attention.head_dim);
    metadata.Int(a + "attention.value_length", attention.ValueDim());
  }
  if (family->theta != nullptr) {
    PLANISH_TRY(const double theta, ReadTheta(*family, text));
    metadata.Int(a + "rope.dimension_count", static_cast<int64_t>(2 * program.ropes.front().inv_freq.size()));
    metadata.Float(a + "rope.freq_base", static_cast<float>(theta));
  }
  metadata.Int(a + "vocab_size", program.vocab);
  if (family->experts != nullptr) {
    metadata.Int(a + "expert_count", shapes.route.experts);
    metadata.Int(a + "expert_used_count", shapes.route.chosen);
  }
  if (std::string_view(family->family) == "gemma3") {
    PLANISH_RETURN_IF_ERROR(AddPattern(*family, shapes.slides, metadata));
  }
  return AddKeys(*family, text, metadata);
}

}  // namespace planish
