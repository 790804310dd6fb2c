// planish bench: speed of prefill and decoding beside the machine's limits, measured in the same run.
#include <fmt/format.h>

#include "apps/runner_options.h"
#include "base/names.h"
#include "grids/grid.h"
#include "model/model.h"
#include "runtime/shapes.h"
#include "runtime/speed.h"

namespace planish::app {
namespace {

struct BenchFlags {
  RunOptions run;
  RuntimeOptions runtime;
  SpeedOptions speed;
  ShapeOptions shape;
  std::string model, shape_name, grid;
};

Result<Model> OpenOrMake(const Context& context, const BenchFlags& flags) {
  if (flags.model.empty() == flags.shape_name.empty()) {
    return InputError("bench: give a MODEL, or --shape for random weights of a well-known shape");
  }
  if (!flags.model.empty()) return OpenModel(flags.model, flags.run);
  ShapeOptions shape = flags.shape;
  if (!flags.grid.empty()) {
    shape.grid = FindGrid(flags.grid);
    if (!shape.grid.has_value()) {
      std::vector<std::string> names;
      for (const NamedGrid& named : NamedGrids()) names.emplace_back(named.name);
      const std::string hint = DidYouMean(flags.grid, names);
      return InputError(fmt::format("--grid: no grid '{}'; known: {}{}", Abbreviate(flags.grid),
                                    fmt::join(names, ", "), hint.empty() ? "" : "; " + hint));
    }
    // Blocks fix their group.
    if (shape.grid->scale == ScaleKind::kHalf && !shape.grid->InBlocks()) shape.grid->group = shape.group;
  }
  return RandomModel(context, flags.shape_name, shape);
}

OrderedJson ToJson(const std::string& model, const Engine& engine, const Speed& speed) {
  OrderedJson json;
  json["model"] = model;
  json["kernels"] = engine.kernels().name;
  json["threads"] = engine.threads();
  json["packed_bytes"] = engine.packed().bytes;
  for (const Peak& peak : speed.peaks) {
    json["peaks"].push_back({{"instruction", peak.instruction}, {"type", peak.type}, {"macs_s", peak.rate}});
  }
  for (const DepthSpeed& d : speed.depths) {
    json["depths"].push_back({{"depth", d.depth},
                              {"decode_tok_s", d.decode_tok_s},
                              {"prefill_tok_s", d.prefill_tok_s},
                              {"bytes_per_token", d.bytes_per_token},
                              {"bandwidth", d.bandwidth},
                              {"bandwidth_share", d.bandwidth_share},
                              {"compute_share", d.compute_share}});
  }
  return json;
}

void Print(const std::string& model, const BenchFlags& flags, const Engine& engine, const Speed& speed) {
  fmt::print("{}: {:.1f} MB of packed weights, kernels {}, {} threads\n", model,
             static_cast<double>(engine.packed().bytes) * 1e-6, engine.kernels().name, engine.threads());
  for (const Peak& peak : speed.peaks) {
    fmt::print("  peak of {:<14} {:<4} {:>9.1f} G multiply-adds/s\n", peak.instruction, peak.type,
               peak.rate * 1e-9);
  }
  if (flags.speed.prompt > 0) {
    fmt::print("  prefill of {} tokens: {:.1f} tokens/s\n", flags.speed.prompt,
               speed.depths.empty() ? 0 : speed.depths.front().prefill_tok_s);
  }
  fmt::print("{:>8} {:>14} {:>14} {:>12} {:>12} {:>12}\n", "depth", "decode tok/s", "MB/token", "read GB/s",
             "of bandwidth", "of compute");
  for (const DepthSpeed& d : speed.depths) {
    fmt::print("{:>8} {:>14.2f} {:>14.2f} {:>12.2f} {:>11.1f}% {:>11.1f}%\n", d.depth, d.decode_tok_s,
               d.bytes_per_token * 1e-6, d.bandwidth * 1e-9, 100 * d.bandwidth_share, 100 * d.compute_share);
  }
}

Status Bench(const BenchFlags& flags) {
  PLANISH_TRY(const auto run, Run::Start(flags.run));
  const Context& context = run->context();
  if (context.profile == Profile::kStrict) {
    return InputError("bench measures the packed runtime, which --strict excludes");
  }
  PLANISH_TRY(const Model model, OpenOrMake(context, flags));
  PLANISH_TRY(auto packed, LoadPacked(context, model, flags.runtime));
  PLANISH_TRY(const EngineOptions options,
              ReadEngineOptions(flags.runtime, flags.speed.sequences, CapacityFor(flags.speed)));
  PLANISH_TRY(const auto engine, Engine::Create(context, model, std::move(packed), options));
  PLANISH_TRY(const Speed speed, MeasureSpeed(context, model, *engine, flags.speed));
  const std::string& name = flags.model.empty() ? flags.shape_name : flags.model;
  if (flags.run.json) {
    PrintJson(ToJson(name, *engine, speed));
  } else {
    Print(name, flags, *engine, speed);
  }
  return {};
}

}  // namespace

void AddBenchVerb(CLI::App& app) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* verb = app.add_subcommand("bench", "Measure speed beside the machine's limits");
  verb->add_option("MODEL", flags->model, "The model");
  verb->add_option("--shape", flags->shape_name,
                   fmt::format("Random weights of a shape: {}", fmt::join(ShapeNames(), ", ")));
  verb->add_option("--bits", flags->shape.bits, "With --shape: bits of codes")
      ->check(CLI::Range(2, 8))
      ->capture_default_str();
  verb->add_option("--grid", flags->grid,
                   "With --shape: of the layers, by name (nf4, mxfp4, ...), not integers");
  verb->add_option("--group", flags->shape.group, "With --shape: columns that share a scale (0: the row)")
      ->check(CLI::Range(0, 1 << 16))
      ->capture_default_str();
  verb->add_option("--rank", flags->shape.rank, "With --shape: of a low-rank path beside every linear")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  verb->add_option("--head-bits", flags->shape.head_bits, "With --shape: bits of embedding and head")
      ->check(CLI::Range(2, 8))
      ->capture_default_str();
  verb->add_option("--prompt", flags->speed.prompt, "Tokens of the prefill (0: none)")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  verb->add_option("--generate", flags->speed.generate, "Steps of decoding at each depth")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  verb->add_option("--depth", flags->speed.depths, "Tokens in the cache before decoding, a list")
      ->delimiter(',')
      ->check(CLI::Range(0, 1 << 22))
      ->capture_default_str();
  verb->add_option("--sequences", flags->speed.sequences, "Decoded together")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  verb->add_option("--rounds", flags->speed.rounds, "The median of so many counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  AddEngineOptions(*verb, flags->runtime);
  AddRunOptions(*verb, flags->run);
  verb->footer(
      "Examples:\n"
      "  planish bench q4/ --prompt 512 --generate 128 --depth 0,2048 --threads 2\n"
      "  planish bench --shape llama-1b --bits 4 --group 64 --rank 32 --json\n"
      "  planish bench --shape llama-1b --grid nvfp4\n"
      "  planish bench --shape llama-1b --sequences 4 --prompt 0");
  AddVerb(*verb, [flags] { return Bench(*flags); });
}

}  // namespace planish::app
