"""``dcn-deploy profile``: table, JSON and CSV of real engines, and what is refused before anything is timed."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SHORT = ("--runs", "2", "--warmup", "1", "--no-memory", "--no-nodes", "--threads", "1")
SHAPE = ("--shape", "x=2,2,6,7")


@pytest.fixture
def file(saved: Any) -> Path:
    path: Path = saved("small.onnx")
    return path


def _engines(table: str) -> list[str]:
    """First column of the table's body."""
    return [line.split("│")[1].strip() for line in table.splitlines() if line.startswith("│")]


def test_two_backends_side_by_side(file: Path, run: Any) -> None:
    result = run("profile", file, "--backend", "onnxruntime", "-b", "reference", *SHAPE, *SHORT)
    assert (result.status, result.err) == (0, "")
    assert "Latency of one run: x 2×2×6×7" in result.out
    assert _engines(result.out) == ["onnxruntime", "reference"]
    assert "2 timed runs each, interleaved." in result.out
    assert "below 1 is faster" in result.out


def test_one_backend_needs_no_ratio(file: Path, run: Any) -> None:
    result = run("profile", file, *SHAPE, *SHORT)
    assert (result.status, result.err) == (0, "")
    assert _engines(result.out) == ["onnxruntime"]
    assert "\n2 timed runs.\n" in result.out
    assert "interleaved" not in result.out
    assert "below 1" not in result.out


def test_json_alone_on_stdout(file: Path, run: Any) -> None:
    result = run("profile", file, "-b", "onnxruntime,reference", *SHAPE, *SHORT, "--json", "-")
    assert result.status == 0
    content = json.loads(result.out)
    assert content["schema"] == "dcn_deploy.profile/1"
    assert content["inputs"] == {"x": [2, 2, 6, 7]}
    assert content["method"]["runs"] == 2
    assert [row["backend"] for row in content["rows"]] == ["onnxruntime", "reference"]
    for row in content["rows"]:
        assert row["model"] == str(file)
        assert row["batch"] == 2
        assert len(row["samples_seconds"]) == 2
        assert row["latency_seconds"]["median"] > 0
    assert _engines(result.err) == ["onnxruntime", "reference"]


def test_csv_alone_on_stdout(file: Path, run: Any) -> None:
    result = run("profile", file, "-b", "onnxruntime,reference,onnxruntime", *SHAPE, *SHORT, "--csv", "-")
    assert result.status == 0
    rows = list(csv.DictReader(io.StringIO(result.out)))
    assert [row["name"] for row in rows] == ["onnxruntime", "reference"]  # a name twice counts once
    assert [row["runs"] for row in rows] == ["2", "2"]
    assert float(rows[0]["ratio_to_first"]) == 1
    assert _engines(result.err) == ["onnxruntime", "reference"]


def test_files_and_table_at_once(file: Path, run: Any, in_folder: Path) -> None:
    result = run("profile", file, *SHAPE, *SHORT, "--json", "r.json", "--csv", "r.csv")
    assert (result.status, result.err) == (0, "")
    assert _engines(result.out) == ["onnxruntime"]
    (row,) = json.loads(Path("r.json").read_text())["rows"]
    (line,) = csv.DictReader(io.StringIO(Path("r.csv").read_text()))
    assert float(line["median_ms"]) == pytest.approx(1e3 * row["latency_seconds"]["median"], rel=1e-5)


def test_memory_and_share_of_the_deformable_nodes(saved: Any, run: Any, library: Path) -> None:
    file = saved("small.onnx", form="plugin")
    result = run("profile", file, *SHAPE, "--runs", "2", "--warmup", "1", "--threads", "1", "--json", "-")
    assert result.status == 0, result.err
    (row,) = json.loads(result.out)["rows"]
    assert row["peak_memory"]["bytes"] > 0
    assert row["deformable"]["nodes"] == 1
    assert 0 < row["deformable"]["share"] < 1
    assert row["deformable"]["seconds_by_op_type"]["DeformConv2d"] > 0
    assert "peak: growth of resident memory" in result.err
    assert "deformable: part of the nodes' time" in result.err


def test_several_files_go_by_their_names(saved: Any, run: Any, library: Path) -> None:
    files = [saved("standard.onnx"), saved("plugin.onnx", form="plugin")]
    result = run("profile", *files, *SHAPE, *SHORT)
    assert result.status == 0, result.err
    assert _engines(result.out) == ["standard.onnx", "plugin.onnx"]


def test_several_files_in_several_backends(saved: Any, run: Any) -> None:
    files = [saved("a.onnx"), saved("b.onnx")]
    result = run("profile", *files, "-b", "onnxruntime,reference", *SHAPE, *SHORT)
    assert result.status == 0, result.err
    expected = [f"{backend} {name}" for backend in ("onnxruntime", "reference") for name in ("a.onnx", "b.onnx")]
    assert _engines(result.out) == expected


def test_files_of_one_name_go_by_their_paths(saved: Any, run: Any) -> None:
    files = [saved("same.onnx"), saved("same.onnx"), saved("other.onnx")]
    result = run("profile", *files, *SHAPE, *SHORT, "--json", "-")
    assert result.status == 0, result.err
    names = [row["name"] for row in json.loads(result.out)["rows"]]
    assert names == [str(files[0]), str(files[1]), "other.onnx"]


