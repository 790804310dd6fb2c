#include <fmt/format.h>

#include <algorithm>

#include "model/arch/decoder.h"
#include "model/arch/gguf_names.h"
#include "model/family.h"

namespace planish::qwen2 {
namespace {

// Files for very long texts cut attention into chunks (arXiv 2402.17463): within the first one it is as ever,
// and positions behind it are refused.
Status ReadChunks(const Config& config, DecoderSpec& spec) {
  constexpr const char* kField = "dual_chunk_attention_config";
  if (config.Find(kField) == nullptr) return {};
  PLANISH_TRY(const Config chunks, config.Object(kField));
  PLANISH_TRY(const int64_t chunk, ReadSize(chunks, "chunk_size", 0, kMaxPositions));
  PLANISH_TRY(const int64_t local, ReadSize(chunks, "local_size", 0, kMaxPositions));
  PLANISH_TRY(const int64_t original,
              ReadSize(chunks, "original_max_position_embeddings", chunk, kMaxPositions));
  chunks.LeaveAside({"sparse_attention_config", "sparse_attention_threshold", "sparse_attention_enabled"});
  if (local >= chunk) {
    return InputError(
        fmt::format("{}: expected a local_size below chunk_size {}, found {}", kField, chunk, local));
  }
  spec.max_positions = std::min({spec.max_positions, chunk - local, original});
  return {};
}

Result<Program> BuildQwen2(const Config& config) {
  PLANISH_TRY(DecoderSpec spec, ReadDecoder(config, "qwen2", {151936, 4096, 22016, 32, 32, 32, 32768, 0}));
  spec.qkv_bias = true;
  PLANISH_RETURN_IF_ERROR(ReadChunks(config, spec));
  PLANISH_RETURN_IF_ERROR(ReadOptionalWindows(config, spec));
  return BuildDecoder(config, std::move(spec));
}

constexpr GgufFamily kGguf[] = {{.model_type = "qwen2",
                                 .arch = "qwen2",
                                 .top = kDecoderTop,
                                 .layer = kDecoderLayer,
                                 .implied = kSiluFullImplied}};

}  // namespace

extern const Family kFamily;
const Family kFamily = {"qwen2", "Qwen2ForCausalLM", "llama with biases on q, k and v", BuildQwen2, kGguf};

}  // namespace planish::qwen2
