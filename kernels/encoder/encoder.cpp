// Which versions run here; networks made ready for them, once; memory and threads to run them.
#include "encoder.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <stdexcept>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#include "float_mode.hpp"
#include "kernel.hpp"

namespace mpft::encoder {
namespace {

std::array<Version, kVersions> detect_versions() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2");
  const bool vnni = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni");
  return {{
      {"avx512", &kAvx512Vnni, vnni ? nullptr : "this processor has no AVX-512 VNNI"},
      {"avx2", &kAvx2, avx2 ? nullptr : "this processor has no AVX2"},
      {"neon", nullptr, "needs an AArch64 processor; this build is for x86-64"},
      {"scalar", &kScalar, nullptr},
  }};
#elif defined(__aarch64__)
  constexpr auto other = "needs an x86-64 processor; this build is for AArch64";
#if defined(__linux__)
  constexpr unsigned long kHasDotProduct = 1UL << 20;  // HWCAP_ASIMDDP
  const bool dot_product = (getauxval(AT_HWCAP) & kHasDotProduct) != 0;
#else
  const bool dot_product = true;  // Apple's all have it
#endif
  return {{
      {"avx512", nullptr, other},
      {"avx2", nullptr, other},
      {"neon", &kNeon, dot_product ? nullptr : "this processor has no dot products of bytes"},
      {"scalar", &kScalar, nullptr},
  }};
#else
  constexpr auto other = "needs a build for x86-64 or AArch64 by GCC or Clang";
  return {{
      {"avx512", nullptr, other},
      {"avx2", nullptr, other},
      {"neon", nullptr, other},
      {"scalar", &kScalar, nullptr},
  }};
#endif
}

// Memory for vectors, zeros at first, freed together.
class Memory {
 public:
  Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() {
    for (void* block : blocks_) ::operator delete(block, kAlignment);
  }

  template <class T>
  T* zeros(std::int64_t count) {
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    blocks_.reserve(blocks_.size() + 1);
    void* block = ::operator new(bytes, kAlignment);
    blocks_.push_back(block);
    std::memset(block, 0, bytes);
    return static_cast<T*>(block);
  }

  // Rows, each padded with zeros.
  const float* rows(const float* from, std::int64_t count, std::int64_t columns) {
    float* to = zeros<float>(count * padded(columns));
    for (std::int64_t row = 0; row < count; ++row) {
      std::copy_n(from + row * columns, columns, to + row * padded(columns));
    }
    return to;
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  std::vector<void*> blocks_;
};

// A network's arrays, one after the other.
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
  void end() const {
    if (index_ != arrays_.size()) throw std::invalid_argument("the network has too many arrays");
  }

 private:
  const std::vector<Array>& arrays_;
  std::size_t index_ = 0;
};

int largest_magnitude(const std::int8_t* weights, std::int64_t count) {
  int largest = 0;
  for (std::int64_t i = 0; i < count; ++i) largest = std::max(largest, std::abs(weights[i]));
  // The sign of −128 cannot be changed in 8 bits.
  if (largest > 127) throw std::invalid_argument("weights must be from -127 to 127");
  return largest;
}

// Copies a network's arrays in the order in which a version reads them.
class Preparation {
 public:
  Preparation(const Kernel& kernel, const Shape& shape, const std::vector<Array>& arrays,
              Memory& memory)
      : kernel_(kernel), shape_(shape), arrays_(arrays), memory_(memory) {}

