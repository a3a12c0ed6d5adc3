"""Two real photographs that ship with scikit-learn, and boxes drawn by hand around things in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dcn_deploy.validation.inputs import IMAGENET_MEAN, IMAGENET_STD

#: File → name of the thing → (x1, y1, x2, y2) in pixels of the photograph (640×427), the last one included.
BOXES: dict[str, dict[str, tuple[float, float, float, float]]] = {
    "china.jpg": {
        "pavilion": (62, 28, 372, 418),
        "finial": (194, 29, 218, 62),
        "top roof": (94, 60, 320, 138),
        "second storey": (96, 182, 325, 236),
        "island": (424, 226, 502, 242),
        "tree cut by the right edge": (545, 135, 639, 426),
        "tree cut by the left edge": (0, 150, 75, 285),
        "bush": (325, 272, 565, 426),
    },
    "flower.jpg": {
        "dahlia": (169, 84, 446, 360),
        "its heart": (272, 190, 345, 262),
        "second dahlia, cut by the lower edge": (287, 374, 470, 426),
        "bud": (580, 392, 622, 426),
    },
}


@dataclass(frozen=True)
class Photographs:
    """A batch of photographs and the boxes in them.

    Attributes:
        pixels: [N, H, W, 3] bytes.
        image: [N, 3, H, W] float32, normalised.
        rois: [R, 5] float32 (batch index, x1, y1, x2, y2) in pixels of ``image``.
        names: what is in each box.
    """

    pixels: np.ndarray
    image: np.ndarray
    rois: np.ndarray
    names: tuple[str, ...]


def load(step: int = 1) -> Photographs:
    """Return both photographs, with every block of ``step`` × ``step`` pixels averaged.

    Args:
        step: by how much to shrink them, for speed.
    """
    from sklearn.datasets import load_sample_image

    pixels = np.stack([_shrunk(load_sample_image(name), step) for name in BOXES])
    image = (pixels / np.float32(255) - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    rois = [
        # Pixel x of the photograph is pixel (x + ½)/step − ½ of the shrunk one.
        (index, *((edge + 0.5) / step - 0.5 for edge in box))
        for index, things in enumerate(BOXES.values())
        for box in things.values()
    ]
    return Photographs(
        pixels,
        np.ascontiguousarray(np.moveaxis(image, -1, 1), np.float32),
        np.array(rois, np.float32),
        tuple(name for things in BOXES.values() for name in things),
    )


def _shrunk(photograph: np.ndarray, step: int) -> np.ndarray:
    height, width = (extent // step for extent in photograph.shape[:2])
    blocks = photograph[: height * step, : width * step].reshape(height, step, width, step, 3)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)
