// The inner loops in plain C++: they define what the other sets compute, up to the rounding of
// fused operations.

#include <cstdint>

#include "core/cpu/deform_conv2d_kernels.h"
#include "core/cpu/kernels.h"
#include "core/cpu/roi_pool_kernels.h"
#include "core/cpu/storage_portable.h"

namespace dcn_deploy {
namespace cpu {
namespace {

template <typename Storage>
void load(const void* source, int64_t count, float* destination) {
  const auto* values = static_cast<const typename Storage::Type*>(source);
  for (int64_t i = 0; i < count; ++i) destination[i] = Storage::load(values[i]);
}

template <typename Storage>
void store(const float* source, float bias, int64_t count, void* destination) {
  auto* values = static_cast<typename Storage::Type*>(destination);
  for (int64_t i = 0; i < count; ++i) values[i] = Storage::store(source[i] + bias);
}

}  // namespace

const Kernels kPortableKernels = {
    "portable",
    {load<Float32>, load<Float16>, load<BFloat16>},
    {store<Float32>, store<Float16>, store<BFloat16>},
    &kPortableDeformConv2dKernels,
    &kPortableRoIPoolKernels,
};

}  // namespace cpu
}  // namespace dcn_deploy
