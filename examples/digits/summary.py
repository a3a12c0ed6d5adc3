"""The few lines that the demonstration prints at its end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from digits.train import NETWORKS


def lines(result: Mapping[str, Any], committed: Mapping[str, Any] | None, folder: Path) -> list[str]:
    """Return the summary, line by line.

    Args:
        result: as written to result.json.
        committed: the accuracies over several seeds, or None.
        folder: where the files are.
    """
    count = result["data"]["test_images"]
    text = ["QUICK RUN: the steps are real, the figures mean nothing."] if result["quick"] else []
    text.append(f"Accuracy on {count:,} held-out images (seed {result['seed']}):")
    for name in NETWORKS:
        line = f"  {name:<14}{100 * result['training'][name]['test_accuracy']:6.2f} %"
        if committed is not None:
            summary = committed["summary"][name]
            spread = "" if summary["std"] is None else f" ± {100 * summary['std']:.2f}"
            stale = ", of earlier sources" if committed["stale"] else ""
            line += (
                f"   ({100 * summary['mean']:.2f}{spread} % over {summary['n']} seeds "
                f"and {committed['epochs']} epochs{stale})"
            )
        text.append(line)
    text.append("Deployed in ONNX Runtime, against PyTorch:")
    for form, entry in result["forms"].items():
        predictions = entry["predictions"]
        (output,) = entry["validation"]["outputs"]
        text.append(
            f"  {form:<14}{100 * predictions['accuracy']:6.2f} %   "
            f"{predictions['equal_to_torch']:,} of {predictions['images']:,} predictions equal, "
            f"relative RMS error {output['worst']['relative_rms'] or 0:.1e}"
        )
    batches = [report["batch"] for report in result["latency"]]
    text.append(
        f"Median latency in ms, batch {' and '.join(map(str, batches))}, threads: {result['provenance']['threads']}:"
    )
    for rows in zip(*(report["rows"] for report in result["latency"]), strict=True):
        figures = "".join(f"{1e3 * row['latency_seconds']['median']:9.3f}" for row in rows)
        text.append(f"  {rows[0]['name']:<26}{figures}")
    beside = Path(sys.executable).with_name("dcn-deploy")
    command = shlex.quote(str(beside)) if beside.exists() else "dcn-deploy"
    model = shlex.quote(str(folder / result["forms"]["plugin"]["file"]))
    weights = shlex.quote(str(folder / f"{NETWORKS[0]}.safetensors"))
    images = shlex.quote(str(folder / "held_out.npz"))
    text += [
        f"Report: {folder / 'report.html'}",
        f"Once more by hand: {command} validate {model} --reference {NETWORKS[0]} --weights {weights} "
        f"--backend onnxruntime --inputs {images}",
        f"{'All' if result['passed'] else 'NOT all'} of {len(result['checks'])} checks passed.",
    ]
    return text
