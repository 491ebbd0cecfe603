/* What the CUDA kernels' C interfaces share: statuses, and questions on the device. Needs no CUDA
   headers. */
#ifndef MPFT_CUDA_H
#define MPFT_CUDA_H

#include <stdint.h>

#define MPFT_EXPORT extern "C" __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

enum mpft_status {
  MPFT_OK = 0,
  MPFT_NULL_POINTER = 1,
  MPFT_BAD_BATCH = 2,
  MPFT_BAD_PATCH = 3,
  MPFT_BAD_SIZE = 4,
  MPFT_BAD_COUNT = 5,
  MPFT_BAD_KEEP = 6,
  MPFT_BAD_PITCH = 7,
  MPFT_BAD_ALIGNMENT = 8,
  MPFT_TOO_LARGE = 9,
  MPFT_BAD_ARRAYS = 10,
  MPFT_NO_ROOM = 11,
  MPFT_TOO_MANY_TOKENS = 12,
  MPFT_NO_MEMORY = 13,
  MPFT_CUDA_ERROR = 1000  // this plus a cudaError_t
};

// What a status means and what to do about it: one line of English, never null, never freed.
const char* mpft_message(int status);

// MPFT_OK if the driver works and there is a device, or which of the two fails; `capability` is then
// the current device's compute capability, such as 87.
int mpft_probe(int* capability);

// The device that a pointer belongs to and the current one. `owner` is -1 for host memory.
int mpft_device_of(const void* pointer, int* owner, int* current);

#ifdef __cplusplus
}

namespace mpft {

inline const char* text_of(int status) {
  switch (status) {
    case MPFT_OK: return "no error";
    case MPFT_NULL_POINTER: return "a pointer is null; pass device memory for every array";
    case MPFT_BAD_BATCH: return "batch is negative";
    case MPFT_BAD_PATCH: return "patch must be 4 to 64 pixels";
    case MPFT_BAD_SIZE: return "size must be a positive multiple of patch";
    case MPFT_BAD_COUNT:
      return "count must be 1 to the number of cells, and all of them for the rule 'all'";
    case MPFT_BAD_KEEP: return "keep must be 0 (smooth), 1 (textured), 2 (random) or 3 (all)";
    case MPFT_BAD_PITCH:
      return "row_pitch must be at least 3 * size bytes and batch_stride at least size rows";
    case MPFT_BAD_ALIGNMENT: return "outputs must be aligned to the size of their elements";
    case MPFT_TOO_LARGE:
      return "too many cells: at most 65536 a frame, and fewer than 2^31 blocks a call; split the "
             "batch or use larger cells";
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
#endif
#endif
