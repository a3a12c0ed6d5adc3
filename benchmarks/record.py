"""Results of benchmarks on disk: what they were measured on, and whether that is still what is in the checkout."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
RESULTS = CHECKOUT / "benchmarks" / "results"

_CORE = "plugins/core"
# What a measurement on a device depends on: kernels and their compiler flags, not the other device's folder.
_KERNEL_SOURCES = {
    "cpu": ({".h", ".cc", ".txt"}, "cuda"),
    "cuda": ({".h", ".cuh", ".cu", ".txt"}, "cpu"),
}


def kernel_sources(device: str, checkout: Path = CHECKOUT) -> list[Path]:
    """The files that the kernels for ``device`` (``cpu`` or ``cuda``) are made of, in a fixed order."""
    suffixes, other = _KERNEL_SOURCES[device]
    core = checkout / _CORE
    return sorted(
        path for path in core.rglob("*") if path.suffix in suffixes and path.relative_to(core).parts[0] != other
    )


def kernel_hash(device: str, checkout: Path = CHECKOUT) -> str:
    """SHA-256 over names and contents of :func:`kernel_sources`."""
    digest = hashlib.sha256()
    for path in kernel_sources(device, checkout):
        name = path.relative_to(checkout).as_posix().encode()
        data = path.read_bytes()
        # Lengths first, so that no two different trees give the same bytes.
        digest.update(len(name).to_bytes(8, "little") + name + len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def is_stale(result: dict[str, Any]) -> bool:
    """Whether the kernels have changed since ``result`` was measured."""
    return bool(result["kernel_sources"]["sha256"] != kernel_hash(result["kernel_sources"]["device"]))


def slug(text: str) -> str:
    """``text`` as a part of a file name: ``AMD EPYC 7763`` → ``amd-epyc-7763``."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def write(result: dict[str, Any], path: Path) -> None:
    """Write ``result`` as JSON, in one step: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)


def read_all(folder: Path = RESULTS) -> list[tuple[Path, dict[str, Any]]]:
    """Every result in ``folder``, by file name."""
    return [(path, json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("*.json"))]
