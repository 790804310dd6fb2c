// Rates of what sets families apart beside a llama of the same sizes. First whole models of two layers in
// turns, every multiply-add of linears, attention, scans and convolutions counted: routing to experts, latent
// attention, sliding windows, soft caps, parallel branches, state-space layers. Then the operations alone.
//   families_bench [isa] [threads] [tokens]
#include <fmt/format.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "bench/bench_util.h"
#include "math/experts.h"
#include "math/gemm.h"
#include "math/nn.h"
#include "math/scan.h"
#include "model/family.h"
#include "model/forward.h"

namespace planish {
namespace {

constexpr int kRuns = 9;

struct Setup {
  Context context;
  bench::Clock clock;
};

Mat<float> RandomMat(int64_t rows, int64_t cols, uint64_t stream) {
  return bench::RandomMat(rows, cols, stream, 0.5);
}

// ---- whole models

// Two layers of width 768 with random weights and a small vocabulary, so that layers are all there is.
Model RandomModel(Json config) {
  config.update({{"vocab_size", 256}, {"hidden_size", 768}, {"num_hidden_layers", 2}});
  Model model;
  auto program = BuildProgram(config);
  PLANISH_CHECK(program.ok()) << program.error().message;
  model.program = std::move(program).value();
  uint64_t stream = 1;
  for (const LinearSlot& slot : model.program.linears) {
    const Mat<float> w = bench::RandomMat(slot.out, slot.in, stream++, 0.03);
    Linear linear;
    linear.name = slot.weight;
    linear.w = DenseMatrix(w, DType::kF32);
    if (!slot.bias.empty()) linear.bias.assign(static_cast<size_t>(slot.out), 0.01f);
    model.linears.push_back(std::move(linear));
  }
  for (const VectorSlot& slot : model.program.vectors) {
    model.vectors.emplace_back(static_cast<size_t>(slot.size), 0.5f);
  }
  return model;
}

// Keys that the queries of one sequence see, together.
double Pairs(int64_t tokens, int64_t window) {
  double pairs = 0;
  for (int64_t i = 1; i <= tokens; ++i) pairs += static_cast<double>(window > 0 ? std::min(i, window) : i);
  return pairs;
}

// Multiply-adds of the layers; of the head's one row none.
double Macs(const Model& model, int64_t tokens) {
  const Program& program = model.program;
  double macs = 0;
  for (size_t b = 1; b + 1 < program.blocks.size(); ++b) {
    const Block& block = program.blocks[b];
    for (const Op& op : block.ops) {
      const auto width = [&](ValueId value) {
        return static_cast<double>(block.values[static_cast<size_t>(value)].width);
      };
      const auto rows = static_cast<double>(tokens);
      if (std::holds_alternative<LinearOp>(op.body)) {
        macs += rows * width(op.inputs[0]) * width(op.output) * block.RowShare(op.output);
      } else if (const auto* attention = std::get_if<AttentionOp>(&op.body)) {
        const AttentionShape& shape = attention->shape;
        macs += Pairs(tokens, shape.window) *
                static_cast<double>(shape.heads * (shape.head_dim + shape.ValueDim()));
      } else if (const auto* scan = std::get_if<ScanOp>(&op.body)) {
        macs += 3 * rows * static_cast<double>(scan->shape.StateSize());
      } else if (const auto* conv = std::get_if<ConvOp>(&op.body)) {
        macs += rows * width(op.output) * static_cast<double>(conv->kernel);
      }
    }
  }
  return macs;
}

void Models(const Setup& setup, int64_t tokens) {
  const Json heads = {{"num_attention_heads", 12}, {"num_key_value_heads", 4}, {"intermediate_size", 2048}};
  const auto with = [&](Json more) {
    Json config = heads;
    config.update(more);
    return config;
  };
  const std::vector<std::pair<std::string, Json>> variants = {
      {"llama: 12 heads of 64, 4 of k and v, MLP of 2048", with({{"model_type", "llama"}})},
      {"experts: 2 of 8, each of 1024", with({{"model_type", "mixtral"},
                                              {"intermediate_size", 1024},
                                              {"num_local_experts", 8},
                                              {"num_experts_per_tok", 2},
                                              {"sliding_window", nullptr}})},
      {"experts: 8 of 32, each of 256", with({{"model_type", "qwen3_moe"},
                                              {"head_dim", 64},
                                              {"moe_intermediate_size", 256},
                                              {"num_experts", 32},
                                              {"num_experts_per_tok", 8},
                                              {"norm_topk_prob", true}})},
      {"latent attention: 12 heads of 64 + 32 and 64, from 256", with({{"model_type", "deepseek_v2"},
                                                                       {"num_key_value_heads", 12},
                                                                       {"q_lora_rank", nullptr},
                                                                       {"kv_lora_rank", 256},
                                                                       {"qk_nope_head_dim", 64},
                                                                       {"qk_rope_head_dim", 32},
                                                                       {"v_head_dim", 64},
                                                                       {"n_shared_experts", 0},
                                                                       {"num_experts_per_tok", 6},
                                                                       {"first_k_dense_replace", 2}})},
      {"sliding window of a quarter", with({{"model_type", "mistral"}, {"sliding_window", tokens / 4}})},
      {"soft caps on scores and logits, norms after branches", with({{"model_type", "gemma2"},
                                                                     {"head_dim", 64},
                                                                     {"sliding_window", tokens},
                                                                     {"query_pre_attn_scalar", 64}})},
      {"parallel branches", with({{"model_type", "cohere"}, {"logit_scale", 1.0}})},
      {"state-space: 24 heads of 64, state 128",
       {{"model_type", "mamba2"},
        {"num_heads", 24},
        {"head_dim", 64},
        {"state_size", 128},
        {"n_groups", 1}}}};
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < tokens; ++i) ids.push_back(static_cast<int32_t>((i * 37) % 251));
  std::vector<Model> models;
  for (const auto& [name, config] : variants) models.push_back(RandomModel(config));
  // What a model keeps from pass to pass, as calibration and evaluation do.
  struct Kept {
    Executor executor;
    DenseCache cache;
    Mat<float> logits;
  };
  std::vector<std::unique_ptr<Kept>> kept;
  std::vector<std::function<void()>> works;
  for (const Model& model : models) {
    kept.push_back(
        std::make_unique<Kept>(Kept{Executor(model), DenseCache(model.program.cache_layers, 1, tokens), {}}));
    works.emplace_back([&setup, &model, &ids, own = kept.back().get(), last = tokens - 1] {
      const Status done =
          Forward(setup.context, model, own->executor, Batch::Of(ids), {&last, 1}, own->cache, own->logits);
      PLANISH_CHECK(done.ok()) << done.error().message;
    });
  }
  const auto seconds = bench::BestInTurns(setup.clock, works, kRuns);
  const double plain = Macs(models.front(), tokens) / seconds.front();
  fmt::print("two layers of width 768, {} tokens\n", tokens);
  for (size_t i = 0; i < models.size(); ++i) {
    const double rate = Macs(models[i], tokens) / seconds[i];
    fmt::print("{:<58} {:>9.2f} ms {:>7.1f} GMAC/s {:>5.2f} of llama\n", variants[i].first, 1e3 * seconds[i],
               rate / 1e9, rate / plain);
  }
}

// ---- operations

void Line(const std::string& name, double seconds, double macs) {
  fmt::print("{:<58} {:>9.2f} ms {:>7.1f} GMAC/s\n", name, 1e3 * seconds, macs / seconds / 1e9);
}

void Attentions(const Setup& setup, int64_t tokens) {
  struct Case {
    const char* name;
    AttentionShape shape;
    int64_t tokens = 0;  // 0: all
  };
  // As many keys a query, on average, as a window of a quarter leaves.
  const auto few = static_cast<int64_t>(2 * Pairs(tokens, tokens / 4) / static_cast<double>(tokens)) - 1;
  std::vector<Case> cases = {
      {"attention: 8 heads of 128", {.heads = 8, .kv_heads = 8, .head_dim = 128, .scale = 0.1f}},
      {"  4 heads of k and v", {.heads = 8, .kv_heads = 4, .head_dim = 128, .scale = 0.1f}},
      {"  keys of 192, values of 128",
       {.heads = 8, .kv_heads = 8, .head_dim = 192, .scale = 0.1f, .value_dim = 128}},
      {"  window of a quarter",
       {.heads = 8, .kv_heads = 8, .head_dim = 128, .scale = 0.1f, .window = tokens / 4}},
      {"  as many keys a query without a window",
       {.heads = 8, .kv_heads = 8, .head_dim = 128, .scale = 0.1f},
       few},
      {"  soft cap", {.heads = 8, .kv_heads = 8, .head_dim = 128, .scale = 0.1f, .softcap = 50}}};
  std::vector<Mat<float>> q, k, v, out;
  std::vector<std::function<void()>> works;
  for (Case& c : cases) {
    if (c.tokens == 0) c.tokens = tokens;
    q.push_back(RandomMat(c.tokens, c.shape.heads * c.shape.head_dim, 1));
    k.push_back(RandomMat(c.tokens, c.shape.kv_heads * c.shape.head_dim, 2));
    v.push_back(RandomMat(c.tokens, c.shape.kv_heads * c.shape.ValueDim(), 3));
    out.emplace_back(c.tokens, c.shape.heads * c.shape.ValueDim());
  }
  for (size_t i = 0; i < cases.size(); ++i) {
    works.emplace_back(
        [&, i] { CausalAttention(setup.context, cases[i].shape, q[i], k[i], v[i], 0, out[i]); });
  }
  const auto seconds = bench::BestInTurns(setup.clock, works, kRuns);
  for (size_t i = 0; i < cases.size(); ++i) {
    const AttentionShape& shape = cases[i].shape;
    Line(cases[i].name, seconds[i],
         Pairs(cases[i].tokens, shape.window) *
             static_cast<double>(shape.heads * (shape.head_dim + shape.ValueDim())));
  }
}

void StateSpace(const Setup& setup, int64_t tokens, const ScanShape& shape) {
  const int64_t inner = shape.heads * shape.head_dim, group = shape.groups * shape.state;
  const Mat<float> x = RandomMat(tokens, inner, 1), b = RandomMat(tokens, group, 2),
                   c = RandomMat(tokens, group, 3);
  const Mat<float> dt = RandomMat(tokens, shape.heads, 4);
  const std::vector<float> ones(static_cast<size_t>(shape.heads), 1.0f);
  std::vector<float> state(static_cast<size_t>(shape.StateSize()));
  Mat<float> y(tokens, inner);
  const double s = bench::Best(
      setup.clock,
      [&] {
        SelectiveScan(setup.context, shape, {ones, ones, ones}, x, b, c, dt, state, y);
      },
      kRuns);
  Line(fmt::format("scan: {} heads of {}, state {}", shape.heads, shape.head_dim, shape.state), s,
       3.0 * static_cast<double>(tokens * shape.StateSize()));
  const std::vector<float> taps(static_cast<size_t>(inner * 4), 0.5f), bias(static_cast<size_t>(inner));
  std::vector<float> past(static_cast<size_t>(inner * 3));
  const double t = bench::Best(
      setup.clock, [&] { CausalConvolution(setup.context, x, taps, bias, 4, past, y); }, kRuns);
  Line(fmt::format("convolution: {} channels, 4 taps", inner), t, 4.0 * static_cast<double>(tokens * inner));
}

void Routing(const Setup& setup, int64_t tokens) {
  const Mat<float> logits = RandomMat(tokens, 64, 2), x = RandomMat(tokens, 768, 1);
  Mat<float> routing(tokens, 64);
  const double s = bench::Best(
      setup.clock, [&] { Route(setup.context, {.experts = 64, .chosen = 6}, logits, routing); }, kRuns);
  fmt::print("{:<58} {:>9.2f} ms\n", "routing: 6 of 64", 1e3 * s);
}

int Main(int argc, char** argv) {
  const Isa isa = argc > 1 ? ParseIsa(argv[1]).value_or(BestIsa()) : BestIsa();
  if (!IsaSupported(isa)) {
    fmt::print("{} is not supported here\n", IsaName(isa));
    return 1;
  }
  ThreadPool pool(argc > 2 ? std::atoi(argv[2]) : 0);
  const int64_t tokens = argc > 3 ? std::max(std::atoi(argv[3]), 8) : 1024;
  Setup setup{{}, bench::Clock(pool.NumThreads() == 1)};
  setup.context.pool = &pool;
  setup.context.isa = isa;
  fmt::print("{} x {} threads\n", IsaName(isa), pool.NumThreads());
  Models(setup, tokens);
  Attentions(setup, tokens);
  StateSpace(setup, tokens, {.heads = 24, .head_dim = 64, .state = 128, .groups = 1});
  Routing(setup, tokens);
  return 0;
}

}  // namespace
}  // namespace planish

int main(int argc, char** argv) { return planish::Main(argc, argv); }
