"""What is wrong, or will go wrong at the place a model is headed to, said before it happens."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from dcn_deploy.errors import InvalidArgumentError, InvalidModelError, describe
from dcn_deploy.export import model_files, soundness
from dcn_deploy.export.operators import OPERATOR_EXPORTS, int8
from dcn_deploy.export.operators.base import NodeView, OperatorExport
from dcn_deploy.schema import DEFORM_CONV2D, DEFORM_ROI_POOL2D, DOMAIN, DOMAIN_VERSION, OPERATORS, OperatorSchema

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir
    from rich.console import RenderableType

Severity = Literal["error", "warning", "note"]
_RANK = {"error": 0, "warning": 1, "note": 2}

#: Where a model can be headed to; ``any`` is a runtime that knows nothing but the ONNX standard.
TARGETS = ("onnxruntime", "tensorrt", "tensorrt-rtx", "openvino", "any")

#: Beyond this extent coordinates of the type may be off by an eighth of a pixel.
_EIGHTH_PIXEL_FROM = {"float16": 256, "bfloat16": 32}
#: From here on a whole step of the type is half a pixel, so that a RoI's corner is off by up to a quarter.
_QUARTER_PIXEL_FROM = {"float16": 512, "bfloat16": 64}
#: Up to here the type holds every whole number.
_EXACT_UP_TO = {"float16": 2048, "bfloat16": 256}
#: Size from which the largest tensor of a decomposition is worth knowing about.
_LARGE_TENSOR_BYTES = 64 * 1024**2
#: What is assumed for a number of RoIs that is known only at run time.
_USUAL_ROIS = 1000
#: What a mask may pass through between its activation and the operator without changing its values.
_LAYOUT_OPERATORS = frozenset(
    ("Cast", "Concat", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
)
_ACTIVATIONS = frozenset(("Sigmoid", "HardSigmoid", "Softmax", "Clip"))


@dataclass(frozen=True)
class Finding:
    """One thing that a rule found.

    Attributes:
        rule: the rule's id.
        severity: ``error``: the model will not run there, or will compute something else; ``warning``: it may;
            ``note``: worth knowing.
        node: name of the node; empty for the model as a whole.
        message: what is the matter.
        remedy: what to do about it.
    """

    rule: str
    severity: Severity
    node: str
    message: str
    remedy: str

    def to_json(self) -> dict[str, str]:
        """Return the same as a dict of strings."""
        return {
            "rule": self.rule,
            "severity": self.severity,
            "node": self.node,
            "message": self.message,
            "remedy": self.remedy,
        }

    def __str__(self) -> str:
        where = f" node '{self.node}':" if self.node else ""
        return f"{self.severity} [{self.rule}]{where} {self.message} {self.remedy}"


@dataclass(frozen=True)
class _Deformable:
    """One deformable node of the model.

    ``view`` is None for a node that cannot be read (``problem`` says why). ``widened`` marks a standard node
    that computes in float32 between casts.
    """

    node: ir.Node
    form: str
    view: NodeView | None
    problem: str = ""
    widened: bool = False

    @property
    def name(self) -> str:
        from dcn_deploy.export.node_reading import label

        return label(self.node)

    @property
    def operator(self) -> OperatorExport:
        assert self.view is not None
        return OPERATOR_EXPORTS[self.view.schema.op_type]


class _Context:
    """The model as the rules see it."""

    def __init__(self, model: ir.Model, target: str | None) -> None:
        self.model = model
        self.target = target
        self.opset = model.opset_imports.get("", 0)

    @cached_property
    def deformable(self) -> list[_Deformable]:
        """Deformable nodes in the graph's order, those of other projects excepted."""
        from dcn_deploy.export.forms import deformable_nodes

        found = deformable_nodes(self.model)
        order = {id(node): i for i, node in enumerate(model_files.all_nodes(self.model))}
        rows = [self._read(node, form) for form, nodes in found.items() if form != "foreign" for node in nodes]
        return sorted(rows, key=lambda row: order[id(row.node)])

    @cached_property
    def foreign(self) -> list[ir.Node]:
        """Nodes of other projects that convert can read."""
        from dcn_deploy.export.forms import deformable_nodes

        return deformable_nodes(self.model).get("foreign", [])

    def _read(self, node: ir.Node, form: str) -> _Deformable:
        from dcn_deploy.export.expansion import ORIGINAL, Original
        from dcn_deploy.export.node_reading import node_problems, schema_of, view_of

        try:
            if ORIGINAL in node.metadata_props:
                return _Deformable(node, form, Original(node).view, widened=True)
            schema = schema_of(node)
            assert schema is not None
            problem = next(node_problems(node, schema), None)
            if problem is not None:
                return _Deformable(node, form, None, str(problem))
            return _Deformable(node, form, view_of(node, schema))
        except InvalidModelError as error:
            return _Deformable(node, form, None, str(error))

    def in_form(self, *forms: str, schema: OperatorSchema | None = None) -> Iterator[_Deformable]:
        """Yield the well-formed nodes of the given forms; of one operator only if ``schema`` is given."""
        return (
            row
            for row in self.deformable
            if row.form in forms and row.view is not None and schema in (None, row.view.schema)
        )


