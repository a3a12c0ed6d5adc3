"""Fixtures for every folder of tests; puts this folder on ``sys.path`` so that tests can ``import cases``."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

# Before any library with a thread pool is loaded: tests run beside each other and time nothing.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TESTS = Path(__file__).resolve().parent
CHECKOUT = TESTS.parent
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))

pytest_plugins = ["oracle_report"]

_DEFAULT_SEED = 20170317


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dcn_deploy")
    group.addoption(
        "--seed",
        type=int,
        default=_DEFAULT_SEED,
        help="number from which each test derives its own seed (default: %(default)s)",
    )
    group.addoption(
        "--random-cases",
        type=int,
        default=5000,
        help="how many random convolutions to compare with ONNX Runtime's operator (default: %(default)s)",
    )
    group.addoption(
        "--random-cases-json",
        type=Path,
        default=os.environ.get("DCN_DEPLOY_RANDOM_CASES_JSON"),
        help="file for the summary of that comparison (default: $DCN_DEPLOY_RANDOM_CASES_JSON, or none)",
    )


def pytest_report_header(config: pytest.Config) -> str:
    return f"dcn_deploy: --seed={config.getoption('--seed')}"


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """PyTorch works with one thread, so that tests run in parallel do not fight for the cores."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """Root of the source tree."""
    return CHECKOUT


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The test's own seed: from ``--seed`` and the test's name, printed when the test fails."""
    base = int(request.config.getoption("--seed"))
    # Only the part of the id below this folder, so that the working directory makes no difference.
    name = f"{request.node.path.relative_to(TESTS).as_posix()}::{request.node.name}"
    value = zlib.crc32(f"{base}:{name}".encode())
    print(f"seed of this test: {value} (rerun with --seed={base})")
    return value


@pytest.fixture
def rng(seed: int) -> Any:
    """NumPy generator with the test's own seed."""
    import numpy as np

    return np.random.default_rng(seed)


@pytest.fixture(scope="session")
def library() -> Path:
    """Path of the ONNX Runtime custom-op library. Fails, with the reason, if it was not built.

    A missing library is never a reason to skip: a test run without it proves nothing.
    """
    import dcn_deploy
    from dcn_deploy.errors import LibraryNotBuiltError

    try:
        return dcn_deploy.library_path("onnxruntime")
    except LibraryNotBuiltError as error:
        pytest.fail(f"the native library is needed here: {error}", pytrace=False)


@pytest.fixture(scope="session")
def rehearsal() -> Path:
    """Folder with the GPU's libraries in which the host plays the GPU; built here on first use.

    They carry the kernels' very source, so that what drives them can be tried where there is no GPU.
    """
    import fcntl
    import shutil
    import subprocess

    beside = Path(sys.executable).parent
    cmake, ninja = (shutil.which(name, path=f"{beside}{os.pathsep}{os.environ['PATH']}") for name in ("cmake", "ninja"))
    if cmake is None or ninja is None:
        pytest.fail("cmake and ninja are needed here: pip install 'dcn-deploy[dev]'", pytrace=False)
    folder = CHECKOUT / "build" / "cuda-rehearsal"
    folder.mkdir(parents=True, exist_ok=True)
    configure = [cmake, "-S", str(CHECKOUT), "-B", str(folder), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    configure += ["-DCMAKE_BUILD_TYPE=Release", "-DDCN_DEPLOY_CUDA=OFF", "-DDCN_DEPLOY_CUDA_HOST_TESTS=ON"]
    configure += ["-DDCN_DEPLOY_ONNXRUNTIME=ON"]
    build = [cmake, "--build", str(folder), "--parallel", "2", "--target"]
    build += ["dcn_deploy_cuda_c", "dcn_deploy_onnxruntime_cuda"]
    with (folder / "lock").open("w") as lock:
        # Test processes share the folder; one builds, the others wait.
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (configure, build):
            done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
            if done.returncode != 0:
                pytest.fail(f"the rehearsal's libraries do not build:\n{(done.stdout + done.stderr)[-3000:]}")
    return folder / "rehearsal"


def _session_options(threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors only: refusals are expected in many tests
    return options


def _open_session(model: Any, options: Any) -> Any:
    import onnxruntime

    if hasattr(model, "SerializeToString"):
        model = model.SerializeToString()
    elif isinstance(model, Path):
        model = str(model)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


SessionMaker = Callable[..., Any]


@pytest.fixture(scope="session")
def make_session(library: Path) -> SessionMaker:
    """``make_session(model, threads=1, config={})``: a CPU session in which our operators are known.

    ``model`` is a path, serialised bytes or an ``onnx.ModelProto``; ``config`` holds session configuration
    entries.
    """

    def make(model: Any, threads: int = 1, config: Mapping[str, str] | None = None) -> Any:
        options = _session_options(threads)
        options.register_custom_ops_library(str(library))
        for key, value in (config or {}).items():
            options.add_session_config_entry(key, value)
        return _open_session(model, options)

    return make


@pytest.fixture(scope="session")
def make_plain_session() -> SessionMaker:
    """``make_plain_session(model, threads=1)``: a CPU session of ONNX Runtime without our library."""

    def make(model: Any, threads: int = 1) -> Any:
        return _open_session(model, _session_options(threads))

    return make


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh folder that is the working directory during the test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-ins in place of cuda-bindings, TensorRT and TensorRT-RTX; gives that of CUDA.

    After the test nothing may be left on its GPU, whatever happened.
    """
    import engine_files

    cuda = engine_files.use_stand_ins(monkeypatch)
    yield cuda
    engine_files.forget_stand_ins()
    assert cuda.left_over() == []
