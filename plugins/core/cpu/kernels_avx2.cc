// The inner loops with AVX2, FMA and F16C. This file alone is compiled for them: see kernels.h for
// what it must not include.

#include <immintrin.h>
#include <stdint.h>

#include "core/cpu/deform_conv2d_kernels.h"
#include "core/cpu/kernels.h"
#include "core/cpu/roi_pool_kernels.h"
#include "core/cpu/storage_avx2.h"

namespace dcn_deploy {
namespace cpu {
namespace {

template <typename Storage>
void load(const void* source, int64_t count, float* destination) {
  const auto* values = static_cast<const typename Storage::Type*>(source);
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) _mm256_storeu_ps(destination + i, Storage::load8(values + i));
  for (; i < count; ++i) destination[i] = Storage::load(values[i]);
}

template <typename Storage>
void store(const float* source, float bias, int64_t count, void* destination) {
  auto* values = static_cast<typename Storage::Type*>(destination);
  const __m256 biases = _mm256_set1_ps(bias);
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    Storage::store8(_mm256_add_ps(_mm256_loadu_ps(source + i), biases), values + i);
  }
  for (; i < count; ++i) values[i] = Storage::store(source[i] + bias);
}

}  // namespace

const Kernels kAvx2Kernels = {
    "avx2",
    {load<Float32>, load<Float16>, load<BFloat16>},
    {store<Float32>, store<Float16>, store<BFloat16>},
    &kAvx2DeformConv2dKernels,
    &kAvx2RoIPoolKernels,
};

#if defined(DCN_DEPLOY_WITH_AVX512)
// What AVX-512 gains nothing for is shared.
const Kernels kAvx512Kernels = {
    "avx512",
    {load<Float32>, load<Float16>, load<BFloat16>},
    {store<Float32>, store<Float16>, store<BFloat16>},
    &kAvx512DeformConv2dKernels,
    &kAvx2RoIPoolKernels,
};
#endif

}  // namespace cpu
}  // namespace dcn_deploy
