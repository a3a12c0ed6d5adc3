"""A network with regions of interest, through export, validate and profile without a word about its boxes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

SOURCE = """
import torch
from dcn_deploy.ops import deform_roi_pool

class Head(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 6, 4, stride=4)
        self.offset = torch.nn.Linear(6 * 9, 2 * 9)

    def forward(self, image, rois):
        # an index that is none, or a box of negative size, is an error here and not a small difference
        assert torch.compiler.is_compiling() or bool((rois[:, 1:3] < rois[:, 3:5]).all())
        x = self.conv(image)
        arguments = dict(output_size=3, spatial_scale=0.25, sampling_ratio=2)
        pooled = deform_roi_pool(x, rois, **arguments)
        offset = self.offset(pooled.flatten(1)).reshape(-1, 2, 3, 3)
        return deform_roi_pool(x, rois, offset, **arguments)

def build():
    return Head()

def with_examples():
    return Head(), (torch.randn(1, 3, 40, 60), torch.tensor([[0.0, 3, 4, 50, 30]]))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with head.py, and plugin.onnx and decomposed.onnx exported from it with free axes."""
    from dcn_deploy.cli.main import main

    folder = tmp_path_factory.mktemp("head")
    (folder / "head.py").write_text(SOURCE)
    for form in ("plugin", "decomposed"):
        arguments = (
            "export", f"{folder / 'head.py'}:build", "-o", folder / f"{form}.onnx", "--form", form, "--quiet",
            "--shape", "image=2,3,64,96", "--shape", "rois=20,5", "--dynamic", "image=n,,h,w", "--dynamic", "rois=r",
        )  # fmt: skip
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        assert not left.value.code
    return folder


@pytest.fixture
def files(exported: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder, which is the working directory during the test."""
    monkeypatch.chdir(exported)
    return exported


@pytest.mark.parametrize("form", ["plugin", "decomposed"])
def test_validate(files, run, form):
    done = run("validate", f"{form}.onnx", "--backend", "onnxruntime,reference", "--samples", 3, "--json", "-")
    assert done.status == 0, done.err
    report = json.loads(done.out)
    assert report["feeds"]["description"] == (
        "3 generated samples, seed 0 (image 1×3×224×224, rois 16×5: boxes inside the image)"
    )
    assert [candidate["backend"] for candidate in report["candidates"]] == ["onnxruntime", "reference"]


def test_validate_with_shapes(files, run):
    done = run(
        "validate", "plugin.onnx", "--shape", "image=3,3,50,70", "--shape", "rois=40,5", "--seed", 4, "--json", "-"
    )
    assert done.status == 0, done.err
    assert "image 3×3×50×70, rois 40×5" in json.loads(done.out)["feeds"]["description"]


def test_golden_outputs(files, run):
    done = run("validate", "plugin.onnx", "--seed", 2, "--save-golden", "golden.npz")
    assert done.status == 0, done.err
    with np.load("golden.npz") as golden:
        rois = golden[next(key for key in golden if key.endswith("input:rois"))]
    assert rois.shape == (16, 5)
    assert not rois[:, 0].any()
    assert (rois[:, 1:3] < rois[:, 3:5]).all()
    assert rois[:, 1:].max() <= 224
    assert run("validate", "decomposed.onnx", "--reference", "golden.npz").status == 0


def test_profile(files, run):
    done = run("profile", "plugin.onnx", "decomposed.onnx", "--backend", "onnxruntime", "--runs", 2, "--json", "-")
    assert done.status == 0, done.err
    assert json.loads(done.out)["inputs"] == {"image": [1, 3, 224, 224], "rois": [16, 5]}
    done = run("profile", "plugin.onnx", "--backend", "onnxruntime,torch", "--runs", 2)
    assert done.status == 0, done.err


@pytest.mark.parametrize(
    ("source", "shapes"),
    [
        ("head.py:with_examples", ["rois=30,5"]),
        ("head.py:with_examples", ["image=2,3,24,24"]),
        ("head.py:build", ["image=2,3,24,24", "rois=30,5"]),
    ],
)
def test_profile_of_the_network_alone(files, run, source, shapes):
    options = [text for shape in shapes for text in ("--shape", shape)]
    done = run("profile", "--source", source, "--runs", 2, *options)
    assert done.status == 0, done.err


def test_no_room_for_the_columns(files, refused):
    message = refused("export", "head.py:with_examples", "-o", "x.onnx", "--shape", "rois=20,4", "--quiet")
    assert "shape of input 'rois': expected […, 5]: (batch index, x1, y1, x2, y2), got [20, 4]" in message
