// Products of bytes: the one tile loop of all versions.
//
// A tile is kTokens rows by one panel of outputs, whose 32-bit sums stay in registers while the
// inputs go by. What becomes of a finished tile is a function of the caller, by which scales,
// biases and what follows them are applied while the sums are at hand. The panels are the outer
// loop: one stays in the nearest cache until all tokens have passed.
//
// V::dot<kBytesHaveOffset> adds the products of kStep bytes of one token with those of a register
// of outputs. Whether bytes have a sign, or kOffset added, is the layer's (Matrix::offset): a
// version names the magnitude of weights up to which it can do with the offset, kOffsetLargest.
#pragma once

#include "lanes.hpp"

namespace mpft::encoder {

// Rows of bytes and what they are multiplied by.
struct Part {
  const std::uint8_t* rows;
  const Matrix* matrix;
};

template <class V, int kTokens, bool kBytesHaveOffset>
void tile(const std::uint8_t* rows, std::int64_t stride, const std::int8_t* panel,
          const std::int32_t* start, std::int64_t steps, std::int32_t* sums) {
  constexpr int kPart = kLanes / V::kParts;  // outputs of a register
  constexpr int kHalf = 4 * kLanes;          // bytes of a vector's first four inputs
  Whole<V> totals[kTokens][V::kVectors];
  for (int token = 0; token < kTokens; ++token) {
    for (int vector = 0; vector < V::kVectors; ++vector) {
      for (int part = 0; part < V::kParts; ++part) {
        totals[token][vector].part[part] = V::load_whole(start + vector * kLanes + part * kPart);
      }
    }
  }
  for (std::int64_t step = 0; step < steps; ++step) {
    for (int token = 0; token < kTokens; ++token) {
      const auto inputs = V::inputs(rows + token * stride + step * kStep);
      for (int vector = 0; vector < V::kVectors; ++vector) {
        for (int part = 0; part < V::kParts; ++part) {
          const std::int8_t* weights = panel + vector * 2 * kHalf + part * 4 * kPart;
          auto& total = totals[token][vector].part[part];
          total = V::template dot<kBytesHaveOffset>(total, inputs, weights, weights + kHalf);
        }
      }
    }
    panel += V::kVectors * 2 * kHalf;
  }
  for (int token = 0; token < kTokens; ++token) {
    for (int vector = 0; vector < V::kVectors; ++vector) {
      for (int part = 0; part < V::kParts; ++part) {
        V::store_whole(sums + (token * V::kVectors + vector) * kLanes + part * kPart,
                       totals[token][vector].part[part]);
      }
    }
  }
}

// A tile of as many tokens as there are, up to kTokens.
template <class V, int kTokens>
void tile_of(std::int64_t tokens, const std::uint8_t* rows, std::int64_t stride,
             const Matrix& matrix, std::int64_t column, std::int32_t* sums) {
  if constexpr (kTokens > 1) {
    if (tokens < kTokens) {
      return tile_of<V, kTokens - 1>(tokens, rows, stride, matrix, column, sums);
    }
  }
  const std::int8_t* panel = matrix.weights + column * matrix.inputs;
  const std::int32_t* start = matrix.start + column;
  const std::int64_t steps = matrix.inputs / kStep;
  if constexpr (V::kOffsetLargest < 0) {
    tile<V, kTokens, false>(rows, stride, panel, start, steps, sums);
  } else if constexpr (V::kOffsetLargest >= 127) {
    tile<V, kTokens, true>(rows, stride, panel, start, steps, sums);
  } else if (matrix.offset == 0) {
    tile<V, kTokens, false>(rows, stride, panel, start, steps, sums);
  } else {
    tile<V, kTokens, true>(rows, stride, panel, start, steps, sums);
  }
}

// Every row times the matrix of each part, which have the same shape. Calls
// finish(token, column, sums), sums being kLanes float32 of each part.
template <class V, int kCount, class Finish>
void multiply(const Part (&parts)[kCount], std::int64_t tokens, std::int64_t stride,
              Finish finish) {
  constexpr int kPanel = V::kVectors * kLanes;
  alignas(64) std::int32_t sums[kCount][V::kTokens * kPanel];
  for (std::int64_t column = 0; column < parts[0].matrix->outputs; column += kPanel) {
    for (std::int64_t token = 0; token < tokens; token += V::kTokens) {
      const std::int64_t left = tokens - token;
      const int here = left < V::kTokens ? static_cast<int>(left) : V::kTokens;
      for (int part = 0; part < kCount; ++part) {
        tile_of<V, V::kTokens>(here, parts[part].rows + token * stride, stride,
                               *parts[part].matrix, column, sums[part]);
      }
      for (int one = 0; one < here; ++one) {
        for (int lane = 0; lane < kPanel; lane += kLanes) {
          Lanes<V> found[kCount];
          for (int part = 0; part < kCount; ++part) {
            found[part] = to_float<V>(sums[part] + one * kPanel + lane);
          }
          finish(token + one, column + lane, found);
        }
      }
    }
  }
}

}  // namespace mpft::encoder
