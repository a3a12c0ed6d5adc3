"""The operators as functions on tensors."""

from __future__ import annotations

from collections.abc import Sequence

from dcn_deploy._lazy import require

require("torch", "dcn_deploy.ops")
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from dcn_deploy.errors import InvalidArgumentError, describe  # noqa: E402
from dcn_deploy.ops import deform_conv2d_torch as _deform_conv2d_torch  # noqa: E402, F401  (registers the operator)
from dcn_deploy.ops.geometry import padding4, pair  # noqa: E402


def _ratio(what: str, total: int, part: int, remedy: str) -> int:
    """Return total/part, both known to be positive ints, or say that part does not divide total."""
    if part <= 0 or total % part:
        raise InvalidArgumentError(
            describe(what, expected=f"a positive divisor of {total}", actual=str(part), remedy=remedy)
        )
    return total // part


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Deformable convolution: v1 (Dai et al. 2017, eq. 2), and v2 (Zhu et al. 2019, eq. 1) when a mask is given.

    Y[n,m,ho,wo] = B[m] + Σ_{c,i,j} W[m,c,i,j] · mask[n,o,i,j,ho,wo] · S(X[n,c], y, x) with
    y = ho·stride_h − pad_top + i·dilation_h + Δy and x = wo·stride_w − pad_left + j·dilation_w + Δx. S is
    bilinear over the four pixels around (y, x), each of which counts as zero outside the unpadded map. A NaN or
    infinite offset samples outside.

    The signature is that of ``torchvision.ops.deform_conv2d``; the numbers of groups follow from the shapes.
    Coordinates, bilinear weights and accumulation are float32 for half-precision features (float64 for
    float64), so ``offset`` and ``mask`` may stay float32 while the features are half: the recommended mixed mode.

    Args:
        input: features [N, C, H, W]; float16, bfloat16, float32 or float64. N may be 0.
        offset: [N, offset_group·kH·kW·2, Ho, Wo], channels ordered (offset_group, kH, kW, [Δy, Δx]), in pixels
            of the input map; float32 or the type of ``input``.
        weight: [M, C/groups, kH, kW], of the type of ``input``.
        bias: [M] of the type of ``input``, or None.
        stride: int or (height, width).
        padding: int, (height, width) or (top, left, bottom, right). Nothing is padded in memory: samples are
            tested against the unpadded map.
        dilation: int or (height, width).
        mask: [N, offset_group·kH·kW, Ho, Wo] (after the sigmoid, which is not part of the operator), or None for
            all ones; float32 or the type of ``input``.

    Returns:
        [N, M, Ho, Wo] of the type of ``input``. Gradients exist for all tensor arguments; that of the offset is the
        one of the bilinear cell [floor(y), floor(y)+1) × [floor(x), floor(x)+1), as in torchvision and mmcv.

    Raises:
        InvalidArgumentError: for shapes, strides, pads or dilations that do not fit together.
        DtypeError: for element types that do not go together.
    """
    for name, tensor in (("input", input), ("offset", offset), ("weight", weight)):
        if tensor.dim() != 4:
            raise InvalidArgumentError(
                describe(f"{name}.shape", expected="4 dimensions", actual=str(tuple(tensor.shape)))
            )
    kernel_h, kernel_w = weight.shape[2], weight.shape[3]
    group = _ratio(
        "weight.shape[1], the input channels of one group",
        input.shape[1],
        weight.shape[1],
        f"The input has {input.shape[1]} channels.",
    )
    taps = 2 * kernel_h * kernel_w
    if offset.shape[1] == 0 or taps == 0 or offset.shape[1] % taps:
        raise InvalidArgumentError(
            describe(
                "offset.shape[1]",
                expected=f"a multiple of 2·kH·kW = {taps}",
                actual=str(offset.shape[1]),
                remedy="Channels are ordered (offset_group, kH, kW, [Δy, Δx]).",
            )
        )
    output: Tensor = torch.ops.dcn_deploy.deform_conv2d(
        input,
        weight,
        offset,
        bias,
        mask,
        pair("stride", stride, 1),
        padding4("padding", padding),
        pair("dilation", dilation, 1),
        group,
        offset.shape[1] // taps,
    )
    return output
