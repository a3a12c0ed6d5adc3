"""Stage ``sanitizer``: compute-sanitizer over the reduced set of cases, one run a tool."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from pathlib import Path

from benchmarks.gpu_check import programs
from benchmarks.gpu_check.stages import Failed, Missing

TOOLS = ("memcheck", "racecheck", "initcheck")
CHECKOUT = Path(__file__).resolve().parents[2]
_ERROR_STATUS = 86


def command(sanitizer: str, tool: str) -> list[str]:
    """The call of one tool. Only this project's kernels are watched, not PyTorch's."""
    return [
        sanitizer,
        "--tool",
        tool,
        "--error-exitcode",
        str(_ERROR_STATUS),
        "--kernel-name",
        "kernel_substring=dcn_deploy",
        sys.executable,
        "-m",
        "benchmarks.gpu_check",
        "--inside-sanitizer",
    ]


def summary(output: str) -> str:
    """The tool's last line: how many errors and hazards there are."""
    found: list[str] = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", output)
    return found[-1] if found else "no summary"


def check(left: float) -> str:
    """Run every tool.

    Raises:
        Missing: without compute-sanitizer.
        Failed: with the last lines of what it said.
    """
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        raise Missing("compute-sanitizer is not on PATH. It comes with the CUDA toolkit")
    # Every tensor is then an allocation of its own, so that a read beside it is seen.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    said, wrong = [], []
    end = time.monotonic() + left
    for position, tool in enumerate(TOOLS):
        share = (end - time.monotonic()) / (len(TOOLS) - position)
        try:
            status, output, errors = programs.run(
                command(sanitizer, tool), share, cwd=CHECKOUT, environment=environment
            )
        except programs.TooSlowError as error:
            wrong.append(f"{tool}: {error}")
            continue
        output += errors
        said.append(f"{tool}: {summary(output)}")
        if status != 0:
            wrong.append("\n".join([f"{tool} ended with status {status}:", *output.splitlines()[-40:]]))
    if wrong:
        raise Failed("\n".join(wrong))
    return "; ".join(said)
