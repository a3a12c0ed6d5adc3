"""Deformable RoI pooling and its gradients in plain PyTorch, on any device.

The samples of a bin form a grid, and whether one counts, where it is moved to and how it is interpolated is decided on
each axis on its own. So a bin's mean is Σ_rows Σ_columns a[row]·b[column]·X[row, column], with the weights of all
samples of an axis merged, and pooling is a sparse matrix S with one row a bin. Everything follows from products with S:

    mean        = S · features                           (``embedding_bag`` with per-sample weights)
    d features  = Sᵀ · (d mean)                          (the same, with the entries sorted by pixel)
    d shift     = ⟨d mean, S' · features⟩                (S' has the derivative of one axis's weights)

Positions, and the weights of an axis, are float64 whatever the features are: they are few. Bins are taken in groups of
similar size within a fixed budget of entries, and only samples that can be on the map are visited, so that neither the
number of RoIs nor their size matters to the memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dcn_deploy._lazy import require

require("torch", "dcn_deploy.ops")
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from dcn_deploy.ops.bags import bag, bag_transposed, compute_dtype  # noqa: E402
from dcn_deploy.ops.geometry import RoiPooling  # noqa: E402

#: Elements of pooled features that are held at once: 128 MiB in float32.
_COLUMN_BUDGET = 1 << 25
#: Bins whose positions are held at once.
_BIN_BUDGET = 1 << 18
#: Entries of S that are held at once.
_ENTRY_BUDGET = 1 << 21


@dataclass
class _Axis:
    """One axis of some bins. Sample i of bin b, i < grid[b], lies at start[b] + (i + half)·bin[b]/grid[b].

    Attributes:
        start, bin, grid: [B] float64, in map pixels and samples.
        first: [B] float64, the first sample that is looked at: those before it are known to be outside.
        visited: [B] float64, how many samples from there on are looked at; those after them are known to be outside.
        rows: [B] float64, about how many rows of the map the samples touch; 0 where all are known to be outside.
        per_offset: [B] float64, how many pixels the samples move for one unit of the offset.
        size: extent of the map.
        low, high: a sample outside [low, high] does not count.
        half: where in its cell of the grid a sample lies.
        keeps: whether the mean is over the samples that count, and not over all of the grid.
    """

    start: Tensor
    bin: Tensor
    grid: Tensor
    first: Tensor
    visited: Tensor
    rows: Tensor
    per_offset: Tensor
    size: int
    low: float
    high: float
    half: float
    keeps: bool


@dataclass
class _Bins:
    """The bins of some RoIs, ordered (RoI, class, ph, pw).

    Attributes:
        base: [B] row of the feature table of the bin's image, channel group and class at pixel (0, 0).
        y, x: the two axes.
        modulation: [B] float64 mask of the bin, 0 for a RoI that pools nothing; None where all are one.
        shape: (r, classes, pH, pW).
    """

    base: Tensor
    y: _Axis
    x: _Axis
    modulation: Tensor | None
    shape: tuple[int, int, int, int]


@dataclass
class _Weights:
    """Merged weights of one axis of some bins: [b, L] each.

    Attributes:
        rows: rows (or columns) of the map.
        value: weights of the mean.
        slope: derivative of ``value`` with respect to the position of the samples; None where nobody asked.
    """

    rows: Tensor
    value: Tensor
    slope: Tensor | None


def _round_half_away(values: Tensor) -> Tensor:
    magnitude = values.abs()
    whole = magnitude.floor()
    return torch.copysign(whole + (magnitude - whole >= 0.5), values)


def _of_bins(parts: Tensor, pooled: tuple[int, int]) -> Tensor:
    """[..., parts_h, parts_w] → [..., pH, pW]: what each bin finds in its part."""
    along_h, along_w = (
        torch.arange(extent, device=parts.device) * parts.shape[axis] // extent
        for axis, extent in ((-2, pooled[0]), (-1, pooled[1]))
    )
    return parts.index_select(-2, along_h).index_select(-1, along_w)


def _onto_parts(bins: Tensor, parts: tuple[int, int]) -> Tensor:
    """Transpose of :func:`_of_bins`: [..., pH, pW] → [..., parts_h, parts_w], summed in a fixed order."""
    for axis, extent in ((-2, parts[0]), (-1, parts[1])):
        shape = list(bins.shape)
        shape[axis] = extent
        summed = bins.new_zeros(shape)
        pooled = bins.shape[axis]
        for p in range(pooled):
            summed.select(axis, p * extent // pooled).add_(bins.select(axis, p))
        bins = summed
    return bins


def _axis(
    ends: tuple[Tensor, Tensor],
    delta: Tensor | None,
    size: int,
    along: int,
    shape: tuple[int, int, int, int],
    pooling: RoiPooling,
    plans: bool,
) -> _Axis:
    """Lay out one axis, 0 for y and 1 for x.

    ``ends`` are those of the RoIs on it, [r] each, and ``delta`` the offsets of the bins, [r, classes, pH, pW].

    The order of operations is that of the formulas, term by term, so that float64 agrees with the reference to the last
    bit where a sample lies on a boundary.
    """
    aligned = pooling.variant == "aligned"
    pooled = pooling.output_size[along]
    scale = pooling.spatial_scale
    if aligned:
        start = ends[0] * scale - 0.5
        extent = (ends[1] * scale - 0.5) - start
    else:
        start = _round_half_away(ends[0]) * scale - 0.5
        extent = ((_round_half_away(ends[1]) + 1) * scale - 0.5 - start).clamp(min=0.1)
    bin = extent / pooled
    fixed = pooling.fixed_grid
    grid = torch.full_like(bin, fixed) if fixed else bin.ceil()
    corner = start[:, None] + torch.arange(pooled, dtype=start.dtype, device=start.device) * bin[:, None]
    corner = corner[:, None, :, None] if along == 0 else corner[:, None, None, :]
    if delta is not None:
        corner = corner + delta * pooling.gamma * extent[:, None, None, None]

    def of_bins(values: Tensor) -> Tensor:
        return values.expand(shape).reshape(-1)

    def of_rois(values: Tensor) -> Tensor:
        return of_bins(values[:, None, None, None])

    low, high, half = (-1.0, float(size), 0.5) if aligned else (-0.5, size - 0.5, 0.0)
    start, bin, grid = of_bins(corner), of_rois(bin), of_rois(grid)
    first, visited, rows = torch.zeros_like(start), grid, torch.full_like(start, size)
    if plans:
        step = bin / grid
        begin = start + half * step
        end = start + (grid - 1 + half) * step
        # Comparisons with NaN are false.
        touches = (torch.minimum(begin, end) <= high) & (torch.maximum(begin, end) >= low) & (grid > 0)
        span = (end.clamp(low, high) - begin.clamp(low, high)).abs()
        if not fixed:
            # Two samples to spare at each end, for what rounding may do to a quotient near a whole number.
            first = torch.where(touches, ((low - begin) / step).floor() - 2, 0).clamp(min=0)
            visited = torch.minimum(grid, (span / step).floor() + 6)
        rows = torch.minimum(span.floor() + 3, 2 * visited).clamp(max=size)
        visited, rows = torch.where(touches, visited, 0), torch.where(touches, rows, 0)
    return _Axis(
        start, bin, grid, first, visited, rows, of_rois(pooling.gamma * extent), size, low, high, half, not aligned
    )


def _classes(offset: Tensor | None, mask: Tensor | None) -> int:
    if offset is not None:
        return offset.shape[1] // 2
    return 1 if mask is None else mask.shape[1]


def _can_plan(device: torch.device, pooling: RoiPooling) -> bool:
    """Whether sizes may depend on where the samples are: free on a CPU; elsewhere the host has to wait for the device.

    Without a fixed grid there is no other way.
    """
    return device.type == "cpu" or not pooling.fixed_grid


def _lay_out(input: Tensor, rois: Tensor, offset: Tensor | None, mask: Tensor | None, pooling: RoiPooling) -> _Bins:
    n, _, height, width = input.shape
    r = rois.shape[0]
    classes = _classes(offset, mask)
    shape = (r, classes, *pooling.output_size)
    boxes = rois.to(torch.float64)
    usable = torch.isfinite(boxes[:, 1:]).all(1) & (boxes[:, 0] >= 0) & (boxes[:, 0] < n)
    # A RoI that pools nothing lies at NaN, and so do all of its samples, which are outside then.
    boxes = torch.where(usable[:, None], boxes, torch.nan)
    delta_x = delta_y = None
    if offset is not None:
        delta = offset.reshape(r, classes, 2, *offset.shape[2:]).to(torch.float64)
        delta_x, delta_y = _of_bins(delta, pooling.output_size).unbind(2)
    plans = _can_plan(input.device, pooling)
    y = _axis((boxes[:, 2], boxes[:, 4]), delta_y, height, 0, shape, pooling, plans)
    x = _axis((boxes[:, 1], boxes[:, 3]), delta_x, width, 1, shape, pooling, plans)
    groups = pooling.group_size
    # The channel group of each bin along each axis.
    group_h, group_w = (
        (torch.arange(extent, device=input.device) * groups // extent).clamp(max=groups - 1)
        for extent in pooling.output_size
    )
    in_pixel = (group_h[:, None] * groups + group_w) * classes
    in_pixel = in_pixel + torch.arange(classes, device=input.device)[:, None, None]
    image = torch.where(usable, boxes[:, 0], 0).long() * (height * width * groups * groups * classes)
    base = (image[:, None, None, None] + in_pixel).reshape(-1)
    modulation = None
    if mask is not None:
        of_bins = _of_bins(mask.to(torch.float64), pooling.output_size)
        modulation = torch.where(usable[:, None, None, None], of_bins, 0).reshape(-1)
    return _Bins(base, y, x, modulation, shape)


def _feature_table(input: Tensor, classes: int, groups: int) -> Tensor:
    """[N, C, H, W] → [N·H·W·groups²·classes + 1, C/(groups²·classes)], in the type of the computation.

    One row a pixel, channel group and class, then one of zeros for entries that do not count.
    """
    n, channels, height, width = input.shape
    columns = channels // (groups * groups * classes)
    split = input.reshape(n, classes, columns, groups * groups, height, width)
    rows = split.permute(0, 4, 5, 3, 1, 2).reshape(-1, columns).to(compute_dtype(input.dtype))
    return torch.cat([rows, rows.new_zeros(1, columns)])


def _from_table(rows: Tensor, input: Tensor, classes: int, groups: int) -> Tensor:
    """Inverse of :func:`_feature_table`, without the row of zeros, in the shape and type of ``input``."""
    n, _, height, width = input.shape
    split = rows.view(n, height, width, groups * groups, classes, rows.shape[1])
    return split.permute(0, 4, 5, 3, 1, 2).reshape(input.shape).to(input.dtype).contiguous()


def _roi_chunks(count: int, bins_per_roi: int, columns: int) -> Iterator[slice]:
    step = max(1, min(_BIN_BUDGET, _COLUMN_BUDGET // columns) // bins_per_roi)
    for begin in range(0, count, step):
        yield slice(begin, min(count, begin + step))


def _groups_of_bins(bins: _Bins, pooling: RoiPooling, plans: bool) -> Iterator[slice | Tensor]:
    """Yield the bins in groups of similar size within the budget; bins with no sample on the map are left out."""
    total = bins.base.shape[0]
    axes = (bins.y, bins.x)
    if not plans:
        step = max(1, _ENTRY_BUDGET // (4 * pooling.fixed_grid**2))
        yield from (slice(begin, min(total, begin + step)) for begin in range(0, total, step))
        return
    # Powers of two, so that there are few groups and no bin is padded to more than twice its rows.
    exponent = [torch.log2(axis.rows).ceil().clamp(min=2).nan_to_num(neginf=0) for axis in axes]
    touches = (bins.y.rows > 0) & (bins.x.rows > 0)
    key = torch.where(touches, exponent[0] * 64 + exponent[1], -1).long()
    order = torch.sort(key, stable=True).indices
    keys, counts = torch.unique_consecutive(key[order], return_counts=True)
    begin = 0
    for value, count in zip(keys.tolist(), counts.tolist(), strict=True):
        chosen = order[begin : begin + count]
        begin += count
        if value < 0:
            continue
        rows = [min(1 << e, axis.size) for e, axis in zip(divmod(value, 64), axes, strict=True)]
        samples = [int(axis.visited[chosen].max()) for axis in axes]
        entries = rows[0] * rows[1] + samples[0] * rows[0] + samples[1] * rows[1]
        step = max(1, _ENTRY_BUDGET // entries)
        for start in range(0, count, step):
            piece = slice(start, min(count, start + step))
            yield piece if count == total else chosen[piece]


def _weights(axis: _Axis, chosen: slice | Tensor, samples: int, plans: bool, slopes: bool) -> _Weights:
    """Merge the samples of an axis, into the window of rows that they touch or two rows a sample, whichever is less."""
    start, bin, grid, first = (values[chosen][:, None] for values in (axis.start, axis.bin, axis.grid, axis.first))
    i = first + torch.arange(samples, dtype=start.dtype, device=start.device)
    position = start + (i + axis.half) * bin / grid
    # Comparisons with NaN are false; what does not count must not reach the conversion to an integer.
    counts = (position >= axis.low) & (position <= axis.high) & (i < grid)
    divisor = counts.sum(1, keepdim=True, dtype=bin.dtype).clamp(min=1) if axis.keeps else grid
    share = torch.where(counts, 1 / divisor, 0)
    at = torch.where(counts, position, 0).clamp(0, axis.size - 1)
    cell = at.floor()
    # A sample that was moved to the edge stays there when its position changes, and so does one that is on the last
    # row: the derivative is the one forward.
    moving = torch.where((position >= 0) & (position < axis.size - 1), share, 0) if slopes else None
    nearest = torch.where(counts, cell, axis.size).amin(1, keepdim=True)
    window = 2 * samples
    if plans:
        window = int((torch.where(counts, cell, -1).amax(1, keepdim=True) - nearest).max()) + 2
        window = min(max(window, 1), axis.size)
    # A row beyond the map has weight 0, and no entry of that weight is looked up.
    if window >= 2 * samples:
        rows = torch.cat([cell, cell + 1], 1).long()
        value = torch.cat([(1 - (at - cell)) * share, (at - cell) * share], 1)
        return _Weights(rows, value, None if moving is None else torch.cat([-moving, moving], 1))
    rows = nearest + torch.arange(window, dtype=at.dtype, device=at.device)
    # The bilinear weight of a row is 1 − |distance|, if positive: [b, samples, L] here.
    value = ((1 - (rows[:, None] - at[:, :, None]).abs()).clamp(min=0) * share[:, :, None]).sum(1)
    slope = None
    if moving is not None:
        ahead = rows[:, None] - cell[:, :, None]
        slope = (((ahead == 1).to(at.dtype) - (ahead == 0).to(at.dtype)) * moving[:, :, None]).sum(1)
    return _Weights(rows.long(), value, slope)


@dataclass
class _Entries:
    """The entries of S for some bins.

    Attributes:
        chosen: which bins of the RoIs at hand.
        rows: [b, Ly, Lx] row of the feature table.
        y, x: weights of the axes.
        zeros: the table's row of zeros.
        dtype: type of the computation.
    """

    chosen: slice | Tensor
    rows: Tensor
    y: _Weights
    x: _Weights
    zeros: int
    dtype: torch.dtype

    def product(self, along_y: Tensor, along_x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (index, weights), [b, Ly·Lx] each, for the weights of the two axes."""
        weights = along_y.to(self.dtype)[:, :, None] * along_x.to(self.dtype)[:, None, :]
        index = torch.where(weights != 0, self.rows, self.zeros)
        return index.flatten(1), weights.flatten(1)

    def pooled(self, along_y: Tensor, along_x: Tensor, table: Tensor) -> Tensor:
        """Return S · table for the weights of the two axes: [b, channels]."""
        index, weights = self.product(along_y, along_x)
        return bag(index, table, weights)


