// The cases of the deformable convolution's native tests, and random values for them.

#ifndef DCN_DEPLOY_TESTS_CPP_DEFORM_CONV2D_CASES_H_
#define DCN_DEPLOY_TESTS_CPP_DEFORM_CONV2D_CASES_H_

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "core/deform_conv2d_params.h"
#include "core/dtype.h"

namespace dcn_deploy {
namespace testing {

// Sizes and attributes. Height before width.
struct DeformConv2dCase {
  const char* name;
  std::int64_t batch;
  std::int64_t in_channels, in_h, in_w;
  std::int64_t out_channels, kernel_h, kernel_w;
  std::int64_t stride_h, stride_w;
  std::int64_t pad_top, pad_left, pad_bottom, pad_right;
  std::int64_t dilation_h, dilation_w;
  std::int64_t group, offset_group;
};

void PrintTo(const DeformConv2dCase& c, std::ostream* out);

const std::vector<DeformConv2dCase>& deform_conv2d_cases();
const DeformConv2dCase& deform_conv2d_case(const std::string& name);
DeformConv2dParams params_of(const DeformConv2dCase& c);

struct DeformConv2dStorage {
  DType features = DType::kFloat32;
  DType offset = DType::kFloat32;
  DType mask = DType::kFloat32;
};

struct DeformConv2dValues {
  std::vector<double> x, weight, offset;
  std::optional<std::vector<double>> bias, mask;
};

// Random values; of the offsets, some are whole numbers, which put samples on the map's edges.
DeformConv2dValues random_values(const DeformConv2dParams& p, bool bias, bool mask,
                                 std::mt19937_64* random);
// NaN in so many pixels that about one output in three has one among its samples' corners.
void scatter_nan(const DeformConv2dParams& p, std::mt19937_64* random, std::vector<double>* x);
// NaN, infinite and huge values for every fifth offset.
void scatter_far_offsets(std::mt19937_64* random, std::vector<double>* offset);
// NaN in every pixel that no sample has among its corners. The offsets must be float32 numbers.
void set_nan_where_nothing_samples(const DeformConv2dParams& p, const std::vector<double>& offset,
                                   std::vector<double>* x);

}  // namespace testing
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TESTS_CPP_DEFORM_CONV2D_CASES_H_
