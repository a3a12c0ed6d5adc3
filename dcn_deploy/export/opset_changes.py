"""Operators whose meaning changed between versions of the ONNX standard, where the converters do not see to it.

The converters of the onnx package and of onnxscript know most changes (attributes that became inputs, ``Softmax``,
``RoiAlign``). What is here they pass over, so that the raised network would compute something else:

- ``Upsample`` and ``Resize`` below opset 11 sample at output position / scale. Since then that is
  ``coordinate_transformation_mode`` "asymmetric", and the default is another. Their ``nearest`` takes the pixel below
  where they enlarge. Where ``Resize`` shrinks it takes the one above: the standard's text says nothing of it, its test
  ``resize_downsample_nearest`` of opset 10 and ONNX Runtime do.
- ``Hardmax`` below opset 13 flattens its input to two dimensions at ``axis``.
- ``GroupNormalization`` below opset 21 has one scale and one bias a group, since then one a channel; onnxscript's
  converter needs to know the numbers of both.

For these there is no rule, and they are refused: ``Scan`` below opset 9, which has a batch dimension;
``BatchNormalization`` with an affine map for every pixel below opset 9, or that trains below opset 14; the mask of
``Dropout`` below opset 12, whose content is not defined.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dcn_deploy.errors import UnsupportedError
from dcn_deploy.export.node_reading import constant_of, label
from dcn_deploy.export.unique_names import UniqueNames

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

# The versions that brought the changes.
_SCAN, _SPATIAL, _RESIZE_OF_UPSAMPLE, _RESIZE, _DROPOUT, _HARDMAX, _TRAINING, _GROUPS = 9, 9, 10, 11, 12, 13, 14, 21

#: Versions at which a conversion has to stop for :func:`before` and :func:`after`.
STOPS = (_RESIZE, _HARDMAX - 1, _HARDMAX)


def needs_shapes(model: ir.Model, current: int, target: int) -> bool:
    """Return whether a converter asks for shapes on the way, and leaves a node as it was where it finds none."""
    return current < _GROUPS <= target and any(node.op_type == "GroupNormalization" for node in _nodes(model))


def check(model: ir.Model, current: int, target: int) -> None:
    """Raise for a node whose meaning would be lost on the way from ``current`` to ``target``.

    Args:
        model: with shapes as far as they can be inferred, where :func:`needs_shapes`.
        current: its opset.
        target: the wanted one.

    Raises:
        UnsupportedError: with its name and the reason.
    """
    for node in _nodes(model):
        if node.op_type == "Scan" and current < _SCAN <= target:
            raise _refused(node, "below opset 9 it has a batch dimension, which later ones have not")
        if node.op_type == "Dropout" and current < _DROPOUT <= target and _is_used(node, 1):
            raise _refused(node, "the content of its mask is not defined below opset 12")
        if node.op_type == "BatchNormalization":
            if current < _SPATIAL <= target and _int(node, "spatial", 1) != 1:
                raise _refused(node, "since opset 9 it has one scale and bias a channel, not one a pixel (spatial=0)")
            if current < _TRAINING <= target and any(_is_used(node, place) for place in range(1, len(node.outputs))):
                raise _refused(node, "it gives statistics, as in training. Export the network in evaluation mode")
        if node.op_type == "GroupNormalization" and current < _GROUPS <= target:
            _check_group_normalization(node)


def _check_group_normalization(node: ir.Node) -> None:
    channels, scale, bias = (
        None if value is None or value.shape is None or position >= len(value.shape) else value.shape[position]
        for value, position in zip(node.inputs[:3], (1, 0, 0), strict=True)
    )
    groups = _int(node, "num_groups", 0)
    # The standard asks for one a group; files with one a channel are about, and are what later opsets have.
    if not isinstance(channels, int) or scale != bias or scale not in (groups, channels):
        raise _refused(
            node,
            f"since opset 21 it has one scale and bias a channel; expected known channels and {groups} of both, got "
            f"{channels} channels, {scale} scales and {bias} biases. Fix the channels of the network's inputs",
        )


def before(model: ir.Model, stop: int) -> None:
    """Rewrite, in place, the nodes that would change their meaning with opset ``stop``, still in the one below."""
    if stop != _HARDMAX or model.opset_imports[""] >= _HARDMAX:
        return
    names = UniqueNames(model)
    for node in list(_nodes(model)):
        if node.op_type == "Hardmax":
            _flatten_hardmax(node, names)


def after(model: ir.Model, source: int, stop: int) -> None:
    """Correct, in place, nodes that the converter has brought to opset ``stop``.

    Args:
        model: in opset ``stop``.
        source: the opset in which the file was.
        stop: the one reached.
    """
    if stop != _RESIZE:
        return
    names = UniqueNames(model)
    for node in list(_nodes(model)):
        if node.op_type == "Resize":
            _keep_positions(node, names, enlarges=source < _RESIZE_OF_UPSAMPLE)


def _flatten_hardmax(node: ir.Node, names: UniqueNames) -> None:
    """Replace ``Hardmax`` by the same on two dimensions: there its only axis is the last one, as by later rules."""
    source, result = node.inputs[0], node.outputs[0]
    axis = _int(node, "axis", 1)
    shape = _before(node, names, "Shape", [source])
    flat = _before(node, names, "Flatten", [source], axis=axis)
    hard = _before(node, names, "Hardmax", [flat], axis=-1)
    _replace(node, "Reshape", [hard, shape], result)


def _keep_positions(node: ir.Node, names: UniqueNames, *, enlarges: bool) -> None:
    """Give a ``Resize`` of opset 11, from one of opset 10 or an ``Upsample``, the attributes that it meant."""
    import numpy as np
    import onnx_ir as ir

    node.attributes.add(ir.AttrString("coordinate_transformation_mode", "asymmetric"))
    if "mode" in node.attributes and node.attributes["mode"].as_string() != "nearest":
        return
    node.attributes.add(ir.AttrString("nearest_mode", "floor"))
    source, roi, given, result = node.inputs[0], node.inputs[1], node.inputs[2], node.outputs[0]
    constant = None if given is None else constant_of(given)
    scales = None if constant is None else np.asarray(constant.numpy())
    if enlarges or (scales is not None and (scales >= 1).all()):
        return
    if scales is not None and (scales <= 1).all():
        node.attributes.add(ir.AttrString("nearest_mode", "ceil"))
        return
    # One step enlarges and leaves the axes that shrink, the other one does the rest.
    one = _constant(node, names, np.ones(1, np.float32))
    larger, smaller = (_before(node, names, kind, [given, one]) for kind in ("Max", "Min"))
    modes = {"coordinate_transformation_mode": "asymmetric", "mode": "nearest"}
    enlarged = _before(node, names, "Resize", [source, roi, larger], **modes, nearest_mode="floor")
    _replace(node, "Resize", [enlarged, roi, smaller], result, **modes, nearest_mode="ceil")


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yield the nodes of the standard in every graph and function."""
    for graph in model.graphs():
        yield from (node for node in graph if node.domain == "")


