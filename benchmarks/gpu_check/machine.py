"""The GPU of this machine and everything that a measurement on it has to be told with."""

from __future__ import annotations

import datetime
import functools
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarks import record
from benchmarks.gpu_check import programs
from benchmarks.gpu_check.stages import Missing

_FIELDS = (
    "name",
    "driver_version",
    "compute_cap",
    "memory.total",
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "clocks.max.mem",
    "power.limit",
    "temperature.gpu",
    "persistence_mode",
    "mig.mode.current",
)
#: Names the commit of a tree that was copied without its ``.git``.
COMMIT_VARIABLE = "DCN_DEPLOY_COMMIT"
_PACKAGES = (
    "torch",
    "torchvision",
    "triton",
    "cupy",
    "cupy-cuda13x",
    "onnxruntime",
    "onnxruntime-gpu",
    "deformops",
    "numpy",
)


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver describes it; clocks and temperature as they were found, nothing is set."""

    name: str
    driver: str
    compute_capability: tuple[int, int]
    found: dict[str, str]


def parse(line: str) -> Gpu:
    """The GPU of one line of ``nvidia-smi --query-gpu``, in the order of the fields above."""
    values = dict(zip(_FIELDS, (value.strip() for value in line.split(",")), strict=True))
    major, _, minor = values["compute_cap"].partition(".")
    return Gpu(values["name"], values["driver_version"], (int(major), int(minor)), values)


def find_gpu() -> Gpu | None:
    """The first GPU; None where the driver's program is missing or knows of none."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return None
    query = [smi, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    return parse(lines[0]) if done.returncode == 0 and lines else None


def trouble_with_torch() -> str | None:
    """Why PyTorch cannot use a GPU in this process; None if it can."""
    try:
        import torch
    except ImportError as error:
        return f"PyTorch cannot be imported by {sys.executable} ({error}). Set GPU_PYTHON"
    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} finds no GPU (built for CUDA {torch.version.cuda}). Install one with CUDA"
    return None


_ANSWER = "trouble:"


@functools.cache
def _trouble_aside() -> str | None:
    script = f"from benchmarks.gpu_check import machine; print('{_ANSWER}', machine.trouble_with_torch() or '')"
    try:
        status, output, errors = programs.run([sys.executable, "-c", script], 90.0, cwd=record.CHECKOUT)
    except programs.TooSlowError as error:
        return str(error)
    answers = [line.removeprefix(_ANSWER).strip() for line in output.splitlines() if line.startswith(_ANSWER)]
    if status != 0 or not answers:
        last = "\n".join((output + errors).strip().splitlines()[-10:])
        return f"to ask PyTorch for a GPU ended with status {status}:\n{last}"
    return answers[-1] or None


def require_gpu(gpu: Gpu | None, *, aside: bool = False) -> Gpu:
    """The GPU, or why there is none.

    Args:
        gpu: as from :func:`find_gpu`.
        aside: ask another process whether PyTorch can use it, so that nothing can happen to this one.

    Raises:
        Missing: without a GPU, or where PyTorch cannot use it.
    """
    if gpu is None:
        raise Missing("no NVIDIA GPU: nvidia-smi is missing or finds none. Run this on a machine that has one")
    trouble = _trouble_aside() if aside else trouble_with_torch()
    if trouble is not None:
        raise Missing(trouble)
    return gpu


def packages() -> dict[str, str]:
    """Versions of what is measured with, as far as it is installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _first_line(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return next((line for line in lines if "release" in line), lines[0] if lines else "unknown")


def commit() -> str:
    """The checkout's commit, with ``-dirty`` if files were changed.

    For a tree without ``.git``, what the environment variable ``DCN_DEPLOY_COMMIT`` says, else "unknown".
    """
    root = record.CHECKOUT
    # A tree that was copied into another project's checkout has not that project's commit.
    if not (root / ".git").exists():
        return os.environ.get(COMMIT_VARIABLE) or "unknown"
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip() or "unknown"


def describe(gpu: Gpu, arguments: Sequence[str]) -> dict[str, Any]:
    """Everything needed to repeat a measurement, ready for JSON."""
    return {
        "gpu": asdict(gpu),
        "commit": commit(),
        "kernel_sources": {"device": "cuda", "sha256": record.kernel_hash("cuda")},
        "command": shlex.join(["python", "-m", "benchmarks.gpu_check", *arguments]),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "nvcc": _first_line(["nvcc", "--version"]),
        "packages": packages(),
    }
