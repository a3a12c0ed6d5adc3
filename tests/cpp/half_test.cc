#include "core/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>

namespace dcn_deploy {
namespace {

constexpr int kCodes = 1 << 16;

// The value of a 16-bit float with so many exponent and mantissa bits, from its definition.
double value_of(int code, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (code >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = code & ((1 << mantissa_bits) - 1);
  const double sign = (code & 0x8000) != 0 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) {
    return mantissa != 0 ? std::numeric_limits<double>::quiet_NaN()
                         : sign * std::numeric_limits<double>::infinity();
  }
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

struct Format {
  const char* name;
  int exponent_bits;
  int mantissa_bits;
  float (*widen)(std::uint16_t);
  std::uint16_t (*narrow)(float);
};

const Format kFormats[] = {
    {"float16", 5, 10, float16_to_float, float_to_float16},
    {"float16 portable", 5, 10, float16_to_float_portable, float_to_float16_portable},
    {"bfloat16", 8, 7, bfloat16_to_float, float_to_bfloat16},
};

class Half : public ::testing::TestWithParam<Format> {};

TEST_P(Half, EveryCodeWidensToItsValue) {
  const Format& format = GetParam();
  for (int code = 0; code < kCodes; ++code) {
    const double expected = value_of(code, format.exponent_bits, format.mantissa_bits);
    const double actual = format.widen(static_cast<std::uint16_t>(code));
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(actual)) << format.name << " code " << code;
    } else {
      ASSERT_EQ(actual, expected) << format.name << " code " << code;
      ASSERT_EQ(std::signbit(actual), std::signbit(expected)) << format.name << " code " << code;
    }
  }
}

TEST_P(Half, EveryCodeSurvivesTheRoundTrip) {
  const Format& format = GetParam();
  for (int code = 0; code < kCodes; ++code) {
    const float value = format.widen(static_cast<std::uint16_t>(code));
    const std::uint16_t back = format.narrow(value);
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(format.widen(back))) << format.name << " code " << code;
      ASSERT_EQ(back & 0x8000, code & 0x8000) << format.name << " code " << code;
    } else {
      ASSERT_EQ(back, code) << format.name << " code " << code;
    }
  }
}

// Halfway points, and their neighbours in float32, between every two neighbouring values.
TEST_P(Half, RoundsToNearestTiesToEven) {
  const Format& format = GetParam();
  const int infinity = ((1 << format.exponent_bits) - 1) << format.mantissa_bits;
  for (int code = 0; code < infinity - 1; ++code) {
    const double low = value_of(code, format.exponent_bits, format.mantissa_bits);
    const double high = value_of(code + 1, format.exponent_bits, format.mantissa_bits);
    const auto middle = static_cast<float>((low + high) / 2);
    if (static_cast<double>(middle) != (low + high) / 2) continue;  // below float32's resolution
    const int even = code % 2 == 0 ? code : code + 1;
    ASSERT_EQ(format.narrow(middle), even) << format.name << " code " << code;
    ASSERT_EQ(format.narrow(-middle), even | 0x8000) << format.name << " code " << code;
    ASSERT_EQ(format.narrow(std::nextafterf(middle, 0.0f)), code) << format.name;
    ASSERT_EQ(format.narrow(std::nextafterf(middle, std::numeric_limits<float>::infinity())),
              code + 1)
        << format.name;
  }
}

TEST_P(Half, OverflowGoesToInfinity) {
  const Format& format = GetParam();
  const int infinity = ((1 << format.exponent_bits) - 1) << format.mantissa_bits;
  const double largest = value_of(infinity - 1, format.exponent_bits, format.mantissa_bits);
  const double step = largest - value_of(infinity - 2, format.exponent_bits, format.mantissa_bits);
  const auto middle = static_cast<float>(largest + step / 2);
  EXPECT_EQ(format.narrow(middle), infinity);
  EXPECT_EQ(format.narrow(std::nextafterf(middle, 0.0f)), infinity - 1);
  EXPECT_EQ(format.narrow(std::numeric_limits<float>::max()), infinity);
  EXPECT_EQ(format.narrow(-std::numeric_limits<float>::infinity()), infinity | 0x8000);
}

// A payload that only the dropped bits hold must not become infinity, nor carry into the sign.
TEST_P(Half, EveryNanStaysANan) {
  const Format& format = GetParam();
  for (const std::uint32_t sign : {0u, 0x80000000u}) {
    for (const std::uint32_t payload :
         {0x1u, 0xfffu, 0x1fffu, 0x7fffu, 0xffffu, 0x3fffffu, 0x400000u, 0x7fffffu}) {
      const std::uint16_t code = format.narrow(float_from_bits(sign | 0x7f800000u | payload));
      EXPECT_TRUE(std::isnan(format.widen(code))) << format.name << " payload " << payload;
      EXPECT_EQ(code >> 15, sign >> 31) << format.name << " payload " << payload;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, Half, ::testing::ValuesIn(kFormats));

}  // namespace
}  // namespace dcn_deploy
