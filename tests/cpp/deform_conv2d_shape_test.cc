#include "core/deform_conv2d_shape.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace dcn_deploy {
namespace {

constexpr std::int64_t kUnknown = ShapeView::kUnknownDim;
constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();

// A node whose parts fit together; tests change one thing.
struct Node {
  DeformConv2dAttributes attributes;
  std::vector<std::int64_t> x{2, 6, 9, 12};
  std::vector<std::int64_t> w{4, 3, 3, 5};
  std::vector<std::int64_t> offset{2, 90, 4, 9};
  std::vector<std::int64_t> b{4};
  std::vector<std::int64_t> mask{2, 45, 4, 9};
  bool has_b = true;
  bool has_mask = true;

  Node() {
    attributes.group = 2;
    attributes.offset_group = 3;
    attributes.stride_h = 2;
    attributes.pad_top = 1;
    attributes.pad_left = 2;
    attributes.pad_right = 3;
    attributes.dilation_w = 2;
  }

  static ShapeView view(const std::vector<std::int64_t>& dims) {
    return {dims.data(), static_cast<std::int64_t>(dims.size())};
  }

  DeformConv2dShapes shapes() const {
    DeformConv2dShapes all;
    all.x = view(x);
    all.w = view(w);
    all.offset = view(offset);
    if (has_b) all.b = view(b);
    if (has_mask) all.mask = view(mask);
    return all;
  }

