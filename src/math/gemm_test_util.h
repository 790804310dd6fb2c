// What the tests of matrix products share.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "base/random.h"
#include "math/gemm.h"

namespace planish::test {

inline constexpr float kGuard = 12345.0f;

// A matrix with room between its rows; the room is filled so that a stray write shows.
struct Padded {
  std::vector<float> data;
  int64_t rows, cols, stride;
  Padded(int64_t r, int64_t c, int64_t room, uint64_t stream) : rows(r), cols(c), stride(c + room) {
    data.assign(static_cast<size_t>(r * stride + 1), kGuard);
    const Random random(7, stream);
    for (int64_t i = 0; i < r; ++i) {
      for (int64_t j = 0; j < c; ++j) {
        at(i, j) = static_cast<float>(random.Uniform(static_cast<uint64_t>(i * c + j)) * 2 - 1);
      }
    }
  }
  float& at(int64_t i, int64_t j) { return data[static_cast<size_t>(i * stride + j)]; }
  MatView<float> view() { return {data.data(), rows, cols, stride}; }
};

class MadeRows : public RowSource {
 public:
  explicit MadeRows(const WeightView& w) : w_(w) {}
  int64_t rows() const override { return w_.rows; }
  int64_t cols() const override { return w_.cols; }
  void Read(int64_t row, int64_t row_count, int64_t col, int64_t col_count, float* out,
            int64_t ld) const override {
    EXPECT_GE(row, 0);
    EXPECT_LE(row + row_count, w_.rows);
    EXPECT_LE(col + col_count, w_.cols);
    for (int64_t i = 0; i < row_count; ++i) {
      for (int64_t j = 0; j < col_count; ++j) {
        out[i * ld + j] = LoadElement(w_.data, w_.type, (row + i) * w_.stride + col + j);
      }
    }
  }

 private:
  WeightView w_;
};

inline std::vector<Isa> SupportedSets() {
  std::vector<Isa> sets;
  for (Isa isa : kAllIsas) {
    if (IsaSupported(isa)) sets.push_back(isa);
  }
  return sets;
}

}  // namespace planish::test
