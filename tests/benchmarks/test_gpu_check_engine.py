"""Stage ``engine`` of the GPU check: which packages it takes, what it calls, and what it makes of the answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_check import engine, machine, plugin, programs
from benchmarks.gpu_check.stages import Failed, Missing

import engine_files  # isort: skip

_GPU = machine.Gpu("a GPU", "580", (8, 9), {})


def _installed(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    monkeypatch.setattr(engine, "_is_there", lambda name: name in modules)


_COMMANDS = ("onnx", "onnxscript", "onnxruntime", "rich", "safetensors", "typer")


def test_what_is_not_installed_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch, "tensorrt", "onnx", "rich", "safetensors", "onnxruntime", "pycuda")
    with pytest.raises(Missing, match=r"need onnxscript, typer. Install them for .*pip install onnxscript typer"):
        engine.installed()
    _installed(monkeypatch, *_COMMANDS, "tensorrt")
    with pytest.raises(Missing, match=r"need cuda-bindings. Install"):
        engine.installed()
    _installed(monkeypatch, *_COMMANDS, "cuda.bindings")
    with pytest.raises(
        Missing, match=r"neither TensorRT nor TensorRT-RTX is installed .*pip install tensorrt-rtx-cu13"
    ):
        engine.installed()


@pytest.mark.parametrize("device_memory", ["cuda.bindings", "pycuda"])
def test_every_package_that_is_installed_is_taken(device_memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch, *_COMMANDS, device_memory, "tensorrt", "tensorrt_rtx")
    assert [package.backend for package in engine.installed()] == ["tensorrt", "tensorrt-rtx"]
    _installed(monkeypatch, *_COMMANDS, device_memory, "tensorrt_rtx")
    assert [package.backend for package in engine.installed()] == ["tensorrt-rtx"]


def test_modules_inside_packages_that_are_not_there_are_not_there() -> None:
    assert engine._is_there("json.decoder")
    assert not engine._is_there("no_such_package.part")


@pytest.mark.parametrize("package", engine.ENGINES, ids=lambda package: package.backend)
def test_the_commands_know_their_options(package: engine.Package, tmp_path: Path) -> None:
    """Every option is one that the command really has, and every word that is none a file."""
    from dcn_deploy.cli import main

    export = engine.export_command(tmp_path)
    for arguments in [export, *engine.commands(package, tmp_path, (8, 9))]:
        known = {option for parameter in main._load(main.COMMANDS[arguments[0]]).params for option in parameter.opts}
        assert {word for word in arguments if word.startswith("-")} <= known
    build, validate, profile = engine.commands(package, tmp_path, (8, 9))
    assert ("8.9" in build) == (package.backend == "tensorrt-rtx")
    assert export[export.index("-o") + 1] == build[1] == validate[validate.index("--reference") + 1]
    assert build[build.index("-o") + 1] == validate[1] == profile[1]


def test_commands_are_those_of_this_checkout(checkout: Path) -> None:
    """In an environment of their own, so that a ``dcn_deploy`` that is installed there does not come first."""
    with pytest.raises(Failed, match=r"'dcn-deploy lint nothing.onnx' ended with status 2:\n(.*\n)*.*nothing.onnx"):
        engine.call(["lint", "nothing.onnx"], 120.0)
    assert engine.environment()["PYTHONPATH"].startswith(str(checkout))


def test_plugins_are_those_of_the_stage_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DCN_DEPLOY_LIBRARY_DIR", raising=False)
    assert engine.environment()["DCN_DEPLOY_LIBRARY_DIR"] == str(plugin.LIBRARY_FOLDER)
    monkeypatch.setenv("DCN_DEPLOY_LIBRARY_DIR", "mine")
    assert engine.environment()["DCN_DEPLOY_LIBRARY_DIR"] == "mine"


def test_one_package_that_fails_does_not_hide_the_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _installed(monkeypatch, *_COMMANDS, "pycuda", "tensorrt", "tensorrt_rtx")
    called: list[list[str]] = []

    def call(arguments: list[str], left: float) -> None:
        assert left > 0
        called.append(arguments)
        if arguments[:1] == ["validate"] and "tensorrt" in arguments:
            raise Failed("'dcn-deploy validate' ended with status 1:\nlogits are wrong")
        if "--json" in arguments:
            Path(arguments[-1]).write_text(json.dumps({"version": "10.14"}))

    monkeypatch.setattr(engine, "call", call)
    reports: dict[str, Any] = {}
    with pytest.raises(Failed, match="logits are wrong"):
        engine.check(_GPU, tmp_path / "new", 60.0, lambda line: None, reports)
    assert list(reports) == ["tensorrt", "tensorrt-rtx"], "what was found before a failure is kept"
    assert [arguments[0] for arguments in called] == ["export", "build", "validate", "build", "validate", "profile"]

    _installed(monkeypatch, *_COMMANDS, "pycuda", "tensorrt_rtx")
    said: list[str] = []
    reports = {}
    detail = engine.check(_GPU, tmp_path, 60.0, said.append, reports)
    assert detail == "tensorrt-rtx 10.14: built, right, timed"
    assert list(reports["tensorrt-rtx"]) == ["build", "validate", "profile"]
    assert len(said) == 3


def test_a_package_for_other_gpus_is_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unfit = f"'dcn-deploy build' ended with status 2:\nerror: {engine.NOT_FOR_THIS_GPU} with X: expected 8.9, got 9.0."

    def call(arguments: list[str], left: float) -> None:
        if "tensorrt-rtx" in arguments:
            raise Failed(unfit)
        if "--json" in arguments:
            Path(arguments[-1]).write_text(json.dumps({"version": "10.14"}))

    monkeypatch.setattr(engine, "call", call)
    _installed(monkeypatch, *_COMMANDS, "pycuda", "tensorrt", "tensorrt_rtx")
    detail = engine.check(_GPU, tmp_path, 60.0, lambda line: None, {})
    assert detail.startswith("tensorrt 10.14: built, right, timed; error: compute capability to build for")
    _installed(monkeypatch, *_COMMANDS, "pycuda", "tensorrt_rtx")
    with pytest.raises(Missing, match=r"expected 8.9, got 9.0"):
        engine.check(_GPU, tmp_path, 60.0, lambda line: None, {})


def test_a_command_that_takes_too_long_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: Any, **others: Any) -> None:
        raise programs.TooSlowError("'python' was not done after 1 s")

    monkeypatch.setattr(engine.programs, "run", run)
    with pytest.raises(Failed, match="dcn-deploy build: 'python' was not done after 1 s"):
        engine.call(["build"], 1.0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the stage has written the network."""
    folder = tmp_path_factory.mktemp("engines")
    engine.call(engine.export_command(folder), 300.0)
    return folder


