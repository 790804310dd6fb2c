// Low-rank adapters, W + s B A beside a weight W [out, in]: folders of PEFT (adapter_config.json and
// adapter_model.safetensors) and GGUF adapters of llama.cpp. Only the reading, and the names of what is
// written; model/lora.h binds an adapter to a model.
// https://github.com/huggingface/peft, https://github.com/ggml-org/llama.cpp (convert_lora_to_gguf.py)
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "formats/gguf_types.h"

namespace planish {

inline constexpr const char* kLoraConfigName = "adapter_config.json";
inline constexpr const char* kLoraTensorsName = "adapter_model.safetensors";

// A factor as it is stored, row-major, in the mapped file.
struct LoraFactor {
  GgufType type = GgufType::kF32;  // of PEFT folders F32, F16 or BF16
  int64_t rows = 0, cols = 0;
  std::span<const std::byte> bytes;
};

// Of one module. For an embedding [vocab, hidden], looked up and not multiplied, the update is (B A)^T, with
// a [r, vocab] and b [hidden, r]; GGUF stores that a transposed.
struct LoraPair {
  std::string target;   // "model.layers.0.self_attn.q_proj", or of GGUF "blk.0.attn_q.weight"
  int64_t expert = -1;  // of GGUF, where the target holds all experts of a layer: which; else -1
  int64_t rank = 0;
  float scale = 1;  // s
  bool embedding = false;
  LoraFactor a;  // [rank, in]; of an embedding in GGUF [vocab, rank]
  LoraFactor b;  // [out, rank]
};

struct LoraAdapter {
  std::string path;
  bool gguf = false;
  std::string architecture;     // of GGUF: general.architecture
  std::vector<LoraPair> pairs;  // by ascending target
  std::shared_ptr<const void> owner;
};

// A PEFT folder or a GGUF file. Errors: kinds of adapters that change more than W + s B A does (DoRA, biases,
// whole modules), by name; factors that are missing or do not fit each other or the configuration.
Result<LoraAdapter> OpenLora(const std::string& path);
// The same for bytes in memory, which must outlive the result; `name` stands in for the path.
Result<LoraAdapter> ParsePeftLora(const std::string& config, std::span<const std::byte> tensors,
                                  const std::string& name);
Result<LoraAdapter> ParseGgufLora(std::span<const std::byte> bytes, const std::string& name);

}  // namespace planish
