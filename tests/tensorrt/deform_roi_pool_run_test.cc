// DeformRoIPool2d from the node to the numbers, against the double reference.

#include <gtest/gtest.h>

#include <cstdint>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "comparison.h"
#include "core/deform_roi_pool_reference.h"
#include "deform_roi_pool_cases.h"
#include "layer_memory.h"
#include "random_tensors.h"

namespace dcn_deploy {
namespace tensorrt {
namespace {

using testing::close;
using testing::DeformRoIPool2dCase;
using testing::seed_trace;

constexpr TensorFormat kLinear = TensorFormat::kLINEAR;
constexpr TensorFormat kHwc8 = TensorFormat::kHWC8;

constexpr RoIPoolVariant kAligned = RoIPoolVariant::kAligned;
constexpr RoIPoolVariant kPsroi = RoIPoolVariant::kPsroi;

// As in deform_roi_pool_cases.cc.
const DeformRoIPool2dCase kCases[] = {
    {"Plain", kAligned, 2, 8, 9, 7, 5, 3, 2, 0.5f, 2, 1, 1, 0},
    {"SamplesBySize", kAligned, 1, 16, 9, 11, 4, 2, 3, 1.0f, 0, 1, 1, 0},
    {"OnePixelMap", kAligned, 2, 3, 1, 1, 5, 2, 3, 1.0f, 2, 1, 1, 0},
    {"Group2", kPsroi, 2, 8, 7, 9, 5, 3, 3, 0.5f, 3, 2, 1, 3},
    {"Classes3Parts2", kPsroi, 2, 9, 7, 9, 5, 3, 2, 0.5f, 4, 1, 3, 2},
};

FieldList fields_of(const DeformRoIPool2dCase& c) {
  const auto narrow = [](std::int64_t value) { return static_cast<std::int32_t>(value); };
  FieldList fields;
  fields.text("variant", c.variant == kAligned ? "aligned" : "psroi")
      .integers("output_size", {narrow(c.out_h), narrow(c.out_w)})
      .real("spatial_scale", c.spatial_scale)
      .real("gamma", 0.1f);
  if (c.variant == kAligned) return fields.integers("sampling_ratio", {narrow(c.samples)});
  return fields.integers("sample_per_part", {narrow(c.samples)})
      .integers("group_size", {narrow(c.group_size)})
      .integers("part_size", {narrow(c.parts)})
      .integers("output_channels", {narrow(c.out_channels)});
}

struct Storage {
  DType features = DType::kFloat32;
  DType rois = DType::kFloat32;
  DType offset = DType::kFloat32;
  DType mask = DType::kFloat32;
  TensorFormat x = kLinear;
  TensorFormat y = kLinear;
};

class DeformRoIPool2dRuns : public PluginTest {
 protected:
  DeformRoIPool2dRuns() : random_(testing::seed()) {}

  // Through all phases; the reference beside it.
  void compare(const DeformRoIPool2dCase& c, const Storage& s, bool offset, bool mask) {
    const DeformRoIPool2dParams p = testing::params_of(c);
    const testing::DeformRoIPool2dValues values = testing::random_values(p, offset, mask, &random_);
    LayerMemory memory;
    const std::vector<double> x =
        memory.add_input(values.x, s.features, s.x, {p.batch, p.in_channels, p.in_h, p.in_w});
    const std::vector<double> rois = memory.add_input(values.rois, s.rois, kLinear, {p.rois, 5});
    std::vector<double> offsets, masks;
    if (offset) {
      offsets = memory.add_input(*values.offset, s.offset, kLinear,
                                 {p.rois, 2 * p.classes, p.part_h, p.part_w});
    }
    if (mask) {
      masks =
          memory.add_input(*values.mask, s.mask, kLinear, {p.rois, p.classes, p.part_h, p.part_w});
    }
    memory.set_output(s.features, s.y, {p.rois, p.out_channels, p.out_h, p.out_w});

    FieldList fields = fields_of(c);
    if (mask && !offset) fields.text("optional_inputs", "mask");
    const PluginPointer built = create(creator("DeformRoIPool2d"), fields);
    ASSERT_NE(built, nullptr) << message();
    ASSERT_EQ(build(*built, memory.tensors()), 0) << message();
    EXPECT_EQ(workspace_bytes(*built, memory.tensors()), 0u);
    EXPECT_EQ(build_of(*built).getNbTactics(), 0);
    const PluginPointer attached = attach(*read_back(creator("DeformRoIPool2d"), *built));
    ASSERT_NE(attached, nullptr) << message();
    ASSERT_EQ(change_shapes(*attached, memory.tensors()), 0) << message();

    std::vector<double> expected(
        static_cast<std::size_t>(p.rois * p.out_channels * p.out_h * p.out_w));
    deform_roi_pool_reference(p, x.data(), rois.data(), offset ? offsets.data() : nullptr,
                              mask ? masks.data() : nullptr, expected.data());
    EXPECT_TRUE(close(memory.run(*attached, 0), expected, s.features));
  }

