// The CUDA kernels of the int8 deformable convolution, run on the host: their int32 sums against
// the reference, to the last unit, and what comes after them.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "comparison.h"
#include "core/cuda/deform_conv2d.h"
#include "core/cuda/number.cuh"
#include "core/deform_conv2d_int8_reference.h"
#include "deform_conv2d_problem.h"
#include "host_device_test.h"

namespace dcn_deploy {
namespace cuda {
namespace {

using testing::deform_conv2d_case;
using testing::DeformConv2dCase;
using testing::first_difference;
using testing::params_of;
using testing::random_values;
using testing::seed_trace;

// For steps of 64 channels, units of 16 and offset groups within and across them.
const DeformConv2dCase kWideCases[] = {
    {"Channels67", 1, 67, 7, 9, 67, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"ManyRows", 3, 32, 5, 5, 300, 1, 2, 1, 1, 0, 1, 0, 0, 1, 1, 1, 1},
    {"Units", 2, 144, 7, 7, 24, 3, 2, 2, 1, 1, 0, 1, 1, 1, 2, 1, 1},
    {"UnitsOfGroups", 1, 128, 7, 5, 40, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4},
    {"OffsetGroupsAcrossGroups", 1, 96, 7, 5, 18, 2, 3, 1, 1, 1, 1, 0, 1, 1, 1, 3, 2},
    {"OffsetGroupsOfThree", 1, 48, 7, 5, 10, 3, 1, 1, 1, 1, 0, 1, 0, 1, 1, 1, 16},
    {"OffsetGroupsOfSixteen", 2, 128, 5, 5, 20, 1, 3, 1, 1, 0, 1, 0, 1, 1, 1, 1, 8},
    {"GroupsOfFive", 2, 15, 7, 7, 51, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 3, 1},
};
const char* const kCoreCases[] = {"OnePixelMap",         "OnePixelWide",       "AllUnequal",
                                  "WidePadding",         "Group6OffsetGroup4", "Depthwise",
                                  "DepthwiseMultiplier", "ManyTerms",          "Kernel8x8"};

std::vector<DeformConv2dCase> all_cases() {
  std::vector<DeformConv2dCase> cases(std::begin(kWideCases), std::end(kWideCases));
  for (const char* name : kCoreCases) cases.push_back(deform_conv2d_case(name));
  return cases;
}

const DeformConv2dCase& case_named(const std::string& name) {
  for (const DeformConv2dCase& c : kWideCases) {
    if (name == c.name) return c;
  }
  return deform_conv2d_case(name);
}

std::vector<std::int8_t> random_bytes(std::mt19937_64* random, std::size_t count) {
  std::uniform_int_distribution<int> distribution(-128, 127);
  std::vector<std::int8_t> values(count);
  for (std::int8_t& value : values) value = static_cast<std::int8_t>(distribution(*random));
  return values;
}

std::vector<double> as_doubles(const std::vector<std::int8_t>& values) {
  return {values.begin(), values.end()};
}

// What Y is, apart from the sums.
struct Ending {
  DType y_dtype = DType::kFloat32;
  float y_scale = 1;
};

struct Inputs {
  DeformConv2dParams params;
  std::vector<std::int8_t> x, weight;
  std::vector<double> offset;
  std::optional<std::vector<double>> mask;
  std::optional<std::vector<float>> bias;
  std::vector<float> scale;
  DType offset_dtype = DType::kFloat32;
  DType mask_dtype = DType::kFloat32;
};

Inputs random_inputs(const DeformConv2dParams& params, bool mask, std::mt19937_64* random) {
  const testing::DeformConv2dValues values = random_values(params, false, mask, random);
  Inputs inputs;
  inputs.params = params;
  inputs.x = random_bytes(random, values.x.size());
  inputs.weight = random_bytes(random, values.weight.size());
  inputs.offset = values.offset;
  inputs.mask = values.mask;
  inputs.scale.assign(static_cast<std::size_t>(params.out_channels), 1.0f);
  return inputs;
}

// The sums and their slack, from the offsets and masks as they are stored.
struct Sums {
  std::vector<std::int64_t> sums, slack;
};

Sums reference(const Inputs& in) {
  const DeformConv2dParams& p = in.params;
  const auto size = static_cast<std::size_t>(p.batch * p.out_channels * p.out_h * p.out_w);
  Sums result{std::vector<std::int64_t>(size), std::vector<std::int64_t>(size)};
  const testing::Tensor offset(in.offset_dtype, in.offset);
  std::optional<std::vector<double>> mask;
  if (in.mask) mask = testing::Tensor(in.mask_dtype, *in.mask).values();
  deform_conv2d_int8_reference(p, in.x.data(), in.weight.data(), offset.values().data(),
                               mask ? mask->data() : nullptr, result.sums.data(),
                               result.slack.data());
  return result;
}

// `values` [batch, channels, pixels] in the layout's order.
template <typename T>
std::vector<T> in_layout(Layout layout, const std::vector<T>& values, std::int64_t batch,
                         std::int64_t channels, std::int64_t pixels, bool back) {
  if (layout == Layout::kNchw) return values;
  std::vector<T> result(values.size());
  std::size_t nchw = 0;
  for (std::int64_t n = 0; n < batch; ++n) {
    for (std::int64_t c = 0; c < channels; ++c) {
      for (std::int64_t pixel = 0; pixel < pixels; ++pixel, ++nchw) {
        const auto nhwc = static_cast<std::size_t>((n * pixels + pixel) * channels + c);
        result[back ? nchw : nhwc] = values[back ? nhwc : nchw];
      }
    }
  }
  return result;
}

// Y in the order of NCHW.
std::vector<double> run(const Inputs& in, const Variant& variant, const Ending& ending) {
  const DeformConv2dParams& p = in.params;
  DeformConv2dOptions options;
  options.y_dtype = ending.y_dtype;
  options.y_scale = ending.y_scale;
  DeformConv2dPlan plan;
  Status status = plan_variant(p, DType::kInt8, variant, options, &plan);
  EXPECT_TRUE(status.ok()) << status.message;
  if (!status.ok()) return {};
  EXPECT_LE(plan.shared_bytes, h100().shared_bytes_per_block);

  const testing::Tensor weight(DType::kInt8, as_doubles(in.weight));
  testing::GuardedBytes packed(plan.packed_bytes);
  std::fill(packed.data(), packed.data() + packed.size(), static_cast<unsigned char>(0x5f));
  status = pack_deform_conv2d_weights(plan, weight.data(), packed.data(), nullptr);
  EXPECT_TRUE(status.ok()) << status.message;

  std::vector<double> x =
      in_layout(variant.x_layout, as_doubles(in.x), p.batch, p.in_channels, p.in_h * p.in_w, false);
  if (variant.unaligned) x.insert(x.begin(), 0.0);
  const testing::Tensor features(DType::kInt8, x);
  const testing::Tensor offset(in.offset_dtype, in.offset);
  std::unique_ptr<testing::Tensor> mask;
  if (in.mask) mask = std::make_unique<testing::Tensor>(in.mask_dtype, *in.mask);
  testing::Output y(ending.y_dtype,
                    static_cast<std::size_t>(p.batch * p.out_channels * p.out_h * p.out_w));
  DeformConv2dTensors tensors;
  tensors.offset_dtype = in.offset_dtype;
  tensors.mask_dtype = in.mask_dtype;
  tensors.x = static_cast<const std::int8_t*>(features.data()) + (variant.unaligned ? 1 : 0);
  tensors.offset = offset.data();
  tensors.bias = in.bias ? in.bias->data() : nullptr;
  tensors.mask = mask ? mask->data() : nullptr;
  tensors.scale = in.scale.data();
  tensors.y = y.data();
  status = deform_conv2d(plan, tensors, packed.data(), nullptr);
  EXPECT_TRUE(status.ok()) << status.message;
  EXPECT_TRUE(packed.intact() && y.bytes().intact());
  return in_layout(variant.y_layout, y.values(), p.batch, p.out_channels, p.out_h * p.out_w, true);
}

// Y of scales of one and no bias is the sum, rounded to float32 once. Exact where no sample is next
// to a tie; elsewhere within the reference's slack.
::testing::AssertionResult same_sums(const std::vector<double>& y, const Sums& expected) {
  if (y.size() != expected.sums.size()) return ::testing::AssertionFailure() << "sizes differ";
  for (std::size_t i = 0; i < y.size(); ++i) {
    const auto rounded = static_cast<double>(static_cast<float>(expected.sums[i]));
    const auto slack = static_cast<double>(expected.slack[i]);
    const double bound = slack > 0 ? slack + std::abs(rounded) * 0x1p-23 : 0;
    if (!(std::abs(y[i] - rounded) <= bound)) {
      return ::testing::AssertionFailure() << "element " << i << ": expected " << rounded
                                           << " within " << bound << ", got " << y[i];
    }
  }
  return ::testing::AssertionSuccess();
}

std::string label(const Variant& variant, const Inputs& in) {
  return describe(variant, {DType::kInt8, in.offset_dtype, in.mask_dtype});
}

class CudaDeformConv2dInt8 : public HostDeviceTest {
 protected:
  CudaDeformConv2dInt8() : random_(testing::seed()) {}
  std::mt19937_64 random_;
};

class CudaDeformConv2dInt8Cases : public CudaDeformConv2dInt8,
                                  public ::testing::WithParamInterface<DeformConv2dCase> {};

TEST_P(CudaDeformConv2dInt8Cases, SumsAreTheReferencesInEveryVariant) {
  SCOPED_TRACE(seed_trace());
  host::Settings settings;
  for (const bool mask : {false, true}) {
    const Inputs inputs = random_inputs(params_of(GetParam()), mask, &random_);
    const Sums expected = reference(inputs);
    for (const Variant& variant : inputs.params.group > 6 || !mask ? few_variants(DType::kInt8)
                                                                   : all_variants(DType::kInt8)) {
      SCOPED_TRACE(label(variant, inputs));
      settings.seed += 1;
      settings.thread_order = static_cast<host::ThreadOrder>(settings.seed % 3);
      settings.shuffle_blocks = settings.seed % 2 == 0;
      host::configure(settings);
      EXPECT_TRUE(same_sums(run(inputs, variant, {}), expected));
    }
  }
}

std::string case_name(const ::testing::TestParamInfo<DeformConv2dCase>& tested) {
  return tested.param.name;
}

INSTANTIATE_TEST_SUITE_P(Cuda, CudaDeformConv2dInt8Cases, ::testing::ValuesIn(all_cases()),
                         case_name);

// The comparison above is worth something only if most sums have no slack.
TEST_F(CudaDeformConv2dInt8, FewSumsHaveSlack) {
  SCOPED_TRACE(seed_trace());
  const Sums sums = reference(random_inputs(params_of(case_named("Units")), true, &random_));
  const auto exact = std::count(sums.slack.begin(), sums.slack.end(), 0);
  EXPECT_GT(exact, static_cast<std::ptrdiff_t>(sums.slack.size() * 8 / 10));
}

// Halves of pixels between whole features are exact in float32, and so are their ties.
TEST_F(CudaDeformConv2dInt8, TiesGoToTheEvenNumber) {
  SCOPED_TRACE(seed_trace());
  Inputs inputs = random_inputs(params_of(case_named("AllUnequal")), false, &random_);
  std::uniform_int_distribution<int> halves(-4, 4);
  for (double& value : inputs.offset) value = 0.5 * halves(random_);
  Sums expected = reference(inputs);
  EXPECT_GT(*std::max_element(expected.slack.begin(), expected.slack.end()), 0);
  std::fill(expected.slack.begin(), expected.slack.end(), 0);
  for (const Variant& variant : all_variants(DType::kInt8)) {
    SCOPED_TRACE(label(variant, inputs));
    EXPECT_TRUE(same_sums(run(inputs, variant, {}), expected));
  }
}

// A mask above one takes samples out of int8's range.
TEST_F(CudaDeformConv2dInt8, SamplesSaturate) {
  SCOPED_TRACE(seed_trace());
  for (const char* name : {"Units", "Depthwise"}) {
    SCOPED_TRACE(name);
    Inputs inputs = random_inputs(params_of(case_named(name)), true, &random_);
    for (double& value : *inputs.mask) value = 16 * value - 8;
    const Sums expected = reference(inputs);
    for (const Variant& variant : few_variants(DType::kInt8)) {
      SCOPED_TRACE(label(variant, inputs));
      EXPECT_TRUE(same_sums(run(inputs, variant, {}), expected));
    }
  }
}

// The largest sums that the number of products allows, where float32 sums would not be exact.
TEST_F(CudaDeformConv2dInt8, SumsUpToTheEndOfInt32) {
  DeformConv2dParams params =
      params_of({"", 1, 14563, 1, 1, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1});
  Inputs inputs = random_inputs(params, false, &random_);
  std::fill(inputs.x.begin(), inputs.x.end(), static_cast<std::int8_t>(-128));
  std::fill(inputs.weight.begin(), inputs.weight.end(), static_cast<std::int8_t>(-128));
  // One product less than the most, by one unit: a float32 sum would lose it.
  inputs.weight[0] = -127;
  // Every tap on the only pixel.
  for (std::int64_t tap = 0; tap < 9; ++tap) {
    inputs.offset[static_cast<std::size_t>(2 * tap)] = static_cast<double>(1 - tap / 3);
    inputs.offset[static_cast<std::size_t>(2 * tap + 1)] = static_cast<double>(1 - tap % 3);
  }
  const Sums expected = reference(inputs);
  EXPECT_EQ(expected.sums[1], std::int64_t{14563} * 9 * 128 * 128);
  EXPECT_EQ(expected.sums[0], expected.sums[1] - 128);
  // Bias takes the large part away again; what is left of the sum must be whole.
  inputs.bias = std::vector<float>(3, -static_cast<float>(expected.sums[1]));
  for (const Variant& variant : few_variants(DType::kInt8)) {
    SCOPED_TRACE(label(variant, inputs));
    const std::vector<double> y = run(inputs, variant, {});
    EXPECT_EQ(y[0], static_cast<double>(static_cast<float>(expected.sums[0])) +
                        static_cast<double>((*inputs.bias)[0]));
    EXPECT_EQ(y[1], static_cast<double>(static_cast<float>(expected.sums[1])) +
                        static_cast<double>((*inputs.bias)[1]));
  }
  params.in_channels = 14564;
  DeformConv2dPlan plan;
  const Status status =
      plan_deform_conv2d(params, DType::kInt8, Layout::kNchw, Layout::kNchw, h100(), {}, &plan);
  EXPECT_EQ(std::string(status.message),
            "int8 products of an output element: expected at most 131071, whose sum fits in 32 "
            "bits, got 131076. Use a floating-point type, or more groups");
}

// NaN and infinite offsets sample nothing; a NaN in the mask makes a sample of zero.
TEST_F(CudaDeformConv2dInt8, FarOffsetsAndNanMasks) {
  SCOPED_TRACE(seed_trace());
  for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    Inputs inputs = random_inputs(params_of(case_named("UnitsOfGroups")), true, &random_);
    inputs.offset_dtype = dtype;
    inputs.mask_dtype = dtype;
    testing::scatter_far_offsets(&random_, &inputs.offset);
    std::bernoulli_distribution is_nan(0.1);
    for (double& value : *inputs.mask) {
      if (is_nan(random_)) value = std::numeric_limits<double>::quiet_NaN();
    }
    const Sums expected = reference(inputs);
    for (const Variant& variant : few_variants(DType::kInt8)) {
      SCOPED_TRACE(label(variant, inputs));
      EXPECT_TRUE(same_sums(run(inputs, variant, {}), expected));
    }
  }
}

// Scale of each channel, bias, and Y in every type: from the kernel's own sums, which other tests
// have compared, in double.
TEST_F(CudaDeformConv2dInt8, ScaleBiasAndTypeOfY) {
  SCOPED_TRACE(seed_trace());
  for (const char* name : {"ManyRows", "GroupsOfFive", "DepthwiseMultiplier"}) {
    SCOPED_TRACE(name);
    Inputs inputs = random_inputs(params_of(case_named(name)), true, &random_);
    const auto channels = static_cast<std::size_t>(inputs.params.out_channels);
    const auto pixels = static_cast<std::size_t>(inputs.params.out_h * inputs.params.out_w);
    const Inputs plain = inputs;
    std::uniform_real_distribution<float> scales(1e-5f, 1e-4f);
    for (float& value : inputs.scale) value = scales(random_);
    inputs.bias.emplace(channels);
    for (float& value : *inputs.bias) value = std::normal_distribution<float>(0, 1)(random_);
    for (const Variant& variant : few_variants(DType::kInt8)) {
      SCOPED_TRACE(label(variant, inputs));
      const std::vector<double> sums = run(plain, variant, {});
      std::vector<double> expected(sums.size()), size(sums.size());
      for (std::size_t i = 0; i < sums.size(); ++i) {
        const std::size_t m = i / pixels % channels;
        expected[i] =
            sums[i] * static_cast<double>(inputs.scale[m]) + static_cast<double>((*inputs.bias)[m]);
        size[i] = std::abs(sums[i] * static_cast<double>(inputs.scale[m])) +
                  std::abs(static_cast<double>((*inputs.bias)[m]));
      }
      const struct {
        DType dtype;
        double step;
      } floats[] = {{DType::kFloat32, 0}, {DType::kFloat16, 0x1p-11}, {DType::kBFloat16, 0x1p-8}};
      for (const auto& y_type : floats) {
        const std::vector<double> y = run(inputs, variant, {y_type.dtype, 1});
        for (std::size_t i = 0; i < y.size(); ++i) {
          ASSERT_NEAR(y[i], expected[i], 0x1p-22 * size[i] + y_type.step * std::abs(expected[i]))
              << name_of(y_type.dtype) << ", element " << i;
        }
      }
      // Wide enough for most, and so narrow that some saturate.
      const Ending ending{DType::kInt8, 0.02f};
      const std::vector<double> y = run(inputs, variant, ending);
      std::size_t saturated = 0, exact = 0;
      for (std::size_t i = 0; i < y.size(); ++i) {
        const double value = expected[i] / static_cast<double>(ending.y_scale);
        const double error = 0x1p-21 * size[i] / static_cast<double>(ending.y_scale);
        ASSERT_GE(y[i], round_to_int8(value - error)) << i;
        ASSERT_LE(y[i], round_to_int8(value + error)) << i;
        saturated += std::abs(value) > 128 ? 1 : 0;
        exact += round_to_int8(value - error) == round_to_int8(value + error) ? 1 : 0;
      }
      EXPECT_GT(saturated, 0u);
      EXPECT_GT(exact, y.size() * 99 / 100);
    }
  }
}

TEST_F(CudaDeformConv2dInt8, ScalesAreProducts) {
  for (const std::int64_t channels : {1, 7, 256, 257, 600}) {
    for (const std::int64_t count : {std::int64_t{1}, channels}) {
      std::vector<float> weight_scale(static_cast<std::size_t>(count));
      for (float& value : weight_scale) {
        value = std::uniform_real_distribution<float>(0.001f, 0.1f)(random_);
      }
      testing::Output scale(DType::kFloat32, static_cast<std::size_t>(channels));
      const Status status = write_deform_conv2d_scale(0.3f, weight_scale.data(), count, channels,
                                                      static_cast<float*>(scale.data()), nullptr);
      ASSERT_TRUE(status.ok()) << status.message;
      EXPECT_TRUE(scale.bytes().intact());
      const std::vector<double> written = scale.values();
      for (std::size_t m = 0; m < written.size(); ++m) {
        ASSERT_EQ(written[m], static_cast<double>(0.3f * weight_scale[count == 1 ? 0 : m]));
      }
    }
  }
  const float two[2] = {1, 1};
  EXPECT_EQ(std::string(write_deform_conv2d_scale(1, two, 2, 3, nullptr, nullptr).message),
            "scales of W: expected 1, or one for each of the 3 output channels, got 2");
}

TEST_F(CudaDeformConv2dInt8, GivesTheSameBitsInAnyOrder) {
  SCOPED_TRACE(seed_trace());
  for (const char* name : {"Units", "OffsetGroupsOfThree"}) {
    SCOPED_TRACE(name);
    const Inputs inputs = random_inputs(params_of(case_named(name)), true, &random_);
    for (const Variant& variant : few_variants(DType::kInt8)) {
      SCOPED_TRACE(label(variant, inputs));
      host::configure({});
      const std::vector<double> expected = run(inputs, variant, {DType::kInt8, 2000});
      for (const host::Settings& settings : all_orders()) {
        host::configure(settings);
        ASSERT_EQ(first_difference(run(inputs, variant, {DType::kInt8, 2000}), expected), "");
      }
    }
  }
}

// X off the alignment of wide reads is read byte by byte, with the same result.
TEST_F(CudaDeformConv2dInt8, GivesTheSameBitsWithWideReadsAndWithout) {
  SCOPED_TRACE(seed_trace());
  for (const char* name : {"Units", "UnitsOfGroups", "OffsetGroupsOfSixteen"}) {
    SCOPED_TRACE(name);
    const Inputs inputs = random_inputs(params_of(case_named(name)), true, &random_);
    for (Variant variant : all_variants(DType::kInt8)) {
      if (variant.x_layout != Layout::kNhwc) continue;
      SCOPED_TRACE(label(variant, inputs));
      const std::vector<double> expected = run(inputs, variant, {});
      variant.unaligned = true;
      EXPECT_EQ(first_difference(run(inputs, variant, {}), expected), "");
    }
  }
}

TEST_F(CudaDeformConv2dInt8, RandomShapes) {
  for (std::uint64_t round = 0; round < 20; ++round) {
    std::mt19937_64 random(testing::seed() + round);
    const auto pick = [&](std::int64_t low, std::int64_t high) {
      return std::uniform_int_distribution<std::int64_t>(low, high)(random);
    };
    DeformConv2dCase c{"random",   pick(1, 3), 0,          pick(1, 12), pick(1, 14), 0,
                       pick(1, 4), pick(1, 4), pick(1, 3), pick(1, 3),  pick(0, 3),  pick(0, 3),
                       pick(0, 3), pick(0, 3), pick(1, 3), pick(1, 3),  pick(1, 4),  pick(1, 4)};
    c.in_channels = std::lcm(c.group, c.offset_group) * pick(1, 24);
    c.out_channels = c.group * pick(1, 40);
    const DeformConv2dParams params = params_of(c);
    if (params.out_h < 1 || params.out_w < 1) continue;
    Inputs inputs = random_inputs(params, pick(0, 1) == 1, &random);
    constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};
    inputs.offset_dtype = kDTypes[pick(0, 2)];
    inputs.mask_dtype = kDTypes[pick(0, 2)];
    const Sums expected = reference(inputs);
    host::Settings settings;
    settings.thread_order = host::ThreadOrder::kRandom;
    settings.shuffle_blocks = true;
    settings.seed = round;
    host::configure(settings);
    const std::vector<Variant> variants = all_variants(DType::kInt8);
    for (int i = 0; i < 3; ++i) {
      const Variant& variant = variants[static_cast<std::size_t>(
          pick(0, static_cast<std::int64_t>(variants.size()) - 1))];
      SCOPED_TRACE("DCN_DEPLOY_TEST_SEED=" + std::to_string(testing::seed() + round) +
                   " (first round), " + label(variant, inputs));
      ASSERT_TRUE(same_sums(run(inputs, variant, {}), expected));
    }
  }
}

// Before SM 8.0 there are no tensor cores for it.
TEST_F(CudaDeformConv2dInt8, PlansFitTheirDevice) {
  constexpr Device kDevices[] = {{75, 40, 64 * 1024}, {80, 108, 163 * 1024}, {86, 84, 99 * 1024}};
  for (const Device& device : kDevices) {
    for (const DeformConv2dCase& c : all_cases()) {
      SCOPED_TRACE(c.name);
      DeformConv2dPlan plan;
      const Status status = plan_deform_conv2d(params_of(c), DType::kInt8, Layout::kNhwc,
                                               Layout::kNhwc, device, {}, &plan);
      ASSERT_TRUE(status.ok()) << status.message;
      EXPECT_LE(plan.shared_bytes, device.shared_bytes_per_block);
      if (plan.algorithm != Algorithm::kDirect) {
        EXPECT_EQ(plan.algorithm,
                  device.compute_capability < 80 ? Algorithm::kSimt : Algorithm::kTensor);
      }
    }
  }
}

TEST_F(CudaDeformConv2dInt8, RefusesWhatItCannotUse) {
  const DeformConv2dParams params = params_of(case_named("Units"));
  DeformConv2dPlan plan;
  const auto refusal = [&](float y_scale) {
    DeformConv2dOptions options;
    options.y_dtype = DType::kInt8;
    options.y_scale = y_scale;
    return std::string(plan_deform_conv2d(params, DType::kInt8, Layout::kNchw, Layout::kNchw,
                                          h100(), options, &plan)
                           .message);
  };
  EXPECT_EQ(refusal(0), "scale of Y: expected a positive, finite number, got 0");
  EXPECT_EQ(refusal(std::numeric_limits<float>::infinity()),
            "scale of Y: expected a positive, finite number, got inf");
  EXPECT_NE(refusal(std::numeric_limits<float>::quiet_NaN()).find("got "), std::string::npos);

  EXPECT_EQ(refusal(1), "");
  DeformConv2dTensors tensors;
  EXPECT_EQ(std::string(deform_conv2d(plan, tensors, nullptr, nullptr).message),
            "int8 features: expected a scale for each output channel, got none");
  tensors.mask_dtype = DType::kInt8;
  EXPECT_EQ(std::string(deform_conv2d(plan, tensors, nullptr, nullptr).message),
            "mask: expected float32, float16 or bfloat16, got int8");
}

// Conversions in registers, over everything that matters to them.
TEST(CudaInt8, LoadsEveryByteOfAWord) {
  for (int value = -128; value < 128; ++value) {
    const auto bits = static_cast<std::uint8_t>(value);
    EXPECT_EQ(Int8::load(bits), static_cast<float>(value));
    for (int index = 0; index < 4; ++index) {
      const std::uint32_t word =
          (0x12345678u & ~(0xffu << (8 * index))) | static_cast<std::uint32_t>(bits) << (8 * index);
      EXPECT_EQ(Int8::load_from(word, index), static_cast<float>(value));
    }
  }
}

TEST(CudaInt8, RoundsToNearestEvenAndSaturates) {
  std::vector<float> values;
  for (int i = -1040; i <= 1040; ++i) {
    const float at = static_cast<float>(i) / 4;
    for (const float value : {at, std::nextafterf(at, 1e9f), std::nextafterf(at, -1e9f)}) {
      values.push_back(value);
    }
  }
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float value :
       {-0.0f, 1e30f, -1e30f, kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN(),
        std::numeric_limits<float>::denorm_min()}) {
    values.push_back(value);
  }
  for (const float value : values) {
    const auto expected = static_cast<float>(round_to_int8(static_cast<double>(value)));
    EXPECT_EQ(Int8::round(value), expected) << value;
    EXPECT_EQ(Int8::load(Int8::store(value)), expected) << value;
    const std::uint32_t four = Int8::store_four(value, 1.0f, -2.0f, value);
    EXPECT_EQ(Int8::load_from(four, 0), expected);
    EXPECT_EQ(Int8::load_from(four, 1), 1.0f);
    EXPECT_EQ(Int8::load_from(four, 2), -2.0f);
    EXPECT_EQ(Int8::load_from(four, 3), expected);
  }
}

}  // namespace
}  // namespace cuda
}  // namespace dcn_deploy
