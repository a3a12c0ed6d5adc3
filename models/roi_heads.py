"""Second stages of two-stage detectors: from a feature map and boxes to class scores and box deltas.

Sources: Dai et al., 2017, "Deformable convolutional networks", sections 2.2, 2.3 and 3 with the authors' code, for
Faster R-CNN with deformable RoI pooling and R-FCN with its position-sensitive kind; Zhu et al., 2019, "Deformable
ConvNets v2: more deformable, better results", section 3.2, for modulated deformable RoI pooling.
"""

from __future__ import annotations

from typing import Literal

from dcn_deploy import _lazy
from dcn_deploy.errors import InvalidArgumentError, describe

_lazy.require("torch", "dcn_deploy.models")

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from dcn_deploy.nn import DeformRoIPool2d, ModulatedDeformRoIPool2d, PredictsOffsets  # noqa: E402
from dcn_deploy.ops import deform_roi_pool  # noqa: E402

#: Height and width of a pooled RoI, in bins, and of its offsets.
POOLED = 7
#: Samples a bin and axis of the psroi variant.
SAMPLES = 4
#: Samples a bin and axis of the aligned variant.
SAMPLING_RATIO = 2
#: Offset of 1 → this fraction of the RoI's size.
GAMMA = 0.1
#: Channels of the map that is pooled.
FASTER_RCNN_CHANNELS = 256
#: Channels of the map from which R-FCN's fields are made.
RFCN_CHANNELS = 1024
#: Width of the fully connected layers.
HIDDEN = 1024


class FasterRCNNHead(nn.Module):
    """1×1 convolution, deformable RoI pooling, two fully connected layers; then class scores and box deltas.

    Version 1 is the authors' network: the psroi variant with one group, whose offsets a fully connected layer
    predicts from the RoI pooled without them. Version 2 pools as RoIAlign does (``aligned`` with 2×2 samples a bin,
    the grid that the paper names) and predicts a mask as well. The paper of version 2 gives no gamma; 0.1 is what its
    implementations use.

    Args:
        in_channels: channels of the feature map.
        num_classes: classes without the background.
        version: 1 or 2.
        spatial_scale: pixels of the feature map in a pixel of the image.

    Shape:
        features [N, in_channels, H, W], rois [R, 5] → class scores [R, num_classes + 1] before the softmax, background
        first, and box deltas [R, 4·(num_classes + 1)], four for each class.

    Raises:
        InvalidArgumentError: for another version.
    """

    def __init__(
        self, in_channels: int, num_classes: int, version: Literal[1, 2] = 2, spatial_scale: float = 1 / 16
    ) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(in_channels, FASTER_RCNN_CHANNELS, 1)
        if version == 1:
            self.pool: DeformRoIPool2d | ModulatedDeformRoIPool2d = DeformRoIPool2d(
                FASTER_RCNN_CHANNELS, POOLED, spatial_scale, variant="psroi", sample_per_part=SAMPLES, gamma=GAMMA
            )
        elif version == 2:
            self.pool = ModulatedDeformRoIPool2d(
                FASTER_RCNN_CHANNELS, POOLED, spatial_scale, sampling_ratio=SAMPLING_RATIO, gamma=GAMMA
            )
        else:
            raise InvalidArgumentError(describe("version", expected="1 or 2", actual=repr(version)))
        self.fc1 = nn.Linear(FASTER_RCNN_CHANNELS * POOLED * POOLED, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, HIDDEN)
        self.class_scores = nn.Linear(HIDDEN, num_classes + 1)
        self.box_deltas = nn.Linear(HIDDEN, 4 * (num_classes + 1))

    def forward(self, features: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Return class scores and box deltas of each RoI."""
        x = self.pool(torch.relu(self.reduce(features)), rois)
        x = torch.relu(self.fc1(torch.flatten(x, 1)))
        x = torch.relu(self.fc2(x))
        return self.class_scores(x), self.box_deltas(x)


class RFCNHead(PredictsOffsets):
    """Convolutions alone, and votes of position-sensitive bins: R-FCN with deformable pooling.

    A 1×1 convolution, then four more side by side that give, for each of the 7×7 bins, a map of its own: scores of
    each class, box deltas, and offset fields for both. Pooling the offset fields without offsets gives the offsets of
    each RoI, class and part; pooling scores and deltas with those gives 7×7 votes, whose mean is the answer. Offsets of
    the scores are the class's own; the two sets of four deltas (background, object) share theirs.

    Args:
        in_channels: channels of the feature map.
        num_classes: classes without the background.
        spatial_scale: pixels of the feature map in a pixel of the image.

    Shape:
        features [N, in_channels, H, W], rois [R, 5] → class scores [R, num_classes + 1] before the softmax, background
        first, and box deltas [R, 8]: four for the background, which nobody uses, and four for an object of any class.
    """

    offset_lr_mult = 1.0

    def __init__(self, in_channels: int, num_classes: int, spatial_scale: float = 1 / 16) -> None:
        super().__init__()
        bins = POOLED * POOLED
        self.spatial_scale = spatial_scale
        self.reduce = nn.Conv2d(in_channels, RFCN_CHANNELS, 1)
        self.class_maps = nn.Conv2d(RFCN_CHANNELS, bins * (num_classes + 1), 1)
        self.box_maps = nn.Conv2d(RFCN_CHANNELS, bins * 8, 1)
        self.class_offset_maps = nn.Conv2d(RFCN_CHANNELS, bins * 2 * (num_classes + 1), 1)
        self.box_offset_maps = nn.Conv2d(RFCN_CHANNELS, bins * 2, 1)
        self._zero_offset_layers()

    def offset_branches(self) -> tuple[nn.Module, ...]:
        """Return the layers that predict offset fields."""
        return self.offset_layers()

    def offset_layers(self) -> tuple[nn.Conv2d | nn.Linear, ...]:
        """Return the layers that predict offset fields: zero in a new head, as in the authors' code."""
        return self.class_offset_maps, self.box_offset_maps

    def forward(self, features: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Return class scores and box deltas of each RoI."""
        x = torch.relu(self.reduce(features))
        class_offset = self._pool(self.class_offset_maps(x), rois)
        box_offset = self._pool(self.box_offset_maps(x), rois)
        class_votes = self._pool(self.class_maps(x), rois, class_offset)
        box_votes = self._pool(self.box_maps(x), rois, box_offset)
        return class_votes.mean(dim=(2, 3)), box_votes.mean(dim=(2, 3))

    def _pool(self, maps: Tensor, rois: Tensor, offset: Tensor | None = None) -> Tensor:
        return deform_roi_pool(
            maps,
            rois,
            offset,
            variant="psroi",
            output_size=POOLED,
            spatial_scale=self.spatial_scale,
            gamma=GAMMA,
            sample_per_part=SAMPLES,
            group_size=POOLED,
        )
