// Shape inference against the core's.

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "core/deform_conv2d_shape.h"
#include "core/deform_roi_pool_shape.h"
#include "layer.h"
#include "random_tensors.h"

namespace dcn_deploy {
namespace tensorrt {
namespace {

class Shapes : public PluginTest {
 protected:
  // N, H and W of X are unknown 0, 1 and 2; those of the kernel 3 and 4 if they are unknown.
  std::vector<const Size*> conv2d_output(nvinfer1::IPluginV3& plugin, std::int64_t kernel_h,
                                         std::int64_t kernel_w, bool unknown_kernel) {
    const auto kernel = [&](int unknown, std::int64_t size) {
      return unknown_kernel ? builder_.unknown(unknown) : builder_.known(size);
    };
    nvinfer1::DimsExprs inputs[3]{};
    inputs[0] = {
        4, {builder_.unknown(0), builder_.known(6), builder_.unknown(1), builder_.unknown(2)}};
    inputs[1] = {4,
                 {builder_.known(10), builder_.known(6), kernel(3, kernel_h), kernel(4, kernel_w)}};
    inputs[2] = {
        4, {builder_.unknown(0), builder_.unknown(5), builder_.unknown(6), builder_.unknown(7)}};
    nvinfer1::DimsExprs y{};
    if (build_of(plugin).getOutputShapes(inputs, 3, nullptr, 0, &y, 1, builder_) != 0) return {};
    std::vector<const Size*> sizes;
    for (int axis = 0; axis < y.nbDims; ++axis) {
      sizes.push_back(static_cast<const Size*>(y.d[axis]));
    }
    return sizes;
  }

