#include "onnxruntime/cuda/device_memory.h"

#include <string>

namespace dcn_deploy {
namespace onnxruntime {
namespace cuda {
namespace {

[[noreturn]] void refuse(std::size_t bytes, const std::string& what) {
  throw Failure(ORT_FAIL, what + ": expected " + std::to_string(bytes) +
                              " bytes of the device's memory, got none. Take a smaller batch, or "
                              "raise the provider's gpu_mem_limit");
}

}  // namespace

DeviceMemory::DeviceMemory(const OrtApi& api, const OrtKernelInfo* info) : api_(api) {
  check(api, api.KernelInfoGetAllocator(info, OrtMemTypeDefault, &allocator_));
  try {
    check(api, api.AllocatorGetInfo(allocator_, &info_));
    check(api, api.MemoryInfoGetId(info_, &device_));
  } catch (...) {
    api.ReleaseAllocator(allocator_);
    throw;
  }
}

DeviceMemory::~DeviceMemory() { api_.ReleaseAllocator(allocator_); }

DeviceBuffer DeviceMemory::allocate(std::size_t bytes, const std::string& what) const {
  if (bytes == 0) return {};
  void* data = allocator_->Alloc(allocator_, bytes);
  if (data == nullptr) refuse(bytes, what);
  return {allocator_, data};
}

DeviceBuffer DeviceMemory::allocate_in_run(const OrtKernelContext* context,
                                           dcn_deploy::cuda::Stream stream, std::size_t bytes,
                                           const std::string& what) const {
  // ONNX Runtime looks into its stream without asking whether there is one.
  if (stream == nullptr || bytes == 0) return allocate(bytes, what);
  void* data = nullptr;
  check(api_, api_.KernelContext_GetScratchBuffer(context, info_, bytes, &data));
  if (data == nullptr) refuse(bytes, what);
  return {allocator_, data};
}

dcn_deploy::cuda::Stream stream_of(const OrtApi& api, const OrtKernelContext* context) {
  void* stream = nullptr;
  check(api, api.KernelContext_GetGPUComputeStream(context, &stream));
  return static_cast<dcn_deploy::cuda::Stream>(stream);
}

bool is_on_host(const OrtApi& api, const OrtValue* value) {
  const OrtMemoryInfo* info = nullptr;
  check(api, api.GetTensorMemoryInfo(value, &info));
  OrtMemoryInfoDeviceType type = OrtMemoryInfoDeviceType_CPU;
  api.MemoryInfoGetDeviceType(info, &type);
  return type == OrtMemoryInfoDeviceType_CPU;
}

}  // namespace cuda
}  // namespace onnxruntime
}  // namespace dcn_deploy
