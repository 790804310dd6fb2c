// Packing of codes in plain C, for sets without a faster form; included like packed_kernels-inl.h.

void UnpackPortable(const unsigned char* in, int64_t count, int bits, unsigned char* out) {
  const uint64_t mask = (uint64_t{1} << bits) - 1;
  const int64_t bytes = (count * bits + 7) / 8;
  for (int64_t i = 0; i < count; i += 8) {
    const int64_t at = i / 8 * bits, left = bytes - at;
    uint64_t word = 0;
    for (int64_t b = 0; b < bits && b < left; ++b) word |= static_cast<uint64_t>(in[at + b]) << (8 * b);
    for (int j = 0; j < 8; ++j) out[i + j] = static_cast<unsigned char>((word >> (j * bits)) & mask);
  }
}

// Byte 4 * row + column mod 4 of each line. 4 bits: line column / 8, low nibble first. 2 bits: line column /
// 16 at bit 2 ((column / 4) mod 4). 3 bits: so the low two bits, then a line whose bit (column / 4) mod 8 is
// the code's top bit. 8 bits: line column / 4.
void InterleavePortable(Kind kind, const unsigned char* codes, int64_t stride, int step, unsigned char* out) {
  const bool two = kind == Kind::kInt2 || kind == Kind::kTable2 || kind == Kind::kRows2;
  const bool three =
      kind == Kind::kInt3 || kind == Kind::kTable3 || kind == Kind::kSets3 || kind == Kind::kRows3;
  const int bits = two ? 2 : three ? 3 : kind == Kind::kInt8 ? 8 : 4;
  for (int k = 0; k < step; k += 32, out += 64 * bits) {
    for (int row = 0; row < kTileRows; ++row) {
      const unsigned char* from = codes + row * stride + k;
      for (int j = 0; j < 4; ++j, ++from) {
        unsigned char* to = out + 4 * row + j;
        unsigned line[8] = {};
        for (int i = 0; i < 8; ++i) {
          const unsigned code = from[4 * i];
          if (bits == 8) line[i] = code;
          if (bits == 4) line[i / 2] |= code << (4 * (i & 1));
          if (bits <= 3) line[i / 4] |= (code & 3) << (2 * (i & 3));
          if (bits == 3) line[2] |= (code >> 2) << i;
        }
        for (int i = 0; i < bits; ++i) to[64 * i] = static_cast<unsigned char>(line[i]);
      }
    }
  }
}
