"""The deformable convolution of int8 features and weights: that of :mod:`.reference` with rounded samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dcn_deploy.ops.reference import deform_conv2d

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def round_to_int8(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Nearest whole numbers in [−128, 127], ties to even; 0 for NaN."""
    import numpy as np

    wide = np.asarray(values, dtype=np.float64)
    return np.where(np.isnan(wide), 0.0, np.clip(np.rint(wide), -128, 127))


def deform_conv2d_int8(
    X: npt.ArrayLike,
    W: npt.ArrayLike,
    offset: npt.ArrayLike,
    B: npt.ArrayLike | None = None,
    mask: npt.ArrayLike | None = None,
    *,
    x_scale: float,
    weight_scale: Sequence[float],
    y_scale: float | None = None,
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    group: int = 1,
    offset_group: int = 1,
) -> npt.NDArray[np.float64] | npt.NDArray[np.int8]:
    """Deformable convolution of quantised tensors, zero points zero.

    Y[n,m,ho,wo] = int8(y / y_scale), y = B[m] + x_scale · weight_scale[m] · Σ_{c,i,j} W[m,c,i,j] ·
    int8(mask[n,o,i,j,ho,wo] · S(X[n,c], y, x)): samples are rounded to int8 in units of x_scale, and the sum of
    products is whole. int8() is :func:`round_to_int8`.

    Args:
        X: [N, C, H, W], int8.
        W: [M, C/group, kH, kW], int8.
        offset: as in :func:`dcn_deploy.ops.reference.deform_conv2d`.
        B: [M] or None.
        mask: as there.
        x_scale: what one unit of X stands for.
        weight_scale: the same for W: one number, or M.
        y_scale: the same for Y; None leaves y as it is.
        strides: (height, width).
        pads: (top, left, bottom, right).
        dilations: (height, width).
        group: number of convolution groups.
        offset_group: number of channel groups with offsets of their own.

    Returns:
        [N, M, Ho, Wo]: int8 with ``y_scale``, else float64.
    """
    import numpy as np

    sums = deform_conv2d(
        X,
        W,
        offset,
        mask=mask,
        strides=strides,
        pads=pads,
        dilations=dilations,
        group=group,
        offset_group=offset_group,
        of_samples=round_to_int8,
    )
    scale = np.broadcast_to(x_scale * np.asarray(weight_scale, dtype=np.float64), sums.shape[1:2])
    y: npt.NDArray[np.float64] = sums * scale[None, :, None, None]
    if B is not None:
        y = y + np.asarray(B, dtype=np.float64)[None, :, None, None]
    return y if y_scale is None else round_to_int8(y / y_scale).astype(np.int8)
