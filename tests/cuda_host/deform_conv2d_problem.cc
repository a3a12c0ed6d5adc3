#include "deform_conv2d_problem.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "core/deform_conv2d_reference.h"

namespace dcn_deploy {
namespace cuda {
namespace {

using testing::GuardedBytes;
using testing::Output;
using testing::Tensor;

// Element of a map with `channels` channels, in either order.
std::size_t element_of(Layout layout, std::int64_t n, std::int64_t c, std::int64_t pixel,
                       std::int64_t channels, std::int64_t pixels) {
  return static_cast<std::size_t>(layout == Layout::kNhwc ? (n * pixels + pixel) * channels + c
                                                          : (n * channels + c) * pixels + pixel);
}

}  // namespace

std::string describe(const Variant& variant, const testing::DeformConv2dStorage& storage) {
  constexpr const char* kAlgorithms[] = {"auto", "tensor", "simt", "direct"};
  constexpr const char* kLayouts[] = {"NCHW", "NHWC"};
  return std::string(kAlgorithms[static_cast<int>(variant.algorithm)]) + " " +
         std::to_string(variant.tile.rows) + "x" + std::to_string(variant.tile.pixels) + "/" +
         std::to_string(variant.splits) + " " + kLayouts[static_cast<int>(variant.x_layout)] +
         " to " + kLayouts[static_cast<int>(variant.y_layout)] +
         (variant.unaligned ? " unaligned" : "") + ", features " + name_of(storage.features) +
         ", offset " + name_of(storage.offset) + ", mask " + name_of(storage.mask);
}

std::vector<Variant> all_variants(DType dtype) {
  // Powers of two are what plans choose; the others leave shares of unequal length more often.
  constexpr int kSplits[] = {2, 3, 8, 5};
  std::vector<Variant> variants;
  for (const Algorithm algorithm : {Algorithm::kTensor, Algorithm::kSimt, Algorithm::kDirect}) {
    int count = 0;
    const Tile* tiles = deform_conv2d_tiles(algorithm, &count);
    for (int i = 0; i < count; ++i) {
      for (const Layout layout : {Layout::kNchw, Layout::kNhwc}) {
        Variant variant;
        variant.algorithm = algorithm;
        variant.tile = tiles[i];
        variant.allow_tf32 = algorithm == Algorithm::kTensor && dtype == DType::kFloat32;
        variant.x_layout = layout;
        variant.y_layout = i % 2 == 0                ? layout
                           : layout == Layout::kNchw ? Layout::kNhwc
                                                     : Layout::kNchw;
        variants.push_back(variant);
        if (algorithm == Algorithm::kDirect) continue;
        variant.splits = kSplits[(i + (layout == Layout::kNhwc ? 1 : 0)) % 4];
        variants.push_back(variant);
      }
    }
  }
  return variants;
}

std::vector<Variant> few_variants(DType dtype) {
  std::vector<Variant> few;
  for (const Variant& variant : all_variants(dtype)) {
    int count = 0;
    const Tile& smallest = deform_conv2d_tiles(variant.algorithm, &count)[count - 1];
    if (variant.x_layout == Layout::kNhwc && variant.tile.rows == smallest.rows &&
        variant.tile.pixels == smallest.pixels) {
      few.push_back(variant);
    }
  }
  return few;
}

Status plan_variant(const DeformConv2dParams& params, DType dtype, const Variant& variant,
                    DeformConv2dOptions options, DeformConv2dPlan* plan) {
  options.allow_tf32 = variant.allow_tf32;
  options.algorithm = variant.algorithm;
  options.tile = variant.tile;
  options.splits = std::min(variant.splits, 1);
  const auto make = [&] {
    return plan_deform_conv2d(params, dtype, variant.x_layout, variant.y_layout, h100(), options,
                              plan);
  };
  DCN_DEPLOY_RETURN_IF_ERROR(make());
  if (variant.splits < 2) return {};
  const std::int64_t steps = params.kernel_h * params.kernel_w * plan->chunks;
  options.splits = static_cast<int>(std::min<std::int64_t>(variant.splits, steps));
  return make();
}

DType bound_of(const Variant& variant, DType dtype) {
  return dtype == DType::kFloat32 && variant.algorithm == Algorithm::kTensor ? DType::kFloat16
                                                                             : dtype;
}

Device h100() { return {90, 132, 227 * 1024, 8}; }

Problem::Problem(const DeformConv2dParams& params, const testing::DeformConv2dValues& values,
                 const testing::DeformConv2dStorage& storage)
    : params_(params),
      storage_(storage),
      x_values_(values.x.size()),
      weight_(storage.features, values.weight),
      offset_(storage.offset, values.offset) {
  if (values.bias) bias_ = std::make_unique<Tensor>(storage.features, *values.bias);
  if (values.mask) mask_ = std::make_unique<Tensor>(storage.mask, *values.mask);
  const std::size_t element = size_of(storage.features);
  for (const Layout layout : {Layout::kNchw, Layout::kNhwc}) {
    auto& bytes = x_[static_cast<int>(layout)];
    bytes = std::make_unique<GuardedBytes>(values.x.size() * element);
    const std::int64_t pixels = params.in_h * params.in_w;
    std::size_t from = 0;
    for (std::int64_t n = 0; n < params.batch; ++n) {
      for (std::int64_t c = 0; c < params.in_channels; ++c) {
        for (std::int64_t pixel = 0; pixel < pixels; ++pixel, ++from) {
          const std::size_t to = element_of(layout, n, c, pixel, params.in_channels, pixels);
          testing::write_element(storage.features, values.x[from], bytes->data(), to);
          x_values_[from] = testing::read_element(storage.features, bytes->data(), to);
        }
      }
    }
    auto& shifted = shifted_x_[static_cast<int>(layout)];
    shifted = std::make_unique<GuardedBytes>(bytes->size() + element);
    if (bytes->size() > 0) std::memcpy(shifted->data() + element, bytes->data(), bytes->size());
  }
}

std::size_t Problem::output_size() const {
  return static_cast<std::size_t>(params_.batch * params_.out_channels * params_.out_h *
                                  params_.out_w);
}

std::vector<double> Problem::reference() const {
  std::vector<double> y(output_size());
  deform_conv2d_reference(params_, x_values_.data(), weight_.values().data(),
                          offset_.values().data(), bias_ ? bias_->values().data() : nullptr,
                          mask_ ? mask_->values().data() : nullptr, y.data());
  return y;
}

std::vector<double> Problem::run(const Variant& variant, Status* status) const {
  DeformConv2dPlan plan;
  Status done = plan_variant(params_, storage_.features, variant, {}, &plan);
  EXPECT_TRUE(done.ok()) << done.message;
  if (!done.ok()) return {};
  EXPECT_LE(plan.shared_bytes, h100().shared_bytes_per_block);

  GuardedBytes packed(plan.packed_bytes);
  // NaN in every type: what packing leaves out is seen.
  std::fill(packed.data(), packed.data() + packed.size(), static_cast<unsigned char>(0xff));
  done = pack_deform_conv2d_weights(plan, weight_.data(), packed.data(), nullptr);
  EXPECT_TRUE(done.ok()) << done.message;

  Output y(storage_.features, output_size());
  DeformConv2dTensors tensors;
  tensors.offset_dtype = storage_.offset;
  tensors.mask_dtype = storage_.mask;
  const auto layout = static_cast<int>(variant.x_layout);
  tensors.x = variant.unaligned ? shifted_x_[layout]->data() + size_of(storage_.features)
                                : x_[layout]->data();
  tensors.offset = offset_.data();
  tensors.bias = bias_ ? bias_->data() : nullptr;
  tensors.mask = mask_ ? mask_->data() : nullptr;
  tensors.y = y.data();
  done = deform_conv2d(plan, tensors, packed.data(), nullptr);
  if (status != nullptr) {
    *status = done;
  } else {
    EXPECT_TRUE(done.ok()) << done.message;
  }
  EXPECT_TRUE(packed.intact() && y.bytes().intact());

  const std::vector<double> values = y.values();
  if (variant.y_layout == Layout::kNchw) return values;
  std::vector<double> nchw(values.size());
  const std::int64_t pixels = params_.out_h * params_.out_w;
  std::size_t to = 0;
  for (std::int64_t n = 0; n < params_.batch; ++n) {
    for (std::int64_t m = 0; m < params_.out_channels; ++m) {
      for (std::int64_t pixel = 0; pixel < pixels; ++pixel, ++to) {
        nchw[to] = values[element_of(Layout::kNhwc, n, m, pixel, params_.out_channels, pixels)];
      }
    }
  }
  return nchw;
}

}  // namespace cuda
}  // namespace dcn_deploy
