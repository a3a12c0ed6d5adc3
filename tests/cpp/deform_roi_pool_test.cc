#include "core/cpu/deform_roi_pool.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "comparison.h"
#include "core/deform_roi_pool_params.h"
#include "core/deform_roi_pool_reference.h"
#include "deform_roi_pool_cases.h"
#include "random_tensors.h"

namespace dcn_deploy {
namespace {

using cpu::RoIPoolWay;
using testing::available_kernels;
using testing::close;
using testing::first_difference;
using testing::Output;
using testing::params_of;
using testing::random_rois;
using testing::random_values;
using testing::seed_trace;
using testing::Tensor;
using Case = testing::DeformRoIPool2dCase;
using Storage = testing::DeformRoIPool2dStorage;
using Values = testing::DeformRoIPool2dValues;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};
constexpr RoIPoolWay kWays[] = {RoIPoolWay::kStaged, RoIPoolWay::kDirect};
constexpr RoIPoolVariant kAligned = RoIPoolVariant::kAligned;
constexpr RoIPoolVariant kPsroi = RoIPoolVariant::kPsroi;

// A node with its inputs, as the kernel and as the reference see them.
class Problem {
 public:
  Problem(const DeformRoIPool2dParams& params, const Values& values, const Storage& storage = {})
      : params_(params),
        storage_(storage),
        x_(storage.features, values.x),
        rois_(storage.rois, values.rois) {
    if (values.offset) offset_ = std::make_unique<Tensor>(storage.offset, *values.offset);
    if (values.mask) mask_ = std::make_unique<Tensor>(storage.mask, *values.mask);
  }

  DType dtype() const { return storage_.features; }
  std::size_t output_size() const {
    return static_cast<std::size_t>(params_.rois * params_.out_channels * params_.out_h *
                                    params_.out_w);
  }

  std::vector<double> reference() const {
    std::vector<double> y(output_size());
    deform_roi_pool_reference(params_, x_.values().data(), rois_.values().data(),
                              offset_ ? offset_->values().data() : nullptr,
                              mask_ ? mask_->values().data() : nullptr, y.data());
    return y;
  }

  Status status(const cpu::Kernels& kernels, RoIPoolWay way, const ParallelFor& parallel_for,
                Output* y) const {
    cpu::DeformRoIPool2dTensors tensors;
    tensors.dtype = dtype();
    tensors.rois_dtype = rois_.dtype();
    tensors.x = x_.data();
    tensors.rois = rois_.data();
    tensors.y = y->data();
    if (offset_) {
      tensors.offset = offset_->data();
      tensors.offset_dtype = offset_->dtype();
    }
    if (mask_) {
      tensors.mask = mask_->data();
      tensors.mask_dtype = mask_->dtype();
    }
    const Status status = cpu::deform_roi_pool(params_, tensors, kernels, parallel_for, {}, way);
    EXPECT_TRUE(x_.intact() && rois_.intact() && y->bytes().intact());
    EXPECT_TRUE((!offset_ || offset_->intact()) && (!mask_ || mask_->intact()));
    return status;
  }

  std::vector<double> run(const cpu::Kernels& kernels, RoIPoolWay way = RoIPoolWay::kEstimated,
                          const ParallelFor& parallel_for = {}) const {
    Output y(dtype(), output_size());
    const Status status = this->status(kernels, way, parallel_for, &y);
    EXPECT_TRUE(status.ok()) << status.message;
    return y.values();
  }

  std::string refusal() const {
    Output y(dtype(), output_size());
    return status(*available_kernels()[0], RoIPoolWay::kEstimated, {}, &y).message;
  }

