"""Deformable nodes as they are found in a graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dcn_deploy.errors import InvalidModelError
from dcn_deploy.export.operators import OPERATOR_EXPORTS, int8
from dcn_deploy.export.operators.base import (
    Dims,
    NodeView,
    Problem,
    dtype_problems,
    schema_problems,
)
from dcn_deploy.schema import BY_STANDARD_OP_TYPE, DOMAIN, OPERATORS, OperatorSchema

if TYPE_CHECKING:
    import onnx_ir as ir


def schema_of(node: ir.Node) -> OperatorSchema | None:
    """Return the operator that a node of the form ``plugin`` or ``standard`` is; None for any other node."""
    if node.domain == DOMAIN:
        return OPERATORS.get(node.op_type)
    if node.domain == "":
        return BY_STANDARD_OP_TYPE.get(node.op_type)
    return None


def label(node: ir.Node) -> str:
    """Return the node's name, or that of its first output where it has none."""
    return node.name or (node.outputs[0].name if node.outputs else None) or node.op_type


def dims_of(value: ir.Value) -> Dims:
    """Return a value's extents."""
    if value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else d.value for d in value.shape)


def dtype_of(value: ir.Value) -> str | None:
    """Return NumPy's name of a value's element type."""
    return None if value.dtype is None else dtype_name(value.dtype)


def dtype_name(dtype: ir.DataType) -> str:
    """Return NumPy's name of an element type."""
    name = dtype.name.lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def constant_of(value: ir.Value) -> ir.TensorProtocol | None:
    """Return what a value always is; None if it is computed, or an input of the graph, with a default or not."""
    import onnx_ir as ir

    return None if value.is_graph_input() else ir.convenience.get_const_tensor(value)


def attributes_of(node: ir.Node) -> dict[str, Any]:
    """Return the node's attributes as plain Python values.

    Raises:
        InvalidModelError: if an attribute refers to an attribute of the enclosing function.
    """
    values: dict[str, Any] = {}
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            raise InvalidModelError(
                f"Node '{label(node)}': attribute {name} refers to the function's attribute "
                f"'{attribute.ref_attr_name}'. Inline the function first (onnx.inliner.inline_local_functions)."
            )
        value = attribute.value
        values[name] = list(value) if isinstance(value, (list, tuple)) else value
    return values


def inputs_of(node: ir.Node, schema: OperatorSchema) -> dict[str, ir.Value]:
    """Return the connected inputs, by the schema's names."""
    return {
        declared.name: value for declared, value in zip(schema.inputs, node.inputs, strict=False) if value is not None
    }


def view_of(node: ir.Node, schema: OperatorSchema) -> NodeView:
    """Read a node of the form ``plugin`` or ``standard``."""
    inputs = inputs_of(node, schema)
    return NodeView(
        schema=schema,
        name=label(node),
        tensors=tuple(inputs),
        shapes={name: dims_of(value) for name, value in inputs.items()},
        dtypes={name: dtype_of(value) for name, value in inputs.items()},
        attributes=attributes_of(node),
    )


def node_problems(node: ir.Node, schema: OperatorSchema) -> Iterator[Problem]:
    """Yield everything that makes the node malformed, as far as it can be known from the file."""
    if len(node.outputs) != len(schema.outputs):
        yield Problem("number of outputs", str(len(schema.outputs)), str(len(node.outputs)))
        return
    connected = tuple(value is not None for value in node.inputs)
    from_schema = list(schema_problems(schema, connected, attributes_of(node), standard=node.domain != DOMAIN))
    yield from from_schema
    if from_schema:
        return
    operator, view = OPERATOR_EXPORTS[schema.op_type], view_of(node, schema)
    if int8.is_quantised(view):
        yield from int8.problems(view)
        yield from int8.dtype_problems(view)
    else:
        yield from dtype_problems(operator, view)
    yield from operator.problems(view)


def check_node(node: ir.Node, schema: OperatorSchema) -> None:
    """Raise for a malformed node.

    Raises:
        InvalidModelError: naming the node and the first problem.
    """
    for problem in node_problems(node, schema):
        raise InvalidModelError(f"Node '{label(node)}' ({node.op_type}): {problem}")
