// Packing the weights of a deformable convolution.

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <new>

#include "core/cpu/deform_conv2d.h"
#include "core/cpu/deform_conv2d_kernels.h"
#include "core/cpu/deform_conv2d_plan.h"
#include "core/cpu/deform_conv2d_scratch.h"
#include "core/dtype_check.h"

namespace dcn_deploy {
namespace cpu {
namespace {

constexpr std::int64_t kMaxBlockRows = kBlockVectors * kMaxLanes;
static_assert(2 * kMaxBlockRows * kMaxDepth <= kStagedFloats, "two copies of a block fit");

class PackTask {
 public:
  PackTask(const Groups& groups, const void* weight, DType dtype, const Kernels& kernels,
           float* packed, std::int64_t group_size)
      : groups_(groups),
        weight_(static_cast<const char*>(weight)),
        dtype_(dtype),
        kernels_(kernels),
        loops_(*kernels.deform_conv2d),
        packed_(packed),
        group_size_(group_size),
        block_rows_(kBlockVectors * loops_.lanes),
        blocks_(groups.depthwise ? 1 : ceil_div(groups.rows, block_rows_)) {}

  std::int64_t count() const { return groups_.count * blocks_; }
  bool out_of_memory() const { return out_of_memory_.load(std::memory_order_relaxed); }

  static void run(void* self, std::int64_t index) { static_cast<PackTask*>(self)->run(index); }

 private:
  void run(std::int64_t index) {
    if (groups_.depthwise) return pack_depthwise();
    DeformConv2dScratch* scratch = deform_conv2d_scratch();
    if (scratch == nullptr) {
      out_of_memory_.store(true, std::memory_order_relaxed);
      return;
    }
    const std::int64_t group = index / blocks_;
    const std::int64_t first_row = index % blocks_ * block_rows_;
    const std::int64_t padded_rows = round_up(groups_.rows, loops_.lanes);
    const std::int64_t rows = std::min(block_rows_, groups_.rows - first_row);
    const std::int64_t width = std::min(block_rows_, padded_rows - first_row);
    for_each_sum_block(groups_, group, [&](const SumBlock& block) {
      float* target =
          packed_ + group * group_size_ + block.first_term * padded_rows + first_row * block.depth;
      pack_block(block, group, first_row, rows, width, scratch->staged, target);
    });
  }

  // Rows of W, [channel][tap], become columns, [tap][channel] within each segment.
  void pack_block(const SumBlock& block, std::int64_t group, std::int64_t first_row,
                  std::int64_t rows, std::int64_t width, float* scratch, float* target) const {
    const std::int64_t terms = groups_.channels * groups_.taps;
    const std::int64_t first_channel = block.channel - group * groups_.channels;
    const std::int64_t first =
        (group * groups_.rows + first_row) * terms + first_channel * groups_.taps + block.tap;
    const float* source = scratch;
    std::int64_t stride = block.depth;
    if (dtype_ == DType::kFloat32 && block.taps == groups_.taps) {
      source = reinterpret_cast<const float*>(weight_) + first;
      stride = terms;
    } else {
      const bool whole = block.taps == groups_.taps;
      for (std::int64_t row = 0; row < rows; ++row) {
        float* values = scratch + row * block.depth;
        for (std::int64_t c = 0; c < (whole ? 1 : block.channels); ++c) {
          load(first + row * terms + c * groups_.taps, whole ? block.depth : block.taps,
               values + c * block.taps);
        }
      }
    }
    float* columns = scratch + kMaxBlockRows * kMaxDepth;
    if (rows < width) std::fill(columns, columns + block.depth * width, 0.0f);
    loops_.gather(source, stride, rows, block.depth, columns, width);
    for (std::int64_t s = 0; s < block.segment_count; ++s) {
      const Segment& segment = block.segments[s];
      for (std::int64_t c = 0; c < segment.channels; ++c) {
        for (std::int64_t t = 0; t < block.taps; ++t) {
          std::memcpy(target + (segment.column + t * segment.channels + c) * width,
                      columns + ((segment.channel + c) * block.taps + t) * width,
                      static_cast<std::size_t>(width) * sizeof(float));
        }
      }
    }
  }

  void pack_depthwise() const {
    const std::int64_t stride = depthwise_weight_stride(groups_, loops_.lanes);
    std::fill(packed_, packed_ + group_size_, 0.0f);
    for (std::int64_t c = 0; c < groups_.channels; ++c) {
      for (std::int64_t row = 0; row < groups_.rows; ++row) {
        float values[kMaxTaps];
        load((c * groups_.rows + row) * groups_.taps, groups_.taps, values);
        for (std::int64_t t = 0; t < groups_.taps; ++t) {
          packed_[(row * groups_.taps + t) * stride + c] = values[t];
        }
      }
    }
  }

  void load(std::int64_t index, std::int64_t count, float* values) const {
    kernels_.load[static_cast<int>(dtype_)](
        weight_ + index * static_cast<std::int64_t>(size_of(dtype_)), count, values);
  }

  const Groups& groups_;
  const char* weight_;
  const DType dtype_;
  const Kernels& kernels_;
  const DeformConv2dKernels& loops_;
  float* packed_;
  const std::int64_t group_size_;
  const std::int64_t block_rows_;
  const std::int64_t blocks_;
  std::atomic<bool> out_of_memory_{false};
};

}  // namespace

DeformConv2dScratch* deform_conv2d_scratch() {
  thread_local std::unique_ptr<DeformConv2dScratch> scratch;
  if (scratch == nullptr) scratch.reset(new (std::nothrow) DeformConv2dScratch);
  return scratch.get();
}

Status PackedDeformConv2dWeights::pack(const DeformConv2dParams& params, const void* weight,
                                       DType dtype, const Kernels& kernels,
                                       const ParallelFor& parallel_for,
                                       PackedDeformConv2dWeights* packed) {
  DCN_DEPLOY_RETURN_IF_ERROR(check_floating_point({{"W", dtype}}));
  const Groups groups(params);
  const std::int64_t lanes = kernels.deform_conv2d->lanes;
  std::int64_t terms;
  std::int64_t count;
  std::int64_t bytes;
  const std::int64_t columns =
      groups.depthwise ? depthwise_weight_stride(groups, lanes) : round_up(groups.rows, lanes);
  if (__builtin_mul_overflow(groups.depthwise ? groups.rows : groups.channels, groups.taps,
                             &terms) ||
      __builtin_mul_overflow(terms, columns, &packed->group_size_) ||
      __builtin_mul_overflow(packed->group_size_, groups.count, &count) ||
      __builtin_mul_overflow(count, static_cast<std::int64_t>(sizeof(float)), &bytes)) {
    return make_status(StatusCode::kTooLarge,
                       "packed weights: expected a size that fits in 64 bits, got more");
  }
  if (!packed->buffer_.allocate(count)) {
    return make_status(StatusCode::kOutOfMemory,
                       "packed weights: expected %lld bytes of memory, got none",
                       static_cast<long long>(bytes));
  }
  packed->kernels_ = &kernels;
  PackTask task(groups, weight, dtype, kernels, packed->buffer_.data(), packed->group_size_);
  parallel_for(task.count(), &PackTask::run, &task);
  return task.out_of_memory() ? out_of_scratch() : Status{};
}

}  // namespace cpu
}  // namespace dcn_deploy
