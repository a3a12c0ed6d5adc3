"""Deformable convolution from ordinary ONNX operators: one GridSample, one multiplication, one Conv.

The samples that output pixel (ho, wo) takes at its taps (i, j) are laid out as one feature map with tap (i, j) at row
ho·kH + i, column wo·kW + j; multiplied by the mask laid out the same way; then a plain Conv with
stride = kernel size sums them.

Where the samples lie. ``GridSample`` with align_corners = 0 reads pixel x = ((g + 1)·W − 1)/2, so

    g = (x + ½ − W/2) / (W/2),      x + ½ − W/2 = Δx + (wo·stride + j·dilation − pad + ½ − W/2)

The bracket is a multiple of ½ and so exact in float32; what is rounded is the addition (of a number no larger than
W/2: the position itself, counted from the middle of the map) and the division. align_corners = 1 has the same
rounding but divides by W − 1, which a map of one pixel cannot be sampled with.

Coordinates that are NaN, infinite or far away fail the comparison |g| < 2 and are replaced by g = −4, from where
every corner of the bilinear cell is outside; GridSample itself never sees them. (No position inside (−1, W) has
|g| ≥ 2, whatever W is.)

Coordinates, bilinear weights and the mask product are float32 (float64 for float64 features) whatever the
features are stored in; the sampled map is rounded to the features' type once, before the Conv.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dcn_deploy.errors import UnsupportedError
from dcn_deploy.export.operators.base import Dim, NodeView

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from dcn_deploy.export.expansion import Expansion

#: GridSample.
SINCE_OPSET = 16
#: Conv with bfloat16.
BFLOAT16_SINCE_OPSET = 22
#: First opset in which GridSample calls its bilinear mode "linear".
_LINEAR_SINCE_OPSET = 20

_OUTSIDE = -4.0


def _product(*extents: Dim) -> int | None:
    result = 1
    for extent in extents:
        if not isinstance(extent, int):
            return None
        result *= extent
    return result


def _compute_dtype(view: NodeView) -> str:
    return "float64" if view.dtypes.get("X") == "float64" else "float32"


def _channels(view: NodeView) -> int | None:
    """Return C, from X or from W."""
    channels, per_group = view.dims("X", 4)[1], view.dims("W", 4)[1]
    if isinstance(channels, int):
        return channels
    return per_group * int(view.attribute("group")) if isinstance(per_group, int) else None


def obstacle(view: NodeView) -> str | None:
    """Return why a node cannot be decomposed, with what to do about it; None if it can."""
    from dcn_deploy.export.operators import int8
    from dcn_deploy.export.operators.deform_conv2d import kernel_shape

    if int8.is_quantised(view):
        return int8.OBSTACLE
    if all(isinstance(k, int) for k in kernel_shape(view)) and _channels(view) is not None:
        return None
    return (
        f"the shape of its weight W must be fixed, but it is {view.shapes.get('W')}. Run shape inference "
        f"(dcn_deploy.export.infer_shapes) or make W an initializer."
    )


class _Geometry:
    """The integers of one node, and which of its extents are fixed."""

    def __init__(self, view: NodeView) -> None:
        from dcn_deploy.export.operators.deform_conv2d import kernel_shape, output_shapes

        self.view = view
        self.group = int(view.attribute("group"))
        self.offset_group = int(view.attribute("offset_group"))
        self.strides = tuple(int(v) for v in view.attribute("strides"))
        self.pads = tuple(int(v) for v in view.attribute("pads"))
        self.dilations = tuple(int(v) for v in view.attribute("dilations"))
        self.n, _, *self.size = view.dims("X", 4)
        self.kernel = tuple(k for k in kernel_shape(view) if isinstance(k, int))
        channels = _channels(view)
        if len(self.kernel) != 2 or channels is None:
            raise UnsupportedError(f"Node '{view.name}' cannot be decomposed: {obstacle(view)}")
        self.channels = channels
        self.out = output_shapes(view)[0][2:]

    def key(self, axis: int) -> tuple[object, ...] | None:
        """What determines the coordinates along an axis; None if a run-time extent has no name."""
        if self.size[axis] is None or self.out[axis] is None:
            return None
        return (
            axis,
            self.kernel,
            self.strides[axis],
            self.pads[axis],
            self.dilations[axis],
            self.size[axis],
            self.out[axis],
        )


def sampled_map_bytes(view: NodeView) -> int | None:
    """Size in bytes of the sampled map, C·kH·Ho·kW·Wo for each image; None if some extent is unknown."""
    from dcn_deploy.export.operators.deform_conv2d import kernel_shape, output_shapes

    c = view.dims("X", 4)[1]
    n, _, out_h, out_w = output_shapes(view)[0]
    elements = _product(n, c, out_h, out_w, *kernel_shape(view))
    return None if elements is None else elements * (8 if _compute_dtype(view) == "float64" else 4)


def decompose(view: NodeView, inputs: Mapping[str, ir.Value], expansion: Expansion) -> ir.Value:
    """Build the decomposition of one node and return its output [N, M, Ho, Wo].

    Raises:
        UnsupportedError: if the shape of W is not fixed.
    """
    geometry = _Geometry(view)
    compute = _compute_dtype(view)
    features = view.dtypes.get("X") or compute
    k_h, k_w = geometry.kernel
    groups, channels = geometry.offset_group, geometry.channels
    n_groups = _product(geometry.n, groups)
    out_h, out_w = geometry.out
    map_h, map_w = _product(out_h, k_h), _product(out_w, k_w)

    def cast(role: str, value: ir.Value, source: str, target: str, shape: tuple[Dim, ...]) -> ir.Value:
        if source == target:
            return value
        return expansion.op(role, "Cast", [value], dtype=target, shape=shape, to=int(expansion.dtype(target)))

    def spread_and_merge(
        role: str, value: ir.Value, per_column: int, tail: tuple[int, ...], head: tuple[int, ...]
    ) -> ir.Value:
        """[N·G, kH, kW·p, Ho, Wo] → [N·G, *head, kH·Ho, kW·Wo, *tail], tap by tap."""
        spread = expansion.op(
            f"{role}_transpose",
            "Transpose",
            [value],
            dtype=compute,
            shape=(n_groups, out_h, k_h, out_w, per_column),
            perm=(0, 3, 1, 4, 2),
        )
        return expansion.op(
            f"{role}_merge",
            "Reshape",
            [spread, _map_shape(geometry, inputs["offset"], expansion, head, tail)],
            dtype=compute,
            shape=(n_groups, *head, map_h, map_w, *tail),
        )

    # Offsets are (Δy, Δx) for each tap, GridSample takes (x, y): flip while the channels are still whole planes.
    taps = groups * k_h * k_w
    flipped = expansion.op(
        "offset_xy",
        "Gather",
        [inputs["offset"], expansion.ints([2 * tap + last for tap in range(taps) for last in (1, 0)])],
        dtype=view.dtypes.get("offset"),
        shape=(geometry.n, 2 * taps, out_h, out_w),
        axis=1,
    )
    flipped = cast(
        "offset_cast", flipped, view.dtypes.get("offset") or compute, compute, (geometry.n, 2 * taps, out_h, out_w)
    )
    split_dims = (n_groups, k_h, 2 * k_w, out_h, out_w)
    delta = expansion.op(
        "offset_split",
        "Reshape",
        [flipped, _split_shape(geometry, inputs["offset"], expansion, (k_h, 2 * k_w))],
        dtype=compute,
        shape=split_dims,
    )
    # Each axis on its own: the sum of the two would be a constant of the offset's size in every engine, read in every
    # run. An entry of one axis has zero for the other's, so this adds one number to each, exactly as the sum would.
    axes = [_Axis(geometry, axis, inputs, expansion, compute) for axis in (0, 1)]
    position = expansion.op("position_y", "Add", [delta, axes[0].centre()], dtype=compute, shape=split_dims)
    position = expansion.op("position", "Add", [position, axes[1].centre()], dtype=compute, shape=split_dims)
    half = _half(geometry, axes, expansion, compute)
    normalised = expansion.op("normalise", "Div", [position, half], dtype=compute, shape=split_dims)
    magnitude = expansion.op("magnitude", "Abs", [normalised], dtype=compute, shape=split_dims)
    near = expansion.op("near", "Less", [magnitude, expansion.scalar(2.0, compute)], dtype="bool", shape=split_dims)
    guarded = expansion.op(
        "guard",
        "Where",
        [near, normalised, expansion.scalar(_OUTSIDE, compute)],
        dtype=compute,
        shape=split_dims,
    )
    grid = spread_and_merge("grid", guarded, 2 * k_w, (2,), ())

    image = cast("features_cast", inputs["X"], features, compute, view.dims("X", 4))
    if groups > 1:
        image = expansion.op(
            "features_split",
            "Reshape",
            [image, expansion.ints([-1, channels // groups, 0, 0])],
            dtype=compute,
            shape=(n_groups, channels // groups, *geometry.size),
        )
    sampled = expansion.op(
        "sample",
        "GridSample",
        [image, grid],
        dtype=compute,
        shape=(n_groups, channels // groups, map_h, map_w),
        align_corners=0,
        mode="linear" if expansion.opset >= _LINEAR_SINCE_OPSET else "bilinear",
        padding_mode="zeros",
    )
    if view.has("mask"):
        split = expansion.op(
            "mask_split",
            "Reshape",
            [inputs["mask"], _split_shape(geometry, inputs["offset"], expansion, (k_h, k_w))],
            dtype=view.dtypes.get("mask"),
            shape=(n_groups, k_h, k_w, out_h, out_w),
        )
        split = cast(
            "mask_cast",
            split,
            view.dtypes.get("mask") or compute,
            compute,
            (n_groups, k_h, k_w, out_h, out_w),
        )
        mask = spread_and_merge("mask", split, k_w, (), (1,))
        sampled = expansion.op(
            "modulate",
            "Mul",
            [sampled, mask],
            dtype=compute,
            shape=(n_groups, channels // groups, map_h, map_w),
        )
    map_dims = (geometry.n, channels, map_h, map_w)
    if groups > 1:
        sampled = expansion.op(
            "sample_merge",
            "Reshape",
            [sampled, expansion.ints([-1, channels, 0, 0])],
            dtype=compute,
            shape=map_dims,
        )
    sampled = cast("sample_cast", sampled, compute, features, map_dims)
    return expansion.op(
        "",
        "Conv",
        [sampled, inputs["W"], inputs.get("B")],
        dtype=view.dtypes.get("X"),
        shape=(geometry.n, view.dims("W", 4)[0], out_h, out_w),
        group=geometry.group,
        kernel_shape=(k_h, k_w),
        strides=(k_h, k_w),
    )


def _split_shape(geometry: _Geometry, offset: ir.Value, expansion: Expansion, leading: tuple[int, int]) -> ir.Value:
    """Shape [N·offset_group, *leading, Ho, Wo] as a tensor, −1 for the first."""
    out_h, out_w = geometry.out
    if isinstance(out_h, int) and isinstance(out_w, int):
        return expansion.ints([-1, *leading, out_h, out_w])
    return expansion.shared(
        ("split_shape", leading, geometry.out),
        "Concat",
        [expansion.ints([-1, *leading]), _run_time_extents(geometry, offset, expansion)],
        dtype="int64",
        shape=(5,),
        named=None not in geometry.out,
        axis=0,
    )


def _map_shape(
    geometry: _Geometry,
    offset: ir.Value,
    expansion: Expansion,
    head: tuple[int, ...],
    tail: tuple[int, ...],
) -> ir.Value:
    """Shape [N·offset_group, *head, kH·Ho, kW·Wo, *tail] as a tensor, −1 for the first."""
    out_h, out_w = geometry.out
    k_h, k_w = geometry.kernel
    if isinstance(out_h, int) and isinstance(out_w, int):
        return expansion.ints([-1, *head, k_h * out_h, k_w * out_w, *tail])
    named = None not in geometry.out
    extents = expansion.shared(
        ("map_extents", geometry.kernel, geometry.out),
        "Mul",
        [_run_time_extents(geometry, offset, expansion), expansion.ints([k_h, k_w])],
        dtype="int64",
        shape=(2,),
        named=named,
    )
    parts = [expansion.ints([-1, *head]), extents]
    return expansion.shared(
        ("map_shape", head, tail, geometry.kernel, geometry.out),
        "Concat",
        [*parts, expansion.ints(list(tail))] if tail else parts,
        dtype="int64",
        shape=(3 + len(head) + len(tail),),
        named=named,
        axis=0,
    )


def _run_time_extents(geometry: _Geometry, offset: ir.Value, expansion: Expansion) -> ir.Value:
    """[Ho, Wo] as a tensor, read from the offset at run time."""
    return expansion.shared(
        ("out_extents", geometry.out),
        "Shape",
        [offset],
        dtype="int64",
        shape=(2,),
        named=None not in geometry.out,
        start=2,
    )


def _half(geometry: _Geometry, axes: Sequence[_Axis], expansion: Expansion, dtype: str) -> ir.Value:
    """Half the map's size: [2·kW, 1, 1], the axis of 2·kW being (kW, [x, y])."""
    import numpy as np

    k_w = geometry.kernel[1]
    h, w = geometry.size
    if isinstance(h, int) and isinstance(w, int):
        return expansion.array(np.asarray([w / 2, h / 2] * k_w, dtype).reshape(2 * k_w, 1, 1))
    keys = (geometry.key(0), geometry.key(1))
    return expansion.shared(
        ("half", dtype, *keys),
        "Add",
        [axis.own_half() for axis in axes],
        dtype=dtype,
        shape=(2 * k_w, 1, 1),
        named=None not in keys,
    )


