// Division by a product and a shift.

#include "core/cuda/divisor.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <random>
#include <vector>

namespace dcn_deploy {
namespace cuda {
namespace {

constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();

std::vector<std::int64_t> divisors() {
  std::vector<std::int64_t> all;
  for (std::int64_t small = 1; small <= 600; ++small) all.push_back(small);
  for (int bit = 10; bit <= 31; ++bit) {
    for (const std::int64_t near : {-3, -1, 0, 1, 3})
      all.push_back((std::int64_t{1} << bit) + near);
  }
  std::mt19937 random(1);
  for (int i = 0; i < 200; ++i) all.push_back(static_cast<std::int64_t>(random() >> 1) | 1);
  return all;
}

TEST(Divisor, DividesAsTheProcessorDoes) {
  std::mt19937 random(2);
  for (const std::int64_t divisor : divisors()) {
    if (divisor > kMost) continue;
    const Divisor by(static_cast<std::int32_t>(divisor));
    const auto check = [&](std::int64_t number) {
      if (number < 0 || number > kMost) return;
      ASSERT_EQ(by.divide(static_cast<std::int32_t>(number)), number / divisor)
          << number << " / " << divisor;
    };
    // Where the quotient changes: at the beginning, at the end and in between.
    const std::int64_t last = kMost / divisor;
    for (const std::int64_t quotient :
         {std::int64_t{0}, std::int64_t{1}, std::int64_t{2}, last / 2, last - 1, last}) {
      for (const std::int64_t near : {-1, 0, 1}) check(quotient * divisor + near);
    }
    check(kMost);
    for (int i = 0; i < 300; ++i) {
      const std::int64_t number = random() >> 1;
      check(number);
      check(number / divisor * divisor);
      check(number / divisor * divisor - 1);
    }
  }
}

}  // namespace
}  // namespace cuda
}  // namespace dcn_deploy
