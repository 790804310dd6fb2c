// Rates of what sets families apart beside the same multiply-adds in a plain decoder: a layer's experts
// against one MLP of as many multiply-adds, attention with values narrower than keys, scan and convolution of
// state-space layers. Best of several short runs.
//   families_bench [isa] [threads]
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "base/random.h"
#include "math/experts.h"
#include "math/gemm.h"
#include "math/nn.h"
#include "math/scan.h"

namespace planish {
namespace {

double Seconds(const std::function<void()>& work) {
  const auto now = [] {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  work();
  double best = 1e9;
  for (int run = 0; run < 7; ++run) {
    const double start = now();
    work();
    best = std::min(best, now() - start);
  }
  return best;
}

Mat<float> RandomMat(int64_t rows, int64_t cols, uint64_t stream) {
  Mat<float> m(rows, cols);
  const Random random(1, stream);
  for (int64_t i = 0; i < rows * cols; ++i) {
    m.data()[i] = static_cast<float>(random.Uniform(static_cast<uint64_t>(i)) - 0.5);
  }
  return m;
}

void Line(const std::string& name, double seconds, double macs) {
  fmt::print("{:<56} {:>9.3f} ms {:>8.1f} GMAC/s\n", name, 1e3 * seconds, macs / seconds / 1e9);
}

struct Mlp {
  Mat<float> gate, up, down;
  Mlp(int64_t hidden, int64_t inter, uint64_t seed)
      : gate(RandomMat(inter, hidden, seed)),
        up(RandomMat(inter, hidden, seed + 1)),
        down(RandomMat(hidden, inter, seed + 2)) {}
  void Run(const Context& context, MatView<const float> x, MatView<float> y) const {
    Mat<float> g(x.rows, gate.rows()), u(x.rows, gate.rows());
    MatMulNT(context, x, Weights(gate.view()), g);
    MatMulNT(context, x, Weights(up.view()), u);
    GatedActivate(context, Activation::kSilu, g, u, g);
    MatMulNT(context, g, Weights(down.view()), y);
  }
};

void Experts(const Context& context, int64_t tokens, int64_t hidden, int64_t inter, int64_t count,
             int64_t chosen) {
  const Mat<float> x = RandomMat(tokens, hidden, 1), logits = RandomMat(tokens, count, 2);
  Mat<float> y(tokens, hidden), routing(tokens, count);
  const double macs = 3.0 * static_cast<double>(tokens * hidden * inter * chosen);
  const Mlp dense(hidden, inter * chosen, 3);
  Line(fmt::format("MLP {} x [{}, {}]", tokens, inter * chosen, hidden),
       Seconds([&] { dense.Run(context, x, y); }), macs);
  std::vector<Mlp> experts;
  for (int64_t e = 0; e < count; ++e) experts.emplace_back(hidden, inter, 10 + 3 * static_cast<uint64_t>(e));
  const double s = Seconds([&] {
    Route(context, {.experts = count, .chosen = chosen}, logits, routing);
    std::vector<Mat<float>> outputs;
    std::vector<MatView<const float>> views;
    for (int64_t e = 0; e < count; ++e) {
      const auto rows = RowsOfExpert(routing, e);
      Mat<float> own(static_cast<int64_t>(rows.size()), hidden);
      GatherRows(context, x, rows, own);
      outputs.emplace_back(own.rows(), hidden);
      if (own.rows() > 0) experts[static_cast<size_t>(e)].Run(context, own, outputs.back());
    }
    for (const auto& output : outputs) views.push_back(output.view());
    CombineExperts(context, routing, views, y);
  });
  Line(fmt::format("  experts: {} of {}, each [{}, {}]", chosen, count, inter, hidden), s, macs);
}

void Attention(const Context& context, int64_t tokens, int64_t heads, int64_t key, int64_t value) {
  const Mat<float> q = RandomMat(tokens, heads * key, 1), k = RandomMat(tokens, heads * key, 2);
  const Mat<float> v = RandomMat(tokens, heads * value, 3);
  Mat<float> out(tokens, heads * value);
  const AttentionShape shape{
      .heads = heads, .kv_heads = heads, .head_dim = key, .scale = 0.1f, .value_dim = value};
  const double s = Seconds([&] { CausalAttention(context, shape, q, k, v, 0, out); });
  const double pairs = static_cast<double>(tokens) * static_cast<double>(tokens + 1) / 2;
  Line(fmt::format("Attention {} x {} heads, keys {}, values {}", tokens, heads, key, value), s,
       pairs * static_cast<double>(heads * (key + value)));
}

void StateSpace(const Context& context, int64_t tokens, const ScanShape& shape) {
  const int64_t inner = shape.heads * shape.head_dim, group = shape.groups * shape.state;
  const Mat<float> x = RandomMat(tokens, inner, 1), b = RandomMat(tokens, group, 2),
                   c = RandomMat(tokens, group, 3);
  const Mat<float> dt = RandomMat(tokens, shape.heads, 4);
  const std::vector<float> ones(static_cast<size_t>(shape.heads), 1.0f);
  std::vector<float> state(static_cast<size_t>(shape.StateSize()));
  Mat<float> y(tokens, inner);
  const double s = Seconds([&] { SelectiveScan(context, shape, {ones, ones, ones}, x, b, c, dt, state, y); });
  Line(fmt::format("Scan {} x {} heads of {}, state {}", tokens, shape.heads, shape.head_dim, shape.state), s,
       3.0 * static_cast<double>(tokens * shape.StateSize()));
  const std::vector<float> taps(static_cast<size_t>(inner * 4), 0.5f), bias(static_cast<size_t>(inner));
  std::vector<float> past(static_cast<size_t>(inner * 3));
  const double t = Seconds([&] { CausalConvolution(context, x, taps, bias, 4, past, y); });
  Line(fmt::format("Convolution {} x {}, 4 taps", tokens, inner), t,
       4.0 * static_cast<double>(tokens * inner));
}

int Main(int argc, char** argv) {
  const Isa isa = argc > 1 ? ParseIsa(argv[1]).value_or(BestIsa()) : BestIsa();
  if (!IsaSupported(isa)) {
    fmt::print("{} is not supported here\n", IsaName(isa));
    return 1;
  }
  ThreadPool pool(argc > 2 ? std::atoi(argv[2]) : 0);
  Context context;
  context.pool = &pool;
  context.isa = isa;
  fmt::print("{} x {} threads\n", IsaName(isa), pool.NumThreads());
  Experts(context, 2048, 768, 512, 8, 2);
  Experts(context, 2048, 1024, 384, 64, 6);
  Attention(context, 1024, 8, 128, 128);
  Attention(context, 1024, 8, 192, 128);
  StateSpace(context, 512, {.heads = 24, .head_dim = 64, .state = 128, .groups = 1});
  return 0;
}

}  // namespace
}  // namespace planish

int main(int argc, char** argv) { return planish::Main(argc, argv); }
