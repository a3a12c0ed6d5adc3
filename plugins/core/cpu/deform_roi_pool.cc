#include "core/cpu/deform_roi_pool.h"

#include <algorithm>
#include <atomic>
#include <cinttypes>
#include <cmath>
#include <memory>
#include <new>

#include "core/cpu/roi_pool_kernels.h"
#include "core/dtype_check.h"
#include "core/roi_axis.h"

namespace dcn_deploy {
namespace cpu {
namespace {

// Rows and columns of the bins that are worked on together: so many that the thread's own memory
// for them lasts for whole bins of any usual size.
constexpr std::int64_t kTapCapacity = 4096;

// Where RoIs and classes are too few for so many tasks, their blocks of channels become tasks too.
constexpr std::int64_t kMinTasks = 16;
// Pixel reads that make a task worth handing to another thread.
constexpr double kTaskReads = 1e5;
// Elements that a task copies.
constexpr std::int64_t kStageElements = std::int64_t{1} << 16;

// The work of copying an element, of reading a pixel of one channel where it is, and of reading a
// vector of channels in the copy, with what comes on top for each pixel. In any unit: only the
// ratios count.
constexpr double kStageCost = 0.5;
constexpr double kDirectCost = 1.0;
constexpr double kVectorCost = 0.5;
constexpr double kPixelCost = 1.5;
constexpr std::int64_t kVector = 8;

// Samples whose distances from their bin's start are computed once for all bins of a RoI.
constexpr int kStoredSamples = 16;

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
constexpr std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

const char* element(const void* base, DType dtype, std::int64_t index) {
  return static_cast<const char*>(base) + index * static_cast<std::int64_t>(size_of(dtype));
}

using Axis = RoIAxis<kStoredSamples>;

// The rows (or columns) of the bin that starts at `start`, in rising order; returns how many.
std::int64_t locate(const Axis& axis, double start, AxisTap* taps) {
  SampleRange range;
  if (!axis.samples_on_map(start, &range)) return 0;
  return axis.locate(start, range, axis.sample_weight(range),
                     [taps](std::int64_t number, const AxisTap& tap) { taps[number] = tap; });
}

// Floats in memory that a caller lends.
class LentBuffer {
 public:
  LentBuffer() = default;
  LentBuffer(const LentBuffer&) = delete;
  LentBuffer& operator=(const LentBuffer&) = delete;
  ~LentBuffer() {
    if (data_ == nullptr) return;
    if (memory_.release != nullptr) {
      memory_.release(memory_.context, data_);
    } else {
      ::operator delete(data_, kAlignment);
    }
  }

  // Once. False if there is no memory.
  bool allocate(std::int64_t count, const ScratchMemory& memory) {
    memory_ = memory;
    const std::size_t bytes =
        static_cast<std::size_t>(std::max(count, std::int64_t{1})) * sizeof(float);
    void* data = memory.allocate != nullptr ? memory.allocate(memory.context, bytes)
                                            : ::operator new(bytes, kAlignment, std::nothrow);
    data_ = static_cast<float*>(data);
    return data_ != nullptr;
  }

  float* data() { return data_; }

 private:
  // A cache line.
  static constexpr std::align_val_t kAlignment{64};
  float* data_ = nullptr;
  ScratchMemory memory_;
};

struct RoI {
  bool finite;
  std::int64_t image;
  Axis vertical;
  Axis horizontal;
};

struct Scratch {
  AxisTap taps[kTapCapacity];
  BinTaps bins[kRoIPoolBins];
  alignas(64) float result[kRoIPoolBins * kRoIPoolChannels];
};

// The calling thread's scratch; null if there is no memory.
Scratch* thread_scratch() {
  thread_local std::unique_ptr<Scratch> scratch;
  if (scratch == nullptr) scratch.reset(new (std::nothrow) Scratch);
  return scratch.get();
}

// What the RoIs are, and the sizes that follow.
class DeformRoIPoolCall {
 public:
  DeformRoIPoolCall(const DeformRoIPool2dParams& params, const DeformRoIPool2dTensors& tensors,
                    const Kernels& kernels)
      : params_(params),
        tensors_(tensors),
        kernels_(kernels),
        loops_(*kernels.roi_pool),
        plane_(params.in_h * params.in_w),
        groups_(params.group_size * params.group_size),
        bins_(params.out_h * params.out_w),
        class_channels_(params.out_channels / params.classes),
        blocks_(ceil_div(class_channels_, kRoIPoolChannels)),
        block_channels_(
            std::min(round_up(ceil_div(class_channels_, blocks_), kVector), class_channels_)) {}

