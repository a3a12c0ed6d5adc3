"""What the runners of ONNX files read from one: nodes, inputs, outputs, element types."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcn_deploy._lazy import require
from dcn_deploy.errors import InvalidModelError, ModelSourceError, UnsupportedError, describe
from dcn_deploy.runtime.engine_metadata import file_hash
from dcn_deploy.runtime.runner import TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import onnx


def load(model: str | Path | onnx.ModelProto, purpose: str, *, external_data: bool = True) -> onnx.ModelProto:
    """Return the ``ModelProto`` of a file, or the given one itself.

    Args:
        model: path or model.
        purpose: what needs it, for the message if the package ``onnx`` is missing.
        external_data: read weights that lie in files of their own.

    Raises:
        ModelSourceError: if there is no such file.
        InvalidModelError: if the file holds no ONNX model, or its external data is missing.
    """
    require("onnx", purpose)
    import onnx

    if not isinstance(model, str | Path):
        return model
    path = Path(model)
    if not path.is_file():
        raise ModelSourceError(describe("ONNX file", expected="the path of a file", actual=f"'{path}', which is none"))
    try:
        proto: onnx.ModelProto = onnx.load(path, load_external_data=False)
    except Exception as error:
        # protobuf and onnx raise a dozen unrelated types for a file that is no model.
        raise InvalidModelError(
            describe(f"'{path}'", expected="an ONNX model", actual=f"a file that does not parse ({error})")
        ) from error
    if not proto.ir_version or not proto.HasField("graph"):
        # protobuf takes many short files, the empty one included, for a message without fields.
        raise InvalidModelError(describe(f"'{path}'", expected="an ONNX model", actual="a file without a graph"))
    if external_data:
        try:
            onnx.load_external_data_for_model(proto, str(path.parent))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            raise _unreadable_weights(path, error) from error
    return proto


def source_hash(path: str | Path, purpose: str) -> str:
    """Return what tells whether an ONNX file has changed since: a SHA-256 in hexadecimal.

    That of the file itself if all its weights are inside; else one of the file and of every file that its tensors lie
    in, by name.

    Args:
        path: the ONNX file.
        purpose: what needs it, for the message if the package ``onnx`` is missing.

    Raises:
        ModelSourceError: if there is no such file.
        InvalidModelError: if the file holds no ONNX model, or its external data is missing.
    """
    path = Path(path)
    locations = _external_locations(load(path, purpose, external_data=False))
    own, _ = file_hash(path)
    if not locations:
        return own
    digest = hashlib.sha256(own.encode())
    for location in locations:
        try:
            sha256, _ = file_hash(path.parent / location)
        except OSError as error:
            raise _unreadable_weights(path, error) from error
        digest.update(f"\n{location}\n{sha256}".encode())
    return digest.hexdigest()


def _external_locations(model: onnx.ModelProto) -> list[str]:
    """Return the files, as the model names them, that its tensors lie in, sorted."""
    import onnx

    external = onnx.TensorProto.EXTERNAL
    return sorted(
        {
            entry.value
            for tensor in _all_tensors(model)
            if tensor.data_location == external
            for entry in tensor.external_data
            if entry.key == "location"
        }
    )


def _all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor that the model holds: initializers of all graphs, and attributes."""
    yield from _initializers(model.graph)
    for node in all_nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _initializers(attribute.g)
            for graph in attribute.graphs:
                yield from _initializers(graph)


def _initializers(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices


def _unreadable_weights(path: Path, error: Exception) -> InvalidModelError:
    return InvalidModelError(
        f"'{path}' keeps weights in a file of its own that cannot be read: {str(error).rstrip('.')}. Keep that file "
        "beside it."
    )


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node of the graph, of its subgraphs and of the model's functions."""
    yield from _nodes_of(model.graph.node)
    for function in model.functions:
        yield from _nodes_of(function.node)


def _nodes_of(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes_of(attribute.g.node)
            for graph in attribute.graphs:
                yield from _nodes_of(graph.node)


def numpy_dtype(element_type: int, what: str) -> np.dtype[Any]:
    """Return the NumPy dtype of an ONNX element type (``ml_dtypes`` ones for bfloat16 and narrower).

    Raises:
        UnsupportedError: if NumPy has none.
    """
    import onnx

    try:
        return onnx.helper.tensor_dtype_to_np_dtype(element_type)
    except (KeyError, ValueError) as error:
        raise UnsupportedError(
            f"{what} has the ONNX element type {element_type}, which NumPy does not have."
        ) from error


def tensor_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    """Return name, dtype and shape of a graph's input or output.

    Raises:
        UnsupportedError: if it is no dense tensor (a sequence, say).
    """
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise UnsupportedError(
            describe(f"type of '{value.name}'", expected="a dense tensor", actual=kind or "no type at all")
        )
    tensor = value.type.tensor_type
    shape: tuple[int | str | None, ...] | None = None
    if tensor.HasField("shape"):
        shape = tuple(
            dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None) for dim in tensor.shape.dim
        )
    return TensorSpec(value.name, numpy_dtype(tensor.elem_type, f"'{value.name}'"), shape)


def input_specs(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """Return the graph's inputs without those that an initializer fills."""
    filled = {tensor.name for tensor in model.graph.initializer}
    filled |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    return tuple(tensor_spec(value) for value in model.graph.input if value.name not in filled)


def intermediate_names(model: onnx.ModelProto) -> list[str]:
    """Return the names of what the nodes of the top graph compute, in order, without the graph's outputs.

    Constants are left out: they are the same in every runtime.
    """
    outputs = {value.name for value in model.graph.output}
    return [
        name
        for node in model.graph.node
        if node.op_type != "Constant" or node.domain not in ("", "ai.onnx")
        for name in node.output
        if name and name not in outputs
    ]
