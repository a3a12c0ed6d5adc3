#include "core/deform_roi_pool_shape.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace dcn_deploy {
namespace {

constexpr std::int64_t kUnknown = ShapeView::kUnknownDim;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// A node whose parts fit together; tests change one thing.
struct Node {
  DeformRoIPool2dAttributes attributes;
  std::vector<std::int64_t> x{2, 6, 9, 12};
  std::vector<std::int64_t> rois{5, 5};
  std::vector<std::int64_t> offset{5, 2, 3, 4};
  std::vector<std::int64_t> mask{5, 1, 3, 4};
  bool has_offset = true;
  bool has_mask = true;

  Node() {
    attributes.output_h = 3;
    attributes.output_w = 4;
    attributes.spatial_scale = 0.25f;
    attributes.gamma = 0.5f;
    attributes.sampling_ratio = 2;
  }

  // With group_size 2, 3 classes and 7×7 parts.
  static Node psroi() {
    Node node;
    node.attributes.variant = RoIPoolVariant::kPsroi;
    node.attributes.sample_per_part = 5;
    node.attributes.group_size = 2;
    node.x = {2, 24, 9, 12};
    node.offset = {5, 6, 7, 7};
    node.mask = {5, 3, 7, 7};
    return node;
  }

  static ShapeView view(const std::vector<std::int64_t>& dims) {
    return {dims.data(), static_cast<std::int64_t>(dims.size())};
  }

  DeformRoIPool2dShapes shapes() const {
    DeformRoIPool2dShapes all;
    all.x = view(x);
    all.rois = view(rois);
    if (has_offset) all.offset = view(offset);
    if (has_mask) all.mask = view(mask);
    return all;
  }

