// The inner loops of RoI pooling, one set for each instruction set (see kernels.h, also for what
// this header must not hold).

#ifndef DCN_DEPLOY_CORE_CPU_ROI_POOL_KERNELS_H_
#define DCN_DEPLOY_CORE_CPU_ROI_POOL_KERNELS_H_

#include <stdint.h>

#include "core/axis_tap.h"

namespace dcn_deploy {
namespace cpu {

// Channels that are summed together: what the registers of the smallest set hold.
constexpr int64_t kRoIPoolChannels = 64;
// Bins that are worked on together.
constexpr int64_t kRoIPoolBins = 64;

// A bin: the sum over its rows and columns of row weight × column weight × pixel, times `scale`.
struct BinTaps {
  const AxisTap* rows;
  const AxisTap* columns;
  int64_t row_count;
  int64_t column_count;
  // Where the map that the bin reads begins, in elements.
  int64_t first;
  float scale;
};

struct RoIPoolKernels {
  // Copies `count` pixels of `channels` channels (element type index: DType), which lie
  // `channel_stride` elements apart, to staged[count][channels].
  void (*stage[3])(const void* source, int64_t channel_stride, int64_t channels, int64_t count,
                   float* staged);

  // Bins of a staged map [rows][row_stride / channels][channels], of at most kRoIPoolChannels
  // channels, to result[count][kRoIPoolChannels]; what lies beyond the channels is undefined.
  void (*pool)(const float* staged, int64_t row_stride, int64_t channels, const BinTaps* bins,
               int64_t count, float* result);

  // Writes result[count][kRoIPoolChannels] to y[channels][count], the channels `channel_stride`
  // elements apart (element type index: DType).
  void (*store[3])(const float* result, int64_t channels, int64_t count, int64_t channel_stride,
                   void* y);

  // Bins of a map [channels][rows][row_stride] as it is, the channels `channel_stride` elements
  // apart, to y[channels][count], the channels `y_stride` elements apart (element type index:
  // DType).
  void (*pool_direct[3])(const void* source, int64_t channel_stride, int64_t row_stride,
                         int64_t channels, const BinTaps* bins, int64_t count, int64_t y_stride,
                         void* y);
};

extern const RoIPoolKernels kPortableRoIPoolKernels;
#if defined(DCN_DEPLOY_WITH_AVX2)
extern const RoIPoolKernels kAvx2RoIPoolKernels;
#endif

}  // namespace cpu
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CPU_ROI_POOL_KERNELS_H_
