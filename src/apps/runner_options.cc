#include "apps/runner_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "base/file.h"
#include "model/precision.h"

namespace planish::app {

void AddRuntimeOptions(CLI::App& verb, RuntimeOptions& options) {
  verb.add_option("--runtime", options.runtime,
                  "plain: fp32 over the weights as stored; packed: straight from codes; auto: packed if the "
                  "model has codes and no part that only the plain one runs")
      ->check(CLI::IsMember({"auto", "plain", "packed"}))
      ->capture_default_str();
  AddEngineOptions(verb, options);
}

void AddPrecisionOptions(CLI::App& verb, CodePrecision& precision) {
  auto* bits = verb.add_option("--precision-bits", precision.bits,
                               "Read integer codes of more bits at this many, 2 to 8")
                   ->check(CLI::Range(2, 8))
                   ->capture_default_str();
  verb.add_option("--precision-rule", precision.rule,
                  "refit: a new grid for every group; double: codes rounded a second time")
      ->check(CLI::IsMember({"refit", "double"}))
      ->capture_default_str()
      ->needs(bits);
}

Result<Model> OpenAtPrecision(const Context& context, const std::string& path, const RunOptions& options,
                              const CodePrecision& precision) {
  PLANISH_TRY(Model model, OpenModel(path, options));
  const NestedRule rule = precision.rule == "double" ? NestedRule::kDoubleRounding : NestedRule::kRefit;
  PLANISH_RETURN_IF_ERROR(UsePrecision(context, precision.bits, rule, model));
  return model;
}

void AddEngineOptions(CLI::App& verb, RuntimeOptions& options) {
  verb.add_option("--cache", options.cache, "Keys and values of the packed runtime")
      ->check(CLI::IsMember({"bf16", "int8"}))
      ->capture_default_str();
  verb.add_option("--inputs", options.inputs,
                  "What the packed runtime multiplies codes with: int8 or exact (fp32)")
      ->check(CLI::IsMember({"int8", "exact"}))
      ->capture_default_str();
  verb.add_option("--pack", options.pack, "Packed weights from `planish pack`, instead of packing at start");
}

void AddGenerateOptions(CLI::App& verb, GenerateOptions& options, bool& greedy) {
  verb.add_option("--tokens,-n", options.max_tokens, "New tokens at most")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  verb.add_flag("--greedy", greedy, "Always the most likely token");
  verb.add_option("--temperature", options.sampling.temperature, "0 is greedy")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb.add_option("--top-k", options.sampling.top_k, "Keep the k most likely (0: all)")
      ->check(CLI::NonNegativeNumber);
  verb.add_option("--top-p", options.sampling.top_p, "Keep the likeliest whose sum reaches p")
      ->check(CLI::Range(0.0, 1.0));
  verb.add_option("--min-p", options.sampling.min_p, "Drop those below p times the likeliest")
      ->check(CLI::Range(0.0, 1.0));
  verb.add_option("--repetition-penalty", options.sampling.repetition_penalty,
                  "Above 1 discourages tokens already seen")
      ->check(CLI::PositiveNumber);
  verb.add_option("--seed", options.sampling.seed, "Same seed, same text")->capture_default_str();
  verb.add_option("--context", options.context, "Positions of the cache (0: as needed)")
      ->check(CLI::NonNegativeNumber);
}

const char* StopName(const GenerateResult& result) {
  if (result.interrupted) return "interrupted";
  return result.hit_eos ? "eos" : result.hit_context ? "context" : "length";
}

namespace {

bool IsCoded(const Matrix& matrix) {
  if (std::holds_alternative<Coded>(matrix.body) || std::holds_alternative<Blocks>(matrix.body)) return true;
  const auto* sum = std::get_if<SumPart>(&matrix.body);
  return sum != nullptr && std::any_of(sum->terms.begin(), sum->terms.end(), IsCoded);
}

}  // namespace

bool HasCodes(const Model& model) {
  return std::any_of(model.linears.begin(), model.linears.end(),
                     [](const Linear& l) { return IsCoded(l.w); });
}

std::string CachedPackPath(const Model& model) {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  std::string folder;
  if (cache != nullptr && *cache == '/') {
    folder = cache;
  } else if (home != nullptr && *home == '/') {
    folder = std::string(home) + "/.cache";
  } else {
    return "";
  }
  return fmt::format("{}/planish/packs/{}.pack", folder, PackFingerprint(model));
}

Result<std::shared_ptr<const PackedModel>> LoadPacked(const Context& context, const Model& model,
                                                      const RuntimeOptions& options) {
  if (!options.pack.empty()) return ReadPack(context, options.pack, model);
  if (const std::string cached = CachedPackPath(model); !cached.empty() && FileExists(cached)) {
    auto packed = ReadPack(context, cached, model);
    if (packed.ok()) return packed;
    if (context.progress != nullptr) {
      context.progress->Note("the cached pack is left aside: " + packed.error().message);
    }
  }
  PLANISH_TRY(auto packed, PackModel(context, model));
  constexpr size_t kShown = 3;
  for (size_t i = 0; i < std::min(kShown, packed->notes.size()) && context.progress != nullptr; ++i) {
    context.progress->Note("packed runtime: " + packed->notes[i]);
  }
  if (packed->notes.size() > kShown && context.progress != nullptr) {
    context.progress->Note(fmt::format("packed runtime: and {} more like these; see `planish inspect`",
                                       packed->notes.size() - kShown));
  }
  return packed;
}

Result<EngineOptions> ReadEngineOptions(const RuntimeOptions& options, int slots, int64_t capacity) {
  EngineOptions engine{.slots = slots, .capacity = capacity};
  engine.cache = options.cache == "int8" ? CacheType::kInt8 : CacheType::kBF16;
  engine.multiply.exact_inputs = options.inputs == "exact";
  return engine;
}

Result<std::unique_ptr<Runner>> MakeRunner(const Context& context, const Model& model,
                                           const RuntimeOptions& options, int slots, int64_t capacity) {
  const bool packed = options.runtime == "packed" || !options.pack.empty() ||
                      (options.runtime == "auto" && context.profile == Profile::kFast && HasCodes(model) &&
                       Engine::Supports(model.program).ok());
  if (!packed) {
    if (options.cache != "bf16" || options.inputs != "int8") {
      return InputError("--cache and --inputs belong to the packed runtime; add --runtime packed");
    }
    return std::unique_ptr<Runner>(std::make_unique<PlainRunner>(model, slots, capacity));
  }
  if (options.runtime == "plain") return InputError("--pack needs the packed runtime, not --runtime plain");
  if (context.profile == Profile::kStrict) {
    return InputError("--strict needs --runtime plain: the packed runtime's attention differs between CPUs");
  }
  PLANISH_RETURN_IF_ERROR(Engine::Supports(model.program));
  PLANISH_TRY(auto weights, LoadPacked(context, model, options));
  PLANISH_TRY(const EngineOptions engine_options, ReadEngineOptions(options, slots, capacity));
  PLANISH_TRY(auto engine, Engine::Create(context, model, std::move(weights), engine_options));
  return std::unique_ptr<Runner>(std::move(engine));
}

}  // namespace planish::app
