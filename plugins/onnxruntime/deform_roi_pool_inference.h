// Shape inference of DeformRoIPool2d while a graph is loaded.

#ifndef DCN_DEPLOY_ONNXRUNTIME_DEFORM_ROI_POOL_INFERENCE_H_
#define DCN_DEPLOY_ONNXRUNTIME_DEFORM_ROI_POOL_INFERENCE_H_

#include <onnxruntime_c_api.h>

namespace dcn_deploy {
namespace onnxruntime {

// Sets the shape of Y as far as it is known, symbolic dims included. Never refuses a node: ONNX
// Runtime drops what this callback returns, so it is the kernel's constructor that refuses, by
// name.
void infer_deform_roi_pool_shape(const OrtApi& api, OrtShapeInferContext* context) noexcept;

}  // namespace onnxruntime
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_ONNXRUNTIME_DEFORM_ROI_POOL_INFERENCE_H_
