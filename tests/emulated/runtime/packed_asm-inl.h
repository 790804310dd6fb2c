// What src/runtime/packed_asm-inl.h computes, on any processor.

PACKED_INLINE __m256i DotBytes(__m256i sum, __m256i codes, __m256i x) {
  __m512i wide[3] = {};
  const __m256i* from[3] = {&sum, &codes, &x};
  for (int i = 0; i < 3; ++i) __builtin_memcpy(&wide[i], from[i], sizeof(__m256i));
  const __m512i dots = _mm512_dpbusd_epi32(wide[0], wide[1], wide[2]);
  __builtin_memcpy(&sum, &dots, sizeof(sum));
  return sum;
}

PACKED_INLINE __m512i DotBytesBroadcast(__m512i sum, __m512i codes, const signed char* x) {
  int32_t four;
  __builtin_memcpy(&four, x, 4);
  return _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(four));
}

PACKED_INLINE uint64_t Deposit(uint64_t value, uint64_t mask) {
  uint64_t result = 0;
  for (; mask != 0; mask &= mask - 1, value >>= 1) {
    if ((value & 1) != 0) result |= mask & (0 - mask);
  }
  return result;
}
