// The Python module `_native`: texture_patchify on CPUs, for registry.py to call.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <initializer_list>
#include <string>
#include <string_view>

#include "cpu.hpp"

namespace nb = nanobind;
namespace tp = mpft::texture;

namespace {

using Images = nb::ndarray<const std::uint8_t, nb::ndim<4>, nb::device::cpu>;
using Bytes = nb::ndarray<std::uint8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<std::int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

const tp::Version& find_version(const char* name) {
  for (const tp::Version& version : tp::versions()) {
    if (version.name == std::string_view(name)) return version;
  }
  throw nb::key_error(name);
}

tp::Keep parse_keep(std::string_view kind) {
  if (kind == "smooth") return tp::Keep::smooth;
  if (kind == "textured") return tp::Keep::textured;
  if (kind == "random") return tp::Keep::random;
  if (kind == "all") return tp::Keep::all;
  throw nb::value_error("unknown keep rule");
}

// interop.py explains to people what is wrong; this only keeps memory safe.
void require(bool condition) {
  if (!condition) throw nb::value_error("arrays do not fit together");
}

template <class Array>
void require_shape(const Array& array, std::initializer_list<std::int64_t> shape) {
  std::size_t axis = 0;
  for (const std::int64_t side : shape) {
    require(static_cast<std::int64_t>(array.shape(axis++)) == side);
  }
}

void run(const char* name, const Images& images, int patch, const char* keep, std::uint64_t seed,
         const Bytes& patches, const Ints& positions, const Ints& scores) {
  const tp::Version& version = find_version(name);
  if (version.why_not != nullptr) throw nb::value_error(version.why_not);
  const tp::Frames frames{images.data(), static_cast<std::int64_t>(images.shape(0)),
                          static_cast<std::int64_t>(images.shape(1)), images.stride(0),
                          images.stride(1)};
  const tp::Options options{patch, parse_keep(keep), static_cast<std::int64_t>(positions.shape(1)),
                            seed};
  require(patch >= tp::kMinPatch && patch <= tp::kMaxPatch && frames.size > 0 &&
          frames.size % patch == 0 && images.shape(2) == images.shape(1) &&
          images.shape(3) == tp::kChannels);
  // The strides of an empty batch mean nothing.
  require(frames.batch == 0 || (images.stride(2) == tp::kChannels && images.stride(3) == 1));
  const std::int64_t grid = frames.size / patch;
  require(options.count >= 1 && options.count <= grid * grid &&
          (options.keep != tp::Keep::all || options.count == grid * grid));
  require_shape(patches,
                {frames.batch, options.count, std::int64_t{tp::kChannels} * patch * patch});
  require_shape(positions, {frames.batch, options.count});
  require_shape(scores, {frames.batch, grid * grid});
  const tp::Output output{patches.data(), positions.data(), scores.data()};
  nb::gil_scoped_release release;
  tp::run(version, frames, options, output);
}

}  // namespace

NB_MODULE(_native, module) {
  module.def("why_not", [](const char* name) -> std::optional<std::string> {
    const char* reason = find_version(name).why_not;
    return reason == nullptr ? std::nullopt : std::optional<std::string>(reason);
  }, nb::arg("name"), "Why a version does not run on this processor; None if it does.");
  module.def("run", &run, nb::arg("name"), nb::arg("images").noconvert(), nb::arg("patch"),
             nb::arg("keep"), nb::arg("seed"), nb::arg("patches").noconvert(),
             nb::arg("positions").noconvert(), nb::arg("scores").noconvert(),
             "Apply the rule and write into the three outputs, without holding the GIL.");
}
