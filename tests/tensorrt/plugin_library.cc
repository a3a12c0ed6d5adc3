#include "plugin_library.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

namespace dcn_deploy {
namespace tensorrt {
namespace {

template <typename Function>
Function symbol(void* library, const char* name) {
  return reinterpret_cast<Function>(dlsym(library, name));
}

std::size_t bytes_of(nvinfer1::PluginFieldType type) {
  switch (type) {
    case nvinfer1::PluginFieldType::kINT32:
    case nvinfer1::PluginFieldType::kFLOAT32:
      return 4;
    case nvinfer1::PluginFieldType::kINT64:
    case nvinfer1::PluginFieldType::kFLOAT64:
      return 8;
    case nvinfer1::PluginFieldType::kCHAR:
      return 1;
    default:
      throw std::runtime_error("a field of a type that this project has no use for");
  }
}

}  // namespace

const PluginLibrary& PluginLibrary::instance() {
  static const PluginLibrary library;
  return library;
}

PluginLibrary::PluginLibrary() {
  const char* named = std::getenv("DCN_DEPLOY_TENSORRT_LIBRARY");
  const char* path = named != nullptr ? named : DCN_DEPLOY_TESTED_LIBRARY;
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw std::runtime_error(dlerror());
  using GetCreators = nvinfer1::IPluginCreatorInterface* const* (*)(std::int32_t&);
  const auto get_creators = symbol<GetCreators>(library, "getCreators");
  const auto version = symbol<const char* (*)()>(library, "dcn_deploy_version");
  set_logger_finder_ = symbol<void (*)(nvinfer1::ILoggerFinder*)>(library, "setLoggerFinder");
  if (get_creators == nullptr || version == nullptr || set_logger_finder_ == nullptr) {
    throw std::runtime_error(std::string(path) + ": a function is not exported");
  }
  version_ = version();
  findings_ = symbol<const char* (*)()>(library, "dcn_deploy_host_findings");
  set_capturing_ = symbol<void (*)(bool)>(library, "dcn_deploy_host_set_capturing");
  blocks_ = symbol<std::int64_t (*)()>(library, "dcn_deploy_host_blocks");
  kept_buffers_ = symbol<int (*)()>(library, "dcn_deploy_host_kept_buffers");
  std::int32_t count = 0;
  nvinfer1::IPluginCreatorInterface* const* all = get_creators(count);
  for (std::int32_t i = 0; i < count; ++i) {
    const nvinfer1::InterfaceInfo info = all[i]->getInterfaceInfo();
    if (std::strcmp(info.kind, "PLUGIN CREATOR_V3ONE") != 0) {
      throw std::runtime_error(std::string("a creator of another kind: ") + info.kind);
    }
    creators_.push_back(static_cast<nvinfer1::IPluginCreatorV3One*>(all[i]));
  }
}

nvinfer1::IPluginCreatorV3One& PluginLibrary::creator(const std::string& op_type,
                                                      const std::string& plugin_namespace) const {
  nvinfer1::IPluginCreatorV3One* found = nullptr;
  int count = 0;
  for (nvinfer1::IPluginCreatorV3One* creator : creators_) {
    if (op_type != creator->getPluginName() || std::strcmp(creator->getPluginVersion(), "1") != 0 ||
        plugin_namespace != creator->getPluginNamespace()) {
      continue;
    }
    found = creator;
    ++count;
  }
  if (count == 1) return *found;
  throw std::runtime_error("creators of " + op_type + " in '" + plugin_namespace +
                           "': expected one, got " + std::to_string(count));
}

std::string PluginLibrary::findings() const { return findings_ != nullptr ? findings_() : ""; }

void PluginLibrary::set_capturing(bool capturing) const {
  if (set_capturing_ != nullptr) set_capturing_(capturing);
}

int PluginLibrary::kept_buffers() const { return kept_buffers_ != nullptr ? kept_buffers_() : -1; }

FieldList::FieldList(const nvinfer1::PluginFieldCollection& collection) {
  for (std::int32_t i = 0; i < collection.nbFields; ++i) {
    const nvinfer1::PluginField& field = collection.fields[i];
    add(field.name, field.data, bytes_of(field.type) * static_cast<std::size_t>(field.length),
        field.type, field.length);
  }
}

FieldList& FieldList::add(const std::string& name, const void* data, std::size_t bytes,
                          nvinfer1::PluginFieldType type, std::int32_t length) {
  const auto* begin = static_cast<const unsigned char*>(data);
  remove(name);
  fields_.push_back({name, {begin, begin + bytes}, type, length});
  return *this;
}

FieldList& FieldList::integers(const std::string& name, const std::vector<std::int32_t>& values) {
  return add(name, values.data(), 4 * values.size(), nvinfer1::PluginFieldType::kINT32,
             static_cast<std::int32_t>(values.size()));
}

FieldList& FieldList::wide_integers(const std::string& name,
                                    const std::vector<std::int64_t>& values) {
  return add(name, values.data(), 8 * values.size(), nvinfer1::PluginFieldType::kINT64,
             static_cast<std::int32_t>(values.size()));
}

FieldList& FieldList::real(const std::string& name, float value) {
  return add(name, &value, 4, nvinfer1::PluginFieldType::kFLOAT32, 1);
}

FieldList& FieldList::reals(const std::string& name, const std::vector<float>& values) {
  return add(name, values.data(), 4 * values.size(), nvinfer1::PluginFieldType::kFLOAT32,
             static_cast<std::int32_t>(values.size()));
}

FieldList& FieldList::wide_real(const std::string& name, double value) {
  return add(name, &value, 8, nvinfer1::PluginFieldType::kFLOAT64, 1);
}

FieldList& FieldList::text(const std::string& name, const std::string& value) {
  return add(name, value.data(), value.size(), nvinfer1::PluginFieldType::kCHAR,
             static_cast<std::int32_t>(value.size()));
}

FieldList& FieldList::remove(const std::string& name) {
  fields_.erase(std::remove_if(fields_.begin(), fields_.end(),
                               [&](const Field& field) { return field.name == name; }),
                fields_.end());
  return *this;
}

const nvinfer1::PluginFieldCollection* FieldList::collection() const {
  pointers_.clear();
  for (const Field& field : fields_) {
    pointers_.emplace_back(field.name.c_str(), field.data.data(), field.type, field.length);
  }
  collection_.nbFields = static_cast<std::int32_t>(pointers_.size());
  collection_.fields = pointers_.data();
  return &collection_;
}

nvinfer1::IPluginV3OneCore& core_of(nvinfer1::IPluginV3& plugin) {
  return *static_cast<nvinfer1::IPluginV3OneCore*>(
      plugin.getCapabilityInterface(nvinfer1::PluginCapabilityType::kCORE));
}

nvinfer1::IPluginV3OneBuild& build_of(nvinfer1::IPluginV3& plugin) {
  return *static_cast<nvinfer1::IPluginV3OneBuild*>(
      plugin.getCapabilityInterface(nvinfer1::PluginCapabilityType::kBUILD));
}

nvinfer1::IPluginV3OneRuntime& runtime_of(nvinfer1::IPluginV3& plugin) {
  return *static_cast<nvinfer1::IPluginV3OneRuntime*>(
      plugin.getCapabilityInterface(nvinfer1::PluginCapabilityType::kRUNTIME));
}

}  // namespace tensorrt
}  // namespace dcn_deploy
