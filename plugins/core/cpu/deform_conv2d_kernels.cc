// The inner loops of deformable convolution, written once with Google Highway and compiled for
// each instruction set: the build's own ("portable"), AVX2 and AVX-512 on x86-64.

#include "core/cpu/deform_conv2d_kernels.h"

#include <stddef.h>
#include <stdint.h>

#include "core/half.h"

// Of what Highway knows, what is worth its size; one name each in kernels.cc.
#define HWY_DISABLED_TARGETS \
  ~(HWY_AVX2 | HWY_AVX3 | HWY_SSE2 | HWY_NEON | HWY_NEON_WITHOUT_AES | HWY_EMU128)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/cpu/deform_conv2d_kernels.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace dcn_deploy {
namespace cpu {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::CappedTag<float, kMaxLanes>;
using Ints = hn::RebindToSigned<Floats>;
using FloatVector = hn::Vec<Floats>;
using IntVector = hn::Vec<Ints>;

constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(Floats()));

// Accumulators, the weights' vectors and one broadcast sample fill the registers.
#if HWY_TARGET == HWY_AVX3
constexpr int kStrip = 14;
#elif HWY_ARCH_ARM_A64
constexpr int kStrip = 12;
#else
constexpr int kStrip = 6;
#endif
static_assert(kStrip <= kMaxStrip, "a panel holds a strip");
static_assert(kLanes % 4 == 0, "transposition works on blocks of four");

// ---- positions

// bilinear_axis() for a vector of positions.
struct Axis {
  IntVector first;
  FloatVector fraction;
  hn::Mask<Floats> inside;
};

HWY_INLINE Axis axis_of(IntVector base, FloatVector offset, int32_t size) {
  const Floats df;
  const Ints di;
  // NaN fails the comparison. What passes can be converted to an integer.
  const auto in_range = hn::Lt(hn::Abs(offset), hn::Set(df, 1073741824.0f));
  const auto safe = hn::IfThenElseZero(in_range, offset);
  const auto truncated = hn::ConvertTo(di, safe);
  const auto rounded = hn::ConvertTo(df, truncated);
  // Truncation goes towards zero, so up for negative values; a mask is -1 as an integer.
  const auto up = hn::Lt(safe, rounded);
  const auto first = hn::Add(hn::Add(base, truncated), hn::VecFromMask(di, hn::RebindMask(di, up)));
  const auto whole = hn::Sub(rounded, hn::IfThenElseZero(up, hn::Set(df, 1.0f)));
  Axis axis;
  axis.fraction = hn::Sub(safe, whole);
  axis.first = first;
  // At -1 exactly nothing is sampled, not even pixel 0 with a weight of zero: it may be NaN.
  const auto after = hn::Or(hn::Ge(first, hn::Zero(di)),
                            hn::And(hn::Eq(first, hn::Set(di, -1)),
                                    hn::RebindMask(di, hn::Gt(axis.fraction, hn::Zero(df)))));
  axis.inside =
      hn::And(in_range, hn::RebindMask(df, hn::And(after, hn::Lt(first, hn::Set(di, size)))));
  return axis;
}

void locate(int32_t height, int32_t width, int32_t tap_y, int32_t tap_x, const int32_t* y_base,
            const int32_t* x_base, const float* y, const float* x, const float* mask, int64_t count,
            int64_t first, SamplePositions positions, MapRegion* region) {
  const Floats df;
  const Ints di;
  const auto one = hn::Set(df, 1.0f);
  const auto outside = hn::Set(di, kOutside);
  const auto largest = hn::Set(di, INT32_MAX);
  auto top = largest;
  auto left = largest;
  auto bottom = outside;
  auto right = outside;
  for (int64_t p = 0; p < count; p += kLanes) {
    const auto vertical = axis_of(hn::Add(hn::LoadU(di, y_base + p), hn::Set(di, tap_y)),
                                  hn::LoadU(df, y + p), height);
    const auto horizontal = axis_of(hn::Add(hn::LoadU(di, x_base + p), hn::Set(di, tap_x)),
                                    hn::LoadU(df, x + p), width);
    const auto inside = hn::RebindMask(di, hn::And(vertical.inside, horizontal.inside));
    const auto row = hn::IfThenElse(inside, vertical.first, outside);
    const auto column = hn::IfThenElse(inside, horizontal.first, outside);
    int32_t* at = positions.at + 2 * (first + p);
    hn::StoreU(row, di, at);
    hn::StoreU(column, di, at + kLanes);
    top = hn::Min(top, hn::IfThenElse(inside, row, largest));
    left = hn::Min(left, hn::IfThenElse(inside, column, largest));
    bottom = hn::Max(bottom, hn::Add(row, hn::Set(di, 2)));
    right = hn::Max(right, hn::Add(column, hn::Set(di, 2)));

    const auto modulation = mask != nullptr ? hn::LoadU(df, mask + p) : one;
    const auto above = hn::Sub(one, vertical.fraction);
    const auto before = hn::Sub(one, horizontal.fraction);
    float* weight = positions.weight + 4 * (first + p);
    hn::StoreU(hn::Mul(hn::Mul(above, before), modulation), df, weight);
    hn::StoreU(hn::Mul(hn::Mul(above, horizontal.fraction), modulation), df, weight + kLanes);
    hn::StoreU(hn::Mul(hn::Mul(vertical.fraction, before), modulation), df, weight + 2 * kLanes);
    hn::StoreU(hn::Mul(hn::Mul(vertical.fraction, horizontal.fraction), modulation), df,
               weight + 3 * kLanes);
  }
  HWY_ALIGN int32_t values[4 * kLanes];
  hn::Store(top, di, values);
  hn::Store(left, di, values + kLanes);
  hn::Store(bottom, di, values + 2 * kLanes);
  hn::Store(right, di, values + 3 * kLanes);
  for (int64_t i = 0; i < kLanes; ++i) {
    if (values[i] < region->top) region->top = values[i];
    if (values[kLanes + i] < region->left) region->left = values[kLanes + i];
    if (values[2 * kLanes + i] > region->bottom) region->bottom = values[2 * kLanes + i];
    if (values[3 * kLanes + i] > region->right) region->right = values[3 * kLanes + i];
  }
}

void place(MapRegion region, int32_t step, int32_t origin, int64_t count, int32_t* at) {
  const Ints di;
  const auto top = hn::Set(di, region.top);
  const auto left = hn::Set(di, region.left);
  // The last row and column whose samples are within the region.
  const auto last_row = hn::Set(di, region.bottom - 2);
  const auto last_column = hn::Set(di, region.right - 2);
  const auto width = hn::Set(di, region.right - region.left);
  for (int64_t p = 0; p < count; p += kLanes) {
    const auto row = hn::LoadU(di, at + 2 * p);
    const auto column = hn::LoadU(di, at + 2 * p + kLanes);
    const auto pixel = hn::Add(hn::Mul(hn::Sub(row, top), width), hn::Sub(column, left));
    const auto place = hn::Add(hn::Mul(pixel, hn::Set(di, step)), hn::Set(di, origin));
    const auto near = hn::And(hn::And(hn::Ge(row, top), hn::Le(row, last_row)),
                              hn::And(hn::Ge(column, left), hn::Le(column, last_column)));
    const auto far = hn::Sub(hn::Set(di, far_row(0)), row);
    const auto inside = hn::Ne(row, hn::Set(di, kOutside));
    hn::StoreU(hn::IfThenElseZero(inside, hn::IfThenElse(near, place, far)), di, at + 2 * p);
  }
}

// ---- transposition

// Four floats of every fourth row, in a block of the vector each.
template <class D, HWY_IF_LANES_D(D, 4)>
HWY_INLINE hn::Vec<D> load_quads(D d, const float* source, int64_t row_stride) {
  (void)row_stride;
  return hn::LoadU(d, source);
}
template <class D, HWY_IF_LANES_GT_D(D, 4)>
HWY_INLINE hn::Vec<D> load_quads(D d, const float* source, int64_t row_stride) {
  const hn::Half<D> half;
  const int64_t rows = static_cast<int64_t>(hn::MaxLanes(half));
  return hn::Combine(d, load_quads(half, source + rows * row_stride, row_stride),
                     load_quads(half, source, row_stride));
}

// As many rows as `d` has lanes, four columns.
template <class D>
HWY_INLINE void transpose_block(D d, const float* source, int64_t source_stride, float* destination,
                                int64_t destination_stride) {
  const auto row0 = load_quads(d, source, source_stride);
  const auto row1 = load_quads(d, source + source_stride, source_stride);
  const auto row2 = load_quads(d, source + 2 * source_stride, source_stride);
  const auto row3 = load_quads(d, source + 3 * source_stride, source_stride);
  const hn::Repartition<uint64_t, D> d64;
  const auto low01 = hn::BitCast(d64, hn::InterleaveLower(d, row0, row1));
  const auto low23 = hn::BitCast(d64, hn::InterleaveLower(d, row2, row3));
  const auto high01 = hn::BitCast(d64, hn::InterleaveUpper(d, row0, row1));
  const auto high23 = hn::BitCast(d64, hn::InterleaveUpper(d, row2, row3));
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d64, low01, low23)), d, destination);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d64, low01, low23)), d,
             destination + destination_stride);
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d64, high01, high23)), d,
             destination + 2 * destination_stride);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d64, high01, high23)), d,
             destination + 3 * destination_stride);
}

