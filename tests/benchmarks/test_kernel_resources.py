"""Registers and spills of the CUDA kernels: what ptxas says is read right, and no kernel spills unexpectedly."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from types import ModuleType
from typing import Any

import pytest
from benchmark_programs import FOLDER, load

_SAID = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z5firstv' for 'sm_80'
ptxas info    : Function properties for _Z5firstv
    16 bytes stack frame, 36 bytes spill stores, 28 bytes spill loads
ptxas info    : Used 96 registers, used 1 barriers, 16 bytes cumulative stack size, 536 bytes cmem[0]
ptxas info    : Compile time = 1997.746 ms
ptxas info    : Compiling entry function '_Z6secondv' for 'sm_90a'
ptxas info    : Function properties for _Z6secondv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 2048 bytes smem, 400 bytes cmem[0]
ptxas info    : Function properties for _Z6calleev
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
"""


@pytest.fixture(scope="module")
def resources() -> ModuleType:
    return load("kernel_resources")


def test_what_ptxas_says_is_read(resources: ModuleType) -> None:
    """The spills of a function that a kernel calls are the kernel's."""
    assert resources.parse(_SAID) == [
        resources.Kernel("80", "_Z5firstv", 96, 16, 36, 28, 0),
        resources.Kernel("90a", "_Z6secondv", 40, 8, 4, 12, 2048),
    ]
    assert resources.parse("") == []


def test_spills_are_told(resources: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = [
        resources.Kernel("80", "quiet<1>", 255, 16, 0, 0, 0),
        resources.Kernel("80", "loud<1>", 255, 16, 8, 4, 0),
        resources.Kernel("90a", "known<1>", 255, 16, 8, 4, 0),
    ]
    known = resources.KnownSpill("known<", ("90a",), 12, "as an example")
    monkeypatch.setattr(resources, "KNOWN_SPILLS", (known,))
    assert resources.unexpected_spills(kernels) == [
        "loud<1> on SM 80: expected at most 0 bytes of spills, got 8 of stores and 4 of loads"
    ]
    for changed in ({"most": 11}, {"architectures": ("80",)}, {"kernel": "known<2"}):
        monkeypatch.setattr(resources, "KNOWN_SPILLS", (dataclasses.replace(known, **changed),))
        assert len(resources.unexpected_spills(kernels)) == 2


def test_without_nvcc_it_says_so(
    resources: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDACXX", "no-such-compiler")
    assert resources.main([]) == 2
    assert "nvcc: expected it on PATH or in CUDACXX, got neither" in capsys.readouterr().err


def test_architectures_are_those_of_the_build(resources: ModuleType) -> None:
    text = (FOLDER.parent / "CMakeLists.txt").read_text(encoding="utf-8")
    default = text.partition('set(DCN_DEPLOY_CUDA_ARCHITECTURES "')[2].partition('"')[0]
    assert tuple(part.removesuffix("-real") for part in default.split(";")) == resources.ARCHITECTURES
    assert set(resources.FEW_ARCHITECTURES) <= set(resources.ARCHITECTURES)


def test_the_record_is_whole_and_without_unexpected_spills(resources: ModuleType) -> None:
    result: dict[str, Any] = json.loads(resources.PATH.read_text(encoding="utf-8"))
    assert result["schema"] == resources.SCHEMA
    kernels = [resources.Kernel(**kernel) for kernel in result["kernels"]]
    names = {name: {k.name for k in kernels if k.architecture == name} for name in resources.ARCHITECTURES}
    assert all(names.values())
    assert len({frozenset(of_one) for of_one in names.values()}) == 1, "the same kernels on every architecture"
    assert not resources.unexpected_spills(kernels)
    assert all(kernel.registers <= 255 for kernel in kernels)


@pytest.mark.skipif(shutil.which(os.environ.get("CUDACXX", "nvcc")) is None, reason="nvcc is not on PATH")
def test_the_kernels_as_they_are_do_not_spill(resources: ModuleType) -> None:
    kernels = resources.measure(resources.compiler(), resources.FEW_ARCHITECTURES, resources.sources(), jobs=2)
    assert {kernel.architecture for kernel in kernels} == set(resources.FEW_ARCHITECTURES)
    assert not resources.unexpected_spills(kernels)
