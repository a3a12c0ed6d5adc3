// ONNX Runtime's CUDA provider, and whether it can serve here.

#ifndef DCN_DEPLOY_ONNXRUNTIME_CUDA_PROVIDER_H_
#define DCN_DEPLOY_ONNXRUNTIME_CUDA_PROVIDER_H_

#include <onnxruntime_c_api.h>

namespace dcn_deploy {
namespace onnxruntime {
namespace cuda {

#if defined(DCN_DEPLOY_CUDA_HOST_SHIM)
// Where the host plays the device, it is the CPU provider whose memory and stream there are.
inline constexpr const char* kProvider = nullptr;
#else
inline constexpr const char* kProvider = "CUDAExecutionProvider";
#endif

// Throws a Failure that says what is missing: the provider in this ONNX Runtime, or a GPU.
void require_provider(const OrtApi& api, const OrtApiBase& api_base);

}  // namespace cuda
}  // namespace onnxruntime
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_ONNXRUNTIME_CUDA_PROVIDER_H_
