// Loops of RoI pooling that are the same for every instruction set, apart from the storage types.
// Internal linkage: see half.h.

#ifndef DCN_DEPLOY_CORE_CPU_ROI_POOL_LOOPS_H_
#define DCN_DEPLOY_CORE_CPU_ROI_POOL_LOOPS_H_

#include <stdint.h>

#include "core/cpu/roi_pool_kernels.h"

namespace dcn_deploy {
namespace cpu {
namespace {

template <typename Storage>
void pool_direct(const void* source, int64_t channel_stride, int64_t row_stride, int64_t channels,
                 const BinTaps* bins, int64_t count, int64_t y_stride, void* y) {
  using Type = typename Storage::Type;
  for (int64_t c = 0; c < channels; ++c) {
    const Type* map = static_cast<const Type*>(source) + c * channel_stride;
    Type* values = static_cast<Type*>(y) + c * y_stride;
    for (int64_t b = 0; b < count; ++b) {
      const BinTaps& bin = bins[b];
      float sum = 0.0f;
      for (int64_t i = 0; i < bin.row_count; ++i) {
        const Type* row = map + bin.first + bin.rows[i].index * row_stride;
        float of_row = 0.0f;
        for (int64_t j = 0; j < bin.column_count; ++j) {
          of_row += bin.columns[j].weight * Storage::load(row[bin.columns[j].index]);
        }
        sum += bin.rows[i].weight * of_row;
      }
      values[b] = Storage::store(sum * bin.scale);
    }
  }
}

}  // namespace
}  // namespace cpu
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CPU_ROI_POOL_LOOPS_H_
