"""Stage ``sanitizer``: compute-sanitizer over the reduced set of cases, one run a tool."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.gpu_check import programs
from benchmarks.gpu_check.stages import Failed, Missing

if TYPE_CHECKING:
    from benchmarks.gpu_check.checks import Tally

TOOLS = ("memcheck", "racecheck", "initcheck")
CHECKOUT = Path(__file__).resolve().parents[2]
_ERROR_STATUS = 86
#: Part of a tool's time after which the program inside begins no further case: the rest is for the last one and the
#: summary.
_INSIDE = 0.8
_LATE = "not checked: "


def command(sanitizer: str, tool: str, until: float) -> list[str]:
    """The call of one tool; ``until`` is when the program inside begins no further case, on the clock of the day.

    Only this project's kernels are watched, not PyTorch's. For initcheck that holds only because all that they read is
    copied to the GPU or written by kernels of this project (see ``devices.TorchDevice``): what a kernel that is not
    watched writes counts as uninitialized.
    """
    # PyTorch and CUDA's own libraries probe for functions of the driver, and each one that is not there would count as
    # an error. The errors of this project's calls come back as statuses, which the program inside looks at.
    more = ["--report-api-errors", "no"] if tool == "memcheck" else []
    return [
        sanitizer,
        "--tool",
        tool,
        *more,
        "--error-exitcode",
        str(_ERROR_STATUS),
        "--kernel-name",
        "kernel_substring=dcn_deploy",
        sys.executable,
        "-m",
        "benchmarks.gpu_check",
        "--inside-sanitizer",
        f"{until:.1f}",
    ]


def inside(tally: Tally) -> int:
    """Say what the program inside has found, for :func:`judge`; return its exit status."""
    for failure in tally.failures:
        print(failure)
    if tally.late is not None:
        print(f"{_LATE}{tally.late}")
    print(f"checked {tally.launches} results", flush=True)
    return 1 if tally.failures else 0


def summary(output: str) -> str | None:
    """The tool's last line: how many errors and hazards there are; None if it has not come to it."""
    found: list[str] = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", output)
    return found[-1] if found else None


@dataclass(frozen=True)
class Verdict:
    """What became of one tool: what it says if all is well, else what is wrong; what there was no time for."""

    said: str
    wrong: str | None = None
    late: str | None = None


def judge(tool: str, status: int, output: str) -> Verdict:
    """Make a verdict of a tool's exit status and of all that it and the program inside have said."""
    end = summary(output)
    counted = re.findall(r"^checked (\d+) results$", output, re.MULTILINE)
    results = int(counted[-1]) if counted else 0
    lacking = []
    if status != 0:
        lacking.append(f"ended with status {status}")
    if end is None:
        lacking.append("expected a summary, got none")
    if results == 0:
        lacking.append("expected the program inside to say how many results it has checked, got none")
    late = re.findall(rf"^{_LATE}(.*)$", output, re.MULTILINE)
    return Verdict(
        f"{tool}: {end} over {results} results",
        "\n".join([f"{tool} {', '.join(lacking)}:", *output.splitlines()[-40:]]) if lacking else None,
        late[-1] if late else None,
    )


def check(left: float) -> str:
    """Run every tool.

    Raises:
        Missing: without compute-sanitizer, or if nothing was wrong but there was no time for some cases.
        Failed: with the last lines of what it said.
    """
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        raise Missing("compute-sanitizer is not on PATH. It comes with the CUDA toolkit")
    # Every tensor is then an allocation of its own, so that a read beside it is seen.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    said, wrong, late = [], [], []
    end = time.monotonic() + left
    for position, tool in enumerate(TOOLS):
        share = (end - time.monotonic()) / (len(TOOLS) - position)
        called = command(sanitizer, tool, time.time() + _INSIDE * share)
        try:
            status, output, errors = programs.run(called, share, cwd=CHECKOUT, environment=environment)
        except programs.TooSlowError as error:
            wrong.append(f"{tool}: {error}")
            continue
        verdict = judge(tool, status, output + errors)
        said.append(verdict.said)
        if verdict.wrong is not None:
            wrong.append(verdict.wrong)
        if verdict.late is not None:
            late.append(f"{tool} without {verdict.late}")
    if wrong:
        raise Failed("\n".join(wrong))
    if late:
        raise Missing("; ".join([*said, *late]))
    return "; ".join(said)
