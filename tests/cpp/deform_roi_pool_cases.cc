#include "deform_roi_pool_cases.h"

#include <algorithm>
#include <cmath>
#include <ostream>
#include <utility>

#include "random_tensors.h"

namespace dcn_deploy {
namespace testing {
namespace {

constexpr RoIPoolVariant kAligned = RoIPoolVariant::kAligned;
constexpr RoIPoolVariant kPsroi = RoIPoolVariant::kPsroi;

}  // namespace

void PrintTo(const DeformRoIPool2dCase& c, std::ostream* out) { *out << c.name; }

DeformRoIPool2dParams params_of(const DeformRoIPool2dCase& c) {
  const bool aligned = c.variant == kAligned;
  DeformRoIPool2dParams p{};
  p.variant = c.variant;
  p.batch = c.batch;
  p.in_channels = c.out_channels * c.group_size * c.group_size;
  p.in_h = c.in_h;
  p.in_w = c.in_w;
  p.rois = c.rois;
  p.out_channels = c.out_channels;
  p.out_h = c.out_h;
  p.out_w = c.out_w;
  p.spatial_scale = c.spatial_scale;
  p.gamma = 0.1f;
  p.samples = c.samples;
  p.group_size = c.group_size;
  p.classes = c.classes;
  p.part_h = aligned ? c.out_h : c.parts;
  p.part_w = aligned ? c.out_w : c.parts;
  return p;
}

//  name, variant, batch, channels of Y and X's h/w, RoIs and pooled h/w, scale, samples,
//  group_size, classes and parts
const std::vector<DeformRoIPool2dCase>& deform_roi_pool_cases() {
  static const std::vector<DeformRoIPool2dCase> cases = {
      {"Plain", kAligned, 1, 4, 19, 33, 5, 3, 3, 1.0f, 2, 1, 1, 0},
      {"Seven", kAligned, 2, 7, 19, 7, 9, 7, 7, 0.25f, 2, 1, 1, 0},
      {"OnePixelMap", kAligned, 2, 3, 1, 1, 9, 2, 3, 1.0f, 2, 1, 1, 0},
      {"OnePixelWide", kAligned, 2, 3, 19, 1, 9, 3, 2, 0.5f, 3, 1, 1, 0},
      {"OnePixelHigh", kAligned, 2, 3, 1, 33, 9, 2, 3, 2.0f, 1, 1, 1, 0},
      {"OneBin", kAligned, 1, 5, 7, 19, 7, 1, 1, 1.0f, 2, 1, 1, 0},
      {"MoreBinsThanATile", kAligned, 1, 3, 19, 33, 3, 9, 15, 0.3f, 2, 1, 1, 0},
      {"SamplesBySize", kAligned, 2, 5, 19, 33, 9, 3, 2, 1.0f, 0, 1, 1, 0},
      {"SamplesBySizeOneBin", kAligned, 1, 3, 33, 19, 9, 1, 1, 1.0f, 0, 1, 1, 0},
      {"ManySamples", kAligned, 1, 3, 7, 19, 9, 2, 2, 1.0f, 33, 1, 1, 0},
      {"Channels67", kAligned, 1, 67, 7, 19, 4, 3, 5, 0.5f, 2, 1, 1, 0},
      {"Channels64", kAligned, 1, 64, 7, 9, 4, 3, 5, 0.5f, 2, 1, 1, 0},
      {"Channels300", kAligned, 1, 300, 7, 9, 3, 2, 2, 0.5f, 2, 1, 1, 0},
      {"OneChannel", kAligned, 3, 1, 19, 7, 9, 3, 3, 1.0f, 2, 1, 1, 0},
      {"ManyRoIs", kAligned, 3, 2, 7, 7, 301, 2, 2, 1.0f, 2, 1, 1, 0},
      {"LongRows", kAligned, 1, 1, 2, 7001, 3, 1, 2, 1.0f, 0, 1, 1, 0},
      {"PsroiPlain", kPsroi, 1, 4, 19, 33, 5, 3, 3, 1.0f, 4, 1, 1, 3},
      {"PsroiOnePixelMap", kPsroi, 2, 3, 1, 1, 9, 2, 3, 1.0f, 4, 1, 1, 2},
      {"PsroiOnePixelWide", kPsroi, 2, 3, 19, 1, 9, 3, 2, 0.5f, 3, 1, 1, 2},
      {"PsroiOneSample", kPsroi, 1, 3, 19, 7, 9, 3, 2, 0.5f, 1, 1, 1, 3},
      {"PsroiManySamples", kPsroi, 1, 3, 7, 19, 9, 2, 3, 0.5f, 33, 1, 1, 3},
      {"PsroiGroup3", kPsroi, 2, 3, 7, 19, 9, 3, 3, 0.25f, 4, 3, 1, 3},
      {"PsroiGroup7", kPsroi, 1, 5, 19, 19, 4, 7, 7, 0.0625f, 4, 7, 1, 7},
      {"PsroiGroup2Pooled3x5", kPsroi, 1, 5, 19, 7, 9, 3, 5, 0.5f, 4, 2, 1, 2},
      {"PsroiGroup7Pooled3", kPsroi, 1, 2, 9, 9, 5, 3, 3, 1.0f, 4, 7, 1, 4},
      {"PsroiClasses3Parts2", kPsroi, 2, 9, 7, 19, 9, 3, 3, 0.5f, 4, 2, 3, 2},
      {"PsroiClasses7", kPsroi, 1, 7, 7, 9, 5, 2, 2, 1.0f, 2, 1, 7, 7},
      {"PsroiClasses2Of67", kPsroi, 1, 134, 7, 9, 3, 3, 2, 1.0f, 2, 1, 2, 3},
      {"PsroiMoreBinsThanATile", kPsroi, 1, 2, 19, 33, 3, 9, 15, 0.3f, 2, 3, 1, 5},
  };
  return cases;
}

std::vector<double> random_rois(const DeformRoIPool2dParams& p, std::mt19937_64* random) {
  const double height = static_cast<double>(p.in_h) / p.spatial_scale;
  const double width = static_cast<double>(p.in_w) / p.spatial_scale;
  std::uniform_int_distribution<std::int64_t> image(0, std::max<std::int64_t>(p.batch - 1, 0));
  std::uniform_real_distribution<double> place(-0.4, 1.4);
  std::uniform_int_distribution<int> kind(0, 9);
  std::vector<double> rois;
  for (std::int64_t r = 0; r < p.rois; ++r) {
    double x[2] = {place(*random) * width, place(*random) * width};
    double y[2] = {place(*random) * height, place(*random) * height};
    const int k = kind(*random);
    if (k > 0 && x[0] > x[1]) std::swap(x[0], x[1]);
    if (k > 0 && y[0] > y[1]) std::swap(y[0], y[1]);
    if (k == 1) x[1] = x[0];
    if (k == 2) y[1] = y[0];
    if (k == 3) {
      for (double* value : {&x[0], &x[1], &y[0], &y[1]}) *value = std::floor(*value) + 0.5;
    }
    rois.insert(rois.end(), {static_cast<double>(image(*random)), x[0], y[0], x[1], y[1]});
  }
  return rois;
}

DeformRoIPool2dValues random_values(const DeformRoIPool2dParams& p, bool offset, bool mask,
                                    std::mt19937_64* random) {
  const std::int64_t parts = p.rois * p.classes * p.part_h * p.part_w;
  DeformRoIPool2dValues v;
  v.x = normal_values(random, p.batch * p.in_channels * p.in_h * p.in_w, 1);
  v.rois = random_rois(p, random);
  if (offset) v.offset = normal_values(random, 2 * parts, 1.5);
  if (mask) v.mask = uniform_values(random, parts, 0, 1);
  return v;
}

}  // namespace testing
}  // namespace dcn_deploy
