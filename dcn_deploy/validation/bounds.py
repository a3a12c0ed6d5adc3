"""The error that each tensor of an ONNX graph may have, from the table of tolerances.

Walks the graph once. Every node with a sum of products, and every node that samples, is a layer with the limit of
its row; the limit of a tensor follows from the layers before it by the rule for networks. The nodes of a decomposed
RoI pooling are one layer together, which its last node stands for: single ones have results that jump (the number of a
pixel, say), so that no figure bounds their errors. The decomposed convolution samples with one ``GridSample``, a layer
like others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dcn_deploy.schema import DEFORM_ROI_POOL2D
from dcn_deploy.validation.expansions import Expanded, expanded_operators
from dcn_deploy.validation.tolerances import DECOMPOSED_ROI_POOL, DENSE, lookup, network_limit, offset_error

if TYPE_CHECKING:
    import onnx

#: Operators of the ONNX standard that are a plain sum of products: rows of the kind "dense".
_DENSE = frozenset({"Attention", "Conv", "ConvTranspose", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "RNN"})
#: Operators that sample a map at real coordinates: rows of their own.
#: Their values: the input that says where.
_SAMPLING = {"DeformConv": 2, "DeformConv2d": 2, "DeformRoIPool2d": 2, "GridSample": 1}


@dataclass(frozen=True)
class Layer:
    """One node that the limit of what follows depends on.

    Attributes:
        operator: op_type, or a name that the table has for several: ``"dense"``, RoI pooling in decomposed form.
        dtype: element type that it stores.
        extent: (H, W) of the map that it samples; None if it samples none.
        offset_dtype: element type that the branch stores which predicts where it samples; None if the positions
            are given or there are none.
    """

    operator: str
    dtype: str
    extent: tuple[int, int] | None
    offset_dtype: str | None = None

    def limit(self, backend: str, dtype: str | None = None, *, tf32: bool = False) -> float:
        """Return the limit of this layer alone, its branch included; ``dtype`` replaces its own element types.

        ``tf32`` says that float32 products may be rounded to TF32.

        Raises:
            InvalidArgumentError: if the table has no row for the element type.
        """
        own = lookup(self.operator, row_of(dtype or self.dtype, tf32), backend).at(self.extent)
        if self.offset_dtype is None:
            return own
        branch = lookup(DENSE, row_of(dtype or self.offset_dtype, tf32), backend)
        return math.hypot(own, offset_error(branch.relative_rms))


def row_of(dtype: str, tf32: bool) -> str:
    """Return the table's name of what is stored as ``dtype`` and multiplied with or without TF32."""
    return "tf32" if tf32 and dtype == "float32" else dtype


