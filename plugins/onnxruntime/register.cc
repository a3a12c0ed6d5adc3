// The library's two exported functions.

#include <onnxruntime_c_api.h>

#include <cstdio>

#include "onnxruntime/api.h"
#include "onnxruntime/deform_conv2d.h"
#include "onnxruntime/deform_roi_pool.h"
#include "onnxruntime/feature_types.h"

#define DCN_DEPLOY_EXPORT __attribute__((visibility("default")))

namespace dcn_deploy {
namespace onnxruntime {
namespace {

constexpr const char* kDomain = "dcn_deploy";

// Sessions refer to the domain without owning it, for as long as they live, so it is made once and
// kept.
OrtCustomOpDomain* make_domain(const OrtApi& api, bool infer_shapes) {
  OrtCustomOpDomain* domain = nullptr;
  check(api, api.CreateCustomOpDomain(kDomain, &domain));
  for (std::size_t i = 0; i < kFeatureTypes.size(); ++i) {
    check(api, api.CustomOpDomain_Add(domain, deform_conv2d_overload(api, infer_shapes, i)));
    check(api, api.CustomOpDomain_Add(domain, deform_roi_pool_overload(api, infer_shapes, i)));
  }
  return domain;
}

// Up to version 1.23, ONNX Runtime reads through a null pointer before it calls the shape inference
// of a custom operator whose optional input is left out before a later one (a mask without B).
// There, it goes without inferred shapes.
bool infers_shapes_of_absent_inputs(const OrtApiBase& api_base) {
  int major = 0;
  int minor = 0;
  if (std::sscanf(api_base.GetVersionString(), "%d.%d", &major, &minor) != 2) return false;
  return major > 1 || (major == 1 && minor >= 24);
}

}  // namespace
}  // namespace onnxruntime
}  // namespace dcn_deploy

extern "C" {

DCN_DEPLOY_EXPORT const char* dcn_deploy_version() { return DCN_DEPLOY_VERSION; }

// Called by SessionOptions.register_custom_ops_library.
DCN_DEPLOY_EXPORT OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                            const OrtApiBase* api_base) {
  namespace ort = dcn_deploy::onnxruntime;
  const OrtApi* api = api_base->GetApi(ort::kApiVersion);
  if (api == nullptr) {
    // A runtime that old still has the first version of the API, which can carry a message.
    const OrtApi* first = api_base->GetApi(1);
    return first == nullptr
               ? nullptr
               : first->CreateStatus(
                     ORT_FAIL, "dcn_deploy: expected ONNX Runtime 1.21 or later, got an older one");
  }
  return ort::guarded(*api, [&] {
    static OrtCustomOpDomain* const domain =
        ort::make_domain(*api, ort::infers_shapes_of_absent_inputs(*api_base));
    ort::check(*api, api->AddCustomOpDomain(options, domain));
  });
}

}  // extern "C"
