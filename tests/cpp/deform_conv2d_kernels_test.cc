#include "core/cpu/deform_conv2d_kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "comparison.h"
#include "core/cpu/aligned_buffer.h"
#include "core/cpu/kernels.h"
#include "core/dtype.h"
#include "random_tensors.h"

namespace dcn_deploy {
namespace cpu {

void PrintTo(const Kernels* kernels, std::ostream* out);  // kernels_test.cc

namespace {

using dcn_deploy::testing::available_kernels;
using dcn_deploy::testing::seed;
using dcn_deploy::testing::seed_trace;
using dcn_deploy::testing::Tensor;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kPoison = -12345.0f;
constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};

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

class DeformConv2dKernelSet : public ::testing::TestWithParam<const Kernels*> {
 protected:
  DeformConv2dKernelSet() : loops_(*GetParam()->deform_conv2d), random_(seed()) {}

  float normal(float deviation) { return std::normal_distribution<float>(0, deviation)(random_); }
  int32_t pick(int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(random_);
  }
  bool chance(double probability) { return std::bernoulli_distribution(probability)(random_); }

  // Positions of `count` samples, a multiple of the lanes, around a map.
  struct Located {
    std::vector<int32_t> y_base, x_base;
    std::vector<float> y, x, mask;
    int32_t tap_y, tap_x;
    std::vector<int32_t> at;
    std::vector<float> weight;
    MapRegion region;

    SamplePositions positions() { return {at.data(), weight.data()}; }
  };

  Located located(int32_t height, int32_t width, int64_t count, bool masked) {
    constexpr float kFar[] = {kNan, -kNan, kInfinity, -kInfinity, 3e38f, -3e38f, 1e9f, -1e9f};
    Located p;
    p.tap_y = pick(0, 4);
    p.tap_x = pick(0, 4);
    for (int64_t i = 0; i < count; ++i) {
      p.y_base.push_back(pick(-7, height + 3));
      p.x_base.push_back(pick(-7, width + 3));
      p.y.push_back(chance(0.05) ? kFar[pick(0, 7)] : normal(3));
      p.x.push_back(chance(0.05) ? kFar[pick(0, 7)] : normal(3));
      if (chance(0.3)) p.y.back() = std::round(p.y.back());
      if (chance(0.3)) p.x.back() = std::round(p.x.back());
      p.mask.push_back(normal(1));
    }
    p.at.assign(as_size(2 * count), 0x5c5c5c5c);
    p.weight.assign(as_size(4 * count), kPoison);
    constexpr int32_t kNone = std::numeric_limits<int32_t>::max();
    p.region = {kNone, kNone, -kNone, -kNone};
    loops_.locate(height, width, p.tap_y, p.tap_x, p.y_base.data(), p.x_base.data(), p.y.data(),
                  p.x.data(), masked ? p.mask.data() : nullptr, count, 0, p.positions(), &p.region);
    return p;
  }

  MapRegion part_of(const MapRegion& region) {
    MapRegion part;
    part.top = pick(region.top, region.bottom);
    part.bottom = pick(part.top, region.bottom);
    part.left = pick(region.left, region.right);
    part.right = pick(part.left, region.right);
    return part;
  }

  int64_t block(int64_t sample) const { return sample / loops_.lanes * loops_.lanes; }
  int64_t lane(int64_t sample) const { return sample % loops_.lanes; }