def test_the_network_becomes_an_engine(exported: Path) -> None:
    """The stage's own calls, as far as they go without a GPU."""
    pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX")
    (rtx,) = (package for package in engine.ENGINES if package.module == "tensorrt_rtx")
    build, validate, _ = engine.commands(rtx, exported, (8, 9))
    engine.call(build, 300.0)
    report = json.loads(Path(build[-1]).read_text())
    assert (report["form"], report["capabilities"], report["plugins"]) == ("decomposed", ["8.9"], None)
    assert Path(validate[1]).stat().st_size == report["engine_bytes"] > 0
    other, _, _ = engine.commands(rtx, exported, (9, 0))
    with pytest.raises(Failed, match=engine.NOT_FOR_THIS_GPU):
        engine.call(other, 300.0)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """TensorRT, TensorRT-RTX and CUDA are stand-ins on the CPU, here and in the commands that are called."""
    engine_files.use_stand_ins(monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(engine_files.STAND_INS))
    yield
    engine_files.forget_stand_ins()


def test_an_engine_is_validated_and_timed(stand_ins: None, exported: Path) -> None:
    """The stage's own calls behind the build, with an engine that a stand-in runs."""
    from dcn_deploy.export import convert

    (rtx,) = (package for package in engine.ENGINES if package.module == "tensorrt_rtx")
    build, validate, profile = engine.commands(rtx, exported, (8, 9))
    (name, _, shapes) = engine.PROFILE.partition("=")
    range_ = [tuple(map(int, shape.split(","))) for shape in shapes.split(":")]
    source = Path(build[1])
    model = convert(source, "decomposed")
    engine_files.write_engine(Path(validate[1]), model, [{name: range_}], backend="tensorrt-rtx", source=source)
    engine.call(validate, 300.0)
    assert json.loads(Path(validate[-1]).read_text())["passed"] is True
    engine.call(profile, 300.0)
    report = json.loads(Path(profile[-1]).read_text())
    assert [(row["backend"], row["device_seconds"] is not None) for row in report["rows"]] == [("tensorrt-rtx", True)]