class _Axis:
    """One axis' share of the coordinates: zero in the entries of the axis of 2·kW that belong to the other one."""

    def __init__(
        self,
        geometry: _Geometry,
        axis: int,
        inputs: Mapping[str, ir.Value],
        expansion: Expansion,
        dtype: str,
    ) -> None:
        import numpy as np

        self._geometry = geometry
        self._axis = axis
        self._inputs = inputs
        self._expansion = expansion
        self._dtype = dtype
        self._size: Dim = geometry.size[axis]
        self._out: Dim = geometry.out[axis]
        k_w = geometry.kernel[1]
        own = np.zeros((k_w, 2), dtype)
        own[:, 1 - axis] = 1  # entries are (x, y)
        #: [2·kW, 1, 1]: 1 for this axis' entries
        self._own = own.reshape(2 * k_w, 1, 1)

    def _taps(self) -> np.ndarray[Any, Any]:
        """Position of every tap for output 0, from the first pixel's edge: [kH, 2·kW, 1, 1] or [2·kW, 1, 1]."""
        import numpy as np

        k_w = self._geometry.kernel[1]
        dilation, pad = self._geometry.dilations[self._axis], self._geometry.pads[self._axis]
        taps = np.arange(self._geometry.kernel[self._axis], dtype=self._dtype) * dilation - pad + 0.5
        if self._axis == 0:
            return (taps[:, None, None, None] * self._own).astype(self._dtype)
        return (taps[:, None] * self._own.reshape(k_w, 2)).reshape(2 * k_w, 1, 1).astype(self._dtype)

    def centre(self) -> ir.Value:
        """Where the taps lie without offsets, from the middle of the map: [kH, 2·kW, Ho, 1] or [2·kW, 1, Wo]."""
        import numpy as np

        expansion, stride = self._expansion, self._geometry.strides[self._axis]
        out, size, dtype = self._out, self._size, self._dtype
        column = (-1, 1) if self._axis == 0 else (-1,)
        if isinstance(out, int) and isinstance(size, int):
            steps = (np.arange(out, dtype=dtype) * stride - size / 2).reshape(column)
            return expansion.array((self._taps() + self._own * steps).astype(dtype))
        count = self._extent("count", self._inputs["offset"])
        count = self._shared("count_scalar", "Squeeze", [count], (), "int64")
        zero, one = expansion.scalar(0, "int64"), expansion.scalar(1, "int64")
        index = self._shared("index", "Range", [zero, count, one], (out,), "int64")
        value = self._shared("index_cast", "Cast", [index], (out,), to=int(expansion.dtype(dtype)))
        if stride != 1:
            value = self._shared("stride", "Mul", [value, expansion.scalar(stride, dtype)], (out,))
        value = self._shared("steps", "Sub", [value, self._half()], (out,))
        k_h, k_w = self._geometry.kernel
        shape: tuple[Dim, ...] = (2 * k_w, 1, out)
        if self._axis == 0:
            value = self._shared("upright", "Reshape", [value, expansion.ints(column)], (out, 1))
            shape = (2 * k_w, out, 1)
        value = self._shared("own_steps", "Mul", [value, expansion.array(self._own)], shape)
        shape = (k_h, *shape) if self._axis == 0 else shape
        return self._shared("centre", "Add", [value, expansion.array(self._taps())], shape)

    def own_half(self) -> ir.Value:
        """Half the map's size in this axis' entries, zero in the other's: [2·kW, 1, 1]."""
        own = self._expansion.array(self._own)
        if isinstance(self._size, int):
            return self._expansion.array((self._own * (self._size / 2)).astype(self._dtype))
        return self._shared("own_half", "Mul", [self._half(), own], self._own.shape)

    def _half(self) -> ir.Value:
        extent = self._extent("size", self._inputs["X"])
        extent = self._shared("size_cast", "Cast", [extent], (1,), to=int(self._expansion.dtype(self._dtype)))
        return self._shared("half", "Mul", [extent, self._expansion.scalar(0.5, self._dtype)], (1,))

    def _extent(self, role: str, tensor: ir.Value) -> ir.Value:
        return self._shared(role, "Shape", [tensor], (1,), "int64", start=2 + self._axis, end=3 + self._axis)

    def _shared(
        self,
        role: str,
        op_type: str,
        values: list[ir.Value],
        shape: tuple[Dim, ...],
        dtype: str | None = None,
        **attributes: Any,
    ) -> ir.Value:
        key = self._geometry.key(self._axis)
        return self._expansion.shared(
            (f"{'xy'[1 - self._axis]}_{role}", self._dtype, key),
            op_type,
            values,
            dtype=dtype or self._dtype,
            shape=shape,
            named=key is not None,
            **attributes,
        )
