"""Which inputs of an ONNX graph hold regions of interest, so that generated ones are real boxes.

Found from the nodes that take RoIs, backwards through what only moves or rescales them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dcn_deploy.boxes import Boxes, Columns
from dcn_deploy.errors import InvalidModelError
from dcn_deploy.export.expansion import ORIGINAL, PART_OF, ROLE, Original
from dcn_deploy.schema import DEFORM_ROI_POOL2D

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from dcn_deploy.runtime.runner import TensorSpec

#: Operators of the ONNX standard that take RoIs: position and columns of the inputs that hold them.
_STANDARD: dict[str, tuple[tuple[int, Columns], ...]] = {
    "MaxRoiPool": ((1, "rois"),),
    "RoiAlign": ((1, "corners"), (2, "index")),
}
#: Operators whose first input is what their output consists of, rearranged or rounded.
_MOVING = frozenset(
    {
        "Cast", "Ceil", "Clip", "Expand", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Identity", "Pad",
        "Reshape", "Round", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
#: Operators that put tensors together.
_JOINING = frozenset({"Concat"})
#: Operators that rescale or shift a tensor where all other inputs are constant.
_SCALING = frozenset({"Add", "Div", "Max", "Min", "Mul", "Sub"})


@dataclass(frozen=True)
class _Use:
    """A tensor that a node takes as RoIs, the feature map they are pooled from, and its scale."""

    value: ir.Value
    columns: Columns
    features: ir.Value | None
    spatial_scale: float


def with_boxes(specs: Sequence[TensorSpec], model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """Return the specs with :class:`~dcn_deploy.boxes.Boxes` for those inputs that hold regions of interest.

    Those are inputs from which the RoIs of a ``DeformRoIPool2d`` (as one node or in its decomposed form), ``RoiAlign``
    or ``MaxRoiPool`` come by moving, joining, casting or constant scaling alone, and that have the columns for it: five
    (batch index and corners), four (corners), or one or no axis of columns (batch index); an input that the node takes
    as it is has them also where the file leaves that axis open. They lie in the feature
    map, divided by the node's ``spatial_scale``, where that map is an input of the graph itself; else in the largest
    input of rank 4.

    Args:
        specs: the graph's inputs.
        model: the graph. Its weights are not looked at, so external data need not be loaded.
    """
    import onnx_ir as ir

    graph = ir.serde.deserialize_model(model).graph
    shapes = {spec.name: spec.shape for spec in specs}
    found: dict[str, Boxes] = {}
    for use in _uses(graph):
        features = None if use.features is None else _moved(use.features)
        own = features is not None and features.name in shapes
        for source in _sources(use.value):
            if source.name is None or source.name not in shapes:
                continue
            columns = _columns(shapes[source.name], use.columns, direct=source is _moved(use.value))
            if columns is not None:
                boxes = Boxes(columns=columns)
                if own and features is not None:
                    boxes = Boxes(features.name, use.spatial_scale, columns)
                found.setdefault(source.name, boxes)
    return tuple(replace(spec, boxes=found[spec.name]) if spec.name in found else spec for spec in specs)


def _uses(graph: ir.Graph) -> Iterator[_Use]:
    nodes = list(graph.all_nodes())
    for node in nodes:
        if node.op_type == DEFORM_ROI_POOL2D.op_type and node.domain == DEFORM_ROI_POOL2D.domain:
            yield from _of_node(node, ((1, "rois"),))
        elif node.op_type in _STANDARD and node.domain in ("", "ai.onnx"):
            yield from _of_node(node, _STANDARD[node.op_type])
        elif ORIGINAL in node.metadata_props:
            yield from _of_expansion(node, nodes)


def _of_node(node: ir.Node, places: Iterable[tuple[int, Columns]]) -> Iterator[_Use]:
    scale = node.attributes.get_float("spatial_scale", 1.0)
    for position, columns in places:
        value = node.inputs[position] if position < len(node.inputs) else None
        if value is not None:
            yield _Use(value, columns, node.inputs[0], _positive(scale))


def _of_expansion(last: ir.Node, nodes: Sequence[ir.Node]) -> Iterator[_Use]:
    try:
        original = Original(last)
    except InvalidModelError:  # only a conversion back needs it; here it is no more than a hint
        return
    if original.view.schema.op_type != DEFORM_ROI_POOL2D.op_type:
        return
    parts = {
        node.metadata_props.get(ROLE, ""): node
        for node in nodes
        if node.metadata_props.get(PART_OF) == original.view.name and ROLE in node.metadata_props
    }
    given: dict[str, ir.Value | None] = {}
    for tensor, (role, position) in original.places.items():
        part = parts.get(role)
        given[tensor] = part.inputs[position] if part is not None and position < len(part.inputs) else None
    rois = given.get("rois")
    if rois is not None:
        scale = original.view.attributes.get("spatial_scale", 1.0)
        yield _Use(rois, "rois", given.get("X"), _positive(scale))


def _positive(scale: object) -> float:
    return float(scale) if isinstance(scale, int | float) and scale > 0 else 1.0


def _moved(value: ir.Value) -> ir.Value:
    """Return what ``value`` is a copy of, in whatever type."""
    producer = value.producer()
    while producer is not None and producer.op_type in ("Cast", "Identity") and producer.inputs[0] is not None:
        value = producer.inputs[0]
        producer = value.producer()
    return value


def _sources(value: ir.Value) -> Iterator[ir.Value]:
    """Yield the inputs of the graph that ``value`` consists of."""
    waiting, seen = [value], set()
    while waiting:
        value = waiting.pop()
        if value in seen:
            continue
        seen.add(value)
        producer = value.producer()
        if producer is None:
            yield value
        elif producer.domain not in ("", "ai.onnx"):
            continue
        elif producer.op_type in _MOVING:
            waiting += [given for given in producer.inputs[:1] if given is not None]
        elif producer.op_type in _JOINING:
            waiting += [given for given in producer.inputs if given is not None]
        elif producer.op_type in _SCALING:
            varying = [given for given in producer.inputs if given is not None and not _is_constant(given)]
            waiting += varying if len(varying) == 1 else []


def _is_constant(value: ir.Value) -> bool:
    producer = value.producer()
    return value.is_initializer() or (producer is not None and producer.op_type == "Constant")


def _columns(shape: Sequence[int | str | None] | None, wanted: Columns, direct: bool) -> Columns | None:
    """Return what an input of this shape holds of RoIs that a node wants; None if it has no room for them."""
    is_open = shape is None or (len(shape) >= 2 and not isinstance(shape[-1], int))
    if is_open:
        return wanted if direct else None
    assert shape is not None
    if len(shape) >= 2 and shape[-1] == 5:
        return "rois"
    if len(shape) >= 2 and shape[-1] == 4 and wanted != "index":
        return "corners"
    if (len(shape) == 1 or (shape and shape[-1] == 1)) and wanted != "corners":
        return "index"
    return None
