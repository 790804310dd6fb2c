// The seam between the drivers of the matrix products (gemm.cc) and their kernels, one set for
// each instruction set. Files of a set are compiled with flags that other machines may lack, so
// this header holds no code: an inline function here, or from a standard header, could be emitted
// once for the whole program by the AVX-512 file and then crash an older processor.
#pragma once

#include <stdint.h>

namespace planish::gemm {

enum class Element { kF32, kF16, kBF16 };

// Partial sums of the dot-product kernel: element k goes to sum k mod kDotSums.
inline constexpr int kDotSums = 64;
// Rows of A that the dot-product kernel takes at most.
inline constexpr int kDotMaxRows = 4;

// How one factor is packed. A step of k is one element, or two of bf16 that lie together in 32 bits; a panel
// holds `width` steps of each k, k-major: panel[k * width + r], zero for r at or beyond the panel's rows and
// for k beyond its elements, up to a multiple of the set's k_unit.
struct Packers {
  // Packs `rows` <= width rows of `elements` that are contiguous in k, `stride` elements apart, maybe
  // unaligned. Part 0 of an element is its value, or what bf16 holds of it; part 1 is what bf16 holds of the
  // rest.
  void (*rows)(const unsigned char* source, Element type, int64_t stride, int rows, int64_t elements,
               int width, bool negate, int part, float* panel);
  // Packs `cols` columns of a row-major [elements, cols] matrix into panels of `valid` columns each,
  // `panel_stride` floats apart.
  void (*cols)(const float* source, int64_t stride, int64_t cols, int64_t elements, int valid, int width,
               bool negate, int part, float* panels, int64_t panel_stride);
};

struct KernelSet {
  const char* name;
  int mr;             // rows of C in a register tile
  int nr;             // columns of C in a register tile, also the width of a packed panel of B
  int a_width;        // width of a packed panel of A, at least mr
  int step_elements;  // elements in a step of k: 1, or 2 of bf16
  int k_unit;         // steps that panels are padded to a multiple of: 1 or 16

  // C[rows, cols] = C * load + A B over kc packed steps, each element one ascending chain of fused
  // multiply-adds (sse4: multiply, then add; pairs of bf16: the odd element first, or the whole step at
  // once). rows <= mr, cols <= nr; other elements of C are not touched. Meanwhile kc cache lines from `ahead`
  // on, which may be any address, are fetched into the cache.
  void (*tile)(int64_t kc, const float* a, const float* b, float* c, int64_t c_stride, int rows, int cols,
               bool load, const void* ahead);
  Packers a, b;
  // out[j * kDotMaxRows + i] = dot(A row i, B row j) for i < m <= kDotMaxRows, j < rows. Rows are taken as
  // padded with zeros to a multiple of kDotSums; the sums join by halving: s[i] += s[i + 32], 16, ... 1. Null
  // for sets of bf16.
  void (*dot)(const float* a, int64_t a_stride, int m, const unsigned char* b, Element type, int64_t b_stride,
              int rows, int64_t k, float* out);
  // Chains of multiply-adds in registers: x = x * scale + offset, or of bf16 x = x + scale * offset. Returns
  // their sum.
  float (*fma_chains)(int64_t iterations, float scale, float offset);
  int64_t fma_per_iteration;
};

extern const KernelSet kScalarKernels;
extern const KernelSet kSse4Kernels;
extern const KernelSet kAvx2Kernels;
extern const KernelSet kAvx512Kernels;
// Pairs of bf16: kAvx512Bf16Kernels needs AVX-512 and its BF16, kAmxKernels matrix tiles that the process has
// been granted (AllowTiles of base/cpu.h).
extern const KernelSet kAvx512Bf16Kernels;
extern const KernelSet kAmxKernels;

}  // namespace planish::gemm
