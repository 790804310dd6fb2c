// What the decoders with RMSNorm, rotary positions and a gated MLP share: a family fills in the
// differences and gets its program.
#pragma once

#include "base/json.h"
#include "model/program.h"

namespace planish {

struct DecoderSpec {
  const char* family = "";
  int64_t vocab = 0, hidden = 0, inter = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0;
  int64_t max_positions = 0;
  float eps = 1e-6f;
  Activation activation = Activation::kSilu;
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  bool qk_norm = false;  // RMSNorm of each head of q and k before rotation
  bool tied = false;
  std::vector<int64_t> windows;  // per layer; 0: full attention
};

struct DecoderDefaults {
  int64_t vocab, hidden, inter, layers, heads, kv_heads, max_positions;  // kv_heads 0: as heads
  int64_t head_dim;                                                      // 0: hidden / heads
};

// Reads and checks the sizes every one of these families has; windows are all 0.
Result<DecoderSpec> ReadDecoder(const Json& config, const char* family, const DecoderDefaults& defaults);
// Sliding windows where `layer_types` says so; without layer_types, on all layers from `first_sliding` on.
Status ReadWindows(const Json& config, int64_t window, int64_t first_sliding, DecoderSpec& spec);
// The same where `use_sliding_window` (default false) asks for it, from layer `max_window_layers` on: qwen.
Status ReadOptionalWindows(const Json& config, DecoderSpec& spec);
Result<Program> BuildDecoder(const Json& config, const DecoderSpec& spec);

}  // namespace planish
