"""The backends ``tensorrt`` and ``tensorrt-rtx`` over stand-ins for TensorRT and CUDA.

On a GPU they have not run yet.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import engine_files
import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from dcn_deploy import runtime
from dcn_deploy.errors import (
    BackendError,
    InvalidArgumentError,
    LibraryNotBuiltError,
    MissingDependencyError,
    ModelSourceError,
    UnsupportedError,
)
from dcn_deploy.runtime import RunnerOptions, engine_metadata, tensorrt_api
from dcn_deploy.runtime.engine_metadata import Device

BACKENDS = ("tensorrt", "tensorrt-rtx")
PROFILES = (
    {"x": [(1, 4), (2, 4), (8, 4)]},
    {"x": [(8, 4), (16, 4), (16, 4)]},
)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, stand_ins: Any) -> str:
    return str(request.param)


@pytest.fixture
def double(make_model: Any) -> Any:
    """Two nodes: y = relu(x + x), x [n, 4]."""
    return make_model(
        [
            helper.make_node("Add", ["x", "x"], ["sum"], name="add"),
            helper.make_node("Relu", ["sum"], ["y"], name="relu"),
        ],
        [("x", TensorProto.FLOAT, ["n", 4])],
        [("y", TensorProto.FLOAT, ["n", 4])],
    )


@pytest.fixture
def write(tmp_path: Path, backend: str) -> Callable[..., Path]:
    """``write(model, profiles, ...)``: see ``engine_files.write_engine``."""

    def make(model: Any, profiles: Any = (), **options: Any) -> Path:
        return engine_files.write_engine(tmp_path / "model.engine", model, profiles, backend=backend, **options)

    return make


def start(backend: str, engine: Path, **options: Any) -> Any:
    return runtime.create(backend, engine, options=RunnerOptions(**options))


def stand_in_engine(runner: Any) -> Any:
    return runner._engine


def array(rng: Any, *shape: int) -> Any:
    return rng.standard_normal(shape).astype(np.float32)


# Results.


@pytest.mark.parametrize("graph", [False, True])
def test_shapes_of_several_profiles(graph: bool, backend: str, write: Any, double: Any, rng: Any) -> None:
    with start(backend, write(double, PROFILES), cuda_graph=graph) as runner:
        assert runner.device_seconds is None
        for rows in (2, 2, 2, 5, 16, 1, 16, 2, 8):
            x = array(rng, rows, 4)
            results = runner.infer({"x": x})
            assert list(results) == ["y"]
            np.testing.assert_array_equal(results["y"], np.maximum(2 * x, 0))
            assert 0 < runner.device_seconds < 1
        # One context a profile, used again.
        contexts = list(stand_in_engine(runner)._contexts)
        assert sorted(context.active_optimization_profile for context in contexts) == [0, 1]


@pytest.mark.parametrize(
    ("sidecar", "expected"),
    [({"options": {"tf32": True}}, True), ({"options": {"tf32": False}}, False), ({"options": {}}, True), (None, True)],
)
def test_tf32_unless_the_sidecar_says_no(sidecar: Any, expected: bool, backend: str, write: Any, double: Any) -> None:
    with start(backend, write(double, PROFILES, sidecar=sidecar)) as runner:
        assert runner.tf32 is expected


def test_results_are_the_callers(backend: str, write: Any, double: Any, rng: Any) -> None:
    with start(backend, write(double, PROFILES)) as runner:
        x = array(rng, 2, 4)
        first = runner.infer({"x": x})["y"]
        kept = first.copy()
        runner.infer({"x": -x})
        np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(first, kept)


def test_the_profile_tuned_nearest_is_chosen(backend: str, write: Any, double: Any, rng: Any) -> None:
    profiles = ({"x": [(1, 4), (16, 4), (16, 4)]}, {"x": [(1, 4), (2, 4), (16, 4)]})
    with start(backend, write(double, profiles)) as runner:
        runner.infer({"x": array(rng, 3, 4)})
        assert list(runner._contexts) == [1]
        runner.infer({"x": array(rng, 12, 4)})
        assert list(runner._contexts) == [1, 0]


def test_shapes_out_of_every_profile_are_refused_with_the_ranges(
    backend: str, write: Any, double: Any, rng: Any
) -> None:
    with start(backend, write(double, PROFILES)) as runner:
        with pytest.raises(
            InvalidArgumentError,
            match=r"profiles \(profile 0: x 1×4 to 8×4; profile 1: x 8×4 to 16×4\), got x 17×4\. Build the engine with",
        ):
            runner.infer({"x": array(rng, 17, 4)})
        with pytest.raises(InvalidArgumentError, match=r"expected n×4: 4 on axis 1, got 2×5"):
            runner.infer({"x": array(rng, 2, 5)})
        # The runner goes on.
        assert runner.infer({"x": array(rng, 2, 4)})["y"].shape == (2, 4)


@pytest.mark.parametrize("graph", [False, True])
def test_nothing_in_a_batch(graph: bool, backend: str, write: Any, double: Any) -> None:
    with start(backend, write(double, ({"x": [(0, 4), (2, 4), (8, 4)]},)), cuda_graph=graph) as runner:
        for _ in range(3):
            assert runner.infer({"x": np.empty((0, 4), np.float32)})["y"].shape == (0, 4)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int32, np.int64, np.uint8, np.bool_, np.int8])
def test_every_element_type(dtype: Any, backend: str, write: Any, make_model: Any, rng: Any) -> None:
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    model = make_model([node], [("x", element, [2, 3])], [("y", element, [3, 2])], {"shape": np.array([3, 2])})
    x = (10 * rng.random((2, 3))).astype(dtype)
    with start(backend, write(model)) as runner:
        assert [spec.dtype for spec in (*runner.inputs, *runner.outputs)] == [np.dtype(dtype)] * 2
        y = runner.infer({"x": x})["y"]
        assert y.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(y, x.reshape(3, 2))
        with pytest.raises(InvalidArgumentError, match="element type of input 'x'"):
            runner.infer({"x": x.astype(np.float64)})


def test_a_scalar_and_a_strange_layout(backend: str, write: Any, make_model: Any, rng: Any) -> None:
    node = helper.make_node("Mul", ["x", "s"], ["y"])
    model = make_model(
        [node], [("x", TensorProto.FLOAT, [3, 5]), ("s", TensorProto.FLOAT, [])], [("y", TensorProto.FLOAT, [3, 5])]
    )
    x = array(rng, 5, 6)[::-1, ::2].T
    x.flags.writeable = False
    with start(backend, write(model)) as runner:
        np.testing.assert_array_equal(runner.infer({"x": x, "s": np.array(2, np.float32)})["y"], 2 * x)


def test_a_deformable_layer_gives_what_onnx_runtime_gives(
    backend: str, write: Any, make_deformable: Any, stand_ins: Any
) -> None:
    model, feed = make_deformable("DeformConv2d", "dcn_deploy")
    best = {name: [array.shape] * 3 for name, array in feed.items()}
    with runtime.create("onnxruntime", model) as expected, start(backend, write(model, [best])) as runner:
        np.testing.assert_array_equal(runner.infer(feed)["y"], expected.infer(feed)["y"])


def test_only_wanted_outputs_come(backend: str, write: Any, double: Any, rng: Any) -> None:
    double.graph.output.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["n", 4]))
    with start(backend, write(double, PROFILES)) as runner:
        assert list(runner.infer({"x": array(rng, 2, 4)}, ["sum"])) == ["sum"]
        assert list(runner.infer({"x": array(rng, 2, 4)})) == ["y", "sum"]
        assert runner.infer({"x": array(rng, 2, 4)}, []) == {}


def nonzero(make_model: Any) -> Any:
    """An output whose shape depends on the values."""
    nodes = [helper.make_node("NonZero", ["x"], ["where"]), helper.make_node("Identity", ["x"], ["y"])]
    outputs = [("where", TensorProto.INT64, [2, "k"]), ("y", TensorProto.FLOAT, ["n", 4])]
    return make_model(nodes, [("x", TensorProto.FLOAT, ["n", 4])], outputs)


def test_outputs_whose_size_only_the_run_tells(backend: str, write: Any, make_model: Any) -> None:
    with start(backend, write(nonzero(make_model), PROFILES, late=["where"])) as runner:
        for count in (1, 5, 0, 8, 2):
            x = np.zeros((2, 4), np.float32)
            x.reshape(-1)[:count] = 1
            results = runner.infer({"x": x})
            np.testing.assert_array_equal(results["where"], np.array(np.nonzero(x)))
            np.testing.assert_array_equal(results["y"], x)


def test_such_outputs_and_a_graph(backend: str, write: Any, make_model: Any) -> None:
    feed = {"x": np.ones((2, 4), np.float32)}
    with start(backend, write(nonzero(make_model), PROFILES, late=["where"]), cuda_graph=True) as runner:
        if backend == "tensorrt-rtx":  # decides itself what it records
            assert runner.infer(feed)["where"].shape == (2, 8)
            return
        with pytest.raises(UnsupportedError, match=r"cuda_graph: .*'where', whose shape depends on the inputs' values"):
            runner.infer(feed)


# Graphs.


def test_a_graph_is_recorded_once_for_the_same_shapes(stand_ins: Any, tmp_path: Path, double: Any, rng: Any) -> None:
    engine = engine_files.write_engine(tmp_path / "model.engine", double, PROFILES)
    with start("tensorrt", engine, cuda_graph=True) as runner:
        launches = []
        for rows in (2, 2, 2, 3, 3, 2):
            runner.infer({"x": array(rng, rows, 4)})
            launches.append(stand_ins.machine.launches)
        # The first run of a shape is no replay, and a changed shape is recorded anew.
        assert launches == [0, 1, 2, 2, 3, 3]
        assert len(stand_ins.machine.graphs) == 1


def test_tensorrt_rtx_records_graphs_itself(stand_ins: Any, tmp_path: Path, double: Any, rng: Any) -> None:
    engine = engine_files.write_engine(tmp_path / "model.engine", double, PROFILES, backend="tensorrt-rtx")
    for graph in (False, True):
        with start("tensorrt-rtx", engine, cuda_graph=graph) as runner:
            for _ in range(3):
                runner.infer({"x": array(rng, 2, 4)})
            assert [context._records for context in stand_in_engine(runner)._contexts] == [graph]
    assert stand_ins.machine.launches == 0


def test_a_graph_needs_a_package_that_records(
    stand_ins: Any, tmp_path: Path, double: Any, monkeypatch: pytest.MonkeyPatch, rng: Any
) -> None:
    from dcn_deploy.runtime import device_memory

    monkeypatch.setattr(device_memory, "_BINDINGS", device_memory._BINDINGS[1:])
    engine = engine_files.write_engine(tmp_path / "model.engine", double, PROFILES)
    with pytest.raises(UnsupportedError, match="cuda_graph: expected the package cuda-bindings"):
        start("tensorrt", engine, cuda_graph=True).activate()
    with start("tensorrt", engine) as runner:  # without one, pycuda does
        x = array(rng, 2, 4)
        np.testing.assert_array_equal(runner.infer({"x": x})["y"], np.maximum(2 * x, 0))


# Life cycle, devices, several runners.


def test_two_runners_of_one_engine_beside_each_other(backend: str, write: Any, double: Any, rng: Any) -> None:
    engine = write(double, PROFILES)
    x, other = array(rng, 2, 4), array(rng, 16, 4)
    with start(backend, engine) as first, first.replicate(cuda_graph=True) as second:
        for _ in range(2):
            np.testing.assert_array_equal(first.infer({"x": x})["y"], np.maximum(2 * x, 0))
            np.testing.assert_array_equal(second.infer({"x": other})["y"], np.maximum(2 * other, 0))


def test_activated_again_after_it_was_closed(backend: str, write: Any, double: Any, rng: Any, stand_ins: Any) -> None:
    runner, x = start(backend, write(double, PROFILES)), array(rng, 2, 4)
    for _ in range(2):
        runner.activate()
        runner.activate()
        runner.infer({"x": x})
        runner.close()
        runner.close()
        assert stand_ins.left_over() == []
        with pytest.raises(BackendError, match="expected an active runner"):
            runner.infer({"x": x})


def test_the_wanted_gpu_is_used_and_the_one_before_stays_current(
    backend: str, write: Any, double: Any, rng: Any, stand_ins: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCN_DEPLOY_STAND_IN_GPUS", "2")
    with start(backend, write(double, PROFILES), device=1) as runner:
        runner.infer({"x": array(rng, 2, 4)})
        assert {allocation.device for allocation in stand_ins.machine.allocations.values()} == {1}
        assert stand_ins.machine.current == 0
    with pytest.raises(InvalidArgumentError, match="device: expected the number of a GPU, from 0 to 1, got 2"):
        start(backend, write(double, PROFILES), device=2).activate()


def test_buffers_grow_and_stay(backend: str, write: Any, double: Any, rng: Any, stand_ins: Any) -> None:
    with start(backend, write(double, PROFILES)) as runner:
        runner.infer({"x": array(rng, 7, 4)})
        before = dict(stand_ins.machine.allocations)
        for rows in (3, 7, 1):
            runner.infer({"x": array(rng, rows, 4)})
        assert stand_ins.machine.allocations == before


# Failures.


def test_a_run_that_fails_says_what_tensorrt_said(backend: str, write: Any, double: Any, rng: Any) -> None:
    with (
        start(backend, write(double, PROFILES, fails="myelin: no kernel image")) as runner,
        pytest.raises(
            BackendError, match=r"TensorRT\S* \d\S*: the engine failed while running: myelin: no kernel image"
        ),
    ):
        runner.infer({"x": array(rng, 2, 4)})


@pytest.mark.parametrize("graph", [False, True])
def test_no_memory_left_is_said_and_the_runner_goes_on(
    graph: bool, backend: str, write: Any, double: Any, rng: Any, stand_ins: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start(backend, write(double, PROFILES), cuda_graph=graph) as runner:
        runner.infer({"x": array(rng, 1, 4)})
        monkeypatch.setattr(stand_ins, "TOTAL_MEMORY", 4096 + 2 * 16 + 64)
        with pytest.raises(BackendError, match=r"cudaErrorMemoryAllocation.*Take a smaller batch or image"):
            runner.infer({"x": array(rng, 7, 4)})
        with pytest.raises(BackendError, match=r"it cannot make an execution context: .*out of memory.*Take a smaller"):
            runner.infer({"x": array(rng, 16, 4)})
        monkeypatch.setattr(stand_ins, "TOTAL_MEMORY", 2**20)
        for rows in (7, 1, 16, 7):
            x = array(rng, rows, 4)
            np.testing.assert_array_equal(runner.infer({"x": x})["y"], np.maximum(2 * x, 0))


def test_no_memory_for_an_output_of_late_size(
    backend: str, write: Any, make_model: Any, stand_ins: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = {"x": np.ones((8, 4), np.float32)}
    with start(backend, write(nonzero(make_model), PROFILES, late=["where"])) as runner:
        monkeypatch.setattr(stand_ins, "TOTAL_MEMORY", 4096 + 2 * 128 + 100)
        with pytest.raises(BackendError, match=r"failed while running: enqueueV3: out of memory for an output"):
            runner.infer(feed)
        monkeypatch.setattr(stand_ins, "TOTAL_MEMORY", 2**20)
        assert runner.infer(feed)["where"].shape == (2, 32)


def test_a_fault_of_the_gpu_is_not_hidden_by_closing(
    backend: str, write: Any, double: Any, rng: Any, stand_ins: Any
) -> None:
    runner = start(backend, write(double, PROFILES))
    runner.activate()
    stand_ins.machine.fault = stand_ins.cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(BackendError, match="cudaErrorIllegalAddress"), runner:
        runner.infer({"x": array(rng, 2, 4)})
    stand_ins.reset()


def test_tensors_that_no_array_can_stand_for(backend: str, write: Any, double: Any, make_model: Any) -> None:
    with pytest.raises(
        UnsupportedError, match=r"input 'x' of the engine: expected data on the GPU, got a shape tensor"
    ):
        start(backend, write(double, PROFILES, on_host=["x"])).activate()
    with pytest.raises(
        UnsupportedError, match=r"format of output 'y' of the engine: expected LINEAR, got HWC8\. Build"
    ):
        start(backend, write(double, PROFILES, in_blocks=["y"])).activate()
    eighth = TensorProto.FLOAT8E4M3FN
    model = make_model([helper.make_node("Identity", ["x"], ["y"])], [("x", eighth, [4])], [("y", eighth, [4])])
    with pytest.raises(
        UnsupportedError, match=r"element type of input 'x' of the engine: expected one of FLOAT, HALF,"
    ):
        start(backend, write(model)).activate()


def test_intermediates_are_refused(backend: str, write: Any, double: Any) -> None:
    with pytest.raises(UnsupportedError, match=r"keep_intermediates .*got True\. An engine gives its outputs alone"):
        start(backend, write(double, PROFILES), keep_intermediates=True).activate()


def test_the_real_tensorrt_rtx_refuses_what_is_no_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The first steps with the real package, which need no GPU: runtime, logger, and what it says."""
    # The one of the process: TensorRT goes on writing to the first logger that it was given.
    api = tensorrt_api.load("tensorrt-rtx", "the test")
    request.getfixturevalue("stand_ins")
    monkeypatch.setattr(tensorrt_api, "_loaded", {"tensorrt-rtx": api})
    path = tmp_path / "odd.engine"
    path.write_bytes(b"vtrt" + bytes(200))
    with pytest.raises(
        BackendError,
        match=rf"^TensorRT-RTX {re.escape(api.version)}: it cannot load the engine 'odd\.engine': \w.*",
    ):
        start("tensorrt-rtx", path).activate()