 private:
  DeformRoIPool2dParams params_;
  Storage storage_;
  Tensor x_, rois_;
  std::unique_ptr<Tensor> offset_, mask_;
};

std::string trace(const cpu::Kernels& kernels, RoIPoolWay way, const Storage& storage = {}) {
  const char* name = way == RoIPoolWay::kStaged ? "staged" : "direct";
  return std::string("kernels ") + kernels.name + ", " + name + ", features " +
         name_of(storage.features) + ", rois " + name_of(storage.rois) + ", offset " +
         name_of(storage.offset) + ", mask " + name_of(storage.mask);
}

template <typename Visit>
void for_each_kernel(Visit&& visit) {
  for (const cpu::Kernels* kernels : available_kernels()) {
    for (const RoIPoolWay way : kWays) {
      SCOPED_TRACE(trace(*kernels, way));
      visit(*kernels, way);
    }
  }
}

void expect_agreement(const DeformRoIPool2dParams& params, const Values& values,
                      const Storage& storage = {}) {
  const Problem problem(params, values, storage);
  const std::vector<double> expected = problem.reference();
  for_each_kernel([&](const cpu::Kernels& kernels, RoIPoolWay way) {
    SCOPED_TRACE(trace(kernels, way, storage));
    EXPECT_TRUE(close(problem.run(kernels, way), expected, storage.features));
  });
}

class DeformRoIPool2dCases : public ::testing::TestWithParam<Case> {
 protected:
  DeformRoIPool2dCases() : random_(testing::seed()) {}

  const DeformRoIPool2dParams params_ = params_of(GetParam());
  std::mt19937_64 random_;
};

TEST_P(DeformRoIPool2dCases, AgreeWithTheReferenceInEveryDType) {
  SCOPED_TRACE(seed_trace());
  const Values values = random_values(params_, true, true, &random_);
  for (const DType dtype : kDTypes) {
    Storage storage;
    storage.features = dtype;
    expect_agreement(params_, values, storage);
  }
}

TEST_P(DeformRoIPool2dCases, AgreeWithTheReferenceWithoutOffsets) {
  SCOPED_TRACE(seed_trace());
  DeformRoIPool2dParams params = params_;
  expect_agreement(params, random_values(params, false, true, &random_));
  params.classes = 1;
  expect_agreement(params, random_values(params, false, false, &random_));
}

// Whatever the order of tasks and the number of threads: every bit the same.
TEST_P(DeformRoIPool2dCases, GiveTheSameBitsForAnyOrderOfTasks) {
  SCOPED_TRACE(seed_trace());
  struct Permuted {
    static void run(void* self, std::int64_t count, ParallelFor::Task task, void* argument) {
      auto* permuted = static_cast<Permuted*>(self);
      std::vector<std::int64_t> order(static_cast<std::size_t>(count));
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), *permuted->random);
      for (const std::int64_t index : order) task(argument, index);
      permuted->tasks = count;
    }
    std::mt19937_64* random;
    std::int64_t tasks = 0;
  };
  const Problem problem(params_, random_values(params_, true, true, &random_));
  for_each_kernel([&](const cpu::Kernels& kernels, RoIPoolWay way) {
    const std::vector<double> expected = problem.run(kernels, way);
    Permuted permuted{&random_};
    for (int round = 0; round < 3; ++round) {
      EXPECT_EQ(first_difference(problem.run(kernels, way, {&Permuted::run, &permuted}), expected),
                "");
    }
    // There is something to share from two RoIs on.
    EXPECT_GT(permuted.tasks, 1);
    for (const int threads : {1, 4}) {
      testing::ThreadPerCall pool(threads);
      EXPECT_EQ(first_difference(problem.run(kernels, way, pool.parallel_for()), expected), "")
          << threads << " threads";
    }
  });
}

TEST_P(DeformRoIPool2dCases, GiveTheSameBitsForARoIAloneAndAmongOthers) {
  SCOPED_TRACE(seed_trace());
  const Values values = random_values(params_, true, true, &random_);
  const Problem several(params_, values);
  const auto part = [&](const std::vector<double>& all, std::int64_t roi) {
    const auto size = static_cast<std::ptrdiff_t>(all.size()) / params_.rois;
    return std::vector<double>(all.begin() + roi * size, all.begin() + (roi + 1) * size);
  };
  DeformRoIPool2dParams one = params_;
  one.rois = 1;
  for_each_kernel([&](const cpu::Kernels& kernels, RoIPoolWay way) {
    const std::vector<double> together = several.run(kernels, way);
    for (std::int64_t roi = 0; roi < std::min<std::int64_t>(params_.rois, 9); ++roi) {
      Values of_roi = values;
      of_roi.rois = part(values.rois, roi);
      of_roi.offset = part(*values.offset, roi);
      of_roi.mask = part(*values.mask, roi);
      EXPECT_EQ(first_difference(Problem(one, of_roi).run(kernels, way), part(together, roi)), "")
          << "RoI " << roi;
    }
  });
}

