"""The TensorRT plugin library of this installation, and the real registries that it is tried in."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dcn_deploy
from dcn_deploy.errors import LibraryNotBuiltError

REGISTRIES = ("tensorrt_lean", "tensorrt_rtx")


@pytest.fixture(scope="session")
def plugin_library() -> Path:
    """Path of the library. It needs nvcc: where that is, its absence is a failure; elsewhere the tests are skipped."""
    try:
        return dcn_deploy.library_path("tensorrt")
    except LibraryNotBuiltError as error:
        if shutil.which("nvcc") is not None:
            pytest.fail(f"nvcc is here, so the library should be: {error}", pytrace=False)
        pytest.skip(f"without nvcc there is no plugin library: {error}")


Steps = Callable[..., "Outcome"]


class Outcome:
    """What came of the steps, and what the library said."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        self.results: list[Any] = json.loads(done.stdout)
        self.messages = [line for line in done.stderr.splitlines() if line.startswith("dcn_deploy: ")]


@pytest.fixture(params=REGISTRIES)
def steps(request: pytest.FixtureRequest, plugin_library: Path) -> Steps:
    """``steps([name, argument, ...], ...)``: methods of ``registry_program.Session``, in a process of their own."""

    def run(*wanted: list[Any]) -> Outcome:
        content = {"module": request.param, "library": str(plugin_library), "steps": wanted}
        program = [sys.executable, str(Path(__file__).with_name("registry_program.py"))]
        return Outcome(
            subprocess.run(program, input=json.dumps(content), capture_output=True, text=True, timeout=120, check=False)
        )

    return run
