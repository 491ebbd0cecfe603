// The JPEG window decoder on a stranger's bytes, under sanitizers.
//
// The first four bytes say where the window is, the rest is the file. A window that is given must
// equal that part of the whole image as libjpeg decodes it with the same settings, and such a file is
// not called damaged.

#include <cstdlib>
#include <vector>

#include "window.hpp"

namespace jw = mpft::jpeg_window;

namespace {

constexpr std::uint64_t LARGEST = 1 << 22;  // pixels: what is larger only takes longer

// Height and width that the header tells; false if there is none.
bool read_sides(const std::uint8_t* data, std::size_t size, JDIMENSION& height, JDIMENSION& width) {
  jpeg_decompress_struct info;
  jw::Failure failure;
  jw::handle_errors(info, failure);
  if (setjmp(failure.back)) {
    jpeg_destroy_decompress(&info);
    return false;
  }
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, data, static_cast<unsigned long>(size));
  jpeg_read_header(&info, TRUE);
  height = info.image_height;
  width = info.image_width;
  jpeg_destroy_decompress(&info);
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 5) return 0;
  const std::uint8_t* file = data + 4;
  const std::size_t length = size - 4;
  JDIMENSION rows = 0, columns = 0;
  if (!read_sides(file, length, rows, columns)) return 0;
  if (std::uint64_t(rows) * columns > LARGEST) return 0;
  const JDIMENSION height = 1 + (rows - 1) * data[2] / 255, width = 1 + (columns - 1) * data[3] / 255;
  const JDIMENSION top = (rows - height) * data[0] / 255, left = (columns - width) * data[1] / 255;
  const bool damaged = jw::is_damaged(file, length);
  // Exactly as large as asked for, so that a byte too many is seen.
  std::vector<std::uint8_t> window(std::size_t(height) * width * 3);
  if (!jw::decode(file, length, top, left, height, width, window.data())) return 0;
  if (damaged) std::abort();
  std::vector<std::uint8_t> whole(std::size_t(rows) * columns * 3);
  if (!jw::decode(file, length, 0, 0, rows, columns, whole.data())) return 0;
  for (JDIMENSION row = 0; row < height; ++row) {
    const std::uint8_t* expected = whole.data() + (std::size_t(top + row) * columns + left) * 3;
    if (std::memcmp(window.data() + std::size_t(row) * width * 3, expected, width * 3)) std::abort();
  }
  return 0;
}