// NaN in a pixel reaches the outputs that have it among their samples' corners, and no other.
TEST_P(DeformRoIPool2dCases, LetNanFeaturesReachOnlyWhatSamplesThem) {
  SCOPED_TRACE(seed_trace());
  Values values = random_values(params_, true, true, &random_);
  std::bernoulli_distribution is_nan(0.02);
  for (double& value : values.x) {
    if (is_nan(random_)) value = kNan;
  }
  for (const DType dtype : kDTypes) {
    Storage storage;
    storage.features = dtype;
    expect_agreement(params_, values, storage);
  }
}

// NaN, infinite and huge offsets sample outside.
TEST_P(DeformRoIPool2dCases, SampleNothingAtOffsetsThatLeaveTheMap) {
  SCOPED_TRACE(seed_trace());
  constexpr double kFar[] = {kNan, -kNan, kInfinity, -kInfinity, 3e38, -3e38, 1e9, -1e9, 9.3e18};
  Values values = random_values(params_, true, true, &random_);
  std::bernoulli_distribution replace(0.3);
  std::uniform_int_distribution<std::size_t> which(0, std::size(kFar) - 1);
  for (double& value : *values.offset) {
    if (replace(random_)) value = kFar[which(random_)];
  }
  expect_agreement(params_, values);
}

TEST_P(DeformRoIPool2dCases, GiveZerosForRoIsThatAreNotFinite) {
  SCOPED_TRACE(seed_trace());
  Values values = random_values(params_, true, true, &random_);
  std::uniform_int_distribution<std::size_t> which(1, 4);
  for (std::int64_t r = 0; r < params_.rois; r += 2) {
    const double wild[] = {kNan, kInfinity, -kInfinity};
    values.rois[static_cast<std::size_t>(5 * r) + which(random_)] = wild[r / 2 % 3];
    // Not even the mask shows.
    const auto masks = static_cast<std::ptrdiff_t>(values.mask->size()) / params_.rois;
    std::fill_n(values.mask->begin() + r * masks, masks, kNan);
  }
  expect_agreement(params_, values);
}

INSTANTIATE_TEST_SUITE_P(DeformRoIPool2d, DeformRoIPool2dCases,
                         ::testing::ValuesIn(testing::deform_roi_pool_cases()),
                         [](const ::testing::TestParamInfo<Case>& tested) {
                           return std::string(tested.param.name);
                         });

DeformRoIPool2dParams small(RoIPoolVariant variant = kAligned) {
  return params_of({"", variant, 2, 5, 9, 12, 7, 3, 4, 0.5f, 2, 1, 1, 3});
}

TEST(DeformRoIPool2d, EveryCombinationOfInputsAndDTypes) {
  SCOPED_TRACE(seed_trace());
  std::mt19937_64 random(testing::seed());
  for (const RoIPoolVariant variant : {kAligned, kPsroi}) {
    const DeformRoIPool2dParams params = small(variant);
    for (const DType features : kDTypes) {
      for (const DType positions : {DType::kFloat32, features}) {
        for (const int inputs : {0, 1, 2, 3}) {
          const Values values =
              random_values(params, (inputs & 1) != 0, (inputs & 2) != 0, &random);
          expect_agreement(params, values, {features, DType::kFloat32, positions, positions});
          expect_agreement(params, values, {features, positions, DType::kFloat32, features});
        }
      }
    }
  }
}

