"""Conversion of ONNX models between the three forms.

Whatever comes in is first brought to the form ``plugin``, node by node, and from there to the wanted form: so
that a form is one function each way and not one for each pair.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcn_deploy.errors import InvalidArgumentError, InvalidModelError, UnsupportedError, describe
from dcn_deploy.export import metadata, model_files, opsets
from dcn_deploy.export.expansion import (
    IR_VERSION,
    ORIGINAL,
    PART_OF,
    PREFIX,
    ROLE,
    SHARED,
    Expansion,
    Original,
    SharedValues,
    describe_original,
)
from dcn_deploy.export.forms import FORMS, check_form, deformable_nodes
from dcn_deploy.export.node_reading import (
    attributes_of,
    check_node,
    inputs_of,
    label,
    schema_of,
    view_of,
)
from dcn_deploy.export.operators import OPERATOR_EXPORTS
from dcn_deploy.export.operators import int8 as int8_nodes
from dcn_deploy.export.operators.base import NodeView
from dcn_deploy.export.operators.mmdeploy import FOREIGN_OPERATORS
from dcn_deploy.export.precision import apply as apply_precision
from dcn_deploy.export.precision import check_precision
from dcn_deploy.export.soundness import load_sound
from dcn_deploy.export.unique_names import UniqueNames
from dcn_deploy.schema import DOMAIN, DOMAIN_VERSION, OPERATORS

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir
    from rich.console import RenderableType

    Expander = Callable[[NodeView, Mapping[str, ir.Value], Expansion], ir.Value]

_FOREIGN_DOMAINS = {domain for domain, _ in FOREIGN_OPERATORS}


@dataclass(frozen=True)
class ConversionResult:
    """What :func:`convert_file` wrote.

    Attributes:
        path: the ONNX file.
        external_data: the file with the weights beside it, None if they are inside.
        form: form of the deformable nodes; None if there are none, and none was asked for.
        opset: version of the default domain.
        nodes: number of deformable nodes.
        precision: element type of the weights: ``fp32``, ``fp16``, ``bf16``, ``fp64`` or ``mixed``.
        kept_float32: nodes that compute in float32 all the same, since a constant of theirs is beyond float16
            (too large, or too small and then of the nodes before them as well).
        folded: names of the convolutions that were folded into int8 nodes; None if that was not asked for.
        left: (name, reason) of the quantised ones that could not be folded; None likewise.
    """

    path: Path
    external_data: Path | None
    form: str | None
    opset: int
    nodes: int
    precision: str | None = None
    kept_float32: tuple[str, ...] = ()
    folded: tuple[str, ...] | None = None
    left: tuple[tuple[str, str], ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain Python values."""
        return {
            "path": str(self.path),
            "external_data": None if self.external_data is None else str(self.external_data),
            "form": self.form,
            "opset": self.opset,
            "nodes": self.nodes,
            "precision": self.precision,
            "kept_float32": list(self.kept_float32),
            "folded": None if self.folded is None else list(self.folded),
            "left": None if self.left is None else [{"node": node, "reason": reason} for node, reason in self.left],
        }

    def to_table(self) -> RenderableType:
        """Return a table for ``rich``."""
        from dcn_deploy.export.model_files import summary

        rows = self.to_json()
        kept = rows.pop("kept_float32")
        if kept:
            rows["kept in float32"] = ", ".join(kept)
        for key, shown in (("folded", ", ".join(self.folded or ()) or "none"), ("left", dict(self.left or ()))):
            if rows.pop(key) is not None:
                rows[key] = shown
        return summary(rows)


