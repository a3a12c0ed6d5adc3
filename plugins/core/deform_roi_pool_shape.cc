#include "core/deform_roi_pool_shape.h"

#include <cinttypes>
#include <cmath>
#include <cstring>

namespace dcn_deploy {
namespace {

using shape_check::at_least;
using shape_check::check_count;
using shape_check::check_dim;
using shape_check::check_rank;
using shape_check::known_of;
using shape_check::kUnknown;
using shape_check::multiply;

// Samples of a bin along an axis: far more than any bin has pixels.
constexpr std::int64_t kMaxSamples = 1 << 16;

Status at_most(const char* what, std::int64_t value, std::int64_t maximum) {
  if (value <= maximum) return {};
  return make_status(StatusCode::kInvalidArgument, "%s: expected at most %" PRId64 ", got %" PRId64,
                     what, maximum, value);
}

Status check_attributes(const DeformRoIPool2dAttributes& a) {
  DCN_DEPLOY_RETURN_IF_ERROR(at_least("attribute output_size[0]", a.output_h, 1));
  DCN_DEPLOY_RETURN_IF_ERROR(at_least("attribute output_size[1]", a.output_w, 1));
  if (!(std::isfinite(a.spatial_scale) && a.spatial_scale > 0)) {
    return make_status(StatusCode::kInvalidArgument,
                       "attribute spatial_scale: expected a finite number above 0, got %g",
                       static_cast<double>(a.spatial_scale));
  }
  if (!std::isfinite(a.gamma)) {
    return make_status(StatusCode::kInvalidArgument,
                       "attribute gamma: expected a finite number, got %g",
                       static_cast<double>(a.gamma));
  }
  DCN_DEPLOY_RETURN_IF_ERROR(at_least("attribute sampling_ratio", a.sampling_ratio, 0));
  DCN_DEPLOY_RETURN_IF_ERROR(at_most("attribute sampling_ratio", a.sampling_ratio, kMaxSamples));
  DCN_DEPLOY_RETURN_IF_ERROR(at_least("attribute sample_per_part", a.sample_per_part, 1));
  DCN_DEPLOY_RETURN_IF_ERROR(at_most("attribute sample_per_part", a.sample_per_part, kMaxSamples));
  DCN_DEPLOY_RETURN_IF_ERROR(at_least("attribute group_size", a.group_size, 1));
  DCN_DEPLOY_RETURN_IF_ERROR(at_least("attribute part_size", a.part_size, 0));
  return at_least("attribute output_channels", a.output_channels, 0);
}

struct Sizes {
  std::int64_t rois, out_channels, classes, part_h, part_w;
};

// Channels of X and Y, `aligned`.
Status check_aligned_channels(const DeformRoIPool2dAttributes& a, std::int64_t in_channels,
                              Sizes* sizes) {
  if (a.group_size != 1) {
    return make_status(StatusCode::kInvalidArgument,
                       "attribute group_size: expected 1 (variant aligned has no channel groups), "
                       "got %" PRId64,
                       a.group_size);
  }
  const bool given = a.output_channels != DeformRoIPool2dAttributes::kFromInputs;
  if (given && in_channels != kUnknown && a.output_channels != in_channels) {
    return make_status(StatusCode::kInvalidArgument,
                       "attribute output_channels: expected %" PRId64
                       " (the channels of X, with variant aligned), got %" PRId64,
                       in_channels, a.output_channels);
  }
  sizes->out_channels = known_of(in_channels, given ? a.output_channels : kUnknown);
  return {};
}

// Channels of X and Y, `psroi`: C = Cout · group_size².
Status check_psroi_channels(const DeformRoIPool2dAttributes& a, std::int64_t in_channels,
                            Sizes* sizes) {
  std::int64_t groups;
  if (!multiply(a.group_size, a.group_size, &groups)) {
    return make_status(StatusCode::kTooLarge,
                       "attribute group_size: expected a square that fits in 64 bits, got %" PRId64,
                       a.group_size);
  }
  sizes->out_channels = kUnknown;
  if (in_channels != kUnknown) {
    if (in_channels % groups != 0) {
      return make_status(StatusCode::kInvalidArgument,
                         "attribute group_size: expected one whose square divides the %" PRId64
                         " channels of X, got %" PRId64,
                         in_channels, a.group_size);
    }
    sizes->out_channels = in_channels / groups;
  }
  if (a.output_channels == DeformRoIPool2dAttributes::kFromInputs) return {};
  if (sizes->out_channels != kUnknown && sizes->out_channels != a.output_channels) {
    return make_status(StatusCode::kInvalidArgument,
                       "attribute output_channels: expected %" PRId64 " (X has %" PRId64
                       " channels, group_size is %" PRId64 "), got %" PRId64,
                       sizes->out_channels, in_channels, a.group_size, a.output_channels);
  }
  sizes->out_channels = a.output_channels;
  std::int64_t channels;
  if (!multiply(a.output_channels, groups, &channels)) {
    return make_status(StatusCode::kTooLarge,
                       "attribute output_channels: expected output_channels·group_size² to fit in "
                       "64 bits, got %" PRId64 "·%" PRId64 "²",
                       a.output_channels, a.group_size);
  }
  return {};
}

// Classes and parts of `psroi`: what offset and mask say, and agree on.
Status check_psroi_parts(const DeformRoIPool2dAttributes& a, const DeformRoIPool2dShapes& s,
                         Sizes* sizes) {
  const std::int64_t wanted =
      a.part_size != DeformRoIPool2dAttributes::kFromInputs ? a.part_size : kUnknown;
  const shape_check::NamedShape maps[] = {{"offset", s.offset}, {"mask", s.mask}};
  for (const auto& map : maps) {
    DCN_DEPLOY_RETURN_IF_ERROR(
        check_dim(map.name, "axis 2", wanted, map.shape.dim(2), "part_size"));
    DCN_DEPLOY_RETURN_IF_ERROR(
        check_dim(map.name, "axis 3", wanted, map.shape.dim(3), "part_size"));
    DCN_DEPLOY_RETURN_IF_ERROR(check_dim(map.name, "axis 3", map.shape.dim(2), map.shape.dim(3),
                                         "as many parts as along axis 2"));
  }
  const std::int64_t offset_part = known_of(s.offset.dim(2), s.offset.dim(3));
  const std::int64_t mask_part = known_of(s.mask.dim(2), s.mask.dim(3));
  DCN_DEPLOY_RETURN_IF_ERROR(
      check_dim("mask", "axis 2", offset_part, mask_part, "the parts of offset"));
  sizes->part_h = sizes->part_w = known_of(known_of(offset_part, mask_part), wanted);

  sizes->classes = s.offset.present() || s.mask.present() ? kUnknown : 1;
  const std::int64_t offset_channels = s.offset.dim(1);
  if (offset_channels != kUnknown) {
    if (offset_channels % 2 != 0) {
      return make_status(StatusCode::kInvalidArgument,
                         "input offset, axis 1: expected an even number (2·classes), got %" PRId64,
                         offset_channels);
    }
    sizes->classes = offset_channels / 2;
  }
  DCN_DEPLOY_RETURN_IF_ERROR(
      check_dim("mask", "axis 1", sizes->classes, s.mask.dim(1), "the classes of offset"));
  sizes->classes = known_of(sizes->classes, s.mask.dim(1));
  if (sizes->classes != kUnknown && sizes->out_channels != kUnknown &&
      sizes->out_channels % sizes->classes != 0) {
    return make_status(StatusCode::kInvalidArgument,
                       "input %s, axis 1: expected a number of classes that divides the %" PRId64
                       " output channels, got %" PRId64 " classes",
                       offset_channels != kUnknown ? "offset" : "mask", sizes->out_channels,
                       sizes->classes);
  }
  return {};
}

Status check(const DeformRoIPool2dAttributes& a, const DeformRoIPool2dShapes& s, Sizes* sizes) {
  DCN_DEPLOY_RETURN_IF_ERROR(check_attributes(a));
  const bool aligned = a.variant == RoIPoolVariant::kAligned;
  DCN_DEPLOY_RETURN_IF_ERROR(check_rank("X", "[N, C, H, W]", s.x, 4, 0));
  DCN_DEPLOY_RETURN_IF_ERROR(check_rank("rois", "[R, 5]", s.rois, 2, 0));
  if (s.offset.present()) {
    DCN_DEPLOY_RETURN_IF_ERROR(check_rank(
        "offset", aligned ? "[R, 2, pH, pW]" : "[R, 2·classes, part, part]", s.offset, 4, 0));
  }
  if (s.mask.present()) {
    DCN_DEPLOY_RETURN_IF_ERROR(
        check_rank("mask", aligned ? "[R, 1, pH, pW]" : "[R, classes, part, part]", s.mask, 4, 0));
  }
  DCN_DEPLOY_RETURN_IF_ERROR(
      check_dim("rois", "axis 1", 5, s.rois.dim(1), "batch index, x1, y1, x2, y2"));
  DCN_DEPLOY_RETURN_IF_ERROR(
      check_dim("offset", "axis 0 (R)", s.rois.dim(0), s.offset.dim(0), "the RoIs of rois"));
  DCN_DEPLOY_RETURN_IF_ERROR(
      check_dim("mask", "axis 0 (R)", s.rois.dim(0), s.mask.dim(0), "the RoIs of rois"));
  DCN_DEPLOY_RETURN_IF_ERROR(
      check_dim("mask", "axis 0 (R)", s.offset.dim(0), s.mask.dim(0), "the RoIs of offset"));
  sizes->rois = known_of(s.rois.dim(0), known_of(s.offset.dim(0), s.mask.dim(0)));

  if (aligned) {
    DCN_DEPLOY_RETURN_IF_ERROR(check_aligned_channels(a, s.x.dim(1), sizes));
    DCN_DEPLOY_RETURN_IF_ERROR(
        check_dim("offset", "axis 1", 2, s.offset.dim(1), "x and y, with variant aligned"));
    DCN_DEPLOY_RETURN_IF_ERROR(
        check_dim("mask", "axis 1", 1, s.mask.dim(1), "with variant aligned"));
    const shape_check::NamedShape maps[] = {{"offset", s.offset}, {"mask", s.mask}};
    for (const auto& map : maps) {
      DCN_DEPLOY_RETURN_IF_ERROR(
          check_dim(map.name, "axis 2 (pH)", a.output_h, map.shape.dim(2), "output_size[0]"));
      DCN_DEPLOY_RETURN_IF_ERROR(
          check_dim(map.name, "axis 3 (pW)", a.output_w, map.shape.dim(3), "output_size[1]"));
    }
    sizes->classes = 1;
    sizes->part_h = a.output_h;
    sizes->part_w = a.output_w;
  } else {
    DCN_DEPLOY_RETURN_IF_ERROR(check_psroi_channels(a, s.x.dim(1), sizes));
    DCN_DEPLOY_RETURN_IF_ERROR(check_psroi_parts(a, s, sizes));
  }

  DCN_DEPLOY_RETURN_IF_ERROR(shape_check::check_plane(s.x.dim(2), s.x.dim(3)));
  DCN_DEPLOY_RETURN_IF_ERROR(
      check_count("input X", {s.x.dim(0), s.x.dim(1), s.x.dim(2), s.x.dim(3)}));
  DCN_DEPLOY_RETURN_IF_ERROR(check_count("input rois", {sizes->rois, 5}));
  DCN_DEPLOY_RETURN_IF_ERROR(
      check_count("output Y", {sizes->rois, sizes->out_channels, a.output_h, a.output_w}));
  if (s.offset.present()) {
    DCN_DEPLOY_RETURN_IF_ERROR(
        check_count("input offset", {sizes->rois, s.offset.dim(1), sizes->part_h, sizes->part_w}));
  }
  if (s.mask.present()) {
    DCN_DEPLOY_RETURN_IF_ERROR(
        check_count("input mask", {sizes->rois, s.mask.dim(1), sizes->part_h, sizes->part_w}));
  }
  return {};
}

}  // namespace

Status parse_roi_pool_variant(const char* name, RoIPoolVariant* variant) {
  if (std::strcmp(name, "aligned") == 0) {
    *variant = RoIPoolVariant::kAligned;
  } else if (std::strcmp(name, "psroi") == 0) {
    *variant = RoIPoolVariant::kPsroi;
  } else {
    return make_status(StatusCode::kInvalidArgument,
                       "attribute variant: expected \"aligned\" or \"psroi\", got \"%s\"", name);
  }
  return {};
}

Status check_deform_roi_pool(const DeformRoIPool2dAttributes& attributes,
                             const DeformRoIPool2dShapes& shapes) {
  Sizes sizes;
  return check(attributes, shapes, &sizes);
}

Status resolve_deform_roi_pool(const DeformRoIPool2dAttributes& attributes,
                               const DeformRoIPool2dShapes& shapes, DeformRoIPool2dParams* params) {
  Sizes sizes;
  DCN_DEPLOY_RETURN_IF_ERROR(check(attributes, shapes, &sizes));
  DCN_DEPLOY_RETURN_IF_ERROR(shape_check::check_known(
      {{"X", shapes.x}, {"rois", shapes.rois}, {"offset", shapes.offset}, {"mask", shapes.mask}}));
  const bool aligned = attributes.variant == RoIPoolVariant::kAligned;
  params->variant = attributes.variant;
  params->batch = shapes.x.dim(0);
  params->in_channels = shapes.x.dim(1);
  params->in_h = shapes.x.dim(2);
  params->in_w = shapes.x.dim(3);
  params->rois = sizes.rois;
  params->out_channels = sizes.out_channels;
  params->out_h = attributes.output_h;
  params->out_w = attributes.output_w;
  params->spatial_scale = attributes.spatial_scale;
  params->gamma = attributes.gamma;
  params->samples = aligned ? attributes.sampling_ratio : attributes.sample_per_part;
  params->group_size = aligned ? 1 : attributes.group_size;
  params->classes = sizes.classes;
  // Without offset and mask no part is looked at.
  params->part_h = sizes.part_h != kUnknown ? sizes.part_h : 1;
  params->part_w = sizes.part_w != kUnknown ? sizes.part_w : 1;
  return {};
}

}  // namespace dcn_deploy
