// Faults planted in the kernels (DCN_DEPLOY_FAULT) are caught: the tests above would have seen
// them.

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "comparison.h"
#include "deform_conv2d_problem.h"
#include "deform_roi_pool_problem.h"
#include "host_device_test.h"

namespace dcn_deploy {
namespace cuda {
namespace {

using testing::close;

// As the kernels number them.
enum Fault {
  kNoBarrierAfterSamples = 1,
  kOnePixelTooMany = 2,
  kFragmentsSwapped = 3,
  kNoWaitForWeights = 4,
  kCoordinatesInHalf = 5,
  kNoBarrierAfterLocating = 6,
  kNoBarrierAfterRoIPoolBins = 7,
  kNoBarrierBeforeOthersSums = 8,
  kNoBarrierAfterOthersSums = 9,
};

class CudaFaults : public HostDeviceTest {
 protected:
  CudaFaults() : random_(testing::seed()) {}

  Problem problem(DType dtype) {
    // Two steps a tap and more, several tiles, and a last tile that is not full.
    const DeformConv2dParams params =
        testing::params_of({"", 1, 40, 9, 9, 70, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1});
    return Problem(params, testing::random_values(params, true, true, &random_),
                   {dtype, DType::kFloat32, DType::kFloat32});
  }

  // Whatever the order of threads, the launch ends with a finding of one of these kinds.
  template <typename Run>
  void expect_found(Fault fault, const std::vector<host::Violation>& kinds, Run&& run) {
    for (const host::Settings& settings : all_orders()) {
      host::configure(settings);
      host::plant_fault(0);
      Status status;
      run(&status);
      ASSERT_TRUE(status.ok()) << status.message;

      host::plant_fault(fault);
      run(&status);
      EXPECT_GT(host::times_at_fault(), 0);
      EXPECT_FALSE(status.ok());
      const std::vector<host::Finding> findings = host::take_findings();
      ASSERT_EQ(findings.size(), 1u);
      EXPECT_TRUE(std::count(kinds.begin(), kinds.end(), findings[0].violation) == 1)
          << findings[0].message;
    }
  }

  // Nothing but the numbers tells.
  void expect_wrong_numbers(Fault fault, const Problem& tested, const Variant& variant) {
    const DType dtype = tested.storage().features;
    const std::vector<double> expected = tested.reference();
    ASSERT_TRUE(close(tested.run(variant), expected, bound_of(variant, dtype)));
    host::plant_fault(fault);
    EXPECT_FALSE(close(tested.run(variant), expected, bound_of(variant, dtype)));
    EXPECT_GT(host::times_at_fault(), 0);
    host::plant_fault(0);
  }

  std::mt19937_64 random_;
};

bool is_fused(const Variant& variant) { return variant.algorithm != Algorithm::kDirect; }

TEST_F(CudaFaults, MissingBarrierOfTheFusedKernels) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat16}) {
    const Problem tested = problem(dtype);
    for (const Variant& variant : few_variants(dtype)) {
      if (!is_fused(variant)) continue;
      SCOPED_TRACE(describe(variant, tested.storage()));
      // Of the weights a thread's wait is of use to others behind a barrier only: they may be found
      // under way as well.
      expect_found(
          kNoBarrierAfterSamples,
          {host::Violation::kRace, host::Violation::kUninitialized, host::Violation::kInFlight},
          [&](Status* status) { tested.run(variant, status); });
    }
  }
}

TEST_F(CudaFaults, MissingWaitForTheWeights) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat16}) {
    const Problem tested = problem(dtype);
    for (const Variant& variant : few_variants(dtype)) {
      if (!is_fused(variant)) continue;
      SCOPED_TRACE(describe(variant, tested.storage()));
      expect_found(kNoWaitForWeights, {host::Violation::kInFlight},
                   [&](Status* status) { tested.run(variant, status); });
    }
  }
}

