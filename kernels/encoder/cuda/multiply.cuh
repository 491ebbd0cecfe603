// Products of integers by tensor cores, and what becomes of them. Weights and activations lie in
// the order in which an instruction's lanes take them, so each is one load of 16 bytes.
#pragma once

#include "lanes.cuh"

namespace mpft::encoder::cuda {

inline constexpr int kWideTiles = 8;  // of a warp where there are many tokens, and where few
inline constexpr int kNarrowTiles = 4;
inline constexpr int kSumsRow = 36;  // of 32 outputs in shared memory, without bank conflicts

// sums[output, token] += weights[output, input] · activations[input, token]. Lane 4 g + t has of
// outputs g and g + 8 the fours t and t + 4 of inputs, of token g the same fours, and the sums of
// those outputs and tokens 2 t and 2 t + 1 (PTX ISA, fragments of mma.m16n8k32).
__device__ inline void multiply_add(std::int32_t (&sums)[4], const Quad& weights,
                                    std::uint32_t first, std::uint32_t second) {
#ifdef MPFT_CUDA_ON_HOST
  cuda_on_host::multiply_add(sums, weights.words, first, second);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  __trap();  // it has no such instruction; nobody asks it (cuda.py), but the library is built
#else
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
      : "r"(weights.words[0]), "r"(weights.words[1]), "r"(weights.words[2]),
        "r"(weights.words[3]), "r"(first), "r"(second));
#endif
}

// Once, where they lie: from the order of packing.py to that of lanes; a warp a chunk.
__global__ void arrange_weights(std::uint32_t* weights, std::int64_t chunks) {
  const std::int64_t chunk = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (chunk >= chunks) return;
  std::uint32_t* words = weights + chunk * (kFours * kLanes);
  const int lane = threadIdx.x % kWarp, four = lane % 4, output = lane / 4;
  Quad quad;
  for (int i = 0; i < 4; ++i) {
    quad.words[i] = words[(four + i / 2 * 4) * kLanes + output + i % 2 * 8];
  }
  __syncwarp();
  reinterpret_cast<Quad*>(words)[lane] = quad;
}

// What becomes of a product: of pixels of the first, second and last channel; of activations.
enum class Then { begin, go_on, embed, store, add, quick_gelu, gelu };

// A matrix of a product, and where its outputs go: to[token · by_token + output · by_output].
struct Part {
  const Quad* weights;
  const float *scale, *bias;
  float* to;
  std::int64_t by_token, by_output;
};

struct Product {
  Part parts[3];  // as many outputs each, of the same activations
  int count, outputs;
  Activations activations;
  const float* scales;  // of tokens
  int tokens;
  Then then;
  // Of pixels:
  const float* ratio;
  int cells;  // of a view, whose class token comes before them
  const std::int32_t* positions;
  const float* table;  // of positions, that of the class token first
};

// What a sum becomes, and where that goes; nowhere where there is no such token.
struct Finished {
  float* to;
  float value;
};

__device__ inline Finished finish(const Product& product, const Part& part, int token, int output,
                                  std::int32_t sum) {
  if (token >= product.tokens) return {nullptr, 0};
  float value = static_cast<float>(sum);
  std::int64_t row = token;
  if (product.then <= Then::embed) row += token / product.cells + 1;
  float* to = part.to + row * part.by_token + output * part.by_output;
  if (product.then <= Then::embed) {
    value = value * *product.ratio;
    if (product.then != Then::begin) value = *to + value;
    if (product.then == Then::embed) {
      const std::int64_t position = product.positions[token] + 1;
      value = value * part.scale[output] + part.bias[output];
      value = value + product.table[position * part.by_token + output];
    }
  } else {
    value = value * part.scale[output] * product.scales[token] + part.bias[output];
    if (product.then == Then::add) value = *to + value;
    if (product.then == Then::quick_gelu) value = quick_gelu(Lanes<One>{{value}}).part[0];
    if (product.then == Then::gelu) value = gelu(Lanes<One>{{value}}).part[0];
  }
  return {to, value};
}

// Shared memory of a block.
template <int kTiles>
constexpr std::int64_t kSumsBytes = std::int64_t{kWarps} * kTiles * kTile * kSumsRow * 4;

