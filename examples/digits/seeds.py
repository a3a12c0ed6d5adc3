"""Accuracy over several seeds: the result that is kept beside the code."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dcn_deploy.errors import DcnDeployError
from digits.errors import DemonstrationError
from digits.provenance import HERE, provenance, training_sources_sha256
from digits.train import NETWORKS, Training

SCHEMA = "dcn_deploy.digits-seeds/1"
COMMITTED = HERE / "results.json"


def seeds_result(trainings: Sequence[Training], *, test_images: int, threads: int) -> dict[str, Any]:
    """Return accuracies of every network and seed with their mean and spread, ready for JSON.

    Raises:
        DemonstrationError: if the networks were not trained with the same seeds.
    """
    accuracies = {
        name: {training.seed: training.test_accuracy for training in trainings if training.name == name}
        for name in NETWORKS
    }
    deformable, plain = (accuracies[name] for name in NETWORKS)
    if deformable.keys() != plain.keys():
        raise DemonstrationError(
            f"seeds: expected the same for both networks, got {sorted(deformable)} and {sorted(plain)}."
        )
    return {
        "schema": SCHEMA,
        "provenance": provenance(threads),
        "epochs": len(trainings[0].epochs),
        "test_images": test_images,
        "runs": [
            {
                "network": training.name,
                "seed": training.seed,
                "test_accuracy": training.test_accuracy,
                "parameters": training.parameters,
                "training_seconds": training.seconds,
                "test_accuracy_by_epoch": [epoch.test_accuracy for epoch in training.epochs],
            }
            for training in trainings
        ],
        "summary": {
            **{name: _summary(list(values.values())) for name, values in accuracies.items()},
            "difference": _summary([deformable[seed] - plain[seed] for seed in deformable]),
        },
    }


def _summary(values: Sequence[float]) -> dict[str, Any]:
    """Return number, mean and sample standard deviation (n − 1; None for a single value)."""
    return {
        "n": len(values),
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
    }


def load_seeds_result(path: Path) -> dict[str, Any]:
    """Return a stored result, with ``"stale"`` telling whether the sources have changed since.

    Raises:
        DcnDeployError: if the file is not one.
    """
    try:
        result: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        schema = result.get("schema")
    except (OSError, ValueError, AttributeError) as error:
        raise DcnDeployError(
            f"'{path}': expected the accuracies over several seeds, but reading them failed ({error}). "
            f"Make it again: python examples/digits/run.py --seeds 0 1 2 --results '{path}'"
        ) from error
    if schema != SCHEMA:
        raise DcnDeployError(
            f"'{path}': expected the schema {SCHEMA}, got {schema}. "
            f"Make it again: python examples/digits/run.py --seeds 0 1 2 --results '{path}'"
        )
    stale = result["provenance"]["training_sources_sha256"] != training_sources_sha256()
    return {**result, "stale": stale}
