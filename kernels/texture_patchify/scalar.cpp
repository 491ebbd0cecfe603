// The plain version, straight from the rule: for each cell and each pair of the rule, walk the rows
// of the cell. What every other version must equal.
#include <algorithm>

#include "cpu.hpp"

namespace mpft::texture {

void score_scalar(const std::uint8_t* image, std::int64_t row_stride, std::int64_t size, int patch,
                  std::int32_t* scores) {
  for (std::int64_t top = 0; top < size; top += patch) {
    for (std::int64_t left = 0; left < size; left += patch) {
      const std::uint8_t* cell = image + top * row_stride + left * kChannels;
      std::int32_t total = 0;
      for (int direction = 0; direction < kPairs; ++direction) {
        const Pair offsets = pair(direction);
        const int rows = patch - std::max(offsets.row_a, offsets.row_b);
        const int bytes = kChannels * (patch - std::max(offsets.column_a, offsets.column_b));
        for (int row = 0; row < rows; ++row) {
          const std::uint8_t* a =
              cell + (row + offsets.row_a) * row_stride + offsets.column_a * kChannels;
          const std::uint8_t* b =
              cell + (row + offsets.row_b) * row_stride + offsets.column_b * kChannels;
          for (int i = 0; i < bytes; ++i) total += difference(a[i], b[i]);
        }
      }
      *scores++ = total;
    }
  }
}

}  // namespace mpft::texture
