// texture_patchify on a CUDA device: the C interface. Needs neither CUDA nor TensorRT headers.
#ifndef MPFT_TEXTURE_PATCHIFY_H
#define MPFT_TEXTURE_PATCHIFY_H

#include "../../mpft_cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

// What one call does. All pointers are to device memory of the calling thread's current device.
typedef struct mpft_texture_patchify_args {
  const uint8_t* frames;  // u8 [batch, size, size, 3]: pixels of a row adjacent
  uint64_t row_pitch;     // bytes from a row to the next, at least 3 * size
  uint64_t batch_stride;  // bytes from a frame to the next, at least size rows
  uint8_t* patches;       // out: u8 [batch, count, 3 * patch * patch], contiguous
  int32_t* positions;     // out: i32 [batch, count], ascending
  int32_t* scores;        // out: i32 [batch, (size / patch)^2]
  uint64_t seed;          // of the rule `random`
  int32_t batch;          // frames, 0 or more
  int32_t size;           // side of a frame in pixels, a multiple of patch
  int32_t patch;          // side of a cell in pixels, 4 to 64
  int32_t count;          // kept cells K, 1 to (size / patch)^2
  int32_t keep;           // 0 smooth, 1 textured, 2 random, 3 all (count is then every cell)
} mpft_texture_patchify_args;

// Largest number of cells of a frame, such as (1024 / 4)^2.
enum { MPFT_MAX_CELLS = 65536 };

// Enqueue the work on `stream` (a cudaStream_t; null is the default stream) and return.
// Allocates nothing and waits for nothing, so it can be captured in a CUDA graph.
// Returns an mpft_status, or MPFT_CUDA_ERROR plus the cudaError_t of the launch.
int mpft_texture_patchify_launch(const mpft_texture_patchify_args* args, void* stream);

// Enqueue likewise the means of 4 x 4 pixels, rounded, of views u8 [batch, size, size, 3]: from the
// top left, `side` of them along each side, to means u8 [batch, side, side, 3]; both contiguous.
int mpft_means_launch(const uint8_t* views, int32_t batch, int32_t size, int32_t side,
                      uint8_t* means, void* stream);

#ifdef __cplusplus
}
#endif
#endif
