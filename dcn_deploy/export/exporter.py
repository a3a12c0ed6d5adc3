"""PyTorch network → ONNX file."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcn_deploy._lazy import require
from dcn_deploy.errors import (
    DcnDeployError,
    ExportError,
    InvalidArgumentError,
    InvalidModelError,
    UnsupportedError,
    describe,
)
from dcn_deploy.export import metadata, model_files, opsets
from dcn_deploy.export.forms import check_form, deformable_nodes

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch
    from rich.console import RenderableType

#: Highest opset that an export may ask for: what the package's oldest supported dependencies know.
MAX_OPSET = 23


@dataclass(frozen=True)
class ExportResult:
    """What :func:`export` wrote.

    Attributes:
        path: the ONNX file.
        external_data: the file with the weights beside it, None if they are inside.
        form: form of the deformable nodes.
        opset: version of the default domain.
        nodes: number of deformable nodes.
        inputs: extents of each input by name; a str is a dynamic extent's name.
        outputs: the same for each output.
        metadata: what :func:`dcn_deploy.export.metadata.read` gives for the file.
    """

    path: Path
    external_data: Path | None
    form: str
    opset: int
    nodes: int
    inputs: Mapping[str, tuple[int | str | None, ...]]
    outputs: Mapping[str, tuple[int | str | None, ...]]
    metadata: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain Python values."""
        return {
            "path": str(self.path),
            "external_data": None if self.external_data is None else str(self.external_data),
            "form": self.form,
            "opset": self.opset,
            "nodes": self.nodes,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "outputs": {name: list(shape) for name, shape in self.outputs.items()},
            "metadata": dict(self.metadata),
        }

    def to_table(self) -> RenderableType:
        """Return a table for ``rich``."""
        return model_files.summary(self.to_json())


def export(
    model: torch.nn.Module | torch.export.ExportedProgram,
    args: torch.Tensor | Sequence[Any],
    path: str | os.PathLike[str],
    *,
    form: str = "plugin",
    opset: int | None = None,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    source: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    external_data: bool | None = None,
) -> ExportResult:
    """Export a network with deformable operators to an ONNX file.

    Calls of ``dcn_deploy::deform_conv2d`` and ``dcn_deploy::deform_roi_pool`` (the layers of :mod:`dcn_deploy.nn`) and
    of ``torchvision::deform_conv2d`` become one node each in the form ``plugin``, those of a convolution in the form
    ``standard`` too. The file is checked, its shapes are inferred and it is written only when all of that went well.
    The same network gives the same bytes.

    Args:
        model: a network in eval mode, or a ``torch.export.ExportedProgram``.
        args: example inputs; a single tensor or a sequence. A dict at its end is an input as well; what ``forward``
            takes by keyword goes into ``kwargs``.
        path: where to write; must end in ``.onnx``.
        form: ``"plugin"``, ``"standard"`` or ``"decomposed"``.
        opset: version of the ONNX standard. None takes the lowest one that the form and the element types
            need, which is the one most runtimes read: 18; 19 for ``standard``; 22 with bfloat16.
        dynamic_shapes: as ``torch.export.export`` takes it; or, by input name,
            ``{"input": {0: "n", 2: "h", 3: "w"}}`` with a name for every dynamic axis. Names of one spelling
            are one extent.
        input_names: names of the inputs, in order; None takes the names of ``forward``'s arguments.
        output_names: names of the outputs, in order.
        kwargs: example keyword inputs.
        source: where the network came from, for the file's metadata; None takes its class.
        weights: file that the weights came from; its name goes into the metadata.
        external_data: write the weights into ``<path>.data``; None does so above 2 GiB.

    Returns:
        What was written.

    Raises:
        InvalidArgumentError: for an unusable path, form, opset, name or dynamic shape, and for more names than there
            are inputs or outputs.
        ExportError: if the network is in training mode, cannot be captured, calls an operator that has no
            translation, or an axis that was to be dynamic was fixed by the network.
        UnsupportedError: if an operator does not exist in the form or the opset.
    """
    check_form(form)
    target = model_files.check_output_path(path)
    require("torch", "dcn_deploy.export")
    require("onnxscript", "dcn_deploy.export")
    import torch

    positional = (args,) if isinstance(args, torch.Tensor) else tuple(args)
    _check_model(model)
    tensors = _tensors(model, positional, kwargs or {})
    _check_names(input_names, output_names, _state_dict(model))
    chosen = _choose_opset(opset, form, tensors)
    dynamic = _Dynamic(model, dynamic_shapes, input_names, positional, kwargs or {})

    exported = _torch_export(
        model,
        positional,
        dict(kwargs or {}),
        opset=chosen,
        dynamic_shapes=dynamic.for_torch(),
        input_names=input_names,
        output_names=output_names,
    )
    _check_no_surplus("input_names", input_names, exported.graph.inputs)
    _check_no_surplus("output_names", output_names, exported.graph.outputs)
    dynamic.check(exported)
    _clean(exported)
    state = _state_dict(model)
    from dcn_deploy.export.conversion import convert_model
    from dcn_deploy.export.translation import drop_placeholder_biases

    drop_placeholder_biases(exported, frozenset(state))
    exported = convert_model(exported, form)
    if opset is not None and exported.opset_imports.get("") != opset:
        raise UnsupportedError(
            f"The form {form} needs opset {exported.opset_imports.get('')} for this network, but opset={opset} was "
            f"asked for. Leave opset out, or choose another form."
        )
    metadata.write(
        exported,
        form=form,
        source=source or f"{type(model).__module__}.{type(model).__qualname__}",
        weights=None if weights is None else Path(weights).name,
        weights_sha256=metadata.state_dict_sha256(state),
    )
    exported.producer_name, exported.producer_version = "dcn_deploy", exported.metadata_props["dcn_deploy.version"]
    _check(exported)
    data = model_files.save(exported, target, external_data=external_data)
    return ExportResult(
        path=target,
        external_data=data,
        form=form,
        opset=exported.opset_imports[""],
        nodes=sum(map(len, deformable_nodes(exported).values())),
        inputs=_shapes(exported.graph.inputs),
        outputs=_shapes(exported.graph.outputs),
        metadata={
            name.removeprefix(metadata.PREFIX): value
            for name, value in exported.metadata_props.items()
            if name.startswith(metadata.PREFIX)
        },
    )


