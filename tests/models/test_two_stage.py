"""The second stages of two-stage detectors: shapes, what the papers fix, and that each part is looked at."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dcn_deploy import models
from dcn_deploy.errors import InvalidArgumentError
from dcn_deploy.models.roi_heads import FasterRCNNHead, RFCNHead
from dcn_deploy.nn import DeformConv2d, PredictsOffsets, parameter_groups
from dcn_deploy.ops import deform_roi_pool, reference

HEADS = ("faster_rcnn_dcn_v1", "faster_rcnn_dcn_v2", "rfcn_dcn")


def small(name: str, **options: object) -> nn.Module:
    return models.create(name, backbone="resnet18", **options)


def inputs(seed: int, n: int = 2, height: int = 96, width: int = 160, boxes: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(n, 3, height, width, generator=generator)
    corner = torch.rand(boxes, 2, generator=generator) * torch.tensor([width, height]) * 0.5
    size = torch.rand(boxes, 2, generator=generator) * torch.tensor([width, height]) * 0.5
    index = torch.randint(0, n, (boxes, 1), generator=generator)
    return image, torch.cat([index, corner, corner + size], dim=1)


@pytest.mark.parametrize(("name", "deltas"), [(HEADS[0], 84), (HEADS[1], 84), (HEADS[2], 8)])
@pytest.mark.parametrize("boxes", [0, 1, 9])
def test_outputs_of_any_number_of_boxes(name: str, deltas: int, boxes: int, seed: int) -> None:
    with torch.inference_mode():
        scores, changes = small(name)(*inputs(seed, boxes=boxes))
    assert scores.shape == (boxes, 21)
    assert changes.shape == (boxes, deltas)


@pytest.mark.parametrize("name", HEADS)
def test_each_box_is_answered_by_itself(name: str, seed: int) -> None:
    """The answer to a box depends on its own image and coordinates, not on the other boxes or images."""
    network = small(name)
    image, rois = inputs(seed)
    with torch.inference_mode():
        together = network(image, rois)
        order = torch.randperm(len(rois), generator=torch.Generator().manual_seed(seed))
        shuffled = network(image, rois[order])
        alone = network(image[int(rois[4, 0])][None], rois[4:5] * torch.tensor([0.0, 1, 1, 1, 1]))
    for a, b, c in zip(together, shuffled, alone, strict=True):
        torch.testing.assert_close(b, a[order], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(c, a[4:5], rtol=1e-4, atol=1e-4)
        assert a.std(dim=0).min() > 0  # different boxes, different answers


@pytest.mark.parametrize("name", HEADS)
def test_random_branches_move_the_bins(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets of about a pixel for a RoI of ten pixels on the map, whatever the backbone."""
    spreads = []

    def record(input: Tensor, rois: Tensor, offset: Tensor | None = None, *rest: object, **options: object) -> Tensor:
        if offset is not None:
            spreads.append(float(offset.std()))
        return deform_roi_pool(input, rois, offset, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("dcn_deploy.nn.deform_roi_pool.deform_roi_pool", record)
    monkeypatch.setattr("dcn_deploy.models.roi_heads.deform_roi_pool", record)
    for backbone in ("resnet18", "resnet50"):
        with torch.inference_mode():
            models.create(name, backbone=backbone)(*models.example_inputs(name))
    assert len(spreads) == 2 * (2 if name == "rfcn_dcn" else 1)
    assert all(0.3 < spread < 3 for spread in spreads), spreads


@pytest.mark.parametrize("name", HEADS)
def test_zero_branches_leave_the_bins_where_they_are(name: str, seed: int) -> None:
    network = small(name, offset_init="zero")
    assert isinstance(network, nn.Module)
    layers = [
        part for layer in network.modules() if isinstance(layer, PredictsOffsets) for part in layer.offset_layers()
    ]
    assert len(layers) >= 2
    assert all(not parameter.any() for layer in layers for parameter in layer.parameters())
    image, rois = inputs(seed)
    with torch.inference_mode():
        assert all(output.std() > 1e-3 for output in network(image, rois))


def test_faster_rcnn_pools_as_the_papers_say() -> None:
    first, second = FasterRCNNHead(512, 20, version=1).pool, FasterRCNNHead(512, 20, version=2).pool
    assert (first.variant, first.sample_per_part, first.part_size) == ("psroi", 4, (7, 7))
    assert first.offset_fc.weight.shape == (2 * 49, 256 * 49)
    assert (second.variant, second.sampling_ratio) == ("aligned", 2)
    assert [layer.out_features for layer in second.offset_mask_fc if isinstance(layer, nn.Linear)] == [1024, 1024, 147]
    for pool in (first, second):
        assert (pool.in_channels, pool.output_size, pool.gamma, pool.spatial_scale) == (256, (7, 7), 0.1, 1 / 16)


def test_rfcn_is_a_mean_of_votes(seed: int) -> None:
    """Against the reference: pool the offset fields, pool the maps with them, take the mean over the bins."""
    head = RFCNHead(8, 2)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    features = torch.randn(1, 8, 6, 10, generator=generator)
    rois = torch.tensor([[0.0, 10, 20, 90, 70], [0, 0, 0, 31, 31]])
    with torch.inference_mode():
        scores, deltas = head(features, rois)
        x = torch.relu(head.reduce(features))
        maps = {
            name: getattr(head, name)(x).numpy()
            for name in ("class_maps", "class_offset_maps", "box_maps", "box_offset_maps")
        }
    assert {name: map.shape[1] for name, map in maps.items()} == {
        "class_maps": 49 * 3,
        "class_offset_maps": 49 * 2 * 3,
        "box_maps": 49 * 8,
        "box_offset_maps": 49 * 2,
    }
    arguments = {"variant": "psroi", "output_size": (7, 7), "spatial_scale": 1 / 16, "gamma": 0.1, "group_size": 7}
    for actual, kind in ((scores, "class"), (deltas, "box")):
        offset = reference.deform_roi_pool(maps[f"{kind}_offset_maps"], rois.numpy(), **arguments)
        votes = reference.deform_roi_pool(maps[f"{kind}_maps"], rois.numpy(), offset, **arguments)
        torch.testing.assert_close(actual, torch.from_numpy(votes.mean(axis=(2, 3))).float(), rtol=1e-4, atol=1e-4)


def test_learning_rates_of_the_branches() -> None:
    for name, factors in ((HEADS[0], {1.0, 0.01}), (HEADS[1], {1.0, 0.1}), (HEADS[2], {1.0})):
        groups = parameter_groups(small(name), lr=1.0)
        assert {group["lr"] for group in groups} == factors


def test_the_last_stage_keeps_the_stride_of_16() -> None:
    network = small("rfcn_dcn")
    with torch.inference_mode():
        maps = network.backbone.stages(torch.randn(1, 3, 96, 160))
    assert [tuple(x.shape[1:]) for x in maps] == [(64, 24, 40), (128, 12, 20), (256, 6, 10), (512, 6, 10)]
    layers = [layer for layer in network.backbone.modules() if isinstance(layer, DeformConv2d)]
    assert [(layer.dilation, layer.stride, layer.offset_groups) for layer in layers] == [((2, 2), (1, 1), 4)] * 2


def test_plain_stages() -> None:
    network = small("faster_rcnn_dcn_v2", deformable_stages=())
    assert not [layer for layer in network.backbone.modules() if isinstance(layer, PredictsOffsets)]


def test_unknown_choices() -> None:
    with pytest.raises(InvalidArgumentError, match=r"version: expected 1 or 2, got 3"):
        small("faster_rcnn_dcn_v2", version=3)
    with pytest.raises(InvalidArgumentError, match=r"backbone: expected one of resnet18, resnet50, got 'vgg'"):
        models.create("rfcn_dcn", backbone="vgg")
