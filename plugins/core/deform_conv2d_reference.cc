#include "core/deform_conv2d_reference.h"

#include <cmath>
#include <cstdint>
#include <initializer_list>

namespace dcn_deploy {
namespace {

double sample(const double* map, std::int64_t height, std::int64_t width, double y, double x) {
  const auto h = static_cast<double>(height);
  const auto w = static_cast<double>(width);
  // NaN fails every comparison.
  if (!(y > -1 && y < h && x > -1 && x < w)) return 0;
  double sum = 0;
  for (const double row : {std::floor(y), std::floor(y) + 1}) {
    for (const double column : {std::floor(x), std::floor(x) + 1}) {
      if (row < 0 || row >= h || column < 0 || column >= w) continue;
      const double weight = (1 - std::abs(y - row)) * (1 - std::abs(x - column));
      sum +=
          weight * map[static_cast<std::int64_t>(row) * width + static_cast<std::int64_t>(column)];
    }
  }
  return sum;
}

}  // namespace

void deform_conv2d_reference(const DeformConv2dParams& p, const double* x, const double* weight,
                             const double* offset, const double* bias, const double* mask,
                             double* y) {
  const std::int64_t group_channels = p.in_channels / p.group;
  const std::int64_t group_outputs = p.out_channels / p.group;
  const std::int64_t offset_group_channels = p.in_channels / p.offset_group;
  const std::int64_t pixels = p.out_h * p.out_w;
  for (std::int64_t n = 0; n < p.batch; ++n) {
    for (std::int64_t m = 0; m < p.out_channels; ++m) {
      for (std::int64_t ho = 0; ho < p.out_h; ++ho) {
        for (std::int64_t wo = 0; wo < p.out_w; ++wo) {
          double sum = bias != nullptr ? bias[m] : 0;
          for (std::int64_t c = 0; c < group_channels; ++c) {
            const std::int64_t channel = m / group_outputs * group_channels + c;
            const std::int64_t o = channel / offset_group_channels;
            for (std::int64_t i = 0; i < p.kernel_h; ++i) {
              for (std::int64_t j = 0; j < p.kernel_w; ++j) {
                const std::int64_t tap =
                    ((n * p.offset_group + o) * p.kernel_h + i) * p.kernel_w + j;
                const std::int64_t pixel = ho * p.out_w + wo;
                const double sample_y =
                    static_cast<double>(ho * p.stride_h - p.pad_top + i * p.dilation_h) +
                    offset[2 * tap * pixels + pixel];
                const double sample_x =
                    static_cast<double>(wo * p.stride_w - p.pad_left + j * p.dilation_w) +
                    offset[(2 * tap + 1) * pixels + pixel];
                const double* map = x + (n * p.in_channels + channel) * p.in_h * p.in_w;
                sum += weight[((m * group_channels + c) * p.kernel_h + i) * p.kernel_w + j] *
                       (mask != nullptr ? mask[tap * pixels + pixel] : 1) *
                       sample(map, p.in_h, p.in_w, sample_y, sample_x);
              }
            }
          }
          y[((n * p.out_channels + m) * p.out_h + ho) * p.out_w + wo] = sum;
        }
      }
    }
  }
}

}  // namespace dcn_deploy
