"""Other programs, run with a limit that also ends what they have started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

#: Seconds between two looks at a program that runs.
_POLL = 0.25
#: Seconds that a program may take to end after SIGKILL: one that waits for a driver may never do so.
_PATIENCE = 5.0
_LAST_LINES = 15


class TooSlowError(RuntimeError):
    """A program was not done in time; it and its children were ended. ``output`` is what it had said by then."""

    def __init__(self, message: str, output: str = "") -> None:
        last = output.strip().splitlines()[-_LAST_LINES:]
        super().__init__("\n".join([message + (". Its last lines:" if last else ""), *last]))
        self.output = output


def _text(descriptor: int, start: int = 0) -> bytes:
    # Not by seek and read: the program writes through the same position.
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, max(0, size - start), start)


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "replace").replace("\r\n", "\n")


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # If it hangs in the kernel, nothing more can be done, and nothing here waits for it.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_PATIENCE)


def run(
    command: Sequence[str],
    seconds: float,
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    show: Callable[[str], None] | None = None,
) -> tuple[int, str, str]:
    """Run a program to its end.

    What it says goes to files, not pipes: a child of it that lives on in a session of its own could hold a pipe open
    and keep this waiting.

    Args:
        command: the program and its arguments.
        seconds: after these it is ended.
        cwd: the folder that it runs in.
        environment: all of its environment; None for this process's own.
        show: gets the lines of its standard output while it runs.

    Returns:
        Exit status, standard output, standard error.

    Raises:
        TooSlowError: after ``seconds``, with the last lines of what it said.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            cwd=cwd,
            env=environment,
            start_new_session=True,
        )
        end = time.monotonic() + seconds
        shown = 0

        def show_lines() -> None:
            nonlocal shown
            if show is not None:
                whole, newline, _ = _text(output.fileno(), shown).rpartition(b"\n")
                shown += len(whole) + len(newline)
                for line in _decoded(whole).splitlines():
                    show(line)

        try:
            while True:
                try:
                    process.wait(max(0.0, min(_POLL, end - time.monotonic())))
                    break
                except subprocess.TimeoutExpired:
                    show_lines()
                    if time.monotonic() >= end:
                        raise
        except subprocess.TimeoutExpired as error:
            _end(process)
            show_lines()
            said = _decoded(_text(output.fileno())) + _decoded(_text(errors.fileno()))
            raise TooSlowError(f"'{Path(command[0]).name}' was not done after {seconds:.0f} s", said) from error
        except BaseException:
            _end(process)
            raise
        show_lines()
        return process.returncode, _decoded(_text(output.fileno())), _decoded(_text(errors.fileno()))
