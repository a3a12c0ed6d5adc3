// Memory that a thread keeps from task to task, of one size whatever the shapes are.

#ifndef DCN_DEPLOY_CORE_CPU_DEFORM_CONV2D_SCRATCH_H_
#define DCN_DEPLOY_CORE_CPU_DEFORM_CONV2D_SCRATCH_H_

#include <cstddef>
#include <cstdint>

#include "core/cpu/deform_conv2d_plan.h"
#include "core/status.h"

namespace dcn_deploy {
namespace cpu {

// Floats of a staged map, what lies beside it included.
constexpr std::int64_t kStagedFloats = 88 << 10;
constexpr std::int64_t kTransposedFloats = 8 * kMaxTilePixels;

struct DeformConv2dScratch {
  alignas(64) std::int32_t at[2 * kMaxSamples];
  alignas(64) float weight[4 * kMaxSamples];
  alignas(64) float staged[kStagedFloats];
  // The panel's last pixel may be written beyond its end, and a staged map read.
  alignas(64) float panel[kMaxStrip * kPanelStride];
  alignas(64) float sums[kMaxSums];
  alignas(64) float bias[kMaxRows + kMaxLanes];
  alignas(64) float transposed[kTransposedFloats];
  // Where the first tap lies, and what the inputs say.
  alignas(64) std::int32_t y_base[kMaxTilePixels];
  alignas(64) std::int32_t x_base[kMaxTilePixels];
  alignas(64) float y_offset[kMaxTilePixels];
  alignas(64) float x_offset[kMaxTilePixels];
  alignas(64) float mask[kMaxTilePixels];
};
static_assert(sizeof(DeformConv2dScratch) <= std::size_t{1} << 20,
              "scratch is at most 1 MiB a thread");

// The calling thread's; null if there is no memory.
DeformConv2dScratch* deform_conv2d_scratch();

inline Status out_of_scratch() {
  return make_status(StatusCode::kOutOfMemory,
                     "scratch memory: expected %zu bytes for each thread, got none",
                     sizeof(DeformConv2dScratch));
}

}  // namespace cpu
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CPU_DEFORM_CONV2D_SCRATCH_H_
