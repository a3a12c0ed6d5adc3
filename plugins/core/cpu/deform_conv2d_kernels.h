// The inner loops of deformable convolution, one set for each instruction set (see kernels.h, also
// for what this header must not hold).

#ifndef DCN_DEPLOY_CORE_CPU_DEFORM_CONV2D_KERNELS_H_
#define DCN_DEPLOY_CORE_CPU_DEFORM_CONV2D_KERNELS_H_

#include <stdint.h>

namespace dcn_deploy {
namespace cpu {

// Floats in a vector of the widest set.
constexpr int64_t kMaxLanes = 16;
// Vectors of output channels in a register block.
constexpr int64_t kBlockVectors = 2;
// Pixels in a register block of the set with the most.
constexpr int64_t kMaxStrip = 16;
// Terms of the sum that a panel holds, which also bounds a sum's chain of additions in registers.
constexpr int64_t kMaxDepth = 400;
// From one pixel of a panel to the next: room for the deepest, and for what the last vector writes
// beyond it. An odd number of cache lines, so that pixels do not fall on the same few sets.
constexpr int64_t kPanelStride = 432;
static_assert(kPanelStride >= kMaxDepth + kMaxLanes, "the last vector fits");
static_assert(kPanelStride % kMaxLanes == 0 && kPanelStride / kMaxLanes % 2 == 1, "odd lines");

// Sampling positions, for one tap after the other, each for the pixels of a tile, in blocks of as
// many samples as a vector has lanes.
//
// `at` is [block][2][lane]. `locate` writes the rows of a block's samples and then their columns:
// those of the corner above and to the left, in [-1, size - 1], or kOutside if nothing is sampled.
// `place` overwrites the rows with places in a staged map.
//
// `weight` is [block][above left, above right, below left, below right][lane], the modulation mask
// multiplied in.
struct SamplePositions {
  int32_t* at;
  float* weight;
};

constexpr int32_t kOutside = -(1 << 30) - 2;

// Negative, and its own inverse.
constexpr int32_t far_row(int32_t row) { return -2 - row; }

// Rows and columns of a map, those beside it included: [top, bottom) × [left, right). Empty if
// bottom <= top.
struct MapRegion {
  int32_t top;
  int32_t left;
  int32_t bottom;
  int32_t right;
};

// A map with its channels side by side, as much of it as is sampled. What lies beside the map is
// zero, so that every sample has four corners.
struct StagedMap {
  const float* pixels;
  // Floats from a pixel to the one after it, and to the one below.
  int64_t right;
  int64_t below;
};

struct Planes {
  const void* pixels;
  int64_t plane;  // elements
  int32_t height;
  int32_t width;
};

struct DeformConv2dKernels {
  int64_t lanes;
  // Most pixels that `multiply` takes.
  int64_t strip;

  // Locates `count` samples, a multiple of `lanes`, at (tap_y + y_base + y, tap_x + x_base + x) on
  // a map of the given size, from the `first`-th on, a multiple of `lanes`. Enlarges `region` to
  // what they read. `mask` may be null.
  void (*locate)(int32_t height, int32_t width, int32_t tap_y, int32_t tap_x, const int32_t* y_base,
                 const int32_t* x_base, const float* y, const float* x, const float* mask,
                 int64_t count, int64_t first, SamplePositions positions, MapRegion* region);

  // Turns `count` located samples, a multiple of `lanes`, into places in the part `region` of a
  // map: `origin` + pixel · `step`, the region's pixels counted row by row, or 0 if nothing is
  // sampled. Samples with a corner outside `region` become far.
  void (*place)(MapRegion region, int32_t step, int32_t origin, int64_t count, int32_t* at);

  // destination[column · destination_stride + row] = source[row · source_stride + column], in the
  // order that suits a source, or else a destination, that is far away.
  void (*gather)(const float* source, int64_t source_stride, int64_t rows, int64_t columns,
                 float* destination, int64_t destination_stride);
  void (*scatter)(const float* source, int64_t source_stride, int64_t rows, int64_t columns,
                  float* destination, int64_t destination_stride);

  // Samples `channels` neighbouring channels of a staged map for the pixels first, ..., first +
  // count - 1 and `taps` taps, the positions of one tap `tap_stride` samples (a multiple of
  // `lanes`) after those of the tap before. The sample of tap t at pixel first + p goes to panel[p
  // · kPanelStride + t · channels]; as much as a vector beyond the last tap's is overwritten. As
  // much is read beyond the last channel.
  void (*sample)(StagedMap map, int64_t channels, SamplePositions positions, int64_t taps,
                 int64_t tap_stride, int64_t first, int64_t count, float* panel);

  // The far samples among those, from planes as they are (element type index: DType). Gives the
  // bits that `sample` would give.
  void (*sample_far[3])(Planes planes, int64_t channels, SamplePositions positions, int64_t taps,
                        int64_t tap_stride, int64_t first, int64_t count, float* panel);

  // The panel's `pixels` (at most `strip`) times the weights, for `channels` output channels (a
  // multiple of `lanes`):
  //
  //   sums[p · sums_stride + m] (+)= Σ_k panel[p · kPanelStride + k] · weight(k, m)
  //
  // Without a bias it is added, and with one, the sums start from it. Weights come in blocks of
  // kBlockVectors vectors of output channels (the last may have fewer), each [depth][channel].
  void (*multiply)(int64_t pixels, int64_t depth, const float* panel, const float* weight,
                   int64_t channels, const float* bias, float* sums, int64_t sums_stride);

  // For groups of one input channel: one output channel of each of `channels` groups,
  //
  //   sums[p · sums_stride + c] = bias[c] + Σ_t panel[p · kPanelStride + t · channels + c] ·
  //                                         weight[t · weight_stride + c]
  //
  // up to the next multiple of `lanes`.
  void (*multiply_depthwise)(int64_t pixels, int64_t taps, int64_t channels, const float* panel,
                             const float* weight, int64_t weight_stride, const float* bias,
                             float* sums, int64_t sums_stride);

  // `sample` and `multiply_depthwise` in one, without the panel; the same bits. No sample may be
  // far. sums[0] belongs to the pixel `first`.
  void (*sample_depthwise)(StagedMap map, int64_t channels, SamplePositions positions, int64_t taps,
                           int64_t tap_stride, int64_t first, int64_t count, const float* weight,
                           int64_t weight_stride, const float* bias, float* sums,
                           int64_t sums_stride);
};

extern const DeformConv2dKernels kPortableDeformConv2dKernels;
#if defined(DCN_DEPLOY_WITH_AVX2)
extern const DeformConv2dKernels kAvx2DeformConv2dKernels;
#endif
#if defined(DCN_DEPLOY_WITH_AVX512)
extern const DeformConv2dKernels kAvx512DeformConv2dKernels;
#endif

}  // namespace cpu
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CPU_DEFORM_CONV2D_KERNELS_H_
