// The exported functions of the library for ONNX Runtime's CUDA provider.

#include <onnxruntime_c_api.h>

#include <string>

#include "onnxruntime/cuda/deform_conv2d.h"
#include "onnxruntime/cuda/deform_roi_pool.h"
#include "onnxruntime/cuda/provider.h"
#include "onnxruntime/registration.h"

#define DCN_DEPLOY_EXPORT __attribute__((visibility("default")))

namespace dcn_deploy {
namespace onnxruntime {
namespace cuda {
namespace {

// Entry of the session's configuration, to be made before the library is registered: "1" lets
// float32 features go through tensor cores, "0" (as without the entry) does not.
constexpr const char* kAllowTf32 = "dcn_deploy.allow_tf32";

bool allows_tf32(const OrtApi& api, const OrtSessionOptions* options) {
  int present = 0;
  check(api, api.HasSessionConfigEntry(options, kAllowTf32, &present));
  if (present == 0) return false;
  std::size_t size = 0;
  check(api, api.GetSessionConfigEntry(options, kAllowTf32, nullptr, &size));
  std::string value(size, '\0');
  check(api, api.GetSessionConfigEntry(options, kAllowTf32, value.data(), &size));
  while (!value.empty() && value.back() == '\0') value.pop_back();
  if (value != "0" && value != "1") {
    throw Failure(ORT_INVALID_ARGUMENT, std::string("dcn_deploy: session configuration ") +
                                            kAllowTf32 + ": expected 0 or 1, got '" + value + "'");
  }
  return value == "1";
}

}  // namespace
}  // namespace cuda
}  // namespace onnxruntime
}  // namespace dcn_deploy

extern "C" {

DCN_DEPLOY_EXPORT const char* dcn_deploy_version() { return DCN_DEPLOY_VERSION; }

// Called by SessionOptions.register_custom_ops_library.
DCN_DEPLOY_EXPORT OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                            const OrtApiBase* api_base) {
  namespace ort = dcn_deploy::onnxruntime;
  return ort::with_api(api_base, [&](const OrtApi& api) {
    // Registered all the same, the operators would only make ONNX Runtime say that it has no
    // implementation of them.
    ort::cuda::require_provider(api, *api_base);
    static OrtCustomOpDomain* const exact = ort::make_domain(
        api, *api_base,
        {&ort::cuda::exact_deform_conv2d_overload, &ort::cuda::deform_roi_pool_overload});
    static OrtCustomOpDomain* const tf32 = ort::make_domain(
        api, *api_base,
        {&ort::cuda::tf32_deform_conv2d_overload, &ort::cuda::deform_roi_pool_overload});
    ort::check(api,
               api.AddCustomOpDomain(options, ort::cuda::allows_tf32(api, options) ? tf32 : exact));
  });
}

}  // extern "C"