# A check yields (name of the node, message).
_Check = Callable[[_Context], Iterator[tuple[str, str]]]


@dataclass(frozen=True)
class Rule:
    """One row of the table of rules.

    Attributes:
        id: name of the rule.
        severity: of its findings.
        targets: where it matters; None for everywhere, also where no target is given.
        check: finds what the rule is about.
        remedy: what to do about it.
    """

    id: str
    severity: Severity
    targets: frozenset[str] | None
    check: _Check
    remedy: str


def _broken_graph(context: _Context) -> Iterator[tuple[str, str]]:
    yield from soundness.graph_problems(context.model)


def _broken_weight(context: _Context) -> Iterator[tuple[str, str]]:
    yield from soundness.weight_problems(context.model)


def _unknown_operator(context: _Context) -> Iterator[tuple[str, str]]:
    from dcn_deploy.export.node_reading import label

    for node in model_files.all_nodes(context.model):
        if node.domain == DOMAIN and node.op_type not in OPERATORS:
            known = ", ".join(OPERATORS)
            yield label(node), f"'{node.op_type}' is not an operator of the domain {DOMAIN} (known: {known})."


def _domain_version(context: _Context) -> Iterator[tuple[str, str]]:
    version = context.model.opset_imports.get(DOMAIN)
    uses = any(node.domain == DOMAIN for node in model_files.all_nodes(context.model))
    if uses and version != DOMAIN_VERSION:
        found = "no version" if version is None else f"version {version}"
        yield "", f"The model imports {found} of the domain {DOMAIN}; expected {DOMAIN_VERSION}."


def _malformed_node(context: _Context) -> Iterator[tuple[str, str]]:
    for row in context.deformable:
        if row.view is None:
            yield row.name, row.problem


def _foreign_node(context: _Context) -> Iterator[tuple[str, str]]:
    from dcn_deploy.export.node_reading import label

    for node in context.foreign:
        yield label(node), f"{node.op_type} of the domain {node.domain} needs that project's own library."


def _opset_too_low(context: _Context) -> Iterator[tuple[str, str]]:
    from dcn_deploy.export.opsets import required

    for row in context.in_form("standard", "decomposed"):
        assert row.view is not None
        needed = required(row.form, [row.view])
        if context.opset < needed:
            yield row.name, f"The form {row.form} needs opset {needed} here, the model has {context.opset}."


def _mask_without_bias(context: _Context) -> Iterator[tuple[str, str]]:
    for row in context.in_form("standard"):
        if row.view is not None and row.view.has("mask") and not row.view.has("B"):
            yield row.name, "TensorRT's stock plugin fails to import a mask without a bias."


def _asymmetric_pads(context: _Context) -> Iterator[tuple[str, str]]:
    for row in context.in_form("standard"):
        assert row.view is not None
        top, left, bottom, right = row.view.attribute("pads")
        if (top, left) != (bottom, right):
            yield row.name, f"TensorRT's stock plugin refuses asymmetric pads {[top, left, bottom, right]}."


