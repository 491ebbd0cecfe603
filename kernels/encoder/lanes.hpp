// kLanes numbers of float32 on any processor.
//
// A version describes one register by a type V of a file without linkage, so that no code compiled
// for one instruction set can be linked in the place of another's. V has
//   Float, Int       a register of float32 and one of int32; + − × ÷ of Float are operators
//   kParts           registers that hold kLanes numbers
//   kBytesLargest, kWideWords, kOffset, kSumsGroups    see Kernel
//   choose           for multiply.hpp
// and the functions that are called here and in arithmetic.hpp.
#pragma once

#include <cfloat>
#include <cstdint>

#include "kernel.hpp"

// Before what also runs on a GPU.
#if defined(__CUDACC__)
#define MPFT_ON_GPU __host__ __device__
#else
#define MPFT_ON_GPU
#endif

static_assert(FLT_EVAL_METHOD == 0, "float32 must be computed as float32");

namespace mpft::encoder {

template <class V>
struct Lanes {
  typename V::Float part[V::kParts];
};

template <class V>
struct Whole {
  typename V::Int part[V::kParts];
};

template <class V>
Lanes<V> load(const float* from) {
  Lanes<V> out;
  for (int i = 0; i < V::kParts; ++i) out.part[i] = V::load(from + i * (kLanes / V::kParts));
  return out;
}

template <class V>
void store(float* to, const Lanes<V>& x) {
  for (int i = 0; i < V::kParts; ++i) V::store(to + i * (kLanes / V::kParts), x.part[i]);
}

template <class V>
MPFT_ON_GPU Lanes<V> all(float value) {
  Lanes<V> out;
  for (int i = 0; i < V::kParts; ++i) out.part[i] = V::all(value);
  return out;
}

// A function of registers, for each part.
template <class V, class Function, class... Arguments>
MPFT_ON_GPU Lanes<V> each(Function function, const Arguments&... arguments) {
  Lanes<V> out;
  for (int i = 0; i < V::kParts; ++i) out.part[i] = function(arguments.part[i]...);
  return out;
}

template <class V>
MPFT_ON_GPU Lanes<V> operator+(const Lanes<V>& a, const Lanes<V>& b) {
  return each<V>([](auto x, auto y) { return x + y; }, a, b);
}
template <class V>
MPFT_ON_GPU Lanes<V> operator-(const Lanes<V>& a, const Lanes<V>& b) {
  return each<V>([](auto x, auto y) { return x - y; }, a, b);
}
template <class V>
MPFT_ON_GPU Lanes<V> operator*(const Lanes<V>& a, const Lanes<V>& b) {
  return each<V>([](auto x, auto y) { return x * y; }, a, b);
}
template <class V>
MPFT_ON_GPU Lanes<V> operator/(const Lanes<V>& a, const Lanes<V>& b) {
  return each<V>([](auto x, auto y) { return x / y; }, a, b);
}

template <class V>
MPFT_ON_GPU Lanes<V> larger(const Lanes<V>& a, const Lanes<V>& b) {
  return each<V>(V::larger, a, b);
}
template <class V>
MPFT_ON_GPU Lanes<V> smaller(const Lanes<V>& a, const Lanes<V>& b) {
  return each<V>(V::smaller, a, b);
}
template <class V>
MPFT_ON_GPU Lanes<V> magnitude(const Lanes<V>& x) {
  return each<V>(V::magnitude, x);
}
template <class V>
MPFT_ON_GPU Lanes<V> with_sign(const Lanes<V>& x, const Lanes<V>& sign) {
  return each<V>(V::with_sign, x, sign);
}
template <class V>
Lanes<V> root(const Lanes<V>& x) {
  return each<V>(V::root, x);
}
// The nearest whole numbers, halves to even; of less than 2²². The sign of a zero is free.
template <class V>
MPFT_ON_GPU Lanes<V> nearest(const Lanes<V>& x) {
  return each<V>(V::nearest, x);
}
// 2^n, for whole numbers of −126 to 127.
template <class V>
MPFT_ON_GPU Lanes<V> power_of_two(const Lanes<V>& n) {
  return each<V>(V::power_of_two, n);
}

// The nearest whole numbers as int32.
template <class V>
Whole<V> to_whole(const Lanes<V>& x) {
  Whole<V> out;
  for (int i = 0; i < V::kParts; ++i) out.part[i] = V::to_whole(x.part[i]);
  return out;
}

// int32 as float32, to the nearest.
template <class V>
Lanes<V> to_float(const std::int32_t* from) {
  Lanes<V> out;
  for (int i = 0; i < V::kParts; ++i) {
    out.part[i] = V::to_float(V::load_whole(from + i * (kLanes / V::kParts)));
  }
  return out;
}

// The upper half is added to the lower, until one is left.
template <class V>
float sum(Lanes<V> x) {
  for (int half = V::kParts / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) x.part[i] = x.part[i] + x.part[i + half];
  }
  return V::sum(x.part[0]);
}

// Whether any number is at least `bound`.
template <class V>
bool reaches(const Lanes<V>& x, float bound) {
  bool any = false;
  for (int i = 0; i < V::kParts; ++i) any |= V::reaches(x.part[i], bound);
  return any;
}

template <class V>
float largest(Lanes<V> x) {
  for (int i = 1; i < V::kParts; ++i) x.part[0] = V::larger(x.part[0], x.part[i]);
  return V::largest(x.part[0]);
}

}  // namespace mpft::encoder
