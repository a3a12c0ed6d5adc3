"""The torch operator ``dcn_deploy::deform_roi_pool``: schema, checks, fake kernels, autograd, autocast.

The computation itself is in :mod:`dcn_deploy.ops.deform_roi_pool_vectorized`.
"""

from __future__ import annotations

from typing import Any

from dcn_deploy._lazy import require

require("torch", "dcn_deploy.ops")
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from dcn_deploy.errors import InvalidArgumentError, describe  # noqa: E402
from dcn_deploy.ops import deform_roi_pool_vectorized as vectorized  # noqa: E402
from dcn_deploy.ops.autocast import register_autocast  # noqa: E402
from dcn_deploy.ops.checks import (  # noqa: E402
    check_coordinate_dtypes,
    check_extent,
    check_feature_dtypes,
    check_layout,
    known,
)
from dcn_deploy.ops.geometry import RoiPooling, gamma_of, spatial_scale_of, whole  # noqa: E402
from dcn_deploy.schema import DEFORM_ROI_POOL2D  # noqa: E402

_VARIANTS = DEFORM_ROI_POOL2D.attribute("variant").choices


def _check_attributes(
    variant: str,
    output_size: list[int],
    spatial_scale: float,
    gamma: float,
    least: tuple[tuple[str, int, int], ...],
) -> None:
    """Check what needs no tensor; ``least`` has (name, value, minimum) of the plain numbers."""
    if variant not in _VARIANTS:
        raise InvalidArgumentError(
            describe("variant", expected=" or ".join(map(repr, _VARIANTS)), actual=repr(variant))
        )
    if len(output_size) != 2 or (known(*output_size) and min(output_size) < 1):
        raise InvalidArgumentError(
            describe("output_size", expected="2 values of at least 1", actual=str(list(output_size)))
        )
    if known(spatial_scale):
        spatial_scale_of(spatial_scale)
    if known(gamma):
        gamma_of(gamma)
    for name, value, minimum in least:
        if known(value):
            whole(name, value, minimum, DEFORM_ROI_POOL2D.attribute(name).maximum)


def _check_offset_and_mask(
    offset: Tensor | None, mask: Tensor | None, r: int, channels: int, variant: str, pooled: list[int], part_size: int
) -> None:
    classes = 1
    sides = (("h", 2), ("w", 3))
    if offset is not None:
        if known(offset.shape[1]) and (offset.shape[1] < 2 or offset.shape[1] % 2):
            raise InvalidArgumentError(
                describe(
                    "offset.shape[1]",
                    expected="a positive multiple of 2",
                    actual=str(offset.shape[1]),
                    remedy="Each class has two channels, x first.",
                )
            )
        classes = offset.shape[1] // 2
    elif mask is not None:
        classes = mask.shape[1]
        if known(classes) and classes < 1:
            raise InvalidArgumentError(describe("mask.shape[1]", expected="at least 1", actual=str(classes)))
    if variant == "aligned":
        if offset is not None:
            check_extent("offset.shape[1]", offset.shape[1], 2, "(x, y)", "variant 'aligned' knows no classes.")
        if mask is not None:
            check_extent("mask.shape[1]", mask.shape[1], 1, "one mask", "variant 'aligned' knows no classes.")
    elif known(channels, classes) and channels % classes:
        raise InvalidArgumentError(
            describe(
                "output_channels",
                expected=f"a multiple of the {classes} classes that offset and mask have",
                actual=str(channels),
            )
        )
    if offset is not None and mask is not None and variant != "aligned":
        check_extent("mask.shape[1]", mask.shape[1], classes, "classes of offset")
    first = offset if offset is not None else mask
    for name, tensor in (("offset", offset), ("mask", mask)):
        if tensor is None or first is None:
            continue
        check_extent(f"{name}.shape[0]", tensor.shape[0], r, "R")
        for side, axis in sides:
            what, extent = f"{name}.shape[{axis}]", tensor.shape[axis]
            if variant == "aligned":
                remedy = "variant 'aligned' has an offset for each bin."
                check_extent(what, extent, pooled[axis - 2], f"p{side.upper()}", remedy)
                continue
            if known(extent) and extent < 1:
                raise InvalidArgumentError(describe(what, expected="at least 1", actual=str(extent)))
            check_extent(what, extent, first.shape[2], "the extent of the parts", "Parts are square.")
            if not known(part_size) or part_size:
                check_extent(what, extent, part_size, "part_size")


