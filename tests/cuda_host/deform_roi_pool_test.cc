// The CUDA kernel of RoI pooling, run on the host, against the double reference.

#include "core/cuda/deform_roi_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "comparison.h"
#include "core/cpu/deform_roi_pool.h"
#include "deform_roi_pool_problem.h"
#include "host_device_test.h"
#include "random_tensors.h"
#include "sparse_tensor.h"

namespace dcn_deploy {
namespace cuda {
namespace {

using testing::close;
using testing::DeformRoIPool2dCase;
using testing::DeformRoIPool2dValues;
using testing::first_difference;
using testing::params_of;
using testing::random_values;
using testing::seed_trace;
using Storage = testing::DeformRoIPool2dStorage;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};

const DeformRoIPool2dCase& case_named(const std::string& name) {
  for (const DeformRoIPool2dCase& c : testing::deform_roi_pool_cases()) {
    if (name == c.name) return c;
  }
  throw std::invalid_argument("no case is called " + name);
}

template <typename Visit>
void for_each_layout(const Storage& storage, Visit&& visit) {
  for (const Layout x_layout : {Layout::kNchw, Layout::kNhwc}) {
    for (const Layout y_layout : {Layout::kNchw, Layout::kNhwc}) {
      SCOPED_TRACE(describe(x_layout, y_layout, storage));
      visit(x_layout, y_layout);
    }
  }
}

void expect_agreement(const DeformRoIPool2dParams& params, const DeformRoIPool2dValues& values,
                      const Storage& storage) {
  const RoIPoolProblem problem(params, values, storage);
  const std::vector<double> expected = problem.reference();
  for_each_layout(storage, [&](Layout x_layout, Layout y_layout) {
    EXPECT_TRUE(close(problem.run(x_layout, y_layout), expected, storage.features));
  });
}

class CudaDeformRoIPool : public HostDeviceTest {
 protected:
  CudaDeformRoIPool() : random_(testing::seed()) {}
  std::mt19937_64 random_;
};

class CudaDeformRoIPoolCases : public CudaDeformRoIPool,
                               public ::testing::WithParamInterface<DeformRoIPool2dCase> {
 protected:
  DeformRoIPool2dParams params_ = params_of(GetParam());
};

TEST_P(CudaDeformRoIPoolCases, AgreeWithTheReferenceInEveryDType) {
  SCOPED_TRACE(seed_trace());
  const DeformRoIPool2dValues values = random_values(params_, true, true, &random_);
  host::Settings settings;
  for (const DType dtype : kDTypes) {
    // Orders take turns; that they give the same bits is a test of its own.
    settings.thread_order = static_cast<host::ThreadOrder>(settings.seed++ % 3);
    settings.shuffle_blocks = settings.seed % 2 == 0;
    host::configure(settings);
    Storage storage;
    storage.features = dtype;
    expect_agreement(params_, values, storage);
  }
}

TEST_P(CudaDeformRoIPoolCases, AgreeWithTheReferenceWithoutOffsetsOrMask) {
  SCOPED_TRACE(seed_trace());
  expect_agreement(params_, random_values(params_, false, true, &random_), {});
  params_.classes = 1;
  expect_agreement(params_, random_values(params_, false, false, &random_), {});
}

std::string case_name(const ::testing::TestParamInfo<DeformRoIPool2dCase>& tested) {
  return tested.param.name;
}

INSTANTIATE_TEST_SUITE_P(Cuda, CudaDeformRoIPoolCases,
                         ::testing::ValuesIn(testing::deform_roi_pool_cases()), case_name);

// Threads and blocks in any order: every bit the same.
TEST_F(CudaDeformRoIPool, GivesTheSameBitsInAnyOrder) {
  SCOPED_TRACE(seed_trace());
  for (const char* name : {"MoreBinsThanATile", "Channels67", "ManySamples", "PsroiClasses2Of67"}) {
    SCOPED_TRACE(name);
    const DeformRoIPool2dParams params = params_of(case_named(name));
    const RoIPoolProblem problem(params, random_values(params, true, true, &random_), {});
    host::configure({});
    const std::vector<double> expected = problem.run(Layout::kNchw, Layout::kNchw);
    for (const host::Settings& settings : all_orders()) {
      host::configure(settings);
      ASSERT_EQ(first_difference(problem.run(Layout::kNchw, Layout::kNchw), expected), "");
    }
    // A sum does not depend on how the map lies in memory.
    ASSERT_EQ(first_difference(problem.run(Layout::kNhwc, Layout::kNhwc), expected), "");
  }
}

TEST_F(CudaDeformRoIPool, HalfOffsetsAndMasks) {
  SCOPED_TRACE(seed_trace());
  for (const char* name : {"Seven", "PsroiClasses3Parts2"}) {
    SCOPED_TRACE(name);
    const DeformRoIPool2dParams params = params_of(case_named(name));
    const DeformRoIPool2dValues values = random_values(params, true, true, &random_);
    for (const DType half : {DType::kFloat16, DType::kBFloat16}) {
      for (int which = 0; which < 8; ++which) {
        expect_agreement(params, values,
                         {half, which & 1 ? half : DType::kFloat32,
                          which & 2 ? half : DType::kFloat32, which & 4 ? half : DType::kFloat32});
      }
    }
  }
}

// Outside [0, batch), not a number, or with corners that are none: zeros, and nothing is read.
TEST_F(CudaDeformRoIPool, RoIsWithoutSamplesGiveZeros) {
  SCOPED_TRACE(seed_trace());
  for (const char* name : {"Seven", "PsroiGroup3"}) {
    SCOPED_TRACE(name);
    DeformRoIPool2dParams params = params_of(case_named(name));
    const DeformRoIPool2dValues values = random_values(params, true, true, &random_);
    const std::vector<double> healthy =
        RoIPoolProblem(params, values, {}).run(Layout::kNchw, Layout::kNchw);
    const auto size = static_cast<std::size_t>(params.out_channels * params.out_h * params.out_w);
    const struct {
      std::size_t at;
      double value;
    } sick[] = {{0, -1},        {0, -0.5},      {0, static_cast<double>(params.batch)},
                {0, kNan},      {0, 3e38},      {0, -kInfinity},
                {1, kNan},      {2, kInfinity}, {3, kNan},
                {4, -kInfinity}};
    for (const auto& one : sick) {
      SCOPED_TRACE(std::to_string(one.at) + ": " + std::to_string(one.value));
      constexpr std::size_t kRoI = 4;
      DeformRoIPool2dValues changed = values;
      changed.rois[5 * kRoI + one.at] = one.value;
      std::vector<double> expected = healthy;
      std::fill_n(expected.begin() + static_cast<std::ptrdiff_t>(kRoI * size), size, 0.0);
      const RoIPoolProblem problem(params, changed, {});
      for_each_layout({}, [&](Layout x_layout, Layout y_layout) {
        EXPECT_EQ(first_difference(problem.run(x_layout, y_layout), expected), "");
      });
    }
  }
}

// Of a sample outside the map nothing remains, whatever the offset is.
TEST_F(CudaDeformRoIPool, FarOffsetsAgreeWithTheReference) {
  SCOPED_TRACE(seed_trace());
  constexpr double kFar[] = {kNan, kInfinity, -kInfinity, 3e38, -3e38, 1e9, -1e9, 4294967296.0};
  for (const char* name : {"Seven", "PsroiClasses3Parts2"}) {
    SCOPED_TRACE(name);
    const DeformRoIPool2dParams params = params_of(case_named(name));
    DeformRoIPool2dValues values = random_values(params, true, true, &random_);
    for (double& value : *values.offset) {
      if (random_() % 5 == 0) value = kFar[random_() % std::size(kFar)];
    }
    expect_agreement(params, values, {});
  }
}

// A sampling ratio of 0 takes a sample for each pixel of the RoI; only those on the map are
// visited.
TEST_F(CudaDeformRoIPool, RoIsOfABillionPixelsEnd) {
  SCOPED_TRACE(seed_trace());
  DeformRoIPool2dParams params = params_of(case_named("SamplesBySize"));
  params.rois = 4;
  DeformRoIPool2dValues values = random_values(params, true, true, &random_);
  values.rois = {0, -1e9,  -1e9, 1e9,  1e9,  //
                 1, 3,     -2e9, 8,    2e9,  //
                 0, -5,    -5,   1e12, 40,   //
                 1, -1e30, 2,    1e30, 9};
  const RoIPoolProblem problem(params, values, {});
  const std::vector<double> expected = problem.run_on_cpu();
  ASSERT_FALSE(expected.empty());
  for_each_layout({}, [&](Layout x_layout, Layout y_layout) {
    EXPECT_TRUE(close(problem.run(x_layout, y_layout), expected, DType::kFloat32));
  });
}

// X of more than 2^31 elements, sampled at its end.
TEST_F(CudaDeformRoIPool, IndicesPastTwoToThe31) {
  SCOPED_TRACE(seed_trace());
  constexpr DType kDType = DType::kFloat16;
  constexpr std::int64_t kChannels = 600, kHeight = 2000, kWidth = 2001, kWindow = 16;
  constexpr std::int64_t kPlane = kHeight * kWidth;
  static_assert(kChannels * kPlane > std::int64_t{1} << 31);
  const DeformRoIPool2dParams params = params_of(
      {"", RoIPoolVariant::kAligned, 1, kChannels, kHeight, kWidth, 1, 2, 3, 1.0f, 2, 1, 1, 0});
  const double right = kWidth, bottom = kHeight;
  const testing::Tensor rois(DType::kFloat32,
                             {0, right - 12.5, bottom - 11.25, right + 0.75, bottom - 1.5});
  std::vector<double> expected;
  for (const Layout layout : {Layout::kNchw, Layout::kNhwc}) {
    testing::SparseTensor x(kDType, kChannels * kPlane);
    ASSERT_TRUE(x.ok());
    std::mt19937_64 same(testing::seed());
    std::normal_distribution<double> normal(0, 1);
    for (std::int64_t c = 0; c < kChannels; ++c) {
      for (std::int64_t row = kHeight - kWindow; row < kHeight; ++row) {
        for (std::int64_t column = kWidth - kWindow; column < kWidth; ++column) {
          const std::int64_t pixel = row * kWidth + column;
          x.set(static_cast<std::uint64_t>(layout == Layout::kNchw ? c * kPlane + pixel
                                                                   : pixel * kChannels + c),
                normal(same));
        }
      }
    }
    if (expected.empty()) {
      testing::Output y(kDType, kChannels * 6);
      cpu::DeformRoIPool2dTensors tensors;
      tensors.dtype = kDType;
      tensors.x = x.data();
      tensors.rois = rois.data();
      tensors.y = y.data();
      const Status status = cpu::deform_roi_pool(params, tensors, *testing::available_kernels()[0],
                                                 {}, {}, cpu::RoIPoolWay::kDirect);
      ASSERT_TRUE(status.ok()) << status.message;
      expected = y.values();
    }
    testing::Output y(kDType, kChannels * 6);
    DeformRoIPool2dTensors tensors;
    tensors.dtype = kDType;
    tensors.x_layout = layout;
    tensors.x = x.data();
    tensors.rois = rois.data();
    tensors.y = y.data();
    const Status status = deform_roi_pool(params, tensors, nullptr);
    ASSERT_TRUE(status.ok()) << status.message;
    EXPECT_TRUE(close(y.values(), expected, kDType));
  }
}

TEST_F(CudaDeformRoIPool, NoRoIsLaunchNothing) {
  DeformRoIPool2dParams params = params_of(case_named("Seven"));
  params.rois = 0;
  const std::int64_t blocks = host::counters().blocks;
  const RoIPoolProblem problem(params, random_values(params, true, true, &random_), {});
  EXPECT_TRUE(problem.run(Layout::kNchw, Layout::kNchw).empty());
  EXPECT_EQ(host::counters().blocks, blocks);
}

TEST_F(CudaDeformRoIPool, Int8IsRefused) {
  DeformRoIPool2dTensors tensors;
  tensors.dtype = DType::kInt8;
  const Status status = deform_roi_pool(params_of(case_named("Seven")), tensors, nullptr);
  EXPECT_EQ(std::string(status.message), "X: expected float32, float16 or bfloat16, got int8");
}

TEST_F(CudaDeformRoIPool, MoreBlocksThanAGridHasAreRefused) {
  DeformRoIPool2dParams params = params_of(case_named("Channels300"));
  params.rois = std::int64_t{1} << 31;
  const Status status = deform_roi_pool(params, {}, nullptr);
  EXPECT_EQ(status.code, StatusCode::kTooLarge);
  EXPECT_NE(std::string(status.message).find("expected at most 2^31 - 1 blocks"),
            std::string::npos);
}

}  // namespace
}  // namespace cuda
}  // namespace dcn_deploy
