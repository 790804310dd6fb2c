// How a verb runs a model token by token: the options, and the runner they ask for.
#pragma once

#include "apps/app.h"
#include "runtime/engine.h"
#include "runtime/generate.h"

namespace planish::app {

struct RuntimeOptions {
  std::string runtime = "auto";  // plain, packed; auto: packed when the model has coded weights
  std::string cache = "bf16";    // of the packed runtime
  std::string inputs = "int8";
  std::string pack;  // a file from `planish pack`
};
// --runtime, --cache, --inputs, --pack.
void AddRuntimeOptions(CLI::App& verb, RuntimeOptions& options);
// --precision-bits, --precision-rule: how a model's codes are read.
struct CodePrecision {
  int bits = 8;  // codes of more are read at these
  std::string rule = "refit";
};
void AddPrecisionOptions(CLI::App& verb, CodePrecision& precision);
// OpenModel at the precision asked for.
Result<Model> OpenAtPrecision(const Context& context, const std::string& path, const RunOptions& options,
                              const CodePrecision& precision);
// Without --runtime, for verbs that know only the packed one.
void AddEngineOptions(CLI::App& verb, RuntimeOptions& options);

// --tokens, the sampler's, --context.
void AddGenerateOptions(CLI::App& verb, GenerateOptions& options, bool& greedy);
// Why a generation ended: "eos", "context", "interrupted" or "length".
const char* StopName(const GenerateResult& result);

// True when any of the layers' linears is coded.
bool HasCodes(const Model& model);
// Where `planish pack` without an output puts a model's pack, and where it is looked for: planish/packs/ in
// the user's cache folder ($XDG_CACHE_HOME or ~/.cache), by the model's fingerprint. Empty when there is
// none.
std::string CachedPackPath(const Model& model);
// The packed weights: from --pack, else from the cache folder, else from the model. Notes what is not packed
// as it is stored, and a cached pack that cannot be read.
Result<std::shared_ptr<const PackedModel>> LoadPacked(const Context& context, const Model& model,
                                                      const RuntimeOptions& options);
Result<EngineOptions> ReadEngineOptions(const RuntimeOptions& options, int slots, int64_t capacity);
Result<std::unique_ptr<Runner>> MakeRunner(const Context& context, const Model& model,
                                           const RuntimeOptions& options, int slots, int64_t capacity);

}  // namespace planish::app
