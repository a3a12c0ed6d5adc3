// DeformRoIPool2d for TensorRT.

#ifndef DCN_DEPLOY_TENSORRT_DEFORM_ROI_POOL_PLUGIN_H_
#define DCN_DEPLOY_TENSORRT_DEFORM_ROI_POOL_PLUGIN_H_

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "core/cuda/deform_roi_pool.h"
#include "core/deform_roi_pool_params.h"
#include "tensorrt/plugin.h"

namespace dcn_deploy {
namespace tensorrt {

// Besides the operator's attributes it has the field `optional_inputs`, see layer_inputs.h. A RoI
// of no image gives zeros. It needs no workspace.
class DeformRoIPool2dPlugin final : public Plugin {
 public:
  static constexpr const char* kOpType = "DeformRoIPool2d";
  enum Input : std::size_t { kX, kRois, kOffset, kMask };

  explicit DeformRoIPool2dPlugin(Origin origin) : Plugin(std::move(origin)) {}
  DeformRoIPool2dPlugin(const DeformRoIPool2dPlugin&) = default;

 private:
  std::unique_ptr<Plugin> copy() const override;
  std::vector<InputSpec> input_specs() const override;
  void visit_attributes(FieldVisitor* visitor) override;
  void check_shapes(const Shapes& shapes) const override;
  void describe_output(const Expressions& inputs, ExpressionBuilder* builder,
                       nvinfer1::DimsExprs* y) const override;
  void plan(const LayerTensors& tensors, std::int32_t tactic) override;
  void launch(const Addresses& addresses, cuda::Stream stream) override;

  // With the variant, which is a text in a field.
  DeformRoIPool2dAttributes attributes() const;

  std::string variant_ = "aligned";
  DeformRoIPool2dAttributes attributes_;
  DeformRoIPool2dParams params_{};
  // Types and layouts; the addresses come with a launch.
  cuda::DeformRoIPool2dTensors tensors_;
};

}  // namespace tensorrt
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TENSORRT_DEFORM_ROI_POOL_PLUGIN_H_
