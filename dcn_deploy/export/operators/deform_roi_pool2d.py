"""Deformable RoI pooling: what makes a node well-formed, and the shape of its output."""

from __future__ import annotations

import math
from collections.abc import Iterator

from dcn_deploy.export.operators import deform_roi_pool2d_decomposed as decomposed
from dcn_deploy.export.operators.base import Dim, NodeView, OperatorExport, Problem
from dcn_deploy.schema import DEFORM_ROI_POOL2D

_RANKS = {"X": 4, "rois": 2, "offset": 4, "mask": 4}
#: Lowest value of each integer attribute.
_MINIMA = {"sampling_ratio": 0, "sample_per_part": 1, "group_size": 1, "part_size": 0, "output_channels": 0}


def output_channels(view: NodeView) -> Dim:
    """Return Cout; None if neither the attribute nor the shape of X tells."""
    channels = view.dims("X", 4)[1]
    if view.attribute("variant") == "aligned" and channels is not None:
        return channels
    given = int(view.attribute("output_channels"))
    if given:
        return given
    return channels // int(view.attribute("group_size")) ** 2 if isinstance(channels, int) else None


def roi_count(view: NodeView) -> Dim:
    """Return R."""
    counts = (view.dims(tensor, rank)[0] for tensor, rank in _RANKS.items() if tensor != "X")
    return next((count for count in counts if count is not None), None)


def classes(view: NodeView) -> Dim:
    """Return the number of classes: that of offset or mask, 1 without them; None if it is not known."""
    if view.attribute("variant") == "aligned":
        return 1
    from_offset, from_mask = view.dims("offset", 4)[1], view.dims("mask", 4)[1]
    if isinstance(from_offset, int):
        return from_offset // 2
    if isinstance(from_mask, int):
        return from_mask
    return None if view.has("offset") or view.has("mask") else 1


def part_size(view: NodeView) -> Dim:
    """Return the number of parts along each axis of ``psroi``; 1 without offset and mask; None if not known."""
    given = int(view.attribute("part_size"))
    if given:
        return given
    extents = [d for tensor in ("offset", "mask") for d in view.dims(tensor, 4)[2:]]
    fixed = next((d for d in extents if isinstance(d, int)), None)
    return fixed if fixed is not None or view.has("offset") or view.has("mask") else 1


def output_shapes(view: NodeView) -> tuple[tuple[Dim, ...], ...]:
    """Return ((R, Cout, pH, pW),); None for an extent that cannot be known."""
    pooled_h, pooled_w = view.attribute("output_size")
    return ((roi_count(view), output_channels(view), int(pooled_h), int(pooled_w)),)


def _differs(actual: Dim, expected: Dim) -> bool:
    """Whether two extents are both fixed and unequal; names and unknowns are left to the runtime."""
    return isinstance(actual, int) and isinstance(expected, int) and actual != expected


def _value_problems(view: NodeView) -> Iterator[Problem]:
    """Yield attributes whose values mean nothing, those of the other variant included."""
    output_size = view.attribute("output_size")
    if min(output_size) < 1:
        yield Problem("attribute output_size", "values of at least 1", str(list(output_size)))
    for name, minimum in _MINIMA.items():
        if view.attribute(name) < minimum:
            yield Problem(f"attribute {name}", f"at least {minimum}", str(view.attribute(name)))
    scale, gamma = view.attribute("spatial_scale"), view.attribute("gamma")
    if not (math.isfinite(scale) and scale > 0):
        yield Problem("attribute spatial_scale", "a finite number above 0", str(scale))
    if not math.isfinite(gamma):
        yield Problem("attribute gamma", "a finite number", str(gamma))


