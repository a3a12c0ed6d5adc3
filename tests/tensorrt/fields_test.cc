// Fields: from the ONNX parser and from programs, into an engine and back.

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "layer.h"

namespace dcn_deploy {
namespace tensorrt {
namespace {

constexpr nvinfer1::TensorRTPhase kBuild = nvinfer1::TensorRTPhase::kBUILD;
constexpr nvinfer1::TensorRTPhase kRuntime = nvinfer1::TensorRTPhase::kRUNTIME;

class Fields : public PluginTest {
 protected:
  std::string metadata(const PluginPointer& plugin) {
    if (plugin == nullptr) return "refused: " + message();
    return build_of(*plugin).getMetadataString();
  }

  // What is said when there is no plugin to be had.
  std::string refusal(const std::string& op_type, const FieldList& fields,
                      nvinfer1::TensorRTPhase phase = kBuild) {
    const PluginPointer plugin = create(creator(op_type), fields, phase);
    EXPECT_EQ(plugin, nullptr);
    const std::string said = message();
    const std::string where = "dcn_deploy: " + op_type + " 'layer': ";
    EXPECT_EQ(said.substr(0, where.size()), where);
    return said.substr(std::min(where.size(), said.size()));
  }

  FieldList written(const std::string& op_type, const FieldList& fields) {
    const PluginPointer plugin = create(creator(op_type), fields);
    return FieldList(*runtime_of(*plugin).getFieldsToSerialize());
  }
};

FieldList conv2d_fields() {
  return FieldList()
      .integers("kernel_shape", {3, 2})
      .integers("strides", {2, 3})
      .integers("pads", {1, 2, 3, 4})
      .integers("dilations", {3, 1})
      .integers("group", {2})
      .integers("offset_group", {4})
      .integers("allow_tf32", {1})
      .integers("constant_weights", {1})
      .text("optional_inputs", "mask");
}

FieldList int8_fields(const std::vector<float>& weight_scale) {
  return FieldList().real("x_scale", 0.1f).reals("weight_scale", weight_scale).real("y_scale", 2);
}

FieldList roi_pool_fields() {
  return FieldList()
      .text("variant", "psroi")
      .integers("output_size", {3, 5})
      .real("spatial_scale", 0.0625f)
      .real("gamma", 0.3f)
      .integers("sampling_ratio", {3})
      .integers("sample_per_part", {5})
      .integers("group_size", {2})
      .integers("part_size", {7})
      .integers("output_channels", {6})
      .text("optional_inputs", "mask");
}

TEST_F(Fields, AreTheAttributesOfTheNode) {
  EXPECT_EQ(
      metadata(create(creator("DeformConv2d"), conv2d_fields())),
      "kernel_shape=3,2;strides=2,3;pads=1,2,3,4;dilations=3,1;group=2;offset_group=4;"
      "x_scale=0;weight_scale=0;y_scale=0;allow_tf32=1;constant_weights=1;optional_inputs=mask;");
  EXPECT_EQ(metadata(create(creator("DeformRoIPool2d"), roi_pool_fields())),
            "variant=psroi;output_size=3,5;spatial_scale=0.0625;gamma=0.300000012;"
            "sampling_ratio=3;sample_per_part=5;group_size=2;part_size=7;output_channels=6;"
            "optional_inputs=mask;");
}

TEST_F(Fields, HaveTheDefaultsOfTheOperators) {
  EXPECT_EQ(metadata(create(creator("DeformConv2d"), {})),
            "kernel_shape=-1,-1;strides=1,1;pads=0,0,0,0;dilations=1,1;group=1;offset_group=1;"
            "x_scale=0;weight_scale=0;y_scale=0;allow_tf32=0;constant_weights=0;optional_inputs=;");
  EXPECT_EQ(
      metadata(create(creator("DeformRoIPool2d"), FieldList().integers("output_size", {7, 7}))),
      "variant=aligned;output_size=7,7;spatial_scale=1;gamma=0.100000001;sampling_ratio=0;"
      "sample_per_part=4;group_size=1;part_size=0;output_channels=0;optional_inputs=;");
}

TEST_F(Fields, MayBeWideAndTextsMayHaveAnEnd) {
  const std::string narrow = metadata(create(creator("DeformConv2d"), conv2d_fields()));
  EXPECT_EQ(metadata(create(creator("DeformConv2d"),
                            FieldList(conv2d_fields())
                                .wide_integers("strides", {2, 3})
                                .wide_integers("group", {2})
                                .text("optional_inputs", std::string("mask\0", 5)))),
            narrow);
  EXPECT_EQ(metadata(create(creator("DeformRoIPool2d"),
                            FieldList(roi_pool_fields()).wide_real("spatial_scale", 0.0625))),
            metadata(create(creator("DeformRoIPool2d"), roi_pool_fields())));
}

TEST_F(Fields, ComeBackFromAnEngine) {
  const struct {
    const char* op_type;
    FieldList fields;
  } cases[] = {{"DeformConv2d", conv2d_fields()},
               {"DeformConv2d", {}},
               {"DeformConv2d", int8_fields({0.5f, 0.25f, 0.125f})},
               {"DeformRoIPool2d", roi_pool_fields()},
               {"DeformRoIPool2d", FieldList().integers("output_size", {7, 1})}};
  for (const auto& c : cases) {
    SCOPED_TRACE(c.op_type);
    for (const char* plugin_namespace : {"", "dcn_deploy"}) {
      nvinfer1::IPluginCreatorV3One& made_by =
          PluginLibrary::instance().creator(c.op_type, plugin_namespace);
      const PluginPointer plugin = create(made_by, c.fields);
      const PluginPointer copy(plugin->clone());
      const PluginPointer back = read_back(made_by, *copy);
      ASSERT_NE(back, nullptr) << message();
      EXPECT_EQ(metadata(back), metadata(plugin));
      // And once more.
      const PluginPointer again = read_back(made_by, *back);
      EXPECT_EQ(metadata(again), metadata(plugin));
    }
  }
}

// TensorRT may give a plugin no name when it reads an engine.
TEST_F(Fields, TheLayersNameComesBackToo) {
  const PluginPointer plugin = create(creator("DeformConv2d"), {}, kBuild, "backbone.layer4.conv2");
  for (const char* given : {static_cast<const char*>(nullptr), ""}) {
    const PluginPointer back = read_back(creator("DeformConv2d"), *plugin, given);
    ASSERT_NE(back, nullptr);
    EXPECT_NE(runtime_of(*back).setTactic(12345), 0);
    EXPECT_EQ(message(),
              "dcn_deploy: DeformConv2d 'backbone.layer4.conv2': tactic: expected one of this "
              "library, got 12345. Rebuild the engine with this library");
  }
}

TEST_F(Fields, OfAnotherTypeOrLengthAreRefused) {
  EXPECT_EQ(refusal("DeformConv2d", FieldList().integers("strides", {1, 1, 1})),
            "field strides: expected 2 values, got 3");
  EXPECT_EQ(refusal("DeformConv2d", FieldList().integers("pads", {1, 1})),
            "field pads: expected 4 values, got 2");
  EXPECT_EQ(refusal("DeformConv2d", FieldList().integers("group", {})),
            "field group: expected 1 value, got 0");
  EXPECT_EQ(refusal("DeformConv2d", FieldList().real("group", 1)),
            "field group: expected kINT32 or kINT64, got kFLOAT32");
  EXPECT_EQ(refusal("DeformConv2d", FieldList().integers("optional_inputs", {1})),
            "field optional_inputs: expected kCHAR, got kINT32");
  EXPECT_EQ(refusal("DeformConv2d", FieldList().wide_integers("group", {std::int64_t{1} << 31})),
            "field group: expected 32-bit integers, got 2147483648");
  EXPECT_EQ(refusal("DeformConv2d", FieldList().integers("allow_tf32", {2})),
            "field allow_tf32: expected 0 or 1, got 2");
  EXPECT_EQ(refusal("DeformRoIPool2d", FieldList(roi_pool_fields()).text("gamma", "1")),
            "field gamma: expected kFLOAT32 or kFLOAT64, got kCHAR");
  EXPECT_EQ(refusal("DeformRoIPool2d", FieldList(roi_pool_fields()).integers("variant", {0})),
            "field variant: expected kCHAR, got kINT32");
}

TEST_F(Fields, OfOtherNamesAreRefused) {
  EXPECT_EQ(refusal("DeformConv2d", FieldList().integers("stride", {1, 1})),
            "field stride: expected one of kernel_shape, strides, pads, dilations, group, "
            "offset_group, x_scale, weight_scale, y_scale, allow_tf32, constant_weights, "
            "optional_inputs, got another");
}

TEST_F(Fields, ThatTheOperatorRefusesAreRefused) {
  EXPECT_EQ(refusal("DeformConv2d", FieldList().integers("kernel_shape", {-1, 3})),
            "attribute kernel_shape[0]: expected at least 1, got -1");
  EXPECT_EQ(refusal("DeformConv2d", FieldList().integers("strides", {1, 0})),
            "attribute strides[1]: expected at least 1, got 0");
  EXPECT_EQ(refusal("DeformConv2d", FieldList().integers("pads", {0, 0, -1, 0})),
            "attribute pads[2] (bottom): expected at least 0, got -1");
  EXPECT_EQ(refusal("DeformRoIPool2d", {}), "attribute output_size[0]: expected at least 1, got 0");
  EXPECT_EQ(refusal("DeformRoIPool2d",
                    FieldList(roi_pool_fields())
                        .real("spatial_scale", std::numeric_limits<float>::quiet_NaN())),
            "attribute spatial_scale: expected a finite number above 0, got nan");
  EXPECT_EQ(refusal("DeformRoIPool2d", FieldList(roi_pool_fields()).text("variant", "round")),
            "attribute variant: expected \"aligned\" or \"psroi\", got \"round\"");
}

TEST_F(Fields, ScalesArePositiveAndOneOrOneForEachOutputChannel) {
  EXPECT_NE(metadata(create(creator("DeformConv2d"), int8_fields({0.5f, 0.25f})))
                .find(";x_scale=0.100000001;weight_scale=0.5,0.25;y_scale=2;"),
            std::string::npos);
  EXPECT_EQ(refusal("DeformConv2d", int8_fields({0.5f, -1})),
            "field weight_scale: expected positive, finite numbers, got -1.000000");
  EXPECT_EQ(refusal("DeformConv2d", int8_fields({})),
            "field weight_scale: expected 1 value or more, got 0");
  EXPECT_EQ(refusal("DeformConv2d", FieldList().real("x_scale", 1)),
            "field weight_scale: expected positive, finite numbers, got 0.000000");
  EXPECT_EQ(refusal("DeformConv2d", FieldList().reals("weight_scale", {1})),
            "field x_scale: expected positive, finite numbers, got 0.000000");
  EXPECT_EQ(refusal("DeformConv2d",
                    int8_fields({1}).real("y_scale", std::numeric_limits<float>::infinity())),
            "field y_scale: expected positive, finite numbers, got inf");
  EXPECT_EQ(refusal("DeformConv2d", int8_fields({1}).integers("x_scale", {1})),
            "field x_scale: expected kFLOAT32 or kFLOAT64, got kINT32");
  const PluginPointer plugin = create(creator("DeformConv2d"), int8_fields({1, 1, 1}));
  EXPECT_TRUE(output_sizes(*plugin, {tensor(DataType::kINT8, TensorFormat::kLINEAR, {1, 4, 5, 5}),
                                     tensor(DataType::kINT8, TensorFormat::kLINEAR, {2, 4, 1, 1}),
                                     tensor(DataType::kFLOAT, TensorFormat::kLINEAR, {1, 2, 5, 5})})
                  .empty());
  EXPECT_EQ(message(),
            "dcn_deploy: DeformConv2d 'layer': field weight_scale: expected 1 value, or one for "
            "each of the 2 output channels, got 3");
}

TEST_F(Fields, OptionalInputsAreNamesInOrder) {
  for (const char* wrong : {"bias", "mask,B", "B,B", "B,", "X", ","}) {
    EXPECT_EQ(refusal("DeformConv2d", FieldList().text("optional_inputs", wrong)),
              "field optional_inputs: expected names of B,mask in this order, separated by commas, "
              "got '" +
                  std::string(wrong) + "'");
  }
  EXPECT_EQ(refusal("DeformRoIPool2d", FieldList(roi_pool_fields()).text("optional_inputs", "B")),
            "field optional_inputs: expected names of offset,mask in this order, separated by "
            "commas, got 'B'");
  const PluginPointer plugin =
      create(creator("DeformConv2d"), FieldList().text("optional_inputs", "mask"));
  const DataType types[5] = {};
  DataType y{};
  EXPECT_NE(build_of(*plugin).getOutputDataTypes(&y, 1, types, 5), 0);
  EXPECT_EQ(message(),
            "dcn_deploy: DeformConv2d 'layer': inputs: expected 4, which is what field "
            "optional_inputs makes of them, got 5");
}

TEST_F(Fields, BrokenCollectionsAreRefused) {
  nvinfer1::IPluginCreatorV3One& conv2d = creator("DeformConv2d");
  const auto said = [&](const nvinfer1::PluginFieldCollection* collection) {
    EXPECT_EQ(PluginPointer(conv2d.createPlugin("layer", collection, kBuild)), nullptr);
    return message();
  };
  const std::string where = "dcn_deploy: DeformConv2d 'layer': ";
  EXPECT_EQ(said(nullptr), where + "field collection: expected one, got null");
  nvinfer1::PluginFieldCollection collection{2, nullptr};
  EXPECT_EQ(said(&collection), where + "field collection: expected fields, got 2 at null");
  nvinfer1::PluginField fields[2] = {{nullptr, nullptr, nvinfer1::PluginFieldType::kINT32, 0},
                                     {"group", nullptr, nvinfer1::PluginFieldType::kINT32, 1}};
  collection.fields = fields;
  EXPECT_EQ(said(&collection), where + "field 0: expected a name, got null");
  const std::int32_t one = 1;
  fields[0] = {"strides", nullptr, nvinfer1::PluginFieldType::kINT32, 2};
  EXPECT_EQ(said(&collection), where + "field strides: expected data, got 2 values at null");
  fields[0] = fields[1] = {"group", &one, nvinfer1::PluginFieldType::kINT32, 1};
  EXPECT_EQ(said(&collection), where + "field group: expected it once, got it twice");
}

TEST_F(Fields, OfAnotherLibrarysEngineAreRefused) {
  const FieldList fields = written("DeformConv2d", conv2d_fields());
  ASSERT_NE(create(creator("DeformConv2d"), fields, kRuntime), nullptr);
  EXPECT_EQ(refusal("DeformConv2d", FieldList(fields).integers("fields_version", {2}), kRuntime),
            "fields of the engine: expected version 1, got 2. Rebuild the engine with this "
            "library, or load the library that built it");
  EXPECT_EQ(refusal("DeformConv2d", FieldList(fields).remove("fields_version"), kRuntime),
            "fields of the engine: expected fields_version among them, got none. Rebuild the "
            "engine with this library");
  EXPECT_EQ(refusal("DeformConv2d", FieldList(fields).remove("dilations"), kRuntime),
            "fields of the engine: expected dilations among them, got none. Rebuild the engine "
            "with this library");
  EXPECT_EQ(
      refusal("DeformConv2d", FieldList(fields).integers("scale", {1}), kRuntime).substr(0, 31),
      "field scale: expected one of fi");
  // What is for an engine alone is not for a node.
  EXPECT_EQ(refusal("DeformConv2d", fields, kBuild).substr(0, 40),
            "field fields_version: expected one of ke");
}

}  // namespace
}  // namespace tensorrt
}  // namespace dcn_deploy