  const DeformConv2dKernels& loops_;
  std::mt19937_64 random_;
};

TEST_P(DeformConv2dKernelSet, HasSizesThatFit) {
  EXPECT_GT(loops_.lanes, 0);
  EXPECT_LE(loops_.lanes, kMaxLanes);
  EXPECT_EQ(kMaxLanes % loops_.lanes, 0);
  EXPECT_GT(loops_.strip, 0);
  EXPECT_LE(loops_.strip, kMaxStrip);
}

// Rows and columns of the corner above and to the left, the four weights, and the part of the map
// that is read, by the definition.
TEST_P(DeformConv2dKernelSet, LocatesSamples) {
  SCOPED_TRACE(seed_trace());
  constexpr int32_t kSizes[] = {1, 2, 7, 19, 33};
  for (int round = 0; round < 600; ++round) {
    const int32_t height = kSizes[pick(0, 4)];
    const int32_t width = kSizes[pick(0, 4)];
    const int64_t count = loops_.lanes * pick(1, 4);
    const bool masked = chance(0.5);
    const Located p = located(height, width, count, masked);
    constexpr int32_t kNone = std::numeric_limits<int32_t>::max();
    MapRegion expected{kNone, kNone, -kNone, -kNone};
    for (int64_t i = 0; i < count; ++i) {
      const std::size_t s = as_size(i);
      const double y = p.tap_y + p.y_base[s] + static_cast<double>(p.y[s]);
      const double x = p.tap_x + p.x_base[s] + static_cast<double>(p.x[s]);
      SCOPED_TRACE("map " + std::to_string(height) + "x" + std::to_string(width) + ", sample at " +
                   std::to_string(y) + ", " + std::to_string(x));
      const int32_t row = p.at[as_size(2 * block(i) + lane(i))];
      const int32_t column = p.at[as_size(2 * block(i) + loops_.lanes + lane(i))];
      const bool inside = y > -1 && y < height && x > -1 && x < width;
      if (!inside) {
        ASSERT_EQ(row, kOutside);
        ASSERT_EQ(column, kOutside);
        continue;
      }
      ASSERT_EQ(row, std::floor(y));
      ASSERT_EQ(column, std::floor(x));
      expected.top = std::min(expected.top, row);
      expected.left = std::min(expected.left, column);
      expected.bottom = std::max(expected.bottom, row + 2);
      expected.right = std::max(expected.right, column + 2);
      const double mask = masked ? static_cast<double>(p.mask[s]) : 1.0;
      for (int64_t corner = 0; corner < 4; ++corner) {
        const double down = corner < 2 ? 1 - (y - row) : y - row;
        const double right = corner % 2 == 0 ? 1 - (x - column) : x - column;
        const float weight = p.weight[as_size(4 * block(i) + corner * loops_.lanes + lane(i))];
        ASSERT_NEAR(weight, down * right * mask, 4e-7 * std::abs(mask)) << "corner " << corner;
      }
    }
    if (expected.bottom < expected.top) {
      EXPECT_LE(p.region.bottom, p.region.top);
    } else {
      EXPECT_EQ(p.region.top, expected.top);
      EXPECT_EQ(p.region.left, expected.left);
      EXPECT_EQ(p.region.bottom, expected.bottom);
      EXPECT_EQ(p.region.right, expected.right);
    }
  }
}

TEST_P(DeformConv2dKernelSet, PlacesSamplesInARegion) {
  SCOPED_TRACE(seed_trace());
  for (int round = 0; round < 200; ++round) {
    const int64_t count = loops_.lanes * pick(1, 4);
    Located p = located(19, 33, count, false);
    if (p.region.bottom <= p.region.top) continue;
    const std::vector<int32_t> before = p.at;
    const int32_t step = pick(1, 32);
    const int32_t origin = pick(1, 1000);
    const MapRegion region = round % 2 == 0 ? p.region : part_of(p.region);
    loops_.place(region, step, origin, count, p.at.data());
    const int32_t width = region.right - region.left;
    for (int64_t i = 0; i < count; ++i) {
      const int32_t row = before[as_size(2 * block(i) + lane(i))];
      const int32_t column = before[as_size(2 * block(i) + loops_.lanes + lane(i))];
      const bool near = row >= region.top && row + 2 <= region.bottom && column >= region.left &&
                        column + 2 <= region.right;
      int32_t expected = origin + ((row - region.top) * width + column - region.left) * step;
      if (!near) expected = far_row(row);
      if (row == kOutside) expected = 0;
      ASSERT_EQ(p.at[as_size(2 * block(i) + lane(i))], expected) << "sample " << i;
      ASSERT_EQ(p.at[as_size(2 * block(i) + loops_.lanes + lane(i))], column);
      ASSERT_TRUE(round % 2 == 1 || expected >= 0);
      ASSERT_EQ(far_row(far_row(row)), row);
    }
  }
}

TEST_P(DeformConv2dKernelSet, Transposes) {
  SCOPED_TRACE(seed_trace());
  for (const bool gather : {true, false}) {
    const auto transpose = gather ? loops_.gather : loops_.scatter;
    for (const int64_t rows : {0, 1, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 19, 33}) {
      for (const int64_t columns : {0, 1, 3, 4, 5, 7, 16, 19, 20, 21, 33, 49}) {
        const int64_t source_stride = columns + pick(0, 3);
        const int64_t destination_stride = rows + pick(0, 3);
        // No longer than what may be read and written.
        Floats source(std::max<int64_t>((rows - 1) * source_stride + columns, 0));
        for (float& value : source) value = normal(1);
        Floats destination(std::max<int64_t>((columns - 1) * destination_stride + rows, 0));
        std::vector<float> expected(destination.begin(), destination.end());
        for (int64_t row = 0; row < rows; ++row) {
          for (int64_t column = 0; column < columns; ++column) {
            expected[as_size(column * destination_stride + row)] =
                source[row * source_stride + column];
          }
        }
        transpose(source.begin(), source_stride, rows, columns, destination.begin(),
                  destination_stride);
        ASSERT_TRUE(std::equal(expected.begin(), expected.end(), destination.begin()))
            << rows << " rows, " << columns << " columns, gather " << gather;
      }
    }
  }
}

// From a staged map with its border of zeros, from planes, and from a part of a map and planes: the
// same bits, and the value that the definition gives.
TEST_P(DeformConv2dKernelSet, SamplesStagedMapsAndPlanesAlike) {
  SCOPED_TRACE(seed_trace());
  constexpr int64_t kChannels[] = {1, 3, 4, 8, 13, 16, 24, 32, 40, 64};
  for (int round = 0; round < 120; ++round) {
    const DType dtype = kDTypes[round % 3];
    const int32_t height = pick(1, 12);
    const int32_t width = pick(1, 12);
    const int64_t channels = kChannels[pick(0, 9)];
    const int64_t pixels = loops_.lanes * pick(1, 2);
    const int64_t taps = pick(1, static_cast<int32_t>(std::min<int64_t>(kMaxDepth / channels, 5)));
    const int64_t plane = height * width + pick(0, 5);
    const Tensor x(dtype, dcn_deploy::testing::normal_values(&random_, plane * channels, 1));
    Located p = located(height, width, taps * pixels, true);
    if (p.region.bottom <= p.region.top) continue;

    const int64_t pitch = p.region.right - p.region.left;
    const int64_t rows = p.region.bottom - p.region.top;
    const int64_t step = channels + pick(0, 3);
    const int64_t origin = (pitch + 2) * step;
    Floats staged(origin + rows * pitch * step + kMaxLanes, 0.0f);
    std::fill(staged.end() - kMaxLanes, staged.end(), kPoison);
    for (int64_t row = std::max(p.region.top, 0); row < std::min(p.region.bottom, height); ++row) {
      for (int64_t column = std::max(p.region.left, 0); column < std::min(p.region.right, width);
           ++column) {
        for (int64_t c = 0; c < channels; ++c) {
          const int64_t pixel = (row - p.region.top) * pitch + column - p.region.left;
          staged[origin + pixel * step + c] =
              static_cast<float>(x.values()[as_size(c * plane + row * width + column)]);
        }
      }
    }
    const Located not_placed = p;
    const int64_t first = pick(0, static_cast<int32_t>(pixels - 1));
    const int64_t count =
        std::min<int64_t>(pick(1, static_cast<int32_t>(pixels - first)), kMaxStrip);
    Floats from_planes(count * kPanelStride), from_staged(count * kPanelStride);
    Floats from_both(count * kPanelStride);
    const auto sample = [&](const MapRegion& region, Floats* panel) {
      Located placed = not_placed;
      const int64_t part_width = region.right - region.left;
      const int64_t zeros = (part_width + 2) * step;
      Floats part(zeros + (region.bottom - region.top) * part_width * step + kMaxLanes, 0.0f);
      std::fill(part.end() - kMaxLanes, part.end(), kPoison);
      for (int64_t row = region.top; row < region.bottom; ++row) {
        const int64_t begin =
            origin + ((row - p.region.top) * pitch + region.left - p.region.left) * step;
        std::copy_n(staged.begin() + begin, part_width * step,
                    part.begin() + zeros + (row - region.top) * part_width * step);
      }
      loops_.place(region, static_cast<int32_t>(step), static_cast<int32_t>(zeros), taps * pixels,
                   placed.at.data());
      const StagedMap map{part.begin(), step, part_width * step};
      loops_.sample(map, channels, placed.positions(), taps, pixels, first, count, panel->begin());
      loops_.sample_far[static_cast<int>(dtype)]({x.data(), plane, height, width}, channels,
                                                 placed.positions(), taps, pixels, first, count,
                                                 panel->begin());
    };
    sample(p.region, &from_staged);
    sample({0, 0, 0, 0}, &from_planes);
    sample(part_of(p.region), &from_both);
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t t = 0; t < taps; ++t) {
        const int64_t at_sample = t * pixels + first + i;
        const int32_t row = not_placed.at[as_size(2 * block(at_sample) + lane(at_sample))];
        const int32_t column =
            not_placed.at[as_size(2 * block(at_sample) + loops_.lanes + lane(at_sample))];
        for (int64_t c = 0; c < channels; ++c) {
          double expected = 0;
          for (int32_t corner = 0; corner < 4; ++corner) {
            const int32_t y = row + corner / 2;
            const int32_t at = column + corner % 2;
            if (y < 0 || y >= height || at < 0 || at >= width) continue;
            expected +=
                x.values()[as_size(c * plane + y * width + at)] *
                p.weight[as_size(4 * block(at_sample) + corner * loops_.lanes + lane(at_sample))];
          }
          const int64_t place = i * kPanelStride + t * channels + c;
          ASSERT_NEAR(from_staged[place], expected, 1e-5) << "tap " << t << ", channel " << c;
          for (Floats* other : {&from_planes, &from_both}) {
            ASSERT_EQ(std::memcmp(&from_staged[place], &(*other)[place], sizeof(float)), 0)
                << from_staged[place] << " and " << (*other)[place];
          }
        }
      }
      // At most a vector beyond the last tap is overwritten.
      for (int64_t k = taps * channels + loops_.lanes; k < kPanelStride; ++k) {
        ASSERT_EQ(from_staged[i * kPanelStride + k], kPoison);
        ASSERT_EQ(from_both[i * kPanelStride + k], kPoison);
      }
    }
  }
}

