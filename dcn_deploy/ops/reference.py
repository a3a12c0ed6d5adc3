"""The operators in float64, one plain loop at a time: what every other implementation is measured against.

Slow and obvious on purpose. Nothing here is shared with the fast implementations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def sample(image: npt.NDArray[np.float64], y: float, x: float) -> npt.NDArray[np.float64]:
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
    of_samples: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]] | None = None,
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
        of_samples: applied to the samples [C/offset_group] of a tap, times the mask, before they are multiplied.

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
                            samples = m[n, o, i, j, ho, wo] * sample(x[n, own], y, z)
                            taps[own, i, j] = samples if of_samples is None else of_samples(samples)
                for g in range(group):
                    inputs = slice(g * channels_per_group, (g + 1) * channels_per_group)
                    outputs = slice(g * per_group_out, (g + 1) * per_group_out)
                    y_out[n, outputs, ho, wo] = np.tensordot(w[outputs], taps[inputs], axes=3)
    if B is not None:
        y_out += np.asarray(B, dtype=np.float64)[None, :, None, None]
    result: npt.NDArray[np.float64] = y_out
    return result


def _round_half_away(value: float) -> float:
    """Nearest whole number, halves away from zero."""
    return math.copysign(math.floor(abs(value)) + (abs(value) % 1 >= 0.5), value)


def _clamped_sample(image: npt.NDArray[np.float64], y: float, x: float) -> npt.NDArray[np.float64]:
    """Bilinear sample of ``image`` [C, H, W] at (y, x) moved to the nearest place on the map: [C]."""
    _, height, width = image.shape
    return sample(image, min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0))


def _near_the_map(start: float, bin_size: float, count: int, size: int) -> range:
    """Samples of one axis of a bin that can be on a map of ``size``: all of them, unless the grid is enormous.

    A RoI of a billion pixels has as many samples with ``sampling_ratio`` 0, half a pixel to a pixel apart. The few that
    are kept here too many are looked at one by one.
    """
    step = bin_size / max(count, 1)
    if count <= 10_000 or step < 0.5:
        return range(count)
    first, last = math.floor((-1 - start) / step) - 2, math.ceil((size - start) / step) + 2
    return range(min(max(first, 0), count), min(max(last, 0), count))


def _aligned_bin(
    image: npt.NDArray[np.float64],
    start: tuple[float, float],
    bin_size: tuple[float, float],
    grid: tuple[int, int],
) -> npt.NDArray[np.float64]:
    """Mean of a bin's grid of samples: [C]. ``start`` is the bin's corner; pairs are (y, x)."""
    import numpy as np

    channels, height, width = image.shape
    total = np.zeros(channels)
    for iy in _near_the_map(start[0], bin_size[0], grid[0], height):
        y = start[0] + (iy + 0.5) * bin_size[0] / grid[0]
        if not -1 <= y <= height:
            continue
        for ix in _near_the_map(start[1], bin_size[1], grid[1], width):
            x = start[1] + (ix + 0.5) * bin_size[1] / grid[1]
            if -1 <= x <= width:
                total += _clamped_sample(image, y, x)
    return total / max(grid[0] * grid[1], 1)


def _psroi_bin(
    image: npt.NDArray[np.float64], start: tuple[float, float], bin_size: tuple[float, float], samples: int
) -> npt.NDArray[np.float64]:
    """Mean of the samples of a bin that lie on the map: [C]. ``start`` is the bin's corner; pairs are (y, x)."""
    import numpy as np

    channels, height, width = image.shape
    total, kept = np.zeros(channels), 0
    for iy in range(samples):
        y = start[0] + iy * bin_size[0] / samples
        for ix in range(samples):
            x = start[1] + ix * bin_size[1] / samples
            if -0.5 <= y <= height - 0.5 and -0.5 <= x <= width - 0.5:
                total += _clamped_sample(image, y, x)
                kept += 1
    return total / max(kept, 1)


