// Memory aligned for vector loads, that reports failure instead of throwing.

#ifndef DCN_DEPLOY_CORE_CPU_ALIGNED_BUFFER_H_
#define DCN_DEPLOY_CORE_CPU_ALIGNED_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace dcn_deploy {
namespace cpu {

class AlignedBuffer {
 public:
  // Holds at least `count` floats afterwards, of any values; false, and unchanged, if there is no
  // memory. What is large enough already is kept: new memory costs more than packing weights into
  // it.
  bool allocate(std::int64_t count) {
    if (data_ != nullptr && count <= count_) return true;
    const std::size_t size = static_cast<std::size_t>(count > 0 ? count : 1) * sizeof(float);
    void* memory = ::operator new(size, kAlignment, std::nothrow);
    if (memory == nullptr) return false;
    data_.reset(static_cast<float*>(memory));
    count_ = count;
    return true;
  }

  float* data() { return data_.get(); }
  const float* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Release {
    void operator()(float* memory) const { ::operator delete(memory, kAlignment); }
  };
  std::unique_ptr<float, Release> data_;
  std::int64_t count_ = 0;
};

}  // namespace cpu
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CPU_ALIGNED_BUFFER_H_
