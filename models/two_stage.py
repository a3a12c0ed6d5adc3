"""Detectors from images and given boxes to class scores and box deltas: a residual backbone and a second stage.

The first stage, which proposes the boxes, is no part of them: it holds nothing deformable, and its boxes are an input,
so that a file can be run on the boxes of any proposer, tracker or annotator.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from dcn_deploy import _lazy

_lazy.require("torch", "dcn_deploy.models")

from torch import Tensor, nn  # noqa: E402

from dcn_deploy.models import resnet  # noqa: E402
from dcn_deploy.models.initialisation import OffsetInit, fixed_seed, initialise  # noqa: E402
from dcn_deploy.models.roi_heads import FasterRCNNHead, RFCNHead  # noqa: E402


class TwoStage(nn.Module):
    """A backbone with stride 16 and a head that pools RoIs from its map.

    Shape:
        image [N, 3, H, W], rois [R, 5] = (batch index, x1, y1, x2, y2) in pixels of the image → class scores
        [R, classes + 1] and box deltas; see the head.
    """

    def __init__(self, backbone: resnet.ResNetStages, head: FasterRCNNHead | RFCNHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, image: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Return class scores and box deltas of each RoI."""
        scores, deltas = self.head(self.backbone(image), rois)
        return scores, deltas


def faster_rcnn(
    version: Literal[1, 2] = 2,
    backbone: str = "resnet50",
    deformable_stages: Collection[int] | None = None,
    num_classes: int = 20,
    offset_init: OffsetInit = "random",
    seed: int = 0,
) -> TwoStage:
    """Return the second stage of Faster R-CNN with deformable RoI pooling.

    Args:
        version: of the deformable convolutions and of the pooling.
        backbone: ``"resnet18"`` or ``"resnet50"``; its last stage is dilated, so the map has stride 16.
        deformable_stages: stages of the backbone with deformable convolutions; None: those of the papers, 5 for
            version 1 and 3 to 5 for version 2.
        num_classes: classes without the background.
        offset_init: how the branches that predict offsets start; see :func:`dcn_deploy.models.create`.
        seed: of the initial weights.

    Raises:
        InvalidArgumentError: for an unknown version, backbone or stage.
    """
    if deformable_stages is None:
        deformable_stages = (5,) if version == 1 else (3, 4, 5)
    with fixed_seed(seed):
        features = resnet.stages(backbone, deformable_stages, version, dilated=True)
        head = FasterRCNNHead(features.out_channels, num_classes, version)
        return _initialised(TwoStage(features, head), offset_init)


def rfcn(
    backbone: str = "resnet50",
    deformable_stages: Collection[int] = (5,),
    num_classes: int = 20,
    offset_init: OffsetInit = "random",
    seed: int = 0,
) -> TwoStage:
    """Return the second stage of R-FCN with deformable position-sensitive RoI pooling and v1 convolutions.

    Args:
        backbone: ``"resnet18"`` or ``"resnet50"``; its last stage is dilated, so the map has stride 16.
        deformable_stages: stages of the backbone with deformable convolutions.
        num_classes: classes without the background.
        offset_init: how the branches that predict offsets start; see :func:`dcn_deploy.models.create`.
        seed: of the initial weights.

    Raises:
        InvalidArgumentError: for an unknown backbone or stage.
    """
    with fixed_seed(seed):
        features = resnet.stages(backbone, deformable_stages, 1, dilated=True)
        return _initialised(TwoStage(features, RFCNHead(features.out_channels, num_classes)), offset_init)


def _initialised(network: TwoStage, offset_init: OffsetInit) -> TwoStage:
    initialise(network, offset_init)
    resnet.scale_residuals(network)
    resnet.level_shortcuts(network)
    for layer in network.head.children():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return network
