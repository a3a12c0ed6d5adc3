"""What a figure was measured on, and whether a stored one is still of these sources."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dcn_deploy.profiling import describe_machine

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent.parent

#: The files that determine what training gives, besides the layers and the packages.
_TRAINING_SOURCES = (
    HERE / "data.py",
    HERE / "train.py",
    CHECKOUT / "models" / "digits.py",
    CHECKOUT / "models" / "initialisation.py",
)


def provenance(threads: int) -> dict[str, Any]:
    """Return machine, packages, command, date and commit, the number of threads and the sources' hash."""
    described = describe_machine()
    return {
        **described,
        # it brings the scans
        "packages": {**described["packages"], "scikit-learn": version("scikit-learn")},
        "threads": threads,
        "training_sources_sha256": training_sources_sha256(),
    }


def training_sources_sha256() -> str:
    """Return one hash over the files that determine what training gives."""
    digest = hashlib.sha256()
    for path in _TRAINING_SOURCES:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
