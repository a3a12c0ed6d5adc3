#include "core/bilinear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "random_tensors.h"

namespace dcn_deploy {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Both pixels, with weights that add up to one.
TEST(Bilinear, InsideTheMap) {
  const BilinearAxis axis = bilinear_axis(2, 1.25f, 7);
  EXPECT_EQ(axis.first, 3);
  EXPECT_TRUE(axis.has_first);
  EXPECT_TRUE(axis.has_second);
  EXPECT_EQ(axis.weight_first, 0.75f);
  EXPECT_EQ(axis.weight_second, 0.25f);
}

TEST(Bilinear, NegativeOffsetRoundsDown) {
  const BilinearAxis axis = bilinear_axis(2, -0.25f, 7);
  EXPECT_EQ(axis.first, 1);
  EXPECT_EQ(axis.weight_first, 0.25f);
  EXPECT_EQ(axis.weight_second, 0.75f);
}

TEST(Bilinear, EachCornerLeavesTheMapOnItsOwn) {
  const BilinearAxis before = bilinear_axis(0, -0.5f, 7);
  EXPECT_FALSE(before.has_first);
  EXPECT_TRUE(before.has_second);
  const BilinearAxis behind = bilinear_axis(6, 0.5f, 7);
  EXPECT_TRUE(behind.has_first);
  EXPECT_FALSE(behind.has_second);
  const BilinearAxis only = bilinear_axis(0, 0.0f, 1);
  EXPECT_TRUE(only.has_first);
  EXPECT_FALSE(only.has_second);
}

TEST(Bilinear, NothingAtMinusOneNorAtSize) {
  for (const std::int32_t size : {1, 7, 1 << 30}) {
    for (const std::int32_t base : {-3, 0, 5}) {
      const BilinearAxis low = bilinear_axis(base, static_cast<float>(-1 - base), size);
      EXPECT_FALSE(low.has_first || low.has_second) << "base " << base << ", size " << size;
    }
    const BilinearAxis high = bilinear_axis(size, 0.0f, size);
    EXPECT_FALSE(high.has_first || high.has_second) << "size " << size;
    // The next float32 towards the map does sample.
    const BilinearAxis near_low = bilinear_axis(-1, std::numeric_limits<float>::min(), size);
    EXPECT_TRUE(near_low.has_second) << "size " << size;
    const BilinearAxis near_high = bilinear_axis(size, -1e-7f, size);
    EXPECT_TRUE(near_high.has_first) << "size " << size;
  }
}

TEST(Bilinear, NonFiniteAndHugeOffsetsAreOutside) {
  for (const float offset : {kNan, -kNan, kInfinity, -kInfinity, 1e9f, -1e9f, 1.1e9f, 2147483648.0f,
                             -2147483648.0f, 1e38f, -1e38f, std::numeric_limits<float>::max()}) {
    for (const std::int32_t base : {-kMaxExtent, -1, 0, 5, kMaxExtent}) {
      const BilinearAxis axis = bilinear_axis(base, offset, 7);
      EXPECT_FALSE(axis.has_first || axis.has_second) << "offset " << offset << ", base " << base;
      EXPECT_TRUE(std::isfinite(axis.weight_first) && std::isfinite(axis.weight_second));
    }
  }
}

// A large base does not cost precision.
TEST(Bilinear, PrecisionIsThatOfTheOffset) {
  const float offset = 0.123456789f;
  const BilinearAxis near = bilinear_axis(0, offset, kMaxExtent);
  const BilinearAxis far = bilinear_axis(kMaxExtent - 2, offset, kMaxExtent);
  EXPECT_EQ(far.first, kMaxExtent - 2);
  EXPECT_EQ(far.weight_second, near.weight_second);
  EXPECT_EQ(far.weight_second, offset);
}

TEST(Bilinear, AgreesWithItsDefinition) {
  std::mt19937_64 random(testing::seed());
  std::uniform_int_distribution<std::int32_t> bases(-40, 80);
  std::uniform_int_distribution<std::int32_t> sizes(1, 40);
  std::normal_distribution<float> offsets(0, 20);
  for (int i = 0; i < 100000; ++i) {
    const std::int32_t base = bases(random);
    const std::int32_t size = sizes(random);
    const float offset = i % 3 == 0 ? std::round(offsets(random)) : offsets(random);
    const double position = static_cast<double>(base) + static_cast<double>(offset);
    const BilinearAxis axis = bilinear_axis(base, offset, size);
    const double low = std::floor(position);
    const bool inside = position > -1 && position < size;
    ASSERT_EQ(axis.has_first, inside && low >= 0)
        << base << " + " << offset << ", size " << size << ", seed " << testing::seed();
    ASSERT_EQ(axis.has_second, inside && low + 1 < size)
        << base << " + " << offset << ", size " << size << ", seed " << testing::seed();
    if (inside) {
      ASSERT_EQ(axis.first, low) << base << " + " << offset << ", seed " << testing::seed();
      ASSERT_NEAR(axis.weight_second, position - low, 1e-7) << base << " + " << offset;
      ASSERT_NEAR(axis.weight_first, 1 - (position - low), 1e-7) << base << " + " << offset;
    }
  }
}

}  // namespace
}  // namespace dcn_deploy
