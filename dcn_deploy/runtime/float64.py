"""An ONNX model rewritten so that every floating-point tensor in it is float64."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

# TensorProto.DataType of FLOAT, FLOAT16, BFLOAT16 and DOUBLE. The 8- and 4-bit types stay: they are the
# storage of quantised tensors, where the rounding is the meaning.
_FLOAT, _FLOAT16, _BFLOAT16, _DOUBLE = 1, 10, 16, 11
_NARROW = frozenset({_FLOAT, _FLOAT16, _BFLOAT16})

# Attributes that hold an element type, by operator. None under a default means that the operator then takes
# the element type of its input.
_TYPE_ATTRIBUTES: dict[str, tuple[str, int | None]] = {
    "Bernoulli": ("dtype", None),
    "BlackmanWindow": ("output_datatype", _FLOAT),
    "Cast": ("to", None),
    "DequantizeLinear": ("output_dtype", None),
    "EyeLike": ("dtype", _FLOAT),
    "HammingWindow": ("output_datatype", _FLOAT),
    "HannWindow": ("output_datatype", _FLOAT),
    "MelWeightMatrix": ("output_datatype", _FLOAT),
    "Multinomial": ("dtype", None),
    "RandomNormal": ("dtype", _FLOAT),
    "RandomNormalLike": ("dtype", None),
    "RandomUniform": ("dtype", _FLOAT),
    "RandomUniformLike": ("dtype", None),
    "SequenceEmpty": ("dtype", _FLOAT),
}


def to_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of ``model`` whose float32, float16 and bfloat16 tensors are float64.

    Initializers, constants, the types of inputs, outputs and intermediates, casts, and the element types that
    operators have as an attribute or by default are rewritten, in subgraphs and functions too. The weights are
    those of the file, rounded as they are there; what happens to them no longer rounds to their type.

    Args:
        model: with its external data loaded.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _rewrite_graph(copy.graph)
    for function in copy.functions:
        _rewrite_nodes(function.node)
        for value in function.value_info:
            _rewrite_type(value.type)
    return copy


def _rewrite_graph(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _rewrite_tensor(tensor)
    for sparse in graph.sparse_initializer:
        _rewrite_tensor(sparse.values)
    for value in (*graph.input, *graph.output, *graph.value_info):
        _rewrite_type(value.type)
    _rewrite_nodes(graph.node)


def _rewrite_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    import onnx

    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _rewrite_tensor(attribute.t)
            for tensor in attribute.tensors:
                _rewrite_tensor(tensor)
            if attribute.HasField("sparse_tensor"):
                _rewrite_tensor(attribute.sparse_tensor.values)
            if attribute.HasField("tp"):
                _rewrite_type(attribute.tp)
            if attribute.HasField("g"):
                _rewrite_graph(attribute.g)
            for graph in attribute.graphs:
                _rewrite_graph(graph)
        if node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type == "Constant":
            _rewrite_constant(node)
        elif node.op_type == "ConstantOfShape" and not node.attribute:
            node.attribute.append(onnx.helper.make_attribute("value", _scalar_zero()))
        elif node.op_type in _TYPE_ATTRIBUTES:
            _rewrite_type_attribute(node, *_TYPE_ATTRIBUTES[node.op_type])


def _rewrite_type_attribute(node: onnx.NodeProto, name: str, default: int | None) -> None:
    import onnx

    for attribute in node.attribute:
        if attribute.name == name:
            if attribute.i in _NARROW:
                attribute.i = _DOUBLE
            return
    if default in _NARROW:
        node.attribute.append(onnx.helper.make_attribute(name, _DOUBLE))


def _rewrite_constant(node: onnx.NodeProto) -> None:
    """Replace the attributes of ``Constant`` that mean float32 by a float64 tensor."""
    import numpy as np
    import onnx

    for index, attribute in enumerate(node.attribute):
        if attribute.name not in ("value_float", "value_floats"):
            continue
        value = attribute.f if attribute.name == "value_float" else list(attribute.floats)
        tensor = onnx.numpy_helper.from_array(np.asarray(value, dtype=np.float64))
        del node.attribute[index]
        node.attribute.append(onnx.helper.make_attribute("value", tensor))
        return


def _scalar_zero() -> onnx.TensorProto:
    import numpy as np
    import onnx

    return onnx.numpy_helper.from_array(np.zeros(1, dtype=np.float64))


def _rewrite_tensor(tensor: onnx.TensorProto) -> None:
    import numpy as np
    import onnx

    if tensor.data_type in _NARROW:
        name = tensor.name
        wide = onnx.numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(onnx.numpy_helper.from_array(wide, name))


def _rewrite_type(kind: onnx.TypeProto) -> None:
    which = kind.WhichOneof("value")
    if which in ("tensor_type", "sparse_tensor_type"):
        tensor = getattr(kind, which)
        if tensor.elem_type in _NARROW:
            tensor.elem_type = _DOUBLE
    elif which in ("sequence_type", "optional_type"):
        _rewrite_type(getattr(kind, which).elem_type)
    elif which == "map_type":
        _rewrite_type(kind.map_type.value_type)
