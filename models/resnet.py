"""Residual networks whose 3×3 convolutions may be deformable from a chosen stage on.

Sources: He et al., 2016, "Deep residual learning for image recognition", table 1, with the stride of a
bottleneck on its 3×3 convolution, as in torchvision; Zhu et al., 2019, "Deformable ConvNets v2: more
deformable, better results", section 4.1, for deformable 3×3 convolutions in stages conv3 to conv5; Dai
et al., 2017, "Deformable convolutional networks", section 2.3, for a last stage that keeps the stride of 16.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal

from dcn_deploy import _lazy
from dcn_deploy.errors import InvalidArgumentError, describe

_lazy.require("torch", "dcn_deploy.models")

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from dcn_deploy.models.initialisation import OffsetInit, fixed_seed, initialise  # noqa: E402
from dcn_deploy.nn import DeformConv2d, ModulatedDeformConv2d  # noqa: E402

#: A plain 3×3 convolution, or a deformable one of version 1 or 2.
Kind = Literal["plain", "v1", "v2"]

#: Initial scale of the last normalisation in each block: keeps the activations of an untrained network of order one.
_RESIDUAL_SCALE = 0.3


#: Channel groups with offsets of their own in a v1 layer: what the authors' detectors have.
_V1_OFFSET_GROUPS = 4


def _conv3x3(in_channels: int, out_channels: int, stride: int, dilation: int, kind: Kind) -> nn.Module:
    """Return a 3×3 convolution without bias whose padding keeps the size at stride 1."""
    if kind == "v1":
        return DeformConv2d(
            in_channels, out_channels, 3, stride, dilation, dilation, offset_groups=_V1_OFFSET_GROUPS, bias=False
        )
    layer = ModulatedDeformConv2d if kind == "v2" else nn.Conv2d
    return layer(in_channels, out_channels, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut: ``(N, C, H, W)`` → ``(N, width, H/stride, W/stride)``.

    Only the second one is deformable: the first takes the stride, and the paper's networks have bottlenecks only.
    """

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, stride: int, dilation: int, downsample: nn.Sequential | None, kind: Kind
    ) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, width, stride, dilation, "plain")
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(width, width, 1, dilation, kind)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(x + f(x))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + shortcut)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The normalisation just before the addition."""
        return self.bn2


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 beside a shortcut: ``(N, C, H, W)`` → ``(N, 4·width, H/stride, W/stride)``."""

    expansion = 4

    def __init__(
        self, in_channels: int, width: int, stride: int, dilation: int, downsample: nn.Sequential | None, kind: Kind
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, stride, dilation, kind)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(x + f(x))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + shortcut)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The normalisation just before the addition."""
        return self.bn3


class ResNetStages(nn.Module):
    """Stem and four stages of residual blocks: a backbone.

    Takes ``(N, 3, H, W)``, gives the map of the last stage ``(N, out_channels, H/32, W/32)``, or with ``dilated``
    ``(N, out_channels, H/16, W/16)``. The names of parameters and buffers are torchvision's. The paper counts the stem
    as stage 1, so ``layer1`` to ``layer4`` are stages 2 to 5.

    Args:
        block: kind of residual block.
        depths: number of blocks in each of the four stages.
        deformable_stages: which of the stages 2 to 5 get deformable 3×3 convolutions.
        version: of the deformable convolutions; those of version 1 have four offset groups, as the authors' do.
        dilated: give the last stage stride 1 and all its 3×3 convolutions dilation 2 instead, as detectors do whose
            RoIs need more than 1/32 of the image's resolution.

    Attributes:
        out_channels: channels of the last stage's map.

    Raises:
        InvalidArgumentError: for a stage outside 2 to 5, or another version.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        deformable_stages: Collection[int] = (),
        version: Literal[1, 2] = 2,
        dilated: bool = False,
    ) -> None:
        super().__init__()
        outside = sorted(set(deformable_stages) - {2, 3, 4, 5})
        if outside:
            raise InvalidArgumentError(describe("deformable_stages", expected="some of 2, 3, 4, 5", actual=outside))
        if version not in (1, 2):
            raise InvalidArgumentError(describe("version", expected="1 or 2", actual=repr(version)))
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        stages = []
        channels = 64
        for index, depth in enumerate(depths):
            width = 64 << index
            stride, dilation = 1 if index == 0 else 2, 1
            if dilated and index == 3:
                stride, dilation = 1, 2
            kind: Kind = "plain" if index + 2 not in deformable_stages else "v1" if version == 1 else "v2"
            stages.append(_stage(block, channels, width, depth, stride, dilation, kind))
            channels = width * block.expansion
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.out_channels = channels

    def stages(self, input: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the maps of stages 2 to 5, at 1/4, 1/8, 1/16 and 1/32 (``dilated``: 1/16) of the input's size."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(input))))
        c2 = self.layer1(x)
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return c2, c3, c4, self.layer4(c4)

    def forward(self, input: Tensor) -> Tensor:
        """Return the map of the last stage."""
        return self.stages(input)[-1]


class ResNet(ResNetStages):
    """Stem, four stages of residual blocks, mean over the map, linear classifier.

    Takes ``(N, 3, H, W)``, gives logits ``(N, num_classes)``.

    Args:
        block: kind of residual block.
        depths: number of blocks in each of the four stages.
        deformable_stages: which of the stages 2 to 5 get deformable 3×3 convolutions (v2).
        num_classes: number of logits.

    Raises:
        InvalidArgumentError: for a stage outside 2 to 5.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        deformable_stages: Collection[int] = (),
        num_classes: int = 1000,
    ) -> None:
        super().__init__(block, depths, deformable_stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.out_channels, num_classes)

    def forward(self, input: Tensor) -> Tensor:
        """Return the logits of each class."""
        x = super().forward(input)
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    in_channels: int,
    width: int,
    depth: int,
    stride: int,
    dilation: int,
    kind: Kind,
) -> nn.Sequential:
    out_channels = width * block.expansion
    downsample = None
    if stride != 1 or in_channels != out_channels:
        downsample = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
            nn.BatchNorm2d(out_channels),
        )
    blocks = [block(in_channels, width, stride, dilation, downsample, kind)]
    blocks += [block(out_channels, width, 1, dilation, None, kind) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)


#: Block and depths of each backbone by name.
_LAYOUTS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}


def resnet18(
    deformable_stages: Collection[int] = (),
    num_classes: int = 1000,
    offset_init: OffsetInit = "random",
    seed: int = 0,
) -> ResNet:
    """Return an 18-layer network of basic blocks."""
    return _build("resnet18", deformable_stages, num_classes, offset_init, seed)


def resnet50(
    deformable_stages: Collection[int] = (),
    num_classes: int = 1000,
    offset_init: OffsetInit = "random",
    seed: int = 0,
) -> ResNet:
    """Return a 50-layer network of bottlenecks."""
    return _build("resnet50", deformable_stages, num_classes, offset_init, seed)


def stages(
    name: str, deformable_stages: Collection[int] = (), version: Literal[1, 2] = 2, dilated: bool = False
) -> ResNetStages:
    """Return the backbone called ``name``, not yet initialised; see :class:`ResNetStages`.

    Raises:
        InvalidArgumentError: for an unknown name, stage or version.
    """
    if name not in _LAYOUTS:
        raise InvalidArgumentError(describe("backbone", expected=f"one of {', '.join(_LAYOUTS)}", actual=repr(name)))
    return ResNetStages(*_LAYOUTS[name], deformable_stages, version, dilated)


def scale_residuals(network: nn.Module) -> None:
    """Scale the last normalisation of every block so that the activations of an untrained network are of order one."""
    for layer in network.modules():
        if isinstance(layer, BasicBlock | Bottleneck):
            nn.init.constant_(layer.last_norm.weight, _RESIDUAL_SCALE)


def level_shortcuts(network: nn.Module) -> None:
    """Scale the normalisation of every projecting shortcut so that an untrained network does not amplify.

    Convolutions are initialised for a ReLU behind them, which halves the mean square; a shortcut has none, so that each
    of the four stages would double it.
    """
    for layer in network.modules():
        if isinstance(layer, BasicBlock | Bottleneck) and layer.downsample is not None:
            norm = layer.downsample[1]
            assert isinstance(norm, nn.BatchNorm2d)
            nn.init.constant_(norm.weight, math.sqrt(0.5))


def _build(
    name: str, deformable_stages: Collection[int], num_classes: int, offset_init: OffsetInit, seed: int
) -> ResNet:
    with fixed_seed(seed):
        network = ResNet(*_LAYOUTS[name], deformable_stages, num_classes)
        initialise(network, offset_init)
        scale_residuals(network)
    return network
