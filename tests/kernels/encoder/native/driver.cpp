// Runs a version of the encoder without Python.
//
//   driver VERSION    cases from stdin (Case.packed of encoder_cases.py), their logits to stdout;
//                     exits with 1 where the version does not run, 2 where a case does not fit
//
// Views and logits lie at the ends of their memory, so that a sanitizer sees what goes past them.
#include <cstdio>
#include <exception>
#include <string_view>
#include <vector>

#include "encoder.hpp"

namespace {
namespace en = mpft::encoder;

template <class T>
bool read(std::vector<T>& to, std::int64_t count) {
  to.resize(static_cast<std::size_t>(count));
  return std::fread(to.data(), sizeof(T), to.size(), stdin) == to.size();
}

int run(const en::Version& version) {
  std::vector<std::int64_t> numbers, bytes;
  while (read(numbers, 13)) {
    const en::Shape shape{numbers[0], numbers[1], numbers[2], numbers[3], numbers[4],
                          numbers[5], numbers[6], numbers[7], numbers[8] != 0};
    const std::int64_t batch = numbers[10], count = numbers[11];
    std::vector<std::vector<char>> parts(static_cast<std::size_t>(numbers[12]));
    std::vector<en::Array> arrays;
    for (std::vector<char>& part : parts) {
      if (!read(bytes, 1) || !read(part, bytes[0])) return 2;
      arrays.push_back({part.data(), part.size()});
    }
    std::vector<std::uint8_t> patches;
    std::vector<std::int32_t> positions;
    if (!read(patches, batch * count * 3 * shape.area) || !read(positions, batch * count)) return 2;
    en::Encoder encoder(version, shape, arrays, static_cast<int>(numbers[9]));
    std::vector<float> logits(static_cast<std::size_t>(batch));
    encoder.logits(patches.data(), positions.data(), batch, count, logits.data());
    std::fwrite(logits.data(), sizeof(float), logits.size(), stdout);
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) return 2;
  for (const en::Version& version : en::versions()) {
    if (version.name != std::string_view(arguments[1]) || version.why_not != nullptr) continue;
    try {
      return run(version);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "driver: %s\n", error.what());
      return 2;
    }
  }
  std::fprintf(stderr, "driver: no version %s here\n", arguments[1]);
  return 1;
}
