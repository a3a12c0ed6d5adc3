#include "core/cpu/kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "comparison.h"
#include "core/dtype.h"
#include "core/half.h"
#include "random_tensors.h"

namespace dcn_deploy {
namespace cpu {

void PrintTo(const Kernels* kernels, std::ostream* out) { *out << kernels->name; }

namespace {

using dcn_deploy::testing::available_kernels;
using dcn_deploy::testing::GuardedBytes;
using dcn_deploy::testing::read_element;
using dcn_deploy::testing::seed;
using dcn_deploy::testing::seed_trace;
using dcn_deploy::testing::Tensor;
using dcn_deploy::testing::write_element;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};
constexpr int64_t kCounts[] = {1, 2, 7, 8, 9, 15, 16, 17, 19, 31, 33, 64};

std::size_t as_size(int64_t value) { return static_cast<std::size_t>(value); }

class KernelSet : public ::testing::TestWithParam<const Kernels*> {
 protected:
  KernelSet() : kernels_(*GetParam()), random_(seed()) {}

  float normal(float deviation) { return std::normal_distribution<float>(0, deviation)(random_); }
  int32_t pick(int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(random_);
  }
  bool chance(double probability) { return std::bernoulli_distribution(probability)(random_); }

  const Kernels& kernels_;
  std::mt19937_64 random_;
};

TEST(Kernels, AreFoundByName) {
  ASSERT_NE(find_kernels("portable"), nullptr);
  EXPECT_EQ(find_kernels("portable"), &kPortableKernels);
  EXPECT_STREQ(find_kernels("portable")->name, "portable");
  EXPECT_EQ(find_kernels("no such target"), nullptr);
  EXPECT_EQ(find_kernels(""), nullptr);
}

TEST(Kernels, TheFastestOrTheForcedSetIsSelected) {
  const char* forced = std::getenv("DCN_DEPLOY_CPU_TARGET");
  const Kernels* expected = forced != nullptr ? find_kernels(forced) : nullptr;
  if (expected == nullptr) expected = available_kernels().back();
  EXPECT_EQ(&select_kernels(), expected) << select_kernels().name;
}

TEST_P(KernelSet, LoadsEveryDType) {
  SCOPED_TRACE(seed_trace());
  for (const DType dtype : kDTypes) {
    for (const int64_t count : kCounts) {
      std::vector<double> values = dcn_deploy::testing::normal_values(&random_, count, 100);
      values[0] = std::numeric_limits<double>::infinity();
      if (count > 8) values[8] = -0x1p-20;  // subnormal in float16
      const Tensor source(dtype, values);
      GuardedBytes destination(as_size(count) * sizeof(float));
      kernels_.load[static_cast<int>(dtype)](source.data(), count,
                                             reinterpret_cast<float*>(destination.data()));
      for (int64_t i = 0; i < count; ++i) {
        ASSERT_EQ(read_element(DType::kFloat32, destination.data(), as_size(i)),
                  source.values()[as_size(i)])
            << name_of(dtype) << ", value " << i << " of " << count;
      }
      EXPECT_TRUE(destination.intact() && source.intact());
    }
  }
}

TEST_P(KernelSet, LoadsEveryCodeOfTheHalfTypes) {
  constexpr int64_t kCodes = 1 << 16;
  GuardedBytes source(as_size(kCodes) * 2);
  for (int code = 0; code < kCodes; ++code) {
    const auto bits = static_cast<uint16_t>(code);
    std::memcpy(source.data() + 2 * code, &bits, sizeof(bits));
  }
  std::vector<float> actual(as_size(kCodes));
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    kernels_.load[static_cast<int>(dtype)](source.data(), kCodes, actual.data());
    for (std::size_t i = 0; i < actual.size(); ++i) {
      const double expected = read_element(dtype, source.data(), i);
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(actual[i])) << name_of(dtype) << " code " << i;
      } else {
        ASSERT_EQ(actual[i], expected) << name_of(dtype) << " code " << i;
      }
    }
  }
}

