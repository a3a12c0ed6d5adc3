#include "core/cpu/deform_conv2d.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "comparison.h"
#include "core/deform_conv2d_params.h"
#include "core/deform_conv2d_reference.h"
#include "deform_conv2d_cases.h"
#include "random_tensors.h"

namespace dcn_deploy {
namespace {

using testing::available_kernels;
using testing::close;
using testing::deform_conv2d_case;
using testing::first_difference;
using testing::kRelativeRms;
using testing::Output;
using testing::params_of;
using testing::random_values;
using testing::root_mean_square;
using testing::scatter_far_offsets;
using testing::scatter_nan;
using testing::seed_trace;
using testing::set_nan_where_nothing_samples;
using testing::Tensor;
using Case = testing::DeformConv2dCase;
using Storage = testing::DeformConv2dStorage;
using Values = testing::DeformConv2dValues;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};

// Two neighbouring values of a storage type differ by at most this, relative to either.
constexpr double kStep[kDTypeCount] = {0x1p-23, 0x1p-10, 0x1p-7};

// A node with its inputs, as the kernel and as the reference see them.
class Problem {
 public:
  Problem(const DeformConv2dParams& params, const Values& values, const Storage& storage = {})
      : params_(params),
        storage_(storage),
        x_(storage.features, values.x),
        weight_(storage.features, values.weight),
        offset_(storage.offset, values.offset) {
    if (values.bias) bias_ = std::make_unique<Tensor>(storage.features, *values.bias);
    if (values.mask) mask_ = std::make_unique<Tensor>(storage.mask, *values.mask);
  }

  const DeformConv2dParams& params() const { return params_; }
  DType dtype() const { return storage_.features; }
  std::size_t output_size() const {
    return static_cast<std::size_t>(params_.batch * params_.out_channels * params_.out_h *
                                    params_.out_w);
  }

  std::vector<double> reference() const {
    std::vector<double> y(output_size());
    deform_conv2d_reference(params_, x_.values().data(), weight_.values().data(),
                            offset_.values().data(), bias_ ? bias_->values().data() : nullptr,
                            mask_ ? mask_->values().data() : nullptr, y.data());
    return y;
  }

  std::vector<double> run(const cpu::Kernels& kernels, const ParallelFor& parallel_for = {}) const {
    // Packing may look at nothing but the weights' own sizes.
    DeformConv2dParams of_weights = params_;
    of_weights.batch = of_weights.in_h = of_weights.in_w = of_weights.out_h = of_weights.out_w = -1;
    of_weights.stride_h = of_weights.stride_w = of_weights.pad_top = of_weights.pad_left = -1;
    of_weights.dilation_h = of_weights.dilation_w = -1;
    cpu::PackedDeformConv2dWeights packed;
    Status status = cpu::PackedDeformConv2dWeights::pack(
        of_weights, weight_.data(), weight_.dtype(), kernels, parallel_for, &packed);
    EXPECT_TRUE(status.ok()) << status.message;
    EXPECT_EQ(&packed.kernels(), &kernels);

    Output y(dtype(), output_size());
    cpu::DeformConv2dTensors tensors;
    tensors.dtype = dtype();
    tensors.offset_dtype = offset_.dtype();
    tensors.x = x_.data();
    tensors.offset = offset_.data();
    tensors.y = y.data();
    if (bias_) tensors.bias = bias_->data();
    if (mask_) {
      tensors.mask = mask_->data();
      tensors.mask_dtype = mask_->dtype();
    }
    status = cpu::deform_conv2d(params_, tensors, packed, parallel_for);
    EXPECT_TRUE(status.ok()) << status.message;
    EXPECT_TRUE(x_.intact() && weight_.intact() && offset_.intact() && y.bytes().intact());
    EXPECT_TRUE((!bias_ || bias_->intact()) && (!mask_ || mask_->intact()));
    return y.values();
  }

