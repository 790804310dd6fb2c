// Kernels of matrix tiles for pairs of bf16: C in 2 x 2 tiles of 16 x 16, from two tiles of A (16 rows of 32
// elements) and two of B (16 pairs of 16 columns) for each 32 elements of k. Only intrinsics, C headers and
// code with internal linkage here (see gemm_kernels.h).
//
// Roofline: a tile product takes 16 cycles, a tile load from the first-level cache 8; four loads for four
// products, so the products bind as long as A (32 x kc) and B (kc x 32) come from the second-level cache at
// 64 bytes a cycle.
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own intrinsics read a register they call undefined (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#include <stddef.h>
#include <string.h>

#include "math/gemm_kernels.h"

namespace planish::gemm {
namespace {

#include "math/gemm_pairs-inl.h"
#include "math/tile_asm-inl.h"

constexpr int kSide = 16, kBoth = 2 * kSide;  // rows of a tile and steps of k in it; of C in the kernel
constexpr int kTileFloats = kSide * kSide;    // floats of a tile

struct TilePairs : Pairs512 {
  static constexpr bool kPadSteps = true;
};

#include "math/gemm-inl.h"

constexpr TileConfig MakeConfig() {
  TileConfig config = {};
  config.palette = 1;
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = 64;
    config.rows[i] = kSide;
  }
  return config;
}
alignas(64) constexpr TileConfig kConfig = MakeConfig();

// Tiles 0 to 3 are C, 4 and 5 A, 6 and 7 B. kRows: tiles of rows that are used.
template <int kRows>
void Steps(int64_t kc, const float* a, const float* b, const void* ahead) {
  auto line = reinterpret_cast<uintptr_t>(ahead);
  for (int64_t k = 0; k < kc; k += kSide) {
    const float *left = a + k * kBoth, *right = b + k * kBoth;
    LoadTile<4>(left, 64);
    LoadTile<6>(right, 128);
    MultiplyTiles<0, 4, 6>();
    LoadTile<7>(right + kSide, 128);
    MultiplyTiles<1, 4, 7>();
    if constexpr (kRows == 2) {
      LoadTile<5>(left + kTileFloats, 64);
      MultiplyTiles<2, 5, 6>();
      MultiplyTiles<3, 5, 7>();
    }
#pragma GCC unroll 16
    for (int i = 0; i < kSide; ++i, line += 64) __builtin_prefetch(reinterpret_cast<const void*>(line));
  }
}

void LoadSums(const float* c, int64_t stride, bool load) {
  if (!load) {
    ZeroTile<0>();
    ZeroTile<1>();
    ZeroTile<2>();
    ZeroTile<3>();
    return;
  }
  LoadTile<0>(c, stride * 4);
  LoadTile<1>(c + kSide, stride * 4);
  LoadTile<2>(c + kSide * stride, stride * 4);
  LoadTile<3>(c + kSide * stride + kSide, stride * 4);
}

void StoreSums(float* c, int64_t stride) {
  StoreTile<0>(c, stride * 4);
  StoreTile<1>(c + kSide, stride * 4);
  StoreTile<2>(c + kSide * stride, stride * 4);
  StoreTile<3>(c + kSide * stride + kSide, stride * 4);
}

void TileOfTiles(int64_t kc, const float* a, const float* b, float* c, int64_t c_stride, int rows, int cols,
                 bool load, const void* ahead) {
  ConfigureTiles(kConfig);
  // Parts of C at its edges are computed beside it.
  alignas(64) float edge[kBoth * kBoth];
  const bool whole = rows == kBoth && cols == kBoth;
  if (!whole && load) {
    for (int i = 0; i < kBoth; ++i) {
      for (int j = 0; j < kBoth; ++j) {
        edge[i * kBoth + j] = i < rows && j < cols ? c[i * c_stride + j] : 0.0f;
      }
    }
  }
  float* sums = whole ? c : edge;
  const int64_t stride = whole ? c_stride : kBoth;
  LoadSums(sums, stride, load);
  if (rows > kSide) {
    Steps<2>(kc, a, b, ahead);
  } else {
    Steps<1>(kc, a, b, ahead);
  }
  StoreSums(sums, stride);
  ReleaseTiles();
  if (whole) return;
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < cols; ++j) c[i * c_stride + j] = edge[i * kBoth + j];
  }
}

// As PackCols, into the blocks that PackRows<V, true> makes: transposed in registers.
void PackColsOfTiles(const float* source, int64_t stride, int64_t cols, int64_t elements, int valid,
                     int width, bool negate, int part, float* panels, int64_t panel_stride) {
  for (int64_t k = 0; 2 * k < elements; k += kSide) {
    float* to = panels + k * width;
    for (int64_t col = 0; col < cols; col += valid, to += panel_stride) {
      const int64_t count = cols - col < valid ? cols - col : valid;
      for (int lane = 0; lane < width; lane += kSide) {
        __m512 block[kSide];
#pragma GCC unroll 16
        for (int i = 0; i < kSide; ++i) {
          const int64_t row = 2 * (k + i);
          block[i] = LoadColumns<TilePairs>(source + row * stride + col + lane, stride, count - lane,
                                            elements - row, part);
          if (negate) block[i] = TilePairs::Negate(block[i]);
        }
        Vec512::Transpose(block);
#pragma GCC unroll 16
        for (int i = 0; i < kSide; ++i) Vec512::Store(to + (lane + i) * kSide, block[i]);
      }
    }
  }
}

// Four tiles of sums of scale * offset.
float TileChains(int64_t iterations, float scale, float offset) {
  ConfigureTiles(kConfig);
  alignas(64) float a[kTileFloats], b[kTileFloats];
  const __m512 left = TilePairs::JoinRows(_mm512_set1_ps(scale), _mm512_set1_ps(scale), 0);
  const __m512 right = TilePairs::JoinRows(_mm512_set1_ps(offset), _mm512_set1_ps(offset), 0);
  for (int i = 0; i < kTileFloats; i += kSide) {
    Vec512::Store(a + i, left);
    Vec512::Store(b + i, right);
  }
  LoadSums(nullptr, 0, false);
  LoadTile<4>(a, 64);
  LoadTile<5>(a, 64);
  LoadTile<6>(b, 64);
  LoadTile<7>(b, 64);
  for (int64_t n = 0; n < iterations; ++n) {
    MultiplyTiles<0, 4, 6>();
    MultiplyTiles<1, 4, 7>();
    MultiplyTiles<2, 5, 6>();
    MultiplyTiles<3, 5, 7>();
  }
  StoreTile<0>(a, 64);
  ReleaseTiles();
  return a[0];
}

}  // namespace

extern constinit const KernelSet kAmxKernels = {"amx-bf16",
                                                kBoth,
                                                kBoth,
                                                kBoth,
                                                TilePairs::kStepElements,
                                                kSide,
                                                &TileOfTiles,
                                                {&PackRows<TilePairs, true>, &PackColsOfTiles},
                                                MakePackers<TilePairs>(),
                                                nullptr,
                                                &TileChains,
                                                int64_t{4} * kSide* kSide * 2 * kSide};

}  // namespace planish::gemm