def _entries(
    bins: _Bins, width: int, table: Tensor, pooling: RoiPooling, plans: bool, *, slopes: bool = False
) -> Iterator[_Entries]:
    rows_per_pixel = bins.shape[1] * pooling.group_size**2
    for chosen in _groups_of_bins(bins, pooling, plans):
        samples = [pooling.fixed_grid or int(axis.visited[chosen].max()) for axis in (bins.y, bins.x)]
        y = _weights(bins.y, chosen, samples[0], plans, slopes)
        x = _weights(bins.x, chosen, samples[1], plans, slopes)
        pixel = y.rows[:, :, None] * width + x.rows[:, None, :]
        rows = bins.base[chosen][:, None, None] + pixel * rows_per_pixel
        yield _Entries(chosen, rows, y, x, table.shape[0] - 1, table.dtype)


def _by_bin(pooled: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """[r, Cout, pH, pW] → [bins, Cout/classes]."""
    split = pooled.reshape(shape[0], shape[1], -1, *shape[2:])
    return split.permute(0, 1, 3, 4, 2).reshape(-1, split.shape[2])


def _from_bins(rows: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """Inverse of :func:`_by_bin`."""
    pooled = rows.view(*shape, -1).permute(0, 1, 4, 2, 3)
    return pooled.reshape(shape[0], -1, *shape[2:])


def forward(input: Tensor, rois: Tensor, offset: Tensor | None, mask: Tensor | None, pooling: RoiPooling) -> Tensor:
    """Return the pooled features [R, Cout, pH, pW]; arguments are checked by the caller and R ≥ 1.

    A RoI with a batch index outside [0, N) pools nothing here.
    """
    pooled_h, pooled_w = pooling.output_size
    classes = _classes(offset, mask)
    table = _feature_table(input, classes, pooling.group_size)
    columns = table.shape[1]
    plans = _can_plan(input.device, pooling)
    output = input.new_empty((rois.shape[0], classes * columns, pooled_h, pooled_w))
    for some in _roi_chunks(rois.shape[0], classes * pooled_h * pooled_w, columns):
        bins = _lay_out(
            input, rois[some], None if offset is None else offset[some], None if mask is None else mask[some], pooling
        )
        mean = table.new_zeros((bins.base.shape[0], columns))
        for entries in _entries(bins, input.shape[3], table, pooling, plans):
            mean[entries.chosen] = entries.pooled(entries.y.value, entries.x.value, table)
        if bins.modulation is not None:
            mean *= bins.modulation.to(mean.dtype)[:, None]
        output[some] = _from_bins(mean, bins.shape)
    return output


def backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None,
    mask: Tensor | None,
    pooling: RoiPooling,
    wanted: list[bool],
) -> list[Tensor]:
    """Return gradients of (input, offset, mask), an empty tensor for each that is not wanted."""
    pooled_h, pooled_w = pooling.output_size
    classes = _classes(offset, mask)
    table = _feature_table(input, classes, pooling.group_size)
    columns = table.shape[1]
    plans = _can_plan(input.device, pooling)
    want_input, want_offset, want_mask = (
        want and tensor is not None for want, tensor in zip(wanted, (input, offset, mask), strict=True)
    )
    grad_table = torch.zeros_like(table) if want_input else None
    grad_offset, grad_mask = (
        torch.zeros_like(tensor, memory_format=torch.contiguous_format)
        if want and tensor is not None
        else input.new_empty(0)
        for want, tensor in ((want_offset, offset), (want_mask, mask))
    )
    for some in _roi_chunks(rois.shape[0], classes * pooled_h * pooled_w, columns):
        bins = _lay_out(
            input, rois[some], None if offset is None else offset[some], None if mask is None else mask[some], pooling
        )
        grad = _by_bin(grad_output[some].to(table.dtype), bins.shape)
        along_y, along_x, along_mean = (grad.new_zeros(grad.shape[0]) for _ in range(3))
        for entries in _entries(bins, input.shape[3], table, pooling, plans, slopes=want_offset):
            chosen, y, x = entries.chosen, entries.y, entries.x
            own = grad[chosen]
            if want_mask:
                along_mean[chosen] = (entries.pooled(y.value, x.value, table) * own).sum(1)
            if bins.modulation is not None:
                own = own * bins.modulation[chosen].to(own.dtype)[:, None]
            if grad_table is not None:
                index, weights = entries.product(y.value, x.value)
                grad_table += bag_transposed(index, weights, own, table.shape[0])
            if y.slope is not None and x.slope is not None:
                along_y[chosen] = (entries.pooled(y.slope, x.value, table) * own).sum(1)
                along_x[chosen] = (entries.pooled(y.value, x.slope, table) * own).sum(1)
        if mask is not None and want_mask:
            of_parts = _onto_parts(along_mean.view(bins.shape), (mask.shape[2], mask.shape[3]))
            grad_mask[some] = of_parts.to(mask.dtype)
        if offset is not None and want_offset:
            # Where nothing depends on the offset, the RoI may be of any size, and of none.
            moved = [
                torch.where(along == 0, 0, along * axis.per_offset).view(bins.shape)
                for along, axis in ((along_x, bins.x), (along_y, bins.y))
            ]
            of_parts = _onto_parts(torch.stack(moved, 2), (offset.shape[2], offset.shape[3]))
            grad_offset[some] = of_parts.reshape(of_parts.shape[0], *offset.shape[1:]).to(offset.dtype)
    grad_input = input.new_empty(0)
    if grad_table is not None:
        grad_input = _from_table(grad_table[:-1], input, classes, pooling.group_size)
    return [grad_input, grad_offset, grad_mask]
