// One row of KlRows for each instruction set. Declarations only: the files of an instruction set must
// not instantiate inline code that others share.
#pragma once

#include <stdint.h>

namespace planish::divergence_avx2 {
double KlRow(const float* ref, const float* other, int64_t cols);
}
namespace planish::divergence_avx512 {
double KlRow(const float* ref, const float* other, int64_t cols);
}
