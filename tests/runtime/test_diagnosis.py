"""What ``doctor`` finds, and what it says about what is missing or broken."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

import dcn_deploy.runtime.diagnosis as module
from dcn_deploy._libraries import LIBRARY_DIR_VARIABLE, library_path
from dcn_deploy.runtime.diagnosis import Diagnosis, Finding, examine
from dcn_deploy.runtime.processor import cpu_features, cpu_model, usable_cpus
from dcn_deploy.schema import OPERATORS


@pytest.fixture(scope="module")
def diagnosis() -> Diagnosis:
    return examine()


def part(diagnosis: Diagnosis, name: str) -> Finding:
    return next(finding for finding in diagnosis.findings if finding.part == name)


def test_the_core_way_works_here(diagnosis: Diagnosis, library: Path) -> None:
    assert [finding for finding in diagnosis.findings if finding.required and finding.status != "ok"] == []
    assert diagnosis.ok
    for operator in OPERATORS:
        assert "gives the right result" in part(diagnosis, f"{operator} in ONNX Runtime").detail


def test_the_library_is_registered_and_its_version_read(diagnosis: Diagnosis, library: Path, checkout: Path) -> None:
    import onnxruntime

    found = next(f for f in diagnosis.findings if f.group == "libraries" and f.part == "onnxruntime")
    version = (checkout / "VERSION").read_text().strip()
    assert found.detail == f"{version}, {library}, loads in ONNX Runtime {onnxruntime.__version__}"


def test_everything_that_is_not_ok_has_a_remedy(diagnosis: Diagnosis) -> None:
    for finding in diagnosis.findings:
        assert bool(finding.remedy) == (finding.status != "ok"), finding


def test_ok_looks_at_what_is_required_only() -> None:
    ok, optional, needed = (
        Finding("packages", name, status, "", required=required)  # type: ignore[arg-type]
        for name, status, required in (("a", "ok", True), ("b", "missing", False), ("c", "broken", True))
    )
    assert Diagnosis((ok, optional)).ok
    assert not Diagnosis((ok, optional, needed)).ok


def test_json(diagnosis: Diagnosis) -> None:
    content = diagnosis.to_json()
    assert content["schema"] == "dcn_deploy.doctor/1"
    assert content["ok"] is True
    assert {tuple(finding) for finding in content["findings"]} == {
        ("group", "part", "status", "detail", "remedy", "required")
    }


def test_a_library_that_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / library_path("onnxruntime").name).write_bytes(b"no library")
    monkeypatch.setenv(LIBRARY_DIR_VARIABLE, str(tmp_path))
    broken = examine()
    found = next(f for f in broken.findings if f.group == "libraries" and f.part == "onnxruntime")
    assert found.status == "broken"
    assert "does not load" in found.detail
    assert "reinstall dcn-deploy" in found.remedy
    for operator in OPERATORS:
        core = part(broken, f"{operator} in ONNX Runtime")
        assert (core.status, core.required) == ("broken", True)
    assert not broken.ok


def test_a_plugin_library_that_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libdcn_deploy_tensorrt.so").write_bytes(b"no library")
    monkeypatch.setenv(LIBRARY_DIR_VARIABLE, str(tmp_path))
    found = next(f for f in module._libraries() if f.part == "tensorrt")
    assert (found.status, found.remedy, found.required) == ("broken", "reinstall dcn-deploy", False)
    assert f"{tmp_path}/libdcn_deploy_tensorrt.so does not load: " in found.detail


def test_a_wrong_result_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_run_one_node", lambda check: [2.0, 1.0])
    convolution, pooling = module._core_way()
    assert convolution.status == pooling.status == "broken"
    assert "expected [2.0, 1.5], got [2.0, 1.0]" in convolution.detail
    assert "expected [2.0, 0.75], got [2.0, 1.0]" in pooling.detail


def test_every_operator_is_checked() -> None:
    assert [check.schema for check in module._CHECKS] == [*OPERATORS.values()]


def test_missing_and_broken_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    row = next(row for row in module._PACKAGES if row.name == "onnxruntime")
    found = module._package(row)
    assert (found.status, found.remedy, found.required) == ("missing", "pip install onnxruntime", True)

    old = types.ModuleType("onnxruntime")
    old.__version__ = "1.20.1"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnxruntime", old)
    found = module._package(row)
    assert found.status == "broken"
    assert "1.20.1 is older than 1.21" in found.detail

    for version, verb in (("1.24.0", "does not run"), ("1.25.0", "runs"), ("1.32.0.dev1", "runs")):
        old.__version__ = version  # type: ignore[attr-defined]
        assert module._package(row).detail.startswith(f"{version}, {verb} the form 'standard'")


def test_torchvision_without_its_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> Any:
        raise RuntimeError("operator torchvision::nms does not exist")

    row = next(row for row in module._PACKAGES if row.name == "torchvision")
    monkeypatch.setattr(module.importlib, "import_module", fail)
    found = module._package(row)
    assert (found.status, found.required) == ("broken", False)
    assert "torchvision::nms does not exist" in found.detail


def test_programs(tmp_path: Path) -> None:
    assert module._program("nvcc", None, "--version", "install it").status == "missing"
    script = tmp_path / "nvcc"
    script.write_text("#!/bin/sh\necho banner\necho 'Cuda compilation tools, release 13.0'\n")
    script.chmod(0o755)
    found = module._program("nvcc", str(script), "--version", "install it")
    assert (found.status, found.detail) == ("ok", f"Cuda compilation tools, release 13.0 ({script})")
    script.write_text("#!/bin/sh\nexit 3\n")
    assert module._program("nvcc", str(script), "--version", "install it").status == "broken"


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="reads /proc/cpuinfo, which Linux has")
def test_processor() -> None:
    assert cpu_model() in Path("/proc/cpuinfo").read_text()
    assert cpu_features()
    assert usable_cpus() >= 1
