// Memory on the device of a session, from the session's own allocator, so that its limits hold and
// nothing is asked of the driver in a run.

#ifndef DCN_DEPLOY_ONNXRUNTIME_CUDA_DEVICE_MEMORY_H_
#define DCN_DEPLOY_ONNXRUNTIME_CUDA_DEVICE_MEMORY_H_

#include <onnxruntime_c_api.h>

#include <cstddef>
#include <string>
#include <utility>

#include "core/cuda/device.h"
#include "onnxruntime/api.h"

namespace dcn_deploy {
namespace onnxruntime {
namespace cuda {

// Gives its memory back when it goes.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(OrtAllocator* allocator, void* data) : allocator_(allocator), data_(data) {}
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(allocator_, other.allocator_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~DeviceBuffer() {
    if (data_ != nullptr) allocator_->Free(allocator_, data_);
  }

  void* data() const { return data_; }

 private:
  OrtAllocator* allocator_ = nullptr;
  void* data_ = nullptr;
};

// Must outlive its buffers.
class DeviceMemory {
 public:
  DeviceMemory(const OrtApi& api, const OrtKernelInfo* info);
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  ~DeviceMemory();

  int device() const { return device_; }

  // Throws a Failure if there is not so much. `what` is the subject of its message.
  DeviceBuffer allocate(std::size_t bytes, const std::string& what) const;
  // For what is enqueued on the run's stream: given back while the work is still under way, it is
  // not given to another stream before that is done.
  DeviceBuffer allocate_in_run(const OrtKernelContext* context, dcn_deploy::cuda::Stream stream,
                               std::size_t bytes, const std::string& what) const;

 private:
  const OrtApi& api_;
  OrtAllocator* allocator_ = nullptr;
  const OrtMemoryInfo* info_ = nullptr;  // owned by the allocator
  int device_ = 0;
};

// The stream of the session, on which the kernel has to put its work.
dcn_deploy::cuda::Stream stream_of(const OrtApi& api, const OrtKernelContext* context);

// Whether the tensor's data can be read by the host.
bool is_on_host(const OrtApi& api, const OrtValue* value);

}  // namespace cuda
}  // namespace onnxruntime
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_ONNXRUNTIME_CUDA_DEVICE_MEMORY_H_