def convert(
    model: onnx.ModelProto | str | os.PathLike[str], form: str | None = None, *, precision: str | None = None
) -> onnx.ModelProto:
    """Return a model with every deformable node in the wanted form, and its tensors in the wanted element types.

    Nodes in any of the three forms are read, also several in one model, and those of mmdeploy and mmcv
    (domain ``mmdeploy``). Between ``plugin`` and ``standard`` a node is renamed; where features are half and
    offset or mask float32, which the standard operator cannot have, it is computed in float32 between casts.
    A node goes back from ``decomposed`` exactly as it was, provided that nothing changed its parts since.
    Nodes in subgraphs (If, Loop, Scan) are converted in place; a model-local function that holds one is inlined.
    The opset is raised where the form needs it.

    With a precision the network computes in other element types: ``fp32``, ``fp16`` and ``bf16`` throughout;
    ``mixed`` in float16, but for offsets, masks, RoIs and the nodes that compute nothing else, which are float32. The
    network's inputs and outputs keep their types. A node with a constant beyond float16 stays in float32.

    Args:
        model: the model, or the path of one. It is not changed.
        form: ``"plugin"``, ``"standard"`` or ``"decomposed"``; None leaves the form as it is.
        precision: ``"fp32"``, ``"fp16"``, ``"bf16"`` or ``"mixed"``; None leaves the element types as they are.

    Raises:
        InvalidArgumentError: for an unknown form or precision, or nothing to do.
        InvalidModelError: if the file cannot be read, the graph is broken, weights are missing, a deformable node is
            malformed, or the parts of a decomposed node were changed.
        UnsupportedError: if a node has no such form, or the opset cannot be raised.
    """
    _check_request(form, precision)
    return model_files.to_proto(convert_model(load_sound(model), form, precision))


def _check_request(form: str | None, precision: str | None, int8: str | None = None) -> None:
    if form is not None:
        check_form(form)
    if precision is not None:
        check_precision(precision)
    if int8 not in (None, "folded", "qdq"):
        raise InvalidArgumentError(describe("int8", expected="folded or qdq", actual=repr(int8)))
    if form is None and precision is None and int8 is None:
        raise InvalidArgumentError(
            describe("conversion", expected="at least one of --form, --precision and --int8", actual="none")
        )


def convert_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    form: str | None = None,
    *,
    precision: str | None = None,
    external_data: bool | None = None,
    int8: str | None = None,
) -> ConversionResult:
    """Convert a file of any size; see :func:`convert`.

    Args:
        source: the file to read.
        target: the file to write.
        form: ``"plugin"``, ``"standard"`` or ``"decomposed"``; None leaves the form as it is.
        precision: ``"fp32"``, ``"fp16"``, ``"bf16"`` or ``"mixed"``; None leaves the element types as they are.
        external_data: put weights into ``<target>.data`` beside it; None does so above 2 GiB.
        int8: how quantised deformable convolutions are written: ``"folded"`` into one int8 node each, which has the
            form ``plugin`` only (:func:`dcn_deploy.export.fold_quantisation`), or as ``"qdq"``, with QuantizeLinear and
            DequantizeLinear (:func:`dcn_deploy.export.unfold_quantisation`); None leaves them.

    Returns:
        What was written.

    Raises:
        The same as :func:`convert`, and InvalidArgumentError if ``target`` cannot be written to.
    """
    _check_request(form, precision, int8)
    path = model_files.check_output_path(target, "output")
    model = load_sound(source)
    folded: tuple[str, ...] | None = None
    left: tuple[tuple[str, str], ...] | None = None
    if int8 is not None:
        from dcn_deploy.export import quantisation

        if int8 == "folded":
            model, folded, left = quantisation.fold_model(model)
        else:
            model = quantisation.unfold_model(model)
    converter = Converter(model)
    model = converter.to(form, precision)
    found = deformable_nodes(model)
    data = model_files.save(model, path, external_data=external_data)
    return ConversionResult(
        path=path,
        external_data=data,
        form=form or next(iter(found), None),
        opset=model.opset_imports[""],
        nodes=sum(map(len, found.values())),
        precision=metadata.precision(model),
        kept_float32=converter.kept_float32,
        folded=folded,
        left=left,
    )


