"""The limits of whole networks against what float32 does to them, however far their offsets reach."""

from __future__ import annotations

import copy

import onnx
import pytest

import dcn_deploy
from dcn_deploy import models
from dcn_deploy.validation import compare
from dcn_deploy.validation.bounds import Bounds


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "scale"),
    # One layer has nothing behind it that averages: there the offsets must stay near what the rule allows for.
    [(name, scale) for name in ("digits_dcn", "resnet18_dcn") for scale in (1, 4, 16)]
    + [("single_dcn", 1), ("single_dcn", 4)],
)
def test_float32_stays_within_the_limit(tmp_path, seed, name, scale):
    """PyTorch in float32 against itself in float64; ``scale`` multiplies the predicted offsets (about a pixel)."""
    import torch

    network = models.create(name)
    with torch.no_grad():
        for parameter_name, parameter in network.named_parameters():
            if "conv_offset" in parameter_name:
                parameter.mul_(scale)
    shape = next(iter(models.entry(name).inputs.values()))
    shape = (*shape[:2], min(shape[2], 96), min(shape[3], 96))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    dcn_deploy.export(network, x, tmp_path / "m.onnx", form="plugin", output_names=("y",))
    limit = Bounds(onnx.load(tmp_path / "m.onnx")).limit("y", "torch")
    with torch.no_grad():
        rounded = network(x).numpy()
        exact = copy.deepcopy(network).double()(x.double()).numpy()
    comparison = compare(rounded, exact)
    assert limit / 1000 < comparison.relative_rms < limit, comparison
