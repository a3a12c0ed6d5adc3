"""The sidecar of an engine: what goes in comes out, and each mismatch is refused with its remedy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from dcn_deploy.boxes import Boxes
from dcn_deploy.errors import BackendError, InvalidArgumentError, InvalidModelError
from dcn_deploy.runtime import engine_metadata
from dcn_deploy.runtime.engine_metadata import Device, EngineMetadata
from dcn_deploy.runtime.runner import TensorSpec

_ADA = Device("NVIDIA L4", (8, 9))
_AMPERE = Device("NVIDIA A100", (8, 0))


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "model.engine"
    path.write_bytes(b"ptrt and the rest")
    return path


@pytest.fixture
def metadata(engine: Path) -> EngineMetadata:
    sha256, size = engine_metadata.file_hash(engine)
    return EngineMetadata(
        backend="tensorrt",
        version="10.14.1.48",
        plugins="3.2.1",
        source="model.onnx",
        source_sha256="ab" * 32,
        form="plugin",
        precision="mixed",
        inputs=(
            TensorSpec("image", np.dtype(np.float32), ("n", 3, "h", None)),
            TensorSpec("rois", np.dtype(ml_dtypes.bfloat16), ("r", 5), Boxes("image", 0.25)),
        ),
        outputs=(TensorSpec("scores", None, None),),
        profiles=(
            {"image": ((1, 3, 64, 64), (4, 3, 128, 64), (8, 3, 256, 64)), "rois": ((0, 5), (8, 5), (64, 5))},
            {"image": ((16, 3, 64, 64), (16, 3, 64, 64), (16, 3, 64, 64)), "rois": ((1, 5), (1, 5), (999, 5))},
        ),
        engine_sha256=sha256,
        engine_bytes=size,
        build_seconds=1.5,
        created="2026-01-02T03:04:05+00:00",
        options={"optimization_level": 3},
        device=_ADA,
    )


def test_what_is_written_is_read(metadata: EngineMetadata, engine: Path) -> None:
    path = metadata.write(engine)
    assert path.name == "model.engine.json"
    assert engine_metadata.read(engine) == metadata
    assert sorted(other.name for other in engine.parent.iterdir()) == ["model.engine", "model.engine.json"]


def test_for_listed_capabilities(metadata: EngineMetadata, engine: Path) -> None:
    listed = replace(metadata, backend="tensorrt-rtx", plugins=None, device=None, capabilities=((8, 0), (12, 0)))
    listed.write(engine)
    assert engine_metadata.read(engine) == listed
    assert json.loads((engine.parent / "model.engine.json").read_text())["capabilities"] == ["8.0", "12.0"]


def test_no_sidecar_is_no_error(engine: Path) -> None:
    assert engine_metadata.read(engine) is None
    assert "has no 'model.engine.json' beside it" in engine_metadata.without_sidecar(engine)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "expected JSON"),
        ("[]", "format of .*: expected 1, got list"),
        ('{"format": 2}', "expected 1, got 2.*another version.*dcn-deploy build"),
        ('{"format": 1}', "expected what dcn-deploy build writes.*KeyError: 'inputs'"),
    ],
)
def test_a_broken_sidecar_is_refused(engine: Path, content: str, words: str) -> None:
    (engine.parent / "model.engine.json").write_text(content)
    with pytest.raises(InvalidModelError, match=words):
        engine_metadata.read(engine)


def test_an_unknown_field_is_refused(metadata: EngineMetadata, engine: Path) -> None:
    with pytest.raises(InvalidModelError, match="unexpected keyword argument 'colour'"):
        EngineMetadata.from_json(metadata.to_json() | {"colour": "red"}, "it")


def test_an_engine_that_fits_passes(metadata: EngineMetadata, engine: Path) -> None:
    metadata.check(engine, backend="tensorrt", version="10.14.1.99", device=_ADA, plugins="3.2.1")
    metadata.check(engine, device=Device("another Ada", (8, 9)))


def test_a_changed_file_is_refused(metadata: EngineMetadata, engine: Path) -> None:
    engine.write_bytes(b"something else")
    with pytest.raises(BackendError, match=r"contents of 'model.engine': expected 17 bytes .*, got 14 bytes .*remove"):
        metadata.check(engine)


def test_another_backend_is_refused(metadata: EngineMetadata, engine: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"expected tensorrt, got tensorrt-rtx\. Run it with --backend tens"):
        metadata.check(engine, backend="tensorrt-rtx")


@pytest.mark.parametrize("version", ["10.14.2.1", "10.13.1.48", "11.4.0.106"])
def test_another_version_is_refused(metadata: EngineMetadata, engine: Path, version: str) -> None:
    words = rf"version of TensorRT .*: expected 10\.14\.1, which built it, got {version}.*--version-compatible"
    with pytest.raises(BackendError, match=words):
        metadata.check(engine, version=version)


def test_a_version_compatible_engine_runs_in_later_versions_alone(metadata: EngineMetadata, engine: Path) -> None:
    compatible = replace(metadata, version_compatible=True)
    compatible.check(engine, version="11.4.0.106")
    with pytest.raises(BackendError, match=r"expected 10\.14\.1\.48 or later, got 10\.13\.3"):
        compatible.check(engine, version="10.13.3")


def test_another_gpu_is_refused(metadata: EngineMetadata, engine: Path) -> None:
    words = (
        r"compute capability for the engine 'model\.engine': expected 8\.9 \(NVIDIA L4\), got 8\.0 \(NVIDIA A100\)\. "
        r"Build the engine again: dcn-deploy build model\.onnx -o model\.engine --backend tensorrt "
        r"--profile 'image=1,3,64,64:4,3,128,64:8,3,256,64 rois=0,5:8,5:64,5' --profile 'image=16,.*:999,5'\."
    )
    with pytest.raises(BackendError, match=words):
        metadata.check(engine, device=_AMPERE)


def test_a_gpu_that_is_not_listed_is_refused(metadata: EngineMetadata, engine: Path) -> None:
    listed = replace(metadata, backend="tensorrt-rtx", device=None, capabilities=((8, 9), (12, 0)))
    listed.check(engine, device=_ADA)
    with pytest.raises(BackendError, match=r"expected 8\.9 or 12\.0, got 8\.0 .*--compute-capability 8\.0\."):
        listed.check(engine, device=_AMPERE)


def test_the_command_for_the_other_backend_lists_gpus_only_where_it_can(metadata: EngineMetadata, engine: Path) -> None:
    listed = replace(metadata, backend="tensorrt-rtx", device=None, capabilities=((8, 9), (12, 0)), profiles=())
    command = "dcn-deploy build model.onnx -o model.engine --backend"
    assert listed.build_command(engine, "tensorrt") == f"{command} tensorrt"
    assert listed.build_command(engine, "tensorrt-rtx") == f"{command} tensorrt-rtx --compute-capability 8.9,12.0"
    with pytest.raises(InvalidArgumentError, match=rf"or build the engine again: {command} tensorrt\."):
        listed.check_backend(engine, "tensorrt")


def test_hardware_compatibility_widens_what_fits(metadata: EngineMetadata, engine: Path) -> None:
    wide = replace(metadata, hardware_compatibility="ampere_plus")
    wide.check(engine, device=_AMPERE)
    with pytest.raises(BackendError, match=r"expected 8\.0 or later, got 7\.5"):
        wide.check(engine, device=Device("NVIDIA T4", (7, 5)))


def test_another_plugin_library_is_refused(metadata: EngineMetadata, engine: Path) -> None:
    with pytest.raises(BackendError, match=r"plugin library .*: expected dcn_deploy 3\.2\.1, got 3\.3\.0\. Build"):
        metadata.check(engine, plugins="3.3.0")
    replace(metadata, plugins=None).check(engine, plugins="3.3.0")
