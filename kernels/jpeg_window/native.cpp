// Python's door to window.hpp.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "window.hpp"

namespace nb = nanobind;

namespace {

using Window = nb::ndarray<std::uint8_t, nb::shape<-1, -1, 3>, nb::c_contig, nb::device::cpu>;

bool decode_into(nb::bytes data, JDIMENSION top, JDIMENSION left, Window out) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(data.c_str());
  const std::size_t size = data.size();
  const auto height = static_cast<JDIMENSION>(out.shape(0));
  const auto width = static_cast<JDIMENSION>(out.shape(1));
  std::uint8_t* target = out.data();
  nb::gil_scoped_release release;
  return mpft::jpeg_window::decode(bytes, size, top, left, height, width, target);
}

bool is_damaged(nb::bytes data) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(data.c_str());
  const std::size_t size = data.size();
  nb::gil_scoped_release release;
  return mpft::jpeg_window::is_damaged(bytes, size);
}

}  // namespace

NB_MODULE(_jpeg_window, module) {
  module.def("decode_into", &decode_into, nb::arg("data"), nb::arg("top"), nb::arg("left"),
             nb::arg("out"));
  module.def("is_damaged", &is_damaged, nb::arg("data"));
}