  std::string refusal() const {
    const Status checked = check_deform_roi_pool(attributes, shapes());
    DeformRoIPool2dParams params;
    const Status resolved = resolve_deform_roi_pool(attributes, shapes(), &params);
    if (!checked.ok()) {
      EXPECT_STREQ(checked.message, resolved.message);
    }
    return checked.message;
  }
};

TEST(DeformRoIPool2dShape, ResolvesASoundAlignedNode) {
  const Node node;
  DeformRoIPool2dParams p;
  const Status status = resolve_deform_roi_pool(node.attributes, node.shapes(), &p);
  ASSERT_TRUE(status.ok()) << status.message;
  EXPECT_EQ(p.variant, RoIPoolVariant::kAligned);
  EXPECT_EQ(p.batch, 2);
  EXPECT_EQ(p.in_channels, 6);
  EXPECT_EQ(p.in_h, 9);
  EXPECT_EQ(p.in_w, 12);
  EXPECT_EQ(p.rois, 5);
  EXPECT_EQ(p.out_channels, 6);
  EXPECT_EQ(p.out_h, 3);
  EXPECT_EQ(p.out_w, 4);
  EXPECT_EQ(p.spatial_scale, 0.25f);
  EXPECT_EQ(p.gamma, 0.5f);
  EXPECT_EQ(p.samples, 2);
  EXPECT_EQ(p.group_size, 1);
  EXPECT_EQ(p.classes, 1);
  EXPECT_EQ(p.part_h, 3);
  EXPECT_EQ(p.part_w, 4);
}

TEST(DeformRoIPool2dShape, ResolvesASoundPsroiNode) {
  Node node = Node::psroi();
  for (const std::int64_t part_size : {0, 7}) {
    for (const std::int64_t output_channels : {0, 6}) {
      node.attributes.part_size = part_size;
      node.attributes.output_channels = output_channels;
      DeformRoIPool2dParams p;
      const Status status = resolve_deform_roi_pool(node.attributes, node.shapes(), &p);
      ASSERT_TRUE(status.ok()) << status.message;
      EXPECT_EQ(p.variant, RoIPoolVariant::kPsroi);
      EXPECT_EQ(p.in_channels, 24);
      EXPECT_EQ(p.out_channels, 6);
      EXPECT_EQ(p.samples, 5);
      EXPECT_EQ(p.group_size, 2);
      EXPECT_EQ(p.classes, 3);
      EXPECT_EQ(p.part_h, 7);
      EXPECT_EQ(p.part_w, 7);
    }
  }
}

TEST(DeformRoIPool2dShape, ClassesAndPartsComeFromWhicheverInputIsThere) {
  Node node = Node::psroi();
  DeformRoIPool2dParams p;
  node.has_offset = false;
  ASSERT_TRUE(resolve_deform_roi_pool(node.attributes, node.shapes(), &p).ok());
  EXPECT_EQ(p.classes, 3);
  EXPECT_EQ(p.part_w, 7);
  node.has_mask = false;
  // Whatever it is, there is no part to look at.
  for (const std::int64_t part_size : {0, 5}) {
    node.attributes.part_size = part_size;
    ASSERT_TRUE(resolve_deform_roi_pool(node.attributes, node.shapes(), &p).ok());
    EXPECT_EQ(p.classes, 1);
  }
}

// Attributes of the other variant need not fit, as long as they are valid.
TEST(DeformRoIPool2dShape, TheOtherVariantsAttributesAreIgnored) {
  Node aligned;
  aligned.attributes.sample_per_part = 9;
  aligned.attributes.part_size = 5;
  EXPECT_EQ(aligned.refusal(), "");
  Node psroi = Node::psroi();
  psroi.attributes.sampling_ratio = 9;
  EXPECT_EQ(psroi.refusal(), "");
}

TEST(DeformRoIPool2dShape, VariantsAreNamed) {
  RoIPoolVariant variant = RoIPoolVariant::kPsroi;
  EXPECT_TRUE(parse_roi_pool_variant("aligned", &variant).ok());
  EXPECT_EQ(variant, RoIPoolVariant::kAligned);
  EXPECT_TRUE(parse_roi_pool_variant("psroi", &variant).ok());
  EXPECT_EQ(variant, RoIPoolVariant::kPsroi);
  for (const char* name : {"", "Aligned", "psroi "}) {
    EXPECT_EQ(
        parse_roi_pool_variant(name, &variant).message,
        "attribute variant: expected \"aligned\" or \"psroi\", got \"" + std::string(name) + "\"");
  }
}

struct Refusal {
  const char* name;
  bool psroi;
  void (*change)(Node*);
  const char* message;
};

class DeformRoIPool2dShapeRefusals : public ::testing::TestWithParam<Refusal> {};

TEST_P(DeformRoIPool2dShapeRefusals, SayExpectedAndActual) {
  Node node = GetParam().psroi ? Node::psroi() : Node();
  GetParam().change(&node);
  EXPECT_EQ(node.refusal(), GetParam().message);
}

constexpr std::int64_t k2To32 = std::int64_t{1} << 32;

INSTANTIATE_TEST_SUITE_P(
    DeformRoIPool2dShape, DeformRoIPool2dShapeRefusals,
    ::testing::Values(
        Refusal{"XRank", false, [](Node* n) { n->x = {6, 9, 12}; },
                "input X: expected rank 4 [N, C, H, W], got rank 3"},
        Refusal{"XEmpty", false, [](Node* n) { n->x[2] = 0; },
                "input X [N, C, H, W]: expected at least 1 along axis 2, got 0"},
        Refusal{"RoisRank", false, [](Node* n) { n->rois = {5}; },
                "input rois: expected rank 2 [R, 5], got rank 1"},
        Refusal{"RoisColumns", false, [](Node* n) { n->rois = {5, 4}; },
                "input rois, axis 1: expected 5 (batch index, x1, y1, x2, y2), got 4"},
        Refusal{"OffsetRank", false, [](Node* n) { n->offset.pop_back(); },
                "input offset: expected rank 4 [R, 2, pH, pW], got rank 3"},
        Refusal{"OffsetRankPsroi", true, [](Node* n) { n->offset.pop_back(); },
                "input offset: expected rank 4 [R, 2·classes, part, part], got rank 3"},
        Refusal{"MaskRank", false, [](Node* n) { n->mask.pop_back(); },
                "input mask: expected rank 4 [R, 1, pH, pW], got rank 3"},
        Refusal{"MaskRankPsroi", true, [](Node* n) { n->mask.pop_back(); },
                "input mask: expected rank 4 [R, classes, part, part], got rank 3"},
        Refusal{"OffsetRoIs", false, [](Node* n) { n->offset[0] = 4; },
                "input offset, axis 0 (R): expected 5 (the RoIs of rois), got 4"},
        Refusal{"MaskRoIs", true, [](Node* n) { n->mask[0] = 6; },
                "input mask, axis 0 (R): expected 5 (the RoIs of rois), got 6"},
        Refusal{"MaskRoIsOfOffset", true,
                [](Node* n) {
                  n->rois[0] = kUnknown;
                  n->mask[0] = 6;
                },
                "input mask, axis 0 (R): expected 5 (the RoIs of offset), got 6"},
        Refusal{"OutputSizeMissing", false, [](Node* n) { n->attributes.output_h = 0; },
                "attribute output_size[0]: expected at least 1, got 0"},
        Refusal{"OutputSizeNegative", false, [](Node* n) { n->attributes.output_w = -3; },
                "attribute output_size[1]: expected at least 1, got -3"},
        Refusal{"ScaleZero", false, [](Node* n) { n->attributes.spatial_scale = 0; },
                "attribute spatial_scale: expected a finite number above 0, got 0"},
        Refusal{"ScaleNegative", false, [](Node* n) { n->attributes.spatial_scale = -0.5f; },
                "attribute spatial_scale: expected a finite number above 0, got -0.5"},
        Refusal{"ScaleNan", false, [](Node* n) { n->attributes.spatial_scale = kNan; },
                "attribute spatial_scale: expected a finite number above 0, got nan"},
        Refusal{"GammaInfinite", false, [](Node* n) { n->attributes.gamma = -kInfinity; },
                "attribute gamma: expected a finite number, got -inf"},
        Refusal{"SamplingRatioNegative", false, [](Node* n) { n->attributes.sampling_ratio = -1; },
                "attribute sampling_ratio: expected at least 0, got -1"},
        Refusal{"SamplingRatioNegativeOfPsroi", true,
                [](Node* n) { n->attributes.sampling_ratio = -1; },
                "attribute sampling_ratio: expected at least 0, got -1"},
        Refusal{"SamplePerPartZero", true, [](Node* n) { n->attributes.sample_per_part = 0; },
                "attribute sample_per_part: expected at least 1, got 0"},
        Refusal{"SamplePerPartZeroOfAligned", false,
                [](Node* n) { n->attributes.sample_per_part = 0; },
                "attribute sample_per_part: expected at least 1, got 0"},
        Refusal{"GroupSizeZero", true, [](Node* n) { n->attributes.group_size = 0; },
                "attribute group_size: expected at least 1, got 0"},
        Refusal{"PartSizeNegative", true, [](Node* n) { n->attributes.part_size = -1; },
                "attribute part_size: expected at least 0, got -1"},
        Refusal{"OutputChannelsNegative", true, [](Node* n) { n->attributes.output_channels = -1; },
                "attribute output_channels: expected at least 0, got -1"},
        Refusal{"AlignedGroup", false, [](Node* n) { n->attributes.group_size = 2; },
                "attribute group_size: expected 1 (variant aligned has no channel groups), got 2"},
        Refusal{"AlignedOutputChannels", false, [](Node* n) { n->attributes.output_channels = 5; },
                "attribute output_channels: expected 6 (the channels of X, with variant aligned), "
                "got 5"},
        Refusal{"AlignedOffsetChannels", false, [](Node* n) { n->offset[1] = 4; },
                "input offset, axis 1: expected 2 (x and y, with variant aligned), got 4"},
        Refusal{"AlignedMaskChannels", false, [](Node* n) { n->mask[1] = 2; },
                "input mask, axis 1: expected 1 (with variant aligned), got 2"},
        Refusal{"AlignedOffsetHeight", false, [](Node* n) { n->offset[2] = 4; },
                "input offset, axis 2 (pH): expected 3 (output_size[0]), got 4"},
        Refusal{"AlignedMaskWidth", false, [](Node* n) { n->mask[3] = 3; },
                "input mask, axis 3 (pW): expected 4 (output_size[1]), got 3"},
        Refusal{"PsroiGroup", true, [](Node* n) { n->attributes.group_size = 5; },
                "attribute group_size: expected one whose square divides the 24 channels of X, "
                "got 5"},
        Refusal{"PsroiGroupOverflow", true, [](Node* n) { n->attributes.group_size = k2To32; },
                "attribute group_size: expected a square that fits in 64 bits, got 4294967296"},
        Refusal{"PsroiOutputChannels", true, [](Node* n) { n->attributes.output_channels = 3; },
                "attribute output_channels: expected 6 (X has 24 channels, group_size is 2), got "
                "3"},
        Refusal{"PsroiOutputChannelsOverflow", true,
                [](Node* n) {
                  n->x[1] = kUnknown;
                  n->attributes.group_size = 1 << 30;
                  n->attributes.output_channels = 9;
                },
                "attribute output_channels: expected output_channels·group_size² to fit in 64 "
                "bits, got 9·1073741824²"},
        Refusal{"PsroiOffsetChannels", true, [](Node* n) { n->offset[1] = 5; },
                "input offset, axis 1: expected an even number (2·classes), got 5"},
        Refusal{"PsroiMaskChannels", true, [](Node* n) { n->mask[1] = 2; },
                "input mask, axis 1: expected 3 (the classes of offset), got 2"},
        Refusal{"PsroiClasses", true,
                [](Node* n) {
                  n->offset[1] = 8;
                  n->mask[1] = 4;
                },
                "input offset, axis 1: expected a number of classes that divides the 6 output "
                "channels, got 4 classes"},
        Refusal{"PsroiClassesOfMask", true,
                [](Node* n) {
                  n->has_offset = false;
                  n->mask[1] = 4;
                },
                "input mask, axis 1: expected a number of classes that divides the 6 output "
                "channels, got 4 classes"},
        Refusal{"PsroiPartsDiffer", true, [](Node* n) { n->offset[3] = 6; },
                "input offset, axis 3: expected 7 (as many parts as along axis 2), got 6"},
        Refusal{"PsroiPartsOfMask", true, [](Node* n) { n->mask[2] = n->mask[3] = 6; },
                "input mask, axis 2: expected 7 (the parts of offset), got 6"},
        Refusal{"PsroiPartSize", true, [](Node* n) { n->attributes.part_size = 3; },
                "input offset, axis 2: expected 3 (part_size), got 7"},
        Refusal{"PsroiPartSizeOfMask", true,
                [](Node* n) {
                  n->has_offset = false;
                  n->attributes.part_size = 3;
                },
                "input mask, axis 2: expected 3 (part_size), got 7"},
        Refusal{"Plane", false, [](Node* n) { n->x[2] = n->x[3] = 1 << 16; },
                "input X: expected at most 2^31 - 1 pixels in a channel, got 65536x65536"},
        Refusal{"PlaneOverflow", false, [](Node* n) { n->x[2] = n->x[3] = k2To32; },
                "input X: expected at most 2^31 - 1 pixels in a channel, got "
                "4294967296x4294967296"},
        Refusal{"CountOfX", false, [](Node* n) { n->x[0] = k2To32 << 29; },
                "input X: expected a size in bytes that fits in 64 bits, got the shape "
                "[2305843009213693952, 6, 9, 12]"},
        Refusal{"CountOfRois", false,
                [](Node* n) {
                  n->has_offset = n->has_mask = false;
                  n->rois[0] = k2To32 << 28;
                },
                "input rois: expected a size in bytes that fits in 64 bits, got the shape "
                "[1152921504606846976, 5]"},
        Refusal{"CountOfY", false,
                [](Node* n) {
                  n->has_offset = n->has_mask = false;
                  n->attributes.output_h = n->attributes.output_w = k2To32;
                },
                "output Y: expected a size in bytes that fits in 64 bits, got the shape "
                "[5, 6, 4294967296, 4294967296]"},
        Refusal{"CountOfOffset", true,
                [](Node* n) {
                  n->has_mask = false;
                  n->offset = {5, 2, k2To32, k2To32};
                },
                "input offset: expected a size in bytes that fits in 64 bits, got the shape "
                "[5, 2, 4294967296, 4294967296]"},
        Refusal{"CountOfMask", true,
                [](Node* n) {
                  n->has_offset = false;
                  n->mask = {5, 1, k2To32, k2To32};
                },
                "input mask: expected a size in bytes that fits in 64 bits, got the shape "
                "[5, 1, 4294967296, 4294967296]"}),
    [](const ::testing::TestParamInfo<Refusal>& tested) { return std::string(tested.param.name); });

TEST(DeformRoIPool2dShape, NoRoIsAndNoImagesAreSound) {
  Node node;
  node.x[0] = node.rois[0] = node.offset[0] = node.mask[0] = 0;
  DeformRoIPool2dParams p;
  const Status status = resolve_deform_roi_pool(node.attributes, node.shapes(), &p);
  ASSERT_TRUE(status.ok()) << status.message;
  EXPECT_EQ(p.rois, 0);
  EXPECT_EQ(p.batch, 0);
}

TEST(DeformRoIPool2dShape, CountsPast2To31AreSound) {
  Node node;
  node.x[0] = node.rois[0] = node.offset[0] = node.mask[0] = std::int64_t{1} << 33;
  EXPECT_EQ(node.refusal(), "");
}

TEST(DeformRoIPool2dShape, UnknownPartsPassTheCheckAndFailToResolve) {
  for (const bool psroi : {false, true}) {
    for (int input = 0; input < 4; ++input) {
      const Node node = psroi ? Node::psroi() : Node();
      std::vector<std::int64_t> dims;
      DeformRoIPool2dShapes shapes = node.shapes();
      ShapeView* views[] = {&shapes.x, &shapes.rois, &shapes.offset, &shapes.mask};
      const char* names[] = {"X", "rois", "offset", "mask"};
      ShapeView& view = *views[input];
      dims.assign(view.dims, view.dims + view.rank);
      for (int axis = -1; axis < static_cast<int>(dims.size()); ++axis) {
        std::vector<std::int64_t> changed = dims;
        if (axis >= 0) changed[static_cast<std::size_t>(axis)] = kUnknown;
        view = axis < 0 ? ShapeView{} : Node::view(changed);
        EXPECT_TRUE(check_deform_roi_pool(node.attributes, shapes).ok()) << names[input] << axis;
        DeformRoIPool2dParams p;
        EXPECT_EQ(resolve_deform_roi_pool(node.attributes, shapes, &p).message,
                  std::string("input ") + names[input] +
                      ": expected a shape known in full, got one with unknown parts");
      }
    }
  }
}

TEST(DeformRoIPool2dShape, ContradictionsAreFoundBetweenUnknownParts) {
  Node node = Node::psroi();
  node.x = {kUnknown, kUnknown, kUnknown, kUnknown};
  node.rois = {kUnknown, kUnknown};
  node.attributes.output_channels = 4;
  EXPECT_EQ(node.refusal(),
            "input offset, axis 1: expected a number of classes that divides the 4 output "
            "channels, got 3 classes");
}

}  // namespace
}  // namespace dcn_deploy
