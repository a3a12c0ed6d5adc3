"""Random regions of interest that lie in an image: what a network with a RoI input is exported and validated with.

Standard normal numbers, which any other input can be fed with, make no RoIs: the batch index would be no index, and
every other box would be inverted and a pixel large.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dcn_deploy.errors import InvalidArgumentError, describe

if TYPE_CHECKING:
    import numpy as np

#: Number of RoIs where nobody says better.
DEFAULT_COUNT = 16
#: Extents (N, H, W) of the images where there is no image input.
DEFAULT_FRAME = (1, 224, 224)
#: Side of the smallest box drawn, relative to the image's.
SMALLEST = 1 / 8

Columns = Literal["rois", "corners", "index"]
#: Columns: what the last axis holds, as text, and its extent; None: there is no such axis.
_COLUMNS: Mapping[Columns, tuple[str, int | None]] = {
    "rois": ("(batch index, x1, y1, x2, y2)", 5),
    "corners": ("(x1, y1, x2, y2)", 4),
    "index": ("the batch index", None),
}


@dataclass(frozen=True)
class Boxes:
    """What the RoIs in an input must fit.

    Attributes:
        of: name of the input whose images they lie in: (N, C, H, W). None: the largest input of rank 4, which may
            also be (N, H, W, C) with 1 or 3 channels.
        spatial_scale: factor from the boxes' coordinates to pixels of ``of``: 1 for an image, less for a feature map.
        columns: ``"rois"`` for five columns (batch index, x1, y1, x2, y2), ``"corners"`` for the last four of them,
            ``"index"`` for the first alone.
    """

    of: str | None = None
    spatial_scale: float = 1.0
    columns: Columns = "rois"

    @property
    def text(self) -> str:
        """What they are, for reports."""
        return "batch indices" if self.columns == "index" else f"boxes inside {self.of or 'the image'}"

    @property
    def extent(self) -> int | None:
        """Extent of the last axis; None where there is no axis of columns."""
        return _COLUMNS[self.columns][1]

    def check(self, name: str, shape: Sequence[int]) -> None:
        """Refuse the shape of the input called ``name`` if it has no room for the columns.

        Raises:
            InvalidArgumentError: if the last extent is not the number of columns.
        """
        text, extent = _COLUMNS[self.columns]
        if extent is not None and (not shape or shape[-1] != extent):
            expected = f"[…, {extent}]: {text}"
            raise InvalidArgumentError(describe(f"shape of input '{name}'", expected=expected, actual=list(shape)))

    def frame(self, shapes: Mapping[str, Sequence[int]]) -> tuple[int, float, float]:
        """Return N, H and W of the images, the latter two in the units of the boxes.

        Args:
            shapes: definite shape of every input, by name.
        """
        own = shapes.get(self.of or "", ())
        if len(own) == 4:
            n, _, height, width = own
        else:
            images = [_frame(shape) for shape in shapes.values() if len(shape) == 4]
            n, height, width = max(images, key=lambda frame: frame[1] * frame[2], default=DEFAULT_FRAME)
        return n, height / self.spatial_scale, width / self.spatial_scale

    def draw(
        self, random: np.random.Generator, shape: Sequence[int], shapes: Mapping[str, Sequence[int]], integer: bool
    ) -> np.ndarray[Any, Any]:
        """Return random boxes: sides log-uniform from an eighth of the image's to all of it, place and image uniform.

        Args:
            random: where the numbers come from.
            shape: of the result.
            shapes: definite shape of every input, by name.
            integer: round outwards to whole pixels.

        Returns:
            float64 [shape], x1 < x2 and y1 < y2, between the image's first and last pixel where it has 2 or more along
            each axis.
        """
        import numpy as np

        n, height, width = self.frame(shapes)
        count = int(np.prod(shape if self.columns == "index" else shape[:-1]))
        index = random.integers(0, max(n, 1), size=count).astype(np.float64)
        # Up to the last pixel, as RoIs are written (psroi counts whole pixels, the last one included): a sample of a
        # box that ends behind it may lie on the very edge of the map, where float32 rounding decides whether it counts.
        extent = np.array([width, height])
        extent = np.maximum(extent - 1, extent / 2)
        size = extent * SMALLEST ** random.random((count, 2))
        start = (extent - size) * random.random((count, 2))
        corners = np.concatenate([start, start + size], axis=1)
        if integer:
            corners = np.concatenate([np.floor(corners[:, :2]), np.ceil(corners[:, 2:])], axis=1)
        if self.columns == "index":
            return index.reshape(shape)
        boxes = corners if self.columns == "corners" else np.concatenate([index[:, None], corners], axis=1)
        return boxes.reshape(shape)


def by_name(shapes: Mapping[str, Sequence[int]]) -> dict[str, Boxes]:
    """Return the inputs that are RoIs by this project's convention: called ``rois``, with five columns.

    Args:
        shapes: definite shape of every input, by name.
    """
    rois = shapes.get("rois")
    return {"rois": Boxes()} if rois is not None and len(rois) == 2 and rois[1] == 5 else {}


def _frame(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return N, H and W of images whose channels come first, or last where only that makes sense."""
    n, second, third, last = shape
    return (n, second, third) if second not in (1, 3) and last in (1, 3) else (n, third, last)