def _check_and_infer(
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None,
    mask: Tensor | None,
    variant: str,
    output_size: list[int],
    spatial_scale: float,
    gamma: float,
    sampling_ratio: int,
    sample_per_part: int,
    group_size: int,
    part_size: int,
    output_channels: int,
) -> tuple[int, int, int, int]:
    """Check everything that is known, and return the shape of the output.

    Symbolic sizes are compared only where both sides are plain numbers; the rest is checked when the operator runs.
    """
    check_feature_dtypes(input)
    check_coordinate_dtypes(input, (("rois", rois), ("offset", offset), ("mask", mask)))
    check_layout(input, (("input", input, 4), ("rois", rois, 2), ("offset", offset, 4), ("mask", mask, 4)))
    _check_attributes(
        variant,
        output_size,
        spatial_scale,
        gamma,
        (
            ("sampling_ratio", sampling_ratio, 0),
            ("sample_per_part", sample_per_part, 1),
            ("group_size", group_size, 1),
            ("part_size", part_size, 0),
            ("output_channels", output_channels, 0),
        ),
    )
    _, c, h, w = input.shape
    if known(c) and c < 1:
        raise InvalidArgumentError(describe("input channels", expected="at least 1", actual=str(c)))
    if known(h, w) and (h < 1 or w < 1):
        raise InvalidArgumentError(
            describe("input.shape", expected="a map of at least 1×1 pixel", actual=str(list(input.shape)))
        )
    check_extent("rois.shape[1]", rois.shape[1], 5, "(batch index, x1, y1, x2, y2)")
    if variant == "aligned":
        check_extent("group_size", group_size, 1, "that of variant 'aligned'", "variant 'psroi' has channel groups.")
        channels = c
    else:
        groups = group_size**2
        if known(c, groups) and c % groups:
            raise InvalidArgumentError(
                describe("input channels", expected=f"a multiple of group_size² = {groups}", actual=str(c))
            )
        channels = c // groups
    if not known(output_channels) or output_channels:
        check_extent("output_channels", output_channels, channels, "C" if variant == "aligned" else "C/group_size²")
    _check_offset_and_mask(offset, mask, rois.shape[0], channels, variant, output_size, part_size)
    return rois.shape[0], channels, output_size[0], output_size[1]


def _check_batch_indices(rois: Tensor, n: int) -> None:
    """Refuse a RoI of no image. On an accelerator this would have to wait for it: such a RoI gives zeros there."""
    if rois.device.type != "cpu":
        return
    index = rois[:, 0]
    wrong = ~((index >= 0) & (index < n))
    if wrong.any():
        first = int(wrong.to(torch.int8).argmax())
        raise InvalidArgumentError(
            describe(
                f"rois[{first}, 0], the batch index",
                expected=f"a number in [0, {n})",
                actual=f"{index[first].item():g}",
                remedy="A RoI is (batch index, x1, y1, x2, y2).",
            )
        )


@torch.library.custom_op(DEFORM_ROI_POOL2D.torch_name, mutates_args=())
def deform_roi_pool(
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None,
    mask: Tensor | None,
    variant: str,
    output_size: list[int],
    spatial_scale: float,
    gamma: float,
    sampling_ratio: int,
    sample_per_part: int,
    group_size: int,
    part_size: int,
    output_channels: int,
) -> Tensor:
    """See :func:`dcn_deploy.ops.deform_roi_pool`; the order of the tensors is that of the ONNX node."""
    shape = _check_and_infer(
        input, rois, offset, mask, variant, output_size, spatial_scale, gamma,
        sampling_ratio, sample_per_part, group_size, part_size, output_channels,
    )  # fmt: skip
    _check_batch_indices(rois, input.shape[0])
    if 0 in shape:
        return input.new_empty(shape)
    pooling = _pooling(variant, output_size, spatial_scale, gamma, sampling_ratio, sample_per_part, group_size)
    return vectorized.forward(input, rois, offset, mask, pooling)


