// What RegisterCustomOps does in each of the libraries.

#ifndef DCN_DEPLOY_ONNXRUNTIME_REGISTRATION_H_
#define DCN_DEPLOY_ONNXRUNTIME_REGISTRATION_H_

#include <onnxruntime_c_api.h>

#include <initializer_list>
#include <string>

#include "onnxruntime/api.h"

namespace dcn_deploy {
namespace onnxruntime {

// An operator for one of kFeatureTypes; see CustomOp::overload.
using Overload = const OrtCustomOp* (*)(const OrtApi& api, bool infer_shapes, std::size_t index);

// A domain with every overload of these operators. Sessions refer to a domain without owning it, so
// it has to be kept for as long as the library is loaded.
OrtCustomOpDomain* make_domain(const OrtApi& api, const OrtApiBase& api_base,
                               std::initializer_list<Overload> overloads);

// Calls body(const OrtApi&) with the version of the API that this library needs, and makes a status
// of what it throws.
template <typename Body>
OrtStatusPtr with_api(const OrtApiBase* api_base, Body&& body) noexcept {
  const OrtApi* api = api_base->GetApi(kApiVersion);
  if (api != nullptr) return guarded(*api, [&] { body(*api); });
  // A runtime that old still has the first version of the API, which can carry a message.
  const OrtApi* first = api_base->GetApi(1);
  return first == nullptr
             ? nullptr
             : first->CreateStatus(
                   ORT_FAIL, "dcn_deploy: expected ONNX Runtime 1.21 or later, got an older one");
}

}  // namespace onnxruntime
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_ONNXRUNTIME_REGISTRATION_H_
