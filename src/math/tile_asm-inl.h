// Matrix tiles as assembly, included inside an anonymous namespace: the intrinsics of GCC 12 tell the
// compiler neither that a tile load reads memory nor that the configuration is 64 bytes long, so that stores
// before them get lost. tests/emulated/math/ has a file of the same name.
#pragma once

struct TileConfig {
  unsigned char palette, start_row, reserved[14];
  unsigned short row_bytes[16];
  unsigned char rows[16];
};
static_assert(sizeof(TileConfig) == 64);

inline void ConfigureTiles(const TileConfig& config) { __asm__ volatile("ldtilecfg %0" : : "m"(config)); }
inline void ReleaseTiles() { __asm__ volatile("tilerelease"); }
template <int kTile>
inline void ZeroTile() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
// 16 rows of 64 bytes, `stride` bytes apart.
template <int kTile>
inline void LoadTile(const float* from, int64_t stride) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
inline void StoreTile(float* to, int64_t stride) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kTile) : "memory");
}
// C += A B over 16 pairs of bf16.
template <int kC, int kA, int kB>
inline void MultiplyTiles() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
}
