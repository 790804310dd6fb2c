#include "pipeline/compress.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>

#include "base/file.h"
#include "pipeline/artifact_writer.h"
#include "pipeline/site_solver.h"
#include "pipeline/work_folder.h"

namespace planish {
namespace {

constexpr const char* kProgramVersion =
    "planish 0.1";  // part of every fingerprint: raise when results change

Fingerprint MakeFingerprint(const Context& context, const Model& model, const CalibrationSet& set,
                            const Recipe& recipe) {
  return {{"program", kProgramVersion},
          {"model", ModelFingerprint(model)},
          {"recipe", RecipeText(recipe, TextPaths::kLeaveOut)},
          {"calibration", WindowsFingerprint(set.windows)},
          {"profile", ProfileFingerprint(context)}};
}

int LayerBlocks(const Model& model) { return static_cast<int>(model.program.blocks.size()) - 2; }

StateType TypeOf(const Recipe& recipe) {
  return recipe.states == Recipe::States::kFp32 ? StateType::kF32 : StateType::kBF16;
}

// Multiply-adds of solving one linear: what the engines' headers state.
double SolveMacs(double out, double in, const LayerPlan& plan) {
  double macs = 0;
  for (const auto& [stage, options] : plan.stages) {
    if (stage->kind == StageKind::kRound) {
      macs += out * in * in;  // the loss of round to nearest, and feedback
      if (options.values().contains("refit"))
        macs += 2.0 * static_cast<double>(options.Int("refit")) * out * in * in;
    } else if (stage->kind == StageKind::kBias) {
      macs += out * in;
    } else {
      macs += 4.0 * out * in * in;
    }
  }
  return macs;
}

double StoredBits(double out, double in, const LayerPlan& plan) {
  double bits = 0;
  for (const auto& [stage, options] : plan.stages) {
    if (stage->kind == StageKind::kRound) {
      const auto rows = static_cast<int64_t>(out), cols = static_cast<int64_t>(in);
      const auto bytes = GridBytes(GridOfOptions(options, cols), rows, cols);
      bits += 8 * static_cast<double>(bytes) / (out * in);
      const double sparse = options.Number("sparse") / 100;
      if (sparse > 0) bits += (in <= 65535 ? 32 : 48) * sparse + (in <= 65535 ? 16 : 32) / in;
    } else if (stage->kind == StageKind::kBias) {
      bits += 16 / in;
    } else {
      const auto rank = static_cast<double>(options.Int("rank"));
      const auto factor_bits = static_cast<double>(options.Int("factor_bits"));
      bits += rank > 0 ? rank * (out + in) * factor_bits / (out * in) : options.Number("path_bits");
    }
  }
  return bits;
}

void SetParts(Matrix matrix, std::vector<float> bias, Linear& linear) {
  linear.w = std::move(matrix);
  linear.own_bias = !bias.empty();
  if (linear.own_bias) linear.bias = std::move(bias);
}

// The run: what all steps of one compression share.
class Run {
 public:
  Run(const Context& context, Model& model, const CalibrationSet& set, const Recipe& recipe,
      const CompressRequest& request, WorkFolder folder)
      : context_(context),
        model_(model),
        set_(set),
        recipe_(recipe),
        statistics_(request.statistics),
        folder_(std::move(folder)),
        store_(TypeOf(recipe), set.chunks(), SlotBytes(), request.state_memory, folder_.SpillPath()),
        driver_(model, set, store_) {}

  Status Execute(double expected_macs, CompressResult& result);
  WorkFolder& folder() { return folder_; }

 private:
  int64_t SlotBytes() const {
    return set_.ChunkRows(0) * WidestCut(model_.program) * StateStore::BytesPerValue(TypeOf(recipe_));
  }
  Status RoundHead(OrderedJson& layers);
  Status Restore(CompressResult& result);
  Status SolveBlock(int block, CompressResult& result);
  Status SolveFromStatistics(int block, CompressResult& result);
  Status FinishBlock(int block, std::vector<StoredLinear> stored, CompressResult& result);
  void Install();
  Status Solve(const Site& site, const Moments& moments, std::vector<StoredLinear>& stored);

