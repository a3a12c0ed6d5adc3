"""The networks of the zoo as engines of TensorRT-RTX for three GPUs that are not here, the demonstration's among them.

The engines cannot run here. What they are built from, the decomposed file, runs in ONNX Runtime, and is compared with
the network's plugin form in float64: in float32, and in ``mixed``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest

import dcn_deploy
from dcn_deploy import models
from dcn_deploy.engine import BuildOptions, build_engine
from dcn_deploy.export import convert_file
from dcn_deploy.validation import inputs, validate_file

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")

#: Data centre, workstation and consumer GPUs of three generations.
CAPABILITIES = ((8, 0), (8, 9), (12, 0))


@dataclass(frozen=True)
class _Network:
    """One network of the zoo at a small size.

    Attributes:
        name: its name there.
        ranges: smallest, optimal, largest shape of each input; it is validated at the optimal one.
        deformable: operators that its plugin form holds.
        options: arguments to its factory.
        reference: backend that computes what is right: "reference" is float64, and slow.
        precisions: what it is converted to.
    """

    name: str
    ranges: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
    deformable: frozenset[str]
    options: dict[str, Any] = field(default_factory=dict)
    reference: str = "reference"
    precisions: tuple[str, ...] = ("fp32", "mixed")


def _images(channels: int) -> dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    return {"input": ((1, channels, 32, 32), (2, channels, 48, 40), (4, channels, 96, 64))}


_CONVOLUTION = frozenset({"DeformConv2d"})
_HEAD: dict[str, Any] = {
    "ranges": {
        "image": ((1, 3, 64, 64), (1, 3, 64, 96), (2, 3, 128, 128)),
        "rois": ((1, 5), (3, 5), (16, 5)),
    },
    "deformable": frozenset({"DeformConv2d", "DeformRoIPool2d"}),
    "options": {"backbone": "resnet18"},
    "reference": "onnxruntime",
}

NETWORKS = (
    _Network("digits_dcn", _images(1), _CONVOLUTION),
    _Network("single_dcn", _images(64), _CONVOLUTION),
    _Network("single_dcn_v1", _images(64), _CONVOLUTION),
    _Network("resnet18_dcn", _images(3), _CONVOLUTION, reference="onnxruntime"),
    _Network("faster_rcnn_dcn_v2", **_HEAD, precisions=("fp32",)),  # RoI pooling of the variant aligned, with masks
    _Network("rfcn_dcn", **_HEAD),  # of the variant psroi, position-sensitive
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[_Network], Path]:
    """``exported(network)``: its plugin form with dynamic batch, height and width."""
    import torch

    names = {"image": {0: "n", 2: "h", 3: "w"}, "input": {0: "n", 2: "h", 3: "w"}, "rois": {0: "r"}}
    boxes = torch.tensor([[0, 4.0, 4, 40, 50], [0, 2, 3, 60, 60], [0, 9, 9, 20, 30]])

    @functools.cache
    def export(name: str) -> Path:
        network = next(each for each in NETWORKS if each.name == name)
        path = tmp_path_factory.mktemp(name) / "plugin.onnx"
        dcn_deploy.export(
            models.create(name, **network.options),
            tuple(
                boxes if key == "rois" else torch.randn(2, *best[1:]) for key, (_, best, _) in network.ranges.items()
            ),
            path,
            input_names=list(network.ranges),
            dynamic_shapes={key: names[key] for key in network.ranges},
        )
        return path

    return lambda network: export(network.name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "precision"),
    [
        pytest.param(network, precision, id=f"{network.name}-{precision}")
        for network in NETWORKS
        for precision in network.precisions
    ],
)
def test_a_network_becomes_an_engine(
    exported: Callable[[_Network], Path], tmp_path: Path, seed: int, network: _Network, precision: str
) -> None:
    plugin = exported(network)
    assert network.deformable <= {node.op_type for node in onnx.load(plugin).graph.node}
    decomposed = tmp_path / "decomposed.onnx"
    convert_file(plugin, decomposed, "decomposed", precision=precision)
    _is_right(network, plugin, decomposed, seed)
    result = build_engine(
        decomposed,
        tmp_path / "model.engine",
        backend="tensorrt-rtx",
        profiles=[network.ranges],
        options=BuildOptions(capabilities=CAPABILITIES),
    )
    metadata = result.metadata
    assert (metadata.form, metadata.precision) == ("decomposed", precision)
    assert metadata.capabilities == CAPABILITIES
    assert metadata.profiles == (network.ranges,)
    weights = sum(tensor.ByteSize() for tensor in onnx.load(decomposed).graph.initializer)
    # Smaller than its weights it would not be this network; much larger, it would hold them several times.
    assert 0.9 * weights < metadata.engine_bytes < 3 * weights + 4_000_000


def _is_right(network: _Network, plugin: Path, decomposed: Path, seed: int) -> None:
    shapes = {name: optimal for name, (_, optimal, _) in network.ranges.items()}
    feeds: Callable[..., Any] = partial(inputs.generated, count=1, seed=seed, shapes=shapes)
    report = validate_file(
        decomposed,
        ["onnxruntime"],
        resolve=models.resolve,
        reference=str(plugin),
        reference_backend=network.reference,
        make_feeds=feeds,
        threads=1,
    )
    assert report.passed, report.to_json()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_demonstrations_network_in_half(tmp_path: Path, precision: str) -> None:
    """All of it in half, of fixed shape, straight from the plugin form."""
    import torch

    plugin, half = tmp_path / "plugin.onnx", tmp_path / "half.onnx"
    dcn_deploy.export(models.create("digits_dcn"), (torch.randn(1, 1, 32, 32),), plugin, input_names=["input"])
    convert_file(plugin, half, precision=precision)
    result = build_engine(
        half, tmp_path / "m.engine", backend="tensorrt-rtx", options=BuildOptions(capabilities=CAPABILITIES)
    )
    assert (result.metadata.form, result.metadata.precision) == ("decomposed", precision)
    assert result.metadata.profiles == ()
