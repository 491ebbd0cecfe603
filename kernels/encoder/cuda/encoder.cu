// The encoder on a CUDA device: its memory, and the C interface.
#include <cuda_runtime.h>

#include <algorithm>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

#include "../../mpft_cuda.h"
#include "../model.hpp"
#include "pass.cuh"

namespace mpft::encoder::cuda {
namespace {

constexpr std::int64_t kMostShared = 48 * 1024;  // bytes of a block, without asking for more

// Device memory, freed together.
class Memory {
 public:
  Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { clear(); }

  // Zeros at first: what is padding is multiplied, though by zeros.
  template <class T>
  T* zeros(std::int64_t count) {
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    blocks_.reserve(blocks_.size() + 1);
    void* block = nullptr;
    check(cudaMalloc(&block, bytes));
    blocks_.push_back(block);
    check(cudaMemset(block, 0, bytes));
    return static_cast<T*>(block);
  }
  void clear() {
    for (void* block : blocks_) cudaFree(block);
    blocks_.clear();
  }

 private:
  std::vector<void*> blocks_;
};

// A network's arrays, copied to the device as they are read; single numbers stay here.
class Uploading {
 public:
  Uploading(const std::vector<Array>& arrays, Memory& memory) : arrays_(arrays), memory_(memory) {}

  template <class T>
  const T* next(std::int64_t count) {
    const T* from = arrays_.next<T>(count);
    T* to = memory_.zeros<T>(count);
    check(cudaMemcpy(to, from, static_cast<std::size_t>(count) * sizeof(T),
                     cudaMemcpyHostToDevice));
    if constexpr (std::is_same_v<T, std::int8_t>) {
      const std::int64_t chunks = count / (kLanes * kChunk);
      check(launch(nullptr, arrange_weights, divide_up(chunks, kWarps), kThreads, 0,
                   reinterpret_cast<std::uint32_t*>(to), chunks));
    }
    return to;
  }
  float number() { return arrays_.number(); }
  void end() const { arrays_.end(); }

 private:
  Arrays arrays_;
  Memory& memory_;
};

}  // namespace
}  // namespace mpft::encoder::cuda

struct mpft_encoder {
  mpft::encoder::cuda::Memory weights, memory;
  std::vector<mpft::encoder::Block> blocks;
  mpft::encoder::Model model;
  mpft::encoder::cuda::Room room;
  int multiprocessors;
};

namespace mpft::encoder::cuda {
namespace {

void reserve(mpft_encoder& encoder, std::int64_t batch, std::int64_t count) {
  const Model& model = encoder.model;
  const auto head = static_cast<int>(model.shape.width / model.shape.heads);
  const std::int64_t tokens = batch * (count + 1);
  const std::int64_t wider = std::max({model.width, model.hidden, padded(model.shape.embedding)});
  if (batch < 1 || count < 1 || tokens * std::max(wider, kChannels * model.area) > INT32_MAX ||
      attention_bytes(head, static_cast<int>(count + 1)) > kMostShared) {
    throw Failure{MPFT_TOO_MANY_TOKENS};
  }
  encoder.room = {};
  encoder.memory.clear();
  Memory& memory = encoder.memory;
  Room room{};
  room.x = memory.zeros<float>(tokens * model.width);
  room.query = memory.zeros<float>(tokens * model.width);
  room.key = memory.zeros<float>(tokens * model.width);
  room.value = memory.zeros<float>(tokens * model.width);
  room.hidden = memory.zeros<float>(tokens * wider);
  room.key_row = tokens;
  room.scales = memory.zeros<float>(tokens);
  const auto chunks = [](std::int64_t inputs) { return static_cast<int>(inputs / kChunk); };
  room.quads = memory.zeros<Quad>(std::max(quads(tokens, chunks(wider)),
                                           kChannels * quads(batch * count, chunks(model.area))));
  room.batch = batch;
  room.count = count;
  encoder.room = room;
}

// CUDA loads a kernel when it is first launched, for which a capture is no time.
void load_kernels() {
  const auto load = [](auto... kernels) {
    cudaFuncAttributes attributes{};
    (check(cudaFuncGetAttributes(&attributes, kernels)), ...);
  };
  load(write_pixels, multiply<kWideTiles, false>, multiply<kNarrowTiles, true>, norm_tokens,
       quantise_normed, quantise_rows, attend, read_normed, project_normed, read_features);
}

// A call of the C interface: errors to statuses. None is left behind for others to find.
template <class Function>
int status_of(Function function) {
  try {
    function();
    return MPFT_OK;
  } catch (const Failure& failure) {
    cudaGetLastError();
    return failure.status;
  } catch (const std::invalid_argument&) {
    return MPFT_BAD_ARRAYS;
  } catch (const std::bad_alloc&) {
    return MPFT_NO_MEMORY;
  }
}

}  // namespace
}  // namespace mpft::encoder::cuda