# What is missing.


def test_no_engine(backend: str, tmp_path: Path) -> None:
    with pytest.raises(
        ModelSourceError,
        match=rf"engine: expected the path of a file, got '.*none\.engine', which is none\. Build it: dcn-deploy build "
        rf"model\.onnx -o .*none\.engine --backend {backend}\.",
    ):
        start(backend, tmp_path / "none.engine").activate()


def test_a_file_that_is_no_engine(backend: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.engine"
    path.write_bytes(b"odd")
    with pytest.raises(
        BackendError,
        match=rf"it cannot load the engine 'odd\.engine': .*Magic tag does not match\. Build it again here: dcn-deploy "
        rf"build model\.onnx -o odd\.engine --backend {backend}\.",
    ):
        start(backend, path).activate()


@pytest.mark.parametrize(
    ("gpus", "expected"), [("0", "the NVIDIA driver finds no GPU"), ("-1", "no usable NVIDIA driver")]
)
def test_no_gpu(
    gpus: str, expected: str, backend: str, write: Any, double: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = write(double, PROFILES)
    monkeypatch.setenv("DCN_DEPLOY_STAND_IN_GPUS", gpus)
    available = runtime.availability(backend)
    assert not available.ok
    assert available.detail.startswith(expected)
    assert available.remedy.startswith("install NVIDIA's driver on a machine with an NVIDIA GPU, or")
    with pytest.raises(BackendError, match=rf"the backend '{backend}' cannot run here: {expected}.*; install NVIDIA's"):
        start(backend, engine).activate()


def test_no_package_for_device_memory(backend: str, write: Any, double: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from dcn_deploy.runtime import device_memory

    monkeypatch.setattr(device_memory, "_BINDINGS", ())
    engine = write(double, PROFILES)
    with pytest.raises(
        MissingDependencyError,
        match=rf"'{backend}' cannot run here: the package 'cuda-bindings' or 'pycuda', neither .*; pip install cuda",
    ):
        start(backend, engine).activate()


def test_availability_tells_the_version(backend: str) -> None:
    available = runtime.availability(backend)
    assert available.ok
    package = runtime.BACKENDS[backend].packages[0]
    assert available.detail == f"{package} {importlib.import_module(package).__version__}"


# The sidecar.


def test_what_the_sidecar_knows_is_in_the_specs(backend: str, write: Any, double: Any) -> None:
    with start(backend, write(double, PROFILES)) as runner:
        (x,), (y,) = runner.inputs, runner.outputs
        assert (x.name, x.shape, x.example) == ("x", ("n", 4), (2, 4))
        assert (y.name, y.shape, y.example) == ("y", ("n", 4), None)
        assert runner.notes == ()


def test_without_a_sidecar_the_engine_runs_and_says_so(backend: str, write: Any, double: Any, rng: Any) -> None:
    with start(backend, write(double, PROFILES, sidecar=None)) as runner:
        assert runner.inputs[0].shape == (None, 4)
        (note,) = runner.notes
        assert note.startswith("'model.engine' has no 'model.engine.json' beside it: whether it fits this GPU")
        x = array(rng, 2, 4)
        np.testing.assert_array_equal(runner.infer({"x": x})["y"], np.maximum(2 * x, 0))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"engine_sha256": "ab" * 32}, r"contents of 'model\.engine': expected"),
        ({"version": "99.1.2"}, r"version of TensorRT\S* for the engine 'model\.engine': expected 99\.1\.2"),
        (
            {"device": Device("Other", (8, 0))},
            r"compute capability for the engine .*: expected 8\.0 \(Other\), got 8\.9",
        ),
        ({"capabilities": ((8, 0), (12, 0))}, r"expected 8\.0 or 12\.0, got 8\.9 \(Stand-in 0\)"),
    ],
)
def test_an_engine_that_does_not_fit_is_refused_before_tensorrt_sees_it(
    change: dict[str, Any], expected: str, backend: str, write: Any, double: Any
) -> None:
    engine = write(double, PROFILES, sidecar=change, fails="never seen")
    with pytest.raises(BackendError, match=rf"{expected}.*uild the engine again: dcn-deploy build model\.onnx"):
        start(backend, engine).activate()


