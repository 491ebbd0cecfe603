// The dynamic shared memory of a block. On a host (tests) it comes from the block's simulator.
#pragma once

namespace mpft {

__device__ inline unsigned char* shared_memory() {
#ifdef MPFT_CUDA_ON_HOST
  return cuda_on_host::shared_memory();
#else
  extern __shared__ __align__(16) unsigned char bytes[];
  return bytes;
#endif
}

}  // namespace mpft
