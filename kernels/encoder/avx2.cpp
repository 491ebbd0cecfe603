// AVX2. Compiled with -mavx2, called only where the processor has it.
#include "kernel.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>

#include "blocks.hpp"

namespace mpft::encoder {
namespace {

struct Avx2 {
  using Float = __m256;
  using Int = __m256i;
  static constexpr int kParts = 2, kTokens = 3, kVectors = 1;
  // Four products of a byte and a weight fit into 16 bits: 4 · 255 · 32 < 2¹⁵.
  static constexpr int kOffsetLargest = 32;

  static Float load(const float* from) { return _mm256_loadu_ps(from); }
  static void store(float* to, Float x) { _mm256_storeu_ps(to, x); }
  static Float all(float value) { return _mm256_set1_ps(value); }
  static Float larger(Float a, Float b) { return _mm256_max_ps(a, b); }
  static Float smaller(Float a, Float b) { return _mm256_min_ps(a, b); }
  static Float magnitude(Float x) { return _mm256_andnot_ps(all(-0.0f), x); }
  static Float with_sign(Float x, Float sign) {
    return _mm256_or_ps(magnitude(x), _mm256_and_ps(all(-0.0f), sign));
  }
  static Float root(Float x) { return _mm256_sqrt_ps(x); }
  static Float nearest(Float x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static Int to_whole(Float x) { return _mm256_cvtps_epi32(x); }
  static Float power_of_two(Float n) {
    const Int exponent = _mm256_add_epi32(to_whole(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
  }
  static float sum(Float x) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static float largest(Float x) {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }

  static Int load_bits(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
  }
  static Int load_whole(const std::int32_t* from) { return load_bits(from); }
  static void store_whole(std::int32_t* to, Int x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), x);
  }
  static Float to_float(Int x) { return _mm256_cvtepi32_ps(x); }
  static Int high(Int x) {
    return _mm256_srai_epi32(_mm256_add_epi32(x, _mm256_set1_epi32(64)), 7);
  }
  static Int low(Int x, Int high) { return _mm256_sub_epi32(x, _mm256_slli_epi32(high, 7)); }
  static void store_bytes(std::uint8_t* to, const Int* parts, int offset) {
    const Int packed = _mm256_packs_epi32(parts[0], parts[1]);  // 0–3, 8–11, 4–7, 12–15
    const Int ordered = _mm256_permute4x64_epi64(packed, 0b11011000);
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(ordered),
                                          _mm256_extracti128_si256(ordered, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm_add_epi8(bytes, _mm_set1_epi8(static_cast<char>(offset))));
  }

  struct Inputs {
    Int first, second;  // four bytes, repeated
  };
  static Inputs inputs(const std::uint8_t* eight) {
    std::int32_t fours[2];
    std::memcpy(fours, eight, sizeof fours);
    return {_mm256_set1_epi32(fours[0]), _mm256_set1_epi32(fours[1])};
  }
  template <bool kBytesHaveOffset>
  static Int dot(Int sum, const Inputs& x, const std::int8_t* first, const std::int8_t* second) {
    const Int ones = _mm256_set1_epi16(1);
    if constexpr (kBytesHaveOffset) {
      const Int pairs = _mm256_add_epi16(_mm256_maddubs_epi16(x.first, load_bits(first)),
                                         _mm256_maddubs_epi16(x.second, load_bits(second)));
      return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
    } else {
      // |x| · (w with the sign of x): two of them are at most 2 · 128 · 127 < 2¹⁵.
      const auto pairs = [](Int bytes, const std::int8_t* weights) {
        return _mm256_maddubs_epi16(_mm256_abs_epi8(bytes),
                                    _mm256_sign_epi8(load_bits(weights), bytes));
      };
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs(x.first, first), ones));
      return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs(x.second, second), ones));
    }
  }
};

}  // namespace

const Kernel kAvx2 = kernel_of<Avx2>();

}  // namespace mpft::encoder
#endif