def test_inputs_from_a_file(file: Path, run: Any, in_folder: Path) -> None:
    np.savez("inputs.npz", x=np.zeros((5, 2, 6, 7), np.float32))
    result = run("profile", file, "--inputs", "inputs.npz", *SHORT, "--json", "-")
    assert result.status == 0, result.err
    assert json.loads(result.out)["inputs"] == {"x": [5, 2, 6, 7]}


_NETWORK = """
import torch
from dcn_deploy.nn import ModulatedDeformConv2d
def build():
    return ModulatedDeformConv2d(2, 3, 3, padding=1)
"""


def test_network_alone(run: Any, in_folder: Path) -> None:
    Path("network.py").write_text(_NETWORK)
    result = run("profile", "--source", "network.py:build", "--shape", "input=1,2,6,7", *SHORT, "--json", "-")
    assert result.status == 0, result.err
    content = json.loads(result.out)
    assert [row["backend"] for row in content["rows"]] == ["torch"]
    assert content["inputs"] == {"input": [1, 2, 6, 7]}


def test_network_beside_its_file(run: Any, in_folder: Path) -> None:
    """The file records the zoo's name, so the backend torch needs no --source."""
    exported = run("export", "single_dcn", "-o", "single.onnx", "--form", "standard", "--shape", "input=1,64,5,6")
    assert exported.status == 0, exported.err
    result = run("profile", "single.onnx", "-b", "onnxruntime,torch", *SHORT)
    assert result.status == 0, result.err
    assert _engines(result.out) == ["onnxruntime", "torch"]


def test_self_check_decides_the_status(file: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from dcn_deploy.profiling import report

    for tolerance, status, verdict in ((1e9, 0, "Self-check passed"), (-1.0, 1, "Self-check FAILED")):
        monkeypatch.setattr(report, "SELF_CHECK_TOLERANCE", tolerance)
        result = run("profile", file, *SHAPE, *SHORT, "--self-check")
        assert (result.status, result.err) == (status, "")
        assert verdict in result.out


# Refusals.


def test_backend_that_is_not_there(file: Path, refused: Any) -> None:
    line = refused("profile", file, "-b", "tensorflow")
    known = "torch, onnxruntime, reference, onnxruntime-cuda, tensorrt, tensorrt-rtx"
    assert line == f"error: backend: expected one of {known}, got 'tensorflow'."


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_a_backend_for_engines_says_how_to_build_one(backend: str, file: Path, refused: Any) -> None:
    assert refused("profile", file, "-b", backend) == (
        f"error: model of the backend '{backend}': expected the path of an engine, got an ONNX model. Build one: "
        f"dcn-deploy build {file} -o {file.stem}.engine --backend {backend}."
    )


def test_a_backend_that_cannot_run_here_says_why(file: Path, refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dcn_deploy.runtime.onnxruntime_cuda.what_is_missing", lambda: ("no GPU to be found", "install one")
    )
    line = refused("profile", file, "-b", "onnxruntime-cuda", *SHAPE)
    assert line == "error: the backend 'onnxruntime-cuda' cannot run here: no GPU to be found; install one."


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "MODEL: expected at least one file, or --source MODEL to time a PyTorch network alone, got neither."),
        (["FILE", "-b", ","], "--backend: expected the name of a backend, got none."),
        (["FILE", "--shape", "x=1,2,a"], "--shape: expected whole numbers, as in input=1,3,224,224, got 'x=1,2,a'."),
        (["FILE", "--shape", "y=1"], "--shape: expected an input of the model (x), got y."),
        (["FILE", "--json", "-", "--csv", "-"], "--json and --csv: expected one of them on stdout, got both."),
        (["FILE", "--json", "none/r.json"], "--json: expected a file that can be written, got 'none/r.json' in"),
        (["FILE", "--csv", "none/r.csv"], "--csv: expected a file that can be written, got 'none/r.csv' in"),
        (["FILE", "--inputs", "i.npz", "--shape", "x=1,2,6,7"], "--shape and --inputs: expected one of them"),
        (["FILE", "--inputs", "i.npz"], "inputs: expected an .npz file, got no file 'i.npz'."),
        (["FILE", "--source", "single_dcn"], "--source: expected the backend torch, which it is for, got onnxruntime."),
        (["FILE", "--weights", "w.pt"], "--weights: expected the backend torch, which it is for, got onnxruntime."),
        (["FILE", "-b", "torch"], "network of the backend torch: expected --source MODEL, got "),
        (["FILE", "FILE"], "MODEL: expected each file once, got "),
        (["none.onnx"], "ONNX file: expected the path of a file, got 'none.onnx', which is none."),
        (["--source", "single_dcn", "-b", "reference"], "--source: expected the backend torch, which it is for, got "),
        (["--source", "single_dcn", "-b", "torch,reference"], "MODEL: expected a file for 'reference', got none."),
        (["--source", "no_such_net"], ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused(arguments: list[str], line: str, file: Path, refused: Any, in_folder: Path) -> None:
    given = [str(file) if argument == "FILE" else argument for argument in arguments]
    assert refused("profile", *given).startswith(f"error: {line}")


def test_files_that_take_different_inputs(saved: Any, refused: Any) -> None:
    first, second = saved("two.onnx"), saved("five.onnx", channels=5)
    line = refused("profile", first, second, *SHAPE)
    assert line == (
        f"error: inputs of '{second}': expected those of '{first}', x float32 n×2×6×7, got x float32 n×5×6×7. "
        "Side by side, all files get the same inputs."
    )


def test_file_that_is_no_model(refused: Any, in_folder: Path) -> None:
    Path("text.onnx").write_text("no model")
    assert "text.onnx" in refused("profile", "text.onnx")
