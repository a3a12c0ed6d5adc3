"""What export, convert and lint need to know of an operator beyond its schema: one row an operator.

The row of an operator lives in its own module of this package; :mod:`dcn_deploy.export.operators` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dcn_deploy.schema import Attribute, OperatorSchema

if TYPE_CHECKING:
    import onnx_ir as ir

    from dcn_deploy.export.expansion import Expansion

#: One extent: an int if fixed, a str if it is a named dynamic one, None if nothing is known.
Dim = int | str | None
#: The extents of a tensor; None where even the rank is unknown.
Dims = tuple[Dim, ...] | None


@dataclass(frozen=True)
class NodeView:
    """One deformable node, read by the operator's schema.

    Everything that a check, a shape rule or a decomposition looks at, without the graph around it, so that
    the same code serves a node in a file, a node being exported and a node being restored.

    Attributes:
        schema: the operator.
        name: the node's name; never empty.
        tensors: names of the inputs that are connected.
        shapes: extents of each connected input; absent or None if unknown.
        dtypes: element type of each connected input (NumPy's names, "bfloat16" included); None if unknown.
        attributes: values of the attributes that the node carries.
    """

    schema: OperatorSchema
    name: str
    tensors: tuple[str, ...]
    shapes: Mapping[str, Dims]
    dtypes: Mapping[str, str | None]
    attributes: Mapping[str, Any]

    def has(self, tensor: str) -> bool:
        """Whether the input called ``tensor`` is connected."""
        return tensor in self.tensors

    def dims(self, tensor: str, rank: int) -> tuple[Dim, ...]:
        """Return the extents of an input: ``rank`` entries, None for each if its rank is unknown or another."""
        shape = self.shapes.get(tensor)
        return (None,) * rank if shape is None or len(shape) != rank else shape

    def attribute(self, name: str) -> Any:
        """Return the value of an attribute, or the schema's default."""
        value = self.attributes.get(name)
        return self.schema.attribute(name).default if value is None else value


@dataclass(frozen=True)
class Problem:
    """Why a node is malformed: ``what: expected E, got A``."""

    what: str
    expected: str
    actual: str
    remedy: str = ""

    def __str__(self) -> str:
        from dcn_deploy.errors import describe

        return describe(self.what, expected=self.expected, actual=self.actual, remedy=self.remedy)


@dataclass(frozen=True)
class OperatorExport:
    """How one operator is checked, shaped and decomposed.

    Attributes:
        schema: the operator's row in :mod:`dcn_deploy.schema`.
        problems: yields what is wrong with a node whose inputs and attributes fit the schema.
        output_shapes: returns the extents of each output.
        decompose: builds the same computation from ordinary ONNX operators and returns the output.
        decomposition_obstacle: returns why a node has no decomposition, with what to do about it; None if it has one.
        decomposed_since_opset: first opset that has every operator ``decompose`` uses.
        decomposed_bfloat16_since_opset: the same for bfloat16 features.
        decomposed_bytes: size in bytes of the largest intermediate tensor of the decomposition; None if some
            extent is unknown.
        feature_inputs: names of the inputs that share the features' element type.
        coordinate_inputs: names of the inputs that may be float32 while the features are half.
    """

    schema: OperatorSchema
    problems: Callable[[NodeView], Iterator[Problem]]
    output_shapes: Callable[[NodeView], tuple[tuple[Dim, ...], ...]]
    decompose: Callable[[NodeView, Mapping[str, ir.Value], Expansion], ir.Value]
    decomposition_obstacle: Callable[[NodeView], str | None]
    decomposed_since_opset: int
    decomposed_bfloat16_since_opset: int
    decomposed_bytes: Callable[[NodeView], int | None]
    feature_inputs: tuple[str, ...]
    coordinate_inputs: tuple[str, ...]


#: Element types that every operator takes for its features.
FEATURE_DTYPES = ("float32", "float16", "bfloat16", "float64")


def schema_problems(
    schema: OperatorSchema, connected: tuple[bool, ...], attributes: Mapping[str, Any], *, standard: bool = False
) -> Iterator[Problem]:
    """Yield what does not fit the schema: inputs missing or too many; attributes unknown, mistyped or missing.

    Args:
        schema: the operator.
        connected: for each input position of the node, whether a tensor is connected.
        attributes: the node's attributes, by name.
        standard: whether the node is that of the ONNX standard, which has no attributes for quantisation.
    """
    if len(connected) > len(schema.inputs):
        yield Problem("number of inputs", f"at most {len(schema.inputs)}", str(len(connected)))
    for position, declared in enumerate(schema.inputs):
        if not declared.optional and not (position < len(connected) and connected[position]):
            yield Problem(f"input {declared.name} (position {position})", "a tensor", "nothing")
    taken = schema.attributes if standard else (*schema.attributes, *schema.quantisation)
    known = {attribute.name: attribute for attribute in taken}
    for name, value in attributes.items():
        if name not in known:
            yield Problem(f"attribute {name}", f"one of {', '.join(known)}", f"'{name}' = {value!r}")
        elif not _fits(known[name], value):
            yield Problem(f"attribute {name}", _kind(known[name]), repr(value))
    for attribute in schema.attributes:
        if attribute.required and attributes.get(attribute.name) is None:
            yield Problem(f"attribute {attribute.name}", _kind(attribute), "nothing")


def _kind(attribute: Attribute) -> str:
    if attribute.choices:
        return f"one of {', '.join(attribute.choices)}"
    return f"{attribute.length} ints" if attribute.length else f"a value of type {attribute.kind}"


def _fits(attribute: Attribute, value: Any) -> bool:
    if attribute.kind == "ints":
        is_ints = isinstance(value, (list, tuple)) and all(isinstance(v, int) for v in value)
        return is_ints and (attribute.length is None or len(value) == attribute.length)
    if attribute.kind == "floats":
        return isinstance(value, (list, tuple)) and all(isinstance(v, float) for v in value)
    if attribute.choices and value not in attribute.choices:
        return False
    return isinstance(value, {"int": int, "float": float, "string": str}[attribute.kind])


def dtype_problems(operator: OperatorExport, view: NodeView) -> Iterator[Problem]:
    """Yield every input whose element type does not go with the features'."""
    first = operator.feature_inputs[0]
    features = view.dtypes.get(first)
    if features is None:
        return
    if features not in FEATURE_DTYPES:
        yield Problem(f"element type of {first}", f"one of {', '.join(FEATURE_DTYPES)}", features)
        return
    for name in operator.feature_inputs[1:]:
        dtype = view.dtypes.get(name)
        if view.has(name) and dtype is not None and dtype != features:
            yield Problem(f"element type of {name}", f"that of {first}, {features}", dtype)
    for name in operator.coordinate_inputs:
        dtype = view.dtypes.get(name)
        if view.has(name) and dtype is not None and dtype not in (features, "float32"):
            yield Problem(f"element type of {name}", f"float32 or that of {first}, {features}", dtype)
