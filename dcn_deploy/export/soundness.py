"""What makes a model unusable whatever its operators are: values that nothing makes, circles, weights that lack bytes.

Only the graph is walked: weights are looked at by their sizes, and files of weights are not read.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dcn_deploy.errors import InvalidModelError, describe
from dcn_deploy.export import model_files
from dcn_deploy.export.node_reading import dtype_name, label

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

#: What to do about the problems of :func:`graph_problems`.
GRAPH_REMEDY = "Export the network again: the tool that last wrote the file has left it broken."
#: What to do about the problems of :func:`weight_problems`.
WEIGHT_REMEDY = (
    "Copy the .onnx file again, with the files of its weights beside it, from where it was written, or export the "
    "network again."
)


class Problem(NamedTuple):
    """One thing that is wrong.

    Attributes:
        node: name of the node; empty for the model as a whole.
        message: what is wrong.
    """

    node: str
    message: str


def load_sound(model: onnx.ModelProto | ir.Model | str | os.PathLike[str]) -> ir.Model:
    """Return a model of its own that may be changed, see :func:`dcn_deploy.export.model_files.load`, if it is sound.

    Raises:
        InvalidModelError: if the file cannot be read, or the model is broken.
    """
    loaded = model_files.load(model)
    what = f"'{model}'" if isinstance(model, (str, os.PathLike)) else "the model"
    for problems, remedy in ((graph_problems(loaded), GRAPH_REMEDY), (weight_problems(loaded), WEIGHT_REMEDY)):
        problem = next(problems, None)
        if problem is not None:
            where = f"node '{problem.node}': " if problem.node else ""
            raise InvalidModelError(f"{what} is broken: {where}{problem.message} {remedy}")
    return loaded


# ---- the graph ----


def graph_problems(model: ir.Model) -> Iterator[Problem]:
    """Yield values that are used but that nothing makes, and nodes that wait for each other."""
    owners: dict[ir.Graph | ir.Function, ir.Node] = {}
    position: dict[ir.Node, int] = {}
    for place, node in enumerate(model_files.all_nodes(model)):
        position[node] = place
        owners.update((graph, node) for graph in _attached(node))
    for node in position:
        for index, value in enumerate(node.inputs):
            if value is not None and value.name and not _is_made(value):
                yield Problem(
                    label(node),
                    describe(
                        f"input {index}",
                        expected="a value that a node makes, or an input or initializer of the graph",
                        actual=f"'{value.name}', which is neither",
                    ),
                )
    for graph in model_files.all_graphs(model):
        for value in graph.outputs:
            if not _is_made(value) and not _is_made_around(value.name, graph, owners):
                whose = "the graph" if graph is model.graph else f"'{graph.name}'"
                yield Problem("", f"no node makes '{value.name}', an output of {whose}.")
    yield from _circles(position, owners)


def _attached(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the subgraphs of a node, without those inside them."""
    import onnx_ir as ir

    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.value
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.value


def _is_made(value: ir.Value) -> bool:
    return value.producer() is not None or value.is_graph_input() or value.is_initializer()


def _is_made_around(
    name: str | None, graph: ir.Graph | ir.Function, owners: dict[ir.Graph | ir.Function, ir.Node]
) -> bool:
    """Whether a graph around a subgraph has a value of that name, which some tools hand through as an output."""
    while (owner := owners.get(graph)) is not None and owner.graph is not None:
        graph = owner.graph
        made = (value for node in graph for value in node.outputs)
        if name in graph.initializers or any(value.name == name for value in (*graph.inputs, *made)):
            return True
    return False


