"""Where two runs of a network part: every tensor that both have, in the order of the graph.

Both runners keep their intermediate tensors. Tensors are matched by name, so two forms of one network can be
compared as well: where one file has a deformable convolution as one node and the other as many, what both name
is its output, and the nodes between matched tensors make up one step. The tensors inside a decomposed RoI pooling are
not matched, whatever both have: the number of a pixel or the fraction beside it jumps where rounding moves a position
across it, while the operator's output does not.

For each step three errors are told apart (relative RMS):

- ``error``: of its output against the reference's;
- ``inherited``: the largest of its inputs' errors;
- ``own``: what it adds itself, measured by running its nodes alone in the candidate's runtime on the
  reference's inputs.

The first step whose output is beyond its limit while all its inputs are within theirs is where the two part. Keeping
every tensor stops a runtime from fusing nodes, so a fault of a fused kernel can show in the outputs and not here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dcn_deploy.errors import DcnDeployError, InvalidArgumentError, describe
from dcn_deploy.schema import BY_STANDARD_OP_TYPE, OPERATORS
from dcn_deploy.validation.bounds import Bounds, largest_map_of
from dcn_deploy.validation.comparison import Array, Comparison, compare, element_kind, finite_or_none
from dcn_deploy.validation.inputs import Feed, conform
from dcn_deploy.validation.report import figure
from dcn_deploy.validation.run import EXACT_BACKENDS, Progress, for_reference
from dcn_deploy.validation.tolerances import Limit

if TYPE_CHECKING:
    import onnx
    from rich.console import RenderableType

    from dcn_deploy.runtime.runner import Runner

#: An error this many times the inherited one did not grow, it began here.
_SUDDEN = 10.0


@dataclass(frozen=True)
class Step:
    """One node, or the few nodes between matched tensors, and the error of its output.

    Attributes:
        node: name of the node that makes the tensor; its operator and output where it has none.
        op_type: that node's operator.
        tensor: name of the output.
        nodes: names of all nodes of the step, in order.
        inputs: names of the matched tensors that it reads.
        comparison: the output against the reference's, on the worst feed.
        limit: largest relative RMS error of the output.
        reason: why the output is beyond its limit; empty if it is within.
        inherited: largest relative RMS error among the inputs; 0 for a step that reads none but the model's
            inputs and weights.
        own: relative RMS error of the step alone, on the reference's inputs; None if it was not, or could not
            be, run alone.
        own_limit: largest value of ``own`` to expect.
        inputs_agree: whether every input is within its limit.
    """

    node: str
    op_type: str
    tensor: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    comparison: Comparison
    limit: float
    reason: str
    inherited: float
    own: float | None
    own_limit: float
    inputs_agree: bool

    @property
    def parts(self) -> bool:
        """Whether the output is beyond its limit while the inputs are within theirs."""
        return bool(self.reason) and self.inputs_agree

    def to_json(self) -> dict[str, Any]:
        """Return every field as a JSON value."""
        return {
            "node": self.node,
            "op_type": self.op_type,
            "tensor": self.tensor,
            "nodes": list(self.nodes),
            "inputs": list(self.inputs),
            "limit": self.limit,
            "reason": self.reason,
            "inherited": finite_or_none(self.inherited),
            "own": None if self.own is None else finite_or_none(self.own),
            "own_limit": self.own_limit,
            "inputs_agree": self.inputs_agree,
            "comparison": self.comparison.to_json(),
        }


@dataclass(frozen=True)
class Divergence:
    """What :func:`first_divergence` found.

    Attributes:
        candidate: name of the candidate.
        reference: name of the reference.
        steps: every matched tensor in the order of the graph.
        first: the first step at which the two part; None if they don't.
        differences: in what the first step's nodes and weights differ from the reference model's, if that was
            given.
        feeds: names of the feeds.
    """

    candidate: str
    reference: str
    steps: tuple[Step, ...]
    first: Step | None
    differences: tuple[str, ...]
    feeds: tuple[str, ...]

    @property
    def summary(self) -> str:
        """One or two sentences that name the node and say how the error arose."""
        if not self.steps:
            return f"{self.candidate} and {self.reference} have no tensor in common that could be compared."
        if self.first is None:
            worst = max(self.steps, key=lambda step: step.comparison.severity)
            return (
                f"{self.candidate} and {self.reference} agree on all {len(self.steps)} tensors "
                f"(largest relative RMS error {figure(worst.comparison.relative_rms)}, at '{worst.tensor}')."
            )
        step = self.first
        node = f"node '{step.node}' ({step.op_type}, output '{step.tensor}')"
        if len(step.nodes) > 1:
            node += f", at the end of {len(step.nodes)} nodes that begin with '{step.nodes[0]}'"
        text = f"{self.candidate} and {self.reference} part at {node}: {step.reason}."
        if step.own is not None and step.own <= step.own_limit:
            text += (
                f" Run alone on the reference's inputs it is off by {figure(step.own)} only: it enlarges the "
                f"error of its inputs ({figure(step.inherited)})."
            )
        elif step.own is not None:
            text += f" The error begins here: run alone on the reference's inputs it is off by {figure(step.own)}."
        elif step.comparison.relative_rms > _SUDDEN * step.inherited:
            text += f" The error begins here: its inputs are off by {figure(step.inherited)} at most."
        return text

    def to_json(self) -> dict[str, Any]:
        """Return every field as a JSON value."""
        return {
            "candidate": self.candidate,
            "reference": self.reference,
            "feeds": list(self.feeds),
            "summary": self.summary,
            "first": None if self.first is None else self.first.to_json(),
            "differences": list(self.differences),
            "steps": [step.to_json() for step in self.steps],
        }

    def to_table(self) -> RenderableType:
        """Return a rich table with one row a step, and the summary."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(f"{self.candidate} against {self.reference}, layer by layer"), title_justify="left")
        for column in ("node", "operator", "output"):
            table.add_column(column, overflow="fold")
        for column in ("error", "inherited", "own", "limit"):
            table.add_column(column, justify="right")
        table.add_column("")
        for step in self.steps:
            mark = Text("◀ here", style="bold red") if step is self.first else Text("off" if step.reason else "")
            cells = (
                step.node,
                step.op_type,
                step.tensor,
                "≠" if step.comparison.exact and step.comparison.differing else figure(step.comparison.relative_rms),
                figure(step.inherited),
                "–" if step.own is None else figure(step.own),
                figure(step.limit),
            )
            table.add_row(*map(Text, cells), mark)
        parts: list[RenderableType] = [table, Text(self.summary, style="" if self.first is None else "red")]
        parts.extend(Text(f"  {difference}") for difference in self.differences)
        return Group(*parts)


