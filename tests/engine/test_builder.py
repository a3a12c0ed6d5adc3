"""Engines of TensorRT-RTX, built here without a GPU; TensorRT's own path driven through the same bindings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import engine_networks
import onnx
import pytest
from onnx import helper

from dcn_deploy.engine import BuildOptions, build_engine
from dcn_deploy.engine.shapes import fixed
from dcn_deploy.errors import (
    BackendError,
    InvalidArgumentError,
    InvalidModelError,
    LibraryNotBuiltError,
    MissingDependencyError,
    UnsupportedError,
)
from dcn_deploy.runtime import engine_files, engine_metadata, gpu, tensorrt_api
from dcn_deploy.runtime.engine_metadata import Device

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")

_SMS = ((8, 0), (8, 9), (12, 0))


def test_an_engine_and_its_sidecar(saved: Callable[..., Path], tmp_path: Path) -> None:
    source, target = saved(), tmp_path / "model.engine"
    result = build_engine(source, target, backend="tensorrt-rtx", options=BuildOptions(capabilities=_SMS))
    assert target.stat().st_size == result.metadata.engine_bytes > 10_000
    found = engine_metadata.read(target)
    assert found == result.metadata
    assert found is not None
    found.check(target, backend="tensorrt-rtx", device=Device("NVIDIA L4", (8, 9)))
    assert found.source == "network.onnx"
    assert found.source_sha256 == engine_metadata.file_hash(source)[0]
    assert (found.form, found.precision, found.plugins, found.profiles) == ("decomposed", "fp32", None, ())
    assert found.capabilities == _SMS
    assert [spec.name for spec in (*found.inputs, *found.outputs)] == ["x", "y"]
    assert result.layers is None
    assert "machine with a GPU" in result.layers_missing
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"network.onnx", "model.engine", "model.engine.json"}
    json.dumps(result.to_json())


def test_the_engine_is_what_tensorrt_made(saved: Callable[..., Path], tmp_path: Path) -> None:
    """Its beginning is that of a plan file, whose magic number spells ``ptrt`` or ``rtrt``."""
    build_engine(saved(), tmp_path / "model.engine", backend="tensorrt-rtx")
    assert b"rt" in (tmp_path / "model.engine").read_bytes()[:16].lower()


def _with_external_weights(path: Path) -> Path:
    onnx.save_model(
        engine_networks.small_network(), path, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    return path


def test_changed_external_weights_are_noticed(tmp_path: Path) -> None:
    source, target = _with_external_weights(tmp_path / "network.onnx"), tmp_path / "m.engine"
    build_engine(source, target, backend="tensorrt-rtx")
    assert engine_files.source_of(target) == source
    weights = tmp_path / "weights.bin"
    content = weights.read_bytes()
    weights.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert engine_files.source_of(target) is None
    weights.write_bytes(content)
    assert engine_files.source_of(target) == source
    weights.unlink()
    assert engine_files.source_of(target) is None
    with pytest.raises(InvalidModelError, match=r"keeps weights in a file of its own.*Keep that file beside it"):
        build_engine(source, target, backend="tensorrt-rtx")


def test_a_change_during_the_build_is_noticed(saved: Callable[..., Path], tmp_path: Path) -> None:
    source, target = saved(), tmp_path / "m.engine"
    changed = engine_networks.small_network()
    changed.graph.name = "another"

    def change(done: float, total: float | None, text: str | None) -> None:
        onnx.save(changed, source)

    build_engine(source, target, backend="tensorrt-rtx", progress=change)
    assert engine_files.source_of(target) is None


def test_dynamic_shapes_in_two_profiles(saved: Callable[..., Path], tmp_path: Path) -> None:
    source = saved(shape=("n", 4, "h", "w"), mask=True)
    with pytest.raises(InvalidArgumentError, match="Give --shape x=n,4,h,w for one shape"):
        build_engine(source, tmp_path / "m.engine", backend="tensorrt-rtx")
    wide = ((1, 4, 5, 5), (2, 4, 9, 9), (4, 4, 33, 17))
    result = build_engine(
        source, tmp_path / "m.engine", backend="tensorrt-rtx", profiles=[{"x": wide}, {"x": fixed((8, 4, 7, 7))}]
    )
    assert result.metadata.profiles == ({"x": wide}, {"x": fixed((8, 4, 7, 7))})


def test_progress_reaches_the_end(saved: Callable[..., Path], tmp_path: Path) -> None:
    seen: list[tuple[float, float | None, str | None]] = []
    build_engine(saved(), tmp_path / "m.engine", backend="tensorrt-rtx", progress=lambda *report: seen.append(report))
    done = [report[0] for report in seen]
    assert done == sorted(done)
    assert done[-1] > 0.8 * (seen[-1][1] or 0)
    assert len({report[2] for report in seen}) > 3


def test_a_build_that_is_stopped_leaves_nothing(saved: Callable[..., Path], tmp_path: Path) -> None:
    def stop(done: float, total: float | None, text: str | None) -> None:
        raise KeyboardInterrupt

    (tmp_path / "m.engine").write_bytes(b"the one before")
    with pytest.raises(KeyboardInterrupt):
        build_engine(saved(), tmp_path / "m.engine", backend="tensorrt-rtx", progress=stop)
    assert (tmp_path / "m.engine").read_bytes() == b"the one before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.engine", "network.onnx"]


def test_ctrl_c_ends_a_build(saved: Callable[..., Path], tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from dcn_deploy.engine import build_engine\n"
        "def once(done, total, text):\n"
        "    if done > 100: os.kill(os.getpid(), signal.SIGINT)\n"
        "build_engine(sys.argv[1], sys.argv[2], backend='tensorrt-rtx', progress=once)\n"
    )
    target = tmp_path / "m.engine"
    done = subprocess.run(
        [sys.executable, "-c", program, str(saved()), str(target)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in (-signal.SIGINT, 128 + signal.SIGINT), done.stderr
    assert "KeyboardInterrupt" in done.stderr
    assert not target.exists()


def test_ctrl_c_while_tensorrt_writes_its_log_ends_a_build(saved: Callable[..., Path], tmp_path: Path) -> None:
    """The bindings swallow what is raised there; the signal comes once, with the first line of the build itself."""
    program = (
        "import os, signal, sys, threading\n"
        "from dcn_deploy.engine import build_engine\n"
        "from dcn_deploy.runtime import tensorrt_api\n"
        "started, sent = [], []\n"
        "class Interrupting(list):\n"
        "    def append(self, message):\n"
        "        if started and not sent and threading.current_thread() is threading.main_thread():\n"
        "            sent.append(message)\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "api = tensorrt_api.load('tensorrt-rtx', 'a test')\n"
        "api._listeners.append(Interrupting())\n"
        "try:\n"
        "    report = lambda *report: started.append(1)\n"
        "    build_engine(sys.argv[1], sys.argv[2], backend='tensorrt-rtx', progress=report)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
        "print(len(sent), signal.getsignal(signal.SIGINT) is signal.default_int_handler)\n"
    )
    target = tmp_path / "m.engine"
    done = subprocess.run(
        [sys.executable, "-c", program, str(saved()), str(target)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.splitlines() == ["interrupted", "1 True"], (done.stdout, done.stderr)
    assert not target.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (BuildOptions(timing_cache=Path("x")), "TensorRT-RTX has no timing cache: leave it out"),
        (BuildOptions(hardware_compatibility="ampere_plus"), "has no level of hardware compatibility"),
        (BuildOptions(version_compatible=True), "has no version-compatible engines"),
        (
            BuildOptions(capabilities=((9, 0),)),
            r"expected one of 7\.5, 8\.0, 8\.6, 8\.9, 12\.0.*, got 9\.0\. For other",
        ),
    ],
)
def test_what_rtx_does_not_have_is_refused(
    saved: Callable[..., Path], tmp_path: Path, options: BuildOptions, words: str
) -> None:
    with pytest.raises(UnsupportedError, match=words):
        build_engine(saved(), tmp_path / "m.engine", backend="tensorrt-rtx", options=options)
    assert not (tmp_path / "m.engine").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (BuildOptions(optimization_level=6), "optimisation level: expected 0 to 5, got 6"),
        (BuildOptions(workspace=-1), "workspace: expected at least 0 bytes, got -1"),
        (BuildOptions(hardware_compatibility="all"), "expected one of none, same_compute_capability, ampere_plus, got"),
        (BuildOptions(capabilities=((8, 0), (8, 0))), r"compute capabilities: expected each once, got 8\.0, 8\.0"),
    ],
)
def test_values_out_of_range_are_refused(
    saved: Callable[..., Path], tmp_path: Path, options: BuildOptions, words: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        build_engine(saved(), tmp_path / "m.engine", backend="tensorrt-rtx", options=options)


def test_every_plain_option_is_taken(saved: Callable[..., Path], tmp_path: Path) -> None:
    options = BuildOptions(optimization_level=0, workspace=1 << 26, tf32=True, detailed=True)
    result = build_engine(saved(), tmp_path / "m.engine", backend="tensorrt-rtx", options=options)
    assert result.metadata.options == {
        "optimization_level": 0,
        "workspace": 1 << 26,
        "timing_cache": None,
        "tf32": True,
        "detailed": True,
    }


@pytest.mark.parametrize("name", ["folder", "missing/m.engine", "m.onnx"])
def test_bad_outputs_are_refused(saved: Callable[..., Path], tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidArgumentError, match=r"output: expected .*, got "):
        build_engine(saved(), tmp_path / name, backend="tensorrt-rtx")


def test_another_backend_is_refused(saved: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="expected one of tensorrt, tensorrt-rtx, got 'onnxruntime'"):
        build_engine(saved(), tmp_path / "m.engine", backend="onnxruntime")


def _with(node: onnx.NodeProto) -> onnx.ModelProto:
    """The small network with a node between its input and the rest."""
    model = engine_networks.small_network()
    model.graph.node.insert(0, node)
    model.graph.node[1].input[0] = node.output[0]
    return model


def test_an_operator_that_tensorrt_lacks_is_named_before_parsing(saved: Callable[..., Path], tmp_path: Path) -> None:
    model = _with(helper.make_node("StringNormalizer", ["x"], ["z"], name="odd"))
    with pytest.raises(
        UnsupportedError, match=r"Node 'odd': TensorRT-RTX .* has no operator StringNormalizer\. Replace"
    ):
        build_engine(saved(model), tmp_path / "m.engine", backend="tensorrt-rtx")


def test_parser_errors_name_node_reason_and_remedy(saved: Callable[..., Path], tmp_path: Path) -> None:
    model = _with(helper.make_node("Pad", ["x"], ["z"], name="odd"))  # without how much to pad
    with pytest.raises(
        BackendError, match=r"cannot read 'network.onnx': node 'odd' \(Pad\): .*\. Export the network wi"
    ):
        build_engine(saved(model), tmp_path / "m.engine", backend="tensorrt-rtx")


def test_what_turing_lacks_is_said(saved: Callable[..., Path], tmp_path: Path) -> None:
    model = engine_networks.small_network()
    model.graph.node[-1].output[0] = "map"
    model.graph.node.append(helper.make_node("Flatten", ["map"], ["flat"], name="flatten"))
    model.graph.node.append(helper.make_node("MatMul", ["flat", "dense"], ["y"], name="linear"))
    model.graph.initializer.append(helper.make_tensor("dense", 1, [336, 4], [0.5] * 1344))
    del model.graph.output[0].type.tensor_type.shape.dim[2:]
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4
    options = BuildOptions(capabilities=((7, 5),))
    with pytest.raises(
        BackendError, match=r"cannot build an engine from 'network\.onnx': .*Compute capability 7\.5 lacks"
    ):
        build_engine(saved(model), tmp_path / "m.engine", backend="tensorrt-rtx", options=options)


def test_float64_becomes_float32_in_engine_and_sidecar(saved: Callable[..., Path], tmp_path: Path) -> None:
    model = engine_networks.small_network()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor).astype("float64")
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    result = build_engine(saved(model), tmp_path / "m.engine", backend="tensorrt-rtx")
    assert [str(spec.dtype) for spec in (*result.metadata.inputs, *result.metadata.outputs)] == ["float32", "float32"]
    assert any("tensorrt-float64" in warning for warning in result.warnings)


# ---- TensorRT itself, which cannot be installed without NVIDIA's own package index ----


def test_without_tensorrt_the_remedy_is_named(
    saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_api, "_loaded", {})
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match=r"dcn-deploy build needs the package 'tensorrt'.*pip install"):
        build_engine(saved(), tmp_path / "m.engine", backend="tensorrt")


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The backend tensorrt, with TensorRT-RTX's bindings in the place of the package; they have the same API."""
    row = replace(tensorrt_api.PACKAGES["tensorrt"], module="tensorrt_rtx", first=(1, 0))
    monkeypatch.setattr(tensorrt_api, "PACKAGES", {**tensorrt_api.PACKAGES, "tensorrt": row})
    monkeypatch.setattr(tensorrt_api, "_loaded", {})
    monkeypatch.setattr(gpu, "find", lambda ordinal=0: Device("NVIDIA L4", (8, 9)))
    return tensorrt_api.load("tensorrt", "a test")


