// MB/s of 16-bit input that the encoders of GGUF's block types take from floats in memory, plain and under an
// importance of the columns, and the weighted error that they leave over the weighted energy:
//   encode_bench [TYPE...]
// 1,024 rows of 2,048 values of a normal distribution, all threads; the best of five.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <string>
#include <vector>

#include "bench/bench_util.h"
#include "grids/gguf_decode.h"
#include "grids/gguf_encode.h"

namespace planish::bench {
namespace {

double RelativeError(const Mat<float>& w, const std::vector<float>& h, const Mat<float>& q) {
  double error = 0, energy = 0;
  for (int64_t i = 0; i < w.rows(); ++i) {
    for (int64_t j = 0; j < w.cols(); ++j) {
      const double weight = h.empty() ? 1.0 : h[j], off = double{w(i, j)} - q(i, j);
      error += weight * off * off;
      energy += weight * w(i, j) * w(i, j);
    }
  }
  return error / energy;
}

std::string Lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(c));
  return text;
}

int Run(const std::vector<std::string>& names) {
  ThreadPool pool;
  Context context;
  context.pool = &pool;
  context.isa = BestIsa();
  constexpr int64_t kRows = 1024, kCols = 2048;
  Mat<float> w(kRows, kCols);
  const Random random(3);
  for (int64_t i = 0; i < kRows * kCols; ++i) {
    w.data()[i] = static_cast<float>(0.02 * random.Normal(static_cast<uint64_t>(i)));
  }
  std::vector<float> importance(kCols);
  for (int64_t j = 0; j < kCols; ++j) {
    importance[j] =
        static_cast<float>(std::exp(random.Normal((uint64_t{1} << 40) + static_cast<uint64_t>(j))));
  }
  fmt::print("{} threads, {}\n{:8} {:>12} {:>12} {:>12} {:>12}\n", pool.NumThreads(), IsaName(context.isa),
             "type", "plain MB/s", "error", "weighted", "error");
  for (const std::string& name : names) {
    const auto types = AllGgufTypes();
    const auto info =
        std::find_if(types.begin(), types.end(), [&](const auto& t) { return Lower(t.name) == name; });
    if (info == types.end() || !info->encodes) return fmt::print(stderr, "no encoder of '{}'\n", name), 2;
    std::vector<std::byte> out(static_cast<size_t>(kRows * GgufRowBytes(info->type, kCols)));
    fmt::print("{:8}", name);
    for (const std::vector<float>& h : {std::vector<float>{}, importance}) {
      const double seconds = Best(
          Clock(), [&] { EncodeBlocks(context, info->type, w.view(), h, out.data()); }, 5);
      Mat<float> decoded(kRows, kCols);
      for (int64_t i = 0; i < kRows; ++i) {
        DecodeBlockRow(info->type, out.data() + i * GgufRowBytes(info->type, kCols), 0, kCols,
                       decoded.row(i));
      }
      fmt::print(" {:12.1f} {:12.4e}", 2e-6 * kRows * kCols / seconds, RelativeError(w, h, decoded));
    }
    fmt::print("\n");
  }
  return 0;
}

}  // namespace
}  // namespace planish::bench

int main(int argc, char** argv) {
  std::vector<std::string> names(argv + 1, argv + argc);
  if (names.empty()) {
    names = {"q2_k",   "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs",
             "iq4_nl", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"};
  }
  return planish::bench::Run(names);
}
