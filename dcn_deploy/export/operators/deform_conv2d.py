"""Deformable convolution: what makes a node well-formed, and the shape of its output."""

from __future__ import annotations

from collections.abc import Iterator

from dcn_deploy.export.operators import deform_conv2d_decomposed as decomposed
from dcn_deploy.export.operators.base import Dim, NodeView, OperatorExport, Problem
from dcn_deploy.schema import DEFORM_CONV2D

_RANKS = {"X": 4, "W": 4, "offset": 4, "B": 1, "mask": 4}


def kernel_shape(view: NodeView) -> tuple[Dim, Dim]:
    """Return (kH, kW) from the attribute, else from the shape of W."""
    given = view.attribute("kernel_shape")
    if given is not None:
        return int(given[0]), int(given[1])
    k_h, k_w = view.dims("W", 4)[2:]
    return k_h, k_w


def _output_extent(view: NodeView, axis: int) -> Dim:
    """Return Ho (axis 0) or Wo (axis 1).

    From X and the attributes where X is known; else the very dimension that offset or mask has there, so
    that a dynamic extent keeps its name; else X's own name if the geometry preserves the extent.
    """
    size = view.dims("X", 4)[2 + axis]
    kernel = kernel_shape(view)[axis]
    pads = view.attribute("pads")
    stride, dilation = view.attribute("strides")[axis], view.attribute("dilations")[axis]
    if isinstance(size, int) and isinstance(kernel, int):
        return (size + int(pads[axis] + pads[axis + 2] - dilation * (kernel - 1)) - 1) // int(stride) + 1
    for tensor in ("offset", "mask"):
        extent = view.dims(tensor, 4)[2 + axis]
        if extent is not None:
            return extent
    if isinstance(kernel, int) and stride == 1 and pads[axis] + pads[axis + 2] == dilation * (kernel - 1):
        return size
    return None


def output_shapes(view: NodeView) -> tuple[tuple[Dim, ...], ...]:
    """Return ((N, M, Ho, Wo),); None for an extent that cannot be known."""
    n = view.dims("X", 4)[0]
    if n is None:
        n = view.dims("offset", 4)[0]
    m = view.dims("W", 4)[0]
    if m is None and view.has("B"):
        m = view.dims("B", 1)[0]
    return ((n, m, _output_extent(view, 0), _output_extent(view, 1)),)


def _differs(actual: Dim, expected: Dim) -> bool:
    """Whether two extents are both fixed and unequal; names and unknowns are left to the runtime."""
    return isinstance(actual, int) and isinstance(expected, int) and actual != expected


def _times(factor: int, *extents: Dim) -> Dim:
    product = factor
    for extent in extents:
        if not isinstance(extent, int):
            return None
        product *= extent
    return product


def problems(view: NodeView) -> Iterator[Problem]:
    """Yield what contradicts the formula in ``dcn_deploy.ops.reference.deform_conv2d``."""
    for tensor, rank in _RANKS.items():
        shape = view.shapes.get(tensor)
        if view.has(tensor) and shape is not None and len(shape) != rank:
            yield Problem(
                f"shape of {tensor}",
                f"{rank} dimension(s)",
                str(list(shape)),
                "1-D and 3-D deformable convolution are not supported yet." if len(shape) in (3, 5) else "",
            )
            return
    for name, minimum in (("strides", 1), ("dilations", 1), ("pads", 0)):
        values = view.attribute(name)
        if min(values) < minimum:
            yield Problem(f"attribute {name}", f"values of at least {minimum}", str(list(values)))
            return
    _, c, h, w = view.dims("X", 4)
    m, c_per_group, *w_kernel = view.dims("W", 4)
    given = view.attribute("kernel_shape")
    if given is not None and (_differs(w_kernel[0], given[0]) or _differs(w_kernel[1], given[1])):
        yield Problem("attribute kernel_shape", f"that of W, {w_kernel}", str(list(given)))
        return
    for name, extents in (("group", (("C", c), ("M", m))), ("offset_group", (("C", c),))):
        value = view.attribute(name)
        if value < 1:
            yield Problem(f"attribute {name}", "at least 1", str(value))
            return
        for letter, extent in extents:
            if isinstance(extent, int) and extent % value:
                yield Problem(f"attribute {name}", f"a divisor of {letter} = {extent}", str(value))
                return
    group, offset_group = view.attribute("group"), view.attribute("offset_group")
    if isinstance(c, int) and _differs(c_per_group, c // group):
        yield Problem("shape of W, axis 1", f"C/group = {c}/{group} = {c // group}", str(c_per_group))
    if view.has("B") and _differs(view.dims("B", 1)[0], m):
        yield Problem("shape of B", f"[M] = [{m}]", str(list(view.dims("B", 1))))
    kernel = kernel_shape(view)
    extents_out: list[Dim] = []
    for letter, size in (("C", c), ("H", h), ("W", w)):
        if isinstance(size, int) and size < 1:
            yield Problem("shape of X", f"{letter} of at least 1", str(size))
            return
    for axis, (letter, size) in enumerate((("H", h), ("W", w))):
        extent = _output_extent(view, axis) if isinstance(size, int) else None
        if isinstance(extent, int) and extent < 1:
            yield Problem(
                f"output {letter}",
                "at least 1",
                str(extent),
                f"The map of extent {size} with its padding is smaller than the dilated kernel.",
            )
        extents_out.append(extent)
    taps = _times(offset_group, *kernel)
    expected = {
        "offset": (_times(2 * offset_group, *kernel), "2·offset_group·kH·kW"),
        "mask": (taps, "offset_group·kH·kW"),
    }
    for tensor, (channels, formula) in expected.items():
        if not view.has(tensor):
            continue
        dims = view.dims(tensor, 4)
        if _differs(dims[0], view.dims("X", 4)[0]):
            yield Problem(f"shape of {tensor}, axis 0", f"N = {view.dims('X', 4)[0]}", str(dims[0]))
        if _differs(dims[1], channels):
            yield Problem(f"shape of {tensor}, axis 1", f"{formula} = {channels}", str(dims[1]))
        for axis, letter in enumerate(("Ho", "Wo")):
            if _differs(dims[2 + axis], extents_out[axis]):
                yield Problem(
                    f"shape of {tensor}, axis {2 + axis}", f"{letter} = {extents_out[axis]}", str(dims[2 + axis])
                )


DEFORM_CONV2D_EXPORT = OperatorExport(
    schema=DEFORM_CONV2D,
    problems=problems,
    output_shapes=output_shapes,
    decompose=decomposed.decompose,
    decomposition_obstacle=decomposed.obstacle,
    decomposed_since_opset=decomposed.SINCE_OPSET,
    decomposed_bfloat16_since_opset=decomposed.BFLOAT16_SINCE_OPSET,
    decomposed_bytes=decomposed.sampled_map_bytes,
    feature_inputs=("X", "W", "B"),
    coordinate_inputs=("offset", "mask"),
)
