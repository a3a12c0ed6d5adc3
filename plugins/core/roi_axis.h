// One axis of a RoI on the map, and the rows (or columns) of pixels that its bins read.
//
// The samples of a bin form a grid, and what is outside or moved to the edge is so along each axis
// on its own. A bin is therefore a sum over rows and columns, whose weights are merged over the
// samples and hold the mean's divisor (docs/operators.md has the formulas). Positions and weights
// are computed in double precision.

#ifndef DCN_DEPLOY_CORE_ROI_AXIS_H_
#define DCN_DEPLOY_CORE_ROI_AXIS_H_

#include <math.h>
#include <stdint.h>

#include "core/axis_tap.h"
#include "core/bilinear.h"
#include "core/deform_roi_pool_params.h"

namespace dcn_deploy {

// Samples of one bin that are on the map: [first, last], in the order in which they are counted.
struct SampleRange {
  int64_t first;
  int64_t last;

  DCN_DEPLOY_HOST_DEVICE int64_t count() const { return last - first + 1; }
};

// kStoredSamples distances from a bin's start to its samples are computed once for all bins of the
// RoI.
template <int kStoredSamples>
class RoIAxis {
 public:
  RoIAxis() = default;

  // `first` and `last` in image pixels, finite; `pooled` bins; a map of `extent` pixels.
  DCN_DEPLOY_HOST_DEVICE RoIAxis(const DeformRoIPool2dParams& params, double first, double last,
                                 int64_t pooled, int64_t extent)
      : extent_(extent) {
    const double scale = params.spatial_scale;
    if (params.variant == RoIPoolVariant::kAligned) {
      start_ = first * scale - 0.5;
      size_ = last * scale - 0.5 - start_;
      step_start_ = 0.5;
      lowest_ = -1;
      highest_ = static_cast<double>(extent);
      counts_outside_ = true;
    } else {
      start_ = round(first) * scale - 0.5;
      size_ = larger((round(last) + 1) * scale - 0.5 - start_, 0.1);
      step_start_ = 0;
      lowest_ = -0.5;
      highest_ = static_cast<double>(extent) - 0.5;
      counts_outside_ = false;
    }
    bin_ = size_ / static_cast<double>(pooled);
    samples_ = params.samples > 0 ? static_cast<double>(params.samples) : ceil(bin_);
    if (!(samples_ >= 1 && samples_ <= kMaxSamples)) samples_ = 0;
    if constexpr (kStoredSamples > 0) {
      for (int i = 0; i < kStoredSamples && i < samples_; ++i) {
        distances_[i] = computed_distance(i);
      }
    }
  }

  DCN_DEPLOY_HOST_DEVICE double size() const { return size_; }

  // Where bin `index` starts, without its shift.
  DCN_DEPLOY_HOST_DEVICE double bin_start(int64_t index) const {
    return start_ + static_cast<double>(index) * bin_;
  }

  // Rows (or columns) that a bin reads at most, 1 at least.
  DCN_DEPLOY_HOST_DEVICE int64_t max_taps() const {
    const double taps = smaller(2 * samples_, static_cast<double>(extent_));
    return taps < 1 ? 1 : static_cast<int64_t>(taps);
  }

  // Samples of a bin that can be on the map at most, wherever the bin starts.
  DCN_DEPLOY_HOST_DEVICE int64_t max_samples_on_map() const {
    const double step = bin_ < 0 ? -bin_ / samples_ : bin_ / samples_;
    const double room = step > 0 ? floor((highest_ - lowest_) / step) + 2 : samples_;
    return samples_ < 1 ? 0 : static_cast<int64_t>(smaller(samples_, room));
  }

  // Share of one sample in the mean of its bin, along this axis.
  DCN_DEPLOY_HOST_DEVICE double sample_weight(const SampleRange& on_map) const {
    return 1 / (counts_outside_ ? samples_ : static_cast<double>(on_map.count()));
  }

