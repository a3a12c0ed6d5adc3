// Deformable convolution on the CPU: sampling and product in one pass, without a column buffer.
//
//   Y[n,m,ho,wo] = B[m] + Σ_{c∈γ(m)} Σ_{i,j} W[m,c,i,j] · mask[n,o,i,j,ho,wo] · S(X[n,c], y, x)
//
//   y = ho·stride_h − pad_top  + i·dilation_h + Δy
//   x = wo·stride_w − pad_left + j·dilation_w + Δx
//
// (Dai et al., "Deformable Convolutional Networks", 2017; the mask: Zhu et al., "Deformable
// ConvNets v2", 2019.)
//
// A task computes at most 256 neighbouring output pixels of one image (see Plan), for one block of
// the sum, about 32 channels times all taps, after the other:
//
//   1. Where the tile's pixels sample, for each tap, and with which weights: once for all channels
//      of an offset group. That also tells which rectangle of the map the tile reads.
//   2. That rectangle, converted to float32, goes to scratch memory with its channels side by side.
//      One pixel of zeros beside it stands for all corners off the map.
//   3. For as many pixels as the registers hold (a strip): the samples, vectors over channels, to a
//      panel in the first-level cache; the panel times the packed weights, vectors over output
//      channels, added to the tile's sums.
//
// After the last block the sums, transposed, are the output. Where the rectangle is larger than the
// scratch memory, because the offsets are, the part around the tile is staged, and the samples
// beyond it are taken one by one from the map as it is.
//
// Every sum adds its terms in an order that depends on the filter's shape alone, so that neither
// the number of threads nor the way the output is cut changes a bit of the result.

#ifndef DCN_DEPLOY_CORE_CPU_DEFORM_CONV2D_H_
#define DCN_DEPLOY_CORE_CPU_DEFORM_CONV2D_H_

#include <cstddef>
#include <cstdint>

#include "core/cpu/aligned_buffer.h"
#include "core/cpu/kernels.h"
#include "core/deform_conv2d_params.h"
#include "core/dtype.h"
#include "core/parallel_for.h"
#include "core/status.h"

namespace dcn_deploy {
namespace cpu {

// Weights as float32, in the order in which the kernel reads them.
//
//   [group][block of the sum][block of output channels][term][output channel]
//
// Terms are ordered as in SumBlock; a block of output channels is kBlockVectors vectors or, at the
// end, one. Rows beyond the last output channel of a group are zero. Depthwise convolutions:
// [block of the sum][output channel of a group][tap][channel].
class PackedDeformConv2dWeights {
 public:
  // Packs W [out_channels, in_channels / group, kernel_h, kernel_w]. Of `params`, only the
  // channels, the kernel, group and offset_group are read, so that weights can be packed before X
  // is known.
  static Status pack(const DeformConv2dParams& params, const void* weight, DType dtype,
                     const Kernels& kernels, const ParallelFor& parallel_for,
                     PackedDeformConv2dWeights* packed);

  const Kernels& kernels() const { return *kernels_; }
  // The weights of one group.
  const float* group(std::int64_t index) const { return buffer_.data() + index * group_size_; }

 private:
  const Kernels* kernels_ = nullptr;
  std::int64_t group_size_ = 0;
  AlignedBuffer buffer_;
};

// Tensors in the layouts of DeformConv2dParams, contiguous. `bias` and `mask` may be null.
struct DeformConv2dTensors {
  DType dtype = DType::kFloat32;  // of x, bias and y
  DType offset_dtype = DType::kFloat32;
  DType mask_dtype = DType::kFloat32;
  const void* x = nullptr;
  const void* offset = nullptr;
  const void* bias = nullptr;
  const void* mask = nullptr;
  void* y = nullptr;
};

// Scratch memory that a thread keeps for its next tile, whatever the shapes are.
std::size_t scratch_bytes_per_thread();

// `packed` must have been packed for the same channels, kernel, group and offset_group as `params`.
Status deform_conv2d(const DeformConv2dParams& params, const DeformConv2dTensors& tensors,
                     const PackedDeformConv2dWeights& packed, const ParallelFor& parallel_for);

}  // namespace cpu
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CPU_DEFORM_CONV2D_H_
