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
  bool operator==(const TensorArgs&) const = default;
  int bits = 8;
  bool is_float = false, symmetric = true;
  Strategy strategy = Strategy::kTensor;
  int64_t group = 0;                       // kGroup, kTensorGroup
  int64_t block_rows = 0, block_cols = 0;  // kBlock
  std::string Text() const;                // "int4 group 128", "float8 token dynamic"
  std::string dynamic;                     // "", "dynamic" or "local"
  bool act_order = false;                  // groups are in the order of activations: an index states them
};

struct Scheme {
  std::string name;
  std::string format;  // "": not stated for this group
  std::vector<std::string> targets;
  std::optional<TensorArgs> weights, inputs, outputs;
};

class CompressedConfig {
 public:
  // Errors: unknown formats, strategies, orders and states, sizes out of range or that the strategy has no
  // use for, transforms that act at run time.
  static Result<CompressedConfig> Parse(const Json& config);
  // The scheme of a module ("model.layers.0.mlp.up_proj"), or null where it is ignored or matches none. Names
  // win over patterns, patterns over the class "Linear". Errors: a pattern that is none, two groups that
  // match it as well and differ.
  Result<const Scheme*> Find(const std::string& module) const;
  // Whether `ignore` matches it.
  Result<bool> Ignores(const std::string& module) const;
  // The same of groups whose targets name the module, and not just a pattern or its class.
  Result<const Scheme*> FindNamed(const std::string& module) const;
  // Of all modules: "" or "mixed-precision" where it is that of the group.
  const std::string& format() const { return format_; }
  // "": not stated.
  const std::string& sparse_format() const { return sparse_format_; }
  bool has_kv_scheme() const { return !kv_scheme_.empty(); }
  const std::string& kv_scheme() const { return kv_scheme_; }

 private:
  Status ReadGroup(const std::string& name, const Json& group);
  Result<const Scheme*> FindAbove(const std::string& module, int least) const;
  std::vector<Scheme> schemes_;
  std::vector<std::string> ignore_;
  std::string kv_scheme_, format_, sparse_format_;
};

Result<std::unique_ptr<QuantizedReader>> OpenCompressedTensors(const Json& config,
                                                               const Checkpoint& checkpoint);

}  // namespace planish::quantized
