// A deformable convolution with its inputs, as the kernels and as the reference see them.

#ifndef DCN_DEPLOY_TESTS_CUDA_HOST_DEFORM_CONV2D_PROBLEM_H_
#define DCN_DEPLOY_TESTS_CUDA_HOST_DEFORM_CONV2D_PROBLEM_H_

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "core/cuda/deform_conv2d.h"
#include "core/deform_conv2d_params.h"
#include "deform_conv2d_cases.h"
#include "random_tensors.h"

namespace dcn_deploy {
namespace cuda {

// One way to compute it.
struct Variant {
  Algorithm algorithm = Algorithm::kAuto;
  Tile tile;       // of zeros: chosen by the plan
  int splits = 1;  // 0: chosen by the plan
  bool allow_tf32 = false;
  Layout x_layout = Layout::kNchw;
  Layout y_layout = Layout::kNchw;
  // X is moved off the alignment that wide reads need.
  bool unaligned = false;
};

std::string describe(const Variant& variant, const testing::DeformConv2dStorage& storage);

// Every kernel for a type: algorithm × tile × layout of X. The layout of Y alternates. The fused
// ones with a block for each tile, and with several that share its sum.
std::vector<Variant> all_variants(DType dtype);
// Those of each algorithm's smallest tile, in NHWC.
std::vector<Variant> few_variants(DType dtype);

// The plan of a variant on an H100, with at most as many blocks for a sum as that has steps;
// `options` hold what a variant does not.
Status plan_variant(const DeformConv2dParams& params, DType dtype, const Variant& variant,
                    DeformConv2dOptions options, DeformConv2dPlan* plan);

// The type whose bound holds: TF32 is as good as float16.
DType bound_of(const Variant& variant, DType dtype);

// An H100, as far as the plan asks.
Device h100();

class Problem {
 public:
  Problem(const DeformConv2dParams& params, const testing::DeformConv2dValues& values,
          const testing::DeformConv2dStorage& storage);

  const DeformConv2dParams& params() const { return params_; }
  const testing::DeformConv2dStorage& storage() const { return storage_; }
  std::size_t output_size() const;

  std::vector<double> reference() const;

  // Y in the order of NCHW. `status` gets that of the launch; without it, an error fails the test.
  std::vector<double> run(const Variant& variant, Status* status = nullptr) const;

 private:
  DeformConv2dParams params_;
  testing::DeformConv2dStorage storage_;
  std::vector<double> x_values_;
  // By layout.
  std::unique_ptr<testing::GuardedBytes> x_[2], shifted_x_[2];
  testing::Tensor weight_, offset_;
  std::unique_ptr<testing::Tensor> bias_, mask_;
};

}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TESTS_CUDA_HOST_DEFORM_CONV2D_PROBLEM_H_
