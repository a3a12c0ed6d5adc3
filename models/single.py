"""One packed layer, for measuring and debugging the operator by itself."""

from __future__ import annotations

from dcn_deploy import _lazy

_lazy.require("torch", "dcn_deploy.models")

from torch import Tensor, nn  # noqa: E402

from dcn_deploy.models.initialisation import OffsetInit, fixed_seed, initialise  # noqa: E402
from dcn_deploy.nn import DeformConv2d, ModulatedDeformConv2d  # noqa: E402


class SingleLayer(nn.Module):
    """A deformable layer and nothing else: ``(N, C, H, W)`` → ``(N, M, Ho, Wo)``."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer."""
        output: Tensor = self.layer(input)
        return output


def single_dcn(
    in_channels: int = 64,
    out_channels: int = 64,
    kernel_size: int = 3,
    stride: int = 1,
    offset_groups: int = 1,
    offset_init: OffsetInit = "random",
    seed: int = 0,
) -> SingleLayer:
    """Return one modulated (v2) layer whose padding keeps the size at stride 1."""
    return _single(
        ModulatedDeformConv2d, in_channels, out_channels, kernel_size, stride, offset_groups, offset_init, seed
    )


def single_dcn_v1(
    in_channels: int = 64,
    out_channels: int = 64,
    kernel_size: int = 3,
    stride: int = 1,
    offset_groups: int = 1,
    offset_init: OffsetInit = "random",
    seed: int = 0,
) -> SingleLayer:
    """Return one v1 layer (no mask) whose padding keeps the size at stride 1."""
    return _single(DeformConv2d, in_channels, out_channels, kernel_size, stride, offset_groups, offset_init, seed)


def _single(
    kind: type[DeformConv2d] | type[ModulatedDeformConv2d],
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int,
    offset_groups: int,
    offset_init: OffsetInit,
    seed: int,
) -> SingleLayer:
    with fixed_seed(seed):
        layer = kind(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            offset_groups=offset_groups,
        )
        network = SingleLayer(layer)
        initialise(network, offset_init)
    return network
