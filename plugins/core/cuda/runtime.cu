#include "core/cuda/device.cuh"
#include "core/cuda/runtime.h"

namespace dcn_deploy {
namespace cuda {

Status count_devices(int* count) {
  const cudaError_t error = cudaGetDeviceCount(count);
  if (error == cudaSuccess && *count > 0) return {};
  return make_status(StatusCode::kDevice,
                     "expected an NVIDIA GPU that CUDA can use, got %s. Install NVIDIA's driver, "
                     "and look at CUDA_VISIBLE_DEVICES",
                     error == cudaSuccess ? "none" : cudaGetErrorString(error));
}

Status get_current_device(int* ordinal) {
  return status_of(cudaGetDevice(ordinal), "current device");
}

Status set_current_device(int ordinal) {
  return status_of(cudaSetDevice(ordinal), "choice of the device");
}

Status copy_to_device(void* device, const void* host, std::size_t bytes) {
  DCN_DEPLOY_RETURN_IF_ERROR(
      status_of(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice), "copy to the device"));
  // The copy out of pageable memory may still be under way inside the device.
  return wait_for(nullptr);
}

Status wait_for(Stream stream) {
  return status_of(cudaStreamSynchronize(stream), "wait for the device");
}

}  // namespace cuda
}  // namespace dcn_deploy