  const Context& context_;
  Model& model_;
  const CalibrationSet& set_;
  const Recipe& recipe_;
  const StatisticsFile* statistics_;
  WorkFolder folder_;
  StateStore store_;
  BlockDriver driver_;
  struct Pending {
    LinearId linear;
    Matrix matrix;
    std::vector<float> bias;
  };
  std::vector<Pending> pending_;  // independent mode: installed after the block
};

// Embedding and head, when asked for: rounded to nearest first, so that calibration sees them.
Status Run::RoundHead(OrderedJson& layers) {
  if (recipe_.head_bits == 0) return {};
  for (size_t i = 0; i < model_.linears.size(); ++i) {
    if (model_.program.linears[i].in_layer || model_.program.linears[i].keep) continue;
    Linear& linear = model_.linears[i];
    const Mat<float> w = Reconstruct(linear.w);
    const IntegerGrid grid{recipe_.head_bits, recipe_.head_group, false};
    auto rounded = RoundToNearest(context_, w, {}, grid, ClipSearch::kWeighted);
    if (!rounded.ok()) return rounded.error().At(linear.name);
    SolvedLinear solved{static_cast<LinearId>(i), {}};
    solved.solution.matrix = PackInteger(rounded->matrix);
    solved.solution.loss_nearest = rounded->loss;
    solved.solution.steps.push_back({"rtn", rounded->loss, ""});
    layers.push_back(LayerReport(model_, solved));
    linear.w = std::move(solved.solution.matrix);
  }
  return {};
}

// Takes up a run where it stopped: finished blocks from disk, hidden states before the next one.
Status Run::Restore(CompressResult& result) {
  result.resumed_at = folder_.next_block();
  if (folder_.next_block() == 1) return statistics_ != nullptr ? Status() : driver_.Embed(context_);
  for (int block = 1; block < folder_.next_block(); ++block) {
    PLANISH_TRY(const auto linears, folder_.LoadBlock(block));
    for (const auto& stored : linears) {
      const auto it = std::ranges::find(model_.linears, stored.name, &Linear::name);
      if (it == model_.linears.end() || it->w.rows != stored.matrix.rows ||
          it->w.cols != stored.matrix.cols) {
        return InputError(fmt::format("block {}: '{}' does not belong to this model", block, stored.name));
      }
      SetParts(stored.matrix, stored.bias, *it);
      result.layers.push_back(stored.report);
    }
  }
  if (statistics_ != nullptr) return {};
  std::vector<int64_t> bytes;
  for (int64_t c = 0; c < set_.chunks(); ++c) {
    bytes.push_back(set_.ChunkRows(c) * model_.program.hidden * StateStore::BytesPerValue(TypeOf(recipe_)));
  }
  return folder_.LoadStates(store_, bytes);
}

Status Run::Solve(const Site& site, const Moments& moments, std::vector<StoredLinear>& stored) {
  PLANISH_TRY(auto solved, SolveSite(context_, model_, site, moments, recipe_));
  for (auto& s : solved) {
    OrderedJson report = LayerReport(model_, s);
    if (context_.progress) {
      for (const auto& warning : s.solution.warnings) {
        context_.progress->Note(fmt::format("{}: {}", report["name"].get<std::string>(), warning));
      }
    }
    stored.push_back(
        {report["name"].get<std::string>(), s.solution.matrix, s.solution.bias, std::move(report)});
    pending_.push_back({s.linear, std::move(s.solution.matrix), std::move(s.solution.bias)});
  }
  return {};
}

// Independent mode with statistics from a file: nothing flows through the block.
Status Run::SolveFromStatistics(int block, CompressResult& result) {
  std::vector<StoredLinear> stored;
  for (const Site& site : BlockSites(model_.program, block)) {
    const auto moments = statistics_->sites.find(site.name);
    if (moments == statistics_->sites.end() ||
        moments->second.width() != model_.program.linears[static_cast<size_t>(site.linears.front())].in) {
      return InputError(fmt::format("statistics: site '{}' is missing or has another width", site.name));
    }
    PLANISH_RETURN_IF_ERROR(Solve(site, moments->second, stored));
  }
  return FinishBlock(block, std::move(stored), result);
}

Status Run::SolveBlock(int block, CompressResult& result) {
  std::vector<StoredLinear> stored;
  const bool sequential = recipe_.mode == Recipe::Mode::kSequential;
  if (statistics_ != nullptr) return SolveFromStatistics(block, result);
  const auto solve = [&](const Site& site, const Moments& moments) -> Status {
    PLANISH_RETURN_IF_ERROR(Solve(site, moments, stored));
    if (sequential) Install();
    return {};
  };
  PLANISH_RETURN_IF_ERROR(sequential ? driver_.Sequential(context_, block, solve)
                                     : driver_.Independent(context_, block, solve));
  return FinishBlock(block, std::move(stored), result);
}

// In the program's order, whatever the order of the passes.
Status Run::FinishBlock(int block, std::vector<StoredLinear> stored, CompressResult& result) {
  Install();
  std::map<std::string, size_t> place;
  for (size_t i = 0; i < model_.linears.size(); ++i) place[model_.linears[i].name] = i;
  std::ranges::sort(stored, {}, [&](const StoredLinear& s) { return place.at(s.name); });
  PLANISH_RETURN_IF_ERROR(folder_.FinishBlock(block, stored, store_));
  for (const auto& s : stored) result.layers.push_back(s.report);
  return {};
}

void Run::Install() {
  for (Pending& p : pending_)
    SetParts(std::move(p.matrix), std::move(p.bias), model_.linears[static_cast<size_t>(p.linear)]);
  pending_.clear();
}

Status Run::Execute(double expected_macs, CompressResult& result) {
  driver_.on_work = [&](double macs) {
    result.macs += macs;
    if (context_.progress) {
      context_.progress->Update("compress", result.macs, std::max(result.macs, expected_macs),
                                "multiply-adds");
    }
  };
  PLANISH_RETURN_IF_ERROR(RoundHead(result.layers));
  PLANISH_RETURN_IF_ERROR(Restore(result));
  for (int block = folder_.next_block(); block <= LayerBlocks(model_); ++block) {
    PLANISH_RETURN_IF_ERROR(SolveBlock(block, result));
  }
  return {};
}

Status CheckStatistics(const CompressRequest& request, const Recipe& recipe, const Fingerprint& fingerprint) {
  if (request.statistics == nullptr) return {};
  if (recipe.mode != Recipe::Mode::kIndependent) {
    return InputError("--statistics are of the original model's stream: they need --mode independent");
  }
  if (request.statistics->model_fingerprint != fingerprint.at("model")) {
    return InputError("--statistics: taken from another model");
  }
  if (request.statistics->text_fingerprint != fingerprint.at("calibration")) {
    return InputError("--statistics: taken from other text, windows, context or seed than stated here");
  }
  return {};
}

Error StoppedError(const Error& error, const CompressRequest& request, int next_block, int blocks) {
  if (error.code != Code::kInterrupted) return error;
  return {error.code,
          fmt::format("interrupted before block {} of {}; the same command goes on there (state in "
                      "{}.partial)",
                      next_block, blocks, request.output)};
}

}  // namespace

Result<Preflight> Estimate(const Context& context, const Model& model, const CalibrationSet& set,
                           const Recipe& recipe, const CompressRequest& request) {
  Preflight p;
  const Program& program = model.program;
  int64_t widest_site = 0, stored = 0, row_values = 0, moment_bytes = 0;
  for (int b = 1; b <= LayerBlocks(model); ++b) {
    const Block& block = program.blocks[static_cast<size_t>(b)];
    double values = 0;
    for (size_t v = 0; v < block.values.size(); ++v) {
      values += static_cast<double>(block.values[v].width) * block.RowShare(static_cast<ValueId>(v));
    }
    row_values = std::max(row_values, static_cast<int64_t>(values));
    for (const auto& op : block.ops) p.macs += OpMacs(program, block, op, set.tokens(), set.length());
    int64_t moments = 0;
    for (const auto& site : BlockSites(program, b)) {
      const auto n = program.linears[static_cast<size_t>(site.linears.front())].in;
      widest_site = std::max(widest_site, n);
      moments += 2 * 4 * n * n;
      p.macs += ExpectedRows(block, site, set.tokens()) * static_cast<double>(n * n) / 2 +
                static_cast<double>(n * n * n) / 6;
      for (LinearId id : site.linears) {
        const auto& slot = program.linears[static_cast<size_t>(id)];
        PLANISH_TRY(const LayerPlan plan, PlanFor(recipe, slot.weight));
        p.macs += SolveMacs(static_cast<double>(slot.out), static_cast<double>(slot.in), plan);
        const double bits =
            plan.skip ? 16 : StoredBits(static_cast<double>(slot.out), static_cast<double>(slot.in), plan);
        stored += static_cast<int64_t>(bits * static_cast<double>(slot.out * slot.in) / 8);
      }
    }
    moment_bytes = std::max(moment_bytes, std::min(moments, BlockDriver::kMomentBytes));
  }
  p.rate = MeasureGemmRate(context);
  p.seconds = p.macs / p.rate;
  const int64_t states = set.tokens() * WidestCut(program) * StateStore::BytesPerValue(TypeOf(recipe));
  const int64_t layer_weights = program.LinearWeights() / LayerBlocks(model);
  p.memory_bytes = std::min(states, request.state_memory) + set.ChunkRows(0) * row_values * 4 +
                   widest_site * widest_site * 4 * 3 + moment_bytes + layer_weights * 4 + stored;
  p.output_bytes = stored + (program.Parameters() - program.LinearWeights()) * 2;
  return p;
}

Result<CompressResult> Compress(const Context& context, Model& model, const CalibrationSet& set,
                                const Recipe& recipe, const CompressRequest& request) {
  const auto start = std::chrono::steady_clock::now();
  // A GGUF file's blocks are decoded like any weights; parts with paths of our own would be lost.
  if (!FileExists(model.path) && model.config.contains("quantization_config") &&
      model.config["quantization_config"].is_object()) {
    return InputError(
        fmt::format("{}: already compressed; compress the original model, or the values of this one "
                    "(`planish convert {} -o FOLDER --to hf-bf16`)",
                    model.path, model.path));
  }
  const Fingerprint fingerprint = MakeFingerprint(context, model, set, recipe);
  PLANISH_RETURN_IF_ERROR(CheckStatistics(request, recipe, fingerprint));
  CompressResult result;
  if (DirectoryExists(request.output) || FileExists(request.output)) {
    const auto known = ReadArtifactFingerprint(request.output);
    if (!known.ok() || !Differences(fingerprint, *known).empty()) {
      return InputError(
          fmt::format("{}: already exists{}; choose another output or remove it", request.output,
                      known.ok() ? ", made with another " + Differences(fingerprint, *known) : ""));
    }
    result.already_done = true;
    PLANISH_RETURN_IF_ERROR(RemoveTree(request.output + ".partial"));
    return result;
  }
  PLANISH_TRY(WorkFolder folder, WorkFolder::Open(request.output, fingerprint, request.restart));
  Run run(context, model, set, recipe, request, std::move(folder));
  const Status done = run.Execute(request.expected_macs, result);
  if (!done.ok()) return StoppedError(done.error(), request, run.folder().next_block(), LayerBlocks(model));
  Manifest manifest{RecipeText(recipe, TextPaths::kLeaveOut), fingerprint, result.layers};
  PLANISH_RETURN_IF_ERROR(WriteArtifact(context, model, manifest, run.folder().OutputPath()));
  PLANISH_RETURN_IF_ERROR(run.folder().Publish());
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

std::string LayerTable(const OrderedJson& layers) {
  std::string out = fmt::format("{:<44} {:<28} {:>6} {:>11} {:>11} {:>11} {:>6}\n", "tensor", "parts", "bits",
                                "bytes", "nearest", "loss", "ratio");
  for (const auto& layer : layers) {
    const double nearest = layer.value("loss_nearest", 0.0), loss = layer.value("loss", 0.0);
    out += fmt::format("{:<44} {:<28} {:>6.3f} {:>11} {:>11.4g} {:>11.4g} {:>6.3f}\n",
                       layer.value("name", std::string()), layer.value("parts", std::string()),
                       layer.value("bits", 0.0), layer.value("bytes", int64_t{0}), nearest, loss,
                       nearest > 0 ? loss / nearest : 0.0);
  }
  return out;
}

}  // namespace planish
