// From a call's arguments to what the kernels need: checks, sizes, schedule. Plain C++17.
#pragma once

#include <algorithm>

#include "../rule.hpp"

namespace mpft::texture::cuda {

inline constexpr int kThreads = 256;      // of a block
inline constexpr int kDigits = 16;        // hexadecimal digits of a 64-bit key
inline constexpr int kMaxCells = 4096;    // of a view, whose scores lie in shared memory: 16 KB
inline constexpr int kMaxBlockSlots = 1024;
inline constexpr int kMinBlockSlots = 8;
inline constexpr int kAlignment = 16;     // bytes, of every array and of every row of a view

// What the kernels read; passed by value.
struct Problem {
  const std::uint8_t* views;
  std::uint8_t* patches;
  std::int32_t* positions;
  std::int32_t* scores;
  std::uint64_t seed;
  int batch;
  int size;   // side of a view, in pixels
  int patch;  // side of a cell
  int count;  // K
  Keep keep;
  // What follows from these.
  int pitch;  // bytes from a row of a view to the next
  int grid;   // cells a side
  int cells;  // grid²
  int blocks_per_view;  // of the kernel that selects and packs
  int slots_per_block;
  std::uint64_t key_mask;  // the digits in which keys of one view can differ
};

// Shared memory of a block that selects: fixed scratch, then scores, then the kept cells.
struct Scratch {
  std::uint32_t histogram[kDigits][16];
  std::uint64_t digest;
  std::uint32_t warp_totals[2][kThreads / 32];
};

inline std::uint32_t selection_bytes(const Problem& problem) {
  return static_cast<std::uint32_t>(
      sizeof(Scratch) + sizeof(std::int32_t) * (problem.cells + problem.slots_per_block));
}

// All ones in the hexadecimal digits that numbers up to `largest` use.
constexpr std::uint64_t digit_mask(std::uint64_t largest) {
  std::uint64_t mask = 0;
  while (largest > mask) mask = mask << 4 | 15;
  return mask;
}

// The digits in which two keys of a view can differ (see `key` in rule.hpp).
constexpr std::uint64_t key_mask(Keep keep, int patch, int cells) {
  const std::uint64_t cell = digit_mask(static_cast<std::uint64_t>(cells - 1));
  if (keep == Keep::random) return ~std::uint64_t{0};
  if (keep == Keep::all) return cell;
  const std::uint64_t largest = std::uint64_t{255} * kPairs * kChannels * patch * patch;
  return digit_mask(largest) << 32 | cell;
}

MPFT_HD constexpr int divide_up(int a, int b) { return (a + b - 1) / b; }

// Bytes from a row of a view, or of its means, to the next.
MPFT_HD constexpr int pitch_of(int size) {
  return divide_up(kChannels * size, kAlignment) * kAlignment;
}

template <class... Pointers>
bool aligned(Pointers... pointers) {
  return (... && (pointers && reinterpret_cast<std::uintptr_t>(pointers) % kAlignment == 0));
}

// Whether what a call gives goes together.
inline bool valid(const Problem& problem) {
  if (problem.patch < kMinPatch || problem.patch > kMaxPatch) return false;
  if (problem.size < problem.patch || problem.size % problem.patch) return false;
  const std::int64_t grid = problem.size / problem.patch, cells = grid * grid;
  if (cells > kMaxCells || problem.batch < 0 || cells * problem.batch > INT32_MAX) return false;
  if (problem.keep < Keep::smooth || problem.keep > Keep::all) return false;
  if (problem.count < 1 || problem.count > cells) return false;
  if (problem.keep == Keep::all && problem.count != cells) return false;
  return problem.batch == 0 ||
         aligned(problem.views, problem.patches, problem.positions, problem.scores);
}

// Fill in what follows from a valid call, for a device with that many multiprocessors.
inline void complete(Problem& problem, int multiprocessors) {
  problem.pitch = pitch_of(problem.size);
  problem.grid = problem.size / problem.patch;
  problem.cells = problem.grid * problem.grid;
  problem.key_mask = key_mask(problem.keep, problem.patch, problem.cells);
  // Enough blocks to fill the device twice; each selects for itself and packs its share of slots.
  const int wanted = divide_up(2 * multiprocessors, problem.batch > 0 ? problem.batch : 1);
  const int slots = divide_up(problem.count, wanted);
  problem.slots_per_block = std::clamp(slots, kMinBlockSlots, kMaxBlockSlots);
  problem.blocks_per_view = divide_up(problem.count, problem.slots_per_block);
}

}  // namespace mpft::texture::cuda
