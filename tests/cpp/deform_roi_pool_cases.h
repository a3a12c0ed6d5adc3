// The cases of deformable RoI pooling's native tests, and random values for them.

#ifndef DCN_DEPLOY_TESTS_CPP_DEFORM_ROI_POOL_CASES_H_
#define DCN_DEPLOY_TESTS_CPP_DEFORM_ROI_POOL_CASES_H_

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <random>
#include <vector>

#include "core/deform_roi_pool_params.h"
#include "core/dtype.h"

namespace dcn_deploy {
namespace testing {

// Sizes and attributes. Height before width.
struct DeformRoIPool2dCase {
  const char* name;
  RoIPoolVariant variant;
  std::int64_t batch;
  std::int64_t out_channels, in_h, in_w;
  std::int64_t rois, out_h, out_w;
  float spatial_scale;
  std::int64_t samples;
  std::int64_t group_size, classes, parts;  // of psroi
};

void PrintTo(const DeformRoIPool2dCase& c, std::ostream* out);

const std::vector<DeformRoIPool2dCase>& deform_roi_pool_cases();
DeformRoIPool2dParams params_of(const DeformRoIPool2dCase& c);

struct DeformRoIPool2dStorage {
  DType features = DType::kFloat32;
  DType rois = DType::kFloat32;
  DType offset = DType::kFloat32;
  DType mask = DType::kFloat32;
};

struct DeformRoIPool2dValues {
  std::vector<double> x, rois;
  std::optional<std::vector<double>> offset, mask;
};

// RoIs inside, partly outside and outside the map, some inverted, some without a size.
std::vector<double> random_rois(const DeformRoIPool2dParams& p, std::mt19937_64* random);
DeformRoIPool2dValues random_values(const DeformRoIPool2dParams& p, bool offset, bool mask,
                                    std::mt19937_64* random);

}  // namespace testing
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TESTS_CPP_DEFORM_ROI_POOL_CASES_H_