  std::mt19937_64 random_;
};

TEST_F(DeformRoIPool2dRuns, AgreeWithTheReferenceInEveryFormat) {
  SCOPED_TRACE(seed_trace());
  constexpr DType kFloat32 = DType::kFloat32;
  std::vector<DeformRoIPool2dCase> cases(std::begin(kCases), std::end(kCases));
  for (const DeformRoIPool2dCase& c : testing::deform_roi_pool_cases()) {
    const std::string name = c.name;
    if (name != "LongRows" && name != "ManyRoIs") cases.push_back(c);
  }
  for (const DeformRoIPool2dCase& c : cases) {
    std::vector<Storage> storages = {{}};
    for (const DType half : {DType::kFloat16, DType::kBFloat16}) {
      storages.push_back({half, kFloat32, kFloat32, kFloat32, kLinear, kLinear});
      storages.push_back({half, kFloat32, half, half, kLinear, kLinear});
      if (testing::params_of(c).in_channels % 8 != 0 || c.out_channels % 8 != 0) continue;
      storages.push_back({half, kFloat32, kFloat32, half, kHwc8, kHwc8});
      storages.push_back({half, kFloat32, half, kFloat32, kLinear, kHwc8});
      storages.push_back({half, kFloat32, kFloat32, kFloat32, kHwc8, kLinear});
    }
    int number = 0;
    for (const Storage& storage : storages) {
      SCOPED_TRACE(std::string(c.name) + ", storage " + std::to_string(number++));
      compare(c, storage, true, true);
    }
  }
}

TEST_F(DeformRoIPool2dRuns, AgreeWithTheReferenceWithoutOptionalInputs) {
  SCOPED_TRACE(seed_trace());
  for (const bool offset : {false, true}) {
    for (const bool mask : {false, true}) {
      SCOPED_TRACE(std::string(offset ? "offset" : "no offset") + (mask ? ", mask" : ", no mask"));
      compare(kCases[0], {}, offset, mask);
      compare(kCases[3], {}, offset, mask);
    }
  }
}

TEST_F(DeformRoIPool2dRuns, OfNoRoIsDoNothing) {
  DeformRoIPool2dCase none = kCases[0];
  none.rois = 0;
  compare(none, {}, true, true);
}

TEST_F(DeformRoIPool2dRuns, RoIsOfNoImageGiveZeros) {
  const PluginPointer plugin =
      create(creator("DeformRoIPool2d"),
             FieldList().integers("output_size", {2, 2}).integers("sampling_ratio", {2}));
  LayerMemory memory;
  memory.add_input(std::vector<double>(2 * 3 * 5 * 5, 1.0), DType::kFloat32, kLinear, {2, 3, 5, 5});
  const double nan = std::numeric_limits<double>::quiet_NaN();
  memory.add_input({0, 1, 1, 3, 3, 2, 1, 1, 3, 3, -1, 1, 1, 3, 3, nan, 1, 1, 3, 3}, DType::kFloat32,
                   kLinear, {4, 5});
  memory.set_output(DType::kFloat32, kLinear, {4, 3, 2, 2});
  ASSERT_EQ(change_shapes(*plugin, memory.tensors()), 0) << message();
  const std::vector<double> y = memory.run(*plugin, 0);
  ASSERT_EQ(y.size(), 48u);
  for (std::size_t i = 0; i < y.size(); ++i) EXPECT_EQ(y[i], i < 12 ? 1.0 : 0.0) << i;
}

TEST_F(DeformRoIPool2dRuns, RefuseWhatDoesNotFit) {
  const PluginPointer plugin =
      create(creator("DeformRoIPool2d"), FieldList().integers("output_size", {2, 2}));
  const auto linear = [](const std::vector<std::int64_t>& sizes) {
    return tensor(DataType::kFLOAT, kLinear, sizes);
  };
  EXPECT_NE(change_shapes(*plugin, {linear({1, 3, 5, 5}), linear({4, 4}), linear({4, 3, 2, 2})}),
            0);
  EXPECT_EQ(message(),
            "dcn_deploy: DeformRoIPool2d 'layer': input rois, axis 1: expected 5 (batch index, x1, "
            "y1, x2, y2), got 4");
  EXPECT_NE(runtime_of(*plugin).setTactic(1), 0);
  EXPECT_EQ(message(),
            "dcn_deploy: DeformRoIPool2d 'layer': tactic: expected 0, got 1. Rebuild the engine "
            "with this library");
}

}  // namespace
}  // namespace tensorrt
}  // namespace dcn_deploy
