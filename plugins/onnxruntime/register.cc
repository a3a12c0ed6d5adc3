// The exported functions of the library for ONNX Runtime's CPU provider.

#include <onnxruntime_c_api.h>

#include "onnxruntime/deform_conv2d.h"
#include "onnxruntime/deform_roi_pool.h"
#include "onnxruntime/registration.h"

#define DCN_DEPLOY_EXPORT __attribute__((visibility("default")))

extern "C" {

DCN_DEPLOY_EXPORT const char* dcn_deploy_version() { return DCN_DEPLOY_VERSION; }

// Called by SessionOptions.register_custom_ops_library.
DCN_DEPLOY_EXPORT OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                            const OrtApiBase* api_base) {
  namespace ort = dcn_deploy::onnxruntime;
  return ort::with_api(api_base, [&](const OrtApi& api) {
    static OrtCustomOpDomain* const domain = ort::make_domain(
        api, *api_base, {&ort::deform_conv2d_overload, &ort::deform_roi_pool_overload});
    ort::check(api, api.AddCustomOpDomain(options, domain));
  });
}

}  // extern "C"
