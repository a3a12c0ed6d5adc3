"""Stage ``plugin`` of the GPU check: what it makes of the configure step, the tests' report and their program."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_check import build, plugin, programs
from benchmarks.gpu_check.stages import Failed, Missing

_CONFIGURE = """'cmake -S . -B build' ended with status 1:
CMake Error at CMakeLists.txt:150 (message):
  DCN_DEPLOY_DEVICE_TESTS is ON, but the plugin library is not built.  Headers of
  TensorRT (10.1 or later): system: no NvInfer.h.  Set TENSORRT_ROOT.


-- Configuring incomplete, errors occurred!
"""
_NO_GTEST = """'cmake' ended with status 1:
CMake Error at cmake/ProvideGTest.cmake:11 (message):
  GoogleTest: not found, and DCN_DEPLOY_FETCH_HEADERS is off.  Install
  libgtest-dev, or point CMAKE_PREFIX_PATH to an installation of GoogleTest.
Call Stack (most recent call first):
"""


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            _CONFIGURE,
            r"^Headers of TensorRT \(10.1 or later\): system: no NvInfer.h. Set TENSORRT_ROOT. Name the folder",
        ),
        (_NO_GTEST, r"^GoogleTest: not found, .* installation of GoogleTest. Name the folder with NvInfer.h"),
    ],
)
def test_what_cannot_be_found_is_missing(said: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def configure(*arguments: Any) -> str:
        raise Failed(said)

    monkeypatch.setattr(build, "configure", configure)
    with pytest.raises(Missing, match=message):
        plugin.make(None, 10.0)


def test_another_failure_of_the_configure_step_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def configure(*arguments: Any) -> str:
        raise Failed("'cmake' ended with status 1:\nCMake Error: disk full\n\n")

    monkeypatch.setattr(build, "configure", configure)
    with pytest.raises(Failed, match="disk full"):
        plugin.make(None, 10.0)


def test_it_is_built_beside_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[list[str], float]] = []
    monkeypatch.setattr(build, "_program", lambda name, remedy: name)
    monkeypatch.setattr(build, "_call", lambda command, left: called.append((command, left)))
    plugin.make(None, 50.0)
    (configure, _), (make, left) = called
    assert ["-B", str(build.FOLDER)] == configure[configure.index("-B") :][:2]
    assert {"-DDCN_DEPLOY_CUDA=ON", "-DDCN_DEPLOY_FETCH_HEADERS=OFF", "-DDCN_DEPLOY_DEVICE_TESTS=ON"} <= set(configure)
    assert f"-DPython_EXECUTABLE={sys.executable}" in configure
    assert make[make.index("--target") + 1] == plugin.TARGET
    assert left <= 50.0


def _test(name: str, **others: Any) -> dict[str, Any]:
    return {"name": name, "status": "RUN", "result": "COMPLETED", **others}


def _report(*tests: dict[str, Any]) -> dict[str, Any]:
    return {"testsuites": [{"name": "Conv", "testsuite": list(tests)}]}


def test_the_report_is_read() -> None:
    wrong = _test("Wrong", failures=[{"failure": "a.cc:3\nExpected: 1\nActual: 2"}, {"failure": "more"}])
    left_out = {"name": "Off", "status": "NOTRUN", "result": "SUPPRESSED"}
    skipped = _test("Skipped", result="SKIPPED")
    ran, failures = plugin.tally(_report(_test("Right"), wrong, left_out, skipped))
    assert ran == 2
    assert failures == ["Conv.Wrong: a.cc:3 Expected: 1 Actual: 2"]


def _program(folder: Path, report: dict[str, Any] | None, status: int) -> Path:
    """A program that does as GoogleTest: writes the report where it is told to, and ends with a status."""
    path = folder / "tests_of_plugins"
    path.write_text(
        # Not as the interpreter of the first line, whose path may hold a space.
        f"#!/bin/sh\nexec '{sys.executable}' - \"$@\" <<'END'\n"
        f"import sys\nprint('what it says')\nreport = {json.dumps(report)!r}\n"
        "(option,) = [a for a in sys.argv[1:] if a.startswith('--gtest_output=json:')]\n"
        f"if report != 'null': open(option.partition(':')[2], 'w').write(report)\nsys.exit({status})\nEND\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_tests_are_run(tmp_path: Path) -> None:
    path = _program(tmp_path, _report(_test("A"), _test("B")), 0)
    assert plugin.run(60.0, path) == "2 tests of the plugins passed"


@pytest.mark.parametrize(
    ("report", "status", "message"),
    [
        (
            _report(_test("A"), _test("B", failures=[{"failure": "x"}])),
            1,
            r"1 of 2 tests of the plugins failed:\nConv.B",
        ),
        (None, 3, r"'tests_of_plugins' ended with status 3 and no report:\nwhat it says"),
        (_report(), 0, "ended with status 0 after 0 tests"),
        (_report(_test("A")), 1, "ended with status 1 after 1 tests, none of which failed"),
    ],
)
def test_what_is_wrong_is_told(report: Any, status: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(Failed, match=message):
        plugin.run(60.0, _program(tmp_path, report, status))


def test_an_old_report_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    path = _program(tmp_path, None, 1)
    path.with_suffix(".json").write_text(json.dumps(_report(_test("A"))))
    with pytest.raises(Failed, match="no report"):
        plugin.run(60.0, path)


def test_tests_that_take_too_long_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(*arguments: Any) -> None:
        raise programs.TooSlowError("'tests' was not done after 1 s")

    monkeypatch.setattr(plugin.programs, "run", run)
    with pytest.raises(Failed, match="was not done after 1 s"):
        plugin.run(1.0, tmp_path / "tests")
