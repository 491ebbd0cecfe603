// Stands for CUDA's header of this name: a device on the host, as far as our kernels use one.
//
// Work is done when it is enqueued. Memory begins as noise and ends where no memory is, so that
// what is read or written past it shows; tests set what fails, and read what was called.
#pragma once

#include "block.hpp"

enum cudaError_t { cudaSuccess = 0, cudaErrorMemoryAllocation = 2 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor
};
using cudaStream_t = void*;

struct dim3 {
  explicit dim3(unsigned count) : x(count) {}
  dim3() = default;
  unsigned x = 1;
};

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
};

struct Simulated {
  int multiprocessors = 1;
  bool descending = false;  // order of threads and warps
  int until_failure = -1;   // calls that may fail, before one does
  int launches = 0, others = 0, blocks = 0;  // kernels; other calls; of memory, not yet freed
  bool faulty = false;                       // a kernel did what would hang a device
  int mutant = 0;                            // of the sources, by number
};
inline Simulated simulated;

namespace cuda_on_host {

constexpr std::size_t kPage = 4096;

inline cudaError_t called(int& counter) {
  ++counter;
  return simulated.until_failure >= 0 && simulated.until_failure-- == 0 ? cudaErrorMemoryAllocation
                                                                        : cudaSuccess;
}

// Before the memory lies a page with its size.
inline std::size_t pages_of(std::size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

// What mma.m16n8k32 does, by the PTX ISA's tables of its fragments.
struct Fragments {
  std::int32_t* sums;
  const std::uint32_t* weights;
  std::uint32_t tokens[2];
  bool done;
};

inline void multiply_add(std::int32_t (&sums)[4], const std::uint32_t (&weights)[4],
                         std::uint32_t first, std::uint32_t second) {
  Fragments own{sums, weights, {first, second}, false};
  const std::uint64_t* all = exchange(reinterpret_cast<std::uint64_t>(&own));
  if (own.done) return;  // the first lane that goes on has computed for all
  const auto of = [all](int lane) -> Fragments& {
    return *reinterpret_cast<Fragments*>(all[lane]);
  };
  const auto byte = [](std::uint32_t word, int i) {
    return static_cast<std::int32_t>(static_cast<std::int8_t>(word >> (8 * i)));
  };
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      std::uint32_t sum = 0;
      for (int k = 0; k < 32; ++k) {
        const int four = k / 4 % 4;
        const std::uint32_t a = of(row % 8 * 4 + four).weights[row / 8 + k / 16 * 2];
        const std::uint32_t b = of(column * 4 + four).tokens[k / 16];
        sum += static_cast<std::uint32_t>(byte(a, k % 4) * byte(b, k % 4));
      }
      std::int32_t& to = of(row % 8 * 4 + column / 2).sums[row / 8 * 2 + column % 2];
      to = static_cast<std::int32_t>(static_cast<std::uint32_t>(to) + sum);
    }
  }
  for (int lane = 0; lane < kWarp; ++lane) of(lane).done = true;
}

}  // namespace cuda_on_host

inline void __syncwarp() { cuda_on_host::exchange(0); }

inline float __shfl_xor_sync(unsigned, float value, int mask) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits = static_cast<std::uint32_t>(
      cuda_on_host::exchange(bits)[(threadIdx.x % cuda_on_host::kWarp) ^ mask]);
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}

inline cudaError_t cudaMalloc(void** to, std::size_t bytes) {
  if (const cudaError_t error = cuda_on_host::called(simulated.others)) return error;
  const std::size_t room = cuda_on_host::pages_of(bytes);
  void* memory = mmap(nullptr, room + 2 * cuda_on_host::kPage, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return cudaErrorMemoryAllocation;
  auto* first = static_cast<unsigned char*>(memory);
  *reinterpret_cast<std::size_t*>(first) = room;
  first += cuda_on_host::kPage;
  mprotect(first + room, cuda_on_host::kPage, PROT_NONE);
  std::memset(first, 0xFF, room);
  *to = first + (room - bytes) / 256 * 256;  // as far to the end as CUDA's alignment lets it
  ++simulated.blocks;
  return cudaSuccess;
}

inline cudaError_t cudaFree(void* block) {
  ++simulated.others;
  auto* page = reinterpret_cast<unsigned char*>(
      reinterpret_cast<std::uintptr_t>(block) / cuda_on_host::kPage * cuda_on_host::kPage);
  unsigned char* first = page - cuda_on_host::kPage;
  munmap(first, *reinterpret_cast<std::size_t*>(first) + 2 * cuda_on_host::kPage);
  --simulated.blocks;
  return cudaSuccess;
}

inline cudaError_t cudaMemset(void* to, int value, std::size_t bytes) {
  std::memset(to, value, bytes);
  return cuda_on_host::called(simulated.others);
}

inline cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind) {
  std::memcpy(to, from, bytes);
  return cuda_on_host::called(simulated.others);
}

inline cudaError_t cudaDeviceSynchronize() { return cuda_on_host::called(simulated.others); }

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cuda_on_host::called(simulated.others);
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  *value = which == cudaDevAttrMultiProcessorCount ? simulated.multiprocessors : 8;
  return cuda_on_host::called(simulated.others);
}

struct cudaFuncAttributes {};
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel) {
  return cuda_on_host::called(simulated.others);
}

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "out of memory"; }

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  if (const cudaError_t error = cuda_on_host::called(simulated.launches)) return error;
  try {
    cuda_on_host::run(static_cast<int>(config->gridDim.x), static_cast<int>(config->blockDim.x),
                      static_cast<std::uint32_t>(config->dynamicSmemBytes), simulated.descending,
                      [&] { kernel(arguments...); });
  } catch (const std::runtime_error&) {
    simulated.faulty = true;
  }
  return cudaSuccess;
}

extern "C" inline __attribute__((used, visibility("default"))) Simulated* mpft_simulated() {
  return &simulated;
}
