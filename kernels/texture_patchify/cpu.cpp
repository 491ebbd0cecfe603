// Which versions run here, and the two steps that all of them share: select and pack.
#include "cpu.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

namespace mpft::texture {
namespace {

std::array<Version, kVersions> detect_versions() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
  return {{
      {"avx512", score_avx512, avx512 ? nullptr : "this processor has no AVX-512 BW"},
      {"avx2", score_avx2, avx2 ? nullptr : "this processor has no AVX2"},
      {"neon", nullptr, "needs an AArch64 processor; this build is for x86-64"},
      {"scalar", score_scalar, nullptr},
  }};
#elif defined(__aarch64__)
  constexpr auto other = "needs an x86-64 processor; this build is for AArch64";
  return {{
      {"avx512", nullptr, other},
      {"avx2", nullptr, other},
      {"neon", score_neon, nullptr},
      {"scalar", score_scalar, nullptr},
  }};
#else
  constexpr auto other = "needs a build for x86-64 or AArch64 by GCC or Clang";
  return {{
      {"avx512", nullptr, other},
      {"avx2", nullptr, other},
      {"neon", nullptr, other},
      {"scalar", score_scalar, nullptr},
  }};
#endif
}

// Positions of the K cells of smallest key, ascending. No sort: the K-th smallest key is a
// threshold, and cells are passed by it in their own order.
void select(const Options& options, const std::int32_t* scores, std::uint32_t cells,
            std::int32_t* positions) {
  std::uint64_t start = 0;
  if (options.keep == Keep::random) {
    std::uint64_t digest = 0;
    for (std::uint32_t cell = 0; cell < cells; ++cell) digest += digest_term(cell, scores[cell]);
    start = random_start(digest, options.seed);
  }
  thread_local std::vector<std::uint64_t> keys;
  keys.resize(cells);
  for (std::uint32_t cell = 0; cell < cells; ++cell) {
    keys[cell] = key(options.keep, cell, scores[cell], start);
  }
  const auto last = keys.begin() + (options.count - 1);
  std::nth_element(keys.begin(), last, keys.end());
  const std::uint64_t threshold = *last;
  for (std::uint32_t cell = 0; cell < cells; ++cell) {
    if (key(options.keep, cell, scores[cell], start) <= threshold) {
      *positions++ = static_cast<std::int32_t>(cell);
    }
  }
}

// Copies 12 bytes or more, which may not overlap. Calls to memcpy of a size unknown to the compiler
// would cost more than the few bytes that they move.
void copy_row(std::uint8_t* to, const std::uint8_t* from, std::size_t bytes) {
  constexpr std::size_t block = 16, half = 8;
  if (bytes < block) {
    std::memcpy(to, from, half);
    std::memcpy(to + bytes - half, from + bytes - half, half);
    return;
  }
  for (std::size_t i = 0; i + block < bytes; i += block) std::memcpy(to + i, from + i, block);
  std::memcpy(to + bytes - block, from + bytes - block, block);
}

void pack(const std::uint8_t* image, std::int64_t row_stride, std::int64_t grid,
          const Options& options, const std::int32_t* positions, std::uint8_t* patches) {
  const std::size_t bytes = static_cast<std::size_t>(kChannels * options.patch);
  for (std::int64_t kept = 0; kept < options.count; ++kept) {
    const std::int64_t row = positions[kept] / grid, column = positions[kept] % grid;
    const std::uint8_t* from =
        image + row * options.patch * row_stride + column * options.patch * kChannels;
    for (int i = 0; i < options.patch; ++i) {
      copy_row(patches, from, bytes);
      patches += bytes;
      from += row_stride;
    }
  }
}

}  // namespace

const std::array<Version, kVersions>& versions() {
  static const std::array<Version, kVersions> detected = detect_versions();
  return detected;
}

void run(const Version& version, const Frames& frames, const Options& options,
         const Output& output) {
  const std::int64_t grid = frames.size / options.patch, cells = grid * grid;
  const std::int64_t patch_bytes = std::int64_t{kChannels} * options.patch * options.patch;
  for (std::int64_t i = 0; i < frames.batch; ++i) {
    const std::uint8_t* image = frames.data + i * frames.batch_stride;
    std::int32_t* scores = output.scores + i * cells;
    std::int32_t* positions = output.positions + i * options.count;
    version.score(image, frames.row_stride, frames.size, options.patch, scores);
    select(options, scores, static_cast<std::uint32_t>(cells), positions);
    pack(image, frames.row_stride, grid, options, positions,
         output.patches + i * options.count * patch_bytes);
  }
}

}  // namespace mpft::texture