def _channel_problems(view: NodeView) -> Iterator[Problem]:
    """Yield what does not fit between C, Cout, the groups and the classes."""
    channels = view.dims("X", 4)[1]
    given, groups = view.attribute("output_channels"), view.attribute("group_size")
    if view.attribute("variant") == "aligned":
        if groups != 1:
            yield Problem(
                "attribute group_size", "1 in the variant aligned", str(groups), "Channel groups need variant psroi."
            )
        if given and _differs(given, channels):
            yield Problem("attribute output_channels", f"C = {channels} (or 0) in the variant aligned", str(given))
        return
    if isinstance(channels, int):
        if channels % groups**2:
            yield Problem("shape of X, axis 1", f"a multiple of group_size² = {groups**2}", str(channels))
            return
        if given and channels != given * groups**2:
            yield Problem(
                "shape of X, axis 1",
                f"output_channels·group_size² = {given}·{groups}² = {given * groups**2}",
                str(channels),
            )
            return
    pooled, own = output_channels(view), classes(view)
    if isinstance(pooled, int) and isinstance(own, int) and own >= 1 and pooled % own:
        yield Problem("number of classes of offset or mask", f"a divisor of Cout = {pooled}", str(own))


def _part_problems(view: NodeView) -> Iterator[Problem]:
    """Yield what does not fit in the shapes of offset and mask."""
    is_aligned = view.attribute("variant") == "aligned"
    own, part = classes(view), part_size(view)
    meaning = "that of offset and mask" if not view.attribute("part_size") else "part_size"
    for tensor, per_class, channels in (("offset", 2, "2·classes"), ("mask", 1, "classes")):
        if not view.has(tensor):
            continue
        dims = view.dims(tensor, 4)
        if is_aligned:
            for axis, (letter, extent) in enumerate(
                (("channels", per_class), *zip(("pH", "pW"), view.attribute("output_size"), strict=True)), 1
            ):
                if _differs(dims[axis], extent):
                    yield Problem(f"shape of {tensor}, axis {axis}", f"{letter} = {extent}", str(dims[axis]))
            continue
        if isinstance(dims[1], int) and (dims[1] < per_class or dims[1] % per_class):
            yield Problem(
                f"shape of {tensor}, axis 1",
                "a positive multiple of 2" if per_class == 2 else "at least 1",
                str(dims[1]),
            )
        elif isinstance(own, int) and _differs(dims[1], per_class * own):
            yield Problem(f"shape of {tensor}, axis 1", f"{channels} = {per_class * own}", str(dims[1]))
        for axis in (2, 3):
            if isinstance(dims[axis], int) and dims[axis] == 0:
                yield Problem(f"shape of {tensor}, axis {axis}", "at least 1 part", "0")
            elif _differs(dims[axis], part):
                yield Problem(f"shape of {tensor}, axis {axis}", f"{meaning} = {part}", str(dims[axis]))


def problems(view: NodeView) -> Iterator[Problem]:
    """Yield what contradicts the formulas in ``dcn_deploy.ops.reference.deform_roi_pool``."""
    for tensor, rank in _RANKS.items():
        shape = view.shapes.get(tensor)
        if view.has(tensor) and shape is not None and len(shape) != rank:
            yield Problem(f"shape of {tensor}", f"{rank} dimension(s)", str(list(shape)))
            return
    from_values = list(_value_problems(view))
    yield from from_values
    if from_values:
        return
    for letter, size in zip("HW", view.dims("X", 4)[2:], strict=True):
        if isinstance(size, int) and size < 1:
            yield Problem("shape of X", f"{letter} of at least 1", str(size))
    if _differs(view.dims("rois", 2)[1], 5):
        yield Problem("shape of rois, axis 1", "5: (batch index, x1, y1, x2, y2)", str(view.dims("rois", 2)[1]))
    count = view.dims("rois", 2)[0]
    for tensor in ("offset", "mask"):
        if view.has(tensor) and _differs(view.dims(tensor, 4)[0], count):
            yield Problem(f"shape of {tensor}, axis 0", f"R = {count}", str(view.dims(tensor, 4)[0]))
    yield from _part_problems(view)
    yield from _channel_problems(view)


DEFORM_ROI_POOL2D_EXPORT = OperatorExport(
    schema=DEFORM_ROI_POOL2D,
    problems=problems,
    output_shapes=output_shapes,
    decompose=decomposed.decompose,
    decomposition_obstacle=decomposed.obstacle,
    decomposed_since_opset=decomposed.SINCE_OPSET,
    decomposed_bfloat16_since_opset=decomposed.SINCE_OPSET,
    decomposed_bytes=decomposed.largest_bytes,
    feature_inputs=("X",),
    coordinate_inputs=("rois", "offset", "mask"),
)
