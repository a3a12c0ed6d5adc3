"""From the trained network to files, their validation, and their speed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import dcn_deploy
from dcn_deploy import profiling, runtime, validation
from dcn_deploy.runtime import RunnerOptions
from digits.data import WarpedImages
from digits.train import accuracy

if TYPE_CHECKING:
    from torch import nn

FORMS = ("plugin", "standard", "decomposed")
INPUT, OUTPUT = "input", "logits"
#: Images in one run of validation and classification.
BATCH = 150
#: Two logits count as tied if their distance is within this many times the allowed RMS error of a logit: a single
#: element may be off by more than the RMS.
TIE_FACTOR = 10.0

Progress = Callable[[int, "int | None", str], None]


@dataclass(frozen=True)
class Deployed:
    """One exported form of the network.

    Attributes:
        form: plugin, standard or decomposed.
        path: of the ONNX file.
    """

    form: str
    path: Path


def export_forms(network: nn.Module, example: torch.Tensor, folder: Path, stem: str) -> list[Deployed]:
    """Export the network in the three forms, with a free batch size, as ``<stem>.<form>.onnx``.

    Args:
        network: in evaluation mode.
        example: ``(N, 1, 32, 32)`` with N ≥ 2, so that tracing cannot take the batch for a constant 1.
        folder: where the files go.
        stem: first part of their names; recorded as the source of the file.
    """
    deployed = []
    for form in FORMS:
        path = folder / f"{stem}.{form}.onnx"
        export(network, example, path, form, stem)
        deployed.append(Deployed(form, path))
    return deployed


def export(network: nn.Module, example: torch.Tensor, path: Path, form: str, source: str) -> None:
    """Export one form of the network with a free batch size; see :func:`export_forms`."""
    dcn_deploy.export(
        network,
        (example,),
        path,
        form=form,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes={INPUT: {0: "batch"}},
        source=source,
    )


def describe_file(deployed: Deployed) -> dict[str, Any]:
    """Return name, size, opset and nodes of an exported file, ready for JSON."""
    import onnx

    model = onnx.load(deployed.path, load_external_data=False)
    nodes = Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in model.graph.node)
    sampling = {
        "plugin": nodes["dcn_deploy::DeformConv2d"],
        "standard": nodes["DeformConv"],
        "decomposed": nodes["GridSample"],
    }
    return {
        "form": deployed.form,
        "file": deployed.path.name,
        "bytes": deployed.path.stat().st_size,
        "opset": next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        "nodes": sum(nodes.values()),
        "sampling_nodes": sampling[deployed.form],
    }


def validate_forms(
    network: nn.Module, deployed: list[Deployed], test: WarpedImages, *, threads: int, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Compare each form in ONNX Runtime with PyTorch: every logit by tolerance, every prediction one by one.

    Returns:
        For each form the report's entry under ``"validation"``, and under ``"predictions"`` the accuracy and every
        image whose predicted class differs, with how far PyTorch's own two logits are apart.
    """
    options = RunnerOptions(threads=threads)
    images = test.images.numpy()
    feeds = [
        validation.Feed(
            f"images {start} to {min(start + BATCH, len(images)) - 1}", {INPUT: images[start : start + BATCH]}
        )
        for start in range(0, len(images), BATCH)
    ]
    reference = runtime.create("torch", network, options=options, input_names=[INPUT], output_names=[OUTPUT])
    results = {}
    with reference:
        expected = np.concatenate([reference.infer(feed.arrays)[OUTPUT] for feed in feeds])
        for place, form in enumerate(deployed):
            progress(place, len(deployed), f"validating {form.form}")
            with runtime.create("onnxruntime", form.path, options=options) as runner:
                report = validation.validate(
                    [runner],
                    reference,
                    feeds,
                    model=form.path,
                    names=[f"onnxruntime, {form.form}"],
                    oracle="PyTorch",
                )
                actual = np.concatenate([runner.infer(feed.arrays)[OUTPUT] for feed in feeds])
            candidate = report.to_json()["candidates"][0]
            limit = report.candidates[0].outputs[0].limit.relative_rms
            results[form.form] = {
                "validation": candidate,
                "predictions": compare_predictions(actual, expected, test, limit),
            }
        progress(len(deployed), len(deployed), "validated")
    return results


def compare_predictions(
    actual: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], test: WarpedImages, limit: float
) -> dict[str, Any]:
    """Compare predicted classes image for image.

    A difference is explained only if PyTorch's logits of the two classes are tied to within the rounding that the
    validation allows.

    Args:
        actual: logits ``(N, 10)`` of the deployed form.
        expected: PyTorch's.
        test: the images they are of.
        limit: largest relative RMS error the validation allows.
    """
    labels = test.labels.numpy()
    tie = TIE_FACTOR * limit * float(np.sqrt(np.mean(np.square(expected, dtype=np.float64))))
    differing = []
    for image in np.nonzero(actual.argmax(1) != expected.argmax(1))[0].tolist():
        ours, torchs = int(actual[image].argmax()), int(expected[image].argmax())
        margin = float(expected[image, torchs] - expected[image, ours])
        differing.append(
            {
                "image": image,
                "scan": int(test.indices[image]),
                "label": int(labels[image]),
                "torch": torchs,
                "deployed": ours,
                "margin": margin,
                "explained": margin <= tie,
            }
        )
    return {
        "images": len(labels),
        "right": int((actual.argmax(1) == labels).sum()),
        "accuracy": accuracy(torch.from_numpy(actual), test.labels),
        "equal_to_torch": len(labels) - len(differing),
        "tie": tie,
        "differing": differing,
    }


def profile_engines(
    network: nn.Module,
    deployed: list[Deployed],
    plain: Path,
    images: torch.Tensor,
    *,
    batches: tuple[int, ...],
    threads: int,
    seconds: float,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Time PyTorch, the three forms and the plain twin in ONNX Runtime side by side, for each batch size.

    Memory and the share of the deformable nodes are measured at the first batch size.

    Args:
        network: the deformable network.
        deployed: its exported forms.
        plain: ONNX file of the plain twin.
        images: ``(N, 1, 32, 32)``, N at least the largest batch.
        batches: batch sizes.
        threads: for every engine.
        seconds: of measuring, per engine and batch size.
        progress: of :func:`dcn_deploy.profiling.profile`.

    Returns:
        The profiling report of each batch size as JSON, without the single samples.
    """
    options = RunnerOptions(threads=threads, spinning=False)
    engines: Mapping[str, runtime.Runner] = {
        "PyTorch": runtime.create("torch", network, options=options, input_names=[INPUT], output_names=[OUTPUT]),
        **{
            f"ONNX Runtime, {form.form}": runtime.create("onnxruntime", form.path, options=options) for form in deployed
        },
        "ONNX Runtime, plain twin": runtime.create("onnxruntime", plain, options=options),
    }
    reports = []
    for batch in batches:
        feeds = [
            {INPUT: images[start : start + batch].numpy()}
            for start in range(0, min(len(images) - batch + 1, 8 * batch), batch)
        ]
        report = profiling.profile(
            engines,
            feeds,
            method=profiling.Method(seconds=seconds),
            memory=batch == batches[0],
            nodes=batch == batches[0],
            progress=progress,
        ).to_json()
        for row in report["rows"]:
            del row["samples_seconds"]
        del report["machine"]
        reports.append({"batch": batch, **report})
    return reports
