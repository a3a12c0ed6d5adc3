// Tensors larger than the machine's memory, which is there where it is touched only.

#ifndef DCN_DEPLOY_TESTS_CUDA_HOST_SPARSE_TENSOR_H_
#define DCN_DEPLOY_TESTS_CUDA_HOST_SPARSE_TENSOR_H_

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "random_tensors.h"

namespace dcn_deploy {
namespace testing {

// Zeros, but for what is set.
class SparseTensor {
 public:
  SparseTensor(DType dtype, std::uint64_t count) : dtype_(dtype), bytes_(count * size_of(dtype)) {
    data_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
  ~SparseTensor() {
    if (ok()) munmap(data_, bytes_);
  }
  SparseTensor(const SparseTensor&) = delete;
  SparseTensor& operator=(const SparseTensor&) = delete;

  bool ok() const { return data_ != MAP_FAILED; }
  void* data() { return data_; }
  double get(std::uint64_t at) const { return read_element(dtype_, data_, at); }
  void set(std::uint64_t at, double value) { write_element(dtype_, value, data_, at); }

 private:
  DType dtype_;
  std::size_t bytes_;
  void* data_;
};

}  // namespace testing
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TESTS_CUDA_HOST_SPARSE_TENSOR_H_
