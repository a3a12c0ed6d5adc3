"""Other programs, run with a limit that also ends what they have started."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class TooSlowError(RuntimeError):
    """A program was not done in time; it and its children were ended."""


def run(
    command: Sequence[str], seconds: float, *, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Run a program to its end.

    Returns:
        Exit status, standard output, standard error.

    Raises:
        TooSlowError: after ``seconds``.
    """
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise TooSlowError(f"'{Path(command[0]).name}' was not done after {seconds:.0f} s") from error
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, output, errors
