// Device memory that a plugin keeps for itself. No header of CUDA is needed to include this one.
//
// It comes from the CUDA runtime, not from the allocator that TensorRT offers a plugin: TensorRT's
// reports and limits do not count it.

#ifndef DCN_DEPLOY_TENSORRT_DEVICE_MEMORY_H_
#define DCN_DEPLOY_TENSORRT_DEVICE_MEMORY_H_

#include <cstddef>
#include <utility>

#include "core/cuda/device.h"
#include "core/status.h"

namespace dcn_deploy {
namespace tensorrt {

// Gives its memory back when it goes.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceBuffer();

  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  friend Status allocate(std::size_t bytes, DeviceBuffer* buffer);

  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// On the current device; also while another thread captures a CUDA graph.
Status allocate(std::size_t bytes, DeviceBuffer* buffer);

// Whether work put on the stream goes into a CUDA graph, to be done later if at all.
Status is_capturing(cuda::Stream stream, bool* capturing);

}  // namespace tensorrt
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TENSORRT_DEVICE_MEMORY_H_
