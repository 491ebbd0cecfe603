// In the place of the compiler's: the functions of AVX-512 that the encoder uses, in plain C++, for
// processors with AVX2. What each does is taken from Intel's guide to intrinsics.
#pragma once
#pragma GCC system_header

#include_next <immintrin.h>

#include <cstdint>
#include <cstring>

namespace emulated {

typedef float Floats __attribute__((vector_size(64)));
typedef std::int32_t Ints __attribute__((vector_size(64)));

template <class T>
static T read(const void* from) {
  T out;
  std::memcpy(&out, from, sizeof out);
  return out;
}

template <class To, class From, class Function>
static To each(From from, Function function) {
  To to;
  for (int i = 0; i < 16; ++i) to[i] = function(from[i]);
  return to;
}

// The 256 bits from part · 256 on.
static __m256 part(Floats x, int part) {
  __m256 out;
  std::memcpy(&out, reinterpret_cast<const char*>(&x) + part * sizeof out, sizeof out);
  return out;
}

static __m128i low_bytes(Ints x) {
  std::int8_t out[16];
  for (int i = 0; i < 16; ++i) out[i] = static_cast<std::int8_t>(x[i]);
  return read<__m128i>(out);
}

static Ints filled(int byte) {
  Ints out;
  std::memset(&out, byte, sizeof out);
  return out;
}

static unsigned mask(Ints set) {
  unsigned out = 0;
  for (int i = 0; i < 16; ++i) out |= (set[i] < 0 ? 1U : 0U) << i;
  return out;
}

static Ints ternary(Ints a, Ints b, Ints c, int table) {
  Ints out = Ints{};
  for (int row = 0; row < 8; ++row) {
    if ((table >> row & 1) == 0) continue;
    out |= (row & 4 ? a : ~a) & (row & 2 ? b : ~b) & (row & 1 ? c : ~c);
  }
  return out;
}

static Ints dot(Ints sums, Ints unsigned_bytes, Ints signed_bytes) {
  std::uint8_t a[64];
  std::int8_t b[64];
  std::memcpy(a, &unsigned_bytes, 64);
  std::memcpy(b, &signed_bytes, 64);
  for (int i = 0; i < 64; ++i) {
    // Wraps around.
    sums[i / 4] = static_cast<std::int32_t>(static_cast<std::uint32_t>(sums[i / 4]) +
                                            static_cast<std::uint32_t>(a[i] * b[i]));
  }
  return sums;
}

}  // namespace emulated

#define __m512 emulated::Floats
#define __m512i emulated::Ints
#define _mm512_loadu_ps(from) emulated::read<emulated::Floats>(from)
#define _mm512_storeu_ps(to, x) std::memcpy(to, &(x), 64)
#define _mm512_loadu_si512(from) emulated::read<emulated::Ints>(from)
#define _mm512_storeu_si512(to, x) std::memcpy(to, &(x), 64)
#define _mm512_set1_ps(x) (emulated::Floats{} + (x))
#define _mm512_set1_epi32(x) (emulated::Ints{} + (x))
#define _mm512_set1_epi8(x) emulated::filled(x)
#define _mm512_xor_si512(a, b) ((a) ^ (b))
#define _mm512_cmp_ps_mask(a, b, how) emulated::mask((a) >= (b))  // _CMP_GE_OQ alone is asked for
#define _mm512_max_ps(a, b) ((a) > (b) ? (a) : (b))
#define _mm512_min_ps(a, b) ((a) < (b) ? (a) : (b))
#define _mm512_abs_ps(x) emulated::each<emulated::Floats>(x, __builtin_fabsf)
#define _mm512_sqrt_ps(x) emulated::each<emulated::Floats>(x, __builtin_sqrtf)
#define _mm512_roundscale_ps(x, mode) emulated::each<emulated::Floats>(x, __builtin_nearbyintf)
#define _mm512_cvtps_epi32(x) emulated::each<emulated::Ints>(x, __builtin_lrintf)
#define _mm512_cvtepi32_ps(x) __builtin_convertvector(x, emulated::Floats)
#define _mm512_castsi512_ps(x) reinterpret_cast<emulated::Floats>(x)
#define _mm512_castps_si512(x) reinterpret_cast<emulated::Ints>(x)
#define _mm512_castps_pd(x) (x)
#define _mm512_castps512_ps256(x) emulated::part(x, 0)
#define _mm512_extractf64x4_pd(x, index) _mm256_castps_pd(emulated::part(x, index))
#define _mm512_add_epi32(a, b) ((a) + (b))
#define _mm512_sub_epi32(a, b) ((a) - (b))
#define _mm512_slli_epi32(x, count) ((x) << (count))
#define _mm512_srai_epi32(x, count) ((x) >> (count))
#define _mm512_cvtepi32_epi8(x) emulated::low_bytes(x)
#define _mm512_ternarylogic_epi32(a, b, c, table) emulated::ternary(a, b, c, table)
#define _mm512_dpbusd_epi32(sums, a, b) emulated::dot(sums, a, b)
