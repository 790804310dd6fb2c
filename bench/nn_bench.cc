// Rates of the operations of math/nn.h beside this machine's own: bytes per second against a large read,
// multiply-adds against register-only chains. Best of several short runs, for machines shared with others.
//   nn_bench [isa] [threads]
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "bench/bench_util.h"
#include "math/nn.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace planish {
namespace {

constexpr int kRuns = 9;

// Of processor time with one thread.
bench::Clock clock_of_runs;

double Seconds(const std::function<void()>& work) { return bench::Best(clock_of_runs, work, kRuns); }

Mat<float> RandomMat(int64_t rows, int64_t cols, uint64_t stream) {
  return bench::RandomMat(rows, cols, stream, 2);
}

#if defined(__x86_64__)
// 16 independent chains: 4 cycles of latency on two units, twice over.
__attribute__((target("avx512f"))) float FmaChains512(int64_t steps) {
  __m512 s[16];
  for (int i = 0; i < 16; ++i) s[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(0.001f);
  for (int64_t n = 0; n < steps; ++n) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) s[i] = _mm512_fmadd_ps(s[i], a, b);
  }
  for (int i = 1; i < 16; ++i) s[0] = _mm512_add_ps(s[0], s[i]);
  float out[16];
  _mm512_storeu_ps(out, s[0]);
  return out[0];
}
__attribute__((target("avx2,fma"))) float FmaChains256(int64_t steps) {
  __m256 s[12];
  for (int i = 0; i < 12; ++i) s[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.001f);
  for (int64_t n = 0; n < steps; ++n) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) s[i] = _mm256_fmadd_ps(s[i], a, b);
  }
  for (int i = 1; i < 12; ++i) s[0] = _mm256_add_ps(s[0], s[i]);
  float out[8];
  _mm256_storeu_ps(out, s[0]);
  return out[0];
}
#endif

// Multiply-adds per second of all threads together; 0 for sets without fused multiply-add.
double FmaPeak(const Context& context) {
#if defined(__x86_64__)
  constexpr int64_t kSteps = 1 << 18;
  if (context.isa != Isa::kAvx512 && context.isa != Isa::kAvx2) return 0;
  const bool wide = context.isa == Isa::kAvx512;
  const int threads = context.pool->NumThreads();
  std::vector<float> sink(static_cast<size_t>(threads) * 64);
  const double s = Seconds([&] {
    context.pool->ParallelFor(threads, [&](int64_t i) {
      sink[static_cast<size_t>(i) * 64] = wide ? FmaChains512(kSteps) : FmaChains256(kSteps);
    });
  });
  return static_cast<double>(kSteps) * threads * (wide ? 16 * 16 : 12 * 8) / s;
#else
  return static_cast<double>(context.isa == Isa::kScalar) * 0;
#endif
}

void Line(const std::string& name, double seconds, double amount, const char* unit, double peak) {
  fmt::print("{:<44} {:>9.1f} us {:>8.2f} {:<6} {:>5.1f} % of peak\n", name, seconds * 1e6,
             amount / seconds / 1e9, unit, peak > 0 ? 100 * amount / seconds / peak : 0.0);
}

void Memory(const Context& context, double bandwidth) {
  const int64_t rows = 1024, width = 3072, hidden = 768;
  const Mat<float> x = RandomMat(rows, width, 1), u = RandomMat(rows, width, 2),
                   h = RandomMat(rows, hidden, 3);
  Mat<float> y(rows, width), z(rows, hidden), du(rows, width);
  const std::vector<float> weight(static_cast<size_t>(hidden), 1.5f);
  std::vector<float> d_weight(static_cast<size_t>(hidden), 0.0f);
  const double wide = 4.0 * rows * width, narrow = 4.0 * rows * hidden;
  const auto line = [&](const std::string& name, double bytes, const std::function<void()>& work) {
    Line(name, Seconds(work), bytes, "GB/s", bandwidth);
  };
  line("Exp 1024x3072", 2 * wide, [&] {
    Exp(context, {x.data(), static_cast<size_t>(rows * width)},
        {y.data(), static_cast<size_t>(rows * width)});
  });
  const std::pair<const char*, Activation> acts[] = {{"silu", Activation::kSilu},
                                                     {"gelu_tanh", Activation::kGeluTanh},
                                                     {"gelu", Activation::kGelu},
                                                     {"relu", Activation::kRelu}};
  for (const auto& [name, act] : acts) {
    line(fmt::format("Activate {} 1024x3072", name), 2 * wide, [&] { Activate(context, act, x, y); });
    line(fmt::format("GatedActivate {} 1024x3072", name), 3 * wide,
         [&] { GatedActivate(context, act, x, u, y); });
    line(fmt::format("ActivateBackward {} 1024x3072", name), 3 * wide,
         [&] { ActivateBackward(context, act, x, u, du); });
  }
  line("AddScaled 1024x768", 3 * narrow, [&] { AddScaled(context, 1e-9f, h, z); });
  line("RmsNorm 1024x768", 2 * narrow, [&] { RmsNorm(context, h, weight, 1e-6f, z); });
  line("LayerNorm 1024x768", 2 * narrow, [&] { LayerNorm(context, h, weight, weight, 1e-6f, z); });
  line("RmsNormBackward 1024x768", 5 * narrow,
       [&] { RmsNormBackward(context, h, weight, 1e-6f, h, z, d_weight); });
  std::vector<int32_t> positions(static_cast<size_t>(rows));
  for (int32_t i = 0; i < rows; ++i) positions[static_cast<size_t>(i)] = i;
  const std::vector<double> inv_freq(32, 0.01);
  for (const RopePairing pairing : {RopePairing::kHalves, RopePairing::kAdjacent}) {
    line(fmt::format("Rope {} 1024 x 12 x 64", pairing == RopePairing::kHalves ? "halves" : "adjacent"),
         2 * narrow, [&] { Rope(context, z, 64, positions, inv_freq, 1.0f, pairing); });
  }
  Mat<float> logits = RandomMat(512, 8192, 4);
  line("LogSoftmax 512x8192", 2 * 4.0 * 512 * 8192, [&] { LogSoftmax(context, logits); });
  std::vector<int32_t> targets(512, 7);
  Mat<float> d_logits(512, 8192);
  line("CrossEntropyBackward 512x8192", 2 * 4.0 * 512 * 8192,
       [&] { CrossEntropyBackward(context, logits, targets, d_logits); });
  volatile double sink = 0;
  line("Sum 4 Mi", 4.0 * 512 * 8192, [&] { sink = Sum({logits.data(), 512 * 8192}); });
  line("FindNonFinite 4 Mi", 4.0 * 512 * 8192, [&] {
    sink = static_cast<double>(FindNonFinite({logits.data(), 512 * 8192}));
  });
  line("ArgMax 150k", 2 * 4.0 * 150000, [&] { sink = static_cast<double>(ArgMax({logits.data(), 150000})); });
}