  // Checks batch indices, and sums up what there is to read.
  Status survey() {
    slots_.reset(new (std::nothrow) std::int64_t[static_cast<std::size_t>(params_.batch) + 1]);
    if (slots_ == nullptr) {
      return make_status(StatusCode::kOutOfMemory,
                         "memory for the numbers of %" PRId64 " images: expected some, got none",
                         params_.batch);
    }
    std::fill(slots_.get(), slots_.get() + params_.batch, kNotUsed);
    for (std::int64_t r = 0; r < params_.rois; ++r) {
      float values[5];
      load_roi(r, values);
      // Written so that NaN fails it.
      if (!(values[0] >= 0 &&
            static_cast<double>(values[0]) < static_cast<double>(params_.batch))) {
        return make_status(StatusCode::kInvalidArgument,
                           "input rois, RoI %" PRId64 ": expected a batch index in [0, %" PRId64
                           "), got %g",
                           r, params_.batch, static_cast<double>(values[0]));
      }
      const RoI roi = roi_of(values);
      if (!roi.finite) continue;
      std::int64_t& slot = slots_[roi.image];
      if (slot == kNotUsed) slot = slot_count_++;
      reads_ += static_cast<double>(roi.vertical.max_taps()) *
                static_cast<double>(roi.horizontal.max_taps());
    }
    reads_ *= static_cast<double>(bins_) * static_cast<double>(params_.classes);
    return {};
  }

  // Whether copying the images first is estimated to be less work.
  bool staging_pays() const {
    const auto channels = static_cast<double>(class_channels_);
    const double elements = static_cast<double>(slot_count_) *
                            static_cast<double>(params_.in_channels) * static_cast<double>(plane_);
    const double vectors = static_cast<double>(ceil_div(class_channels_, kVector));
    const double staged =
        reads_ * (static_cast<double>(blocks_) * kPixelCost + vectors * kVectorCost);
    return elements * kStageCost + staged < reads_ * channels * kDirectCost;
  }

  // Copies the images that RoIs lie in to [slot][channel group][block of channels][pixel][channel].
  Status stage(const ParallelFor& parallel_for, const ScratchMemory& memory) {
    const std::int64_t count = slot_count_ * params_.in_channels * plane_;
    if (!staged_.allocate(count, memory)) {
      return make_status(StatusCode::kOutOfMemory,
                         "copy of the map with channels innermost: expected memory for %" PRId64
                         " float32 values, got none",
                         count);
    }
    images_.reset(new (std::nothrow) std::int64_t[static_cast<std::size_t>(slot_count_) + 1]);
    if (images_ == nullptr) {
      return make_status(StatusCode::kOutOfMemory,
                         "memory for the numbers of %" PRId64 " images: expected some, got none",
                         slot_count_);
    }
    for (std::int64_t n = 0; n < params_.batch; ++n) {
      if (slots_[n] != kNotUsed) images_[slots_[n]] = n;
    }
    stage_pixels_ = std::min(plane_, std::max(kStageElements / block_channels_, std::int64_t{16}));
    stage_runs_ = ceil_div(plane_, stage_pixels_);
    is_staged_ = true;
    parallel_for(
        slot_count_ * groups_ * params_.classes * blocks_ * stage_runs_,
        [](void* self, std::int64_t index) {
          static_cast<DeformRoIPoolCall*>(self)->stage_run(index);
        },
        this);
    return {};
  }

