// The Python module `_encoder`: the encoder on CPUs, for registry.py to call.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "encoder.hpp"

namespace nb = nanobind;
namespace en = mpft::encoder;

namespace {

using Part = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using Patches = nb::ndarray<const std::uint8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Positions = nb::ndarray<const std::int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Logits = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

const en::Version& find_version(const char* name) {
  for (const en::Version& version : en::versions()) {
    if (version.name == std::string_view(name)) return version;
  }
  throw nb::key_error(name);
}

void make(en::Encoder* self, const char* name, const std::vector<std::int64_t>& sizes,
          bool quick_gelu, const std::vector<Part>& parts, int threads) {
  if (sizes.size() != 8) throw nb::value_error("a network has eight sizes");
  const en::Shape shape{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4],
                        sizes[5], sizes[6], sizes[7], quick_gelu};
  std::vector<en::Array> arrays;
  for (const Part& part : parts) arrays.push_back({part.data(), part.nbytes()});
  const en::Version& version = find_version(name);
  nb::gil_scoped_release release;
  new (self) en::Encoder(version, shape, arrays, threads);
}

// registry.py explains to people what is wrong; this only keeps memory safe.
void logits(en::Encoder& self, const Patches& patches, const Positions& positions,
            const Logits& out) {
  const std::int64_t batch = static_cast<std::int64_t>(patches.shape(0));
  const std::int64_t count = static_cast<std::int64_t>(patches.shape(1));
  const std::int32_t* first = positions.data();
  const std::int64_t cells = self.shape().cells;
  const bool fit =
      count >= 1 && static_cast<std::int64_t>(patches.shape(2)) == 3 * self.shape().area &&
      positions.shape(0) == patches.shape(0) && positions.shape(1) == patches.shape(1) &&
      out.shape(0) == patches.shape(0) &&
      std::all_of(first, first + batch * count,
                  [cells](std::int32_t cell) { return cell >= 0 && cell < cells; });
  if (!fit) throw nb::value_error("arrays do not fit together");
  nb::gil_scoped_release release;
  self.logits(patches.data(), first, batch, count, out.data());
}

}  // namespace

NB_MODULE(_encoder, module) {
  nb::set_leak_warnings(false);  // who is told to end while an engine computes leaves it as it is
  module.attr("DEFINITION") = en::kDefinition;
  module.def("why_not", [](const char* name) -> std::optional<std::string> {
    const char* reason = find_version(name).why_not;
    return reason == nullptr ? std::nullopt : std::optional<std::string>(reason);
  }, nb::arg("name"), "Why a version does not run on this processor; None if it does.");
  nb::class_<en::Encoder>(module, "Encoder")
      .def("__init__", &make, nb::arg("name"), nb::arg("sizes"), nb::arg("quick_gelu"),
           nb::arg("arrays"), nb::arg("threads"), nb::keep_alive<1, 5>())
      .def("logits", &logits, nb::arg("patches").noconvert(), nb::arg("positions").noconvert(),
           nb::arg("out").noconvert(), "Write the logit of each view, without holding the GIL.");
}
