// Products of integers: the one tile loop of all versions.
//
// A tile is some rows by one panel of outputs, or several, whose 32-bit sums stay in registers while
// the inputs go by. What becomes of a finished tile is a function of the caller, by which scales,
// biases and what follows them are applied while the sums are at hand. The panels are the outer
// loop: one stays in the nearest cache until all tokens have passed.
//
// A version says by V::choose how a panel's products are added up, by a type D:
//   kTokens, kPanels     of a tile
//   kInputs, kBytes      inputs of one step, and bytes of an input
//   Sums                 of one token
//   D(matrix, column)    at the beginning of a panel
//   start()              what sums begin with
//   next(sums)           of bytes: what they begin with when high ones are done and low ones follow
//   add_high(sums, high, highs)    of bytes: adds what the second bytes of a narrow row come to
//   add(sums, row, i)    adds the products of a row's inputs from i on, row pointing at them
//   store(to, sums)      writes them as int32 [kPanels · kLanes]
#pragma once

#include "lanes.hpp"

namespace mpft::encoder {

// Activations as integers: of each token words, or high bytes and then low ones, or low bytes with
// such high ones as there are.
struct Rows {
  const std::uint8_t* bytes;
  std::int64_t stride;  // bytes of a token
  bool two_bytes;
  const High* high;  // none where null
  std::int64_t high_stride;
  const Highs* highs;
};

// Into a cache that is larger than the nearest, which has the weights of now.
static inline void fetch(const std::int8_t* weights) {
#if defined(__GNUC__)
  __builtin_prefetch(weights, 0, 2);
#else
  (void)weights;
#endif
}

// Names a type in a call.
template <class D>
struct Of {
  using Type = D;
};

// Weights that come next: a tile fetches some of them at each of its steps, so that their way from
// memory is behind them when they are multiplied.
struct Ahead {
  const std::int8_t* weights;
  std::int64_t step;  // bytes that a tile's step makes of its way through them
};

template <class D, int kTokens>
void tile(const D& dot, const Rows& rows, std::int64_t first, std::int64_t inputs, Ahead ahead,
          std::int32_t* sums) {
  const std::uint8_t* bytes = rows.bytes + first * rows.stride;
  typename D::Sums totals[kTokens];
  for (auto& total : totals) total = dot.start();
  const int parts = rows.two_bytes ? 2 : 1;
  for (int part = 0; part < parts; ++part) {
    if constexpr (D::kBytes == 1) {
      if (part > 0) {
        for (auto& total : totals) total = dot.next(total);
      }
    }
    for (std::int64_t i = 0; i < inputs; i += D::kInputs) {
      if (part == 0) {
        fetch(ahead.weights);
        ahead.weights += ahead.step;
      }
#pragma GCC unroll 8  // or sums would not stay in registers
      for (int token = 0; token < kTokens; ++token) {
        dot.add(totals[token], bytes + part * inputs + token * rows.stride + i * D::kBytes, i);
      }
    }
  }
  for (int token = 0; token < kTokens; ++token) {
    if constexpr (D::kBytes == 1) {
      if (rows.high != nullptr) {
        const std::int64_t row = first + token;
        dot.add_high(totals[token], rows.high + row * rows.high_stride, rows.highs[row]);
      }
    }
    dot.store(sums + token * D::kPanels * kLanes, totals[token]);
  }
}

// A tile of as many tokens as there are, up to kTokens.
template <class D, int kTokens = D::kTokens>
void tile_of(std::int64_t tokens, const D& dot, const Rows& rows, std::int64_t first,
             std::int64_t inputs, Ahead ahead, std::int32_t* sums) {
  if constexpr (kTokens > 1) {
    if (tokens < kTokens) {
      return tile_of<D, kTokens - 1>(tokens, dot, rows, first, inputs, ahead, sums);
    }
  }
  tile<D, kTokens>(dot, rows, first, inputs, ahead, sums);
}

// Every row times a matrix. Calls finish(token, column, sums), sums being kLanes float32.
template <class V, class Finish>
void multiply(const Rows& rows, const Matrix& matrix, std::int64_t tokens, Finish finish) {
  if (tokens == 0) return;
  std::int64_t column = 0;
  const auto panel = [&](auto kind) {
    using D = typename decltype(kind)::Type;
    constexpr int kColumns = D::kPanels * kLanes;
    alignas(64) std::int32_t sums[D::kTokens * kColumns];
    const D dot(matrix, column);
    const std::int64_t after = column + kColumns < matrix.outputs ? column + kColumns : column;
    const std::int64_t tiles = (tokens + D::kTokens - 1) / D::kTokens;
    Ahead ahead{panel_of(matrix, after), (kColumns * D::kInputs + tiles - 1) / tiles};
    for (std::int64_t token = 0; token < tokens; token += D::kTokens) {
      const std::int64_t left = tokens - token, here = left < D::kTokens ? left : D::kTokens;
      tile_of<D>(here, dot, rows, token, matrix.inputs, ahead, sums);
      ahead.weights += matrix.inputs / D::kInputs * ahead.step;
      for (std::int64_t one = 0; one < here; ++one) {
        for (int lane = 0; lane < kColumns; lane += kLanes) {
          finish(token + one, column + lane, to_float<V>(sums + one * kColumns + lane));
        }
      }
    }
    column += kColumns;
  };
  while (column < matrix.outputs) V::choose(matrix, column, panel);
}

}  // namespace mpft::encoder