def first_divergence(
    model: str | Path | onnx.ModelProto,
    candidate: Runner,
    reference: Runner,
    feeds: Iterable[Feed],
    *,
    reference_model: str | Path | onnx.ModelProto | None = None,
    tolerance: float | None = None,
    run_alone: bool = True,
    names: tuple[str, str] | None = None,
    progress: Progress | None = None,
) -> Divergence:
    """Find the first node at which two runs of a network part.

    Args:
        model: the ONNX file that the candidate runs.
        candidate: its runner; built again with ``keep_intermediates``, so it need not have it.
        reference: likewise for the reference, on the same file or on another with tensors of the same names.
        feeds: what to run on; every figure is that of its worst feed.
        reference_model: the ONNX file that the reference runs, to say in what the first diverging node differs.
        tolerance: largest relative RMS error of every tensor, instead of the table's.
        run_alone: measure also what every step adds by itself; takes about as long again, plus the time
            to load each step.
        names: what the result calls the two; None for their backends.
        progress: told before each tensor.

    Raises:
        InvalidArgumentError: without feeds.
        UnsupportedError: if a runner cannot be built again.
        BackendError: if a runtime fails.
    """
    from dcn_deploy.runtime import onnx_model

    proto = onnx_model.load(model, "validation of layers")
    other = None if reference_model is None else onnx_model.load(reference_model, "validation of layers")
    walk = _Walk(proto, candidate, tolerance, reference_is_exact=reference.backend in EXACT_BACKENDS)
    walk.run_alone = run_alone
    walk.reference_backend = reference.backend
    feed_names = []
    with (
        candidate.replicate(keep_intermediates=True) as left,
        reference.replicate(keep_intermediates=True) as right,
    ):
        walk.tf32, walk.reference_tf32 = left.tf32, right.tf32
        for feed in feeds:
            feed_names.append(feed.name)
            arrays = conform(feed.arrays, left.inputs, feed.name)
            expected = right.infer(for_reference(arrays, right.inputs, feed.name))
            walk.feed(arrays, left.infer(arrays), expected, progress)
    if not feed_names:
        raise InvalidArgumentError("first_divergence: expected at least one feed, got none.")
    steps = tuple(walk.steps.values())
    first = next((step for step in steps if step.parts), None)
    differences = () if first is None or other is None else tuple(_differences(proto, other, first))
    own, others = names or (candidate.backend, reference.backend)
    return Divergence(own, others, steps, first, differences, tuple(feed_names))


