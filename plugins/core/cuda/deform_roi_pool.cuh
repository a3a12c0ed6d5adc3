// The kernel of RoI pooling. A block has one RoI, one class and kSlab of the class's channels.
//
// For kBins bins at a time its threads first locate the rows and columns that each bin reads, an
// axis of a bin to a thread, in shared memory; then every thread sums elements of its own. Bins of
// more than kSampleRun samples along an axis are summed in runs of so many.

#ifndef DCN_DEPLOY_CORE_CUDA_DEFORM_ROI_POOL_CUH_
#define DCN_DEPLOY_CORE_CUDA_DEFORM_ROI_POOL_CUH_

#include "core/cuda/device.cuh"
#include "core/cuda/number.cuh"
#include "core/deform_roi_pool_params.h"
#include "core/roi_axis.h"

namespace dcn_deploy {
namespace cuda {

constexpr int kRoIPoolThreads = 128;
constexpr int kRoIPoolBins = 64;
constexpr int kRoIPoolSlab = 64;
constexpr int kRoIPoolSampleRun = 8;
constexpr int kRoIPoolTaps = 2 * kRoIPoolSampleRun;

// Sizes that index maps of one RoI or one image fit in 32 bits; see deform_roi_pool.cu.
struct RoIPoolArguments {
  DeformRoIPool2dParams params;
  const void* x;
  const void* rois;
  const void* offset;
  const void* mask;
  void* y;
  DType rois_dtype;
  DType offset_dtype;
  DType mask_dtype;
  int32_t slabs;  // of a class
  bool y_is_nhwc;
};

// Parts of a block's shared memory.
struct RoIPoolShared {
  static constexpr int kTaps = 2 * kRoIPoolBins * kRoIPoolTaps * static_cast<int>(sizeof(Vec8));
  static constexpr int kRuns = 2 * static_cast<int>(sizeof(int64_t));
  static constexpr int kGroups = kRoIPoolBins * static_cast<int>(sizeof(int64_t));
  static constexpr int kCounts = 2 * kRoIPoolBins * static_cast<int>(sizeof(int32_t));
  static constexpr int kScales = kRoIPoolBins * static_cast<int>(sizeof(float));
  static constexpr int kSums = kRoIPoolBins * kRoIPoolSlab * static_cast<int>(sizeof(float));
  static constexpr int kBytes = kTaps + kRuns + kGroups + kCounts + kScales + kSums;
};

// The rows (axis 0) or columns (axis 1) that a run of the samples of a bin reads, to `taps` in
// shared memory; returns how many. `first` and `last` are the RoI's edges in image pixels, `shift`
// is its offset.
//
// Not inlined: double precision takes registers that the sums of the many threads should have.
static DCN_DEPLOY_NOINLINE __device__ int locate_roi_pool_bin(const DeformRoIPool2dParams& params,
                                                              int axis, float first, float last,
                                                              int bin, float shift, int64_t run,
                                                              Vec8* taps) {
  const RoIAxis<0> own(params, first, last, axis == 0 ? params.out_h : params.out_w,
                       axis == 0 ? params.in_h : params.in_w);
  const double start = own.bin_start(bin) +
                       static_cast<double>(shift) * static_cast<double>(params.gamma) * own.size();
  SampleRange range;
  if (!own.samples_on_map(start, &range)) return 0;
  const double weight = own.sample_weight(range);
  range.first += run * kRoIPoolSampleRun;
  if (range.last >= range.first + kRoIPoolSampleRun)
    range.last = range.first + kRoIPoolSampleRun - 1;
  if (range.first > range.last) return 0;
  return static_cast<int>(
      own.locate(start, range, weight, [taps](int64_t number, const AxisTap& tap) {
        shared_store(&taps[number],
                     Vec8{static_cast<uint32_t>(tap.index), float_to_bits(tap.weight)});
      }));
}

template <typename Storage, bool kNhwc>
class DeformRoIPool {
 public:
  __device__ __forceinline__ DeformRoIPool(const RoIPoolArguments& arguments, unsigned char* shared)
      : a_(arguments),
        p_(arguments.params),
        taps_(reinterpret_cast<Vec8*>(shared)),
        runs_(reinterpret_cast<int64_t*>(shared + RoIPoolShared::kTaps)),
        groups_(reinterpret_cast<int64_t*>(shared + RoIPoolShared::kTaps + RoIPoolShared::kRuns)),
        counts_(reinterpret_cast<int32_t*>(shared + RoIPoolShared::kTaps + RoIPoolShared::kRuns +
                                           RoIPoolShared::kGroups)),
        scales_(reinterpret_cast<float*>(counts_ + 2 * kRoIPoolBins)),
        sums_(scales_ + kRoIPoolBins),
        thread_(static_cast<int>(threadIdx.x)) {}