  Status pool(const ParallelFor& parallel_for) {
    // A unit is a RoI and a class, with all its blocks of channels or one of them.
    unit_blocks_ = params_.rois * params_.classes < kMinTasks ? 1 : blocks_;
    roi_units_ = params_.classes * ceil_div(blocks_, unit_blocks_);
    units_ = params_.rois * roi_units_;
    const double unit_reads =
        reads_ * static_cast<double>(class_channels_) / static_cast<double>(units_);
    const double wanted = std::min(kTaskReads / std::max(unit_reads, 1.0), 1e6);
    task_units_ =
        std::max(std::min(static_cast<std::int64_t>(wanted), units_ / kMinTasks), std::int64_t{1});
    parallel_for(
        ceil_div(units_, task_units_),
        [](void* self, std::int64_t index) {
          static_cast<DeformRoIPoolCall*>(self)->pool_task(index);
        },
        this);
    if (out_of_memory_.load(std::memory_order_relaxed)) {
      return make_status(
          StatusCode::kOutOfMemory,
          "scratch memory: expected %zu bytes for each thread, and what the rows and "
          "columns of a bin take, got none",
          sizeof(Scratch));
    }
    return {};
  }

 private:
  static constexpr std::int64_t kNotUsed = -1;

  void load_roi(std::int64_t index, float* values) const {
    kernels_.load[static_cast<int>(tensors_.rois_dtype)](
        element(tensors_.rois, tensors_.rois_dtype, 5 * index), 5, values);
  }

  RoI roi_of(const float* values) const {
    RoI roi;
    roi.image = static_cast<std::int64_t>(values[0]);
    roi.finite = std::isfinite(values[1]) && std::isfinite(values[2]) && std::isfinite(values[3]) &&
                 std::isfinite(values[4]);
    if (!roi.finite) return roi;
    roi.vertical = Axis(params_, values[2], values[4], params_.out_h, params_.in_h);
    roi.horizontal = Axis(params_, values[1], values[3], params_.out_w, params_.in_w);
    return roi;
  }

  std::int64_t channels_of_block(std::int64_t block) const {
    return std::min(block_channels_, class_channels_ - block * block_channels_);
  }

  void stage_run(std::int64_t index) {
    const std::int64_t run = index % stage_runs_;
    index /= stage_runs_;
    const std::int64_t block = index % blocks_;
    index /= blocks_;
    const std::int64_t of_class = index % params_.classes;
    index /= params_.classes;
    const std::int64_t group = index % groups_;
    const std::int64_t slot = index / groups_;
    const std::int64_t channel = of_class * class_channels_ + block * block_channels_;
    const std::int64_t channels = channels_of_block(block);
    const std::int64_t pixel = run * stage_pixels_;
    const std::int64_t source =
        (images_[slot] * params_.in_channels + channel * groups_ + group) * plane_ + pixel;
    loops_.stage[static_cast<int>(tensors_.dtype)](
        element(tensors_.x, tensors_.dtype, source), groups_ * plane_, channels,
        std::min(stage_pixels_, plane_ - pixel),
        staged_.data() + staged_place(slot, group, channel) + pixel * channels);
  }

  // Where the block that begins with an output channel is in the copy.
  std::int64_t staged_place(std::int64_t slot, std::int64_t group, std::int64_t channel) const {
    return ((slot * groups_ + group) * params_.out_channels + channel) * plane_;
  }

  void pool_task(std::int64_t index) {
    const std::int64_t end = std::min((index + 1) * task_units_, units_);
    std::int64_t current = -1;
    RoI roi{};
    for (std::int64_t unit = index * task_units_; unit < end; ++unit) {
      const std::int64_t r = unit / roi_units_;
      if (r != current) {
        float values[5];
        load_roi(r, values);
        roi = roi_of(values);
        current = r;
      }
      const std::int64_t in_roi = unit % roi_units_;
      const std::int64_t unit_parts = ceil_div(blocks_, unit_blocks_);
      const std::int64_t first_block = in_roi % unit_parts * unit_blocks_;
      if (!pool_unit(roi, r, in_roi / unit_parts, first_block,
                     std::min(first_block + unit_blocks_, blocks_))) {
        out_of_memory_.store(true, std::memory_order_relaxed);
        return;
      }
    }
  }

