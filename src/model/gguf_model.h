// A GGUF file as what a model is bound to: a configuration and tensors in Hugging Face's names and row order.
// Also the names and metadata for the way back.
#pragma once

#include <optional>
#include <string>

#include "base/json.h"
#include "formats/checkpoint.h"
#include "formats/gguf.h"
#include "model/program.h"

namespace planish {

struct GgufModel {
  Json config;  // as of config.json; block types stand in its quantization_config as parts
  Checkpoint checkpoint;
};

// Architectures llama (also Mistral, when there is a sliding window), qwen2 and qwen3. Tensors stay in the
// mapped file, but for the rows of q and k of llama, which are copied in Hugging Face's order. Errors:
// another architecture, tensors without a place in it, types that cannot be decoded, missing metadata.
Result<GgufModel> OpenGgufModel(const std::string& path);

// "model.layers.3.mlp.up_proj.weight" -> "blk.3.ffn_up.weight"; nothing for a tensor without a GGUF name.
std::optional<std::string> GgufNameOf(const std::string& name);
// The heads of a tensor whose rows the architecture wants permuted; 0: rows stay.
int64_t GgufPermutedHeads(const std::string& gguf_name, const Json& config);
// Row of the GGUF tensor -> row of the Hugging Face tensor: heads of `width` rows, halves interleaved.
inline int64_t GgufSourceRow(int64_t row, int64_t width) {
  const int64_t in_head = row % width;
  return row - in_head + in_head % 2 * (width / 2) + in_head / 2;
}
// general.architecture and all hyper-parameters. Errors: a family or a setting that GGUF cannot hold, by
// name.
Status AddHyperParameters(const Json& config, const Program& program, GgufMetadata& metadata);

}  // namespace planish
