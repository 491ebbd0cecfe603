// What is computed in float32 on rows and on their elements; oracle.py has each under its name.
#pragma once

#include <cstring>

#include "lanes.hpp"

namespace mpft::encoder {

inline constexpr float kTiny = 0x1p-100f;
inline constexpr float kEpsilon = static_cast<float>(1e-5);
inline constexpr float kNarrow = 127, kWide = 16256;

template <class V>
Lanes<V> exponential(Lanes<V> x) {
  x = smaller(larger(x, all<V>(-87)), all<V>(87));
  const Lanes<V> n = nearest(x * all<V>(1.4426950408889634));
  const Lanes<V> r = (x - n * all<V>(0.693359375)) - n * all<V>(-2.12194440e-4);
  constexpr float factors[] = {1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 1.0 / 2, 1, 1};
  Lanes<V> series = all<V>(1.0 / 5040);
  for (const float factor : factors) series = series * r + all<V>(factor);
  return series * power_of_two(n);
}

template <class V>
Lanes<V> quick_gelu(const Lanes<V>& x) {
  return x * (all<V>(1) / (all<V>(1) + exponential(all<V>(-1.702) * x)));
}

template <class V>
Lanes<V> gelu(const Lanes<V>& x) {
  const Lanes<V> z = magnitude(x) * all<V>(0.70710678);
  const Lanes<V> t = all<V>(1) / (all<V>(1) + all<V>(0.3275911) * z);
  constexpr float factors[] = {1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592};
  Lanes<V> series = all<V>(0);
  for (const float factor : factors) series = (series + all<V>(factor)) * t;
  const Lanes<V> power = exponential(all<V>(0) - z * z);
  const Lanes<V> erf = with_sign(all<V>(1) - series * power, x);
  return x * all<V>(0.5) * (all<V>(1) + erf);
}

// Rows that are summed are padded with zeros, which change no sum: a lane begins with 0, so it is
// never −0.
template <class V>
float tree_sum(const float* row, std::int64_t count) {
  Lanes<V> lanes = all<V>(0);
  for (std::int64_t i = 0; i < count; i += kLanes) lanes = lanes + load<V>(row + i);
  return sum(lanes);
}

// One row, to a row of its own or in place.
template <class V>
void layer_norm(const float* row, const Norm& norm, std::int64_t width, float* to) {
  const float count = static_cast<float>(width);
  const Lanes<V> mean = all<V>(tree_sum<V>(row, padded(width)) / count);
  for (std::int64_t i = 0; i < width; i += kLanes) store(to + i, load<V>(row + i) - mean);
  for (std::int64_t i = width; i < padded(width); ++i) to[i] = 0;
  Lanes<V> squares = all<V>(0);
  for (std::int64_t i = 0; i < width; i += kLanes) {
    const Lanes<V> apart = load<V>(to + i);
    squares = squares + apart * apart;
  }
  const Lanes<V> variance = all<V>(sum(squares) / count);
  const Lanes<V> inverse = all<V>(1) / root(variance + all<V>(kEpsilon));
  for (std::int64_t i = 0; i < width; i += kLanes) {
    store(to + i, load<V>(to + i) * inverse * load<V>(norm.weight + i) + load<V>(norm.bias + i));
  }
}

// One row of `count` numbers, padded, as bytes; returns its scale.
template <class V>
float quantise(const float* row, std::int64_t count, bool wide, int offset, std::uint8_t* high,
               std::uint8_t* low) {
  Lanes<V> most = all<V>(0);
  for (std::int64_t i = 0; i < count; i += kLanes) most = larger(most, magnitude(load<V>(row + i)));
  const float bound = largest(most);
  if (bound < kTiny) {
    std::memset(high, offset, static_cast<std::size_t>(count));
    if (wide) std::memset(low, offset, static_cast<std::size_t>(count));
    return 0;
  }
  const float limit = wide ? kWide : kNarrow;
  const Lanes<V> inverse = all<V>(limit / bound);
  for (std::int64_t i = 0; i < count; i += kLanes) {
    Whole<V> whole = to_whole(load<V>(row + i) * inverse);
    if (wide) {
      Whole<V> rest;
      for (int part = 0; part < V::kParts; ++part) {
        const auto above = V::high(whole.part[part]);
        rest.part[part] = V::low(whole.part[part], above);
        whole.part[part] = above;
      }
      V::store_bytes(low + i, rest.part, offset);
    }
    V::store_bytes(high + i, whole.part, offset);
  }
  return bound / limit;
}

}  // namespace mpft::encoder
