#include "deform_roi_pool_problem.h"

#include <gtest/gtest.h>

#include "comparison.h"
#include "core/cpu/deform_roi_pool.h"
#include "core/deform_roi_pool_reference.h"

namespace dcn_deploy {
namespace cuda {
namespace {

using testing::Output;
using testing::Tensor;

// [outer, channels, pixels] → [outer, pixels, channels], or back with the last two exchanged.
std::vector<double> transposed(const std::vector<double>& values, std::int64_t outer,
                               std::int64_t channels, std::int64_t pixels) {
  std::vector<double> result(values.size());
  std::size_t to = 0;
  for (std::int64_t n = 0; n < outer; ++n) {
    for (std::int64_t pixel = 0; pixel < pixels; ++pixel) {
      for (std::int64_t c = 0; c < channels; ++c) {
        result[to++] = values[static_cast<std::size_t>((n * channels + c) * pixels + pixel)];
      }
    }
  }
  return result;
}

}  // namespace

std::string describe(Layout x_layout, Layout y_layout,
                     const testing::DeformRoIPool2dStorage& storage) {
  constexpr const char* kLayouts[] = {"NCHW", "NHWC"};
  return std::string(kLayouts[static_cast<int>(x_layout)]) + " to " +
         kLayouts[static_cast<int>(y_layout)] + ", features " + name_of(storage.features) +
         ", rois " + name_of(storage.rois) + ", offset " + name_of(storage.offset) + ", mask " +
         name_of(storage.mask);
}

RoIPoolProblem::RoIPoolProblem(const DeformRoIPool2dParams& params,
                               const testing::DeformRoIPool2dValues& values,
                               const testing::DeformRoIPool2dStorage& storage)
    : params_(params),
      storage_(storage),
      x_(storage.features, values.x),
      x_nhwc_(storage.features,
              transposed(values.x, params.batch, params.in_channels, params.in_h * params.in_w)),
      rois_(storage.rois, values.rois) {
  if (values.offset) offset_ = std::make_unique<Tensor>(storage.offset, *values.offset);
  if (values.mask) mask_ = std::make_unique<Tensor>(storage.mask, *values.mask);
}

std::size_t RoIPoolProblem::output_size() const {
  return static_cast<std::size_t>(params_.rois * params_.out_channels * params_.out_h *
                                  params_.out_w);
}

std::vector<double> RoIPoolProblem::reference() const {
  std::vector<double> y(output_size());
  deform_roi_pool_reference(params_, x_.values().data(), rois_.values().data(),
                            offset_ ? offset_->values().data() : nullptr,
                            mask_ ? mask_->values().data() : nullptr, y.data());
  return y;
}

std::vector<double> RoIPoolProblem::run_on_cpu() const {
  Output y(storage_.features, output_size());
  cpu::DeformRoIPool2dTensors tensors;
  tensors.dtype = storage_.features;
  tensors.rois_dtype = storage_.rois;
  tensors.offset_dtype = storage_.offset;
  tensors.mask_dtype = storage_.mask;
  tensors.x = x_.data();
  tensors.rois = rois_.data();
  tensors.offset = offset_ ? offset_->data() : nullptr;
  tensors.mask = mask_ ? mask_->data() : nullptr;
  tensors.y = y.data();
  const Status status =
      cpu::deform_roi_pool(params_, tensors, *testing::available_kernels()[0], {});
  return status.ok() ? y.values() : std::vector<double>{};
}

std::vector<double> RoIPoolProblem::run(Layout x_layout, Layout y_layout, Status* status) const {
  Output y(storage_.features, output_size());
  DeformRoIPool2dTensors tensors;
  tensors.dtype = storage_.features;
  tensors.rois_dtype = storage_.rois;
  tensors.offset_dtype = storage_.offset;
  tensors.mask_dtype = storage_.mask;
  tensors.x_layout = x_layout;
  tensors.y_layout = y_layout;
  tensors.x = x_layout == Layout::kNhwc ? x_nhwc_.data() : x_.data();
  tensors.rois = rois_.data();
  tensors.offset = offset_ ? offset_->data() : nullptr;
  tensors.mask = mask_ ? mask_->data() : nullptr;
  tensors.y = y.data();
  const Status done = deform_roi_pool(params_, tensors, nullptr);
  if (status != nullptr) {
    *status = done;
  } else {
    EXPECT_TRUE(done.ok()) << done.message;
  }
  EXPECT_TRUE(y.bytes().intact());
  return y_layout == Layout::kNchw
             ? y.values()
             : transposed(y.values(), params_.rois, params_.out_h * params_.out_w,
                          params_.out_channels);
}

}  // namespace cuda
}  // namespace dcn_deploy
