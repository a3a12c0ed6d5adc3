// The device that the plugins run on: the host in the rehearsal, a GPU where one is at hand. Which,
// is decided by the file that is linked.

#ifndef DCN_DEPLOY_TESTS_TENSORRT_TEST_DEVICE_H_
#define DCN_DEPLOY_TESTS_TENSORRT_TEST_DEVICE_H_

#include <cstddef>
#include <memory>
#include <vector>

#include "core/cuda/device.h"

namespace dcn_deploy {
namespace tensorrt {

// Bytes of device memory with guards around them. Throws std::runtime_error for whatever fails.
class DeviceBytes {
 public:
  // Filled with 0xff, which is NaN in every storage type.
  explicit DeviceBytes(std::size_t size);
  explicit DeviceBytes(const std::vector<unsigned char>& bytes);
  ~DeviceBytes();
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;

  void* data() const;
  std::size_t size() const;
  void write(const std::vector<unsigned char>& bytes);
  // After all work is done.
  std::vector<unsigned char> read() const;
  // Whether the guards are as they were.
  bool intact() const;

 private:
  struct Memory;
  std::unique_ptr<Memory> memory_;
};

// A stream of its own; the same one in each call with the same index.
cuda::Stream stream(int index);

}  // namespace tensorrt
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TESTS_TENSORRT_TEST_DEVICE_H_
