"""``dcn-deploy doctor``: what it shows, and its verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dcn_deploy.runtime import diagnosis
from dcn_deploy.runtime.diagnosis import Diagnosis, Finding


def test_here(run: Any, library: Path) -> None:
    """The tests need the core way, so here the answer is yes."""
    result = run("doctor", "--json", "-")
    assert result.status == 0, result.err
    content = json.loads(result.out)
    assert content["schema"] == "dcn_deploy.doctor/1"
    assert content["ok"] is True
    findings = {(row["group"], row["part"]): row for row in content["findings"]}
    found = findings["libraries", "onnxruntime"]
    assert found["status"] == "ok"
    assert str(library) in found["detail"]
    assert findings["core way", "DeformConv2d in ONNX Runtime"]["status"] == "ok"
    for row in content["findings"]:
        assert row["status"] == "ok" or row["remedy"], f"what is missing needs a remedy: {row}"
    # The table makes room for the JSON.
    assert "The core way works" in result.err


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``found(*findings)``: what the examination finds."""

    def make(*findings: Finding) -> None:
        monkeypatch.setattr(diagnosis, "examine", lambda: Diagnosis(findings))

    return make


FINE = Finding("packages", "torch", "ok", "2.99", required=True)
OPTIONAL = Finding("gpu", "NVIDIA [GPU]", "missing", "no nvidia-smi", "install the driver")
NEEDED = Finding("libraries", "onnxruntime", "broken", "does not load", "reinstall it", required=True)


def test_what_is_optional_may_be_missing(found: Any, run: Any) -> None:
    found(FINE, OPTIONAL)
    result = run("doctor")
    assert (result.status, result.err) == (0, "")
    lines = [line.split() for line in result.out.splitlines()]
    assert lines == [
        ["packages"],
        ["torch", "ok", "2.99"],
        ["gpu"],
        ["NVIDIA", "[GPU]", "missing", "no", "nvidia-smi"],
        ["→", "install", "the", "driver"],
        ["The", "core", "way", "works:", "PyTorch", "→", "ONNX", "→", "ONNX", "Runtime."],
    ]


def test_what_is_needed_may_not(found: Any, run: Any) -> None:
    found(FINE, NEEDED, OPTIONAL)
    result = run("doctor")
    assert (result.status, result.err) == (1, "")
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert "onnxruntime broken, needed does not load" in lines
    assert "→ reinstall it" in lines
    assert lines[-1] == "The core way does not work: mend what is marked 'needed'."


def test_json_file_has_the_verdict_too(found: Any, run: Any, in_folder: Path) -> None:
    found(NEEDED)
    result = run("doctor", "--json", "doctor.json")
    assert result.status == 1
    content = json.loads(Path("doctor.json").read_text())
    assert content["ok"] is False
    assert content["findings"] == [
        {
            "group": "libraries",
            "part": "onnxruntime",
            "status": "broken",
            "detail": "does not load",
            "remedy": "reinstall it",
            "required": True,
        }
    ]
    assert "needed" in result.out


def test_json_file_that_cannot_be_written(found: Any, refused: Any, in_folder: Path) -> None:
    found(FINE)
    assert refused("doctor", "--json", "none/x.json").startswith("error: --json: expected a file that can be written")
