#include "onnxruntime/cuda/provider.h"

#include <string>

#include "core/cuda/runtime.h"
#include "onnxruntime/api.h"

namespace dcn_deploy {
namespace onnxruntime {
namespace cuda {

void require_provider(const OrtApi& api, const OrtApiBase& api_base) {
  if (kProvider == nullptr) return;
  char** names = nullptr;
  int count = 0;
  check(api, api.GetAvailableProviders(&names, &count));
  std::string found;
  bool has_provider = false;
  try {
    for (int i = 0; i < count; ++i) {
      has_provider = has_provider || std::string(names[i]) == kProvider;
      found += (i > 0 ? ", " : "") + std::string(names[i]);
    }
  } catch (...) {
    check(api, api.ReleaseAvailableProviders(names, count));
    throw;
  }
  check(api, api.ReleaseAvailableProviders(names, count));
  if (!has_provider) {
    throw Failure(ORT_FAIL, std::string("dcn_deploy: expected an ONNX Runtime with the provider ") +
                                kProvider + ", got version " + api_base.GetVersionString() +
                                " with " + found +
                                ". Install onnxruntime-gpu, or take the library for the CPU");
  }
  int devices = 0;
  check(dcn_deploy::cuda::count_devices(&devices), "dcn_deploy");
}

}  // namespace cuda
}  // namespace onnxruntime
}  // namespace dcn_deploy
