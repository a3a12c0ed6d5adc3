// A DeformConv2d node as the kernels of every provider read it: attributes, types and shapes,
// checked when the session is made as far as they are known, and again in each run.

#ifndef DCN_DEPLOY_ONNXRUNTIME_DEFORM_CONV2D_NODE_H_
#define DCN_DEPLOY_ONNXRUNTIME_DEFORM_CONV2D_NODE_H_

#include <onnxruntime_c_api.h>

#include <array>
#include <cstddef>
#include <string>

#include "core/deform_conv2d_params.h"
#include "core/dtype.h"
#include "onnxruntime/api.h"

namespace dcn_deploy {
namespace onnxruntime {

class DeformConv2dNode {
 public:
  static constexpr const char* kOpType = "DeformConv2d";
  enum Input : std::size_t { kX, kW, kOffset, kB, kMask, kInputCount };
  static constexpr bool is_optional(std::size_t index) { return index == kB || index == kMask; }

  // Throws a Failure for whatever is known to be wrong.
  DeformConv2dNode(const OrtApi& api, const OrtKernelInfo* info,
                   ONNXTensorElementDataType feature_type);

  const std::string& where() const { return where_; }
  DType dtype() const { return dtype_; }
  // W if it is an initialiser, else null; owned by the session that is being made.
  const OrtValue* constant_weight() const { return constant_weight_; }
  // What the packing of W depends on; the sizes of the maps are left at 0.
  DeformConv2dParams params_of_weight(const OrtValue* weight) const;

  // One run's tensors; null where an optional input is not there.
  struct Run {
    DeformConv2dParams params;
    std::array<const OrtValue*, kInputCount> inputs{};
    OrtValue* y = nullptr;
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
  DeformConv2dAttributes attributes_;
  const OrtValue* constant_weight_ = nullptr;
};

}  // namespace onnxruntime
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_ONNXRUNTIME_DEFORM_CONV2D_NODE_H_