def _swapped_axes(context: _Context) -> Iterator[tuple[str, str]]:
    for row in context.in_form("standard"):
        assert row.view is not None
        unequal = [
            f"{name} {list(row.view.attribute(name))}"
            for name in ("strides", "pads", "dilations")
            if len(set(row.view.attribute(name)[:2])) > 1
        ]
        if unequal:
            yield (
                row.name,
                f"TensorRT's stock plugin swaps height and width of {', '.join(unequal)}: a wrong result.",
            )


def _stock_half_coordinates(context: _Context) -> Iterator[tuple[str, str]]:
    for row in context.in_form("standard"):
        assert row.view is not None
        if not row.widened and row.view.dtypes.get("X") == "float16":
            yield row.name, "TensorRT's stock plugin computes sampling positions in half precision here."


def _without_plugin(context: _Context) -> Iterator[tuple[_Deformable, str, str | None]]:
    """Yield the plugin nodes of a target that takes none: the node, why, and what keeps it from another form."""
    where = "this target" if context.target == "any" else str(context.target)
    for row in context.in_form("plugin"):
        assert row.view is not None
        yield row, f"{where} takes no plugins", row.operator.decomposition_obstacle(row.view)


def _no_plugins(context: _Context) -> Iterator[tuple[str, str]]:
    for row, why, obstacle in _without_plugin(context):
        if obstacle is None:
            yield row.name, f"{why}."


def _not_decomposable(context: _Context) -> Iterator[tuple[str, str]]:
    for row, why, obstacle in _without_plugin(context):
        if obstacle is not None:
            yield row.name, f"{why}, and the node cannot be decomposed: {obstacle}"


def _no_stock_plugin(context: _Context) -> Iterator[tuple[str, str]]:
    for row in context.in_form("standard"):
        yield row.name, "tensorrt-rtx runs DeformConv through a plugin in TensorRT, and takes no plugins itself."


def _standard_not_everywhere(context: _Context) -> Iterator[tuple[str, str]]:
    for row in context.in_form("standard"):
        yield row.name, "Few runtimes implement DeformConv."


def _float64_plugin(context: _Context) -> Iterator[tuple[str, str]]:
    for row in context.in_form("plugin"):
        if row.view is not None and "float64" in row.view.dtypes.values():
            yield row.name, "The library for ONNX Runtime takes float32, float16 and bfloat16, not float64."


def _float64_tensorrt(context: _Context) -> Iterator[tuple[str, str]]:
    for row in context.in_form("plugin", "standard", "decomposed"):
        if row.view is not None and "float64" in row.view.dtypes.values():
            yield row.name, "TensorRT has no float64: its parser makes float32 of it, inputs and outputs too."


def _int8_plugin(context: _Context) -> Iterator[tuple[str, str]]:
    for row in context.in_form("plugin"):
        if row.view is not None and int8.is_quantised(row.view):
            yield row.name, "The library for ONNX Runtime takes float32, float16 and bfloat16, not int8 with scales."


def _float64_sampling(context: _Context) -> Iterator[tuple[str, str]]:
    for row in context.in_form("decomposed", schema=DEFORM_CONV2D):
        if row.view is not None and row.view.dtypes.get("X") == "float64":
            yield row.name, "ONNX Runtime has no GridSample for float64 on the CPU below opset 20."


def _half_offset(context: _Context) -> Iterator[tuple[str, str]]:
    for row in context.in_form("plugin", "standard", "decomposed", schema=DEFORM_CONV2D):
        assert row.view is not None
        dtype = row.view.dtypes.get("offset") or ""
        limit = _EIGHTH_PIXEL_FROM.get(dtype)
        extents = [d for d in row.view.dims("X", 4)[2:] if isinstance(d, int)]
        if limit is not None and max(extents, default=0) > limit:
            yield (
                row.name,
                f"offset is {dtype} on a map {max(extents)} pixels long: a runtime that adds it to the position in "
                f"that type is off by up to an eighth of a pixel beyond pixel {limit}, and by twice as much with each "
                f"doubling.",
            )


