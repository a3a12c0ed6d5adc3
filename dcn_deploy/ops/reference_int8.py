"""The deformable convolution of int8 features and weights, one plain loop at a time, like :mod:`.reference`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dcn_deploy.ops.reference import sample

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

    x, w, d = (np.asarray(a, dtype=np.float64) for a in (X, W, offset))
    n_images, channels, height, width = x.shape
    m_out, channels_per_group, k_h, k_w = w.shape
    out_h = (height + pads[0] + pads[2] - dilations[0] * (k_h - 1) - 1) // strides[0] + 1
    out_w = (width + pads[1] + pads[3] - dilations[1] * (k_w - 1) - 1) // strides[1] + 1
    d = d.reshape(n_images, offset_group, k_h, k_w, 2, out_h, out_w)
    mask_shape = (n_images, offset_group, k_h, k_w, out_h, out_w)
    m = np.ones(mask_shape) if mask is None else np.asarray(mask, dtype=np.float64).reshape(mask_shape)
    sums: Any = np.zeros((n_images, m_out, out_h, out_w))
    per_offset_group, per_group_out = channels // offset_group, m_out // group
    for n, ho, wo in itertools.product(range(n_images), range(out_h), range(out_w)):
        taps = np.zeros((channels, k_h, k_w))
        for o, i, j in itertools.product(range(offset_group), range(k_h), range(k_w)):
            own = slice(o * per_offset_group, (o + 1) * per_offset_group)
            dy, dx = d[n, o, i, j, :, ho, wo]
            row = ho * strides[0] - pads[0] + i * dilations[0] + float(dy)
            column = wo * strides[1] - pads[1] + j * dilations[1] + float(dx)
            taps[own, i, j] = round_to_int8(m[n, o, i, j, ho, wo] * sample(x[n, own], row, column))
        for g in range(group):
            inputs = slice(g * channels_per_group, (g + 1) * channels_per_group)
            outputs = slice(g * per_group_out, (g + 1) * per_group_out)
            sums[n, outputs, ho, wo] = np.tensordot(w[outputs], taps[inputs], axes=3)
    scale = np.broadcast_to(x_scale * np.asarray(weight_scale, dtype=np.float64), (m_out,))
    y: npt.NDArray[np.float64] = sums * scale[None, :, None, None]
    if B is not None:
        y = y + np.asarray(B, dtype=np.float64)[None, :, None, None]
    return y if y_scale is None else round_to_int8(y / y_scale).astype(np.int8)
