// What the functions of the CUDA kernels' library return. Python finds them by kernels/cuda.py, which
// lists their arguments, too.
#pragma once

#include <cstdint>

// Of the functions and their arguments: another wherever one changes. INTERFACE of kernels/cuda.py.
#define MPFT_INTERFACE "1"

#define MPFT_EXPORT extern "C" __attribute__((visibility("default")))

enum mpft_status {
  MPFT_OK = 0,
  MPFT_BAD_ARGUMENTS = 1,
  MPFT_BAD_ARRAYS = 2,
  MPFT_NO_ROOM = 3,
  MPFT_TOO_MANY_TOKENS = 4,
  MPFT_NO_MEMORY = 5,
  MPFT_CUDA_ERROR = 1000  // this plus a cudaError_t
};

namespace mpft {

// In a line, what a status below MPFT_CUDA_ERROR means and what to do about it.
inline const char* text_of(int status) {
  switch (status) {
    case MPFT_OK: return "no error";
    case MPFT_BAD_ARGUMENTS:
      return "its arguments do not go together, or a view has more than 4,096 cells; use larger ones";
    case MPFT_BAD_ARRAYS: return "the network's arrays do not fit its shape";
    case MPFT_NO_ROOM:
      return "more views or cells than there is room for; reserve for the largest first";
    case MPFT_TOO_MANY_TOKENS:
      return "too many tokens: a view's cells and a head's components must be fewer than 1,500 "
             "together, and a batch's activations fewer than 2^31; split the batch";
    case MPFT_NO_MEMORY: return "no host memory is left";
    default: return "unknown status";
  }
}

}  // namespace mpft
