// The forward pass: one member's share of the tokens, from pixels to the logit.
//
// Included by one source file per instruction set, with a type V as lanes.hpp says. Tokens are
// dealt out in order; member 0 has the class token. Members meet once a block, when all keys and
// values are written, which the next block writes elsewhere.
#pragma once

#include "arithmetic.hpp"
#include "multiply.hpp"

namespace mpft::encoder {

template <class V>
class Member {
 public:
  Member(const Work& work, int member)
      : work_(work), model_(*work.model), room_(work.rooms[member]), member_(member) {
    const std::int64_t all_tokens = work.count + 1;
    row_ = padded(all_tokens);
    const bool has_tokens = member < work.members;
    first_ = has_tokens ? all_tokens * member / work.members : 0;
    tokens_ = has_tokens ? all_tokens * (member + 1) / work.members - first_ : 0;
  }

  void run() {
    for (std::int64_t view = 0; view < work_.batch; ++view) {
      embed(view);
      const Shape& shape = model_.shape;
      float total = model_.head_bias;
      for (std::int64_t index = 0; index < shape.depth; ++index) {
        const bool last = index == shape.depth - 1;
        run_block(model_.blocks[index], last);
        const std::int64_t tap = index - (shape.depth - shape.taps);
        if (member_ == 0 && tap >= 0) total = total + read_class_token(tap);
      }
      if (member_ == 0) work_.out[view] = total;
    }
  }

 private:
  void embed(std::int64_t view) {
    if (tokens_ == 0) return;
    const std::int64_t area = model_.shape.area, width = model_.width;
    const bool has_class_token = member_ == 0;
    // Token t is cell t − 1.
    const std::int64_t skip = has_class_token ? 1 : 0;
    const std::int64_t cells = tokens_ - skip;
    const std::int64_t begin = view * work_.count + first_ + skip - 1;
    const std::uint8_t* pixels = work_.patches + begin * area * kChannels;
    const std::int32_t* positions = work_.positions + begin;
    float* x = room_.x + skip * width;
    for (int channel = 0; channel < kChannels; ++channel) {
      const Matrix& matrix = model_.patch[channel];
      const Rows rows = pixels_of(channel, pixels, cells);
      const Lanes<V> ratio = all<V>(model_.patch_ratio[channel]);
      multiply<V>(rows, matrix, cells, [&](auto cell, auto column, const Lanes<V>& sums) {
        float* to = x + cell * width + column;
        Lanes<V> value = sums * ratio;
        if (channel > 0) value = load<V>(to) + value;
        if (channel == kChannels - 1) {
          const float* position = model_.positions + (positions[cell] + 1) * width;
          const Lanes<V> scaled = value * load<V>(model_.patch_scale + column) +
                                  load<V>(model_.patch_bias + column);
          value = scaled + load<V>(position + column);
        }
        store(to, value);
      });
    }
    if (has_class_token) {
      for (std::int64_t i = 0; i < width; ++i) {
        room_.x[i] = model_.class_token[i] + model_.positions[i];
      }
    }
    for (std::int64_t token = 0; token < tokens_; ++token) {
      float* row = room_.x + token * width;
      layer_norm<V>(row, model_.ln_pre, model_.shape.width, row);
    }
  }

  // One channel of cells, a row each.
  Rows pixels_of(int channel, const std::uint8_t* pixels, std::int64_t cells) const {
    const Matrix& matrix = model_.patch[channel];
    const std::int64_t area = model_.shape.area;
    const std::int64_t row = (matrix.words ? 2 : 1) * matrix.inputs;
    const Rows rows{room_.bytes, row, false, nullptr, 0, nullptr};
    for (std::int64_t cell = 0; cell < cells; ++cell) {
      const std::uint8_t* from = pixels + cell * area * kChannels + channel;
      std::uint8_t* to = room_.bytes + cell * rows.stride;
      auto* words = reinterpret_cast<std::int16_t*>(to);
      for (std::int64_t i = 0; i < area; ++i) {
        const int pixel = from[i * kChannels];
        if (matrix.words) {
          words[i] = static_cast<std::int16_t>(pixel);
        } else {
          to[i] = static_cast<std::uint8_t>(pixel - kPixelZero + V::kOffset);
        }
      }
    }
    return rows;
  }

