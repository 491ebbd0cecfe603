// Which versions run here; networks as they read them; memory and threads to run them.
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
#include "model.hpp"

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

 private:
  static constexpr std::align_val_t kAlignment{64};
  std::vector<void*> blocks_;
};

// What a version computes with besides the arrays, made of the weights once.
class Preparation {
 public:
  Preparation(const Kernel& kernel, Memory& memory) : kernel_(kernel), memory_(memory) {}

  void prepare(Model& model, std::vector<Block>& blocks) {
    prepare({&model.patch[0], &model.patch[1], &model.patch[2]}, false, kPixelZero);
    for (Block& block : blocks) {
      for (const std::vector<Layer*>& group : groups_of(block)) {
        std::vector<Matrix*> matrices;
        for (Layer* layer : group) matrices.push_back(&layer->matrix);
        prepare(matrices, is_wide(*group[0]), 0);
      }
    }
  }

 private:
  // Matrices that read the same rows. Args: zero: activations are this much larger than what is
  // meant by the bytes of a version whose bytes have a sign.
  void prepare(const std::vector<Matrix*>& matrices, bool wide, int zero) {
    int largest = 0;
    for (const Matrix* matrix : matrices) {
      largest = std::max(largest, largest_magnitude(*matrix));
    }
    for (Matrix* matrix : matrices) {
      matrix->words = wide ? kernel_.wide_words : largest > kernel_.bytes_largest;
      if (!matrix->words) sum_weights(*matrix, zero);
    }
  }

  static int largest_magnitude(const Matrix& matrix) {
    constexpr int kAtOnce = kPadding * kPadding;
    std::uint8_t most[kAtOnce] = {};
    const std::int8_t* weights = matrix.weights;
    for (std::int64_t left = matrix.outputs * matrix.inputs; left > 0; left -= kAtOnce) {
      for (int i = 0; i < kAtOnce; ++i) {
        const auto weight = static_cast<std::uint8_t>(std::abs(weights[i]));
        most[i] = most[i] > weight ? most[i] : weight;
      }
      weights += kAtOnce;
    }
    return *std::max_element(most, most + kAtOnce);
  }

  // What bytes stand for is taken from the sums: an offset, or from pixels `zero`.
  void sum_weights(Matrix& matrix, int zero) {
    const std::int64_t panels = matrix.outputs / kLanes, groups = matrix.inputs / kGroup;
    constexpr int kSums = 2 * kLanes;  // of a group: of each output those of the first and last two
    auto* start = memory_.zeros<std::int32_t>(matrix.outputs);
    auto* fit = memory_.zeros<bool>(panels);
    auto* begin = kernel_.sums_groups ? memory_.zeros<std::int16_t>(panels * groups * kSums)
                                      : nullptr;
    for (std::int64_t panel = 0; panel < panels; ++panel) {
      const std::int8_t* weights = panel_of(matrix, panel * kLanes);
      std::int32_t totals[kSums] = {}, most = 0;
      for (std::int64_t group = 0; group < groups; ++group) {
        std::int16_t sums[kSums] = {}, magnitudes[kSums] = {};
        for (int four = 0; four < kGroup / kFour; ++four, weights += kLanes * kFour) {
          std::int16_t pairs[kSums];
          std::memcpy(pairs, weights, sizeof pairs);
          for (int i = 0; i < kSums; ++i) {
            const auto one = static_cast<std::int16_t>(pairs[i] >> 8);
            const auto other = static_cast<std::int16_t>(
                static_cast<std::int16_t>(static_cast<std::uint16_t>(pairs[i]) << 8) >> 8);
            sums[i] = static_cast<std::int16_t>(sums[i] + one + other);
            magnitudes[i] = static_cast<std::int16_t>(magnitudes[i] + (one < 0 ? -one : one) +
                                                      (other < 0 ? -other : other));
          }
        }
        for (int i = 0; i < kSums; ++i) {
          totals[i] += sums[i];
          most = std::max<std::int32_t>(most, magnitudes[i]);
          if (begin == nullptr) continue;
          begin[(panel * groups + group) * kSums + i] =
              static_cast<std::int16_t>(-kernel_.offset * sums[i]);
        }
      }
      // Of 16 products by activations of at most 128.
      fit[panel] = begin != nullptr && most * 128 < 1 << 15;
      const int stands_for = zero - (fit[panel] ? 0 : kernel_.offset);
      for (int lane = 0; lane < kLanes; ++lane) {
        start[panel * kLanes + lane] = stands_for * (totals[2 * lane] + totals[2 * lane + 1]);
      }
    }
    matrix.start = start;
    matrix.group_start = begin;
    matrix.groups_fit = fit;
  }

  const Kernel& kernel_;
  Memory& memory_;
};

}  // namespace

const std::array<Version, kVersions>& versions() {
  static const std::array<Version, kVersions> detected = detect_versions();
  return detected;
}

struct Encoder::State {
  State(const Kernel& its_kernel, const Shape& shape, const std::vector<Array>& arrays,
        int threads)
      : kernel(its_kernel), pool(threads) {
    Arrays reading(arrays);
    model = Reading(shape, reading).model(blocks);
    Preparation(kernel, weights).prepare(model, blocks);
  }

  // Memory for views of so many tokens.
  void make_room(std::int64_t tokens) {
    if (tokens <= most_tokens) return;
    auto fresh = std::make_unique<Memory>();
    const std::int64_t row = padded(tokens);
    const std::int64_t wider =
        std::max({model.width, model.hidden, padded(model.shape.embedding)});
    for (int turn = 0; turn < 2; ++turn) {
      keys[turn] = fresh->zeros<float>(model.width * row);
      values[turn] = fresh->zeros<float>(tokens * (model.width + kLanes));
    }
    rooms.clear();
    const std::int64_t own = (tokens + pool.members() - 1) / pool.members();
    for (int member = 0; member < pool.members(); ++member) {
      rooms.push_back({fresh->zeros<float>(own * model.width),
                       fresh->zeros<float>(own * model.width), fresh->zeros<float>(own * wider),
                       fresh->zeros<float>(kQueries * row), fresh->zeros<float>(own),
                       fresh->zeros<std::uint8_t>(2 * own * std::max(wider, model.area)),
                       fresh->zeros<High>(own * wider / kFour),
                       fresh->zeros<Highs>(own)});
    }
    memory = std::move(fresh);
    most_tokens = tokens;
  }

  const Kernel& kernel;
  Memory weights;
  std::vector<Block> blocks;
  Model model;
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
