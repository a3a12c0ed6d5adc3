"""What a measurement was made on: a number without it cannot be compared with another."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dcn_deploy.runtime.processor import cpu_model, usable_cpus

_PACKAGES = ("dcn-deploy", "torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "openvino", "numpy")


def describe_machine() -> dict[str, Any]:
    """Return CPU, cores, memory, versions, command, date and commit, ready for JSON."""
    return {
        "cpu": cpu_model(),
        "cpu_count": os.cpu_count(),
        "usable_cpus": usable_cpus(),
        "memory_bytes": _memory(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]) if sys.argv else "",
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
    }


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that matter, as far as they are installed."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def commit() -> str | None:
    """Return the commit of this project's checkout, with ``-dirty`` if files were changed; None outside of one."""
    for folder in (Path(__file__).resolve().parent, Path.cwd()):
        root = _git(folder, "rev-parse", "--show-toplevel")
        # The package may be installed below the checkout of another project.
        if root and (Path(root) / "dcn_deploy" / "__init__.py").is_file():
            return _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    return None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
