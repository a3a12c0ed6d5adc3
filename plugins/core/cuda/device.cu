#include "core/cuda/device.cuh"
#include "core/cuda/device.h"

namespace dcn_deploy {
namespace cuda {

Status query_device(Device* device) {
  int ordinal = 0;
  DCN_DEPLOY_RETURN_IF_ERROR(status_of(cudaGetDevice(&ordinal), "current device"));
  int major = 0;
  int minor = 0;
  int shared_bytes = 0;
  const struct {
    int* value;
    cudaDeviceAttr attribute;
  } wanted[] = {{&major, cudaDevAttrComputeCapabilityMajor},
                {&minor, cudaDevAttrComputeCapabilityMinor},
                {&device->multiprocessors, cudaDevAttrMultiProcessorCount},
                {&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin}};
  for (const auto& one : wanted) {
    DCN_DEPLOY_RETURN_IF_ERROR(status_of(cudaDeviceGetAttribute(one.value, one.attribute, ordinal),
                                         "attribute of the device"));
  }
  device->compute_capability = 10 * major + minor;
  device->shared_bytes_per_block = static_cast<std::size_t>(shared_bytes);
  return {};
}

}  // namespace cuda
}  // namespace dcn_deploy
