// What src/math/tile_asm-inl.h computes, on any processor: tiles of 16 rows of 64 bytes, the only ones in
// use.
#pragma once

struct TileConfig {
  unsigned char palette, start_row, reserved[14];
  unsigned short row_bytes[16];
  unsigned char rows[16];
};

struct EmulatedTile {
  float lane[16][16];
};
inline EmulatedTile* Tiles() {
  static thread_local EmulatedTile tiles[8];
  return tiles;
}

inline void ConfigureTiles(const TileConfig& config) {
  for (int i = 0; i < 8; ++i) {
    if (config.palette != 1 || config.row_bytes[i] != 64 || config.rows[i] != 16) __builtin_trap();
    Tiles()[i] = {};
  }
}
inline void ReleaseTiles() {
  for (int i = 0; i < 8; ++i) Tiles()[i] = {};
}
template <int kTile>
inline void ZeroTile() {
  Tiles()[kTile] = {};
}
template <int kTile>
inline void LoadTile(const float* from, int64_t stride) {
  for (int i = 0; i < 16; ++i) {
    __builtin_memcpy(Tiles()[kTile].lane[i], reinterpret_cast<const char*>(from) + i * stride, 64);
  }
}
template <int kTile>
inline void StoreTile(float* to, int64_t stride) {
  for (int i = 0; i < 16; ++i) {
    __builtin_memcpy(reinterpret_cast<char*>(to) + i * stride, Tiles()[kTile].lane[i], 64);
  }
}
template <int kC, int kA, int kB>
inline void MultiplyTiles() {
  EmulatedTileProduct(&Tiles()[kA].lane[0][0], &Tiles()[kB].lane[0][0], &Tiles()[kC].lane[0][0]);
}
