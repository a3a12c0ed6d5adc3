"""The demonstration's classifier of handwritten digits, deformable or plain."""

from __future__ import annotations

from dcn_deploy import _lazy

_lazy.require("torch", "dcn_deploy.models")

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from dcn_deploy.models.initialisation import OffsetInit, fixed_seed, initialise  # noqa: E402
from dcn_deploy.nn import ModulatedDeformConv2d  # noqa: E402

#: Output channels of the five convolutions; the last three are the ones under comparison.
WIDTHS = (16, 32, 64, 64, 64)


class DigitsNet(nn.Module):
    """Two plain 3×3 convolutions, three deformable or plain ones, mean over the map, linear classifier.

    Takes grey images ``(N, 1, 32, 32)`` with values in [0, 1], gives logits ``(N, 10)``. Each convolution is
    followed by batch normalisation and ReLU; the maps are 16, 16, 8, 8 and 4 pixels wide.

    Args:
        deformable: make the last three convolutions deformable (v2), or plain ones of the same width.
        num_classes: number of logits.
        offset_init: how branches that predict offsets start; see :func:`dcn_deploy.models.create`.
        seed: of the initial weights.
    """

    def __init__(
        self,
        deformable: bool = True,
        num_classes: int = 10,
        offset_init: OffsetInit = "random",
        seed: int = 0,
    ) -> None:
        super().__init__()
        kind = ModulatedDeformConv2d if deformable else nn.Conv2d
        with fixed_seed(seed):
            self.conv1 = nn.Conv2d(1, WIDTHS[0], 3, stride=2, padding=1, bias=False)
            self.norm1 = nn.BatchNorm2d(WIDTHS[0])
            self.conv2 = nn.Conv2d(WIDTHS[0], WIDTHS[1], 3, padding=1, bias=False)
            self.norm2 = nn.BatchNorm2d(WIDTHS[1])
            self.conv3 = kind(WIDTHS[1], WIDTHS[2], 3, stride=2, padding=1, bias=False)
            self.norm3 = nn.BatchNorm2d(WIDTHS[2])
            self.conv4 = kind(WIDTHS[2], WIDTHS[3], 3, padding=1, bias=False)
            self.norm4 = nn.BatchNorm2d(WIDTHS[3])
            self.conv5 = kind(WIDTHS[3], WIDTHS[4], 3, stride=2, padding=1, bias=False)
            self.norm5 = nn.BatchNorm2d(WIDTHS[4])
            self.classifier = nn.Linear(WIDTHS[-1], num_classes)
            initialise(self, offset_init)

    def forward(self, input: Tensor) -> Tensor:
        """Return the logits of the ten digits."""
        x = torch.relu(self.norm1(self.conv1(input)))
        x = torch.relu(self.norm2(self.conv2(x)))
        x = torch.relu(self.norm3(self.conv3(x)))
        x = torch.relu(self.norm4(self.conv4(x)))
        x = torch.relu(self.norm5(self.conv5(x)))
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))
        return logits
