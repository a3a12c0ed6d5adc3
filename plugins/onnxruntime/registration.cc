#include "onnxruntime/registration.h"

#include <cstdio>

#include "onnxruntime/feature_types.h"

namespace dcn_deploy {
namespace onnxruntime {
namespace {

constexpr const char* kDomain = "dcn_deploy";

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

OrtCustomOpDomain* make_domain(const OrtApi& api, const OrtApiBase& api_base,
                               std::initializer_list<Overload> overloads) {
  const bool infer_shapes = infers_shapes_of_absent_inputs(api_base);
  OrtCustomOpDomain* domain = nullptr;
  check(api, api.CreateCustomOpDomain(kDomain, &domain));
  for (const Overload overload : overloads) {
    for (std::size_t i = 0; i < kFeatureTypes.size(); ++i) {
      check(api, api.CustomOpDomain_Add(domain, overload(api, infer_shapes, i)));
    }
  }
  return domain;
}

}  // namespace onnxruntime
}  // namespace dcn_deploy
