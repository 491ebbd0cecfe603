// The score for any instruction set that can sum absolute differences of bytes.
//
// A row of the image is cut into strips, a strip into chunks of one vector, and a chunk is followed
// down the rows of its cells while the sums stay in a register. Sums are kept apart for every 8
// bytes (a lane). Where 8 divides the 3p bytes of a cell's row, lanes never straddle cells, so a
// strip is as many cells as fill whole vectors; elsewhere it is one cell, its last vector masked.
//
// Included by one source file per instruction set, which alone is compiled for it. Everything here
// is a template over a type of that file without linkage, so no code compiled for one instruction
// set can be linked in the place of another's.
#pragma once

#include <cstdint>
#include <cstring>

#include "rule.hpp"

namespace mpft::texture {

inline constexpr int kLane = 8;         // bytes
inline constexpr int kMaxWidth = 64;    // bytes of the widest vector
inline constexpr int kMaxStrip = 1536;  // bytes: 8 cells of the largest patch

// The bytes of a strip that take part: those `inside` the strip, and those that have a pixel to
// their right in the same cell.
struct StripMasks {
  alignas(kMaxWidth) std::uint8_t inside[kMaxStrip];
  alignas(kMaxWidth) std::uint8_t has_right[kMaxStrip];
};

// The bytes at `from + skip` under a mask. If kGuarded, reads none at `end` or after; they count as
// 0 then.
template <class V, bool kGuarded>
typename V::Bytes load_masked(const std::uint8_t* from, int skip, const std::uint8_t* end,
                              typename V::Bytes mask) {
  if constexpr (kGuarded) {
    const std::int64_t available = end - from - skip;
    if (available <= 0) return V::zero();
    if (available < V::kWidth) {
      return V::both(V::load_first(from + skip, static_cast<int>(available)), mask);
    }
  }
  return V::both(V::load(from + skip), mask);
}

// The sums of one chunk followed down `rows` rows from `here`.
template <class V, bool kGuarded>
typename V::Sums sum_chunk(const std::uint8_t* here, std::int64_t row_stride, int rows,
                           typename V::Bytes inside, typename V::Bytes has_right,
                           const std::uint8_t* end) {
  using Bytes = typename V::Bytes;
  Bytes above = load_masked<V, kGuarded>(here, 0, end, inside);
  Bytes above_left = V::both(above, has_right);
  Bytes above_right = load_masked<V, kGuarded>(here, kChannels, end, has_right);
  typename V::Sums sums = V::add_differences(V::no_sums(), above_left, above_right);
  for (int row = 1; row < rows; ++row) {
    here += row_stride;
    const Bytes below = load_masked<V, kGuarded>(here, 0, end, inside);
    const Bytes below_left = V::both(below, has_right);
    const Bytes below_right = load_masked<V, kGuarded>(here, kChannels, end, has_right);
    sums = V::add_differences(sums, below_left, below_right);   // horizontal
    sums = V::add_differences(sums, above, below);              // vertical
    sums = V::add_differences(sums, above_left, below_right);   // diagonal
    sums = V::add_differences(sums, above_right, below_left);   // anti-diagonal
    above = below;
    above_left = below_left;
    above_right = below_right;
  }
  return sums;
}

template <class V>
void score_simd(const std::uint8_t* image, std::int64_t row_stride, std::int64_t size, int patch,
                std::int32_t* scores) {
  const int cell_bytes = kChannels * patch;
  const bool whole_lanes = cell_bytes % kLane == 0;
  int strip_cells = 1;
  while (whole_lanes && strip_cells * cell_bytes % V::kWidth != 0) strip_cells *= 2;
  const int strip_bytes = strip_cells * cell_bytes;

  StripMasks masks;
  std::memset(masks.inside, 0xFF, strip_bytes);
  std::memset(masks.inside + strip_bytes, 0, V::kWidth);
  std::memcpy(masks.has_right, masks.inside, strip_bytes + V::kWidth);
  for (int cell_end = cell_bytes; cell_end <= strip_bytes; cell_end += cell_bytes) {
    std::memset(masks.has_right + cell_end - kChannels, 0, kChannels);
  }

  // What is read past the end of a row is masked, and may be read as long as more of the image
  // follows in memory: up to `end`.
  const std::int64_t row_bytes = size * kChannels;
  const std::uint8_t* end = image + (row_stride > 0 ? (size - 1) * row_stride : 0) + row_bytes;
  for (std::int64_t top = 0; top < size; top += patch) {
    const std::uint8_t* band = image + top * row_stride;
    const std::int64_t to_last_row = row_stride > 0 ? (patch - 1) * row_stride : 0;
    for (std::int64_t left = 0; left < row_bytes; left += strip_bytes) {
      const int bytes = static_cast<int>(
          row_bytes - left < strip_bytes ? row_bytes - left : std::int64_t{strip_bytes});
      alignas(kMaxWidth) std::uint64_t lanes[kMaxStrip / kLane];
      int lane_count = 0;
      for (int chunk = 0; chunk < bytes; chunk += V::kWidth) {
        const std::uint8_t* here = band + left + chunk;
        const auto inside = V::load(masks.inside + chunk);
        const auto has_right = V::load(masks.has_right + chunk);
        const bool guarded = end - here - to_last_row < V::kWidth + kChannels;
        const auto sums =
            guarded ? sum_chunk<V, true>(here, row_stride, patch, inside, has_right, end)
                    : sum_chunk<V, false>(here, row_stride, patch, inside, has_right, end);
        V::store(lanes + lane_count, sums);
        lane_count += V::kWidth / kLane;
      }
      const int lanes_per_cell = whole_lanes ? cell_bytes / kLane : lane_count;
      const std::uint64_t* lane = lanes;
      for (int cell = 0; cell < bytes / cell_bytes; ++cell) {
        std::uint64_t total = 0;
        for (int i = 0; i < lanes_per_cell; ++i) total += *lane++;
        *scores++ = static_cast<std::int32_t>(total);
      }
    }
  }
}

}  // namespace mpft::texture
