"""``validate`` and ``profile`` on engines, end to end over stand-ins; what they say where something is missing."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import engine_files
import numpy as np
import onnx
import pytest

from dcn_deploy.runtime import tensorrt_api

BACKENDS = ("tensorrt", "tensorrt-rtx")
PROFILE = {"x": [(1, 2, 6, 7), (3, 2, 6, 7), (4, 2, 6, 7)]}
SHORT = ("--runs", "2", "--warmup", "1", "--no-memory", "--no-nodes", "--threads", "1")


@pytest.fixture
def file(saved: Any, tmp_path: Path) -> Path:
    """An ONNX file of the form plugin, in a folder of its own."""
    return Path(shutil.copy(saved("small.onnx", form="plugin"), tmp_path / "small.onnx"))


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, stand_ins: Any) -> str:
    return str(request.param)


@pytest.fixture
def engine(file: Path, backend: str) -> Path:
    return engine_files.write_engine(
        file.with_name("small.engine"), onnx.load(file), [PROFILE], backend=backend, source=file
    )


def _column(table: str, place: int = 1) -> list[str]:
    return [line.split("│")[place].strip() for line in table.splitlines() if line.startswith("│")]


# profile


def test_profile_of_an_engine(engine: Path, backend: str, run: Any) -> None:
    """Nothing but the file is given: backend and shapes come from its sidecar."""
    result = run("profile", engine, "--runs", "2", "--warmup", "1", "--slowest", "1", "--json", "-")
    assert result.status == 0, result.err
    content = json.loads(result.out)
    assert content["inputs"] == {"x": [3, 2, 6, 7]}
    (row,) = content["rows"]
    assert (row["backend"], row["model"], row["batch"]) == (backend, str(engine), 3)
    assert len(row["device_samples_seconds"]) == len(row["samples_seconds"]) == 2
    # The part on the GPU is within the whole, which copies come on top of.
    for alone, whole in zip(row["device_samples_seconds"], row["samples_seconds"], strict=True):
        assert 0 < alone < whole
    # A context's own, x and y: measured in another process, which imports the stand-ins as well.
    assert row["peak_memory"]["gpu_bytes"] == 4096 + 4 * 3 * 2 * 6 * 7 + 4 * 3 * 3 * 6 * 7
    assert row["deformable"]["nodes"] == 1
    assert set(row["deformable"]["seconds_by_op_type"]) == {"layer", "DeformConv2d"}
    assert {node["name"] for node in row["deformable"]["seconds_by_node"]} == {"conv_offset", "dcn"}
    assert f"{backend}: the slowest 1 of 2 nodes" in result.err
    assert row["notes"] == []
    assert "GPU ms" in result.err
    assert "GPU MiB" in result.err
    assert "the other times include copies to it and from it" in result.err


def test_profile_side_by_side_with_its_onnx_file(engine: Path, file: Path, backend: str, run: Any) -> None:
    names = f"{backend},onnxruntime"
    result = run("profile", engine, file, "--backend", names, "--json", "-", "--csv", engine.with_name("t.csv"), *SHORT)
    assert result.status == 0, result.err
    content = json.loads(result.out)
    assert [(row["name"], row["backend"], row["model"]) for row in content["rows"]] == [
        (backend, backend, str(engine)),
        ("onnxruntime", "onnxruntime", str(file)),
    ]
    # The engine's profile allows not every batch.
    assert content["inputs"] == {"x": [3, 2, 6, 7]}
    assert content["rows"][0]["device_seconds"]["count"] == 2
    assert content["rows"][1]["device_seconds"] is None
    assert _column(result.err)[:2] == [backend, "onnxruntime"]
    header, first, second = engine.with_name("t.csv").read_text().splitlines()
    columns = header.split(",")
    assert columns[-3:] == ["gpu_median_ms", "gpu_p99_ms", "gpu_memory_mib"]
    assert first.split(",")[-3] != ""
    assert second.split(",")[-3:] == ["", "", ""]


def test_profile_takes_the_backends_of_the_files(engine: Path, file: Path, backend: str, run: Any) -> None:
    result = run("profile", file, engine, *SHORT)
    assert result.status == 0, result.err
    assert _column(result.out) == ["onnxruntime", backend]


def test_profile_of_both_kinds_of_engines(file: Path, stand_ins: Any, run: Any) -> None:
    engines = [
        engine_files.write_engine(file.with_name(f"{name}.engine"), onnx.load(file), [PROFILE], backend=name)
        for name in BACKENDS
    ]
    other = engine_files.write_engine(file.with_name("b.engine"), onnx.load(file), [PROFILE])
    result = run("profile", *engines, other, "--cuda-graph", *SHORT)
    assert result.status == 0, result.err
    assert _column(result.out) == ["tensorrt tensorrt.engine", "tensorrt b.engine", "tensorrt-rtx"]
    assert stand_ins.machine.launches > 0


def test_profile_lists_no_nodes_that_were_not_timed(engine: Path, refused: Any) -> None:
    line = refused("profile", engine, "--slowest", "3", "--no-nodes")
    assert line == "error: --slowest: expected nodes that are timed, got --no-nodes."


def test_profile_refuses_shapes_outside_the_profile(engine: Path, refused: Any) -> None:
    line = refused("profile", engine, "--shape", "x=5,2,6,7", *SHORT)
    assert "profiles (profile 0: x 1×2×6×7 to 4×2×6×7), got x 5×2×6×7" in line


def test_profile_of_a_file_that_no_backend_runs(engine: Path, file: Path, backend: str, refused: Any) -> None:
    assert refused("profile", engine, file, "-b", backend, *SHORT) == (
        f"error: --backend: expected one that runs '{file}' (onnxruntime), got {backend}."
    )
    assert "expected the path of an ONNX file or an onnx.ModelProto, got an engine. Give the ONNX file that" in refused(
        "profile", engine, "-b", "onnxruntime", *SHORT
    )


def test_profile_of_an_engine_without_a_sidecar(engine: Path, backend: str, run: Any, refused: Any) -> None:
    engine.with_name("small.engine.json").unlink()
    line = refused("profile", engine, *SHORT)
    assert "expected one of tensorrt, tensorrt-rtx as --backend, since no 'small.engine.json' beside it" in line
    result = run("profile", engine, "-b", backend, *SHORT)
    assert result.status == 0, result.err
    assert f"{backend}: 'small.engine' has no 'small.engine.json' beside it" in result.out


# validate


def test_validate_an_engine(engine: Path, file: Path, backend: str, run: Any) -> None:
    result = run("validate", engine, "--samples", 2, "--json", "-")
    assert result.status == 0, result.err
    content = json.loads(result.out)
    assert content["model"] == "small.engine"
    assert "small.onnx, which the engine was built from, in the backend 'reference'" in result.err
    assert "this checks the engine, not the export" in result.err
    (candidate,) = content["candidates"]
    assert candidate["backend"] == backend
    # The limit follows from the layers of the ONNX file.
    assert "2 layers" in json.dumps(candidate)


def test_validate_finds_an_engine_that_computes_something_else(
    file: Path, backend: str, run: Any, tmp_path: Path
) -> None:
    other = onnx.load(file)
    weights = other.graph.initializer[1]
    values = onnx.numpy_helper.to_array(weights) * np.float32(1.05)
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    engine = engine_files.write_engine(tmp_path / "off.engine", other, [PROFILE], backend=backend, source=file)
    assert run("validate", engine).status == 1
    assert run("validate", engine, "--tolerance", "0.06").status == 0


def test_validate_an_engine_against_a_given_reference(engine: Path, file: Path, run: Any, refused: Any) -> None:
    moved = file.rename(file.with_name("elsewhere.onnx"))
    line = refused("validate", engine)
    assert line.startswith(
        "error: --reference: expected what is right, got none, and the ONNX file that 'small.engine'"
    )
    assert "Name that file, the network or stored outputs with --reference" in line
    result = run("validate", engine, "--reference", moved)
    assert result.status == 0, result.err
    golden = file.with_name("golden.npz")
    assert run("validate", engine, "--reference", moved, "--save-golden", golden).status == 0
    assert run("validate", engine, "--reference", golden).status == 0


def test_validate_notices_that_the_onnx_file_has_changed(engine: Path, file: Path, refused: Any) -> None:
    file.write_bytes(file.read_bytes() + b"\0")
    assert "is not beside it as it was" in refused("validate", engine)


def test_validate_against_the_network(backend: str, run: Any, tmp_path: Path) -> None:
    import dcn_deploy
    from dcn_deploy import models

    resolved = models.resolve("single_dcn")
    path = tmp_path / "single.onnx"
    dcn_deploy.export(resolved.module, resolved.example_inputs, path, input_names=resolved.input_names)
    model = onnx.load(path)
    model.metadata_props.add(key="dcn_deploy.source", value="single_dcn")
    onnx.save(model, path)
    engine = engine_files.write_engine(tmp_path / "single.engine", model, backend=backend, source=path)
    result = run("validate", engine, "--backend", f"{backend},torch")
    assert result.status == 0, result.err
    assert "the PyTorch network single_dcn in float32" in result.out


def test_validate_layers_of_an_engine_are_refused(engine: Path, refused: Any) -> None:
    line = refused("validate", engine, "--layers")
    assert "--layers: expected an ONNX file, got the engine 'small.engine', which gives its outputs alone" in line


def test_validate_an_engine_in_another_backend(engine: Path, backend: str, refused: Any) -> None:
    assert "got an engine. Give the ONNX file that the engine was built from" in refused(
        "validate", engine, "--backend", "onnxruntime"
    )
    (other,) = set(BACKENDS) - {backend}
    assert f"expected {backend}, got {other}. Run it with --backend {backend}" in refused(
        "validate", engine, "--backend", other
    )


def test_doctor_finds_them(run: Any, backend: str) -> None:
    content = json.loads(run("doctor", "--json", "-").out)
    found = {row["part"]: row for row in content["findings"] if row["group"] == "backends"}
    assert found[backend]["status"] == "ok"
    assert "on an NVIDIA" in found[backend]["detail"]
    parts = {row["part"]: row for row in content["findings"]}
    assert (parts["device memory"]["status"], parts["device memory"]["detail"]) == ("ok", "cuda-bindings stand-in")


def test_doctor_misses_a_package_for_device_memory(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from dcn_deploy.runtime import device_memory

    monkeypatch.setattr(device_memory, "_BINDINGS", ())
    parts = {row["part"]: row for row in json.loads(run("doctor", "--json", "-").out)["findings"]}
    assert parts["device memory"]["status"] == "missing"
    assert "'cuda-bindings' or 'pycuda'" in parts["device memory"]["detail"]
    assert parts["device memory"]["remedy"] == "pip install cuda-bindings"


# Without them.


@pytest.fixture
def found_elsewhere(stand_ins: Any, file: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``found_elsewhere(backend)``: an engine from another machine; the stand-ins are out of the way again."""

    def make(backend: str) -> Path:
        path = file.with_name("small.engine")
        engine_files.write_engine(path, onnx.load(file), [PROFILE], backend=backend, source=file)
        engine_files.forget_stand_ins()
        monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(engine_files.STAND_INS)])
        monkeypatch.setattr(tensorrt_api, "_loaded", {})
        return path

    return make


