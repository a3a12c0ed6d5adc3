"""What can be asked of the builder, and which of the two packages can do it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcn_deploy.errors import InvalidArgumentError, UnsupportedError, describe
from dcn_deploy.runtime.engine_metadata import Capability, text
from dcn_deploy.runtime.tensorrt_api import Package

#: Levels of hardware compatibility: which other GPUs than the one it was built on an engine must run on.
HARDWARE_LEVELS = ("none", "same_compute_capability", "ampere_plus")
#: Smallest and largest builder optimisation level.
OPTIMIZATION_LEVELS = (0, 5)


@dataclass(frozen=True)
class BuildOptions:
    """What the builder is asked for; a field left as it is leaves TensorRT's own default.

    Attributes:
        optimization_level: 0 (quick to build) to 5 (every tactic tried).
        workspace: largest scratch memory of a layer, in bytes.
        timing_cache: file of measured tactics, read if it is there and written afterwards.
        version_compatible: whether later versions of TensorRT may run the engine.
        hardware_compatibility: one of :data:`HARDWARE_LEVELS`.
        capabilities: compute capabilities to build for, for TensorRT-RTX.
        tf32: whether float32 products may be rounded to TF32. Unlike TensorRT's own default, they may not.
        detailed: keep what each layer does in the engine, for the layer report; names alone otherwise.
    """

    optimization_level: int | None = None
    workspace: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatibility: str = "none"
    capabilities: tuple[Capability, ...] = ()
    tf32: bool = False
    detailed: bool = False

    def check(self, package: Package) -> None:
        """Refuse what cannot be, and what this package cannot do.

        Raises:
            InvalidArgumentError: for a value out of range.
            UnsupportedError: for an option that the package does not have.
        """
        low, high = OPTIMIZATION_LEVELS
        if self.optimization_level is not None and not low <= self.optimization_level <= high:
            raise InvalidArgumentError(
                describe("optimisation level", expected=f"{low} to {high}", actual=self.optimization_level)
            )
        if self.workspace is not None and self.workspace < 0:
            raise InvalidArgumentError(describe("workspace", expected="at least 0 bytes", actual=self.workspace))
        if self.hardware_compatibility not in HARDWARE_LEVELS:
            raise InvalidArgumentError(
                describe(
                    "level of hardware compatibility",
                    expected=f"one of {', '.join(HARDWARE_LEVELS)}",
                    actual=repr(self.hardware_compatibility),
                )
            )
        if len(set(self.capabilities)) != len(self.capabilities):
            raise InvalidArgumentError(
                describe("compute capabilities", expected="each once", actual=", ".join(map(text, self.capabilities)))
            )
        for option, instead in self._not_of(package):
            raise UnsupportedError(f"{package.title} has no {option}: {instead}.")
        if self.timing_cache is not None:
            _check_writable(self.timing_cache)

    def _not_of(self, package: Package) -> list[tuple[str, str]]:
        """(option, what to do instead) for everything asked for that the package does not have."""
        portable = "leave it out; an engine is already portable, and is compiled for the GPU that loads it"
        wanted: tuple[tuple[bool, str, str], ...]
        if package.lists_capabilities:
            wanted = (
                (self.timing_cache is not None, "timing cache", "leave it out; nothing is timed on this way"),
                (self.hardware_compatibility != "none", "level of hardware compatibility", portable),
                (
                    self.version_compatible,
                    "version-compatible engines",
                    "leave it out, and build the engine again for another version",
                ),
            )
        else:
            wanted = (
                (
                    bool(self.capabilities),
                    "list of compute capabilities to build for",
                    "it builds for the GPU of this machine. Leave it out; for other GPUs see the level of hardware "
                    "compatibility",
                ),
            )
        return [(option, instead) for asked, option, instead in wanted if asked]

    def to_json(self) -> dict[str, Any]:
        """Return what was asked for as plain values, without what has a place of its own in the sidecar."""
        return {
            "optimization_level": self.optimization_level,
            "workspace": self.workspace,
            "timing_cache": None if self.timing_cache is None else self.timing_cache.name,
            "tf32": self.tf32,
            "detailed": self.detailed,
        }


def _check_writable(path: Path) -> None:
    """Refuse a timing cache that could not be written after the build, which may take hours."""
    folder = path.absolute().parent
    if path.is_dir():
        actual = f"the folder '{path}'"
    elif not folder.is_dir():
        actual = f"'{path}', whose folder is none"
    elif not os.access(folder, os.W_OK):
        actual = f"'{path}', whose folder cannot be written to"
    else:
        return
    raise InvalidArgumentError(
        describe(
            "timing cache",
            expected="a file in an existing folder that can be written to",
            actual=actual,
            remedy="Name another file; it is written after the build.",
        )
    )
