// Memory that is read soon, asked for a little at a time while other work goes on.

#ifndef DCN_DEPLOY_CORE_CPU_LOOKAHEAD_H_
#define DCN_DEPLOY_CORE_CPU_LOOKAHEAD_H_

#include <algorithm>
#include <cstdint>

namespace dcn_deploy {
namespace cpu {

// Rectangles of memory in planes: what is staged from a map, say. kWrite: to be written to.
template <bool kWrite>
class Lookahead {
 public:
  // `planes` times `rows` times `bytes` from `first` on, `plane_stride` and `row_stride` bytes
  // apart.
  void set(const void* first, std::int64_t plane_stride, std::int64_t planes,
           std::int64_t row_stride, std::int64_t rows, std::int64_t bytes) {
    first_ = static_cast<const char*>(first);
    plane_stride_ = plane_stride;
    row_stride_ = row_stride;
    rows_ = rows;
    bytes_ = bytes;
    next_ = 0;
    end_ = bytes > 0 ? planes * rows : 0;
  }

  void clear() { end_ = next_ = 0; }

  // The next of `parts` parts of about the same size.
  void ask(std::int64_t parts) {
    constexpr std::int64_t kLine = 64;
    const std::int64_t until = std::min(end_, next_ + (end_ + parts - 1) / parts);
    for (; next_ < until; ++next_) {
      // Row by row: the order in which they are read.
      const std::int64_t planes = end_ / rows_;
      const char* row = first_ + next_ % planes * plane_stride_ + next_ / planes * row_stride_;
      for (std::int64_t byte = 0; byte < bytes_; byte += kLine) __builtin_prefetch(row + byte, kWrite, 2);
      __builtin_prefetch(row + bytes_ - 1, kWrite, 2);
    }
  }

 private:
  const char* first_ = nullptr;
  std::int64_t plane_stride_ = 0;
  std::int64_t row_stride_ = 0;
  std::int64_t rows_ = 1;
  std::int64_t bytes_ = 0;
  std::int64_t next_ = 0;
  std::int64_t end_ = 0;
};

}  // namespace cpu
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CPU_LOOKAHEAD_H_
