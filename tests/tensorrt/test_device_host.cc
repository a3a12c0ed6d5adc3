#include <algorithm>
#include <cstdint>

#include "random_tensors.h"
#include "test_device.h"

namespace dcn_deploy {
namespace tensorrt {

struct DeviceBytes::Memory {
  explicit Memory(std::size_t size) : bytes(size) {}
  testing::GuardedBytes bytes;
};

DeviceBytes::DeviceBytes(std::size_t size) : memory_(std::make_unique<Memory>(size)) {
  std::fill_n(memory_->bytes.data(), size, static_cast<unsigned char>(0xff));
}

DeviceBytes::DeviceBytes(const std::vector<unsigned char>& bytes) : DeviceBytes(bytes.size()) {
  write(bytes);
}

DeviceBytes::~DeviceBytes() = default;

void* DeviceBytes::data() const { return memory_->bytes.data(); }

std::size_t DeviceBytes::size() const { return memory_->bytes.size(); }

void DeviceBytes::write(const std::vector<unsigned char>& bytes) {
  std::copy(bytes.begin(), bytes.end(), memory_->bytes.data());
}

std::vector<unsigned char> DeviceBytes::read() const {
  return {memory_->bytes.data(), memory_->bytes.data() + memory_->bytes.size()};
}

bool DeviceBytes::intact() const { return memory_->bytes.intact(); }

// No work is ever under way, so any stream is as good; only that they differ is kept.
cuda::Stream stream(int index) {
  return reinterpret_cast<cuda::Stream>(static_cast<std::uintptr_t>(index));
}

}  // namespace tensorrt
}  // namespace dcn_deploy
