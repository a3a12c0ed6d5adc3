// A DeformRoIPool2d node as the kernels of every provider read it: attributes, types and shapes,
// checked when the session is made as far as they are known, and again in each run.

#ifndef DCN_DEPLOY_ONNXRUNTIME_DEFORM_ROI_POOL_NODE_H_
#define DCN_DEPLOY_ONNXRUNTIME_DEFORM_ROI_POOL_NODE_H_

#include <onnxruntime_c_api.h>

#include <array>
#include <cstddef>
#include <string>

#include "core/deform_roi_pool_params.h"
#include "core/dtype.h"
#include "onnxruntime/api.h"

namespace dcn_deploy {
namespace onnxruntime {

class DeformRoIPool2dNode {
 public:
  static constexpr const char* kOpType = "DeformRoIPool2d";
  enum Input : std::size_t { kX, kRois, kOffset, kMask, kInputCount };
  static constexpr bool is_optional(std::size_t index) {
    return index == kOffset || index == kMask;
  }

  // Throws a Failure for whatever is known to be wrong.
  DeformRoIPool2dNode(const OrtApi& api, const OrtKernelInfo* info,
                      ONNXTensorElementDataType feature_type);

  const std::string& where() const { return where_; }
  DType dtype() const { return dtype_; }

  // One run's tensors; null where an optional input is not there.
  struct Run {
    DeformRoIPool2dParams params;
    std::array<const OrtValue*, kInputCount> inputs{};
    OrtValue* y = nullptr;
    DType rois_dtype = DType::kFloat32;
    DType offset_dtype = DType::kFloat32;
    DType mask_dtype = DType::kFloat32;
  };
  // Checks the inputs and makes Y.
  Run begin_run(OrtKernelContext* context) const;

 private:
  using Descriptions = std::array<TensorDescription, kInputCount>;

  void check_types(const Descriptions& inputs) const;

  const OrtApi& api_;
  const ONNXTensorElementDataType feature_type_;
  const DType dtype_;
  std::string where_;
  DeformRoIPool2dAttributes attributes_;
};

}  // namespace onnxruntime
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_ONNXRUNTIME_DEFORM_ROI_POOL_NODE_H_
