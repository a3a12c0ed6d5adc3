"""``dcn-deploy build``: options, report, exit status."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcn_deploy.cli import build
from dcn_deploy.errors import BackendError, InvalidArgumentError
from dcn_deploy.runtime import engine_metadata, tensorrt_api
from dcn_deploy.runtime.engine_metadata import Device

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")


def test_an_engine_for_rtx(
    run: Callable[..., tuple[int, str, str]], saved: Callable[..., Path], tmp_path: Path
) -> None:
    source, target, report = saved("dynamic.onnx", "plugin"), tmp_path / "m.engine", tmp_path / "report.json"
    result = run(
        *("build", source, "-o", target, "--backend", "tensorrt-rtx", "--min-shape", "x=1,2,6,7"),
        *("--max-shape", "x=8,2,6,7", "--profile", "x=16,2,6,7", "--compute-capability", "8.0,8.9"),
        *("--compute-capability", "12.0", "--optimization-level", 0, "--workspace", 64, "--json", report),
    )
    assert result.status == 0, result.err
    for words in ("x 1×2×6×7 to 8×2×6×7, best 8×2×6×7", "x 16×2×6×7", "8.0, 8.9, 12.0", "decomposed", "fp32, TF32 off"):
        assert words in result.out
    found = json.loads(report.read_text())
    assert found["schema"] == "dcn_deploy.build/1"
    assert found["profiles"][0] == {"x": {"min": [1, 2, 6, 7], "opt": [8, 2, 6, 7], "max": [8, 2, 6, 7]}}
    assert found["options"]["workspace"] == 64 * 1024**2
    assert found["engine_bytes"] == target.stat().st_size
    assert (tmp_path / "m.engine.json").is_file()


@pytest.mark.parametrize("unfit", [{"version": "9.9.9"}, {"device": Device("NVIDIA L4", (8, 9))}])
def test_the_command_of_a_remedy_builds_the_engine_again(
    run: Callable[..., tuple[int, str, str]],
    saved: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unfit: dict[str, Any],
) -> None:
    source, target = tmp_path / "my net.onnx", tmp_path / "my net.engine"
    shutil.copy(saved("dynamic.onnx", "plugin"), source)
    result = run(
        *("build", source, "-o", target, "--backend", "tensorrt-rtx", "--profile", "x=1,2,6,7:2,2,6,7:8,2,6,7"),
        *("--profile", "x=16,2,6,7", "--compute-capability", "8.0,12.0"),
    )
    assert result.status == 0, result.err
    before = engine_metadata.read(target)
    assert before is not None
    with pytest.raises(BackendError) as refused:
        before.check(target, **unfit)
    target.unlink()
    engine_metadata.sidecar_path(target).unlink()
    program, *arguments = shlex.split(str(refused.value).partition("uild the engine again: ")[2].removesuffix("."))
    assert program == "dcn-deploy"
    monkeypatch.chdir(tmp_path)
    again = run(*arguments)
    assert again.status == 0, again.err
    after = engine_metadata.read(target)
    assert after is not None
    assert (after.profiles, after.source_sha256) == (before.profiles, before.source_sha256)
    assert after.capabilities == (((8, 9),) if "device" in unfit else before.capabilities)


def test_json_on_standard_output_is_alone_there(
    run: Callable[..., tuple[int, str, str]], saved: Callable[..., Path], tmp_path: Path
) -> None:
    source = saved("dynamic.onnx", "plugin")
    result = run(
        "build", source, "-o", tmp_path / "m.engine", "--backend", "tensorrt-rtx", "--shape", "x=1,2,6,7", "--json", "-"
    )
    assert json.loads(result.out)["form"] == "decomposed"
    assert "decomposed" in result.err


def test_a_dynamic_input_without_shapes(
    refused: Callable[..., str], saved: Callable[..., Path], tmp_path: Path
) -> None:
    line = refused("build", saved("d.onnx", "plugin"), "-o", tmp_path / "m.engine", "--backend", "tensorrt-rtx")
    assert "Give --shape x=n,2,6,7 for one shape" in line


def test_without_tensorrt_one_sentence_says_so(
    refused: Callable[..., str], saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_api, "_loaded", {})
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    line = refused("build", saved("d.onnx", "plugin"), "-o", tmp_path / "m.engine", "--backend", "tensorrt")
    assert "needs the package 'tensorrt'" in line
    assert "pip install 'dcn-deploy[tensorrt]'" in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--compute-capability", "ada"), "--compute-capability: expected a number such as 8.9, got 'ada'"),
        (("--min-shape", "x=1,2,6,7"), "shapes of 'x': expected --min-shape and --max-shape, got no --max-shape"),
        (("--opt-shape", "x=1,2,6,7"), "got no --min-shape"),
        (("--shape", "x=1,2,6,7", "--max-shape", "x=2,2,6,7"), "expected --shape alone, or a range, got both"),
        (("--max-shape", "x"), "--max-shape: expected NAME=..."),
        (("--profile", "x=1:2:3:4"), "--profile: expected each input once"),
        (("--profile", "x=1 x=2"), "--profile: expected each input once"),
        (("--profile", "x"), "--profile: expected"),
        (("--profile", " "), "--profile: expected NAME=MIN:OPT:MAX"),
    ],
)
def test_bad_options(
    refused: Callable[..., str], saved: Callable[..., Path], tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    source = saved("d.onnx", "plugin")
    assert words in refused("build", source, "-o", tmp_path / "m.engine", "--backend", "tensorrt-rtx", *options)


@pytest.mark.parametrize(
    ("text", "range_"),
    [
        ("x=1,2", ((1, 2), (1, 2), (1, 2))),
        ("x=1,2:3,2", ((1, 2), (3, 2), (3, 2))),
        ("x=1,2:2,2:3,2", ((1, 2), (2, 2), (3, 2))),
    ],
)
def test_one_to_three_shapes_make_a_range(text: str, range_: tuple[tuple[int, ...], ...]) -> None:
    assert build._parse_profile(f"{text} y=4") == {"x": range_, "y": ((4,), (4,), (4,))}


def test_a_repeated_input_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="each input once"):
        build._parse_profile("x=1 x=1")
