// What the library offers to a plugin registry.

#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "layer.h"

namespace dcn_deploy {
namespace tensorrt {
namespace {

class Creators : public PluginTest {};

TEST_F(Creators, AreThereForEveryOperatorAndNamespace) {
  using Key = std::tuple<std::string, std::string, std::string>;
  std::multiset<Key> found;
  for (nvinfer1::IPluginCreatorV3One* creator : PluginLibrary::instance().creators()) {
    found.insert(
        {creator->getPluginName(), creator->getPluginVersion(), creator->getPluginNamespace()});
  }
  EXPECT_EQ(found, (std::multiset<Key>{{"DeformConv2d", "1", ""},
                                       {"DeformConv2d", "1", "dcn_deploy"},
                                       {"DeformRoIPool2d", "1", ""},
                                       {"DeformRoIPool2d", "1", "dcn_deploy"}}));
}

TEST_F(Creators, ListTheFieldsThatTheOnnxParserLooksFor) {
  const auto names = [&](const char* op_type) {
    const nvinfer1::PluginFieldCollection* fields = creator(op_type).getFieldNames();
    std::vector<std::string> all;
    for (int i = 0; i < fields->nbFields; ++i) all.push_back(fields->fields[i].name);
    return all;
  };
  EXPECT_EQ(names("DeformConv2d"),
            (std::vector<std::string>{"kernel_shape", "strides", "pads", "dilations", "group",
                                      "offset_group", "x_scale", "weight_scale", "y_scale",
                                      "allow_tf32", "constant_weights", "optional_inputs"}));
  EXPECT_EQ(names("DeformRoIPool2d"),
            (std::vector<std::string>{"variant", "output_size", "spatial_scale", "gamma",
                                      "sampling_ratio", "sample_per_part", "group_size",
                                      "part_size", "output_channels", "optional_inputs"}));
}

TEST_F(Creators, MakePluginsOfTheirOwnName) {
  for (nvinfer1::IPluginCreatorV3One* creator : PluginLibrary::instance().creators()) {
    FieldList fields;
    if (std::strcmp(creator->getPluginName(), "DeformRoIPool2d") == 0) {
      fields.integers("output_size", {3, 3});
    }
    const PluginPointer plugin = create(*creator, fields);
    ASSERT_NE(plugin, nullptr);
    EXPECT_STREQ(core_of(*plugin).getPluginName(), creator->getPluginName());
    EXPECT_STREQ(core_of(*plugin).getPluginVersion(), creator->getPluginVersion());
    EXPECT_STREQ(core_of(*plugin).getPluginNamespace(), creator->getPluginNamespace());
    EXPECT_EQ(build_of(*plugin).getNbOutputs(), 1);
    EXPECT_EQ(build_of(*plugin).getFormatCombinationLimit(), 100);
    const PluginPointer copy(plugin->clone());
    ASSERT_NE(copy, nullptr);
    EXPECT_STREQ(core_of(*copy).getPluginNamespace(), creator->getPluginNamespace());
  }
}

// Each part says which interface it is, so that TensorRT calls it by the right table.
TEST_F(Creators, MakePluginsOfTheThirdInterface) {
  const PluginPointer plugin = create(creator("DeformConv2d"), {});
  ASSERT_NE(plugin, nullptr);
  const auto kind = [](const nvinfer1::IVersionedInterface& part) {
    const nvinfer1::InterfaceInfo info = part.getInterfaceInfo();
    return std::string(info.kind) + " " + std::to_string(info.major) + "." +
           std::to_string(info.minor);
  };
  EXPECT_EQ(kind(*plugin), "PLUGIN 1.0");
  EXPECT_EQ(kind(core_of(*plugin)), "PLUGIN_V3ONE_CORE 1.0");
  EXPECT_EQ(kind(build_of(*plugin)), "PLUGIN_V3ONE_BUILD 1.0");
  EXPECT_EQ(kind(runtime_of(*plugin)), "PLUGIN_V3ONE_RUNTIME 1.0");
  EXPECT_EQ(plugin->getCapabilityInterface(static_cast<nvinfer1::PluginCapabilityType>(7)),
            nullptr);
}

TEST_F(Creators, TimingCacheIdentifiersTellPluginsApart) {
  const auto identifier = [&](const FieldList& fields, const char* name = "layer") {
    const PluginPointer plugin =
        create(creator("DeformConv2d"), fields, nvinfer1::TensorRTPhase::kBUILD, name);
    return std::string(build_of(*plugin).getTimingCacheID());
  };
  std::set<std::string> all;
  const FieldList plain;
  std::vector<FieldList> different(9);
  different[1].integers("strides", {2, 1});
  different[2].integers("strides", {1, 2});
  different[3].integers("pads", {1, 0, 0, 0});
  different[4].integers("dilations", {1, 2});
  different[5].integers("group", {2});
  different[6].integers("allow_tf32", {1});
  different[7].integers("constant_weights", {1});
  different[8].text("optional_inputs", "mask");
  for (const FieldList& fields : different) all.insert(identifier(fields));
  EXPECT_EQ(all.size(), different.size());
  // The layer's name has nothing to do with its time, the library's version has.
  EXPECT_EQ(identifier(plain, "other"), identifier(plain));
  EXPECT_NE(identifier(plain).find(PluginLibrary::instance().version()), std::string::npos);
}

}  // namespace
}  // namespace tensorrt
}  // namespace dcn_deploy
