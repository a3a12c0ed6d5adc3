#include "onnxruntime/session_memory.h"

#include <memory>

#include "onnxruntime/api.h"

namespace dcn_deploy {
namespace onnxruntime {

SessionMemory::~SessionMemory() {
  if (allocator_ != nullptr) api_.ReleaseAllocator(allocator_);
}

void* SessionMemory::allocate(void* self, std::size_t bytes) {
  // An arena that cannot grow throws inside ONNX Runtime.
  try {
    OrtAllocator* allocator = static_cast<SessionMemory*>(self)->allocator();
    return allocator->Alloc(allocator, bytes);
  } catch (...) {
    return nullptr;
  }
}

void SessionMemory::release(void* self, void* memory) {
  OrtAllocator* allocator = static_cast<SessionMemory*>(self)->allocator_;
  allocator->Free(allocator, memory);
}

OrtAllocator* SessionMemory::allocator() {
  if (allocator_ == nullptr) {
    OrtMemoryInfo* raw_info = nullptr;
    check(api_, api_.CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &raw_info));
    const std::unique_ptr<OrtMemoryInfo, decltype(api_.ReleaseMemoryInfo)> info(
        raw_info, api_.ReleaseMemoryInfo);
    check(api_, api_.KernelContext_GetAllocator(context_, info.get(), &allocator_));
  }
  return allocator_;
}

}  // namespace onnxruntime
}  // namespace dcn_deploy