def test_an_engine_of_the_other_backend(tmp_path: Path, stand_ins: Any, double: Any) -> None:
    engine = engine_files.write_engine(tmp_path / "model.engine", double, PROFILES, backend="tensorrt-rtx")
    with pytest.raises(
        InvalidArgumentError, match=r"expected tensorrt-rtx, got tensorrt\..*Run it with --backend tensorrt-rtx"
    ):
        start("tensorrt", engine).activate()


def test_host_code_is_allowed_for_version_compatible_engines_alone(backend: str, write: Any, double: Any) -> None:
    for compatible in (False, True):
        with start(backend, write(double, PROFILES, sidecar={"version_compatible": compatible})) as runner:
            assert runner._runtime.engine_host_code_allowed is compatible


def test_the_plugin_library_is_loaded_for_engines_that_call_it(
    tmp_path: Path, stand_ins: Any, double: Any, library: Path, monkeypatch: pytest.MonkeyPatch, rng: Any
) -> None:
    import dcn_deploy

    trt = importlib.import_module("tensorrt")
    monkeypatch.setattr("dcn_deploy.runtime.tensorrt_api.library_path", lambda kind: library)
    without = engine_files.write_engine(tmp_path / "without.engine", double, PROFILES)
    with start("tensorrt", without) as runner:
        runner.infer({"x": array(rng, 2, 4)})
    assert trt.get_plugin_registry().loaded == []
    calling = {"plugins": dcn_deploy.__version__}
    engine = engine_files.write_engine(tmp_path / "with.engine", double, PROFILES, sidecar=calling)
    for _ in range(2):
        with start("tensorrt", engine) as runner:
            runner.infer({"x": array(rng, 2, 4)})
    assert trt.get_plugin_registry().loaded == [str(library)]
    other = engine_files.write_engine(tmp_path / "other.engine", double, PROFILES, sidecar={"plugins": "0.0.1"})
    with pytest.raises(
        BackendError, match=r"plugin library of the engine 'other\.engine': expected dcn_deploy 0\.0\.1"
    ):
        start("tensorrt", other).activate()


