// DeformConv2d of int8 from the node to the numbers, against the reference's integers.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "comparison.h"
#include "core/deform_conv2d_int8_reference.h"
#include "deform_conv2d_cases.h"
#include "layer_memory.h"
#include "random_tensors.h"

namespace dcn_deploy {
namespace tensorrt {
namespace {

using testing::DeformConv2dCase;
using testing::seed_trace;

constexpr TensorFormat kLinear = TensorFormat::kLINEAR;
constexpr TensorFormat kHwc16 = TensorFormat::kHWC16;

const DeformConv2dCase kCases[] = {
    {"Units", 2, 48, 7, 7, 32, 3, 2, 2, 1, 1, 0, 1, 1, 1, 2, 1, 1},
    {"UnitsOfGroups", 1, 128, 7, 5, 48, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4},
    {"Depthwise", 2, 16, 7, 9, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 16, 1},
    {"Odd", 1, 6, 9, 7, 9, 2, 3, 1, 2, 0, 1, 1, 1, 1, 1, 3, 2},
};

FieldList fields_of(const DeformConv2dCase& c) {
  const auto narrow = [](std::int64_t value) { return static_cast<std::int32_t>(value); };
  return FieldList()
      .integers("strides", {narrow(c.stride_h), narrow(c.stride_w)})
      .integers("pads",
                {narrow(c.pad_top), narrow(c.pad_left), narrow(c.pad_bottom), narrow(c.pad_right)})
      .integers("dilations", {narrow(c.dilation_h), narrow(c.dilation_w)})
      .integers("group", {narrow(c.group)})
      .integers("offset_group", {narrow(c.offset_group)});
}

std::vector<double> random_bytes(std::mt19937_64* random, std::size_t count) {
  std::uniform_int_distribution<int> distribution(-128, 127);
  std::vector<double> values(count);
  for (double& value : values) value = distribution(*random);
  return values;
}

std::vector<std::int8_t> as_bytes(const std::vector<double>& values) {
  std::vector<std::int8_t> bytes;
  for (const double value : values) bytes.push_back(static_cast<std::int8_t>(value));
  return bytes;
}

class Int8DeformConv2dRuns : public PluginTest {
 protected:
  Int8DeformConv2dRuns() : random_(testing::seed()) {}

  void compare(const DeformConv2dCase& c, bool quantised_y, bool per_channel, bool bias,
               TensorFormat x_format, TensorFormat y_format, bool constant_weights);

