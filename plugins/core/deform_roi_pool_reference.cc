#include "core/deform_roi_pool_reference.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace dcn_deploy {
namespace {

// Bilinear at (y, x) on the map.
double interpolate(const double* map, std::int64_t height, std::int64_t width, double y, double x) {
  const double top = std::floor(y);
  const double left = std::floor(x);
  double sum = 0;
  for (const double row : {top, top + 1}) {
    for (const double column : {left, left + 1}) {
      if (row >= static_cast<double>(height) || column >= static_cast<double>(width)) continue;
      sum += (1 - std::abs(y - row)) * (1 - std::abs(x - column)) *
             map[static_cast<std::int64_t>(row) * width + static_cast<std::int64_t>(column)];
    }
  }
  return sum;
}

struct Axis {
  double start;  // of the RoI
  double size;   // of the RoI
  double bin;
  std::int64_t samples;  // of a bin
};

Axis axis_of(const DeformRoIPool2dParams& p, double first, double last, std::int64_t pooled) {
  const double scale = p.spatial_scale;
  Axis axis;
  if (p.variant == RoIPoolVariant::kAligned) {
    axis.start = first * scale - 0.5;
    axis.size = last * scale - 0.5 - axis.start;
  } else {
    axis.start = std::round(first) * scale - 0.5;
    axis.size = std::max((std::round(last) + 1) * scale - 0.5 - axis.start, 0.1);
  }
  axis.bin = axis.size / static_cast<double>(pooled);
  axis.samples = p.samples > 0 ? p.samples : static_cast<std::int64_t>(std::ceil(axis.bin));
  return axis;
}

// Sample i of the bin that starts at `start`, moved onto the map; false if it is outside.
bool locate(const DeformRoIPool2dParams& p, const Axis& axis, double start, std::int64_t i,
            std::int64_t size, double* position) {
  const bool aligned = p.variant == RoIPoolVariant::kAligned;
  const double at = start + (static_cast<double>(i) + (aligned ? 0.5 : 0)) * axis.bin /
                                static_cast<double>(axis.samples);
  const auto extent = static_cast<double>(size);
  // NaN fails every comparison.
  const bool inside = aligned ? at >= -1 && at <= extent : at >= -0.5 && at <= extent - 0.5;
  *position = std::min(std::max(at, 0.0), extent - 1);
  return inside;
}

}  // namespace

void deform_roi_pool_reference(const DeformRoIPool2dParams& p, const double* x, const double* rois,
                               const double* offset, const double* mask, double* y) {
  const std::int64_t parts = p.part_h * p.part_w;
  for (std::int64_t r = 0; r < p.rois; ++r) {
    const double* roi = rois + 5 * r;
    const Axis vertical = axis_of(p, roi[2], roi[4], p.out_h);
    const Axis horizontal = axis_of(p, roi[1], roi[3], p.out_w);
    for (std::int64_t c = 0; c < p.out_channels; ++c) {
      for (std::int64_t ph = 0; ph < p.out_h; ++ph) {
        for (std::int64_t pw = 0; pw < p.out_w; ++pw) {
          double* value = y + ((r * p.out_channels + c) * p.out_h + ph) * p.out_w + pw;
          *value = 0;
          if (!std::isfinite(roi[1] + roi[2] + roi[3] + roi[4])) continue;
          const std::int64_t k = c / (p.out_channels / p.classes);
          const std::int64_t part = ph * p.part_h / p.out_h * p.part_w + pw * p.part_w / p.out_w;
          double start_y = vertical.start + static_cast<double>(ph) * vertical.bin;
          double start_x = horizontal.start + static_cast<double>(pw) * horizontal.bin;
          if (offset != nullptr) {
            const double* own = offset + (r * p.classes + k) * 2 * parts + part;
            start_x += own[0] * p.gamma * horizontal.size;
            start_y += own[parts] * p.gamma * vertical.size;
          }
          const std::int64_t group_h = std::min(ph * p.group_size / p.out_h, p.group_size - 1);
          const std::int64_t group_w = std::min(pw * p.group_size / p.out_w, p.group_size - 1);
          const std::int64_t channel = (c * p.group_size + group_h) * p.group_size + group_w;
          const double* map =
              x + (static_cast<std::int64_t>(roi[0]) * p.in_channels + channel) * p.in_h * p.in_w;
          double sum = 0;
          std::int64_t kept = 0;
          for (std::int64_t i = 0; i < vertical.samples; ++i) {
            for (std::int64_t j = 0; j < horizontal.samples; ++j) {
              double at_y;
              double at_x;
              const bool inside = locate(p, vertical, start_y, i, p.in_h, &at_y) &
                                  locate(p, horizontal, start_x, j, p.in_w, &at_x);
              if (!inside) continue;
              sum += interpolate(map, p.in_h, p.in_w, at_y, at_x);
              ++kept;
            }
          }
          const bool aligned = p.variant == RoIPoolVariant::kAligned;
          const std::int64_t divisor = aligned ? vertical.samples * horizontal.samples : kept;
          *value = sum / static_cast<double>(std::max<std::int64_t>(divisor, 1));
          if (mask != nullptr) *value *= mask[(r * p.classes + k) * parts + part];
        }
      }
    }
  }
}

}  // namespace dcn_deploy