TEST_P(DeformConv2dKernelSet, MultipliesStripsOfEverySize) {
  SCOPED_TRACE(seed_trace());
  const int64_t lanes = loops_.lanes;
  for (int64_t pixels = 1; pixels <= loops_.strip; ++pixels) {
    for (const int64_t vectors : {1, 2, 3, 5}) {
      for (const bool start : {true, false}) {
        const int64_t channels = vectors * lanes;
        const int64_t depth = pick(1, static_cast<int32_t>(kMaxDepth));
        const int64_t stride = channels + lanes * pick(0, 1);
        Floats panel(pixels * kPanelStride), weight(depth * channels), bias(channels);
        Floats sums(pixels * stride, start ? kNan : kPoison);
        for (Floats* values : {&panel, &weight, &bias}) {
          for (float& value : *values) value = normal(1);
        }
        if (!start) {
          for (float& value : sums) value = normal(10);
        }
        const std::vector<float> before(sums.begin(), sums.end());
        loops_.multiply(pixels, depth, panel.begin(), weight.begin(), channels,
                        start ? bias.begin() : nullptr, sums.begin(), stride);
        for (int64_t p = 0; p < pixels; ++p) {
          for (int64_t m = 0; m < stride; ++m) {
            const float was = before[as_size(p * stride + m)];
            if (m >= channels) {
              ASSERT_EQ(std::memcmp(&sums[p * stride + m], &was, sizeof(was)), 0);
              continue;
            }
            double expected = start ? bias[m] : was;
            double magnitude = std::abs(expected);
            const int64_t block_begin = m / (kBlockVectors * lanes) * kBlockVectors * lanes;
            const int64_t block_width = std::min(kBlockVectors * lanes, channels - block_begin);
            for (int64_t k = 0; k < depth; ++k) {
              const double term =
                  static_cast<double>(panel[p * kPanelStride + k]) *
                  static_cast<double>(
                      weight[block_begin * depth + k * block_width + m - block_begin]);
              expected += term;
              magnitude += std::abs(term);
            }
            ASSERT_NEAR(sums[p * stride + m], expected, 2e-6 * magnitude)
                << pixels << " pixels, depth " << depth << ", pixel " << p << ", channel " << m;
          }
        }
      }
    }
  }
}

