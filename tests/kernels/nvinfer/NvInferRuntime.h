// The part of TensorRT's public plugin interface that the plugin uses, declared anew for tests:
// names, signatures and the order of virtual functions as documented for TensorRT 10.3 to 11.
// Not TensorRT's header. Where it were wrong, the registry test against the real library would fail.
#pragma once

#include <cstddef>
#include <cstdint>

using cudaStream_t = void*;

namespace nvinfer1 {

using AsciiChar = char;

enum class DataType : std::int32_t { kFLOAT, kHALF, kINT8, kINT32, kBOOL, kUINT8 };
enum class TensorFormat : std::int32_t { kLINEAR, kCHW2 };
enum class PluginFieldType : std::int32_t { kINT32 = 5, kCHAR = 6, kUNKNOWN = 8, kINT64 = 10 };
enum class PluginCapabilityType : std::int32_t { kCORE, kBUILD, kRUNTIME };
enum class TensorRTPhase : std::int32_t { kBUILD, kRUNTIME };
enum class APILanguage : std::int32_t { kCPP, kPYTHON };
enum class DimensionOperation : std::int32_t {
  kSUM, kPROD, kMAX, kMIN, kSUB, kEQUAL, kLESS, kFLOOR_DIV, kCEIL_DIV
};

struct Dims {
  static constexpr int MAX_DIMS = 8;
  std::int32_t nbDims;
  std::int64_t d[MAX_DIMS];
};

struct PluginTensorDesc {
  Dims dims;
  DataType type;
  TensorFormat format;
  float scale;
};

struct DynamicPluginTensorDesc {
  PluginTensorDesc desc;
  Dims min, max, opt;
};

struct PluginField {
  const AsciiChar* name;
  const void* data;
  PluginFieldType type;
  std::int32_t length;
  PluginField(const AsciiChar* name = nullptr, const void* data = nullptr,
              PluginFieldType type = PluginFieldType::kUNKNOWN, std::int32_t length = 0) noexcept
      : name(name), data(data), type(type), length(length) {}
};

struct PluginFieldCollection {
  std::int32_t nbFields;
  const PluginField* fields;
};

struct InterfaceInfo {
  const char* kind;
  std::int32_t major, minor;
};

class IVersionedInterface {
 public:
  virtual APILanguage getAPILanguage() const noexcept { return APILanguage::kCPP; }
  virtual InterfaceInfo getInterfaceInfo() const noexcept = 0;
  virtual ~IVersionedInterface() noexcept = default;
};

class IDimensionExpr;
namespace apiv {
class VExprBuilder {
 public:
  virtual ~VExprBuilder() noexcept = default;
  virtual const IDimensionExpr* constant(std::int64_t value) = 0;
  virtual const IDimensionExpr* operation(DimensionOperation, const IDimensionExpr&,
                                          const IDimensionExpr&) = 0;
};
}  // namespace apiv

class IDimensionExpr {
 public:
  virtual ~IDimensionExpr() noexcept = default;
};

class IExprBuilder {
 public:
  const IDimensionExpr* constant(std::int64_t value) noexcept { return impl->constant(value); }
  const IDimensionExpr* operation(DimensionOperation operation, const IDimensionExpr& first,
                                  const IDimensionExpr& second) noexcept {
    return impl->operation(operation, first, second);
  }
  virtual ~IExprBuilder() noexcept = default;
  apiv::VExprBuilder* impl;
};

struct DimsExprs {
  std::int32_t nbDims;
  const IDimensionExpr* d[Dims::MAX_DIMS];
};

class ILoggerFinder;
class IPluginResourceContext;
class IPluginCapability : public IVersionedInterface {};
class IPluginCreatorInterface : public IVersionedInterface {};

class IPluginV3 : public IVersionedInterface {
 public:
  InterfaceInfo getInterfaceInfo() const noexcept override { return {"PLUGIN", 1, 0}; }
  virtual IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept = 0;
  virtual IPluginV3* clone() noexcept = 0;
};

class IPluginV3OneCore : public IPluginCapability {
 public:
  InterfaceInfo getInterfaceInfo() const noexcept override { return {"PLUGIN_V3ONE_CORE", 1, 0}; }
  virtual const AsciiChar* getPluginName() const noexcept = 0;
  virtual const AsciiChar* getPluginVersion() const noexcept = 0;
  virtual const AsciiChar* getPluginNamespace() const noexcept = 0;
};

class IPluginV3OneBuild : public IPluginCapability {
 public:
  InterfaceInfo getInterfaceInfo() const noexcept override { return {"PLUGIN_V3ONE_BUILD", 1, 0}; }
  virtual std::int32_t configurePlugin(const DynamicPluginTensorDesc*, std::int32_t,
                                       const DynamicPluginTensorDesc*, std::int32_t) noexcept = 0;
  virtual std::int32_t getOutputDataTypes(DataType*, std::int32_t, const DataType*,
                                          std::int32_t) const noexcept = 0;
  virtual std::int32_t getOutputShapes(const DimsExprs*, std::int32_t, const DimsExprs*,
                                       std::int32_t, DimsExprs*, std::int32_t,
                                       IExprBuilder&) noexcept = 0;
  virtual bool supportsFormatCombination(std::int32_t, const DynamicPluginTensorDesc*,
                                         std::int32_t, std::int32_t) noexcept = 0;
  virtual std::int32_t getNbOutputs() const noexcept = 0;
  virtual std::size_t getWorkspaceSize(const DynamicPluginTensorDesc*, std::int32_t,
                                       const DynamicPluginTensorDesc*,
                                       std::int32_t) const noexcept { return 0; }
  virtual std::int32_t getValidTactics(std::int32_t*, std::int32_t) noexcept { return 0; }
  virtual std::int32_t getNbTactics() noexcept { return 0; }
  virtual const char* getTimingCacheID() noexcept { return nullptr; }
  virtual std::int32_t getFormatCombinationLimit() noexcept { return 100; }
  virtual const char* getMetadataString() noexcept { return nullptr; }
};

class IPluginV3OneRuntime : public IPluginCapability {
 public:
  InterfaceInfo getInterfaceInfo() const noexcept override {
    return {"PLUGIN_V3ONE_RUNTIME", 1, 0};
  }
  virtual std::int32_t setTactic(std::int32_t) noexcept { return 0; }
  virtual std::int32_t onShapeChange(const PluginTensorDesc*, std::int32_t,
                                     const PluginTensorDesc*, std::int32_t) noexcept = 0;
  virtual std::int32_t enqueue(const PluginTensorDesc*, const PluginTensorDesc*,
                               const void* const*, void* const*, void*,
                               cudaStream_t) noexcept = 0;
  virtual IPluginV3* attachToContext(IPluginResourceContext*) noexcept = 0;
  virtual const PluginFieldCollection* getFieldsToSerialize() noexcept = 0;
};

class IPluginCreatorV3One : public IPluginCreatorInterface {
 public:
  InterfaceInfo getInterfaceInfo() const noexcept override {
    return {"PLUGIN CREATOR_V3ONE", 1, 0};
  }
  virtual IPluginV3* createPlugin(const AsciiChar*, const PluginFieldCollection*,
                                  TensorRTPhase) noexcept = 0;
  virtual const PluginFieldCollection* getFieldNames() noexcept = 0;
  virtual const AsciiChar* getPluginName() const noexcept = 0;
  virtual const AsciiChar* getPluginVersion() const noexcept = 0;
  virtual const AsciiChar* getPluginNamespace() const noexcept = 0;
};

}  // namespace nvinfer1