  std::mt19937_64 random_;
};

void Int8DeformConv2dRuns::compare(const DeformConv2dCase& c, bool quantised_y, bool per_channel,
                                   bool bias, TensorFormat x_format, TensorFormat y_format,
                                   bool constant_weights) {
  const DeformConv2dParams p = testing::params_of(c);
  const testing::DeformConv2dValues values = testing::random_values(p, bias, true, &random_);
  const std::int64_t taps = p.kernel_h * p.kernel_w;
  LayerMemory memory;
  const std::vector<double> x =
      memory.add_input(random_bytes(&random_, values.x.size()), DType::kInt8, x_format,
                       {p.batch, p.in_channels, p.in_h, p.in_w});
  const std::vector<double> weight =
      memory.add_input(random_bytes(&random_, values.weight.size()), DType::kInt8, kLinear,
                       {p.out_channels, p.in_channels / p.group, p.kernel_h, p.kernel_w});
  const std::vector<double> offset =
      memory.add_input(values.offset, DType::kFloat32, kLinear,
                       {p.batch, 2 * taps * p.offset_group, p.out_h, p.out_w});
  std::vector<double> b(static_cast<std::size_t>(p.out_channels));
  if (bias) b = memory.add_input(*values.bias, DType::kFloat32, kLinear, {p.out_channels});
  const std::vector<double> mask = memory.add_input(
      *values.mask, DType::kFloat16, kLinear, {p.batch, taps * p.offset_group, p.out_h, p.out_w});
  const DType y_dtype = quantised_y ? DType::kInt8 : DType::kFloat32;
  memory.set_output(y_dtype, y_format, {p.batch, p.out_channels, p.out_h, p.out_w});

  // Powers of two: their products are exact.
  const float x_scale = 0x1p-7f;
  std::vector<float> weight_scale(per_channel ? static_cast<std::size_t>(p.out_channels) : 1u);
  for (std::size_t m = 0; m < weight_scale.size(); ++m) {
    weight_scale[m] = std::ldexp(1.0f, -6 - static_cast<int>(m % 3));
  }
  const double y_scale = 0.0625;
  FieldList fields = fields_of(c);
  fields.real("x_scale", x_scale).reals("weight_scale", weight_scale);
  if (quantised_y) fields.real("y_scale", static_cast<float>(y_scale));
  if (!bias) fields.text("optional_inputs", "mask");
  fields.integers("constant_weights", {constant_weights ? 1 : 0});

  const PluginPointer built = create(creator("DeformConv2d"), fields);
  ASSERT_NE(built, nullptr) << message();
  ASSERT_EQ(build(*built, memory.tensors()), 0) << message();
  const std::size_t workspace = workspace_bytes(*built, memory.tensors());
  const PluginPointer back = read_back(creator("DeformConv2d"), *built);
  ASSERT_NE(back, nullptr) << message();
  const PluginPointer attached = attach(*back);
  ASSERT_EQ(change_shapes(*attached, memory.tensors()), 0) << message();

  std::vector<std::int64_t> sums(
      static_cast<std::size_t>(p.batch * p.out_channels * p.out_h * p.out_w));
  std::vector<std::int64_t> slack(sums.size());
  deform_conv2d_int8_reference(p, as_bytes(x).data(), as_bytes(weight).data(), offset.data(),
                               mask.data(), sums.data(), slack.data());
  // The second run uses what the first has kept.
  for (int round = 0; round < 2; ++round) {
    const std::vector<double> y = memory.run(*attached, workspace);
    ASSERT_EQ(y.size(), sums.size());
    for (std::size_t i = 0; i < y.size(); ++i) {
      const auto m = i / static_cast<std::size_t>(p.out_h * p.out_w) %
                     static_cast<std::size_t>(p.out_channels);
      const double scale =
          static_cast<double>(x_scale) * static_cast<double>(weight_scale[per_channel ? m : 0]);
      const double value = scale * static_cast<double>(sums[i]) + b[m];
      const double error =
          scale * static_cast<double>(slack[i]) +
          0x1p-22 * (std::abs(scale * static_cast<double>(sums[i])) + std::abs(b[m]));
      if (quantised_y) {
        ASSERT_GE(y[i], round_to_int8((value - error) / y_scale)) << i;
        ASSERT_LE(y[i], round_to_int8((value + error) / y_scale)) << i;
      } else {
        ASSERT_NEAR(y[i], value, error) << i;
      }
    }
  }
}

TEST_F(Int8DeformConv2dRuns, AgreeWithTheReferenceInEveryFormat) {
  SCOPED_TRACE(seed_trace());
  for (const DeformConv2dCase& c : kCases) {
    const bool wide = c.in_channels % 16 == 0 && c.out_channels % 16 == 0;
    for (const bool quantised_y : {true, false}) {
      for (const TensorFormat x_format : {kLinear, kHwc16}) {
        if (x_format == kHwc16 && !wide) continue;
        const TensorFormat y_format = quantised_y && wide && x_format == kHwc16 ? kHwc16 : kLinear;
        SCOPED_TRACE(std::string(c.name) + (quantised_y ? ", int8" : ", float32") +
                     (x_format == kHwc16 ? ", HWC16" : ""));
        compare(c, quantised_y, true, true, x_format, y_format, false);
      }
    }
  }
}

TEST_F(Int8DeformConv2dRuns, TakeOneScaleNoBiasAndConstantWeights) {
  SCOPED_TRACE(seed_trace());
  compare(kCases[0], true, false, false, kLinear, kHwc16, false);
  compare(kCases[0], true, true, true, kHwc16, kLinear, true);
  if (PluginLibrary::instance().is_rehearsal()) {
    EXPECT_EQ(PluginLibrary::instance().kept_buffers(), 0);
  }
}

TEST_F(Int8DeformConv2dRuns, HaveRoomForTheScalesInTheirWorkspace) {
  const std::vector<std::int64_t> x = {1, 16, 5, 5}, w = {300, 16, 1, 1}, offset = {1, 2, 5, 5},
                                  y = {1, 300, 5, 5};
  const auto bytes = [&](DataType type, const FieldList& fields) {
    const PluginPointer plugin = create(creator("DeformConv2d"), fields);
    const Tensors tensors = {tensor(type, kLinear, x), tensor(type, kLinear, w),
                             tensor(DataType::kFLOAT, kLinear, offset), tensor(type, kLinear, y)};
    EXPECT_EQ(build(*plugin, tensors), 0);
    return workspace_bytes(*plugin, tensors);
  };
  const std::size_t int8 = bytes(
      DataType::kINT8, FieldList().real("x_scale", 1).real("weight_scale", 1).real("y_scale", 1));
  // Float32 weights of the kernel without tensor cores take the most room with both types.
  EXPECT_EQ(int8, bytes(DataType::kHALF, {}) + 300 * sizeof(float));
}

}  // namespace
}  // namespace tensorrt
}  // namespace dcn_deploy