  SizeBuilder builder_;
};

TEST_F(Shapes, OfDeformConv2dAreTheCoresForUnknownSizes) {
  std::mt19937_64 random(testing::seed());
  const auto between = [&](int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(random);
  };
  int fits = 0;
  for (int round = 0; round < 200; ++round) {
    const std::int32_t stride_h = between(1, 4), stride_w = between(1, 4);
    const std::int32_t dilation_h = between(1, 3), dilation_w = between(1, 3);
    const std::int32_t pads[] = {between(0, 3), between(0, 3), between(0, 3), between(0, 3)};
    const std::int64_t kernel_h = between(1, 5), kernel_w = between(1, 5);
    const PluginPointer plugin = create(
        creator("DeformConv2d"), FieldList()
                                     .integers("strides", {stride_h, stride_w})
                                     .integers("dilations", {dilation_h, dilation_w})
                                     .integers("pads", {pads[0], pads[1], pads[2], pads[3]}));
    ASSERT_NE(plugin, nullptr);
    const auto y = conv2d_output(*plugin, kernel_h, kernel_w, round % 4 == 0);
    ASSERT_EQ(y.size(), 4u);
    for (int sizes = 0; sizes < 20; ++sizes) {
      const std::int64_t batch = between(0, 5), in_h = between(1, 40), in_w = between(1, 40);
      const std::vector<std::int64_t> unknown = {batch, in_h, in_w, kernel_h, kernel_w, 0, 0, 0};
      const std::int64_t out_h =
          output_extent(in_h, pads[0], pads[2], dilation_h, kernel_h, stride_h);
      const std::int64_t out_w =
          output_extent(in_w, pads[1], pads[3], dilation_w, kernel_w, stride_w);
      EXPECT_EQ(y[0]->evaluate(unknown), batch);
      EXPECT_EQ(y[1]->evaluate(unknown), 10);
      // Below 1 where the kernel does not fit: then it is refused before it matters.
      if (out_h >= 1) {
        EXPECT_EQ(y[2]->evaluate(unknown), out_h);
        ++fits;
      } else {
        EXPECT_LE(y[2]->evaluate(unknown), 0);
      }
      if (out_w >= 1) {
        EXPECT_EQ(y[3]->evaluate(unknown), out_w);
      } else {
        EXPECT_LE(y[3]->evaluate(unknown), 0);
      }
    }
  }
  EXPECT_GT(fits, 3000);
}

TEST_F(Shapes, OfDeformConv2dForKnownSizes) {
  const PluginPointer plugin = create(creator("DeformConv2d"), FieldList()
                                                                   .integers("strides", {3, 2})
                                                                   .integers("pads", {1, 2, 0, 3})
                                                                   .integers("dilations", {2, 3}));
  const auto linear = [](const std::vector<std::int64_t>& sizes) {
    return tensor(DataType::kFLOAT, TensorFormat::kLINEAR, sizes);
  };
  // (33 + 1 - 2 - 1) / 3 + 1 and (19 + 5 - 12 - 1) / 2 + 1
  EXPECT_EQ(output_sizes(*plugin, {linear({2, 6, 33, 19}), linear({7, 6, 2, 5}),
                                   linear({2, 20, 11, 6}), linear({7})}),
            (std::vector<std::int64_t>{2, 7, 11, 6}));
}

TEST_F(Shapes, OfDeformRoIPool2d) {
  const struct {
    const char* variant;
    std::int32_t group_size, output_channels;
    std::int64_t channels, out_channels;
  } cases[] = {{"aligned", 1, 0, 12, 12},
               {"psroi", 1, 0, 12, 12},
               {"psroi", 2, 0, 12, 3},
               {"psroi", 2, 3, 12, 3}};
  for (const auto& c : cases) {
    SCOPED_TRACE(std::string(c.variant) + std::to_string(c.group_size));
    const PluginPointer plugin =
        create(creator("DeformRoIPool2d"), FieldList()
                                               .text("variant", c.variant)
                                               .integers("output_size", {3, 5})
                                               .integers("group_size", {c.group_size})
                                               .integers("output_channels", {c.output_channels}));
    ASSERT_NE(plugin, nullptr);
    nvinfer1::DimsExprs inputs[2]{};
    inputs[0] = {
        4, {builder_.unknown(0), builder_.unknown(1), builder_.unknown(2), builder_.unknown(3)}};
    inputs[1] = {2, {builder_.unknown(4), builder_.known(5)}};
    nvinfer1::DimsExprs y{};
    ASSERT_EQ(build_of(*plugin).getOutputShapes(inputs, 2, nullptr, 0, &y, 1, builder_), 0);
    const auto at = [&](int axis) {
      return static_cast<const Size*>(y.d[axis])->evaluate({2, c.channels, 19, 33, 7});
    };
    EXPECT_EQ(y.nbDims, 4);
    EXPECT_EQ((std::vector<std::int64_t>{at(0), at(1), at(2), at(3)}),
              (std::vector<std::int64_t>{7, c.out_channels, 3, 5}));
    DeformRoIPool2dAttributes attributes;
    ASSERT_TRUE(parse_roi_pool_variant(c.variant, &attributes.variant).ok());
    attributes.output_h = 3;
    attributes.output_w = 5;
    attributes.group_size = c.group_size;
    attributes.output_channels = c.output_channels;
    const std::int64_t x[] = {2, c.channels, 19, 33}, rois[] = {7, 5};
    DeformRoIPool2dParams params{};
    ASSERT_TRUE(resolve_deform_roi_pool(attributes, {{x, 4}, {rois, 2}}, &params).ok());
    EXPECT_EQ(at(1), params.out_channels);
  }
}

TEST_F(Shapes, RefusedOnesAreNamed) {
  const PluginPointer plugin = create(creator("DeformConv2d"), FieldList().integers("group", {2}),
                                      nvinfer1::TensorRTPhase::kBUILD, "neck.2");
  const auto linear = [](const std::vector<std::int64_t>& sizes) {
    return tensor(DataType::kFLOAT, TensorFormat::kLINEAR, sizes);
  };
  const auto refusal = [&](const Tensors& inputs) {
    EXPECT_TRUE(output_sizes(*plugin, inputs).empty());
    return message();
  };
  EXPECT_EQ(refusal({linear({1, 7, 5, 5}), linear({8, 4, 3, 3}), linear({1, 18, 3, 3})}),
            "dcn_deploy: DeformConv2d 'neck.2': attribute group: expected a divisor of the 7 "
            "channels of X, got 2");
  EXPECT_EQ(refusal({linear({1, 8, 5}), linear({8, 4, 3, 3}), linear({1, 18, 3, 3})}),
            "dcn_deploy: DeformConv2d 'neck.2': input X: expected rank 4 [N, C, H, W], got rank 3");
  EXPECT_EQ(refusal({linear({1, 8, 5, 5}), linear({8, 4, 3, 3}), linear({1, 17, 3, 3})}),
            "dcn_deploy: DeformConv2d 'neck.2': input offset, axis 1: expected 18 "
            "(offset_group·kH·kW·2), got 17");
  EXPECT_EQ(refusal({linear({1, 8, 2, 5}), linear({8, 4, 3, 3}), linear({1, 18, 3, 3})}),
            "dcn_deploy: DeformConv2d 'neck.2': height of X: expected at least 3 with padding, "
            "which is what kernel 3 with dilation 1 spans, got 2 (size 2, pads 0 and 0)");
  EXPECT_EQ(refusal({linear({1, 8, 5, 5}), linear({8, 4, 3, 3})}),
            "dcn_deploy: DeformConv2d 'neck.2': inputs: expected 3 to 5 (X, W, offset, B?, mask?), "
            "got 2");
}

TEST_F(Shapes, ATensorRtWithoutExpressionsIsTold) {
  const PluginPointer plugin = create(creator("DeformConv2d"), {});
  nvinfer1::DimsExprs inputs[3]{};
  inputs[0] = {4, {builder_.known(1), builder_.known(6), builder_.unknown(1), builder_.unknown(2)}};
  inputs[1] = {4, {builder_.known(10), builder_.known(6), builder_.known(3), builder_.known(3)}};
  inputs[2] = {4,
               {builder_.known(1), builder_.known(18), builder_.unknown(3), builder_.unknown(4)}};
  builder_.run_dry();
  nvinfer1::DimsExprs y{};
  EXPECT_NE(build_of(*plugin).getOutputShapes(inputs, 3, nullptr, 0, &y, 1, builder_), 0);
  EXPECT_EQ(message(),
            "dcn_deploy: DeformConv2d 'layer': output shape: expected an expression from TensorRT, "
            "got null");
}

TEST_F(Shapes, ShapeInputsAndOtherOutputsAreRefused) {
  const PluginPointer plugin = create(creator("DeformConv2d"), {});
  nvinfer1::DimsExprs inputs[3]{};
  nvinfer1::DimsExprs y[2]{};
  EXPECT_NE(build_of(*plugin).getOutputShapes(inputs, 3, inputs, 1, y, 1, builder_), 0);
  EXPECT_EQ(message(), "dcn_deploy: DeformConv2d 'layer': shape inputs: expected none, got 1");
  EXPECT_NE(build_of(*plugin).getOutputShapes(inputs, 3, nullptr, 0, y, 2, builder_), 0);
  EXPECT_EQ(message(), "dcn_deploy: DeformConv2d 'layer': outputs: expected 1, got 2");
}

}  // namespace
}  // namespace tensorrt
}  // namespace dcn_deploy
