"""The demonstration from end to end, shortened, and the accuracies kept beside it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
FORMS = ("plugin", "standard", "decomposed")


def run(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DIGITS / "run.py"), *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """(finished process, output folder) of one quick run, from a folder elsewhere whose path has a space."""
    folder = tmp_path_factory.mktemp("a demo")
    finished = run("--quick", "--output", "out put", folder=folder)
    assert finished.returncode == 0, finished.stderr
    return finished, folder / "out put"


@pytest.fixture(scope="module")
def result(quick):
    return json.loads((quick[1] / "result.json").read_text(encoding="utf-8"))


def test_it_writes_what_it_names(quick, result):
    files = {path.name for path in quick[1].iterdir()}
    assert files == {*result["files"], "result.json", "report.html"}
    assert {f"digits_dcn.{form}.onnx" for form in FORMS} < files
    assert "digits_plain.onnx" in files


def test_every_form_answers_as_pytorch_does(result):
    assert result["passed"] is True
    assert all(check["passed"] for check in result["checks"])
    for form in FORMS:
        entry = result["forms"][form]
        assert entry["sampling_nodes"] == 3
        assert entry["predictions"]["images"] == result["data"]["test_images"] == 100
        assert entry["predictions"]["equal_to_torch"] + len(entry["predictions"]["differing"]) == 100
        assert entry["validation"]["passed"] is True


def test_the_exported_file_gives_the_reported_accuracy(quick, result, make_session):
    """Not through the demonstration's own code: the file, ONNX Runtime, and the stored images."""
    images = np.load(quick[1] / "held_out.npz")
    session = make_session(quick[1] / "digits_dcn.plugin.onnx")
    (name,) = images.files
    (logits,) = session.run(None, {session.get_inputs()[0].name: images[name]})
    assert logits.shape == (len(images[name]), 10)
    plain = make_session(quick[1] / "digits_dcn.decomposed.onnx")
    (again,) = plain.run(None, {plain.get_inputs()[0].name: images[name]})
    np.testing.assert_array_equal(logits.argmax(1), again.argmax(1))
    training = result["training"]["digits_dcn"]
    assert training["right"] / result["data"]["test_images"] == training["test_accuracy"]


def test_latency_covers_every_engine_and_batch(result):
    assert [entry["batch"] for entry in result["latency"]] == [1, 4]
    for entry in result["latency"]:
        assert len(entry["rows"]) == 5  # PyTorch, three forms, the plain twin
        assert all(row["latency_seconds"]["median"] > 0 for row in entry["rows"])


def test_the_report_stands_alone_and_says_what_the_json_says(quick, result):
    page = (quick[1] / "report.html").read_text(encoding="utf-8")
    outside = re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)([^"']*)""", page)
    assert outside == []
    assert not re.search(r"https?://|url\((?!['\"]?data:)|@import", page)
    for name in ("digits_dcn", "digits_plain"):
        assert f"{100 * result['training'][name]['test_accuracy']:.2f}" in page
    for form in FORMS:
        assert form in page
    assert page.count("data:image/png;base64,") >= 10  # pictures of scans
    assert page.count("<svg") >= 3  # accuracy, training curves, latency
    assert "QUICK" in page.upper()


def test_the_summary_says_what_the_json_says(quick, result):
    printed = quick[0].stdout
    assert f"{100 * result['training']['digits_dcn']['test_accuracy']:.2f} %" in printed
    assert f"All of {len(result['checks'])} checks passed." in printed


def test_a_folder_that_cannot_be_made_is_said_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    finished = run("--quick", "--output", "file/inside", folder=tmp_path)
    assert finished.returncode == 1
    assert "failed while making the output folder: --output: expected a folder that can be written" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_failed_check_fails_the_demonstration(result, monkeypatch):
    monkeypatch.syspath_prepend(str(DIGITS.parent))
    from digits.run import _checks

    def verdict(change):
        changed = json.loads(json.dumps(result))
        change(changed["forms"]["plugin"])
        return [check["passed"] for check in _checks(changed)]

    assert all(verdict(lambda entry: None))
    assert not all(verdict(lambda entry: entry["validation"].update(passed=False)))
    assert not all(verdict(lambda entry: entry.update(sampling_nodes=2)))
    differing = {"image": 7, "explained": False}
    assert not all(verdict(lambda entry: entry["predictions"]["differing"].append(differing)))


def test_the_kept_accuracies_are_of_these_sources(monkeypatch):
    monkeypatch.syspath_prepend(str(DIGITS.parent))
    from digits.provenance import training_sources_sha256

    kept = json.loads((DIGITS / "results.json").read_text(encoding="utf-8"))
    seeds = {run["seed"] for run in kept["runs"] if run["network"] == "digits_dcn"}
    assert len(seeds) >= 3
    assert seeds == {run["seed"] for run in kept["runs"] if run["network"] == "digits_plain"}
    assert kept["provenance"]["training_sources_sha256"] == training_sources_sha256()
    for name in ("digits_dcn", "digits_plain"):
        accuracies = [run["test_accuracy"] for run in kept["runs"] if run["network"] == name]
        assert kept["summary"][name]["mean"] == pytest.approx(sum(accuracies) / len(accuracies))


def test_it_becomes_an_engine_for_gpus_that_are_not_here(quick, tmp_path):
    """The trained network, by the command line, as a reader of the documentation would do it."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    program = Path(sys.executable).with_name("dcn-deploy")
    model = quick[1] / "digits_dcn.plugin.onnx"
    options = ["--backend", "tensorrt-rtx", "--compute-capability", "8.0,8.9,12.0"]
    options += ["--min-shape", "input=1,1,32,32", "--max-shape", "input=64,1,32,32"]
    done = subprocess.run(
        [program, "build", model, "-o", tmp_path / "digits.engine", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sidecar = json.loads((tmp_path / "digits.engine.json").read_text(encoding="utf-8"))
    assert sidecar["form"] == "decomposed"
    assert sidecar["capabilities"] == ["8.0", "8.9", "12.0"]
    assert sidecar["engine_bytes"] == (tmp_path / "digits.engine").stat().st_size
