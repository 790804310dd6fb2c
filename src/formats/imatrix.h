// Importance matrices of llama.cpp: for each weight the sums of its inputs' squares over calibration tokens,
// a number a column. Two forms are read and written: GGUF, which keeps sums and counts, and the older .dat,
// which keeps means. https://github.com/ggml-org/llama.cpp, tools/imatrix
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace planish {

// Of one weight [cols, rows] or of a bank of `matrices` experts.
struct ImatrixEntry {
  int64_t matrices = 1;
  std::vector<float> sum2;    // [matrices, cols], sums of squares, finite and >= 0
  std::vector<float> counts;  // [matrices], tokens summed
  int64_t cols() const { return static_cast<int64_t>(sum2.size()) / matrices; }
};

struct Imatrix {
  std::vector<std::string> datasets;  // names of the texts
  int64_t chunk_count = 0;            // windows processed
  int64_t chunk_size = 0;             // tokens in one; 0: the older form, which does not know it
  std::map<std::string, ImatrixEntry, std::less<>> entries;  // by the weight's name, "blk.0.attn_q.weight"

  // Mean squares of the columns of one of a weight's matrices: what a quantizer weighs errors by. All ones
  // for an expert that saw no token; empty when the weight is not listed. Error: other sizes than those of
  // the weight.
  Result<std::vector<float>> Importance(std::string_view name, int64_t cols, int64_t matrices = 1,
                                        int64_t matrix = 0) const;
};

// Either form, told apart by the magic of GGUF. In the older one a value is the mean square times the number
// of calls: sums are values and counts are calls, so that the means agree. Errors name the file, the entry,
// what was found and expected.
Result<Imatrix> OpenImatrix(const std::string& path);
// The same for bytes in memory; `name` stands in for the path.
Result<Imatrix> ParseImatrix(std::span<const std::byte> bytes, const std::string& name);

// GGUF; or, for a path that ends in ".dat", the older form. Weights in ascending order of their names.
Status WriteImatrix(const std::string& path, const Imatrix& imatrix);

}  // namespace planish
