// The device code of texture_patchify. The NumPy oracle (../oracle.py) is the contract.
//
// Three phases in two launches: score_bands scores cells, a block a row of them; select_and_pack
// selects the K smallest keys and packs the pixels of the kept cells, some blocks a view.
//
// Patch is a template argument where a call's p has a fast path, else 0.
#pragma once

#include "../../shared_memory.cuh"
#include "plan.hpp"

namespace mpft::texture::cuda {

// Four bytes of a row of a cell, and the four bytes one pixel to their right; 0 beyond the cell.
struct Columns {
  std::uint32_t words[2];
};

// One thread's column of a cell, four bytes wide and all rows high, read in aligned words that are
// shifted into place; rows lie a multiple of four bytes apart, so that all are shifted alike.
// No branch depends on the row: loads of many rows are under way at once. Only words that hold a
// byte of the cell are touched.
class ColumnReader {
 public:
  // `first` points at the column in the first row; `left` bytes of the cell remain from there on.
  __device__ ColumnReader(const std::uint8_t* first, int pitch, int left) : pitch_(pitch) {
    const int offset = static_cast<int>(reinterpret_cast<std::uintptr_t>(first) % 4);
    first_ = first - offset;
    shift_ = 8 * offset;
    has_middle_ = left + offset > 4;
    has_high_ = left + offset > 8;
  }

  __device__ Columns read(int row) const {
    const auto* words = reinterpret_cast<const std::uint32_t*>(first_ + row * pitch_);
    const std::uint32_t low = words[0];
    const std::uint32_t middle = has_middle_ ? words[1] : 0;
    const std::uint32_t high = has_high_ ? words[2] : 0;
    const std::uint32_t here = __funnelshift_r(low, middle, shift_);
    const std::uint32_t next = __funnelshift_r(middle, high, shift_);
    return {{here, __funnelshift_r(here, next, 8 * kChannels)}};
  }

 private:
  const std::uint8_t* first_;
  int pitch_;
  int shift_;
  bool has_middle_;
  bool has_high_;
};

// Ones in the low `bytes` bytes, for -3 and more.
__device__ inline std::uint32_t byte_mask(int bytes) {
  return bytes >= 4 ? ~0u : bytes <= 0 ? 0u : (1u << (8 * bytes)) - 1u;
}

// The pairs that begin in one row of a column: those within it, and those with the row below.
__device__ inline std::uint32_t pair_differences(const Columns (&rows)[2], bool below,
                                                 const std::uint32_t (&masks)[2]) {
  std::uint32_t total = 0;
#pragma unroll
  for (int direction = 0; direction < kPairs; ++direction) {
    const Pair ends = pair(direction);
    if (!below && (ends.row_a | ends.row_b)) continue;
    const std::uint32_t mask = masks[ends.column_a | ends.column_b];
    total += __vsadu4(rows[ends.row_a].words[ends.column_a] & mask,
                      rows[ends.row_b].words[ends.column_b] & mask);
  }
  return total;
}

// The share of a cell's texture that begins in four adjacent bytes of each of its rows.
template <int Patch>
__device__ std::int32_t column_texture(const Problem& problem, const std::uint8_t* cell, int word) {
  const int patch = Patch ? Patch : problem.patch;
  const int left = kChannels * patch - 4 * word;
  const ColumnReader reader(cell + 4 * word, problem.pitch, left);
  // A pair that reaches one pixel to the right exists for all but the last pixel of a row.
  const std::uint32_t masks[2] = {byte_mask(left), byte_mask(left - kChannels)};
  // Half of the rows are read before any is used: the loads, not the sums, take the time.
  constexpr int ahead = Patch ? (Patch + 1) / 2 : 4;
  std::uint32_t total = 0;
  Columns rows[2] = {reader.read(0), {}};
#pragma unroll(Patch ? 2 : 1)
  for (int first = 1; first < patch; first += ahead) {
    Columns next[ahead];
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      if (first + i < patch) next[i] = reader.read(first + i);
    }
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      if (first + i >= patch) continue;
      rows[1] = next[i];
      total += pair_differences(rows, true, masks);
      rows[0] = rows[1];
    }
  }
  return static_cast<std::int32_t>(total + pair_differences(rows, false, masks));
}

__device__ inline std::int32_t* scores_of(const Problem& problem, int view) {
  return problem.scores + static_cast<std::int64_t>(view) * problem.cells;
}

// The first byte of a cell.
template <int Patch>
__device__ const std::uint8_t* cell_of(const Problem& problem, int view, int cell) {
  const int patch = Patch ? Patch : problem.patch;
  const int row = cell / problem.grid * patch;
  const int column = cell % problem.grid * patch;
  return problem.views + (static_cast<std::int64_t>(view) * problem.size + row) * problem.pitch +
         kChannels * column;
}