def _check_model(model: Any) -> None:
    import torch

    if isinstance(model, torch.export.ExportedProgram):
        return
    if not isinstance(model, torch.nn.Module):
        raise InvalidArgumentError(
            describe(
                "model",
                expected="a torch.nn.Module or a torch.export.ExportedProgram",
                actual=type(model).__name__,
            )
        )
    for name, module in model.named_modules():
        if module.training:
            where = f"its module '{name}' ({type(module).__name__})" if name else "it"
            raise ExportError(
                f"The network {type(model).__name__} cannot be exported: expected eval mode, but {where} is in "
                f"training mode, in which layers such as BatchNorm and Dropout compute something else. "
                f"Call model.eval() first."
            )


def _check_names(
    input_names: Sequence[str] | None, output_names: Sequence[str] | None, state: Mapping[str, Any]
) -> None:
    """Refuse names that no value of a graph can have, or that two of them would share."""
    taken = dict.fromkeys(state, "a weight of the network")
    for argument, names in (("input_names", input_names), ("output_names", output_names)):
        if isinstance(names, str):
            raise InvalidArgumentError(
                describe(argument, expected="a sequence of names", actual=repr(names), remedy=f"Write [{names!r}].")
            )
        for i, name in enumerate(names or ()):
            what = f"{argument}[{i}]"
            if not isinstance(name, str) or not name:
                raise InvalidArgumentError(describe(what, expected="a name", actual=repr(name)))
            if name in taken:
                raise InvalidArgumentError(
                    describe(what, expected="a name of its own", actual=f"{name!r}, the name of {taken[name]}")
                )
            taken[name] = what


def _check_no_surplus(argument: str, names: Sequence[str] | None, values: Sequence[ir.Value]) -> None:
    if names is not None and len(names) > len(values):
        raise InvalidArgumentError(
            describe(
                argument,
                expected=f"at most {len(values)} name(s), since the exported network has so many",
                actual=f"{len(names)} ({', '.join(names)})",
                remedy="Arguments that are no tensors, and outputs that are None, are not part of a graph.",
            )
        )


def _state_dict(model: torch.nn.Module | torch.export.ExportedProgram) -> Mapping[str, Any]:
    """Return parameters and buffers by name (an ExportedProgram has a property where a module has a method)."""
    state = model.state_dict
    return state() if callable(state) else state


