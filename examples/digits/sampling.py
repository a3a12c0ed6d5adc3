"""Where the three deformable layers look: the places in the image that one output pixel is computed from.

From one pixel of the last deformable layer's output, its nine taps' places in the layer's input; each is rounded
to a pixel of the layer below and expanded again, 9³ = 729 places in all (Dai et al., 2017, "Deformable
convolutional networks", figure 6). A place that leaves its map is dropped with everything below it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dcn_deploy.nn import ModulatedDeformConv2d


@dataclass(frozen=True)
class SamplingPicture:
    """The places one output pixel is computed from.

    Attributes:
        centre: ``(2,)`` x and y of the output pixel, in image pixels.
        places: ``(K, 2)`` x and y of each sampled place, in image pixels, K ≤ 729.
        weights: ``(K,)`` product of the mask values along the way, in (0, 1).
        regular: x, y, width and height of the box that the plain twin's places span, in image pixels.
    """

    centre: Tensor
    places: Tensor
    weights: Tensor
    regular: tuple[float, float, float, float]


@torch.inference_mode()
def sampling_picture(network: nn.Module, image: Tensor, digit: int) -> SamplingPicture:
    """Return where the evidence for ``digit`` is sampled from.

    The output pixel is the one that speaks most for the digit: the classifier is linear in the mean over the
    last map, so the score is a sum over that map's pixels (Zhou et al., 2016, class activation mapping).

    Args:
        network: a ``digits_dcn``.
        image: ``(1, 32, 32)``.
        digit: whose evidence to look at.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, ModulatedDeformConv2d)]
    branches: dict[nn.Module, Tensor] = {}
    sizes: dict[nn.Module, tuple[int, int]] = {}
    last_map: list[Tensor] = []

    def record(layer: ModulatedDeformConv2d) -> None:
        def branch(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            branches[layer] = output[0]
            sizes[layer] = (args[0].shape[-2], args[0].shape[-1])

        handles.append(layer.conv_offset.register_forward_hook(branch))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for layer in layers:
        record(layer)
    last_norm = network.get_submodule("norm5")
    handles.append(last_norm.register_forward_hook(lambda module, args, output: last_map.append(output[0].relu())))
    try:
        network(image[None])
    finally:
        for handle in handles:
            handle.remove()

    classifier = network.get_submodule("classifier")
    assert isinstance(classifier, nn.Linear)
    evidence = torch.einsum("c,chw->hw", classifier.weight[digit], last_map[0])
    best = int(evidence.argmax())
    out_y, out_x = divmod(best, evidence.shape[1])
    y, x, weight = torch.tensor([out_y]), torch.tensor([out_x]), torch.ones(1)
    centre = torch.tensor([(out_x + 0.5) / evidence.shape[1], (out_y + 0.5) / evidence.shape[0]])
    regular_y, regular_x = (float(out_y), float(out_y)), (float(out_x), float(out_x))
    places = torch.empty(0, 2)
    for layer in reversed(layers):
        height, width = sizes[layer]
        stride, padding = layer.stride[0], layer.padding[0]
        taps_y, taps_x, mask = _taps(branches[layer], y, x, stride, padding)
        weight = (weight[:, None] * mask).flatten()
        inside = ((taps_y > -1) & (taps_y < height) & (taps_x > -1) & (taps_x < width)).flatten()
        taps_y, taps_x, weight = taps_y.flatten()[inside], taps_x.flatten()[inside], weight[inside]
        places = torch.stack([(taps_x + 0.5) / width, (taps_y + 0.5) / height], dim=-1)
        y = taps_y.round().long().clamp(0, height - 1)
        x = taps_x.round().long().clamp(0, width - 1)
        regular_y = (regular_y[0] * stride - padding, regular_y[1] * stride - padding + 2)
        regular_x = (regular_x[0] * stride - padding, regular_x[1] * stride - padding + 2)
    extent = torch.tensor([image.shape[-1], image.shape[-2]])
    bottom_height, bottom_width = sizes[layers[0]]
    unit_x, unit_y = image.shape[-1] / bottom_width, image.shape[-2] / bottom_height
    return SamplingPicture(
        centre=centre * extent,
        places=places * extent,
        weights=weight,
        regular=(
            (regular_x[0] + 0.5) * unit_x,
            (regular_y[0] + 0.5) * unit_y,
            (regular_x[1] - regular_x[0]) * unit_x,
            (regular_y[1] - regular_y[0]) * unit_y,
        ),
    )


def _taps(branch: Tensor, y: Tensor, x: Tensor, stride: int, padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, x and mask ``(K, 9)`` of the taps of K output pixels of a 3×3 layer with one offset group."""
    values = branch[:, y, x]  # (27, K): nine times (Δy, Δx), then nine mask logits
    offset_y, offset_x, logits = values[0:18:2].T, values[1:18:2].T, values[18:].T
    steps = torch.arange(9)
    taps_y = (y * stride - padding)[:, None] + steps // 3 + offset_y
    taps_x = (x * stride - padding)[:, None] + steps % 3 + offset_x
    return taps_y, taps_x, logits.sigmoid()
