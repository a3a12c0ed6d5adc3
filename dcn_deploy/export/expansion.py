"""One deformable node written as several ordinary ones, in such a way that it can be put back.

Every node of an expansion carries in its ``metadata_props`` whose part it is and which role it plays; the last
one, which produces the original output under the original name, also carries the original node. What several
expansions have in common (constants, coordinates of equal geometry) exists once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dcn_deploy.errors import InvalidModelError
from dcn_deploy.export.operators.base import Dim, Dims, NodeView
from dcn_deploy.export.unique_names import UniqueNames
from dcn_deploy.schema import OPERATORS

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

#: metadata_props of a node: name of the deformable node it is a part of.
PART_OF = "dcn_deploy.part_of"
#: metadata_props of a node: what it does there; empty for the last one.
ROLE = "dcn_deploy.role"
#: metadata_props of the last node: the original, as JSON.
ORIGINAL = "dcn_deploy.original"
#: metadata_props of a node that several expansions use.
SHARED = "dcn_deploy.shared"
#: Prefix of the names of shared nodes and constants.
PREFIX = "dcn_deploy/"
#: First IR version whose nodes have metadata_props.
IR_VERSION = 10


class SharedValues:
    """Constants and nodes that the expansions of one model share.

    Args:
        root: the model's main graph, which gets the constants; None keeps them out of any graph.
        names: of the model.
    """

    def __init__(self, root: ir.Graph | None, names: UniqueNames) -> None:
        self._root = root
        self.names = names
        self._constants: dict[str, ir.Value] = {}
        self._nodes: dict[tuple[int, tuple[object, ...]], ir.Value] = {}

    def constant(self, array: np.ndarray[Any, Any]) -> ir.Value:
        """Return an initializer with the content of ``array``; equal content gives the same one."""
        import onnx_ir as ir

        digest = hashlib.sha256(array.tobytes()).hexdigest()[:12]
        name = "_".join([f"{PREFIX}{array.dtype}", *map(str, array.shape), digest])
        value = self._constants.get(name)
        if value is None and self._root is not None:
            value = self._root.initializers.get(name)
        if value is None:
            tensor = ir.tensor(array, name=name)
            value = ir.Value(
                name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor
            )
            if self._root is not None:
                self._root.register_initializer(value)
        self._constants[name] = value
        return value

    def lookup(self, graph: ir.Graph | None, key: tuple[object, ...]) -> ir.Value | None:
        """Return the value that an earlier expansion in the same graph stored under ``key``."""
        return self._nodes.get((id(graph), key))

    def store(self, graph: ir.Graph | None, key: tuple[object, ...], value: ir.Value) -> None:
        """Offer ``value`` to later expansions in the same graph."""
        self._nodes[id(graph), key] = value


class Expansion:
    """Builds the nodes that stand for one deformable node.

    Args:
        view: the node.
        opset: version of the default domain that the nodes must belong to.
        shared: what the expansions of the model have in common.
        graph: the graph of the original node.
    """

    def __init__(self, view: NodeView, opset: int, shared: SharedValues, graph: ir.Graph | None = None) -> None:
        self.view = view
        self.opset = opset
        self.nodes: list[ir.Node] = []
        self._shared = shared
        self._graph = graph
        self._own: dict[tuple[object, ...], ir.Value] = {}
        self._roles: set[str] = set()

    @staticmethod
    def dtype(name: str) -> ir.DataType:
        """Return the ONNX element type called ``name`` in NumPy."""
        import onnx_ir as ir

        return ir.DataType.BOOL if name == "bool" else ir.DataType.from_short_name(_SHORT_NAMES[name])

    def op(
        self,
        role: str,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *,
        dtype: str | None,
        shape: Sequence[Dim] | None,
        **attributes: Any,
    ) -> ir.Value:
        """Append a node of the default domain and return its output.

        Args:
            role: what the node does; empty for the last node, which takes the original's name.
            op_type: the ONNX operator.
            inputs: its inputs; trailing Nones are dropped.
            dtype: element type of the output, None if unknown.
            shape: extents of the output; None if the rank is unknown.
            attributes: the node's attributes.
        """
        if role:
            number, wanted = 1, role
            while role in self._roles:
                role, number = f"{wanted}_{number}", number + 1
        self._roles.add(role)
        name = self._shared.names.new(f"{self.view.name}/{role}") if role else self.view.name
        node = _node(name, op_type, inputs, attributes)
        node.metadata_props.update({PART_OF: self.view.name, ROLE: role})
        return self._describe(node, dtype, shape)

    def shared(
        self,
        key: tuple[object, ...],
        op_type: str,
        inputs: Sequence[ir.Value],
        *,
        dtype: str,
        shape: Sequence[Dim],
        named: bool,
        **attributes: Any,
    ) -> ir.Value:
        """Return a value that depends only on ``key``, from an earlier expansion if one made it.

        Args:
            key: everything that determines the value; begins with its role.
            op_type: the ONNX operator that makes it.
            inputs: the operator's inputs.
            dtype: element type of the output.
            shape: extents of the output.
            named: whether ``key`` determines the value beyond this node. It does not where an extent that is
                known only at run time has no name: then the value is shared only within this expansion.
            attributes: the node's attributes.
        """
        found = self._own.get(key)
        if found is None and named:
            found = self._shared.lookup(self._graph, key)
        if found is not None:
            return found
        role = str(key[0])
        if named:
            node = _node(self._shared.names.new(f"{PREFIX}{role}"), op_type, inputs, attributes)
            node.metadata_props[SHARED] = role
            value = self._describe(node, dtype, shape)
            self._shared.store(self._graph, key, value)
        else:
            value = self.op(role, op_type, inputs, dtype=dtype, shape=shape, **attributes)
        self._own[key] = value
        return value

    def array(self, array: np.ndarray[Any, Any]) -> ir.Value:
        """Return a constant."""
        return self._shared.constant(array)

    def ints(self, values: Sequence[int]) -> ir.Value:
        """Return a constant int64 vector."""
        import numpy as np

        return self._shared.constant(np.asarray(values, np.int64))

    def scalar(self, value: float, dtype: str) -> ir.Value:
        """Return a constant of rank 0."""
        import numpy as np

        return self._shared.constant(np.asarray(value, dtype))

    def _describe(self, node: ir.Node, dtype: str | None, shape: Sequence[Dim] | None) -> ir.Value:
        import onnx_ir as ir

        value = node.outputs[0]
        value.name = node.name
        if dtype is not None:
            value.dtype = self.dtype(dtype)
        value.shape = None if shape is None else ir.Shape(shape)
        self.nodes.append(node)
        return value


_SHORT_NAMES = {
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "float64": "f64",
    "int64": "i64",
}


def _node(name: str, op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any]) -> ir.Node:
    import onnx_ir as ir

    connected = list(inputs)
    while connected and connected[-1] is None:
        connected.pop()
    return ir.node(op_type, connected, attributes=dict(attributes), name=name)


def describe_original(
    form: str, node_name: str, view: NodeView, inputs: Mapping[str, ir.Value], expansion: Expansion
) -> dict[str, str]:
    """Return the metadata_props from which :class:`Original` gets the original node back.

    Args:
        form: what the node was expanded into.
        node_name: the original node's name, which may be empty.
        view: the original node.
        inputs: its input tensors, by name.
        expansion: the finished expansion.
    """
    places: dict[str, tuple[str, int]] = {}
    for tensor, value in inputs.items():
        for node in expansion.nodes:
            if ROLE in node.metadata_props and value in node.inputs:
                places[tensor] = (node.metadata_props[ROLE], list(node.inputs).index(value))
                break
    original = {
        "op_type": view.schema.op_type,
        "name": node_name,
        "part": view.name,
        "form": form,
        "opset": expansion.opset,
        "inputs": places,
        "attributes": view.attributes,
        "shapes": view.shapes,
        "dtypes": view.dtypes,
    }
    return {ORIGINAL: json.dumps(original, separators=(",", ":"))}


class Original:
    """What :func:`describe_original` wrote on the last node of an expansion.

    Raises:
        InvalidModelError: if it cannot be read.
    """

    def __init__(self, last: ir.Node) -> None:
        try:
            data = json.loads(last.metadata_props[ORIGINAL])
            self.form: str = data["form"]
            self.name: str = data["name"]
            self.opset: int = data["opset"]
            self.places: dict[str, tuple[str, int]] = {k: (v[0], v[1]) for k, v in data["inputs"].items()}
            self.view = NodeView(
                schema=OPERATORS[data["op_type"]],
                name=data["part"],
                tensors=tuple(self.places),
                shapes={k: _dims(v) for k, v in data["shapes"].items()},
                dtypes=data["dtypes"],
                attributes=data["attributes"],
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InvalidModelError(
                f"Node '{last.name}' claims to be the end of an expanded deformable node, but its metadata "
                f"'{ORIGINAL}' cannot be read ({type(error).__name__}: {error}). It was changed by another tool or "
                f"written by a newer version; convert the file it was made from instead."
            ) from error


def _dims(value: list[Dim] | None) -> Dims:
    return None if value is None else tuple(value)
