#include "layer_memory.h"

#include <gtest/gtest.h>

#include <functional>
#include <numeric>
#include <stdexcept>

#include "random_tensors.h"

namespace dcn_deploy {
namespace tensorrt {
namespace {

std::int64_t volume(const std::vector<std::int64_t>& sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), std::int64_t{1}, std::multiplies<>());
}

// Element of the memory in which the element `index` of the tensor lies.
std::size_t place_of(std::int64_t index, TensorFormat format,
                     const std::vector<std::int64_t>& sizes) {
  if (format == TensorFormat::kLINEAR) return static_cast<std::size_t>(index);
  const bool hwc8 = format == TensorFormat::kHWC8 && sizes[1] % 8 == 0;
  const bool hwc16 = format == TensorFormat::kHWC16 && sizes[1] % 16 == 0;
  if (!hwc8 && !hwc16) {
    throw std::invalid_argument("a format that the tests cannot lay out");
  }
  const std::int64_t channels = sizes[1];
  const std::int64_t pixels = sizes[2] * sizes[3];
  const std::int64_t n = index / (channels * pixels);
  const std::int64_t c = index / pixels % channels;
  return static_cast<std::size_t>((n * pixels + index % pixels) * channels + c);
}

}  // namespace

std::vector<unsigned char> encode(const std::vector<double>& values, DType dtype,
                                  TensorFormat format, const std::vector<std::int64_t>& sizes) {
  std::vector<unsigned char> bytes(values.size() * size_of(dtype));
  for (std::size_t i = 0; i < values.size(); ++i) {
    testing::write_element(dtype, values[i], bytes.data(),
                           place_of(static_cast<std::int64_t>(i), format, sizes));
  }
  return bytes;
}

std::vector<double> decode(const std::vector<unsigned char>& bytes, DType dtype,
                           TensorFormat format, const std::vector<std::int64_t>& sizes) {
  std::vector<double> values(bytes.size() / size_of(dtype));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = testing::read_element(dtype, bytes.data(),
                                      place_of(static_cast<std::int64_t>(i), format, sizes));
  }
  return values;
}

std::vector<double> LayerMemory::add_input(const std::vector<double>& values, DType dtype,
                                           TensorFormat format,
                                           const std::vector<std::int64_t>& sizes) {
  if (static_cast<std::int64_t>(values.size()) != volume(sizes)) {
    throw std::invalid_argument("values of other sizes");
  }
  const std::vector<unsigned char> bytes = encode(values, dtype, format, sizes);
  inputs_.push_back({dtype, format, sizes, std::make_shared<DeviceBytes>(bytes)});
  tensors_.insert(tensors_.begin() + static_cast<std::ptrdiff_t>(inputs_.size()) - 1,
                  tensor(type_of(dtype), format, sizes));
  return decode(bytes, dtype, format, sizes);
}

void LayerMemory::set_output(DType dtype, TensorFormat format,
                             const std::vector<std::int64_t>& sizes) {
  output_ = {dtype, format, sizes, nullptr};
  tensors_.push_back(tensor(type_of(dtype), format, sizes));
}

void LayerMemory::overwrite(std::size_t input, const std::vector<double>& values) {
  const Part& part = inputs_[input];
  part.bytes->write(encode(values, part.dtype, part.format, part.sizes));
}

void LayerMemory::move(std::size_t input) {
  Part& part = inputs_[input];
  part.bytes = std::make_shared<DeviceBytes>(part.bytes->read());
}

std::vector<const void*> LayerMemory::addresses() const {
  std::vector<const void*> all;
  for (const Part& input : inputs_) all.push_back(input.bytes->data());
  return all;
}

std::vector<double> LayerMemory::run(nvinfer1::IPluginV3& plugin, std::size_t workspace_size,
                                     int stream) {
  DeviceBytes y(static_cast<std::size_t>(volume(output_.sizes)) * size_of(output_.dtype));
  DeviceBytes workspace(workspace_size);
  EXPECT_EQ(enqueue(plugin, tensors_, addresses(), y.data(), workspace.data(), stream), 0);
  const std::vector<unsigned char> bytes = y.read();
  EXPECT_TRUE(y.intact());
  EXPECT_TRUE(workspace.intact());
  for (const Part& input : inputs_) EXPECT_TRUE(input.bytes->intact());
  return decode(bytes, output_.dtype, output_.format, output_.sizes);
}

int LayerMemory::status_of_run(nvinfer1::IPluginV3& plugin) {
  DeviceBytes y(static_cast<std::size_t>(volume(output_.sizes)) * size_of(output_.dtype));
  return enqueue(plugin, tensors_, addresses(), y.data(), nullptr);
}

}  // namespace tensorrt
}  // namespace dcn_deploy
