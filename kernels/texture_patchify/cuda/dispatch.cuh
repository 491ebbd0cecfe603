// From a plan to launches of the right instantiations.
#pragma once

#include "kernels.cuh"

namespace mpft::texture::cuda {

// `launch(kernel, blocks, threads, shared_bytes)` returns 0 or a status, which ends the call.
template <int Patch, int Count, typename Launch>
int run_plan_for(const Plan& plan, Launch launch) {
  const Problem& problem = plan.problem;
  const auto band_bytes = static_cast<std::uint32_t>(sizeof(std::int32_t) * problem.grid);
  const int status =
      launch(score_bands<Patch>, plan.batch * problem.grid, kScoreThreads, band_bytes);
  if (status) return status;
  return launch(select_and_pack<Patch, Count>, plan.batch * problem.blocks_per_frame,
                kSelectThreads, selection_bytes(problem.cells, problem.slots_per_block));
}

template <int Patch, typename Launch>
int run_plan_for_patch(const Plan& plan, Launch launch) {
  switch (plan.problem.count) {
    case 63: return run_plan_for<Patch, 63>(plan, launch);
    case 95: return run_plan_for<Patch, 95>(plan, launch);
    case 96: return run_plan_for<Patch, 96>(plan, launch);
    case 127: return run_plan_for<Patch, 127>(plan, launch);
    case 191: return run_plan_for<Patch, 191>(plan, launch);
    default: return run_plan_for<Patch, 0>(plan, launch);
  }
}

// Fast paths: patches of 14 and 16 pixels, and K + 1 tokens that fill tiles of a matmul.
template <typename Launch>
int run_plan(const Plan& plan, Launch launch) {
  if (plan.batch == 0) return MPFT_OK;
  switch (plan.problem.patch) {
    case 14: return run_plan_for_patch<14>(plan, launch);
    case 16: return run_plan_for_patch<16>(plan, launch);
    default: return run_plan_for<0, 0>(plan, launch);
  }
}

// The means of `side`² squares of each view.
template <typename Launch>
int run_means(const std::uint8_t* views, int batch, int size, int side, std::uint8_t* means,
              Launch launch) {
  if (batch < 0) return MPFT_BAD_BATCH;
  if (size < 1 || side < 0 || 4 * side > size) return MPFT_BAD_SIZE;
  if (std::int64_t{kChannels} * side * side * batch > INT32_MAX) return MPFT_TOO_LARGE;
  const int total = kChannels * side * side * batch;
  if (total == 0) return MPFT_OK;
  if (!views || !means) return MPFT_NULL_POINTER;
  return launch(Means{views, means, size, side, total}, divide_up(total, kScoreThreads));
}

}  // namespace mpft::texture::cuda
