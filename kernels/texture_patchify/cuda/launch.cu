// The C interface over the kernels: plan, launch, and say what went wrong.
#include <cuda_runtime.h>

#include "dispatch.cuh"

#define MPFT_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

int status_of(cudaError_t error) {
  return error == cudaSuccess ? MPFT_OK : MPFT_CUDA_ERROR + static_cast<int>(error);
}

int multiprocessors(int& count) {
  int device = 0;
  if (const cudaError_t error = cudaGetDevice(&device)) return status_of(error);
  return status_of(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
}

}  // namespace

MPFT_EXPORT int mpft_texture_patchify_launch(const mpft_texture_patchify_args* args, void* stream) {
  namespace cuda = mpft::texture::cuda;
  if (!args) return MPFT_NULL_POINTER;
  if (const int status = cuda::check(*args)) return status;
  int processors = 0;
  if (const int status = multiprocessors(processors)) return status;
  cuda::Plan plan;
  if (const int status = cuda::make_plan(*args, processors, plan)) return status;
  return cuda::run_plan(
      plan, [&](void (*kernel)(cuda::Problem), int blocks, int threads, std::uint32_t shared) {
        void* parameters[] = {&plan.problem};
        return status_of(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(blocks),
                                          dim3(threads), parameters, shared,
                                          static_cast<cudaStream_t>(stream)));
      });
}

MPFT_EXPORT int mpft_means_launch(const uint8_t* views, int32_t batch, int32_t size, int32_t side,
                                  uint8_t* means, void* stream) {
  namespace cuda = mpft::texture::cuda;
  return cuda::run_means(views, batch, size, side, means, [&](cuda::Means problem, int blocks) {
    void* parameters[] = {&problem};
    return status_of(cudaLaunchKernel(reinterpret_cast<const void*>(cuda::mean_pixels),
                                      dim3(blocks), dim3(cuda::kScoreThreads), parameters, 0,
                                      static_cast<cudaStream_t>(stream)));
  });
}

MPFT_EXPORT const char* mpft_texture_patchify_message(int status) {
  if (status >= MPFT_CUDA_ERROR) {
    return cudaGetErrorString(static_cast<cudaError_t>(status - MPFT_CUDA_ERROR));
  }
  return mpft::texture::cuda::message(status);
}

MPFT_EXPORT int mpft_cuda_probe(void) {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess) return status_of(error);
  return devices > 0 ? MPFT_OK : status_of(cudaErrorNoDevice);
}

MPFT_EXPORT int mpft_cuda_device_of(const void* pointer, int* owner, int* current) {
  if (!owner || !current) return MPFT_NULL_POINTER;
  cudaPointerAttributes attributes{};
  if (const cudaError_t error = cudaPointerGetAttributes(&attributes, pointer)) {
    return status_of(error);
  }
  const bool on_device = attributes.type == cudaMemoryTypeDevice ||
                         attributes.type == cudaMemoryTypeManaged;
  *owner = on_device ? attributes.device : -1;
  return status_of(cudaGetDevice(current));
}
