// The built plugin library, as TensorRT's registry loads it.

#ifndef DCN_DEPLOY_TESTS_TENSORRT_PLUGIN_LIBRARY_H_
#define DCN_DEPLOY_TESTS_TENSORRT_PLUGIN_LIBRARY_H_

#include <NvInferRuntime.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "stand_ins.h"

namespace dcn_deploy {
namespace tensorrt {

// Opened once a process: what the environment variable DCN_DEPLOY_TENSORRT_LIBRARY names, or else
// the one that was built with the tests. Throws std::runtime_error if it cannot be.
class PluginLibrary {
 public:
  static const PluginLibrary& instance();

  const std::vector<nvinfer1::IPluginCreatorV3One*>& creators() const { return creators_; }
  // By operator and namespace; throws if there is not exactly one.
  nvinfer1::IPluginCreatorV3One& creator(const std::string& op_type,
                                         const std::string& plugin_namespace = "") const;
  const char* version() const { return version_; }
  void set_logger_finder(nvinfer1::ILoggerFinder* finder) const { set_logger_finder_(finder); }

  // Of the rehearsal; on a GPU they do nothing, and findings() is empty.
  std::string findings() const;
  void set_capturing(bool capturing) const;
  // Buffers that the plugins keep now; -1 if that is not known.
  int kept_buffers() const;
  // Blocks of all launches so far.
  std::int64_t blocks() const { return blocks_ != nullptr ? blocks_() : 0; }
  bool is_rehearsal() const { return findings_ != nullptr; }

 private:
  PluginLibrary();

  std::vector<nvinfer1::IPluginCreatorV3One*> creators_;
  const char* version_ = nullptr;
  void (*set_logger_finder_)(nvinfer1::ILoggerFinder*) = nullptr;
  const char* (*findings_)() = nullptr;
  void (*set_capturing_)(bool) = nullptr;
  int (*kept_buffers_)() = nullptr;
  std::int64_t (*blocks_)() = nullptr;
};

using PluginPointer = std::unique_ptr<nvinfer1::IPluginV3>;

// Fields with the values that they point to.
class FieldList {
 public:
  FieldList() = default;
  // Of an engine: a copy that outlives the plugin, as TensorRT makes one.
  explicit FieldList(const nvinfer1::PluginFieldCollection& collection);
  FieldList(const FieldList& other) : FieldList(*other.collection()) {}
  FieldList& operator=(const FieldList&) = delete;

  // kINT32 as from the ONNX parser.
  FieldList& integers(const std::string& name, const std::vector<std::int32_t>& values);
  FieldList& wide_integers(const std::string& name, const std::vector<std::int64_t>& values);
  FieldList& real(const std::string& name, float value);
  FieldList& reals(const std::string& name, const std::vector<float>& values);
  FieldList& wide_real(const std::string& name, double value);
  FieldList& text(const std::string& name, const std::string& value);
  FieldList& remove(const std::string& name);

  const nvinfer1::PluginFieldCollection* collection() const;

 private:
  FieldList& add(const std::string& name, const void* data, std::size_t bytes,
                 nvinfer1::PluginFieldType type, std::int32_t length);

  struct Field {
    std::string name;
    std::vector<unsigned char> data;
    nvinfer1::PluginFieldType type;
    std::int32_t length;
  };
  std::deque<Field> fields_;
  mutable std::vector<nvinfer1::PluginField> pointers_;
  mutable nvinfer1::PluginFieldCollection collection_;
};

// The parts of a plugin.
nvinfer1::IPluginV3OneCore& core_of(nvinfer1::IPluginV3& plugin);
nvinfer1::IPluginV3OneBuild& build_of(nvinfer1::IPluginV3& plugin);
nvinfer1::IPluginV3OneRuntime& runtime_of(nvinfer1::IPluginV3& plugin);

}  // namespace tensorrt
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TESTS_TENSORRT_PLUGIN_LIBRARY_H_
