"""torchvision's compiled deformable convolution, used where it is importable and computes the same thing.

It fits float32 and float64 features on a CUDA device with symmetric pads. Elsewhere it does not: its half-precision
kernels compute coordinates in half precision; it takes one pad a side; and its CPU kernel, scalar code over an
im2col buffer, is several times slower than the vectorised path. The environment variable
``DCN_DEPLOY_TORCHVISION`` overrides the choice of device: ``never``, ``always`` (also on the CPU) or ``auto``.
"""

from __future__ import annotations

import functools
import importlib
import os
from typing import Any

from dcn_deploy._lazy import require
from dcn_deploy.errors import InvalidArgumentError, describe

require("torch", "dcn_deploy.ops")
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from dcn_deploy.ops.geometry import Geometry  # noqa: E402

#: Environment variable that overrides where torchvision's operator is used.
VARIABLE = "DCN_DEPLOY_TORCHVISION"
# A position this far away is outside any map and still safe to convert to int32, which a NaN is not: torchvision's
# kernels compare before they convert, and every comparison with NaN is false.
_FAR_AWAY = -1.0e8


@functools.cache
def _operator() -> Any:
    """Return the operator, or None. A build for another torch fails to import in its own ways."""
    if not hasattr(torch.ops.torchvision, "deform_conv2d"):
        try:
            importlib.import_module("torchvision")
        except Exception:
            return None
    return getattr(torch.ops.torchvision, "deform_conv2d", None)


def fits(input: Tensor, pads: list[int]) -> bool:
    """Whether torchvision's operator is at hand and exact for this call."""
    choice = os.environ.get(VARIABLE, "auto")
    if choice not in ("auto", "always", "never"):
        raise InvalidArgumentError(describe(VARIABLE, expected="auto, always or never", actual=repr(choice)))
    if choice == "never" or (choice == "auto" and input.device.type != "cuda"):
        return False
    if input.dtype not in (torch.float32, torch.float64) or pads[:2] != pads[2:]:
        return False
    return _operator() is not None


def _arguments(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    geometry: Geometry,
) -> tuple[Any, ...]:
    safe = torch.nan_to_num(offset.to(input.dtype), nan=_FAR_AWAY, posinf=_FAR_AWAY, neginf=_FAR_AWAY)
    return (
        input,
        weight,
        safe,
        input.new_zeros((input.shape[0], 1)) if mask is None else mask.to(input.dtype),
        weight.new_zeros(weight.shape[0]) if bias is None else bias,
        *geometry.stride,
        *geometry.pads[:2],
        *geometry.dilation,
        geometry.group,
        geometry.offset_group,
        mask is not None,
    )


def forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    geometry: Geometry,
) -> Tensor:
    """Return the convolution [N, M, Ho, Wo]; see :func:`fits`."""
    output: Tensor = _operator()(*_arguments(input, weight, offset, bias, mask, geometry))
    return output


def backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    geometry: Geometry,
    wanted: list[bool],
) -> list[Tensor]:
    """Return gradients of (input, weight, offset, mask), an empty tensor for each that is not wanted."""
    arguments = _arguments(input, weight, offset, None, mask, geometry)
    grads = torch.ops.torchvision._deform_conv2d_backward(grad_output.contiguous(), *arguments)
    grad_input, grad_weight, grad_offset, grad_mask, _ = grads

    def chosen(wanted: bool, grad: Tensor, dtype: torch.dtype) -> Tensor:
        return grad.to(dtype) if wanted else input.new_empty(0)

    return [
        chosen(wanted[0], grad_input, input.dtype),
        chosen(wanted[1], grad_weight, weight.dtype),
        chosen(wanted[2], grad_offset, offset.dtype),
        chosen(wanted[3] and mask is not None, grad_mask, input.dtype if mask is None else mask.dtype),
    ]
