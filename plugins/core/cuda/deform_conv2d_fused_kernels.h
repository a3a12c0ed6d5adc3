// The fused kernels that exist, by type: a table for each source file that compiles them.

#ifndef DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_FUSED_KERNELS_H_
#define DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_FUSED_KERNELS_H_

#include <cstddef>
#include <cstdint>

#include "core/cuda/deform_conv2d.h"
#include "core/cuda/deform_conv2d_kernel.h"

namespace dcn_deploy {
namespace cuda {

// What the choice of a kernel goes by.
struct FusedCost {
  int resident_blocks;  // that a multiprocessor has registers for
  int step_clocks;      // in which a multiprocessor issues the instructions of one step of a block
};

struct FusedKernel {
  Tile tile;
  // Shared memory of a block whose steps touch so many offset groups.
  std::size_t (*shared_bytes)(int offset_slots);
  FusedCost by_unit;
  FusedCost by_element;
  // By unit or by element: whether units of 16 bytes of shared memory may be read by one access,
  // and lie in one offset group each.
  Status (*launch)(const DeformConv2dArguments& arguments, bool by_unit, std::int64_t blocks,
                   std::size_t shared_bytes, Stream stream);
};

// Widest tile first; two lists of tiles, so that a tile's place is the same for every type.
inline constexpr Tile kTensorTiles[] = {{256, 64}, {128, 64}, {64, 64}, {64, 32}};
inline constexpr Tile kSimtTiles[] = {{64, 64}};
inline constexpr int kLargestTileRows = kTensorTiles[0].rows;
inline constexpr int kTensorTileCount = sizeof(kTensorTiles) / sizeof(Tile);
inline constexpr int kSimtTileCount = sizeof(kSimtTiles) / sizeof(Tile);

extern const FusedKernel kTensorFloat16Kernels[kTensorTileCount];
extern const FusedKernel kTensorBFloat16Kernels[kTensorTileCount];
extern const FusedKernel kTensorTf32Kernels[kTensorTileCount];
extern const FusedKernel kTensorInt8Kernels[kTensorTileCount];
extern const FusedKernel kSimtFloat32Kernels[kSimtTileCount];
extern const FusedKernel kSimtFloat16Kernels[kSimtTileCount];
extern const FusedKernel kSimtBFloat16Kernels[kSimtTileCount];
extern const FusedKernel kSimtInt8Kernels[kSimtTileCount];

}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_FUSED_KERNELS_H_
