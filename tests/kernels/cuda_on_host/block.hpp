// Runs CUDA device code on the host, one block at a time: a fiber per thread, real barriers.
//
// Each warp in turn runs as far as it can, to the next barrier, in ascending or descending order:
// the most unequal progress that barriers allow, so that a missing one shows. Shared memory begins
// poisoned.
// A barrier that part of a block never reaches, or a warp operation without its whole warp, fails.
#pragma once

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <vector>

#define MPFT_CUDA_ON_HOST
#define __device__
#define __global__
#define __launch_bounds__(threads, blocks)

struct Index {
  unsigned x;
};
inline Index threadIdx, blockIdx, blockDim;

namespace cuda_on_host {

constexpr int kWarp = 32;
constexpr std::size_t kStackBytes = 64 * 1024;

enum class State { ready, at_barrier, at_warp_operation, done };

struct Fiber {
  ucontext_t context;
  State state;
  std::uint64_t offered;             // to the warp operation
  std::uint64_t received[kWarp];     // what every lane offered
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<unsigned char> shared;
  std::function<void()> body;
  ucontext_t scheduler;
  unsigned char* stacks = nullptr;
  std::size_t stack_count = 0;
};
inline Block block;

inline Fiber& self() { return block.fibers[threadIdx.x]; }
inline unsigned char* shared_memory() { return block.shared.data(); }

inline void wait(State state) {
  Fiber& fiber = self();
  fiber.state = state;
  swapcontext(&fiber.context, &block.scheduler);
}

// Offer a value to the warp; returns what its 32 lanes offered.
inline const std::uint64_t* exchange(std::uint64_t value) {
  self().offered = value;
  wait(State::at_warp_operation);
  return self().received;
}

inline void fiber_main() {
  block.body();
  wait(State::done);
}

inline bool all_in(int first, int last, State state) {
  return std::all_of(block.fibers.begin() + first, block.fibers.begin() + last,
                     [state](const Fiber& fiber) { return fiber.state == state; });
}

// Complete the warp operation that all lanes of the warp wait at. False if they do not.
inline bool release_warp(int first) {
  if (!all_in(first, first + kWarp, State::at_warp_operation)) return false;
  for (int lane = 0; lane < kWarp; ++lane) {
    Fiber& fiber = block.fibers[first + lane];
    for (int other = 0; other < kWarp; ++other) {
      fiber.received[other] = block.fibers[first + other].offered;
    }
    fiber.state = State::ready;
  }
  return true;
}

// Run a warp until each of its threads is done or waits for other warps.
inline void run_warp(int first, bool descending) {
  do {
    for (int i = 0; i < kWarp; ++i) {
      threadIdx.x = first + (descending ? kWarp - 1 - i : i);
      if (self().state == State::ready) swapcontext(&block.scheduler, &self().context);
    }
  } while (release_warp(first));
}

inline void prepare(int threads) {
  block.fibers.resize(threads);
  if (block.stack_count < block.fibers.size()) {
    block.stack_count = 1024;
    void* memory = mmap(nullptr, block.stack_count * kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("no memory for the stacks");
    block.stacks = static_cast<unsigned char*>(memory);
  }
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = block.fibers[i];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = block.stacks + i * kStackBytes;
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    fiber.state = State::ready;
    makecontext(&fiber.context, fiber_main, 0);
  }
}

// Run a grid of blocks of `threads` threads, each calling `body`.
inline void run(int blocks, int threads, std::uint32_t shared_bytes, bool descending,
                std::function<void()> body) {
  if (threads % kWarp) throw std::runtime_error("a block must be whole warps");
  block.body = std::move(body);
  blockDim.x = threads;
  for (int number = 0; number < blocks; ++number) {
    blockIdx.x = number;
    block.shared.assign(shared_bytes, 0xA5);
    prepare(threads);
    for (;;) {
      for (int i = 0; i < threads; i += kWarp) {
        run_warp(descending ? threads - kWarp - i : i, descending);
      }
      if (all_in(0, threads, State::done)) break;
      if (!all_in(0, threads, State::at_barrier)) {
        throw std::runtime_error("a barrier or warp operation was not reached by all");
      }
      for (Fiber& fiber : block.fibers) fiber.state = State::ready;
    }
  }
}

}  // namespace cuda_on_host

inline void __syncthreads() { cuda_on_host::wait(cuda_on_host::State::at_barrier); }

inline std::uint32_t __ballot_sync(unsigned, bool vote) {
  const std::uint64_t* votes = cuda_on_host::exchange(vote);
  std::uint32_t ballot = 0;
  for (int lane = 0; lane < cuda_on_host::kWarp; ++lane) {
    ballot |= static_cast<std::uint32_t>(votes[lane]) << lane;
  }
  return ballot;
}

inline std::uint64_t __shfl_down_sync(unsigned, std::uint64_t value, int distance) {
  const int lane = threadIdx.x % cuda_on_host::kWarp;
  const std::uint64_t* values = cuda_on_host::exchange(value);
  return lane + distance < cuda_on_host::kWarp ? values[lane + distance] : value;
}

inline int __clz(std::uint32_t bits) { return bits ? __builtin_clz(bits) : 32; }

inline int __popc(std::uint32_t bits) { return __builtin_popcount(bits); }

inline std::uint32_t __funnelshift_r(std::uint32_t low, std::uint32_t high, int shift) {
  return static_cast<std::uint32_t>((std::uint64_t{high} << 32 | low) >> (shift & 31));
}

inline std::uint32_t __vsadu4(std::uint32_t a, std::uint32_t b) {
  std::uint32_t sum = 0;
  for (int shift = 0; shift < 32; shift += 8) {
    sum += std::abs(static_cast<int>(a >> shift & 255) - static_cast<int>(b >> shift & 255));
  }
  return sum;
}

template <typename Sum, typename Value>
Sum atomicAdd(Sum* sum, Value value) {
  const Sum old = *sum;
  *sum += value;
  return old;
}

using std::min;