TEST(DeformRoIPool2d, RandomShapes) {
  SCOPED_TRACE(seed_trace());
  std::mt19937_64 random(testing::seed());
  const auto draw = [&](std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random);
  };
  for (int round = 0; round < 300; ++round) {
    const RoIPoolVariant variant = draw(0, 1) != 0 ? kPsroi : kAligned;
    Case c{"random",    variant,
           draw(1, 3),  draw(1, 20),
           draw(1, 20), draw(1, 20),
           draw(1, 6),  draw(1, 9),
           draw(1, 9),  static_cast<float>(draw(1, 30)) / 16.0f,
           draw(0, 5),  1,
           1,           1};
    if (variant == kPsroi) {
      c.samples = std::max<std::int64_t>(c.samples, 1);
      c.group_size = draw(1, 4);
      c.classes = draw(1, 3);
      c.out_channels *= c.classes;
      c.parts = draw(1, 9);
    }
    DeformRoIPool2dParams params = params_of(c);
    params.gamma = static_cast<float>(draw(-4, 4)) / 8.0f;
    SCOPED_TRACE("round " + std::to_string(round));
    expect_agreement(params, random_values(params, draw(0, 3) != 0, draw(0, 1) != 0, &random));
  }
}

// f(y, x) = a·y + b·x + c is interpolated exactly, so that inside the map a bin is f at its centre.
TEST(DeformRoIPool2d, OffsetsAreXThenY) {
  DeformRoIPool2dParams params = params_of({"", kAligned, 1, 1, 33, 40, 1, 1, 1, 1.0f, 2, 1, 1, 0});
  params.gamma = 0.5f;
  Values values;
  for (int y = 0; y < 33; ++y) {
    for (int x = 0; x < 40; ++x) values.x.push_back(3.0 * y + 0.25 * x + 1);
  }
  values.rois = {0, 10, 6, 18, 10};               // 8 wide, 4 high, centre (7.5, 13.5)
  values.offset = std::vector<double>{0.5, 1.5};  // 2 pixels along x, 3 along y
  values.mask = std::vector<double>{2};
  const double expected = 2 * (3 * (7.5 + 3) + 0.25 * (13.5 + 2) + 1);
  for_each_kernel([&](const cpu::Kernels& kernels, RoIPoolWay way) {
    EXPECT_FLOAT_EQ(static_cast<float>(Problem(params, values).run(kernels, way)[0]),
                    static_cast<float>(expected));
  });
}

// The places at which the samplers change, and the numbers beside them.
TEST(DeformRoIPool2d, EdgesOfTheMap) {
  const struct {
    RoIPoolVariant variant;
    double low, high;  // the last positions on the map of 5 pixels
  } variants[] = {{kAligned, -1, 5}, {kPsroi, -0.5, 4.5}};
  for (const auto& v : variants) {
    DeformRoIPool2dParams params =
        params_of({"", v.variant, 1, 1, 5, 5, 1, 1, 1, 1.0f, 1, 1, 1, 1});
    params.gamma = 1.0f;
    Values values;
    values.x.assign(25, 7);
    values.rois = {0, 0, 0, 1, 1};
    // Where the sample lies without an offset, and the RoI's size, both along x and along y.
    const double base = v.variant == kAligned ? 0 : -0.5;
    const double size = v.variant == kAligned ? 1 : 2;
    for (const double edge : {v.low, v.high}) {
      for (const double beside : {-0x1p-18, 0.0, 0x1p-18}) {
        const double at = edge + beside;
        const bool inside = at >= v.low && at <= v.high;
        values.offset = std::vector<double>{(at - base) / size, (2 - base) / size};
        for_each_kernel([&](const cpu::Kernels& kernels, RoIPoolWay way) {
          EXPECT_EQ(Problem(params, values).run(kernels, way)[0], inside ? 7 : 0) << "x = " << at;
        });
        std::swap((*values.offset)[0], (*values.offset)[1]);
        for_each_kernel([&](const cpu::Kernels& kernels, RoIPoolWay way) {
          EXPECT_EQ(Problem(params, values).run(kernels, way)[0], inside ? 7 : 0) << "y = " << at;
        });
      }
    }
  }
}

