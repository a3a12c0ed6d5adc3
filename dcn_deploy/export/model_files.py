"""ONNX models in memory and on disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcn_deploy._lazy import require
from dcn_deploy.errors import InvalidArgumentError, InvalidModelError, UnsupportedError, describe

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir
    from rich.console import RenderableType

#: A protocol buffer cannot be larger than 2 GiB; some room is left for what is not weights.
EXTERNAL_DATA_THRESHOLD = 2 * 1024**3 - 64 * 1024**2
#: Highest IR version that the oldest supported runtime (ONNX Runtime 1.21) reads.
IR_VERSION = 10


def load(model: onnx.ModelProto | ir.Model | str | os.PathLike[str]) -> ir.Model:
    """Return a model of its own that may be changed; a path is read without copying its weights.

    Raises:
        InvalidModelError: if the file is missing or is not an ONNX model.
    """
    require("onnx", "dcn_deploy.export")
    require("onnx_ir", "dcn_deploy.export")
    import onnx
    import onnx_ir as ir

    if isinstance(model, ir.Model):
        return model
    if isinstance(model, onnx.ModelProto):
        _check_readable(model, "the model")
        return ir.from_proto(model)
    if not isinstance(model, (str, os.PathLike)):
        raise InvalidArgumentError(
            describe("model", expected="an onnx.ModelProto or a path", actual=type(model).__name__)
        )
    path = Path(model)
    if not path.is_file():
        raise InvalidModelError(
            describe("model", expected="the path of an ONNX file", actual=f"'{path}', which is not a file")
        )
    try:
        proto = onnx.load(path, load_external_data=False)
        loaded = ir.from_proto(proto)
        ir.external_data.set_base_dir(loaded.graph, path.parent)
    except Exception as error:  # protobuf, onnx_ir and the file system each have errors of their own
        raise InvalidModelError(
            f"'{path}' cannot be read as an ONNX model ({type(error).__name__}: {error}). Expected a binary .onnx file."
        ) from error
    if not loaded.graph.outputs:
        raise InvalidModelError(f"'{path}' cannot be read as an ONNX model: its graph has no outputs.")
    _check_readable(proto, f"'{path}'")
    return loaded


def _check_readable(model: onnx.ModelProto, what: str) -> None:
    """Raise for what onnx_ir would drop without a word."""
    dropped = [
        name
        for name, entries in (
            ("sparse initializers", model.graph.sparse_initializer),
            ("training information", model.training_info),
        )
        if entries
    ]
    if dropped:
        raise UnsupportedError(
            f"{what} has {' and '.join(dropped)}, which this package would lose. Export the network again without them."
        )


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """Return the model as a protocol buffer."""
    import onnx_ir as ir

    return ir.to_proto(model)


def check_output_path(path: str | os.PathLike[str], what: str = "path") -> Path:
    """Return the path to write a model to.

    Raises:
        InvalidArgumentError: if it does not end in ``.onnx``, its folder does not exist, or it is a folder.
    """
    result = Path(path)
    if result.suffix != ".onnx":
        raise InvalidArgumentError(describe(what, expected="a file name ending in .onnx", actual=f"'{result}'"))
    if not result.parent.is_dir():
        raise InvalidArgumentError(
            describe(
                what,
                expected="a file in an existing folder",
                actual=f"'{result}'",
                remedy=f"Create the folder: mkdir -p '{result.parent}'",
            )
        )
    if result.is_dir():
        raise InvalidArgumentError(describe(what, expected="a file", actual=f"the folder '{result}'"))
    return result


def weight_bytes(model: ir.Model) -> int:
    """Return the size in bytes of all initializers."""
    return sum(
        value.const_value.nbytes
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    )


def save(model: ir.Model, path: Path, *, external_data: bool | None = None) -> Path | None:
    """Write a model; an existing file is replaced only once the new one is complete.

    Args:
        model: the model.
        path: where to; see :func:`check_output_path`.
        external_data: put weights into ``<path>.data`` beside it; None does so if the model would not fit
            into one file (2 GiB).

    Returns:
        The path of the data file, None if there is none.
    """
    import onnx_ir as ir

    _load_scattered_tensors(model)
    if external_data is None:
        external_data = weight_bytes(model) > EXTERNAL_DATA_THRESHOLD
    data_name = f"{path.name}.data"
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        partial = Path(folder) / path.name
        if external_data:
            ir.save(model, partial, external_data=data_name)
        else:
            _save_in_one_file(model, partial)
        if external_data and (Path(folder) / data_name).is_file():
            os.replace(Path(folder) / data_name, path.parent / data_name)
        os.replace(partial, path)
    return path.parent / data_name if external_data else None


# Numbers of fields in onnx.proto, which never change.
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = 7, 5, 9
_STREAMED_BYTES = 1024


def _save_in_one_file(model: ir.Model, path: Path) -> None:
    """Write a model with its weights inside, each straight from where it lies.

    The file is what protobuf's own serialisation gives, except that the graph's initializers come last: by that way
    every weight would be copied twice in memory before it is written.
    """
    import numpy as np
    import onnx_ir as ir

    values = list(model.graph.initializers.values())
    tensors = [value.const_value for value in values]
    streamed = [
        tensor is not None and tensor.nbytes >= _STREAMED_BYTES and tensor.dtype != ir.DataType.STRING
        for tensor in tensors
    ]
    try:
        for value, stream in zip(values, streamed, strict=True):
            if stream:
                value.const_value = ir.tensor(np.zeros(0, np.float32), name=value.name)
        proto = to_proto(model)
    finally:
        for value, tensor in zip(values, tensors, strict=True):
            value.const_value = tensor
    written = {tensor.name: tensor.SerializeToString() for tensor in proto.graph.initializer}
    del proto.graph.initializer[:]
    pieces: list[tuple[bytes, ir.TensorProtocol | None]] = [(proto.graph.SerializeToString(), None)]
    for value, tensor, stream in zip(values, tensors, streamed, strict=True):
        if tensor is None:
            continue
        head = written[value.name or ""]
        if stream:
            head = _tensor_head(tensor, value.name or "") + _field(_TENSOR_RAW_DATA, tensor.nbytes)
        length = len(head) + (tensor.nbytes if stream else 0)
        pieces.append((_field(_GRAPH_INITIALIZER, length) + head, tensor if stream else None))
    proto.ClearField("graph")
    size = sum(len(head) + (0 if tensor is None else tensor.nbytes) for head, tensor in pieces)
    with path.open("wb") as file:
        file.write(proto.SerializeToString() + _field(_MODEL_GRAPH, size))
        for head, tensor in pieces:
            file.write(head)
            if tensor is not None:
                file.write(tensor.tobytes())


def _tensor_head(tensor: ir.TensorProtocol, name: str) -> bytes:
    import onnx

    head = onnx.TensorProto(
        name=name,
        data_type=int(tensor.dtype),
        dims=[int(extent) for extent in tensor.shape.numpy()],
        doc_string=tensor.doc_string or "",
    )
    for key, text in tensor.metadata_props.items():
        head.metadata_props.add(key=key, value=text)
    return bytes(head.SerializeToString())


def _field(number: int, length: int) -> bytes:
    """Return the beginning of a length-delimited field of a protocol buffer."""
    varint = bytearray([number << 3 | 2])
    while length >= 0x80:
        varint.append(length & 0x7F | 0x80)
        length >>= 7
    varint.append(length)
    return bytes(varint)


def _load_scattered_tensors(model: ir.Model) -> None:
    """Read tensors that lie in external files of the source but are not initializers of the main graph."""
    import onnx_ir as ir

    subgraphs = (graph for graph in model.graphs() if graph is not model.graph)
    in_subgraphs = (value.const_value for graph in subgraphs for value in graph.initializers.values())
    in_attributes = (
        attribute.value
        for node in all_nodes(model)
        for attribute in node.attributes.values()
        if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref()
    )
    if any(isinstance(tensor, ir.ExternalTensor) for tensor in (*in_subgraphs, *in_attributes)):
        ir.external_data.load_to_model(model)


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yield every node: of the main graph, its subgraphs and the model's functions."""
    import onnx_ir as ir

    yield from ir.traversal.RecursiveGraphIterator(model.graph)
    for function in model.functions.values():
        yield from ir.traversal.RecursiveGraphIterator(function)


def summary(written: Mapping[str, Any]) -> RenderableType:
    """Return a two-column table of what was written, nested entries on lines of their own."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in written.items():
        if isinstance(value, Mapping):
            for key, item in value.items():
                text = "×".join(map(str, item)) if isinstance(item, (list, tuple)) else str(item)
                table.add_row(f"{name}.{key}", escape(text))
        elif value is not None:
            table.add_row(name, escape(str(value)))
    return table