def _tensors(
    model: torch.nn.Module | torch.export.ExportedProgram,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> list[torch.Tensor]:
    """Return the parameters, the buffers and the example inputs."""
    import torch
    from torch.utils import _pytree

    leaves = _pytree.tree_leaves((args, dict(kwargs)))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    return [*tensors, *(v for v in _state_dict(model).values() if isinstance(v, torch.Tensor))]


def _choose_opset(opset: int | None, form: str, tensors: Sequence[torch.Tensor]) -> int:
    """Return the opset to export in.

    The form's own need is looked at again once the nodes are known; this is what can be known before.
    """
    import torch

    from dcn_deploy.schema import BY_STANDARD_OP_TYPE

    needed, why = opsets.EXPORT_OPSET, "torch.onnx.export"
    if form == "standard":
        for schema in BY_STANDARD_OP_TYPE.values():
            assert schema.standard is not None
            if schema.standard.since_opset > needed:
                needed, why = schema.standard.since_opset, f"the standard operator {schema.standard.op_type}"
    if any(tensor.dtype == torch.bfloat16 for tensor in tensors) and needed < opsets.BFLOAT16_OPSET:
        needed, why = opsets.BFLOAT16_OPSET, "bfloat16"
    if opset is None:
        return needed
    if not isinstance(opset, int) or not needed <= opset <= MAX_OPSET:
        raise InvalidArgumentError(
            describe(
                "opset",
                expected=f"{needed} (which {why} needs) to {MAX_OPSET}",
                actual=repr(opset),
                remedy="Leave it out to get the lowest one that will do.",
            )
        )
    return opset


class _Dynamic:
    """Which axes were asked to be dynamic, as torch takes it and as the result is checked.

    Args:
        model: the network.
        shapes: what the caller gave.
        input_names: names that the caller gave the inputs.
        args: the example inputs.
        kwargs: those by keyword.
    """

    def __init__(
        self,
        model: Any,
        shapes: Any,
        input_names: Sequence[str] | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        import torch
        from torch.utils import _pytree

        self._shapes = shapes
        #: axes that must come out dynamic, by name of the ONNX input
        self._wanted: dict[str, dict[int, str]] = {}
        if not isinstance(model, torch.nn.Module):
            return
        arguments = list(inspect.signature(model.forward).parameters)
        names = list(input_names or ())
        if isinstance(shapes, (list, tuple)):
            by_argument = dict(zip(arguments, shapes, strict=False))
        elif isinstance(shapes, Mapping):
            by_argument = {self._argument(name, arguments, names): axes for name, axes in shapes.items()}
            # torch wants an entry for every argument that is given, of its structure, and renames axes by their order.
            given = {**dict(zip(arguments, args, strict=False)), **kwargs}
            fixed = {name: _pytree.tree_map(lambda leaf: None, value) for name, value in given.items()}
            self._shapes = {**fixed, **by_argument}
        else:
            return
        for argument, axes in by_argument.items():
            if not isinstance(axes, Mapping):
                continue
            for axis, label in axes.items():
                if isinstance(label, str) and not label.isidentifier():
                    raise InvalidArgumentError(
                        describe(
                            f"dynamic_shapes['{argument}'][{axis}]",
                            expected="a name made of letters, digits and underscores",
                            actual=repr(label),
                        )
                    )
                # A string, or a torch.export.Dim; Dim.AUTO may come out either way and torch itself checks Dim.DYNAMIC.
                wanted = label if isinstance(label, str) else getattr(label, "__name__", None)
                position = arguments.index(argument)
                onnx_name = names[position] if position < len(names) else argument
                if wanted is not None:
                    self._wanted.setdefault(onnx_name, {})[axis] = wanted

    @staticmethod
    def _argument(name: str, arguments: list[str], names: list[str]) -> str:
        """Return the argument of ``forward`` that an input's name stands for."""
        if name in arguments:
            return name
        if name in names and names.index(name) < len(arguments):
            return arguments[names.index(name)]
        raise InvalidArgumentError(
            describe(
                "dynamic_shapes",
                expected=f"names of inputs ({', '.join(names or arguments)})",
                actual=repr(name),
            )
        )

    def for_torch(self) -> Any:
        """Return the value for torch's ``dynamic_shapes``."""
        return self._shapes

    def check(self, model: ir.Model) -> None:
        """Raise unless every axis that was asked for is dynamic in the result.

        Raises:
            ExportError: naming the axis. torch fixes an axis silently if the network needs it fixed.
        """
        inputs = {value.name: value for value in model.graph.inputs}
        for name, axes in self._wanted.items():
            value = inputs.get(name)
            for axis, label in axes.items():
                if value is None or value.shape is None:
                    continue
                if axis >= len(value.shape) or isinstance(value.shape[axis], int):
                    extent = value.shape[axis] if axis < len(value.shape) else "no such axis"
                    raise ExportError(
                        describe(
                            f"axis {axis} of input '{name}'",
                            expected=f"the dynamic extent '{label}'",
                            actual=f"{extent}",
                            remedy="The network itself fixes this extent (for instance by a reshape to constant "
                            "numbers, or a linear layer behind a flatten). Change the network, or leave the axis out.",
                        )
                    )


def _torch_export(
    model: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    opset: int,
    dynamic_shapes: Any,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
) -> ir.Model:
    """Run ``torch.onnx.export`` and return its model, still in memory.

    Raises:
        ExportError: with the reason and what to do about it.
    """
    import torch

    from dcn_deploy.export.translation import translation_table

    table = translation_table()
    if args and isinstance(args[-1], dict) and not kwargs:
        # torch.onnx.export takes a dict at the end for keyword arguments, and takes off an empty one.
        args = (*args, {})
    try:
        with _quiet():
            program = torch.onnx.export(
                model,
                args,
                kwargs=kwargs or None,
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=dynamic_shapes,
                input_names=list(input_names) if input_names else None,
                output_names=list(output_names) if output_names else None,
                custom_translation_table=table,
                verbose=False,
            )
    except Exception as error:  # torch, onnxscript and the network's own code each have errors of their own
        raise _explain(model, error) from error
    assert program is not None
    result: ir.Model = program.model
    if result.opset_imports.get("") != opset:
        raise ExportError(
            describe(
                "opset of the exported graph",
                expected=str(opset),
                actual=str(result.opset_imports.get("")),
                remedy="An operator of the network does not exist in the wanted opset; choose a higher one.",
            )
        )
    return result


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's exporter: whatever it only warns about and matters is checked afterwards."""
    with model_files.silenced(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _explain(model: Any, error: Exception) -> DcnDeployError:
    """Turn an error of the exporter into one sentence with its root cause and a remedy."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__
    for link in reversed(chain):
        if isinstance(link, DcnDeployError):
            return ExportError(f"The network {type(model).__name__} cannot be exported: {link}")
    root = chain[-1]
    text = " ".join(str(root).split())
    reason = f"{type(root).__name__}: {text[:400]}{' …' if len(text) > 400 else ''}"
    kind = " ".join(type(link).__name__ for link in chain)
    if "DispatchError" in kind or "No ONNX function found" in text:
        remedy = "This operator has no ONNX translation: replace it, or move it out of the exported network."
    elif "GuardOnDataDependent" in kind or "data-dependent" in text.lower():
        remedy = (
            "The network's control flow or shapes depend on the values of tensors; use torch.cond or torch.where, or "
            "move that part out of the exported network."
        )
    elif "Constraints violated" in text or ("dynamic" in text.lower() and "shape" in text.lower()):
        remedy = "Check dynamic_shapes: an axis given there is fixed by the network, or does not exist."
    elif isinstance(root, TypeError) and "argument" in text:
        remedy = "Check that the example inputs fit the network's forward()."
    else:
        remedy = "Check that torch.export.export(model, args) works by itself and that model(*args) runs."
    return ExportError(f"The network {type(model).__name__} cannot be exported ({reason}). {remedy}")


def _clean(model: ir.Model) -> None:
    """Remove what torch notes about its own run: file paths of this machine and the program's text."""
    import onnx_ir as ir

    kept = ("pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy")
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model_files.all_nodes(model):
        for name in [name for name in node.metadata_props if name not in kept]:
            del node.metadata_props[name]
        for value in node.outputs:
            value.metadata_props.clear()
        node.doc_string = None
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    assert isinstance(model.graph, ir.Graph)


def _check(model: ir.Model) -> None:
    """Run the ONNX checker, with shape inference, over everything but the large weights.

    Raises:
        ExportError: if the file would be broken.
    """
    from onnx_ir.passes.common import CheckerPass

    from dcn_deploy.export import onnx_schema

    onnx_schema.register()
    if (model.ir_version or 0) > model_files.IR_VERSION:
        model.ir_version = model_files.IR_VERSION
    try:
        CheckerPass(full_check=True)(model)
    except InvalidModelError:
        raise
    except Exception as error:  # onnx's checker and its shape inference have unrelated errors
        raise ExportError(
            f"The exported graph does not pass the ONNX checker ({type(error).__name__}: {error}). This is a defect of "
            f"the exporter or of an operator's translation; report it with the network."
        ) from error


def _shapes(values: Sequence[ir.Value]) -> dict[str, tuple[int | str | None, ...]]:
    from dcn_deploy.export.node_reading import dims_of

    return {value.name or "": dims_of(value) or () for value in values}