// At least four columns. Rows, in blocks of a vector; for the rest one more that overlaps the one
// before, or, with fewer rows, a narrower vector. kRowsFirst: all rows of four columns come before
// the next four.
template <bool kRowsFirst, class D>
HWY_INLINE void transpose_columns(D d, const float* source, int64_t source_stride, int64_t rows,
                                  int64_t columns, float* destination, int64_t destination_stride) {
  const int64_t lanes = static_cast<int64_t>(hn::MaxLanes(d));
  if (rows >= lanes) {
    // The last block of either kind.
    const int64_t last_row = rows - lanes;
    const int64_t last_column = columns - 4;
    const auto block = [&](int64_t row, int64_t column) HWY_ATTR {
      transpose_block(d, source + row * source_stride + column, source_stride,
                      destination + column * destination_stride + row, destination_stride);
    };
    if constexpr (kRowsFirst) {
      for (int64_t column = 0;; column = column + 4 < last_column ? column + 4 : last_column) {
        for (int64_t row = 0;; row = row + lanes < last_row ? row + lanes : last_row) {
          block(row, column);
          if (row == last_row) break;
        }
        if (column == last_column) break;
      }
    } else {
      for (int64_t row = 0;; row = row + lanes < last_row ? row + lanes : last_row) {
        for (int64_t column = 0;; column = column + 4 < last_column ? column + 4 : last_column) {
          block(row, column);
          if (column == last_column) break;
        }
        if (row == last_row) break;
      }
    }
    return;
  }
  if constexpr (hn::MaxLanes(D()) > 4) {
    transpose_columns<kRowsFirst>(hn::Half<D>(), source, source_stride, rows, columns, destination,
                                  destination_stride);
  } else {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = 0; column < columns; ++column) {
        destination[column * destination_stride + row] = source[row * source_stride + column];
      }
    }
  }
}

