"""The example of detection heads on photographs, with one head."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / "two_stage" / "run.py"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture
def bins(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from two_stage import bins

    yield bins
    for name in [name for name in sys.modules if name.split(".")[0] == "two_stage"]:
        del sys.modules[name]


def test_it_exports_checks_and_draws(tmp_path: Path) -> None:
    done = run("--heads", "faster_rcnn_dcn_v2", "--step", "4", "--output", "out put", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("PASSED\n")
    assert done.stdout.count("12 of 12 boxes get PyTorch's class") == 2
    files = {path.name for path in (tmp_path / "out put").iterdir()}
    assert {"faster_rcnn_dcn_v2.plugin.onnx", "faster_rcnn_dcn_v2.decomposed.onnx", "faster_rcnn_dcn_v2.png"} <= files


def test_an_unknown_head(tmp_path: Path) -> None:
    done = run("--heads", "yolo", folder=tmp_path)
    assert done.returncode == 2
    assert "invalid choice: 'yolo'" in done.stderr


@pytest.mark.parametrize("variant", ["aligned", "psroi"])
def test_the_samples_drawn_are_those_pooled(variant, bins, seed) -> None:
    """On a map that holds x and y, the pooled value of a bin is where its samples lie, on average."""
    from dcn_deploy.ops import deform_roi_pool

    height, width, scale = 40, 50, 0.25
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    features = torch.stack([columns, rows])[None].double()
    rois = torch.tensor([[0.0, 40.4, 50.6, 110, 90], [0, 60, 40, 80.3, 71.2]], dtype=torch.float64)
    offset = torch.from_numpy(np.random.default_rng(seed).normal(0, 1, (2, 2, 3, 3)))
    arguments = {"variant": variant, "output_size": 3, "spatial_scale": scale, "sampling_ratio": 2}

    class Pool(torch.nn.Module):
        def forward(self, image, rois):
            return deform_roi_pool(image, rois, offset, **arguments)

    (pooling,) = bins.poolings(Pool(), features, rois)
    pooled = deform_roi_pool(features, rois, offset, **arguments)
    mean = pooling.deformed[:, 0].mean(dim=-2)  # [R, pH, pW, 2], pixels of the image
    torch.testing.assert_close(mean.permute(0, 3, 1, 2) * scale - 0.5, pooled, rtol=1e-9, atol=1e-9)
    rigid = deform_roi_pool(features, rois, **arguments)
    torch.testing.assert_close(
        pooling.regular.mean(dim=-2).permute(0, 3, 1, 2) * scale - 0.5, rigid, rtol=1e-9, atol=1e-9
    )
