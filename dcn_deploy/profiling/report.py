"""The result of profiling: a table for people, JSON and CSV for programs."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dcn_deploy.profiling.deformable import DeformableShare
from dcn_deploy.profiling.memory import PeakMemory
from dcn_deploy.profiling.statistics import Summary
from dcn_deploy.profiling.timing import Method

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Name and version of the JSON layout. The version changes when a field changes its meaning or goes away.
SCHEMA = "dcn_deploy.profile/1"

#: How far the ratio of an engine to itself may be from 1.
SELF_CHECK_TOLERANCE = 0.05

_MEBI = 2**20


@dataclass(frozen=True)
class Row:
    """What was measured of one engine. Times are in seconds.

    Attributes:
        name: as in the table, different for each row.
        backend: a name of ``dcn_deploy.runtime.BACKENDS``.
        model: path or class of the model.
        batch: first extent of the first input.
        threads: what was asked for; None is the runtime's default.
        latency: statistics of one run.
        samples: duration of every timed run, in order.
        device: statistics of what one run took on the GPU alone, without copies; None where that is not measured.
        device_samples: the same of every timed run, in order.
        warmup: number of untimed calls before.
        stable: whether the times had become stable; None if the number of calls was given.
        memory: peak memory; None if it was not measured.
        deformable: time in deformable operators; None if the runtime does not measure nodes.
        notes: why something is missing.
    """

    name: str
    backend: str
    model: str
    batch: int
    threads: int | None
    latency: Summary
    samples: tuple[float, ...]
    warmup: int
    stable: bool | None
    device: Summary | None = None
    device_samples: tuple[float, ...] = ()
    memory: PeakMemory | None = None
    deformable: DeformableShare | None = None
    notes: tuple[str, ...] = ()

    @property
    def throughput(self) -> float:
        """Items (extents of the batch axis) per second, from the median."""
        return self.batch / self.latency.median if self.latency.median else 0.0


@dataclass(frozen=True)
class SelfCheck:
    """One engine timed against itself under another name, to check the method.

    Attributes:
        name: the engine's.
        ratio: of the two medians, which would be 1 without noise.
    """

    name: str
    ratio: float

    @property
    def ok(self) -> bool:
        """Whether the ratio is 1 within :data:`SELF_CHECK_TOLERANCE`."""
        return abs(self.ratio - 1) <= SELF_CHECK_TOLERANCE


@dataclass(frozen=True)
class Report:
    """Engines side by side, measured in the same process in interleaved rounds.

    Attributes:
        rows: one for each engine; ratios are to the first.
        method: how it was measured.
        machine: from :func:`dcn_deploy.profiling.describe_machine`.
        inputs: shape of each input of the first feed.
        self_check: if it was asked for.
    """

    rows: tuple[Row, ...]
    method: Method
    machine: Mapping[str, Any]
    inputs: Mapping[str, Sequence[int]]
    self_check: SelfCheck | None = None

    def ratio(self, row: Row) -> float:
        """Return the median of ``row`` over that of the first row: below 1 is faster."""
        first = self.rows[0].latency.median
        return row.latency.median / first if first else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return everything that was measured, ready for ``json.dumps``. Times are in seconds, memory in bytes."""
        return {
            "schema": SCHEMA,
            "machine": dict(self.machine),
            "method": dataclasses.asdict(self.method),
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "rows": [self._row_json(row) for row in self.rows],
            "self_check": None
            if self.self_check is None
            else {
                "name": self.self_check.name,
                "ratio": self.self_check.ratio,
                "tolerance": SELF_CHECK_TOLERANCE,
                "ok": self.self_check.ok,
            },
        }

    def _row_json(self, row: Row) -> dict[str, Any]:
        deformable = None
        if row.deformable is not None:
            deformable = {
                "nodes": row.deformable.nodes,
                "seconds": row.deformable.seconds,
                "total_seconds": row.deformable.total_seconds,
                "share": row.deformable.share,
                "seconds_by_op_type": dict(row.deformable.by_op_type),
                "seconds_by_node": [dataclasses.asdict(node) for node in row.deformable.by_node],
            }
        return {
            "name": row.name,
            "backend": row.backend,
            "model": row.model,
            "batch": row.batch,
            "threads": row.threads,
            "latency_seconds": dataclasses.asdict(row.latency),
            "device_seconds": None if row.device is None else dataclasses.asdict(row.device),
            "ratio_to_first": self.ratio(row),
            "throughput_items_per_second": row.throughput,
            "peak_memory": None if row.memory is None else dataclasses.asdict(row.memory),
            "deformable": deformable,
            "warmup": row.warmup,
            "stable": row.stable,
            "notes": list(row.notes),
            "samples_seconds": list(row.samples),
            "device_samples_seconds": list(row.device_samples),
        }

    def to_csv(self) -> str:
        """Return one line for each engine under a line of column names. Times in milliseconds, memory in MiB."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_CSV_COLUMNS)
        for row in self.rows:
            latency = row.latency
            times = (
                latency.median,
                latency.median_low,
                latency.median_high,
                latency.p90,
                latency.p99,
                latency.minimum,
                latency.mean,
                latency.std,
            )
            writer.writerow(
                [
                    row.name,
                    row.backend,
                    row.model,
                    row.batch,
                    "" if row.threads is None else row.threads,
                    latency.count,
                    *(f"{1e3 * value:.6g}" for value in times),
                    f"{row.throughput:.6g}",
                    f"{self.ratio(row):.6g}",
                    "" if row.memory is None else f"{row.memory.bytes / _MEBI:.6g}",
                    "" if row.deformable is None else f"{row.deformable.share:.6g}",
                    "" if row.device is None else f"{1e3 * row.device.median:.6g}",
                    "" if row.device is None else f"{1e3 * row.device.p99:.6g}",
                    "" if (gpu := _gpu_bytes(row)) is None else f"{gpu / _MEBI:.6g}",
                ]
            )
        return text.getvalue()

    def to_table(self) -> RenderableType:
        """Return a rich table with what explains it below."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        shapes = ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in self.inputs.items())
        table = Table(title=f"Latency of one run: {shapes}", title_justify="left")
        table.add_column("engine", no_wrap=True, min_width=12)
        # Two columns more, where there is something to put into them.
        on_gpu = any(row.device is not None or _gpu_bytes(row) is not None for row in self.rows)
        for heading in (
            "median ms",
            "95 % interval",
            "p90 ms",
            "p99 ms",
            "min ms",
            "items/s",
            "ratio",
            "peak MiB",
            *(("GPU ms", "GPU MiB") if on_gpu else ()),
            "deformable",
        ):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in self.rows:
            latency = row.latency
            table.add_row(
                Text(row.name),
                _milliseconds(latency.median),
                f"{_milliseconds(latency.median_low)} … {_milliseconds(latency.median_high)}",
                _milliseconds(latency.p90),
                _milliseconds(latency.p99),
                _milliseconds(latency.minimum),
                f"{row.throughput:.4g}",
                f"{self.ratio(row):.2f}",
                "–" if row.memory is None else f"{row.memory.bytes / _MEBI:.1f}",
                *(_on_gpu(row) if on_gpu else ()),
                _share(row),
            )
        return Group(table, *(Text(line) for line in self._remarks()))

    def slowest(self, count: int) -> RenderableType:
        """Return a rich table for each engine whose nodes were timed, with the ``count`` nodes that take longest."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        tables = []
        for row in self.rows:
            if row.deformable is None:
                continue
            nodes, total = row.deformable.by_node, row.deformable.total_seconds
            title = f"{row.name}: the slowest {min(count, len(nodes))} of {len(nodes)} nodes"
            table = Table(title=Text(title), title_justify="left")
            for heading in ("node", "op"):
                table.add_column(heading, overflow="fold")
            for heading in ("ms", "share"):
                table.add_column(heading, justify="right", no_wrap=True)
            table.add_column("deformable")
            for node in nodes[:count]:
                share = f"{100 * node.seconds / total:.1f} %" if total else "–"
                mark = "yes" if node.deformable else ""
                table.add_row(Text(node.name), Text(node.op_type), _milliseconds(node.seconds), share, mark)
            tables.append(table)
        return Group(*tables)

    def _remarks(self) -> list[str]:
        runs = self.rows[0].latency.count if self.rows else 0
        several = len(self.rows) > 1
        lines = [f"{runs} timed runs each, interleaved." if several else f"{runs} timed runs."]
        if several:
            lines.append("ratio: median over that of the first row, below 1 is faster.")
        if any(row.memory is not None for row in self.rows):
            lines.append("peak: growth of resident memory in a process of its own.")
        if any(row.device is not None for row in self.rows):
            lines.append(
                "GPU ms: median of the run on the GPU alone; the other times include copies to it and from it."
            )
        if any(_gpu_bytes(row) is not None for row in self.rows):
            lines.append("GPU MiB: growth of what is in use on the GPU, without CUDA's context.")
        if any(row.deformable is not None for row in self.rows):
            lines.append("deformable: part of the nodes' time that goes to deformable operators.")
        for row in self.rows:
            if row.stable is False:
                lines.append(f"{row.name}: the times were not stable yet after {row.warmup} warm-up runs.")
            if row.latency.confidence < 0.95:
                lines.append(
                    f"{row.name}: {row.latency.count} runs are too few for 95 %; the interval holds the median "
                    f"with {100 * row.latency.confidence:.0f} %."
                )
            lines += [f"{row.name}: {note}" for note in row.notes]
        if self.self_check is not None:
            verdict = "passed" if self.self_check.ok else "FAILED: something else disturbs the measurement"
            lines.append(
                f"Self-check {verdict}: {self.self_check.name} against itself is {self.self_check.ratio:.3f}, "
                f"allowed 1 ± {SELF_CHECK_TOLERANCE:g}."
            )
        return lines


_CSV_COLUMNS = (
    "name",
    "backend",
    "model",
    "batch",
    "threads",
    "runs",
    "median_ms",
    "median_low_ms",
    "median_high_ms",
    "p90_ms",
    "p99_ms",
    "min_ms",
    "mean_ms",
    "std_ms",
    "items_per_second",
    "ratio_to_first",
    "peak_memory_mib",
    "deformable_share",
    "gpu_median_ms",
    "gpu_p99_ms",
    "gpu_memory_mib",
)


def _milliseconds(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def _gpu_bytes(row: Row) -> int | None:
    return None if row.memory is None else row.memory.gpu_bytes


def _on_gpu(row: Row) -> tuple[str, str]:
    used = _gpu_bytes(row)
    return (
        "–" if row.device is None else _milliseconds(row.device.median),
        "–" if used is None else f"{used / _MEBI:.1f}",
    )


def _share(row: Row) -> str:
    if row.deformable is None:
        return "–"
    if not row.deformable.nodes:
        return "none"
    return f"{100 * row.deformable.share:.0f} %"
