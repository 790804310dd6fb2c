// Matrix products beside this machine's fused multiply-add peak, its memory bandwidth and, when it is
// installed, OpenBLAS. Contestants take turns and the best turn counts, so that other load on the machine
// hits all alike. Unset OPENBLAS_CORETYPE for OpenBLAS's own choice of kernels.
// With one thread the clock is the thread's processor time, so that time lost to other programs is left out.
//   gemm_bench [threads] [turns] [isa]
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <vector>

#include "base/random.h"
#include "math/gemm.h"

#ifdef PLANISH_HAVE_OPENBLAS
extern "C" {
void cblas_sgemm(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float* a,
                 int lda, const float* b, int ldb, float beta, float* c, int ldc);
void cblas_sgemv(int order, int trans, int m, int n, float alpha, const float* a, int lda, const float* x,
                 int incx, float beta, float* y, int incy);
void cblas_ssyrk(int order, int uplo, int trans, int n, int k, float alpha, const float* a, int lda,
                 float beta, float* c, int ldc);
void openblas_set_num_threads(int threads);
char* openblas_get_corename(void);
}
#endif

namespace planish {
namespace {

#ifdef PLANISH_HAVE_OPENBLAS
constexpr int kRowMajor = 101, kNoTrans = 111, kTrans = 112, kUpper = 121;
#endif

double Now(bool processor_time) {
  timespec t;
  clock_gettime(processor_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

struct Contestant {
  std::string name;
  std::function<void()> body;
  double best = 1e30;  // seconds
};

struct Bench {
  Context context;
  int turns;

  // Each turn repeats the body for at least 20 ms.
  void Race(const std::string& title, double macs, double bytes, std::vector<Contestant> all,
            Precision precision = Precision::kF32) const {
    const bool own = context.pool->NumThreads() == 1;
    double peak = 0;
    for (int turn = 0; turn < turns; ++turn) {
      peak = std::max(peak, MeasureFmaPeak(context, precision));
      for (auto& contestant : all) {
        const double begin = Now(own);
        for (double end = begin; end < begin + 0.02;) {
          const double start = Now(own);
          contestant.body();
          end = Now(own);
          contestant.best = std::min(contestant.best, end - start);
        }
      }
    }
    fmt::print("{} (peak of {} {:.1f} GMAC/s)\n", title, GemmKernelsText(context, precision), peak / 1e9);
    for (const auto& contestant : all) {
      fmt::print("  {:<10} {:9.3f} ms  {:7.1f} GMAC/s  {:5.1f} % of peak", contestant.name,
                 contestant.best * 1e3, macs / contestant.best / 1e9, 100 * macs / contestant.best / peak);
      if (bytes > 0) fmt::print("  {:6.1f} GB/s", bytes / contestant.best / 1e9);
      fmt::print("\n");
    }
  }
};

Mat<float> RandomMat(int64_t rows, int64_t cols, uint64_t stream) {
  Mat<float> m(rows, cols);
  const Random random(1, stream);
  for (int64_t i = 0; i < rows * cols; ++i) {
    m.data()[i] = static_cast<float>(random.Uniform(static_cast<uint64_t>(i)) - 0.5);
  }
  return m;
}

std::vector<BF16> ToBF16s(const Mat<float>& m) {
  std::vector<BF16> out(static_cast<size_t>(m.rows() * m.cols()));
  for (size_t i = 0; i < out.size(); ++i) out[i] = ToBF16(m.data()[i]);
  return out;
}

void RaceNT(const Bench& bench, int64_t m, int64_t n, int64_t k) {
  const Mat<float> a = RandomMat(m, k, 1), b = RandomMat(n, k, 2);
  const std::vector<BF16> halves = ToBF16s(b);
  Mat<float> c(m, n);
  const WeightView half_view{reinterpret_cast<const std::byte*>(halves.data()), DType::kBF16, n, k, k};
  std::vector<Contestant> all = {
      {"f32", [&] { MatMulNT(bench.context, a, Weights(b.view()), c.view()); }},
      {"bf16", [&] { MatMulNT(bench.context, a, half_view, c.view()); }},
  };
#ifdef PLANISH_HAVE_OPENBLAS
  const int mi = static_cast<int>(m), ni = static_cast<int>(n), ki = static_cast<int>(k);
  all.push_back({"openblas", [&] {
                   cblas_sgemm(kRowMajor, kNoTrans, kTrans, mi, ni, ki, 1, a.data(), ki, b.data(), ki, 0,
                               c.data(), ni);
                 }});
#endif
  bench.Race(fmt::format("NT {}x{}x{}", m, n, k), static_cast<double>(m * n * k), 0, std::move(all));
}

// The precisions, weights in bf16, beside the peak of products of bf16 where the processor has them.
void RacePrecisions(const Bench& bench, int64_t m, int64_t n, int64_t k) {
  const Mat<float> a = RandomMat(m, k, 1);
  const std::vector<BF16> halves = ToBF16s(RandomMat(n, k, 2));
  Mat<float> c(m, n);
  const WeightView b{reinterpret_cast<const std::byte*>(halves.data()), DType::kBF16, n, k, k};
  std::vector<Contestant> all;
  for (const Precision precision : {Precision::kF32, Precision::kBF16, Precision::kSplit}) {
    all.push_back({std::string(PrecisionName(precision)),
                   [&, precision] { MatMulNT(bench.context, a, b, c.view(), Accumulate::kSet, precision); }});
  }
  bench.Race(fmt::format("precisions NT {}x{}x{}", m, n, k), static_cast<double>(m * n * k), 0,
             std::move(all), Precision::kBF16);
}

// Of statistics: half the products counted.
void RaceGramPrecisions(const Bench& bench, int64_t tokens, int64_t n) {
  const Mat<float> x = RandomMat(tokens, n, 1);
  Mat<float> h(n, n);
  std::vector<Contestant> all;
  for (const Precision precision : {Precision::kF32, Precision::kBF16, Precision::kSplit}) {
    all.push_back({std::string(PrecisionName(precision)),
                   [&, precision] { Gram(bench.context, x, h.view(), Accumulate::kSet, precision); }});
  }
  bench.Race(fmt::format("precisions Gram {}x{}", tokens, n),
             static_cast<double>(tokens) * static_cast<double>(n * (n + 1) / 2), 0, std::move(all),
             Precision::kBF16);
}

void RaceNN(const Bench& bench, int64_t m, int64_t n, int64_t k) {
  const Mat<float> a = RandomMat(m, k, 1), b = RandomMat(k, n, 2);
  Mat<float> c(m, n);
  std::vector<Contestant> all = {{"f32", [&] { MatMulNN(bench.context, a, b, c.view()); }}};
#ifdef PLANISH_HAVE_OPENBLAS
  const int mi = static_cast<int>(m), ni = static_cast<int>(n), ki = static_cast<int>(k);
  all.push_back({"openblas", [&] {
                   cblas_sgemm(kRowMajor, kNoTrans, kNoTrans, mi, ni, ki, 1, a.data(), ki, b.data(), ni, 0,
                               c.data(), ni);
                 }});
#endif
  bench.Race(fmt::format("NN {}x{}x{}", m, n, k), static_cast<double>(m * n * k), 0, std::move(all));
}

// Counted as the multiply-adds of the upper triangle, which is all that is needed.
void RaceGram(const Bench& bench, int64_t tokens, int64_t n) {
  const Mat<float> x = RandomMat(tokens, n, 1);
  Mat<float> h(n, n);
  std::vector<Contestant> all = {{"f32", [&] { Gram(bench.context, x, h.view()); }}};
#ifdef PLANISH_HAVE_OPENBLAS
  const int ni = static_cast<int>(n), ti = static_cast<int>(tokens);
  all.push_back({"openblas",
                 [&] { cblas_ssyrk(kRowMajor, kUpper, kTrans, ni, ti, 1, x.data(), ni, 0, h.data(), ni); }});
#endif
  bench.Race(fmt::format("Gram {}x{} (openblas: ssyrk)", tokens, n),
             static_cast<double>(tokens) * static_cast<double>(n * (n + 1) / 2), 0, std::move(all));
}

// Bytes are those of the weights in their own type. Each call takes the next of several
// copies, 128 MiB in all, so that the weights come from memory.
void RaceSmall(const Bench& bench, int64_t m, int64_t n, int64_t k) {
  const int64_t copies = std::max<int64_t>(1, (int64_t{128} << 20) / (n * k * 4));
  const Mat<float> a = RandomMat(m, k, 1), b = RandomMat(n * copies, k, 2);
  const std::vector<BF16> halves = ToBF16s(b);
  Mat<float> c(m, n);
  int64_t next = 0;
  const auto turn = [&] { return next = (next + 1) % copies; };
  std::vector<Contestant> all = {
      {"f32", [&] { MatMulNT(bench.context, a, Weights(b.view().Rows(turn() * n, n)), c.view()); }}};
#ifdef PLANISH_HAVE_OPENBLAS
  const int ni = static_cast<int>(n), ki = static_cast<int>(k);
  if (m == 1) {
    all.push_back({"openblas", [&] {
                     cblas_sgemv(kRowMajor, kNoTrans, ni, ki, 1, b.row(turn() * n), ki, a.data(), 1, 0,
                                 c.data(), 1);
                   }});
  }
#endif
  all.push_back({"read only", [&] {
                   const float* from = b.row(turn() * n);
                   const int64_t part = n * k / 8;
                   std::vector<float> sums(8);
                   bench.context.pool->ParallelFor(8, [&](int64_t t) {
                     uint64_t sum = 0, words[8];
                     for (int64_t i = 0; i + 16 <= part; i += 16) {
                       std::memcpy(words, from + t * part + i, sizeof(words));
                       for (uint64_t word : words) sum ^= word;
                     }
                     sums[static_cast<size_t>(t)] = static_cast<float>(sum & 1);
                   });
                   c(0, 0) = std::accumulate(sums.begin(), sums.end(), 0.0f);
                 }});
  const auto macs = static_cast<double>(m * n * k);
  bench.Race(fmt::format("small NT {}x{}x{} f32", m, n, k), macs, static_cast<double>(n * k * 4),
             std::move(all));
  bench.Race(fmt::format("small NT {}x{}x{} bf16", m, n, k), macs, static_cast<double>(n * k * 2),
             {{"bf16", [&] {
                 const WeightView w{reinterpret_cast<const std::byte*>(halves.data() + turn() * n * k),
                                    DType::kBF16, n, k, k};
                 MatMulNT(bench.context, a, w, c.view());
               }}});
}

int Main(int argc, char** argv) {
  ThreadPool pool(argc > 1 ? std::atoi(argv[1]) : 2);
  const auto isa = argc > 3 ? ParseIsa(argv[3]) : BestIsa();
  if (!isa || !IsaSupported(*isa)) {
    fmt::print(stderr, "isa '{}' is unknown or not supported here; supported: {}\n", argv[3],
               SupportedIsas());
    return 2;
  }
  const Bench bench{Context{&pool, *isa}, argc > 2 ? std::atoi(argv[2]) : 8};
  fmt::print("kernel set {}, {} threads\n", IsaName(*isa), pool.NumThreads());
#ifdef PLANISH_HAVE_OPENBLAS
  openblas_set_num_threads(pool.NumThreads());
  fmt::print("OpenBLAS core {}\n", openblas_get_corename());
#endif
  RaceNT(bench, 1024, 2048, 768);
  RaceNT(bench, 1024, 768, 2048);
  RaceNT(bench, 1024, 8192, 768);
  RaceNT(bench, 2048, 4096, 4096);
  RacePrecisions(bench, 1024, 2048, 768);
  RacePrecisions(bench, 2048, 4096, 4096);
  RaceGramPrecisions(bench, HasFastBf16(bench.context) ? 16384 : 4096,
                     HasFastBf16(bench.context) ? 4096 : 2048);
  RaceNT(bench, 128, 2048, 768);
  RaceNT(bench, 16, 2048, 768);
  RaceNT(bench, 64, 64, 64);
  RaceNN(bench, 1024, 768, 2048);
  RaceNN(bench, 64, 64, 64);
  RaceGram(bench, 4096, 2048);
  RaceSmall(bench, 1, 2048, 768);
  RaceSmall(bench, 4, 2048, 768);
  return 0;
}

}  // namespace
}  // namespace planish

int main(int argc, char** argv) { return planish::Main(argc, argv); }