  __device__ __forceinline__ void run() {
    const int64_t block = blockIdx.x;
    const int class_channels = static_cast<int>(p_.out_channels / p_.classes);
    const int slab = static_cast<int>(block % a_.slabs);
    class_ = static_cast<int>(block / a_.slabs % p_.classes);
    roi_ = block / a_.slabs / p_.classes;
    first_channel_ = static_cast<int64_t>(class_) * class_channels + slab * kRoIPoolSlab;
    const int left = class_channels - slab * kRoIPoolSlab;
    channels_ = left < kRoIPoolSlab ? left : kRoIPoolSlab;

    const float index = load_element(a_.rois, a_.rois_dtype, roi_ * 5);
    // Written so that NaN fails it.
    bool has_samples = index >= 0.0f && static_cast<double>(index) < static_cast<double>(p_.batch);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      box_[i] = load_element(a_.rois, a_.rois_dtype, roi_ * 5 + 1 + i);
      has_samples = has_samples && box_[i] - box_[i] == 0.0f;
    }
    image_ = has_samples ? static_cast<int64_t>(index) : 0;
    // In double precision, of which many GPUs have little: an axis to a thread.
    if (thread_ < 2) shared_store(&runs_[thread_], has_samples ? runs_along(thread_) : int64_t{0});
    block_barrier();
    const int64_t runs_y = shared_load(&runs_[0]);
    const int64_t runs_x = shared_load(&runs_[1]);
    const int all_bins = narrow(p_.out_h * p_.out_w);
#pragma unroll 1
    for (first_bin_ = 0; first_bin_ < all_bins; first_bin_ += kRoIPoolBins) {
      bins_ = all_bins - first_bin_ < kRoIPoolBins ? static_cast<int>(all_bins - first_bin_)
                                                   : kRoIPoolBins;
      const int fast = kNhwc ? channels_ : bins_;
      inverse_ = (kInverseOne + static_cast<uint32_t>(fast) - 1) / static_cast<uint32_t>(fast);
      for (int i = thread_; i < bins_ * channels_; i += kRoIPoolThreads)
        shared_store(&sums_[i], 0.0f);
      set_bins();
      // For a RoI without samples, which meets no other barrier before store() reads the scales.
      block_barrier();
#pragma unroll 1
      for (int64_t run_y = 0; run_y < runs_y; ++run_y) {
#pragma unroll 1
        for (int64_t run_x = 0; run_x < runs_x; ++run_x) {
          for (int i = thread_; i < 2 * bins_; i += kRoIPoolThreads) {
            locate(i / bins_, i % bins_, i < bins_ ? run_y : run_x);
          }
          if (!DCN_DEPLOY_FAULT(7)) block_barrier();
          for (int i = thread_; i < bins_ * channels_; i += kRoIPoolThreads) {
            shared_store(&sums_[i], shared_load(&sums_[i]) + sum(channel_of(i), bin_of(i)));
          }
          block_barrier();
        }
      }
      store();
      block_barrier();
    }
  }

 private:
  using Bits = typename Storage::Bits;

  // The quotient of two numbers, of which the dividend is below 2^12 and the divisor at most 2^6,
  // is that of their product with ceil(2^19 / divisor) and 2^19.
  static constexpr uint32_t kInverseOne = 1u << 19;
  static_assert(kRoIPoolBins * kRoIPoolSlab <= 1 << 12, "dividends are small");
  static_assert(kRoIPoolBins <= 1 << 6 && kRoIPoolSlab <= 1 << 6, "divisors are small");

  // Neighbouring threads have neighbouring channels in NHWC, neighbouring bins in NCHW.
  __device__ __forceinline__ int slow_of(int i) const {
    return static_cast<int>(static_cast<uint32_t>(i) * inverse_ / kInverseOne);
  }
  __device__ __forceinline__ int channel_of(int i) const {
    return kNhwc ? i - slow_of(i) * channels_ : slow_of(i);
  }
  __device__ __forceinline__ int bin_of(int i) const {
    return kNhwc ? slow_of(i) : i - slow_of(i) * bins_;
  }

  static __device__ __forceinline__ int narrow(int64_t value) { return static_cast<int>(value); }

  __device__ __forceinline__ int row_of_bin(int bin) const {
    return (first_bin_ + bin) / narrow(p_.out_w);
  }
  __device__ __forceinline__ int column_of_bin(int bin) const {
    return (first_bin_ + bin) % narrow(p_.out_w);
  }

  // Of the parts of a RoI and class, the bin's. The products are 64 bits wide: parts and bins may
  // both be many.
  __device__ __forceinline__ int64_t part(int bin) const {
    return static_cast<int64_t>(row_of_bin(bin)) * p_.part_h / p_.out_h * p_.part_w +
           static_cast<int64_t>(column_of_bin(bin)) * p_.part_w / p_.out_w;
  }

  // What the channels of a bin are multiplied by, and which of their group they are read from.
  __device__ __forceinline__ void set_bins() {
    const int64_t first = (roi_ * p_.classes + class_) * p_.part_h * p_.part_w;
    for (int bin = thread_; bin < bins_; bin += kRoIPoolThreads) {
      shared_store(&scales_[bin], a_.mask == nullptr
                                      ? 1.0f
                                      : load_element(a_.mask, a_.mask_dtype, first + part(bin)));
      shared_store(&groups_[bin], group_of(row_of_bin(bin), p_.out_h) * p_.group_size +
                                      group_of(column_of_bin(bin), p_.out_w));
    }
  }

