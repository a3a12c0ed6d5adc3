"""The table of backends: creation, availability, and what all runners have in common."""

from __future__ import annotations

import importlib
import re
import sys
from typing import Any

import numpy as np
import pytest
import torch

from dcn_deploy import runtime
from dcn_deploy._lazy import how_to_install
from dcn_deploy.errors import (
    BackendError,
    InvalidArgumentError,
    MissingDependencyError,
    ModelSourceError,
    UnsupportedError,
)
from dcn_deploy.runtime import tensorrt_api

EVERY = list(runtime.BACKENDS)
EVERY_NAME = (
    "expected one of torch, onnxruntime, reference, onnxruntime-cuda, tensorrt, tensorrt-rtx, got 'onnx-runtime'"
)
#: Those that need no GPU.
ANYWHERE = [name for name in EVERY if not runtime.BACKENDS[name].probe]
ON_ENGINES = [name for name in EVERY if runtime.BACKENDS[name].takes == "engine"]
ON_FILES = [name for name in EVERY if runtime.BACKENDS[name].takes == "onnx"]


@pytest.fixture
def models(make_deformable: Any, tmp_path: Any) -> Any:
    """Model by backend, and a feed for the ONNX ones."""
    model, feed = make_deformable()
    engine = tmp_path / "m.engine"
    engine.write_bytes(b"no engine")
    by_kind = {"onnx": model, "torch": torch.nn.ReLU(), "engine": engine}

    def make(backend: str) -> Any:
        takes = runtime.BACKENDS[backend].takes
        return by_kind[takes], {"input": feed["x"]} if takes == "torch" else feed

    return make


@pytest.mark.parametrize("backend", EVERY)
def test_the_table_names_a_class_of_that_backend(backend: str) -> None:
    row = runtime.BACKENDS[backend]
    runner = getattr(importlib.import_module(row.module), row.runner)
    assert issubclass(runner, runtime.Runner)
    assert runner.backend == backend == row.name


@pytest.mark.parametrize("backend", ANYWHERE)
def test_life_cycle(backend: str, models: Any) -> None:
    model, feed = models(backend)
    runner = runtime.create(backend, model)
    for use in (lambda: runner.infer(feed), lambda: runner.inputs, lambda: runner.outputs):
        with pytest.raises(BackendError, match=f"'{backend}': expected an active runner"):
            use()
    runner.close()
    runner.activate()
    runner.activate()
    first = runner.infer(feed)
    runner.close()
    runner.close()
    with pytest.raises(BackendError, match="expected an active runner"):
        runner.infer(feed)
    with runner as again:
        second = again.infer(feed)
    assert list(first) == list(second)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.parametrize("backend", ANYWHERE)
def test_replicate_changes_options_and_leaves_the_original(backend: str, models: Any) -> None:
    model, feed = models(backend)
    with runtime.create(backend, model) as runner:
        with runner.replicate(threads=1, spinning=False) as copy:
            assert copy is not runner
            np.testing.assert_allclose(
                next(iter(copy.infer(feed).values())), next(iter(runner.infer(feed).values())), rtol=1e-6
            )
        runner.infer(feed)


@pytest.mark.parametrize("backend", ANYWHERE)
def test_a_feed_that_does_not_fit_names_the_backend(backend: str, models: Any) -> None:
    model, feed = models(backend)
    with (
        runtime.create(backend, model) as runner,
        pytest.raises(InvalidArgumentError, match=f"feed of the backend '{backend}'.*unknown surplus"),
    ):
        runner.infer(feed | {"surplus": np.zeros(1)})


@pytest.mark.parametrize("backend", ANYWHERE)
def test_unknown_output(backend: str, models: Any) -> None:
    model, feed = models(backend)
    with (
        runtime.create(backend, model) as runner,
        pytest.raises(
            InvalidArgumentError, match=rf"outputs of the backend '{backend}': expected some of .*, got boxes"
        ),
    ):
        runner.infer(feed, ["boxes"])


@pytest.mark.parametrize("backend", ANYWHERE)
def test_feed_is_left_alone_and_results_do_not_alias_it(backend: str, models: Any) -> None:
    model, feed = models(backend)
    before = {name: array.copy() for name, array in feed.items()}
    with runtime.create(backend, model) as runner:
        kept = runner.infer(feed)
        copies = {name: array.copy() for name, array in kept.items()}
        for name, array in feed.items():
            np.testing.assert_array_equal(array, before[name])
            array += 1
        runner.infer(feed)
    for name in kept:
        np.testing.assert_array_equal(kept[name], copies[name])


