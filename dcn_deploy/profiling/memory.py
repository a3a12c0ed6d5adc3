"""Peak memory of an engine, measured in a process of its own.

In one process the engines would share allocators and each other's freed memory, so each is measured in a fresh
interpreter: import the runtime, note the resident size, load the model, run, read the high-water mark. The growth is
what the model costs: weights, activations, scratch and the runtime's own caches, but not its code.

Run as a program (``python -m dcn_deploy.profiling.memory PAYLOAD``), this module is that fresh interpreter.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcn_deploy.errors import BackendError

if TYPE_CHECKING:
    import numpy as np

    from dcn_deploy.runtime.runner import Runner

_SECONDS = 600.0
_SIZES = Path("/proc/self/status")


@dataclass(frozen=True)
class PeakMemory:
    """Memory of one engine in a process of its own.

    Attributes:
        bytes: growth of the resident set from before the model was loaded to the highest point while it was
            loaded and run.
        total_bytes: highest resident size of the whole process, interpreter and runtime included.
        gpu_bytes: growth of what is in use on the GPU, from before the model was loaded to after the last run: weights,
            activations, buffers and the runtime's own memory, but not CUDA's context. What other processes take or
            give back meanwhile is in it too. None for an engine that is on no GPU, or without a package to ask.
    """

    bytes: int
    total_bytes: int
    gpu_bytes: int | None = None


def peak_memory(
    recipe: Runner | Callable[[], Runner],
    feed: Mapping[str, np.ndarray[Any, Any]],
    *,
    packages: Sequence[str],
    gpu: int | None = None,
    runs: int = 2,
    seconds: float = _SECONDS,
) -> PeakMemory:
    """Load and run an engine in a fresh interpreter and return its peak memory.

    Args:
        recipe: an inactive runner, or a function that makes one. It is pickled, so a function must be importable.
        feed: one array for each input, by name.
        packages: what to import before the first reading (the runtime).
        gpu: number of the GPU that it runs on; None for none.
        runs: number of runs.
        seconds: how long it may take.

    Raises:
        BackendError: if the recipe cannot be pickled, or the interpreter fails; the message says why.
    """
    try:
        payload = {
            "packages": list(packages),
            "gpu": gpu,
            "feed": pickle.dumps(dict(feed)),
            "recipe": pickle.dumps(recipe),
            "runs": runs,
        }
    except Exception as error:
        # Pickle raises PicklingError, TypeError or AttributeError, by the kind of object in the way.
        raise BackendError(
            f"peak memory is measured in a process of its own, and this model cannot be sent to it ({error}). "
            "Give it as a file, or as a class that can be imported."
        ) from error
    with tempfile.TemporaryDirectory(prefix="dcn_deploy-memory-") as folder:
        path = Path(folder) / "payload.pickle"
        path.write_bytes(pickle.dumps(payload))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
        try:
            done = subprocess.run(
                [sys.executable, "-m", __name__, str(path)],
                capture_output=True,
                text=True,
                timeout=seconds,
                env=environment,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BackendError(f"the process that measures peak memory took longer than {seconds:g} s.") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise BackendError(f"the process that measures peak memory ended with status {done.returncode}: {lines[-1]}")
    return PeakMemory(**json.loads(done.stdout.splitlines()[-1]))


def _gpu_in_use(ordinal: int | None) -> int | None:
    """Return the bytes in use on a GPU; None if there is none, or no package to ask."""
    if ordinal is None:
        return None
    from dcn_deploy.errors import DcnDeployError
    from dcn_deploy.runtime.device_memory import open_device

    try:
        device = open_device(ordinal, "the measurement of memory")
        with device.current():
            return device.memory_in_use()
    except DcnDeployError:
        return None


def _reset_high_water() -> None:
    # 5: set the high-water mark back to the present size (proc(5), /proc/pid/clear_refs). Where that is not
    # allowed the mark may stem from the imports, and the growth is an upper bound.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _resident() -> int:
    return _status("VmRSS") or _highest()


def _highest() -> int:
    import resource

    if (value := _status("VmHWM")) is not None:
        return value
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(field: str) -> int | None:
    try:
        text = _SIZES.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def _main(payload_path: str) -> None:
    payload = pickle.loads(Path(payload_path).read_bytes())
    for package in payload["packages"]:
        importlib.import_module(package)
    feed = pickle.loads(payload["feed"])
    # Makes CUDA's context, whose memory is no engine's.
    gpu_before = _gpu_in_use(payload["gpu"])
    _reset_high_water()
    before = _resident()
    recipe = pickle.loads(payload["recipe"])
    runner = recipe if hasattr(recipe, "infer") else recipe()
    with runner:
        for _ in range(payload["runs"]):
            runner.infer(feed)
        gpu_after = _gpu_in_use(payload["gpu"])
    highest = _highest()
    gpu = None if gpu_before is None or gpu_after is None else max(0, gpu_after - gpu_before)
    print(json.dumps({"bytes": max(0, highest - before), "total_bytes": highest, "gpu_bytes": gpu}))


if __name__ == "__main__":
    _main(sys.argv[1])