  Model model() {
    const std::int64_t width = shape_.width;
    Model model{};
    model.shape = shape_;
    model.width = padded(width);
    model.hidden = padded(shape_.hidden);
    model.area = padded(shape_.area);
    const auto* kernels = arrays_.next<std::int8_t>(width * kChannels * shape_.area);
    const int offset = offset_for(kernels, width * kChannels * shape_.area);
    for (int channel = 0; channel < kChannels; ++channel) {
      // A pixel less 128 is written as the byte of an activation.
      model.patch[channel] = matrix(kernels + channel * shape_.area, width, shape_.area,
                                    kChannels * shape_.area, offset, kOffset - offset);
    }
    model.patch_ratio = row(kChannels);
    model.patch_scale = row(width);
    model.patch_bias = row(width);
    const auto* class_token = arrays_.next<float>(width);
    const auto* positions = arrays_.next<float>((shape_.cells + 1) * width);
    float* first = memory_.zeros<float>(padded(width));
    for (std::int64_t i = 0; i < width; ++i) first[i] = class_token[i] + positions[i];
    model.first = first;
    model.positions = memory_.rows(positions + width, shape_.cells, width);
    model.ln_pre = norm();
    Block* blocks = memory_.zeros<Block>(shape_.depth);
    for (std::int64_t index = 0; index < shape_.depth; ++index) blocks[index] = block();
    model.blocks = blocks;
    model.ln_post = norm();
    model.head = memory_.rows(arrays_.next<float>(shape_.taps * width), shape_.taps, width);
    model.head_bias = *arrays_.next<float>(1);
    arrays_.end();
    return model;
  }

 private:
  const float* row(std::int64_t count) {
    return memory_.rows(arrays_.next<float>(count), 1, count);
  }

  Norm norm() {
    const float* weight = row(shape_.width);
    return {weight, row(shape_.width)};
  }

  Block block() {
    const std::int64_t width = shape_.width, hidden = shape_.hidden;
    Block block{};
    block.ln_1 = norm();
    layers({&block.query, &block.key, &block.value}, width, width);
    layers({&block.out}, width, width);
    block.ln_2 = norm();
    layers({&block.fc}, hidden, width);
    layers({&block.proj}, width, hidden);
    block.shrink = row(hidden);
    return block;
  }

  // Layers stored as one, of as many outputs each.
  void layers(std::initializer_list<Layer*> parts, std::int64_t outputs, std::int64_t inputs) {
    const std::int64_t all = static_cast<std::int64_t>(parts.size()) * outputs;
    const auto* weights = arrays_.next<std::int8_t>(all * inputs);
    const auto* scale = arrays_.next<float>(all);
    const auto* bias = arrays_.next<float>(all);
    const bool wide = *arrays_.next<std::int8_t>(1) != 0;
    const int offset = offset_for(weights, all * inputs);
    for (Layer* part : parts) {
      *part = {matrix(weights, outputs, inputs, inputs, offset, -offset),
               memory_.rows(scale, 1, outputs), memory_.rows(bias, 1, outputs), wide};
      weights += outputs * inputs;
      scale += outputs;
      bias += outputs;
    }
  }

  int offset_for(const std::int8_t* weights, std::int64_t count) const {
    return largest_magnitude(weights, count) <= kernel_.offset_largest ? kOffset : 0;
  }

  // Args: stride: from the weights of one output to those of the next. zero: what a byte of 0
  // stands for; the sums begin with so many times the sum of weights.
  Matrix matrix(const std::int8_t* weights, std::int64_t outputs, std::int64_t inputs,
                std::int64_t stride, int offset, int zero) {
    constexpr std::int64_t kFour = 4, kRegister = kLanes * kStep;
    const std::int64_t rows = padded(outputs), columns = padded(inputs);
    auto* to = memory_.zeros<std::int8_t>(rows * columns);
    auto* start = memory_.zeros<std::int32_t>(rows);
    for (std::int64_t output = 0; output < outputs; ++output) {
      const std::int8_t* from = weights + output * stride;
      const std::int64_t vector = output / kLanes, panel = vector / kernel_.vectors;
      std::int8_t* here = to + panel * kernel_.vectors * kLanes * columns +
                          vector % kernel_.vectors * kRegister + output % kLanes * kFour;
      std::int32_t sum = 0;
      for (std::int64_t i = 0; i < inputs; ++i) sum += from[i];
      for (std::int64_t i = 0; i < inputs; i += kFour) {
        const std::int64_t step = i / kStep, second = i / kFour % 2;
        std::memcpy(here + step * kernel_.vectors * kRegister + second * kLanes * kFour, from + i,
                    static_cast<std::size_t>(std::min(kFour, inputs - i)));
      }
      start[output] = zero * sum;
    }
    return {to, start, rows, columns, offset};
  }

