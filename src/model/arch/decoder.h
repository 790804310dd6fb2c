// What decoders share: an embedding, layers of attention and MLP around a residual stream, a norm and a head.
// A family says in a DecoderSpec what its layers look like, overriding a branch with its own where it is like
// no other, and gets its program.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "model/arch/config_fields.h"
#include "model/program.h"
#include "model/rope.h"

namespace planish {

// Names of tensors in a Hugging Face checkpoint, without ".weight". An empty name: the layer has no such
// part.
struct DecoderNames {
  std::string embed = "model.embed_tokens", positions, final_norm = "model.norm", head = "lm_head";
  std::string layer = "model.layers.";  // followed by the number and a dot, then one of these:
  std::string attention_norm = "input_layernorm", mlp_norm = "post_attention_layernorm";
  std::string after_attention, after_mlp;  // norms of what a branch adds
  std::string q = "self_attn.q_proj", k = "self_attn.k_proj", v = "self_attn.v_proj", o = "self_attn.o_proj";
  std::string qkv;  // q, k and v in one tensor instead
  // Norms of q and k before rotation; a star: a tensor for every head.
  std::string q_norm = "self_attn.q_norm", k_norm = "self_attn.k_norm";
  std::string gate = "mlp.gate_proj", up = "mlp.up_proj", down = "mlp.down_proj";  // no gate: act(up)
  std::string gate_up;  // both in one tensor instead, gate first
};

enum class NormKind { kRms, kRmsPlusOne, kLayer, kLayerNoBias };  // plus one: times 1 + w

// How rows of q, k and v lie in a fused tensor.
enum class FusedQkv {
  kParts,    // all of q, all of k, all of v
  kByGroup,  // for each head of k: its heads of q, then it, then its head of v
};

struct DecoderSpec {
  const char* family = "";
  DecoderNames names;
  int64_t vocab = 0, hidden = 0, inter = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0;
  int64_t max_positions = 0;
  bool tied = false;

  NormKind norm = NormKind::kRms;
  float eps = 1e-6f;
  enum class QkNorm {
    kNone,
    kHead,
    kWidth
  } qk_norm = QkNorm::kNone;    // one weight a head, or all heads at once
  bool parallel = false;        // both branches read the same stream; without mlp_norm the same normed value
  bool norm_after_sum = false;  // norms come after the residual sums

  FusedQkv fused_qkv = FusedQkv::kParts;
  bool qkv_bias = false, o_bias = false, mlp_bias = false, transposed = false;
  Activation activation = Activation::kSilu;
  std::vector<int64_t> windows;  // by layer; 0: full attention
  std::vector<int> ropes;        // by layer: index into `rope_tables`, -1: no rotation
  std::vector<RopeTable> rope_tables;
  int64_t position_rows = 0, position_offset = 0;  // learned positions, when names.positions is given
  int64_t embed_width = 0;                         // 0: hidden; else project_in and project_out
  std::string project_in, project_out;

  float attention_scale = 0;    // 0: head_dim^-0.5
  bool scale_by_layer = false;  // divided by the layer's number, counted from 1
  float embed_scale = 1, residual_scale = 1, logit_scale = 1;
  float attention_cap = 0, logit_cap = 0;

  // A family's own branches, from the normed stream to what is added to it; empty: the ones described above.
  // `prefix`: of the layer's tensor names.
  using Branch = std::function<ValueId(BlockBuilder& block, const DecoderSpec& spec, int64_t layer,
                                       const std::string& prefix, ValueId x)>;
  Branch attention, mlp;
};

// Of kv_heads and head_dim: the family has no such field, and accepts what follows from the others only.
inline constexpr int64_t kNoField = -1;

struct DecoderDefaults {
  int64_t vocab, hidden, inter, layers, heads, kv_heads, max_positions;  // kv_heads 0: as heads
  int64_t head_dim;                                                      // 0: hidden / heads
};

// ---- reading ----

// The sizes under their usual names, rms_norm_eps, hidden_act, tie_word_embeddings (default false); windows
// all 0.
Result<DecoderSpec> ReadDecoder(const Config& config, const char* family, const DecoderDefaults& defaults);
// The sizes alone.
Result<DecoderSpec> ReadDecoderSizes(const Config& config, const char* family,
                                     const DecoderDefaults& defaults);
// One rotation for all layers.
Status ReadRotation(const Config& config, DecoderSpec& spec, RopeDefaults defaults = {});
// Biases of q, k, v and o, all or none, by `attention_bias`.
Status ReadAttentionBias(const Config& config, DecoderSpec& spec, bool fallback = false);
// Norms of q and k that the family always has, whatever files call the option.
void UseQkNorm(const Config& config, DecoderSpec::QkNorm kind, DecoderSpec& spec);
// Which layers slide: `layer_types`, else what `slides` says of a layer's index.
Result<std::vector<bool>> SlidingLayers(const Config& config, int64_t layers,
                                        const std::function<bool(int64_t)>& slides);
// A window of `sliding_window` on these layers. Error: it is null though there are some.
Status SetWindows(const Config& config, const std::vector<bool>& sliding, int64_t fallback,
                  DecoderSpec& spec);
// Windows where `use_sliding_window` (default false) asks for them and `sliding_window` is not null: by
// `layer_types`, else from layer `max_window_layers` on: qwen.
Status ReadOptionalWindows(const Config& config, DecoderSpec& spec);
// Refuses layer_types that slide where the rest of the config says that no layer does.
Status NoWindows(const Config& config, const DecoderSpec& spec);
// A `sliding_window` on all layers, or those that `layer_types` names; null is full attention, a missing key
// is `fallback` (0: full).
Status ReadPlainWindow(const Config& config, int64_t fallback, DecoderSpec& spec);

// ---- building ----

Result<Program> BuildDecoder(const Config& config, DecoderSpec spec);
// The same in pieces, for families whose layers are others: an empty program with its embedding, ...
Result<Program> BeginProgram(const Config& config, const DecoderSpec& spec);
// ... and the last norm and the head, after the layers.
void FinishProgram(const DecoderSpec& spec, Program& program);
// down(act(gate(x)) * up(x)) of the tensors PREFIX + gate_proj, up_proj, down_proj; biases as the spec says.
ValueId GatedMlp(BlockBuilder& block, const DecoderSpec& spec, const std::string& prefix, int64_t inter,
                 ValueId x);
// The MLP that the spec describes, of layers that have no other.
ValueId PlainMlp(BlockBuilder& block, const DecoderSpec& spec, const std::string& prefix, ValueId x);
ValueId Normalize(BlockBuilder& block, const DecoderSpec& spec, const std::string& name, ValueId x);

}  // namespace planish