// Of blocks that share a tile's sum.
TEST_F(CudaFaults, MissingBarriersOfTheCluster) {
  const Problem tested = problem(DType::kFloat16);
  for (const Variant& variant : all_variants(DType::kFloat16)) {
    // Both layouts of Y are among them.
    if (variant.splits == 1 || variant.x_layout == Layout::kNchw) continue;
    SCOPED_TRACE(describe(variant, tested.storage()));
    expect_found(kNoBarrierBeforeOthersSums,
                 {host::Violation::kRace, host::Violation::kUninitialized},
                 [&](Status* status) { tested.run(variant, status); });
    expect_found(kNoBarrierAfterOthersSums, {host::Violation::kRace},
                 [&](Status* status) { tested.run(variant, status); });
  }
}

TEST_F(CudaFaults, MissingBarrierOfTheDirectKernel) {
  const Problem tested = problem(DType::kFloat32);
  for (const Variant& variant : few_variants(DType::kFloat32)) {
    if (is_fused(variant)) continue;
    SCOPED_TRACE(describe(variant, tested.storage()));
    expect_found(kNoBarrierAfterLocating, {host::Violation::kRace, host::Violation::kUninitialized},
                 [&](Status* status) { tested.run(variant, status); });
  }
}

TEST_F(CudaFaults, MissingBarrierOfRoIPooling) {
  for (const testing::DeformRoIPool2dCase& c : testing::deform_roi_pool_cases()) {
    const std::string name = c.name;
    if (name != "Seven" && name != "PsroiGroup3") continue;
    SCOPED_TRACE(name);
    const DeformRoIPool2dParams params = testing::params_of(c);
    const RoIPoolProblem tested(params, testing::random_values(params, true, true, &random_), {});
    for (const Layout layout : {Layout::kNchw, Layout::kNhwc}) {
      expect_found(kNoBarrierAfterRoIPoolBins,
                   {host::Violation::kRace, host::Violation::kUninitialized},
                   [&](Status* status) { tested.run(layout, layout, status); });
    }
  }
}

TEST_F(CudaFaults, SwappedFragments) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    const Problem tested = problem(dtype);
    for (const Variant& variant : all_variants(dtype)) {
      if (variant.algorithm != Algorithm::kTensor) continue;
      SCOPED_TRACE(describe(variant, tested.storage()));
      expect_wrong_numbers(kFragmentsSwapped, tested, variant);
    }
  }
}

// Exact float32 tells at once; 16-bit features do where offsets are of the size of the map.
TEST_F(CudaFaults, CoordinatesInHalf) {
  const DeformConv2dParams params =
      testing::params_of({"", 1, 16, 3, 200, 16, 1, 3, 1, 1, 0, 1, 0, 1, 1, 1, 1, 1});
  testing::DeformConv2dValues values = testing::random_values(params, true, true, &random_);
  const std::int64_t pixels = params.out_h * params.out_w;
  for (std::size_t i = 0; i < values.offset.size(); ++i) {
    // Δx, to anywhere on the map.
    if (static_cast<std::int64_t>(i) / pixels % 2 == 1) {
      values.offset[i] = std::uniform_real_distribution<double>(-190, 190)(random_);
    }
  }
  for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    const Problem tested(params, values, {dtype, DType::kFloat32, DType::kFloat32});
    for (const Variant& variant : few_variants(dtype)) {
      if (!is_fused(variant)) continue;
      SCOPED_TRACE(describe(variant, tested.storage()));
      expect_wrong_numbers(kCoordinatesInHalf, tested, variant);
    }
  }
}

// A pixel behind the last one: the offsets end before it.
TEST_F(CudaFaults, OnePixelTooMany) {
#if defined(__SANITIZE_ADDRESS__)
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  const Problem tested = problem(DType::kFloat16);
  for (const Variant& variant : few_variants(DType::kFloat16)) {
    if (!is_fused(variant)) continue;
    SCOPED_TRACE(describe(variant, tested.storage()));
    EXPECT_DEATH(
        {
          host::plant_fault(kOnePixelTooMany);
          tested.run(variant);
        },
        "AddressSanitizer: use-after-poison");
  }
#else
  GTEST_SKIP() << "AddressSanitizer sees it";
#endif
}

}  // namespace
}  // namespace cuda
}  // namespace dcn_deploy