  // The samples on the map of the bin that starts at `start`, which follow one another since
  // positions do; false if there is none. Only those near the map are looked at, of however many.
  DCN_DEPLOY_HOST_DEVICE bool samples_on_map(double start, SampleRange* range) const {
    // Written so that NaN and infinity fail it.
    if (samples_ < 1 || !(start - start == 0)) return false;
    double low = 0;
    double high = samples_ - 1;
    const double step = bin_ / samples_;
    if (samples_ > kFewSamples && step != 0) {
      const double a = (lowest_ - start) / step - step_start_;
      const double b = (highest_ - start) / step - step_start_;
      const double from = smaller(a, b);
      const double to = larger(a, b);
      // Wide enough for the rounding of both: every candidate is tested as it is sampled.
      low = larger(low, floor(from - 2 - fabs(from) * 0x1p-48));
      high = smaller(high, ceil(to + 2 + fabs(to) * 0x1p-48));
      if (!(low <= high)) return false;
    }
    range->first = static_cast<int64_t>(low);
    range->last = static_cast<int64_t>(high);
    while (range->first <= range->last && !on_map(start + distance(range->first))) ++range->first;
    while (range->first <= range->last && !on_map(start + distance(range->last))) --range->last;
    return range->first <= range->last;
  }

  // The rows (or columns) that some samples on the map read, in rising order, at most two for each
  // sample; returns how many. Every sample has the weight `weight`.
  template <typename Put>
  DCN_DEPLOY_HOST_DEVICE int64_t locate(double start, const SampleRange& range, double weight,
                                        Put&& put) const {
    const double edge = static_cast<double>(extent_ - 1);
    // Samples from left to right, whichever way they are counted.
    const int64_t direction = bin_ < 0 ? -1 : 1;
    int64_t sample = bin_ < 0 ? range.last : range.first;
    int64_t count = 0;
    int32_t pixel = -1;
    double here = 0;    // weight of `pixel`
    double behind = 0;  // and of the one behind it
    for (int64_t left = range.count(); left > 0; --left, sample += direction) {
      const double at = smaller(larger(start + distance(sample), 0.0), edge);
      const int32_t whole = static_cast<int32_t>(at);
      const double fraction = at - static_cast<double>(whole);
      if (whole != pixel) {
        if (pixel >= 0) {
          put(count++, AxisTap{pixel, static_cast<float>(here * weight)});
          if (whole == pixel + 1) {
            here = behind;
          } else {
            put(count++, AxisTap{pixel + 1, static_cast<float>(behind * weight)});
            here = 0;
          }
          behind = 0;
        }
        pixel = whole;
      }
      here += 1 - fraction;
      behind += fraction;
    }
    put(count++, AxisTap{pixel, static_cast<float>(here * weight)});
    if (pixel + 1 < extent_) {
      put(count++, AxisTap{pixel + 1, static_cast<float>(behind * weight)});
    }
    return count;
  }

 private:
  // Beyond this, samples cannot be told apart in double precision, and each is so small a part of
  // the bin that its mean over the map is 0 in float32.
  static constexpr double kMaxSamples = 0x1p53;
  // So few are simply tested one by one.
  static constexpr int kFewSamples = 16;

  // Of numbers that are not NaN: fmin() and fmax() would be calls.
  static DCN_DEPLOY_HOST_DEVICE double smaller(double a, double b) { return a < b ? a : b; }
  static DCN_DEPLOY_HOST_DEVICE double larger(double a, double b) { return a > b ? a : b; }

  DCN_DEPLOY_HOST_DEVICE double computed_distance(int64_t sample) const {
    return (static_cast<double>(sample) + step_start_) * bin_ / samples_;
  }

  // From the start of the bin to its sample.
  DCN_DEPLOY_HOST_DEVICE double distance(int64_t sample) const {
    if constexpr (kStoredSamples > 0) {
      if (sample < kStoredSamples) return distances_[sample];
    }
    return computed_distance(sample);
  }

  DCN_DEPLOY_HOST_DEVICE bool on_map(double position) const {
    return position >= lowest_ && position <= highest_;
  }

  int64_t extent_ = 1;
  double start_ = 0;
  double size_ = 0;
  double bin_ = 0;
  double samples_ = 0;
  double step_start_ = 0;
  // Samples at lower or higher positions are outside.
  double lowest_ = 0;
  double highest_ = 0;
  // Whether samples outside count in the mean.
  bool counts_outside_ = true;
  double distances_[kStoredSamples > 0 ? kStoredSamples : 1] = {};
};

}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_ROI_AXIS_H_
