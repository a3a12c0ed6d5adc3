"""Element types of a network: all of it in one type, or features half and what says where to sample in float32.

A node computes in one type, its *own*, as far as the ONNX standard lets it: the schema of its operator says which of
its inputs and outputs share a type, and which types that may be. What the standard fixes (``scales`` of ``Resize``)
stays as it is, and so does everything inside ``If``, ``Loop`` and ``Scan`` and at nodes of other projects. Where a
tensor is made in one type and needed in another, one Cast follows it; constants are converted themselves. The network's
inputs and outputs keep their types.

``mixed``: own type float16, but float32 for the coordinate inputs of deformable nodes (offset, mask, rois) and for
every node whose results go nowhere but there, which is the branch that predicts offsets and masks.

Arithmetic on extents and indices (what leads to a Cast to integers, or to ``scales``) stays float32 in every precision.
A constant with finite values beyond float16's largest, 65504, keeps the nodes that use it in float32; a single number
below float16's smallest normal one, 2⁻¹⁴, keeps what uses their results too. A constant that is an input of the graph
as well is a default, which the caller may override: it keeps its type, and a Cast follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from dcn_deploy.errors import InvalidArgumentError, describe
from dcn_deploy.export import onnx_schema
from dcn_deploy.export.float32_nodes import (
    FLOATS,
    beyond_float16,
    branch,
    coordinate_positions,
    extent_positions,
    index_arithmetic,
)
from dcn_deploy.export.node_reading import constant_of, dtype_of, label, schema_of, view_of
from dcn_deploy.export.operators.int8 import is_quantised
from dcn_deploy.export.unique_names import UniqueNames

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

#: fp32, fp16, bf16: every tensor. mixed: float16, and float32 for coordinates and what computes them.
Precision = Literal["fp32", "fp16", "bf16", "mixed"]
PRECISIONS: tuple[str, ...] = get_args(Precision)

_OWN = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "mixed": "float16"}
_WIDE = "float32"
# How the standard's type strings call them.
_IN_SCHEMA = {"float16": "float16", "bfloat16": "bfloat16", "float32": "float", "float64": "double"}


def check_precision(precision: str) -> None:
    """Raise for an unknown precision.

    Raises:
        InvalidArgumentError: naming those there are.
    """
    if precision not in PRECISIONS:
        raise InvalidArgumentError(
            describe("precision", expected=f"one of {', '.join(PRECISIONS)}", actual=repr(precision))
        )


def apply(model: ir.Model, precision: str) -> tuple[str, ...]:
    """Change the element types of a model in place.

    Args:
        model: its deformable nodes are of the form ``plugin``.
        precision: one of :data:`PRECISIONS`.

    Returns:
        Names of the nodes that stay in float32 because of a constant beyond float16, too large or too small.
    """
    from dcn_deploy.export.shape_inference import infer

    onnx_schema.register()
    infer(model)
    return _Pass(model, precision).run()


class _Pass:
    """One change of types. ``_needs`` and ``_gives`` hold the type of each input and output of each node."""

    def __init__(self, model: ir.Model, precision: str) -> None:
        self._model = model
        self._own = _OWN[precision]
        self._mixed = precision == "mixed"
        self._cast: dict[tuple[int, str], ir.Value] = {}
        self._names = UniqueNames(model)

    def run(self) -> tuple[str, ...]:
        """Change the model; see :func:`apply`."""
        import onnx_ir as ir

        graph = self._model.graph
        nodes = [node for each in self._model.graphs() for node in each]
        own = [node for node in graph if not _is_opaque(node, self._model)]
        wide = branch(graph) if self._mixed else set()
        wide |= index_arithmetic(nodes, wide)
        beyond = beyond_float16(own) if self._own == "float16" else set()
        wide |= beyond
        needs: dict[ir.Node, list[str | None]] = {}
        gives: dict[ir.Node, list[str | None]] = {}
        for node in nodes:
            typing = _Typing(node, self._model)
            if node.graph is graph and not _is_opaque(node, self._model):
                chosen = _WIDE if node in wide else self._own
                needs[node], gives[node] = typing.types(chosen, self._mixed)
            else:
                needs[node], gives[node] = typing.original()
        outputs = [(each, [dtype_of(value) for value in each.outputs]) for each in self._model.graphs()]
        for node in nodes:
            for value, dtype in zip(node.outputs, gives[node], strict=True):
                if dtype is not None and dtype != dtype_of(value):
                    value.dtype = _ir_type(dtype)
                    if _is_cast(node):
                        node.attributes.add(ir.AttrInt64("to", int(_ir_type(dtype))))
        for node in nodes:
            for position, dtype in enumerate(needs[node]):
                given = node.inputs[position]
                if given is not None and dtype is not None and dtype_of(given) != dtype:
                    node.replace_input_with(position, self._converted(given, dtype))
        for each, dtypes in outputs:
            for position, (value, dtype) in enumerate(zip(list(each.outputs), dtypes, strict=True)):
                if dtype is not None and dtype_of(value) != dtype:
                    # A subgraph may give what the graph around it made: then only its type is to be right.
                    each.outputs[position] = (
                        self._output(value, dtype) if each is graph else self._converted(value, dtype)
                    )
        _remove_idle_casts(graph)
        _remove_unused_constants(self._model)
        return tuple(label(node) for node in own if node in beyond)

    def _converted(self, value: ir.Value, dtype: str) -> ir.Value:
        """Return ``value`` in another type: a constant of that type, or the output of a Cast behind it."""
        key = (id(value), dtype)
        if key not in self._cast:
            constant = _constant_in(value, dtype)
            self._cast[key] = self._new_constant(value, constant) if constant else self._new_cast(value, dtype)
        return self._cast[key]

    def _new_constant(self, value: ir.Value, tensor: ir.TensorProtocol) -> ir.Value:
        import onnx_ir as ir

        name = self._names.new(f"{value.name}_{dtype_of(value)}_as_{tensor.dtype.name.lower()}")
        tensor.name = name
        made = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=value.shape, const_value=tensor)
        self._model.graph.register_initializer(made)
        return made

    def _new_cast(self, value: ir.Value, dtype: str) -> ir.Value:
        import onnx_ir as ir

        name = self._names.new(f"{value.name}_as_{dtype}")
        cast = ir.node("Cast", [value], attributes={"to": int(_ir_type(dtype))}, name=name)
        made = cast.outputs[0]
        made.name, made.dtype, made.shape = name, _ir_type(dtype), value.shape
        producer = value.producer()
        if producer is not None and producer.graph is not None:
            producer.graph.insert_after(producer, cast)
        else:
            first = next(iter(self._model.graph), None)
            assert first is not None
            self._model.graph.insert_before(first, cast)
        return made

    def _output(self, value: ir.Value, dtype: str) -> ir.Value:
        """Return a Cast of a graph output that takes over its name."""
        name = value.name
        value.name = self._names.new(f"{name}_{dtype_of(value)}")
        made = self._converted(value, dtype)
        made.name = name
        return made


class _Typing:
    """What the standard says about the types of one node's inputs and outputs."""

    def __init__(self, node: ir.Node, model: ir.Model) -> None:
        self._node = node
        self._schema = _schema(node, model)

    def original(self) -> tuple[list[str | None], list[str | None]]:
        """Types as they are in the file; None for what is not a float."""
        return [_float(value) for value in self._node.inputs], [_float(value) for value in self._node.outputs]

    def types(self, own: str, mixed: bool) -> tuple[list[str | None], list[str | None]]:
        """Types of inputs and outputs if the node computes in ``own``."""
        schema = self._schema
        needs, gives = self.original()
        if schema is None:
            return needs, gives
        coordinates, extents = coordinate_positions(self._node), extent_positions(self._node)
        ours = schema_of(self._node)
        quantised = ours is not None and is_quantised(view_of(self._node, ours))
        bound: dict[str, str] = {}
        for position, value in enumerate(self._node.inputs):
            variable = _variable(schema.inputs, position)
            if value is None or needs[position] is None or variable is None:
                continue
            if quantised and position not in coordinates:
                continue  # the bias beside int8 features
            wide = (mixed and position in coordinates) or position in extents
            chosen = _allowed(schema, variable, _WIDE if wide else own)
            if chosen is not None:
                needs[position] = bound[variable] = chosen
        for position in range(len(gives)):
            variable = _variable(schema.outputs, position)
            if gives[position] is not None and variable in bound:
                # A type that no input has (that of ConstantOfShape, say) is an attribute's, and stays.
                gives[position] = bound[variable]
        if ours is not None and not quantised:
            # Another variable in the schema, for the sake of int8 features.
            gives = [needs[0] for _ in gives]
        if _is_cast(self._node) and gives[0] is not None:
            gives[0] = own
        return needs, gives


