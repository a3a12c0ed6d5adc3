"""Nodes of a network that stay in float32 when the others become half.

Three kinds: what says where deformable nodes sample (for ``mixed``), arithmetic on extents and indices, and what has a
constant that float16 cannot hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from typing import TYPE_CHECKING, Any

from dcn_deploy.export.node_reading import constant_of, dtype_of, schema_of
from dcn_deploy.export.operators import OPERATOR_EXPORTS

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
_LARGEST_FLOAT16 = 65504.0
# Below it float16 loses bits, and everything below 2⁻²⁵.
_SMALLEST_NORMAL_FLOAT16 = 2.0**-14

# Floating-point inputs that are extents or steps, by position. All others of that kind are integers: behind a Cast.
_EXTENTS = {"Resize": frozenset({1, 2}), "Upsample": frozenset({1}), "Range": frozenset({0, 1, 2})}
# They make features. An index computed from features is as good as those, so the way back ends here.
_FEATURES = frozenset({"Attention", "Conv", "ConvTranspose", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "RNN"})
# A small divisor goes through these unchanged, or not far from it, to where it is used.
_CARRIERS = frozenset(
    {
        *("Cast", "CastLike", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Tile"),
        *("Transpose", "Unsqueeze"),
        *("Reciprocal", "Sqrt"),
    }
)


def coordinate_positions(node: ir.Node) -> frozenset[int]:
    """Positions of the inputs that say where a deformable node samples, and how much."""
    schema = schema_of(node)
    if schema is None:
        return frozenset()
    names = OPERATOR_EXPORTS[schema.op_type].coordinate_inputs
    return frozenset(i for i, declared in enumerate(schema.inputs) if declared.name in names)


def extent_positions(node: ir.Node) -> frozenset[int]:
    """Positions of the floating-point inputs that are extents or steps."""
    return frozenset() if node.domain else _EXTENTS.get(node.op_type, frozenset())


def branch(graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes of a graph whose results go into coordinate inputs and nowhere else."""
    inside: set[ir.Node] = set()
    for node in reversed(list(graph)):
        uses = [use for value in node.outputs for use in value.uses()]
        if not uses or schema_of(node) is not None or any(value.is_graph_output() for value in node.outputs):
            continue
        if all(use.node in inside or use.idx in coordinate_positions(use.node) for use in uses):
            inside.add(node)
    return inside


def index_arithmetic(nodes: Sequence[ir.Node], others: Set[ir.Node] = frozenset()) -> set[ir.Node]:
    """Return the nodes that compute extents or indices in floating point: what leads to integers or to ``scales``.

    The Casts to integers at their end are among them, since they read what must not be rounded. Where a node
    sees integers and constants alone, one such use is enough; elsewhere it must have no other.

    Args:
        nodes: of the graph and its subgraphs, each after those whose results it uses.
        others: nodes that stay in float32 in any case.
    """
    free = _free_of_features(nodes)
    inside: set[ir.Node] = set()
    for node in reversed(nodes):
        if node.op_type in _FEATURES or schema_of(node) is not None:
            continue
        results = [value for value in node.outputs if _is_float(value)]
        uses = [use for value in results for use in value.uses()]
        leads = [use.node in inside or _is_index_use(use.node, use.idx) for use in uses]
        casts = {use.node for use in uses if _is_cast_to_integer(use.node, use.idx)}
        if not any(leads):
            continue
        kept = all(lead or use.node in others for lead, use in zip(leads, uses, strict=True))
        if node in free or (kept and not any(value.is_graph_output() for value in results)):
            inside |= {node, *casts}
    return inside


def beyond_float16(nodes: Sequence[ir.Node]) -> set[ir.Node]:
    """Return the nodes with finite constants beyond float16's largest number, or with one below its smallest.

    Small ones count where they have one element (an epsilon; small weights are nothing unusual), and they keep what
    uses the node's result as well: rounded behind the node, 1e-12 would be 0 all the same.
    """
    kept: set[ir.Node] = set()
    for node in nodes:
        for value in node.inputs:
            if value is None:
                continue
            if _overflows(value):
                kept.add(node)
            if _underflows(value):
                kept |= _with_consumers(value)
    return kept & set(nodes)


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and dtype_of(value) in FLOATS


def _is_cast_to_integer(node: ir.Node, position: int) -> bool:
    if node.domain or node.op_type not in ("Cast", "CastLike"):
        return False
    return position == 0 and (dtype_of(node.outputs[0]) or "").startswith(("int", "uint"))


def _is_index_use(node: ir.Node, position: int) -> bool:
    return _is_cast_to_integer(node, position) or position in extent_positions(node)


def _free_of_features(nodes: Iterable[ir.Node]) -> set[ir.Node]:
    """Return the nodes whose floating-point inputs, if any, come from integers and constants."""
    free: set[ir.Node] = set()
    for node in nodes:
        floats = [value for value in node.inputs if value is not None and _is_float(value)]
        if all(constant_of(value) is not None or value.producer() in free for value in floats):
            free.add(node)
    return free


def _users(value: ir.Value) -> Iterator[ir.Node]:
    """Yield what uses a value: directly, and through nodes that only carry it on, which are yielded too."""
    for node in {use.node for use in value.uses()}:
        yield node
        if node.op_type in _CARRIERS:
            for result in node.outputs:
                yield from _users(result)


def _with_consumers(constant: ir.Value) -> set[ir.Node]:
    users = set(_users(constant))
    results = [value for node in users if node.op_type not in _CARRIERS for value in node.outputs]
    return users.union(*(_users(value) for value in results))


def _magnitudes(value: ir.Value) -> np.ndarray[Any, Any]:
    """Return the absolute values of a constant that are finite, if its type goes beyond float16."""
    import numpy as np
    import onnx_ir as ir

    tensor = constant_of(value)
    if tensor is None or tensor.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.BFLOAT16):
        return np.zeros(0)
    array = np.abs(tensor.numpy().astype(np.float64)).reshape(-1)
    return array[np.isfinite(array)]


def _overflows(value: ir.Value) -> bool:
    return bool((_magnitudes(value) > _LARGEST_FLOAT16).any())


def _underflows(value: ir.Value) -> bool:
    tensor = constant_of(value)
    numbers = _magnitudes(value) if tensor is not None and tensor.size == 1 else ()
    return any(0 < number < _SMALLEST_NORMAL_FLOAT16 for number in numbers)
