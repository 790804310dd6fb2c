// The packed kernels alone, one thread, weights in the cache: cycles for 64 weights, beside what memory
// allows. A kernel that needs fewer cycles than memory takes to bring its bytes is bound by memory.
//   packed_bench [rows] [cols]
// Or from memory, beside plain reads:
//   packed_bench memory [turns] [cols]
// Or 512 tokens at once, beside products of matrices over decoded rows:
//   packed_bench prefill [threads] [rows] [cols]
// Or how long a pack takes to load (FILE is written and removed):
//   packed_bench load FILE
#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "base/random.h"
#include "math/gemm.h"
#include "runtime/machine_rates.h"
#include "runtime/packed_linear.h"
#include "runtime/packed_model.h"
#include "runtime/packed_pack.h"
#include "runtime/packed_prefill.h"
#include "runtime/shapes.h"

namespace planish {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The named grid; blocks keep their own group.
GridSpec GridOf(const char* name, int64_t group) {
  GridSpec grid = FindGrid(name).value();
  if (grid.scale == ScaleKind::kHalf && !grid.InBlocks()) grid.group = group;
  return grid;
}
Matrix RandomMatrix(int64_t rows, int64_t cols, const GridSpec& grid) {
  ThreadPool pool(1);
  return RandomOnGrid({&pool, BestIsa()}, rows, cols, grid, 0.02f, 1, 0);
}
constexpr const char* kGrids[] = {"int2",    "int3",    "int4",  "int8",  "nf2",  "nf3",  "nf4",
                                  "bitmod3", "bitmod4", "mxfp4", "nvfp4", "q4_k", "q2_k", "q3_k"};

// A random layer and its packed bytes.
struct PackedOne {
  Linear linear;
  Buffer bytes;
  std::optional<PackedLinear> layer;

  PackedOne(const Context& context, int64_t rows, int64_t cols, const GridSpec& grid)
      : linear{"w", RandomMatrix(rows, cols, grid), {}} {
    const auto plan = PlanPackedLinear(linear);
    if (!plan.ok()) std::abort();
    bytes = Buffer(static_cast<size_t>(plan->bytes()));
    PackLinear(context, *plan, bytes.bytes());
    auto packed = PackedLinear::FromBytes(bytes.bytes());
    if (!packed.ok()) std::abort();
    layer = std::move(packed).value();
  }
  int64_t Bytes() const { return static_cast<int64_t>(bytes.size()); }
};

double Seconds(const packed::KernelSet& kernels, const PackedLinear& layer, int tokens) {
  Mat<float> x(tokens, layer.cols()), y(tokens, layer.rows());
  const Random random(2);
  for (int64_t i = 0; i < x.rows() * x.cols(); ++i) {
    x.data()[i] = static_cast<float>(random.Uniform(static_cast<uint64_t>(i))) - 0.5f;
  }
  QuantizedInput input;
  input.Set(kernels, x, layer.InputFormFor({}));
  double best = 1e9;
  for (int turn = 0; turn < 15; ++turn) {
    const double start = Now();
    int repeats = 0;
    while (Now() - start < 0.01) {
      MultiplyTiles(kernels, layer, input, nullptr, 0, layer.tiles(), y);
      ++repeats;
    }
    best = std::min(best, (Now() - start) / repeats);
  }
  return best;
}

// The clock: additions that wait for each other take a cycle each.
double ClockHz() {
  constexpr int64_t kRounds = 4000000;
  double best = 0;
  for (int turn = 0; turn < 5; ++turn) {
    int64_t n = kRounds, sum = 0;
    const double start = Now();
#if defined(__x86_64__)
    __asm__ volatile(
        "1:\n add %0, %1\n add %0, %1\n add %0, %1\n add %0, %1\n add %0, %1\n add %0, %1\n add %0, %1\n"
        "add %0, %1\n dec %0\n jnz 1b\n"
        : "+r"(n), "+r"(sum)::"cc");
#else
    for (volatile int64_t i = 0; i < 8 * n; i = i + 1) ++sum;
#endif
    best = std::max(best, 8 * static_cast<double>(kRounds) / (Now() - start));
  }
  return best;
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<int64_t>(values.size()) / 2, values.end());
  return values[values.size() / 2];
}

