// What encoder.cpp makes ready and a version computes with: plain pointers and sizes.
//
// Rows of numbers are padded to a multiple of kPadding with zeros, which stay zeros from layer to
// layer: the scales, biases and weights of what is padded are 0. Nothing here needs a mask.
#pragma once

#include <cstdint>

#include "encoder.hpp"
#include "pool.hpp"

namespace mpft::encoder {

inline constexpr int kLanes = 16;    // of a sum; LANES of oracle.py
inline constexpr int kStep = 8;      // inputs that a version multiplies at once
inline constexpr int kPadding = 32;  // a multiple of a version's kVectors · kLanes
inline constexpr int kChannels = 3;
inline constexpr int kQueries = 4;  // rows of attention at once

// The byte that stands for an activation of 0, where bytes have no sign.
inline constexpr int kOffset = 128;

static inline std::int64_t padded(std::int64_t count) {
  return (count + kPadding - 1) / kPadding * kPadding;
}

// Weights i8 [outputs, inputs] in the order in which they are read: panels of kVectors · kLanes
// outputs; in a panel, steps of kStep inputs; in a step, vectors of kLanes outputs; in a vector,
// twice four inputs of each output.
struct Matrix {
  const std::int8_t* weights;
  const std::int32_t* start;  // [outputs]: what the sums begin with, for bytes that stand for other
                              // numbers than their own
  std::int64_t outputs, inputs;  // padded
  int offset;                    // of the bytes of activations: 0 or kOffset
};

struct Layer {
  Matrix matrix;
  const float *scale, *bias;
  bool wide;
};

struct Norm {
  const float *weight, *bias;
};

struct Block {
  Norm ln_1;
  Layer query, key, value, out;
  Norm ln_2;
  Layer fc, proj;
  const float* shrink;
};

struct Model {
  Shape shape;
  std::int64_t width, hidden, area;  // padded
  Matrix patch[kChannels];
  const float* patch_ratio;  // [kChannels]
  const float *patch_scale, *patch_bias;
  const float* first;      // class token and its position
  const float* positions;  // [cells, width]
  Norm ln_pre;
  const Block* blocks;
  Norm ln_post;
  const float* head;  // [taps, width]
  float head_bias;
};

// What one member of the pool writes to and no other reads, for as many tokens as it has.
struct Room {
  float* x;             // [tokens, width]
  float* query;         // [tokens, width]
  float* hidden;        // [tokens, the wider of width and hidden]
  float* scores;        // [kQueries, padded tokens of a view]
  float* scale;         // [tokens], of the rows in high and low
  std::uint8_t* high;   // [tokens, the widest of width, hidden and kChannels · area]
  std::uint8_t* low;    // [tokens, the wider of width and hidden]
};

// One call of Encoder::logits. Tokens of a view are dealt out to members, at least one to each that
// takes part; everything but attention is done for each token alone.
struct Work {
  const Model* model;
  const Room* rooms;  // one for each member
  Pool* pool;
  int members;                    // that have tokens
  float *keys[2], *values[2];     // [width, padded tokens], [tokens, width]: used by turns
  const std::uint8_t* patches;    // [batch, count, area, kChannels], not padded
  const std::int32_t* positions;  // [batch, count]
  std::int64_t batch, count;
  float* out;
};

// A version.
struct Kernel {
  int vectors;         // kLanes outputs each, of a panel
  int offset_largest;  // magnitude of weights up to which activations are bytes without a sign
  void (*run)(const Work& work, int member);
};

extern const Kernel kScalar;
// Each exists where its instruction set can be compiled for.
extern const Kernel kAvx2, kAvx512Vnni, kNeon;

}  // namespace mpft::encoder
