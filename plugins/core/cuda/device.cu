#include "core/cuda/device.cuh"
#include "core/cuda/device.h"

namespace dcn_deploy {
namespace cuda {
namespace {

// Asks for what every kernel of this library was compiled for: code that the driver compiled from
// an older architecture's lacks what the device has.
__global__ void compiled_like_the_others() {}

// SM 9.0 and later: what CUDA calls the portable size of a cluster.
constexpr int kClusterComputeCapability = 90;
constexpr int kPortableClusterBlocks = 8;

}  // namespace

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
  cudaFuncAttributes compiled{};
  DCN_DEPLOY_RETURN_IF_ERROR(status_of(cudaFuncGetAttributes(&compiled, &compiled_like_the_others),
                                       "kernels for this device"));
  const bool has_clusters = device->compute_capability >= kClusterComputeCapability &&
                            compiled.ptxVersion >= kClusterComputeCapability;
  device->cluster_blocks = has_clusters ? kPortableClusterBlocks : 1;
  return {};
}

}  // namespace cuda
}  // namespace dcn_deploy
