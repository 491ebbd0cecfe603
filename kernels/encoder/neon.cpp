// NEON with dot products. Compiled with +dotprod, called only where the processor has them.
#include "kernel.hpp"

#if defined(__aarch64__)
#include <arm_neon.h>

#include <cstring>

#include "blocks.hpp"

namespace mpft::encoder {
namespace {

struct Neon {
  using Float = float32x4_t;
  using Int = int32x4_t;
  static constexpr int kParts = 4, kBytesLargest = 128, kOffset = 0;
  static constexpr bool kWideWords = false, kSumsGroups = false;

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
  static bool reaches(Float x, float bound) { return vmaxvq_f32(x) >= bound; }

  static Int load_whole(const std::int32_t* from) { return vld1q_s32(from); }
  static void store_whole(std::int32_t* to, Int x) { vst1q_s32(to, x); }
  static Float to_float(Int x) { return vcvtq_f32_s32(x); }
  static Int high(Int x) { return vshrq_n_s32(vaddq_s32(x, vdupq_n_s32(128)), 8); }
  static int8x16_t low_bytes(const Int* parts) {
    const int16x8_t first = vcombine_s16(vmovn_s32(parts[0]), vmovn_s32(parts[1]));
    const int16x8_t second = vcombine_s16(vmovn_s32(parts[2]), vmovn_s32(parts[3]));
    return vcombine_s8(vmovn_s16(first), vmovn_s16(second));
  }
  static void store_high(std::int8_t* to, const Int* parts) {
    const Int above[] = {high(parts[0]), high(parts[1]), high(parts[2]), high(parts[3])};
    vst1q_s8(to, low_bytes(above));
  }
  static void store_bytes(std::uint8_t* to, const Int* parts) {
    vst1q_u8(to, vreinterpretq_u8_s8(low_bytes(parts)));
  }

  template <class Function>
  static void choose(const Matrix&, std::int64_t, Function function);
};

struct Bytes {
  static constexpr int kTokens = 4, kPanels = 1, kInputs = 2 * kFour, kBytes = 1;
  struct Sums {
    int32x4_t part[4];
  };
  const std::int8_t* panel;
  const std::int32_t* begin;

  Bytes(const Matrix& matrix, std::int64_t column)
      : panel(panel_of(matrix, column)), begin(matrix.start + column) {}

  Sums start() const {
    return {vld1q_s32(begin), vld1q_s32(begin + 4), vld1q_s32(begin + 8), vld1q_s32(begin + 12)};
  }
  Sums next(const Sums& sums) const {
    Sums out = start();
    for (int i = 0; i < 4; ++i) out.part[i] = vaddq_s32(out.part[i], vshlq_n_s32(sums.part[i], 8));
    return out;
  }
  void add(Sums& sums, const std::uint8_t* row, std::int64_t i) const {
    const int8x8_t x = vreinterpret_s8_u8(vld1_u8(row));
    for (int quarter = 0; quarter < 4; ++quarter) {
      const std::int8_t* weights = panel + i * kLanes + quarter * 16;
      int32x4_t& sum = sums.part[quarter];
      sum = vdotq_lane_s32(sum, vld1q_s8(weights), x, 0);
      sum = vdotq_lane_s32(sum, vld1q_s8(weights + kFour * kLanes), x, 1);
    }
  }
  void add_high(Sums& sums, const High* high, Highs highs) const {
    int32x4_t totals[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
    for (const High* end = high + highs.count; high < end; ++high) {
      std::int32_t four;
      std::memcpy(&four, high->bytes, sizeof four);
      const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(four));
      for (int quarter = 0; quarter < 4; ++quarter) {
        const int8x16_t weights = vld1q_s8(panel + high->input * kLanes + quarter * 16);
        totals[quarter] = vdotq_s32(totals[quarter], weights, x);
      }
    }
    for (int i = 0; i < 4; ++i) {
      sums.part[i] = vaddq_s32(sums.part[i], vshlq_n_s32(totals[i], 8));
    }
  }
  void store(std::int32_t* to, const Sums& sums) const {
    for (int i = 0; i < 4; ++i) vst1q_s32(to + 4 * i, sums.part[i]);
  }
};

template <class Function>
void Neon::choose(const Matrix&, std::int64_t, Function function) {
  function(Of<Bytes>{});
}

}  // namespace

const Kernel kNeon = kernel_of<Neon>();

}  // namespace mpft::encoder
#endif
