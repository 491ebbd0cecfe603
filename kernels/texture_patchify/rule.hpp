// The rule of texture_patchify, for hosts and for CUDA: what is compared, and which cells are kept.
// No dependencies. The NumPy oracle (oracle.py) is the contract; README.md explains the formula.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define MPFT_HD __host__ __device__
#else
#define MPFT_HD
#endif

namespace mpft::texture {

inline constexpr int kMinPatch = 4;   // pixels
inline constexpr int kMaxPatch = 64;  // pixels; 64² · 3 · 4 · 255 < 2³¹, so scores fit in int32
inline constexpr int kChannels = 3;   // RGB, interleaved

// Which cells are kept. The values are those that the Python side passes.
enum class Keep : int { smooth = 0, textured = 1, random = 2, all = 3 };

// Two pixels of a cell, as offsets from (row, column), whose absolute difference counts.
struct Pair {
  int row_a, column_a, row_b, column_b;
};

inline constexpr int kPairs = 4;

// The pairs: horizontal, vertical, diagonal, anti-diagonal. A pair counts at (row, column) if both
// of its pixels lie within the cell.
MPFT_HD constexpr Pair pair(int direction) {
  constexpr Pair pairs[kPairs] = {{0, 0, 0, 1}, {0, 0, 1, 0}, {0, 0, 1, 1}, {0, 1, 1, 0}};
  return pairs[direction];
}

// |a − b| of two bytes, in the form that compilers know as an absolute value.
MPFT_HD constexpr std::int32_t difference(std::uint8_t a, std::uint8_t b) {
  const std::int32_t signed_difference = a - b;
  return signed_difference < 0 ? -signed_difference : signed_difference;
}

// The finaliser of SplitMix64 (Steele, Lea, Flood 2014), with its increment. A bijection.
MPFT_HD constexpr std::uint64_t mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// A cell's share of the digest of an image; the digest is the sum over all its cells, modulo 2⁶⁴.
MPFT_HD constexpr std::uint64_t digest_term(std::uint32_t cell, std::int32_t score) {
  return mix(static_cast<std::uint64_t>(cell) << 32 | static_cast<std::uint32_t>(score));
}

// Where the `random` keys of an image start.
MPFT_HD constexpr std::uint64_t random_start(std::uint64_t digest, std::uint64_t seed) {
  return mix(digest ^ mix(seed));
}

// The key of a cell: an image keeps the K cells of smallest key, in ascending order of cell. Keys
// of one image are never equal: the low half holds the cell, which gives ties to the lower index,
// and `random` keys are a bijection of distinct numbers. `start` is used by `random` alone.
MPFT_HD constexpr std::uint64_t key(Keep keep, std::uint32_t cell, std::int32_t score,
                                    std::uint64_t start) {
  const auto texture = static_cast<std::uint32_t>(score);
  switch (keep) {
    case Keep::smooth:
      return static_cast<std::uint64_t>(texture) << 32 | cell;
    case Keep::textured:
      return static_cast<std::uint64_t>(~texture) << 32 | cell;
    case Keep::random:
      return mix(start + cell);
    default:
      return cell;
  }
}

}  // namespace mpft::texture
