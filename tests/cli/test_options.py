"""Parsing of shared options, and where results go."""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from dcn_deploy.cli import options
from dcn_deploy.errors import InvalidArgumentError


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([], []),
        (["a"], ["a"]),
        (["a,b", "c"], ["a", "b", "c"]),
        ([" a , b ", ",", "c,"], ["a", "b", "c"]),
    ],
)
def test_parse_names(values: list[str], names: list[str]) -> None:
    assert options.parse_names(values) == names


@pytest.mark.parametrize(
    ("values", "shapes"),
    [
        ([], {}),
        (["input=1,3,224,224"], {"input": (1, 3, 224, 224)}),
        (["a=1", "b= 2 , 3 "], {"a": (1,), "b": (2, 3)}),
        (["a=b=1,2"], {"a=b": (1, 2)}),
        (["n=0,3"], {"n": (0, 3)}),
        (["scalar="], {"scalar": ()}),
    ],
    ids=str,
)
def test_parse_shapes(values: list[str], shapes: dict[str, tuple[int, ...]]) -> None:
    assert options.parse_shapes(values) == shapes


_SHAPE_FORM = "--shape: expected NAME=..., as in input=1,3,224,224, got "
_SHAPE_NUMBERS = "--shape: expected whole numbers, as in input=1,3,224,224, got "


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["1,3,224,224"], _SHAPE_FORM + "'1,3,224,224'."),
        (["=1,3"], _SHAPE_FORM + "'=1,3'."),
        (["input"], _SHAPE_FORM + "'input'."),
        ([""], _SHAPE_FORM + "''."),
        (["input=1,n"], _SHAPE_NUMBERS + "'input=1,n'."),
        (["input=1x3"], _SHAPE_NUMBERS + "'input=1x3'."),
        (["input=1,,3"], _SHAPE_NUMBERS + "'input=1,,3'."),
        (["input=1.0"], _SHAPE_NUMBERS + "'input=1.0'."),
        (["input=1,-3"], _SHAPE_NUMBERS + "'input=1,-3'."),
        (["a=1", "a=2"], "--shape: expected each input once, got 'a' twice."),
    ],
    ids=str,
)
def test_wrong_shape(values: list[str], message: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        options.parse_shapes(values)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("values", "axes"),
    [
        ([], {}),
        (["input=n,,h,w"], {"input": {0: "n", 2: "h", 3: "w"}}),
        (["a=n", "b=,m"], {"a": {0: "n"}, "b": {1: "m"}}),
        (["a= n , , h "], {"a": {0: "n", 2: "h"}}),
    ],
    ids=str,
)
def test_parse_dynamic(values: list[str], axes: dict[str, dict[int, str]]) -> None:
    assert options.parse_dynamic(values) == axes


_DYNAMIC_NAMES = "--dynamic: expected the name of an axis or nothing between commas, as in input=n,,h,w, got "


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["n,,h,w"], "--dynamic: expected NAME=..., as in input=n,,h,w, got 'n,,h,w'."),
        (["input=1,,h,w"], _DYNAMIC_NAMES + "'input=1,,h,w'."),
        (["input=n+1"], _DYNAMIC_NAMES + "'input=n+1'."),
        (["input=,,"], _DYNAMIC_NAMES + "'input=,,'."),
        (["input="], _DYNAMIC_NAMES + "'input='."),
        (["a=n", "a=n"], "--dynamic: expected each input once, got 'a' twice."),
    ],
    ids=str,
)
def test_wrong_dynamic(values: list[str], message: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        options.parse_dynamic(values)
    assert str(error.value) == message


# Results.


class _Report:
    def __init__(self, content: Any) -> None:
        self.content = content

    def to_json(self) -> Any:
        return self.content


_CONTENT = {"a": [1, 2.5, (3,)], "b": {"nan": math.nan, "inf": -math.inf}, "é": None}
_WRITTEN = {"a": [1, 2.5, [3]], "b": {"nan": None, "inf": None}, "é": None}


@pytest.mark.parametrize(
    "report", [_CONTENT, _Report(_CONTENT), _Report(json.dumps(_CONTENT))], ids=["mapping", "object", "text"]
)
def test_write_json(report: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options.write_json(report, None)
    assert capsys.readouterr() == ("", "")
    options.write_json(report, "-")
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == (_WRITTEN, "")
    assert out.endswith("}\n")
    options.write_json(report, str(tmp_path / "report.json"))
    assert (tmp_path / "report.json").read_text(encoding="utf-8") == out
    assert capsys.readouterr() == ("", "")


def test_text_goes_to_a_file(tmp_path: Path) -> None:
    options.write_text("é\n", str(tmp_path / "x.csv"), "--csv")
    assert (tmp_path / "x.csv").read_bytes() == "é\n".encode()


def test_file_that_cannot_be_written(tmp_path: Path) -> None:
    target = str(tmp_path / "none" / "x.csv")
    with pytest.raises(InvalidArgumentError) as error:
        options.write_text("x", target, "--csv")
    assert str(error.value) == (
        f"--csv: expected a file that can be written, got '{target}' (No such file or directory)."
    )


def test_targets_are_checked_before_the_work(in_folder: Path) -> None:
    for fine in (None, "-", "new.json", str(in_folder / "new.json")):
        options.check_target(fine, "--json")
    assert not list(in_folder.iterdir()), "the check writes nothing"
    with pytest.raises(InvalidArgumentError, match=r"--json: .* got 'none/x.json' in a folder that does not exist"):
        options.check_target("none/x.json", "--json")
    with pytest.raises(InvalidArgumentError, match=f"--csv: .* got the folder '{in_folder}'"):
        options.check_target(str(in_folder), "--csv")


@pytest.mark.parametrize(("target", "stderr"), [(None, False), ("x.json", False), ("-", True)])
def test_tables_make_room_for_json_on_stdout(
    target: str | None, stderr: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    options.result_console(None, target).print("the table")
    out, err = capsys.readouterr()
    assert (err if stderr else out) == "the table\n"
    assert (out if stderr else err) == ""


def test_tables_are_wide_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert options.result_console(None).width == 160
    monkeypatch.setenv("COLUMNS", "100")
    assert options.result_console(None).width == 100


# Progress.


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("quiet", "terminal"), [(True, True), (False, False), (True, False)])
def test_no_progress_bar(quiet: bool, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = _Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with options.progress("working", quiet=quiet) as advance:
        advance(1)
        advance(2, 3, "still")
    assert stream.getvalue() == ""


def test_progress_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stream = _Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with options.progress("working", total=3) as advance:
        advance(2, text="nearly done")
    assert "nearly done" in stream.getvalue()
    assert capsys.readouterr().out == ""
