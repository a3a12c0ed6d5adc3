"""An installation of the native part in a prefix, and what CMake and the compiler make of projects that use it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import source_tree

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def cmake() -> list[str]:
    """The command that begins every call of CMake."""
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    found = shutil.which("cmake", path=beside)
    if found is None:
        pytest.fail("cmake is needed here: pip install 'dcn-deploy[dev]'", pytrace=False)
    return [found]


@pytest.fixture(scope="session")
def generator() -> list[str]:
    """Arguments of a configure step: the generator that the development environment has."""
    ninja = shutil.which("ninja", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if ninja is None:
        pytest.fail("ninja is needed here: pip install 'dcn-deploy[dev]'", pytrace=False)
    return ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]


def call(command: Sequence[str | Path], **options: object) -> str:
    """What a command prints that must succeed."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, f"{command}:\n{(done.stdout + done.stderr)[-4000:]}"
    return str(done.stdout)


Configure = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def configure(cmake: list[str], generator: list[str]) -> Configure:
    """``configure(source, build, *arguments)``: a configure step and how it ended."""

    def run(source: Path, build: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*cmake, "-S", str(source), "-B", str(build), *generator, *arguments],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def prefix(cmake: list[str], generator: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix into which ``cmake --install`` has put the native part (that of the CPU), moved since then."""
    build = source_tree.CHECKOUT / "build" / "cmake-package"
    build.mkdir(parents=True, exist_ok=True)
    first = tmp_path_factory.mktemp("prefix") / "first"
    with (build / "lock").open("w") as lock:
        # Test processes share the folder; one builds, the others wait.
        fcntl.flock(lock, fcntl.LOCK_EX)
        options = ["-DCMAKE_BUILD_TYPE=Release", "-DDCN_DEPLOY_ONNXRUNTIME=ON", "-DDCN_DEPLOY_CUDA=OFF"]
        call([*cmake, "-S", source_tree.CHECKOUT, "-B", build, *generator, *options])
        call([*cmake, "--build", build, "--parallel", "2"])
        call([*cmake, "--install", build, "--prefix", first])
    moved = first.parent / "moved since then"
    first.rename(moved)
    return moved


@pytest.fixture(scope="session")
def package(prefix: Path) -> Path:
    """The folder of the CMake package in the prefix; which one that is, is the platform's custom."""
    (config,) = prefix.rglob("dcn_deploy-config.cmake")
    return config.parent


@pytest.fixture(scope="session")
def headers(cmake: list[str], generator: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of the runtimes' headers, ``onnxruntime`` and ``tensorrt``, as the build of the package finds them."""
    build = tmp_path_factory.mktemp("headers")
    arguments = [f"-DCHECKOUT={source_tree.CHECKOUT}", f"-DPython_EXECUTABLE={sys.executable}"]
    call([*cmake, "-S", HERE / "headers", "-B", build, *generator, *arguments])
    onnxruntime, tensorrt = (build / "headers.txt").read_text().splitlines()
    return {"onnxruntime": onnxruntime, "tensorrt": tensorrt}
