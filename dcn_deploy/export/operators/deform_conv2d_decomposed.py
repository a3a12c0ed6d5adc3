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

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dcn_deploy.export.operators.base import Dim, NodeView

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from dcn_deploy.export.expansion import Expansion

#: GridSample.
SINCE_OPSET = 16
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


class _Geometry:
    """The integers of one node, and which of its extents are fixed."""

    def __init__(self, view: NodeView) -> None:
        from dcn_deploy.errors import UnsupportedError
        from dcn_deploy.export.operators.deform_conv2d import kernel_shape, output_shapes

        self.view = view
        self.group = int(view.attribute("group"))
        self.offset_group = int(view.attribute("offset_group"))
        self.strides = tuple(int(v) for v in view.attribute("strides"))
        self.pads = tuple(int(v) for v in view.attribute("pads"))
        self.dilations = tuple(int(v) for v in view.attribute("dilations"))
        self.n, c, *self.size = view.dims("X", 4)
        self.kernel = tuple(k for k in kernel_shape(view) if isinstance(k, int))
        c_per_group = view.dims("W", 4)[1]
        if not isinstance(c, int) and isinstance(c_per_group, int):
            c = c_per_group * self.group
        if len(self.kernel) != 2 or not isinstance(c, int):
            raise UnsupportedError(
                f"Node '{view.name}' cannot be decomposed: the shape of its weight W must be fixed, but it is "
                f"{view.shapes.get('W')}. Run shape inference (dcn_deploy.export.infer_shapes) or make W an "
                f"initializer."
            )
        self.channels = c
        self.out = output_shapes(view)[0][2:]
        # The static path needs both: one where extents of X follow from the attributes.
        self.static = [
            isinstance(size, int) and isinstance(out, int)
            for size, out in zip(self.size, self.out, strict=True)
        ]

    def taps(self, axis: int) -> list[float]:
        """Position of each tap along an axis, in pixels from the first pixel's left edge, for output 0."""
        return [k * self.dilations[axis] - self.pads[axis] + 0.5 for k in range(self.kernel[axis])]

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
        return expansion.op(
            role, "Cast", [value], dtype=target, shape=shape, to=int(expansion.dtype(target))
        )

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
    centre, half = _centre_and_half(geometry, inputs, expansion, compute)
    position = expansion.op("position", "Add", [delta, centre], dtype=compute, shape=split_dims)
    normalised = expansion.op("normalise", "Div", [position, half], dtype=compute, shape=split_dims)
    magnitude = expansion.op("magnitude", "Abs", [normalised], dtype=compute, shape=split_dims)
    near = expansion.op(
        "near", "Less", [magnitude, expansion.scalar(2.0, compute)], dtype="bool", shape=split_dims
    )
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


def _split_shape(
    geometry: _Geometry, offset: ir.Value, expansion: Expansion, leading: tuple[int, int]
) -> ir.Value:
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


def _centre_and_half(
    geometry: _Geometry, inputs: Mapping[str, ir.Value], expansion: Expansion, dtype: str
) -> tuple[ir.Value, ir.Value]:
    """Where the taps lie without offsets, counted from the middle of the map, and half the map's size.

    Returns:
        [kH, 2·kW, Ho, Wo] and [2·kW, 1, 1], the axis of 2·kW being (kW, [x, y]).
    """
    k_h, k_w = geometry.kernel
    out_h, out_w = geometry.out
    rows, half_h = _axis(geometry, 0, inputs, expansion, dtype)
    columns, half_w = _axis(geometry, 1, inputs, expansion, dtype)
    keys = (geometry.key(0), geometry.key(1))
    centre = expansion.shared(
        ("centre", dtype, *keys),
        "Add",
        [rows, columns],
        dtype=dtype,
        shape=(k_h, 2 * k_w, out_h, out_w),
        named=None not in keys,
    )
    if all(geometry.static):
        interleaved = [extent / 2 for _ in range(k_w) for extent in (geometry.size[1], geometry.size[0])]  # type: ignore[operator]
        half = expansion.array(_numpy(interleaved, dtype).reshape(2 * k_w, 1, 1))
    else:
        half = expansion.shared(
            ("half", dtype, *keys),
            "Add",
            [half_h, half_w],
            dtype=dtype,
            shape=(2 * k_w, 1, 1),
            named=None not in keys,
        )
    return centre, half


