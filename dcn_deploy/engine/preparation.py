"""What has to happen to an ONNX file before TensorRT's parser sees it.

The parser looks operators up by name alone, whatever their domain, and tells little about what it does not find. So
the form is brought to what the package can run, the lint rules of the target are asked, and a node that the parser
would mistake for another is refused here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcn_deploy.errors import InvalidModelError, UnsupportedError, describe
from dcn_deploy.runtime.engine_metadata import NodeOrigin
from dcn_deploy.runtime.runner import TensorSpec
from dcn_deploy.runtime.tensorrt_api import Package
from dcn_deploy.schema import DEFORM_CONV2D, DOMAIN, OPERATORS, OperatorSchema

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

#: Domains whose operators the parser knows: the standard, TensorRT's own quantisation, ONNX Runtime's.
_PARSER_DOMAINS = frozenset({"", "ai.onnx", "trt", "com.microsoft"})


@dataclass
class Prepared:
    """A network ready for the parser.

    Attributes:
        model: the network.
        source: the file it was read from.
        form: form of its deformable nodes; None if it has none.
        precision: element type of its weights, as ``convert --precision`` names it.
        inputs: what it takes.
        outputs: what it gives.
        operators: (name, operator) of every node, to be looked up in the parser.
        remarks: what lint warns of.
    """

    model: ir.Model
    source: Path
    form: str | None
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: tuple[tuple[str, str], ...]
    remarks: tuple[str, ...]

    @property
    def has_plugins(self) -> bool:
        """Whether a node is one of this project's plugins."""
        return self.form == "plugin"

    def retype(self, dtypes: Mapping[str, np.dtype[Any]]) -> None:
        """Correct the element types of inputs and outputs to those that the parser gave them.

        Args:
            dtypes: by name; float32 for what is float64 in the file.
        """
        self.inputs = tuple(replace(spec, dtype=dtypes.get(spec.name, spec.dtype)) for spec in self.inputs)
        self.outputs = tuple(replace(spec, dtype=dtypes.get(spec.name, spec.dtype)) for spec in self.outputs)

    def nodes(self) -> Iterator[NodeOrigin]:
        """Yield name, type, domain and metadata of each node of the graph."""
        for node in self.model.graph:
            yield NodeOrigin(node.name or "", node.op_type, node.domain, dict(node.metadata_props))

    def write(self, folder: Path) -> Path:
        """Write the network for the parser and return its path."""
        from dcn_deploy.export import model_files

        path = folder / "network.onnx"
        model_files.save(self.model, path)
        return path


def prepare(
    source: str | os.PathLike[str], package: Package, *, form: str | None = None, tf32: bool = False
) -> Prepared:
    """Read a file and bring it to what a package's parser takes.

    Args:
        source: the ONNX file, in any form.
        package: the package that builds the engine.
        form: form of the deformable nodes; None for the package's own.
        tf32: whether plugins may multiply float32 in TF32.

    Raises:
        InvalidArgumentError: for an unknown form.
        InvalidModelError: if the file cannot be read, or a node is malformed.
        UnsupportedError: if the package cannot run the form, or the file has something that it cannot run.
    """
    from dcn_deploy.export import metadata, model_files
    from dcn_deploy.export.conversion import convert_model
    from dcn_deploy.export.forms import check_form, deformable_nodes
    from dcn_deploy.export.node_reading import label

    wanted = form or package.form
    check_form(wanted)
    if wanted == "plugin" and not package.takes_plugins:
        raise UnsupportedError(
            describe(
                f"form for {package.title}",
                expected=package.form,
                actual=wanted,
                remedy=f"{package.title} runs no custom plugins; leave --form out.",
            )
        )
    path = Path(source)
    model = model_files.load(path)
    if deformable_nodes(model):
        model = convert_model(model, wanted)
    remarks = _lint(model, path, package)
    _check_domains(model, path, package)
    found = deformable_nodes(model)
    if "plugin" in found:
        for node in found["plugin"]:
            _describe_to_plugin(node, OPERATORS[node.op_type], tf32)
    functions = {(domain, name) for domain, name, _ in model.functions}
    return Prepared(
        model=model,
        source=path,
        form=next(iter(found), None),
        precision=metadata.precision(model) or "unknown",
        inputs=_inputs(model, path),
        outputs=_specs(model.graph.outputs),
        operators=tuple(
            (label(node), node.op_type)
            for node in model_files.all_nodes(model)
            if (node.domain, node.op_type) not in functions
        ),
        remarks=remarks,
    )


