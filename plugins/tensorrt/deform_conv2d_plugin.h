// DeformConv2d for TensorRT.

#ifndef DCN_DEPLOY_TENSORRT_DEFORM_CONV2D_PLUGIN_H_
#define DCN_DEPLOY_TENSORRT_DEFORM_CONV2D_PLUGIN_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/cuda/deform_conv2d.h"
#include "core/deform_conv2d_params.h"
#include "tensorrt/device_memory.h"
#include "tensorrt/plugin.h"

namespace dcn_deploy {
namespace tensorrt {

// Besides the operator's attributes it has the fields
//
//   allow_tf32        1: float32 features may go through tensor cores. TensorRT does not tell a
//                     plugin its builder's flag of that name.
//   constant_weights  1: W is the same in every run of an engine. The kernels take W in an order of
//                     their own; without this it is put into that order in every run, since the
//                     interface does not tell constants from other tensors. With it, every context
//                     does so once and keeps the result. An engine whose weights are refitted must
//                     be built without.
//   x_scale, weight_scale, y_scale
//                     X and W are int8, of these scales and zero points of zero; weight_scale has
//                     one number, or one for each output channel. Y is int8 of y_scale, or float32
//                     without it. 0 is none. B is float32 then.
//   optional_inputs   see layer_inputs.h
//
// Its workspace holds W in that order, and behind it the scales of sums: it grows with W and with
// nothing else.
class DeformConv2dPlugin final : public Plugin {
 public:
  static constexpr const char* kOpType = "DeformConv2d";
  enum Input : std::size_t { kX, kW, kOffset, kB, kMask };

  explicit DeformConv2dPlugin(Origin origin) : Plugin(std::move(origin)) {}
  DeformConv2dPlugin(const DeformConv2dPlugin&) = default;

 private:
  // W in the order of the kernels.
  struct KeptWeights {
    DeviceBuffer packed;
    // W itself where it was then; null: not yet packed.
    const void* source = nullptr;
    cuda::Algorithm algorithm = cuda::Algorithm::kAuto;
  };

  std::unique_ptr<Plugin> copy() const override;
  std::vector<InputSpec> input_specs() const override;
  void visit_attributes(FieldVisitor* visitor) override;
  void check_given(const FieldReader& reader) const override;
  void check_shapes(const Shapes& shapes) const override;
  nvinfer1::DataType output_type(nvinfer1::DataType x) const override;
  void describe_output(const Expressions& inputs, ExpressionBuilder* builder,
                       nvinfer1::DimsExprs* y) const override;
  std::size_t workspace_bytes(const LayerTensors& tensors) const override;
  std::vector<std::int32_t> tactics_for(const LayerTensors& tensors) const override;
  void check_tactic(std::int32_t tactic) const override;
  void plan(const LayerTensors& tensors, std::int32_t tactic) override;
  void launch(const Addresses& addresses, cuda::Stream stream) override;

  cuda::DeformConv2dPlan plan_of(const LayerTensors& tensors, const cuda::Device& device,
                                 const cuda::Tile& tile) const;
  bool is_int8() const;
  // Bytes of the scales behind packed weights.
  std::size_t scale_bytes(std::int64_t out_channels) const;
  void pack(const void* weight, void* packed, cuda::Stream stream) const;
  const void* packed_weights(const Addresses& addresses, cuda::Stream stream);

  DeformConv2dAttributes attributes_;
  float x_scale_ = 0;
  std::vector<float> weight_scale_ = {0};
  float y_scale_ = 0;
  bool allow_tf32_ = false;
  bool constant_weights_ = false;
  cuda::DeformConv2dPlan plan_;
  DType offset_dtype_ = DType::kFloat32;
  DType mask_dtype_ = DType::kFloat32;
  NotCopied<KeptWeights> kept_;
};

}  // namespace tensorrt
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TENSORRT_DEFORM_CONV2D_PLUGIN_H_
