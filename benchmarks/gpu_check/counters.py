"""Stage ``ncu``: what the hardware counted on the two slowest shapes."""

from __future__ import annotations

import csv
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_check import programs
from benchmarks.gpu_check.stages import Failed, Missing

CHECKOUT = Path(__file__).resolve().parents[2]

#: What is asked of the profiler, and what it is called in the result.
METRICS = {
    "gpu__time_duration.sum": "duration",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "sm_percent",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "memory_percent",
    "l1tex__throughput.avg.pct_of_peak_sustained_active": "l1_percent",
    "lts__throughput.avg.pct_of_peak_sustained_elapsed": "l2_percent",
    "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active": "tensor_pipe_percent",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy_percent",
    "launch__registers_per_thread": "registers",
    "launch__shared_mem_per_block_dynamic": "shared_bytes",
    "launch__occupancy_limit_registers": "blocks_by_registers",
    "launch__occupancy_limit_shared_mem": "blocks_by_shared_memory",
    "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum": "shared_bank_conflicts",
}


def command(profiler: str, shape: str, precision: str, layout: str) -> list[str]:
    """The call that profiles one launch of this project's kernel, after two that warm up."""
    return [
        profiler,
        "--csv",
        "--page=raw",
        # It would fix the clocks of the GPU otherwise, and these figures are to go with those of the benchmark.
        "--clock-control=none",
        f"--metrics={','.join(METRICS)}",
        "--kernel-name-base=mangled",
        "--kernel-name=regex:.*deform_conv2d.*",
        "--launch-skip=2",
        "--launch-count=1",
        sys.executable,
        "-m",
        "benchmarks.gpu_check",
        "--inside-profiler",
        shape,
        precision,
        layout,
    ]


def parse(output: str) -> dict[str, Any]:
    """The counters of the profiler's table; numbers where they are numbers.

    Raises:
        ValueError: if there is no table.
    """
    lines = output.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        raise ValueError("no table in what the profiler wrote")
    rows = list(csv.DictReader(lines[start:]))
    if len(rows) < 2:
        raise ValueError("no kernel in what the profiler wrote")
    units, values = rows[0], rows[1]
    result: dict[str, Any] = {"kernel": values.get("Kernel Name", "")}
    for metric, name in METRICS.items():
        if metric not in values:
            continue
        text = values[metric].replace(",", "")
        try:
            result[name] = float(text)
        except ValueError:
            result[name] = text
        if units.get(metric) not in (None, "", "%"):
            result[f"{name}_unit"] = units[metric]
    return result


def slowest(rows: Sequence[dict[str, Any]], count: int = 2) -> list[tuple[str, str, str]]:
    """(shape, precision, layout) of the rows that fall shortest of the dense convolution, among float16 NHWC ones."""
    from benchmarks.gpu_check.bench import OURS, median, ratios

    mine = [row for row in rows if (row["precision"], row["layout"]) == ("float16", "nhwc") and median(row, OURS)]
    mine.sort(key=lambda row: ratios(row)["times_dense"] or 0.0, reverse=True)
    return [(row["shape"], row["precision"], row["layout"]) for row in mine[:count]]


def profile(wanted: Sequence[tuple[str, str, str]], left: float, found: list[dict[str, Any]]) -> None:
    """Add the counters of each (shape, precision, layout) to ``found``; one that fails does not hide another.

    Raises:
        Missing: without the profiler, or without the right to read the counters.
        Failed: if it fails in another way.
    """
    profiler = shutil.which("ncu")
    if profiler is None:
        raise Missing("ncu is not on PATH. It comes with the CUDA toolkit")
    wrong = []
    end = time.monotonic() + left
    for position, (shape, precision, layout) in enumerate(wanted):
        share = (end - time.monotonic()) / (len(wanted) - position)
        try:
            status, output, errors = programs.run(command(profiler, shape, precision, layout), share, cwd=CHECKOUT)
        except programs.TooSlowError as error:
            wrong.append(f"ncu on {shape}: {error}")
            continue
        if "ERR_NVGPUCTRPERM" in output + errors:
            raise Missing("the driver lets only administrators read the GPU's counters (ERR_NVGPUCTRPERM)")
        try:
            found.append({"shape": shape, "precision": precision, "layout": layout, **parse(output)})
        except ValueError as error:
            last = "\n".join((output + errors).splitlines()[-10:])
            wrong.append(f"ncu on {shape}: {error} (status {status}):\n{last}")
    if wrong:
        raise Failed("\n".join(wrong))