def test_a_plugin_library_that_is_not_built(
    tmp_path: Path, stand_ins: Any, double: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(kind: str) -> Path:
        raise LibraryNotBuiltError(f"no {kind}")

    monkeypatch.setattr("dcn_deploy.runtime.tensorrt_api.library_path", refuse)
    calling = engine_files.write_engine(tmp_path / "a.engine", double, PROFILES, sidecar={"plugins": "1.0.0"})
    with pytest.raises(LibraryNotBuiltError, match="no tensorrt"):
        start("tensorrt", calling).activate()
    # An engine of which nothing is known may do without.
    unknown = engine_files.write_engine(tmp_path / "b.engine", double, PROFILES, sidecar=None)
    with start("tensorrt", unknown):
        pass


def test_tensorrts_own_plugins_are_registered_for_the_form_standard(
    tmp_path: Path, stand_ins: Any, double: Any
) -> None:
    stand_in = importlib.import_module("tensorrt_stand_in")
    for form, registered in (("plugin", []), (None, []), ("standard", [""])):
        engine = engine_files.write_engine(tmp_path / "a.engine", double, PROFILES, sidecar={"form": form})
        with start("tensorrt", engine):
            assert stand_in._stock_plugins == registered


# Times of the layers.


LAYERS = [
    {"Name": "Reformatting CopyNode for Input Tensor 0 to dcn", "LayerType": "Reformat"},
    {"Name": "dcn", "LayerType": "PluginV3"},
    {"Name": "relu", "LayerType": "PointWiseV2"},
]


@pytest.mark.parametrize("layers", [LAYERS, [layer["Name"] for layer in LAYERS]])
def test_node_times(layers: list[Any], backend: str, write: Any, make_deformable: Any) -> None:
    model, feed = make_deformable("DeformConv2d", "dcn_deploy")
    best = {name: [array.shape] * 3 for name, array in feed.items()}
    with start(backend, write(model, [best], layers=layers), profile=True, cuda_graph=True) as runner:
        for _ in range(3):
            runner.infer(feed)
        times = runner.node_times(skip=1)
        kinds = [layer["LayerType"] if isinstance(layer, dict) else "layer" for layer in layers]
        assert [(time.name, time.op_type, time.domain) for time in times] == [
            ("Reformatting CopyNode for Input Tensor 0 to dcn", kinds[0], ""),
            ("dcn", "DeformConv2d", "dcn_deploy"),
            ("relu", kinds[2], ""),
        ]
        assert all(len(time.durations) == 2 and min(time.durations) > 0 for time in times)
        with pytest.raises(BackendError, match="got one that an earlier call has ended"):
            runner.node_times()


def test_node_times_need_a_recording(backend: str, write: Any, double: Any) -> None:
    with start(backend, write(double, PROFILES)) as runner, pytest.raises(BackendError, match="got profile=False"):
        runner.node_times()


def test_parts_of_a_decomposed_layer_are_found(backend: str, write: Any, double: Any, rng: Any) -> None:
    double.graph.node[0].metadata_props.add(key="dcn_deploy.part_of", value="dcn")
    layers = [{"Name": "kgen_1", "LayerType": "kgen", "Metadata": "[ONNX Layer: other]\x1e[ONNX Layer: add]"}, "relu"]
    with start(backend, write(double, PROFILES, layers=layers), profile=True) as runner:
        runner.infer({"x": array(rng, 2, 4)})
        first, second = runner.node_times()
    assert (first.name, first.op_type, first.metadata) == ("kgen_1", "Add", {"dcn_deploy.part_of": "dcn"})
    assert (second.name, second.op_type, second.metadata) == ("relu", "layer", {})


def test_specs_survive_a_sidecar_of_other_ranks(backend: str, write: Any, double: Any, tmp_path: Path) -> None:
    engine = write(double, PROFILES)
    metadata = engine_metadata.read(engine)
    assert metadata is not None
    replace(metadata, inputs=(replace(metadata.inputs[0], shape=None),), outputs=()).write(engine)
    with start(backend, engine) as runner:
        assert runner.inputs[0].shape == (None, 4)
        assert runner.outputs[0].shape == (None, 4)