HWY_INLINE void transpose_few(const float* source, int64_t source_stride, int64_t rows,
                              int64_t columns, float* destination, int64_t destination_stride) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      destination[column * destination_stride + row] = source[row * source_stride + column];
    }
  }
}

// Whole cache lines of few rows at a time: rows of a map with a power of two of pixels all fall on
// the same few sets of the cache.
void gather(const float* source, int64_t source_stride, int64_t rows, int64_t columns,
            float* destination, int64_t destination_stride) {
  const hn::CappedTag<float, 8> d;
  constexpr int64_t kLineColumns = 16;
  // The last chunk takes what is less than a block.
  while (columns >= kLineColumns + 4) {
    transpose_columns<false>(d, source, source_stride, rows, kLineColumns, destination,
                             destination_stride);
    source += kLineColumns;
    destination += kLineColumns * destination_stride;
    columns -= kLineColumns;
  }
  if (columns >= 4) {
    transpose_columns<false>(d, source, source_stride, rows, columns, destination,
                             destination_stride);
  } else {
    transpose_few(source, source_stride, rows, columns, destination, destination_stride);
  }
}

// Whole runs of four rows of the destination at a time, for the same reason.
void scatter(const float* source, int64_t source_stride, int64_t rows, int64_t columns,
             float* destination, int64_t destination_stride) {
  if (columns >= 4) {
    transpose_columns<true>(Floats(), source, source_stride, rows, columns, destination,
                            destination_stride);
  } else {
    transpose_few(source, source_stride, rows, columns, destination, destination_stride);
  }
}

