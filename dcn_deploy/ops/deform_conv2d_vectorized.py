"""Deformable convolution and its gradients in plain PyTorch, on any device.

A bilinear sample is a weighted sum of four rows of the channels-last feature map, so sampling is a sparse matrix
S with four entries a row, and everything follows from three products:

    column      = S · features               (``embedding_bag`` with per-sample weights: one fused, threaded pass)
    d features  = Sᵀ · d column              (the same, with the entries sorted by pixel)
    d S[p, q]   = ⟨d column[p], features[q]⟩ (four row-wise dot products), chained to offset and mask by hand

Images are taken a few at a time, so that the column stays within a fixed budget.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dcn_deploy._lazy import require

require("torch", "dcn_deploy.ops")
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from dcn_deploy.ops.bags import bag, bag_transposed, compute_dtype  # noqa: E402
from dcn_deploy.ops.geometry import Geometry  # noqa: E402

#: Elements of the column that are held at once: 128 MiB in float32.
_COLUMN_BUDGET = 1 << 25
#: An offset of more pixels than this is outside any map, and still fits an integer.
_FARTHEST = 1e9


@dataclass
class _Sampling:
    """The sparse sampling matrix of some images, rows ordered (image, ho, wo, offset_group, tap).

    Attributes:
        index: [rows, 4] row of the feature table for each corner; the table's last row, all zeros, stands for
            every corner outside the map, so that an infinite feature elsewhere can't leak in as 0·inf.
        bilinear: [rows, 4] bilinear weights of the corners, 0 for those outside.
        ly, lx: [rows] position within the bilinear cell.
        valid: [rows, 4] whether the corner is inside the map.
        mask: [rows] modulation, or None.
    """

    index: Tensor
    bilinear: Tensor
    ly: Tensor
    lx: Tensor
    valid: Tensor
    mask: Tensor | None

    def weights(self) -> Tensor:
        """Return the entries of S, [rows, 4]."""
        return self.bilinear if self.mask is None else self.bilinear * self.mask[:, None]


def _rows(tensor: Tensor, offset_group: int, taps: int, last: int) -> Tensor:
    """[n, offset_group·taps·last, Ho, Wo] → [n·Ho·Wo·offset_group·taps, last]."""
    n, _, out_h, out_w = tensor.shape
    split = tensor.reshape(n, offset_group, taps, last, out_h, out_w)
    return split.permute(0, 4, 5, 1, 2, 3).reshape(-1, last)


def _from_rows(rows: Tensor, like: Tensor, offset_group: int, taps: int) -> Tensor:
    """Inverse of :func:`_rows`, in the shape and type of ``like``."""
    n, channels, out_h, out_w = like.shape
    split = rows.reshape(n, out_h, out_w, offset_group, taps, channels // (offset_group * taps))
    return split.permute(0, 3, 4, 5, 1, 2).reshape(like.shape).to(like.dtype)


def _feature_table(input: Tensor, offset_group: int, dtype: torch.dtype) -> Tensor:
    """[n, C, H, W] → [n·H·W·offset_group + 1, C/offset_group]: one row a pixel and offset group, then one of zeros."""
    rows = input.permute(0, 2, 3, 1).reshape(-1, input.shape[1] // offset_group).to(dtype)
    return torch.cat([rows, rows.new_zeros(1, rows.shape[1])])


def _sampling(
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    kernel: tuple[int, int],
    geometry: Geometry,
    dtype: torch.dtype,
) -> _Sampling:
    stride, pads, dilation, offset_group = geometry.stride, geometry.pads, geometry.dilation, geometry.offset_group
    n, _, height, width = input.shape
    out_h, out_w = offset.shape[2:]
    taps = kernel[0] * kernel[1]
    device = input.device

    def steps(count: int, step: int, start: int = 0) -> Tensor:
        return torch.arange(count, device=device) * step + start

    # Positions of the undeformed taps, in whole pixels, broadcast to [n, Ho, Wo, offset_group, kH, kW].
    base_y = steps(out_h, stride[0], -pads[0])[:, None, None, None, None] + steps(kernel[0], dilation[0])[:, None]
    base_x = steps(out_w, stride[1], -pads[1])[:, None, None, None] + steps(kernel[1], dilation[1])
    full = (n, out_h, out_w, offset_group, kernel[0], kernel[1])
    delta = _rows(offset, offset_group, taps, 2).to(dtype)
    # Comparisons with NaN are false; what is not near must not reach the conversion to an integer, which is
    # undefined for it.
    near = delta.abs() < _FARTHEST
    delta = torch.where(near, delta, 0)
    # Position and offset are never added in floating point: the offset's whole pixels join the position as integers,
    # so that the fraction is as exact at column 5000 as at column 0.
    whole = delta.floor()
    ly, lx = (delta - whole).unbind(1)
    row = base_y.expand(full).reshape(-1) + whole[:, 0].long()
    column = base_x.expand(full).reshape(-1) + whole[:, 1].long()
    inside = near.all(1)
    for place, fraction, size in ((row, ly, height), (column, lx, width)):
        inside = inside & (place < size) & ((place >= 0) | ((place == -1) & (fraction > 0)))
    rows = torch.stack([row, row, row + 1, row + 1], 1)
    columns = torch.stack([column, column + 1, column, column + 1], 1)
    valid = inside[:, None] & (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    # Row of the table = ((image·H + row)·W + column)·offset_group + o.
    image = torch.arange(n, device=device).view(n, 1, 1, 1, 1, 1).expand(full).reshape(-1, 1)
    own = torch.arange(offset_group, device=device).view(1, 1, 1, -1, 1, 1).expand(full).reshape(-1, 1)
    index = ((image * height + rows) * width + columns) * offset_group + own
    index = torch.where(valid, index, n * height * width * offset_group)
    hy, hx = 1 - ly, 1 - lx
    bilinear = torch.stack([hy * hx, hy * lx, ly * hx, ly * lx], 1) * valid
    modulation = None if mask is None else _rows(mask, offset_group, taps, 1).to(dtype)[:, 0]
    return _Sampling(index, bilinear, ly, lx, valid, modulation)


def _image_chunks(n: int, column_per_image: int) -> Iterator[slice]:
    step = max(1, _COLUMN_BUDGET // max(1, column_per_image))
    for begin in range(0, n, step):
        yield slice(begin, min(n, begin + step))


def _grouped_column(column: Tensor, n: int, pixels: int, offset_group: int, taps: int, group: int) -> Tensor:
    """[rows, C/offset_group] → [group, n·pixels, C/group·taps], channel-major within a group as in the weight."""
    channels = column.shape[1] * offset_group
    split = column.view(n * pixels, offset_group, taps, column.shape[1])
    by_channel = split.permute(0, 1, 3, 2).reshape(n * pixels, group, channels // group * taps)
    return by_channel.transpose(0, 1)


def _fast_weight(weight: Tensor, offset_group: int) -> Tensor:
    """[M, C, kH, kW] → [M, offset_group·taps·C/offset_group], the column's own order, for one convolution group."""
    m, channels = weight.shape[:2]
    return weight.reshape(m, offset_group, channels // offset_group, -1).transpose(2, 3).reshape(m, -1)


def forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    geometry: Geometry,
) -> Tensor:
    """Return the convolution [N, M, Ho, Wo]; arguments are checked by the caller and N ≥ 1."""
    n, channels = input.shape[:2]
    m, _, kernel_h, kernel_w = weight.shape
    out_h, out_w = offset.shape[2:]
    taps, pixels = kernel_h * kernel_w, out_h * out_w
    group, offset_group = geometry.group, geometry.offset_group
    dtype = compute_dtype(input.dtype)
    output = input.new_empty((n, m, out_h, out_w))
    flat_weight = weight.to(dtype)
    flat_weight = _fast_weight(flat_weight, offset_group) if group == 1 else flat_weight.reshape(group, m // group, -1)
    for images in _image_chunks(n, pixels * taps * channels):
        x = input[images]
        count = x.shape[0]
        s = _sampling(
            x,
            offset[images],
            None if mask is None else mask[images],
            (kernel_h, kernel_w),
            geometry,
            dtype,
        )
        column = bag(s.index, _feature_table(x, offset_group, dtype), s.weights())
        if group == 1:
            product = flat_weight @ column.view(count, pixels, -1).transpose(1, 2)
        else:
            grouped = _grouped_column(column, count, pixels, offset_group, taps, group)
            product = torch.bmm(grouped, flat_weight.transpose(1, 2))
            product = product.view(group, count, pixels, -1).permute(1, 0, 3, 2).reshape(count, m, pixels)
        if bias is not None:
            product = product + bias.to(dtype)[:, None]
        output[images] = product.view(count, m, out_h, out_w)
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
    n, channels, height, width = input.shape
    m, _, kernel_h, kernel_w = weight.shape
    out_h, out_w = offset.shape[2:]
    taps, pixels = kernel_h * kernel_w, out_h * out_w
    group, offset_group = geometry.group, geometry.offset_group
    dtype = compute_dtype(input.dtype)
    want_input, want_weight, want_offset, want_mask = wanted

    def gradient(wanted: bool, like: Tensor | None, dtype: torch.dtype | None = None) -> Tensor:
        shape = like.shape if wanted and like is not None else (0,)
        return (input if like is None else like).new_zeros(shape, dtype=dtype)

    grad_input = gradient(want_input, input)
    grad_weight = gradient(want_weight, weight, dtype)
    grad_offset = gradient(want_offset, offset)
    grad_mask = gradient(want_mask, mask)
    grouped_weight = weight.to(dtype).reshape(group, m // group, -1)
    for images in _image_chunks(n, pixels * taps * channels):
        x = input[images]
        count = x.shape[0]
        s = _sampling(
            x,
            offset[images],
            None if mask is None else mask[images],
            (kernel_h, kernel_w),
            geometry,
            dtype,
        )
        table = _feature_table(x, offset_group, dtype)
        # [group, count·pixels, M/group]
        grad = grad_output[images].to(dtype).reshape(count, group, m // group, pixels)
        grad = grad.permute(1, 0, 3, 2).reshape(group, count * pixels, m // group)
        if want_weight:
            column = bag(s.index, table, s.weights())
            grouped = _grouped_column(column, count, pixels, offset_group, taps, group)
            grad_weight += torch.bmm(grad.transpose(1, 2), grouped).view(weight.shape)
        if not (want_input or want_offset or want_mask):
            continue
        grad_column = torch.bmm(grad, grouped_weight).transpose(0, 1)
        grad_column = grad_column.reshape(-1, offset_group, channels // offset_group, taps)
        grad_column = grad_column.transpose(2, 3).reshape(-1, channels // offset_group)
        if want_input:
            rows = bag_transposed(s.index, s.weights(), grad_column, table.shape[0])[:-1]
            as_image = rows.view(count, height, width, channels).permute(0, 3, 1, 2)
            grad_input[images] = as_image.to(input.dtype)
        if want_offset or want_mask:
            # Corners outside the map point at the row of zeros, so their products vanish on their own.
            dots = torch.stack([(table.index_select(0, s.index[:, k]) * grad_column).sum(1) for k in range(4)], 1)
            if want_mask and mask is not None:
                grad_mask[images] = _from_rows((dots * s.bilinear).sum(1), mask[images], offset_group, taps)
            if want_offset:
                if s.mask is not None:
                    dots = dots * s.mask[:, None]
                top_left, top_right, bottom_left, bottom_right = dots.unbind(1)
                along_y = (1 - s.lx) * (bottom_left - top_left) + s.lx * (bottom_right - top_right)
                along_x = (1 - s.ly) * (top_right - top_left) + s.ly * (bottom_right - bottom_left)
                grad_offset[images] = _from_rows(torch.stack([along_y, along_x], 1), offset[images], offset_group, taps)
    return [grad_input, grad_weight.to(weight.dtype), grad_offset, grad_mask]