// Samples with sampling_ratio 0 along a RoI from `first` to `last` in one bin, and those of them
// on a map of `extent` pixels.
void count_samples(double first, double last, std::int64_t extent, double* all, double* kept) {
  const long double bin = static_cast<long double>(last) - first;
  *all = std::ceil(last - first);
  const long double step = bin / *all;
  // Position −0.5 + first + (i + 0.5)·step.
  const long double low = std::ceil((-0.5L - first) / step - 0.5L);
  const long double high = std::floor((extent + 0.5L - first) / step - 0.5L);
  *kept = static_cast<double>(high - low + 1);
}

// Only samples on the map are visited, of however many.
TEST(DeformRoIPool2d, RoIsOfABillionPixels) {
  DeformRoIPool2dParams params = params_of({"", kAligned, 1, 3, 5, 7, 1, 1, 1, 1.0f, 0, 1, 1, 0});
  Values values;
  values.x.assign(3 * 5 * 7, 2);
  const double extremes[][4] = {{-5e8, -3e8, 5e8, 9e8},
                                {-1e9, -1e9, 1e9, 1e9},
                                {-1234567.0, -2e9, 2e9, 7654321.0},
                                {-3.0e15, -2e9, 2e9, 7654321.0}};
  for (const auto& box : extremes) {
    values.rois = {0, box[0], box[1], box[2], box[3]};
    for (double& value : values.rois) value = static_cast<double>(static_cast<float>(value));
    double all[2];
    double kept[2];
    count_samples(values.rois[1], values.rois[3], 7, &all[0], &kept[0]);
    count_samples(values.rois[2], values.rois[4], 5, &all[1], &kept[1]);
    const double expected = 2 * (kept[0] / all[0]) * (kept[1] / all[1]);
    for_each_kernel([&](const cpu::Kernels& kernels, RoIPoolWay way) {
      for (const double value : Problem(params, values).run(kernels, way)) {
        EXPECT_NEAR(value / expected, 1, 1e-6) << box[0] << ' ' << box[1];
      }
    });
  }
  // Where positions near the map cannot be told apart any more there is nothing to add up.
  values.rois = {0, -3e38, -3e38, 3e38, 3e38};
  for_each_kernel([&](const cpu::Kernels& kernels, RoIPoolWay way) {
    EXPECT_EQ(Problem(params, values).run(kernels, way), std::vector<double>(3, 0.0));
  });
}

TEST(DeformRoIPool2d, BatchIndicesOutsideTheBatchAreRefused) {
  std::mt19937_64 random(testing::seed());
  const DeformRoIPool2dParams params = small();
  const Values values = random_values(params, true, true, &random);
  const struct {
    double index;
    const char* shown;
  } wrong[] = {{2, "2"},      {-1, "-1"},         {-0.25, "-0.25"},
               {kNan, "nan"}, {kInfinity, "inf"}, {1e30, "1e+30"}};
  for (const auto& w : wrong) {
    for (const std::int64_t r : {std::int64_t{0}, std::int64_t{4}, params.rois - 1}) {
      Values bad = values;
      bad.rois[static_cast<std::size_t>(5 * r)] = w.index;
      EXPECT_EQ(Problem(params, bad).refusal(), "input rois, RoI " + std::to_string(r) +
                                                    ": expected a batch index in [0, 2), got " +
                                                    w.shown);
    }
  }
  // A fraction is cut off, as by a conversion to an integer.
  Values cut = values;
  for (std::size_t r = 0; r < 7; ++r) cut.rois[5 * r] += r == 0 ? 0.0 : 0.75;
  EXPECT_EQ(Problem(params, cut).refusal(), "");
  for_each_kernel([&](const cpu::Kernels& kernels, RoIPoolWay way) {
    EXPECT_EQ(first_difference(Problem(params, cut).run(kernels, way),
                               Problem(params, values).run(kernels, way)),
              "");
  });
}

