// The device code of texture_patchify for ctypes: same arguments, plan and dispatch as on a device.
#include "cuda_on_host.hpp"

#include "dispatch.cuh"

namespace cuda = mpft::texture::cuda;

// `multiprocessors` stands for the device's; returns an mpft_status, or -1 for a faulty kernel.
extern "C" int run_on_host(const mpft_texture_patchify_args* args, int multiprocessors,
                           bool descending) {
  cuda::Plan plan;
  if (const int status = cuda::make_plan(*args, multiprocessors, plan)) return status;
  try {
    return cuda::run_plan(
        plan, [&](void (*kernel)(cuda::Problem), int blocks, int threads, std::uint32_t shared) {
          cuda_on_host::run(blocks, threads, shared, descending,
                            [&] { kernel(plan.problem); });
          return 0;
        });
  } catch (const std::runtime_error&) {
    return -1;
  }
}

extern "C" int means_on_host(const std::uint8_t* views, int batch, int size, int side,
                             std::uint8_t* means) {
  return cuda::run_means(views, batch, size, side, means, [&](cuda::Means problem, int blocks) {
    cuda_on_host::run(blocks, cuda::kScoreThreads, 0, false, [&] { cuda::mean_pixels(problem); });
    return 0;
  });
}

extern "C" const char* message(int status) { return cuda::message(status); }
