"""The operators in float64, one plain loop at a time: what every other implementation is measured against.

Slow and obvious on purpose. Nothing here is shared with the fast implementations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def _sample(image: npt.NDArray[np.float64], y: float, x: float) -> npt.NDArray[np.float64]:
    """Bilinear sample of ``image`` [C, H, W] at (y, x): [C]. Each corner outside the map is zero on its own."""
    import numpy as np

    channels, height, width = image.shape
    value = np.zeros(channels)
    if not (math.isfinite(y) and math.isfinite(x)) or y <= -1 or y >= height or x <= -1 or x >= width:
        return value
    top, left = math.floor(y), math.floor(x)
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < height and 0 <= column < width:
                value += (1 - abs(y - row)) * (1 - abs(x - column)) * image[:, row, column]
    return value


def deform_conv2d(
    X: npt.ArrayLike,
    W: npt.ArrayLike,
    offset: npt.ArrayLike,
    B: npt.ArrayLike | None = None,
    mask: npt.ArrayLike | None = None,
    *,
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    group: int = 1,
    offset_group: int = 1,
) -> npt.NDArray[np.float64]:
    """Deformable convolution, v1 and (with a mask) v2, in float64.

    Y[n,m,ho,wo] = B[m] + Σ_{c,i,j} W[m,c,i,j] · mask[n,o,i,j,ho,wo] · S(X[n,c], y, x) with
    y = ho·stride_h − pad_top + i·dilation_h + Δy and x likewise (Dai et al. 2017, eq. 2; Zhu et al. 2019,
    eq. 1). Argument names and order are those of the ONNX operator ``DeformConv``.

    Args:
        X: [N, C, H, W].
        W: [M, C/group, kH, kW].
        offset: [N, offset_group·kH·kW·2, Ho, Wo], channels ordered (offset_group, kH, kW, [Δy, Δx]).
        B: [M] or None.
        mask: [N, offset_group·kH·kW, Ho, Wo] or None for all ones.
        strides: (height, width).
        pads: (top, left, bottom, right).
        dilations: (height, width).
        group: number of convolution groups.
        offset_group: number of channel groups with offsets of their own.

    Returns:
        [N, M, Ho, Wo].
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
    y_out: Any = np.zeros((n_images, m_out, out_h, out_w))
    per_offset_group = channels // offset_group
    per_group_out = m_out // group
    for n in range(n_images):
        for ho in range(out_h):
            for wo in range(out_w):
                taps = np.zeros((channels, k_h, k_w))
                for o in range(offset_group):
                    own = slice(o * per_offset_group, (o + 1) * per_offset_group)
                    for i in range(k_h):
                        for j in range(k_w):
                            dy, dx = d[n, o, i, j, :, ho, wo]
                            y = ho * strides[0] - pads[0] + i * dilations[0] + float(dy)
                            z = wo * strides[1] - pads[1] + j * dilations[1] + float(dx)
                            taps[own, i, j] = m[n, o, i, j, ho, wo] * _sample(x[n, own], y, z)
                for g in range(group):
                    inputs = slice(g * channels_per_group, (g + 1) * channels_per_group)
                    outputs = slice(g * per_group_out, (g + 1) * per_group_out)
                    y_out[n, outputs, ho, wo] = np.tensordot(w[outputs], taps[inputs], axes=3)
    if B is not None:
        y_out += np.asarray(B, dtype=np.float64)[None, :, None, None]
    result: npt.NDArray[np.float64] = y_out
    return result
