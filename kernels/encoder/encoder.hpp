// The encoder on CPUs: kept cells of views in, logits out. Its definition is oracle.py, which every
// version equals in every bit; see README.md.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace mpft::encoder {

// Version of the definition that this computes: DEFINITION of oracle.py.
inline constexpr char kDefinition[] = "2";

// Sizes of a network.
struct Shape {
  std::int64_t width, hidden, heads;
  std::int64_t cells;  // of a view, N
  std::int64_t area;   // pixels of a cell, p · p
  std::int64_t depth;  // blocks
  std::int64_t taps;   // of them, the last ones, after which the class token is read
  std::int64_t embedding;  // features that are divided by their length; 0 where they are not
  bool quick_gelu;     // else GELU by erf
};

// One of a network's arrays: contiguous, float32 or int8, padded; see kernel.hpp.
struct Array {
  const void* data;
  std::size_t bytes;
};

struct Kernel;  // kernel.hpp

struct Version {
  const char* name;
  const Kernel* kernel;
  const char* why_not;  // null where this version runs; else the reason that it does not
};

inline constexpr int kVersions = 4;

// Every version, the fastest first, as this processor can run them.
const std::array<Version, kVersions>& versions();

// A network made ready for one version, and the threads that run it.
class Encoder {
 public:
  // Reads the arrays where they are, packed as packing.py says, as long as it lives. Throws
  // std::invalid_argument where they do not fit the shape.
  Encoder(const Version& version, const Shape& shape, const std::vector<Array>& arrays,
          int threads);
  Encoder(const Encoder&) = delete;
  Encoder& operator=(const Encoder&) = delete;
  ~Encoder();

  const Shape& shape() const;

  // Logits [batch] of patches [batch, count, 3 · area] at positions [batch, count], each at least 0
  // and below `cells`. Calls from several threads take turns. Memory is kept for the largest count
  // so far.
  void logits(const std::uint8_t* patches, const std::int32_t* positions, std::int64_t batch,
              std::int64_t count, float* out);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace mpft::encoder
