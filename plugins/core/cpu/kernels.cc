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

// What a set of instructions of that name means here: all that its files are compiled for.
#if defined(DCN_DEPLOY_WITH_AVX2)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0 &&
         __builtin_cpu_supports("f16c") != 0 && __builtin_cpu_supports("bmi") != 0 &&
         __builtin_cpu_supports("bmi2") != 0 && __builtin_cpu_supports("aes") != 0 &&
         __builtin_cpu_supports("pclmul") != 0;
}
#endif
#if defined(DCN_DEPLOY_WITH_AVX512)
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") != 0 &&
         __builtin_cpu_supports("avx512cd") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
         __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0;
}
#endif

// Fastest first.
const Target kTargets[] = {
#if defined(DCN_DEPLOY_WITH_AVX512)
    {&kAvx512Kernels, has_avx512},
#endif
#if defined(DCN_DEPLOY_WITH_AVX2)
    {&kAvx2Kernels, has_avx2},
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
