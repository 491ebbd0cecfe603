// NEON with dot products of bytes. Compiled with +dotprod, called only where the processor has them.
#include "kernel.hpp"

#if defined(__aarch64__)
#include <arm_neon.h>

#include "blocks.hpp"

namespace mpft::encoder {
namespace {

struct Neon {
  using Float = float32x4_t;
  using Int = int32x4_t;
  static constexpr int kParts = 4, kTokens = 4, kVectors = 1, kOffsetLargest = -1;

  static Float load(const float* from) { return vld1q_f32(from); }
  static void store(float* to, Float x) { vst1q_f32(to, x); }
  static Float all(float value) { return vdupq_n_f32(value); }
  static Float larger(Float a, Float b) { return vmaxq_f32(a, b); }
  static Float smaller(Float a, Float b) { return vminq_f32(a, b); }
  static Float magnitude(Float x) { return vabsq_f32(x); }
  static Float with_sign(Float x, Float sign) {
    return vbslq_f32(vdupq_n_u32(0x7FFFFFFF), x, sign);
  }
  static Float root(Float x) { return vsqrtq_f32(x); }
  static Float nearest(Float x) { return vrndnq_f32(x); }
  static Int to_whole(Float x) { return vcvtnq_s32_f32(x); }
  static Float power_of_two(Float n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(to_whole(n), vdupq_n_s32(127)), 23));
  }
  static float sum(Float x) {
    const float32x2_t two = vadd_f32(vget_low_f32(x), vget_high_f32(x));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
  }
  static float largest(Float x) { return vmaxvq_f32(x); }

  static Int load_whole(const std::int32_t* from) { return vld1q_s32(from); }
  static void store_whole(std::int32_t* to, Int x) { vst1q_s32(to, x); }
  static Float to_float(Int x) { return vcvtq_f32_s32(x); }
  static Int high(Int x) { return vshrq_n_s32(vaddq_s32(x, vdupq_n_s32(64)), 7); }
  static Int low(Int x, Int high) { return vsubq_s32(x, vshlq_n_s32(high, 7)); }
  static void store_bytes(std::uint8_t* to, const Int* parts, int) {
    const int16x8_t first = vcombine_s16(vmovn_s32(parts[0]), vmovn_s32(parts[1]));
    const int16x8_t second = vcombine_s16(vmovn_s32(parts[2]), vmovn_s32(parts[3]));
    vst1q_u8(to, vreinterpretq_u8_s8(vcombine_s8(vmovn_s16(first), vmovn_s16(second))));
  }

  using Inputs = int8x8_t;
  static Inputs inputs(const std::uint8_t* eight) {
    return vreinterpret_s8_u8(vld1_u8(eight));
  }
  template <bool kBytesHaveOffset>
  static Int dot(Int sum, Inputs x, const std::int8_t* first, const std::int8_t* second) {
    sum = vdotq_lane_s32(sum, vld1q_s8(first), x, 0);
    return vdotq_lane_s32(sum, vld1q_s8(second), x, 1);
  }
};

}  // namespace

const Kernel kNeon = kernel_of<Neon>();

}  // namespace mpft::encoder
#endif
