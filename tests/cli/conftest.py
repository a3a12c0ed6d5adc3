"""The command line, called in this process or in one of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest


class Result(NamedTuple):
    """What a call left behind."""

    status: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """``run("profile", "x.onnx", ...)``: calls the command line in this process."""
    monkeypatch.setenv("COLUMNS", "200")  # without a terminal the width would be 80, and tables would be cut
    from dcn_deploy.cli.main import main

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        # sys.exit(None) is status 0, and typer leaves with numbers only.
        status = left.value.code or 0
        assert isinstance(status, int)
        return Result(status, captured.out, captured.err)

    return call


@pytest.fixture
def refused(run: Callable[..., Result]) -> Callable[..., str]:
    """``refused("profile", ...)``: asserts status 2, one line on standard error, nothing else; returns the line."""

    def call(*arguments: object) -> str:
        result = run(*arguments)
        assert result.status == 2, result
        assert result.out == ""
        assert result.err.endswith("\n")
        (line,) = result.err.splitlines()
        assert line.startswith("error: ")
        return line

    return call


@pytest.fixture
def start() -> Callable[..., subprocess.CompletedProcess[str]]:
    """``start("--help")``: runs the installed command in a process of its own."""
    program = str(Path(sys.executable).with_name("dcn-deploy"))

    def call(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [program, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)

    return call


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``saved("a.onnx", form="standard", channels=2)``: an ONNX file; input x [n, channels, 6, 7], output y."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def make(name: str, form: str = "standard", channels: int = 2) -> Path:
        op_type, domain = {"standard": ("DeformConv", ""), "plugin": ("DeformConv2d", "dcn_deploy")}[form]
        rng = np.random.default_rng(1)
        arrays = {
            "w_offset": 0.1 * rng.standard_normal((18, channels, 3, 3)),
            "w": rng.standard_normal((3, channels, 3, 3)),
        }
        same = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
        graph = helper.make_graph(
            [
                helper.make_node("Conv", ["x", "w_offset"], ["offset"], name="conv_offset", **same),
                helper.make_node(op_type, ["x", "w", "offset"], ["y"], name="dcn", domain=domain, **same),
            ],
            "small",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, 6, 7])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 6, 7])],
            [numpy_helper.from_array(array.astype(np.float32), key) for key, array in arrays.items()],
        )
        opsets = [helper.make_opsetid("", 20)] + ([helper.make_opsetid(domain, 1)] if domain else [])
        path = tmp_path_factory.mktemp("saved") / name
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
        return path

    return make
