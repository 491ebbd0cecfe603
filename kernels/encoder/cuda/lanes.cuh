// What the device code of the encoder is made of. It gives the bits of ../oracle.py, for which it
// must be compiled without fused multiply-adds, with denormals, and with division and root rounded
// to the nearest.
#pragma once

#include <cmath>
#include <cstring>

#include "../../shared_memory.cuh"
#include "../arithmetic.hpp"

namespace mpft::encoder::cuda {

inline constexpr int kWarp = 32;
inline constexpr int kThreads = 128;  // of a block
inline constexpr int kWarps = kThreads / kWarp;
inline constexpr int kRows = kThreads / kLanes;  // of a block, a half-warp each
inline constexpr int kChunk = 32;                // inputs of one instruction
inline constexpr int kFours = kChunk / kFour;
inline constexpr int kTile = 8;       // tokens of one instruction

// A register of one number, for arithmetic.hpp.
struct One {
  using Float = float;
  using Int = std::int32_t;
  static constexpr int kParts = 1;

  static MPFT_ON_GPU Float all(float value) { return value; }
  static MPFT_ON_GPU Float larger(Float a, Float b) { return a > b ? a : b; }
  static MPFT_ON_GPU Float smaller(Float a, Float b) { return a < b ? a : b; }
  static MPFT_ON_GPU Float magnitude(Float x) { return fabsf(x); }
  static MPFT_ON_GPU Float with_sign(Float x, Float sign) { return copysignf(x, sign); }
  static MPFT_ON_GPU Float nearest(Float x) { return rintf(x); }
  static MPFT_ON_GPU Float power_of_two(Float n) {
    const Int bits = (static_cast<Int>(n) + 127) << 23;
    Float out;
    memcpy(&out, &bits, sizeof out);
    return out;
  }
};

// What a lane takes of weights or activations: four times four bytes.
struct alignas(16) Quad {
  std::uint32_t words[4];
};

struct alignas(16) Numbers {
  float part[4];
};

// Activations as integers: for each tile of tokens and chunk of inputs, and of each lane, two fours
// of low bytes, then two of high ones, which count 256 times.
struct Activations {
  Quad* quads;
  int chunks;
};

// Over a half-warp: the upper half of the lanes is added to the lower, until one is left.
__device__ inline float sum_lanes(float x) {
  for (int half = kLanes / 2; half > 0; half /= 2) x = x + __shfl_xor_sync(~0u, x, half);
  return x;
}

__device__ inline float largest_lane(float x) {
  for (int half = kLanes / 2; half > 0; half /= 2) {
    x = One::larger(x, __shfl_xor_sync(~0u, x, half));
  }
  return x;
}

__device__ inline int own_lane() { return threadIdx.x % kLanes; }
__device__ inline int own_row() { return blockIdx.x * kRows + threadIdx.x / kLanes; }

}  // namespace mpft::encoder::cuda
