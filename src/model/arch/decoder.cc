#include "model/arch/decoder.h"

#include <cmath>
#include <utility>

namespace planish {
namespace {

std::string LayerPrefix(const DecoderSpec& spec, int64_t layer) {
  return spec.names.layer + std::to_string(layer) + ".";
}

ValueId Project(BlockBuilder& b, const DecoderSpec& spec, const std::string& name, ValueId x,
                const std::string& value_name, int64_t out, bool bias) {
  const LinearId id = AddLinear(b.program(), name + ".weight", out, b.width(x), bias, /*in_layer=*/true);
  b.program().linears.back().transposed = spec.transposed;
  return b.Linear(x, value_name, id);
}

// Between an embedding of another width and the layers: kept as stored, as small as they are.
ValueId ProjectEmbedding(BlockBuilder& b, const std::string& name, ValueId x, int64_t out) {
  const LinearId id = AddLinear(b.program(), name + ".weight", out, b.width(x), false, /*in_layer=*/false);
  b.program().linears.back().keep = true;
  return b.Linear(x, "projected", id);
}

struct Qkv {
  ValueId q, k, v;
};

Qkv ProjectQkv(BlockBuilder& b, const DecoderSpec& spec, const std::string& prefix, ValueId x) {
  const auto& n = spec.names;
  const int64_t dim = spec.head_dim, q_width = spec.heads * dim, kv_width = spec.kv_heads * dim;
  if (n.qkv.empty()) {
    const ValueId q = Project(b, spec, prefix + n.q, x, "q", q_width, spec.qkv_bias);
    const ValueId k = Project(b, spec, prefix + n.k, x, "k", kv_width, spec.qkv_bias);
    return {q, k, Project(b, spec, prefix + n.v, x, "v", kv_width, spec.qkv_bias)};
  }
  const int64_t width = q_width + 2 * kv_width;
  const ValueId qkv = Project(b, spec, prefix + n.qkv, x, "qkv", width, spec.qkv_bias);
  if (spec.fused_qkv == FusedQkv::kParts) {
    return {b.Slice(qkv, "q", {width, 0, q_width}), b.Slice(qkv, "k", {width, q_width, kv_width}),
            b.Slice(qkv, "v", {width, q_width + kv_width, kv_width})};
  }
  const int64_t group = spec.heads / spec.kv_heads * dim, period = group + 2 * dim;
  return {b.Slice(qkv, "q", {period, 0, group}), b.Slice(qkv, "k", {period, group, dim}),
          b.Slice(qkv, "v", {period, group + dim, dim})};
}

// A norm of q or k: of each head by itself, or of all at once. LayerNorms have no bias here, and weights of
// their own for every head.
ValueId NormalizeHeads(BlockBuilder& b, const DecoderSpec& spec, const std::string& name, int64_t heads,
                       ValueId x) {
  const std::string weight = name + ".weight";
  const bool by_head = spec.qk_norm == DecoderSpec::QkNorm::kHead;
  if (spec.norm == NormKind::kLayer || spec.norm == NormKind::kLayerNoBias) {
    return b.LayerNorm(x, weight, /*bias=*/false, spec.eps, {heads, spec.head_dim});
  }
  return b.RmsNorm(x, weight, by_head ? spec.head_dim : b.width(x), spec.eps,
                   spec.norm == NormKind::kRmsPlusOne ? 1.0f : 0.0f);
}

ValueId Attention(BlockBuilder& b, const DecoderSpec& spec, int64_t layer, const std::string& prefix,
                  ValueId x) {
  const auto& n = spec.names;
  const auto index = static_cast<size_t>(layer);
  auto [q, k, v] = ProjectQkv(b, spec, prefix, x);
  if (spec.qk_norm != DecoderSpec::QkNorm::kNone) {
    q = NormalizeHeads(b, spec, prefix + n.q_norm, spec.heads, q);
    k = NormalizeHeads(b, spec, prefix + n.k_norm, spec.kv_heads, k);
  }
  if (!spec.ropes.empty() && spec.ropes[index] >= 0) {
    const RopeOp rope{spec.ropes[index], spec.head_dim, 0};
    q = b.Rope(q, rope);
    k = b.Rope(k, rope);
  }
  float scale = spec.attention_scale != 0
                    ? spec.attention_scale
                    : static_cast<float>(1.0 / std::sqrt(static_cast<double>(spec.head_dim)));
  if (spec.scale_by_layer) scale /= static_cast<float>(layer + 1);
  const AttentionShape shape{.heads = spec.heads,
                             .kv_heads = spec.kv_heads,
                             .head_dim = spec.head_dim,
                             .scale = scale,
                             .window = spec.windows[index],
                             .softcap = spec.attention_cap};
  const ValueId attended = b.Attention(q, k, v, shape);
  return Project(b, spec, prefix + n.o, attended, "o", spec.hidden, spec.o_bias);
}

struct MlpNames {
  std::string gate, up, down;  // tensors, without ".weight"
};

ValueId GatedMlp(BlockBuilder& b, const DecoderSpec& spec, const MlpNames& names, int64_t inter, ValueId x) {
  const ValueId gate = Project(b, spec, names.gate, x, "gate", inter, spec.mlp_bias);
  const ValueId up = Project(b, spec, names.up, x, "up", inter, spec.mlp_bias);
  return Project(b, spec, names.down, b.Gate(gate, up, spec.activation), "down", spec.hidden, spec.mlp_bias);
}

void BuildLayer(const DecoderSpec& spec, int64_t layer, Program& program) {
  const auto& n = spec.names;
  const std::string prefix = LayerPrefix(spec, layer);
  BlockBuilder b(program, "layer " + std::to_string(layer));
  const auto norm = [&](const std::string& name, ValueId x) {
    return name.empty() ? x : Normalize(b, spec, prefix + name, x);
  };
  const auto attention = [&](ValueId x) {
    return spec.attention ? spec.attention(b, spec, layer, prefix, x) : Attention(b, spec, layer, prefix, x);
  };
  const auto mlp = [&](ValueId x) {
    return spec.mlp ? spec.mlp(b, spec, layer, prefix, x) : PlainMlp(b, spec, prefix, x);
  };
  ValueId x = b.Input("x", spec.hidden);
  if (spec.norm_after_sum) {
    x = norm(n.attention_norm, b.Add(x, attention(x)));
    return b.Finish(norm(n.mlp_norm, b.Add(x, mlp(x))));
  }
  const ValueId h = norm(n.attention_norm, x);
  const ValueId attended = norm(n.after_attention, attention(h));
  if (spec.parallel) {
    const ValueId m = n.mlp_norm.empty() ? h : norm(n.mlp_norm, x);
    return b.Finish(b.Add(b.Add(x, attended), mlp(m)));
  }
  x = b.Add(x, attended, spec.residual_scale);
  const ValueId branch = norm(n.after_mlp, mlp(norm(n.mlp_norm, x)));
  b.Finish(b.Add(x, branch, spec.residual_scale));
}

}  // namespace

ValueId Normalize(BlockBuilder& b, const DecoderSpec& spec, const std::string& name, ValueId x) {
  const std::string weight = name + ".weight";
  switch (spec.norm) {
    case NormKind::kRms:
      return b.RmsNorm(x, weight, b.width(x), spec.eps);
    case NormKind::kRmsPlusOne:
      return b.RmsNorm(x, weight, b.width(x), spec.eps, 1);
    case NormKind::kLayer:
    case NormKind::kLayerNoBias:
      break;
  }
  return b.LayerNorm(x, weight, spec.norm == NormKind::kLayer, spec.eps);
}

ValueId GatedMlp(BlockBuilder& b, const DecoderSpec& spec, const std::string& prefix, int64_t inter,
                 ValueId x) {
  return GatedMlp(b, spec, MlpNames{prefix + "gate_proj", prefix + "up_proj", prefix + "down_proj"}, inter,
                  x);
}

ValueId PlainMlp(BlockBuilder& b, const DecoderSpec& spec, const std::string& prefix, ValueId x) {
  const auto& n = spec.names;
  if (n.gate_up.empty() && !n.gate.empty()) {
    return GatedMlp(b, spec, MlpNames{prefix + n.gate, prefix + n.up, prefix + n.down}, spec.inter, x);
  }
  ValueId middle = -1;
  if (!n.gate_up.empty()) {
    const int64_t width = 2 * spec.inter;
    const ValueId both = Project(b, spec, prefix + n.gate_up, x, "gate_up", width, spec.mlp_bias);
    const ValueId gate = b.Slice(both, "gate", {width, 0, spec.inter});
    middle = b.Gate(gate, b.Slice(both, "up", {width, spec.inter, spec.inter}), spec.activation);
  } else {
    middle = b.Activate(Project(b, spec, prefix + n.up, x, "up", spec.inter, spec.mlp_bias), spec.activation);
  }
  return Project(b, spec, prefix + n.down, middle, "down", spec.hidden, spec.mlp_bias);
}

Result<Program> BeginProgram(const Config& config, const DecoderSpec& spec) {
  Program program;
  program.family = spec.family;
  program.hidden = spec.hidden;
  program.vocab = spec.vocab;
  program.max_positions = spec.max_positions;
  program.ropes = spec.rope_tables;
  PLANISH_RETURN_IF_ERROR(ReadTokens(config, program));
  const int64_t width = spec.embed_width != 0 ? spec.embed_width : spec.hidden;
  const LinearId table =
      AddLinear(program, spec.names.embed + ".weight", spec.vocab, width, false, /*in_layer=*/false);
  BlockBuilder embed(program, "embed");
  ValueId x = embed.Scale(embed.Embed(table), spec.embed_scale);
  if (!spec.project_in.empty()) x = ProjectEmbedding(embed, spec.project_in, x, spec.hidden);
  if (!spec.names.positions.empty()) {
    x = embed.Add(x, embed.Positions(spec.names.positions + ".weight", spec.position_rows, spec.hidden,
                                     spec.position_offset));
  }
  embed.Finish(x);
  return program;
}

void FinishProgram(const DecoderSpec& spec, Program& program) {
  constexpr LinearId kTable = 0;  // the first linear of every program
  const int64_t width = program.linears[kTable].in;
  const std::string weight = spec.names.head + ".weight";
  if (spec.tied) program.beside.push_back(weight);
  const LinearId linear = spec.tied ? kTable : AddLinear(program, weight, spec.vocab, width, false, false);
  BlockBuilder head(program, "head");
  ValueId x = head.Input("x", spec.hidden);
  if (!spec.names.final_norm.empty()) x = Normalize(head, spec, spec.names.final_norm, x);
  if (!spec.project_out.empty()) x = ProjectEmbedding(head, spec.project_out, x, width);
  ValueId logits = head.Scale(head.Linear(x, "logits", linear), spec.logit_scale);
  if (spec.logit_cap > 0) logits = head.SoftCap(logits, spec.logit_cap);
  head.Finish(logits);
}

Result<Program> BuildDecoder(const Config& config, DecoderSpec spec) {
  if (spec.rope_tables.empty() && spec.names.positions.empty()) {
    PLANISH_RETURN_IF_ERROR(ReadRotation(config, spec));
  }
  // What other families call a gate beside the MLP's first matrix, where it is a choice.
  const bool gated = spec.mlp || !spec.names.gate.empty() || !spec.names.gate_up.empty();
  for (const char* field : {"is_gated_act", "gated_mlp", "use_gated_activation", "use_swiglu"}) {
    Require(config, spec.family, field, gated);
  }
  PLANISH_TRY(Program program, BeginProgram(config, spec));
  for (int64_t i = 0; i < spec.layers; ++i) BuildLayer(spec, i, program);
  FinishProgram(spec, program);
  return program;
}

}  // namespace planish
