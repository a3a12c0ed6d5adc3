// TensorRT's types, formats and dims as the core knows them.

#ifndef DCN_DEPLOY_TENSORRT_TENSOR_DESC_H_
#define DCN_DEPLOY_TENSORRT_TENSOR_DESC_H_

#include <NvInferRuntime.h>

#include <cstdint>
#include <string>

#include "core/cuda/device.h"
#include "core/dtype.h"
#include "core/shape_check.h"

namespace dcn_deploy {
namespace tensorrt {

// A way in which X or Y may lie in memory.
struct FeatureFormat {
  nvinfer1::DataType type;
  nvinfer1::TensorFormat format;
  DType dtype;
  cuda::Layout layout;
  // kHWC8 rounds the channels up to a multiple of 8, kHWC16 of 16, the kernels take exactly those
  // that there are: the two are the same only for a multiple.
  std::int64_t channel_multiple;
};

inline constexpr FeatureFormat kFeatureFormats[] = {
    {nvinfer1::DataType::kFLOAT, nvinfer1::TensorFormat::kLINEAR, DType::kFloat32,
     cuda::Layout::kNchw, 1},
    {nvinfer1::DataType::kHALF, nvinfer1::TensorFormat::kLINEAR, DType::kFloat16,
     cuda::Layout::kNchw, 1},
    {nvinfer1::DataType::kBF16, nvinfer1::TensorFormat::kLINEAR, DType::kBFloat16,
     cuda::Layout::kNchw, 1},
    {nvinfer1::DataType::kHALF, nvinfer1::TensorFormat::kHWC8, DType::kFloat16, cuda::Layout::kNhwc,
     8},
    {nvinfer1::DataType::kBF16, nvinfer1::TensorFormat::kHWC8, DType::kBFloat16,
     cuda::Layout::kNhwc, 8},
    {nvinfer1::DataType::kINT8, nvinfer1::TensorFormat::kLINEAR, DType::kInt8, cuda::Layout::kNchw,
     1},
    {nvinfer1::DataType::kINT8, nvinfer1::TensorFormat::kHWC16, DType::kInt8, cuda::Layout::kNhwc,
     16},
};

// Null if there is none.
const FeatureFormat* find_feature_format(nvinfer1::DataType type, nvinfer1::TensorFormat format);

// Whether the core has features of the type, in any format.
bool is_feature_type(nvinfer1::DataType type);

// The core's name of a type that is_feature_type.
DType dtype_of(nvinfer1::DataType type);

std::string name_of(nvinfer1::DataType type);
std::string name_of(nvinfer1::TensorFormat format);

// Looks into `dims`, which must outlive it. A negative dim is one that is not known.
ShapeView view_of(const nvinfer1::Dims& dims);

// The same dims, type and format.
bool is_same(const nvinfer1::PluginTensorDesc& a, const nvinfer1::PluginTensorDesc& b);

}  // namespace tensorrt
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TENSORRT_TENSOR_DESC_H_
