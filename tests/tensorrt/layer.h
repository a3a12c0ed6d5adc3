// A layer with a plugin, taken through what TensorRT does with it: built, written into an engine,
// read again, attached to a context, run.

#ifndef DCN_DEPLOY_TESTS_TENSORRT_LAYER_H_
#define DCN_DEPLOY_TESTS_TENSORRT_LAYER_H_

#include <NvInferRuntime.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "plugin_library.h"
#include "stand_ins.h"

namespace dcn_deploy {
namespace tensorrt {

using nvinfer1::DataType;
using nvinfer1::TensorFormat;

nvinfer1::Dims dims_of(const std::vector<std::int64_t>& sizes);
nvinfer1::PluginTensorDesc tensor(DataType type, TensorFormat format,
                                  const std::vector<std::int64_t>& sizes);
// The same sizes as the profile's smallest, best and largest.
std::vector<nvinfer1::DynamicPluginTensorDesc> dynamic(
    const std::vector<nvinfer1::PluginTensorDesc>& tensors);

DataType type_of(DType dtype);

// A layer's tensors, the output last.
using Tensors = std::vector<nvinfer1::PluginTensorDesc>;

PluginPointer create(nvinfer1::IPluginCreatorV3One& creator, const FieldList& fields,
                     nvinfer1::TensorRTPhase phase = nvinfer1::TensorRTPhase::kBUILD,
                     const char* name = "layer");

// Whether the plugin supports the formats of all tensors, asked one after the other.
bool supports(nvinfer1::IPluginV3& plugin, const Tensors& tensors);

// The sizes of Y for inputs of known sizes; empty if it is refused.
std::vector<std::int64_t> output_sizes(nvinfer1::IPluginV3& plugin, const Tensors& inputs);

// What the builder asks of a plugin, each answer checked; -1 if it refused something.
int build(nvinfer1::IPluginV3& plugin, const Tensors& tensors);
std::size_t workspace_bytes(nvinfer1::IPluginV3& plugin, const Tensors& tensors);

// Created anew from what the plugin writes into an engine.
PluginPointer read_back(nvinfer1::IPluginCreatorV3One& creator, nvinfer1::IPluginV3& plugin,
                        const char* name = "layer");

// Attached to a context of its own.
PluginPointer attach(nvinfer1::IPluginV3& plugin);

int change_shapes(nvinfer1::IPluginV3& plugin, const Tensors& tensors);
int enqueue(nvinfer1::IPluginV3& plugin, const Tensors& tensors,
            const std::vector<const void*>& inputs, void* y, void* workspace, int stream = 0);

// The library's messages are kept, and those that a test did not expect fail it.
class PluginTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  nvinfer1::IPluginCreatorV3One& creator(const std::string& op_type) const {
    return PluginLibrary::instance().creator(op_type);
  }
  // The one message since the last call, of errors and warnings.
  std::string message();

  Logger logger_;
};

}  // namespace tensorrt
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TESTS_TENSORRT_LAYER_H_