// A warp takes 32 outputs of kTiles tiles of tokens. The warps of a block have outputs of their
// own; or, if they share, all the same and a part of the inputs each, for few tokens: sums of
// integers are the same in any order.
template <int kTiles, bool kShare>
__global__ void __launch_bounds__(kThreads, kShare ? 3 : 2) multiply(const Product product) {
  constexpr int kPanels = 2;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int chunks = product.activations.chunks;
  const int of_part = product.outputs / (kPanels * kLanes), all = product.count * of_part;
  const int blocks = kShare ? all : (all + kWarps - 1) / kWarps;  // in which the outputs are
  const int block = blockIdx.x % blocks, tile = blockIdx.x / blocks * kTiles;
  const int pair = kShare ? block : block * kWarps + warp;
  if (pair >= all) return;
  const Part& part = product.parts[pair / of_part];
  const int panel = pair % of_part * kPanels;

  const Quad* weights = part.weights + std::int64_t{panel} * chunks * kWarp + lane;
  const Quad* tokens = product.activations.quads + std::int64_t{tile} * chunks * kWarp + lane;
  std::int32_t low[kPanels][kTiles][4] = {}, high[kPanels][kTiles][4] = {};
  const int end = kShare ? chunks * (warp + 1) / kWarps : chunks;
#pragma unroll 2
  for (int chunk = kShare ? chunks * warp / kWarps : 0; chunk < end; ++chunk) {
    Quad outputs[kPanels];
#pragma unroll
    for (int i = 0; i < kPanels; ++i) outputs[i] = weights[(i * chunks + chunk) * kWarp];
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      const Quad inputs = tokens[(j * chunks + chunk) * kWarp];
#pragma unroll
      for (int i = 0; i < kPanels; ++i) {
        multiply_add(low[i][j], outputs[i], inputs.words[0], inputs.words[1]);
        multiply_add(high[i][j], outputs[i], inputs.words[2], inputs.words[3]);
      }
    }
  }

  // Modulo 2³², in which the sums fit though parts of them need not.
  constexpr int kTokens = kTiles * kTile, kArea = kTokens * kSumsRow;
  auto* sums = reinterpret_cast<std::uint32_t*>(shared_memory());  // [warps, kTokens, kSumsRow]
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
#pragma unroll
    for (int i = 0; i < kPanels * 4; ++i) {
      const int k = i % 4, token = j * kTile + lane % 4 * 2 + k % 2;
      const int output = i / 4 * kLanes + lane / 4 + k / 2 * 8;
      sums[warp * kArea + token * kSumsRow + output] =
          static_cast<std::uint32_t>(low[i / 4][j][k]) +
          (static_cast<std::uint32_t>(high[i / 4][j][k]) << 8);
    }
  }
  if (kShare) {
    __syncthreads();
  } else {
    __syncwarp();
    sums += warp * kArea;
  }
  // Threads follow one another as their numbers do in memory. Some are read before any is written:
  // no compiler could tell that they are not the same.
  constexpr int kOutputs = kPanels * kLanes, kAtOnce = 4, kStep = kShare ? kThreads : kWarp;
  static_assert(kTokens * kOutputs % (kAtOnce * kStep) == 0, "whole rounds");
  const bool by_output = part.by_output == 1;
  for (int first = kShare ? threadIdx.x : lane; first < kTokens * kOutputs;
       first += kAtOnce * kStep) {
    Finished finished[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int item = first + i * kStep;
      const int token = by_output ? item / kOutputs : item % kTokens;
      const int output = by_output ? item % kOutputs : item / kTokens;
      std::uint32_t sum = 0;
#pragma unroll
      for (int other = 0; other < (kShare ? kWarps : 1); ++other) {
        sum += sums[other * kArea + token * kSumsRow + output];
      }
      finished[i] = finish(product, part, tile * kTile + token, panel * kLanes + output,
                           static_cast<std::int32_t>(sum));
    }
#pragma unroll
    for (const Finished& one : finished) {
      if (one.to != nullptr) *one.to = one.value;
    }
  }
}

}  // namespace mpft::encoder::cuda
