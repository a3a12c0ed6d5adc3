"""Stage ``plugin``: TensorRT's plugins on this GPU, driven as TensorRT drives them, against the float64 reference.

TensorRT itself is not needed: the program of ``tests/tensorrt`` calls the plugin library through ``getCreators()``. To
compile it takes TensorRT's headers and GoogleTest.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_check import build, programs
from benchmarks.gpu_check.machine import Gpu
from benchmarks.gpu_check.stages import Failed, Missing

TARGET = "dcn_deploy_tensorrt_device_tests"
#: The plugin library that the stage makes, for whatever comes after it.
LIBRARY_FOLDER = build.FOLDER / "plugins" / "tensorrt"
PROGRAM = build.FOLDER / "tests" / "tensorrt" / "device" / TARGET
REMEDY = (
    "Name the folder with NvInfer.h by TENSORRT_ROOT (the include folder of TensorRT 10.1 or later; the package "
    "kernel-lens 2.0.1 has one), and an installation of GoogleTest by CMAKE_PREFIX_PATH, or install libgtest-dev"
)


def missing(output: str) -> str | None:
    """What the configure step has not found, in its own words; None if it has found everything."""
    for pattern in (
        r"DCN_DEPLOY_DEVICE_TESTS is ON, but [^.]*\.(.*?)\n\s*\n",
        r"(GoogleTest: not found.*?)(?:\n\s*\n|Call Stack)",
    ):
        found = re.search(pattern, output + "\n\n", re.DOTALL)
        if found is not None:
            return " ".join(found[1].split())
    return None


def configure_arguments() -> list[str]:
    """What the stage adds to the configure step of the stage ``build``."""
    return ["-DDCN_DEPLOY_TENSORRT=AUTO", "-DDCN_DEPLOY_DEVICE_TESTS=ON", f"-DPython_EXECUTABLE={sys.executable}"]


def make(gpu: Gpu | None, left: float) -> None:
    """Configure and build the plugin library and its tests, with the kernels of the stage ``build``.

    Raises:
        Missing: without CMake, nvcc or what the configure step does not find.
        Failed: with the last lines of what they said.
    """
    begin = time.monotonic()
    try:
        build.configure(gpu, left, configure_arguments())
    except Failed as error:
        what = missing(str(error))
        if what is None:
            raise
        raise Missing(f"{what} {REMEDY}") from error
    build.make(TARGET, left - (time.monotonic() - begin))


def tally(report: dict[str, Any]) -> tuple[int, list[str]]:
    """Number of tests that ran, and what each that failed says, from GoogleTest's JSON report."""
    ran, failures = 0, []
    for suite in report["testsuites"]:
        for test in suite["testsuite"]:
            if test["status"] != "RUN" or test["result"] == "SKIPPED":
                continue
            ran += 1
            if test.get("failures"):
                first = " ".join(test["failures"][0]["failure"].split())
                failures.append(f"{suite['name']}.{test['name']}: {first[:400]}")
    return ran, failures


def run(left: float, program: Path = PROGRAM) -> str:
    """Run the tests.

    Raises:
        Failed: if one fails, if none ran, or with the last lines of a program that broke.
    """
    report = program.with_suffix(".json")
    report.unlink(missing_ok=True)
    try:
        status, output, errors = programs.run([str(program), f"--gtest_output=json:{report}"], left)
    except programs.TooSlowError as error:
        raise Failed(str(error)) from error
    if not report.is_file():
        last = "\n".join((output + errors).strip().splitlines()[-30:])
        raise Failed(f"'{program.name}' ended with status {status} and no report:\n{last}")
    ran, failures = tally(json.loads(report.read_text(encoding="utf-8")))
    if failures:
        raise Failed("\n".join([f"{len(failures)} of {ran} tests of the plugins failed:", *failures]))
    if ran == 0 or status != 0:
        raise Failed(f"'{program.name}' ended with status {status} after {ran} tests, none of which failed")
    return f"{ran} tests of the plugins passed"


def check(gpu: Gpu | None, left: float) -> str:
    """Build and run.

    Raises:
        Missing: without what it takes to build.
        Failed: with what went wrong.
    """
    begin = time.monotonic()
    make(gpu, left)
    built = time.monotonic() - begin
    return f"{run(left - built)}; built in {built:.0f} s"
