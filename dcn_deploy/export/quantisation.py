"""Deformable convolutions between ``QuantizeLinear`` and ``DequantizeLinear``, and the int8 node that says the same.

The two are not the same to the last bit: the folded node rounds what it samples to int8 once more.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dcn_deploy.errors import describe
from dcn_deploy.export import model_files
from dcn_deploy.export.conversion import Converter, raise_opset
from dcn_deploy.export.node_reading import constant_of, dtype_of, inputs_of, label, schema_of, view_of
from dcn_deploy.export.operators import int8
from dcn_deploy.export.soundness import load_sound
from dcn_deploy.export.unique_names import UniqueNames
from dcn_deploy.schema import DEFORM_CONV2D, DOMAIN

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import onnx_ir as ir

#: First opset whose DequantizeLinear has an axis.
_AXIS_SINCE_OPSET = 13


@dataclass(frozen=True)
class Folding:
    """What :func:`fold_quantisation` did.

    Attributes:
        model: the model, in the form ``plugin``.
        folded: names of the nodes that are int8 now.
        left: (name, reason) of every other deformable convolution beside a DequantizeLinear.
    """

    model: onnx.ModelProto
    folded: tuple[str, ...]
    left: tuple[tuple[str, str], ...]


def fold_quantisation(model: onnx.ModelProto | str | os.PathLike[str]) -> Folding:
    """Fold ``DequantizeLinear(X), DequantizeLinear(W) → DeformConv2d (→ QuantizeLinear)`` into one int8 node each.

    The scales become attributes. It takes int8 with zero points of zero; X and Y with one scale, W with one or with one
    for each output channel. Without a QuantizeLinear behind it the node gives float32. A convolution that does not fit
    stays as it is, and the result says why. Nodes of all forms are read; they have the form ``plugin`` afterwards.

    Args:
        model: the model, or the path of one. It is not changed.

    Raises:
        The same as :func:`dcn_deploy.export.convert`.
    """
    loaded, folded, left = fold_model(load_sound(model))
    return Folding(model_files.to_proto(loaded), folded, left)


def fold_model(model: ir.Model) -> tuple[ir.Model, tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Fold in place where possible; return the model and what a :class:`Folding` says of it."""
    from dcn_deploy.export.shape_inference import infer

    loaded = Converter(model).to("plugin")
    infer(loaded)
    folded: list[str] = []
    left: list[tuple[str, str]] = []
    for node in list(_convolutions(loaded)):
        if int8.is_quantised(view_of(node, DEFORM_CONV2D)):
            continue
        linear = [_is_linear(node.inputs[position], "DequantizeLinear") for position in (0, 1)]
        if not any(linear):
            continue
        try:
            _fold(node)
        except _NotFoldableError as error:
            left.append((label(node), str(error)))
        else:
            folded.append(label(node))
    return loaded, tuple(folded), tuple(left)


def unfold_quantisation(model: onnx.ModelProto | str | os.PathLike[str]) -> onnx.ModelProto:
    """Return a model whose int8 deformable convolutions are written with QuantizeLinear and DequantizeLinear.

    Args:
        model: the model, or the path of one. It is not changed.

    Raises:
        The same as :func:`dcn_deploy.export.convert`.
    """
    return model_files.to_proto(unfold_model(load_sound(model)))


def unfold_model(model: ir.Model) -> ir.Model:
    """Unfold in place where possible and return the model; see :func:`unfold_quantisation`."""
    loaded = Converter(model).to("plugin")
    nodes = [node for node in _convolutions(loaded) if int8.is_quantised(view_of(node, DEFORM_CONV2D))]
    if nodes:
        loaded = raise_opset(loaded, _AXIS_SINCE_OPSET)
        # The converter makes the nodes anew.
        nodes = [node for node in _convolutions(loaded) if int8.is_quantised(view_of(node, DEFORM_CONV2D))]
    names = UniqueNames(loaded)
    for node in nodes:
        _unfold(node, loaded, names)
    return loaded


def _convolutions(model: ir.Model) -> Iterable[ir.Node]:
    return (node for node in model_files.all_nodes(model) if node.domain == DOMAIN and schema_of(node) is DEFORM_CONV2D)


# ---- folding ----


class _NotFoldableError(Exception):
    """Why a convolution stays as it is."""


@dataclass(frozen=True)
class _Linear:
    """A QuantizeLinear or DequantizeLinear with int8 on one side and zero points of zero."""

    node: ir.Node
    scales: tuple[float, ...]


def _is_linear(value: ir.Value | None, op_type: str) -> bool:
    producer = None if value is None else value.producer()
    return producer is not None and producer.domain == "" and producer.op_type == op_type


