"""The frame of the GPU check: stages, tables, the command line, what the machine is told as; with fakes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import record
from benchmarks.gpu_check import __main__ as program
from benchmarks.gpu_check import build, child, counters, inside, machine, programs, sanitizer, stages
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
    monkeypatch.setenv(machine.COMMIT_VARIABLE, "0123abc")
    assert machine.commit() != "0123abc", "a checkout knows better"
    monkeypatch.setattr(record, "CHECKOUT", tmp_path)
    assert machine.commit() == "0123abc"
    monkeypatch.delenv(machine.COMMIT_VARIABLE)
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


def test_whether_pytorch_can_use_the_gpu_is_asked_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    machine._trouble_aside.cache_clear()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(Missing, match=r"^PyTorch .* finds no GPU"):
        machine.require_gpu(machine.parse(SMI), aside=True)
    machine._trouble_aside.cache_clear()


def test_a_driver_that_hangs_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: Any, **others: Any) -> None:
        raise subprocess.TimeoutExpired("nvidia-smi", 60)

    monkeypatch.setattr(machine.shutil, "which", lambda name: name)
    monkeypatch.setattr(machine.subprocess, "run", run)
    assert machine.find_gpu() is None


def test_a_program_that_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    script = "import subprocess, sys, time; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    with pytest.raises(programs.TooSlowError, match="was not done after 1 s"):
        programs.run([sys.executable, "-c", script], 1.0)
    assert programs.run([sys.executable, "-c", "print(1); raise SystemExit(3)"], 60.0) == (3, "1\n", "")


def test_nothing_waits_for_a_grandchild_in_a_session_of_its_own(tmp_path: Path) -> None:
    """It holds what its parent wrote to, and is not in the group that is ended."""
    left = tmp_path / "pid"
    script = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
        f"open({str(left)!r}, 'w').write(str(child.pid))\n"
        "print('as far as this', flush=True)\n"
    )
    begin = time.monotonic()
    try:
        assert programs.run([sys.executable, "-c", script], 30.0) == (0, "as far as this\n", "")
        os.kill(int(left.read_text()), signal.SIGKILL)
        with pytest.raises(programs.TooSlowError, match=r"was not done after 2 s. Its last lines:\nas far as this$"):
            programs.run([sys.executable, "-c", script + "time.sleep(60)"], 2.0)
    finally:
        os.kill(int(left.read_text()), signal.SIGKILL)
    assert time.monotonic() - begin < 25


def test_what_a_program_says_is_shown_while_it_runs() -> None:
    script = "import time\nprint('one\\ntwo', flush=True)\ntime.sleep(1)\nprint('three')"
    shown: list[tuple[str, float]] = []
    status, output, _ = programs.run(
        [sys.executable, "-c", script], 30.0, show=lambda line: shown.append((line, time.monotonic()))
    )
    assert (status, output) == (0, "one\ntwo\nthree\n")
    assert [line for line, _ in shown] == ["one", "two", "three"]
    assert shown[2][1] - shown[1][1] > 0.3


# Stages in processes of their own.


def _child(tmp_path: Path, work: str, seconds: float) -> child.Ended:
    """Run ``work``, lines that have ``report`` and ``left``, as a stage."""
    script = (
        "import os, sys, time\nfrom pathlib import Path\nfrom benchmarks.gpu_check import child\n"
        "from benchmarks.gpu_check.stages import Failed, Missing\n"
        "def work(report, left):\n" + textwrap.indent(textwrap.dedent(work), "    ") + "\n"
        "sys.exit(child.inside(Path(sys.argv[2]), float(sys.argv[1]), work))"
    )
    path = tmp_path / "stage.json"
    return child.run(
        lambda until: [sys.executable, "-c", script, f"{until:.1f}", str(path)], path, seconds, lambda line: None
    )


@pytest.mark.parametrize(
    ("work", "status", "detail"),
    [
        ("report.found['a'] = 1; return f'{left:.0f} s'", "passed", r"2[0-9] s"),
        ("report.found['a'] = 1; raise Failed('wrong')", "failed", "wrong"),
        ("report.found['a'] = 1; raise Missing('not here')", "missing", "not here"),
        ("report.found['a'] = 1; raise KeyError('x')", "failed", "KeyError: 'x'"),
        (
            "report.found['a'] = 1; report.save(); report.now('the long kernel'); report.now('a kernel'); os.abort()",
            "failed",
            r"it ended with status -6\nIt was at: a kernel.*",
        ),
        ("report.found['a'] = 1; report.save(); print('x'); os._exit(0)", "failed", "it ended with status 0"),
    ],
    ids=["passes", "fails", "missing", "breaks", "crashes", "vanishes"],
)
def test_a_stage_in_a_process_of_its_own(work: str, status: str, detail: str, tmp_path: Path) -> None:
    ended = _child(tmp_path, work, 30.0)
    assert ended.status == status, ended.detail
    assert re.match(detail, ended.detail, re.DOTALL)
    assert ended.found == {"a": 1}
    if status == "passed":
        assert ended.conclude() == ended.detail
    else:
        with pytest.raises(Missing if status == "missing" else Failed):
            ended.conclude()


def test_a_stage_that_hangs_keeps_what_it_has_found(tmp_path: Path) -> None:
    work = "report.found['rows'] = [1]; report.save(); report.now('a kernel'); print('x', flush=True); time.sleep(60)"
    ended = _child(tmp_path, work, 2.0)
    assert ended.status == "failed"
    assert re.fullmatch(r"'\S+' was not done after 2 s. Its last lines:\nx\nIt was at: a kernel", ended.detail)
    assert ended.found == {"rows": [1]}


def test_a_stage_that_passes_and_then_crashes_has_failed(tmp_path: Path) -> None:
    ended = _child(tmp_path, "import atexit; atexit.register(os.abort); return 'fine'", 30.0)
    assert (ended.status, ended.detail.splitlines()[0]) == ("failed", "fine; but then it ended with status -6")


def test_a_stage_begins_nothing_shortly_before_it_is_killed() -> None:
    assert [child.margin(left) for left in (0.0, 20.0, 100.0)] == [0.0, 3.0, 8.0]


def test_the_command_line_of_a_stage_is_understood(tmp_path: Path) -> None:
    call = child.command("bench", tmp_path / "bench.json", 12.5, ["--preparation", "30", "--shapes", "a", "b"])
    options = program.parse(call[call.index("benchmarks.gpu_check") + 1 :])
    assert options.inside_stage == ["bench", "12.5", str(tmp_path / "bench.json")]
    assert (options.preparation, options.shapes, options.stages) == (30.0, ["a", "b"], [])


def test_a_stage_inside_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "find_gpu", lambda: None)
    path = tmp_path / "tests.json"
    assert program.main(["--inside-stage", "tests", f"{time.time() + 9:.1f}", str(path)]) == 0
    report = json.loads(path.read_text())
    assert report["status"] == "missing"
    assert report["detail"].startswith("no NVIDIA GPU")


def test_stages_with_kernels_have_work_inside() -> None:
    assert set(inside.WORK) <= set(program.NAMES)


def _with_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Any) -> None:
    """A GPU that is only said to be there; ``run`` does a stage's part."""
    monkeypatch.setattr(machine, "find_gpu", lambda: machine.parse(SMI))
    monkeypatch.setattr(machine, "_trouble_aside", lambda: None)
    monkeypatch.setattr(build, "build", lambda gpu, left: "built")
    monkeypatch.setattr(inside, "library", lambda: None)
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(child, "run", run)


