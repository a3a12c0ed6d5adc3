// DeformConv2d for ONNX Runtime's CPU provider.

#ifndef DCN_DEPLOY_ONNXRUNTIME_DEFORM_CONV2D_H_
#define DCN_DEPLOY_ONNXRUNTIME_DEFORM_CONV2D_H_

#include <cstddef>

struct OrtApi;
struct OrtCustomOp;

namespace dcn_deploy {
namespace onnxruntime {

// One operator for each of kFeatureTypes. They live as long as the library; the arguments of the
// first call count.
const OrtCustomOp* deform_conv2d_overload(const OrtApi& api, bool infer_shapes, std::size_t index);

}  // namespace onnxruntime
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_ONNXRUNTIME_DEFORM_CONV2D_H_
