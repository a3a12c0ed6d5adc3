"""The torch operator ``dcn_deploy::deform_conv2d``: schema, checks, fake kernels, autograd, autocast.

The computation itself is in :mod:`dcn_deploy.ops.deform_conv2d_vectorized`; where torchvision's compiled operator is
importable and computes the same, :mod:`dcn_deploy.ops.deform_conv2d_torchvision` hands over to it.
"""

from __future__ import annotations

from typing import Any

from dcn_deploy._lazy import require

require("torch", "dcn_deploy.ops")
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from dcn_deploy.errors import InvalidArgumentError, describe  # noqa: E402
from dcn_deploy.ops import deform_conv2d_torchvision as compiled  # noqa: E402
from dcn_deploy.ops import deform_conv2d_vectorized as vectorized  # noqa: E402
from dcn_deploy.ops.autocast import register_autocast  # noqa: E402
from dcn_deploy.ops.checks import (  # noqa: E402
    check_coordinate_dtypes,
    check_extent,
    check_feature_dtypes,
    check_layout,
    known,
)
from dcn_deploy.ops.geometry import Geometry, output_size  # noqa: E402
from dcn_deploy.schema import DEFORM_CONV2D  # noqa: E402


def _check_and_infer(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: list[int],
    pads: list[int],
    dilation: list[int],
    group: int,
    offset_group: int,
) -> tuple[int, int, int, int]:
    """Check everything that is known, and return the shape of the output.

    Symbolic sizes are compared only where both sides are plain numbers; the rest is checked when the operator runs.
    """
    check_feature_dtypes(input, (("weight", weight), ("bias", bias)))
    check_coordinate_dtypes(input, (("offset", offset), ("mask", mask)))
    check_layout(
        input, (("input", input, 4), ("weight", weight, 4), ("offset", offset, 4), ("bias", bias, 1), ("mask", mask, 4))
    )
    for name, values, length, minimum in (
        ("stride", stride, 2, 1),
        ("pads", pads, 4, 0),
        ("dilation", dilation, 2, 1),
        ("group and offset_group", [group, offset_group], 2, 1),
    ):
        if len(values) != length or min(values) < minimum:
            raise InvalidArgumentError(
                describe(name, expected=f"{length} values of at least {minimum}", actual=str(list(values)))
            )
    n, c, h, w = input.shape
    m, c_per_group, kernel_h, kernel_w = weight.shape
    for name, extent in (
        ("kernel height", kernel_h),
        ("kernel width", kernel_w),
        ("input channels", c),
        ("M", m),
    ):
        if known(extent) and extent < 1:
            raise InvalidArgumentError(describe(name, expected="at least 1", actual=str(extent)))
    if known(h, w) and (h < 1 or w < 1):
        raise InvalidArgumentError(
            describe("input.shape", expected="a map of at least 1×1 pixel", actual=str(list(input.shape)))
        )
    for name, total, parts in (
        ("group", c, group),
        ("group", m, group),
        ("offset_group", c, offset_group),
    ):
        if known(total) and total % parts:
            raise InvalidArgumentError(
                describe(
                    name,
                    expected=f"a divisor of {'M' if total is m else 'C'} = {total}",
                    actual=str(parts),
                )
            )
    check_extent("weight.shape[1]", c_per_group, c // group, "C/group")
    out_h = output_size(h, pads[0], pads[2], dilation[0], kernel_h, stride[0])
    out_w = output_size(w, pads[1], pads[3], dilation[1], kernel_w, stride[1])
    if known(out_h, out_w) and (out_h < 1 or out_w < 1):
        raise InvalidArgumentError(
            describe(
                "output size",
                expected="at least 1×1",
                actual=f"{out_h}×{out_w}",
                remedy=f"A {h}×{w} map with pads {list(pads)} is smaller than the dilated kernel.",
            )
        )
    remedy = "It comes from a convolution with the same kernel, stride, padding and dilation."
    taps = offset_group * kernel_h * kernel_w
    check_extent("offset.shape[0]", offset.shape[0], n, "N")
    check_extent("offset.shape[1]", offset.shape[1], 2 * taps, "2·offset_group·kH·kW")
    check_extent("offset.shape[2]", offset.shape[2], out_h, "Ho", remedy)
    check_extent("offset.shape[3]", offset.shape[3], out_w, "Wo", remedy)
    if mask is not None:
        check_extent("mask.shape[0]", mask.shape[0], n, "N")
        check_extent("mask.shape[1]", mask.shape[1], taps, "offset_group·kH·kW")
        check_extent("mask.shape[2]", mask.shape[2], out_h, "Ho", remedy)
        check_extent("mask.shape[3]", mask.shape[3], out_w, "Wo", remedy)
    if bias is not None:
        check_extent("bias.shape[0]", bias.shape[0], m, "M")
    return n, m, out_h, out_w


@torch.library.custom_op(DEFORM_CONV2D.torch_name, mutates_args=())
def deform_conv2d(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: list[int],
    pads: list[int],
    dilation: list[int],
    group: int,
    offset_group: int,
) -> Tensor:
    """See :func:`dcn_deploy.ops.deform_conv2d`; the order of the tensors is that of the ONNX node."""
    shape = _check_and_infer(input, weight, offset, bias, mask, stride, pads, dilation, group, offset_group)
    if 0 in shape:
        return input.new_empty(shape)
    forward = compiled.forward if compiled.fits(input, pads) else vectorized.forward
    return forward(input, weight, offset, bias, mask, Geometry(stride, pads, dilation, group, offset_group))


@deform_conv2d.register_fake
def _(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: list[int],
    pads: list[int],
    dilation: list[int],
    group: int,
    offset_group: int,
) -> Tensor:
    shape = _check_and_infer(input, weight, offset, bias, mask, stride, pads, dilation, group, offset_group)
    return input.new_empty(shape)


@torch.library.custom_op(f"{DEFORM_CONV2D.torch_name}_backward", mutates_args=())
def deform_conv2d_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    stride: list[int],
    pads: list[int],
    dilation: list[int],
    group: int,
    offset_group: int,
    wanted: list[bool],
) -> list[Tensor]:
    """Gradients with respect to (input, weight, offset, mask); an empty tensor where ``wanted`` is False."""
    if grad_output.numel() == 0:
        return [
            torch.zeros_like(tensor) if wanted[i] and tensor is not None else input.new_empty(0)
            for i, tensor in enumerate((input, weight, offset, mask))
        ]
    geometry = Geometry(stride, pads, dilation, group, offset_group)
    backward = compiled.backward if compiled.fits(input, pads) else vectorized.backward
    # A backward pass run inside an autocast region must not have its products rounded.
    with torch.autocast(input.device.type, enabled=False):
        return backward(grad_output, input, weight, offset, mask, geometry, wanted)