def test_results_are_written_after_each_stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever ends the run, what was found before is on disk."""
    results = tmp_path / "gpu-nvidia-h100-80gb-hbm3.json"
    seen: list[dict[str, Any]] = []

    def run(command: Any, path: Path, left: float, say: Any) -> child.Ended:
        seen.append(json.loads(results.read_text()))
        name = command(0.0)[command(0.0).index("--inside-stage") + 1]
        if name == "execution":
            raise KeyboardInterrupt
        return child.Ended("failed", "crashed", {"results": 7})

    _with_gpu(monkeypatch, tmp_path, run)
    with pytest.raises(KeyboardInterrupt):
        program.main([])
    at_tests, at_execution = seen
    assert [stage["stage"] for stage in at_tests["stages"]] == ["build"]
    assert [(stage["stage"], stage["status"]) for stage in at_execution["stages"]] == [
        ("build", "passed"),
        ("tests", "failed"),
    ]
    assert at_execution["tests"] == {"results": 7}
    assert at_execution["stages_to_come"] == list(program.NAMES[2:])
    assert json.loads(results.read_text()) == at_execution


def test_rows_of_a_benchmark_that_crashed_are_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = {
        "shape": "det_res4",
        "precision": "float16",
        "layout": "nhwc",
        "parameters": {"c": 256, "group": 1},
        "chosen": {"algorithm": "tensor", "tile": [128, 64], "splits": 2},
        "seconds": {"dcn_deploy": {"median": 1e-5}, "dense conv": {"median": 1e-5}},
    }
    ended = child.Ended("failed", "it ended with status -11", {"rows": [one], "late": ["x"], "broken": ["y"]})
    _with_gpu(monkeypatch, tmp_path, lambda *arguments: ended)
    output = tmp_path / "some.json"
    assert program.main(["bench", "--output", str(output)]) == 1
    result = json.loads(output.read_text())
    assert (result["rows"], result["left_out_for_time"], result["broken_rows"]) == ([one], ["x"], ["y"])
    assert result["summary"]["by_mode"]["float16 nhwc"]["geometric_means"]["times_dense"] == 1.0
    assert "det_res4" in capsys.readouterr().out


def test_execution_looks_at_the_clock_and_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    execution = pytest.importorskip("benchmarks.gpu_check.execution")
    library: Any = None
    did: list[str] = []

    def part(name: str, error: Exception | None = None) -> Any:
        def run(*arguments: Any) -> str:
            did.append(name)
            if error is not None:
                raise error
            return name

        run.__name__ = f"_{name}"
        return run

    for name in ("repeats", "streams", "graph", "no_allocation", "past_2_31"):
        monkeypatch.setattr(execution, f"_{name}", part(name))
    monkeypatch.setattr(execution, "_HOWS", execution._HOWS[:1])
    monkeypatch.setattr(execution.TorchDevice, "trouble", lambda self: None)
    now: list[str] = []
    assert execution.check(library, 60.0, now=now.append).endswith("no memory taken; past_2_31")
    assert did == ["repeats", "streams", "graph", "no_allocation", "past_2_31"]
    assert now[0] == "float16 nhwc->nhwc auto: repeats"
    clock = iter([0.0, 1.0, 2.0, 70.0])
    with pytest.raises(Failed, match=r"graph and what comes after it: no time was left of 60 s"):
        execution.check(library, 60.0, clock=lambda: next(clock))
    monkeypatch.setattr(execution, "_streams", part("streams", Failed("bits differ")))
    monkeypatch.setattr(execution, "_graph", part("graph", RuntimeError("CUDA\nerror")))
    did.clear()
    with pytest.raises(Failed, match=r"^bits differ\nfloat16 nhwc->nhwc auto: graph: RuntimeError: CUDA error$"):
        execution.check(library, 60.0)
    assert did[-1] == "past_2_31"
    monkeypatch.setattr(execution.TorchDevice, "trouble", lambda self: "it is gone")
    did.clear()
    with pytest.raises(Failed, match=r"nothing more was tried: it is gone$"):
        execution.check(library, 60.0)
    assert did == ["repeats", "streams", "graph"]


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


def test_sanitizer_calls() -> None:
    assert sanitizer.command("cs", "racecheck", 7.0)[:3] == ["cs", "--tool", "racecheck"]
    memcheck = sanitizer.command("cs", "memcheck", 7.0)
    assert memcheck[-2:] == ["--inside-sanitizer", "7.0"]
    # Probes of the driver by PyTorch are no errors.
    assert memcheck[memcheck.index("--report-api-errors") + 1] == "no"
    assert "--report-api-errors" not in sanitizer.command("cs", "initcheck", 7.0)
    options = program.parse(memcheck[memcheck.index("benchmarks.gpu_check") + 1 :])
    assert options.inside_sanitizer == 7.0


_RIGHT = "checked 12 results\n========= ERROR SUMMARY: 0 errors\n"


@pytest.mark.parametrize(
    ("status", "output", "wrong"),
    [
        (0, _RIGHT, None),
        (0, "checked 3 results\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", None),
        (86, "checked 12 results\n========= ERROR SUMMARY: 2 errors", "memcheck ended with status 86:\nchecked"),
        (0, "", "memcheck expected a summary, got none, expected the program inside to say"),
        (0, "checked 12 results\n", "memcheck expected a summary, got none:"),
        (0, "========= ERROR SUMMARY: 0 errors\n", "memcheck expected the program inside to say how many results"),
        (0, _RIGHT.replace("12", "0"), "memcheck expected the program inside to say how many results"),
    ],
)
def test_a_sanitizers_verdict(status: int, output: str, wrong: str | None) -> None:
    """A tool that could not even begin has found no error, either."""
    verdict = sanitizer.judge("memcheck", status, output)
    if wrong is None:
        assert verdict.wrong is None
        assert re.fullmatch(r"memcheck: 0 .* over \d+ results", verdict.said)
    else:
        assert verdict.wrong is not None
        assert verdict.wrong.startswith(wrong)


def test_sanitizer_runs_every_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanitizer.shutil, "which", lambda name: None)
    with pytest.raises(Missing, match="compute-sanitizer is not on PATH"):
        sanitizer.check(10)
    monkeypatch.setattr(sanitizer.shutil, "which", lambda name: name)
    said = dict.fromkeys(sanitizer.TOOLS, (0, _RIGHT, ""))

    def run(command: Any, seconds: float, **others: Any) -> tuple[int, str, str]:
        assert others["environment"]["PYTORCH_NO_CUDA_MEMORY_CACHING"] == "1"
        assert time.time() <= float(command[-1]) < time.time() + seconds
        return said[command[2]]

    monkeypatch.setattr(sanitizer.programs, "run", run)
    assert sanitizer.check(10) == "; ".join(f"{tool}: 0 errors over 12 results" for tool in sanitizer.TOOLS)
    said["racecheck"] = (0, f"not checked: size_19 and what comes after it\n{_RIGHT}", "")
    with pytest.raises(Missing, match="racecheck without size_19 and what comes after it"):
        sanitizer.check(10)
    said["initcheck"] = (86, "========= ERROR SUMMARY: 2 errors", "")
    with pytest.raises(Failed, match=r"initcheck ended with status 86.*:\n========= ERROR SUMMARY: 2 errors"):
        sanitizer.check(10)


def test_the_program_inside_says_what_a_verdict_needs(capsys: pytest.CaptureFixture[str]) -> None:
    checks = pytest.importorskip("benchmarks.gpu_check.checks")
    assert sanitizer.inside(checks.Tally(launches=12, late="size_19")) == 0
    verdict = sanitizer.judge("memcheck", 0, capsys.readouterr().out + "========= ERROR SUMMARY: 0 errors")
    assert (verdict.said, verdict.wrong, verdict.late) == ("memcheck: 0 errors over 12 results", None, "size_19")
    assert sanitizer.inside(checks.Tally(launches=12, failures=["wrong"])) == 1


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


def test_the_profiler_sets_nothing_on_the_gpu() -> None:
    """Without this it fixes the clocks."""
    assert "--clock-control=none" in counters.command("ncu", "a", "float16", "nhwc")


def test_counters_that_the_driver_keeps_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters.shutil, "which", lambda name: name)
    monkeypatch.setattr(counters.programs, "run", lambda *a, **k: (1, "==ERROR== ERR_NVGPUCTRPERM", ""))
    found: list[dict[str, Any]] = []
    with pytest.raises(Missing, match="only administrators"):
        counters.profile([("a", "float16", "nhwc")], 10, found)
    monkeypatch.setattr(counters.programs, "run", lambda *a, **k: (0, NCU, ""))
    counters.profile([("a", "float16", "nhwc")], 10, found)
    (row,) = found
    assert (row["shape"], row["duration"]) == ("a", 12.5)


@pytest.mark.parametrize("is_slow", [False, True])
@pytest.mark.parametrize("broken", ["a", "b"])
def test_one_shape_without_counters_does_not_hide_another(
    broken: str, is_slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: Any, *arguments: Any, **others: Any) -> tuple[int, str, str]:
        if is_slow and command[-3] == broken:
            raise programs.TooSlowError("'ncu' was not done after 1 s")
        return (0, "nothing" if command[-3] == broken else NCU, "")

    monkeypatch.setattr(counters.shutil, "which", lambda name: name)
    monkeypatch.setattr(counters.programs, "run", run)
    found: list[dict[str, Any]] = []
    with pytest.raises(Failed, match=f"ncu on {broken}"):
        counters.profile([("a", "float16", "nhwc"), ("b", "float16", "nhwc")], 10, found)
    assert [row["shape"] for row in found] == [name for name in "ab" if name != broken]