def _half_rois(context: _Context) -> Iterator[tuple[str, str]]:
    for row in context.in_form("plugin", "decomposed", schema=DEFORM_ROI_POOL2D):
        assert row.view is not None
        dtype = row.view.dtypes.get("rois") or ""
        limit = _QUARTER_PIXEL_FROM.get(dtype)
        if limit is None:
            continue
        extents = [d / row.view.attribute("spatial_scale") for d in row.view.dims("X", 4)[2:] if isinstance(d, int)]
        if len(extents) < 2 or max(extents) > limit:
            size = f"up to {max(extents):.0f}" if len(extents) == 2 else "a dynamic number of"
            yield (
                row.name,
                f"rois are {dtype} for images of {size} pixels: beyond {limit} a corner is off by up to a quarter of a "
                f"pixel, and by twice as much with each doubling.",
            )


def _half_batch_index(context: _Context) -> Iterator[tuple[str, str]]:
    for row in context.in_form("plugin", "decomposed", schema=DEFORM_ROI_POOL2D):
        assert row.view is not None
        dtype, images = row.view.dtypes.get("rois") or "", row.view.dims("X", 4)[0]
        limit = _EXACT_UP_TO.get(dtype)
        if limit is not None and isinstance(images, int) and images - 1 > limit:
            yield (
                row.name,
                f"rois are {dtype}, which holds image numbers exactly up to {limit} only, and there are {images} "
                f"images: some RoIs read another one.",
            )


def _ort_version(context: _Context) -> Iterator[tuple[str, str]]:
    rows = list(context.in_form("standard"))
    if rows:
        yield "", f"{len(rows)} DeformConv node(s): ONNX Runtime implements the operator from version 1.25 on."


def _non_finite(context: _Context) -> Iterator[tuple[str, str]]:
    rows = list(context.in_form("standard"))
    if rows:
        yield (
            "",
            f"{len(rows)} DeformConv node(s): the standard does not say what a NaN or infinite offset samples. "
            f"The forms plugin and decomposed sample zero there.",
        )


def _sampled_map(context: _Context) -> Iterator[tuple[str, str]]:
    for row in context.in_form("decomposed"):
        assert row.view is not None
        view, given = row.view, ""
        if view.schema is DEFORM_ROI_POOL2D and row.operator.decomposed_bytes(view) is None:
            shapes = {**view.shapes, "rois": (_USUAL_ROIS, 5)}
            view, given = dataclasses.replace(view, shapes=shapes), f" if there are {_USUAL_ROIS} RoIs"
        size = row.operator.decomposed_bytes(view)
        what = "sampled map" if view.schema is DEFORM_CONV2D else "largest tensor of the decomposition"
        if size is not None and size >= _LARGE_TENSOR_BYTES:
            yield row.name, f"The {what} takes {size / 1024**2:.0f} MiB while this node runs{given}."


def _mask_not_activated(context: _Context) -> Iterator[tuple[str, str]]:
    for row in context.in_form("plugin", "standard", "decomposed"):
        assert row.view is not None
        value = _input(row, "mask")
        passed = 0
        while value is not None and passed < 16:
            passes = _unchanged_or_scaled(value.producer())
            if passes is None:
                break
            value, passed = passes, passed + 1
        producer = None if value is None else value.producer()
        if producer is not None and producer.op_type not in _ACTIVATIONS | {"Constant"}:
            yield (
                row.name,
                f"mask comes from {producer.op_type} and not from a Sigmoid: some old networks feed raw logits.",
            )


def _unchanged_or_scaled(node: ir.Node | None) -> ir.Value | None:
    """The input whose values a node lets through, or multiplies by a constant, as in 2·sigmoid(logits); else None."""
    if node is None or node.op_type in _LAYOUT_OPERATORS:
        return node.inputs[0] if node is not None else None
    if node.op_type == "Div" and _is_constant(node.inputs[1]):
        return node.inputs[0]
    if node.op_type == "Mul":
        others = [value for value in node.inputs if not _is_constant(value)]
        return others[0] if len(others) == 1 else None
    return None


def _is_constant(value: ir.Value | None) -> bool:
    if value is None:
        return False
    producer = value.producer()
    return value.is_initializer() or (producer is not None and producer.op_type == "Constant")


