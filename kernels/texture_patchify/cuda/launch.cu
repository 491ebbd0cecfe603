// The C interface over the kernels: check, launch, and say what went wrong.
#include <string>

#include "../../encoder/encoder.hpp"
#include "../../launch.cuh"
#include "../../mpft_cuda.h"
#include "kernels.cuh"

namespace {

int status_of(cudaError_t error) {
  return error == cudaSuccess ? MPFT_OK : MPFT_CUDA_ERROR + static_cast<int>(error);
}

int attribute(int& value, cudaDeviceAttr which) {
  int device = 0;
  if (const cudaError_t error = cudaGetDevice(&device)) return status_of(error);
  return status_of(cudaDeviceGetAttribute(&value, which, device));
}

template <int Patch>
int run(const mpft::texture::cuda::Problem& problem, cudaStream_t stream) {
  namespace cuda = mpft::texture::cuda;
  if (const cudaError_t error =
          mpft::launch(stream, cuda::score_bands<Patch>, problem.batch * problem.grid,
                       cuda::kThreads, sizeof(std::int32_t) * problem.grid, problem)) {
    return status_of(error);
  }
  return status_of(mpft::launch(stream, cuda::select_and_pack<Patch>,
                                problem.batch * problem.blocks_per_view, cuda::kThreads,
                                cuda::selection_bytes(problem), problem));
}

}  // namespace

// Enqueue on `stream` (a cudaStream_t) of the current device: of views u8 [batch, size, size, 3] the
// patches u8 [batch, count, 3 · patch²], positions i32 [batch, count] and scores i32 [batch, cells].
// Arrays and rows of views begin at multiples of 16 bytes; views follow each other without a gap.
// `keep` is a Keep, and `seed` of the rule `random`. Allocates nothing and waits for nothing, so it
// can be captured in a CUDA graph.
MPFT_EXPORT int mpft_texture_patchify_launch(const std::uint8_t* views, std::int32_t batch,
                                             std::int32_t size, std::int32_t patch,
                                             std::int32_t keep, std::int32_t count,
                                             std::uint64_t seed, std::uint8_t* patches,
                                             std::int32_t* positions, std::int32_t* scores,
                                             void* stream) {
  namespace cuda = mpft::texture::cuda;
  cuda::Problem problem{};
  problem.views = views;
  problem.patches = patches;
  problem.positions = positions;
  problem.scores = scores;
  problem.seed = seed;
  problem.batch = batch;
  problem.size = size;
  problem.patch = patch;
  problem.count = count;
  problem.keep = static_cast<mpft::texture::Keep>(keep);
  if (!cuda::valid(problem)) return MPFT_BAD_ARGUMENTS;
  if (batch == 0) return MPFT_OK;
  int processors = 0;
  if (const int status = attribute(processors, cudaDevAttrMultiProcessorCount)) return status;
  cuda::complete(problem, processors);
  // Fast paths: what CLIP has.
  switch (patch) {
    case 14: return run<14>(problem, static_cast<cudaStream_t>(stream));
    case 16: return run<16>(problem, static_cast<cudaStream_t>(stream));
    default: return run<0>(problem, static_cast<cudaStream_t>(stream));
  }
}

// Enqueue likewise the means of 4 x 4 pixels, rounded, of such views: from the top left, `side` of
// them along each side, to means u8 [batch, side, side, 3], which lie as views do.
MPFT_EXPORT int mpft_means_launch(const std::uint8_t* views, std::int32_t batch, std::int32_t size,
                                  std::int32_t side, std::uint8_t* means, void* stream) {
  namespace cuda = mpft::texture::cuda;
  if (batch < 0 || side < 1 || 4 * std::int64_t{side} > size ||
      std::int64_t{mpft::texture::kChannels} * side * side * batch > INT32_MAX) {
    return MPFT_BAD_ARGUMENTS;
  }
  const int total = mpft::texture::kChannels * side * side * batch;
  if (total == 0) return MPFT_OK;
  if (!cuda::aligned(views, means)) return MPFT_BAD_ARGUMENTS;
  return status_of(mpft::launch(static_cast<cudaStream_t>(stream), cuda::mean_pixels,
                                cuda::divide_up(total, cuda::kThreads), cuda::kThreads, 0,
                                cuda::Means{views, means, size, side, total}));
}

// The definition of the network and the interface that this was built from, such as "2.1"; never null,
// never freed.
MPFT_EXPORT const char* mpft_definition() {
  static const std::string text = std::string(mpft::encoder::kDefinition) + "." + MPFT_INTERFACE;
  return text.c_str();
}

// What a status means, in a line of English; never null, never freed.
MPFT_EXPORT const char* mpft_message(int status) {
  if (status < MPFT_CUDA_ERROR) return mpft::text_of(status);
  return cudaGetErrorString(static_cast<cudaError_t>(status - MPFT_CUDA_ERROR));
}

// Whether the driver works and there is a device; `capability` is then that of the current one, such
// as 87.
MPFT_EXPORT int mpft_probe(int* capability) {
  int major = 0, minor = 0;
  if (const int status = attribute(major, cudaDevAttrComputeCapabilityMajor)) return status;
  if (const int status = attribute(minor, cudaDevAttrComputeCapabilityMinor)) return status;
  *capability = 10 * major + minor;
  return MPFT_OK;
}