TEST(DeformRoIPool2d, NoRoIsTouchNothing) {
  DeformRoIPool2dParams params = small();
  params.rois = 0;
  params.batch = 0;
  const ParallelFor never{
      [](void*, std::int64_t, ParallelFor::Task, void*) { ADD_FAILURE() << "nothing to do"; },
      nullptr};
  for (const cpu::Kernels* kernels : available_kernels()) {
    EXPECT_TRUE(cpu::deform_roi_pool(params, {}, *kernels, never).ok());
  }
}

TEST(DeformRoIPool2d, Int8IsRefused) {
  cpu::DeformRoIPool2dTensors tensors;
  tensors.dtype = DType::kInt8;
  for (const cpu::Kernels* kernels : available_kernels()) {
    EXPECT_STREQ(cpu::deform_roi_pool(small(), tensors, *kernels, {}).message,
                 "X: expected float32, float16 or bfloat16, got int8");
  }
}

// Many RoIs are worth a copy of the map, a few on a large map are not; bits tell which it was.
TEST(DeformRoIPool2d, TheWayFollowsFromShapesAndRoIs) {
  SCOPED_TRACE(seed_trace());
  std::mt19937_64 random(testing::seed());
  const DeformRoIPool2dParams many =
      params_of({"", kAligned, 1, 64, 7, 9, 90, 3, 3, 0.5f, 2, 1, 1, 0});
  const DeformRoIPool2dParams few =
      params_of({"", kAligned, 1, 64, 70, 90, 2, 3, 3, 0.5f, 2, 1, 1, 0});
  const Problem of_many(many, random_values(many, true, true, &random));
  const Problem of_few(few, random_values(few, true, true, &random));
  for (const cpu::Kernels* kernels : available_kernels()) {
    SCOPED_TRACE(kernels->name);
    const auto same = [&](const Problem& problem, RoIPoolWay way) {
      return first_difference(problem.run(*kernels), problem.run(*kernels, way)).empty();
    };
    EXPECT_TRUE(same(of_many, RoIPoolWay::kStaged));
    EXPECT_FALSE(same(of_many, RoIPoolWay::kDirect));
    EXPECT_TRUE(same(of_few, RoIPoolWay::kDirect));
    EXPECT_FALSE(same(of_few, RoIPoolWay::kStaged));
  }
}

// Where there are too few RoIs for the threads, their channels are shared out.
TEST(DeformRoIPool2d, OneRoIKeepsSeveralThreadsBusy) {
  std::mt19937_64 random(testing::seed());
  const DeformRoIPool2dParams params =
      params_of({"", kAligned, 1, 300, 7, 9, 1, 3, 3, 0.5f, 2, 1, 1, 0});
  const Problem problem(params, random_values(params, true, true, &random));
  for_each_kernel([&](const cpu::Kernels& kernels, RoIPoolWay way) {
    std::int64_t tasks = 0;
    const ParallelFor parallel_for{
        [](void* last, std::int64_t count, ParallelFor::Task task, void* argument) {
          *static_cast<std::int64_t*>(last) = count;
          for (std::int64_t i = 0; i < count; ++i) task(argument, i);
        },
        &tasks};
    problem.run(kernels, way, parallel_for);
    EXPECT_EQ(tasks, 5);  // of 64 channels at most
  });
}

TEST(DeformRoIPool2d, NothingIsLeftFromTheCallBefore) {
  SCOPED_TRACE(seed_trace());
  std::mt19937_64 random(testing::seed());
  const DeformRoIPool2dParams params = small();
  const Problem problem(params, random_values(params, true, true, &random));
  const DeformRoIPool2dParams larger =
      params_of({"", kPsroi, 2, 70, 9, 12, 7, 9, 9, 0.5f, 3, 1, 1, 3});
  Values wild = random_values(larger, true, true, &random);
  std::fill(wild.x.begin(), wild.x.end(), kNan);
  const Problem other(larger, wild);
  for_each_kernel([&](const cpu::Kernels& kernels, RoIPoolWay way) {
    const std::vector<double> before = problem.run(kernels, way);
    other.run(kernels, way);
    EXPECT_EQ(first_difference(problem.run(kernels, way), before), "");
  });
}