def _fold(node: ir.Node) -> None:
    import onnx_ir as ir

    graph = node.graph
    assert isinstance(graph, ir.Graph)
    inputs = inputs_of(node, DEFORM_CONV2D)
    x = _dequantised(inputs["X"], "X", channel_axis=None)
    w = _dequantised(inputs["W"], "W", channel_axis=0)
    bias = inputs.get("B")
    if bias is not None and dtype_of(bias) != "float32":
        raise _NotFoldableError(
            describe("element type of B", expected="float32", actual=dtype_of(bias) or "an unknown one")
        )
    y = _quantised(node.outputs[0])
    features = dtype_of(inputs["X"])
    if isinstance(y, str) and features != "float32":
        raise _NotFoldableError(f"Y would be {features}, and an int8 node gives int8 or float32: {y}")
    behind = None if isinstance(y, str) else y
    new_inputs = [x.node.inputs[0], w.node.inputs[0], *node.inputs[2:]]
    scales: dict[str, Any] = {"x_scale": x.scales[0], "weight_scale": list(w.scales)}
    if behind is not None:
        scales["y_scale"] = behind.scales[0]
    folded = ir.node(
        node.op_type,
        new_inputs,
        attributes={**{name: attribute.value for name, attribute in node.attributes.items()}, **scales},
        domain=node.domain,
        name=node.name,
        doc_string=node.doc_string,
        metadata_props=dict(node.metadata_props),
    )
    replaced = node if behind is None else behind.node
    output = replaced.outputs[0]
    folded.outputs[0].dtype = ir.DataType.FLOAT if behind is None else ir.DataType.INT8
    folded.outputs[0].shape = output.shape
    ir.convenience.replace_nodes_and_values(
        graph, node, [node] if behind is None else [behind.node, node], [folded], [output], [folded.outputs[0]]
    )
    for linear in (x.node, w.node):
        _remove_unused(linear)


def _dequantised(value: ir.Value, tensor: str, *, channel_axis: int | None) -> _Linear:
    """Read what stands before an input; ``channel_axis`` is the one that may have a scale for each of its places."""
    if not _is_linear(value, "DequantizeLinear"):
        producer = value.producer()
        comes_from = "no node" if producer is None else producer.op_type
        raise _NotFoldableError(f"{tensor} comes from {comes_from}, not from DequantizeLinear.")
    node = value.producer()
    assert node is not None
    source = node.inputs[0]
    dtype = None if source is None else dtype_of(source)
    if dtype != "int8":
        raise _NotFoldableError(
            describe(f"element type of {tensor}, quantised", expected="int8", actual=dtype or "an unknown one")
        )
    scales = _scales(node, tensor)
    if len(scales) > 1:
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
        rank = None if source is None or source.shape is None else len(source.shape)
        place = axis + rank if axis < 0 and rank is not None else axis
        if place != channel_axis:
            takes = "one" if channel_axis is None else f"one, or one for each place of axis {channel_axis}"
            raise _NotFoldableError(
                describe(f"scale of {tensor}", expected=takes, actual=f"{len(scales)} along axis {axis}")
            )
    return _Linear(node, scales)


def _quantised(value: ir.Value) -> _Linear | str:
    """Read the QuantizeLinear that is all that uses a value; return why there is none that can be folded."""
    import onnx_ir as ir

    uses = list(value.uses())
    if value.is_graph_output():
        return "Y is an output of the graph."
    if len(uses) != 1 or uses[0].idx != 0 or uses[0].node.op_type != "QuantizeLinear" or uses[0].node.domain:
        return "Y goes elsewhere than to one QuantizeLinear."
    node = uses[0].node
    if node.graph is not value.producer().graph:  # type: ignore[union-attr]
        return "the QuantizeLinear behind it is in another graph."
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    given = node.attributes.get("output_dtype")
    # Without a zero point and an output_dtype it gives uint8.
    dtype = (
        dtype_of(zero) if zero is not None else "uint8" if given is None else ir.DataType(given.as_int()).name.lower()
    )
    if dtype != "int8":
        return describe("element type of Y, quantised", expected="int8", actual=dtype or "an unknown one")
    try:
        scales = _scales(node, "Y")
    except _NotFoldableError as error:
        return str(error)
    if len(scales) > 1:
        return describe("scale of Y", expected="one", actual=str(len(scales)))
    return _Linear(node, scales)


def _scales(node: ir.Node, tensor: str) -> tuple[float, ...]:
    """Return the scales of a Q or DQ, checked; its zero points must be zero."""
    if (block := node.attributes.get("block_size")) is not None and block.as_int():
        raise _NotFoldableError(
            describe(f"scale of {tensor}", expected="no blocks", actual=f"a block_size of {block.as_int()}")
        )
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is not None:
        zeros = _constant(zero, f"zero point of {tensor}")
        if zeros.any():
            raise _NotFoldableError(
                describe(
                    f"zero point of {tensor}",
                    expected="0",
                    actual=str(int(zeros[zeros != 0].flat[0])),
                    remedy="Quantise symmetrically.",
                )
            )
    scale = node.inputs[1]
    assert scale is not None
    values = _constant(scale, f"scale of {tensor}")
    if values.ndim > 1:
        raise _NotFoldableError(
            describe(f"scale of {tensor}", expected="at most one axis", actual=f"the shape {list(values.shape)}")
        )
    numbers = tuple(float(value) for value in values.astype("float32").flat)
    for number in numbers:
        if not (math.isfinite(number) and number > 0):
            raise _NotFoldableError(
                describe(f"scale of {tensor}", expected="positive, finite numbers", actual=str(number))
            )
    return numbers


