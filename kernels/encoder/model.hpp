// A network's arrays in the order of packing.py, as a Model has them: for every kind of processor.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <stdexcept>
#include <vector>

#include "kernel.hpp"

namespace mpft::encoder {

// A network's arrays in host memory, one after the other.
class Arrays {
 public:
  explicit Arrays(const std::vector<Array>& arrays) : arrays_(arrays) {}

  template <class T>
  const T* next(std::int64_t count) {
    const bool fits = index_ < arrays_.size() &&
                      arrays_[index_].bytes == static_cast<std::size_t>(count) * sizeof(T);
    if (!fits) throw std::invalid_argument("the network's arrays do not fit its shape");
    return static_cast<const T*>(arrays_[index_++].data);
  }
  float number() { return *next<float>(kPadding); }
  void end() const {
    if (index_ != arrays_.size()) throw std::invalid_argument("the network has too many arrays");
  }

 private:
  const std::vector<Array>& arrays_;
  std::size_t index_ = 0;
};

// Layers that read the same activations, which are written once.
inline std::vector<std::vector<Layer*>> groups_of(Block& block) {
  return {{&block.query, &block.key, &block.value}, {&block.out}, {&block.fc}, {&block.proj}};
}

// Reads a model from what has the functions of Arrays, wherever it says that the arrays lie. Throws
// std::invalid_argument where they do not fit the shape.
template <class Arrays>
class Reading {
 public:
  Reading(const Shape& shape, Arrays& arrays) : shape_(shape), arrays_(arrays) {
    constexpr std::int64_t kMost = 1 << 16;  // so sums of weights, times 128, fit into 32 bits
    for (const std::int64_t size : {shape.width, shape.hidden, shape.heads, shape.cells,
                                    shape.area, shape.depth, shape.taps}) {
      if (size < 1 || size > kMost) throw std::invalid_argument("a size is out of range");
    }
    if (shape.width % shape.heads != 0 || shape.taps > shape.depth || shape.embedding < 0 ||
        shape.embedding > kMost) {
      throw std::invalid_argument("sizes do not fit together");
    }
  }

  // The model, whose blocks are those given.
  Model model(std::vector<Block>& blocks) {
    const std::int64_t width = shape_.width;
    Model model{};
    model.shape = shape_;
    model.width = padded(width);
    model.hidden = padded(shape_.hidden);
    model.area = padded(shape_.area);
    place({&model.patch[0], &model.patch[1], &model.patch[2]}, width, shape_.area);
    model.patch_ratio = row(kChannels);
    model.patch_scale = row(width);
    model.patch_bias = row(width);
    model.class_token = row(width);
    model.positions = rows(shape_.cells + 1, width);
    model.ln_pre = norm();
    blocks.resize(static_cast<std::size_t>(shape_.depth));
    for (Block& one : blocks) one = block();
    model.blocks = blocks.data();
    model.ln_post = norm();
    const std::int64_t embedding = shape_.embedding;
    if (embedding > 0) model.projection = rows(embedding, width);
    model.head = rows(shape_.taps, embedding > 0 ? embedding : width);
    model.head_bias = arrays_.number();
    arrays_.end();
    return model;
  }

 private:
  const float* rows(std::int64_t count, std::int64_t columns) {
    return arrays_.template next<float>(count * padded(columns));
  }
  const float* row(std::int64_t columns) { return rows(1, columns); }

  Norm norm() {
    const float* weight = row(shape_.width);
    return {weight, row(shape_.width)};
  }

  Block block() {
    const std::int64_t width = shape_.width, hidden = shape_.hidden;
    Block block{};
    block.ln_1 = norm();
    for (Layer* one : {&block.query, &block.key, &block.value, &block.out}) {
      layer(*one, width, width);
    }
    block.ln_2 = norm();
    layer(block.fc, hidden, width);
    layer(block.proj, width, hidden);
    for (const auto& group : groups_of(block)) {
      for (const Layer* one : group) {
        if (one->limit != group[0]->limit || one->least != group[0]->least) {
          throw std::invalid_argument("layers that read the same have different limits");
        }
      }
    }
    return block;
  }

  void layer(Layer& layer, std::int64_t outputs, std::int64_t inputs) {
    place({&layer.matrix}, outputs, inputs);
    layer.scale = row(outputs);
    layer.bias = row(outputs);
    layer.limit = arrays_.number();
    layer.least = arrays_.number();
    if (!(layer.limit > 0 && layer.limit <= kLimit && layer.least >= 0)) {
      throw std::invalid_argument("a limit of activations is out of range");
    }
  }

  // Matrices of one array.
  void place(std::initializer_list<Matrix*> matrices, std::int64_t outputs, std::int64_t inputs) {
    const std::int64_t size = padded(outputs) * padded(inputs);
    const auto* weights = arrays_.template next<std::int8_t>(
        static_cast<std::int64_t>(matrices.size()) * size);
    for (Matrix* matrix : matrices) {
      matrix->outputs = padded(outputs);
      matrix->inputs = padded(inputs);
      matrix->weights = weights;
      weights += size;
    }
  }

  const Shape& shape_;
  Arrays& arrays_;
};

}  // namespace mpft::encoder