  const Kernel& kernel_;
  const Shape& shape_;
  Arrays arrays_;
  Memory& memory_;
};

void check(const Shape& shape) {
  constexpr std::int64_t kMost = 1 << 24;  // keeps products of two in range
  for (const std::int64_t size : {shape.width, shape.hidden, shape.heads, shape.cells, shape.area,
                                  shape.depth, shape.taps}) {
    if (size < 1 || size > kMost) throw std::invalid_argument("a size is out of range");
  }
  if (shape.width % shape.heads != 0 || shape.taps > shape.depth) {
    throw std::invalid_argument("sizes do not fit together");
  }
}

}  // namespace

const std::array<Version, kVersions>& versions() {
  static const std::array<Version, kVersions> detected = detect_versions();
  return detected;
}

struct Encoder::State {
  State(const Kernel& its_kernel, const Shape& shape, const std::vector<Array>& arrays,
        int threads)
      : kernel(its_kernel),
        model(Preparation(its_kernel, shape, arrays, weights).model()),
        pool(threads) {}

  // Memory for views of so many tokens.
  void make_room(std::int64_t tokens) {
    if (tokens <= most_tokens) return;
    auto fresh = std::make_unique<Memory>();
    const std::int64_t wider = std::max(model.width, model.hidden), row = padded(tokens);
    for (int turn = 0; turn < 2; ++turn) {
      keys[turn] = fresh->zeros<float>(model.width * row);
      // The last head's components are read as whole vectors.
      values[turn] = fresh->zeros<float>(tokens * model.width + kLanes);
    }
    rooms.clear();
    const std::int64_t own = (tokens + pool.members() - 1) / pool.members();
    for (int member = 0; member < pool.members(); ++member) {
      rooms.push_back({fresh->zeros<float>(own * model.width),
                       fresh->zeros<float>(own * model.width), fresh->zeros<float>(own * wider),
                       fresh->zeros<float>(kQueries * row), fresh->zeros<float>(own),
                       fresh->zeros<std::uint8_t>(own * std::max(wider, kChannels * model.area)),
                       fresh->zeros<std::uint8_t>(own * wider)});
    }
    memory = std::move(fresh);
    most_tokens = tokens;
  }

  const Kernel& kernel;
  Memory weights;
  const Model model;
  Pool pool;
  std::mutex turn;
  std::unique_ptr<Memory> memory;
  std::int64_t most_tokens = 0;
  float *keys[2], *values[2];
  std::vector<Room> rooms;
};

Encoder::Encoder(const Version& version, const Shape& shape, const std::vector<Array>& arrays,
                 int threads) {
  if (version.why_not != nullptr) throw std::invalid_argument(version.why_not);
  if (threads < 1) throw std::invalid_argument("threads must be 1 or more");
  check(shape);
  state_ = std::make_unique<State>(*version.kernel, shape, arrays, threads);
}

Encoder::~Encoder() = default;

const Shape& Encoder::shape() const { return state_->model.shape; }

void Encoder::logits(const std::uint8_t* patches, const std::int32_t* positions,
                     std::int64_t batch, std::int64_t count, float* out) {
  if (batch == 0) return;
  State& state = *state_;
  const std::lock_guard<std::mutex> lock(state.turn);
  state.make_room(count + 1);
  const auto members = std::min<std::int64_t>(state.pool.members(), count + 1);
  Work work{&state.model,
            state.rooms.data(),
            &state.pool,
            static_cast<int>(members),
            {state.keys[0], state.keys[1]},
            {state.values[0], state.values[1]},
            patches,
            positions,
            batch,
            count,
            out};
  struct Call {
    const Kernel& kernel;
    const Work& work;
  } call{state.kernel, work};
  state.pool.run(
      [](void* context, int member) {
        const auto* here = static_cast<const Call*>(context);
        const FloatMode mode;
        here->kernel.run(here->work, member);
      },
      &call);
}

}  // namespace mpft::encoder
