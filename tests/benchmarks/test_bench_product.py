"""The product beside LIBXSMM's: what the native program prints becomes rows and tables. Nothing is measured here."""

from __future__ import annotations

import stat
from pathlib import Path
from types import ModuleType
from typing import Any

import benchmark_programs
import pytest

_PRINTED = "64 288 14 2.5e+11 2e+11 32\n256 144 14 1e+11 2e+11 64\n"


@pytest.fixture(scope="module")
def bench_product() -> ModuleType:
    return benchmark_programs.load("bench_product")


def _program(folder: Path, script: str) -> Path:
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_rows(bench_product: ModuleType, tmp_path: Path) -> None:
    rows = bench_product.run(_program(tmp_path, f"test $1 = avx512 && printf '{_PRINTED}'"), "avx512")
    assert [row["channels"] for row in rows] == [64, 256]
    assert rows[0]["operations_per_second"] == {"dcn_deploy": 2.5e11, "LIBXSMM": 2e11}
    assert [bench_product.ratio(row) for row in rows] == [1.25, 0.5]


def test_instructions_that_the_processor_lacks_have_no_rows(
    bench_product: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lacking = _program(tmp_path, "echo 'avx512: this processor lacks the instructions' >&2; exit 2")
    assert bench_product.run(lacking, "avx512") == []
    assert "lacks the instructions" in capsys.readouterr().err


def test_a_product_that_differs_ends_it(bench_product: ModuleType, tmp_path: Path) -> None:
    differs = _program(tmp_path, "echo 'expected the same product from both' >&2; exit 1")
    with pytest.raises(SystemExit, match="expected the same product from both"):
        bench_product.run(differs, "avx2")


def test_table_for_the_documentation(bench_product: ModuleType) -> None:
    machine: dict[str, Any] = {
        "cpu": "CPU",
        "usable_cpus": 2,
        "date": "2026-01-02T03",
        "commit": "a" * 40,
        "packages": {},
    }
    result = {
        "schema": bench_product.SCHEMA,
        "machine": machine,
        "kernel_sources": {"device": "cpu", "sha256": ""},
        "sets": {"avx2": bench_product.parse_rows(_PRINTED)},
    }
    text = benchmark_programs.load("tables").markdown(Path("product-cpu.json"), result)
    assert "| avx2 | 64 | 288 | 14 | 250.0 | 200.0 | 1.25 |" in text
    assert "Stale" in text
