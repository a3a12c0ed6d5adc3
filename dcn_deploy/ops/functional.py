"""The operators as functions on tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dcn_deploy._lazy import require

require("torch", "dcn_deploy.ops")
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from dcn_deploy.errors import InvalidArgumentError, describe  # noqa: E402
from dcn_deploy.ops import deform_conv2d_torch as _deform_conv2d_torch  # noqa: E402, F401  (registers the operator)
from dcn_deploy.ops import deform_roi_pool_torch as _deform_roi_pool_torch  # noqa: E402, F401  (registers the operator)
from dcn_deploy.ops.checks import check_no_forward_mode  # noqa: E402
from dcn_deploy.ops.geometry import gamma_of, padding4, pair, spatial_scale_of, whole  # noqa: E402
from dcn_deploy.schema import DEFORM_ROI_POOL2D  # noqa: E402


def _ratio(what: str, total: int, part: int, remedy: str) -> int:
    """Return total/part, both known to be positive ints, or say that part does not divide total."""
    if part <= 0 or total % part:
        raise InvalidArgumentError(
            describe(what, expected=f"a positive divisor of {total}", actual=str(part), remedy=remedy)
        )
    return total // part


def _number(value: float, in_float32: Callable[[object], float]) -> float:
    """Return an attribute checked and rounded, or as it is where it may be symbolic.

    Dynamo can do neither with a symbolic number: the operator does both when it runs. An export has plain numbers only,
    and those that the program keeps are to be what a file will hold.
    """
    compiles = torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting()
    if compiles and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return in_float32(value)


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
    check_no_forward_mode("deform_conv2d", (input, offset, weight, bias, mask))
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


def deform_roi_pool(
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    variant: str = "aligned",
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    gamma: float = 0.1,
    sampling_ratio: int = 0,
    sample_per_part: int = 4,
    group_size: int = 1,
    part_size: int | None = None,
    output_channels: int | None = None,
) -> Tensor:
    """Deformable RoI pooling: v1 (Dai et al. 2017, section 2.2), and v2 (Zhu et al. 2019, section 3.2) with a mask.

    A bin's value is the mean of a grid of bilinear samples, times the mask of its part and class. The samples are
    shifted by gamma · (δx · RoI width, δy · RoI height), (δx, δy) the offset of the bin's part and class.

    ``"aligned"`` is the operator of mmcv, RoIAlign with offsets: no coordinate is rounded, each bin has an offset of
    its own, and samples more than one pixel outside the map are zeros. ``"psroi"`` is that of the v1 paper's code: RoI
    ends are rounded, samples outside the map are left out of the mean, and output channel c of a bin reads only channel
    (c·group_size + g_h)·group_size + g_w of the input. With group_size 1 it is plain RoI pooling, with 7 the
    position-sensitive pooling of R-FCN. docs/operators.md has the formulas.

    Positions are computed in float64, bilinear weights and sums in float32 for half-precision features (float64 for
    float64), so ``rois``, ``offset`` and ``mask`` may stay float32 while the features are half: the recommended mixed
    mode.

    Args:
        input: features [N, C, H, W]; float16, bfloat16, float32 or float64.
        rois: [R, 5], (batch index, x1, y1, x2, y2), the corners in image pixels; float32 or the type of ``input``. R
            may be 0.
        offset: ``"aligned"`` [R, 2, pH, pW]; ``"psroi"`` [R, 2·classes, part, part]; x first, times gamma in units of
            the RoI's own size. float32 or the type of ``input``; None for all zeros.
        mask: ``"aligned"`` [R, 1, pH, pW]; ``"psroi"`` [R, classes, part, part] (after the sigmoid, which is not part
            of the operator). float32 or the type of ``input``; None for all ones.
        variant: ``"aligned"`` or ``"psroi"``.
        output_size: int or (height, width): (pH, pW).
        spatial_scale: map pixels for each image pixel; rounded to float32.
        gamma: factor of the offsets; rounded to float32.
        sampling_ratio: of ``"aligned"``: samples of a bin along each axis; 0 for ceil(RoI size / pooled size).
        sample_per_part: of ``"psroi"``: samples of a bin along each axis.
        group_size: of ``"psroi"``: channel groups along each axis.
        part_size: of ``"psroi"``: parts along each axis; None for the extent of offset or mask.
        output_channels: Cout, which follows from C; None not to check it.

    Returns:
        [R, Cout, pH, pW] of the type of ``input``; Cout is C, or C/group_size² for ``"psroi"``. A RoI with a coordinate
        that is not finite, and a sample moved to such a place, count as outside the map. Gradients exist for input,
        offset and mask; that of the offset is the derivative of the samples as they are moved onto the map, so 0 along
        an axis on which a sample was moved to the edge, and forward-sided at integer coordinates.

    Raises:
        InvalidArgumentError: for shapes and attributes that do not fit together; on a CPU also for a batch index
            outside [0, N), of which other devices make zeros.
        DtypeError: for element types that do not go together.
    """
    if not isinstance(rois, Tensor):
        raise InvalidArgumentError(
            describe(
                "rois",
                expected="a tensor [R, 5] of (batch index, x1, y1, x2, y2)",
                actual=type(rois).__name__,
                remedy="Join a list of boxes for each image by torch.cat, with the image's number as first column.",
            )
        )
    scale, factor = _number(spatial_scale, spatial_scale_of), _number(gamma, gamma_of)
    for name, value, minimum in (
        ("sampling_ratio", sampling_ratio, 0),
        ("sample_per_part", sample_per_part, 1),
        ("group_size", group_size, 1),
    ):
        whole(name, value, minimum, DEFORM_ROI_POOL2D.attribute(name).maximum)
    for name, chosen in (("part_size", part_size), ("output_channels", output_channels)):
        if chosen is not None:
            whole(name, chosen, 0)
    parts = 0
    if variant != "aligned":
        given = offset if offset is not None else mask
        parts = part_size or 0
        if parts == 0 and given is not None and given.dim() == 4:
            parts = given.shape[2]
    channels = output_channels or 0
    if channels == 0 and input.dim() == 4:
        channels = input.shape[1] // (1 if variant == "aligned" else group_size**2)
    check_no_forward_mode("deform_roi_pool", (input, rois, offset, mask))
    output: Tensor = torch.ops.dcn_deploy.deform_roi_pool(
        input,
        rois,
        offset,
        mask,
        variant,
        pair("output_size", output_size, 1),
        scale,
        factor,
        sampling_ratio,
        sample_per_part,
        group_size,
        parts,
        channels,
    )
    return output