def convert_model(model: ir.Model, form: str | None, precision: str | None = None) -> ir.Model:
    """Convert in place where possible and return the model; see :func:`convert`."""
    return Converter(model).to(form, precision)


class Converter:
    """Brings the deformable nodes of one model to a form.

    Args:
        model: the model; it is changed.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        #: Names of the nodes that a change of precision left in float32.
        self.kept_float32: tuple[str, ...] = ()

    def to(self, form: str | None, precision: str | None = None) -> ir.Model:
        """Return the model with every deformable node in ``form``, and its element types as ``precision`` says."""
        form = form or self._present_form()
        self._inline_functions()
        self._to_plugin()
        if precision is not None:
            for node in self._nodes():
                if _is_deformable(node):
                    check_node(node, OPERATORS[node.op_type])
            if precision == "bf16":
                self._raise_opset(opsets.BFLOAT16_OPSET)
            self.kept_float32 = apply_precision(self.model, precision)
        nodes = self._checked_plugin_nodes(form)
        needed = opsets.required(form, [view_of(node, OPERATORS[node.op_type]) for node in nodes])
        self._raise_opset(needed)
        if form != "plugin":
            self._from_plugin(form)
        self._tidy()
        metadata.write(self.model, form=form if nodes else None)
        return self.model

    def _present_form(self) -> str:
        """Return the form of the model's nodes; of a model without any, ``plugin``, which changes nothing.

        Raises:
            InvalidArgumentError: if they have several forms, or that of another project.
        """
        found = list(deformable_nodes(self.model))
        if len(found) > 1 or not set(found) <= set(FORMS):
            raise InvalidArgumentError(
                describe(
                    "form",
                    expected=f"one of {', '.join(FORMS)}, since the file's own nodes have no single one of them",
                    actual="none",
                )
            )
        return found[0] if found else "plugin"

    # ---- towards the form plugin ----

    def _inline_functions(self) -> None:
        """Inline the model-local functions that hold a deformable node: shapes are not known inside one."""
        from onnx_ir.passes.common import InlinePass

        holding = {
            identifier
            for identifier, function in self.model.functions.items()
            if any(_is_deformable(node) for node in function.all_nodes())
        }
        if not holding:
            return
        # A caller of such a function inside another function must go as well.
        grown = True
        while grown:
            callers = {
                identifier
                for identifier, function in self.model.functions.items()
                if any(node.op_identifier() in holding for node in function.all_nodes())
            }
            grown = not callers <= holding
            holding |= callers
        self.model = InlinePass(criteria=lambda function: function.identifier() in holding)(self.model).model

    def _to_plugin(self) -> None:
        restored = False
        for node in list(self._nodes()):
            if node.graph is None:
                continue  # went with the expansion that it was a part of
            if ORIGINAL in node.metadata_props:
                _restore(node)
                restored = True
            elif PART_OF in node.metadata_props:
                continue
            elif (foreign := FOREIGN_OPERATORS.get((node.domain, node.op_type))) is not None:
                attributes = foreign.attributes(label(node), attributes_of(node))
                if len(node.inputs) > len(foreign.inputs):
                    raise InvalidModelError(
                        f"Node '{label(node)}' ({node.op_type}): expected at most {len(foreign.inputs)} inputs "
                        f"({', '.join(foreign.inputs)}), got {len(node.inputs)}."
                    )
                given = dict(zip(foreign.inputs, node.inputs, strict=False))
                _rename(node, foreign.schema.op_type, DOMAIN)
                _reconnect(node, [given.get(declared.name) for declared in foreign.schema.inputs])
                _set_attributes(node, attributes)
            elif (schema := schema_of(node)) is not None:
                _rename(node, schema.op_type, DOMAIN)
        if restored:
            _remove_leftovers(self.model)
        if any(node.domain == DOMAIN for node in self._nodes()):
            self.model.opset_imports.setdefault(DOMAIN, DOMAIN_VERSION)

    def _checked_plugin_nodes(self, form: str) -> list[ir.Node]:
        """Return the deformable nodes, now all of the form ``plugin``, with the shapes that ``form`` needs."""
        nodes = [node for node in self._nodes() if _is_deformable(node)]
        if form != "plugin" and any(_has_unknown_input(node) for node in nodes):
            from dcn_deploy.export.shape_inference import infer

            with model_files.silenced():
                infer(self.model)
        for node in nodes:
            check_node(node, OPERATORS[node.op_type])
        for node in nodes:
            _check_form_exists(view_of(node, OPERATORS[node.op_type]), form)
        return nodes

    def _raise_opset(self, needed: int) -> None:
        self.model = raise_opset(self.model, needed)

    # ---- from the form plugin ----

    def _from_plugin(self, form: str) -> None:
        opset = self.model.opset_imports[""]
        shared: SharedValues | None = None
        parts: set[str] = set()
        for node in list(self._nodes()):
            if not _is_deformable(node):
                continue
            schema = OPERATORS[node.op_type]
            view = view_of(node, schema)
            if form == "standard":
                assert schema.standard is not None
                if len({view.dtypes[tensor] for tensor in view.tensors}) == 1:
                    _rename(node, schema.standard.op_type, "")
                    continue
            if shared is None:
                shared = SharedValues(self.model.graph, UniqueNames(self.model))
            _expand(node, view, form, opset, shared, parts)

    def _tidy(self) -> None:
        """Bring the opset imports and the IR version in line with the nodes."""
        used = {node.domain for node in model_files.all_nodes(self.model)}
        imports = self.model.opset_imports
        for domain in (DOMAIN, *_FOREIGN_DOMAINS):
            if domain not in used:
                imports.pop(domain, None)
        if DOMAIN in used:
            imports[DOMAIN] = DOMAIN_VERSION
        if any(ORIGINAL in node.metadata_props for node in self._nodes()):
            # Nodes have metadata_props from this version on.
            self.model.ir_version = max(self.model.ir_version or 0, IR_VERSION)

    def _nodes(self) -> list[ir.Node]:
        import onnx_ir as ir

        return list(ir.traversal.RecursiveGraphIterator(self.model.graph))


def raise_opset(model: ir.Model, needed: int) -> ir.Model:
    """Return the model with its default opset at least at ``needed``; see :func:`dcn_deploy.export.opsets.raise_to`."""
    # On the way through a protocol buffer tensors lose the folder that their file is in.
    folder = model_files.data_folder(model)
    raised = opsets.raise_to(model, needed)
    model_files.set_data_folder(raised, folder)
    return raised


def _check_form_exists(view: NodeView, form: str) -> None:
    """Raise for a node that has no such form, naming the forms that it has.

    Raises:
        UnsupportedError: with what to do instead.
    """
    obstacle = OPERATOR_EXPORTS[view.schema.op_type].decomposition_obstacle(view)
    if form == "standard" and view.schema.standard is None:
        remaining = "plugin" if obstacle else "plugin or decomposed"
        raise UnsupportedError(
            f"Node '{view.name}': the ONNX standard has no operator for {view.schema.op_type}. "
            f"Use the form {remaining}."
        )
    if form == "standard" and int8_nodes.is_quantised(view):
        raise UnsupportedError(f"Node '{view.name}' has no form standard: {int8_nodes.OBSTACLE}")
    if form == "decomposed" and obstacle:
        raise UnsupportedError(f"Node '{view.name}' cannot be decomposed: {obstacle}")


def _is_deformable(node: ir.Node) -> bool:
    if PART_OF in node.metadata_props:
        return ORIGINAL in node.metadata_props
    return schema_of(node) is not None or (node.domain, node.op_type) in FOREIGN_OPERATORS


def _has_unknown_input(node: ir.Node) -> bool:
    return any(value is not None and (value.dtype is None or value.shape is None) for value in node.inputs)


def _rename(node: ir.Node, op_type: str, domain: str) -> None:
    node.op_type = op_type
    node.domain = domain
    node.version = None


def _reconnect(node: ir.Node, inputs: list[ir.Value | None]) -> None:
    while inputs and inputs[-1] is None:
        inputs.pop()
    node.resize_inputs(len(inputs))
    for position, value in enumerate(inputs):
        node.replace_input_with(position, value)


def _set_attributes(node: ir.Node, attributes: Mapping[str, object]) -> None:
    import onnx_ir as ir

    node.attributes.clear()
    for attribute in ir.convenience.convert_attributes(attributes):  # type: ignore[arg-type]
        node.attributes.add(attribute)


# ---- expansion and restoration ----


def _standard_between_casts(view: NodeView, inputs: Mapping[str, ir.Value], expansion: Expansion) -> ir.Value:
    """The standard operator has one element type for all tensors: compute in the widest one that occurs."""
    standard = view.schema.standard
    assert standard is not None
    operator = OPERATOR_EXPORTS[view.schema.op_type]
    wide = "float64" if "float64" in view.dtypes.values() else "float32"
    to = int(expansion.dtype(wide))
    widened: list[ir.Value | None] = []
    for declared in view.schema.inputs:
        value = inputs.get(declared.name)
        if value is not None and view.dtypes.get(declared.name) != wide:
            shape = view.shapes.get(declared.name)
            value = expansion.op(f"{declared.name}_cast", "Cast", [value], dtype=wide, shape=shape, to=to)
        widened.append(value)
    shape = operator.output_shapes(view)[0]
    result = expansion.op("compute", standard.op_type, widened, dtype=wide, shape=shape, **dict(view.attributes))
    features = view.dtypes.get(operator.feature_inputs[0]) or wide
    return expansion.op("", "Cast", [result], dtype=features, shape=shape, to=int(expansion.dtype(features)))


def _expander(view: NodeView, form: str) -> Expander:
    return OPERATOR_EXPORTS[view.schema.op_type].decompose if form == "decomposed" else _standard_between_casts


def _expand(node: ir.Node, view: NodeView, form: str, opset: int, shared: SharedValues, parts: set[str]) -> None:
    """Put an expansion in a node's place."""
    import dataclasses

    import onnx_ir as ir

    part, number = view.name, 1
    while part in parts:  # names of nodes need not be unique
        part, number = f"{view.name}_{number}", number + 1
    parts.add(part)
    view = dataclasses.replace(view, name=part)
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    inputs = inputs_of(node, view.schema)
    expansion = Expansion(view, opset, shared, graph)
    output = _expander(view, form)(view, inputs, expansion)
    last = expansion.nodes[-1]
    original = describe_original(form, node.name or "", view, inputs, expansion)
    last.name = node.name
    last.doc_string = node.doc_string
    last.metadata_props.update(node.metadata_props)
    last.metadata_props.update(original)
    output.metadata_props.update(node.outputs[0].metadata_props)
    ir.convenience.replace_nodes_and_values(graph, node, [node], expansion.nodes, node.outputs, [output])


