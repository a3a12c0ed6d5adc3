"""ONNX models in memory and on disk."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

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
        try:
            return _from_proto(model)
        except Exception as error:  # onnx_ir has many errors of its own
            raise InvalidModelError(f"The model cannot be read as an ONNX model ({_reason(error)}).") from error
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
        loaded = _from_proto(proto)
        set_data_folder(loaded, path.parent)
    except Exception as error:  # protobuf, onnx_ir and the file system each have errors of their own
        raise InvalidModelError(
            f"'{path}' cannot be read as an ONNX model ({_reason(error)}). Expected a binary .onnx file."
        ) from error
    if not loaded.graph.outputs:
        raise InvalidModelError(f"'{path}' cannot be read as an ONNX model: its graph has no outputs.")
    _check_readable(proto, f"'{path}'")
    return loaded


def _from_proto(proto: onnx.ModelProto) -> ir.Model:
    import onnx_ir as ir

    with silenced():
        return ir.from_proto(proto)


def _reason(error: BaseException) -> str:
    """Return the text of the error at the root: those above it only say what was being read."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@contextmanager
def silenced() -> Iterator[None]:
    """Keep the libraries' own remarks from standard error: what matters of them is found and said here."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


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
    """Return the model as a protocol buffer that holds the weights of the file that it was read from.

    Weights that were references in a protocol buffer given to :func:`load`, of a file in no known folder, remain so.

    Raises:
        UnsupportedError: if they do not fit into one.
    """
    import onnx_ir as ir

    if any(_is_in_known_file(tensor) for tensor in all_tensors(model)):
        size = weight_bytes(model)
        if size > EXTERNAL_DATA_THRESHOLD:
            raise UnsupportedError(
                describe(
                    "weights of a model in memory",
                    expected=f"at most {EXTERNAL_DATA_THRESHOLD} bytes, which a protocol buffer can hold",
                    actual=f"{size} bytes",
                    remedy="Convert from file to file: dcn-deploy convert, or dcn_deploy.export.convert_file.",
                )
            )
        read_weights(model)
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

    read_weights(model, keep=model.graph.initializers.values())
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
    # A tensor of the source's data file is streamed whatever its size: anything else would leave a reference to it.
    streamed = [
        tensor is not None
        and (tensor.nbytes >= _STREAMED_BYTES or isinstance(tensor, ir.ExternalTensor))
        and tensor.dtype != ir.DataType.STRING
        for tensor in tensors
    ]
    try:
        for value, stream in zip(values, streamed, strict=True):
            if stream:
                value.const_value = ir.tensor(np.zeros(0, np.float32), name=value.name)
        proto = ir.to_proto(model)
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
            if isinstance(tensor, ir.ExternalTensor):
                tensor.tofile(file)  # tobytes() would keep a mapping, and with it a file handle, for every tensor
            elif tensor is not None:
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


def read_weights(model: ir.Model, keep: Iterable[ir.Value] = ()) -> None:
    """Read tensors that lie in the source's data files into memory.

    Args:
        model: the model; it is changed.
        keep: initializers that may stay where they are.
    """
    import onnx_ir as ir

    kept = {id(value) for value in keep}
    for graph in all_graphs(model):
        for value in graph.initializers.values():
            if id(value) not in kept and _is_in_known_file(value.const_value):
                value.const_value = _in_memory(value.const_value)
    for node in all_nodes(model):
        for name, attribute in list(node.attributes.items()):
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.TENSOR and _is_in_known_file(attribute.value):
                node.attributes[name] = ir.AttrTensor(name, _in_memory(attribute.value))
            elif attribute.type == ir.AttributeType.TENSORS and any(map(_is_in_known_file, attribute.value)):
                tensors = [_in_memory(item) if _is_in_known_file(item) else item for item in attribute.value]
                node.attributes[name] = ir.AttrTensors(name, tensors)


def data_folder(model: ir.Model) -> str | os.PathLike[str] | None:
    """Return the folder of the data files that the model's tensors lie in; None if that is none or not known."""
    found = (tensor for tensor in all_tensors(model) if _is_in_known_file(tensor))
    return getattr(next(found, None), "base_dir", None)


def set_data_folder(model: ir.Model, folder: str | os.PathLike[str] | None) -> None:
    """Say where the data files of the model's tensors are; None leaves that as it is."""
    import onnx_ir as ir

    for tensor in all_tensors(model):
        if folder is not None and isinstance(tensor, ir.ExternalTensor):
            tensor.base_dir = folder


def _is_in_known_file(tensor: ir.TensorProtocol | None) -> TypeGuard[ir.ExternalTensor]:
    import onnx_ir as ir

    return isinstance(tensor, ir.ExternalTensor) and bool(tensor.base_dir)


def _in_memory(tensor: ir.ExternalTensor) -> ir.TensorProtocol:
    import onnx_ir as ir

    read = ir.Tensor(
        tensor.numpy().copy(),
        dtype=tensor.dtype,
        shape=tensor.shape,
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )
    tensor.release()  # the mapping holds a file handle
    return read


def all_graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """Yield the main graph, its subgraphs and those of the model's functions."""
    yield from model.graphs()
    for function in model.functions.values():
        yield function.graph
        yield from function.subgraphs()


def all_tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Yield every constant: initializers and attributes, those of subgraphs and functions too."""
    import onnx_ir as ir

    for graph in all_graphs(model):
        yield from (value.const_value for value in graph.initializers.values() if value.const_value is not None)
    for node in all_nodes(model):
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.TENSOR:
                yield attribute.value
            elif attribute.type == ir.AttributeType.TENSORS:
                yield from attribute.value


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
