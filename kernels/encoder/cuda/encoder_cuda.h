/* The encoder on a CUDA device: the C interface. Needs no CUDA headers. */
#ifndef MPFT_ENCODER_CUDA_H
#define MPFT_ENCODER_CUDA_H

#include "../../mpft_cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

// A network on the device that was current when it was made, which must be current in every call.
typedef struct mpft_encoder mpft_encoder;

// Copy a network to the device, packed as packing.py says. `sizes` are width, hidden, heads, cells,
// area, depth, taps and embedding. Waits until it is there, after which the arrays are not needed.
int mpft_encoder_make(const int64_t sizes[8], int quick_gelu, const void* const* arrays,
                      const uint64_t* bytes, int32_t count, mpft_encoder** made);

// Memory for views of up to `count` cells, `batch` at once, in the place of what there was; waits.
int mpft_encoder_reserve(mpft_encoder* encoder, int64_t batch, int64_t count);

// Enqueue on `stream` (a cudaStream_t; null is the default stream): of patches u8 [batch, count,
// 3 · area] at positions i32 [batch, count], each at least 0 and below `cells`, which is not
// checked, the logits f32 [batch]; all on the device. Allocates nothing and waits for nothing, so it
// can be captured in a CUDA graph. Calls share what was reserved: one must have run before the next.
int mpft_encoder_launch(const mpft_encoder* encoder, const uint8_t* patches,
                        const int32_t* positions, int64_t batch, int64_t count, float* logits,
                        void* stream);

void mpft_encoder_free(mpft_encoder* encoder);

#ifdef __cplusplus
}
#endif
#endif
