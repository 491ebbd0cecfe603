// AVX-512 BW: 64 bytes at a time. Compiled with -mavx512bw, called only where the processor has it.
#include "cpu.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

#include "simd.hpp"

namespace mpft::texture {
namespace {

struct Avx512 {
  using Bytes = __m512i;
  using Sums = __m512i;  // eight of 64 bits
  static constexpr int kWidth = 64;

  static Bytes zero() { return _mm512_setzero_si512(); }
  static Sums no_sums() { return _mm512_setzero_si512(); }
  static Bytes load(const std::uint8_t* from) { return _mm512_loadu_si512(from); }
  // A masked load does not touch the bytes that it leaves out.
  static Bytes load_first(const std::uint8_t* from, int count) {
    return _mm512_maskz_loadu_epi8((__mmask64{1} << count) - 1, from);
  }
  static Bytes both(Bytes a, Bytes b) { return _mm512_and_si512(a, b); }
  static Sums add_differences(Sums sums, Bytes a, Bytes b) {
    return _mm512_add_epi64(sums, _mm512_sad_epu8(a, b));
  }
  static void store(std::uint64_t* lanes, Sums sums) { _mm512_store_si512(lanes, sums); }
};

}  // namespace

void score_avx512(const std::uint8_t* image, std::int64_t row_stride, std::int64_t size, int patch,
                  std::int32_t* scores) {
  score_simd<Avx512>(image, row_stride, size, patch, scores);
}

}  // namespace mpft::texture
#endif