def test_tensorrt_needs_a_gpu(saved: Callable[..., Path], tmp_path: Path, tensorrt: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(gpu, "find", lambda ordinal=0: None)
    with pytest.raises(BackendError, match=r"expected an NVIDIA GPU with its driver, got none\. Build on the machine"):
        build_engine(saved(), tmp_path / "m.engine", backend="tensorrt", form="decomposed")


@pytest.mark.filterwarnings("ignore:.*Timing cache operations:DeprecationWarning")
def test_the_way_of_tensorrt_through_the_bindings(saved: Callable[..., Path], tmp_path: Path, tensorrt: Any) -> None:
    cache = tmp_path / "timing.cache"
    options = BuildOptions(timing_cache=cache, hardware_compatibility="ampere_plus")
    for _ in range(2):  # without a cache to read, and with one
        result = build_engine(saved(), tmp_path / "m.engine", backend="tensorrt", form="decomposed", options=options)
        assert cache.stat().st_size > 0
    assert result.metadata.device == Device("NVIDIA L4", (8, 9))
    assert result.metadata.hardware_compatibility == "ampere_plus"
    # The GPU is not there after all: the engine stands, its layers cannot be listed.
    assert "this machine's GPU does not load the engine" in result.layers_missing
    assert "NVIDIA L4 (compute capability 8.9), hardware compatibility ampere_plus" in result._gpus()


@pytest.mark.filterwarnings("ignore:.*Timing cache operations:DeprecationWarning")
def test_a_timing_cache_of_another_kind_is_refused(
    saved: Callable[..., Path], tmp_path: Path, tensorrt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"no timing cache")
    monkeypatch.setattr(
        tensorrt.trt.IBuilderConfig, "set_timing_cache", lambda self, cache, ignore_mismatch: False, raising=True
    )
    with pytest.raises(BackendError, match=r"timing cache '.*': expected one of TensorRT .*, got another one"):
        build_engine(
            saved(),
            tmp_path / "m.engine",
            backend="tensorrt",
            form="decomposed",
            options=BuildOptions(timing_cache=cache),
        )


@pytest.mark.parametrize(
    ("name", "actual"),
    [
        ("folder", "the folder '.*folder'"),
        ("missing/timing.cache", "'.*timing.cache', whose folder is none"),
        ("folder/timing.cache", "'.*timing.cache', whose folder cannot be written to"),
    ],
)
def test_a_timing_cache_that_cannot_be_written_is_refused_before_the_build(
    saved: Callable[..., Path],
    tmp_path: Path,
    tensorrt: Any,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    actual: str,
) -> None:
    (tmp_path / "folder").mkdir()
    # Whoever runs the tests may be allowed everything.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "folder")
    monkeypatch.setattr(tensorrt.trt, "Builder", None)
    words = rf"timing cache: expected a file in an existing folder .*, got {actual}\. Name another file"
    with pytest.raises(InvalidArgumentError, match=words):
        build_engine(
            saved(),
            tmp_path / "m.engine",
            backend="tensorrt",
            form="decomposed",
            options=BuildOptions(timing_cache=tmp_path / name),
        )


@pytest.mark.filterwarnings("ignore:.*Timing cache operations:DeprecationWarning")
def test_a_timing_cache_that_cannot_be_written_after_all_costs_no_engine(
    saved: Callable[..., Path], tmp_path: Path, tensorrt: Any
) -> None:
    cache = tmp_path / "folder" / "timing.cache"
    cache.parent.mkdir()

    def remove(done: float, total: float | None, text: str | None) -> None:
        if cache.parent.is_dir():
            cache.parent.rmdir()

    target = tmp_path / "m.engine"
    options = BuildOptions(timing_cache=cache)
    result = build_engine(saved(), target, backend="tensorrt", form="decomposed", options=options, progress=remove)
    assert target.stat().st_size == result.metadata.engine_bytes
    assert engine_metadata.read(target) == result.metadata
    assert any(
        warning.startswith(f"The timing cache '{cache}' was not written: [Errno 2]") for warning in result.warnings
    )


def test_tensorrt_takes_no_list_of_gpus(saved: Callable[..., Path], tmp_path: Path, tensorrt: Any) -> None:
    options = BuildOptions(capabilities=((8, 9),))
    with pytest.raises(UnsupportedError, match=r"TensorRT has no list of compute capabilities.*GPU of this machine"):
        build_engine(saved(), tmp_path / "m.engine", backend="tensorrt", options=options)


def test_plugins_are_loaded_for_the_form_plugin(
    saved: Callable[..., Path], tmp_path: Path, tensorrt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(kind: str) -> Path:
        raise LibraryNotBuiltError(f"no {kind}")

    monkeypatch.setattr(tensorrt_api, "library_path", missing)
    with pytest.raises(LibraryNotBuiltError, match="no tensorrt"):
        build_engine(saved(), tmp_path / "m.engine", backend="tensorrt")
    build_engine(saved(), tmp_path / "m.engine", backend="tensorrt", form="decomposed")


def test_what_the_inspector_says_becomes_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names alone come as strings, details as objects. No engine can be loaded here: the bindings are played."""
    from types import SimpleNamespace

    from dcn_deploy.engine import layers

    report = json.dumps({"Layers": ["a", {"Name": "b", "LayerType": "gemm"}], "Bindings": ["x"]})
    inspector = SimpleNamespace(get_engine_information=lambda format: report if format == "json" else "")
    engine = SimpleNamespace(create_engine_inspector=lambda: inspector)
    trt = SimpleNamespace(
        __version__="10.14",
        ILogger=object,
        Runtime=lambda logger: SimpleNamespace(
            deserialize_cuda_engine=lambda plan: engine if plan == b"plan" else None
        ),
        LayerInformationFormat=SimpleNamespace(JSON="json"),
    )
    api = tensorrt_api.Api(tensorrt_api.PACKAGES["tensorrt"], trt)  # type: ignore[arg-type]
    device = Device("NVIDIA L4", (8, 9))
    assert layers.inspect(api, b"plan", device) == (({"Name": "a"}, {"Name": "b", "LayerType": "gemm"}), "")
    found, missing = layers.inspect(api, b"other", device)
    assert found is None
    assert "no reason given" in missing


def test_a_version_compatible_engine_may_bring_its_runtime(
    saved: Callable[..., Path], tmp_path: Path, tensorrt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bindings here have no such engines: the flag is played, and what the inspection allows is looked at."""
    from types import SimpleNamespace

    allowed: list[bool] = []

    class Runtime(SimpleNamespace):
        engine_host_code_allowed = False

        def deserialize_cuda_engine(self, plan: Any) -> None:
            allowed.append(self.engine_host_code_allowed)

    monkeypatch.setattr(tensorrt, "create_runtime", Runtime)
    monkeypatch.setattr(tensorrt.trt.IBuilderConfig, "set_flag", lambda self, flag: None)
    for wanted in (False, True):
        options = BuildOptions(version_compatible=wanted, tf32=True)
        build_engine(saved(), tmp_path / "m.engine", backend="tensorrt", form="decomposed", options=options)
    assert allowed == [False, True]


def test_without_a_runtime_the_layers_are_missing_and_the_reason_is_given(
    tensorrt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dcn_deploy.engine import layers

    def refused(logger: Any) -> None:
        logger.log(tensorrt.trt.ILogger.Severity.ERROR, "no driver")

    monkeypatch.setattr(tensorrt.trt, "Runtime", refused)
    found, missing = layers.inspect(tensorrt, b"plan", Device("NVIDIA L4", (8, 9)))
    assert found is None
    assert missing.startswith(f"not listed: {tensorrt.title}: it cannot make a runtime: no driver.")


def test_the_folder_of_the_process_does_not_matter(saved: Callable[..., Path], tmp_path: Path) -> None:
    saved()
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        result = build_engine("network.onnx", "m.engine", backend="tensorrt-rtx")
    finally:
        os.chdir(here)
    assert (tmp_path / "m.engine").is_file()
    assert result.path == Path("m.engine")
