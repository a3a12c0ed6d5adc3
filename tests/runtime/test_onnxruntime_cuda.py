"""The backend ``onnxruntime-cuda`` where there is no GPU: its reasons, and its way through a session with the host as
the GPU. On a GPU it has not been run yet.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest

import dcn_deploy.runtime.onnxruntime_cuda as module
from dcn_deploy import runtime
from dcn_deploy._libraries import LIBRARY_DIR_VARIABLE
from dcn_deploy.errors import BackendError, InvalidArgumentError, MissingDependencyError, UnsupportedError
from dcn_deploy.runtime import RunnerOptions

BACKEND = "onnxruntime-cuda"


def test_an_onnxruntime_without_the_provider_is_named(monkeypatch: pytest.MonkeyPatch, make_deformable: Any) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    available = runtime.availability(BACKEND)
    assert not available.ok
    expected = f"ONNX Runtime {onnxruntime.__version__} has no CUDA provider, only CPUExecutionProvider"
    assert available.detail == expected
    assert "pip install 'dcn-deploy[gpu]'" in available.remedy
    model, _ = make_deformable()
    with pytest.raises(MissingDependencyError, match=rf"'{BACKEND}' cannot run here: {re.escape(expected)}; pip.*\.$"):
        runtime.create(BACKEND, model).activate()


@pytest.fixture
def with_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [module.PROVIDER, "CPUExecutionProvider"])


def test_a_machine_without_a_driver(with_provider: None, monkeypatch: pytest.MonkeyPatch, make_deformable: Any) -> None:
    def refuse(name: str) -> Any:
        assert name == "libcuda.so.1"
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(module.ctypes, "CDLL", refuse)
    available = runtime.availability(BACKEND)
    assert available.detail == "no NVIDIA driver (libcuda.so.1: cannot open shared object file)"
    assert "install NVIDIA's driver" in available.remedy
    model, _ = make_deformable()
    with pytest.raises(BackendError, match=r"cannot run here: no NVIDIA driver.*use the backend 'onnxruntime'"):
        runtime.create(BACKEND, model).activate()


@pytest.mark.parametrize(
    ("init", "count", "missing"), [(0, 0, "status 0, 0 devices"), (100, 0, "status 100, 0 devices"), (0, 2, None)]
)
def test_a_driver_without_a_gpu(
    init: int, count: int, missing: str | None, with_provider: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Driver:
        def cuInit(self, flags: int) -> int:  # noqa: N802
            return init

        def cuDeviceGetCount(self, pointer: Any) -> int:  # noqa: N802
            ctypes.cast(pointer, ctypes.POINTER(ctypes.c_int))[0] = count
            return 0

    monkeypatch.setattr(module.ctypes, "CDLL", lambda name: Driver())
    found = module.what_is_missing()
    assert (found is None) == (missing is None)
    if missing is not None:
        assert found is not None
        assert found[0] == f"the NVIDIA driver finds no GPU ({missing})"


def test_a_session_that_fell_back_to_the_cpu_is_refused(monkeypatch: pytest.MonkeyPatch, make_deformable: Any) -> None:
    monkeypatch.setattr(module, "what_is_missing", lambda: None)
    monkeypatch.setattr(module.OnnxRuntimeCudaRunner, "_providers", lambda self: ["CPUExecutionProvider"])
    model, _ = make_deformable()
    with pytest.raises(BackendError, match=r"expected CUDAExecutionProvider, got CPUExecutionProvider\. CUDA"):
        runtime.create(BACKEND, model).activate()


def test_the_provider_gets_the_options(make_deformable: Any) -> None:
    model, _ = make_deformable()
    runner = runtime.create(BACKEND, model, options=RunnerOptions(device=1, allow_tf32=True, cuda_graph=True))
    assert runner.tf32
    assert runner._providers() == [  # type: ignore[attr-defined]
        ("CUDAExecutionProvider", {"device_id": "1", "use_tf32": "1", "enable_cuda_graph": "1"}),
        "CPUExecutionProvider",
    ]
    runner = runtime.create(BACKEND, model)
    assert not runner.tf32
    assert runner._providers()[0][1] == {  # type: ignore[attr-defined]
        "device_id": "0",
        "use_tf32": "0",
        "enable_cuda_graph": "0",
    }


@pytest.fixture
def on_host(rehearsal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend with the library in which the host plays the GPU, in ONNX Runtime's CPU provider."""
    monkeypatch.setenv(LIBRARY_DIR_VARIABLE, str(rehearsal))
    monkeypatch.setattr(module, "what_is_missing", lambda: None)
    monkeypatch.setattr(module, "PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(module, "_MEMORY", "cpu")
    monkeypatch.setattr(module.OnnxRuntimeCudaRunner, "_providers", lambda self: ["CPUExecutionProvider"])


def run(model: Any, feed: dict[str, Any], backend: str = BACKEND, **options: Any) -> dict[str, Any]:
    with runtime.create(backend, model, options=RunnerOptions(**options)) as runner:
        return runner.infer(feed)


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 1e-6), (np.float16, 1e-3), (ml_dtypes.bfloat16, 8e-3)])
def test_features_of_every_type(
    dtype: Any, bound: float, on_host: None, make_deformable: Any, relative_error: Any
) -> None:
    model, feed = make_deformable("DeformConv2d", "dcn_deploy", dtype)
    del model.graph.node[1:]  # ONNX Runtime has no bfloat16 Relu on the CPU
    model.graph.node[0].output[0] = "y"
    actual = run(model, feed)["y"]
    assert actual.dtype == np.dtype(dtype)
    assert relative_error(actual, run(model, feed, "reference")["y"]) < bound