TEST_P(DeformConv2dKernelSet, MultipliesDepthwise) {
  SCOPED_TRACE(seed_trace());
  const int64_t lanes = loops_.lanes;
  for (int round = 0; round < 40; ++round) {
    const int64_t pixels = pick(1, static_cast<int32_t>(loops_.strip));
    const int64_t taps = pick(1, 9);
    const int64_t channels = pick(1, 40);
    const int64_t padded = (channels + lanes - 1) / lanes * lanes;
    const int64_t weight_stride = padded + pick(0, 9);
    Floats panel(pixels * kPanelStride), weight(taps * weight_stride), bias(padded);
    Floats sums(pixels * padded);
    for (Floats* values : {&panel, &weight, &bias}) {
      for (float& value : *values) value = normal(1);
    }
    loops_.multiply_depthwise(pixels, taps, channels, panel.begin(), weight.begin(), weight_stride,
                              bias.begin(), sums.begin(), padded);
    for (int64_t p = 0; p < pixels; ++p) {
      for (int64_t c = 0; c < channels; ++c) {
        double expected = bias[c];
        double magnitude = std::abs(expected);
        for (int64_t t = 0; t < taps; ++t) {
          const double term = static_cast<double>(panel[p * kPanelStride + t * channels + c]) *
                              static_cast<double>(weight[t * weight_stride + c]);
          expected += term;
          magnitude += std::abs(term);
        }
        ASSERT_NEAR(sums[p * padded + c], expected, 1e-6 * magnitude);
      }
    }
  }
}