TEST_P(KernelSet, AddsTheBiasAndStoresEveryDType) {
  SCOPED_TRACE(seed_trace());
  for (const DType dtype : kDTypes) {
    for (const int64_t count : kCounts) {
      const float bias = normal(1);
      std::vector<float> source(as_size(count));
      for (float& value : source) {
        // From the subnormals of float16 to beyond its largest value.
        value = normal(1) * std::ldexp(1.0f, pick(-26, 18));
        if (chance(0.1)) value = -bias;
        if (chance(0.1)) value = chance(0.5) ? kInfinity : -kInfinity;
        if (chance(0.1)) value = kNan;
      }
      GuardedBytes destination(as_size(count) * size_of(dtype));
      kernels_.store[static_cast<int>(dtype)](source.data(), bias, count, destination.data());
      for (int64_t i = 0; i < count; ++i) {
        double expected;
        write_element(dtype, source[as_size(i)] + bias, &expected, 0);
        expected = read_element(dtype, &expected, 0);
        const double actual = read_element(dtype, destination.data(), as_size(i));
        SCOPED_TRACE(std::string(name_of(dtype)) + ", value " + std::to_string(i) + " of " +
                     std::to_string(count));
        if (std::isnan(expected)) {
          ASSERT_TRUE(std::isnan(actual));
        } else {
          ASSERT_EQ(actual, expected);
        }
      }
      EXPECT_TRUE(destination.intact());
    }
  }
}

// Halfway points between all neighbouring values, stored eight at a time: ties go to even.
TEST_P(KernelSet, StoresTheHalfTypesRoundedToNearestEven) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    const int infinity = dtype == DType::kFloat16 ? 0x7c00 : 0x7f80;
    std::vector<float> source;
    std::vector<uint16_t> expected;
    // bfloat16's subnormals have no halfway points that float32 keeps apart in every mode.
    const int first = dtype == DType::kFloat16 ? 0 : 0x80;
    for (int code = first; code + 1 < infinity; ++code) {
      const uint16_t codes[2] = {static_cast<uint16_t>(code), static_cast<uint16_t>(code + 1)};
      const double low = read_element(dtype, codes, 0);
      const double high = read_element(dtype, codes, 1);
      const auto middle = static_cast<float>((low + high) / 2);
      for (const float sign : {1.0f, -1.0f}) {
        const int sign_bit = sign < 0 ? 0x8000 : 0;
        source.push_back(sign * middle);
        expected.push_back(static_cast<uint16_t>(sign_bit | (code % 2 == 0 ? code : code + 1)));
        source.push_back(sign * std::nextafter(middle, 0.0f));
        expected.push_back(static_cast<uint16_t>(sign_bit | code));
        source.push_back(sign * std::nextafter(middle, kInfinity));
        expected.push_back(static_cast<uint16_t>(sign_bit | (code + 1)));
      }
    }
    std::vector<uint16_t> actual(source.size());
    kernels_.store[static_cast<int>(dtype)](source.data(), 0.0f,
                                            static_cast<int64_t>(source.size()), actual.data());
    for (std::size_t i = 0; i < source.size(); ++i) {
      // Adding the bias of zero turns −0 into +0, but none of these is zero before rounding.
      ASSERT_EQ(actual[i], expected[i]) << name_of(dtype) << " of " << source[i];
    }
  }
}

// NaN whose payload lies in the bits that a half type drops, or carries over when rounded.
TEST_P(KernelSet, StoresEveryNanAsANan) {
  const std::vector<uint32_t> payloads = {0x1,    0xfff,    0x1fff,   0x7fff,   0xffff,
                                          0x8000, 0x3fffff, 0x400000, 0x7fffff, 0x12345};
  std::vector<float> source;
  for (const uint32_t sign : {0u, 0x80000000u}) {
    for (const uint32_t payload : payloads) {
      source.push_back(float_from_bits(sign | 0x7f800000u | payload));
    }
  }
  for (const DType dtype : kDTypes) {
    GuardedBytes destination(source.size() * size_of(dtype));
    kernels_.store[static_cast<int>(dtype)](
        source.data(), 0.0f, static_cast<int64_t>(source.size()), destination.data());
    for (std::size_t i = 0; i < source.size(); ++i) {
      EXPECT_TRUE(std::isnan(read_element(dtype, destination.data(), i)))
          << name_of(dtype) << ", bits " << std::hex << float_bits(source[i]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, KernelSet, ::testing::ValuesIn(available_kernels()),
                         [](const ::testing::TestParamInfo<const Kernels*>& tested) {
                           return std::string(tested.param->name);
                         });

}  // namespace
}  // namespace cpu
}  // namespace dcn_deploy