// Phase 1: a block scores one row of cells of one view.
template <int Patch>
__global__ void __launch_bounds__(kThreads, 4) score_bands(const Problem problem) {
  const int view = blockIdx.x / problem.grid;
  const int first = blockIdx.x % problem.grid * problem.grid;
  auto* sums = reinterpret_cast<std::int32_t*>(shared_memory());
  for (int cell = threadIdx.x; cell < problem.grid; cell += blockDim.x) sums[cell] = 0;
  __syncthreads();
  const int words = (kChannels * (Patch ? Patch : problem.patch) + 3) / 4;
  for (int item = threadIdx.x; item < problem.grid * words; item += blockDim.x) {
    const int cell = item / words;
    const std::uint8_t* origin = cell_of<Patch>(problem, view, first + cell);
    atomicAdd(&sums[cell], column_texture<Patch>(problem, origin, item % words));
  }
  __syncthreads();
  std::int32_t* scores = scores_of(problem, view) + first;
  for (int cell = threadIdx.x; cell < problem.grid; cell += blockDim.x) scores[cell] = sums[cell];
}

// The start of a view's `random` keys: see rule.hpp. Needs a digest of 0; ends with a barrier.
__device__ inline std::uint64_t random_keys_start(const Problem& problem,
                                                  const std::int32_t* scores, Scratch& scratch) {
  std::uint64_t sum = 0;
  for (int cell = threadIdx.x; cell < problem.cells; cell += blockDim.x) {
    sum += digest_term(cell, scores[cell]);
  }
  for (int distance = 16; distance > 0; distance /= 2) {
    sum += __shfl_down_sync(~0u, sum, distance);
  }
  if (threadIdx.x % 32 == 0) {
    atomicAdd(reinterpret_cast<unsigned long long*>(&scratch.digest), sum);
  }
  __syncthreads();
  return random_start(scratch.digest, problem.seed);
}

// The K-th smallest key of a view, by radix selection over hexadecimal digits, highest first.
// Each digit has a histogram of its own, so that one barrier a digit is enough.
template <typename KeyOf>
__device__ std::uint64_t kth_key(const Problem& problem, KeyOf key_of, Scratch& scratch) {
  std::uint64_t prefix = 0;
  int rank = problem.count;  // among the keys that begin with the prefix, counted from 1
  for (int shift = 4 * (kDigits - 1); shift >= 0; shift -= 4) {
    prefix <<= 4;
    if ((problem.key_mask >> shift & 15) == 0) continue;
    std::uint32_t* histogram = scratch.histogram[shift / 4];
    for (int cell = threadIdx.x; cell < problem.cells; cell += blockDim.x) {
      const std::uint64_t head = key_of(cell) >> shift;
      if ((head & ~std::uint64_t{15}) == prefix) atomicAdd(&histogram[head & 15], 1u);
    }
    __syncthreads();
    int digit = 0;
    while (rank > static_cast<int>(histogram[digit])) rank -= histogram[digit++];
    prefix |= digit;
  }
  return prefix;
}

// Phase 2: find the kept cells of a view and their slots; write those of slots first … last − 1
// to `kept` (shared) and to the positions. Makes `scores` (shared) visible to the block, of whole
// warps, first. Ends with a barrier.
__device__ inline void select_cells(const Problem& problem, int view, const std::int32_t* scores,
                                    Scratch& scratch, int first, int last, std::int32_t* kept) {
  const int thread = threadIdx.x;
  const int threads = blockDim.x;
  for (int i = thread; i < kDigits * 16; i += threads) scratch.histogram[i / 16][i % 16] = 0;
  if (thread == 0) scratch.digest = 0;
  __syncthreads();
  const std::uint64_t start =
      problem.keep == Keep::random ? random_keys_start(problem, scores, scratch) : 0;
  const auto key_of = [&](int cell) {
    return key(problem.keep, cell, scores[cell], start) & problem.key_mask;
  };
  const std::uint64_t threshold = kth_key(problem, key_of, scratch);

  std::int32_t* positions = problem.positions + static_cast<std::int64_t>(view) * problem.count;
  int before = 0;  // kept cells in the tiles so far
  for (int base = 0, tile = 0; base < problem.cells; base += threads, ++tile) {
    const int cell = base + thread;
    const bool keep = cell < problem.cells && key_of(cell) <= threshold;
    const std::uint32_t votes = __ballot_sync(~0u, keep);
    // Two buffers in turn: a tile's totals are still read while the next tile's are written.
    std::uint32_t* totals = scratch.warp_totals[tile % 2];
    if (thread % 32 == 0) totals[thread / 32] = __popc(votes);
    __syncthreads();
    int slot = before + __popc(votes & ((1u << (thread % 32)) - 1u));
    for (int warp = 0; warp < threads / 32; ++warp) {
      if (warp < thread / 32) slot += totals[warp];
      before += totals[warp];
    }
    if (keep && slot >= first && slot < last) {
      kept[slot - first] = cell;
      positions[slot] = cell;
    }
  }
  __syncthreads();
}