// ---- sampling

// Samples in the blocks before that of a sample, and its lane.
HWY_INLINE int64_t block_of(int64_t sample) { return sample & -kLanes; }
HWY_INLINE int64_t lane_of(int64_t sample) { return sample & (kLanes - 1); }

// The four corners of a sample with their weights.
template <class D>
struct Corners {
  const float* above;
  const float* below;
  int64_t right;
  hn::Vec<D> above_left;
  hn::Vec<D> above_right;
  hn::Vec<D> below_left;
  hn::Vec<D> below_right;
};

template <class D>
HWY_INLINE Corners<D> corners_of(D d, const StagedMap& map, SamplePositions positions,
                                 int64_t tap_first, int64_t sample) {
  const int64_t block = tap_first + block_of(sample);
  const int32_t place = positions.at[2 * block + lane_of(sample)];
  // At 0 are zeros.
  const float* above = map.pixels + (place > 0 ? place : 0);
  const float* weight = positions.weight + 4 * block + lane_of(sample);
  return {above,
          above + map.below,
          map.right,
          hn::Set(d, weight[0]),
          hn::Set(d, weight[kLanes]),
          hn::Set(d, weight[2 * kLanes]),
          hn::Set(d, weight[3 * kLanes])};
}

template <class D>
HWY_INLINE hn::Vec<D> weighted(D d, const Corners<D>& corners, int64_t channel) {
  auto sum = hn::Mul(corners.above_left, hn::LoadU(d, corners.above + channel));
  sum = hn::MulAdd(corners.above_right, hn::LoadU(d, corners.above + corners.right + channel), sum);
  sum = hn::MulAdd(corners.below_left, hn::LoadU(d, corners.below + channel), sum);
  return hn::MulAdd(corners.below_right, hn::LoadU(d, corners.below + corners.right + channel),
                    sum);
}

// kChannels: the number of channels, or 0 for any.
template <int kChannels>
HWY_INLINE void sample_channels(StagedMap map, int64_t given, SamplePositions positions,
                                int64_t taps, int64_t tap_stride, int64_t first, int64_t count,
                                float* HWY_RESTRICT panel) {
  const hn::CappedTag<float, kChannels == 8 ? 8 : kMaxLanes> d;
  constexpr auto kStep = static_cast<int64_t>(hn::MaxLanes(d));
  const int64_t channels = kChannels > 0 ? kChannels : given;
  for (int64_t tap = 0; tap < taps; ++tap) {
    float* HWY_RESTRICT target = panel + tap * channels;
    for (int64_t p = first; p < first + count; ++p) {
      const auto corners = corners_of(d, map, positions, tap * tap_stride, p);
      for (int64_t channel = 0; channel < channels; channel += kStep) {
        hn::StoreU(weighted(d, corners, channel), d, target + channel);
      }
      target += kPanelStride;
    }
  }
}

