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

from dcn_deploy.errors import DtypeError, InvalidArgumentError, describe  # noqa: E402
from dcn_deploy.ops import deform_conv2d_torchvision as compiled  # noqa: E402
from dcn_deploy.ops import deform_conv2d_vectorized as vectorized  # noqa: E402
from dcn_deploy.ops.geometry import Geometry, output_size  # noqa: E402
from dcn_deploy.schema import DEFORM_CONV2D  # noqa: E402

_FEATURE_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def _known(*sizes: int) -> bool:
    """Whether all sizes are plain numbers; comparing symbolic ones would specialise an export."""
    return not any(isinstance(size, torch.SymInt) for size in sizes)


def _check_extent(what: str, actual: int, expected: int, meaning: str, remedy: str = "") -> None:
    if _known(actual, expected) and actual != expected:
        raise InvalidArgumentError(
            describe(what, expected=f"{meaning} = {expected}", actual=str(actual), remedy=remedy)
        )


def _check_dtypes(input: Tensor, weight: Tensor, offset: Tensor, bias: Tensor | None, mask: Tensor | None) -> None:
    if input.dtype not in _FEATURE_DTYPES:
        raise DtypeError(
            describe(
                "input.dtype",
                expected=f"one of {', '.join(map(str, _FEATURE_DTYPES))}",
                actual=str(input.dtype),
            )
        )
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.dtype != input.dtype:
            raise DtypeError(
                describe(
                    f"{name}.dtype",
                    expected=f"that of input ({input.dtype})",
                    actual=str(tensor.dtype),
                    remedy=f"Convert one of the two, e.g. {name}.to(input.dtype).",
                )
            )
    for name, tensor in (("offset", offset), ("mask", mask)):
        if tensor is not None and tensor.dtype not in (input.dtype, torch.float32):
            raise DtypeError(
                describe(
                    f"{name}.dtype",
                    expected=f"torch.float32 or that of input ({input.dtype})",
                    actual=str(tensor.dtype),
                    remedy="float32 is recommended whatever the features are.",
                )
            )


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
    _check_dtypes(input, weight, offset, bias, mask)
    for name, tensor, rank in (
        ("input", input, 4),
        ("weight", weight, 4),
        ("offset", offset, 4),
        ("bias", bias, 1),
        ("mask", mask, 4),
    ):
        if tensor is not None and tensor.dim() != rank:
            raise InvalidArgumentError(
                describe(f"{name}.shape", expected=f"{rank} dimension(s)", actual=str(list(tensor.shape)))
            )
        if tensor is not None and tensor.device != input.device:
            raise InvalidArgumentError(
                describe(f"{name}.device", expected=f"that of input ({input.device})", actual=str(tensor.device))
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
        if _known(extent) and extent < 1:
            raise InvalidArgumentError(describe(name, expected="at least 1", actual=str(extent)))
    if _known(h, w) and (h < 1 or w < 1):
        raise InvalidArgumentError(
            describe("input.shape", expected="a map of at least 1×1 pixel", actual=str(list(input.shape)))
        )
    for name, total, parts in (
        ("group", c, group),
        ("group", m, group),
        ("offset_group", c, offset_group),
    ):
        if _known(total) and total % parts:
            raise InvalidArgumentError(
                describe(
                    name,
                    expected=f"a divisor of {'M' if total is m else 'C'} = {total}",
                    actual=str(parts),
                )
            )
    _check_extent("weight.shape[1]", c_per_group, c // group, "C/group")
    out_h = output_size(h, pads[0], pads[2], dilation[0], kernel_h, stride[0])
    out_w = output_size(w, pads[1], pads[3], dilation[1], kernel_w, stride[1])
    if _known(out_h, out_w) and (out_h < 1 or out_w < 1):
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
    _check_extent("offset.shape[0]", offset.shape[0], n, "N")
    _check_extent("offset.shape[1]", offset.shape[1], 2 * taps, "2·offset_group·kH·kW")
    _check_extent("offset.shape[2]", offset.shape[2], out_h, "Ho", remedy)
    _check_extent("offset.shape[3]", offset.shape[3], out_w, "Wo", remedy)
    if mask is not None:
        _check_extent("mask.shape[0]", mask.shape[0], n, "N")
        _check_extent("mask.shape[1]", mask.shape[1], taps, "offset_group·kH·kW")
        _check_extent("mask.shape[2]", mask.shape[2], out_h, "Ho", remedy)
        _check_extent("mask.shape[3]", mask.shape[3], out_w, "Wo", remedy)
    if bias is not None:
        _check_extent("bias.shape[0]", bias.shape[0], m, "M")
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


def _autocast(device_type: str) -> Any:
    """Kernel for torch.autocast: features and weights go to its type; offset and mask stay as they are.

    Casting them along, as autocast does by default, would put sampling coordinates on a half-precision grid: a
    quarter of a pixel near column 500.
    """

    def kernel(
        input: Tensor,
        weight: Tensor,
        offset: Tensor,
        bias: Tensor | None,
        mask: Tensor | None,
        *geometry: Any,
    ) -> Tensor:
        dtype = torch.get_autocast_dtype(device_type)

        def features(tensor: Tensor | None) -> Tensor | None:
            eligible = tensor is not None and tensor.is_floating_point() and tensor.dtype != torch.float64
            return tensor.to(dtype) if tensor is not None and eligible else tensor

        def coordinates(tensor: Tensor | None) -> Tensor | None:
            foreign = tensor is not None and tensor.dtype in (torch.float16, torch.bfloat16)
            return tensor.float() if tensor is not None and foreign and tensor.dtype != dtype else tensor

        with torch.autocast(device_type, enabled=False):
            output: Tensor = torch.ops.dcn_deploy.deform_conv2d(
                features(input),
                features(weight),
                coordinates(offset),
                features(bias),
                coordinates(mask),
                *geometry,
            )
            return output

    return kernel


_AUTOCAST = torch.library.Library("dcn_deploy", "FRAGMENT")  # type: ignore[no-untyped-call]
for _device_type, _key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):
    _AUTOCAST.impl("deform_conv2d", _autocast(_device_type), _key)  # type: ignore[no-untyped-call]
