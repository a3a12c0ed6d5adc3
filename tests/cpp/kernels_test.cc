#include "core/cpu/kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <new>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "comparison.h"
#include "core/cpu/aligned_buffer.h"
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
constexpr float kPoison = -12345.0f;
constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};
constexpr int64_t kCounts[] = {1, 2, 7, 8, 9, 15, 16, 17, 19, 31, 33, 64};

std::size_t as_size(int64_t value) { return static_cast<std::size_t>(value); }

// Memory of exactly this size, aligned as the kernels' scratch is and watched by the sanitizer.
class Floats {
 public:
  explicit Floats(int64_t count, float fill = kPoison) : count_(count) {
    if (!buffer_.allocate(count)) throw std::bad_alloc();
    std::fill(begin(), end(), fill);
  }
  float* begin() { return buffer_.data(); }
  float* end() { return buffer_.data() + count_; }
  float& operator[](int64_t index) { return buffer_.data()[index]; }

 private:
  int64_t count_;
  AlignedBuffer buffer_;
};

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

TEST_P(KernelSet, FitsTheTile) {
  EXPECT_GT(kernels_.rows, 0);
  EXPECT_GT(kernels_.columns, 0);
  EXPECT_EQ(kTilePixels % kernels_.columns, 0);
  EXPECT_EQ(kTilePixels % kLanes, 0);
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

// Inputs of `locate` for one tile.
struct Positions {
  alignas(64) int32_t tap_y[kTilePixels];
  alignas(64) int32_t tap_x[kTilePixels];
  alignas(64) float y[kTilePixels];
  alignas(64) float x[kTilePixels];
  alignas(64) float mask[kTilePixels];
};

// The corners on the map and their weights times the mask, by the definition.
std::map<int64_t, double> corners_of(MapExtent extent, double y, double x, double mask) {
  std::map<int64_t, double> corners;
  if (!(y > -1 && y < extent.height && x > -1 && x < extent.width)) return corners;
  for (int corner = 0; corner < 4; ++corner) {
    const double row = std::floor(y) + corner / 2;
    const double column = std::floor(x) + corner % 2;
    if (row < 0 || row >= extent.height || column < 0 || column >= extent.width) continue;
    corners[static_cast<int64_t>(row) * extent.width + static_cast<int64_t>(column)] =
        mask * (1 - std::abs(y - row)) * (1 - std::abs(x - column));
  }
  return corners;
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

TEST_P(KernelSet, LocatesTheCornersAndTheirWeights) {
  SCOPED_TRACE(seed_trace());
  constexpr float kFar[] = {kNan, -kNan, kInfinity, -kInfinity, 3e38f, -3e38f, 1e9f, -1e9f, 1.1e9f};
  for (int round = 0; round < 600; ++round) {
    constexpr int32_t kSizes[] = {1, 2, 7, 19, 33};
    const MapExtent extent{kSizes[pick(0, 4)], kSizes[pick(0, 4)]};
    const int64_t count = kLanes * pick(1, static_cast<int32_t>(kTilePixels / kLanes));
    const bool masked = chance(0.5);
    // Some rounds stay on the map, where the flag `inside` is set.
    const bool stay = round % 3 == 0 && extent.height > 1 && extent.width > 1;
    auto in = std::make_unique<Positions>();
    for (int64_t p = 0; p < kTilePixels; ++p) {
      in->tap_y[p] = pick(-5, extent.height + 5);
      in->tap_x[p] = pick(-5, extent.width + 5);
      in->y[p] = normal(3);
      in->x[p] = normal(3);
      if (chance(0.3)) in->y[p] = std::round(in->y[p]);
      if (chance(0.3)) in->x[p] = std::round(in->x[p]);
      if (chance(0.05)) in->y[p] = kFar[pick(0, 8)];
      if (chance(0.05)) in->x[p] = kFar[pick(0, 8)];
      if (stay) {
        in->tap_y[p] = pick(0, extent.height - 2) + 3;
        in->tap_x[p] = pick(0, extent.width - 2) - 3;
        in->y[p] = -3 + static_cast<float>(pick(0, 15)) / 16;
        in->x[p] = 3 + static_cast<float>(pick(0, 15)) / 16;
      }
      in->mask[p] = normal(1);
    }
    auto out = std::make_unique<TapPositions>();
    std::memset(out.get(), 0x5c, sizeof(*out));
    kernels_.locate(extent, in->tap_y, in->tap_x, in->y, in->x, masked ? in->mask : nullptr, count,
                    out.get());

    const int32_t step = extent.width > 1 ? 1 : 0;
    std::vector<bool> all_kept(as_size(count / kLanes), true);
    for (int64_t p = 0; p < count; ++p) {
      SCOPED_TRACE("map " + std::to_string(extent.height) + "x" + std::to_string(extent.width) +
                   ", pixel " + std::to_string(p) + ": y " + std::to_string(in->tap_y[p]) + " + " +
                   std::to_string(in->y[p]) + ", x " + std::to_string(in->tap_x[p]) + " + " +
                   std::to_string(in->x[p]));
      std::map<int64_t, double> actual;
      for (int64_t entry = 0; entry < 4; ++entry) {
        const bool above = entry < 2;
        const int64_t side = entry % 2;
        const int64_t pixel = (above ? out->above : out->below)[p] + side * step;
        // Read whether it counts or not.
        ASSERT_GE(pixel, 0);
        ASSERT_LT(pixel, int64_t{extent.height} * extent.width);
        const uint32_t keep = (above ? out->keep_above : out->keep_below)[2 * p + side];
        const float weight = (above ? out->weight_above : out->weight_below)[2 * p + side];
        ASSERT_TRUE(std::isfinite(weight));
        ASSERT_TRUE(keep == 0 || keep == 0xffffffffu);
        if (keep == 0) {
          all_kept[as_size(p / kLanes)] = false;
          continue;
        }
        ASSERT_EQ(actual.count(pixel), 0u) << "a corner counts twice";
        actual[pixel] = weight;
      }
      const double mask = masked ? in->mask[p] : 1.0;
      const std::map<int64_t, double> expected =
          corners_of(extent, in->tap_y[p] + static_cast<double>(in->y[p]),
                     in->tap_x[p] + static_cast<double>(in->x[p]), mask);
      ASSERT_EQ(actual.size(), expected.size());
      for (const auto& [pixel, weight] : expected) {
        ASSERT_EQ(actual.count(pixel), 1u) << "corner " << pixel;
        ASSERT_NEAR(actual[pixel], weight, 4e-7 * std::abs(mask)) << "corner " << pixel;
      }
    }
    for (int64_t lane = 0; lane < count / kLanes; ++lane) {
      ASSERT_EQ(out->inside[lane], all_kept[as_size(lane)] ? 1 : 0) << "lane " << lane;
      if (stay) {
        ASSERT_EQ(out->inside[lane], 1);
      }
    }
    for (int64_t p = count; p < kTilePixels; ++p) {
      ASSERT_EQ(out->above[p], 0x5c5c5c5c) << "entries beyond the count are left alone";
      ASSERT_EQ(out->keep_below[2 * p], 0x5c5c5c5cu);
    }
  }
}

TEST_P(KernelSet, SamplesWeightedPairs) {
  SCOPED_TRACE(seed_trace());
  for (const DType dtype : kDTypes) {
    for (int round = 0; round < 60; ++round) {
      const bool narrow = round % 4 == 0;
      const int32_t step = narrow ? 0 : 1;
      const int32_t pixels = narrow ? pick(1, 9) : pick(2, 200);
      const int64_t taps = pick(1, 10);
      // `locate` and `sample` work on whole lanes and whole register blocks.
      const int64_t unit = std::max(kernels_.columns, kLanes);
      const int64_t count = unit * pick(1, static_cast<int32_t>(kTilePixels / unit));
      const int64_t gap = kernels_.columns * pick(0, 2);
      const int64_t panel_stride = taps * kernels_.columns + gap;

      std::vector<double> values = dcn_deploy::testing::normal_values(&random_, pixels, 1);
      for (double& value : values) {
        if (chance(0.1)) value = chance(0.5) ? kNan : kInfinity;
      }
      const Tensor channel(dtype, values);
      std::vector<TapPositions> positions(as_size(taps));
      for (TapPositions& at : positions) {
        for (int64_t lane = 0; lane < kTilePixels / kLanes; ++lane) {
          bool all_kept = true;
          const bool drop = chance(0.7);
          for (int64_t p = lane * kLanes; p < (lane + 1) * kLanes; ++p) {
            for (const bool above : {true, false}) {
              int32_t& place = (above ? at.above : at.below)[p];
              place = pick(0, pixels - 1 - step);
              for (int side = 0; side < 2; ++side) {
                const double value = channel.values()[as_size(place + side * step)];
                // What is not finite must not be seen where it is not kept.
                const bool keep = std::isfinite(value) && !(drop && chance(0.3));
                all_kept = all_kept && keep;
                (above ? at.keep_above : at.keep_below)[2 * p + side] = keep ? 0xffffffffu : 0;
                (above ? at.weight_above : at.weight_below)[2 * p + side] = normal(1);
              }
            }
          }
          at.inside[lane] = all_kept ? 1 : 0;
        }
      }
      Floats panel((count / kernels_.columns - 1) * panel_stride + taps * kernels_.columns);
      kernels_.sample[static_cast<int>(dtype)](channel.data(), step, positions.data(), taps, count,
                                               panel.begin(), panel_stride);
      std::vector<bool> written(as_size(panel.end() - panel.begin()), false);
      for (int64_t tap = 0; tap < taps; ++tap) {
        const TapPositions& at = positions[as_size(tap)];
        for (int64_t p = 0; p < count; ++p) {
          double expected = 0;
          for (int side = 0; side < 2; ++side) {
            if (at.keep_above[2 * p + side] != 0) {
              expected += channel.values()[as_size(at.above[p] + side * step)] *
                          at.weight_above[2 * p + side];
            }
            if (at.keep_below[2 * p + side] != 0) {
              expected += channel.values()[as_size(at.below[p] + side * step)] *
                          at.weight_below[2 * p + side];
            }
          }
          const int64_t place =
              p / kernels_.columns * panel_stride + tap * kernels_.columns + p % kernels_.columns;
          ASSERT_NEAR(panel[place], expected, 1e-5)
              << name_of(dtype) << ", step " << step << ", tap " << tap << ", pixel " << p;
          written[as_size(place)] = true;
        }
      }
      for (std::size_t i = 0; i < written.size(); ++i) {
        if (!written[i]) {
          ASSERT_EQ(panel[static_cast<int64_t>(i)], kPoison) << "place " << i;
        }
      }
      EXPECT_TRUE(channel.intact());
    }
  }
}

TEST_P(KernelSet, SamplesInsideAndKeptPairsAlike) {
  SCOPED_TRACE(seed_trace());
  const int64_t count = kTilePixels;
  for (const DType dtype : kDTypes) {
    const Tensor channel(dtype, dcn_deploy::testing::normal_values(&random_, 64, 1));
    auto at = std::make_unique<TapPositions>();
    for (int64_t p = 0; p < count; ++p) {
      at->above[p] = pick(0, 62);
      at->below[p] = pick(0, 62);
      for (int side = 0; side < 2; ++side) {
        at->weight_above[2 * p + side] = normal(1);
        at->weight_below[2 * p + side] = normal(1);
        at->keep_above[2 * p + side] = at->keep_below[2 * p + side] = 0xffffffffu;
      }
    }
    Floats checked(count), unchecked(count, -kPoison);
    for (Floats* panel : {&checked, &unchecked}) {
      std::memset(at->inside, panel == &unchecked ? 1 : 0, sizeof(at->inside));
      kernels_.sample[static_cast<int>(dtype)](channel.data(), 1, at.get(), 1, count,
                                               panel->begin(), kernels_.columns);
    }
    EXPECT_EQ(std::memcmp(checked.begin(), unchecked.begin(), as_size(count) * sizeof(float)), 0)
        << name_of(dtype);
  }
}

TEST_P(KernelSet, MultipliesARegisterBlock) {
  SCOPED_TRACE(seed_trace());
  const int64_t rows = kernels_.rows;
  const int64_t columns = kernels_.columns;
  for (const int64_t depth : {1, 2, 7, 19, 33, 64, 255, 256}) {
    for (const bool accumulate : {false, true}) {
      Floats weight(depth * rows), panel(depth * columns), block(rows * columns, kNan);
      for (float& value : weight) value = normal(1);
      for (float& value : panel) value = normal(1);
      if (accumulate) {
        for (float& value : block) value = normal(10);
      }
      const std::vector<double> before(block.begin(), block.end());
      kernels_.multiply(depth, weight.begin(), panel.begin(), accumulate, block.begin());
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t column = 0; column < columns; ++column) {
          const int64_t place = row * columns + column;
          double expected = accumulate ? before[as_size(place)] : 0;
          double magnitude = std::abs(expected);
          for (int64_t k = 0; k < depth; ++k) {
            const double term = static_cast<double>(weight[k * rows + row]) *
                                static_cast<double>(panel[k * columns + column]);
            expected += term;
            magnitude += std::abs(term);
          }
          ASSERT_NEAR(block[place], expected, 2e-6 * magnitude)
              << "depth " << depth << ", accumulate " << accumulate << ", row " << row
              << ", column " << column;
        }
      }
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