void sample(StagedMap map, int64_t channels, SamplePositions positions, int64_t taps,
            int64_t tap_stride, int64_t first, int64_t count, float* panel) {
  switch (channels) {
    case 64:
      return sample_channels<64>(map, channels, positions, taps, tap_stride, first, count, panel);
    case 32:
      return sample_channels<32>(map, channels, positions, taps, tap_stride, first, count, panel);
    case 16:
      return sample_channels<16>(map, channels, positions, taps, tap_stride, first, count, panel);
    case 8:
      return sample_channels<8>(map, channels, positions, taps, tap_stride, first, count, panel);
    default:
      return sample_channels<0>(map, channels, positions, taps, tap_stride, first, count, panel);
  }
}

struct Float32 {
  using Type = float;
  static float load(float value) { return value; }
};

struct Float16 {
  using Type = uint16_t;
  static float load(uint16_t value) { return float16_to_float_portable(value); }
};

struct BFloat16 {
  using Type = uint16_t;
  static float load(uint16_t value) { return bfloat16_to_float(value); }
};

// A sample that is taken from planes.
struct FarSample {
  int64_t target;  // in the panel, of the first channel
  int64_t pixel;   // of the corner above and to the left
  float weight[4];
  bool inside[4];
  bool all_inside;
};

constexpr int64_t kMaxFarSamples = 256;

template <typename Storage>
void sample_far_channels(const Planes& planes, int64_t channels, const FarSample* samples,
                         int64_t count, float* panel) {
  using Type = typename Storage::Type;
  const hn::CappedTag<float, 1> d;
  // One plane after the other: samples are not far from each other.
  for (int64_t channel = 0; channel < channels; ++channel) {
    const Type* plane = static_cast<const Type*>(planes.pixels) + channel * planes.plane;
    for (int64_t i = 0; i < count; ++i) {
      const FarSample& sample = samples[i];
      const Type* above = plane + sample.pixel;
      const Type* below = above + planes.width;
      float value[4] = {};
      if (sample.all_inside) {
        value[0] = Storage::load(above[0]);
        value[1] = Storage::load(above[1]);
        value[2] = Storage::load(below[0]);
        value[3] = Storage::load(below[1]);
      } else {
        if (sample.inside[0]) value[0] = Storage::load(above[0]);
        if (sample.inside[1]) value[1] = Storage::load(above[1]);
        if (sample.inside[2]) value[2] = Storage::load(below[0]);
        if (sample.inside[3]) value[3] = Storage::load(below[1]);
      }
      auto sum = hn::Mul(hn::Set(d, sample.weight[0]), hn::Set(d, value[0]));
      sum = hn::MulAdd(hn::Set(d, sample.weight[1]), hn::Set(d, value[1]), sum);
      sum = hn::MulAdd(hn::Set(d, sample.weight[2]), hn::Set(d, value[2]), sum);
      sum = hn::MulAdd(hn::Set(d, sample.weight[3]), hn::Set(d, value[3]), sum);
      panel[sample.target + channel] = hn::GetLane(sum);
    }
  }
}

template <typename Storage>
void sample_far(Planes planes, int64_t channels, SamplePositions positions, int64_t taps,
                int64_t tap_stride, int64_t first, int64_t count, float* panel) {
  FarSample samples[kMaxFarSamples];
  int64_t found = 0;
  for (int64_t tap = 0; tap < taps; ++tap) {
    for (int64_t p = first; p < first + count; ++p) {
      const int64_t block = tap * tap_stride + block_of(p);
      const int32_t* at = positions.at + 2 * block + lane_of(p);
      if (at[0] >= 0) continue;
      const float* weight = positions.weight + 4 * block + lane_of(p);
      const int32_t row = far_row(at[0]);
      const int32_t column = at[kLanes];
      const bool above = row >= 0;
      const bool below = row + 1 < planes.height;
      const bool before = column >= 0;
      const bool after = column + 1 < planes.width;
      samples[found++] = {(p - first) * kPanelStride + tap * channels,
                          static_cast<int64_t>(row) * planes.width + column,
                          {weight[0], weight[kLanes], weight[2 * kLanes], weight[3 * kLanes]},
                          {above && before, above && after, below && before, below && after},
                          above && below && before && after};
      if (found == kMaxFarSamples) {
        sample_far_channels<Storage>(planes, channels, samples, found, panel);
        found = 0;
      }
    }
  }
  sample_far_channels<Storage>(planes, channels, samples, found, panel);
}

