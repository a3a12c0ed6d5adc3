"""Engines for the stand-ins of TensorRT and of CUDA: files with their sidecars, and the stand-ins put in place."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

STAND_INS = Path(__file__).resolve().parent / "stand_ins"

#: Top-level packages that stand-ins replace.
_REPLACED = ("cuda", "pycuda", "tensorrt", "tensorrt_rtx", "tensorrt_stand_in")


def use_stand_ins(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put the stand-ins in place of cuda-bindings, TensorRT and TensorRT-RTX; return that of CUDA.

    They are found by the ordinary import, so that processes that inherit ``sys.path`` find them as well.
    """
    from dcn_deploy.runtime import tensorrt_api

    for name in list(sys.modules):
        if name.partition(".")[0] in _REPLACED:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(STAND_INS))
    monkeypatch.setattr(tensorrt_api, "_loaded", {})
    monkeypatch.delenv("DCN_DEPLOY_STAND_IN_GPUS", raising=False)
    return importlib.import_module("cuda.bindings.runtime")


def forget_stand_ins() -> None:
    """Take the stand-ins' modules out again, so that the next import finds the real packages."""
    for name in list(sys.modules):
        if name.partition(".")[0] in _REPLACED:
            del sys.modules[name]


def write_engine(
    path: Path,
    model: Any,
    profiles: Sequence[Mapping[str, Sequence[Sequence[int]]]] = (),
    *,
    backend: str = "tensorrt",
    sidecar: Mapping[str, Any] | None = MappingProxyType({}),
    source: Path | None = None,
    **engine: Any,
) -> Path:
    """Write an engine that runs ``model``, and its sidecar.

    Args:
        path: of the engine.
        model: ``onnx.ModelProto``.
        profiles: see ``tensorrt_stand_in.serialize``.
        backend: that the engine is for.
        sidecar: fields of ``EngineMetadata`` to change; None for no sidecar at all.
        source: the ONNX file that it was built from.
        **engine: further arguments of ``tensorrt_stand_in.serialize``.
    """
    import tensorrt_stand_in as stand_in

    from dcn_deploy.runtime import onnx_model
    from dcn_deploy.runtime.engine_metadata import Device, EngineMetadata, NodeOrigin, deformable

    content = stand_in.serialize(model, profiles, **engine)
    path.write_bytes(content)
    if sidecar is None:
        return path
    version = stand_in.__version_rtx__ if backend == "tensorrt-rtx" else stand_in.__version_tensorrt__
    fields: dict[str, Any] = {
        "backend": backend,
        "version": version,
        "plugins": None,
        "source": "model.onnx" if source is None else source.name,
        "source_sha256": "0" * 64 if source is None else onnx_model.source_hash(source, "a test"),
        "form": None,
        "precision": "fp32",
        "inputs": onnx_model.input_specs(model),
        "outputs": tuple(onnx_model.tensor_spec(value) for value in model.graph.output),
        "profiles": tuple(
            {name: tuple(tuple(shape) for shape in range_) for name, range_ in profile.items()} for profile in profiles
        ),
        "nodes": deformable(
            NodeOrigin(node.name, node.op_type, node.domain, {entry.key: entry.value for entry in node.metadata_props})
            for node in model.graph.node
        ),
        "device": Device("Stand-in 0", (8, 9)),
        "engine_sha256": hashlib.sha256(content).hexdigest(),
        "engine_bytes": len(content),
        "build_seconds": 1.0,
        "created": "2026-01-01T00:00:00+00:00",
    }
    EngineMetadata(**{**fields, **sidecar}).write(path)
    return path
