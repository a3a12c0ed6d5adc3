"""What an engine file tells before it is loaded: its backend, its inputs and outputs, its ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dcn_deploy.errors import InvalidArgumentError, InvalidModelError, describe
from dcn_deploy.runtime import engine_metadata, onnx_model
from dcn_deploy.runtime.backends import BACKENDS, create
from dcn_deploy.runtime.engine_metadata import EngineMetadata
from dcn_deploy.runtime.runner import TensorSpec


def backend_of(engine: Path, wanted: Sequence[str] = ()) -> str:
    """Return the backend that runs an engine: the one it was built for, else the one that is asked for.

    Args:
        engine: the file.
        wanted: names of backends, of which only those that take engines count.

    Raises:
        InvalidArgumentError: if it has no sidecar and not exactly one such backend is asked for.
    """
    metadata = engine_metadata.read(engine)
    if metadata is not None:
        return metadata.backend
    known = [name for name, row in BACKENDS.items() if row.takes == "engine"]
    asked = [name for name in wanted if name in known]
    if len(asked) == 1:
        return asked[0]
    raise InvalidArgumentError(
        describe(
            f"backend of the engine '{engine}'",
            expected=f"one of {', '.join(known)} as --backend, since no '{engine.name}{engine_metadata.SUFFIX}' beside "
            "it tells which built it",
            actual=", ".join(asked) or "none",
        )
    )


def interface_of(engine: Path, backend: str) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return (inputs, outputs) of an engine, from its sidecar; without one the engine is loaded.

    Raises:
        DcnDeployError: if it has no sidecar and cannot be loaded.
    """
    metadata = engine_metadata.read(engine)
    if metadata is not None:
        return with_examples(metadata.inputs, metadata), metadata.outputs
    with create(backend, engine) as runner:
        return runner.inputs, runner.outputs


def with_examples(specs: Sequence[TensorSpec], metadata: EngineMetadata) -> tuple[TensorSpec, ...]:
    """Return inputs with the optimal shapes of the first profile as examples."""
    best = {name: shapes[1] for name, shapes in (metadata.profiles[0] if metadata.profiles else {}).items()}
    return tuple(replace(spec, example=best.get(spec.name, spec.example)) for spec in specs)


def source_of(engine: Path) -> Path | None:
    """Return the ONNX file that an engine was built from, if it lies beside the engine or here, unchanged.

    Its external data counts as part of it.
    """
    metadata = engine_metadata.read(engine)
    if metadata is None:
        return None
    for path in (engine.parent / metadata.source, Path(metadata.source)):
        if path.is_file() and _hash_of(path) == metadata.source_sha256:
            return path
    return None


def _hash_of(path: Path) -> str | None:
    """Return the hash that a sidecar would have of an ONNX file; None if the file has become unreadable."""
    try:
        return onnx_model.source_hash(path, "finding the ONNX file of an engine")
    except (InvalidModelError, OSError):
        return None
