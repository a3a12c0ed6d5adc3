// What the plugins share: TensorRT's interface, made of the few things that an operator says.
//
// An object is used by one thread at a time. A context gets a copy of its own, which shares nothing
// with the others that changes.

#ifndef DCN_DEPLOY_TENSORRT_PLUGIN_H_
#define DCN_DEPLOY_TENSORRT_PLUGIN_H_

#include <NvInferRuntime.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/cuda/device.h"
#include "core/shape_check.h"
#include "tensorrt/fields.h"
#include "tensorrt/layer_inputs.h"
#include "tensorrt/output_shape.h"

namespace dcn_deploy {
namespace tensorrt {

inline constexpr const char* kPluginVersion = "1";

// Where a plugin comes from. The first two are constants.
struct Origin {
  const char* op_type;
  const char* plugin_namespace;
  std::string layer;
};

// A member that a copy of its owner starts without.
template <typename T>
struct NotCopied {
  NotCopied() = default;
  NotCopied(const NotCopied&) {}
  NotCopied& operator=(const NotCopied&) = delete;

  T value{};
};

class Plugin : public nvinfer1::IPluginV3,
               public nvinfer1::IPluginV3OneCore,
               public nvinfer1::IPluginV3OneBuild,
               public nvinfer1::IPluginV3OneRuntime {
 public:
  // Of the operator: to be called once, before anything else. Throws a Failure.
  void read_fields(const nvinfer1::PluginFieldCollection* collection,
                   nvinfer1::TensorRTPhase phase);
  // Those of a build.
  void visit_fields(FieldVisitor* visitor);

  nvinfer1::IPluginCapability* getCapabilityInterface(
      nvinfer1::PluginCapabilityType type) noexcept final;
  nvinfer1::IPluginV3* clone() noexcept final;

  const char* getPluginName() const noexcept final { return origin_.op_type; }
  const char* getPluginVersion() const noexcept final { return kPluginVersion; }
  const char* getPluginNamespace() const noexcept final { return origin_.plugin_namespace; }

  std::int32_t getNbOutputs() const noexcept final { return kOutputs; }
  std::int32_t getOutputDataTypes(nvinfer1::DataType* output_types, std::int32_t output_count,
                                  const nvinfer1::DataType* input_types,
                                  std::int32_t input_count) const noexcept final;
  std::int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, std::int32_t input_count,
                               const nvinfer1::DimsExprs* shape_inputs,
                               std::int32_t shape_input_count, nvinfer1::DimsExprs* outputs,
                               std::int32_t output_count,
                               nvinfer1::IExprBuilder& builder) noexcept final;
  bool supportsFormatCombination(std::int32_t position,
                                 const nvinfer1::DynamicPluginTensorDesc* in_out,
                                 std::int32_t input_count,
                                 std::int32_t output_count) noexcept final;
  std::int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in,
                               std::int32_t input_count,
                               const nvinfer1::DynamicPluginTensorDesc* out,
                               std::int32_t output_count) noexcept final;
  std::size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* inputs,
                               std::int32_t input_count,
                               const nvinfer1::DynamicPluginTensorDesc* outputs,
                               std::int32_t output_count) const noexcept final;
  std::int32_t getNbTactics() noexcept final;
  std::int32_t getValidTactics(std::int32_t* tactics, std::int32_t count) noexcept final;
  const char* getTimingCacheID() noexcept final;
  const char* getMetadataString() noexcept final;

  std::int32_t setTactic(std::int32_t tactic) noexcept final;
  std::int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, std::int32_t input_count,
                             const nvinfer1::PluginTensorDesc* out,
                             std::int32_t output_count) noexcept final;
  std::int32_t enqueue(const nvinfer1::PluginTensorDesc* input_desc,
                       const nvinfer1::PluginTensorDesc* output_desc, const void* const* inputs,
                       void* const* outputs, void* workspace, cudaStream_t stream) noexcept final;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept final;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept final;

 protected:
  // By input of the operator; absent where an optional one is not there.
  using Shapes = std::array<ShapeView, kMaxInputs>;
  using Expressions = std::array<const nvinfer1::DimsExprs*, kMaxInputs>;
  struct Addresses {
    std::array<const void*, kMaxInputs> inputs{};
    void* y = nullptr;
    void* workspace = nullptr;
  };

  explicit Plugin(Origin origin) : origin_(std::move(origin)) { name_for_messages(); }
  Plugin(const Plugin&) = default;

  // Whether it belongs to an execution context, which it lives as long as.
  bool attached() const { return attached_; }
  void warn(const std::string& message) const noexcept;

 private:
  // What an operator says of itself. All of it may throw a Failure.
  virtual std::unique_ptr<Plugin> copy() const = 0;
  virtual std::vector<InputSpec> input_specs() const = 0;
  virtual void visit_attributes(FieldVisitor* visitor) = 0;
  // After the fields of a build were read; `reader` tells which were given.
  virtual void check_given(const FieldReader& reader) const;
  // What of the attributes and shapes is known to be wrong.
  virtual void check_shapes(const Shapes& shapes) const = 0;
  virtual void describe_output(const Expressions& inputs, ExpressionBuilder* builder,
                               nvinfer1::DimsExprs* y) const = 0;
  // Of Y where X has the type `x`.
  virtual nvinfer1::DataType output_type(nvinfer1::DataType x) const { return x; }
  // For tensors of these sizes or smaller ones.
  virtual std::size_t workspace_bytes(const LayerTensors& tensors) const;
  // Other than 0, which is the operator's own choice.
  virtual std::vector<std::int32_t> tactics_for(const LayerTensors& tensors) const;
  virtual void check_tactic(std::int32_t tactic) const;
  // Everything that can be decided before a launch.
  virtual void plan(const LayerTensors& tensors, std::int32_t tactic) = 0;
  virtual void launch(const Addresses& addresses, cuda::Stream stream) = 0;

  Shapes shapes_of(const LayerTensors& tensors) const;
  bool is_planned(const nvinfer1::PluginTensorDesc* in,
                  const nvinfer1::PluginTensorDesc* out) const;
  void plan_for(const nvinfer1::PluginTensorDesc* in, int input_count,
                const nvinfer1::PluginTensorDesc* out);
  std::string text_of_fields();
  void name_for_messages();
  const char* where() const noexcept { return where_.c_str(); }

  Origin origin_;
  // The layer, as messages have it.
  std::string where_;
  std::string optional_inputs_;
  std::shared_ptr<const LayerInputs> inputs_;
  bool attached_ = false;
  std::int32_t tactic_ = 0;
  std::vector<std::int32_t> tactics_;
  // enqueue is not told.
  int input_count_ = -1;
  // Descriptions of the tensors, outputs last, that the plan is for; empty if there is none.
  NotCopied<std::vector<nvinfer1::PluginTensorDesc>> planned_;
  // What TensorRT has pointers to.
  NotCopied<std::unique_ptr<FieldWriter>> written_;
  NotCopied<std::string> timing_cache_id_, metadata_;
};

}  // namespace tensorrt
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TENSORRT_PLUGIN_H_
