// Every type and format of every tensor against a table written independently of the plugins'.

#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "layer.h"

namespace dcn_deploy {
namespace tensorrt {
namespace {

constexpr DataType kFloat = DataType::kFLOAT;
constexpr DataType kHalf = DataType::kHALF;
constexpr DataType kBf16 = DataType::kBF16;
constexpr TensorFormat kLinear = TensorFormat::kLINEAR;
constexpr TensorFormat kHwc8 = TensorFormat::kHWC8;

constexpr DataType kTypes[] = {kFloat,           kHalf,           kBf16,           DataType::kINT8,
                               DataType::kINT32, DataType::kBOOL, DataType::kINT64};
constexpr TensorFormat kFormats[] = {
    kLinear,
    TensorFormat::kCHW2,
    kHwc8,
    TensorFormat::kCHW4,
    TensorFormat::kCHW16,
    TensorFormat::kCHW32,
    TensorFormat::kDHWC8,
    TensorFormat::kCDHW32,
    TensorFormat::kHWC,
    TensorFormat::kDHWC,
    TensorFormat::kHWC16,
};

using Kind = std::tuple<DataType, TensorFormat>;

std::string described(const std::vector<Kind>& kinds) {
  std::string text;
  for (const Kind& kind : kinds) {
    text += std::to_string(static_cast<int>(std::get<0>(kind))) + "/" +
            std::to_string(static_cast<int>(std::get<1>(kind))) + " ";
  }
  return text;
}

// What the plugin takes of all types and formats, found as TensorRT does: position after position.
void explore(nvinfer1::IPluginV3& plugin, const std::vector<std::vector<std::int64_t>>& sizes,
             std::vector<Kind>* chosen, std::set<std::vector<Kind>>* all) {
  const std::size_t position = chosen->size();
  if (position == sizes.size()) {
    all->insert(*chosen);
    return;
  }
  Tensors tensors;
  for (std::size_t i = 0; i < position; ++i) {
    tensors.push_back(tensor(std::get<0>((*chosen)[i]), std::get<1>((*chosen)[i]), sizes[i]));
  }
  for (const DataType type : kTypes) {
    for (const TensorFormat format : kFormats) {
      Tensors seen = tensors;
      seen.push_back(tensor(type, format, sizes[position]));
      seen.resize(sizes.size());
      const auto descs = dynamic(seen);
      if (!build_of(plugin).supportsFormatCombination(static_cast<int>(position), descs.data(),
                                                      static_cast<int>(sizes.size()) - 1, 1)) {
        continue;
      }
      chosen->push_back({type, format});
      explore(plugin, sizes, chosen, all);
      chosen->pop_back();
    }
  }
}

std::set<std::vector<Kind>> explored(nvinfer1::IPluginV3& plugin,
                                     const std::vector<std::vector<std::int64_t>>& sizes) {
  std::vector<Kind> chosen;
  std::set<std::vector<Kind>> all;
  explore(plugin, sizes, &chosen, &all);
  return all;
}

void expect_same(const std::set<std::vector<Kind>>& actual,
                 const std::set<std::vector<Kind>>& expected) {
  for (const auto& kinds : actual) {
    EXPECT_EQ(expected.count(kinds), 1u) << "not in the table: " << described(kinds);
  }
  for (const auto& kinds : expected) {
    EXPECT_EQ(actual.count(kinds), 1u) << "refused: " << described(kinds);
  }
}

// Type; whether X, and whether Y, may also be channels-last.
struct Row {
  DataType type;
  bool x_hwc8;
  bool y_hwc8;
};

std::vector<TensorFormat> formats(bool hwc8) {
  return hwc8 ? std::vector<TensorFormat>{kLinear, kHwc8} : std::vector<TensorFormat>{kLinear};
}

// The table: X, Y, and the others' types.
std::set<std::vector<Kind>> conv2d_table(const std::vector<Row>& rows, bool bias, bool mask) {
  std::set<std::vector<Kind>> all;
  for (const Row& row : rows) {
    for (const TensorFormat x : formats(row.x_hwc8)) {
      for (const TensorFormat y : formats(row.y_hwc8)) {
        for (const DataType offset : {row.type, kFloat}) {
          for (const DataType mask_type : {row.type, kFloat}) {
            std::vector<Kind> kinds = {{row.type, x}, {row.type, kLinear}, {offset, kLinear}};
            if (bias) kinds.push_back({row.type, kLinear});
            if (mask) kinds.push_back({mask_type, kLinear});
            kinds.push_back({row.type, y});
            all.insert(kinds);
          }
        }
      }
    }
  }
  return all;
}

class Formats : public PluginTest {};

TEST_F(Formats, OfDeformConv2d) {
  for (const bool mask : {false, true}) {
    SCOPED_TRACE(mask);
    std::vector<std::vector<std::int64_t>> sizes = {
        {2, 16, 5, 6}, {24, 16, 3, 3}, {2, 18, 5, 6}, {24}, {2, 24, 5, 6}};
    if (mask) sizes.insert(sizes.begin() + 4, {2, 9, 5, 6});
    const PluginPointer plugin = create(creator("DeformConv2d"), {});
    expect_same(explored(*plugin, sizes),
                conv2d_table({{kFloat, false, false}, {kHalf, true, true}, {kBf16, true, true}},
                             true, mask));
  }
}

TEST_F(Formats, OfDeformConv2dWithMaskAndNoBias) {
  const PluginPointer plugin =
      create(creator("DeformConv2d"), FieldList().text("optional_inputs", "mask"));
  expect_same(explored(*plugin,
                       {{2, 16, 5, 6}, {24, 16, 3, 3}, {2, 18, 5, 6}, {2, 9, 5, 6}, {2, 24, 5, 6}}),
              conv2d_table({{kFloat, false, false}, {kHalf, true, true}, {kBf16, true, true}},
                           false, true));
}

// Channels that are no multiple of 8 are padded by TensorRT, and those that it does not know yet
// may be.
TEST_F(Formats, ChannelsLastOnlyForMultiplesOfEight) {
  const PluginPointer plugin = create(creator("DeformConv2d"), {});
  const struct {
    std::int64_t in_channels, out_channels;
    bool x, y;
  } cases[] = {{12, 24, false, true}, {16, 20, true, false}, {4, 4, false, false},
               {-1, 8, false, true},  {8, -1, true, false},  {8, 8, true, true}};
  for (const auto& c : cases) {
    SCOPED_TRACE(std::to_string(c.in_channels) + " to " + std::to_string(c.out_channels));
    expect_same(
        explored(*plugin, {{2, c.in_channels, 5, 6},
                           {c.out_channels, c.in_channels, 1, 1},
                           {2, 2, 5, 6},
                           {2, c.out_channels, 5, 6}}),
        conv2d_table({{kFloat, false, false}, {kHalf, c.x, c.y}, {kBf16, c.x, c.y}}, false, false));
  }
}

TEST_F(Formats, OfDeformRoIPool2d) {
  const PluginPointer plugin =
      create(creator("DeformRoIPool2d"), FieldList().integers("output_size", {3, 3}));
  std::set<std::vector<Kind>> table;
  for (const DataType type : {kFloat, kHalf, kBf16}) {
    for (const TensorFormat x : formats(type != kFloat)) {
      for (const TensorFormat y : formats(type != kFloat)) {
        for (const DataType rois : {type, kFloat}) {
          for (const DataType offset : {type, kFloat}) {
            for (const DataType mask : {type, kFloat}) {
              table.insert(
                  {{type, x}, {rois, kLinear}, {offset, kLinear}, {mask, kLinear}, {type, y}});
            }
          }
        }
      }
    }
  }
  expect_same(explored(*plugin, {{2, 8, 5, 6}, {7, 5}, {7, 2, 3, 3}, {7, 1, 3, 3}, {7, 8, 3, 3}}),
              table);
}

// With scales: X, W and perhaps Y are int8, channels-last in multiples of 16; offset and mask of
// any floating-point type, B and a Y without a scale float32.
TEST_F(Formats, OfInt8DeformConv2d) {
  constexpr DataType kInt8 = DataType::kINT8;
  const auto formats_of = [](std::int64_t channels) {
    return channels % 16 == 0 ? std::vector<TensorFormat>{kLinear, TensorFormat::kHWC16}
                              : std::vector<TensorFormat>{kLinear};
  };
  const struct {
    std::int64_t in_channels, out_channels;
    bool y_scale;
  } cases[] = {{16, 32, true}, {16, 32, false}, {24, 32, true}, {32, 24, true}};
  for (const auto& c : cases) {
    SCOPED_TRACE(std::to_string(c.in_channels) + " to " + std::to_string(c.out_channels) +
                 (c.y_scale ? "" : " in float32"));
    FieldList fields;
    fields.real("x_scale", 1).real("weight_scale", 1);
    if (c.y_scale) fields.real("y_scale", 1);
    const PluginPointer plugin = create(creator("DeformConv2d"), fields);
    std::set<std::vector<Kind>> table;
    const std::vector<TensorFormat> linear = {kLinear};
    for (const TensorFormat x : formats_of(c.in_channels)) {
      for (const TensorFormat y : c.y_scale ? formats_of(c.out_channels) : linear) {
        for (const DataType offset : {kFloat, kHalf, kBf16}) {
          for (const DataType mask : {kFloat, kHalf, kBf16}) {
            table.insert({{kInt8, x},
                          {kInt8, kLinear},
                          {offset, kLinear},
                          {kFloat, kLinear},
                          {mask, kLinear},
                          {c.y_scale ? kInt8 : kFloat, y}});
          }
        }
      }
    }
    expect_same(explored(*plugin, {{2, c.in_channels, 5, 6},
                                   {c.out_channels, c.in_channels, 3, 3},
                                   {2, 18, 5, 6},
                                   {c.out_channels},
                                   {2, 9, 5, 6},
                                   {2, c.out_channels, 5, 6}}),
                table);
    DataType y{};
    const DataType inputs[] = {kInt8, kInt8, kFloat};
    EXPECT_EQ(build_of(*plugin).getOutputDataTypes(&y, 1, inputs, 3), 0);
    EXPECT_EQ(y, c.y_scale ? kInt8 : kFloat);
    const DataType floats[] = {kHalf, kHalf, kFloat};
    EXPECT_NE(build_of(*plugin).getOutputDataTypes(&y, 1, floats, 3), 0);
    EXPECT_EQ(message(),
              "dcn_deploy: DeformConv2d 'layer': input X: expected int8, since there are scales, "
              "got float16");
  }
}

TEST_F(Formats, OutputHasTheTypeOfX) {
  const PluginPointer plugin = create(creator("DeformConv2d"), {});
  for (const DataType type : {kFloat, kHalf, kBf16}) {
    const DataType inputs[] = {type, type, kFloat};
    DataType y = DataType::kINT32;
    EXPECT_EQ(build_of(*plugin).getOutputDataTypes(&y, 1, inputs, 3), 0);
    EXPECT_EQ(y, type);
  }
}

TEST_F(Formats, RefusedTypesAreNamed) {
  const PluginPointer plugin = create(creator("DeformConv2d"), {});
  DataType y{};
  const auto refusal = [&](std::vector<DataType> inputs) {
    EXPECT_NE(
        build_of(*plugin).getOutputDataTypes(&y, 1, inputs.data(), static_cast<int>(inputs.size())),
        0);
    return message();
  };
  EXPECT_EQ(refusal({DataType::kINT32, kFloat, kFloat}),
            "dcn_deploy: DeformConv2d 'layer': input X: expected one of float32, float16, "
            "bfloat16, got int32");
  EXPECT_EQ(refusal({kHalf, kFloat, kFloat}),
            "dcn_deploy: DeformConv2d 'layer': input W: expected the type of X, float16, got "
            "float32");
  EXPECT_EQ(refusal({kHalf, kHalf, kBf16}),
            "dcn_deploy: DeformConv2d 'layer': input offset: expected float32 or the type of X, "
            "float16, got bfloat16");
  EXPECT_EQ(refusal({kFloat, kFloat, kFloat, kFloat, kHalf}),
            "dcn_deploy: DeformConv2d 'layer': input mask: expected the type of X, float32, got "
            "float16");
}

TEST_F(Formats, RefusedFormatsAreNamed) {
  const PluginPointer plugin = create(creator("DeformConv2d"), {});
  const std::vector<std::int64_t> x = {1, 12, 5, 6}, w = {8, 12, 1, 1}, offset = {1, 2, 5, 6},
                                  y = {1, 8, 5, 6};
  EXPECT_NE(change_shapes(*plugin, {tensor(kHalf, kHwc8, x), tensor(kHalf, kLinear, w),
                                    tensor(kFloat, kLinear, offset), tensor(kHalf, kLinear, y)}),
            0);
  EXPECT_EQ(message(),
            "dcn_deploy: DeformConv2d 'layer': input X: expected one of float32 kLINEAR, float16 "
            "kLINEAR, bfloat16 kLINEAR, float16 kHWC8 of a multiple of 8 channels, bfloat16 kHWC8 "
            "of a multiple of 8 channels, got float16 kHWC8 of 12 channels");
  EXPECT_NE(change_shapes(*plugin, {tensor(kHalf, kLinear, x), tensor(kHalf, kHwc8, w),
                                    tensor(kFloat, kLinear, offset), tensor(kHalf, kLinear, y)}),
            0);
  EXPECT_EQ(message(),
            "dcn_deploy: DeformConv2d 'layer': input W: expected the format kLINEAR, got kHWC8");
  EXPECT_NE(change_shapes(*plugin, {tensor(kHalf, kLinear, x), tensor(kHalf, kLinear, w),
                                    tensor(kFloat, kLinear, offset), tensor(kFloat, kLinear, y)}),
            0);
  EXPECT_EQ(message(),
            "dcn_deploy: DeformConv2d 'layer': output Y: expected the type of X, float16, got "
            "float32");
}

}  // namespace
}  // namespace tensorrt
}  // namespace dcn_deploy
