// AVX2: 32 bytes at a time. Compiled with -mavx2, called only where the processor has it.
#include "cpu.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>

#include "simd.hpp"

namespace mpft::texture {
namespace {

struct Avx2 {
  using Bytes = __m256i;
  using Sums = __m256i;  // four of 64 bits
  static constexpr int kWidth = 32;

  static Bytes zero() { return _mm256_setzero_si256(); }
  static Sums no_sums() { return _mm256_setzero_si256(); }
  static Bytes load(const std::uint8_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }
  static Bytes load_first(const std::uint8_t* from, int count) {
    alignas(32) std::uint8_t bytes[kWidth] = {};
    std::memcpy(bytes, from, static_cast<std::size_t>(count));
    return load(bytes);
  }
  static Bytes both(Bytes a, Bytes b) { return _mm256_and_si256(a, b); }
  static Sums add_differences(Sums sums, Bytes a, Bytes b) {
    return _mm256_add_epi64(sums, _mm256_sad_epu8(a, b));
  }
  static void store(std::uint64_t* lanes, Sums sums) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sums);
  }
};

}  // namespace

void score_avx2(const std::uint8_t* image, std::int64_t row_stride, std::int64_t size, int patch,
                std::int32_t* scores) {
  score_simd<Avx2>(image, row_stride, size, patch, scores);
}

}  // namespace mpft::texture
#endif
