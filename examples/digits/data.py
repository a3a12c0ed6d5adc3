"""Real scans of handwritten digits, enlarged and warped.

Source: the test part of "Optical recognition of handwritten digits" (E. Alpaydin, C. Kaynak, 1998, UCI
repository), which scikit-learn ships: 1,797 scans of 8×8 pixels with 17 grey levels, by 13 writers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dcn_deploy import _lazy

CANVAS = 32  # pixels, both ways
TEST_SHARE = 0.25
SPLIT_SEED = 20170317
TEST_WARP_SEED = 20181127

#: The warp. Each value is drawn uniformly from the range, anew for every image.
ROTATION = 40.0  # degrees, either way
SCALE = (0.75, 1.25)  # of the scan's own size, each axis by itself
SHEAR = 0.3  # of the height, either way
SHIFT = 4.0  # canvas pixels, either way
ELASTIC = 1.3  # canvas pixels: standard deviation of the displacement of a knot
ELASTIC_KNOTS = 5  # across the canvas, both ways
DIGIT_SIZE = 22.0  # canvas pixels that the eight pixels of a scan cover at scale 1


@dataclass(frozen=True)
class Scans:
    """Scans as they come.

    Attributes:
        images: ``(K, 1, 8, 8)`` float32 in [0, 1], digit bright on dark.
        labels: ``(K,)`` int64, the digit.
        indices: ``(K,)`` int64, row of each scan in the data set.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int | None) -> Scans:
        """Return the first ``count`` scans; all of them for None."""
        return Scans(self.images[:count], self.labels[:count], self.indices[:count])


@dataclass(frozen=True)
class WarpedImages:
    """Enlarged and warped scans.

    Attributes:
        images: ``(N, 1, 32, 32)`` float32 in [0, 1].
        labels: ``(N,)`` int64, the digit.
        indices: ``(N,)`` int64, row of the scan that each image was made from.
        rotation: ``(N,)`` float32, degrees.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    rotation: Tensor


def load_split() -> tuple[Scans, Scans]:
    """Return the training and the test scans: a fixed quarter of each digit's scans is for testing.

    The split is by scan and comes before any warp, so no test image shares its scan with a training image.

    Raises:
        MissingDependencyError: if scikit-learn is not installed.
    """
    datasets = _lazy.require("sklearn.datasets", "the demonstration")
    digits = datasets.load_digits()
    images = torch.from_numpy(digits.images).float().div_(16).unsqueeze(1)
    labels = torch.from_numpy(digits.target).long()
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    train, test = [], []
    for digit in range(10):
        rows = torch.nonzero(labels == digit).flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        count = round(len(rows) * TEST_SHARE)
        test.append(rows[:count])
        train.append(rows[count:])
    return tuple(Scans(images[rows], labels[rows], rows) for rows in (_sorted(train), _sorted(test)))


def warp_ranges() -> dict[str, object]:
    """Return the ranges of the random warp, by name, for the report."""
    return {
        "canvas_pixels": CANVAS,
        "rotation_degrees": [-ROTATION, ROTATION],
        "scale": list(SCALE),
        "shear": [-SHEAR, SHEAR],
        "shift_pixels": [-SHIFT, SHIFT],
        "elastic_std_pixels": ELASTIC,
        "elastic_knots": ELASTIC_KNOTS,
    }


def _sorted(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts).sort().values


def warp(scans: Scans, generator: torch.Generator) -> WarpedImages:
    """Return one enlarged, randomly rotated, scaled, sheared, shifted and elastically warped image of each scan."""
    n = len(scans)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=generator) * (high - low) + low

    angle = uniform(-ROTATION, ROTATION)
    scale_x, scale_y = uniform(*SCALE), uniform(*SCALE)
    shear = uniform(-SHEAR, SHEAR)
    shift = torch.stack([uniform(-SHIFT, SHIFT), uniform(-SHIFT, SHIFT)], dim=-1)
    knots = torch.randn(n, 2, ELASTIC_KNOTS, ELASTIC_KNOTS, generator=generator) * ELASTIC

    # from a canvas pixel (relative to the middle, in pixels) back to the place in the scan it shows
    steps = torch.arange(CANVAS, dtype=torch.float32) - (CANVAS - 1) / 2
    place = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).expand(n, -1, -1, -1)
    elastic = functional.interpolate(knots, size=(CANVAS, CANVAS), mode="bicubic", align_corners=True)
    place = place + elastic.permute(0, 2, 3, 1) - shift[:, None, None]
    radians = angle * (math.pi / 180)
    cos, sin = radians.cos(), radians.sin()
    rotate = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], -2)
    unshear = torch.eye(2).repeat(n, 1, 1)
    unshear[:, 0, 1] = shear
    unscale = torch.diag_embed(torch.stack([1 / scale_x, 1 / scale_y], -1))
    matrix = unscale @ unshear @ rotate
    place = torch.einsum("nij,nhwj->nhwi", matrix, place) / (DIGIT_SIZE / 2)
    # bicubic: a scan pixel becomes about three canvas pixels wide, and bilinear would leave facets
    images = functional.grid_sample(scans.images, place, mode="bicubic", padding_mode="zeros", align_corners=False)
    return WarpedImages(images.clamp_(0, 1), scans.labels, scans.indices, angle)


def held_out_images(scans: Scans, variants: int) -> WarpedImages:
    """Return the fixed test set: ``variants`` warped images of every test scan, the same in every run."""
    generator = torch.Generator().manual_seed(TEST_WARP_SEED)
    parts = [warp(scans, generator) for _ in range(variants)]
    return WarpedImages(
        images=torch.cat([part.images for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        indices=torch.cat([part.indices for part in parts]),
        rotation=torch.cat([part.rotation for part in parts]),
    )
