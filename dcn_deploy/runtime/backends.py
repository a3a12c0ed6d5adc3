"""The table of backends, and how to get a runner of one."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dcn_deploy._lazy import require
from dcn_deploy.errors import InvalidArgumentError, MissingDependencyError, UnsupportedError, describe
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
        module: module of the runner; None if this version has no runner for it yet.
        runner: name of the class in that module.
        probe: name of a function in that module that says what is missing beyond the packages, as (detail, remedy), or
            None.
        not_yet: for a backend without a runner, what to use meanwhile.
        uses: modules that the runner imports while it works; a reading of memory has to come after them.
    """

    name: str
    takes: Literal["onnx", "torch", "engine"]
    packages: tuple[str, ...]
    summary: str
    module: str | None = None
    runner: str = ""
    probe: str = ""
    not_yet: str = ""
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


_USE_CPU = "use the backend 'onnxruntime'"

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
        ),
        Backend(
            "tensorrt",
            takes="engine",
            packages=("tensorrt",),
            summary="TensorRT engine",
            not_yet=_USE_CPU,
        ),
        Backend(
            "tensorrt-rtx",
            takes="engine",
            packages=("tensorrt_rtx",),
            summary="TensorRT-RTX engine",
            not_yet=f"export with --form decomposed and run the file in TensorRT-RTX directly, or {_USE_CPU}",
        ),
    )
}


def _row(backend: str) -> Backend:
    row = BACKENDS.get(backend)
    if row is None:
        known = ", ".join(name for name, row in BACKENDS.items() if row.module)
        raise UnsupportedError(describe("backend", expected=f"one of {known}", actual=repr(backend)))
    return row


def _refuse_without_runner(row: Backend) -> None:
    if row.module is None:
        known = ", ".join(name for name, other in BACKENDS.items() if other.module)
        raise UnsupportedError(
            f"backend '{row.name}' ({row.summary}) has no runner in this version; "
            f"expected one of {known}. Until then {row.not_yet}."
        )


def availability(backend: str) -> Availability:
    """Say whether ``backend`` can be used here. Imports its packages, and never raises for what is missing.

    Raises:
        UnsupportedError: if there is no backend of that name.
    """
    row = _row(backend)
    if row.module is None:
        return Availability(False, "no runner in this version", row.not_yet)
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
        model: path of an ONNX file or a ``ModelProto``; for the backend ``torch`` a ``torch.nn.Module``.
        options: None for the defaults.
        input_names: for ``torch``: names of the positional arguments of ``forward``; None takes the
            parameters' own names.
        output_names: for ``torch``: names of the flattened outputs; None for ``output_0``, ``output_1``, ...

    Raises:
        UnsupportedError: if there is no such backend, or none yet.
        InvalidArgumentError: if the backend does not take that kind of model.
        MissingDependencyError: if the backend's package is not installed.
    """
    row = _row(backend)
    _refuse_without_runner(row)
    assert row.module is not None
    is_onnx = isinstance(model, str | Path) or type(model).__name__ == "ModelProto"
    if row.takes == "onnx":
        if not is_onnx:
            raise InvalidArgumentError(
                describe(
                    f"model of the backend '{backend}'",
                    expected="the path of an ONNX file or an onnx.ModelProto",
                    actual=type(model).__qualname__,
                    remedy="Write the network to a file with dcn_deploy.export first.",
                )
            )
        if input_names is not None or output_names is not None:
            raise InvalidArgumentError(
                f"input_names and output_names are for the backend 'torch': the backend '{backend}' takes the "
                "names that the ONNX file has."
            )
    elif is_onnx:
        raise InvalidArgumentError(
            describe(
                f"model of the backend '{backend}'",
                expected="a torch.nn.Module",
                actual="an ONNX model",
                remedy="Give the network that the file was exported from, or take the backend 'onnxruntime'.",
            )
        )
    runner_class = getattr(importlib.import_module(row.module), row.runner)
    extra = {} if row.takes == "onnx" else {"input_names": input_names, "output_names": output_names}
    runner: Runner = runner_class(model, options=options or RunnerOptions(), **extra)
    return runner
