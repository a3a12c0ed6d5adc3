// The inner loops of the CPU operators, one set for each instruction set, chosen at run time.
//
// This header is compiled with different instruction sets in different files, so it holds plain
// data and function pointers only: an inline function, or a template of the standard library,
// compiled for AVX2 could be the copy that the linker keeps for everyone.

#ifndef DCN_DEPLOY_CORE_CPU_KERNELS_H_
#define DCN_DEPLOY_CORE_CPU_KERNELS_H_

#include <stdint.h>

namespace dcn_deploy {
namespace cpu {

struct DeformConv2dKernels;  // deform_conv2d_kernels.h
struct RoIPoolKernels;       // roi_pool_kernels.h

// One set of inner loops. Pointers are never null unless said otherwise.
struct Kernels {
  const char* name;

  // Reads `count` values of a storage type (index: DType) as float32.
  void (*load[3])(const void* source, int64_t count, float* destination);

  // Adds `bias` to `count` float32 values and writes them in a storage type (index: DType).
  void (*store[3])(const float* source, float bias, int64_t count, void* destination);

  const DeformConv2dKernels* deform_conv2d;
  const RoIPoolKernels* roi_pool;
};

extern const Kernels kPortableKernels;
#if defined(DCN_DEPLOY_WITH_AVX2)
extern const Kernels kAvx2Kernels;
#endif
#if defined(DCN_DEPLOY_WITH_AVX512)
extern const Kernels kAvx512Kernels;
#endif

// The fastest set this processor runs. The environment variable DCN_DEPLOY_CPU_TARGET (portable,
// avx2, avx512), read at the first call, forces one; a name that is unknown or that the processor
// cannot run is ignored.
const Kernels& select_kernels();

// The set called `name`; null if there is none or the processor cannot run it.
const Kernels* find_kernels(const char* name);

}  // namespace cpu
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CPU_KERNELS_H_