def _float(value: ir.Value | None) -> str | None:
    dtype = None if value is None else dtype_of(value)
    return dtype if dtype in FLOATS else None


def _schema(node: ir.Node, model: ir.Model) -> onnx.defs.OpSchema | None:
    import onnx

    version = model.opset_imports.get(node.domain)
    if version is None:
        return None
    try:
        return onnx.defs.get_schema(node.op_type, version, node.domain)
    except onnx.defs.SchemaError:
        return None


def _variable(parameters: Sequence[Any], position: int) -> str | None:
    """Return the type string of an input or output; the last one of a schema may stand for any number."""
    if position < len(parameters):
        return str(parameters[position].type_str)
    if parameters and parameters[-1].option.name == "Variadic":
        return str(parameters[-1].type_str)
    return None


def _allowed(schema: onnx.defs.OpSchema, variable: str, wanted: str) -> str | None:
    """Return the wanted type if the variable may have it, else float32; None if not even that."""
    for constraint in schema.type_constraints:
        if constraint.type_param_str == variable:
            for dtype in (wanted, _WIDE):
                if f"tensor({_IN_SCHEMA[dtype]})" in constraint.allowed_type_strs:
                    return dtype
    return None


def _is_cast(node: ir.Node) -> bool:
    return node.op_type == "Cast" and node.domain == ""


