// Memory that is read or written soon, asked for a little at a time while other work goes on.

#ifndef DCN_DEPLOY_CORE_CPU_LOOKAHEAD_H_
#define DCN_DEPLOY_CORE_CPU_LOOKAHEAD_H_

#include <algorithm>
#include <cstdint>

namespace dcn_deploy {
namespace cpu {

// Rectangles of memory in planes: what is staged from a map, say.
class Lookahead {
 public:
  // `planes` times `rows` times `bytes` from `first` on, `plane_stride` and `row_stride` bytes
  // apart.
  void set(const void* first, std::int64_t plane_stride, std::int64_t planes,
           std::int64_t row_stride, std::int64_t rows, std::int64_t bytes) {
    first_ = static_cast<const char*>(first);
    plane_stride_ = plane_stride;
    planes_ = planes;
    row_stride_ = row_stride;
    bytes_ = bytes;
    plane_ = row_ = 0;
    left_ = bytes > 0 ? planes * rows : 0;
    total_ = left_;
  }

  void clear() { left_ = total_ = 0; }

  // Asks for the next of `parts` parts of about the same size.
  void ask(std::int64_t parts) {
    constexpr int kLine = 64;
    std::int64_t count = std::min(left_, (total_ + parts - 1) / parts);
    for (; count > 0; --count, --left_) {
      // Row by row: the order in which they are read.
      const char* row = first_ + plane_ * plane_stride_ + row_ * row_stride_;
      const auto before = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(row) % kLine);
      for (std::int64_t byte = -before; byte < bytes_; byte += kLine) {
        __builtin_prefetch(row + std::max(byte, std::int64_t{0}), 0, 2);
      }
      if (++plane_ == planes_) {
        plane_ = 0;
        ++row_;
      }
    }
  }

 private:
  const char* first_ = nullptr;
  std::int64_t plane_stride_ = 0;
  std::int64_t planes_ = 0;
  std::int64_t row_stride_ = 0;
  std::int64_t bytes_ = 0;
  std::int64_t plane_ = 0;
  std::int64_t row_ = 0;
  std::int64_t left_ = 0;
  std::int64_t total_ = 0;
};

}  // namespace cpu
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CPU_LOOKAHEAD_H_