namespace cuda = mpft::encoder::cuda;

// Copy a network, packed as packing.py says, to the current device, which must be current in every
// call. `sizes` are width, hidden, heads, cells, area, depth, taps and embedding. Waits until it is
// there, after which the arrays are not needed.
MPFT_EXPORT int mpft_encoder_make(const std::int64_t sizes[8], int quick_gelu,
                                  const void* const* arrays, const std::uint64_t* bytes,
                                  std::int32_t count, mpft_encoder** made) {
  namespace en = mpft::encoder;
  return cuda::status_of([&] {
    const en::Shape shape{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4],
                          sizes[5], sizes[6], sizes[7], quick_gelu != 0};
    std::vector<en::Array> parts;
    for (std::int32_t i = 0; i < count; ++i) {
      parts.push_back({arrays[i], static_cast<std::size_t>(bytes[i])});
    }
    auto encoder = std::make_unique<mpft_encoder>();
    int device = 0;
    cuda::check(cudaGetDevice(&device));
    cuda::check(cudaDeviceGetAttribute(&encoder->multiprocessors, cudaDevAttrMultiProcessorCount,
                                       device));
    cuda::Uploading uploading(parts, encoder->weights);
    encoder->model = en::Reading(shape, uploading).model(encoder->blocks);
    cuda::load_kernels();
    cuda::check(cudaDeviceSynchronize());
    *made = encoder.release();
  });
}

// Memory for views of up to `count` cells, `batch` at once, in the place of what there was; waits.
MPFT_EXPORT int mpft_encoder_reserve(mpft_encoder* encoder, std::int64_t batch,
                                     std::int64_t count) {
  return cuda::status_of([&] {
    cuda::check(cudaDeviceSynchronize());  // what was reserved before may be in use
    cuda::reserve(*encoder, batch, count);
    cuda::check(cudaDeviceSynchronize());
  });
}

// Enqueue on `stream` (a cudaStream_t; null is the default stream): of patches u8 [batch, count,
// 3 · area] at positions i32 [batch, count], each at least 0 and below `cells`, which is not
// checked, the logits f32 [batch]; all on the device. Allocates nothing and waits for nothing, so it
// can be captured in a CUDA graph. Calls share what was reserved: one must have run before the next.
MPFT_EXPORT int mpft_encoder_launch(const mpft_encoder* encoder, const std::uint8_t* patches,
                                    const std::int32_t* positions, std::int64_t batch,
                                    std::int64_t count, float* logits, void* stream) {
  return cuda::status_of([&] {
    if (batch == 0) return;
    if (batch < 0 || count < 1 || batch > encoder->room.batch || count > encoder->room.count) {
      throw cuda::Failure{MPFT_NO_ROOM};
    }
    cuda::Pass(encoder->model, encoder->room, encoder->multiprocessors,
               static_cast<cudaStream_t>(stream), batch, count)
        .run(patches, positions, logits);
  });
}

MPFT_EXPORT void mpft_encoder_free(mpft_encoder* encoder) { delete encoder; }