// ---- products

template <int kPixels, int kVectors>
HWY_INLINE void multiply_block(int64_t depth, const float* HWY_RESTRICT panel,
                               const float* HWY_RESTRICT weight, const float* HWY_RESTRICT bias,
                               float* HWY_RESTRICT sums, int64_t sums_stride) {
  const Floats d;
  FloatVector sum[kPixels][kVectors];
  HWY_UNROLL(16)
  for (int p = 0; p < kPixels; ++p) {
    HWY_UNROLL(2)
    for (int v = 0; v < kVectors; ++v) sum[p][v] = hn::Zero(d);
  }
  // With 12 products in a step, counting the steps would take a tenth of the time.
  HWY_UNROLL(4)
  for (int64_t k = 0; k < depth; ++k) {
    FloatVector w[kVectors];
    HWY_UNROLL(2)
    for (int v = 0; v < kVectors; ++v) w[v] = hn::Load(d, weight + v * kLanes);
    HWY_UNROLL(16)
    for (int p = 0; p < kPixels; ++p) {
      const auto value = hn::Set(d, panel[p * kPanelStride + k]);
      HWY_UNROLL(2)
      for (int v = 0; v < kVectors; ++v) sum[p][v] = hn::MulAdd(value, w[v], sum[p][v]);
    }
    weight += kVectors * kLanes;
  }
  HWY_UNROLL(16)
  for (int p = 0; p < kPixels; ++p) {
    HWY_UNROLL(2)
    for (int v = 0; v < kVectors; ++v) {
      float* target = sums + p * sums_stride + v * kLanes;
      const auto before = bias != nullptr ? hn::LoadU(d, bias + v * kLanes) : hn::LoadU(d, target);
      hn::StoreU(hn::Add(sum[p][v], before), d, target);
    }
  }
}

template <int kPixels>
HWY_INLINE void multiply_strip(int64_t depth, const float* panel, const float* weight,
                               int64_t channels, const float* bias, float* sums,
                               int64_t sums_stride) {
  constexpr int64_t kBlock = kBlockVectors * kLanes;
  static_assert(kBlockVectors == 2, "one more function for each number of vectors");
  for (int64_t channel = 0; channel < channels; channel += kBlock) {
    const float* block_weight = weight + channel * depth;
    const float* block_bias = bias != nullptr ? bias + channel : nullptr;
    if (channel + kBlock <= channels) {
      multiply_block<kPixels, 2>(depth, panel, block_weight, block_bias, sums + channel,
                                 sums_stride);
    } else {
      multiply_block<kPixels, 1>(depth, panel, block_weight, block_bias, sums + channel,
                                 sums_stride);
    }
  }
}

template <int kPixels>
HWY_INLINE void multiply_pixels(int64_t pixels, int64_t depth, const float* panel,
                                const float* weight, int64_t channels, const float* bias,
                                float* sums, int64_t sums_stride) {
  if (pixels == kPixels) {
    multiply_strip<kPixels>(depth, panel, weight, channels, bias, sums, sums_stride);
  } else if constexpr (kPixels > 1) {
    multiply_pixels<kPixels - 1>(pixels, depth, panel, weight, channels, bias, sums, sums_stride);
  }
}

void multiply(int64_t pixels, int64_t depth, const float* panel, const float* weight,
              int64_t channels, const float* bias, float* sums, int64_t sums_stride) {
  multiply_pixels<kStrip>(pixels, depth, panel, weight, channels, bias, sums, sums_stride);
}

