// The forward pass: the order of the kernels on a stream.
#pragma once

#include <initializer_list>

#include "../../launch.cuh"
#include "../../mpft_cuda.h"
#include "attention.cuh"
#include "multiply.cuh"
#include "rows.cuh"

namespace mpft::encoder::cuda {

struct Failure {
  int status;
};

inline void check(cudaError_t error) {
  if (error != cudaSuccess) throw Failure{MPFT_CUDA_ERROR + static_cast<int>(error)};
}

inline std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Of activations of so many tokens, which come by whole tiles of the widest product.
inline std::int64_t quads(std::int64_t tokens, int chunks) {
  return divide_up(tokens, kTile * kWideTiles) * kWideTiles * kWarp * chunks;
}

// What a pass writes to, for as many views and cells as were asked for.
struct Room {
  std::int64_t batch = 0, count = 0;
  float *x, *query, *value, *hidden;  // [tokens, the padded width; of hidden, the wider one's]
  float* key;                         // [width, key_row]
  std::int64_t key_row;
  float* scales;  // [tokens]
  Quad* quads;
};

// The launches of one call.
class Pass {
 public:
  Pass(const Model& model, const Room& room, int multiprocessors, cudaStream_t stream,
       std::int64_t batch, std::int64_t count)
      : model_(model),
        room_(room),
        stream_(stream),
        multiprocessors_(multiprocessors),
        batch_(static_cast<int>(batch)),
        tokens_(static_cast<int>(count) + 1) {}

  void run(const std::uint8_t* patches, const std::int32_t* positions, float* logits) {
    embed(patches, positions);
    const Shape& shape = model_.shape;
    for (std::int64_t index = 0; index < shape.depth; ++index) {
      // After the last block nobody reads any token but the class token.
      run_block(model_.blocks[index], index == shape.depth - 1);
      const std::int64_t tap = index - (shape.depth - shape.taps);
      if (tap >= 0) read_class_tokens(tap, logits);
    }
  }

 private:
  void read_class_tokens(std::int64_t tap, float* logits) {
    const Rows x = x_rows(batch_, tokens_);
    const auto embedding = static_cast<int>(model_.shape.embedding);
    if (embedding == 0) {
      start(read_normed, row_blocks(batch_), 0, x, model_.ln_post,
            model_.head + tap * model_.width, tap == 0, model_.head_bias, logits);
      return;
    }
    start(project_normed, row_blocks(batch_ * embedding), 0, x, model_.ln_post,
          model_.projection, model_.width, embedding, room_.hidden);
    start(read_features, row_blocks(batch_), 0, Rows{room_.hidden, embedding, batch_, embedding},
          model_.head + tap * padded(embedding), tap == 0, model_.head_bias, logits);
  }

  void embed(const std::uint8_t* patches, const std::int32_t* positions) {
    const int cells = batch_ * (tokens_ - 1), area = static_cast<int>(model_.shape.area);
    const Activations pixels{room_.quads, static_cast<int>(model_.area / kChunk)};
    const std::int64_t apart = quads(cells, pixels.chunks);
    const std::int64_t fours = std::int64_t{cells} * kChannels * pixels.chunks * kFours;
    start(write_pixels, divide_up(fours, kThreads), 0, patches, cells, area, pixels, apart);
    constexpr Then after[] = {Then::begin, Then::go_on, Then::embed};
    for (int channel = 0; channel < kChannels; ++channel) {
      Product product{};
      product.activations = {pixels.quads + channel * apart, pixels.chunks};
      product.tokens = cells;
      product.then = after[channel];
      product.ratio = model_.patch_ratio + channel;
      product.cells = tokens_ - 1;
      product.positions = positions;
      product.table = model_.positions;
      add_part(product, model_.patch[channel], model_.patch_scale, model_.patch_bias,
               {room_.x, model_.width, 1});
      multiply_all(product);
    }
    start(norm_tokens, row_blocks(batch_ * tokens_), 0, x_rows(batch_ * tokens_, 1), tokens_,
          model_.class_token, model_.positions, model_.ln_pre, room_.x);
  }

