"""The frame of the GPU check: stages, tables, the command line, what the machine is told as; with fakes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import record
from benchmarks.gpu_check import __main__ as program
from benchmarks.gpu_check import build, counters, machine, programs, sanitizer, stages
from benchmarks.gpu_check.stages import Failed, Missing, Stage

SMI = (
    "NVIDIA H100 80GB HBM3, 580.65.06, 9.0, 81559 MiB, 345 MHz, 2619 MHz, 1980 MHz, 2619 MHz, 700.00 W, 31, Enabled, "
    "[N/A]"
)


def _raise(error: Exception) -> Any:
    raise error


def _stages() -> list[Stage]:
    return [
        Stage("one", "passes", lambda left: "fine"),
        Stage("two", "is not here", lambda left: _raise(Missing("no GPU"))),
        Stage("three", "fails", lambda left: _raise(Failed("wrong\nin two lines"))),
        Stage("four", "breaks", lambda left: _raise(KeyError("x"))),
        Stage("five", "passes", lambda left: f"{left:.0f} s left"),
    ]


def test_no_stage_hides_another() -> None:
    said: list[str] = []
    clock: Iterator[float] = iter(float(i) for i in range(100))
    outcomes = stages.run_stages(_stages(), budget=1000, say=said.append, clock=lambda: next(clock))
    assert [outcome.status for outcome in outcomes] == ["passed", "missing", "failed", "failed", "passed"]
    assert [outcome.detail for outcome in outcomes][:4] == ["fine", "no GPU", "wrong\nin two lines", "KeyError: 'x'"]
    assert "left" in outcomes[4].detail
    assert any("Traceback" in line for line in said)
    assert json.dumps([outcome.to_json() for outcome in outcomes])


def test_no_stage_begins_after_the_time() -> None:
    times = iter([0.0, 1.0, 1.0, 60.0, 61.0, 61.0])
    ran = []

    def run(left: float) -> str:
        ran.append(left)
        return ""

    wanted = [Stage("one", "", run), Stage("two", "", run)]
    outcomes = stages.run_stages(wanted, budget=50, say=lambda line: None, clock=lambda: next(times))
    assert ran == [49.0]
    assert (outcomes[1].status, outcomes[1].detail) == ("missing", "no time was left of 50 s")


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["passed", "passed"], 0),
        (["passed", "missing"], 2),
        (["missing", "failed"], 1),
        (["failed"], 1),
    ],
)
def test_exit_status(statuses: list[Any], expected: int) -> None:
    assert stages.exit_status([stages.Outcome("", status, 0.0, "") for status in statuses]) == expected


def test_table() -> None:
    assert stages.table([["shape", "µs"], ["a", "1.5"], ["longer", "10"]]) == [
        "shape    µs",
        "a       1.5",
        "longer   10",
    ]


def test_the_machine_is_told_as_the_driver_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = machine.parse(SMI)
    assert (gpu.name, gpu.driver, gpu.compute_capability) == ("NVIDIA H100 80GB HBM3", "580.65.06", (9, 0))
    assert gpu.found["clocks.sm"] == "345 MHz"
    described = machine.describe(gpu, ["bench", "--shapes", "a b"])
    assert described["command"] == "python -m benchmarks.gpu_check bench --shapes 'a b'"
    assert described["kernel_sources"] == {"device": "cuda", "sha256": record.kernel_hash("cuda")}
    assert {"commit", "date", "nvcc", "packages", "platform"} <= set(described)
    assert json.dumps(described)


def test_a_tree_without_git_has_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert machine.commit() != "unknown"
    monkeypatch.setattr(record, "CHECKOUT", tmp_path)
    assert machine.commit() == "unknown"


def test_kernels_are_built_for_the_gpu_that_is_there() -> None:
    assert build.architecture(machine.parse(SMI)) == "90a-real"
    assert build.architecture(machine.parse(SMI.replace(" 9.0,", " 8.6,"))) == "86-real"
    assert build.architecture(None) == "90a-real"


def test_a_missing_gpu_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Missing, match="no NVIDIA GPU: nvidia-smi is missing"):
        machine.require_gpu(None)
    gpu = machine.parse(SMI)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(Missing, match=r"PyTorch cannot be imported by .*Set GPU_PYTHON"):
        machine.require_gpu(gpu)


def test_a_program_that_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    script = "import subprocess, sys, time; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    with pytest.raises(programs.TooSlowError, match="was not done after 1 s"):
        programs.run([sys.executable, "-c", script], 1.0)
    assert programs.run([sys.executable, "-c", "print(1); raise SystemExit(3)"], 60.0) == (3, "1\n", "")


def _without_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "find_gpu", lambda: None)
    monkeypatch.setattr(build, "build", lambda gpu, left: "built")
    monkeypatch.setattr(record, "RESULTS", tmp_path)


def test_without_a_gpu_everything_is_tried_and_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _without_gpu(monkeypatch, tmp_path)
    assert program.main([]) == 2
    lines = capsys.readouterr().out.splitlines()
    last = {line.split()[0]: line for line in lines[-len(program.NAMES) :]}
    assert list(last) == list(program.NAMES)
    assert " passed " in last.pop("build")
    for line in last.values():
        assert " missing " in line
        assert "no NVIDIA GPU" in line
    assert not list(tmp_path.iterdir()), "no result may be written without a GPU"


def test_stages_can_be_run_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _without_gpu(monkeypatch, tmp_path)
    assert program.main(["build"]) == 0
    assert "sanitizer" not in capsys.readouterr().out
    with pytest.raises(SystemExit) as error:
        program.main(["compile"])
    assert error.value.code == 2
    assert "expected some of build, tests, execution" in capsys.readouterr().err


def test_the_stages_fit_into_nine_minutes() -> None:
    assert sum(program.LIMITS.values()) <= program.BUDGET < 9 * 60


def test_what_a_stage_leaves_goes_to_the_next() -> None:
    every = program.NAMES
    assert program.allowance("build", program.BUDGET, every) == program.LIMITS["build"]
    assert program.allowance("bench", 300.0, every) == 300.0 - program.LIMITS["ncu"]
    assert program.allowance("bench", 300.0, ["bench"]) == 300.0
    # One that took too long does not starve the next.
    assert program.allowance("bench", 70.0, every) == program.LIMITS["bench"] / 2
    assert program.allowance("bench", 20.0, every) == 20.0


def test_sanitizer_calls_and_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sanitizer.command("cs", "racecheck")[:3] == ["cs", "--tool", "racecheck"]
    assert sanitizer.command("cs", "memcheck")[-1] == "--inside-sanitizer"
    assert sanitizer.summary("x\n========= ERROR SUMMARY: 0 errors\n") == "0 errors"
    assert sanitizer.summary("========= RACECHECK SUMMARY: 1 hazard displayed") == "1 hazard displayed"
    monkeypatch.setattr(sanitizer.shutil, "which", lambda name: None)
    with pytest.raises(Missing, match="compute-sanitizer is not on PATH"):
        sanitizer.check(10)
    monkeypatch.setattr(sanitizer.shutil, "which", lambda name: name)

    def run(command: Any, seconds: float, **others: Any) -> tuple[int, str, str]:
        assert others["environment"]["PYTORCH_NO_CUDA_MEMORY_CACHING"] == "1"
        return (86, "========= ERROR SUMMARY: 2 errors", "") if "initcheck" in command else (0, "", "")

    monkeypatch.setattr(sanitizer.programs, "run", run)
    with pytest.raises(Failed, match="initcheck ended with status 86:\n========= ERROR SUMMARY: 2 errors"):
        sanitizer.check(10)


NCU = """==PROF== Connected
"ID","Kernel Name","gpu__time_duration.sum","launch__registers_per_thread","sm__throughput.avg.pct_of_peak_sustained_elapsed"
"","","usecond","register/thread","%"
"0","fused_deform_conv2d","12.50","1,024","33.1"
"""  # noqa: E501


def test_counters_are_read() -> None:
    found = counters.parse(NCU)
    assert found == {
        "kernel": "fused_deform_conv2d",
        "duration": 12.5,
        "duration_unit": "usecond",
        "registers": 1024.0,
        "registers_unit": "register/thread",
        "sm_percent": 33.1,
    }
    for text in ("nothing", NCU.splitlines()[1]):
        with pytest.raises(ValueError, match="in what the profiler wrote"):
            counters.parse(text)


def test_counters_that_the_driver_keeps_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters.shutil, "which", lambda name: name)
    monkeypatch.setattr(counters.programs, "run", lambda *a, **k: (1, "==ERROR== ERR_NVGPUCTRPERM", ""))
    with pytest.raises(Missing, match="only administrators"):
        counters.profile([("a", "float16", "nhwc")], 10)
    monkeypatch.setattr(counters.programs, "run", lambda *a, **k: (0, NCU, ""))
    (row,) = counters.profile([("a", "float16", "nhwc")], 10)
    assert (row["shape"], row["duration"]) == ("a", 12.5)