def _restore(last: ir.Node) -> None:
    """Put the original node back in the place of its expansion.

    Raises:
        InvalidModelError: if the expansion is not as it was made.
    """
    import onnx_ir as ir

    original = Original(last)
    graph = last.graph
    assert isinstance(graph, ir.Graph)
    parts = {
        node.metadata_props[ROLE]: node
        for node in graph
        if node.metadata_props.get(PART_OF) == original.view.name and ROLE in node.metadata_props
    }
    inputs: dict[str, ir.Value] = {}
    for tensor, (role, position) in original.places.items():
        part = parts.get(role)
        value = part.inputs[position] if part is not None and position < len(part.inputs) else None
        if value is None:
            raise _changed(last, f"the part '{role}', which held {tensor}, is gone")
        inputs[tensor] = value

    scratch = Expansion(original.view, original.opset, SharedValues(None, UniqueNames()))
    expected = _expander(original.view, original.form)(original.view, inputs, scratch)
    difference = _difference(expected, last.outputs[0], {})
    for node in scratch.nodes:
        for position in range(len(node.inputs)):
            node.replace_input_with(position, None)
    if difference:
        raise _changed(last, difference)
    outputs_of_parts = {value for node in parts.values() if node is not last for value in node.outputs}
    for value in outputs_of_parts:
        users = {use.node for use in value.uses()}
        if value.is_graph_output() or not users <= set(parts.values()):
            raise _changed(last, f"'{value.name}', a value inside it, is used from outside")

    restored = ir.node(
        original.view.schema.op_type,
        [inputs.get(declared.name) for declared in original.view.schema.inputs],
        attributes=original.view.attributes,
        domain=original.view.schema.domain,
        name=original.name,
        doc_string=last.doc_string,
        metadata_props={
            name: value for name, value in last.metadata_props.items() if name not in (PART_OF, ROLE, ORIGINAL)
        },
    )
    _reconnect(restored, list(restored.inputs))
    restored.outputs[0].metadata_props.update(last.outputs[0].metadata_props)
    ir.convenience.replace_nodes_and_values(
        graph, last, list(parts.values()), [restored], last.outputs, restored.outputs
    )