def _int(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def _is_used(node: ir.Node, position: int) -> bool:
    if position >= len(node.outputs):
        return False
    value = node.outputs[position]
    return bool(value.uses()) or value.is_graph_output()


def _refused(node: ir.Node, reason: str) -> UnsupportedError:
    return UnsupportedError(f"node '{label(node)}' ({node.op_type}): {reason}")


def _constant(node: ir.Node, names: UniqueNames, array: np.ndarray[Any, Any]) -> ir.Value:
    import onnx_ir as ir

    return _before(node, names, "Constant", [], value=ir.tensor(array))


def _before(
    node: ir.Node, names: UniqueNames, op_type: str, inputs: Sequence[ir.Value | None], **attributes: Any
) -> ir.Value:
    """Insert a node before another and return its output."""
    import onnx_ir as ir

    name = names.new(f"{label(node)}_{op_type}")
    made = ir.node(op_type, inputs, attributes=attributes, name=name)
    made.outputs[0].name = name
    assert node.graph is not None
    node.graph.insert_before(node, made)
    return made.outputs[0]


def _replace(
    node: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], result: ir.Value, **attributes: Any
) -> None:
    """Put a node of the same name in the place of another, for its only output."""
    import onnx_ir as ir

    made = ir.node(op_type, inputs, attributes=attributes, name=node.name, doc_string=node.doc_string)
    output = made.outputs[0]
    output.name, output.type, output.shape = result.name, result.type, result.shape
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    ir.convenience.replace_nodes_and_values(graph, node, [node], [made], [result], [output])
