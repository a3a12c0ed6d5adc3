"""Help, version, exit statuses and messages, whatever the command."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import dcn_deploy
from dcn_deploy.cli import main as module
from dcn_deploy.errors import InvalidArgumentError, MissingDependencyError

#: Seconds that ``--help`` may take.
HELP_LIMIT = 0.3

HEAVY = ("torch", "onnx", "onnxruntime", "onnxscript", "onnx_ir", "numpy", "matplotlib", "openvino")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``failing(error)``: makes the command doctor raise it."""
    import dcn_deploy.cli.doctor

    def make(error: BaseException) -> None:
        def command() -> None:
            """Fail."""
            raise error

        monkeypatch.setattr(dcn_deploy.cli.doctor, "command", command)

    return make


# Help and version.


def test_help_is_quick(start: Any) -> None:
    """The best of several, since the machine may be busy with something else."""
    durations = []
    for _ in range(10):
        begin = time.perf_counter()
        assert start("--help").returncode == 0
        durations.append(time.perf_counter() - begin)
        if durations[-1] < HELP_LIMIT:
            break
    assert min(durations) < HELP_LIMIT, durations


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--version"], []], ids=" ".join)
def test_nothing_heavy_is_imported(arguments: list[str]) -> None:
    script = (
        "import sys\n"
        "from dcn_deploy.cli.main import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit:\n"
        f"    print('imported:', sorted({{name.split('.')[0] for name in sys.modules}} & set({HEAVY!r})))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "imported: []"


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_every_command_with_its_line(option: str, run: Any) -> None:
    result = run(option)
    assert (result.status, result.err) == (0, "")
    lines = [line.split(maxsplit=1) for line in result.out.splitlines() if line.strip()]
    for command in module.COMMANDS.values():
        assert [command.name, command.help] in lines
    assert "--version" in result.out
    assert "Exit status" in result.out


@pytest.mark.parametrize("name", module.COMMANDS)
def test_the_line_of_the_list_begins_the_commands_own_help(name: str, run: Any) -> None:
    result = run(name, "--help")
    assert (result.status, result.err) == (0, "")
    assert f"Usage: dcn-deploy {name}" in result.out


def test_version(run: Any) -> None:
    assert run("--version") == (0, f"dcn-deploy {dcn_deploy.__version__}\n", "")


# Wrong usage.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["--bogus"], "No such option: --bogus"),
        (["profile", "--bogus"], "No such option: --bogus"),
        (["doctor", "surplus"], "unexpected extra argument"),
        (["profile", "x.onnx", "--runs", "many"], "'--runs'"),
        (["profile", "x.onnx", "--runs", "0"], "'--runs'"),
        (["profile", "x.onnx", "--backend"], "--backend"),
        (["export"], "MODEL"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(arguments: list[str], said: str, run: Any) -> None:
    result = run(*arguments)
    assert (result.status, result.out) == (2, "")
    # An option without its value is reported before its command's usage is known.
    assert result.err.startswith(("Usage: dcn-deploy", "Error: Option '--backend'"))
    assert said in result.err
    assert "Traceback" not in result.err


def test_without_arguments_the_help_is_shown(run: Any) -> None:
    result = run()
    assert result.status == 2
    assert "profile" in result.out + result.err


# Errors.


def test_our_error_is_one_line(failing: Any, refused: Any) -> None:
    failing(InvalidArgumentError("thing: expected 1,\n    got 2."))
    assert refused("doctor") == "error: thing: expected 1, got 2."


@pytest.mark.parametrize("code", [1, "some text", None])
def test_exit_by_the_users_own_code_is_no_verdict(code: object, failing: Any, refused: Any) -> None:
    failing(SystemExit(code))
    assert refused("doctor") == f"error: sys.exit({code!r}) was called by the code of a network"


def test_missing_package_names_the_remedy(failing: Any, refused: Any) -> None:
    failing(MissingDependencyError("torch is needed. Install it: pip install torch"))
    assert refused("doctor") == "error: torch is needed. Install it: pip install torch"


def test_missing_file_is_named(failing: Any, refused: Any) -> None:
    try:
        Path("no", "such", "file").read_text()
    except OSError as error:
        failing(error)
    assert refused("doctor") == f"error: No such file or directory: '{Path('no', 'such', 'file')}'"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ZeroDivisionError("one\n  two"), "error: unexpected ZeroDivisionError: one two (run 'dcn-deploy --debug ...'"),
        (AssertionError(), "error: unexpected AssertionError: no message (run 'dcn-deploy --debug ...'"),
        (MemoryError("all of it"), "error: unexpected MemoryError: all of it ("),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_unexpected_error_is_one_line_too(error: Exception, line: str, failing: Any, refused: Any) -> None:
    failing(error)
    assert refused("doctor").startswith(line)


@pytest.mark.parametrize("error", [InvalidArgumentError("mine"), ZeroDivisionError("not mine")], ids=repr)
def test_debug_shows_the_traceback(error: Exception, failing: Any, run: Any) -> None:
    failing(error)
    result = run("--debug", "doctor")
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("Traceback (most recent call last):")
    assert result.err.rstrip().endswith(f"{type(error).__name__}: {error}")


def test_error_while_a_command_is_imported(monkeypatch: pytest.MonkeyPatch, refused: Any) -> None:
    monkeypatch.setitem(sys.modules, "dcn_deploy.cli.doctor", None)  # import raises ModuleNotFoundError
    assert refused("doctor").startswith("error: unexpected ModuleNotFoundError: ")


@pytest.mark.parametrize("debug", [[], ["--debug"]], ids=["plain", "debug"])
def test_interrupt(debug: list[str], failing: Any, run: Any) -> None:
    failing(KeyboardInterrupt())
    assert run(*debug, "doctor") == (130, "", "interrupted\n")


@pytest.mark.parametrize(
    "arguments", [["doctor"], ["doctor", "--json", "-"], ["doctor", "--help"], ["--help"]], ids=str
)
def test_reader_that_goes_away(arguments: list[str]) -> None:
    """As in ``dcn-deploy doctor | head -0``: no traceback, and the status a shell gives for a broken pipe."""
    read, write = os.pipe()
    os.close(read)
    program = str(Path(sys.executable).with_name("dcn-deploy"))
    try:
        done = subprocess.run(
            [program, *arguments], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    finally:
        os.close(write)
    assert "Traceback" not in done.stderr
    assert "BrokenPipeError" not in done.stderr
    assert done.returncode == 141


def test_exit_1_is_for_verdicts_only(failing: Any, run: Any) -> None:
    """A command's own ``typer.Exit(1)`` passes."""
    import typer

    failing(typer.Exit(1))
    assert run("doctor") == (1, "", "")


def test_every_command_is_a_module_with_a_function() -> None:
    import importlib

    for command in module.COMMANDS.values():
        assert callable(importlib.import_module(command.module).command)


def test_process_status_of_an_error(start: Any, tmp_path: Path) -> None:
    done = start("profile", tmp_path / "none.onnx")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == f"error: ONNX file: expected the path of a file, got '{tmp_path / 'none.onnx'}', which is none.\n"
    )