  // False if there is no memory.
  bool pool_unit(const RoI& roi, std::int64_t r, std::int64_t of_class, std::int64_t first_block,
                 std::int64_t end_block) {
    Scratch* scratch = thread_scratch();
    if (scratch == nullptr) return false;
    const std::int64_t max_rows = roi.finite ? roi.vertical.max_taps() : 1;
    const std::int64_t max_columns = roi.finite ? roi.horizontal.max_taps() : 1;
    // Rare: bins of thousands of pixels.
    std::unique_ptr<AxisTap[]> large;
    AxisTap* taps = scratch->taps;
    if (max_rows + max_columns > kTapCapacity) {
      large.reset(new (std::nothrow) AxisTap[static_cast<std::size_t>(max_rows + max_columns)]);
      if (large == nullptr) return false;
      taps = large.get();
    }
    const std::int64_t chunk =
        std::min(std::max(kTapCapacity / (max_rows + max_columns), std::int64_t{1}), kRoIPoolBins);
    for (std::int64_t first = 0; first < bins_; first += chunk) {
      const std::int64_t count = std::min(chunk, bins_ - first);
      for (std::int64_t b = 0; b < count; ++b) {
        locate_bin(roi, r, of_class, first + b, b, taps + b * (max_rows + max_columns), max_rows,
                   scratch->bins);
      }
      for (std::int64_t block = first_block; block < end_block; ++block) {
        const std::int64_t channel = of_class * class_channels_ + block * block_channels_;
        const std::int64_t channels = channels_of_block(block);
        auto* y = const_cast<char*>(element(tensors_.y, tensors_.dtype,
                                            (r * params_.out_channels + channel) * bins_ + first));
        if (is_staged_) {
          loops_.pool(staged_.data() + channel * plane_, params_.in_w * channels, channels,
                      scratch->bins, count, scratch->result);
          loops_.store[static_cast<int>(tensors_.dtype)](scratch->result, channels, count, bins_,
                                                         y);
        } else {
          loops_.pool_direct[static_cast<int>(tensors_.dtype)](
              element(tensors_.x, tensors_.dtype, channel * groups_ * plane_), groups_ * plane_,
              params_.in_w, channels, scratch->bins, count, bins_, y);
        }
      }
    }
    return true;
  }

