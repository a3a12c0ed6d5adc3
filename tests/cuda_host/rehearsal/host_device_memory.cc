// Memory that a TensorRT plugin keeps, where the host plays the device.

#include <atomic>
#include <cstdint>
#include <cstdlib>

#include "host_device.h"
#include "tensorrt/device_memory.h"

namespace dcn_deploy {
namespace tensorrt {
namespace {

std::atomic<int> kept_buffers{0};
std::atomic<bool> capturing_now{false};

}  // namespace

DeviceBuffer::~DeviceBuffer() {
  if (data_ == nullptr) return;
  std::free(data_);
  --kept_buffers;
}

Status allocate(std::size_t bytes, DeviceBuffer* buffer) {
  DeviceBuffer fresh;
  fresh.data_ = std::malloc(bytes);
  if (fresh.data_ == nullptr) {
    return make_status(StatusCode::kOutOfMemory, "memory for packed weights: expected %zu bytes",
                       bytes);
  }
  fresh.bytes_ = bytes;
  ++kept_buffers;
  *buffer = std::move(fresh);
  return {};
}

Status is_capturing(cuda::Stream, bool* capturing) {
  *capturing = capturing_now;
  return {};
}

}  // namespace tensorrt
}  // namespace dcn_deploy

extern "C" {

// Buffers that plugins keep now.
__attribute__((visibility("default"))) int dcn_deploy_host_kept_buffers() {
  return dcn_deploy::tensorrt::kept_buffers;
}

// Blocks of all launches so far, which tell one tile from another.
__attribute__((visibility("default"))) std::int64_t dcn_deploy_host_blocks() {
  return dcn_deploy::cuda::host::counters().blocks;
}

// Whether every stream is from now on one that a CUDA graph is made of. What is put on it is done
// all the same: it stands for the graph's launch.
__attribute__((visibility("default"))) void dcn_deploy_host_set_capturing(bool capturing) {
  dcn_deploy::tensorrt::capturing_now = capturing;
}

}  // extern "C"
