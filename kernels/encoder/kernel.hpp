// What encoder.cpp makes ready and a version computes with: plain pointers and sizes.
//
// Rows of numbers are padded to a multiple of kPadding with zeros, which stay zeros from layer to
// layer: the scales, biases and weights of what is padded are 0. Nothing here needs a mask.
#pragma once

#include <cstdint>

#include "encoder.hpp"
#include "pool.hpp"

namespace mpft::encoder {

inline constexpr int kLanes = 16;  // of a sum; LANES of oracle.py
inline constexpr int kFour = 4;    // inputs of one output that lie side by side
inline constexpr int kGroup = 32;  // inputs whose products kAvx2 adds up in 16 bits
inline constexpr int kPadding = 32;
inline constexpr int kChannels = 3;
inline constexpr int kQueries = 4;  // rows of attention at once
inline constexpr int kLimit = 127 * 256 + 127;  // of activations as integers; LIMIT of network.py
inline constexpr int kPixelZero = 128;  // taken from pixels where their bytes have a sign

static inline std::int64_t padded(std::int64_t count) {
  return (count + kPadding - 1) / kPadding * kPadding;
}

// Weights i8 [outputs, inputs] in the order in which they are read, the same for every version:
// panels of kLanes outputs; in a panel, fours of inputs; of a four, those of each output.
struct Matrix {
  const std::int8_t* weights;
  std::int64_t outputs, inputs;  // padded
  bool words;                    // whether activations are written as 16 bits, else as bytes
  const std::int32_t* start;     // [outputs]: what the sums begin with
  // Where a version adds up in 16 bits: what such sums begin with, [panels, groups, kLanes, 2], and
  // whether those of a panel fit.
  const std::int16_t* group_start;
  const bool* groups_fit;
};

// A member function would be a symbol that the linker may take from any file; see README.md.
static inline const std::int8_t* panel_of(const Matrix& matrix, std::int64_t column) {
  return matrix.weights + column * matrix.inputs;
}

struct Layer {
  Matrix matrix;
  const float *scale, *bias;
  float limit;  // of activations as integers
  float least;  // scale of a row, by the sum of its magnitudes; 0 where activations are wide
};

static inline bool is_wide(const Layer& layer) { return layer.least == 0; }

// Four activations of a narrow row of which one or more take a second byte, 256 times as much.
struct High {
  std::int32_t input;  // the first of the four
  std::int8_t bytes[kFour];
};

// Of a row: how many such fours there are, and the sum of all their second bytes.
struct Highs {
  std::int32_t count, sum;
};

struct Norm {
  const float *weight, *bias;
};

struct Block {
  Norm ln_1;
  Layer query, key, value, out;
  Norm ln_2;
  Layer fc, proj;
};

struct Model {
  Shape shape;
  std::int64_t width, hidden, area;  // padded
  Matrix patch[kChannels];
  const float* patch_ratio;  // [kChannels]
  const float *patch_scale, *patch_bias;
  const float* class_token;
  const float* positions;  // [1 + cells, width], that of the class token first
  Norm ln_pre;
  const Block* blocks;
  Norm ln_post;
  const float* projection;  // [embedding, width]; null where there is none
  const float* head;        // [taps, embedding or width]
  float head_bias;
};

// What one member of the pool writes to and no other reads, for as many tokens as it has.
struct Room {
  float* x;             // [tokens, width]
  float* query;         // [tokens, width]
  float* hidden;        // [tokens, the wider of width and hidden]
  float* scores;        // [kQueries, padded tokens of a view]
  float* scale;         // [tokens], of the rows in bytes
  std::uint8_t* bytes;  // [tokens, 2 · the widest of width, hidden and area]
  High* high;           // [tokens, a fourth of the wider of width and hidden]
  Highs* highs;         // [tokens]
};

// One call of Encoder::logits. Tokens of a view are dealt out to members, at least one to each that
// takes part; everything but attention is done for each token alone.
struct Work {
  const Model* model;
  const Room* rooms;  // one for each member
  Pool* pool;
  int members;                    // that have tokens
  // Used by turns: [width, padded tokens] and [tokens, width + kLanes]. The last head's components
  // are read as whole vectors; and rows that are a power of two apart would share a place in caches.
  float *keys[2], *values[2];
  const std::uint8_t* patches;    // [batch, count, area, kChannels], not padded
  const std::int32_t* positions;  // [batch, count]
  std::int64_t batch, count;
  float* out;
};

// A version.
struct Kernel {
  // Magnitude of weights up to which narrow activations are bytes, else words; whether wide ones
  // are words, else two bytes each.
  int bytes_largest;
  bool wide_words;
  int offset;        // of bytes: 128 where they have no sign, else 0
  bool sums_groups;  // needs Matrix::group_start
  void (*run)(const Work& work, int member);
};

extern const Kernel kScalar;
// Each exists where its instruction set can be compiled for.
extern const Kernel kAvx2, kAvx512Vnni, kNeon;

}  // namespace mpft::encoder
