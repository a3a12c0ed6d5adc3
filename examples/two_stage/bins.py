"""Where the deformable RoI pooling of a network looks: every sample of every bin, in pixels of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class Pooling:
    """The samples of one pooling of a network.

    Attributes:
        regular: [R, pH, pW, S, 2] x and y of the S samples of each bin without offsets.
        deformed: [R, classes, pH, pW, S, 2] with them.
    """

    regular: Tensor
    deformed: Tensor


def poolings(network: nn.Module, image: Tensor, rois: Tensor) -> list[Pooling]:
    """Run a network and return its poolings that have offsets, in the order in which they are computed.

    Args:
        network: takes images and RoIs; every pooling of the variant ``aligned`` has a fixed sampling ratio.
        image: [N, 3, H, W].
        rois: [R, 5] (batch index, x1, y1, x2, y2) in pixels of the image.
    """
    recorder = _Recorder()
    with torch.no_grad(), recorder:
        network(image, rois)
    return recorder.poolings


class _Recorder(TorchDispatchMode):
    """Looks at the arguments of each call of the operator, below the layers, whoever calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.poolings: list[Pooling] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.dcn_deploy.deform_roi_pool.default:
            _, rois, offset, _, variant, output_size, scale, gamma, ratio, samples, *_ = args
            if offset is not None:
                grid = ratio if variant == "aligned" else samples
                self.poolings.append(_samples(rois, offset, variant, output_size, scale, gamma, grid))
        return func(*args, **(kwargs or {}))


def _samples(
    rois: Tensor, offset: Tensor, variant: str, output_size: list[int], scale: float, gamma: float, grid: int
) -> Pooling:
    """Return the samples by the formulas of docs/operators.md, written out once more."""
    first, last = rois[:, 1:3].double(), rois[:, 3:5].double()  # [R, 2], x first
    if variant == "aligned":
        start, end, step = first * scale - 0.5, last * scale - 0.5, 0.5
        size = end - start
    else:  # coordinates in images are not negative: floor(v + ½) rounds halves away from zero
        start, end, step = (first + 0.5).floor() * scale - 0.5, ((last + 0.5).floor() + 1) * scale - 0.5, 0.0
        size = (end - start).clamp(min=0.1)
    height, width = output_size
    bins = torch.stack(
        torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"), dim=-1
    ).double()  # [pH, pW, 2]
    cells = (torch.arange(grid).double() + step) / grid
    inner = torch.stack(torch.meshgrid(cells, cells, indexing="xy"), dim=-1).reshape(-1, 2)  # [S, 2]
    bin_size = size / torch.tensor([width, height])
    place = (bins[:, :, None] + inner)[None] * bin_size[:, None, None, None] + start[:, None, None, None]
    # The offset of the bin's part: [R, classes, 2, part, part] → [R, classes, pH, pW, 2].
    fields = offset.double().unflatten(1, (-1, 2))
    rows = torch.arange(height) * fields.shape[3] // height
    columns = torch.arange(width) * fields.shape[4] // width
    shift = fields[:, :, :, rows][..., columns].permute(0, 1, 3, 4, 2) * gamma * size[:, None, None, None]
    moved = place[:, None] + shift[..., None, :]
    return Pooling((place + 0.5) / scale, (moved + 0.5) / scale)
