"""Residual networks whose 3×3 convolutions may be deformable from a chosen stage on.

Sources: He et al., 2016, "Deep residual learning for image recognition", table 1, with the stride of a
bottleneck on its 3×3 convolution, as in torchvision; Zhu et al., 2019, "Deformable ConvNets v2: more
deformable, better results", section 4.1, for deformable 3×3 convolutions in stages conv3 to conv5.
"""

from __future__ import annotations

from collections.abc import Collection

from dcn_deploy import _lazy
from dcn_deploy.errors import InvalidArgumentError, describe

_lazy.require("torch", "dcn_deploy.models")

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from dcn_deploy.models.initialisation import OffsetInit, fixed_seed, initialise  # noqa: E402
from dcn_deploy.nn import ModulatedDeformConv2d  # noqa: E402

#: Initial scale of the last normalisation in each block: keeps the activations of an untrained network of order one.
_RESIDUAL_SCALE = 0.3


def _conv3x3(in_channels: int, out_channels: int, stride: int, deformable: bool) -> nn.Module:
    if deformable:
        return ModulatedDeformConv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut: ``(N, C, H, W)`` → ``(N, width, H/stride, W/stride)``.

    Only the second one is deformable: the first takes the stride, and the paper's networks have bottlenecks only.
    """

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, stride: int, downsample: nn.Module | None, deformable: bool
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(width, width, 1, deformable)
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
        self, in_channels: int, width: int, stride: int, downsample: nn.Module | None, deformable: bool
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, stride, deformable)
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


class ResNet(nn.Module):
    """Stem, four stages of residual blocks, mean over the map, linear classifier.

    Takes ``(N, 3, H, W)``, gives logits ``(N, num_classes)``. The names of parameters and buffers are
    torchvision's. The paper counts the stem as stage 1, so ``layer1`` to ``layer4`` are stages 2 to 5.

    Args:
        block: kind of residual block.
        depths: number of blocks in each of the four stages.
        deformable_stages: which of the stages 2 to 5 get deformable 3×3 convolutions.
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
        super().__init__()
        outside = sorted(set(deformable_stages) - {2, 3, 4, 5})
        if outside:
            raise InvalidArgumentError(describe("deformable_stages", expected="some of 2, 3, 4, 5", actual=outside))
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        stages = []
        channels = 64
        for index, depth in enumerate(depths):
            width = 64 << index
            stages.append(_stage(block, channels, width, depth, 1 if index == 0 else 2, index + 2 in deformable_stages))
            channels = width * block.expansion
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, input: Tensor) -> Tensor:
        """Return the logits of each class."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(input))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    in_channels: int,
    width: int,
    depth: int,
    stride: int,
    deformable: bool,
) -> nn.Sequential:
    out_channels = width * block.expansion
    downsample = None
    if stride != 1 or in_channels != out_channels:
        downsample = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
            nn.BatchNorm2d(out_channels),
        )
    blocks = [block(in_channels, width, stride, downsample, deformable)]
    blocks += [block(out_channels, width, 1, None, deformable) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)


def resnet18(
    deformable_stages: Collection[int] = (),
    num_classes: int = 1000,
    offset_init: OffsetInit = "random",
    seed: int = 0,
) -> ResNet:
    """Return an 18-layer network of basic blocks."""
    return _build(BasicBlock, (2, 2, 2, 2), deformable_stages, num_classes, offset_init, seed)


def resnet50(
    deformable_stages: Collection[int] = (),
    num_classes: int = 1000,
    offset_init: OffsetInit = "random",
    seed: int = 0,
) -> ResNet:
    """Return a 50-layer network of bottlenecks."""
    return _build(Bottleneck, (3, 4, 6, 3), deformable_stages, num_classes, offset_init, seed)


def _build(
    block: type[BasicBlock] | type[Bottleneck],
    depths: tuple[int, int, int, int],
    deformable_stages: Collection[int],
    num_classes: int,
    offset_init: OffsetInit,
    seed: int,
) -> ResNet:
    with fixed_seed(seed):
        network = ResNet(block, depths, deformable_stages, num_classes)
        initialise(network, offset_init)
        for layer in network.modules():
            if isinstance(layer, BasicBlock | Bottleneck):
                nn.init.constant_(layer.last_norm.weight, _RESIDUAL_SCALE)
    return network
