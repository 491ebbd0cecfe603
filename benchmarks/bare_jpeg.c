// The peer of jpeg_window: libjpeg-turbo alone, decoding the rows of the window and no others.
// No margins, no checks of damage, no Python: what such a decode costs at least.
//
//     cc -O2 -shared -fPIC bare_jpeg.c -o bare_jpeg.so -ljpeg

#include <stdio.h>

#include <jpeglib.h>

int decode_rows(const unsigned char* data, unsigned long size, unsigned top, unsigned rows,
                unsigned left, unsigned columns, unsigned char* row) {
  struct jpeg_decompress_struct info;
  struct jpeg_error_mgr errors;
  info.err = jpeg_std_error(&errors);
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, data, size);
  jpeg_read_header(&info, TRUE);
  info.out_color_space = JCS_RGB;
  jpeg_start_decompress(&info);
  if (columns > 0) jpeg_crop_scanline(&info, &left, &columns);
  jpeg_skip_scanlines(&info, top);
  for (unsigned index = 0; index < rows; ++index) jpeg_read_scanlines(&info, &row, 1);
  jpeg_destroy_decompress(&info);
  return 0;
}