def _input(row: _Deformable, tensor: str) -> ir.Value | None:
    """Return an input of the node as it was before any expansion."""
    from dcn_deploy.export.expansion import ORIGINAL, PART_OF, ROLE, Original
    from dcn_deploy.export.node_reading import inputs_of

    if ORIGINAL not in row.node.metadata_props:
        assert row.view is not None
        return inputs_of(row.node, row.view.schema).get(tensor)
    original = Original(row.node)
    role, position = original.places.get(tensor, ("", -1))
    for node in row.node.graph or ():
        properties = node.metadata_props
        if properties.get(PART_OF) == original.view.name and properties.get(ROLE) == role and position >= 0:
            return node.inputs[position]
    return None


def _ir_version(context: _Context) -> Iterator[tuple[str, str]]:
    version = context.model.ir_version or 0
    if version > model_files.IR_VERSION:
        yield "", f"The file has IR version {version}; ONNX Runtime 1.21 reads {model_files.IR_VERSION} and lower."


_TENSORRT = frozenset({"tensorrt"})
_ONNXRUNTIME = frozenset({"onnxruntime"})
_WITHOUT_PLUGINS = frozenset({"tensorrt-rtx", "openvino", "any"})
_TO_PLUGIN = "Convert the file with --form plugin and use this project's library."
_TO_DECOMPOSED = "Convert the file with --form decomposed."
_KEEP_ROIS = "Keep rois in float32; half features go with them."

#: The rules, in the order of their severity.
RULES: tuple[Rule, ...] = (
    Rule("broken-graph", "error", None, _broken_graph, soundness.GRAPH_REMEDY),
    Rule("broken-weight", "error", None, _broken_weight, soundness.WEIGHT_REMEDY),
    Rule(
        "unknown-operator",
        "error",
        None,
        _unknown_operator,
        "Install the version of dcn-deploy that wrote the file, or correct the op_type.",
    ),
    Rule(
        "domain-version",
        "error",
        None,
        _domain_version,
        f"Import version {DOMAIN_VERSION}, or install the version of dcn-deploy that wrote the file.",
    ),
    Rule(
        "malformed-node",
        "error",
        None,
        _malformed_node,
        "Correct the node, or export the network again.",
    ),
    Rule(
        "foreign-node",
        "error",
        None,
        _foreign_node,
        "Convert the file: dcn-deploy convert reads these nodes.",
    ),
    Rule(
        "opset-too-low",
        "error",
        None,
        _opset_too_low,
        "Convert the file to the same form again; that raises the opset.",
    ),
    Rule("tensorrt-mask-without-bias", "error", _TENSORRT, _mask_without_bias, _TO_PLUGIN),
    Rule("tensorrt-asymmetric-pads", "error", _TENSORRT, _asymmetric_pads, _TO_PLUGIN),
    Rule(
        "no-plugins",
        "error",
        _WITHOUT_PLUGINS,
        _no_plugins,
        _TO_DECOMPOSED,
    ),
    Rule(
        "not-decomposable",
        "error",
        _WITHOUT_PLUGINS,
        _not_decomposable,
        "Mend that, then convert the file with --form decomposed.",
    ),
    Rule("float64-plugin", "error", _ONNXRUNTIME, _float64_plugin, "Export the network in float32."),
    Rule(
        "int8-plugin",
        "error",
        _ONNXRUNTIME,
        _int8_plugin,
        "The Q/DQ form runs there: dcn-deploy convert --int8 qdq.",
    ),
    Rule("half-batch-index", "error", None, _half_batch_index, _KEEP_ROIS),
    Rule("no-stock-plugin", "error", frozenset({"tensorrt-rtx"}), _no_stock_plugin, _TO_DECOMPOSED),
    Rule("tensorrt-swapped-axes", "warning", _TENSORRT, _swapped_axes, _TO_PLUGIN),
    Rule("tensorrt-half-coordinates", "warning", _TENSORRT, _stock_half_coordinates, _TO_PLUGIN),
    Rule(
        "tensorrt-float64",
        "warning",
        frozenset({"tensorrt", "tensorrt-rtx"}),
        _float64_tensorrt,
        "Export the network in float32.",
    ),
    Rule("standard-not-everywhere", "warning", frozenset({"any"}), _standard_not_everywhere, _TO_DECOMPOSED),
    Rule(
        "float64-sampling",
        "warning",
        _ONNXRUNTIME,
        _float64_sampling,
        "Export the network in float32.",
    ),
    Rule(
        "ir-version",
        "warning",
        _ONNXRUNTIME,
        _ir_version,
        "Export the file again with dcn-deploy, or use a newer ONNX Runtime.",
    ),
    Rule("half-rois", "warning", None, _half_rois, _KEEP_ROIS),
    Rule(
        "half-offset",
        "note",
        None,
        _half_offset,
        "Keep offset and mask in float32; half features go with them.",
    ),
    Rule(
        "onnxruntime-version",
        "note",
        _ONNXRUNTIME | {"any"},
        _ort_version,
        "For an older one convert the file with --form plugin.",
    ),
    Rule(
        "non-finite-offset",
        "note",
        None,
        _non_finite,
        "Choose one of these forms if offsets can overflow.",
    ),
    Rule(
        "sampled-map-size",
        "note",
        None,
        _sampled_map,
        "The form plugin needs no such tensor, where the target takes plugins.",
    ),
    Rule(
        "mask-without-sigmoid",
        "note",
        None,
        _mask_not_activated,
        "Check the network: DCNv2 multiplies by sigmoid(logits).",
    ),
)


