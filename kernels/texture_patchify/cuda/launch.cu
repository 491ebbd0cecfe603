// The C interface over the kernels: plan, launch, and say what went wrong.
#include "../../launch.cuh"
#include "dispatch.cuh"

namespace {

int status_of(cudaError_t error) {
  return error == cudaSuccess ? MPFT_OK : MPFT_CUDA_ERROR + static_cast<int>(error);
}

int attribute(int& value, cudaDeviceAttr which) {
  int device = 0;
  if (const cudaError_t error = cudaGetDevice(&device)) return status_of(error);
  return status_of(cudaDeviceGetAttribute(&value, which, device));
}

}  // namespace

MPFT_EXPORT int mpft_texture_patchify_launch(const mpft_texture_patchify_args* args, void* stream) {
  namespace cuda = mpft::texture::cuda;
  if (!args) return MPFT_NULL_POINTER;
  if (const int status = cuda::check(*args)) return status;
  int processors = 0;
  if (const int status = attribute(processors, cudaDevAttrMultiProcessorCount)) return status;
  cuda::Plan plan;
  if (const int status = cuda::make_plan(*args, processors, plan)) return status;
  return cuda::run_plan(
      plan, [&](void (*kernel)(cuda::Problem), int blocks, int threads, std::uint32_t shared) {
        return status_of(mpft::launch(static_cast<cudaStream_t>(stream), kernel, blocks, threads,
                                      shared, plan.problem));
      });
}

MPFT_EXPORT int mpft_means_launch(const uint8_t* views, int32_t batch, int32_t size, int32_t side,
                                  uint8_t* means, void* stream) {
  namespace cuda = mpft::texture::cuda;
  return cuda::run_means(views, batch, size, side, means, [&](cuda::Means problem, int blocks) {
    return status_of(mpft::launch(static_cast<cudaStream_t>(stream), cuda::mean_pixels, blocks,
                                  cuda::kScoreThreads, 0, problem));
  });
}

MPFT_EXPORT const char* mpft_message(int status) {
  if (status < MPFT_CUDA_ERROR) return mpft::text_of(status);
  return cudaGetErrorString(static_cast<cudaError_t>(status - MPFT_CUDA_ERROR));
}

MPFT_EXPORT int mpft_probe(int* capability) {
  int major = 0, minor = 0;
  if (const int status = attribute(major, cudaDevAttrComputeCapabilityMajor)) return status;
  if (const int status = attribute(minor, cudaDevAttrComputeCapabilityMinor)) return status;
  *capability = 10 * major + minor;
  return MPFT_OK;
}

MPFT_EXPORT int mpft_device_of(const void* pointer, int* owner, int* current) {
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
