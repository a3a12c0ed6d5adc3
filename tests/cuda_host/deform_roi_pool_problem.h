// A RoI pooling with its inputs, as the kernel and as the reference see them.

#ifndef DCN_DEPLOY_TESTS_CUDA_HOST_DEFORM_ROI_POOL_PROBLEM_H_
#define DCN_DEPLOY_TESTS_CUDA_HOST_DEFORM_ROI_POOL_PROBLEM_H_

#include <memory>
#include <string>
#include <vector>

#include "core/cuda/deform_roi_pool.h"
#include "core/deform_roi_pool_params.h"
#include "deform_roi_pool_cases.h"
#include "random_tensors.h"

namespace dcn_deploy {
namespace cuda {

class RoIPoolProblem {
 public:
  RoIPoolProblem(const DeformRoIPool2dParams& params, const testing::DeformRoIPool2dValues& values,
                 const testing::DeformRoIPool2dStorage& storage);

  std::vector<double> reference() const;
  // The same from the CPU kernel, which copes with RoIs that would keep the reference busy for
  // days. Empty if it refuses.
  std::vector<double> run_on_cpu() const;
  // Y in the order of NCHW. `status` gets that of the launch; without it, an error fails the test.
  std::vector<double> run(Layout x_layout, Layout y_layout, Status* status = nullptr) const;

 private:
  std::size_t output_size() const;

  DeformRoIPool2dParams params_;
  testing::DeformRoIPool2dStorage storage_;
  testing::Tensor x_, x_nhwc_, rois_;
  std::unique_ptr<testing::Tensor> offset_, mask_;
};

std::string describe(Layout x_layout, Layout y_layout,
                     const testing::DeformRoIPool2dStorage& storage);

}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TESTS_CUDA_HOST_DEFORM_ROI_POOL_PROBLEM_H_
