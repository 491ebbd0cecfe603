// One window of a JPEG, byte for byte as a decode of the whole image has it.
//
// libjpeg-turbo entropy-decodes the whole file, as it must to tell whether it is sound, and
// transforms only the rows of the window and the columns around it. Upsampling of colour looks at
// neighbours, so MARGIN columns more than asked for are decoded on both sides; rows need none, since
// jpeg_skip_scanlines keeps their neighbours.
//
// Whatever is unusual (CMYK, 12 bits, warnings, a file that ends early) gives no window: the caller
// decodes the whole image and tells what is wrong.
#pragma once

#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include <jpeglib.h>

#include <jerror.h>

namespace mpft::jpeg_window {

constexpr JDIMENSION MARGIN = 32;  // the widest MCU of libjpeg

struct Failure {
  jpeg_error_mgr base;  // first: libjpeg hands out a pointer to it
  std::jmp_buf back;
  bool damaged = false;  // pixels were made up
};

// Whether libjpeg warns of data that it could not read, and goes on with pixels of its own. Bytes too
// many behind the last row, as some cameras write, take nothing away.
inline bool tells_damage(const jpeg_error_mgr& warning) {
  switch (warning.msg_code) {
    case JWRN_ARITH_BAD_CODE:
    case JWRN_HIT_MARKER:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_JPEG_EOF:
    case JWRN_MUST_RESYNC:
      return true;
    case JWRN_EXTRANEOUS_DATA:
      return warning.msg_parm.i[1] != JPEG_EOI;
    default:
      return false;
  }
}

inline void leave(j_common_ptr info) {
  std::longjmp(reinterpret_cast<Failure*>(info->err)->back, 1);
}

inline void count(j_common_ptr info, int level) {
  if (level >= 0) return;
  ++info->err->num_warnings;
  if (tells_damage(*info->err)) reinterpret_cast<Failure*>(info->err)->damaged = true;
}

inline void stay_silent(j_common_ptr) {}

// Errors are to leave for `failure.back`, warnings are counted, and nothing is printed.
inline void handle_errors(jpeg_decompress_struct& info, Failure& failure) {
  info.err = jpeg_std_error(&failure.base);
  failure.base.error_exit = leave;
  failure.base.emit_message = count;
  failure.base.output_message = stay_silent;
}

// Rows [top, top + height) and columns [left, left + width) as RGB. No C++ object lives here, for
// libjpeg's errors leave by longjmp.
inline bool decode(const std::uint8_t* data, std::size_t size, JDIMENSION top, JDIMENSION left,
                   JDIMENSION height, JDIMENSION width, std::uint8_t* out) {
  jpeg_decompress_struct info;
  Failure failure;
  handle_errors(info, failure);
  if (setjmp(failure.back)) {
    jpeg_destroy_decompress(&info);
    return false;
  }
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, data, static_cast<unsigned long>(size));
  jpeg_read_header(&info, TRUE);
  const bool known = info.jpeg_color_space == JCS_YCbCr || info.jpeg_color_space == JCS_RGB ||
                     info.jpeg_color_space == JCS_GRAYSCALE;
  if (!known || info.data_precision != 8 ||
      std::uint64_t(top) + height > info.image_height ||
      std::uint64_t(left) + width > info.image_width) {
    jpeg_destroy_decompress(&info);
    return false;
  }
  info.out_color_space = JCS_RGB;
  info.dct_method = JDCT_ISLOW;
  info.do_fancy_upsampling = TRUE;
  jpeg_start_decompress(&info);

  JDIMENSION first = left > MARGIN ? left - MARGIN : 0;
  JDIMENSION columns = left + width + MARGIN;
  columns = (columns < info.output_width ? columns : info.output_width) - first;
  if (columns < info.output_width) jpeg_crop_scanline(&info, &first, &columns);
  if (first > left || left - first + width > info.output_width) {  // so that memory stays safe
    jpeg_destroy_decompress(&info);
    return false;
  }
  JSAMPARRAY row = info.mem->alloc_sarray(reinterpret_cast<j_common_ptr>(&info), JPOOL_IMAGE,
                                          info.output_width * 3, 1);
  if (top > 0) jpeg_skip_scanlines(&info, top);
  for (JDIMENSION index = 0; index < height; ++index) {
    jpeg_read_scanlines(&info, row, 1);
    std::memcpy(out + std::size_t(index) * width * 3, row[0] + std::size_t(left - first) * 3,
                std::size_t(width) * 3);
  }
  // The rest is read, though not transformed: a file that is damaged below the window is damaged.
  // Skipping up to the end would not read it, so the last row is decoded.
  if (info.output_scanline < info.output_height) {
    jpeg_skip_scanlines(&info, info.output_height - info.output_scanline - 1);
    jpeg_read_scanlines(&info, row, 1);
  }
  const bool sound = jpeg_finish_decompress(&info) && info.err->num_warnings == 0;
  jpeg_destroy_decompress(&info);
  return sound;
}

// Whether pixels of a JPEG would be made up. False as well where none would be had.
inline bool is_damaged(const std::uint8_t* data, std::size_t size) {
  jpeg_decompress_struct info;
  Failure failure;
  handle_errors(info, failure);
  if (setjmp(failure.back)) {
    jpeg_destroy_decompress(&info);
    return false;
  }
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, data, static_cast<unsigned long>(size));
  jpeg_read_header(&info, TRUE);
  jpeg_start_decompress(&info);
  JSAMPARRAY row =
      info.mem->alloc_sarray(reinterpret_cast<j_common_ptr>(&info), JPOOL_IMAGE,
                             info.output_width * JDIMENSION(info.output_components), 1);
  jpeg_skip_scanlines(&info, info.output_height - 1);
  jpeg_read_scanlines(&info, row, 1);
  jpeg_finish_decompress(&info);
  jpeg_destroy_decompress(&info);
  return failure.damaged;
}

}  // namespace mpft::jpeg_window