def _lint(model: ir.Model, path: Path, package: Package) -> tuple[str, ...]:
    """Raise for the first error, and return the warnings. Infers shapes in place."""
    from dcn_deploy.export.linting import lint

    findings = lint(model, target=package.backend)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        first = errors[0]
        where = f"node '{first.node}': " if first.node else ""
        more = f" ({len(errors) - 1} more: dcn-deploy lint --target {package.backend})" if len(errors) > 1 else ""
        raise UnsupportedError(
            f"'{path}' cannot become an engine of {package.title}: {where}{first.message} {first.remedy}{more}"
        )
    return tuple(str(finding) for finding in findings if finding.severity == "warning")


def _check_domains(model: ir.Model, path: Path, package: Package) -> None:
    """Refuse nodes of domains that the parser would read as the standard's, by their names alone."""
    from dcn_deploy.export import model_files
    from dcn_deploy.export.node_reading import label

    own = {domain for domain, _, _ in model.functions}
    known = _PARSER_DOMAINS | own | ({DOMAIN} if package.takes_plugins else set())
    for node in model_files.all_nodes(model):
        if node.domain not in known:
            raise UnsupportedError(
                describe(
                    f"domain of node '{label(node)}' ({node.op_type}) in '{path}'",
                    expected=f"one that {package.title} knows ({', '.join(sorted(filter(None, known)))})",
                    actual=f"'{node.domain}'",
                    remedy="Replace the node by ones of the ONNX standard.",
                )
            )


def _describe_to_plugin(node: ir.Node, schema: OperatorSchema, tf32: bool) -> None:
    """Add to a node what the plugin and the parser that calls it have to know.

    The parser finds a plugin by ``plugin_version`` and ``plugin_namespace`` (version 10) or the node's domain (11); it
    has no place for an input that is not there, so ``optional_inputs`` says which ones are.
    """
    import onnx_ir as ir

    from dcn_deploy.export.node_reading import inputs_of

    inputs = inputs_of(node, schema)
    attributes: dict[str, str | int | Sequence[int]] = {
        "plugin_version": schema.plugin_version,
        "plugin_namespace": schema.domain,
    }
    optional = [declared.name for declared in schema.inputs if declared.optional and declared.name in inputs]
    if optional:
        attributes["optional_inputs"] = ",".join(optional)
    if schema is DEFORM_CONV2D:
        weight = inputs["W"]
        attributes["allow_tf32"] = int(tf32)
        # Weights that are packed once, and not in every run.
        attributes["constant_weights"] = int(ir.convenience.get_const_tensor(weight) is not None)
        if "kernel_shape" not in node.attributes:
            attributes["kernel_shape"] = _kernel_shape(node, weight)
    for attribute in ir.convenience.convert_attributes(attributes):
        node.attributes.add(attribute)
    connected = [value for value in node.inputs if value is not None]
    node.resize_inputs(len(connected))
    for position, value in enumerate(connected):
        node.replace_input_with(position, value)


def _kernel_shape(node: ir.Node, weight: ir.Value) -> list[int]:
    from dcn_deploy.export.node_reading import dims_of, label

    dims = dims_of(weight) or ()
    extents = [extent for extent in dims[2:] if isinstance(extent, int)]
    if len(extents) != 2:
        raise InvalidModelError(
            describe(
                f"Node '{label(node)}' ({node.op_type}): attribute kernel_shape",
                expected="two numbers, as the shape of W does not tell them",
                actual="none",
            )
        )
    return extents


def _specs(values: Sequence[ir.Value]) -> tuple[TensorSpec, ...]:
    from dcn_deploy.export.node_reading import dims_of

    return tuple(
        TensorSpec(value.name or "", None if value.dtype is None else value.dtype.numpy(), dims_of(value))
        for value in values
    )


def _inputs(model: ir.Model, path: Path) -> tuple[TensorSpec, ...]:
    """Return what the network takes, and for inputs that hold boxes what those must fit."""
    from dcn_deploy.runtime import onnx_model
    from dcn_deploy.validation.roi_inputs import with_boxes

    specs = _specs([value for value in model.graph.inputs if not value.is_initializer()])
    return with_boxes(specs, onnx_model.load(path, "dcn-deploy build", external_data=False))
