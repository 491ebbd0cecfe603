// The plain version: one number to a register, as any processor has it.
#include <cmath>
#include <cstring>

#include "blocks.hpp"

namespace mpft::encoder {
namespace {

struct Scalar {
  using Float = float;
  using Int = std::int32_t;
  static constexpr int kParts = 16, kBytesLargest = -1, kOffset = 0;
  static constexpr bool kWideWords = true, kSumsGroups = false;

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
  static bool reaches(Float x, float bound) { return x >= bound; }

  static Int load_whole(const std::int32_t* from) { return *from; }
  static void store_whole(std::int32_t* to, Int x) { *to = x; }
  static Float to_float(Int x) { return static_cast<Float>(x); }
  static void store_words(std::int16_t* to, const Int* parts) {
    for (int i = 0; i < kParts; ++i) to[i] = static_cast<std::int16_t>(parts[i]);
  }

  template <class Function>
  static void choose(const Matrix&, std::int64_t, Function function);
};

struct Words {
  static constexpr int kTokens = 2, kPanels = 1, kInputs = kFour, kBytes = 2;
  struct Sums {
    std::int32_t part[kLanes];
  };
  const std::int8_t* panel;

  Words(const Matrix& matrix, std::int64_t column) : panel(panel_of(matrix, column)) {}

  Sums start() const { return {}; }
  void add(Sums& sums, const std::uint8_t* row, std::int64_t i) const {
    std::int16_t x[kFour];
    std::memcpy(x, row, sizeof x);
    const std::int8_t* weights = panel + i * kLanes;
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int one = 0; one < kFour; ++one) {
        sums.part[lane] += x[one] * weights[lane * kFour + one];
      }
    }
  }
  void store(std::int32_t* to, const Sums& sums) const {
    std::memcpy(to, sums.part, sizeof sums.part);
  }
};

template <class Function>
void Scalar::choose(const Matrix&, std::int64_t, Function function) {
  function(Of<Words>{});
}

}  // namespace

const Kernel kScalar = kernel_of<Scalar>();

}  // namespace mpft::encoder