@dataclass
class _Walk:
    """One pass over the graph for each feed; keeps the worst of each step."""

    model: onnx.ModelProto
    candidate: Runner
    tolerance: float | None
    reference_is_exact: bool
    reference_backend: str = "*"
    tf32: bool = False
    reference_tf32: bool = False
    run_alone: bool = True
    steps: dict[str, Step] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._producers = {name: node for node in self.model.graph.node for name in node.output if name}
        self._order = {name: index for index, node in enumerate(self.model.graph.node) for name in node.output}
        self._constants = {tensor.name: tensor for tensor in self.model.graph.initializer}

    def feed(
        self,
        inputs: Mapping[str, Array],
        actual: Mapping[str, Array],
        expected: Mapping[str, Array],
        progress: Progress | None,
    ) -> None:
        """Compare all matched tensors of one feed."""
        bounds = Bounds(self.model, largest_map_of(np.shape(array) for array in inputs.values()))
        matched = [name for name in actual if name in expected and name in self._producers and name not in bounds.inner]
        matched.sort(key=self._order.__getitem__)
        known = {*matched, *inputs, *self._constants}
        errors: dict[str, float] = {}
        faults: dict[str, str] = {}
        for place, tensor in enumerate(matched):
            if progress is not None:
                progress(place, len(matched), tensor)
            nodes, sources = self._between(tensor, known)
            comparison = compare(actual[tensor], expected[tensor])
            limit = self._limit(bounds, tensor, comparison)
            errors[tensor] = 0.0 if comparison.exact else comparison.relative_rms
            faults[tensor] = limit.judge(comparison)
            computed = [name for name in sources if name in errors]
            own_limit = bounds.limit_of(nodes, self.candidate.backend, tf32=self.tf32)
            if not self.reference_is_exact:
                other = bounds.limit_of(nodes, self.reference_backend, tf32=self.reference_tf32)
                own_limit = math.hypot(own_limit, other)
            own = None
            if self.run_alone and not comparison.exact:
                available = {name: expected[name] for name in computed} | {
                    name: array for name, array in inputs.items() if name in sources
                }
                own = self._alone(nodes, tensor, sources, available, actual, expected)
            step = Step(
                node=_label(self._producers[tensor]),
                op_type=self._producers[tensor].op_type,
                tensor=tensor,
                nodes=tuple(map(_label, nodes)),
                inputs=tuple(sources),
                comparison=comparison,
                limit=limit.relative_rms,
                reason=faults[tensor],
                inherited=max((errors[name] for name in computed), default=0.0),
                own=own,
                own_limit=own_limit,
                inputs_agree=not any(faults[name] for name in computed),
            )
            before = self.steps.get(tensor)
            if before is None or _rank(step) > _rank(before):
                self.steps[tensor] = step

    def _limit(self, bounds: Bounds, tensor: str, comparison: Comparison) -> Limit:
        if comparison.exact or comparison.problem:
            return Limit(0.0, "exact")
        absolute = float(np.finfo(np.float32).smallest_normal)
        if self.tolerance is not None:
            return Limit(self.tolerance, "given", absolute)
        own = bounds.limit(tensor, self.candidate.backend, tf32=self.tf32)
        other = 0.0
        if not self.reference_is_exact:
            other = bounds.limit(tensor, self.reference_backend, tf32=self.reference_tf32)
        return Limit(math.hypot(own, other), "layers before it", absolute)

    def _between(self, tensor: str, known: set[str]) -> tuple[list[onnx.NodeProto], list[str]]:
        """Return the nodes that make ``tensor`` from known tensors, in order, and those tensors."""
        nodes: dict[int, onnx.NodeProto] = {}
        sources: dict[str, None] = {}
        waiting = [tensor]
        while waiting:
            name = waiting.pop()
            node = self._producers[name]
            if self._order[name] in nodes:
                continue
            nodes[self._order[name]] = node
            for source in _reads(node):
                if source in known:
                    sources[source] = None
                elif source in self._producers:
                    waiting.append(source)
        return [nodes[index] for index in sorted(nodes)], list(sources)

    def _alone(
        self,
        nodes: Sequence[onnx.NodeProto],
        tensor: str,
        sources: Sequence[str],
        available: Mapping[str, Array],
        actual: Mapping[str, Array],
        expected: Mapping[str, Array],
    ) -> float | None:
        """Run a step by itself on the reference's inputs; None where the runtime does not take it alone."""
        from dcn_deploy import runtime

        if any(name not in available and name not in self._constants for name in sources):
            return None
        if not available:
            return None
        feed = {}
        for name, array in available.items():
            own = actual.get(name)
            feed[name] = array if own is None or own.dtype == array.dtype else _rounded(array, own.dtype)
        part = self._part(nodes, tensor, sources, feed, actual[tensor].dtype)
        try:
            with runtime.create(self.candidate.backend, part) as runner:
                result = runner.infer(feed)[tensor]
        except DcnDeployError:
            # A node may only be loadable in its surroundings (an output of unknown type, say).
            return None
        return compare(result, expected[tensor]).relative_rms

    def _part(
        self,
        nodes: Sequence[onnx.NodeProto],
        tensor: str,
        sources: Sequence[str],
        feed: Mapping[str, Array],
        dtype: np.dtype[Any],
    ) -> onnx.ModelProto:
        from onnx import helper

        graph = helper.make_graph(
            list(nodes),
            "part",
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
                for name, array in feed.items()
            ],
            [helper.make_tensor_value_info(tensor, helper.np_dtype_to_tensor_dtype(dtype), None)],
            initializer=[self._constants[name] for name in sources if name in self._constants],
        )
        return helper.make_model(
            graph,
            opset_imports=self.model.opset_import,
            functions=self.model.functions,
            ir_version=self.model.ir_version,
        )