def _circles(position: dict[ir.Node, int], owners: dict[ir.Graph | ir.Function, ir.Node]) -> Iterator[Problem]:
    """Yield the first circle that is found by following nodes to those that they wait for."""
    # Only edges against the order of the file can close a circle; in a file in order there are none.
    waits: dict[ir.Node, dict[ir.Node, None]] = {}
    in_order = True
    for node in position:
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if producer is None or producer not in position:
                continue
            waiting: ir.Node | None = node
            while waiting is not None and waiting.graph is not producer.graph:
                waiting = None if waiting.graph is None else owners.get(waiting.graph)
            if waiting is not None:
                waits.setdefault(waiting, {})[producer] = None
                in_order = in_order and position[producer] < position[waiting]
    if in_order:
        return
    done: set[ir.Node] = set()
    for start in waits:
        path: dict[ir.Node, Iterator[ir.Node]] = {start: iter(waits[start])} if start not in done else {}
        while path:
            node = next(reversed(path))
            following = next(path[node], None)
            if following is None:
                del path[node]
                done.add(node)
            elif following in path:
                members = list(path)[list(path).index(following) :]
                yield Problem(label(following), f"its inputs depend on its own output, through {_names(members)}.")
                return
            elif following not in done:
                path[following] = iter(waits.get(following, {}))


def _names(nodes: Collection[ir.Node]) -> str:
    shown = [f"'{label(node)}'" for node in nodes][:4]
    return " → ".join(shown) + (" → …" if len(nodes) > len(shown) else "")


# ---- weights ----


def weight_problems(model: ir.Model) -> Iterator[Problem]:
    """Yield weights with fewer or more bytes than their shape and type need, one problem for a file of weights.

    Files in no known folder, those of a protocol buffer that was given by itself, are left alone.
    """
    import onnx_ir as ir

    in_files: dict[str, list[str]] = {}
    for tensor in model_files.all_tensors(model):
        if not isinstance(tensor, ir.ExternalTensor):
            problem = _of_inside(tensor)
            if problem:
                yield Problem("", f"weight '{tensor.name}'{problem}")
        elif tensor.base_dir and (problem := _of_outside(tensor)):
            in_files.setdefault(tensor.path, []).append(f"weight '{tensor.name}'{problem}")
    for problems in in_files.values():
        others = f" The same goes for {len(problems) - 1} more of that file's weights." if len(problems) > 1 else ""
        yield Problem("", problems[0] + others)


def _of_inside(tensor: ir.TensorProtocol) -> str:
    import onnx_ir as ir

    if not isinstance(tensor, ir.serde.TensorProtoTensor) or tensor.dtype == ir.DataType.STRING:
        return ""
    if tensor.raw.HasField("raw_data"):
        found = len(tensor.raw.raw_data)
        return "" if found == tensor.nbytes else f"{_wanted(tensor)}, got {found} bytes."
    try:
        tensor.numpy()
    except Exception as error:  # NumPy's and onnx_ir's own, for the many ways to store a number
        return f"{_wanted(tensor)}, got others ({error})."
    return ""


def _of_outside(tensor: ir.ExternalTensor) -> str:
    path = Path(tensor.path)
    try:
        size = path.stat().st_size
    except OSError as error:
        return f"{_wanted(tensor)} in '{path}', got no such file ({error.strerror})."
    if tensor.length and tensor.length != tensor.nbytes:
        return f"{_wanted(tensor)}, got a reference to {tensor.length} bytes of '{path}'."
    start = tensor.offset or 0
    if start + tensor.nbytes > size:
        return f"{_wanted(tensor)} from byte {start} on in '{path}', got a file of {size} bytes."
    try:
        tensor.numpy()  # maps the file, and looks before where its path leads
    except (OSError, ValueError) as error:
        return f"{_wanted(tensor)} in '{path}', got a file that is not read: {str(error).rstrip('.')}."
    tensor.release()
    return ""


def _wanted(tensor: ir.TensorProtocol) -> str:
    extents = "×".join(str(extent) for extent in tensor.shape.numpy()) or "scalar"
    return f" ({dtype_name(tensor.dtype)} {extents}): expected {tensor.nbytes} bytes"