def wide_model(make_model: Any, rng: Any) -> tuple[Any, dict[str, Any]]:
    """Channels enough for tensor cores: a narrow group goes another way."""
    from onnx import TensorProto, helper

    node = helper.make_node("DeformConv2d", ["x", "w", "offset"], ["y"], domain="dcn_deploy", pads=[1, 1, 1, 1])
    float32 = TensorProto.FLOAT
    model = make_model(
        [node],
        [("x", float32, [1, 32, 5, 6]), ("offset", float32, [1, 18, 5, 6])],
        [("y", float32, [1, 32, 5, 6])],
        {"w": rng.standard_normal((32, 32, 3, 3)).astype(np.float32)},
    )
    feed = {
        "x": rng.standard_normal((1, 32, 5, 6)).astype(np.float32),
        "offset": rng.standard_normal((1, 18, 5, 6)).astype(np.float32),
    }
    return model, feed


def test_tf32_only_where_it_is_allowed(on_host: None, make_model: Any, rng: Any, relative_error: Any) -> None:
    model, feed = wide_model(make_model, rng)
    expected = run(model, feed, "reference")["y"]
    assert relative_error(run(model, feed)["y"], expected) < 1e-6
    assert 1e-5 < relative_error(run(model, feed, allow_tf32=True)["y"], expected) < 1e-3


def test_an_odd_entry_for_tf32_is_refused(rehearsal: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("dcn_deploy.allow_tf32", "yes")
    with pytest.raises(Exception, match=r"dcn_deploy\.allow_tf32: expected 0 or 1, got 'yes'"):
        options.register_custom_ops_library(str(rehearsal / "libdcn_deploy_onnxruntime_cuda.so"))


def test_bound_places_are_used_again(on_host: None, make_model: Any, rng: Any, relative_error: Any) -> None:
    model, feed = wide_model(make_model, rng)
    with runtime.create(BACKEND, model, options=RunnerOptions(cuda_graph=True)) as runner:
        first = runner.infer(feed)["y"]
        kept = first.copy()
        doubled = runner.infer({**feed, "x": 2 * feed["x"]})["y"]
        np.testing.assert_array_equal(first, kept)
        assert relative_error(doubled, 2 * first) < 1e-6
        np.testing.assert_array_equal(runner.infer(feed)["y"], first)
    np.testing.assert_array_equal(run(model, feed)["y"], first)


def test_a_graph_keeps_the_shapes_of_the_first_run(on_host: None, make_deformable: Any) -> None:
    model, feed = make_deformable("DeformConv2d", "dcn_deploy")
    with runtime.create(BACKEND, model, options=RunnerOptions(cuda_graph=True)) as runner:
        runner.infer(feed)
        with pytest.raises(InvalidArgumentError, match=r"cuda_graph: expected that of the first run, \(2, 4, 7, 7\)"):
            runner.infer({name: array[:1] for name, array in feed.items()})


def test_a_graph_takes_no_bfloat16(on_host: None, make_deformable: Any) -> None:
    model, feed = make_deformable("DeformConv2d", "dcn_deploy", ml_dtypes.bfloat16)
    del model.graph.node[1:]
    model.graph.node[0].output[0] = "y"
    with (
        runtime.create(BACKEND, model, options=RunnerOptions(cuda_graph=True)) as runner,
        pytest.raises(UnsupportedError, match="got bfloat16 in x, offset, mask"),
    ):
        runner.infer(feed)


def test_node_times(on_host: None, make_deformable: Any) -> None:
    model, feed = make_deformable("DeformConv2d", "dcn_deploy")
    with runtime.create(BACKEND, model, options=RunnerOptions(profile=True)) as runner:
        runner.infer(feed)
        assert [(time.name, time.op_type) for time in runner.node_times()] == [
            ("dcn", "DeformConv2d"),
            ("relu", "Relu"),
        ]
