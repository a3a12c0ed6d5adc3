"""Deformable RoI pooling from ordinary ONNX operators: gathered rows of the map, times their weights.

The samples of a bin form a grid, and everything that happens to them (the shift, the comparison with the map, the
clamping, the bilinear weights, the number of those kept) happens to each axis on its own. With s samples along an
axis, an axis of a bin is 2·s places (s lower corners, s upper ones) with a weight each, and

    value = Σ_a Σ_b wy[a]·wx[b]·X[row a, column b]

The map is brought to a table with a row of channels for each pixel (for each class and channel group too), so that a
bin is one Gather of 4·s² rows and one MatMul with its 4·s² weights, whatever the number of RoIs and of images. The
places are taken in a few chunks, so that only a part of the rows is in memory at a time.

Row 0 of the table is zeros. Whatever has no weight points there: samples off the map, samples at positions that are
NaN, infinite or beyond every integer (they fail the comparison, before any cast), RoIs that are not finite or of an
image that is not there, and the upper corner of a sample on the last pixel.

Positions are float32 (float64 for float64 features) whatever the features are stored in, and are formed as

    position = start + size·(f + γ·δ),      f = (p + (i + ½)/s)/pooled    or    (p + i/s)/pooled for psroi

where f is a constant; weights and sums have the same type; the result is rounded to the features' type once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dcn_deploy.errors import UnsupportedError
from dcn_deploy.export.operators.base import Dim, NodeView

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from dcn_deploy.export.expansion import Expansion

#: Shape with a start. Only Cast meets bfloat16, which it takes in this version too.
SINCE_OPSET = 15

#: Rows of a bin that are gathered at a time, if that does not make more than ``_MAX_CHUNKS``.
_CHUNK_ROWS = 4
_MAX_CHUNKS = 8


def _compute_dtype(view: NodeView) -> str:
    return "float64" if view.dtypes.get("X") == "float64" else "float32"


@dataclass(frozen=True)
class _Geometry:
    """The integers of one node.

    Attributes:
        pooled: (pH, pW).
        samples: samples of a bin along each axis.
        groups: channel groups along each axis; 1 for ``aligned``.
        classes: number of classes; 1 for ``aligned``.
        sampled_classes: number of classes with samples of their own: 1 without an offset.
        parts: (height, width) in parts; the bins for ``aligned``.
        channels: channels of one sampled class and one group: the length of the table's rows.
    """

    pooled: tuple[int, int]
    samples: int
    groups: int
    classes: int
    sampled_classes: int
    parts: tuple[int, int]
    channels: int

    @property
    def bins(self) -> int:
        """Bins of a RoI, those of each sampled class counted."""
        return self.sampled_classes * self.pooled[0] * self.pooled[1]

    @property
    def rows(self) -> int:
        """Rows of the table that a bin sums."""
        return 4 * self.samples**2

    @property
    def chunks(self) -> list[tuple[int, int]]:
        """First and last (exclusive) row of each chunk: a whole number of places along y."""
        places = 2 * self.samples
        count = min(places, _MAX_CHUNKS, -(-self.rows // _CHUNK_ROWS))
        step = -(-places // count) * places
        return [(start, min(start + step, self.rows)) for start in range(0, self.rows, step)]


def _geometry(view: NodeView) -> _Geometry | str:
    """Return the integers of a node, or why some are not known."""
    from dcn_deploy.export.operators.deform_roi_pool2d import classes, output_channels, part_size

    pooled_h, pooled_w = (int(extent) for extent in view.attribute("output_size"))
    is_aligned = view.attribute("variant") == "aligned"
    samples = int(view.attribute("sampling_ratio" if is_aligned else "sample_per_part"))
    if samples == 0:
        return (
            "with sampling_ratio 0 the number of samples follows each RoI's size, which only the form plugin can do. "
            "Use that form, or export the network with a fixed sampling_ratio, such as 2."
        )
    known = {
        "number of channels of X": output_channels(view),
        "number of classes of offset or mask": classes(view),
        "number of parts of offset or mask": 1 if is_aligned else part_size(view),
    }
    for what, extent in known.items():
        if not isinstance(extent, int):
            return (
                f"the {what} must be fixed, but it is {'unknown' if extent is None else repr(extent)}. Run shape "
                f"inference (dcn_deploy.export.infer_shapes), or export the network with fixed channels."
            )
    channels, own, part = (int(extent or 0) for extent in known.values())
    sampled = own if view.has("offset") else 1
    return _Geometry(
        pooled=(pooled_h, pooled_w),
        samples=samples,
        groups=1 if is_aligned else int(view.attribute("group_size")),
        classes=own,
        sampled_classes=sampled,
        parts=(pooled_h, pooled_w) if is_aligned else (part, part),
        channels=channels // sampled,
    )


def obstacle(view: NodeView) -> str | None:
    """Return why a node cannot be decomposed, with what to do about it; None if it can."""
    geometry = _geometry(view)
    return geometry if isinstance(geometry, str) else None


def largest_bytes(view: NodeView) -> int | None:
    """Size in bytes of the largest tensor: gathered rows, their indices or the table; None if it is not known."""
    from dcn_deploy.export.operators.deform_roi_pool2d import roi_count

    geometry, count, image = _geometry(view), roi_count(view), view.dims("X", 4)
    if isinstance(geometry, str) or not isinstance(count, int):
        return None
    size = 8 if _compute_dtype(view) == "float64" else 4
    chunk = max(stop - start for start, stop in geometry.chunks)
    table = 1
    for extent in image:
        table *= extent if isinstance(extent, int) else 1
    of_a_bin = max(chunk * geometry.channels * size, geometry.rows * 8)
    return max(count * geometry.bins * of_a_bin, (table + geometry.channels) * size)


def decompose(view: NodeView, inputs: Mapping[str, ir.Value], expansion: Expansion) -> ir.Value:
    """Build the decomposition of one node and return its output [R, Cout, pH, pW].

    Raises:
        UnsupportedError: for what :func:`obstacle` names.
    """
    geometry = _geometry(view)
    if isinstance(geometry, str):
        raise UnsupportedError(f"Node '{view.name}' cannot be decomposed: {geometry}")
    return _Builder(view, geometry, inputs, expansion).output()


class _Builder:
    """Builds one expansion. Pairs along an axis are (x, y), as in ``rois`` and ``offset``."""

    def __init__(
        self, view: NodeView, geometry: _Geometry, inputs: Mapping[str, ir.Value], expansion: Expansion
    ) -> None:
        from dcn_deploy.export.operators.deform_roi_pool2d import roi_count

        self._view = view
        self._geometry = geometry
        self._inputs = inputs
        self._expansion = expansion
        self._dtype = _compute_dtype(view)
        self._is_aligned = view.attribute("variant") == "aligned"
        self._count = roi_count(view)
        self._map: tuple[Dim, Dim] = view.dims("X", 4)[2:]  # type: ignore[assignment]

    # ---- helpers ----

    def _op(
        self,
        role: str,
        op_type: str,
        values: Sequence[ir.Value],
        shape: Sequence[Dim],
        dtype: str | None = None,
        **attributes: Any,
    ) -> ir.Value:
        return self._expansion.op(role, op_type, values, dtype=dtype or self._dtype, shape=shape, **attributes)

    def _array(self, values: Any, dtype: str | None = None) -> ir.Value:
        import numpy as np

        return self._expansion.array(np.ascontiguousarray(np.asarray(values, dtype or self._dtype)))

    def _scalar(self, value: float, dtype: str | None = None) -> ir.Value:
        return self._expansion.scalar(value, dtype or self._dtype)

    def _cast(self, role: str, value: ir.Value, source: str | None, target: str, shape: Sequence[Dim]) -> ir.Value:
        if source == target:
            return value
        return self._op(role, "Cast", [value], shape, target, to=int(self._expansion.dtype(target)))

    def _reshape(self, role: str, value: ir.Value, tail: tuple[int, ...], dtype: str | None = None) -> ir.Value:
        """[R, ...] → [R, *tail]; R is copied, so that it may be 0."""
        return self._op(role, "Reshape", [value, self._expansion.ints([0, *tail])], (self._count, *tail), dtype)

    def _coordinates(self, tensor: str) -> ir.Value:
        """An input in the type that positions are computed in."""
        dims = self._view.dims(tensor, 2 if tensor == "rois" else 4)
        return self._cast(f"{tensor}_cast", self._inputs[tensor], self._view.dtypes.get(tensor), self._dtype, dims)

    def _extents(self, role: str, first: int, last: int) -> ir.Value:
        """Extents ``first`` to ``last`` (exclusive) of X, read at run time, int64."""
        dims = self._view.dims("X", 4)[first:last]
        return self._expansion.shared(
            (role, dims),
            "Shape",
            [self._inputs["X"]],
            dtype="int64",
            shape=(last - first,),
            named=None not in dims,
            start=first,
            end=last,
        )

    def _extent(self, axis: int) -> ir.Value:
        """One extent of X as an int64 of rank 1: a constant where it is fixed."""
        dim = self._view.dims("X", 4)[axis]
        return self._expansion.ints([dim]) if isinstance(dim, int) else self._extents("nchw"[axis], axis, axis + 1)

    def _map_extents(self, role: str, minus: float) -> ir.Value:
        """(W, H) − ``minus``: [2, 1, 1, 1]."""
        import numpy as np

        h, w = self._map
        if isinstance(h, int) and isinstance(w, int):
            return self._array(np.reshape([w - minus, h - minus], (2, 1, 1, 1)))
        named = None not in self._map
        key = (self._dtype, h, w)

        def shared(part: str, op_type: str, values: list[ir.Value], shape: tuple[int, ...], **kind: Any) -> ir.Value:
            dtype = kind.pop("dtype", self._dtype)
            return self._expansion.shared(
                (f"map_{part}", *key), op_type, values, dtype=dtype, shape=shape, named=named, **kind
            )

        sizes = self._extents("map_extents", 2, 4)
        sizes = shared("wh", "Gather", [sizes, self._expansion.ints([1, 0])], (2,), dtype="int64", axis=0)
        sizes = shared("column", "Reshape", [sizes, self._expansion.ints([2, 1, 1, 1])], (2, 1, 1, 1), dtype="int64")
        sizes = shared("cast", "Cast", [sizes], (2, 1, 1, 1), to=int(self._expansion.dtype(self._dtype)))
        if minus == 0:
            return sizes
        return shared(role, "Sub", [sizes, self._scalar(minus)], (2, 1, 1, 1))

    # ---- the table ----

    def _table(self) -> ir.Value:
        """X as rows of channels, behind one row of zeros: [1 + N·sampled classes·groups²·H·W, channels]."""
        import numpy as np

        geometry, expansion = self._geometry, self._expansion
        n, _, h, w = dims = self._view.dims("X", 4)
        image = self._cast("features_cast", self._inputs["X"], self._view.dtypes.get("X"), self._dtype, dims)
        channels, groups = geometry.channels, geometry.groups**2
        maps = geometry.sampled_classes * groups
        if maps == 1:
            rows = self._op("features_rows", "Transpose", [image], (n, h, w, channels), perm=(0, 2, 3, 1))
        else:
            images = n * geometry.sampled_classes if isinstance(n, int) else None
            if isinstance(h, int) and isinstance(w, int):
                shape = expansion.ints([-1, channels, groups, h, w])
            else:
                shape = expansion.shared(
                    ("features_shape", channels, groups, h, w),
                    "Concat",
                    [expansion.ints([-1, channels, groups]), self._extents("map_extents", 2, 4)],
                    dtype="int64",
                    shape=(5,),
                    named=None not in self._map,
                    axis=0,
                )
            rows = self._op("features_split", "Reshape", [image, shape], (images, channels, groups, h, w))
            rows = self._op(
                "features_rows", "Transpose", [rows], (images, groups, h, w, channels), perm=(0, 2, 3, 4, 1)
            )
        fixed = [extent for extent in (n, maps, h, w) if isinstance(extent, int)]
        total = int(np.prod(fixed)) if len(fixed) == 4 else None
        table = self._op("features_flat", "Reshape", [rows, expansion.ints([-1, channels])], (total, channels))
        return self._op(
            "table",
            "Concat",
            [self._array(np.zeros((1, channels))), table],
            (None if total is None else total + 1, channels),
            axis=0,
        )

    # ---- the RoIs ----

    def _valid_rois(self) -> tuple[ir.Value, ir.Value]:
        """Whether each RoI is finite and of an image that is there, [R, 1]; and the RoIs, the others all zeros."""
        import numpy as np

        rois, r = self._coordinates("rois"), self._count
        far = float(np.finfo(self._dtype).max)
        n = self._view.dims("X", 4)[0]
        if isinstance(n, int):
            upper = self._array([n, *[np.inf] * 4])
        else:
            named, key = n is not None, (self._dtype, n)
            count = self._expansion.shared(
                ("images", *key),
                "Cast",
                [self._extents("n", 0, 1)],
                dtype=self._dtype,
                shape=(1,),
                named=named,
                to=int(self._expansion.dtype(self._dtype)),
            )
            upper = self._expansion.shared(
                ("rois_limit", *key),
                "Concat",
                [count, self._array([np.inf] * 4)],
                dtype=self._dtype,
                shape=(5,),
                named=named,
                axis=0,
            )
        above = self._op("rois_above", "GreaterOrEqual", [rois, self._array([0, *[-far] * 4])], (r, 5), "bool")
        below = self._op("rois_below", "Less", [rois, upper], (r, 5), "bool")
        within = self._op("rois_within", "And", [above, below], (r, 5), "bool")
        ones = self._cast("rois_count", within, "bool", self._dtype, (r, 5))
        total = self._op("rois_sum", "ReduceSum", [ones, self._expansion.ints([1])], (r, 1), keepdims=1)
        valid = self._op("rois_valid", "Greater", [total, self._scalar(4.5)], (r, 1), "bool")
        return valid, self._op("rois_guard", "Where", [valid, rois, self._scalar(0)], (r, 5))

    def _rounded(self, rois: ir.Value) -> ir.Value:
        """Whole numbers, halves away from zero: floor(|v|) and its exact rest, not floor(|v| + ½), which rounds."""
        shape = (self._count, 5)
        magnitude = self._op("round_abs", "Abs", [rois], shape)
        whole = self._op("round_floor", "Floor", [magnitude], shape)
        rest = self._op("round_rest", "Sub", [magnitude, whole], shape)
        up = self._op("round_half", "GreaterOrEqual", [rest, self._scalar(0.5)], shape, "bool")
        up = self._cast("round_up", up, "bool", self._dtype, shape)
        rounded = self._op("round_whole", "Add", [whole, up], shape)
        sign = self._op("round_sign", "Sign", [rois], shape)
        return self._op("round", "Mul", [rounded, sign], shape)

    def _start_and_size(self, rois: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Corner and size of each RoI on the map, (x, y): [R, 1, 2, 1, 1, 1] each."""
        pair = (self._count, 2)
        corners = rois if self._is_aligned else self._rounded(rois)
        first = self._op("corner_first", "Gather", [corners, self._expansion.ints([1, 2])], pair, axis=1)
        last = self._op("corner_last", "Gather", [corners, self._expansion.ints([3, 4])], pair, axis=1)
        scale = self._scalar(float(self._view.attribute("spatial_scale")))
        start = self._op("start_scaled", "Mul", [first, scale], pair)
        start = self._op("start", "Sub", [start, self._scalar(0.5)], pair)
        size = self._op("size_image", "Sub", [last, first], pair)
        if not self._is_aligned:
            size = self._op("size_inclusive", "Add", [size, self._scalar(1)], pair)
        size = self._op("size", "Mul", [size, scale], pair)
        if not self._is_aligned:
            size = self._op("size_least", "Max", [size, self._scalar(0.1)], pair)
        spread = (1, 2, 1, 1, 1)
        return self._reshape("start_spread", start, spread), self._reshape("size_spread", size, spread)

    # ---- the samples ----

    def _fractions(self) -> np.ndarray[Any, Any]:
        """Where the samples lie without offsets, in units of the RoI's size: [1, 1, 2, pH, pW, s], (x, y)."""
        import numpy as np

        geometry = self._geometry
        inside = (np.arange(geometry.samples) + (0.5 if self._is_aligned else 0.0)) / geometry.samples
        along = [(np.arange(pooled)[:, None] + inside) / pooled for pooled in geometry.pooled]
        shape = (*geometry.pooled, geometry.samples)
        y, x = np.broadcast_to(along[0][:, None], shape), np.broadcast_to(along[1][None], shape)
        return np.stack([x, y])[None, None]

    def _of_bins(self, tensor: str) -> ir.Value:
        """Offset or mask with an entry for each bin instead of each part: [R, channels, pH, pW]."""
        value = self._coordinates(tensor)
        channels = self._geometry.classes * (2 if tensor == "offset" else 1)
        extents = list(self._geometry.parts)
        for axis, (pooled, part) in enumerate(zip(self._geometry.pooled, self._geometry.parts, strict=True)):
            index = [p * part // pooled for p in range(pooled)]
            if index != list(range(part)):
                extents[axis] = pooled
                value = self._op(
                    f"{tensor}_{'yx'[axis]}_parts",
                    "Gather",
                    [value, self._expansion.ints(index)],
                    (self._count, channels, *extents),
                    axis=2 + axis,
                )
        return value

    def _positions(self, rois: ir.Value) -> ir.Value:
        """Where the samples lie on the map: [R, sampled classes, 2, pH, pW, s]."""
        start, size = self._start_and_size(rois)
        fractions = self._array(self._fractions())
        pooled, classes = self._geometry.pooled, self._geometry.sampled_classes
        shape = (self._count, classes, 2, *pooled, self._geometry.samples)
        if self._view.has("offset"):
            shift = self._reshape("offset_spread", self._of_bins("offset"), (classes, 2, *pooled, 1))
            gamma = self._scalar(float(self._view.attribute("gamma")))
            shift = self._op("shift", "Mul", [shift, gamma], (self._count, classes, 2, *pooled, 1))
            fractions = self._op("fraction", "Add", [fractions, shift], shape)
        distance = self._op("distance", "Mul", [size, fractions], shape)
        return self._op("position", "Add", [start, distance], shape)

    def _places(self) -> tuple[ir.Value, ir.Value, ir.Value]:
        """What the samples of a bin read along each axis, and with which weights.

        Returns:
            Pixels, int64 [R, sampled classes, 2, pH, pW, 2·s]; their weights, of that shape; the image of each RoI,
            int64 [R, 1].
        """
        valid_rois, rois = self._valid_rois()
        image = self._op("image", "Gather", [rois, self._expansion.ints([0])], (self._count, 1), axis=1)
        image = self._cast("image_cast", image, self._dtype, "int64", (self._count, 1))
        position = self._positions(rois)
        shape = (self._count, self._geometry.sampled_classes, 2, *self._geometry.pooled, self._geometry.samples)
        margin = 1.0 if self._is_aligned else 0.5
        above = self._op("above", "GreaterOrEqual", [position, self._scalar(-margin)], shape, "bool")
        limit = self._map_extents("limit", 0.0 if self._is_aligned else 0.5)
        below = self._op("below", "LessOrEqual", [position, limit], shape, "bool")
        valid = self._op("on_map", "And", [above, below], shape, "bool")
        valid = self._op(
            "valid", "And", [valid, self._reshape("valid_spread", valid_rois, (1, 1, 1, 1, 1), "bool")], shape, "bool"
        )
        guarded = self._op("guard", "Where", [valid, position, self._scalar(0)], shape)
        clamped = self._op("clamp_low", "Max", [guarded, self._scalar(0)], shape)
        clamped = self._op("clamp", "Min", [clamped, self._map_extents("last", 1.0)], shape)
        corner = self._op("corner", "Floor", [clamped], shape)
        rest = self._op("rest", "Sub", [clamped, corner], shape)
        whole = self._sample_weights(valid, shape)
        upper = self._op("weight_upper", "Mul", [rest, whole], shape)
        lower = self._op("weight_lower", "Sub", [whole, upper], shape)
        doubled = (*shape[:-1], 2 * self._geometry.samples)
        weights = self._op("weights", "Concat", [lower, upper], doubled, axis=5)
        next_corner = self._op("corner_next", "Add", [corner, self._scalar(1)], shape)
        pixels = self._op("corners", "Concat", [corner, next_corner], doubled, axis=5)
        return self._cast("pixels", pixels, self._dtype, "int64", doubled), weights, image

    def _sample_weights(self, valid: ir.Value, shape: Sequence[Dim]) -> ir.Value:
        """Weight of each sample along its axis: 1/s, or one over the number of those kept; 0 where it is not valid."""
        if self._is_aligned:
            share = self._scalar(1 / self._geometry.samples)
            return self._op("sample_weight", "Where", [valid, share, self._scalar(0)], shape)
        kept = self._cast("kept", valid, "bool", self._dtype, shape)
        total_shape = (*shape[:-1], 1)
        total = self._op("kept_sum", "ReduceSum", [kept, self._expansion.ints([5])], total_shape, keepdims=1)
        total = self._op("kept_least", "Max", [total, self._scalar(1)], total_shape)
        return self._op("sample_weight", "Div", [kept, total], shape)

    # ---- the sums ----

    def _map_numbers(self, image: ir.Value) -> tuple[ir.Value, tuple[Dim, ...]]:
        """Which of the N·sampled classes·groups² maps of the table a bin reads, int64, and the shape of that.

        [R, sampled classes, pH, pW, 1], or [R, 1, 1, 1, 1] where all bins of a RoI read the same one.
        """
        import numpy as np

        geometry = self._geometry
        number = self._reshape("image_spread", image, (1, 1, 1, 1), "int64")
        maps = geometry.sampled_classes * geometry.groups**2
        if maps == 1:
            return number, (self._count, 1, 1, 1, 1)
        along = [
            np.minimum(np.arange(pooled) * geometry.groups // pooled, geometry.groups - 1) for pooled in geometry.pooled
        ]
        group = along[0][:, None] * geometry.groups + along[1]
        own = np.arange(geometry.sampled_classes)[:, None, None] * geometry.groups**2 + group
        number = self._op("map_first", "Mul", [number, self._scalar(maps, "int64")], (self._count, 1, 1, 1, 1), "int64")
        shape = (self._count, geometry.sampled_classes, *geometry.pooled, 1)
        own_number = self._array(own[None, ..., None], "int64")
        return self._op("map_own", "Add", [number, own_number], shape, "int64"), shape

    def _rows_and_weights(self) -> tuple[ir.Value, ir.Value]:
        """Rows of the table that each bin sums, int64 [R, bins, 4·s²], and their weights [R, bins, 1, 4·s²]."""
        geometry, expansion = self._geometry, self._expansion
        pixels, weights, image = self._places()
        places = 2 * geometry.samples
        shape = (self._count, geometry.sampled_classes, *geometry.pooled, places)
        square = (*shape, places)

        def along(role: str, value: ir.Value, axis: int, dtype: str) -> ir.Value:
            index = self._scalar(axis, "int64")
            return self._op(f"{role}_{'xy'[axis]}", "Gather", [value, index], shape, dtype, axis=2)

        def spread(role: str, value: ir.Value, axis: int, dtype: str) -> ir.Value:
            """Along the last axis for x, the last but one for y."""
            wide = (*shape[:-1], 1, places) if axis == 0 else (*shape, 1)
            position = expansion.ints([4 if axis == 0 else 5])
            return self._op(f"{role}_{'xy'[axis]}_spread", "Unsqueeze", [value, position], wide, dtype)

        # Row = ((map·H + y)·W + x) + 1, behind the row of zeros.
        number, number_shape = self._map_numbers(image)
        row = self._op("row_map", "Mul", [number, self._extent(2)], number_shape, "int64")
        row = self._op("row_y", "Add", [row, along("pixel", pixels, 1, "int64")], shape, "int64")
        row = self._op("row_line", "Mul", [row, self._extent(3)], shape, "int64")
        one = self._scalar(1, "int64")
        column = self._op("column", "Add", [along("pixel", pixels, 0, "int64"), one], shape, "int64")
        pair = [spread("row", row, 1, "int64"), spread("column", column, 0, "int64")]
        rows = self._op("row", "Add", pair, square, "int64")
        factors = [spread("weight", along("weight", weights, axis, self._dtype), axis, self._dtype) for axis in (1, 0)]
        weight = self._op("weight", "Mul", factors, square)
        counts = self._op("counts", "Greater", [weight, self._scalar(0)], square, "bool")
        rows = self._op("row_or_zeros", "Where", [counts, rows, self._scalar(0, "int64")], square, "int64")
        return (
            self._reshape("row_list", rows, (geometry.bins, geometry.rows), "int64"),
            self._reshape("weight_list", weight, (geometry.bins, 1, geometry.rows)),
        )

    def _sums(self) -> ir.Value:
        """[R, bins, 1, channels]: chunk by chunk, so that not all gathered rows exist at once."""
        geometry, expansion = self._geometry, self._expansion
        table = self._table()
        rows, weights = self._rows_and_weights()
        chunks = geometry.chunks
        shape = (self._count, geometry.bins, 1, geometry.channels)
        parts: list[ir.Value] = []
        for start, stop in chunks:
            own_rows, own_weights, size = rows, weights, stop - start
            if len(chunks) > 1:
                bounds = [expansion.ints([start]), expansion.ints([stop])]
                rows_shape, weights_shape = (self._count, geometry.bins, size), (self._count, geometry.bins, 1, size)
                own_rows = self._op("chunk_rows", "Slice", [rows, *bounds, expansion.ints([2])], rows_shape, "int64")
                own_weights = self._op("chunk_weights", "Slice", [weights, *bounds, expansion.ints([3])], weights_shape)
            gathered_shape = (self._count, geometry.bins, size, geometry.channels)
            gathered = self._op("gather", "Gather", [table, own_rows], gathered_shape, axis=0)
            parts.append(self._op("sum", "MatMul", [own_weights, gathered], shape))
        # All additions behind all products: of a node's inputs ONNX Runtime computes the one that is last in the file
        # first. In this order that is the sum so far, in the other one all products would be kept until the end.
        total, *others = parts
        for part in others:
            total = self._op("total", "Add", [total, part], shape)
        return total

    def output(self) -> ir.Value:
        """Build everything and return [R, Cout, pH, pW]."""
        geometry, expansion = self._geometry, self._expansion
        pooled, sampled = geometry.pooled, geometry.sampled_classes
        features = self._view.dtypes.get("X") or self._dtype
        total = sampled * geometry.channels
        merged = (self._count, total, *pooled)
        # While classes count, they are an axis of their own.
        split = (geometry.classes, total // geometry.classes, *pooled)
        by_class = geometry.classes > 1 and (sampled > 1 or self._view.has("mask"))

        front = (sampled,) if sampled > 1 else ()
        binned = self._reshape("bins", self._sums(), (*front, *pooled, geometry.channels))
        perm = (0, 1, 4, 2, 3) if front else (0, 3, 1, 2)
        # Role, operator, further inputs, extents behind R, attributes. The last one takes the node's name.
        steps: list[tuple[str, str, list[ir.Value], tuple[int, ...], dict[str, Any]]] = [
            ("channels", "Transpose", [], split if front else merged[1:], {"perm": perm})
        ]
        if by_class and not front:
            steps.append(("classes_split", "Reshape", [expansion.ints([0, *split])], split, {}))
        if self._view.has("mask"):
            mask = self._of_bins("mask")
            if by_class:
                mask = self._reshape("mask_spread", mask, (geometry.classes, 1, *pooled))
            steps.append(("modulate", "Mul", [mask], split if by_class else merged[1:], {}))
        if by_class:
            steps.append(("classes_merge", "Reshape", [expansion.ints([0, *merged[1:]])], merged[1:], {}))
        if features != self._dtype:
            steps.append(("result_cast", "Cast", [], merged[1:], {"to": int(expansion.dtype(features))}))
        value = binned
        for index, (role, op_type, values, extents, attributes) in enumerate(steps):
            value = self._op(
                "" if index == len(steps) - 1 else role,
                op_type,
                [value, *values],
                (self._count, *extents),
                features if op_type == "Cast" else self._dtype,
                **attributes,
            )
        return value
