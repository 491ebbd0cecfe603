// The plain version: one number to a register, as any processor has it.
#include <cmath>
#include <cstring>

#include "blocks.hpp"

namespace mpft::encoder {
namespace {

struct Scalar {
  using Float = float;
  using Int = std::int32_t;
  static constexpr int kParts = 16, kTokens = 2, kVectors = 1, kOffsetLargest = -1;

  static Float load(const float* from) { return *from; }
  static void store(float* to, Float x) { *to = x; }
  static Float all(float value) { return value; }
  static Float larger(Float a, Float b) { return a > b ? a : b; }
  static Float smaller(Float a, Float b) { return a < b ? a : b; }
  static Float magnitude(Float x) { return std::fabs(x); }
  static Float with_sign(Float x, Float sign) { return std::copysign(x, sign); }
  static Float root(Float x) { return std::sqrt(x); }
  // Beside 1.5 · 2²³ there are no fractions, so the sum is rounded to a whole number.
  static Float nearest(Float x) { return (x + 12582912.0f) - 12582912.0f; }
  static Int to_whole(Float x) { return static_cast<Int>(nearest(x)); }
  static Float power_of_two(Float n) {
    const Int bits = (static_cast<Int>(n) + 127) << 23;
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
  }
  static Float sum(Float x) { return x; }
  static Float largest(Float x) { return x; }

  static Int load_whole(const std::int32_t* from) { return *from; }
  static void store_whole(std::int32_t* to, Int x) { *to = x; }
  static Float to_float(Int x) { return static_cast<Float>(x); }
  static Int high(Int x) { return (x + 64) >> 7; }
  static Int low(Int x, Int high) { return x - high * 128; }
  static void store_bytes(std::uint8_t* to, const Int* parts, int) {
    for (int i = 0; i < kParts; ++i) to[i] = static_cast<std::uint8_t>(parts[i]);
  }

  struct Inputs {
    Int values[kStep];
  };
  static Inputs inputs(const std::uint8_t* eight) {
    Inputs out;
    for (int i = 0; i < kStep; ++i) out.values[i] = static_cast<std::int8_t>(eight[i]);
    return out;
  }
  template <bool kBytesHaveOffset>
  static Int dot(Int sum, const Inputs& x, const std::int8_t* first, const std::int8_t* second) {
    for (int i = 0; i < 4; ++i) sum += x.values[i] * first[i] + x.values[4 + i] * second[i];
    return sum;
  }
};

}  // namespace

const Kernel kScalar = kernel_of<Scalar>();

}  // namespace mpft::encoder
