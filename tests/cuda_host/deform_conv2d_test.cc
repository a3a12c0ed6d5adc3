// The CUDA kernels of the deformable convolution, run on the host, against the double reference.

#include "core/cuda/deform_conv2d.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "comparison.h"
#include "deform_conv2d_problem.h"
#include "host_device_test.h"
#include "sparse_tensor.h"

namespace dcn_deploy {
namespace cuda {
namespace {

using testing::close;
using testing::deform_conv2d_case;
using testing::DeformConv2dCase;
using testing::DeformConv2dValues;
using testing::first_difference;
using testing::params_of;
using testing::random_values;
using testing::seed_trace;
using Storage = testing::DeformConv2dStorage;

constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};

// More than the core's: for tiles, wide reads, steps and offset groups of the fused kernels.
const DeformConv2dCase kWideCases[] = {
    {"Channels67", 1, 67, 7, 9, 67, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"ManyRows", 3, 16, 5, 5, 300, 1, 2, 1, 1, 0, 1, 0, 0, 1, 1, 1, 1},
    {"Units", 2, 40, 7, 7, 24, 3, 2, 2, 1, 1, 0, 1, 1, 1, 2, 1, 1},
    {"UnitsOfGroups", 1, 64, 7, 5, 40, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4},
    {"OffsetGroupsAcrossGroups", 1, 48, 7, 5, 18, 2, 3, 1, 1, 1, 1, 0, 1, 1, 1, 3, 2},
    {"OffsetGroupsOfThree", 1, 48, 7, 5, 10, 3, 1, 1, 1, 1, 0, 1, 0, 1, 1, 1, 16},
    {"OffsetGroupsOfEight", 2, 64, 5, 5, 20, 1, 3, 1, 1, 0, 1, 0, 1, 1, 1, 1, 8},
    {"GroupsOfFive", 2, 15, 7, 7, 51, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 3, 1},
};

std::vector<DeformConv2dCase> all_cases() {
  std::vector<DeformConv2dCase> cases(std::begin(kWideCases), std::end(kWideCases));
  for (const DeformConv2dCase& c : testing::deform_conv2d_cases()) {
    // Nothing in them is new to a kernel that has no rows of pixels, and they take long.
    const std::string name = c.name;
    if (name != "FarColumns" && name != "ManyOutputsOfEachGroup") cases.push_back(c);
  }
  return cases;
}

const DeformConv2dCase& case_named(const std::string& name) {
  for (const DeformConv2dCase& c : kWideCases) {
    if (name == c.name) return c;
  }
  return deform_conv2d_case(name);
}

Storage float32_offsets(DType dtype) { return {dtype, DType::kFloat32, DType::kFloat32}; }

class CudaDeformConv2d : public HostDeviceTest {
 protected:
  CudaDeformConv2d() : random_(testing::seed()) {}
  std::mt19937_64 random_;
};

class CudaDeformConv2dCases : public CudaDeformConv2d,
                              public ::testing::WithParamInterface<DeformConv2dCase> {
 protected:
  const DeformConv2dParams params_ = params_of(GetParam());
};

TEST_P(CudaDeformConv2dCases, AgreeWithTheReferenceInEveryVariant) {
  SCOPED_TRACE(seed_trace());
  const DeformConv2dValues values = random_values(params_, true, true, &random_);
  host::Settings settings;
  for (const DType dtype : kDTypes) {
    const Problem problem(params_, values, float32_offsets(dtype));
    const std::vector<double> expected = problem.reference();
    // Of many narrow groups each takes tiles of its own, nearly empty: a few variants say it all.
    for (const Variant& variant : params_.group > 6 ? few_variants(dtype) : all_variants(dtype)) {
      SCOPED_TRACE(describe(variant, problem.storage()));
      // Orders take turns; that they give the same bits is a test of its own.
      settings.seed += 1;
      settings.thread_order = static_cast<host::ThreadOrder>(settings.seed % 3);
      settings.shuffle_blocks = settings.seed % 2 == 0;
      host::configure(settings);
      EXPECT_TRUE(close(problem.run(variant), expected, bound_of(variant, dtype)));
    }
  }
}

std::string case_name(const ::testing::TestParamInfo<DeformConv2dCase>& tested) {
  return tested.param.name;
}

INSTANTIATE_TEST_SUITE_P(Cuda, CudaDeformConv2dCases, ::testing::ValuesIn(all_cases()), case_name);

// Threads, blocks and copies in any order: every bit the same.
TEST_F(CudaDeformConv2d, GivesTheSameBitsInAnyOrder) {
  SCOPED_TRACE(seed_trace());
  for (const char* name : {"Units", "UnitsOfGroups", "OffsetGroupsOfThree"}) {
    SCOPED_TRACE(name);
    const DeformConv2dParams params = params_of(case_named(name));
    const DeformConv2dValues values = random_values(params, true, true, &random_);
    for (const DType dtype : {DType::kFloat32, DType::kFloat16}) {
      const Problem problem(params, values, float32_offsets(dtype));
      for (const Variant& variant : few_variants(dtype)) {
        SCOPED_TRACE(describe(variant, problem.storage()));
        host::configure({});
        const std::vector<double> expected = problem.run(variant);
        for (const host::Settings& settings : all_orders()) {
          host::configure(settings);
          ASSERT_EQ(first_difference(problem.run(variant), expected), "");
        }
      }
    }
  }
}

TEST_F(CudaDeformConv2d, GivesTheSameBitsForAnImageAloneAndInABatch) {
  SCOPED_TRACE(seed_trace());
  for (const char* name : {"ManyRows", "Units", "Group2OffsetGroup3"}) {
    SCOPED_TRACE(name);
    const DeformConv2dParams params = params_of(case_named(name));
    const DeformConv2dValues values = random_values(params, true, true, &random_);
    const auto part = [&](const std::vector<double>& all, std::int64_t image) {
      const auto size = static_cast<std::ptrdiff_t>(all.size()) / params.batch;
      return std::vector<double>(all.begin() + image * size, all.begin() + (image + 1) * size);
    };
    DeformConv2dParams one = params;
    one.batch = 1;
    for (const DType dtype : kDTypes) {
      for (const Variant& variant : few_variants(dtype)) {
        SCOPED_TRACE(describe(variant, float32_offsets(dtype)));
        const std::vector<double> together =
            Problem(params, values, float32_offsets(dtype)).run(variant);
        for (std::int64_t image = 0; image < params.batch; ++image) {
          DeformConv2dValues of_image = values;
          of_image.x = part(values.x, image);
          of_image.offset = part(values.offset, image);
          of_image.mask = part(*values.mask, image);
          EXPECT_EQ(first_difference(Problem(one, of_image, float32_offsets(dtype)).run(variant),
                                     part(together, image)),
                    "")
              << "image " << image;
        }
      }
    }
  }
}

// X off the alignment of wide reads is read element by element, with the same result.
TEST_F(CudaDeformConv2d, GivesTheSameBitsWithWideReadsAndWithout) {
  SCOPED_TRACE(seed_trace());
  for (const char* name : {"Units", "UnitsOfGroups", "OffsetGroupsOfEight"}) {
    SCOPED_TRACE(name);
    const DeformConv2dParams params = params_of(case_named(name));
    const DeformConv2dValues values = random_values(params, true, true, &random_);
    for (const DType dtype : kDTypes) {
      const Problem problem(params, values, float32_offsets(dtype));
      for (Variant variant : all_variants(dtype)) {
        if (variant.x_layout != Layout::kNhwc) continue;
        SCOPED_TRACE(describe(variant, problem.storage()));
        const std::vector<double> expected = problem.run(variant);
        variant.unaligned = true;
        EXPECT_EQ(first_difference(problem.run(variant), expected), "");
      }
    }
  }
}

// Bias and mask in any combination, offset and mask in float32 or the feature type.
TEST_F(CudaDeformConv2d, EveryCombinationOfInputsAndDTypes) {
  SCOPED_TRACE(seed_trace());
  for (const char* name : {"AllUnequal", "Units", "GroupsOfFive"}) {
    SCOPED_TRACE(name);
    const DeformConv2dParams params = params_of(case_named(name));
    for (const bool bias : {false, true}) {
      for (const bool mask : {false, true}) {
        const DeformConv2dValues values = random_values(params, bias, mask, &random_);
        for (const DType dtype : kDTypes) {
          for (const bool half_offset : {false, true}) {
            for (const bool half_mask : {false, true}) {
              if (dtype == DType::kFloat32 && (half_offset || half_mask)) continue;
              if (!mask && half_mask) continue;
              const Storage storage{dtype, half_offset ? dtype : DType::kFloat32,
                                    half_mask ? dtype : DType::kFloat32};
              const Problem problem(params, values, storage);
              const std::vector<double> expected = problem.reference();
              for (const Variant& variant : few_variants(dtype)) {
                SCOPED_TRACE(describe(variant, storage));
                EXPECT_TRUE(close(problem.run(variant), expected, bound_of(variant, dtype)));
              }
            }
          }
        }
      }
    }
  }
}

const char* const kHardCases[] = {"OnePixelWide", "AllUnequal", "Group6OffsetGroup4",
                                  "UnitsOfGroups", "OffsetGroupsOfThree"};

// NaN in a pixel reaches the outputs that have it among their samples' corners, and no other.
TEST_F(CudaDeformConv2d, NanFeaturesReachOnlyWhatSamplesThem) {
  SCOPED_TRACE(seed_trace());
  for (const char* name : kHardCases) {
    SCOPED_TRACE(name);
    const DeformConv2dParams params = params_of(case_named(name));
    DeformConv2dValues values = random_values(params, true, true, &random_);
    testing::scatter_nan(params, &random_, &values.x);
    for (const DType dtype : kDTypes) {
      const Problem problem(params, values, float32_offsets(dtype));
      const std::vector<double> expected = problem.reference();
      for (const Variant& variant : few_variants(dtype)) {
        SCOPED_TRACE(describe(variant, problem.storage()));
        EXPECT_TRUE(close(problem.run(variant), expected, bound_of(variant, dtype)));
      }
    }
  }
}

// Every pixel that no sample has among its corners is NaN: nothing changes.
TEST_F(CudaDeformConv2d, NeverLooksAtPixelsThatNothingSamples) {
  SCOPED_TRACE(seed_trace());
  for (const char* name : kHardCases) {
    SCOPED_TRACE(name);
    const DeformConv2dParams params = params_of(case_named(name));
    DeformConv2dValues values = random_values(params, true, true, &random_);
    // Few taps must be on the map to leave pixels unread.
    std::bernoulli_distribution leaves(0.8);
    for (double& value : values.offset) {
      if (leaves(random_)) value = std::numeric_limits<double>::quiet_NaN();
    }
    DeformConv2dValues poisoned = values;
    testing::set_nan_where_nothing_samples(params, values.offset, &poisoned.x);
    for (const DType dtype : kDTypes) {
      const Problem healthy(params, values, float32_offsets(dtype));
      const Problem sick(params, poisoned, float32_offsets(dtype));
      for (const Variant& variant : few_variants(dtype)) {
        SCOPED_TRACE(describe(variant, healthy.storage()));
        EXPECT_EQ(first_difference(sick.run(variant), healthy.run(variant)), "");
      }
    }
  }
}

// NaN, infinite and huge offsets sample outside, in every storage type.
TEST_F(CudaDeformConv2d, SamplesNothingAtOffsetsThatLeaveTheMap) {
  SCOPED_TRACE(seed_trace());
  for (const char* name : kHardCases) {
    SCOPED_TRACE(name);
    const DeformConv2dParams params = params_of(case_named(name));
    DeformConv2dValues values = random_values(params, true, true, &random_);
    testing::scatter_far_offsets(&random_, &values.offset);
    for (const DType offset_dtype : kDTypes) {
      const DType dtype = offset_dtype == DType::kBFloat16 ? DType::kBFloat16 : DType::kFloat16;
      for (const DType features : {DType::kFloat32, dtype}) {
        const Problem problem(params, values, {features, offset_dtype, DType::kFloat32});
        const std::vector<double> expected = problem.reference();
        for (const Variant& variant : few_variants(features)) {
          SCOPED_TRACE(describe(variant, problem.storage()));
          EXPECT_TRUE(close(problem.run(variant), expected, bound_of(variant, features)));
        }
      }
    }
  }
}

TEST_F(CudaDeformConv2d, EmptyBatchLaunchesNothing) {
  DeformConv2dCase c = case_named("Group2OffsetGroup3");
  c.batch = 0;
  const DeformConv2dParams params = params_of(c);
  const Problem problem(params, random_values(params, true, true, &random_),
                        float32_offsets(DType::kFloat16));
  for (const Variant& variant : all_variants(DType::kFloat16)) {
    EXPECT_TRUE(problem.run(variant).empty());
  }
}

TEST_F(CudaDeformConv2d, RandomShapes) {
  for (std::uint64_t round = 0; round < 40; ++round) {
    std::mt19937_64 random(testing::seed() + round);
    const auto pick = [&](std::int64_t low, std::int64_t high) {
      return std::uniform_int_distribution<std::int64_t>(low, high)(random);
    };
    DeformConv2dCase c{"random",   pick(1, 3), 0,          pick(1, 12), pick(1, 14), 0,
                       pick(1, 4), pick(1, 4), pick(1, 3), pick(1, 3),  pick(0, 3),  pick(0, 3),
                       pick(0, 3), pick(0, 3), pick(1, 3), pick(1, 3),  pick(1, 4),  pick(1, 4)};
    c.in_channels = std::lcm(c.group, c.offset_group) * pick(1, 12);
    c.out_channels = c.group * pick(1, 40);
    const DeformConv2dParams params = params_of(c);
    if (params.out_h < 1 || params.out_w < 1) continue;
    const bool bias = pick(0, 1) == 1;
    const bool mask = pick(0, 1) == 1;
    const DType dtype = kDTypes[pick(0, 2)];
    const Storage storage{dtype, pick(0, 1) == 1 ? dtype : DType::kFloat32,
                          pick(0, 1) == 1 ? dtype : DType::kFloat32};
    const Problem problem(params, random_values(params, bias, mask, &random), storage);
    const std::vector<double> expected = problem.reference();
    host::Settings settings;
    settings.thread_order = host::ThreadOrder::kRandom;
    settings.shuffle_blocks = true;
    settings.seed = round;
    host::configure(settings);
    const std::vector<Variant> variants = all_variants(dtype);
    for (int i = 0; i < 4; ++i) {
      const Variant& variant = variants[static_cast<std::size_t>(
          pick(0, static_cast<std::int64_t>(variants.size()) - 1))];
      SCOPED_TRACE("DCN_DEPLOY_TEST_SEED=" + std::to_string(testing::seed() + round) +
                   " (first round), " + describe(variant, storage));
      ASSERT_TRUE(close(problem.run(variant), expected, bound_of(variant, dtype)));
    }
  }
}

// X, offsets and Y of more than 2^31 elements each. Of the grid only the end runs, which is where
// the large indices are.
TEST_F(CudaDeformConv2d, IndicesPastTwoToThe31) {
  SCOPED_TRACE(seed_trace());
  constexpr DType kDType = DType::kFloat16;
  constexpr std::int64_t kChannels = 64, kHeight = 5000, kWidth = 8000;
  const DeformConv2dParams p =
      params_of({"", 1, kChannels, kHeight, kWidth, kChannels, 3, 9, 1, 1, 1, 4, 1, 4, 1, 1, 1, 1});
  constexpr std::int64_t kTaps = 27;
  constexpr std::int64_t kPlane = kHeight * kWidth;
  constexpr std::int64_t kBig = std::int64_t{1} << 31;
  static_assert(kChannels * kPlane > kBig && 2 * kTaps * kPlane > kBig);
  // The pixels of the last tile, and what they sample.
  constexpr std::int64_t kPixels = 64, kRows = 9, kColumns = 100;

  const DeformConv2dValues small = random_values(
      params_of({"", 1, kChannels, 1, 1, kChannels, 3, 9, 1, 1, 1, 4, 1, 4, 1, 1, 1, 1}), true,
      false, &random_);
  const testing::Tensor weight(kDType, small.weight);
  const testing::Tensor bias(kDType, *small.bias);
  testing::SparseTensor offset(DType::kFloat32, 2 * kTaps * kPlane);
  ASSERT_TRUE(offset.ok());
  std::normal_distribution<double> normal(0, 1);
  for (std::int64_t c = 0; c < 2 * kTaps; ++c) {
    for (std::int64_t i = kPlane - kPixels; i < kPlane; ++i) {
      offset.set(static_cast<std::uint64_t>(c * kPlane + i), normal(random_));
    }
  }
  std::vector<double> expected;
  for (const Layout layout : {Layout::kNchw, Layout::kNhwc}) {
    const auto element = [&](std::int64_t channel, std::int64_t pixel) {
      return static_cast<std::uint64_t>(layout == Layout::kNchw ? channel * kPlane + pixel
                                                                : pixel * kChannels + channel);
    };
    testing::SparseTensor x(kDType, kChannels * kPlane);
    ASSERT_TRUE(x.ok());
    std::mt19937_64 same(testing::seed());
    for (std::int64_t c = 0; c < kChannels; ++c) {
      for (std::int64_t row = kHeight - kRows; row < kHeight; ++row) {
        for (std::int64_t column = kWidth - kColumns; column < kWidth; ++column) {
          x.set(element(c, row * kWidth + column), normal(same));
        }
      }
    }
    if (expected.empty()) {
      for (std::int64_t m = 0; m < kChannels; ++m) {
        for (std::int64_t i = kPlane - kPixels; i < kPlane; ++i) {
          expected.push_back(bias.values()[static_cast<std::size_t>(m)]);
        }
      }
      for (std::int64_t tap = 0; tap < kTaps; ++tap) {
        for (std::int64_t i = 0; i < kPixels; ++i) {
          const std::int64_t pixel = kPlane - kPixels + i;
          const double dy = offset.get(static_cast<std::uint64_t>(2 * tap * kPlane + pixel));
          const double dx = offset.get(static_cast<std::uint64_t>((2 * tap + 1) * kPlane + pixel));
          const double row_at = static_cast<double>(pixel / kWidth - 1 + tap / 9) + dy;
          const double column_at = static_cast<double>(pixel % kWidth - 4 + tap % 9) + dx;
          for (int corner = 0; corner < 4; ++corner) {
            const auto row = static_cast<std::int64_t>(std::floor(row_at)) + corner / 2;
            const auto column = static_cast<std::int64_t>(std::floor(column_at)) + corner % 2;
            if (row < 0 || row >= kHeight || column < 0 || column >= kWidth) continue;
            const double factor = (1 - std::abs(row_at - static_cast<double>(row))) *
                                  (1 - std::abs(column_at - static_cast<double>(column)));
            for (std::int64_t c = 0; c < kChannels; ++c) {
              const double value = factor * x.get(element(c, row * kWidth + column));
              for (std::int64_t m = 0; m < kChannels; ++m) {
                expected[static_cast<std::size_t>(m * kPixels + i)] +=
                    weight.values()[static_cast<std::size_t>((m * kChannels + c) * kTaps + tap)] *
                    value;
              }
            }
          }
        }
      }
    }
    for (Variant variant : all_variants(kDType)) {
      if (variant.x_layout != layout) continue;
      variant.y_layout = layout;
      SCOPED_TRACE(describe(variant, float32_offsets(kDType)));
      DeformConv2dPlan plan;
      ASSERT_TRUE(plan_variant(p, kDType, variant, {}, &plan).ok());
      testing::GuardedBytes packed(plan.packed_bytes);
      host::configure({});
      ASSERT_TRUE(pack_deform_conv2d_weights(plan, weight.data(), packed.data(), nullptr).ok());
      testing::SparseTensor y(kDType, kChannels * kPlane);
      ASSERT_TRUE(y.ok());
      DeformConv2dTensors tensors;
      tensors.x = x.data();
      tensors.offset = offset.data();
      tensors.bias = bias.data();
      tensors.y = y.data();
      host::Settings settings;
      // Tiles of 32 pixels or rows take more than one.
      settings.last_blocks = static_cast<std::uint64_t>(
          (kPixels + variant.tile.pixels - 1) / variant.tile.pixels *
          ((kChannels + variant.tile.rows - 1) / variant.tile.rows) * plan.splits);
      host::configure(settings);
      const Status status = deform_conv2d(plan, tensors, packed.data(), nullptr);
      ASSERT_TRUE(status.ok()) << status.message;
      std::vector<double> actual;
      for (std::int64_t m = 0; m < kChannels; ++m) {
        for (std::int64_t i = kPlane - kPixels; i < kPlane; ++i) {
          actual.push_back(y.get(element(m, i)));
        }
      }
      EXPECT_TRUE(close(actual, expected, kDType));
    }
  }
}

Status plan_of(const DeformConv2dParams& params, DType dtype, const Device& device,
               const DeformConv2dOptions& options, DeformConv2dPlan* plan) {
  return plan_deform_conv2d(params, dtype, Layout::kNhwc, Layout::kNhwc, device, options, plan);
}

TEST_F(CudaDeformConv2d, PlansFitTheirDevice) {
  // Compute capability and the most shared memory of a block.
  constexpr Device kDevices[] = {{75, 40, 64 * 1024, 1},   {80, 108, 163 * 1024, 1},
                                 {86, 84, 99 * 1024, 1},   {89, 128, 99 * 1024, 1},
                                 {90, 132, 227 * 1024, 8}, {100, 148, 227 * 1024, 8},
                                 {120, 170, 99 * 1024, 8}};
  for (const Device& device : kDevices) {
    SCOPED_TRACE(device.compute_capability);
    for (const DeformConv2dCase& c : all_cases()) {
      SCOPED_TRACE(c.name);
      for (const DType dtype : kDTypes) {
        for (const bool allow_tf32 : {false, true}) {
          DeformConv2dOptions options;
          options.allow_tf32 = allow_tf32;
          DeformConv2dPlan plan;
          const Status status = plan_of(params_of(c), dtype, device, options, &plan);
          ASSERT_TRUE(status.ok()) << status.message;
          EXPECT_LE(plan.shared_bytes, device.shared_bytes_per_block);
          EXPECT_NE(plan.algorithm, Algorithm::kAuto);
          EXPECT_GE(plan.splits, 1);
          EXPECT_LE(plan.splits, device.cluster_blocks);
          if (device.compute_capability < 80 || (dtype == DType::kFloat32 && !allow_tf32)) {
            EXPECT_NE(plan.algorithm, Algorithm::kTensor);
          }
        }
      }
    }
  }
}

// Where tiles are fewer than multiprocessors, and only there, blocks share a tile's sum.
TEST_F(CudaDeformConv2d, SharesSumsWhereTilesAreFew) {
  const auto plan_for = [](std::int64_t batch, std::int64_t channels, std::int64_t size,
                           const Device& device) {
    DeformConv2dCase c{"", batch, channels, size, size, channels, 3, 3, 1,
                       1,  1,     1,        1,    1,    1,        1, 1, 1};
    DeformConv2dPlan plan;
    const Status status = plan_of(params_of(c), DType::kFloat16, device, {}, &plan);
    EXPECT_TRUE(status.ok()) << status.message;
    return plan;
  };
  const auto blocks = [](const DeformConv2dPlan& plan) {
    const std::int64_t pixels = plan.params.batch * plan.params.out_h * plan.params.out_w;
    return (pixels + plan.tile.pixels - 1) / plan.tile.pixels *
           ((plan.params.out_channels + plan.tile.rows - 1) / plan.tile.rows) * plan.splits;
  };
  const Device without{80, 108, 163 * 1024, 1};
  for (const std::int64_t size : {7, 14, 28}) {
    SCOPED_TRACE(size);
    const DeformConv2dPlan plan = plan_for(1, 128 * (28 / size), size, h100());
    EXPECT_GT(plan.splits, 1);
    // Half of the multiprocessors at least have something to do.
    EXPECT_GE(2 * blocks(plan), h100().multiprocessors);
    EXPECT_EQ(plan_for(1, 128 * (28 / size), size, without).splits, 1);
  }
  // Nine thousand pixels are enough tiles for any GPU.
  const DeformConv2dPlan large = plan_for(8, 256, 192, h100());
  EXPECT_EQ(large.splits, 1);
  EXPECT_EQ(large.tile.rows, 256);
}

TEST_F(CudaDeformConv2d, RefusesWhatItCannotIndexOrHas) {
  const DeformConv2dParams fits = params_of(case_named("Channels67"));
  DeformConv2dPlan plan;
  const auto refusal = [&](const DeformConv2dParams& params, const Device& device,
                           const DeformConv2dOptions& options) {
    const Status status = plan_of(params, DType::kFloat16, device, options, &plan);
    EXPECT_FALSE(status.ok());
    return std::string(status.message);
  };
  constexpr std::int64_t kBig = std::int64_t{1} << 31;
  DeformConv2dParams large = fits;
  large.batch = kBig;
  EXPECT_EQ(refusal(large, h100(), {}),
            "batch: expected at most 2^31 - 1 on a GPU, got 2147483648");
  large = fits;
  large.batch = 1 << 28;
  EXPECT_EQ(refusal(large, h100(), {}),
            "taps of all offset groups of all images: expected at most 2^31 - 1 on a GPU, got "
            "2415919104");
  large = fits;
  large.in_h = 1 << 16;
  large.in_w = 1 << 15;
  EXPECT_EQ(refusal(large, h100(), {}),
            "pixels of a channel of X: expected at most 2^31 - 1 on a GPU, got 2147483648");
  DeformConv2dOptions options;
  options.algorithm = Algorithm::kTensor;
  EXPECT_EQ(refusal(fits, {75, 40, 64 * 1024, 1}, options),
            "tensor cores: expected compute capability 8.0 or later, got 7.5");
  options.splits = 2;
  EXPECT_EQ(refusal(fits, {80, 108, 163 * 1024, 1}, options),
            "blocks that share a sum: expected at most 1, of a device with clusters of 1 and a sum "
            "of 27 steps, got 2");
  options.splits = 9;
  EXPECT_EQ(refusal(fits, h100(), options),
            "blocks that share a sum: expected at most 8, of a device with clusters of 8 and a sum "
            "of 27 steps, got 9");
  options.splits = 0;
  options.tile = {48, 48};
  EXPECT_NE(refusal(fits, h100(), options).find("tile of 48x48: expected one that exists"),
            std::string::npos);
}

}  // namespace
}  // namespace cuda
}  // namespace dcn_deploy