@deform_conv2d_backward.register_fake
def _(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    stride: list[int],
    pads: list[int],
    dilation: list[int],
    group: int,
    offset_group: int,
    wanted: list[bool],
) -> list[Tensor]:
    return [
        tensor.new_empty(tensor.shape) if wanted[i] and tensor is not None else input.new_empty(0)
        for i, tensor in enumerate((input, weight, offset, mask))
    ]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, offset, _, mask, *geometry = inputs
    ctx.save_for_backward(input, weight, offset, mask)
    ctx.geometry = geometry


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    input, weight, offset, mask = ctx.saved_tensors
    needs = ctx.needs_input_grad  # input, weight, offset, bias, mask, ...
    wanted = [bool(needs[0]), bool(needs[1]), bool(needs[2]), bool(needs[4]) and mask is not None]
    grads: list[Tensor | None] = [None] * 4
    if any(wanted):
        computed = torch.ops.dcn_deploy.deform_conv2d_backward(
            grad_output, input, weight, offset, mask, *ctx.geometry, wanted
        )
        grads = [grad if wanted[i] else None for i, grad in enumerate(computed)]
    grad_bias = grad_output.sum((0, 2, 3)) if needs[3] else None
    return grads[0], grads[1], grads[2], grad_bias, grads[3], None, None, None, None, None


deform_conv2d.register_autograd(_backward, setup_context=_setup_context)
register_autocast(DEFORM_CONV2D.torch_name, features=(0, 1, 3), coordinates=(2, 4))
