// What is computed in float32 on rows and on their elements; oracle.py has each under its name.
#pragma once

#include <cstring>

#include "lanes.hpp"

namespace mpft::encoder {

inline constexpr float kTiny = 0x1p-100f;
inline constexpr float kEpsilon = static_cast<float>(1e-5);

template <class V>
MPFT_ON_GPU Lanes<V> exponential(Lanes<V> x) {
  x = smaller(larger(x, all<V>(-87)), all<V>(87));
  const Lanes<V> n = nearest(x * all<V>(1.4426950408889634));
  const Lanes<V> r = (x - n * all<V>(0.693359375)) - n * all<V>(-2.12194440e-4);
  constexpr float factors[] = {1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 1.0 / 2, 1, 1};
  Lanes<V> series = all<V>(1.0 / 5040);
  for (const float factor : factors) series = series * r + all<V>(factor);
  return series * power_of_two(n);
}

template <class V>
MPFT_ON_GPU Lanes<V> quick_gelu(const Lanes<V>& x) {
  return x * (all<V>(1) / (all<V>(1) + exponential(all<V>(-1.702) * x)));
}

template <class V>
MPFT_ON_GPU Lanes<V> gelu(const Lanes<V>& x) {
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

template <class V>
float sum_of_products(const float* row, const float* other, std::int64_t count) {
  Lanes<V> lanes = all<V>(0);
  for (std::int64_t i = 0; i < count; i += kLanes) {
    lanes = lanes + load<V>(row + i) * load<V>(other + i);
  }
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

// The second bytes of kLanes activations from an input on, each four that has one, to the end of a
// row's list.
template <class V>
void find_high(const Whole<V>& whole, std::int64_t input, High* list, Highs& highs) {
  std::int8_t bytes[kLanes];
  V::store_high(bytes, whole.part);
  for (int i = 0; i < kLanes; i += kFour) {
    std::int32_t four;
    std::memcpy(&four, bytes + i, sizeof four);
    if (four == 0) continue;
    High& high = list[highs.count++];
    high.input = static_cast<std::int32_t>(input + i);
    std::memcpy(high.bytes, bytes + i, sizeof high.bytes);
    for (const std::int8_t byte : high.bytes) highs.sum += byte;
  }
}

// One row of as many numbers as a layer has inputs, as words, high and low bytes, or low bytes and
// such high ones as there are; returns its scale.
template <class V>
float quantise(const float* row, const Layer& layer, std::uint8_t* to, High* list, Highs& highs) {
  const std::int64_t count = layer.matrix.inputs;
  highs = {0, 0};
  Lanes<V> most = all<V>(0), lanes = all<V>(0);
  for (std::int64_t i = 0; i < count; i += kLanes) {
    const Lanes<V> magnitudes = magnitude(load<V>(row + i));
    most = larger(most, magnitudes);
    lanes = lanes + magnitudes;
  }
  const float bound = largest(most), all_but_outliers = sum(lanes) * layer.least;
  float scale = bound / layer.limit;
  if (scale < all_but_outliers) scale = all_but_outliers;
  const bool zero = bound < kTiny;
  const Lanes<V> inverse = all<V>(zero ? 0 : 1 / scale);
  for (std::int64_t i = 0; i < count; i += kLanes) {
    const Lanes<V> scaled = load<V>(row + i) * inverse;
    const Whole<V> whole = to_whole(scaled);
    if constexpr (V::kWideWords) {
      if (layer.matrix.words) {
        V::store_words(reinterpret_cast<std::int16_t*>(to) + i, whole.part);
        continue;
      }
    }
    if constexpr (V::kBytesLargest >= 0) {
      if (is_wide(layer)) {
        if constexpr (!V::kWideWords) {
          Whole<V> above;
          for (int part = 0; part < V::kParts; ++part) {
            above.part[part] = V::high(whole.part[part]);
          }
          V::store_bytes(to + i, above.part);
          V::store_bytes(to + count + i, whole.part);
        }
        continue;
      }
      V::store_bytes(to + i, whole.part);
      if (reaches(magnitude(scaled), 127.5f)) find_high(whole, i, list, highs);
    }
  }
  if (highs.count % 2 != 0) list[highs.count++] = High{};  // they are taken by twos
  return zero ? 0 : scale;
}

}  // namespace mpft::encoder
