"""The table of backends, and how to get a runner of one."""

from __future__ import annotations

import importlib
import importlib.util
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dcn_deploy._lazy import require
from dcn_deploy.errors import InvalidArgumentError, MissingDependencyError, UnsupportedError, describe
from dcn_deploy.runtime.model_kind import kind_of
from dcn_deploy.runtime.runner import Runner, RunnerOptions

if TYPE_CHECKING:
    import onnx
    import torch

    Model = str | Path | onnx.ModelProto | torch.nn.Module


@dataclass(frozen=True)
class Backend:
    """One runtime: where its runner is, what it runs, what it needs.

    Attributes:
        name: as on the command line.
        takes: kind of model.
        packages: Python packages that must be importable.
        summary: what it is, in a few words.
        module: module of the runner.
        runner: name of the class in that module.
        probe: name of a function in that module that says what is missing beyond the packages, as (detail, remedy), or
            None.
        on_gpu: whether it runs on an NVIDIA GPU.
        uses: modules that the runner imports while it works; a reading of memory has to come after them.
    """

    name: str
    takes: Literal["onnx", "torch", "engine"]
    packages: tuple[str, ...]
    summary: str
    module: str
    runner: str
    probe: str = ""
    on_gpu: bool = False
    uses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Availability:
    """Whether a backend can be used here.

    Attributes:
        ok: whether :func:`create` and ``activate`` can work.
        detail: the versions found, or what is missing.
        remedy: what to do about it; empty if ``ok``.
    """

    ok: bool
    detail: str
    remedy: str


#: Every backend by name. One row a runtime.
BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(
            "torch",
            takes="torch",
            packages=("torch",),
            summary="the PyTorch network itself",
            module="dcn_deploy.runtime.torch",
            runner="TorchRunner",
            uses=("dcn_deploy.ops",),
        ),
        Backend(
            "onnxruntime",
            takes="onnx",
            packages=("onnxruntime", "onnx"),
            summary="ONNX Runtime on the CPU, all three forms",
            module="dcn_deploy.runtime.onnxruntime",
            runner="OnnxRuntimeRunner",
        ),
        Backend(
            "reference",
            takes="onnx",
            packages=("onnx",),
            summary="every node of an ONNX file in float64, slow",
            module="dcn_deploy.runtime.reference",
            runner="ReferenceRunner",
            uses=("onnx.reference", "dcn_deploy.ops"),
        ),
        Backend(
            "onnxruntime-cuda",
            takes="onnx",
            packages=("onnxruntime", "onnx"),
            summary="ONNX Runtime on an NVIDIA GPU, all three forms",
            module="dcn_deploy.runtime.onnxruntime_cuda",
            runner="OnnxRuntimeCudaRunner",
            probe="what_is_missing",
            on_gpu=True,
        ),
        Backend(
            "tensorrt",
            takes="engine",
            packages=("tensorrt",),
            summary="TensorRT engine on an NVIDIA GPU",
            module="dcn_deploy.runtime.tensorrt",
            runner="TensorRtRunner",
            probe="what_is_missing",
            on_gpu=True,
        ),
        Backend(
            "tensorrt-rtx",
            takes="engine",
            packages=("tensorrt_rtx",),
            summary="TensorRT-RTX engine on an NVIDIA RTX GPU",
            module="dcn_deploy.runtime.tensorrt",
            runner="TensorRtRtxRunner",
            probe="what_is_missing",
            on_gpu=True,
        ),
    )
}


def _row(backend: str) -> Backend:
    row = BACKENDS.get(backend)
    if row is None:
        known = ", ".join(BACKENDS)
        raise UnsupportedError(describe("backend", expected=f"one of {known}", actual=repr(backend)))
    return row


def availability(backend: str) -> Availability:
    """Say whether ``backend`` can be used here. Imports its packages, and never raises for what is missing.

    Raises:
        UnsupportedError: if there is no backend of that name.
    """
    row = _row(backend)
    versions = []
    for package in row.packages:
        try:
            module = require(package, f"the backend '{backend}'")
        except MissingDependencyError as error:
            detail, _, remedy = str(error).partition(" Install it: ")
            return Availability(False, detail, remedy)
        versions.append(f"{package} {getattr(module, '__version__', '(no version)')}")
    if row.probe:
        missing = getattr(importlib.import_module(row.module), row.probe)()
        if missing is not None:
            return Availability(False, *missing)
    return Availability(True, ", ".join(versions), "")


def _refuse_other_kind(row: Backend, model: Model) -> None:
    """Refuse a model of another kind than the backend takes, and say how to come by one."""
    found = kind_of(model)
    if found == row.takes or (found == "file" and row.takes != "torch"):
        return
    expected, remedies = _KINDS[row.takes]
    named = _named(model)
    actual = {"onnx": "an ONNX model", "engine": "an engine", "file": "a file"}.get(found, type(model).__qualname__)
    raise InvalidArgumentError(
        describe(
            f"model of the backend '{row.name}'",
            expected=expected,
            actual=actual,
            remedy=remedies.get(found, "").format(
                model=shlex.quote(named), engine=shlex.quote(f"{Path(named).stem}.engine"), backend=row.name
            ),
        )
    )


# What a backend expects, by the kind it takes, and how to come by it from another kind.
_KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "torch": (
        "a torch.nn.Module",
        dict.fromkeys(
            ("onnx", "engine", "file"),
            "Give the network that the file was exported from, or take the backend 'onnxruntime'.",
        ),
    ),
    "onnx": (
        "the path of an ONNX file or an onnx.ModelProto",
        {
            "engine": "Give the ONNX file that the engine was built from, or take the backend 'tensorrt' or "
            "'tensorrt-rtx'.",
            "torch": "Write the network to a file with dcn_deploy.export first.",
        },
    ),
    "engine": (
        "the path of an engine",
        {
            "onnx": "Build one: dcn-deploy build {model} -o {engine} --backend {backend}.",
            "torch": "Write the network to a file with dcn_deploy.export, and build one from that with dcn-deploy "
            "build.",
        },
    ),
}


def _named(model: Model) -> str:
    return str(model) if isinstance(model, str | Path) else "model.onnx"


def create(
    backend: str,
    model: Model,
    *,
    options: RunnerOptions | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Runner:
    """Return an inactive runner of ``model`` in ``backend``.

    Args:
        backend: a name of :data:`BACKENDS`.
        model: what the backend takes: for ``torch`` a ``torch.nn.Module``, for ``tensorrt`` and ``tensorrt-rtx`` the
            path of an engine, for the others the path of an ONNX file or a ``ModelProto``.
        options: None for the defaults.
        input_names: for ``torch``: names of the positional arguments of ``forward``; None takes the
            parameters' own names.
        output_names: for ``torch``: names of the flattened outputs; None for ``output_0``, ``output_1``, ...

    Raises:
        UnsupportedError: if there is no such backend.
        InvalidArgumentError: if the backend does not take that kind of model.
        MissingDependencyError: if the backend's package is not installed.
    """
    row = _row(backend)
    _refuse_other_kind(row, model)
    if row.takes != "torch" and (input_names is not None or output_names is not None):
        raise InvalidArgumentError(
            f"input_names and output_names are for the backend 'torch': the backend '{backend}' takes the "
            "names that the file has."
        )
    runner_class = getattr(importlib.import_module(row.module), row.runner)
    extra = {} if row.takes != "torch" else {"input_names": input_names, "output_names": output_names}
    runner: Runner = runner_class(model, options=options or RunnerOptions(), **extra)
    return runner