def _constant(value: ir.Value, what: str) -> np.ndarray[Any, Any]:
    tensor = constant_of(value)
    if tensor is None:
        kind = "a default, for an input of the graph" if value.is_initializer() else "computed"
        raise _NotFoldableError(describe(what, expected="a constant", actual=f"'{value.name}', which is {kind}"))
    return tensor.numpy()


def _remove_unused(node: ir.Node) -> None:
    """Remove a node that nothing uses, and the constants that only it used."""
    graph = node.graph
    if graph is None or any(value.uses() or value.is_graph_output() for value in node.outputs):
        return
    inputs = [value for value in node.inputs if value is not None]
    graph.remove(node, safe=True)
    for value in inputs:
        if value.uses() or value.is_graph_output():
            continue
        producer = value.producer()
        if producer is not None and producer.op_type == "Constant":
            _remove_unused(producer)
        elif value.is_initializer() and not value.is_graph_input() and value.graph is not None and value.name:
            del value.graph.initializers[value.name]


# ---- unfolding ----


def _unfold(node: ir.Node, model: ir.Model, names: UniqueNames) -> None:
    import numpy as np
    import onnx_ir as ir

    graph = node.graph
    assert isinstance(graph, ir.Graph)
    view = view_of(node, DEFORM_CONV2D)
    inputs = inputs_of(node, DEFORM_CONV2D)
    nodes: list[ir.Node] = []

    def constant(what: str, array: np.ndarray[Any, Any]) -> ir.Value:
        name = names.new(f"{view.name}_{what}")
        value = ir.Value(
            name=name,
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            shape=ir.Shape(array.shape),
            const_value=ir.tensor(array, name=name),
        )
        # Seen from every subgraph.
        model.graph.initializers[name] = value
        return value

    def op(
        op_type: str, what: str, given: list[ir.Value | None], dtype: Any, shape: Any, **attributes: Any
    ) -> ir.Value:
        name = names.new(f"{view.name}_{what}")
        made = ir.node(op_type, given, attributes=attributes, name=name)
        made.outputs[0].name = name
        made.outputs[0].dtype, made.outputs[0].shape = dtype, shape
        nodes.append(made)
        return made.outputs[0]

    def dequantised(tensor: str, scales: list[float], axis: int | None) -> ir.Value:
        one = len(scales) == 1
        shape = () if one else (len(scales),)
        scale = constant(f"{tensor}_scale", np.asarray(scales, dtype=np.float32).reshape(shape))
        zero = constant(f"{tensor}_zero_point", np.zeros(shape, dtype=np.int8))
        attributes = {} if one else {"axis": axis}
        value = inputs[tensor]
        return op(
            "DequantizeLinear", f"{tensor}_float", [value, scale, zero], ir.DataType.FLOAT, value.shape, **attributes
        )

    given: list[ir.Value | None] = [
        dequantised("X", [view.attributes["x_scale"]], None),
        dequantised("W", view.attributes["weight_scale"], 0),
    ]
    for declared in DEFORM_CONV2D.inputs[2:]:
        value = inputs.get(declared.name)
        if value is not None and view.dtypes.get(declared.name) not in ("float32", None):
            # Beside float32 features.
            to = ir.DataType.FLOAT
            value = op("Cast", f"{declared.name}_cast", [value], to, value.shape, to=int(to))
        given.append(value)
    while given[-1] is None:
        given.pop()
    scales = {attribute.name for attribute in DEFORM_CONV2D.quantisation}
    convolution = ir.node(
        node.op_type,
        given,
        attributes={name: attribute.value for name, attribute in node.attributes.items() if name not in scales},
        domain=node.domain,
        name=node.name,
        doc_string=node.doc_string,
        metadata_props=dict(node.metadata_props),
    )
    nodes.append(convolution)
    output = convolution.outputs[0]
    output.dtype, output.shape = ir.DataType.FLOAT, node.outputs[0].shape
    y_scale = view.attributes.get("y_scale")
    if y_scale is not None:
        output.name = names.new(f"{view.name}_Y_float")
        scale = constant("Y_scale", np.asarray(y_scale, dtype=np.float32))
        zero = constant("Y_zero_point", np.zeros((), dtype=np.int8))
        output = op("QuantizeLinear", "Y_int8", [output, scale, zero], ir.DataType.INT8, node.outputs[0].shape)
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [node.outputs[0]], [output])