void Attention(const Context& context, double bandwidth, double peak) {
  struct Case {
    int64_t queries, first, heads, kv_heads, dim, window;
    float softcap;
  };
  const Case cases[] = {
      {1024, 0, 12, 12, 64, 0, 0},   {1024, 0, 12, 4, 64, 0, 0},   {2048, 0, 16, 8, 128, 0, 0},
      {1024, 0, 12, 12, 64, 256, 0}, {1024, 0, 12, 12, 64, 0, 50}, {128, 0, 12, 12, 64, 0, 0},
      {1, 1023, 12, 12, 64, 0, 0},   {1, 1023, 12, 4, 64, 0, 0},   {1, 4095, 32, 8, 128, 0, 0}};
  for (const Case& c : cases) {
    const int64_t keys = c.first + c.queries;
    const Mat<float> q = RandomMat(c.queries, c.heads * c.dim, 5), k = RandomMat(keys, c.kv_heads * c.dim, 6),
                     v = RandomMat(keys, c.kv_heads * c.dim, 7);
    Mat<float> out(c.queries, c.heads * c.dim);
    const AttentionShape shape{c.heads, c.kv_heads, c.dim, 0.125f, c.window, c.softcap};
    const double s = Seconds([&] { CausalAttention(context, shape, q, k, v, c.first, out); });
    double pairs = 0;
    for (int64_t i = 0; i < c.queries; ++i) {
      const int64_t visible = c.first + i + 1;
      pairs += static_cast<double>(c.window > 0 ? std::min(c.window, visible) : visible);
    }
    const std::string name = fmt::format("Attention {}+{} x {}/{} x {} w{} c{}", c.first, c.queries, c.heads,
                                         c.kv_heads, c.dim, c.window, c.softcap);
    if (c.queries > 1) {
      Line(name, s, 2 * pairs * static_cast<double>(c.heads * c.dim), "GMAC/s", peak);
    } else {
      Line(name, s, 8.0 * static_cast<double>(keys * c.kv_heads * c.dim), "GB/s", bandwidth);
    }
  }
  const Mat<float> q = RandomMat(256, 768, 5);
  Mat<float> d_q(256, 768), d_k(256, 768), d_v(256, 768);
  const double s = Seconds([&] {
    CausalAttentionBackward(context, {12, 12, 64, 0.125f}, q, q, q, 0, q, d_q, d_k, d_v);
  });
  Line("AttentionBackward 256 x 12 x 64", s, 5.0 * 256 * 257 / 2 * 768, "GMAC/s", peak);
}

int Main(int argc, char** argv) {
  const Isa isa = argc > 1 ? ParseIsa(argv[1]).value_or(BestIsa()) : BestIsa();
  if (!IsaSupported(isa)) {
    fmt::print("{} is not supported here\n", IsaName(isa));
    return 1;
  }
  ThreadPool pool(argc > 2 ? std::atoi(argv[2]) : 0);
  clock_of_runs = bench::Clock(pool.NumThreads() == 1);
  Context context;
  context.pool = &pool;
  context.isa = isa;
  const int64_t floats = 32 << 20;
  Array<float> large(floats, 1.0f);
  std::vector<double> sums(64);
  const double read = Seconds([&] {
    pool.ParallelFor(64, [&](int64_t i) {
      const uint64_t* from = reinterpret_cast<const uint64_t*>(large.data() + i * (floats / 64));
      uint64_t sum[8] = {};
      for (int64_t j = 0; j < floats / 128; j += 8) {
        for (int64_t l = 0; l < 8; ++l) sum[l] ^= from[j + l];
      }
      sums[static_cast<size_t>(i)] =
          static_cast<double>(sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7]);
    });
  });
  const double bandwidth = 4.0 * static_cast<double>(floats) / read, peak = FmaPeak(context);
  fmt::print("{} x {} threads: read {:.1f} GB/s, fused multiply-add {:.1f} GMAC/s\n", IsaName(isa),
             pool.NumThreads(), bandwidth / 1e9, peak / 1e9);
  Memory(context, bandwidth);
  Attention(context, bandwidth, peak);
  return 0;
}

}  // namespace
}  // namespace planish

int main(int argc, char** argv) { return planish::Main(argc, argv); }