  std::string refusal() const {
    const Status checked = check_deform_conv2d(attributes, shapes());
    DeformConv2dParams params;
    const Status resolved = resolve_deform_conv2d(attributes, shapes(), &params);
    if (!checked.ok()) {
      EXPECT_STREQ(checked.message, resolved.message);
    }
    return checked.message;
  }
};

TEST(DeformConv2dShape, ResolvesASoundNode) {
  const Node node;
  DeformConv2dParams p;
  const Status status = resolve_deform_conv2d(node.attributes, node.shapes(), &p);
  ASSERT_TRUE(status.ok()) << status.message;
  EXPECT_EQ(p.batch, 2);
  EXPECT_EQ(p.in_channels, 6);
  EXPECT_EQ(p.in_h, 9);
  EXPECT_EQ(p.in_w, 12);
  EXPECT_EQ(p.out_channels, 4);
  EXPECT_EQ(p.kernel_h, 3);
  EXPECT_EQ(p.kernel_w, 5);
  EXPECT_EQ(p.out_h, 4);  // (9 + 1 + 0 − 2 − 1) / 2 + 1
  EXPECT_EQ(p.out_w, 9);  // (12 + 2 + 3 − 8 − 1) / 1 + 1
  EXPECT_EQ(p.stride_h, 2);
  EXPECT_EQ(p.stride_w, 1);
  EXPECT_EQ(p.pad_top, 1);
  EXPECT_EQ(p.pad_left, 2);
  EXPECT_EQ(p.dilation_h, 1);
  EXPECT_EQ(p.dilation_w, 2);
  EXPECT_EQ(p.group, 2);
  EXPECT_EQ(p.offset_group, 3);
}

TEST(DeformConv2dShape, OutputExtentIsTheConvolutionsFormula) {
  for (std::int64_t size = 1; size < 12; ++size) {
    for (std::int64_t pad = 0; pad < 4; ++pad) {
      for (std::int64_t dilation = 1; dilation < 4; ++dilation) {
        for (std::int64_t kernel = 1; kernel < 5; ++kernel) {
          for (std::int64_t stride = 1; stride < 4; ++stride) {
            // Counted: positions at which the whole kernel lies on the padded map.
            std::int64_t expected = 0;
            for (std::int64_t at = 0; at + dilation * (kernel - 1) < size + pad + 1; at += stride) {
              ++expected;
            }
            EXPECT_EQ(output_extent(size, pad, 1, dilation, kernel, stride), expected)
                << size << ' ' << pad << ' ' << dilation << ' ' << kernel << ' ' << stride;
          }
        }
      }
    }
  }
}

struct Refusal {
  const char* name;
  void (*change)(Node*);
  const char* message;
};

class DeformConv2dShapeRefusals : public ::testing::TestWithParam<Refusal> {};

TEST_P(DeformConv2dShapeRefusals, SayExpectedAndActual) {
  Node node;
  GetParam().change(&node);
  const std::string message = node.refusal();
  EXPECT_NE(message.find(GetParam().message), std::string::npos)
      << "expected '" << GetParam().message << "' in '" << message << "'";
}

INSTANTIATE_TEST_SUITE_P(
    DeformConv2dShape, DeformConv2dShapeRefusals,
    ::testing::Values(
        Refusal{"XRank", [](Node* n) { n->x = {6, 9, 12}; },
                "input X: expected rank 4 [N, C, H, W], got rank 3"},
        Refusal{"OffsetRank", [](Node* n) { n->offset.pop_back(); },
                "input offset: expected rank 4 [N, offset_group·kH·kW·2, Ho, Wo], got rank 3"},
        Refusal{"BRank", [](Node* n) { n->b = {4, 1}; },
                "input B: expected rank 1 [M], got rank 2"},
        Refusal{"StrideZero", [](Node* n) { n->attributes.stride_h = 0; },
                "attribute strides[0]: expected at least 1, got 0"},
        Refusal{"DilationNegative", [](Node* n) { n->attributes.dilation_w = -2; },
                "attribute dilations[1]: expected at least 1, got -2"},
        Refusal{"PadNegative", [](Node* n) { n->attributes.pad_bottom = -1; },
                "attribute pads[2] (bottom): expected at least 0, got -1"},
        Refusal{"KernelZero", [](Node* n) { n->attributes.kernel_h = 0; },
                "attribute kernel_shape[0]: expected at least 1, got 0"},
        Refusal{"KernelDiffers", [](Node* n) { n->attributes.kernel_w = 3; },
                "input W, axis 3 (kW): expected 3 (kernel_shape[1]), got 5"},
        Refusal{"GroupZero", [](Node* n) { n->attributes.group = 0; },
                "attribute group: expected at least 1, got 0"},
        Refusal{"GroupDoesNotDivideC", [](Node* n) { n->attributes.group = 4; },
                "attribute group: expected a divisor of the 6 channels of X, got 4"},
        Refusal{"GroupDoesNotDivideM", [](Node* n) { n->w[0] = n->b[0] = 5; },
                "attribute group: expected a divisor of the 5 output channels of W, got 2"},
        Refusal{"OffsetGroupDoesNotDivideC", [](Node* n) { n->attributes.offset_group = 4; },
                "attribute offset_group: expected a divisor of the 6 channels of X, got 4"},
        Refusal{"WChannels", [](Node* n) { n->w[1] = 6; },
                "input W, axis 1 (C/group): expected 3 (X has 6 channels, group is 2), got 6"},
        Refusal{"BSize", [](Node* n) { n->b = {3}; },
                "input B, axis 0: expected 4 (the output channels of W), got 3"},
        Refusal{"OffsetChannels", [](Node* n) { n->offset[1] = 45; },
                "input offset, axis 1: expected 90 (offset_group·kH·kW·2), got 45"},
        Refusal{"MaskChannels", [](Node* n) { n->mask[1] = 90; },
                "input mask, axis 1: expected 45 (offset_group·kH·kW), got 90"},
        Refusal{"OffsetHeight", [](Node* n) { n->offset[2] = 9; },
                "input offset, axis 2 (Ho): expected 4 (the output height), got 9"},
        Refusal{"MaskWidth", [](Node* n) { n->mask[3] = 12; },
                "input mask, axis 3 (Wo): expected 9 (the output width), got 12"},
        Refusal{"OffsetBatch", [](Node* n) { n->offset[0] = 1; },
                "input offset, axis 0 (N): expected 2 (the batch of X), got 1"},
        Refusal{"EmptyChannels", [](Node* n) { n->x[1] = 0; },
                "input X [N, C, H, W]: expected at least 1 along axis 1, got 0"},
        Refusal{"EmptyWidth", [](Node* n) { n->x[3] = 0; },
                "input X [N, C, H, W]: expected at least 1 along axis 3, got 0"},
        Refusal{"KernelDoesNotFit", [](Node* n) { n->x[2] = 1; },
                "height of X: expected at least 3 with padding, which is what kernel 3 with "
                "dilation 1 spans, got 2 (size 1, pads 1 and 0)"},
        Refusal{"HugeExtent", [](Node* n) { n->x[3] = (std::int64_t{1} << 30) + 1; },
                "width of X with its padding: expected at most 2^30"},
        Refusal{"HugePadding", [](Node* n) { n->attributes.pad_left = kLargest; },
                "width of X with its padding: expected at most 2^30"},
        Refusal{"HugeDilation", [](Node* n) { n->attributes.dilation_h = kLargest; },
                "height of the kernel: expected dilation·(kernel − 1) + 1 to fit in 64 bits"},
        Refusal{"HugePlane",
                [](Node* n) {
                  n->x[2] = n->x[3] = 1 << 16;
                  n->offset[2] = n->mask[2] = 1 << 15;
                  n->offset[3] = n->mask[3] = (1 << 16) - 3;
                },
                "input X: expected at most 2^31 - 1 pixels in a channel, got 65536x65536"},
        Refusal{"HugeBatch", [](Node* n) { n->x[0] = n->offset[0] = n->mask[0] = kLargest / 2; },
                "input X: expected a size in bytes that fits in 64 bits"},
        Refusal{"HugeBytes",
                [](Node* n) { n->x[0] = n->offset[0] = n->mask[0] = std::int64_t{1} << 52; },
                "input X: expected a size in bytes that fits in 64 bits"},
        Refusal{"HugeGroup",
                [](Node* n) {
                  n->attributes.group = kLargest / 2;
                  n->x[1] = kUnknown;
                },
                "input W: expected group·(C/group) to fit in 64 bits"},
        Refusal{"HugeOffsetGroup",
                [](Node* n) {
                  n->attributes.offset_group = kLargest / 2;
                  n->x[1] = kUnknown;
                  n->w[1] = kUnknown;
                },
                "input offset: expected offset_group·kH·kW·2 to fit in 64 bits"},
        Refusal{"HugeKernel", [](Node* n) { n->w[2] = n->w[3] = kLargest / 2; },
                "to fit in 64 bits"}),
    [](const ::testing::TestParamInfo<Refusal>& tested) { return std::string(tested.param.name); });

TEST(DeformConv2dShape, EmptyBatchIsSound) {
  Node node;
  node.x[0] = node.offset[0] = node.mask[0] = 0;
  DeformConv2dParams params;
  const Status status = resolve_deform_conv2d(node.attributes, node.shapes(), &params);
  ASSERT_TRUE(status.ok()) << status.message;
  EXPECT_EQ(params.batch, 0);
  EXPECT_EQ(params.out_w, 9);
}

TEST(DeformConv2dShape, CountsPast2To31AreSound) {
  Node node;
  node.x[0] = node.offset[0] = node.mask[0] = std::int64_t{1} << 33;
  DeformConv2dParams params;
  const Status status = resolve_deform_conv2d(node.attributes, node.shapes(), &params);
  ASSERT_TRUE(status.ok()) << status.message;
  EXPECT_EQ(params.batch, std::int64_t{1} << 33);
}

TEST(DeformConv2dShape, UnknownPartsPassTheCheckAndFailToResolve) {
  // Each dim, and each rank (axis -1), in turn.
  for (int tensor = 0; tensor < 5; ++tensor) {
    for (int axis = -1; axis < 4; ++axis) {
      Node node;
      std::vector<std::int64_t>* dims[] = {&node.x, &node.w, &node.offset, &node.b, &node.mask};
      if (axis >= static_cast<int>(dims[tensor]->size())) continue;
      if (axis >= 0) (*dims[tensor])[static_cast<std::size_t>(axis)] = kUnknown;
      DeformConv2dShapes shapes = node.shapes();
      ShapeView* views[] = {&shapes.x, &shapes.w, &shapes.offset, &shapes.b, &shapes.mask};
      if (axis < 0) *views[tensor] = ShapeView{};
      const Status checked = check_deform_conv2d(node.attributes, shapes);
      EXPECT_TRUE(checked.ok()) << "tensor " << tensor << " axis " << axis << ": "
                                << checked.message;
      DeformConv2dParams params;
      const Status resolved = resolve_deform_conv2d(node.attributes, shapes, &params);
      EXPECT_NE(std::string(resolved.message).find("expected a shape known in full"),
                std::string::npos)
          << "tensor " << tensor << " axis " << axis << ": " << resolved.message;
    }
  }
}

TEST(DeformConv2dShape, ContradictionsAreFoundBetweenUnknownParts) {
  Node node;
  node.x = {kUnknown, kUnknown, kUnknown, kUnknown};
  EXPECT_EQ(node.refusal(), "");
  node.mask[2] = 5;
  EXPECT_EQ(node.refusal(), "input mask, axis 2 (Ho): expected 4 (the height of offset), got 5");
}

}  // namespace
}  // namespace dcn_deploy
