#include "tensorrt/device_memory.h"

#include <cuda_runtime_api.h>

namespace dcn_deploy {
namespace tensorrt {
namespace {

Status status_of(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return {};
  // Not to be met again by whoever asks next.
  static_cast<void>(cudaGetLastError());
  const StatusCode code =
      error == cudaErrorMemoryAllocation ? StatusCode::kOutOfMemory : StatusCode::kDevice;
  return make_status(code, "%s: %s", what, cudaGetErrorString(error));
}

// Allocating and freeing would otherwise end another thread's capture of a CUDA graph.
class BesideCaptures {
 public:
  BesideCaptures() : exchanged_(cudaThreadExchangeStreamCaptureMode(&mode_) == cudaSuccess) {}
  ~BesideCaptures() {
    if (exchanged_) static_cast<void>(cudaThreadExchangeStreamCaptureMode(&mode_));
  }
  BesideCaptures(const BesideCaptures&) = delete;
  BesideCaptures& operator=(const BesideCaptures&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
  bool exchanged_;
};

}  // namespace

DeviceBuffer::~DeviceBuffer() {
  if (data_ == nullptr) return;
  const BesideCaptures beside;
  // There is nobody to tell, and after the end of the driver it fails as a matter of course.
  static_cast<void>(cudaFree(data_));
  static_cast<void>(cudaGetLastError());
}

Status allocate(std::size_t bytes, DeviceBuffer* buffer) {
  DeviceBuffer fresh;
  const BesideCaptures beside;
  DCN_DEPLOY_RETURN_IF_ERROR(
      status_of(cudaMalloc(&fresh.data_, bytes), "memory for packed weights"));
  fresh.bytes_ = bytes;
  *buffer = std::move(fresh);
  return {};
}

Status is_capturing(cuda::Stream stream, bool* capturing) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  DCN_DEPLOY_RETURN_IF_ERROR(
      status_of(cudaStreamIsCapturing(stream, &status), "state of the stream"));
  *capturing = status != cudaStreamCaptureStatusNone;
  return {};
}

}  // namespace tensorrt
}  // namespace dcn_deploy