void multiply_depthwise(int64_t pixels, int64_t taps, int64_t channels, const float* panel,
                        const float* weight, int64_t weight_stride, const float* bias, float* sums,
                        int64_t sums_stride) {
  const Floats d;
  for (int64_t p = 0; p < pixels; ++p) {
    for (int64_t channel = 0; channel < channels; channel += kLanes) {
      auto sum = hn::LoadU(d, bias + channel);
      for (int64_t tap = 0; tap < taps; ++tap) {
        sum = hn::MulAdd(hn::LoadU(d, panel + tap * channels + channel),
                         hn::LoadU(d, weight + tap * weight_stride + channel), sum);
      }
      hn::StoreU(sum, d, sums + channel);
    }
    panel += kPanelStride;
    sums += sums_stride;
  }
}

void sample_depthwise(StagedMap map, int64_t channels, SamplePositions positions, int64_t taps,
                      int64_t tap_stride, int64_t first, int64_t count, const float* weight,
                      int64_t weight_stride, const float* bias, float* sums, int64_t sums_stride) {
  const Floats d;
  constexpr int64_t kStep = 2 * kLanes;
  for (int64_t p = first; p < first + count; ++p) {
    int64_t channel = 0;
    for (; channel + kLanes < channels; channel += kStep) {
      auto sum0 = hn::LoadU(d, bias + channel);
      auto sum1 = hn::LoadU(d, bias + channel + kLanes);
      for (int64_t tap = 0; tap < taps; ++tap) {
        const auto corners = corners_of(d, map, positions, tap * tap_stride, p);
        const float* w = weight + tap * weight_stride + channel;
        sum0 = hn::MulAdd(weighted(d, corners, channel), hn::LoadU(d, w), sum0);
        sum1 = hn::MulAdd(weighted(d, corners, channel + kLanes), hn::LoadU(d, w + kLanes), sum1);
      }
      hn::StoreU(sum0, d, sums + channel);
      hn::StoreU(sum1, d, sums + channel + kLanes);
    }
    if (channel < channels) {
      auto sum = hn::LoadU(d, bias + channel);
      for (int64_t tap = 0; tap < taps; ++tap) {
        const auto corners = corners_of(d, map, positions, tap * tap_stride, p);
        sum = hn::MulAdd(weighted(d, corners, channel),
                         hn::LoadU(d, weight + tap * weight_stride + channel), sum);
      }
      hn::StoreU(sum, d, sums + channel);
    }
    sums += sums_stride;
  }
}

}  // namespace

constexpr DeformConv2dKernels kDeformConv2dKernels = {
    kLanes,           kStrip,
    locate,           place,
    gather,           scatter,
    sample,           {sample_far<Float32>, sample_far<Float16>, sample_far<BFloat16>},
    multiply,         multiply_depthwise,
    sample_depthwise,
};

}  // namespace HWY_NAMESPACE
}  // namespace cpu
}  // namespace dcn_deploy
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dcn_deploy {
namespace cpu {

const DeformConv2dKernels kPortableDeformConv2dKernels = HWY_STATIC_DISPATCH(kDeformConv2dKernels);

// A build for a newer processor alone has no sets for older ones: its own takes their place.
#if defined(DCN_DEPLOY_WITH_AVX2)
const DeformConv2dKernels kAvx2DeformConv2dKernels =
#if HWY_TARGETS & HWY_AVX2
    N_AVX2::kDeformConv2dKernels;
#else
    HWY_STATIC_DISPATCH(kDeformConv2dKernels);
#endif
#endif
#if defined(DCN_DEPLOY_WITH_AVX512)
const DeformConv2dKernels kAvx512DeformConv2dKernels =
#if HWY_TARGETS & HWY_AVX3
    N_AVX3::kDeformConv2dKernels;
#else
    HWY_STATIC_DISPATCH(kDeformConv2dKernels);
#endif
#endif

}  // namespace cpu
}  // namespace dcn_deploy
#endif  // HWY_ONCE