  // Fills bins[place] with bin `index` of the RoI.
  void locate_bin(const RoI& roi, std::int64_t r, std::int64_t of_class, std::int64_t index,
                  std::int64_t place, AxisTap* taps, std::int64_t max_rows, BinTaps* bins) const {
    BinTaps& bin = bins[place];
    bin = {taps, taps + max_rows, 0, 0, 0, 0.0f};
    if (!roi.finite) return;
    const std::int64_t ph = index / params_.out_w;
    const std::int64_t pw = index % params_.out_w;
    const std::int64_t group_h =
        std::min(ph * params_.group_size / params_.out_h, params_.group_size - 1);
    const std::int64_t group_w =
        std::min(pw * params_.group_size / params_.out_w, params_.group_size - 1);
    const std::int64_t group = group_h * params_.group_size + group_w;
    // Blocks of channels add what their first channel takes.
    bin.first = is_staged_ ? staged_place(slots_[roi.image], group, 0)
                           : (roi.image * params_.in_channels + group) * plane_;
    const std::int64_t parts = params_.part_h * params_.part_w;
    const std::int64_t part =
        ph * params_.part_h / params_.out_h * params_.part_w + pw * params_.part_w / params_.out_w;
    const std::int64_t of_roi = r * params_.classes + of_class;
    bin.scale = 1.0f;
    if (tensors_.mask != nullptr) {
      load_value(tensors_.mask, tensors_.mask_dtype, of_roi * parts + part, &bin.scale);
    }
    double start_y = roi.vertical.bin_start(ph);
    double start_x = roi.horizontal.bin_start(pw);
    if (tensors_.offset != nullptr) {
      float offset_x;
      float offset_y;
      load_value(tensors_.offset, tensors_.offset_dtype, 2 * of_roi * parts + part, &offset_x);
      load_value(tensors_.offset, tensors_.offset_dtype, (2 * of_roi + 1) * parts + part,
                 &offset_y);
      const double gamma = params_.gamma;
      start_x += static_cast<double>(offset_x) * gamma * roi.horizontal.size();
      start_y += static_cast<double>(offset_y) * gamma * roi.vertical.size();
    } else {
      // Bins of one row of bins have the same rows of pixels, and likewise the columns.
      if (place > 0 && pw > 0) {
        bin.rows = bins[place - 1].rows;
        bin.row_count = bins[place - 1].row_count;
      }
      if (place >= params_.out_w) {
        bin.columns = bins[place - params_.out_w].columns;
        bin.column_count = bins[place - params_.out_w].column_count;
      }
    }
    if (bin.rows == taps) bin.row_count = locate(roi.vertical, start_y, taps);
    if (bin.columns == taps + max_rows) {
      bin.column_count = locate(roi.horizontal, start_x, taps + max_rows);
    }
  }

  void load_value(const void* base, DType dtype, std::int64_t index, float* value) const {
    kernels_.load[static_cast<int>(dtype)](element(base, dtype, index), 1, value);
  }

  const DeformRoIPool2dParams& params_;
  const DeformRoIPool2dTensors& tensors_;
  const Kernels& kernels_;
  const RoIPoolKernels& loops_;
  const std::int64_t plane_;           // pixels of a channel
  const std::int64_t groups_;          // channels of X for each channel of Y
  const std::int64_t bins_;            // of an output channel
  const std::int64_t class_channels_;  // output channels of a class
  const std::int64_t blocks_;          // of the channels of a class
  const std::int64_t block_channels_;  // of every block but the last
  // Of each image that a RoI lies in, its place in the copy.
  std::unique_ptr<std::int64_t[]> slots_;
  std::unique_ptr<std::int64_t[]> images_;  // the inverse
  std::int64_t slot_count_ = 0;
  double reads_ = 0;  // pixels that are read, of one channel of each class
  bool is_staged_ = false;
  LentBuffer staged_;
  std::int64_t stage_pixels_ = 0;
  std::int64_t stage_runs_ = 0;
  std::int64_t unit_blocks_ = 0;
  std::int64_t roi_units_ = 0;
  std::int64_t units_ = 0;
  std::int64_t task_units_ = 0;
  std::atomic<bool> out_of_memory_{false};
};

}  // namespace

Status deform_roi_pool(const DeformRoIPool2dParams& params, const DeformRoIPool2dTensors& tensors,
                       const Kernels& kernels, const ParallelFor& parallel_for,
                       const ScratchMemory& memory, RoIPoolWay way) {
  DCN_DEPLOY_RETURN_IF_ERROR(check_floating_point({{"X", tensors.dtype},
                                                   {"rois", tensors.rois_dtype},
                                                   {"offset", tensors.offset_dtype},
                                                   {"mask", tensors.mask_dtype}}));
  if (params.rois == 0) return {};
  DeformRoIPoolCall call(params, tensors, kernels);
  DCN_DEPLOY_RETURN_IF_ERROR(call.survey());
  const bool staged =
      way == RoIPoolWay::kStaged || (way == RoIPoolWay::kEstimated && call.staging_pays());
  if (staged) DCN_DEPLOY_RETURN_IF_ERROR(call.stage(parallel_for, memory));
  return call.pool(parallel_for);
}

}  // namespace cpu
}  // namespace dcn_deploy
