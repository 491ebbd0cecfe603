// The CPU kernel behind a C function, for ctypes.
#include <string_view>

#include "cpu.hpp"

// Applies a version; returns 0, or 1 if there is none of that name which runs here.
extern "C" __attribute__((visibility("default"))) int texture_patchify(
    const char* name, const std::uint8_t* images, std::int64_t batch, std::int64_t size,
    std::int64_t batch_stride, std::int64_t row_stride, int patch, int keep, std::int64_t count,
    std::uint64_t seed, std::uint8_t* patches, std::int32_t* positions, std::int32_t* scores) {
  namespace tp = mpft::texture;
  for (const tp::Version& version : tp::versions()) {
    if (version.name != std::string_view(name) || version.why_not != nullptr) continue;
    tp::run(version, {images, batch, size, batch_stride, row_stride},
            {patch, static_cast<tp::Keep>(keep), count, seed}, {patches, positions, scores});
    return 0;
  }
  return 1;
}
