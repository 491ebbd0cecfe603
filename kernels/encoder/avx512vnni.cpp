// AVX-512 with VNNI. Compiled with -mavx512vnni, called only where the processor has both.
#include "kernel.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>

#include "blocks.hpp"

namespace mpft::encoder {
namespace {

struct Avx512Vnni {
  using Float = __m512;
  using Int = __m512i;
  static constexpr int kParts = 1;
  static constexpr int kBytesLargest = 128, kOffset = 128;
  static constexpr bool kWideWords = false, kSumsGroups = false;

  static Float load(const float* from) { return _mm512_loadu_ps(from); }
  static void store(float* to, Float x) { _mm512_storeu_ps(to, x); }
  static Float all(float value) { return _mm512_set1_ps(value); }
  static Float larger(Float a, Float b) { return _mm512_max_ps(a, b); }
  static Float smaller(Float a, Float b) { return _mm512_min_ps(a, b); }
  static Float magnitude(Float x) { return _mm512_abs_ps(x); }
  static Float with_sign(Float x, Float sign) {
    // Where the mask is set the third, else the second: one table of three bits.
    const Int mask = _mm512_set1_epi32(0x7FFFFFFF);
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(mask, _mm512_castps_si512(sign),
                                                         _mm512_castps_si512(x), 0b10101100));
  }
  static Float root(Float x) { return _mm512_sqrt_ps(x); }
  static Float nearest(Float x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static Int to_whole(Float x) { return _mm512_cvtps_epi32(x); }
  static Float power_of_two(Float n) {
    const Int exponent = _mm512_add_epi32(to_whole(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
  }
  static float sum(Float x) {
    const __m256 eight = _mm256_add_ps(lower(x), upper(x));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static float largest(Float x) {
    const __m256 eight = _mm256_max_ps(lower(x), upper(x));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
  static bool reaches(Float x, float bound) {
    return _mm512_cmp_ps_mask(x, all(bound), _CMP_GE_OQ) != 0;
  }
  static __m256 lower(Float x) { return _mm512_castps512_ps256(x); }
  static __m256 upper(Float x) {
    return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1));
  }

  static Int load_whole(const std::int32_t* from) { return _mm512_loadu_si512(from); }
  static void store_whole(std::int32_t* to, Int x) { _mm512_storeu_si512(to, x); }
  static Float to_float(Int x) { return _mm512_cvtepi32_ps(x); }
  static Int high(Int x) {
    return _mm512_srai_epi32(_mm512_add_epi32(x, _mm512_set1_epi32(128)), 8);
  }
  static void store_high(std::int8_t* to, const Int* parts) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(high(parts[0])));
  }
  static void store_bytes(std::uint8_t* to, const Int* parts) {
    const Int moved = _mm512_add_epi32(parts[0], _mm512_set1_epi32(kOffset));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(moved));
  }

  template <class Function>
  static void choose(const Matrix&, std::int64_t, Function function);
};

struct Bytes {
  static constexpr int kTokens = 6, kPanels = 2, kInputs = kFour, kBytes = 1;
  struct Sums {
    __m512i part[kPanels];
  };
  const std::int8_t* panel[kPanels];
  const std::int32_t* begin;

  Bytes(const Matrix& matrix, std::int64_t column)
      : panel{panel_of(matrix, column), panel_of(matrix, column + kLanes)},
        begin(matrix.start + column) {}

  Sums start() const {
    return {_mm512_loadu_si512(begin), _mm512_loadu_si512(begin + kLanes)};
  }
  Sums next(const Sums& sums) const {
    Sums out = start();
    for (int i = 0; i < kPanels; ++i) {
      out.part[i] = _mm512_add_epi32(out.part[i], _mm512_slli_epi32(sums.part[i], 8));
    }
    return out;
  }
  void add(Sums& sums, const std::uint8_t* row, std::int64_t i) const {
    const __m512i x = four_of(row);
    for (int one = 0; one < kPanels; ++one) {
      __m512i& sum = sums.part[one];
      sum = _mm512_dpbusd_epi32(sum, x, _mm512_loadu_si512(panel[one] + i * kLanes));
    }
  }
  static __m512i four_of(const void* from) {
    std::int32_t four;
    std::memcpy(&four, from, sizeof four);
    return _mm512_set1_epi32(four);
  }
  // Second bytes have a sign. So here weights lose theirs, by 128 that is taken from the sums again.
  void add_high(Sums& sums, const High* high, Highs highs) const {
    const __m512i zero = _mm512_set1_epi32(0), moved = _mm512_set1_epi8(-128);
    __m512i above[kPanels] = {zero, zero};
    for (const High* end = high + highs.count; high < end; ++high) {
      const __m512i x = four_of(high->bytes);
      for (int one = 0; one < kPanels; ++one) {
        const __m512i weights = _mm512_loadu_si512(panel[one] + high->input * kLanes);
        above[one] = _mm512_dpbusd_epi32(above[one], _mm512_xor_si512(weights, moved), x);
      }
    }
    const __m512i too_much = _mm512_set1_epi32(128 * highs.sum);
    for (int one = 0; one < kPanels; ++one) {
      const __m512i sum = _mm512_sub_epi32(above[one], too_much);
      sums.part[one] = _mm512_add_epi32(sums.part[one], _mm512_slli_epi32(sum, 8));
    }
  }
  void store(std::int32_t* to, const Sums& sums) const {
    for (int i = 0; i < kPanels; ++i) _mm512_storeu_si512(to + i * kLanes, sums.part[i]);
  }
};

template <class Function>
void Avx512Vnni::choose(const Matrix&, std::int64_t, Function function) {
  function(Of<Bytes>{});
}

}  // namespace

const Kernel kAvx512Vnni = kernel_of<Avx512Vnni>();

}  // namespace mpft::encoder
#endif
