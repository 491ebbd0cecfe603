// The TensorRT plugin over the simulator instead of a GPU, and a driver that plays TensorRT's part:
// create, ask types and shapes, clone, serialise, create again from the fields, and enqueue.
#include "plugin.cpp"

extern "C" int run_on_host(const mpft_texture_patchify_args* args, int multiprocessors,
                           bool descending);

extern "C" int mpft_texture_patchify_launch(const mpft_texture_patchify_args* args, void*) {
  return run_on_host(args, 4, false);
}

namespace {

// Expressions that are numbers.
struct Number final : IDimensionExpr {
  std::int64_t value;
  explicit Number(std::int64_t value) : value(value) {}
};

struct Calculator final : apiv::VExprBuilder {
  const IDimensionExpr* constant(std::int64_t value) override { return new Number(value); }
  const IDimensionExpr* operation(DimensionOperation operation, const IDimensionExpr& first,
                                  const IDimensionExpr& second) override {
    const std::int64_t a = static_cast<const Number&>(first).value;
    const std::int64_t b = static_cast<const Number&>(second).value;
    return new Number(operation == DimensionOperation::kPROD ? a * b : a / b);
  }
};

}  // namespace

// Description for comparison with plugin.py: name|version|namespace|field:type|…
extern "C" const char* describe() {
  static std::string text;
  std::int32_t count = 0;
  auto* creator = static_cast<IPluginCreatorV3One*>(getCreators(count)[0]);
  text = std::string(creator->getPluginName()) + "|" + creator->getPluginVersion() + "|" +
         creator->getPluginNamespace();
  const PluginFieldCollection* names = creator->getFieldNames();
  for (int i = 0; i < names->nbFields; ++i) {
    const PluginField& field = names->fields[i];
    text += std::string("|") + field.name + ":" + std::to_string(static_cast<int>(field.type));
  }
  return text.c_str();
}

// Whether frames and outputs of these types are accepted, as bits 0 to 3.
extern "C" int supported(const plugin::Attributes* attributes, const std::int32_t* types,
                         int format) {
  TexturePatchify made(*attributes);
  IPluginV3OneBuild& build = made;
  DynamicPluginTensorDesc tensors[4]{};
  int bits = 0;
  for (int i = 0; i < 4; ++i) {
    tensors[i].desc.type = static_cast<DataType>(types[i]);
    tensors[i].desc.format = static_cast<TensorFormat>(format);
    bits |= build.supportsFormatCombination(i, tensors, 1, 3) << i;
  }
  return bits;
}

// One life of a plugin. `shapes` receives 3 + 2 + 2 extents and 3 types. Returns 0, or the number
// of the step that failed.
extern "C" int live(const plugin::Attributes* attributes, std::int64_t batch, std::int64_t size,
                    const void* frames, void* const* outputs, std::int64_t* shapes) {
  std::int32_t count = 0;
  auto* creator = static_cast<IPluginCreatorV3One*>(getCreators(count)[0]);
  PluginField fields[plugin::kFields];
  const auto given = plugin::fields_of(*attributes);
  for (int i = 0; i < plugin::kFields; ++i) {
    // In another order than they are listed in.
    const plugin::Field& field = given[plugin::kFields - 1 - i];
    fields[i] = PluginField(field.name, field.data, static_cast<PluginFieldType>(field.type), 1);
  }
  const PluginFieldCollection collection{plugin::kFields, fields};
  IPluginV3* built = creator->createPlugin("node", &collection, TensorRTPhase::kBUILD);
  if (!built) return 1;
  IPluginV3* cloned = built->clone();
  delete built;  // a clone must not point into its original
  auto* build = static_cast<IPluginV3OneBuild*>(
      cloned->getCapabilityInterface(PluginCapabilityType::kBUILD));

  Calculator calculator;
  IExprBuilder builder;
  builder.impl = &calculator;
  const Number extents[4] = {Number(batch), Number(size), Number(size), Number(3)};
  const DimsExprs input{4, {&extents[0], &extents[1], &extents[2], &extents[3]}};
  DimsExprs dims[3]{};
  if (build->getOutputShapes(&input, 1, nullptr, 0, dims, 3, builder)) return 2;
  for (const DimsExprs& each : dims) {
    for (int i = 0; i < each.nbDims; ++i) *shapes++ = static_cast<const Number*>(each.d[i])->value;
  }
  DataType types[3];
  if (build->getOutputDataTypes(types, 3, nullptr, 1) || build->getNbOutputs() != 3) return 3;
  for (const DataType type : types) *shapes++ = static_cast<std::int64_t>(type);

  auto* runtime = static_cast<IPluginV3OneRuntime*>(
      cloned->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
  IPluginV3* loaded =
      creator->createPlugin("node", runtime->getFieldsToSerialize(), TensorRTPhase::kRUNTIME);
  if (!loaded) return 4;
  IPluginV3* attached = static_cast<IPluginV3OneRuntime*>(
                            loaded->getCapabilityInterface(PluginCapabilityType::kRUNTIME))
                            ->attachToContext(nullptr);
  delete loaded;
  delete cloned;
  runtime = static_cast<IPluginV3OneRuntime*>(
      attached->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
  const PluginTensorDesc desc{{4, {batch, size, size, 3}}, DataType::kINT8, TensorFormat::kLINEAR,
                              1.0f};
  if (runtime->onShapeChange(&desc, 1, nullptr, 3)) return 5;
  const int status = runtime->enqueue(&desc, nullptr, &frames, outputs, nullptr, nullptr);
  delete attached;
  return status ? 100 + status : 0;
}

// Whether a creator makes a plugin from fields of these names, types and (int64) values.
extern "C" bool creates(int count, const char* const* names, const std::int32_t* types,
                        const std::int64_t* values) {
  std::int32_t creators = 0;
  auto* creator = static_cast<IPluginCreatorV3One*>(getCreators(creators)[0]);
  PluginField fields[8];
  for (int i = 0; i < count; ++i) {
    // Little-endian: the first four bytes are the int32.
    fields[i] = PluginField(names[i], &values[i], static_cast<PluginFieldType>(types[i]), 1);
  }
  const PluginFieldCollection collection{count, fields};
  IPluginV3* made = creator->createPlugin("node", &collection, TensorRTPhase::kBUILD);
  const bool success = made != nullptr;
  delete made;
  return success;
}
