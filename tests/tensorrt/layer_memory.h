// Values of a layer's tensors on the device.

#ifndef DCN_DEPLOY_TESTS_TENSORRT_LAYER_MEMORY_H_
#define DCN_DEPLOY_TESTS_TENSORRT_LAYER_MEMORY_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "layer.h"
#include "test_device.h"

namespace dcn_deploy {
namespace tensorrt {

// Rounded to the type and laid out as TensorRT does, from values in the order of `sizes`; and back.
std::vector<unsigned char> encode(const std::vector<double>& values, DType dtype,
                                  TensorFormat format, const std::vector<std::int64_t>& sizes);
std::vector<double> decode(const std::vector<unsigned char>& bytes, DType dtype,
                           TensorFormat format, const std::vector<std::int64_t>& sizes);

// The inputs of a layer in their order and its output.
class LayerMemory {
 public:
  // Returns the values as the device has them: rounded.
  std::vector<double> add_input(const std::vector<double>& values, DType dtype, TensorFormat format,
                                const std::vector<std::int64_t>& sizes);
  void set_output(DType dtype, TensorFormat format, const std::vector<std::int64_t>& sizes);
  // Other values of the same sizes in the same place.
  void overwrite(std::size_t input, const std::vector<double>& values);
  // The same values elsewhere.
  void move(std::size_t input);

  const Tensors& tensors() const { return tensors_; }
  // What a plugin of these tensors computes; fails the test if it does not. `workspace_size` is
  // the builder's.
  std::vector<double> run(nvinfer1::IPluginV3& plugin, std::size_t workspace_size, int stream = 0);
  // As run, for a plugin that refuses.
  int status_of_run(nvinfer1::IPluginV3& plugin);

 private:
  struct Part {
    DType dtype;
    TensorFormat format;
    std::vector<std::int64_t> sizes;
    std::shared_ptr<DeviceBytes> bytes;
  };

  std::vector<const void*> addresses() const;

  std::vector<Part> inputs_;
  Part output_;
  Tensors tensors_;
};

}  // namespace tensorrt
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TESTS_TENSORRT_LAYER_MEMORY_H_