// The last image of a map of more than 2^31 elements, of which only what is read takes memory.
TEST(DeformRoIPool2d, ElementsPast2To31) {
  constexpr std::int64_t kSide = 32768;
  constexpr std::int64_t kImages = 3;
  constexpr std::size_t kBytes = kImages * kSide * kSide * sizeof(float);
  void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  auto* x = static_cast<float*>(memory);
  const DeformRoIPool2dParams params =
      params_of({"", kAligned, kImages, 1, kSide, kSide, 1, 1, 1, 1.0f, 1, 1, 1, 0});
  x[kImages * kSide * kSide - 1] = 3.0f;
  const float rois[] = {2, kSide - 1, kSide - 1, kSide, kSide};
  float y = -1;
  cpu::DeformRoIPool2dTensors tensors;
  tensors.x = x;
  tensors.rois = rois;
  tensors.y = &y;
  for (const cpu::Kernels* kernels : available_kernels()) {
    const Status status = cpu::deform_roi_pool(params, tensors, *kernels, {});
    EXPECT_TRUE(status.ok()) << status.message;
    EXPECT_EQ(y, 3.0f);
  }
  EXPECT_EQ(munmap(memory, kBytes), 0);
}

// The copy is made in memory that the caller lends, and given back, also after a refusal.
TEST(DeformRoIPool2d, MemoryIsBorrowed) {
  struct Lender {
    static void* allocate(void* self, std::size_t bytes) {
      auto* lender = static_cast<Lender*>(self);
      if (lender->is_empty) return nullptr;
      lender->lent = std::make_unique<testing::GuardedBytes>(bytes);
      return lender->lent->data();
    }
    static void release(void* self, void* memory) {
      auto* lender = static_cast<Lender*>(self);
      EXPECT_EQ(memory, lender->lent->data());
      EXPECT_TRUE(lender->lent->intact());
      lender->size = lender->lent->size();
      lender->lent.reset();
    }
    bool is_empty = false;
    std::unique_ptr<testing::GuardedBytes> lent;
    std::size_t size = 0;
  };
  std::mt19937_64 random(testing::seed());
  const DeformRoIPool2dParams params = small();
  const Values values = random_values(params, true, true, &random);
  const Problem problem(params, values);
  const Tensor x(DType::kFloat32, values.x);
  const Tensor rois(DType::kFloat32, values.rois);
  Output y(DType::kFloat32, problem.output_size());
  cpu::DeformRoIPool2dTensors tensors;
  tensors.x = x.data();
  tensors.rois = rois.data();
  tensors.y = y.data();
  for (const cpu::Kernels* kernels : available_kernels()) {
    Lender lender;
    const ScratchMemory memory{&Lender::allocate, &Lender::release, &lender};
    const auto run = [&] {
      return cpu::deform_roi_pool(params, tensors, *kernels, {}, memory, RoIPoolWay::kStaged);
    };
    EXPECT_TRUE(run().ok());
    EXPECT_EQ(lender.lent, nullptr);
    EXPECT_EQ(lender.size, values.x.size() * sizeof(float));
    lender.is_empty = true;
    EXPECT_EQ(run().code, StatusCode::kOutOfMemory);
  }
}

TEST(DeformRoIPool2d, ACopyThatDoesNotFitIntoMemoryIsRefused) {
  // Nothing of X is read before the copy is refused.
  DeformRoIPool2dParams params =
      params_of({"", kAligned, 1, std::int64_t{1} << 30, 30000, 30000, 1, 1, 1, 1.0f, 1, 1, 1, 0});
  const float rois[] = {0, 1, 1, 2, 2};
  cpu::DeformRoIPool2dTensors tensors;
  tensors.rois = rois;
  const Status status =
      cpu::deform_roi_pool(params, tensors, *available_kernels()[0], {}, {}, RoIPoolWay::kStaged);
  EXPECT_EQ(status.code, StatusCode::kOutOfMemory);
  EXPECT_STREQ(status.message,
               "copy of the map with channels innermost: expected memory for 966367641600000000 "
               "float32 values, got none");
}

}  // namespace
}  // namespace dcn_deploy
