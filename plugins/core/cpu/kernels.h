// The inner loops of the CPU operators, one set for each instruction set, chosen at run time.
//
// This header is compiled with different instruction sets in different files, so it holds plain
// data and function pointers only: an inline function, or a template of the standard library,
// compiled for AVX2 could be the copy that the linker keeps for everyone.

#ifndef DCN_DEPLOY_CORE_CPU_KERNELS_H_
#define DCN_DEPLOY_CORE_CPU_KERNELS_H_

#include <stdint.h>

namespace dcn_deploy {
namespace cpu {

// Output pixels that are worked on together. A multiple of every target's `columns`.
constexpr int64_t kTilePixels = 64;
// Taps of a kernel whose sampling positions are held at a time.
constexpr int64_t kMaxTaps = 64;
// Pixels that share one `inside` flag.
constexpr int64_t kLanes = 8;

// Where one tap of the filter samples for each pixel of a tile: the same for all channels of an
// offset group.
//
// A sample reads two pairs of neighbouring pixels, one pair in the row above the position and one
// in the row below: [above], [above + step], [below], [below + step], with step 0 if the map is one
// pixel wide and else 1. Pairs are moved inside the map at its left and right edge, so that every
// read is within the map; the weights are moved along. What a pair reads beyond the four corners,
// or from a corner that is outside, is turned into +0 by ANDing its bits with `keep`: multiplying
// by a weight of zero would not do, since the pixel may be NaN or infinite.
struct TapPositions {
  alignas(64) int32_t above[kTilePixels];
  alignas(64) int32_t below[kTilePixels];
  // [pixel][left, right], the modulation mask multiplied in.
  alignas(64) float weight_above[2 * kTilePixels];
  alignas(64) float weight_below[2 * kTilePixels];
  // [pixel][left, right], all ones or all zeros.
  alignas(64) uint32_t keep_above[2 * kTilePixels];
  alignas(64) uint32_t keep_below[2 * kTilePixels];
  // One for every kLanes pixels: all their corners are on the map, so that `keep` need not be
  // looked at.
  alignas(8) uint8_t inside[kTilePixels / kLanes];
};

struct RoIPoolKernels;  // roi_pool_kernels.h

struct MapExtent {
  int32_t height;
  int32_t width;
};

// One set of inner loops. Pointers to pixels, panels and scratch are never null and, where they are
// scratch, aligned to 64 bytes. `count` is a number of pixels.
struct Kernels {
  const char* name;
  // Register block of `multiply`: output channels × pixels.
  int64_t rows;
  int64_t columns;

  // Reads `count` values of a storage type (index: DType) as float32.
  void (*load[3])(const void* source, int64_t count, float* destination);

  // Adds `bias` to `count` float32 values and writes them in a storage type (index: DType).
  void (*store[3])(const float* source, float bias, int64_t count, void* destination);

  // Fills the first `count` entries, a multiple of kLanes, of `positions` for samples at (y_base +
  // y, x_base + x) of a map; `mask` may be null.
  void (*locate)(MapExtent map, const int32_t* tap_y, const int32_t* tap_x, const float* y,
                 const float* x, const float* mask, int64_t count, TapPositions* positions);

  // Samples one channel (element type index: DType) at `taps` rows of positions. The sample of tap
  // t at pixel p goes to panel[(p / columns) · panel_stride + t · columns + p % columns].
  void (*sample[3])(const void* channel, int32_t step, const TapPositions* positions, int64_t taps,
                    int64_t count, float* panel, int64_t panel_stride);

  // One register block: sum over k < depth of weight[k][rows] × panel[k][columns], written to
  // block[rows][columns] or, if `accumulate`, added to it.
  void (*multiply)(int64_t depth, const float* weight, const float* panel, bool accumulate,
                   float* block);

  const RoIPoolKernels* roi_pool;
};

extern const Kernels kPortableKernels;
#if defined(DCN_DEPLOY_WITH_AVX2)
extern const Kernels kAvx2Kernels;
#endif

// The fastest set this processor runs. The environment variable DCN_DEPLOY_CPU_TARGET (portable,
// avx2), read at the first call, forces one; a name that is unknown or that the processor cannot
// run is ignored.
const Kernels& select_kernels();

// The set called `name`; null if there is none or the processor cannot run it.
const Kernels* find_kernels(const char* name);

}  // namespace cpu
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CPU_KERNELS_H_
