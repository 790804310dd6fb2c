// Packed kernels for Arm with the dot products of Armv8.2, four rows at a time. The dot takes signed by
// signed bytes, so 8-bit codes go in as code - 128 and so do their zeros.
#include <arm_neon.h>
#include <stddef.h>

#include "runtime/packed_kernels.h"

#define PACKED_INLINE inline __attribute__((always_inline))

namespace planish::packed {
namespace {

struct Neon {
  static constexpr int kLanes = 4, kWideBias = 128;
  static constexpr bool kHasDot = true;
  using Codes = uint8x16_t;
  using I = int32x4_t;
  using F = float32x4_t;

  static PACKED_INLINE Codes LoadCodes(const unsigned char* p) { return vld1q_u8(p); }
  static PACKED_INLINE Codes Splat(int v) { return vdupq_n_u8(static_cast<uint8_t>(v)); }
  static PACKED_INLINE Codes And(Codes a, Codes b) { return vandq_u8(a, b); }
  static PACKED_INLINE Codes Or(Codes a, Codes b) { return vorrq_u8(a, b); }
  // b in the rows of every four that the mask names, else a.
  template <int kMask>
  static PACKED_INLINE Codes PickRows(Codes a, Codes b) {
    constexpr uint32_t kOn = 0xffffffffu;
    const uint32_t rows[4] = {kMask & 1 ? kOn : 0, kMask & 2 ? kOn : 0, kMask & 4 ? kOn : 0,
                              kMask & 8 ? kOn : 0};
    return vbslq_u8(vreinterpretq_u8_u32(vld1q_u32(rows)), b, a);
  }
  template <int kN>
  static PACKED_INLINE Codes ShiftRight(Codes v) {
    if constexpr (kN == 0) return v;
    if constexpr (kN > 0) return vshrq_n_u8(v, kN);
  }
  template <int kN>
  static PACKED_INLINE Codes ShiftLeft(Codes v) {
    return vshlq_n_u8(v, kN);
  }
  static PACKED_INLINE Codes Join3(Codes low, Codes high) {
    return vorrq_u8(And(low, Splat(3)), And(high, Splat(4)));
  }
  static PACKED_INLINE Codes LoadTable(const unsigned char* p) { return vld1q_u8(p); }
  static PACKED_INLINE Codes Lookup(Codes table, Codes code) { return vqtbl1q_u8(table, code); }
  // b where the code is `place`, else a.
  static PACKED_INLINE Codes Replace(Codes code, int place, Codes b, Codes a) {
    return vbslq_u8(vceqq_u8(code, Splat(place)), b, a);
  }

  static PACKED_INLINE I ZeroInt() { return vdupq_n_s32(0); }
  static PACKED_INLINE I SplatInt(int v) { return vdupq_n_s32(v); }
  static PACKED_INLINE I AddInt(I a, I b) { return vaddq_s32(a, b); }
  static PACKED_INLINE I SubInt(I a, I b) { return vsubq_s32(a, b); }
  static PACKED_INLINE I MaxInt(I a, I b) { return vmaxq_s32(a, b); }
  static PACKED_INLINE I LoadBytes(const unsigned char* p) {
    uint32_t four;
    __builtin_memcpy(&four, p, 4);
    const uint16x8_t wide = vmovl_u8(vcreate_u8(four));
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(wide)));
  }
  static PACKED_INLINE I NibbleOf(I v, int shift) {
    return vandq_s32(vshlq_s32(v, SplatInt(-shift)), SplatInt(15));
  }
  template <int kN>
  static PACKED_INLINE I ShiftLeftInt(I v) {
    return vshlq_n_s32(v, kN);
  }
  static PACKED_INLINE F FloatOfBits(I v) { return vreinterpretq_f32_s32(v); }
  static PACKED_INLINE void StoreInt(int32_t* p, I v) { vst1q_s32(p, v); }

  static PACKED_INLINE F ZeroFloat() { return vdupq_n_f32(0); }
  static PACKED_INLINE F LoadFloat(const float* p) { return vld1q_f32(p); }
  static PACKED_INLINE F LoadFloatBytes(const unsigned char* p) { return vreinterpretq_f32_u8(vld1q_u8(p)); }
  static PACKED_INLINE F SplatFloat(const float* p) { return vld1q_dup_f32(p); }
  static PACKED_INLINE void StoreFloat(float* p, F v) { vst1q_f32(p, v); }
  static PACKED_INLINE F ToFloat(I v) { return vcvtq_f32_s32(v); }
  static PACKED_INLINE F MulFloat(F a, F b) { return vmulq_f32(a, b); }
  static PACKED_INLINE F AddFloat(F a, F b) { return vaddq_f32(a, b); }
  static PACKED_INLINE F MulAdd(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  static PACKED_INLINE F LoadF16(const unsigned char* p) {
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
  }
  template <int kOdd>
  static PACKED_INLINE F LoadBF16(const unsigned char* p) {
    const uint32x4_t pairs = vreinterpretq_u32_u8(vld1q_u8(p));
    if constexpr (kOdd == 0) return vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16));
    return vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff0000u)));
  }
  template <int kJ>
  static PACKED_INLINE F ByteToFloat(Codes w) {
    const uint32x4_t lanes = vreinterpretq_u32_u8(w);
    if constexpr (kJ == 0) return vcvtq_f32_u32(vandq_u32(lanes, vdupq_n_u32(255)));
    if constexpr (kJ > 0) return vcvtq_f32_u32(vandq_u32(vshrq_n_u32(lanes, 8 * kJ), vdupq_n_u32(255)));
  }
  static PACKED_INLINE I AbsBits(F v) { return vandq_s32(vreinterpretq_s32_f32(v), SplatInt(0x7fffffff)); }
  static PACKED_INLINE I Round(F v) { return vcvtnq_s32_f32(v); }
  static PACKED_INLINE void StoreBytes(signed char* p, I v) {
    const int16x4_t halves = vmovn_s32(v);
    const int8x8_t bytes = vmovn_s16(vcombine_s16(halves, halves));
    __builtin_memcpy(p, &bytes, 4);
  }
  template <bool kWide>
  static PACKED_INLINE I Dot(I sum, Codes w, const signed char* x) {
    int32_t four;
    __builtin_memcpy(&four, x, 4);
    if constexpr (kWide) w = veorq_u8(w, Splat(128));
    return vdotq_s32(sum, vreinterpretq_s8_u8(w), vreinterpretq_s8_s32(SplatInt(four)));
  }
};

#include "runtime/packed_kernels-inl.h"
#include "runtime/packed_portable-inl.h"

}  // namespace

extern constinit const KernelSet kNeonKernels = MakeKernels<Neon>("neon", UnpackPortable, InterleavePortable);

}  // namespace planish::packed
