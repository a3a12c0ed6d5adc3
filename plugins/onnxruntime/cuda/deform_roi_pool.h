// DeformRoIPool2d for ONNX Runtime's CUDA provider.

#ifndef DCN_DEPLOY_ONNXRUNTIME_CUDA_DEFORM_ROI_POOL_H_
#define DCN_DEPLOY_ONNXRUNTIME_CUDA_DEFORM_ROI_POOL_H_

#include <cstddef>

struct OrtApi;
struct OrtCustomOp;

namespace dcn_deploy {
namespace onnxruntime {
namespace cuda {

// One operator for each of kFeatureTypes. They live as long as the library; the arguments of the
// first call count.
const OrtCustomOp* deform_roi_pool_overload(const OrtApi& api, bool infer_shapes,
                                            std::size_t index);

}  // namespace cuda
}  // namespace onnxruntime
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_ONNXRUNTIME_CUDA_DEFORM_ROI_POOL_H_
