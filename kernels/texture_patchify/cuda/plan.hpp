// From a call's arguments to what the kernels need: checks, sizes, alignment, schedule. Plain C++17.
#pragma once

#include "../rule.hpp"
#include "texture_patchify.h"

namespace mpft::texture::cuda {

inline constexpr int kScoreThreads = 256;
inline constexpr int kSelectThreads = 256;
inline constexpr int kDigits = 16;         // hexadecimal digits of a 64-bit key
inline constexpr int kCachedCells = 4096;  // scores held in shared memory up to here: 16 KB
inline constexpr int kMaxBlockSlots = 1024;
inline constexpr int kMinBlockSlots = 8;

// How the packing phase moves pixels: in loads of 1, 2 or 16 bytes.
enum class Packing : int { bytes, half_words, quad_words };

// What the kernels read; passed by value.
struct Problem {
  const std::uint8_t* frames;
  std::uint64_t row_pitch;
  std::uint64_t batch_stride;
  std::uint8_t* patches;
  std::int32_t* positions;
  std::int32_t* scores;
  std::uint64_t seed;
  std::uint64_t key_mask;  // the digits in which keys of one frame can differ
  int patch;
  int grid;   // cells a side
  int cells;  // grid²
  int count;  // K
  Keep keep;
  bool word_loads;  // every row starts and ends on a multiple of four bytes
  Packing packing;
  int blocks_per_frame;  // of the kernel that selects and packs
  int slots_per_block;
};

struct Plan {
  Problem problem;
  int batch;
};

// Shared memory of a block that selects: fixed scratch, then scores, then the kept cells.
struct Scratch {
  std::uint32_t histogram[kDigits][16];
  std::uint64_t digest;
  std::uint32_t warp_totals[2][32];
};

// Scores held in shared memory; 0 when there are too many, which are then read from device memory.
MPFT_HD constexpr int cached_cells(int cells) { return cells <= kCachedCells ? cells : 0; }

inline std::uint32_t selection_bytes(int cells, int slots) {
  return static_cast<std::uint32_t>(sizeof(Scratch) +
                                    sizeof(std::int32_t) * (cached_cells(cells) + slots));
}

// All ones in the hexadecimal digits that numbers up to `largest` use.
constexpr std::uint64_t digit_mask(std::uint64_t largest) {
  std::uint64_t mask = 0;
  while (largest > mask) mask = mask << 4 | 15;
  return mask;
}

// The digits in which two keys of a frame can differ (see `key` in rule.hpp).
constexpr std::uint64_t key_mask(Keep keep, int patch, int cells) {
  const std::uint64_t cell = digit_mask(static_cast<std::uint64_t>(cells - 1));
  if (keep == Keep::random) return ~std::uint64_t{0};
  if (keep == Keep::all) return cell;
  const std::uint64_t largest = std::uint64_t{255} * kPairs * kChannels * patch * patch;
  return digit_mask(largest) << 32 | cell;
}

constexpr int divide_up(int a, int b) { return (a + b - 1) / b; }

inline std::uintptr_t address(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer);
}

inline int check(const mpft_texture_patchify_args& args) {
  if (args.batch < 0) return MPFT_BAD_BATCH;
  if (args.patch < kMinPatch || args.patch > kMaxPatch) return MPFT_BAD_PATCH;
  if (args.size < args.patch || args.size % args.patch) return MPFT_BAD_SIZE;
  const std::int64_t grid = args.size / args.patch;
  if (grid * grid > MPFT_MAX_CELLS || grid * args.batch > INT32_MAX) return MPFT_TOO_LARGE;
  if (args.keep < static_cast<int>(Keep::smooth) || args.keep > static_cast<int>(Keep::all)) {
    return MPFT_BAD_KEEP;
  }
  if (args.count < 1 || args.count > grid * grid) return MPFT_BAD_COUNT;
  if (args.keep == static_cast<int>(Keep::all) && args.count != grid * grid) return MPFT_BAD_COUNT;
  const std::uint64_t row_bytes = std::uint64_t{kChannels} * args.size;
  if (args.row_pitch < row_bytes) return MPFT_BAD_PITCH;
  if (args.batch_stride < args.row_pitch * (args.size - 1) + row_bytes) return MPFT_BAD_PITCH;
  if (args.batch == 0) return MPFT_OK;
  if (!args.frames || !args.patches || !args.positions || !args.scores) return MPFT_NULL_POINTER;
  if ((address(args.positions) | address(args.scores)) % 4) return MPFT_BAD_ALIGNMENT;
  return MPFT_OK;
}

// Bytes are copied in the widest unit that the rows of a cell allow where they lie and where they go.
inline Packing choose_packing(const mpft_texture_patchify_args& args) {
  const auto source = address(args.frames) | args.row_pitch | args.batch_stride;
  const auto target = address(args.patches);
  const int row_bytes = kChannels * args.patch;
  if (row_bytes % 16 == 0 && (source | target) % 16 == 0) return Packing::quad_words;
  if (row_bytes % 2 == 0 && source % 2 == 0 && target % 4 == 0) return Packing::half_words;
  return Packing::bytes;
}

// Plan a call for a device with that many multiprocessors. Returns an mpft_status.
inline int make_plan(const mpft_texture_patchify_args& args, int multiprocessors, Plan& plan) {
  if (const int status = check(args)) return status;
  plan.batch = args.batch;
  const int grid = args.size / args.patch;
  const int cells = grid * grid;
  const auto keep = static_cast<Keep>(args.keep);
  // Enough blocks to fill the device twice; each selects for itself and packs its share of slots.
  const int wanted = divide_up(2 * multiprocessors, args.batch > 0 ? args.batch : 1);
  int slots = divide_up(args.count, wanted);
  slots = slots < kMinBlockSlots ? kMinBlockSlots : slots;
  slots = slots > kMaxBlockSlots ? kMaxBlockSlots : slots;
  const auto source = address(args.frames) | args.row_pitch | args.batch_stride;
  plan.problem = Problem{
      args.frames,    args.row_pitch,  args.batch_stride,
      args.patches,   args.positions,  args.scores,
      args.seed,      key_mask(keep, args.patch, cells),
      args.patch,     grid,            cells,
      args.count,     keep,
      (source | static_cast<std::uintptr_t>(kChannels * args.size)) % 4 == 0,
      choose_packing(args),
      divide_up(args.count, slots), slots,
  };
  const std::int64_t blocks = std::int64_t{plan.problem.blocks_per_frame} * args.batch;
  return blocks > INT32_MAX ? MPFT_TOO_LARGE : MPFT_OK;
}

}  // namespace mpft::texture::cuda
