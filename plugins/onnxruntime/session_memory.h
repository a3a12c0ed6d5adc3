// The memory of the session that runs a node, as the core borrows it: an arena keeps it for the
// next run.

#ifndef DCN_DEPLOY_ONNXRUNTIME_SESSION_MEMORY_H_
#define DCN_DEPLOY_ONNXRUNTIME_SESSION_MEMORY_H_

#include <onnxruntime_c_api.h>

#include <cstddef>

#include "core/scratch_memory.h"

namespace dcn_deploy {
namespace onnxruntime {

// Must outlive what scratch_memory() returns, and all memory that was lent. For one thread.
class SessionMemory {
 public:
  SessionMemory(const OrtApi& api, const OrtKernelContext* context)
      : api_(api), context_(context) {}
  SessionMemory(const SessionMemory&) = delete;
  SessionMemory& operator=(const SessionMemory&) = delete;
  ~SessionMemory();

  ScratchMemory scratch_memory() { return {&allocate, &release, this}; }

 private:
  static void* allocate(void* self, std::size_t bytes);
  static void release(void* self, void* memory);
  // Throws a Failure if the session has none.
  OrtAllocator* allocator();

  const OrtApi& api_;
  const OrtKernelContext* context_;
  OrtAllocator* allocator_ = nullptr;
};

}  // namespace onnxruntime
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_ONNXRUNTIME_SESSION_MEMORY_H_