  void run_block(const Block& block, bool last) {
    const std::int64_t width = model_.width, hidden = model_.hidden;
    float* const keys = work_.keys[turn_] + first_;
    float* const values = work_.values[turn_] + first_ * values_row();
    // After the last block nobody reads any token but the class token.
    const std::int64_t going_on = !last ? tokens_ : member_ == 0 ? 1 : 0;

    quantise_normed(tokens_, block.ln_1, block.query);
    linear(block.query, going_on, [&](auto token, auto column, const Lanes<V>& value) {
      store(room_.query + token * width + column, value);
    });
    linear(block.key, tokens_, [&](auto token, auto column, const Lanes<V>& value) {
      float lanes[kLanes];
      store(lanes, value);
      float* to = keys + column * row_ + token;
      for (int lane = 0; lane < kLanes; ++lane) to[lane * row_] = lanes[lane];
    });
    linear(block.value, tokens_, [&](auto token, auto column, const Lanes<V>& value) {
      store(values + token * values_row() + column, value);
    });
    work_.pool->wait();

    const auto add_to_x = [&](auto token, auto column, const Lanes<V>& value) {
      float* x = room_.x + token * width + column;
      store(x, load<V>(x) + value);
    };
    attention(going_on);
    turn_ = 1 - turn_;
    quantise_rows(room_.hidden, going_on, block.out);
    linear(block.out, going_on, add_to_x);
    quantise_normed(going_on, block.ln_2, block.fc);
    linear(block.fc, going_on, [&](auto token, auto column, const Lanes<V>& value) {
      const Lanes<V> active = model_.shape.quick_gelu ? quick_gelu(value) : gelu(value);
      store(room_.hidden + token * hidden + column, active);
    });
    quantise_rows(room_.hidden, going_on, block.proj);
    linear(block.proj, going_on, add_to_x);
  }

  // To room_.hidden, rows of the padded width.
  void attention(std::int64_t queries) {
    for (std::int64_t query = 0; query < queries; query += kQueries) {
      attend_some<kQueries>(query, queries - query);
    }
  }

  // For as many queries as there are, up to kRows.
  template <int kRows>
  void attend_some(std::int64_t query, std::int64_t left) {
    if constexpr (kRows > 1) {
      if (left < kRows) return attend_some<kRows - 1>(query, left);
    }
    attend<kRows>(query);
  }

  std::int64_t values_row() const { return model_.width + kLanes; }

  // For kRows queries.
  template <int kRows>
  void attend(std::int64_t query) {
    const std::int64_t width = model_.width, tokens = work_.count + 1;
    const std::int64_t size = model_.shape.width / model_.shape.heads;
    for (std::int64_t head = 0; head < model_.shape.heads; ++head) {
      const float* rows = room_.query + query * width + head * size;
      const float* keys = work_.keys[turn_] + head * size * row_;
      const float* values = work_.values[turn_] + head * size;
      float* const scores = room_.scores;
      Lanes<V> found[kRows];
      for (std::int64_t token = 0; token < tokens; token += kLanes) {
        weighted_sums(rows, width, size, keys + token, row_, found);
        for (int row = 0; row < kRows; ++row) store(scores + row * row_ + token, found[row]);
      }
      Lanes<V> inverse[kRows];
      for (int row = 0; row < kRows; ++row) inverse[row] = all<V>(soften(scores + row * row_));
      for (std::int64_t column = 0; column < size; column += kLanes) {
        weighted_sums(scores, row_, tokens, values + column, values_row(), found);
        for (int row = 0; row < kRows; ++row) {
          float lanes[kLanes];
          store(lanes, found[row] * inverse[row]);
          float* to = room_.hidden + (query + row) * width + head * size + column;
          const std::int64_t left = size - column;
          for (int lane = 0; lane < kLanes && lane < left; ++lane) to[lane] = lanes[lane];
        }
      }
    }
    for (int row = 0; row < kRows; ++row) {
      float* to = room_.hidden + (query + row) * width;
      for (std::int64_t i = model_.shape.width; i < width; ++i) to[i] = 0;
    }
  }

  // Sums over i, from the first to the last, of factors[row, i] · terms[i, …].
  template <int kRows>
  static void weighted_sums(const float* factors, std::int64_t factors_row, std::int64_t count,
                            const float* terms, std::int64_t terms_row, Lanes<V> (&out)[kRows]) {
    Lanes<V> totals[kRows];
    for (int row = 0; row < kRows; ++row) totals[row] = all<V>(0);
    for (std::int64_t i = 0; i < count; ++i) {
      const Lanes<V> term = load<V>(terms + i * terms_row);
      for (int row = 0; row < kRows; ++row) {
        totals[row] = totals[row] + all<V>(factors[row * factors_row + i]) * term;
      }
    }
    for (int row = 0; row < kRows; ++row) out[row] = totals[row];
  }

