// Attention, in float32.
#pragma once

#include "lanes.cuh"

namespace mpft::encoder::cuda {

inline constexpr int kTogether = 8;  // queries of a block

// Of every head: what the first `queries` tokens of each view read of all its tokens.
struct Attention {
  const float *query, *key, *value;  // key is [width, key_row], the others [tokens, width]
  float* out;                        // [views · queries, width]
  std::int64_t key_row, width;
  int queries, tokens, heads, size;
};

// Bytes of shared memory.
inline std::int64_t attention_bytes(int size, int tokens) {
  return (std::int64_t{size} + tokens + 1) * kTogether * sizeof(float);
}

// A block takes some queries of one head. Sums run from the first component or token to the last.
__global__ void __launch_bounds__(kThreads, 4) attend(const Attention attention) {
  static_assert(kRows == kTogether, "a half-warp for each query's powers");
  constexpr int kParts = kTogether / 4;
  const int size = attention.size, tokens = attention.tokens, queries = attention.queries;
  const std::int64_t width = attention.width;
  const int groups = (queries + kTogether - 1) / kTogether;
  const int first = blockIdx.x % groups * kTogether, head = blockIdx.x / groups % attention.heads;
  const std::int64_t view = blockIdx.x / groups / attention.heads;
  auto* query = reinterpret_cast<float*>(shared_memory());  // [size, kTogether]
  float* weights = query + size * kTogether;                // [tokens, kTogether]
  float* inverse = weights + tokens * kTogether;            // [kTogether]
  const auto* query_parts = reinterpret_cast<const Numbers*>(query);
  auto* weight_parts = reinterpret_cast<Numbers*>(weights);

  const float* queries_from = attention.query + (view * tokens + first) * width + head * size;
  for (int i = threadIdx.x; i < size * kTogether; i += kThreads) {
    const int one = i % kTogether;
    query[i] = first + one < queries ? queries_from[one * width + i / kTogether] : 0;
  }
  __syncthreads();
  for (int token = threadIdx.x; token < tokens; token += kThreads) {
    const float* key = attention.key + head * size * attention.key_row + view * tokens + token;
    Numbers scores[kParts] = {};
#pragma unroll 8
    for (int component = 0; component < size; ++component) {
      const float factor = key[component * attention.key_row];
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const Numbers factors = query_parts[component * kParts + part];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          scores[part].part[i] = scores[part].part[i] + factors.part[i] * factor;
        }
      }
    }
    for (int part = 0; part < kParts; ++part) weight_parts[token * kParts + part] = scores[part];
  }
  __syncthreads();
  float* own = weights + threadIdx.x / kLanes;  // of one query
  float most = own[0], sum = 0;
  for (int token = own_lane(); token < tokens; token += kLanes) {
    most = One::larger(most, own[token * kTogether]);
  }
  most = largest_lane(most);
  for (int token = own_lane(); token < tokens; token += kLanes) {
    float& weight = own[token * kTogether];
    weight = exponential(Lanes<One>{{weight - most}}).part[0];
    sum = sum + weight;
  }
  sum = sum_lanes(sum);
  if (own_lane() == 0) inverse[threadIdx.x / kLanes] = 1 / sum;
  __syncthreads();
  for (int item = threadIdx.x; item < size * kParts; item += kThreads) {
    const int component = item % size, part = item / size;
    const float* value = attention.value + view * tokens * width + head * size + component;
    Numbers read{};
#pragma unroll 8
    for (int token = 0; token < tokens; ++token) {
      const Numbers factors = weight_parts[token * kParts + part];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        read.part[i] = read.part[i] + factors.part[i] * value[token * width];
      }
    }
    for (int i = 0; i < 4; ++i) {
      const int one = part * 4 + i;
      if (first + one >= queries) continue;
      float* to = attention.out + (view * queries + first + one) * width + head * size;
      to[component] = read.part[i] * inverse[one];
    }
  }
}

}  // namespace mpft::encoder::cuda