def _rank(step: Step) -> tuple[bool, bool, tuple[int, int, float]]:
    return (step.parts, bool(step.reason), step.comparison.severity)


def _rounded(array: Array, dtype: np.dtype[Any]) -> Array:
    if element_kind(array.dtype) != element_kind(dtype):
        raise InvalidArgumentError(describe("intermediate tensor", expected=dtype, actual=array.dtype))
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def _label(node: onnx.NodeProto) -> str:
    return node.name or f"{node.op_type} → {next((name for name in node.output if name), '?')}"


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield what a node reads, from inside its subgraphs too, each name once."""
    seen = set()
    for name in _reads_repeated(node):
        if name and name not in seen:
            seen.add(name)
            yield name


def _reads_repeated(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            inner = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
            for member in graph.node:
                yield from (name for name in _reads_repeated(member) if name not in inner)
                inner.update(member.output)


# ----------------------------------------------------------------------- what is different in the two files


def _differences(model: onnx.ModelProto, other: onnx.ModelProto, step: Step) -> Iterator[str]:
    """Say in what the nodes of a step differ from those that make the same tensors in another model."""
    ours = {name: node for node in model.graph.node for name in node.output if name}
    theirs = {name: node for node in other.graph.node for name in node.output if name}
    constants, other_constants = _constants_of(model), _constants_of(other)
    nodes = [node for node in model.graph.node if _label(node) in step.nodes]
    compared = set()
    for node in nodes:
        twin = theirs.get(node.output[0])
        if twin is None:
            continue
        label = _label(node)
        if _operator(node) != _operator(twin):
            if node.output[0] == step.tensor and len(nodes) == 1:
                yield f"'{label}' is {node.op_type} here and {twin.op_type} in the reference."
            continue
        yield from _attribute_differences(label, node, twin)
        for place in range(max(len(node.input), len(twin.input))):
            name = node.input[place] if place < len(node.input) else ""
            twin_name = twin.input[place] if place < len(twin.input) else ""
            compared.add(name)
            what = f"input {place}{_input_name(node, place)} of '{label}'"
            if bool(name) != bool(twin_name):
                has, lacks = ("here", "in the reference") if name else ("in the reference", "here")
                yield f"{what} is '{name or twin_name}' {has} and absent {lacks}."
            elif name in constants and twin_name in other_constants:
                yield from _constant_difference(f"{what}, '{name}',", constants[name], other_constants[twin_name])
            elif name != twin_name and (name in theirs or twin_name in ours):
                yield f"{what} is '{name}' here and '{twin_name}' in the reference."
    # Forms of one network: other nodes, but weights of the same names.
    for name in step.inputs:
        if name in constants and name in other_constants and name not in compared:
            yield from _constant_difference(f"weight '{name}'", constants[name], other_constants[name])


def _constants_of(model: onnx.ModelProto) -> dict[str, Array]:
    from onnx import numpy_helper

    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            for attribute in node.attribute:
                if attribute.name == "value":
                    constants[node.output[0]] = numpy_helper.to_array(attribute.t)
    return constants


def _operator(node: onnx.NodeProto) -> str:
    """Return one name for an operator of ours and its twin of the ONNX standard."""
    if node.domain in ("", "ai.onnx") and node.op_type in BY_STANDARD_OP_TYPE:
        return BY_STANDARD_OP_TYPE[node.op_type].op_type
    return node.op_type


def _input_name(node: onnx.NodeProto, place: int) -> str:
    schema = OPERATORS.get(_operator(node))
    if schema is None or place >= len(schema.inputs):
        return ""
    return f" ({schema.inputs[place].name})"


def _attribute_differences(label: str, node: onnx.NodeProto, twin: onnx.NodeProto) -> Iterator[str]:
    from onnx import helper

    def values(of: onnx.NodeProto) -> dict[str, Any]:
        return {
            attribute.name: helper.get_attribute_value(attribute)
            for attribute in of.attribute
            if not attribute.HasField("g") and not attribute.graphs and not attribute.HasField("t")
        }

    schema = OPERATORS.get(_operator(node))
    defaults = {} if schema is None else {row.name: row.default for row in schema.attributes}
    here, there = values(node), values(twin)
    for name in sorted({*here, *there}):
        left, right = here.get(name, defaults.get(name)), there.get(name, defaults.get(name))
        # An absent attribute whose default is not known here, or follows from a shape, may well be the same.
        if left is None or right is None or _listed(left) == _listed(right):
            continue
        yield f"attribute {name} of '{label}' is {_listed(left)} here and {_listed(right)} in the reference."


def _listed(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, str) or not isinstance(value, Iterable):
        return value
    return [item.decode(errors="replace") if isinstance(item, bytes) else item for item in value]


def _constant_difference(what: str, here: Array, there: Array) -> Iterator[str]:
    comparison = compare(here, there)
    if comparison.problem:
        yield f"{what} differs: {comparison.problem}."
    elif comparison.exact and comparison.differing:
        yield f"{what} differs in {comparison.differing} of {comparison.size} elements."
    elif comparison.nonfinite_mismatches or (not comparison.exact and comparison.max_abs > 0):
        worst = comparison.nonfinite[0] if comparison.nonfinite else comparison.worst
        assert worst is not None
        yield (
            f"{what} differs by {figure(comparison.relative_rms)} (relative RMS), most at {list(worst.index)}: "
            f"{worst.actual} here, {worst.expected} in the reference."
        )