// Layers too large for the cache on two threads, taking turns with plain reads of as many bytes: the rate of
// the kernel over that of the reads, the median of the turns.
void RunMemory(int turns, int64_t cols) {
  ThreadPool pool(2);
  Context context;
  context.pool = &pool;
  Team team(2);
  const packed::KernelSet& kernels = SelectPackedKernels(BestIsa());
  const int64_t rows = (int64_t{1} << 27) / cols / 16 * 16;
  fmt::print("{}, layers [{}, {}] from memory, two threads\n", kernels.name, rows, cols);
  for (const char* name : kGrids) {
    const PackedOne one(context, rows, cols, GridOf(name, 64));
    const PackedLinear& layer = *one.layer;
    BandwidthMeter meter(team, one.Bytes());
    Mat<float> x(1, cols), y(1, rows);
    for (int64_t i = 0; i < cols; ++i) x.data()[i] = static_cast<float>(i % 17) - 8.0f;
    QuantizedInput input;
    input.Set(kernels, x, layer.InputFormFor({}));
    std::vector<double> shares, rates;
    for (int turn = 0; turn < turns; ++turn) {
      const double before = meter.Measure(1), start = Now();
      team.Run([&](int member) {
        const auto [begin, end] = Team::PartOf(layer.tiles(), member, 2);
        MultiplyTiles(kernels, layer, input, nullptr, begin, end, y);
      });
      rates.push_back(static_cast<double>(one.Bytes()) / (Now() - start));
      shares.push_back(rates.back() / ((before + meter.Measure(1)) / 2));
    }
    fmt::print("  {:<8} {:6.2f} GB/s, {:5.1f} % of reading\n", name, Median(rates) * 1e-9,
               100 * Median(shares));
  }
}

// 512 tokens through a layer by its codes, and by products of matrices whose panels are decoded; the best of
// some turns each.
void RunPrefill(int threads, int64_t rows, int64_t cols) {
  constexpr int64_t kTokens = 512;
  ThreadPool pool(threads);
  Context context{&pool, BestIsa()};
  if (HasFastBf16(context)) context.precision = Precision::kBF16;
  const packed::KernelSet& kernels = SelectPackedKernels(context.isa);
  Mat<float> x(kTokens, cols), y(kTokens, rows);
  const Random random(2);
  for (int64_t i = 0; i < kTokens * cols; ++i) {
    x.data()[i] = static_cast<float>(random.Uniform(static_cast<uint64_t>(i))) - 0.5f;
  }
  double peak = 0;
  {
    Team team(threads);
    peak = BestPeak(MeasurePeaks(team, 3), "int8");
  }
  fmt::print(
      "[{}, {}] x 512 tokens, {} threads, int8 peak {:.0f} G multiply-adds/s; codes by {}, matrices by {}\n",
      rows, cols, threads, peak * 1e-9, kernels.name, GemmKernelsText(context, context.precision));
  const auto macs = static_cast<double>(kTokens * rows * cols);
  const auto best = [&](const auto& body) {
    double seconds = 1e9;
    for (int turn = 0; turn < 5; ++turn) {
      const double start = Now();
      body();
      seconds = std::min(seconds, Now() - start);
    }
    return macs / seconds * 1e-9;
  };
  for (const char* name : kGrids) {
    const PackedOne one(context, rows, cols, GridOf(name, 64));
    const PackedLinear& layer = *one.layer;
    PackedPrefill prefill;
    const double codes = best([&] {
      if (!prefill.Multiply(context, kernels, layer, x.view(), y.view(), {}, "w").ok()) std::abort();
    });
    const double matrices = best([&] { Apply(context, one.linear, x.view(), y.view()); });
    fmt::print("  {:<8} codes {:7.1f} G/s, {:5.1f} % of the peak; matrices {:7.1f} G/s\n", name, codes,
               codes / peak * 1e11, matrices);
  }
}

