// Rows of tokens, each by a half-warp, whose lanes are the lanes of the definition's sums: norms,
// and activations as integers.
#pragma once

#include "lanes.cuh"

namespace mpft::encoder::cuda {

__device__ inline void write_four(const Activations& to, int row, int four,
                                  const std::int32_t (&values)[kFour]) {
  std::uint32_t low = 0, high = 0;
  for (int i = 0; i < kFour; ++i) {
    low |= (static_cast<std::uint32_t>(values[i]) & 255) << (8 * i);
    high |= (static_cast<std::uint32_t>(values[i] + 128) >> 8 & 255) << (8 * i);
  }
  const int in_chunk = four % kFours, lane = row % kTile * 4 + in_chunk % 4;
  const std::int64_t chunk = std::int64_t{row / kTile} * to.chunks + four / kFours;
  std::uint32_t* words = to.quads[chunk * kWarp + lane].words;
  words[in_chunk / 4] = low;
  words[2 + in_chunk / 4] = high;
}

// Pixels of cells, a row each of every channel; a thread a four. Channels lie `apart` quads apart.
__global__ void write_pixels(const std::uint8_t* patches, int cells, int area, Activations to,
                             std::int64_t apart) {
  const std::int64_t item = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int fours = to.chunks * kFours;
  const int four = static_cast<int>(item % fours);
  const int channel = static_cast<int>(item / fours % kChannels);
  const std::int64_t cell = item / fours / kChannels;
  if (cell >= cells) return;
  const std::uint8_t* pixels = patches + cell * area * kChannels + channel;
  std::int32_t values[kFour] = {};
  for (int i = 0; i < kFour; ++i) {
    const int pixel = four * kFour + i;
    if (pixel < area) values[i] = pixels[pixel * kChannels];
  }
  to.quads += channel * apart;
  write_four(to, static_cast<int>(cell), four, values);
}

// Of at(0) to at(count − 1); the element i is asked of lane i mod kLanes alone.
template <class At>
__device__ float tree_sum(int count, At at) {
  float lanes = 0;
#pragma unroll 8
  for (int i = own_lane(); i < count; i += kLanes) lanes = lanes + at(i);
  return sum_lanes(lanes);
}

// A row after LayerNorm.
template <class At>
struct Normed {
  At at;
  Norm norm;
  float mean, inverse;

  __device__ Normed(At row, const Norm& its_norm, int width) : at(row), norm(its_norm) {
    const float count = static_cast<float>(width);
    mean = tree_sum(width, at) / count;
    const float variance = tree_sum(width, [&](int i) {
                             const float apart = at(i) - mean;
                             return apart * apart;
                           }) / count;
    inverse = 1 / sqrtf(variance + kEpsilon);
  }
  __device__ float operator()(int i) const {
    return (at(i) - mean) * inverse * norm.weight[i] + norm.bias[i];
  }
};

struct Plain {
  const float* row;
  __device__ float operator()(int i) const { return row[i]; }
};

// Rows f32 [count, width], `apart` numbers from one to the next.
struct Rows {
  const float* first;
  std::int64_t apart;
  int count, width;

  // A half-warp without a row takes the last one, since a warp shuffles as a whole.
  __device__ Plain own() const { return {first + min(own_row(), count - 1) * apart}; }
};

template <class At>
__device__ void quantise(At at, const Rows& rows, float limit, float least, const Activations& to,
                         float* scales) {
  float most = 0, usual = 0;
#pragma unroll 8
  for (int i = own_lane(); i < rows.width; i += kLanes) {
    const float magnitude = fabsf(at(i));
    most = One::larger(most, magnitude);
    usual = usual + magnitude;
  }
  most = largest_lane(most);
  usual = sum_lanes(usual) * least;
  float scale = most / limit;
  if (scale < usual) scale = usual;
  const bool zero = most < kTiny;
  const float inverse = zero ? 0 : 1 / scale;
  const int row = own_row();
  if (row >= rows.count) return;
  for (int four = own_lane(); four < to.chunks * kFours; four += kLanes) {
    std::int32_t values[kFour] = {};
    for (int i = 0; i < kFour; ++i) {
      const int input = four * kFour + i;
      if (input < rows.width) values[i] = static_cast<std::int32_t>(rintf(at(input) * inverse));
    }
    write_four(to, row, four, values);
  }
  if (own_lane() == 0) scales[row] = zero ? 0 : scale;
}

__global__ void __launch_bounds__(kThreads, 4)
    quantise_rows(Rows rows, float limit, float least, Activations to, float* scales) {
  quantise(rows.own(), rows, limit, least, to, scales);
}

__global__ void __launch_bounds__(kThreads, 4)
    quantise_normed(Rows rows, Norm norm, float limit, float least, Activations to,
                    float* scales) {
  quantise(Normed<Plain>(rows.own(), norm, rows.width), rows, limit, least, to, scales);
}

// Before the first block: tokens, of which the class token's row is written here, to their norms.
__global__ void __launch_bounds__(kThreads, 4)
    norm_tokens(Rows rows, int tokens, const float* class_token, const float* position, Norm norm,
                float* x) {
  const Plain row = rows.own();
  const bool first = min(own_row(), rows.count - 1) % tokens == 0;
  const auto at = [=](int i) { return first ? class_token[i] + position[i] : row(i); };
  const Normed<decltype(at)> normed(at, norm, rows.width);
  if (own_row() >= rows.count) return;
  for (int i = own_lane(); i < rows.width; i += kLanes) x[own_row() * rows.apart + i] = normed(i);
}

// The logit of the own row, which begins with head_bias.
__device__ inline void add_logit(const Rows& rows, float more, bool begin, float head_bias,
                                 float* logits) {
  const int row = own_row();
  if (row >= rows.count || own_lane() != 0) return;
  logits[row] = (begin ? head_bias : logits[row]) + more;
}

// Class tokens, after a block.
__global__ void __launch_bounds__(kThreads, 4)
    read_normed(Rows rows, Norm norm, const float* head, bool begin, float head_bias,
                float* logits) {
  const Normed<Plain> read(rows.own(), norm, rows.width);
  const float sum = tree_sum(rows.width, [&](int i) { return read(i) * head[i]; });
  add_logit(rows, sum, begin, head_bias, logits);
}

// The same to features [rows, embedding], each by a half-warp.
__global__ void __launch_bounds__(kThreads, 4)
    project_normed(Rows rows, Norm norm, const float* projection, std::int64_t apart,
                   int embedding, float* features) {
  const int item = min(own_row(), rows.count * embedding - 1);
  const Plain row{rows.first + item / embedding * rows.apart};
  const Normed<Plain> read(row, norm, rows.width);
  const float* own = projection + item % embedding * apart;
  const float sum = tree_sum(rows.width, [&](int i) { return read(i) * own[i]; });
  if (own_lane() == 0) features[item] = sum;
}

// Features that are divided by their length.
__global__ void __launch_bounds__(kThreads, 4)
    read_features(Rows rows, const float* head, bool begin, float head_bias, float* logits) {
  const Plain own = rows.own();
  const float sum = tree_sum(rows.width, [&](int i) { return own(i) * head[i]; });
  const float length = sqrtf(tree_sum(rows.width, [&](int i) { return own(i) * own(i); }));
  add_logit(rows, sum / length, begin, head_bias, logits);
}

}  // namespace mpft::encoder::cuda
