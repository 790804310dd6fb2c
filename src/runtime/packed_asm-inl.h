// Instructions that the packed kernels write as assembly; included in the anonymous namespace of one kernel
// file. tests/emulated has a file of this name that computes the same on any processor.

// sum + the dot of each four bytes, unsigned in `codes` and signed in `x`. The form of AVX-VNNI, whose
// intrinsic would need another compiler flag.
PACKED_INLINE __m256i DotBytes(__m256i sum, __m256i codes, __m256i x) {
  __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(codes), "x"(x));
  return sum;
}

#if defined(__AVX512F__)
// The same with four bytes at x for every lane. By intrinsics the compiler would load them to a register
// first, and spill.
PACKED_INLINE __m512i DotBytesBroadcast(__m512i sum, __m512i codes, const signed char* x) {
  __asm__("vpdpbusd %2%{1to16%}, %1, %0"
          : "+v"(sum)
          : "v"(codes), "m"(*reinterpret_cast<const int32_t(*)[1]>(x)));
  return sum;
}

// Of BMI2: the low bits of `value` to the places of the ones in `mask`.
PACKED_INLINE uint64_t Deposit(uint64_t value, uint64_t mask) {
  uint64_t result = 0;
  __asm__("pdep %2, %1, %0" : "=r"(result) : "r"(value), "r"(mask));
  return result;
}
#endif
