"""What a model is compared with: its PyTorch network, another ONNX file, stored outputs, or itself in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dcn_deploy.errors import InvalidArgumentError, ModelSourceError, describe

if TYPE_CHECKING:
    import torch

    from dcn_deploy.runtime.runner import Runner, RunnerOptions
    from dcn_deploy.validation.subject import Subject


class Resolved(Protocol):
    """What a resolver of networks returns, as far as it matters here."""

    @property
    def module(self) -> torch.nn.Module:
        """The network, in evaluation mode."""


#: ``resolve(spec, weights)`` → network, as :func:`dcn_deploy.models.resolve`.
Resolve = Callable[[str, "Path | None"], Resolved]


@dataclass(frozen=True)
class Oracle:
    """A reference.

    Attributes:
        description: what it is, for reports.
        runner: computes the reference outputs; None for a golden file.
        golden: the golden file, if it is one.
        model: the ONNX file that ``runner`` runs; None for a network and a golden file.
        spec: the network as its resolver takes it; None for a file.
        notes: what a reader of the report must know about it.
    """

    description: str
    runner: Runner | None = None
    golden: Path | None = None
    model: Path | None = None
    spec: str | None = None
    notes: tuple[str, ...] = ()


def find_oracle(
    subject: Subject,
    reference: str | None,
    *,
    resolve: Resolve,
    weights: Path | None = None,
    backend: str = "reference",
    options: RunnerOptions | None = None,
) -> Oracle:
    """Return what ``--reference`` means for a model file.

    Args:
        subject: what is under test. Its inputs are the network's positional arguments.
        reference: a golden ``.npz``, an ``.onnx`` file, or a network as ``resolve`` takes it. None takes the
            network that the file's metadata name as its source, and without that the file itself in ``backend``; for
            an engine the file is the one that it was built from.
        resolve: builds networks, e.g. :func:`dcn_deploy.models.resolve`.
        weights: weights of the network. None looks for the file that the metadata name, beside the model and in
            the working directory.
        backend: runs ONNX references.
        options: for the runner.

    Raises:
        ModelSourceError: if the network, its weights or the file cannot be found or loaded.
        InvalidArgumentError: if the network's weights are not those the file was exported with.
    """
    from dcn_deploy import runtime

    recorded, model = subject.recorded, subject.onnx
    suffix = Path(reference).suffix.lower() if reference is not None else ""
    if suffix in (".npz", ".onnx") and reference is not None:
        path = Path(reference)
        if not path.is_file():
            raise ModelSourceError(describe("--reference", expected="a file", actual=f"'{path}', which is none"))
        _refuse_weights(weights, reference)
        if suffix == ".npz":
            return _golden(path, recorded)
        runner = runtime.create(backend, path, options=options)
        return Oracle(f"{path.name} in the backend '{backend}'", runner, model=path)
    spec = reference if reference is not None else recorded.get("source")
    if spec is None:
        _refuse_weights(weights, "the file itself")
        return _itself(subject, backend, options)
    try:
        return network_oracle(subject, spec, resolve, weights=weights, options=options)
    except ModelSourceError as error:
        if reference is not None or weights is not None or model is None:
            raise
        raise ModelSourceError(
            f"'{model.name}' says that it was exported from {spec}, which cannot be built here: {error} Name that "
            f"network with --reference (and --weights), or compare the file with itself: --reference {model}."
        ) from error


def _itself(subject: Subject, backend: str, options: RunnerOptions | None) -> Oracle:
    """Return the ONNX file under test, or that of the engine under test, as its own reference."""
    from dcn_deploy import runtime

    if subject.onnx is None:
        raise InvalidArgumentError(
            describe(
                "--reference",
                expected="what is right",
                actual=f"none, and the ONNX file that '{subject.file.name}' was built from is not beside it as it was",
                remedy="Name that file, the network or stored outputs with --reference, or put the file beside the "
                "engine.",
            )
        )
    runner = runtime.create(backend, subject.onnx, options=options)
    if subject.is_engine:
        note = (
            f"'{subject.onnx.name}' names no network it was exported from, so the engine is compared with that file in "
            f"the backend '{backend}': this checks the engine, not the export. Give --reference to check both."
        )
        description = f"{subject.onnx.name}, which the engine was built from, in the backend '{backend}'"
    else:
        note = (
            "the file names no network it was exported from, so it is compared with itself in the backend "
            f"'{backend}': this checks the runtime, not the export. Give --reference to check both."
        )
        description = f"the same file in the backend '{backend}'"
    return Oracle(description, runner, model=subject.onnx, notes=(note,))


def network_oracle(
    subject: Subject,
    spec: str,
    resolve: Resolve,
    *,
    weights: Path | None = None,
    options: RunnerOptions | None = None,
) -> Oracle:
    """Return the PyTorch network ``spec`` as a reference for ``subject``; see :func:`find_oracle`.

    Raises:
        ModelSourceError: if the network or its weights cannot be found or loaded.
        InvalidArgumentError: if it is the network that the file was exported from, but with other weights.
    """
    from dcn_deploy import runtime
    from dcn_deploy.export import metadata

    recorded = subject.recorded
    if weights is None and subject.onnx is not None:
        weights = _recorded_weights(subject.onnx, recorded.get("weights"))
    module = resolve(spec, weights).module
    notes: list[str] = []
    expected = recorded.get("weights_sha256")
    if expected is not None:
        actual = metadata.state_dict_sha256(module.state_dict())
        if actual != expected and spec == recorded.get("source"):
            raise InvalidArgumentError(_other_weights(spec, weights, recorded.get("weights"), expected, actual))
        if actual != expected:
            notes.append(
                f"the file was exported from {recorded.get('source', 'another network')}; the weights of the "
                f"reference {spec} are others (SHA-256 {actual[:12]}… instead of {expected[:12]}…)."
            )
    runner = runtime.create(
        "torch",
        _widened(module),
        options=options,
        input_names=tuple(spec.name for spec in subject.inputs),
        output_names=subject.outputs,
    )
    loaded = f" with {weights.name}" if weights is not None else ""
    return Oracle(f"the PyTorch network {spec}{loaded} in float32", runner, spec=spec, notes=tuple(notes))


def _widened(module: torch.nn.Module) -> torch.nn.Module:
    """Return a network whose half-precision weights are float32, of the same values; the network itself if none are."""
    import copy

    import torch

    def is_half(tensor: torch.Tensor) -> bool:
        return tensor.dtype in (torch.float16, torch.bfloat16)

    if not any(map(is_half, (*module.parameters(), *module.buffers()))):
        return module
    module = copy.deepcopy(module)
    for parameter in filter(is_half, module.parameters()):
        parameter.data = parameter.data.float()
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            if is_half(buffer):
                setattr(part, name, buffer.float())
    return module


def _recorded_weights(model: Path, name: str | None) -> Path | None:
    if not name:
        return None
    places = [Path(name), model.parent / Path(name).name]
    return next((place for place in places if place.is_file()), None)


def _other_weights(spec: str, weights: Path | None, recorded: str | None, expected: str, actual: str) -> str:
    origin = f"the weights of '{recorded}'" if recorded else "the weights it had when it was exported"
    has = f"those of '{weights}'" if weights is not None else "the ones it is built with"
    if recorded and weights is None:
        remedy = f"Give them with --weights {recorded}."
    elif recorded:
        remedy = f"Give the right file with --weights, or export the model again with '{weights}'."
    else:
        remedy = (
            "Give the weights it was exported with as --weights FILE, or compare with stored outputs "
            "(--reference golden.npz)."
        )
    return describe(
        f"reference network {spec}",
        expected=f"{origin} (SHA-256 {expected[:12]}…)",
        actual=f"{has} (SHA-256 {actual[:12]}…)",
        remedy=remedy,
    )


def _golden(path: Path, recorded: Mapping[str, str]) -> Oracle:
    from dcn_deploy.validation.golden import read_origin

    origin = read_origin(path)
    ours, theirs = recorded.get("weights_sha256"), origin.get("weights_sha256")
    if ours and theirs and ours != theirs:
        raise InvalidArgumentError(
            describe(
                f"golden file '{path.name}'",
                expected=f"outputs of the weights that the model was exported with (SHA-256 {ours[:12]}…)",
                actual=f"outputs of others (SHA-256 {theirs[:12]}…)",
                remedy="Write a new one with --save-golden, or take the golden file of this model.",
            )
        )
    made_by = f" (from {origin['oracle']})" if "oracle" in origin else ""
    return Oracle(f"golden file {path.name}{made_by}", golden=path)


def _refuse_weights(weights: Path | None, reference: str) -> None:
    if weights is not None:
        raise InvalidArgumentError(
            describe(
                "--weights",
                expected="a reference that is a PyTorch network",
                actual=f"{reference}, which has its own",
                remedy="Drop --weights, or name the network with --reference.",
            )
        )
