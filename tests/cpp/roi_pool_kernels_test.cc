#include "core/cpu/roi_pool_kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "comparison.h"
#include "core/cpu/kernels.h"
#include "core/dtype.h"
#include "random_tensors.h"

namespace dcn_deploy {
namespace cpu {
namespace {

using dcn_deploy::testing::available_kernels;
using dcn_deploy::testing::GuardedBytes;
using dcn_deploy::testing::Output;
using dcn_deploy::testing::seed;
using dcn_deploy::testing::seed_trace;
using dcn_deploy::testing::Tensor;

constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};
constexpr int64_t kCounts[] = {1, 7, 8, 9, 16, 17, 19, 33, 40, 49, 63, 64};

class RoIPoolKernelSet : public ::testing::TestWithParam<const Kernels*> {
 protected:
  RoIPoolKernelSet() : random_(seed()), trace_(__FILE__, __LINE__, seed_trace()) {}

  const RoIPoolKernels& loops() const { return *GetParam()->roi_pool; }
  Tensor tensor(DType dtype, int64_t count) {
    return Tensor(dtype, dcn_deploy::testing::normal_values(&random_, count, 1));
  }

  std::mt19937_64 random_;
  ::testing::ScopedTrace trace_;
};

std::size_t as_size(int64_t value) { return static_cast<std::size_t>(value); }

TEST_P(RoIPoolKernelSet, StagesWithChannelsInnermost) {
  for (const DType dtype : kDTypes) {
    for (const int64_t channels : kCounts) {
      for (const int64_t count : kCounts) {
        const int64_t stride = count + 3;
        const Tensor source = tensor(dtype, (channels - 1) * stride + count);
        Output staged(DType::kFloat32, as_size(channels * count));
        loops().stage[static_cast<int>(dtype)](source.data(), stride, channels, count,
                                               static_cast<float*>(staged.data()));
        ASSERT_TRUE(staged.bytes().intact());
        const std::vector<double> values = staged.values();
        for (int64_t p = 0; p < count; ++p) {
          for (int64_t c = 0; c < channels; ++c) {
            ASSERT_EQ(values[as_size(p * channels + c)], source.values()[as_size(c * stride + p)])
                << name_of(dtype) << ", pixel " << p << " of " << count << ", channel " << c
                << " of " << channels;
          }
        }
      }
    }
  }
}

TEST_P(RoIPoolKernelSet, StoresWithBinsInnermost) {
  for (const DType dtype : kDTypes) {
    for (const int64_t channels : kCounts) {
      for (const int64_t count : kCounts) {
        const int64_t stride = count + 5;
        // Rounded already, so that storing is exact.
        const std::vector<double> values = tensor(dtype, count * kRoIPoolChannels).values();
        const Tensor result(DType::kFloat32, values);
        Output y(dtype, as_size((channels - 1) * stride + count));
        loops().store[static_cast<int>(dtype)](static_cast<const float*>(result.data()), channels,
                                               count, stride, y.data());
        ASSERT_TRUE(y.bytes().intact());
        const std::vector<double> stored = y.values();
        for (int64_t i = 0; i < static_cast<int64_t>(stored.size()); ++i) {
          const int64_t c = i / stride;
          const int64_t b = i % stride;
          if (b < count) {
            ASSERT_EQ(stored[as_size(i)], values[as_size(b * kRoIPoolChannels + c)])
                << name_of(dtype) << ", bin " << b << " of " << count << ", channel " << c << " of "
                << channels;
          } else {
            ASSERT_TRUE(std::isnan(stored[as_size(i)])) << "written between the channels";
          }
        }
      }
    }
  }
}

// A map of 5×6 pixels, some bins of it with none to several rows and columns, and what they are.
struct Bins {
  static constexpr int64_t kRows = 5;
  static constexpr int64_t kColumns = 6;

