// NEON: 16 bytes at a time; every AArch64 processor has it.
#include "cpu.hpp"

#if defined(__aarch64__)
#include <arm_neon.h>

#include <cstring>

#include "simd.hpp"

namespace mpft::texture {
namespace {

struct Neon {
  using Bytes = uint8x16_t;
  using Sums = uint32x4_t;  // two to a lane
  static constexpr int kWidth = 16;

  static Bytes zero() { return vdupq_n_u8(0); }
  static Sums no_sums() { return vdupq_n_u32(0); }
  static Bytes load(const std::uint8_t* from) { return vld1q_u8(from); }
  static Bytes load_first(const std::uint8_t* from, int count) {
    std::uint8_t bytes[kWidth] = {};
    std::memcpy(bytes, from, static_cast<std::size_t>(count));
    return load(bytes);
  }
  static Bytes both(Bytes a, Bytes b) { return vandq_u8(a, b); }
  static Sums add_differences(Sums sums, Bytes a, Bytes b) {
    return vpadalq_u16(sums, vpaddlq_u8(vabdq_u8(a, b)));
  }
  static void store(std::uint64_t* lanes, Sums sums) { vst1q_u64(lanes, vpaddlq_u32(sums)); }
};

}  // namespace

void score_neon(const std::uint8_t* image, std::int64_t row_stride, std::int64_t size, int patch,
                std::int32_t* scores) {
  score_simd<Neon>(image, row_stride, size, patch, scores);
}

}  // namespace mpft::texture
#endif