// Four 32-bit words moved at once.
struct alignas(16) QuadWord {
  std::uint32_t words[4];
};

// A contiguous unit of a patch, gathered from rows of its cell in loads of type Load.
template <int Patch, typename Store, typename Load>
__device__ void copy_cells(const Problem& problem, int view, const std::int32_t* kept, int slots,
                           std::uint8_t* patches) {
  const int patch = Patch ? Patch : problem.patch;
  const int row_bytes = kChannels * patch;
  const int patch_bytes = row_bytes * patch;
  const int stores = patch_bytes / static_cast<int>(sizeof(Store));
  constexpr int loads = sizeof(Store) / sizeof(Load);
  for (int item = threadIdx.x; item < slots * stores; item += blockDim.x) {
    const std::uint8_t* cell = cell_of<Patch>(problem, view, kept[item / stores]);
    Store unit{};
#pragma unroll
    for (int part = 0; part < loads; ++part) {
      const int offset = (item % stores * loads + part) * static_cast<int>(sizeof(Load));
      const auto* source = reinterpret_cast<const Load*>(
          cell + offset / row_bytes * problem.pitch + offset % row_bytes);
      if constexpr (loads == 1) {
        unit = *source;
      } else {
        unit |= static_cast<Store>(*source) << (8 * sizeof(Load) * part);
      }
    }
    reinterpret_cast<Store*>(patches)[item] = unit;
  }
}

// Phase 3: copy the pixels of the kept cells of slots first … last − 1, in the widest unit that
// fits into rows of a cell: rows of a view, and arrays, begin at multiples of 16 bytes.
template <int Patch>
__device__ void pack_cells(const Problem& problem, int view, const std::int32_t* kept, int first,
                           int last) {
  const int patch = Patch ? Patch : problem.patch;
  const int slots = last - first;
  const std::int64_t slot = static_cast<std::int64_t>(view) * problem.count + first;
  std::uint8_t* bytes = problem.patches + slot * (kChannels * patch * patch);
  if (patch % 16 == 0) {
    copy_cells<Patch, QuadWord, QuadWord>(problem, view, kept, slots, bytes);
  } else if (patch % 2 == 0) {
    copy_cells<Patch, std::uint32_t, std::uint16_t>(problem, view, kept, slots, bytes);
  } else {
    copy_cells<Patch, std::uint8_t, std::uint8_t>(problem, view, kept, slots, bytes);
  }
}

// A block selects the kept cells of one view and packs its share of them.
template <int Patch>
__global__ void __launch_bounds__(kThreads, 4) select_and_pack(const Problem problem) {
  const int view = blockIdx.x / problem.blocks_per_view;
  const int first = blockIdx.x % problem.blocks_per_view * problem.slots_per_block;
  const int last = min(first + problem.slots_per_block, problem.count);
  auto& scratch = *reinterpret_cast<Scratch*>(shared_memory());
  auto* scores = reinterpret_cast<std::int32_t*>(&scratch + 1);
  std::int32_t* kept = scores + problem.cells;
  const std::int32_t* source = scores_of(problem, view);
  for (int cell = threadIdx.x; cell < problem.cells; cell += blockDim.x) scores[cell] = source[cell];
  select_cells(problem, view, scores, scratch, first, last, kept);
  pack_cells<Patch>(problem, view, kept, first, last);
}

// Means of 4 × 4 pixels of views, a channel each: what tells texture from noise. A thread a mean.
struct Means {
  const std::uint8_t* views;  // u8 [batch, size, size, 3]
  std::uint8_t* means;        // u8 [batch, side, side, 3]
  int size;
  int side;
  int total;
};

__global__ void __launch_bounds__(kThreads, 1) mean_pixels(const Means problem) {
  const int item = blockIdx.x * blockDim.x + threadIdx.x;
  if (item >= problem.total) return;
  const int channel = item % kChannels;
  const int column = item / kChannels % problem.side;
  const int row = item / (kChannels * problem.side) % problem.side;
  const std::int64_t view = item / (kChannels * problem.side * problem.side);
  const int pitch = pitch_of(problem.size);
  const std::uint8_t* first = problem.views + (view * problem.size + 4 * row) * pitch +
                              4 * column * kChannels + channel;
  int sum = 8;  // rounds to the nearest, halves up
  for (int pixel = 0; pixel < 16; ++pixel) sum += first[pixel / 4 * pitch + pixel % 4 * kChannels];
  problem.means[(view * problem.side + row) * pitch_of(problem.side) + column * kChannels +
                channel] = static_cast<std::uint8_t>(sum / 16);
}

}  // namespace mpft::texture::cuda
