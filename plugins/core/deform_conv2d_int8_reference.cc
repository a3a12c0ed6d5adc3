#include "core/deform_conv2d_int8_reference.h"

#include <cmath>
#include <cstdlib>
#include <initializer_list>

namespace dcn_deploy {
namespace {

struct Sample {
  double value = 0;
  double error = 0;  // of float32 arithmetic, at most
};

// Corners that are 0 and weights that are powers of two make no error, but this does not look.
Sample sample(const std::int8_t* map, std::int64_t height, std::int64_t width, double y, double x,
              double mask) {
  // A weight is a difference, a product with the other axis's and one with the mask; then come the
  // product with the feature and three additions.
  constexpr double kError = 8 * 0x1p-24;
  const auto h = static_cast<double>(height);
  const auto w = static_cast<double>(width);
  Sample sum;
  // NaN fails every comparison.
  if (!(y > -1 && y < h && x > -1 && x < w)) return sum;
  for (const double row : {std::floor(y), std::floor(y) + 1}) {
    for (const double column : {std::floor(x), std::floor(x) + 1}) {
      if (row < 0 || row >= h || column < 0 || column >= w) continue;
      const double term =
          mask * (1 - std::abs(y - row)) * (1 - std::abs(x - column)) *
          map[static_cast<std::int64_t>(row) * width + static_cast<std::int64_t>(column)];
      sum.value += term;
      sum.error += kError * std::abs(term);
    }
  }
  return sum;
}

}  // namespace

double round_to_int8(double value) {
  if (std::isnan(value)) return 0;
  // Ties to even, in the default rounding mode.
  return std::fmin(std::fmax(std::nearbyint(value), -128), 127);
}

void deform_conv2d_int8_reference(const DeformConv2dParams& p, const std::int8_t* x,
                                  const std::int8_t* weight, const double* offset,
                                  const double* mask, std::int64_t* sums, std::int64_t* slack) {
  const std::int64_t group_channels = p.in_channels / p.group;
  const std::int64_t group_outputs = p.out_channels / p.group;
  const std::int64_t offset_group_channels = p.in_channels / p.offset_group;
  const std::int64_t taps = p.kernel_h * p.kernel_w;
  const std::int64_t pixels = p.out_h * p.out_w;
  for (std::int64_t n = 0; n < p.batch; ++n) {
    for (std::int64_t m = 0; m < p.out_channels; ++m) {
      for (std::int64_t pixel = 0; pixel < pixels; ++pixel) {
        std::int64_t sum = 0;
        std::int64_t most = 0;
        for (std::int64_t c = 0; c < group_channels; ++c) {
          const std::int64_t channel = m / group_outputs * group_channels + c;
          const std::int64_t o = channel / offset_group_channels;
          for (std::int64_t t = 0; t < taps; ++t) {
            const std::int64_t tap = (n * p.offset_group + o) * taps + t;
            const double y = static_cast<double>(pixel / p.out_w * p.stride_h - p.pad_top +
                                                 t / p.kernel_w * p.dilation_h) +
                             offset[2 * tap * pixels + pixel];
            const double at_x = static_cast<double>(pixel % p.out_w * p.stride_w - p.pad_left +
                                                    t % p.kernel_w * p.dilation_w) +
                                offset[(2 * tap + 1) * pixels + pixel];
            const Sample taken =
                sample(x + (n * p.in_channels + channel) * p.in_h * p.in_w, p.in_h, p.in_w, y, at_x,
                       mask != nullptr ? mask[tap * pixels + pixel] : 1);
            const std::int64_t factor = weight[(m * group_channels + c) * taps + t];
            sum += factor * static_cast<std::int64_t>(round_to_int8(taken.value));
            if (round_to_int8(taken.value - taken.error) !=
                round_to_int8(taken.value + taken.error)) {
              most += std::abs(factor);
            }
          }
        }
        const std::int64_t element = (n * p.out_channels + m) * pixels + pixel;
        sums[element] = sum;
        slack[element] = most;
      }
    }
  }
}

}  // namespace dcn_deploy