def _numpy(values: Any, dtype: str) -> np.ndarray[Any, Any]:
    import numpy as np

    return np.asarray(values, dtype=dtype)


def _axis(
    geometry: _Geometry, axis: int, inputs: Mapping[str, ir.Value], expansion: Expansion, dtype: str
) -> tuple[ir.Value, ir.Value]:
    """One axis' share of the two sums: zero in the entries of the axis of 2·kW that belong to the other one.

    Returns:
        For axis 0: [kH, 2·kW, Ho, 1]; for axis 1: [2·kW, 1, Wo]. And half the size, [2·kW, 1, 1].
    """
    import numpy as np

    k_h, k_w = geometry.kernel
    own = np.zeros((k_w, 2), dtype)
    own[:, 1 - axis] = 1  # entries are (x, y)
    taps = _numpy(geometry.taps(axis), dtype)
    # [kH, 2·kW, 1, 1] or [2·kW, 1, 1]: position of every tap, for output 0
    if axis == 0:
        own_taps = (taps[:, None, None] * own[None]).reshape(k_h, 2 * k_w, 1, 1)
    else:
        own_taps = (taps[:, None] * own).reshape(2 * k_w, 1, 1)
    own = own.reshape(2 * k_w, 1, 1)
    size, out = geometry.size[axis], geometry.out[axis]
    if isinstance(size, int) and isinstance(out, int):
        steps = np.arange(out, dtype=dtype) * geometry.strides[axis] - size / 2
        steps = steps.reshape(-1, 1) if axis == 0 else steps
        return (
            expansion.array((own_taps + own * steps).astype(dtype)),
            expansion.array((own * (size / 2)).astype(dtype)),
        )

    key = geometry.key(axis)
    prefix = "row" if axis == 0 else "column"

    def shared(
        role: str, op_type: str, values: list[ir.Value], dims: tuple[Dim, ...], type_: str, **kwargs: Any
    ) -> ir.Value:
        return expansion.shared(
            (f"{prefix}_{role}", dtype, key),
            op_type,
            values,
            dtype=type_,
            shape=dims,
            named=key is not None,
            **kwargs,
        )

    where = {"start": 2 + axis, "end": 3 + axis}
    to = int(expansion.dtype(dtype))
    extent = shared("size", "Shape", [inputs["X"]], (1,), "int64", **where)
    extent = shared("size_cast", "Cast", [extent], (1,), dtype, to=to)
    half = shared("half", "Mul", [extent, expansion.scalar(0.5, dtype)], (1,), dtype)
    count = shared("count", "Shape", [inputs["offset"]], (1,), "int64", **where)
    count = shared("count_scalar", "Squeeze", [count], (), "int64")
    limits = [expansion.scalar(0, "int64"), count, expansion.scalar(1, "int64")]
    steps_value = shared("index", "Range", limits, (out,), "int64")
    steps_value = shared("index_cast", "Cast", [steps_value], (out,), dtype, to=to)
    if geometry.strides[axis] != 1:
        stride = expansion.scalar(geometry.strides[axis], dtype)
        steps_value = shared("stride", "Mul", [steps_value, stride], (out,), dtype)
    steps_value = shared("centred", "Sub", [steps_value, half], (out,), dtype)
    dims: tuple[Dim, ...] = (2 * k_w, 1, out)
    if axis == 0:
        steps_value = shared("upright", "Reshape", [steps_value, expansion.ints([-1, 1])], (out, 1), dtype)
        dims = (2 * k_w, out, 1)
    steps_value = shared("own", "Mul", [steps_value, expansion.array(own)], dims, dtype)
    dims = (k_h, *dims) if axis == 0 else dims
    steps_value = shared("taps", "Add", [steps_value, expansion.array(own_taps)], dims, dtype)
    return steps_value, shared("own_half", "Mul", [half, expansion.array(own)], (2 * k_w, 1, 1), dtype)
