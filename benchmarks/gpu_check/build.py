"""Stage ``build``: the kernels for the GPU of this machine, as the C library that Python drives."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_check import programs
from benchmarks.gpu_check.machine import Gpu
from benchmarks.gpu_check.stages import Failed, Missing

CHECKOUT = Path(__file__).resolve().parents[2]
FOLDER = CHECKOUT / "build" / "gpu-check"
LIBRARY = FOLDER / "plugins" / "core" / "cuda" / "libdcn_deploy_cuda_c.so"
#: What is compiled for where there is no GPU: the reference card.
REFERENCE_ARCHITECTURE = "90a-real"


def architecture(gpu: Gpu | None) -> str:
    """What CMake calls the architecture of a GPU: with the instructions that only it has, where it has any."""
    if gpu is None:
        return REFERENCE_ARCHITECTURE
    number = f"{gpu.compute_capability[0]}{gpu.compute_capability[1]}"
    return f"{number}a-real" if number == "90" else f"{number}-real"


def _program(name: str, remedy: str) -> str:
    beside_python = Path(sys.executable).parent / name
    found = str(beside_python) if beside_python.is_file() else shutil.which(name)
    if found is None:
        raise Missing(f"{name} is not on PATH. {remedy}")
    return found


def _call(command: list[str], left: float) -> None:
    try:
        status, output, errors = programs.run(command, left)
    except programs.TooSlowError as error:
        raise Failed(str(error)) from error
    if status != 0:
        last = "\n".join((output + errors).strip().splitlines()[-30:])
        raise Failed(f"'{' '.join(command)}' ended with status {status}:\n{last}")


def configure(gpu: Gpu | None, left: float, more: Sequence[str] = ()) -> str:
    """Configure for a GPU, with ``more`` arguments; return the architectures.

    Raises:
        Missing: without CMake or nvcc.
        Failed: with the last lines of what CMake said.
    """
    cmake = _program("cmake", "Install CMake 3.25 or later.")
    _program("nvcc", "Install the CUDA toolkit, or put its bin folder on PATH.")
    wanted = architecture(gpu)
    command = [cmake, "-S", str(CHECKOUT), "-B", str(FOLDER), "-DCMAKE_BUILD_TYPE=Release"]
    command += ["-DDCN_DEPLOY_CUDA=ON", f"-DDCN_DEPLOY_CUDA_ARCHITECTURES={wanted}"]
    # The kernels need no header but their own; no network is asked for any.
    command += ["-DDCN_DEPLOY_ONNXRUNTIME=OFF", "-DDCN_DEPLOY_FETCH_HEADERS=OFF"]
    beside_python = Path(sys.executable).parent / "ninja"
    ninja = str(beside_python) if beside_python.is_file() else shutil.which("ninja")
    if ninja is not None and not (FOLDER / "Makefile").is_file():
        command += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    _call([*command, *more], left)
    return wanted


def make(target: str, left: float) -> None:
    """Build a target in the configured folder.

    Raises:
        Missing: without CMake.
        Failed: with the last lines of what the compiler said.
    """
    jobs = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    cmake = _program("cmake", "Install CMake 3.25 or later.")
    _call([cmake, "--build", str(FOLDER), "--target", target, "--parallel", jobs], left)


def build(gpu: Gpu | None, left: float) -> str:
    """Configure and build; say for what and how long it took.

    Raises:
        Missing: without CMake or nvcc.
        Failed: with the last lines of what they said.
    """
    begin = time.monotonic()
    # What the stage plugin asks for is not this one's.
    wanted = configure(gpu, left, ["-DDCN_DEPLOY_TENSORRT=OFF", "-DDCN_DEPLOY_DEVICE_TESTS=OFF"])
    make("dcn_deploy_cuda_c", left - (time.monotonic() - begin))
    of = gpu.name if gpu is not None else "the reference card, since there is no GPU here"
    return f"kernels for {wanted} ({of}) in {time.monotonic() - begin:.0f} s: {LIBRARY.relative_to(CHECKOUT)}"
