#include "core/deform_conv2d_shape.h"

#include <cinttypes>

namespace dcn_deploy {
namespace {

using shape_check::add;
using shape_check::at_least;
using shape_check::check_count;
using shape_check::check_dim;
using shape_check::check_rank;
using shape_check::known_of;
using shape_check::kUnknown;
using shape_check::multiply;

Status check_attributes(const DeformConv2dAttributes& a) {
  if (a.kernel_h != DeformConv2dAttributes::kFromWeight) {
    DCN_DEPLOY_RETURN_IF_ERROR(at_least("attribute kernel_shape[0]", a.kernel_h, 1));
  }
  if (a.kernel_w != DeformConv2dAttributes::kFromWeight) {
    DCN_DEPLOY_RETURN_IF_ERROR(at_least("attribute kernel_shape[1]", a.kernel_w, 1));
  }
  DCN_DEPLOY_RETURN_IF_ERROR(at_least("attribute strides[0]", a.stride_h, 1));
  DCN_DEPLOY_RETURN_IF_ERROR(at_least("attribute strides[1]", a.stride_w, 1));
  DCN_DEPLOY_RETURN_IF_ERROR(at_least("attribute dilations[0]", a.dilation_h, 1));
  DCN_DEPLOY_RETURN_IF_ERROR(at_least("attribute dilations[1]", a.dilation_w, 1));
  DCN_DEPLOY_RETURN_IF_ERROR(at_least("attribute pads[0] (top)", a.pad_top, 0));
  DCN_DEPLOY_RETURN_IF_ERROR(at_least("attribute pads[1] (left)", a.pad_left, 0));
  DCN_DEPLOY_RETURN_IF_ERROR(at_least("attribute pads[2] (bottom)", a.pad_bottom, 0));
  DCN_DEPLOY_RETURN_IF_ERROR(at_least("attribute pads[3] (right)", a.pad_right, 0));
  DCN_DEPLOY_RETURN_IF_ERROR(at_least("attribute group", a.group, 1));
  return at_least("attribute offset_group", a.offset_group, 1);
}

Status check_extent(const char* axis, std::int64_t size, std::int64_t pad_begin,
                    std::int64_t pad_end, std::int64_t dilation, std::int64_t kernel,
                    std::int64_t stride, std::int64_t* out) {
  *out = kUnknown;
  std::int64_t reach = 0;  // of the kernel, in pixels
  if (kernel != kUnknown) {
    if (!multiply(dilation, kernel - 1, &reach) || !add(reach, 1, &reach)) {
      return make_status(StatusCode::kTooLarge,
                         "%s of the kernel: expected dilation·(kernel − 1) + 1 to fit in 64 bits, "
                         "got dilation %" PRId64 " and kernel %" PRId64,
                         axis, dilation, kernel);
    }
  }
  std::int64_t padded = size == kUnknown ? 1 : size;
  if (!add(padded, pad_begin, &padded) || !add(padded, pad_end, &padded) ||
      padded > kMaxPaddedExtent) {
    return make_status(StatusCode::kTooLarge,
                       "%s of X with its padding: expected at most 2^30 = %" PRId64
                       " pixels, got size %" PRId64 " and pads %" PRId64 " and %" PRId64,
                       axis, kMaxPaddedExtent, size, pad_begin, pad_end);
  }
  if (size == kUnknown || kernel == kUnknown) return {};
  *out = output_extent(size, pad_begin, pad_end, dilation, kernel, stride);
  if (*out < 1) {
    return make_status(StatusCode::kInvalidArgument,
                       "%s of X: expected at least %" PRId64
                       " with padding, which is what kernel %" PRId64 " with dilation %" PRId64
                       " spans, got %" PRId64 " (size %" PRId64 ", pads %" PRId64 " and %" PRId64
                       ")",
                       axis, reach, kernel, dilation, padded, size, pad_begin, pad_end);
  }
  return {};
}

struct Sizes {
  std::int64_t batch, in_channels, in_h, in_w;
  std::int64_t out_channels, kernel_h, kernel_w;
  std::int64_t out_h, out_w;
};

Status check(const DeformConv2dAttributes& a, const DeformConv2dShapes& s, Sizes* sizes) {
  DCN_DEPLOY_RETURN_IF_ERROR(check_attributes(a));
  DCN_DEPLOY_RETURN_IF_ERROR(check_rank("X", "[N, C, H, W]", s.x, 4, 0));
  DCN_DEPLOY_RETURN_IF_ERROR(check_rank("W", "[M, C/group, kH, kW]", s.w, 4, 1));
  DCN_DEPLOY_RETURN_IF_ERROR(
      check_rank("offset", "[N, offset_group·kH·kW·2, Ho, Wo]", s.offset, 4, 0));
  if (s.mask.present()) {
    DCN_DEPLOY_RETURN_IF_ERROR(check_rank("mask", "[N, offset_group·kH·kW, Ho, Wo]", s.mask, 4, 0));
  }
  if (s.b.present()) DCN_DEPLOY_RETURN_IF_ERROR(check_rank("B", "[M]", s.b, 1, 1));

  DCN_DEPLOY_RETURN_IF_ERROR(check_dim(
      "W", "axis 2 (kH)", a.kernel_h == DeformConv2dAttributes::kFromWeight ? kUnknown : a.kernel_h,
      s.w.dim(2), "kernel_shape[0]"));
  DCN_DEPLOY_RETURN_IF_ERROR(check_dim(
      "W", "axis 3 (kW)", a.kernel_w == DeformConv2dAttributes::kFromWeight ? kUnknown : a.kernel_w,
      s.w.dim(3), "kernel_shape[1]"));
  sizes->kernel_h = known_of(s.w.dim(2), a.kernel_h);
  sizes->kernel_w = known_of(s.w.dim(3), a.kernel_w);

  sizes->in_channels = s.x.dim(1);
  sizes->out_channels = known_of(s.w.dim(0), s.b.dim(0));
  const std::int64_t group_channels = s.w.dim(1);
  if (sizes->in_channels != kUnknown && sizes->in_channels % a.group != 0) {
    return make_status(StatusCode::kInvalidArgument,
                       "attribute group: expected a divisor of the %" PRId64
                       " channels of X, got %" PRId64,
                       sizes->in_channels, a.group);
  }
  if (group_channels != kUnknown) {
    std::int64_t channels;
    if (!multiply(group_channels, a.group, &channels)) {
      return make_status(StatusCode::kTooLarge,
                         "input W: expected group·(C/group) to fit in 64 bits, got %" PRId64
                         "·%" PRId64,
                         a.group, group_channels);
    }
    if (sizes->in_channels != kUnknown && sizes->in_channels != channels) {
      return make_status(StatusCode::kInvalidArgument,
                         "input W, axis 1 (C/group): expected %" PRId64 " (X has %" PRId64
                         " channels, group is %" PRId64 "), got %" PRId64,
                         sizes->in_channels / a.group, sizes->in_channels, a.group, group_channels);
    }
    sizes->in_channels = channels;
  }
  if (sizes->in_channels != kUnknown && sizes->in_channels % a.offset_group != 0) {
    return make_status(StatusCode::kInvalidArgument,
                       "attribute offset_group: expected a divisor of the %" PRId64
                       " channels of X, got %" PRId64,
                       sizes->in_channels, a.offset_group);
  }
  if (sizes->out_channels != kUnknown && sizes->out_channels % a.group != 0) {
    return make_status(StatusCode::kInvalidArgument,
                       "attribute group: expected a divisor of the %" PRId64
                       " output channels of W, got %" PRId64,
                       sizes->out_channels, a.group);
  }
  DCN_DEPLOY_RETURN_IF_ERROR(
      check_dim("B", "axis 0", s.w.dim(0), s.b.dim(0), "the output channels of W"));

  if (sizes->kernel_h != kUnknown && sizes->kernel_w != kUnknown) {
    std::int64_t mask_channels;
    std::int64_t offset_channels;
    if (!multiply(sizes->kernel_h, sizes->kernel_w, &mask_channels) ||
        !multiply(mask_channels, a.offset_group, &mask_channels) ||
        !multiply(mask_channels, 2, &offset_channels)) {
      return make_status(StatusCode::kTooLarge,
                         "input offset: expected offset_group·kH·kW·2 to fit in 64 bits, got "
                         "%" PRId64 "·%" PRId64 "·%" PRId64 "·2",
                         a.offset_group, sizes->kernel_h, sizes->kernel_w);
    }
    DCN_DEPLOY_RETURN_IF_ERROR(
        check_dim("offset", "axis 1", offset_channels, s.offset.dim(1), "offset_group·kH·kW·2"));
    DCN_DEPLOY_RETURN_IF_ERROR(
        check_dim("mask", "axis 1", mask_channels, s.mask.dim(1), "offset_group·kH·kW"));
  }

  sizes->batch = s.x.dim(0);
  sizes->in_h = s.x.dim(2);
  sizes->in_w = s.x.dim(3);
  DCN_DEPLOY_RETURN_IF_ERROR(check_extent("height", sizes->in_h, a.pad_top, a.pad_bottom,
                                          a.dilation_h, sizes->kernel_h, a.stride_h,
                                          &sizes->out_h));
  DCN_DEPLOY_RETURN_IF_ERROR(check_extent("width", sizes->in_w, a.pad_left, a.pad_right,
                                          a.dilation_w, sizes->kernel_w, a.stride_w,
                                          &sizes->out_w));
  const struct {
    const char* name;
    const ShapeView& shape;
  } maps[] = {{"offset", s.offset}, {"mask", s.mask}};
  for (const auto& map : maps) {
    DCN_DEPLOY_RETURN_IF_ERROR(
        check_dim(map.name, "axis 0 (N)", sizes->batch, map.shape.dim(0), "the batch of X"));
    DCN_DEPLOY_RETURN_IF_ERROR(
        check_dim(map.name, "axis 2 (Ho)", sizes->out_h, map.shape.dim(2), "the output height"));
    DCN_DEPLOY_RETURN_IF_ERROR(
        check_dim(map.name, "axis 3 (Wo)", sizes->out_w, map.shape.dim(3), "the output width"));
  }
  DCN_DEPLOY_RETURN_IF_ERROR(
      check_dim("mask", "axis 0 (N)", s.offset.dim(0), s.mask.dim(0), "the batch of offset"));
  DCN_DEPLOY_RETURN_IF_ERROR(
      check_dim("mask", "axis 2 (Ho)", s.offset.dim(2), s.mask.dim(2), "the height of offset"));
  DCN_DEPLOY_RETURN_IF_ERROR(
      check_dim("mask", "axis 3 (Wo)", s.offset.dim(3), s.mask.dim(3), "the width of offset"));

  DCN_DEPLOY_RETURN_IF_ERROR(shape_check::check_plane(sizes->in_h, sizes->in_w));
  DCN_DEPLOY_RETURN_IF_ERROR(
      check_count("input X", {sizes->batch, sizes->in_channels, sizes->in_h, sizes->in_w}));
  DCN_DEPLOY_RETURN_IF_ERROR(check_count(
      "input W", {sizes->out_channels, group_channels, sizes->kernel_h, sizes->kernel_w}));
  DCN_DEPLOY_RETURN_IF_ERROR(
      check_count("output Y", {sizes->batch, sizes->out_channels, sizes->out_h, sizes->out_w}));
  return check_count("input offset", {sizes->batch, s.offset.dim(1), sizes->out_h, sizes->out_w});
}

}  // namespace

std::int64_t output_extent(std::int64_t size, std::int64_t pad_begin, std::int64_t pad_end,
                           std::int64_t dilation, std::int64_t kernel, std::int64_t stride) {
  std::int64_t room;
  std::int64_t reach;
  if (!add(size, pad_begin, &room) || !add(room, pad_end, &room) ||
      !multiply(dilation, kernel - 1, &reach)) {
    return ShapeView::kUnknownDim;
  }
  room -= reach;
  return room < 1 ? 0 : (room - 1) / stride + 1;
}

Status check_deform_conv2d(const DeformConv2dAttributes& attributes,
                           const DeformConv2dShapes& shapes) {
  Sizes sizes;
  return check(attributes, shapes, &sizes);
}

Status resolve_deform_conv2d(const DeformConv2dAttributes& attributes,
                             const DeformConv2dShapes& shapes, DeformConv2dParams* params) {
  Sizes sizes;
  DCN_DEPLOY_RETURN_IF_ERROR(check(attributes, shapes, &sizes));
  DCN_DEPLOY_RETURN_IF_ERROR(shape_check::check_known({{"X", shapes.x},
                                                       {"W", shapes.w},
                                                       {"offset", shapes.offset},
                                                       {"B", shapes.b},
                                                       {"mask", shapes.mask}}));
  params->batch = sizes.batch;
  params->in_channels = sizes.in_channels;
  params->in_h = sizes.in_h;
  params->in_w = sizes.in_w;
  params->out_channels = sizes.out_channels;
  params->out_h = sizes.out_h;
  params->out_w = sizes.out_w;
  params->kernel_h = sizes.kernel_h;
  params->kernel_w = sizes.kernel_w;
  params->stride_h = attributes.stride_h;
  params->stride_w = attributes.stride_w;
  params->pad_top = attributes.pad_top;
  params->pad_left = attributes.pad_left;
  params->dilation_h = attributes.dilation_h;
  params->dilation_w = attributes.dilation_w;
  params->group = attributes.group;
  params->offset_group = attributes.offset_group;
  return {};
}

}  // namespace dcn_deploy