@pytest.mark.parametrize("command", [("validate",), ("profile", *SHORT)])
def test_without_tensorrt(command: tuple[str, ...], found_elsewhere: Any, refused: Any, monkeypatch: Any) -> None:
    engine = found_elsewhere("tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    line = refused(command[0], engine, *command[1:])
    assert line.startswith("error: the backend 'tensorrt' needs the package 'tensorrt', which cannot be imported (")
    assert line.endswith("Install it: pip install 'dcn-deploy[tensorrt]', from NVIDIA's package index")


@pytest.mark.parametrize("command", [("validate",), ("profile", *SHORT)])
def test_without_a_gpu(command: tuple[str, ...], found_elsewhere: Any, refused: Any, monkeypatch: Any) -> None:
    """With the real TensorRT-RTX; the driver is hidden where there is one."""
    from dcn_deploy.runtime import device_memory

    engine = found_elsewhere("tensorrt-rtx")
    import tensorrt_rtx

    assert hasattr(tensorrt_rtx, "Builder"), "the real one"
    missing = device_memory.what_is_missing()
    if missing is None:
        missing = ("no usable NVIDIA driver (hidden)", "install NVIDIA's driver")
        monkeypatch.setattr(device_memory, "what_is_missing", lambda: missing)
    assert refused(command[0], engine, *command[1:]) == (
        f"error: the backend 'tensorrt-rtx' cannot run here: {missing[0]}; {missing[1]}."
    )