def lint(model: onnx.ModelProto | ir.Model | str | os.PathLike[str], *, target: str | None = None) -> list[Finding]:
    """Return what is wrong with a model, or will go wrong at its target.

    Args:
        model: the model, or the path of one. It is not changed, but that an ``onnx_ir.Model`` gets its shapes inferred.
        target: where it is headed to, one of :data:`TARGETS`; None looks only for what is wrong everywhere.

    Returns:
        Findings, errors first, then in the graph's order.

    Raises:
        InvalidArgumentError: for an unknown target.
        InvalidModelError: if the file cannot be read.
    """
    if target is not None and target not in TARGETS:
        raise InvalidArgumentError(describe("target", expected=f"one of {', '.join(TARGETS)}", actual=repr(target)))
    from dcn_deploy.export.shape_inference import infer

    loaded = model_files.load(model)
    with model_files.silenced():
        infer(loaded)
    context = _Context(loaded, target)
    findings = [
        Finding(rule.id, rule.severity, node, message, rule.remedy)
        for rule in RULES
        if rule.targets is None or target in rule.targets
        for node, message in rule.check(context)
    ]
    return sorted(findings, key=lambda finding: _RANK[finding.severity])


@dataclass(frozen=True)
class Report:
    """The findings on one file.

    Attributes:
        model: the file.
        target: where it is headed to, None if that was not said.
        findings: what :func:`lint` returned.
    """

    model: str
    target: str | None
    findings: tuple[Finding, ...]

    @property
    def has_errors(self) -> bool:
        """Whether an error is among the findings."""
        return any(finding.severity == "error" for finding in self.findings)

    @property
    def counts(self) -> dict[str, int]:
        """Number of findings of each severity."""
        return {severity: sum(f.severity == severity for f in self.findings) for severity in _RANK}

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain Python values."""
        return {
            "model": self.model,
            "target": self.target,
            "counts": self.counts,
            "findings": [finding.to_json() for finding in self.findings],
        }

    def to_table(self) -> RenderableType:
        """Return a table for ``rich``."""
        from rich.markup import escape
        from rich.table import Table
        from rich.text import Text

        counts = ", ".join(f"{number} {severity}(s)" for severity, number in self.counts.items())
        headed = f" for {self.target}" if self.target else ""
        table = Table(title=f"{escape(self.model)}{headed}: {counts}", title_justify="left", show_lines=True)
        for heading in ("severity", "rule", "node", "finding"):
            table.add_column(heading, overflow="fold", no_wrap=heading in ("severity", "rule"))
        colours = {"error": "red", "warning": "yellow", "note": "cyan"}
        for finding in self.findings:
            table.add_row(
                f"[{colours[finding.severity]}]{finding.severity}[/]",
                finding.rule,
                escape(finding.node),
                escape(f"{finding.message} {finding.remedy}"),
            )
        if not self.findings:
            return Text(f"nothing found in {self.model}{headed}")
        return table
