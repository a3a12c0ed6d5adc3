/* The deformable convolution on a GPU as plain C, for programs that bring their own device memory:
 * checked, planned, packed and run. The shared library dcn_deploy_cuda_c has nothing but these
 * functions.
 *
 * Every function that can fail returns 0 or a code of dcn_deploy::StatusCode, and then writes what
 * was expected and what came to `message` (cut to `message_size` bytes, always terminated). Nothing
 * allocates device memory or waits for the device. Every field is 64 bits wide, so that no caller
 * has to know about padding.
 */

#ifndef DCN_DEPLOY_CORE_CUDA_C_API_H_
#define DCN_DEPLOY_CORE_CUDA_C_API_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct DcnDeployCudaDevice {
  int64_t compute_capability; /* 10 · major + minor */
  int64_t multiprocessors;
  int64_t shared_bytes_per_block;
  int64_t cluster_blocks; /* the most blocks of a cluster; 1 where there are none */
} DcnDeployCudaDevice;

/* What is to be computed, and how. */
typedef struct DcnDeployCudaConv2d {
  int64_t batch;
  int64_t in_channels;
  int64_t in_h;
  int64_t in_w;
  int64_t out_channels;
  int64_t kernel_h;
  int64_t kernel_w;
  int64_t stride_h;
  int64_t stride_w;
  int64_t pad_top;
  int64_t pad_left;
  int64_t pad_bottom;
  int64_t pad_right;
  int64_t dilation_h;
  int64_t dilation_w;
  int64_t group;
  int64_t offset_group;
  int64_t dtype;    /* of X, W, B and Y: 0 float32, 1 float16, 2 bfloat16; of X and W: 3 int8 */
  int64_t x_layout; /* 0 NCHW, 1 NHWC */
  int64_t y_layout;
  int64_t allow_tf32;  /* 0 or 1 */
  int64_t algorithm;   /* 0 choose, 1 tensor cores, 2 float32 arithmetic, 3 direct */
  int64_t tile_rows;   /* 0 chooses */
  int64_t tile_pixels; /* 0 chooses */
  int64_t splits;      /* blocks that share a tile's sum; 0 chooses */
  int64_t y_dtype;     /* for int8 only, then B is float32 */
  double y_scale;      /* for Y of int8 only */
} DcnDeployCudaConv2d;

/* What was decided. */
typedef struct DcnDeployCudaConv2dInfo {
  int64_t out_h;
  int64_t out_w;
  int64_t algorithm;
  int64_t tile_rows;
  int64_t tile_pixels;
  int64_t splits;
  int64_t steps;            /* of the sum that splits share; 0 where they do not */
  int64_t estimated_clocks; /* by which tile and splits are chosen; 0 where they are not */
  int64_t packed_bytes;     /* of the packed weights */
  int64_t shared_bytes;     /* of a block */
} DcnDeployCudaConv2dInfo;

/* Device pointers; `bias` and `mask` may be null. `scale` [out_channels], float32, is what a unit
 * of a sum of products of int8 stands for, and null for other types. */
typedef struct DcnDeployCudaConv2dTensors {
  int64_t offset_dtype;
  int64_t mask_dtype;
  const void* x;
  const void* offset;
  const void* bias;
  const void* mask;
  const void* scale;
  void* y;
} DcnDeployCudaConv2dTensors;

typedef struct DcnDeployCudaConv2dPlan DcnDeployCudaConv2dPlan;

const char* dcn_deploy_version(void);

/* The calling thread's current device. */
int dcn_deploy_cuda_device(DcnDeployCudaDevice* device, char* message, size_t message_size);

/* Writes up to `capacity` pairs (rows, pixels): the tiles that a kernel of that algorithm exists
 * for. Returns how many there are, -1 for an unknown algorithm. */
int dcn_deploy_cuda_conv2d_tiles(int64_t algorithm, int64_t* tiles, size_t capacity);

/* Checks the request and chooses the kernel; the plan is to be destroyed. */
int dcn_deploy_cuda_conv2d_plan(const DcnDeployCudaConv2d* request,
                                const DcnDeployCudaDevice* device, DcnDeployCudaConv2dPlan** plan,
                                DcnDeployCudaConv2dInfo* info, char* message, size_t message_size);
void dcn_deploy_cuda_conv2d_destroy(DcnDeployCudaConv2dPlan* plan);

/* Enqueues the packing of W [out_channels, in_channels / group, kernel_h, kernel_w] into
 * info.packed_bytes at `packed`, 16-byte aligned. */
int dcn_deploy_cuda_conv2d_pack(const DcnDeployCudaConv2dPlan* plan, const void* weight,
                                void* packed, void* stream, char* message, size_t message_size);

/* Enqueues the convolution on a cudaStream_t. */
int dcn_deploy_cuda_conv2d_run(const DcnDeployCudaConv2dPlan* plan,
                               const DcnDeployCudaConv2dTensors* tensors, const void* packed,
                               void* stream, char* message, size_t message_size);

/* Deformable RoI pooling; fields as the attributes and inputs of the ONNX operator. */
typedef struct DcnDeployCudaRoIPool {
  int64_t variant; /* 0 aligned, 1 psroi */
  int64_t batch;
  int64_t in_channels;
  int64_t in_h;
  int64_t in_w;
  int64_t rois;
  int64_t out_h;
  int64_t out_w;
  int64_t sampling_ratio;
  int64_t sample_per_part;
  int64_t group_size;
  int64_t classes; /* channel groups with offsets of their own */
  int64_t part_h;
  int64_t part_w;
  int64_t output_channels; /* 0: in_channels / group_size² */
  double spatial_scale;
  double gamma;
  int64_t dtype; /* of X and Y */
  int64_t x_layout;
  int64_t y_layout;
  int64_t rois_dtype;
  int64_t offset_dtype;
  int64_t mask_dtype;
  const void* x;
  const void* boxes;
  const void* offset; /* may be null */
  const void* mask;   /* may be null */
  void* y;
} DcnDeployCudaRoIPool;

/* Checks the request and enqueues the pooling. */
int dcn_deploy_cuda_roi_pool_run(const DcnDeployCudaRoIPool* request, void* stream, char* message,
                                 size_t message_size);

#ifdef __cplusplus
}
#endif

#endif /* DCN_DEPLOY_CORE_CUDA_C_API_H_ */
