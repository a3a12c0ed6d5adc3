"""The two packages behind one API: what is missing is said, what TensorRT says is heard."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from dcn_deploy.errors import BackendError, LibraryNotBuiltError, MissingDependencyError, UnsupportedError
from dcn_deploy.runtime import tensorrt_api
from dcn_deploy.runtime.tensorrt_api import PACKAGES, Api, Message, Messages


class _Registry:
    """A registry into which loading a library puts the given creators."""

    def __init__(self, inside: set[str]) -> None:
        self.inside, self.known = inside, set()
        self.loaded: list[str] = []

    def load_library(self, path: str) -> None:
        self.loaded.append(path)
        self.known |= self.inside

    def get_creator(self, op_type: str, version: str, namespace: str) -> object | None:
        return object() if op_type in self.known and (version, namespace) == ("1", "dcn_deploy") else None


class _ILogger:
    pass


def _api(backend: str = "tensorrt", registry: _Registry | None = None) -> Api:
    module = SimpleNamespace(__version__="10.14.1.48", ILogger=_ILogger, get_plugin_registry=lambda: registry)
    return Api(PACKAGES[backend], module)  # type: ignore[arg-type]


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_api, "_loaded", {})
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match=r"build needs the package 'tensorrt'.*dcn-deploy\[tensorrt\]"):
        tensorrt_api.load("tensorrt", "build")


def test_a_version_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_api, "_loaded", {})
    old = ModuleType("tensorrt")
    old.__version__ = "8.6.1"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(
        UnsupportedError, match=r"version of TensorRT: expected 10\.1 or later, got 8\.6\.1\. Update it"
    ):
        tensorrt_api.load("tensorrt", "build")


def test_another_backend_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="expected one of tensorrt, tensorrt-rtx, got 'onnxruntime'"):
        tensorrt_api.load("onnxruntime", "build")


@pytest.mark.parametrize(
    ("version", "numbers"), [("10.14.1.48", (10, 14, 1, 48)), ("11.0rc1", (11, 0)), ("1.7.post2", (1, 7)), ("", ())]
)
def test_versions_are_compared_by_their_numbers(version: str, numbers: tuple[int, ...]) -> None:
    assert tensorrt_api.version_numbers(version) == numbers


def test_listeners_nest_and_hear_only_their_time() -> None:
    api = _api()
    error, warning = SimpleNamespace(name="ERROR"), SimpleNamespace(name="WARNING")
    with api.listening() as outer:
        api.logger.log(warning, "before")
        with api.listening() as inner:
            api.logger.log(error, "within")
            api.logger.log(error, "within")
        api.logger.log(error, "after")
    api.logger.log(error, "nobody listens")
    assert inner.errors == ["within"]
    assert outer.errors == ["within", "after"]
    assert outer.warnings == ["before"]
    assert len(outer) == 4


def test_an_error_carries_what_was_said_and_what_to_do() -> None:
    api = _api()
    said = Messages([Message("ERROR", "CUDA initialization failure with error: 35"), Message("INFO", "hello")])
    text = str(api.error("it cannot start", said, "Try it again."))
    assert text.startswith("TensorRT 10.14.1.48: it cannot start: CUDA initialization failure with error: 35. A GPU")
    assert "hello" not in text
    assert str(api.error("it fails", Messages(), "Try it again.")).endswith("it gave no reason. Try it again.")


def test_rtx_takes_no_plugins() -> None:
    with pytest.raises(UnsupportedError, match="runs no custom plugins: expected a file of the form decomposed"):
        _api("tensorrt-rtx").load_plugins()


def test_no_library_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(kind: str) -> Path:
        raise LibraryNotBuiltError(f"no {kind}")

    monkeypatch.setattr(tensorrt_api, "library_path", missing)
    with pytest.raises(LibraryNotBuiltError):
        _api().load_plugins()


def test_a_library_that_does_not_load_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr(tensorrt_api, "library_path", lambda kind: broken)
    with pytest.raises(BackendError, match=r"cannot load the plugin library .*broken\.so.*reinstall"):
        _api(registry=_Registry(set())).load_plugins()


def test_plugins_are_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_api, "library_path", lambda kind: Path("libm.so.6"))
    registry = _Registry({"DeformConv2d", "DeformRoIPool2d"})
    api = _api(registry=registry)
    assert api.load_plugins().version == "unknown version"
    assert api.load_plugins().path == Path("libm.so.6")
    assert registry.loaded == ["libm.so.6"]


def test_a_library_without_our_plugins_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_api, "library_path", lambda kind: Path("libm.so.6"))
    api = _api(registry=_Registry({"DeformConv2d"}))
    with pytest.raises(
        BackendError, match=r"expected DeformConv2d version 1, .*, got no DeformRoIPool2d\. The library"
    ):
        api.load_plugins()


def test_rtx_itself_is_heard() -> None:
    """In a process of its own: TensorRT keeps the first logger that it is given."""
    program = (
        "from dcn_deploy.runtime import tensorrt_api\n"
        "api = tensorrt_api.load('tensorrt-rtx', 'a test')\n"
        "with api.listening() as said:\n"
        "    api.trt.Builder(api.logger).create_builder_config().set_memory_pool_limit("
        "api.trt.MemoryPoolType.DLA_MANAGED_SRAM, 3)\n"
        "print(len(said), api.error('it fails', said))\n"
    )
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stdout.startswith("0 "), done.stdout
    assert "TensorRT-RTX 1." in done.stdout


def _refusing_runtime(answer: str) -> Api:
    """An api whose TensorRT says something and makes no runtime, in the ways that its versions have."""

    class Runtime:
        def __new__(cls, logger: object) -> object:
            logger.log(SimpleNamespace(name="ERROR"), "CUDA initialization failure with error: 35")  # type: ignore[attr-defined]
            if answer == "TypeError":
                raise TypeError("factory function returned nullptr")
            return None if answer == "None" else object()

    module = SimpleNamespace(__version__="10.14.1.48", ILogger=_ILogger, Runtime=Runtime)
    return Api(PACKAGES["tensorrt"], module)  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", ["TypeError", "None", "an object"])
def test_no_runtime_is_said_before_anything_is_called_on_it(answer: str) -> None:
    reason = r" \(factory function returned nullptr\)" if answer == "TypeError" else ""
    words = (
        rf"^TensorRT 10\.14\.1\.48: it cannot make a runtime{reason}: CUDA initialization failure with .*\. A GPU with"
    )
    with pytest.raises(BackendError, match=words):
        _refusing_runtime(answer).create_runtime()


def test_the_real_tensorrt_without_a_gpu_makes_no_runtime() -> None:
    """In a process of its own: TensorRT 11 returns an object, which ends the process when it is called or freed."""
    pytest.importorskip("tensorrt_lean", reason="TensorRT lean is not installed")
    program = (
        "import tensorrt_lean\n"
        "from dcn_deploy.runtime.tensorrt_api import PACKAGES, Api\n"
        "from dcn_deploy.errors import BackendError\n"
        "try:\n"
        "    Api(PACKAGES['tensorrt'], tensorrt_lean).create_runtime().deserialize_cuda_engine(b'odd')\n"
        "except BackendError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert "it cannot make a runtime: createInferRuntime: " in done.stdout
