"""The whole of profiling: engines side by side, report as table, JSON and CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from rich.console import Console

from dcn_deploy import profiling, runtime
from dcn_deploy.errors import BackendError, InvalidArgumentError
from dcn_deploy.profiling import DeformableShare, Method, NodeSeconds, PeakMemory, Report, Row, SelfCheck, summarize
from dcn_deploy.runtime import Runner, RunnerOptions, TensorSpec

QUICK = Method(runs=3, seconds=None, warmup=1, pause=0.0)


@dataclasses.dataclass
class Sleeper(Runner):
    """Takes the time it is told to, and keeps a record of what was done to its kind."""

    backend: ClassVar[str] = "sleeper"
    seconds: float
    log: list[Any]
    options: RunnerOptions = dataclasses.field(default_factory=RunnerOptions)
    active: bool = False

    def activate(self) -> None:
        self.active = True
        self.log.append(("activate", self.options))

    def infer(self, feed: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        assert self.active
        self.log.append(("infer", feed["x"].item()))
        time.sleep(self.seconds)
        return {}

    def close(self) -> None:
        self.active = False
        self.log.append(("close", None))

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return ()

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return ()

    def replicate(self, **changes: Any) -> Sleeper:
        return Sleeper(self.seconds, self.log, dataclasses.replace(self.options, **changes))


def feeds(count: int = 1) -> list[dict[str, np.ndarray]]:
    return [{"x": np.array([value], np.float32)} for value in range(count)]


def test_ratio_of_known_times() -> None:
    log: list[Any] = []
    engines = {"slow": Sleeper(0.04, log), "fast": Sleeper(0.02, log)}
    report = profiling.profile(engines, feeds(), method=Method(runs=5, seconds=None, warmup=1), memory=False)
    assert [row.name for row in report.rows] == ["slow", "fast"]
    slow, fast = report.rows
    assert report.ratio(slow) == 1
    assert report.ratio(fast) == pytest.approx(0.5, abs=0.15)
    assert 0.04 <= slow.latency.median < 0.08
    assert (slow.backend, slow.batch, slow.deformable, slow.memory) == ("sleeper", 1, None, None)
    assert slow.throughput == pytest.approx(1 / slow.latency.median)


def test_spinning_is_off_only_among_several() -> None:
    for count, spinning in ((1, True), (2, False)):
        log: list[Any] = []
        original = Sleeper(0.0, log, RunnerOptions(threads=7))
        profiling.profile([original] * count, feeds(), method=QUICK, memory=False, nodes=False)
        options = [value for what, value in log if what == "activate"]
        assert options == [RunnerOptions(threads=7, spinning=spinning)] * count
        assert not original.active
        assert [what for what, _ in log].count("close") == count


def test_feeds_take_turns() -> None:
    log: list[Any] = []
    profiling.profile([Sleeper(0.0, log)], feeds(2), method=QUICK, memory=False, nodes=False)
    assert [value for what, value in log if what == "infer"] == [0, 0, 0, 1, 1, 0, 0]


def test_engines_are_closed_after_a_failure() -> None:
    class Broken(Sleeper):
        def replicate(self, **changes: Any) -> Sleeper:
            return Broken(self.seconds, self.log)

        def infer(self, feed: Any, outputs: Any = None) -> dict[str, Any]:
            raise BackendError("no")

    log: list[Any] = []
    with pytest.raises(BackendError, match="no"):
        profiling.profile([Sleeper(0.0, log), Broken(0.0, log)], feeds(), method=QUICK, memory=False)
    assert [what for what, _ in log].count("close") == 2


def test_names_of_equal_backends_are_numbered() -> None:
    report = profiling.profile([Sleeper(0.0, [])] * 3, feeds(), method=QUICK, memory=False, nodes=False)
    assert [row.name for row in report.rows] == ["sleeper", "sleeper (2)", "sleeper (3)"]


def test_nothing_to_do_is_an_error() -> None:
    with pytest.raises(InvalidArgumentError, match="expected at least one of each, got 0 runners and 1 feeds"):
        profiling.profile([], feeds())
    with pytest.raises(InvalidArgumentError, match="got 1 runners and 0 feeds"):
        profiling.profile([Sleeper(0.0, [])], [])


def test_self_check_times_one_engine_under_two_names() -> None:
    log: list[Any] = []
    method = Method(runs=5, seconds=None, warmup=1)
    report = profiling.profile(
        {"a": Sleeper(0.03, log), "b": Sleeper(0.0, log)},
        feeds(),
        method=method,
        memory=False,
        nodes=False,
        self_check=True,
    )
    assert [row.name for row in report.rows] == ["a", "b"]
    assert [what for what, _ in log].count("activate") == 3
    assert report.self_check is not None
    assert report.self_check.name == "a"
    assert report.self_check.ratio == pytest.approx(1, abs=0.3)


def test_memory_that_cannot_be_measured_is_a_note() -> None:
    report = profiling.profile([Sleeper(0.0, [open(__file__)])], feeds(), method=QUICK)  # noqa: SIM115
    (row,) = report.rows
    assert row.memory is None
    assert "cannot be sent" in row.notes[0]


def test_progress_ends_with_every_engine() -> None:
    steps: list[str] = []
    profiling.profile(
        {"a": Sleeper(0.0, [])},
        feeds(),
        method=QUICK,
        memory=False,
        progress=lambda done, total, text: steps.append(text),
    )
    assert steps == ["loading a", "warming up a", *["timing a"] * 3, "memory of a", "nodes of a"]


@pytest.mark.parametrize("form", ["standard", "plugin", "decomposed"])
def test_a_real_engine(form: str, deformable_files: dict[str, Path], library: Path) -> None:
    runner = runtime.create("onnxruntime", deformable_files[form], options=RunnerOptions(threads=1))
    feed = {"x": np.random.default_rng(0).standard_normal((2, 3, 20, 24)).astype(np.float32)}
    report = profiling.profile([runner], [feed], method=Method(runs=5, seconds=None))
    (row,) = report.rows
    assert (row.batch, row.threads, row.latency.count, len(row.samples)) == (2, 1, 5, 5)
    assert row.model == str(deformable_files[form])
    assert row.memory is not None
    assert 2**20 < row.memory.bytes < 200 * 2**20
    assert row.deformable is not None
    assert row.deformable.nodes >= 2
    assert 0 < row.deformable.share < 1
    assert report.inputs == {"x": [2, 3, 20, 24]}
    assert row.notes == ()


@pytest.fixture
def report() -> Report:
    """A report with everything that may be missing, once there and once not."""
    full = Row(
        name="plugin [fast]",
        backend="onnxruntime",
        model="a.onnx",
        batch=4,
        threads=2,
        latency=summarize([0.002] * 20),
        samples=(0.002,) * 20,
        warmup=12,
        stable=True,
        memory=PeakMemory(bytes=3 * 2**20, total_bytes=90 * 2**20),
        deformable=DeformableShare(
            2,
            0.0015,
            0.002,
            {"DeformConv2d": 0.0015, "Conv": 0.0005},
            (NodeSeconds("dcn [1]", "DeformConv2d", True, 0.0015), NodeSeconds("conv", "Conv", False, 0.0005)),
        ),
    )
    bare = Row(
        name="torch",
        backend="torch",
        model="ResNet",
        batch=4,
        threads=None,
        latency=summarize([0.005, 0.006, 0.007]),
        samples=(0.006, 0.005, 0.007),
        warmup=3,
        stable=False,
        notes=("peak memory is not known.",),
    )
    return Report(
        (full, bare), Method(runs=20), {"cpu": "test"}, {"input": (4, 3, 8, 8)}, SelfCheck("plugin [fast]", 1.2)
    )


def test_slowest_nodes(report: Report) -> None:
    console = Console(width=100, file=io.StringIO())
    console.print(report.slowest(1))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "plugin [fast]: the slowest 1 of 2 nodes" in text
    assert re.search(r"dcn \[1\] +│ DeformConv2d │ 1\.500 │ 75\.0 % │ yes", text)
    assert "conv" not in text
    assert "torch" not in text


def test_json_schema(report: Report) -> None:
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert content["schema"] == "dcn_deploy.profile/1"
    assert set(content) == {"schema", "machine", "method", "inputs", "rows", "self_check"}
    assert content["self_check"] == {"name": "plugin [fast]", "ratio": 1.2, "tolerance": 0.05, "ok": False}
    assert content["method"]["runs"] == 20
    full, bare = content["rows"]
    fields = {
        "name",
        "backend",
        "model",
        "batch",
        "threads",
        "latency_seconds",
        "device_seconds",
        "ratio_to_first",
        "throughput_items_per_second",
        "peak_memory",
        "deformable",
        "warmup",
        "stable",
        "notes",
        "samples_seconds",
        "device_samples_seconds",
    }
    assert set(full) == set(bare) == fields
    assert set(full["latency_seconds"]) == {field.name for field in dataclasses.fields(profiling.Summary)}
    assert full["throughput_items_per_second"] == 2000
    assert full["peak_memory"] == {"bytes": 3145728, "total_bytes": 94371840, "gpu_bytes": None}
    assert full["deformable"]["share"] == 0.75
    assert full["deformable"]["seconds_by_op_type"] == {"DeformConv2d": 0.0015, "Conv": 0.0005}
    assert full["deformable"]["seconds_by_node"] == [
        {"name": "dcn [1]", "op_type": "DeformConv2d", "deformable": True, "seconds": 0.0015},
        {"name": "conv", "op_type": "Conv", "deformable": False, "seconds": 0.0005},
    ]
    assert (bare["peak_memory"], bare["deformable"], bare["ratio_to_first"]) == (None, None, 3)
    assert bare["samples_seconds"] == [0.006, 0.005, 0.007]


def test_csv(report: Report) -> None:
    first, second = csv.DictReader(io.StringIO(report.to_csv()))
    assert (first["name"], first["median_ms"], first["items_per_second"]) == ("plugin [fast]", "2", "2000")
    assert (first["peak_memory_mib"], first["deformable_share"], first["threads"]) == ("3", "0.75", "2")
    assert (second["ratio_to_first"], second["peak_memory_mib"], second["threads"]) == ("3", "", "")


def test_table(report: Report) -> None:
    console = Console(width=200, file=io.StringIO(), highlight=False)
    console.print(report.to_table())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    lines = text.splitlines()
    full = next(line for line in lines if "plugin [fast]" in line)
    for shown in ("2.000", "2000", "1.00", "3.0", "75 %"):
        assert shown in full
    assert any("torch" in line and "3.00" in line and "–" in line for line in lines)
    assert "input 4×3×8×8" in text
    assert "torch: the times were not stable yet after 3 warm-up runs." in text
    assert "torch: 3 runs are too few for 95 %; the interval holds the median with 75 %." in text
    assert "torch: peak memory is not known." in text
    assert "Self-check FAILED: something else disturbs the measurement: plugin [fast] against itself is 1.200" in text


@pytest.mark.parametrize(("ratio", "ok"), [(1.0, True), (1.049, True), (0.951, True), (1.06, False), (0.94, False)])
def test_bounds_of_the_self_check(ratio: float, ok: bool) -> None:
    assert SelfCheck("a", ratio).ok == ok


def test_machine_is_described(checkout: Path) -> None:
    facts = profiling.describe_machine()
    assert facts["cpu"]
    assert 1 <= facts["usable_cpus"] <= facts["cpu_count"]
    assert facts["packages"]["onnxruntime"]
    assert facts["memory_bytes"] > 2**28
    assert len(facts["load_average"]) == 3
    json.dumps(facts)


def test_commit_is_the_checkouts_and_of_no_other_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    from dcn_deploy.profiling.machine import commit

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@t")
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", ".")
    git("commit", "-qm", "one")
    installed = tmp_path / "site-packages"
    installed.mkdir()
    monkeypatch.setitem(commit.__globals__, "__file__", str(installed / "machine.py"))
    monkeypatch.chdir(tmp_path)
    assert commit() is None
    (tmp_path / "dcn_deploy").mkdir()
    (tmp_path / "dcn_deploy" / "__init__.py").write_text("")
    assert commit() == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("2")
    assert commit() == git("rev-parse", "HEAD") + "-dirty"


def test_package_exports_exactly_its_table() -> None:
    for name in profiling._DEFINED_IN:
        assert getattr(profiling, name) is not None
        assert name in dir(profiling)
    with pytest.raises(AttributeError, match="no attribute 'Timer'"):
        profiling.Timer  # noqa: B018
