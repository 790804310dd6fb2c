// One test body for every operation of nn.h: against a direct formula in double, for each kernel set that
// this machine has, bit for bit between the sets that fuse products, and for several thread counts.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include "base/context.h"
#include "base/random.h"
#include "tensor/view.h"

namespace planish::nn_test {

inline Mat<float> RandomMat(int64_t rows, int64_t cols, uint64_t stream, double low = -2, double high = 2) {
  Mat<float> m(rows, cols);
  const Random random(7, stream);
  for (int64_t i = 0; i < rows * cols; ++i) {
    m.data()[i] = static_cast<float>(low + (high - low) * random.Uniform(static_cast<uint64_t>(i)));
  }
  return m;
}

inline std::vector<float> Flat(const Mat<float>& m) { return {m.data(), m.data() + m.rows() * m.cols()}; }
inline std::vector<double> Doubles(const Mat<float>& m) { return {m.data(), m.data() + m.rows() * m.cols()}; }

inline bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

struct Expected {
  std::vector<double> value, tolerance;
  void Add(double v, double t) {
    value.push_back(v);
    tolerance.push_back(t);
  }
};

using Operation = std::function<std::vector<float>(const Context&)>;

// The tolerance is for sets that fuse; sse4, which rounds products too, gets `sse4_factor` times it.
inline void CheckOperation(const std::string& name, const Expected& expected, const Operation& operation,
                           double sse4_factor = 2) {
  std::vector<float> scalar;
  std::string ran, skipped;
  for (const Isa isa : kAllIsas) {
    if (!IsaSupported(isa)) {
      skipped += std::string(" ") + std::string(IsaName(isa));
      continue;
    }
    ran += std::string(" ") + std::string(IsaName(isa));
    std::vector<float> first;
    for (const int threads : {1, 2, 3, 5}) {
      ThreadPool pool(threads);
      Context context;
      context.pool = &pool;
      context.isa = isa;
      const std::vector<float> got = operation(context);
      if (threads > 1) {
        EXPECT_TRUE(SameBits(got, first))
            << name << ": " << IsaName(isa) << " with " << threads << " threads";
        continue;
      }
      first = got;
      ASSERT_EQ(got.size(), expected.value.size()) << name;
      const double factor = isa == Isa::kSse4 ? sse4_factor : 1;
      int reported = 0;
      for (size_t i = 0; i < got.size() && reported < 5; ++i) {
        const double error = std::abs(static_cast<double>(got[i]) - expected.value[i]);
        if (error <= factor * expected.tolerance[i]) continue;
        ADD_FAILURE() << name << ": " << IsaName(isa) << " [" << i << "] is " << got[i] << ", expected "
                      << expected.value[i] << " +- " << factor * expected.tolerance[i];
        ++reported;
      }
    }
    if (isa == Isa::kScalar) scalar = first;
    if (isa == Isa::kSse4) {
      ThreadPool pool(1);
      Context context;
      context.pool = &pool;
      context.isa = isa;
      context.profile = Profile::kStrict;
      EXPECT_TRUE(SameBits(operation(context), scalar)) << name << ": strict sse4 is not the scalar set";
    } else {
      EXPECT_TRUE(SameBits(first, scalar)) << name << ": " << IsaName(isa) << " differs from scalar";
    }
  }
  std::cout << name << ": ran" << ran << (skipped.empty() ? "" : "; skipped" + skipped) << "\n";
}

// d loss / d x[i] by central differences in double.
inline double Slope(const std::function<double(const std::vector<double>&)>& loss, std::vector<double> x,
                    size_t i) {
  const double h = 1e-5, at = x[i];
  x[i] = at + h;
  const double up = loss(x);
  x[i] = at - h;
  return (up - loss(x)) / (2 * h);
}

}  // namespace planish::nn_test