  explicit Bins(std::mt19937_64* random) {
    std::uniform_real_distribution<float> weight(-1, 1);
    const auto subset = [&](int64_t size, unsigned bits) {
      std::vector<AxisTap> taps;
      for (int64_t i = 0; i < size; ++i) {
        if ((bits >> i & 1u) != 0) taps.push_back({static_cast<int32_t>(i), weight(*random)});
      }
      return taps;
    };
    for (unsigned i = 0; i < 11; ++i) {
      rows.push_back(subset(kRows, i * 7 % 32));
      columns.push_back(subset(kColumns, i * 11 % 64));
    }
    for (std::size_t i = 0; i < rows.size(); ++i) {
      bins.push_back({rows[i].data(), columns[i].data(), static_cast<int64_t>(rows[i].size()),
                      static_cast<int64_t>(columns[i].size()), 0, weight(*random)});
    }
  }

  // `pixel(row, column)`: the value of a pixel of the bin's map.
  template <typename Pixel>
  double value(std::size_t bin, Pixel&& pixel) const {
    double sum = 0;
    for (const AxisTap& row : rows[bin]) {
      for (const AxisTap& column : columns[bin]) {
        sum += static_cast<double>(row.weight) * static_cast<double>(column.weight) *
               pixel(row.index, column.index);
      }
    }
    return sum * static_cast<double>(bins[bin].scale);
  }

  std::vector<std::vector<AxisTap>> rows, columns;
  std::vector<BinTaps> bins;
};

TEST_P(RoIPoolKernelSet, PoolsEveryNumberOfChannels) {
  Bins of(&random_);
  const int64_t count = static_cast<int64_t>(of.bins.size());
  for (int64_t channels = 1; channels <= kRoIPoolChannels; ++channels) {
    const int64_t plane = Bins::kRows * Bins::kColumns * channels;
    for (int64_t b = 0; b < count; ++b) of.bins[as_size(b)].first = b % 2 * plane;
    const Tensor map = tensor(DType::kFloat32, 2 * plane);
    Output result(DType::kFloat32, as_size(count * kRoIPoolChannels));
    loops().pool(static_cast<const float*>(map.data()), Bins::kColumns * channels, channels,
                 of.bins.data(), count, static_cast<float*>(result.data()));
    ASSERT_TRUE(result.bytes().intact());
    const std::vector<double> values = result.values();
    for (int64_t b = 0; b < count; ++b) {
      for (int64_t c = 0; c < channels; ++c) {
        const double expected = of.value(as_size(b), [&](int64_t row, int64_t column) {
          return map
              .values()[as_size(b % 2 * plane + (row * Bins::kColumns + column) * channels + c)];
        });
        ASSERT_NEAR(values[as_size(b * kRoIPoolChannels + c)], expected, 4e-6)
            << "bin " << b << ", channel " << c << " of " << channels;
      }
    }
  }
}

TEST_P(RoIPoolKernelSet, PoolsAMapAsItIs) {
  constexpr double kBounds[kDTypeCount] = {4e-6, 4e-3, 3e-2};
  Bins of(&random_);
  const int64_t count = static_cast<int64_t>(of.bins.size());
  constexpr int64_t kPlane = Bins::kRows * Bins::kColumns;
  for (const DType dtype : kDTypes) {
    for (const int64_t channels : {1, 3, 9}) {
      // Bins read one of two interleaved groups of channels.
      for (int64_t b = 0; b < count; ++b) of.bins[as_size(b)].first = b % 2 * kPlane;
      const Tensor map = tensor(dtype, 2 * channels * kPlane);
      const int64_t stride = count + 2;
      Output y(dtype, as_size((channels - 1) * stride + count));
      loops().pool_direct[static_cast<int>(dtype)](map.data(), 2 * kPlane, Bins::kColumns, channels,
                                                   of.bins.data(), count, stride, y.data());
      ASSERT_TRUE(y.bytes().intact());
      const std::vector<double> values = y.values();
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t b = 0; b < count; ++b) {
          const double expected = of.value(as_size(b), [&](int64_t row, int64_t column) {
            return map.values()[as_size((2 * c + b % 2) * kPlane + row * Bins::kColumns + column)];
          });
          ASSERT_NEAR(values[as_size(c * stride + b)], expected, kBounds[static_cast<int>(dtype)])
              << name_of(dtype) << ", bin " << b << ", channel " << c << " of " << channels;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(RoIPoolKernels, RoIPoolKernelSet, ::testing::ValuesIn(available_kernels()),
                         [](const auto& param_info) {
                           return std::string(param_info.param->name);
                         });

}  // namespace
}  // namespace cpu
}  // namespace dcn_deploy