def _changed(last: ir.Node, how: str) -> InvalidModelError:
    return InvalidModelError(
        f"The expansion that ends in node '{label(last)}' cannot be turned back into one node, because another "
        f"tool changed it: {how}. Convert the file it was made from, or export the network again."
    )


def _difference(mine: ir.Value | None, theirs: ir.Value | None, seen: dict[tuple[int, int], str]) -> str:
    """Compare two values by how they are computed; return what differs, empty if nothing does.

    Comparison ends at values that are the same object (the inputs of the original node).
    """
    import onnx_ir as ir

    if mine is theirs:
        return ""
    if mine is None or theirs is None:
        return "an input was added or removed"
    key = (id(mine), id(theirs))
    if key in seen:
        return seen[key]
    seen[key] = ""
    constant, their_constant = ir.convenience.get_const_tensor(mine), ir.convenience.get_const_tensor(theirs)
    if constant is not None or their_constant is not None:
        equal = (
            constant is not None
            and their_constant is not None
            and constant.dtype == their_constant.dtype
            and tuple(constant.shape) == tuple(their_constant.shape)
            and constant.tobytes() == their_constant.tobytes()
        )
        seen[key] = "" if equal else f"constant '{theirs.name}' is another"
        return seen[key]
    node, their_node = mine.producer(), theirs.producer()
    if node is None or their_node is None:
        seen[key] = f"'{theirs.name}' is not computed as it was"
    elif (node.domain, node.op_type) != (their_node.domain, their_node.op_type):
        seen[key] = f"node '{label(their_node)}' is a {their_node.op_type}, expected {node.op_type}"
    elif {k: v.value for k, v in node.attributes.items()} != {k: v.value for k, v in their_node.attributes.items()}:
        seen[key] = f"node '{label(their_node)}' has other attributes"
    elif len(node.inputs) != len(their_node.inputs):
        seen[key] = f"node '{label(their_node)}' has {len(their_node.inputs)} inputs, expected {len(node.inputs)}"
    elif node.op_type != "Shape":
        # A Shape node may be that of another layer: it is shared where the extents have the same name.
        differences = (_difference(a, b, seen) for a, b in zip(node.inputs, their_node.inputs, strict=True))
        seen[key] = next(filter(None, differences), "")
    return seen[key]


def _remove_leftovers(model: ir.Model) -> None:
    """Remove shared nodes and constants of expansions that nothing uses any more."""
    for graph in model.graphs():
        for node in reversed(list(graph)):
            if SHARED in node.metadata_props and not any(
                value.uses() or value.is_graph_output() for value in node.outputs
            ):
                graph.remove(node, safe=True)
    initializers = model.graph.initializers
    for name in [name for name, value in initializers.items() if name.startswith(PREFIX) and not value.uses()]:
        del initializers[name]
