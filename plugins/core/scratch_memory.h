// The seam through which a caller lends memory for the time of a call: one that keeps it for the
// next call spares the cost of fresh pages.

#ifndef DCN_DEPLOY_CORE_SCRATCH_MEMORY_H_
#define DCN_DEPLOY_CORE_SCRATCH_MEMORY_H_

#include <cstddef>

namespace dcn_deploy {

// Without functions: the C++ library's.
struct ScratchMemory {
  // At least `bytes`, aligned for float; null if there is none. Never throws.
  void* (*allocate)(void* context, std::size_t bytes) = nullptr;
  void (*release)(void* context, void* memory) = nullptr;
  void* context = nullptr;
};

}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_SCRATCH_MEMORY_H_