def deform_roi_pool(
    X: npt.ArrayLike,
    rois: npt.ArrayLike,
    offset: npt.ArrayLike | None = None,
    mask: npt.ArrayLike | None = None,
    *,
    variant: str = "aligned",
    output_size: Sequence[int],
    spatial_scale: float = 1.0,
    gamma: float = 0.1,
    sampling_ratio: int = 0,
    sample_per_part: int = 4,
    group_size: int = 1,
    part_size: int = 0,
    output_channels: int = 0,
) -> npt.NDArray[np.float64]:
    """Deformable RoI pooling, v1 and (with a mask) v2, in float64.

    ``aligned`` is that of mmcv (Zhu et al. 2019, section 3.2, on RoIAlign); ``psroi`` that of Dai et al. 2017,
    section 2.2, as its authors' code has it. docs/operators.md has the formulas.

    Args:
        X: [N, C, H, W].
        rois: [R, 5], (batch index, x1, y1, x2, y2) in image pixels.
        offset: ``aligned`` [R, 2, pH, pW]; ``psroi`` [R, 2·classes, part, part]. x first. None for all zeros.
        mask: ``aligned`` [R, 1, pH, pW]; ``psroi`` [R, classes, part, part]. None for all ones.
        variant: ``"aligned"`` or ``"psroi"``.
        output_size: (pH, pW).
        spatial_scale: map pixels for each image pixel; rounded to float32, as an ONNX file holds it.
        gamma: factor of the offsets, which are in units of the RoI's own size; rounded likewise.
        sampling_ratio: ``aligned``: samples of a bin along each axis; 0 for ceil(RoI extent / pooled extent).
        sample_per_part: ``psroi``: samples of a bin along each axis.
        group_size: ``psroi``: channel groups along each axis.
        part_size: ``psroi``: parts along each axis, with an offset each; 0 takes the extent of offset or mask.
        output_channels: ``psroi``: Cout; 0 for C/group_size².

    Returns:
        [R, Cout, pH, pW].

    Raises:
        IndexError: for a batch index outside [0, N).
    """
    import numpy as np

    x, boxes = np.asarray(X, dtype=np.float64), np.asarray(rois, dtype=np.float64)
    spatial_scale, gamma = float(np.float32(spatial_scale)), float(np.float32(gamma))
    pooled_h, pooled_w = output_size
    is_aligned = variant == "aligned"
    groups = 1 if is_aligned else group_size
    channels = x.shape[1] if is_aligned else output_channels or x.shape[1] // groups**2
    given = next((np.asarray(a) for a in (offset, mask) if a is not None), None)
    parts_h, parts_w = (pooled_h, pooled_w) if given is None else given.shape[2:]
    if not is_aligned and part_size:
        parts_h = parts_w = part_size
    classes = 1
    if not is_aligned and given is not None:
        classes = given.shape[1] // (1 if offset is None else 2)
    count = boxes.shape[0]
    d = np.zeros((count, classes, 2, parts_h, parts_w))
    m = np.ones((count, classes, parts_h, parts_w))
    if offset is not None:
        d = np.asarray(offset, dtype=np.float64).reshape(d.shape)
    if mask is not None:
        m = np.asarray(mask, dtype=np.float64).reshape(m.shape)
    per_class = channels // classes
    output: Any = np.zeros((count, channels, pooled_h, pooled_w))
    for r in range(count):
        if not 0 <= boxes[r, 0] < x.shape[0]:
            raise IndexError(f"rois[{r}, 0]: expected a batch index in [0, {x.shape[0]}), got {boxes[r, 0]}")
        image = x[int(boxes[r, 0])]
        x1, y1, x2, y2 = (float(v) for v in boxes[r, 1:])
        if not all(math.isfinite(v) for v in (x1, y1, x2, y2)):
            continue
        if is_aligned:
            top, left = y1 * spatial_scale - 0.5, x1 * spatial_scale - 0.5
            roi_h, roi_w = (y2 * spatial_scale - 0.5) - top, (x2 * spatial_scale - 0.5) - left
        else:
            top, left = _round_half_away(y1) * spatial_scale - 0.5, _round_half_away(x1) * spatial_scale - 0.5
            roi_h = max((_round_half_away(y2) + 1) * spatial_scale - 0.5 - top, 0.1)
            roi_w = max((_round_half_away(x2) + 1) * spatial_scale - 0.5 - left, 0.1)
        bin_h, bin_w = roi_h / pooled_h, roi_w / pooled_w
        grid = (sampling_ratio or math.ceil(bin_h), sampling_ratio or math.ceil(bin_w))
        for ph in range(pooled_h):
            for pw in range(pooled_w):
                part_h, part_w = ph * parts_h // pooled_h, pw * parts_w // pooled_w
                gh, gw = (min(p * groups // size, groups - 1) for p, size in ((ph, pooled_h), (pw, pooled_w)))
                for k in range(classes):
                    dx, dy = (float(v) for v in d[r, k, :, part_h, part_w])
                    start = (
                        top + ph * bin_h + dy * gamma * roi_h,
                        left + pw * bin_w + dx * gamma * roi_w,
                    )
                    own = slice(k * per_class, (k + 1) * per_class)
                    of_bin = image[gh * groups + gw :: groups**2][own]
                    if is_aligned:
                        mean = _aligned_bin(of_bin, start, (bin_h, bin_w), grid)
                    else:
                        mean = _psroi_bin(of_bin, start, (bin_h, bin_w), sample_per_part)
                    output[r, own, ph, pw] = m[r, k, part_h, part_w] * mean
    result: npt.NDArray[np.float64] = output
    return result
