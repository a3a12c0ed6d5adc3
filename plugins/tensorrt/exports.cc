// The exported functions of the plugin library.

#include <NvInferRuntime.h>

#include <cstdint>

#include "tensorrt/creators.h"
#include "tensorrt/logging.h"

#define DCN_DEPLOY_EXPORT __attribute__((visibility("default")))

extern "C" {

DCN_DEPLOY_EXPORT const char* dcn_deploy_version() { return DCN_DEPLOY_VERSION; }

// Called by IPluginRegistry::loadLibrary.
DCN_DEPLOY_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count) {
  dcn_deploy::tensorrt::set_host(__builtin_return_address(0));
  return dcn_deploy::tensorrt::creators(&count);
}

// Called by TensorRT for a library that came with an engine.
DCN_DEPLOY_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  dcn_deploy::tensorrt::set_logger_finder(finder, __builtin_return_address(0));
}

}  // extern "C"
