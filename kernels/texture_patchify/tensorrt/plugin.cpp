// texture_patchify as a TensorRT plugin (IPluginV3; TensorRT 10.3 and later): glue, nothing else.
// Load the library with IPluginRegistry::loadLibrary or trtexec --dynamicPlugins.
#include <NvInferRuntime.h>

#include <new>
#include <string>

#include "attributes.hpp"

namespace {

using namespace nvinfer1;
namespace plugin = mpft::texture::tensorrt;

// Shape arithmetic on TensorRT's expressions; see plugin::output_shapes.
struct Expressions {
  using Value = const IDimensionExpr*;
  IExprBuilder& builder;

  Value constant(std::int64_t value) { return builder.constant(value); }
  Value divide(Value a, Value b) {
    return builder.operation(DimensionOperation::kFLOOR_DIV, *a, *b);
  }
  Value multiply(Value a, Value b) { return builder.operation(DimensionOperation::kPROD, *a, *b); }
};

class TexturePatchify final : public IPluginV3,
                              public IPluginV3OneCore,
                              public IPluginV3OneBuild,
                              public IPluginV3OneRuntime {
 public:
  explicit TexturePatchify(const plugin::Attributes& attributes) : attributes_(attributes) {
    const auto fields = plugin::fields_of(attributes_);
    for (int i = 0; i < plugin::kFields; ++i) {
      fields_[i] = PluginField(fields[i].name, fields[i].data,
                               static_cast<PluginFieldType>(fields[i].type), fields[i].length);
      cache_id_ += std::string(i ? "," : "") + fields[i].name + "=" + value_of(fields[i]);
    }
    serialized_.nbFields = plugin::kFields;
    serialized_.fields = fields_;
  }

  // The fields point into the object itself, so that a copy must be made from the attributes.
  TexturePatchify(const TexturePatchify&) = delete;
  TexturePatchify& operator=(const TexturePatchify&) = delete;

  // IPluginV3
  IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override {
    switch (type) {
      case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
      case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
      case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }
  IPluginV3* clone() noexcept override { return make(attributes_); }

  static TexturePatchify* make(const plugin::Attributes& attributes) noexcept {
    try {
      return new TexturePatchify(attributes);
    } catch (const std::bad_alloc&) {
      return nullptr;
    }
  }

  // IPluginV3OneCore
  const AsciiChar* getPluginName() const noexcept override { return plugin::kName; }
  const AsciiChar* getPluginVersion() const noexcept override { return plugin::kVersion; }
  const AsciiChar* getPluginNamespace() const noexcept override { return plugin::kNamespace; }

  // IPluginV3OneBuild
  std::int32_t configurePlugin(const DynamicPluginTensorDesc*, std::int32_t inputs,
                               const DynamicPluginTensorDesc*,
                               std::int32_t outputs) noexcept override {
    return counts_fit(inputs, outputs) ? 0 : 1;
  }
  std::int32_t getOutputDataTypes(DataType* types, std::int32_t outputs, const DataType*,
                                  std::int32_t inputs) const noexcept override {
    if (!counts_fit(inputs, outputs)) return 1;
    for (int i = 0; i < outputs; ++i) {
      types[i] = static_cast<DataType>(plugin::output_type(attributes_, i));
    }
    return 0;
  }
  std::int32_t getOutputShapes(const DimsExprs* inputs, std::int32_t input_count, const DimsExprs*,
                               std::int32_t, DimsExprs* outputs, std::int32_t output_count,
                               IExprBuilder& builder) noexcept override {
    if (!counts_fit(input_count, output_count) || inputs[0].nbDims != 4) return 1;
    Expressions::Value patches[3], positions[2], scores[2];
    plugin::output_shapes(attributes_, inputs[0].d[0], inputs[0].d[1], Expressions{builder},
                          patches, positions, scores);
    outputs[0].nbDims = 3;
    outputs[1].nbDims = outputs[2].nbDims = 2;
    for (int i = 0; i < 3; ++i) outputs[0].d[i] = patches[i];
    for (int i = 0; i < 2; ++i) {
      outputs[1].d[i] = positions[i];
      outputs[2].d[i] = scores[i];
    }
    return 0;
  }
  bool supportsFormatCombination(std::int32_t index, const DynamicPluginTensorDesc* tensors,
                                 std::int32_t inputs, std::int32_t outputs) noexcept override {
    const PluginTensorDesc& tensor = tensors[index].desc;
    return counts_fit(inputs, outputs) && tensor.format == TensorFormat::kLINEAR &&
           plugin::supports(attributes_, index, static_cast<plugin::DataType>(tensor.type));
  }
  std::int32_t getNbOutputs() const noexcept override { return plugin::kOutputs; }
  const char* getTimingCacheID() noexcept override { return cache_id_.c_str(); }
  const char* getMetadataString() noexcept override { return cache_id_.c_str(); }

  // IPluginV3OneRuntime
  std::int32_t onShapeChange(const PluginTensorDesc* inputs, std::int32_t input_count,
                             const PluginTensorDesc*, std::int32_t output_count) noexcept override {
    const Dims& frames = inputs[0].dims;
    const bool fits = counts_fit(input_count, output_count) && frames.nbDims == 4 &&
                      frames.d[1] == frames.d[2] && frames.d[3] == mpft::texture::kChannels;
    return fits ? 0 : 1;
  }
  std::int32_t enqueue(const PluginTensorDesc* inputs, const PluginTensorDesc*,
                       const void* const* input_data, void* const* output_data, void*,
                       cudaStream_t stream) noexcept override {
    void* const outputs[plugin::kOutputs] = {output_data[0], output_data[1], output_data[2]};
    const auto args = plugin::arguments(attributes_, inputs[0].dims.d[0], inputs[0].dims.d[1],
                                        input_data[0], outputs);
    return mpft_texture_patchify_launch(&args, stream);
  }
  IPluginV3* attachToContext(IPluginResourceContext*) noexcept override { return clone(); }
  const PluginFieldCollection* getFieldsToSerialize() noexcept override { return &serialized_; }

 private:
  static bool counts_fit(std::int32_t inputs, std::int32_t outputs) {
    return inputs == plugin::kInputs && outputs == plugin::kOutputs;
  }
  static std::string value_of(const plugin::Field& field) {
    return field.type == plugin::FieldType::int64
               ? std::to_string(*static_cast<const std::int64_t*>(field.data))
               : std::to_string(*static_cast<const std::int32_t*>(field.data));
  }

  const plugin::Attributes attributes_;
  PluginField fields_[plugin::kFields];
  PluginFieldCollection serialized_{};
  std::string cache_id_;
};

class Creator final : public IPluginCreatorV3One {
 public:
  Creator() {
    const auto fields = plugin::fields_of({});
    for (int i = 0; i < plugin::kFields; ++i) {
      fields_[i] = PluginField(fields[i].name, nullptr,
                               static_cast<PluginFieldType>(fields[i].type), fields[i].length);
    }
    names_.nbFields = plugin::kFields;
    names_.fields = fields_;
  }

  // Null, which TensorRT reports, for a field that is unknown or of another type, or a bad value.
  IPluginV3* createPlugin(const AsciiChar*, const PluginFieldCollection* fields,
                          TensorRTPhase) noexcept override {
    plugin::Attributes attributes;
    for (int i = 0; fields && i < fields->nbFields; ++i) {
      const PluginField& field = fields->fields[i];
      const plugin::Field given{field.name, static_cast<plugin::FieldType>(field.type), field.data,
                                field.length};
      if (!plugin::set_field(given, attributes)) return nullptr;
    }
    return plugin::valid(attributes) ? TexturePatchify::make(attributes) : nullptr;
  }
  const PluginFieldCollection* getFieldNames() noexcept override { return &names_; }
  const AsciiChar* getPluginName() const noexcept override { return plugin::kName; }
  const AsciiChar* getPluginVersion() const noexcept override { return plugin::kVersion; }
  const AsciiChar* getPluginNamespace() const noexcept override { return plugin::kNamespace; }

 private:
  PluginField fields_[plugin::kFields];
  PluginFieldCollection names_{};
};

}  // namespace

#define MPFT_EXPORT extern "C" __attribute__((visibility("default")))

// The two entry points of a plugin library.
MPFT_EXPORT void setLoggerFinder(ILoggerFinder*) {}

MPFT_EXPORT IPluginCreatorInterface* const* getCreators(std::int32_t& count) {
  static Creator creator;
  static IPluginCreatorInterface* const creators[] = {&creator};
  count = 1;
  return creators;
}