def _pooling(
    variant: str,
    output_size: list[int],
    spatial_scale: float,
    gamma: float,
    sampling_ratio: int,
    sample_per_part: int,
    group_size: int,
) -> RoiPooling:
    """The attributes as the computation takes them; a number that torch.compile could not round is rounded here."""
    pooled_h, pooled_w = output_size
    scale, factor = spatial_scale_of(spatial_scale), gamma_of(gamma)
    return RoiPooling(variant, (pooled_h, pooled_w), scale, factor, sampling_ratio, sample_per_part, group_size)


@deform_roi_pool.register_fake
def _(
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None,
    mask: Tensor | None,
    variant: str,
    output_size: list[int],
    spatial_scale: float,
    gamma: float,
    sampling_ratio: int,
    sample_per_part: int,
    group_size: int,
    part_size: int,
    output_channels: int,
) -> Tensor:
    shape = _check_and_infer(
        input, rois, offset, mask, variant, output_size, spatial_scale, gamma,
        sampling_ratio, sample_per_part, group_size, part_size, output_channels,
    )  # fmt: skip
    return input.new_empty(shape)


@torch.library.custom_op(f"{DEFORM_ROI_POOL2D.torch_name}_backward", mutates_args=())
def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None,
    mask: Tensor | None,
    variant: str,
    output_size: list[int],
    spatial_scale: float,
    gamma: float,
    sampling_ratio: int,
    sample_per_part: int,
    group_size: int,
    wanted: list[bool],
) -> list[Tensor]:
    """Gradients with respect to (input, offset, mask); an empty tensor where ``wanted`` is False."""
    if grad_output.numel() == 0:
        return [
            torch.zeros_like(tensor, memory_format=torch.contiguous_format)
            if wanted[i] and tensor is not None
            else input.new_empty(0)
            for i, tensor in enumerate((input, offset, mask))
        ]
    pooling = _pooling(variant, output_size, spatial_scale, gamma, sampling_ratio, sample_per_part, group_size)
    # A backward pass run inside an autocast region must not have its products rounded.
    with torch.autocast(input.device.type, enabled=False):
        return vectorized.backward(grad_output, input, rois, offset, mask, pooling, wanted)


@deform_roi_pool_backward.register_fake
def _(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None,
    mask: Tensor | None,
    variant: str,
    output_size: list[int],
    spatial_scale: float,
    gamma: float,
    sampling_ratio: int,
    sample_per_part: int,
    group_size: int,
    wanted: list[bool],
) -> list[Tensor]:
    return [
        tensor.new_empty(tensor.shape) if wanted[i] and tensor is not None else input.new_empty(0)
        for i, tensor in enumerate((input, offset, mask))
    ]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, rois, offset, mask, *attributes = inputs
    ctx.save_for_backward(input, rois, offset, mask)
    ctx.attributes = attributes[:-2]  # without part_size and output_channels, which follow from the tensors


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    input, rois, offset, mask = ctx.saved_tensors
    needs = ctx.needs_input_grad  # input, rois, offset, mask, ...
    wanted = [bool(needs[0]), bool(needs[2]) and offset is not None, bool(needs[3]) and mask is not None]
    grads: list[Tensor | None] = [None] * 3
    if any(wanted):
        computed = torch.ops.dcn_deploy.deform_roi_pool_backward(
            grad_output, input, rois, offset, mask, *ctx.attributes, wanted
        )
        grads = [grad if wanted[i] else None for i, grad in enumerate(computed)]
    return grads[0], None, grads[1], grads[2], *[None] * 9


deform_roi_pool.register_autograd(_backward, setup_context=_setup_context)
register_autocast(DEFORM_ROI_POOL2D.torch_name, features=(0,), coordinates=(1, 2, 3))