  __device__ __forceinline__ int64_t runs_along(int axis) const {
    const RoIAxis<0> own = axis == 0 ? RoIAxis<0>(p_, box_[1], box_[3], p_.out_h, p_.in_h)
                                     : RoIAxis<0>(p_, box_[0], box_[2], p_.out_w, p_.in_w);
    return (own.max_samples_on_map() + kRoIPoolSampleRun - 1) / kRoIPoolSampleRun;
  }

  // Rows (axis 0) or columns (axis 1) that a run of a bin's samples reads.
  __device__ __forceinline__ void locate(int axis, int bin, int64_t run) {
    float shift = 0.0f;
    if (a_.offset != nullptr) {
      const int64_t parts = p_.part_h * p_.part_w;
      // x first
      const int64_t at =
          ((roi_ * p_.classes + class_) * 2 + (axis == 0 ? 1 : 0)) * parts + part(bin);
      shift = load_element(a_.offset, a_.offset_dtype, at);
    }
    const int count =
        locate_roi_pool_bin(p_, axis, axis == 0 ? box_[1] : box_[0], axis == 0 ? box_[3] : box_[2],
                            axis == 0 ? row_of_bin(bin) : column_of_bin(bin), shift, run,
                            &taps_[(axis * kRoIPoolBins + bin) * kRoIPoolTaps]);
    shared_store(&counts_[axis * kRoIPoolBins + bin], static_cast<int32_t>(count));
  }

  // Of the located samples, for one channel (counted from the slab's first) and bin.
  __device__ __forceinline__ float sum(int channel, int bin) const {
    const int rows = shared_load(&counts_[bin]);
    const int columns = shared_load(&counts_[kRoIPoolBins + bin]);
    const int64_t plane = p_.in_h * p_.in_w;
    const int64_t of_x =
        (first_channel_ + channel) * p_.group_size * p_.group_size + shared_load(&groups_[bin]);
    const Bits* map =
        static_cast<const Bits*>(a_.x) +
        (kNhwc ? image_ * plane * p_.in_channels + of_x : (image_ * p_.in_channels + of_x) * plane);
    const int64_t pixel_stride = kNhwc ? p_.in_channels : 1;
    float total = 0.0f;
    for (int i = 0; i < rows; ++i) {
      const Vec8 row = shared_load(&taps_[bin * kRoIPoolTaps + i]);
      const int64_t first = static_cast<int64_t>(row.x) * p_.in_w;
      float of_row = 0.0f;
      for (int j = 0; j < columns; ++j) {
        const Vec8 column = shared_load(&taps_[(kRoIPoolBins + bin) * kRoIPoolTaps + j]);
        of_row += bits_to_float(column.y) * Storage::load(map[(first + column.x) * pixel_stride]);
      }
      total += bits_to_float(row.y) * of_row;
    }
    return total;
  }

  __device__ __forceinline__ int64_t group_of(int bin, int64_t pooled) const {
    return bin * p_.group_size / pooled;
  }

  __device__ __forceinline__ void store() const {
    const int all_bins = narrow(p_.out_h * p_.out_w);
    for (int i = thread_; i < bins_ * channels_; i += kRoIPoolThreads) {
      const int64_t channel = first_channel_ + channel_of(i);
      const int64_t bin = first_bin_ + bin_of(i);
      const int64_t target = a_.y_is_nhwc ? (roi_ * all_bins + bin) * p_.out_channels + channel
                                          : (roi_ * p_.out_channels + channel) * all_bins + bin;
      static_cast<Bits*>(a_.y)[target] =
          Storage::store(shared_load(&sums_[i]) * shared_load(&scales_[bin_of(i)]));
    }
  }

  const RoIPoolArguments& a_;
  const DeformRoIPool2dParams& p_;
  Vec8* const taps_;
  int64_t* const runs_;    // of the samples of a bin, along both axes
  int64_t* const groups_;  // of channels, a bin's
  int32_t* const counts_;
  float* const scales_;
  float* const sums_;
  const int thread_;
  int64_t roi_;
  int class_;
  int64_t first_channel_;
  int channels_;
  int64_t image_;
  int first_bin_;
  int bins_;
  uint32_t inverse_;  // of channels_ in NHWC, of bins_ in NCHW
  float box_[4];      // x1, y1, x2, y2
};

template <typename Storage, bool kNhwc>
__global__ void __launch_bounds__(kRoIPoolThreads, 4)
    deform_roi_pool_kernel(DCN_DEPLOY_KERNEL_PARAMETER RoIPoolArguments arguments) {
  DCN_DEPLOY_DYNAMIC_SHARED(shared);
  DeformRoIPool<Storage, kNhwc>(arguments, shared).run();
}

}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CUDA_DEFORM_ROI_POOL_CUH_
