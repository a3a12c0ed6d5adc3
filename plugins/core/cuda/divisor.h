// Division by a number that is known before a kernel starts.

#ifndef DCN_DEPLOY_CORE_CUDA_DIVISOR_H_
#define DCN_DEPLOY_CORE_CUDA_DIVISOR_H_

#include <stdint.h>

#include "core/bilinear.h"

namespace dcn_deploy {
namespace cuda {

// A product and a shift instead of a division, which takes a GPU some twenty instructions.
//
// With 2^(l - 1) < d <= 2^l and m = ceil(2^(31 + l) / d), so that 0 <= m d - 2^(31 + l) < 2^l, the
// quotient n / d is floor(n m / 2^(31 + l)) for every n below 2^31, and m fits in 32 bits unless d
// is 1. Granlund and Montgomery, "Division by Invariant Integers using Multiplication" (1994).
class Divisor {
 public:
  Divisor() = default;

  // `value` is positive.
  explicit Divisor(int32_t value) : value_(value) {
    while (int64_t{1} << log2_ < value) ++log2_;
    const uint64_t power = uint64_t{1} << (31 + log2_);
    const uint64_t divisor = static_cast<uint32_t>(value);
    multiplier_ = static_cast<uint32_t>((power + divisor - 1) / divisor);
  }

  // Of a number that is not negative.
  DCN_DEPLOY_HOST_DEVICE int32_t divide(int32_t number) const {
    if (value_ == 1) return number;
    const uint64_t product = static_cast<uint64_t>(static_cast<uint32_t>(number)) * multiplier_;
    return static_cast<int32_t>(static_cast<uint32_t>(product >> 32) >> (log2_ - 1));
  }

 private:
  int32_t value_ = 1;
  uint32_t multiplier_ = 0;
  int32_t log2_ = 0;
};

}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CUDA_DIVISOR_H_
