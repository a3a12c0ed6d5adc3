"""The table of oracles at the end of a test run: counted, from the workers too, and of passed tests alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import source_tree

_TESTS = """
import pytest

@pytest.mark.parametrize("number", [1, 20, 300])
def test_agrees(agreed, number):
    agreed("DeformConv2d", "reference", "somebody's", cases=number)
    agreed("DeformRoIPool2d", "reference", "somebody's")

def test_agrees_at_first(agreed):
    agreed("DeformConv2d", "reference", "somebody's", cases=4000)
    assert False
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_counts_of_passed_tests_reach_the_report(tmp_path: Path, workers: str) -> None:
    (tmp_path / "test_it.py").write_text(_TESTS)
    path = tmp_path / "folder" / "oracles.json"
    environment = {**os.environ, "PYTHONPATH": str(source_tree.CHECKOUT / "tests"), "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-m", "pytest", "-p", "oracle_report", "-n", workers, "--oracles-json", str(path), "."]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stdout + result.stderr
    rows = [line.split() for line in result.stdout.splitlines() if "somebody's" in line and "agreed(" not in line]
    assert rows == [
        ["DeformConv2d", "somebody's", "reference", "321"],
        ["DeformRoIPool2d", "somebody's", "reference", "3"],
    ]
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "schema": "dcn_deploy.oracles/1",
        "agreed": [
            {"operator": "DeformConv2d", "oracle": "somebody's", "ours": "reference", "cases": 321},
            {"operator": "DeformRoIPool2d", "oracle": "somebody's", "ours": "reference", "cases": 3},
        ],
    }
