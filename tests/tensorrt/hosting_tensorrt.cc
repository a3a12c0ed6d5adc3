#include "hosting_tensorrt.h"

#include <NvInferVersion.h>

namespace dcn_deploy {
namespace tensorrt {

HostingTensorRT tensorrt_of_the_headers() {
  return {NV_TENSORRT_MAJOR, NV_TENSORRT_MINOR, nullptr};
}

HostingTensorRT& hosting_tensorrt() {
  static HostingTensorRT host = tensorrt_of_the_headers();
  return host;
}

}  // namespace tensorrt
}  // namespace dcn_deploy

#define DCN_DEPLOY_EXPORT __attribute__((visibility("default"), used))

extern "C" {

DCN_DEPLOY_EXPORT std::int32_t getInferLibMajorVersion() noexcept {
  return dcn_deploy::tensorrt::hosting_tensorrt().major;
}

DCN_DEPLOY_EXPORT std::int32_t getInferLibMinorVersion() noexcept {
  return dcn_deploy::tensorrt::hosting_tensorrt().minor;
}

DCN_DEPLOY_EXPORT void* getLogger() noexcept {
  return dcn_deploy::tensorrt::hosting_tensorrt().logger;
}

}  // extern "C"