class Bounds:
    """Limits of the tensors of one graph.

    Args:
        model: the graph. Its weights are not looked at, so external data need not be loaded.
        largest_map: (H, W) to assume for a sampled map whose extents the file leaves open; None takes the
            largest height and width among the graph's inputs of rank 4 that are fixed.

    Attributes:
        layers: in the order of the graph.
        inner: tensors inside a decomposed RoI pooling, which have no limit of their own.
    """

    def __init__(self, model: onnx.ModelProto, largest_map: tuple[int, int] | None = None) -> None:
        graph = model.graph
        self._shapes = _Types(graph)
        self.largest_map = largest_map or self._shapes.largest_map(value.name for value in graph.input)
        self.layers: list[Layer] = []
        pools = [each for each in expanded_operators(graph.node) if each.op_type == DEFORM_ROI_POOL2D.op_type]
        self._pools = {each.output: each for each in pools}
        self.inner: frozenset[str] = frozenset[str]().union(*(each.inner for each in pools))
        # A set of layers is an integer with one bit a layer: union is one machine operation a word.
        self._behind: dict[str, int] = {}
        for node in graph.node:
            mask = 0
            for name in node.input:
                mask |= self._behind.get(name, 0)
            layer = self._layer(node)
            if layer is not None:
                layer = replace(layer, offset_dtype=self._offset_dtype(node))
                mask |= 1 << len(self.layers)
                self.layers.append(layer)
            for name in node.output:
                self._behind[name] = mask

    def layers_before(self, tensor: str) -> list[Layer]:
        """Return the layers that ``tensor`` depends on; all of the graph's if it has no tensor of that name."""
        mask = self._behind.get(tensor, (1 << len(self.layers)) - 1)
        return [layer for index, layer in enumerate(self.layers) if mask >> index & 1]

    def limit(self, tensor: str, backend: str, dtype: str | None = None, *, tf32: bool = False) -> float:
        """Return the largest relative RMS error of ``tensor`` as computed by ``backend``.

        Args:
            tensor: name of a tensor of the graph.
            backend: name of the backend.
            dtype: element type that every layer stores, instead of the file's own (the network that the file
                was made from, in float32, say).
            tf32: whether the backend may round float32 products to TF32.

        Raises:
            InvalidArgumentError: if a layer stores an element type that the table has no row for.
        """
        return network_limit(layer.limit(backend, dtype, tf32=tf32) for layer in self.layers_before(tensor))

    def limit_of(self, nodes: Iterable[onnx.NodeProto], backend: str, *, tf32: bool = False) -> float:
        """Return the same for a few nodes run on exact inputs, without what lies before them."""
        layers = [layer for layer in map(self._layer, nodes) if layer is not None]
        return network_limit(layer.limit(backend, tf32=tf32) for layer in layers)

    def _offset_dtype(self, node: onnx.NodeProto) -> str | None:
        """Return what the last layer before a node's offset stores; None if nothing computed it."""
        pool = self._pools.get(node.output[0])
        if pool is not None:
            offset = pool.inputs.get("offset", "")
        else:
            place = _SAMPLING.get(node.op_type, len(node.input))
            offset = node.input[place] if place < len(node.input) else ""
        mask = self._behind.get(offset, 0)
        return self.layers[mask.bit_length() - 1].dtype if mask else None

    def _layer(self, node: onnx.NodeProto) -> Layer | None:
        if node.output[0] in self.inner:
            return None
        if node.output[0] in self._pools:
            return self._decomposed(self._pools[node.output[0]])
        if node.op_type in _SAMPLING:
            return Layer(node.op_type, self._dtype(node), self._shapes.extent(node.input[0]) or self.largest_map)
        return Layer(DENSE, self._dtype(node), None) if node.op_type in _DENSE else None

    def _decomposed(self, pool: Expanded) -> Layer:
        dtype = pool.dtypes.get("X") or self._shapes.dtypes.get(pool.output, self._shapes.default_dtype)
        extent = self._shapes.extent(pool.inputs.get("X", "")) or fixed_extent(pool.shapes.get("X"))
        return Layer(DECOMPOSED_ROI_POOL, dtype, extent or self.largest_map)

    def _dtype(self, node: onnx.NodeProto) -> str:
        for name in (*node.input[:2], *node.output):
            dtype = self._shapes.dtypes.get(name)
            if dtype is not None:
                return dtype
        return self._shapes.default_dtype


class _Types:
    """Element types and extents of tensors, as far as the file says them."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        from onnx import TensorProto

        names = {
            TensorProto.FLOAT: "float32",
            TensorProto.DOUBLE: "float64",
            TensorProto.FLOAT16: "float16",
            TensorProto.BFLOAT16: "bfloat16",
        }
        self.dtypes: dict[str, str] = {}
        self.shapes: dict[str, list[int | None]] = {}
        for value in (*graph.input, *graph.value_info, *graph.output):
            tensor = value.type.tensor_type
            if tensor.elem_type in names:
                self.dtypes[value.name] = names[tensor.elem_type]
            if tensor.HasField("shape"):
                self.shapes[value.name] = [
                    dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim
                ]
        for initializer in graph.initializer:
            if initializer.data_type in names:
                self.dtypes[initializer.name] = names[initializer.data_type]
        inputs = [self.dtypes[value.name] for value in graph.input if value.name in self.dtypes]
        self.default_dtype = inputs[0] if inputs else "float32"

    def extent(self, name: str) -> tuple[int, int] | None:
        """Return the fixed (H, W) of a tensor of rank 4."""
        return fixed_extent(self.shapes.get(name))

    def largest_map(self, names: Iterable[str]) -> tuple[int, int] | None:
        """Return the largest fixed height and the largest fixed width among tensors of rank 4."""
        extents = [extent for extent in map(self.extent, names) if extent is not None]
        if not extents:
            return None
        return (max(height for height, _ in extents), max(width for _, width in extents))


def fixed_extent(shape: Sequence[int | str | None] | None) -> tuple[int, int] | None:
    """Return (H, W) of a shape of rank 4 where both are numbers."""
    if shape is None or len(shape) != 4:
        return None
    height, width = shape[2:]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def largest_map_of(shapes: Iterable[tuple[int, ...]]) -> tuple[int, int] | None:
    """Return the largest height and the largest width among shapes of rank 4, None if there is none."""
    maps = [shape[2:] for shape in shapes if len(shape) == 4]
    if not maps:
        return None
    return (max(height for height, _ in maps), max(width for _, width in maps))
