"""What the machine's processor is and can do."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def cpu_model() -> str:
    """Return the processor's name, the architecture where the system does not tell."""
    return _first_of_cpuinfo().get("model name") or platform.processor() or platform.machine()


def cpu_features() -> frozenset[str]:
    """Return the instruction-set extensions by the names of ``/proc/cpuinfo``; empty where there is none."""
    info = _first_of_cpuinfo()
    return frozenset((info.get("flags") or info.get("Features") or "").split())


def usable_cpus() -> int:
    """Return the number of CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _first_of_cpuinfo() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n", maxsplit=1)[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
