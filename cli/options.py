"""What the commands share: parsing of options, where results go, progress bars."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dcn_deploy.errors import InvalidArgumentError, describe

if TYPE_CHECKING:
    from rich.console import Console

#: Target of ``--json`` that means standard output.
STDOUT = "-"
_STDOUT_DESCRIPTOR, _STDERR_DESCRIPTOR = 1, 2


def parse_names(values: Sequence[str]) -> list[str]:
    """Return the names of an option that may be repeated and may hold comma lists: ``a,b`` and ``c`` give a, b, c."""
    return [name.strip() for value in values for name in value.split(",") if name.strip()]


def parse_shapes(values: Sequence[str], option: str = "--shape") -> dict[str, tuple[int, ...]]:
    """Parse ``--shape input=1,3,224,224``, one value for each input.

    Args:
        values: what the option was given.
        option: its name, for the errors.

    Raises:
        InvalidArgumentError: if a value is not of that form, or an input comes twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for value in values:
        name, extents = _split(value, option, "input=1,3,224,224", shapes)
        try:
            shape = tuple(int(extent) for extent in extents)
        except ValueError:
            shape = (-1,)
        if any(extent < 0 for extent in shape):
            raise InvalidArgumentError(
                describe(option, expected="whole numbers, as in input=1,3,224,224", actual=repr(value))
            )
        shapes[name] = shape
    return shapes


def parse_dynamic(values: Sequence[str]) -> dict[str, dict[int, str]]:
    """Parse ``--dynamic input=n,,h,w``: a name for each dynamic axis, nothing for a fixed one.

    Returns:
        For each input the names of its dynamic axes by axis number.

    Raises:
        InvalidArgumentError: if a value is not of that form, or an input comes twice.
    """
    dynamic: dict[str, dict[int, str]] = {}
    for value in values:
        name, axes = _split(value, "--dynamic", "input=n,,h,w", dynamic)
        named = {axis: text for axis, text in enumerate(axes) if text}
        wrong = [text for text in named.values() if not text.isidentifier()]
        if wrong or not named:
            raise InvalidArgumentError(
                describe(
                    "--dynamic",
                    expected="the name of an axis or nothing between commas, as in input=n,,h,w",
                    actual=repr(value),
                )
            )
        dynamic[name] = named
    return dynamic


def _split(value: str, option: str, example: str, seen: Mapping[str, object]) -> tuple[str, list[str]]:
    # From the right: names that PyTorch gives to inputs may hold an equals sign, extents cannot.
    name, equals, rest = value.rpartition("=")
    name = name.strip()
    if not equals or not name:
        raise InvalidArgumentError(describe(option, expected=f"NAME=..., as in {example}", actual=repr(value)))
    if name in seen:
        raise InvalidArgumentError(describe(option, expected="each input once", actual=f"'{name}' twice"))
    return name, [part.strip() for part in rest.split(",")] if rest.strip() else []


class Reporting(Protocol):
    """A report that can be written as JSON."""

    def to_json(self) -> Any:
        """Return what ``json.dumps`` takes, or the finished text."""
        ...


def write_json(report: Reporting | Mapping[str, Any] | Sequence[Any], target: str | None) -> None:
    """Write a report to the target of ``--json``: a file, ``-`` for standard output, None for nowhere.

    JSON has no infinity and no NaN: they become ``null``.

    Raises:
        InvalidArgumentError: if the file cannot be written.
    """
    if target is None:
        return
    content = report if isinstance(report, Mapping | Sequence) else report.to_json()
    if isinstance(content, str):
        content = json.loads(content)
    write_text(json.dumps(_finite(content), indent=2, allow_nan=False) + "\n", target, "--json")


def write_text(text: str, target: str, option: str) -> None:
    """Write ``text`` to a file, or to standard output for ``-``.

    Raises:
        InvalidArgumentError: if the file cannot be written.
    """
    if target == STDOUT:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidArgumentError(
            describe(option, expected="a file that can be written", actual=f"'{target}' ({error.strerror})")
        ) from error


def check_target(target: str | None, option: str) -> None:
    """Refuse a target of :func:`write_text` whose folder is not there, before the work whose result it is for.

    Raises:
        InvalidArgumentError: if there is no such folder, or the target is a folder.
    """
    if target is None or target == STDOUT:
        return
    path = Path(target)
    if path.is_dir() or not path.absolute().parent.is_dir():
        actual = f"the folder '{path}'" if path.is_dir() else f"'{path}' in a folder that does not exist"
        raise InvalidArgumentError(describe(option, expected="a file that can be written", actual=actual))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


@contextmanager
def reserved_stdout(*machine_targets: str | None) -> Iterator[None]:
    """Keep standard output for JSON or CSV that goes there: whatever else is printed meanwhile goes to standard error.

    That is what the code of a network prints, a runtime's library or a child process.

    Args:
        machine_targets: values of ``--json`` and the like.
    """
    if STDOUT not in machine_targets:
        yield
        return
    sys.stdout.flush()
    try:
        kept = os.dup(_STDOUT_DESCRIPTOR)
        os.dup2(_STDERR_DESCRIPTOR, _STDOUT_DESCRIPTOR)
    except OSError:  # one of them is closed: then nothing but Python's own writes can be led elsewhere
        with redirect_stdout(sys.stderr):
            yield
        return
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        # What was written to Python's first stream, or by C code, may still wait in a buffer.
        import ctypes

        sys.stdout.flush()
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, _STDOUT_DESCRIPTOR)
        os.close(kept)


def result_console(*machine_targets: str | None) -> Console:
    """Return where tables go: standard output, or standard error if JSON or CSV goes to standard output.

    Args:
        machine_targets: values of ``--json`` and the like.
    """
    from rich.console import Console

    class ResultConsole(Console):
        def on_broken_pipe(self) -> None:
            # rich would leave with status 1, which is a command's verdict.
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    to_stderr = STDOUT in machine_targets
    console = ResultConsole(stderr=to_stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        # rich takes 80 columns for a pipe and would cut names short in a log.
        console = ResultConsole(stderr=to_stderr, highlight=False, width=160)
    return console


class Advance(Protocol):
    """Moves a progress bar."""

    def __call__(self, done: float, total: float | None = None, text: str | None = None) -> None:
        """Show that ``done`` of ``total`` steps are behind, and what is being done now."""
        ...


@contextmanager
def progress(text: str, *, total: float | None = None, quiet: bool = False) -> Iterator[Advance]:
    """Show a progress bar on standard error, if that is a terminal and ``quiet`` is not set.

    Args:
        text: what is being done.
        total: number of steps; None while unknown.
        quiet: show nothing.

    Yields:
        A function to call as ``advance(done, total, text)``, total and text being optional.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda done, total=None, text=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=total)

        def advance(done: float, total: float | None = None, text: str | None = None) -> None:
            bar.update(task, completed=done, total=total, description=text)

        yield advance