TEST_P(DeformConv2dKernelSet, SamplesAndMultipliesDepthwiseInOne) {
  SCOPED_TRACE(seed_trace());
  const int64_t lanes = loops_.lanes;
  for (int round = 0; round < 60; ++round) {
    const int64_t channels = pick(1, 64);
    const int64_t padded = (channels + lanes - 1) / lanes * lanes;
    const int64_t pixels = lanes * pick(1, 2);
    const int64_t taps = pick(1, static_cast<int32_t>(std::min<int64_t>(kMaxDepth / channels, 9)));
    Located p = located(9, 11, taps * pixels, true);
    if (p.region.bottom <= p.region.top) continue;
    const int64_t pitch = p.region.right - p.region.left;
    const int64_t origin = (pitch + 2) * channels;
    Floats staged(origin + (p.region.bottom - p.region.top) * pitch * channels + kMaxLanes);
    for (float& value : staged) value = normal(1);
    const StagedMap map{staged.begin(), channels, pitch * channels};
    loops_.place(p.region, static_cast<int32_t>(channels), static_cast<int32_t>(origin),
                 taps * pixels, p.at.data());
    const int64_t first = pick(0, static_cast<int32_t>(pixels - 1));
    const int64_t count =
        std::min<int64_t>(pick(1, static_cast<int32_t>(pixels - first)), kMaxStrip);
    const int64_t weight_stride = padded + pick(0, 9);
    Floats panel(count * kPanelStride), weight(taps * weight_stride), bias(padded);
    Floats expected(count * padded), sums(count * padded);
    for (Floats* values : {&weight, &bias}) {
      for (float& value : *values) value = normal(1);
    }
    loops_.sample(map, channels, p.positions(), taps, pixels, first, count, panel.begin());
    loops_.multiply_depthwise(count, taps, channels, panel.begin(), weight.begin(), weight_stride,
                              bias.begin(), expected.begin(), padded);
    loops_.sample_depthwise(map, channels, p.positions(), taps, pixels, first, count,
                            weight.begin(), weight_stride, bias.begin(), sums.begin(), padded);
    for (int64_t i = 0; i < count; ++i) {
      ASSERT_EQ(
          std::memcmp(&sums[i * padded], &expected[i * padded], as_size(channels) * sizeof(float)),
          0)
          << channels << " channels, " << taps << " taps, pixel " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(DeformConv2dKernels, DeformConv2dKernelSet,
                         ::testing::ValuesIn(available_kernels()),
                         [](const ::testing::TestParamInfo<const Kernels*>& tested) {
                           return std::string(tested.param->name);
                         });

}  // namespace
}  // namespace cpu
}  // namespace dcn_deploy