 private:
  DeformConv2dParams params_;
  Storage storage_;
  Tensor x_, weight_, offset_;
  std::unique_ptr<Tensor> bias_, mask_;
};

std::string trace(const cpu::Kernels& kernels, const Storage& storage, bool bias, bool mask) {
  return std::string("kernels ") + kernels.name + ", features " + name_of(storage.features) +
         ", offset " + name_of(storage.offset) + ", mask " +
         (mask ? name_of(storage.mask) : "none") + (bias ? ", bias" : ", no bias");
}

class DeformConv2dCases : public ::testing::TestWithParam<Case> {
 protected:
  DeformConv2dCases() : random_(testing::seed()) {}

  const DeformConv2dParams params_ = params_of(GetParam());
  std::mt19937_64 random_;
};

TEST_P(DeformConv2dCases, AgreeWithTheReferenceInEveryDType) {
  SCOPED_TRACE(seed_trace());
  const Values values = random_values(params_, true, true, &random_);
  for (const DType dtype : kDTypes) {
    const Storage storage{dtype, DType::kFloat32, DType::kFloat32};
    const Problem problem(params_, values, storage);
    const std::vector<double> expected = problem.reference();
    for (const cpu::Kernels* kernels : available_kernels()) {
      SCOPED_TRACE(trace(*kernels, storage, true, true));
      EXPECT_TRUE(close(problem.run(*kernels), expected, dtype));
    }
  }
}

// Whatever the order of tasks and the number of threads, and whether an image comes alone or in a
// batch: every bit the same.
TEST_P(DeformConv2dCases, GiveTheSameBitsForAnyOrderOfTasks) {
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
  for (const cpu::Kernels* kernels : available_kernels()) {
    SCOPED_TRACE(kernels->name);
    const std::vector<double> expected = problem.run(*kernels);
    Permuted permuted{&random_};
    for (int round = 0; round < 3; ++round) {
      EXPECT_EQ(first_difference(problem.run(*kernels, {&Permuted::run, &permuted}), expected), "");
    }
    if (params_.batch * params_.out_h * params_.out_w >= 128) {
      EXPECT_GT(permuted.tasks, 1);
    }
    for (const int threads : {1, 4}) {
      testing::ThreadPerCall pool(threads);
      EXPECT_EQ(first_difference(problem.run(*kernels, pool.parallel_for()), expected), "")
          << threads << " threads";
    }
  }
}

TEST_P(DeformConv2dCases, GiveTheSameBitsForAnImageAloneAndInABatch) {
  SCOPED_TRACE(seed_trace());
  const Values values = random_values(params_, true, true, &random_);
  const Problem batch(params_, values);
  const auto part = [&](const std::vector<double>& all, std::int64_t image) {
    const auto size = static_cast<std::ptrdiff_t>(all.size()) / params_.batch;
    return std::vector<double>(all.begin() + image * size, all.begin() + (image + 1) * size);
  };
  DeformConv2dParams one = params_;
  one.batch = 1;
  for (const cpu::Kernels* kernels : available_kernels()) {
    SCOPED_TRACE(kernels->name);
    const std::vector<double> together = batch.run(*kernels);
    for (std::int64_t image = 0; image < params_.batch; ++image) {
      Values of_image = values;
      of_image.x = part(values.x, image);
      of_image.offset = part(values.offset, image);
      of_image.mask = part(*values.mask, image);
      EXPECT_EQ(first_difference(Problem(one, of_image).run(*kernels), part(together, image)), "")
          << "image " << image;
    }
  }
}

// NaN in a pixel reaches the outputs that have it among their samples' corners, and no other.
TEST_P(DeformConv2dCases, LetNanFeaturesReachOnlyWhatSamplesThem) {
  SCOPED_TRACE(seed_trace());
  Values values = random_values(params_, true, true, &random_);
  scatter_nan(params_, &random_, &values.x);
  for (const DType dtype : kDTypes) {
    const Storage storage{dtype, DType::kFloat32, DType::kFloat32};
    const Problem problem(params_, values, storage);
    const std::vector<double> expected = problem.reference();
    for (const cpu::Kernels* kernels : available_kernels()) {
      SCOPED_TRACE(trace(*kernels, storage, true, true));
      EXPECT_TRUE(close(problem.run(*kernels), expected, dtype));
    }
  }
}

// Every pixel that no sample has among its corners is NaN: nothing changes.
TEST_P(DeformConv2dCases, NeverLookAtPixelsThatNothingSamples) {
  SCOPED_TRACE(seed_trace());
  Values values = random_values(params_, true, true, &random_);
  // Offsets and mask alone decide what is read; few taps must be on the map to leave pixels unread.
  std::bernoulli_distribution leaves(0.8);
  for (double& value : values.offset) {
    if (leaves(random_)) value = kNan;
  }
  const std::vector<double> clean_x = values.x;
  set_nan_where_nothing_samples(params_, values.offset, &values.x);
  for (const DType dtype : kDTypes) {
    const Storage storage{dtype, DType::kFloat32, DType::kFloat32};
    const Problem poisoned(params_, values, storage);
    Values clean = values;
    clean.x = clean_x;
    const Problem healthy(params_, clean, storage);
    for (const cpu::Kernels* kernels : available_kernels()) {
      SCOPED_TRACE(trace(*kernels, storage, true, true));
      EXPECT_EQ(first_difference(poisoned.run(*kernels), healthy.run(*kernels)), "");
    }
  }
}

// NaN, infinite and huge offsets sample outside, in every storage type.
TEST_P(DeformConv2dCases, SampleNothingAtOffsetsThatLeaveTheMap) {
  SCOPED_TRACE(seed_trace());
  Values values = random_values(params_, true, true, &random_);
  scatter_far_offsets(&random_, &values.offset);
  for (const DType offset_dtype : kDTypes) {
    const Storage storage{DType::kFloat32, offset_dtype, DType::kFloat32};
    const Problem problem(params_, values, storage);
    const std::vector<double> expected = problem.reference();
    for (const cpu::Kernels* kernels : available_kernels()) {
      SCOPED_TRACE(trace(*kernels, storage, true, true));
      EXPECT_TRUE(close(problem.run(*kernels), expected, DType::kFloat32));
    }
  }
}

// The sets of inner loops differ by rounding only.
TEST_P(DeformConv2dCases, AgreeAcrossInstructionSets) {
  SCOPED_TRACE(seed_trace());
  const cpu::Kernels& portable = *cpu::find_kernels("portable");
  const cpu::Kernels& fastest = *available_kernels().back();
  if (&fastest == &portable) GTEST_SKIP() << "this processor runs the portable kernels only";
  const Values values = random_values(params_, true, true, &random_);
  for (const DType dtype : kDTypes) {
    const Storage storage{dtype, dtype, dtype};
    SCOPED_TRACE(trace(fastest, storage, true, true));
    const Problem problem(params_, values, storage);
    const std::vector<double> expected = problem.run(portable);
    const std::vector<double> actual = problem.run(fastest);
    const double rounding = 16 * kRelativeRms[0] * root_mean_square(expected);
    // In half precision, a sum close to the middle of two values may fall to either.
    const double step = dtype == DType::kFloat32 ? 0 : kStep[static_cast<int>(dtype)];
    for (std::size_t i = 0; i < expected.size(); ++i) {
      ASSERT_LE(std::abs(actual[i] - expected[i]), rounding + step * std::abs(expected[i]))
          << "element " << i << ": " << expected[i] << " and " << actual[i];
    }
    if (dtype == DType::kFloat32) {
      EXPECT_TRUE(close(actual, expected, dtype));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(DeformConv2d, DeformConv2dCases,
                         ::testing::ValuesIn(testing::deform_conv2d_cases()),
                         [](const ::testing::TestParamInfo<Case>& tested) {
                           return std::string(tested.param.name);
                         });

// Bias and mask in any combination, each dtype, offset and mask in float32 or the feature type.
TEST(DeformConv2d, EveryCombinationOfInputsAndDTypes) {
  SCOPED_TRACE(seed_trace());
  std::mt19937_64 random(testing::seed());
  for (const char* name : {"Plain", "OnePixelWide", "AllUnequal", "Group2OffsetGroup3",
                           "DepthwiseMultiplier", "Kernel11x13Groups"}) {
    SCOPED_TRACE(name);
    const DeformConv2dParams params = params_of(deform_conv2d_case(name));
    for (const bool bias : {false, true}) {
      for (const bool mask : {false, true}) {
        const Values values = random_values(params, bias, mask, &random);
        for (const DType dtype : kDTypes) {
          for (const bool half_offset : {false, true}) {
            for (const bool half_mask : {false, true}) {
              if (dtype == DType::kFloat32 && (half_offset || half_mask)) continue;
              if (!mask && half_mask) continue;
              const Storage storage{dtype, half_offset ? dtype : DType::kFloat32,
                                    half_mask ? dtype : DType::kFloat32};
              const Problem problem(params, values, storage);
              const std::vector<double> expected = problem.reference();
              for (const cpu::Kernels* kernels : available_kernels()) {
                SCOPED_TRACE(trace(*kernels, storage, bias, mask));
                EXPECT_TRUE(close(problem.run(*kernels), expected, dtype));
              }
            }
          }
        }
      }
    }
  }
}

TEST(DeformConv2d, RandomShapes) {
  for (std::uint64_t round = 0; round < 200; ++round) {
    std::mt19937_64 random(testing::seed() + round);
    const auto pick = [&](std::int64_t low, std::int64_t high) {
      return std::uniform_int_distribution<std::int64_t>(low, high)(random);
    };
    Case c{"random",   pick(1, 3), 0,          pick(1, 20), pick(1, 34), 0,
           pick(1, 5), pick(1, 5), pick(1, 3), pick(1, 3),  pick(0, 3),  pick(0, 3),
           pick(0, 3), pick(0, 3), pick(1, 3), pick(1, 3),  pick(1, 4),  pick(1, 4)};
    c.in_channels = std::lcm(c.group, c.offset_group) * pick(1, 3);
    c.out_channels = c.group * pick(1, 7);
    const DeformConv2dParams params = params_of(c);
    if (params.out_h < 1 || params.out_w < 1) continue;
    const bool bias = pick(0, 1) == 1;
    const bool mask = pick(0, 1) == 1;
    const DType dtype = kDTypes[pick(0, 2)];
    const Storage storage{dtype, pick(0, 1) == 1 ? dtype : DType::kFloat32,
                          pick(0, 1) == 1 ? dtype : DType::kFloat32};
    const Problem problem(params, random_values(params, bias, mask, &random), storage);
    const std::vector<double> expected = problem.reference();
    for (const cpu::Kernels* kernels : available_kernels()) {
      SCOPED_TRACE("DCN_DEPLOY_TEST_SEED=" + std::to_string(testing::seed() + round) +
                   " (first round), " + trace(*kernels, storage, bias, mask));
      ASSERT_TRUE(close(problem.run(*kernels), expected, dtype));
    }
  }
}

// Without offsets it is a convolution. Written out here, so that the reference is not its own
// witness.
TEST(DeformConv2d, ZeroOffsetsAreAConvolution) {
  SCOPED_TRACE(seed_trace());
  std::mt19937_64 random(testing::seed());
  const Case& c = deform_conv2d_case("AllUnequal");
  const DeformConv2dParams p = params_of(c);
  Values values = random_values(p, true, false, &random);
  std::fill(values.offset.begin(), values.offset.end(), 0.0);
  const Problem problem(p, values);
  std::vector<double> expected(problem.output_size());
  std::size_t index = 0;
  for (std::int64_t n = 0; n < p.batch; ++n) {
    for (std::int64_t m = 0; m < p.out_channels; ++m) {
      for (std::int64_t row = 0; row < p.out_h; ++row) {
        for (std::int64_t column = 0; column < p.out_w; ++column) {
          double sum = (*values.bias)[static_cast<std::size_t>(m)];
          for (std::int64_t k = 0; k < p.in_channels; ++k) {
            for (std::int64_t i = 0; i < p.kernel_h; ++i) {
              for (std::int64_t j = 0; j < p.kernel_w; ++j) {
                const std::int64_t y = row * p.stride_h - p.pad_top + i * p.dilation_h;
                const std::int64_t x = column * p.stride_w - p.pad_left + j * p.dilation_w;
                if (y < 0 || y >= p.in_h || x < 0 || x >= p.in_w) continue;
                sum += values.x[static_cast<std::size_t>(
                           ((n * p.in_channels + k) * p.in_h + y) * p.in_w + x)] *
                       values.weight[static_cast<std::size_t>(
                           ((m * p.in_channels + k) * p.kernel_h + i) * p.kernel_w + j)];
              }
            }
          }
          expected[index++] = sum;
        }
      }
    }
  }
  EXPECT_TRUE(close(problem.reference(), expected, DType::kFloat32));
  for (const cpu::Kernels* kernels : available_kernels()) {
    SCOPED_TRACE(kernels->name);
    EXPECT_TRUE(close(problem.run(*kernels), expected, DType::kFloat32));
  }
}

// One sample between four pixels: y moves along the rows, x along the columns.
TEST(DeformConv2d, OffsetsAreYThenX) {
  DeformConv2dParams p = params_of({"", 1, 1, 2, 2, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1});
  p.out_h = p.out_w = 1;
  const Problem problem(p, Values{{1, 2, 30, 40}, {10}, {0.75, 0.25}, {{5}}, {{0.5}}});
  // Above: 1 + 0.25; below: 30 + 0.25·10.
  const double expected = 10 * 0.5 * (0.25 * 1.25 + 0.75 * 32.5) + 5;
  EXPECT_EQ(problem.reference()[0], expected);
  for (const cpu::Kernels* kernels : available_kernels()) {
    EXPECT_EQ(problem.run(*kernels)[0], expected) << kernels->name;
  }
}

// At −1 and at the map's size nothing is sampled; a little inside, the corners on the map count.
TEST(DeformConv2d, EdgesOfTheMap) {
  struct Edge {
    double y, x, expected;
  };
  constexpr Edge kEdges[] = {{-1, 0, 0},         {0, -1, 0},        {2, 0, 0},   {0, 3, 0},
                             {-0.5, 0, 0.5},     {0, -0.25, 0.75},  {1.5, 2, 3}, {1, 2.75, 1.5},
                             {-0.5, -0.5, 0.25}, {1.5, 2.5, 1.5},   {1, 2, 6},   {kNan, 0, 0},
                             {0, kInfinity, 0},  {-kInfinity, 0, 0}};
  DeformConv2dParams p = params_of({"", 1, 1, 2, 3, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1});
  p.out_h = p.out_w = 1;
  for (const Edge& edge : kEdges) {
    const Problem problem(p, Values{{1, 2, 3, 4, 5, 6}, {1}, {edge.y, edge.x}, {}, {}});
    EXPECT_EQ(problem.reference()[0], edge.expected) << edge.y << ", " << edge.x;
    for (const cpu::Kernels* kernels : available_kernels()) {
      EXPECT_EQ(problem.run(*kernels)[0], edge.expected)
          << kernels->name << " at " << edge.y << ", " << edge.x;
    }
  }
}

TEST(DeformConv2d, EmptyBatchTouchesNothing) {
  Case c = deform_conv2d_case("Group2OffsetGroup3");
  c.batch = 0;
  std::mt19937_64 random(testing::seed());
  const DeformConv2dParams params = params_of(c);
  const Problem problem(params, random_values(params, true, true, &random));
  for (const cpu::Kernels* kernels : available_kernels()) {
    EXPECT_TRUE(problem.run(*kernels).empty());
    testing::ThreadPerCall pool(4);
    EXPECT_TRUE(problem.run(*kernels, pool.parallel_for()).empty());
  }
}

// A thread keeps its scratch memory: what a tile full of NaN leaves there must not matter.
TEST(DeformConv2d, NothingIsLeftFromTheTileBefore) {
  SCOPED_TRACE(seed_trace());
  std::mt19937_64 random(testing::seed());
  const DeformConv2dParams large = params_of(deform_conv2d_case("ManyTiles"));
  Values nan = random_values(large, true, true, &random);
  for (std::vector<double>* values : {&nan.x, &nan.weight, &nan.offset, &*nan.bias, &*nan.mask}) {
    std::fill(values->begin(), values->end(), kNan);
  }
  const Problem before(large, nan);
  for (const char* name : {"OnePixelMap", "AllUnequal", "OneOutputPixel", "Kernel9x9"}) {
    SCOPED_TRACE(name);
    const DeformConv2dParams params = params_of(deform_conv2d_case(name));
    for (const bool mask : {false, true}) {
      const Problem problem(params, random_values(params, false, mask, &random));
      for (const cpu::Kernels* kernels : available_kernels()) {
        SCOPED_TRACE(kernels->name);
        std::vector<double> fresh, after;
        std::thread([&] { fresh = problem.run(*kernels); }).join();
        std::thread([&] {
          before.run(*kernels);
          after = problem.run(*kernels);
        }).join();
        EXPECT_EQ(first_difference(after, fresh), "");
      }
    }
  }
}

// Offsets that reach further than the part of a map that fits in the scratch memory.
TEST(DeformConv2d, OffsetsAcrossALargeMap) {
  SCOPED_TRACE(seed_trace());
  std::mt19937_64 random(testing::seed());
  const Case cases[] = {
      {"Plain", 1, 40, 70, 90, 20, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
      {"OffsetGroups", 1, 36, 80, 80, 9, 3, 2, 2, 1, 1, 1, 1, 1, 1, 2, 3, 6},
      {"Depthwise", 2, 40, 70, 70, 40, 3, 3, 1, 2, 1, 1, 1, 1, 1, 1, 40, 1},
      {"Dilated", 1, 32, 99, 99, 8, 3, 3, 3, 3, 24, 24, 24, 24, 24, 24, 1, 1},
  };
  for (const Case& c : cases) {
    const DeformConv2dParams params = params_of(c);
    Values values = random_values(params, true, true, &random);
    const double deviation = 25;
    values.offset =
        testing::normal_values(&random, static_cast<std::int64_t>(values.offset.size()), deviation);
    for (const DType dtype : kDTypes) {
      const Storage storage{dtype, DType::kFloat32, DType::kFloat32};
      const Problem problem(params, values, storage);
      const std::vector<double> expected = problem.reference();
      for (const cpu::Kernels* kernels : available_kernels()) {
        SCOPED_TRACE(std::string(c.name) + ", " + trace(*kernels, storage, true, true));
        const std::vector<double> actual = problem.run(*kernels);
        EXPECT_TRUE(close(actual, expected, dtype));
        testing::ThreadPerCall pool(3);
        EXPECT_EQ(first_difference(problem.run(*kernels, pool.parallel_for()), actual), "");
      }
    }
  }
}

TEST(DeformConv2d, WeightsTooLargeToPackAreRefused) {
  DeformConv2dParams params = params_of(deform_conv2d_case("Plain"));
  params.in_channels = params.out_channels = std::int64_t{1} << 32;
  for (const cpu::Kernels* kernels : available_kernels()) {
    const float weight = 0;
    cpu::PackedDeformConv2dWeights packed;
    const Status status = cpu::PackedDeformConv2dWeights::pack(params, &weight, DType::kFloat32,
                                                               *kernels, {}, &packed);
    EXPECT_EQ(status.code, StatusCode::kTooLarge);
    EXPECT_STREQ(status.message, "packed weights: expected a size that fits in 64 bits, got more");
  }
}

TEST(DeformConv2d, Int8IsRefused) {
  const DeformConv2dParams params = params_of(deform_conv2d_case("Plain"));
  for (const cpu::Kernels* kernels : available_kernels()) {
    cpu::PackedDeformConv2dWeights packed;
    EXPECT_STREQ(
        cpu::PackedDeformConv2dWeights::pack(params, nullptr, DType::kInt8, *kernels, {}, &packed)
            .message,
        "W: expected float32, float16 or bfloat16, got int8");
    const std::vector<float> weight(
        static_cast<std::size_t>(params.out_channels * params.in_channels * 9));
    ASSERT_TRUE(cpu::PackedDeformConv2dWeights::pack(params, weight.data(), DType::kFloat32,
                                                     *kernels, {}, &packed)
                    .ok());
    cpu::DeformConv2dTensors tensors;
    tensors.mask_dtype = DType::kInt8;
    EXPECT_STREQ(cpu::deform_conv2d(params, tensors, packed, {}).message,
                 "mask: expected float32, float16 or bfloat16, got int8");
  }
}

TEST(DeformConv2d, ScratchIsAtMostOneMebibyteAThread) {
  EXPECT_GT(cpu::scratch_bytes_per_thread(), 0u);
  EXPECT_LE(cpu::scratch_bytes_per_thread(), std::size_t{1} << 20);
}

}  // namespace
}  // namespace dcn_deploy
