#include "deform_conv2d_cases.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <ostream>
#include <stdexcept>

#include "random_tensors.h"

namespace dcn_deploy {
namespace testing {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// Positions at which the whole kernel lies on the padded map, counted.
std::int64_t count_positions(std::int64_t padded, std::int64_t dilation, std::int64_t kernel,
                             std::int64_t stride) {
  std::int64_t count = 0;
  for (std::int64_t at = 0; at + dilation * (kernel - 1) < padded; at += stride) ++count;
  return count;
}

}  // namespace

void PrintTo(const DeformConv2dCase& c, std::ostream* out) { *out << c.name; }

//  name, batch, X channels/h/w, M and kernel h/w, stride, pad top/left/bottom/right, dilation,
//  group and offset_group
const std::vector<DeformConv2dCase>& deform_conv2d_cases() {
  static const std::vector<DeformConv2dCase> cases = {
      {"Plain", 1, 4, 19, 33, 5, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
      {"OnePixelMap", 1, 3, 1, 1, 2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
      {"OnePixelMapAndKernel", 2, 7, 1, 1, 7, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1},
      {"OnePixelWide", 2, 3, 19, 1, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
      {"OnePixelHigh", 2, 3, 1, 33, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
      {"TwoPixelsWide", 1, 3, 7, 2, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
      {"OneOutputPixel", 3, 5, 7, 7, 9, 7, 7, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1},
      {"AllUnequal", 2, 6, 33, 19, 7, 2, 5, 3, 2, 1, 2, 0, 3, 2, 3, 1, 1},
      {"AllUnequalTransposed", 2, 6, 19, 33, 7, 5, 2, 2, 3, 3, 0, 2, 1, 3, 2, 1, 1},
      {"WidePadding", 1, 2, 7, 7, 3, 3, 3, 1, 2, 9, 8, 7, 10, 1, 1, 1, 1},
      {"Group2OffsetGroup3", 2, 12, 19, 7, 10, 3, 2, 1, 2, 1, 0, 1, 2, 1, 2, 2, 3},
      {"Group3OffsetGroup2", 1, 12, 7, 19, 9, 2, 3, 2, 1, 0, 1, 1, 1, 2, 1, 3, 2},
      {"Group6OffsetGroup4", 1, 12, 7, 33, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 6, 4},
      {"Group2OffsetGroup8", 1, 8, 7, 7, 14, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 2, 8},
      {"Depthwise", 2, 19, 7, 19, 19, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 19, 1},
      {"DepthwiseOffsetGroups", 1, 7, 19, 7, 7, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 7, 7},
      {"DepthwiseMultiplier", 1, 7, 19, 7, 21, 5, 3, 1, 1, 2, 1, 2, 1, 1, 1, 7, 1},
      {"ManyChannels", 1, 300, 7, 7, 13, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1},
      {"ManyTerms", 1, 66, 7, 7, 8, 3, 3, 2, 1, 1, 1, 1, 1, 1, 1, 1, 2},
      {"Kernel9x9", 1, 4, 19, 7, 3, 9, 9, 1, 1, 4, 4, 4, 4, 1, 1, 1, 2},
      {"Kernel1x65", 1, 2, 7, 33, 3, 1, 65, 1, 2, 0, 32, 0, 32, 1, 1, 1, 1},
      {"Kernel8x8", 1, 5, 9, 9, 3, 8, 8, 1, 1, 1, 1, 2, 2, 1, 1, 1, 1},
      {"Kernel11x13Groups", 2, 6, 7, 7, 4, 11, 13, 1, 1, 6, 7, 5, 6, 1, 1, 2, 3},
      {"ManyOutputs", 1, 3, 7, 7, 769, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1},
      {"ManyOutputsOfEachGroup", 1, 4, 7, 3, 3086, 2, 1, 1, 1, 1, 0, 0, 0, 1, 1, 2, 2},
      {"ManyTiles", 1, 2, 33, 33, 7, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
      {"ManyImages", 33, 2, 3, 5, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
      {"FarColumns", 1, 1, 2, 70001, 1, 1, 2, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1},
  };
  return cases;
}

const DeformConv2dCase& deform_conv2d_case(const std::string& name) {
  for (const DeformConv2dCase& c : deform_conv2d_cases()) {
    if (name == c.name) return c;
  }
  throw std::invalid_argument("no case is called " + name);
}

DeformConv2dParams params_of(const DeformConv2dCase& c) {
  DeformConv2dParams p{};
  p.batch = c.batch;
  p.in_channels = c.in_channels;
  p.in_h = c.in_h;
  p.in_w = c.in_w;
  p.out_channels = c.out_channels;
  p.out_h =
      count_positions(c.in_h + c.pad_top + c.pad_bottom, c.dilation_h, c.kernel_h, c.stride_h);
  p.out_w =
      count_positions(c.in_w + c.pad_left + c.pad_right, c.dilation_w, c.kernel_w, c.stride_w);
  p.kernel_h = c.kernel_h;
  p.kernel_w = c.kernel_w;
  p.stride_h = c.stride_h;
  p.stride_w = c.stride_w;
  p.pad_top = c.pad_top;
  p.pad_left = c.pad_left;
  p.dilation_h = c.dilation_h;
  p.dilation_w = c.dilation_w;
  p.group = c.group;
  p.offset_group = c.offset_group;
  return p;
}

DeformConv2dValues random_values(const DeformConv2dParams& p, bool bias, bool mask,
                                 std::mt19937_64* random) {
  const std::int64_t taps = p.kernel_h * p.kernel_w;
  const std::int64_t places = p.batch * p.offset_group * taps * p.out_h * p.out_w;
  DeformConv2dValues v;
  v.x = normal_values(random, p.batch * p.in_channels * p.in_h * p.in_w, 1);
  v.weight = normal_values(random, p.out_channels * (p.in_channels / p.group) * taps, 1);
  v.offset = normal_values(random, 2 * places, 2);
  std::uniform_int_distribution<int> one_of_five(0, 4);
  for (double& value : v.offset) {
    if (one_of_five(*random) == 0) value = std::round(value);
  }
  if (bias) v.bias = normal_values(random, p.out_channels, 2);
  if (mask) v.mask = uniform_values(random, places, 0, 1);
  return v;
}

void scatter_nan(const DeformConv2dParams& p, std::mt19937_64* random, std::vector<double>* x) {
  const double corners =
      4.0 * static_cast<double>(p.in_channels / p.group * p.kernel_h * p.kernel_w);
  std::bernoulli_distribution is_nan(std::min(0.4, 0.4 / corners));
  for (double& value : *x) {
    if (is_nan(*random)) value = kNan;
  }
}

void scatter_far_offsets(std::mt19937_64* random, std::vector<double>* offset) {
  constexpr double kFar[] = {kNan,         -kNan,         kInfinity,    -kInfinity,
                             3e38,         -3e38,         1e9,          -1e9,
                             1073741824.0, -1073741824.0, 2147483648.0, -2147483648.0,
                             4294967296.0, -4294967296.0, 9.3e18,       -9.3e18};
  std::bernoulli_distribution replace(0.2);
  std::uniform_int_distribution<std::size_t> which(0, std::size(kFar) - 1);
  for (double& value : *offset) {
    if (replace(*random)) value = kFar[which(*random)];
  }
}

void set_nan_where_nothing_samples(const DeformConv2dParams& p, const std::vector<double>& offset,
                                   std::vector<double>* x) {
  std::vector<bool> read(x->size(), false);
  const std::int64_t taps = p.kernel_h * p.kernel_w;
  const std::int64_t pixels = p.out_h * p.out_w;
  for (std::int64_t n = 0; n < p.batch; ++n) {
    for (std::int64_t c = 0; c < p.in_channels; ++c) {
      const std::int64_t o = c / (p.in_channels / p.offset_group);
      for (std::int64_t tap = 0; tap < taps; ++tap) {
        const std::int64_t first = 2 * ((n * p.offset_group + o) * taps + tap) * pixels;
        for (std::int64_t pixel = 0; pixel < pixels; ++pixel) {
          const auto offset_of = [&](std::int64_t at) {
            return static_cast<double>(static_cast<float>(offset[static_cast<std::size_t>(at)]));
          };
          const double row_at = static_cast<double>(pixel / p.out_w * p.stride_h - p.pad_top +
                                                    tap / p.kernel_w * p.dilation_h) +
                                offset_of(first + pixel);
          const double column_at = static_cast<double>(pixel % p.out_w * p.stride_w - p.pad_left +
                                                       tap % p.kernel_w * p.dilation_w) +
                                   offset_of(first + pixels + pixel);
          if (!(row_at > -1 && row_at < static_cast<double>(p.in_h) && column_at > -1 &&
                column_at < static_cast<double>(p.in_w))) {
            continue;
          }
          for (int corner = 0; corner < 4; ++corner) {
            const auto row = static_cast<std::int64_t>(std::floor(row_at)) + corner / 2;
            const auto column = static_cast<std::int64_t>(std::floor(column_at)) + corner % 2;
            if (row < 0 || row >= p.in_h || column < 0 || column >= p.in_w) continue;
            read[static_cast<std::size_t>(((n * p.in_channels + c) * p.in_h + row) * p.in_w +
                                          column)] = true;
          }
        }
      }
    }
  }
  for (std::size_t i = 0; i < read.size(); ++i) {
    if (!read[i]) (*x)[i] = kNan;
  }
}

}  // namespace testing
}  // namespace dcn_deploy