def _is_opaque(node: ir.Node, model: ir.Model) -> bool:
    """Whether a node keeps its types: it has subgraphs, an unknown operator, or something that is no tensor."""
    import onnx_ir as ir

    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    if any(attribute.type in graphs for attribute in node.attributes.values()):
        return True
    values = [value for value in (*node.inputs, *node.outputs) if value is not None]
    if any(value.type is not None and not isinstance(value.type, ir.TensorType) for value in values):
        return True
    return _schema(node, model) is None


def _constant_in(value: ir.Value, dtype: str) -> ir.TensorProtocol | None:
    """Return a constant's content in another type; None if the value is no constant."""
    import onnx_ir as ir

    tensor = constant_of(value)
    return None if tensor is None else ir.tensor(tensor.numpy().astype(_ir_type(dtype).numpy()))


def _ir_type(dtype: str) -> ir.DataType:
    from dcn_deploy.export.expansion import Expansion

    return Expansion.dtype(dtype)


def _remove_idle_casts(graph: ir.Graph) -> None:
    """Remove the Casts of a graph that change nothing."""
    for node in list(graph):
        source, result = (node.inputs[0], node.outputs[0]) if _is_cast(node) else (None, None)
        if source is None or result is None or dtype_of(source) != dtype_of(result):
            continue
        if result.is_graph_output():
            if source.producer() is None or source.is_graph_output():
                continue  # only a node's output can take over the name of the graph's
            for position, output in enumerate(list(graph.outputs)):
                if output is result:
                    graph.outputs[position] = source
            source.name, result.name = result.name, source.name
        for use in list(result.uses()):
            use.node.replace_input_with(use.idx, source)
        graph.remove(node, safe=True)


def _remove_unused_constants(model: ir.Model) -> None:
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and value not in graph.inputs:
            del graph.initializers[name]
    for node in list(graph):
        if node.op_type == "Constant" and not any(v.uses() or v.is_graph_output() for v in node.outputs):
            graph.remove(node, safe=True)
