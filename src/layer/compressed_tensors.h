// compressed-tensors: the quantization_config that vLLM and SGLang read, and which of its schemes a module
// has. https://github.com/vllm-project/compressed-tensors
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "layer/quantized.h"

namespace planish::quantized {

// One QuantizationArgs.
struct TensorArgs {
  enum class Strategy { kTensor, kChannel, kGroup, kBlock, kToken, kTensorGroup, kAttnHead };
  int bits = 8;
  bool is_float = false, symmetric = true;
  Strategy strategy = Strategy::kTensor;
  int64_t group = 0;                       // kGroup, kTensorGroup
  int64_t block_rows = 0, block_cols = 0;  // kBlock
  std::string Text() const;                // "int4 group 128", "float8 token dynamic"
  std::string dynamic;                     // "", "dynamic" or "local"
};

struct Scheme {
  std::string name, format;
  std::vector<std::string> targets;
  std::optional<TensorArgs> weights, inputs;
};

class CompressedConfig {
 public:
  // Errors: unknown formats and strategies, sizes out of range, transforms that act at run time.
  static Result<CompressedConfig> Parse(const Json& config);
  // The scheme of a module ("model.layers.0.mlp.up_proj"), or null where it is ignored or matches none. Names
  // win over patterns, patterns over the class "Linear". Error: a pattern that is none.
  Result<const Scheme*> Find(const std::string& module) const;
  const std::vector<Scheme>& schemes() const { return schemes_; }
  bool has_kv_scheme() const { return !kv_scheme_.empty(); }
  const std::string& kv_scheme() const { return kv_scheme_; }

 private:
  Status ReadGroup(const std::string& name, const Json& group, const std::string& format);
  std::vector<Scheme> schemes_;
  std::vector<std::string> ignore_;
  std::string kv_scheme_;
};

Result<std::unique_ptr<QuantizedReader>> OpenCompressedTensors(const Json& config,
                                                               const Checkpoint& checkpoint);

}  // namespace planish::quantized