// A pack of llama-1b in the page cache to packed weights in memory, beside a copy of as many bytes.
void RunLoad(const std::string& path) {
  ThreadPool pool(2);
  Context context;
  context.pool = &pool;
  context.isa = BestIsa();
  const auto model = RandomModel(context, "llama-1b", {});
  if (!model.ok()) std::abort();
  {
    const auto packed = PackModel(context, *model);
    if (!packed.ok()) std::abort();
    const Status written = WritePack(path, *model, **packed);
    if (!written.ok()) {
      fmt::print("{}\n", written.error().message);
      return;
    }
  }
  for (int turn = 0; turn < 5; ++turn) {
    double start = Now();
    const auto packed = ReadPack(context, path, *model);
    const double load = Now() - start;
    if (!packed.ok()) std::abort();
    const auto bytes = static_cast<size_t>((*packed)->bytes);
    const Buffer from(bytes);
    std::memset(const_cast<std::byte*>(from.data()), 1, bytes);
    start = Now();
    Buffer to(bytes);
    std::memcpy(to.data(), from.data(), bytes);
    const double copy = Now() - start;
    fmt::print("load {:.3f} s, copy {:.3f} s: {:.2f} x; {:.1f} MB\n", load, copy, load / copy,
               static_cast<double>(bytes) * 1e-6);
  }
  std::remove(path.c_str());
}

void Run(int64_t rows, int64_t cols) {
  ThreadPool pool(1);
  Context context;
  context.pool = &pool;
  Team team(1);
  const double clock = ClockHz(), bandwidth = BandwidthMeter(team, int64_t{1} << 30).Measure(3);
  fmt::print("clock {:.2f} GHz, one thread reads {:.1f} GB/s; [{}, {}], cycles for 64 weights\n",
             clock * 1e-9, bandwidth * 1e-9, rows, cols);
  for (const packed::KernelSet* kernels : SupportedPackedKernels()) {
    if (kernels == &packed::kScalarKernels) continue;
    fmt::print("{}\n{:>8} {:>6} {:>9}", kernels->name, "grid", "group", "memory");
    for (const int tokens : {1, 2, 3, 4, 6, 8}) fmt::print(" {:>6}T", tokens);
    fmt::print("\n");
    for (const char* name : kGrids) {
      for (const int64_t group : {16, 32, 64, 128}) {
        const GridSpec grid = GridOf(name, group);
        if (grid.InBlocks() ? group != 128 : grid.group != group) continue;
        const PackedOne one(context, rows, cols, grid);
        const double blocks = static_cast<double>(rows * cols) / 64;
        fmt::print("{:>8} {:>6} {:>9.2f}", name, group,
                   static_cast<double>(one.Bytes()) / blocks / bandwidth * clock);
        for (const int tokens : {1, 2, 3, 4, 6, 8}) {
          fmt::print(" {:>7.2f}", Seconds(*kernels, *one.layer, tokens) / blocks * clock);
        }
        fmt::print("\n");
      }
    }
  }
}

}  // namespace
}  // namespace planish

int main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "memory") {
    planish::RunMemory(argc > 2 ? std::atoi(argv[2]) : 21, argc > 3 ? std::atoll(argv[3]) : 2048);
  } else if (argc > 1 && std::string_view(argv[1]) == "prefill") {
    planish::RunPrefill(argc > 2 ? std::atoi(argv[2]) : 2, argc > 3 ? std::atoll(argv[3]) : 8192,
                        argc > 4 ? std::atoll(argv[4]) : 2048);
  } else if (argc > 2 && std::string_view(argv[1]) == "load") {
    planish::RunLoad(argv[2]);
  } else {
    planish::Run(argc > 1 ? std::atoll(argv[1]) : 256, argc > 2 ? std::atoll(argv[2]) : 2048);
  }
}
