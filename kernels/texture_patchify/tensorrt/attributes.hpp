// What the TensorRT plugin is called, what it takes, and how shapes follow: everything that needs no
// TensorRT headers, so that it is compiled and tested anywhere. plugin.py says the same in Python.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

#include "../cuda/texture_patchify.h"
#include "../rule.hpp"

namespace mpft::texture::tensorrt {

inline constexpr const char* kName = "texture_patchify";
inline constexpr const char* kVersion = "1";
inline constexpr const char* kNamespace = "mpft";

// Values of nvinfer1::PluginFieldType and nvinfer1::DataType that are used here.
enum class FieldType : std::int32_t { int32 = 5, int64 = 10 };
enum class DataType : std::int32_t { f32 = 0, f16 = 1, int8 = 2, int32 = 3, uint8 = 5 };

inline constexpr int kInputs = 1;   // frames [B, S, S, 3]
inline constexpr int kOutputs = 3;  // patches [B, K, 3·p·p], positions [B, K], scores [B, N]

// What a plugin is made from, and all that an engine stores of it.
struct Attributes {
  std::int32_t patch = 0;       // side of a cell in pixels, 4 to 64
  std::int32_t keep = -1;       // Keep of rule.hpp
  std::int32_t count = 0;       // K; 0 with keep = all
  std::int32_t patch_type = 1;  // mpft_patch_type: 1 f16, 2 f32
  std::int64_t seed = 0;        // the bits of the unsigned seed
};

struct Field {
  const char* name;
  FieldType type;
  const void* data;     // null in a mere description
  std::int32_t length;  // elements
};

inline constexpr int kFields = 5;

// The fields, pointing at the values in `values`.
inline std::array<Field, kFields> fields_of(const Attributes& values) {
  return {{{"patch", FieldType::int32, &values.patch, 1},
           {"keep", FieldType::int32, &values.keep, 1},
           {"count", FieldType::int32, &values.count, 1},
           {"patch_type", FieldType::int32, &values.patch_type, 1},
           {"seed", FieldType::int64, &values.seed, 1}}};
}

inline bool valid(const Attributes& values) {
  const bool all = values.keep == static_cast<std::int32_t>(Keep::all);
  return values.patch >= kMinPatch && values.patch <= kMaxPatch &&
         values.keep >= static_cast<std::int32_t>(Keep::smooth) &&
         values.keep <= static_cast<std::int32_t>(Keep::all) &&
         (all ? values.count == 0 : values.count >= 1) &&
         (values.patch_type == MPFT_PATCH_F16 || values.patch_type == MPFT_PATCH_F32);
}

// Set the attribute that a field names. False for an unknown name or another type or length.
inline bool set_field(const Field& field, Attributes& values) {
  for (const Field& known : fields_of(values)) {
    if (std::strcmp(known.name, field.name) != 0) continue;
    if (known.type != field.type || field.length != 1 || !field.data) return false;
    const std::size_t bytes = known.type == FieldType::int64 ? 8 : 4;
    std::memcpy(const_cast<void*>(known.data), field.data, bytes);
    return true;
  }
  return false;
}

// Whether tensor `index` (inputs, then outputs), in linear format, may have this type. Frames are
// bytes: TensorRT documents plugins for int8 but not for uint8, which is offered all the same.
inline bool supports(const Attributes& values, int index, DataType type) {
  switch (index) {
    case 0: return type == DataType::int8 || type == DataType::uint8;
    case 1: return type == (values.patch_type == MPFT_PATCH_F32 ? DataType::f32 : DataType::f16);
    default: return type == DataType::int32;
  }
}

inline DataType output_type(const Attributes& values, int output) {
  if (output > 0) return DataType::int32;
  return values.patch_type == MPFT_PATCH_F32 ? DataType::f32 : DataType::f16;
}

// Output shapes in terms of dimensions, which TensorRT knows as expressions and tests as numbers.
// `Dimensions` offers constant(n), divide(a, b) and multiply(a, b) over its type Value.
template <typename Dimensions, typename Value = typename Dimensions::Value>
void output_shapes(const Attributes& values, Value batch, Value size, Dimensions dimensions,
                   Value (&patches)[3], Value (&positions)[2], Value (&scores)[2]) {
  const Value grid = dimensions.divide(size, dimensions.constant(values.patch));
  const Value cells = dimensions.multiply(grid, grid);
  const bool all = values.keep == static_cast<std::int32_t>(Keep::all);
  const Value count = all ? cells : dimensions.constant(values.count);
  patches[0] = positions[0] = scores[0] = batch;
  patches[1] = positions[1] = count;
  patches[2] = dimensions.constant(kChannels * values.patch * values.patch);
  scores[1] = cells;
}

// The launcher's arguments for contiguous frames of [batch, size, size, 3].
inline mpft_texture_patchify_args arguments(const Attributes& values, std::int64_t batch,
                                            std::int64_t size, const void* frames,
                                            void* const (&outputs)[kOutputs]) {
  const auto grid = static_cast<std::int32_t>(size / values.patch);
  mpft_texture_patchify_args args{};
  args.frames = static_cast<const std::uint8_t*>(frames);
  args.row_pitch = static_cast<std::uint64_t>(kChannels * size);
  args.batch_stride = args.row_pitch * static_cast<std::uint64_t>(size);
  args.patches = outputs[0];
  args.positions = static_cast<std::int32_t*>(outputs[1]);
  args.scores = static_cast<std::int32_t*>(outputs[2]);
  args.seed = static_cast<std::uint64_t>(values.seed);
  args.batch = static_cast<std::int32_t>(batch);
  args.size = static_cast<std::int32_t>(size);
  args.patch = values.patch;
  args.count = values.count ? values.count : grid * grid;
  args.keep = values.keep;
  args.patch_type = values.patch_type;
  args.schedule = MPFT_SCHEDULE_AUTO;
  return args;
}

}  // namespace mpft::texture::tensorrt
