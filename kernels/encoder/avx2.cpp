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
  static constexpr int kParts = 2;
  // Two products of a byte and a weight fit into 16 bits: 2 · 255 · 64 < 2¹⁵.
  static constexpr int kBytesLargest = 64, kOffset = 128;
  static constexpr bool kWideWords = true, kSumsGroups = true;

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

  static bool reaches(Float x, float bound) {
    return _mm256_movemask_ps(_mm256_cmp_ps(x, all(bound), _CMP_GE_OQ)) != 0;
  }

  static Int load_bits(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
  }
  static Int load_whole(const std::int32_t* from) { return load_bits(from); }
  static void store_whole(std::int32_t* to, Int x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), x);
  }
  static Float to_float(Int x) { return _mm256_cvtepi32_ps(x); }
  static Int words(const Int* parts) {
    const Int packed = _mm256_packs_epi32(parts[0], parts[1]);  // 0–3, 8–11, 4–7, 12–15
    return _mm256_permute4x64_epi64(packed, 0b11011000);
  }
  static void store_words(std::int16_t* to, const Int* parts) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), words(parts));
  }
  static void store_high(std::int8_t* to, const Int* parts) {
    const Int high = _mm256_srai_epi16(_mm256_add_epi16(words(parts), _mm256_set1_epi16(128)), 8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm_packs_epi16(_mm256_castsi256_si128(high),
                                     _mm256_extracti128_si256(high, 1)));
  }
  static void store_bytes(std::uint8_t* to, const Int* parts) {
    const Int ordered = _mm256_and_si256(words(parts), _mm256_set1_epi16(255));
    const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(ordered),
                                           _mm256_extracti128_si256(ordered, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm_add_epi8(bytes, _mm_set1_epi8(static_cast<char>(kOffset))));
  }

  template <class Function>
  static void choose(const Matrix& matrix, std::int64_t column, Function function);
};

// Sums of 32 bits for the outputs of a panel.
struct Sums {
  __m256i part[2];
};

struct Bytes {
  static constexpr int kPanels = 1, kBytes = 1;
  using Sums = mpft::encoder::Sums;
  const std::int8_t* panel;
  const std::int32_t* begin;

  Bytes(const Matrix& matrix, std::int64_t column)
      : panel(panel_of(matrix, column)), begin(matrix.start + column) {}

  Sums start() const { return {Avx2::load_bits(begin), Avx2::load_bits(begin + kLanes / 2)}; }
  Sums next(const Sums& sums) const { return sums; }  // never: two bytes are words here
  void store(std::int32_t* to, const Sums& sums) const {
    Avx2::store_whole(to, sums.part[0]);
    Avx2::store_whole(to + kLanes / 2, sums.part[1]);
  }

  void add_high(Sums& sums, const High* high, Highs highs) const {
    const __m256i times_256 = _mm256_set1_epi16(256);
    for (const High* end = high + highs.count; high < end; high += 2) {
      for (int half = 0; half < 2; ++half) {
        const __m256i words =
            _mm256_add_epi16(high_pairs(high[0], half), high_pairs(high[1], half));
        __m256i& sum = sums.part[half];
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(words, times_256));
      }
    }
  }

  // |x| · (w with the sign of x): four of them are at most 4 · 127 · 64 < 2¹⁵.
  __m256i high_pairs(const High& high, int half) const {
    std::int32_t four;
    std::memcpy(&four, high.bytes, sizeof four);
    const __m256i x = _mm256_set1_epi32(four);
    const __m256i weights = Avx2::load_bits(panel + high.input * kLanes + half * 32);
    return _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(weights, x));
  }

  // Of half the outputs, the sums of two products each.
  static __m256i pairs(const std::uint8_t* four, const std::int8_t* weights) {
    std::int32_t x;
    std::memcpy(&x, four, sizeof x);
    return _mm256_maddubs_epi16(_mm256_set1_epi32(x), Avx2::load_bits(weights));
  }
  static void add_words(__m256i& sum, __m256i words) {
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(words, _mm256_set1_epi16(1)));
  }
};

// Any weights of at most kBytesLargest: each pair is widened.
struct Pairs : Bytes {
  static constexpr int kTokens = 4, kInputs = kFour;
  using Bytes::Bytes;

  void add(Sums& sums, const std::uint8_t* row, std::int64_t i) const {
    for (int half = 0; half < 2; ++half) {
      add_words(sums.part[half], pairs(row, panel + i * kLanes + half * 32));
    }
  }
};

// Sums of 16 products that fit into 16 bits once the offset is taken away: whatever overflows on the
// way comes back, since it is the same modulo 2¹⁶.
struct Groups : Bytes {
  static constexpr int kTokens = 4, kInputs = kGroup;
  const std::int16_t* group_start;

  Groups(const Matrix& matrix, std::int64_t column)
      : Bytes(matrix, column), group_start(matrix.group_start + column * matrix.inputs / 16) {}

  void add(Sums& sums, const std::uint8_t* row, std::int64_t i) const {
    const std::int16_t* from = group_start + i;
    __m256i first = Avx2::load_bits(from), second = Avx2::load_bits(from + kLanes);
    const std::int8_t* weights = panel + i * kLanes;
    // They are read again for each token: compilers would keep all of them, and have no registers.
    __asm__ volatile("" : "+r"(weights));
#pragma GCC unroll 8
    for (int four = 0; four < kGroup / kFour; ++four) {
      first = _mm256_add_epi16(first, pairs(row + four * kFour, weights + four * 64));
      second = _mm256_add_epi16(second, pairs(row + four * kFour, weights + four * 64 + 32));
    }
    add_words(sums.part[0], first);
    add_words(sums.part[1], second);
  }
};

// Activations of 16 bits, and any weights. Each output has two sums until the end.
struct Words {
  static constexpr int kTokens = 2, kPanels = 1, kInputs = kFour, kBytes = 2;
  struct Sums {
    __m256i part[4];
  };
  const std::int8_t* panel;

  Words(const Matrix& matrix, std::int64_t column) : panel(panel_of(matrix, column)) {}

  Sums start() const {
    const __m256i zero = _mm256_setzero_si256();
    return {zero, zero, zero, zero};
  }
  void add(Sums& sums, const std::uint8_t* row, std::int64_t i) const {
    std::int64_t four;
    std::memcpy(&four, row, sizeof four);
    const __m256i x = _mm256_set1_epi64x(four);
    for (int quarter = 0; quarter < 4; ++quarter) {
      const void* weights = panel + i * kLanes + quarter * 16;
      const __m256i wide =
          _mm256_cvtepi8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(weights)));
      sums.part[quarter] = _mm256_add_epi32(sums.part[quarter], _mm256_madd_epi16(x, wide));
    }
  }
  void store(std::int32_t* to, const Sums& sums) const {
    for (int half = 0; half < 2; ++half) {
      const __m256i added = _mm256_hadd_epi32(sums.part[2 * half], sums.part[2 * half + 1]);
      Avx2::store_whole(to + half * 8, _mm256_permute4x64_epi64(added, 0b11011000));
    }
  }
};

template <class Function>
void Avx2::choose(const Matrix& matrix, std::int64_t column, Function function) {
  if (matrix.words) return function(Of<Words>{});
  if (matrix.groups_fit[column / kLanes]) return function(Of<Groups>{});
  function(Of<Pairs>{});
}

}  // namespace

const Kernel kAvx2 = kernel_of<Avx2>();

}  // namespace mpft::encoder
#endif
