#include "core/cpu/kernels.h"

#include <cstdlib>
#include <cstring>

namespace dcn_deploy {
namespace cpu {
namespace {

struct Target {
  const Kernels* kernels;
  bool (*runs_here)();
};

// Fastest first.
const Target kTargets[] = {
#if defined(DCN_DEPLOY_WITH_AVX2)
    {&kAvx2Kernels,
     [] {
       return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0 &&
              __builtin_cpu_supports("f16c") != 0;
     }},
#endif
    {&kPortableKernels, [] { return true; }},
};

const Kernels& choose() {
  const char* forced = std::getenv("DCN_DEPLOY_CPU_TARGET");
  if (forced != nullptr) {
    const Kernels* kernels = find_kernels(forced);
    if (kernels != nullptr) return *kernels;
  }
  for (const Target& target : kTargets) {
    if (target.runs_here()) return *target.kernels;
  }
  return kPortableKernels;
}

}  // namespace

const Kernels* find_kernels(const char* name) {
  for (const Target& target : kTargets) {
    if (std::strcmp(target.kernels->name, name) == 0 && target.runs_here()) return target.kernels;
  }
  return nullptr;
}

const Kernels& select_kernels() {
  static const Kernels& kernels = choose();
  return kernels;
}

}  // namespace cpu
}  // namespace dcn_deploy
