#include <cuda_runtime_api.h>

#include <map>
#include <stdexcept>
#include <string>

#include "test_device.h"

namespace dcn_deploy {
namespace tensorrt {
namespace {

constexpr std::size_t kGuard = 4096;
constexpr int kGuardByte = 0xa5;

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

}  // namespace

struct DeviceBytes::Memory {
  explicit Memory(std::size_t bytes) : size(bytes) {
    check(cudaMalloc(&data, size + 2 * kGuard), "cudaMalloc");
  }
  ~Memory() { static_cast<void>(cudaFree(data)); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  char* begin() const { return static_cast<char*>(data) + kGuard; }

  void* data = nullptr;
  std::size_t size;
};

DeviceBytes::DeviceBytes(std::size_t size) : memory_(std::make_unique<Memory>(size)) {
  check(cudaMemset(memory_->data, kGuardByte, size + 2 * kGuard), "cudaMemset");
  check(cudaMemset(memory_->begin(), 0xff, size), "cudaMemset");
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

DeviceBytes::DeviceBytes(const std::vector<unsigned char>& bytes) : DeviceBytes(bytes.size()) {
  write(bytes);
}

DeviceBytes::~DeviceBytes() = default;

void* DeviceBytes::data() const { return memory_->begin(); }

std::size_t DeviceBytes::size() const { return memory_->size; }

void DeviceBytes::write(const std::vector<unsigned char>& bytes) {
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  check(cudaMemcpy(memory_->begin(), bytes.data(), bytes.size(), cudaMemcpyHostToDevice),
        "cudaMemcpy");
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

std::vector<unsigned char> DeviceBytes::read() const {
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  std::vector<unsigned char> bytes(memory_->size);
  check(cudaMemcpy(bytes.data(), memory_->begin(), bytes.size(), cudaMemcpyDeviceToHost),
        "cudaMemcpy");
  return bytes;
}

bool DeviceBytes::intact() const {
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  for (const char* guard : {memory_->begin() - kGuard, memory_->begin() + memory_->size}) {
    std::vector<unsigned char> bytes(kGuard);
    check(cudaMemcpy(bytes.data(), guard, kGuard, cudaMemcpyDeviceToHost), "cudaMemcpy");
    for (const unsigned char byte : bytes) {
      if (byte != kGuardByte) return false;
    }
  }
  return true;
}

cuda::Stream stream(int index) {
  static std::map<int, cudaStream_t> streams;
  const auto found = streams.find(index);
  if (found != streams.end()) return found->second;
  cudaStream_t made = nullptr;
  check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  streams[index] = made;
  return made;
}

}  // namespace tensorrt
}  // namespace dcn_deploy