  void run_block(const Block& block, bool last) {
    const std::int64_t width = model_.width;
    const int heads = static_cast<int>(model_.shape.heads), all = batch_ * tokens_;
    const int queries = last ? 1 : tokens_, going_on = batch_ * queries;
    const int step = last ? tokens_ : 1;  // tokens of x from one that goes on to the next
    const Target x{room_.x, step * width, 1}, hidden{room_.hidden, model_.hidden, 1};

    quantise(x_rows(all, 1), &block.ln_1, block.query);
    multiply_by({{&block.query, {room_.query, width, 1}},
                 {&block.key, {room_.key, 1, room_.key_row}},
                 {&block.value, {room_.value, width, 1}}},
                all, Then::store);
    const Attention attention{room_.query, room_.key, room_.value, room_.hidden, room_.key_row,
                              width, queries, tokens_, heads,
                              static_cast<int>(model_.shape.width) / heads};
    start(attend, std::int64_t{batch_} * heads * divide_up(queries, kTogether),
          attention_bytes(attention.size, tokens_), attention);
    quantise({room_.hidden, width, going_on, static_cast<int>(model_.shape.width)}, nullptr,
             block.out);
    multiply_by({{&block.out, x}}, going_on, Then::add);
    quantise(x_rows(going_on, step), &block.ln_2, block.fc);
    multiply_by({{&block.fc, hidden}}, going_on,
                model_.shape.quick_gelu ? Then::quick_gelu : Then::gelu);
    quantise({room_.hidden, model_.hidden, going_on, static_cast<int>(model_.shape.hidden)},
             nullptr, block.proj);
    multiply_by({{&block.proj, x}}, going_on, Then::add);
  }

  struct Target {
    float* to;
    std::int64_t by_token, by_output;
  };
  struct Multiplied {
    const Layer* layer;
    Target target;
  };

  void quantise(const Rows& rows, const Norm* norm, const Layer& layer) {
    const Activations to{room_.quads, static_cast<int>(layer.matrix.inputs / kChunk)};
    if (norm != nullptr) {
      start(quantise_normed, row_blocks(rows.count), 0, rows, *norm, layer.limit, layer.least, to,
            room_.scales);
    } else {
      start(quantise_rows, row_blocks(rows.count), 0, rows, layer.limit, layer.least, to,
            room_.scales);
    }
  }

  // What was quantised last, by matrices of as many outputs.
  void multiply_by(std::initializer_list<Multiplied> layers, int tokens, Then then) {
    Product product{};
    const Matrix& first = layers.begin()->layer->matrix;
    product.activations = {room_.quads, static_cast<int>(first.inputs / kChunk)};
    product.scales = room_.scales;
    product.tokens = tokens;
    product.then = then;
    for (const auto& [layer, target] : layers) {
      add_part(product, layer->matrix, layer->scale, layer->bias, target);
    }
    multiply_all(product);
  }

  static void add_part(Product& product, const Matrix& matrix, const float* scale,
                       const float* bias, const Target& target) {
    product.outputs = static_cast<int>(matrix.outputs);
    product.parts[product.count++] = {reinterpret_cast<const Quad*>(matrix.weights), scale, bias,
                                      target.to, target.by_token, target.by_output};
  }

  // Blocks of which each does much, where those fill the device; else more, which do less.
  void multiply_all(const Product& product) {
    const std::int64_t outputs = std::int64_t{product.count} * product.outputs / kChunk;
    const std::int64_t blocks = divide_up(outputs, kWarps) *
                                divide_up(product.tokens, kTile * kWideTiles);
    if (blocks >= multiprocessors_) {
      start(multiply<kWideTiles, false>, blocks, kSumsBytes<kWideTiles>, product);
    } else {
      start(multiply<kNarrowTiles, true>, outputs * divide_up(product.tokens, kTile * kNarrowTiles),
            kSumsBytes<kNarrowTiles>, product);
    }
  }

  Rows x_rows(int count, int step) const {
    return {room_.x, step * model_.width, count, static_cast<int>(model_.shape.width)};
  }
  static std::int64_t row_blocks(int rows) { return divide_up(rows, kRows); }

  template <class Kernel, class... Arguments>
  void start(Kernel kernel, std::int64_t blocks, std::size_t shared_bytes,
             const Arguments&... arguments) {
    check(launch(stream_, kernel, blocks, kThreads, shared_bytes, arguments...));
  }

  const Model& model_;
  const Room& room_;
  cudaStream_t stream_;
  int multiprocessors_, batch_, tokens_;
};

}  // namespace mpft::encoder::cuda
