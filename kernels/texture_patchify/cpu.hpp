// texture_patchify on CPUs: score every cell, keep K, pack their pixels. See README.md.
#pragma once

#include <array>
#include <cstdint>

#include "rule.hpp"

namespace mpft::texture {

// A batch of square RGB images u8 [batch, size, size, 3], read in place. The pixels of a row are
// contiguous; the strides count bytes and may be negative.
struct Frames {
  const std::uint8_t* data;
  std::int64_t batch, size, batch_stride, row_stride;
};

struct Options {
  int patch;  // side of a cell, kMinPatch to kMaxPatch; divides Frames::size
  Keep keep;
  std::int64_t count;  // K, 1 to the number of cells N; N for Keep::all
  std::uint64_t seed;  // for Keep::random
};

// Where results go; contiguous.
struct Output {
  std::uint8_t* patches;    // [batch, K, 3 · patch²]: the rows of a cell, one after the other
  std::int32_t* positions;  // [batch, K], ascending
  std::int32_t* scores;     // [batch, N]
};

// Writes the texture of the N cells of one image. Reads no byte before the first pixel in memory
// nor after the last one.
using Score = void (*)(const std::uint8_t* image, std::int64_t row_stride, std::int64_t size,
                       int patch, std::int32_t* scores);

void score_scalar(const std::uint8_t*, std::int64_t, std::int64_t, int, std::int32_t*);
// Each exists where its instruction set can be compiled for.
void score_avx2(const std::uint8_t*, std::int64_t, std::int64_t, int, std::int32_t*);
void score_avx512(const std::uint8_t*, std::int64_t, std::int64_t, int, std::int32_t*);
void score_neon(const std::uint8_t*, std::int64_t, std::int64_t, int, std::int32_t*);

struct Version {
  const char* name;
  Score score;
  const char* why_not;  // null where this version runs; else the reason that it does not
};

inline constexpr int kVersions = 4;

// Every version, the fastest first, as this processor can run them.
const std::array<Version, kVersions>& versions();

// Applies the rule to each image. Allocates nothing, except that a thread which meets more cells
// than ever before lets its scratch grow.
void run(const Version& version, const Frames& frames, const Options& options,
         const Output& output);

}  // namespace mpft::texture
