// What TensorRT's registry asks for plugins.

#ifndef DCN_DEPLOY_TENSORRT_CREATORS_H_
#define DCN_DEPLOY_TENSORRT_CREATORS_H_

#include <NvInferRuntime.h>

#include <cstdint>

namespace dcn_deploy {
namespace tensorrt {

// One for each operator and namespace: the ONNX parser of TensorRT 10 takes the namespace from the
// node's attribute `plugin_namespace`, "" without it, that of TensorRT 11 from the node's domain.
// They live as long as the library. Null, and a count of 0, if there is no memory for them.
nvinfer1::IPluginCreatorInterface* const* creators(std::int32_t* count) noexcept;

}  // namespace tensorrt
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TENSORRT_CREATORS_H_