  // A row of scores to the powers of e, the largest 1; returns one over their sum.
  float soften(float* scores) const {
    const std::int64_t tokens = work_.count + 1;
    for (std::int64_t i = tokens; i < row_; ++i) scores[i] = scores[0];
    Lanes<V> most = load<V>(scores);
    for (std::int64_t i = 0; i < row_; i += kLanes) most = larger(most, load<V>(scores + i));
    const Lanes<V> bound = all<V>(largest(most));
    for (std::int64_t i = 0; i < tokens; i += kLanes) {
      store(scores + i, exponential(load<V>(scores + i) - bound));
    }
    for (std::int64_t i = tokens; i < row_; ++i) scores[i] = 0;
    return 1 / tree_sum<V>(scores, row_);
  }

  // Logit of the class token after one of the last blocks.
  float read_class_token(std::int64_t tap) const {
    const std::int64_t width = model_.width, embedding = model_.shape.embedding;
    float *const read = room_.query, *const feature = room_.hidden;
    layer_norm<V>(room_.x, model_.ln_post, model_.shape.width, read);
    if (embedding == 0) return sum_of_products<V>(read, model_.head + tap * width, width);
    const std::int64_t padded_embedding = padded(embedding);
    for (std::int64_t i = 0; i < padded_embedding; ++i) {
      feature[i] =
          i < embedding ? sum_of_products<V>(read, model_.projection + i * width, width) : 0;
    }
    const float* head = model_.head + tap * padded_embedding;
    const Lanes<V> sum = all<V>(sum_of_products<V>(feature, head, padded_embedding));
    const Lanes<V> square = all<V>(sum_of_products<V>(feature, feature, padded_embedding));
    return largest(sum / root(square));  // of lanes that are the same
  }

  void quantise_normed(std::int64_t tokens, const Norm& norm, const Layer& layer) {
    float* row = room_.hidden;
    for (std::int64_t token = 0; token < tokens; ++token) {
      layer_norm<V>(room_.x + token * model_.width, norm, model_.shape.width, row);
      quantise_row(token, row, layer);
    }
  }

  void quantise_rows(const float* rows, std::int64_t tokens, const Layer& layer) {
    for (std::int64_t token = 0; token < tokens; ++token) {
      quantise_row(token, rows + token * layer.matrix.inputs, layer);
    }
  }

  void quantise_row(std::int64_t token, const float* row, const Layer& layer) {
    const Rows rows = rows_of(layer);
    room_.scale[token] = quantise<V>(row, layer, room_.bytes + token * rows.stride,
                                     room_.high + token * rows.high_stride, room_.highs[token]);
  }

  Rows rows_of(const Layer& layer) const {
    const Matrix& matrix = layer.matrix;
    const bool two_bytes = is_wide(layer) && !matrix.words;
    const int bytes = two_bytes || matrix.words ? 2 : 1;
    return {room_.bytes, bytes * matrix.inputs, two_bytes,
            room_.high,  matrix.inputs / kFour, room_.highs};
  }

  // The quantised rows times a layer's matrix, scaled back, plus its bias: then(token, column, ·).
  template <class Then>
  void linear(const Layer& layer, std::int64_t tokens, Then then) {
    multiply<V>(rows_of(layer), layer.matrix, tokens,
                [&](auto token, auto column, const Lanes<V>& sums) {
                  then(token, column,
                       sums * load<V>(layer.scale + column) * all<V>(room_.scale[token]) +
                           load<V>(layer.bias + column));
                });
  }

  const Work& work_;
  const Model& model_;
  const Room& room_;
  const int member_;
  std::int64_t first_, tokens_;  // the tokens of this member
  std::int64_t row_;             // of keys and scores: tokens of a view, padded
  int turn_ = 0;                 // which keys and values
};

template <class V>
void run_member(const Work& work, int member) {
  Member<V>(work, member).run();
}

template <class V>
constexpr Kernel kernel_of() {
  return {V::kBytesLargest, V::kWideWords, V::kOffset, V::kSumsGroups, run_member<V>};
}

}  // namespace mpft::encoder