@pytest.mark.parametrize("backend", ANYWHERE)
def test_memory_layout_of_the_feed_does_not_matter(backend: str, models: Any) -> None:
    model, feed = models(backend)
    strange = {}
    for name, array in feed.items():
        padded = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), dtype=array.dtype)
        padded[..., ::-2] = array
        strange[name] = padded[..., ::-2]
        strange[name].flags.writeable = False
        assert not strange[name].flags.c_contiguous
    with runtime.create(backend, model) as runner:
        expected, actual = runner.infer(feed), runner.infer(strange)
    for name in expected:
        np.testing.assert_array_equal(actual[name], expected[name])


def test_the_backends_that_need_no_gpu() -> None:
    assert set(ANYWHERE) >= {"torch", "onnxruntime", "reference"}


def test_unknown_backend() -> None:
    for function in (lambda: runtime.create("onnx-runtime", "m.onnx"), lambda: runtime.availability("onnx-runtime")):
        with pytest.raises(
            UnsupportedError,
            match=EVERY_NAME,
        ):
            function()


@pytest.mark.parametrize("backend", ON_ENGINES)
def test_backends_for_engines_refuse_what_is_none(backend: str, make_deformable: Any) -> None:
    expected = "expected the path of an engine, got an ONNX model"
    with pytest.raises(
        InvalidArgumentError,
        match=rf"{expected}\. Build one: dcn-deploy build m\.onnx -o m\.engine --backend {backend}\.",
    ):
        runtime.create(backend, "m.onnx")
    with pytest.raises(InvalidArgumentError, match=r"dcn-deploy build 'a folder/my net\.onnx' -o 'my net\.engine' "):
        runtime.create(backend, "a folder/my net.onnx")
    with pytest.raises(InvalidArgumentError, match=rf"{expected}\. Build one: dcn-deploy build model\.onnx "):
        runtime.create(backend, make_deformable()[0])
    with pytest.raises(
        InvalidArgumentError, match=r"expected the path of an engine, got ReLU\. Write the network to a"
    ):
        runtime.create(backend, torch.nn.ReLU())


@pytest.mark.parametrize("backend", ON_FILES)
def test_backends_for_files_refuse_engines(backend: str) -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"got an engine\. Give the ONNX file that the engine was built from"
    ):
        runtime.create(backend, "m.engine")


@pytest.mark.parametrize("backend", ANYWHERE)
def test_availability_tells_versions(backend: str) -> None:
    available = runtime.availability(backend)
    assert available.ok
    assert available.remedy == ""
    for package in runtime.BACKENDS[backend].packages:
        assert f"{package} {sys.modules[package].__version__}" in available.detail


@pytest.mark.parametrize("backend", EVERY)
def test_missing_package_is_named_with_its_remedy(backend: str, models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = models(backend)
    package = runtime.BACKENDS[backend].packages[0]
    monkeypatch.setattr(tensorrt_api, "_loaded", {})
    monkeypatch.setitem(sys.modules, package, None)
    available = runtime.availability(backend)
    assert not available.ok
    assert package in available.detail
    how = how_to_install(package)
    assert available.remedy.startswith(how)
    with pytest.raises(MissingDependencyError, match=f"needs the package '{package}'.*{re.escape(how)}"):
        runtime.create(backend, model).activate()


@pytest.mark.parametrize("backend", ON_FILES)
def test_backends_for_files_refuse_networks_and_names(backend: str) -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"expected the path of an ONNX file or an onnx\.ModelProto, got ReLU"
    ):
        runtime.create(backend, torch.nn.ReLU())
    with pytest.raises(InvalidArgumentError, match="input_names and output_names are for the backend 'torch'"):
        runtime.create(backend, "m.onnx", input_names=["x"])


def test_torch_refuses_files() -> None:
    with pytest.raises(InvalidArgumentError, match=r"expected a torch\.nn\.Module, got an ONNX model"):
        runtime.create("torch", "m.onnx")
    with pytest.raises(InvalidArgumentError, match=r"expected a torch\.nn\.Module, got builtin_function_or_method"):
        runtime.create("torch", abs).activate()  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", [name for name in ON_FILES if name in ANYWHERE])
def test_missing_file(backend: str, tmp_path: Any) -> None:
    with pytest.raises(ModelSourceError, match=r"expected the path of a file, got '.*none\.onnx'"):
        runtime.create(backend, tmp_path / "none.onnx").activate()


def test_package_exports_exactly_its_table() -> None:
    for name in runtime._DEFINED_IN:
        assert getattr(runtime, name) is not None
        assert name in dir(runtime)
    with pytest.raises(AttributeError, match="no attribute 'Session'"):
        runtime.Session  # noqa: B018
