"""The one table of cases of each operator, used at every level of the tests.

Tests write ``import cases``: ``tests/conftest.py`` puts this folder on ``sys.path``. The module needs NumPy
and the standard library only, and derives every shape by itself, so that it can be an oracle for the shapes.

    @pytest.mark.parametrize("case", cases.CASES, ids=cases.name_of)
    def test_something(case, rng):
        inputs = cases.make_inputs(case, rng, np.float32)

The table of convolutions (``Case``) covers each awkward size (1, 7, 19, 33), each attribute unequal between
height and width, every combination of bias and mask, and offsets of each kind in ``OFFSET_KINDS``. That of RoI
pooling (``RoiCase``, ``ROI_CASES``, ``make_roi_inputs``) covers in both variants the awkward sizes, pooled
sizes, groups, parts and classes equal and unequal, every combination of offset and mask, and RoIs and offsets
of each kind in ``BOX_KINDS`` and ``ROI_OFFSET_KINDS``. A case is small: no more than a few thousand sampling
locations, so that the float64 reference takes a fraction of a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

#: How the offsets of a case are drawn; ``offset_scale`` is in pixels.
#:
#: - ``normal``: N(0, offset_scale²).
#: - ``zero``: all zero: the deformable convolution is the ordinary one.
#: - ``integer``: N(0, offset_scale²) rounded, so that every location is a pixel (a cell's boundary).
#: - ``boundary``: every location is at, or one float32 step beside, a place where the sampler changes: -1, 0,
#:   size - 1, size, and the middle of the first and last cell.
#: - ``outside``: every location is at least one pixel beyond the zone where anything is sampled.
#: - ``nonfinite``: ``normal``, with a quarter replaced by NaN, ±Inf and finite values that no integer holds.
OFFSET_KINDS = ("normal", "zero", "integer", "boundary", "outside", "nonfinite")

#: The values that ``nonfinite`` sprinkles: each overflows a conversion to int32, int64 or any integer.
WILD_OFFSETS = (math.nan, math.inf, -math.inf, 3.4e38, -3.4e38, 1e20, -1e20, 3e9, -3e9)


@dataclass(frozen=True)
class Case:
    """One deformable convolution: shapes, attributes, which optional inputs it has, and its offsets."""

    name: str
    n: int = 1
    c: int = 4
    h: int = 7
    w: int = 7
    m: int = 4
    kernel_h: int = 3
    kernel_w: int = 3
    stride_h: int = 1
    stride_w: int = 1
    pad_top: int = 0
    pad_left: int = 0
    pad_bottom: int = 0
    pad_right: int = 0
    dilation_h: int = 1
    dilation_w: int = 1
    group: int = 1
    offset_group: int = 1
    bias: bool = True
    mask: bool = True
    offset_scale: float = 2.0
    offsets: str = "normal"
    notes: str = ""

    def __post_init__(self) -> None:
        if self.offsets not in OFFSET_KINDS:
            raise ValueError(f"{self.name}: offsets: expected one of {OFFSET_KINDS}, got {self.offsets!r}")
        if self.c % self.group or self.m % self.group or self.c % self.offset_group:
            raise ValueError(f"{self.name}: groups must divide the channels: {self}")
        if self.out_h < 1 or self.out_w < 1:
            raise ValueError(f"{self.name}: output is {self.out_h}x{self.out_w}, not at least 1x1")

    @property
    def out_h(self) -> int:
        padded = self.h + self.pad_top + self.pad_bottom
        return (padded - self.dilation_h * (self.kernel_h - 1) - 1) // self.stride_h + 1

    @property
    def out_w(self) -> int:
        padded = self.w + self.pad_left + self.pad_right
        return (padded - self.dilation_w * (self.kernel_w - 1) - 1) // self.stride_w + 1

    @property
    def taps(self) -> int:
        return self.kernel_h * self.kernel_w

    @property
    def reduction(self) -> int:
        """Number of products summed for one output element (without the bias)."""
        return self.c // self.group * self.taps

    @property
    def locations(self) -> int:
        """Number of sampling locations of one call."""
        return self.n * self.offset_group * self.taps * self.out_h * self.out_w

    @property
    def macs(self) -> int:
        """Number of multiply-adds of one call, without the sampling."""
        return self.n * self.m * self.out_h * self.out_w * self.reduction

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        return self.n, self.c, self.h, self.w

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return self.m, self.c // self.group, self.kernel_h, self.kernel_w

    @property
    def offset_shape(self) -> tuple[int, int, int, int]:
        return self.n, self.offset_group * self.taps * 2, self.out_h, self.out_w

    @property
    def mask_shape(self) -> tuple[int, int, int, int]:
        return self.n, self.offset_group * self.taps, self.out_h, self.out_w

    @property
    def bias_shape(self) -> tuple[int]:
        return (self.m,)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        return self.n, self.m, self.out_h, self.out_w

    @property
    def kernel_shape(self) -> tuple[int, int]:
        return self.kernel_h, self.kernel_w

    @property
    def strides(self) -> tuple[int, int]:
        return self.stride_h, self.stride_w

    @property
    def dilations(self) -> tuple[int, int]:
        return self.dilation_h, self.dilation_w

    @property
    def pads(self) -> tuple[int, int, int, int]:
        """[top, left, bottom, right]."""
        return self.pad_top, self.pad_left, self.pad_bottom, self.pad_right

    @property
    def symmetric_pads(self) -> bool:
        """Whether a function with one padding number per axis can express the case."""
        return self.pad_top == self.pad_bottom and self.pad_left == self.pad_right

    @property
    def onnx_attributes(self) -> dict[str, Any]:
        """Attributes of the ONNX node, in the standard and in the plugin form."""
        return {
            "dilations": list(self.dilations),
            "group": self.group,
            "kernel_shape": list(self.kernel_shape),
            "offset_group": self.offset_group,
            "pads": list(self.pads),
            "strides": list(self.strides),
        }

    @property
    def reference_arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``dcn_deploy.ops.reference.deform_conv2d``."""
        return {
            "strides": self.strides,
            "pads": self.pads,
            "dilations": self.dilations,
            "group": self.group,
            "offset_group": self.offset_group,
        }

    @property
    def functional_arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``dcn_deploy.ops.deform_conv2d`` (the groups follow from the shapes)."""
        return {"stride": self.strides, "padding": self.pads, "dilation": self.dilations}


@dataclass(frozen=True)
class Inputs:
    """The tensors of one call, as NumPy arrays; ``B`` and ``mask`` are None where the case has none."""

    X: Array
    W: Array
    offset: Array
    B: Array | None
    mask: Array | None

    def in_order(self) -> tuple[Array, Array, Array, Array | None, Array | None]:
        """The order of the ONNX node and of the torch operator: X, W, offset, B, mask."""
        return self.X, self.W, self.offset, self.B, self.mask

    def named(self) -> dict[str, Array]:
        """The inputs that are there, by the names of the operator's schema."""
        pairs = zip(("X", "W", "offset", "B", "mask"), self.in_order(), strict=True)
        return {name: array for name, array in pairs if array is not None}


def _padded(top: int, left: int, bottom: int, right: int) -> dict[str, int]:
    return {"pad_top": top, "pad_left": left, "pad_bottom": bottom, "pad_right": right}


_SAME_3 = _padded(1, 1, 1, 1)
_SAME_5 = _padded(2, 2, 2, 2)
_UNEQUAL: dict[str, Any] = {
    "kernel_h": 3,
    "kernel_w": 2,
    "stride_h": 2,
    "stride_w": 1,
    "pad_top": 2,
    "pad_left": 0,
    "pad_bottom": 1,
    "pad_right": 3,
    "dilation_h": 1,
    "dilation_w": 3,
}

#: Finite offsets, at least one image.
CASES: tuple[Case, ...] = (
    # Awkward sizes.
    Case("size_1", h=1, w=1, **_SAME_3, notes="one pixel, its whole surroundings are padding"),
    Case("size_1_kernel_1", h=1, w=1, kernel_h=1, kernel_w=1, offset_scale=0.5),
    Case("size_1x33", c=3, h=1, w=33, m=5, **_SAME_3),
    Case("size_33x1", c=3, h=33, w=1, m=5, **_SAME_3),
    Case("size_7", c=8, m=8, **_SAME_3),
    Case("size_19", n=2, c=5, h=19, w=19, m=7, **_SAME_3, notes="odd channel counts"),
    Case("size_33", c=3, h=33, w=33, m=2, **_SAME_3),
    Case("size_19x33", c=2, h=19, w=33, m=3, **_SAME_3, notes="height and width cannot be confused"),
    Case("one_output_pixel", c=6, m=5, kernel_h=7, kernel_w=7, notes="kernel as large as the map"),
    # Everything unequal between height and width.
    Case("unequal", n=2, c=6, h=19, w=7, m=4, **_UNEQUAL),
    Case("unequal_groups", n=2, c=12, h=7, w=19, m=8, **_UNEQUAL, group=2, offset_group=3),
    Case("unequal_small", c=4, h=9, w=7, m=2, **_UNEQUAL, group=2, offset_group=4, notes="for slow peers"),
    Case("unequal_stride", c=4, h=19, w=33, stride_h=3, stride_w=2, **_SAME_3),
    Case("unequal_dilation", c=4, h=19, w=19, dilation_h=2, dilation_w=4, **_padded(2, 4, 2, 4)),
    Case("unequal_kernel_1x5", h=7, w=19, kernel_h=1, kernel_w=5, **_padded(0, 2, 0, 2)),
    Case("unequal_kernel_5x1", h=19, w=7, kernel_h=5, kernel_w=1, **_padded(2, 0, 2, 0)),
    Case("asymmetric_pads", h=7, w=7, **_padded(0, 1, 2, 3)),
    Case("asymmetric_pads_one_side", h=7, w=19, stride_h=2, stride_w=2, **_padded(3, 0, 0, 0)),
    Case("stride_leaves_rest", h=19, w=19, stride_h=4, stride_w=5, notes="the last rows are never a centre"),
    # Groups, and offset groups that do not follow them.
    Case("group_2", c=8, m=6, group=2, **_SAME_3),
    Case("offset_group_2", c=8, m=6, offset_group=2, **_SAME_3),
    Case("group_2_offset_group_4", c=8, m=6, group=2, offset_group=4, **_SAME_3),
    Case("group_4_offset_group_2", c=8, m=12, group=4, offset_group=2, **_SAME_3),
    Case("group_3_offset_group_2", c=12, m=9, group=3, offset_group=2, **_SAME_3, notes="neither divides"),
    Case("depthwise", c=19, m=19, group=19, **_SAME_3),
    Case("depthwise_multiplier", n=2, c=6, m=18, group=6, offset_group=3, **_SAME_3),
    Case("depthwise_offset_group_each", c=7, m=7, group=7, offset_group=7, **_SAME_3),
    Case("offset_group_16", c=32, m=8, h=7, w=9, offset_group=16, **_SAME_3),
    Case("channels_67", c=67, m=33, h=7, w=7, **_SAME_3, notes="above one vector block, with a rest"),
    Case("outputs_1", c=16, m=1, **_SAME_3),
    Case("channels_1", c=1, m=19, **_SAME_3),
    # Kernel sizes.
    Case("kernel_1", c=7, m=5, h=19, w=7, kernel_h=1, kernel_w=1),
    Case("kernel_1_pad", c=3, m=2, kernel_h=1, kernel_w=1, **_padded(2, 1, 0, 3)),
    Case("kernel_2", c=4, m=4, kernel_h=2, kernel_w=2, stride_h=2, stride_w=2),
    Case("kernel_5", c=4, m=6, h=19, w=7, kernel_h=5, kernel_w=5, **_SAME_5),
    Case("kernel_5_offset_group_4", c=8, m=6, h=7, w=7, kernel_h=5, kernel_w=5, **_SAME_5, offset_group=4),
    # Optional inputs.
    Case("no_mask", c=6, m=5, **_SAME_3, mask=False),
    Case("no_bias", c=6, m=5, **_SAME_3, bias=False),
    Case("no_bias_no_mask", c=6, m=5, **_SAME_3, bias=False, mask=False),
    Case("v1_offset_group_4", n=2, c=8, m=6, h=7, w=19, **_SAME_3, offset_group=4, mask=False),
    # Batches.
    Case("batch_3", n=3, c=5, m=4, h=7, w=7, **_SAME_3),
    Case("batch_9_tiny", n=9, c=2, m=3, h=1, w=2, **_SAME_3),
    # Offsets of every kind.
    Case("offsets_zero", n=2, c=6, m=4, h=7, w=19, **_SAME_3, offsets="zero"),
    Case("offsets_zero_unequal", n=2, c=6, m=4, h=19, w=7, **_UNEQUAL, group=2, offset_group=3, offsets="zero"),
    Case("offsets_small", c=6, m=4, **_SAME_3, offset_scale=0.05),
    Case("offsets_large", c=6, m=4, h=19, w=7, **_SAME_3, offset_scale=12.0, notes="many leave the map"),
    Case("offsets_huge", c=6, m=4, **_SAME_3, offset_scale=1e6, notes="finite, all but none on the map"),
    Case("offsets_integer", c=6, m=4, h=7, w=19, **_SAME_3, offsets="integer"),
    Case("offsets_integer_unequal", c=6, m=4, h=19, w=7, **_UNEQUAL, offset_group=2, offsets="integer"),
    Case("offsets_boundary", n=2, c=6, m=4, h=7, w=19, **_SAME_3, offsets="boundary"),
    Case("offsets_boundary_size_1", n=2, c=3, m=2, h=1, w=1, **_SAME_3, offsets="boundary"),
    Case("offsets_outside", n=2, c=6, m=4, h=7, w=9, **_SAME_3, offset_group=2, offsets="outside"),
)

#: NaN, ±Inf and values beyond every integer among the offsets.
NONFINITE_CASES: tuple[Case, ...] = (
    Case("nonfinite", n=2, c=6, m=4, h=7, w=19, **_SAME_3, offsets="nonfinite"),
    Case("nonfinite_unequal", n=2, c=6, m=4, h=19, w=7, **_UNEQUAL, offset_group=3, offsets="nonfinite"),
    Case("nonfinite_size_1", n=2, c=3, m=2, h=1, w=1, **_SAME_3, offsets="nonfinite"),
    Case("nonfinite_v1_depthwise", c=8, m=8, group=8, **_SAME_3, mask=False, offsets="nonfinite"),
    Case("nonfinite_kernel_1", c=3, m=2, kernel_h=1, kernel_w=1, bias=False, offsets="nonfinite"),
)

#: No image at all.
EMPTY_CASES: tuple[Case, ...] = (
    Case("empty_batch", n=0, c=4, m=3, h=7, w=7, **_SAME_3),
    Case("empty_batch_unequal", n=0, c=12, m=8, h=7, w=19, **_UNEQUAL, group=2, offset_group=3, bias=False),
    Case("empty_batch_v1", n=0, c=4, m=3, h=1, w=1, **_SAME_3, mask=False),
)

ALL_CASES: tuple[Case, ...] = CASES + NONFINITE_CASES + EMPTY_CASES


#: How the RoIs of a case are drawn. Sizes are those on the map; in the batch every image is named.
#:
#: - ``mixed``: the finite kinds down to ``huge``, in turn.
#: - ``inside``: on the map.
#: - ``partly``: across an edge of the map.
#: - ``integer``: across the map, whole coordinates in image pixels.
#: - ``halves``: across the map, coordinates halfway between two whole ones.
#: - ``whole``: the whole map and up to a pixel more on each side.
#: - ``tiny``: smaller than a tenth of a pixel.
#: - ``zero_size``: the second corner is the first.
#: - ``inverted``: the second corner is left of the first, above it, or both.
#: - ``outside``: at least three pixels off the map.
#: - ``huge``: twenty to forty times the map, and around it.
#: - ``dyadic``: 1, 2, 4 or 8 pixels long and on a grid of half pixels: with attributes that are powers of two, all
#:   positions are exact in float32.
#: - ``nonfinite``: ``mixed``, with a quarter of the coordinates NaN or ±Inf.
BOX_KINDS = (
    "mixed",
    "inside",
    "partly",
    "integer",
    "halves",
    "whole",
    "tiny",
    "zero_size",
    "inverted",
    "outside",
    "huge",
    "dyadic",
    "nonfinite",
)
_MIXED_KINDS = BOX_KINDS[1 : BOX_KINDS.index("huge")]

#: How the offsets of a RoI case are drawn; ``offset_scale`` is in units of RoI size / gamma.
#:
#: - ``normal``: N(0, offset_scale²).
#: - ``zero``: all zero.
#: - ``far``: at least a thousand: off the map, unless the RoI has no size.
#: - ``boundary``: the first sample of each bin is at, or 1/64 of a pixel beside, a place where the sampler changes:
#:   -1, -1/2, 0, size - 1, size - 1/2, size. Needs ``dyadic`` RoIs and attributes that are powers of two.
#: - ``nonfinite``: ``normal``, with a quarter replaced by ``WILD_OFFSETS``.
ROI_OFFSET_KINDS = ("normal", "zero", "far", "boundary", "nonfinite")


@dataclass(frozen=True)
class RoiCase:
    """One deformable RoI pooling: shapes, attributes, which optional inputs it has, its RoIs and offsets.

    ``part_size`` 0 is ``pooled_h``; ``aligned`` has a part for each bin whatever the attribute says.
    """

    name: str
    n: int = 1
    c: int = 4
    h: int = 7
    w: int = 7
    r: int = 3
    variant: str = "aligned"
    pooled_h: int = 3
    pooled_w: int = 3
    spatial_scale: float = 1.0
    gamma: float = 0.1
    sampling_ratio: int = 2
    sample_per_part: int = 4
    group_size: int = 1
    part_size: int = 0
    classes: int = 1
    offset: bool = True
    mask: bool = True
    boxes: str = "mixed"
    offset_scale: float = 1.0
    offsets: str = "normal"
    notes: str = ""

    def __post_init__(self) -> None:
        if self.boxes not in BOX_KINDS:
            raise ValueError(f"{self.name}: boxes: expected one of {BOX_KINDS}, got {self.boxes!r}")
        if self.offsets not in ROI_OFFSET_KINDS:
            raise ValueError(f"{self.name}: offsets: expected one of {ROI_OFFSET_KINDS}, got {self.offsets!r}")
        if self.n == 0 and self.r > 0:
            raise ValueError(f"{self.name}: RoIs of no image")
        if self.variant == "aligned":
            if self.group_size != 1 or self.classes != 1 or self.part_size:
                raise ValueError(f"{self.name}: groups, classes and parts are those of psroi: {self}")
        elif self.variant != "psroi":
            raise ValueError(f"{self.name}: variant: expected aligned or psroi, got {self.variant!r}")
        if self.c % self.group_size**2 or self.output_channels % self.classes:
            raise ValueError(f"{self.name}: groups and classes must divide the channels: {self}")
        if self.classes != 1 and not (self.offset or self.mask):
            raise ValueError(f"{self.name}: without offset and mask there is one class")
        if self.offsets == "boundary" and (self.boxes != "dyadic" or (self.variant == "psroi" and self.classes != 1)):
            raise ValueError(f"{self.name}: boundary offsets need dyadic RoIs and one class")

    @property
    def is_aligned(self) -> bool:
        return self.variant == "aligned"

    @property
    def scale(self) -> float:
        """``spatial_scale`` as an ONNX file holds it: rounded to float32."""
        return float(np.float32(self.spatial_scale))

    @property
    def factor(self) -> float:
        """``gamma`` as an ONNX file holds it: rounded to float32."""
        return float(np.float32(self.gamma))

    @property
    def output_size(self) -> tuple[int, int]:
        return self.pooled_h, self.pooled_w

    @property
    def output_channels(self) -> int:
        return self.c // self.group_size**2

    @property
    def parts(self) -> tuple[int, int]:
        """Extents of offset and mask."""
        return self.output_size if self.is_aligned else (self.part_size or self.pooled_h,) * 2

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        return self.n, self.c, self.h, self.w

    @property
    def rois_shape(self) -> tuple[int, int]:
        return self.r, 5

    @property
    def offset_shape(self) -> tuple[int, int, int, int]:
        return self.r, 2 * self.classes, *self.parts

    @property
    def mask_shape(self) -> tuple[int, int, int, int]:
        return self.r, self.classes, *self.parts

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        return self.r, self.output_channels, self.pooled_h, self.pooled_w

    @property
    def locations(self) -> int:
        """Number of sampling locations of one call; a grid that follows the RoI's size counts as 2×2."""
        samples = (self.sampling_ratio or 2) if self.is_aligned else self.sample_per_part
        return self.r * self.classes * self.pooled_h * self.pooled_w * samples**2

    @property
    def onnx_attributes(self) -> dict[str, Any]:
        """Attributes of the ONNX node, as the exporter writes them: those of the variant, in numbers."""
        common: dict[str, Any] = {
            "variant": self.variant,
            "output_size": list(self.output_size),
            "spatial_scale": self.scale,
            "gamma": self.factor,
        }
        if self.is_aligned:
            return {**common, "sampling_ratio": self.sampling_ratio}
        return {
            **common,
            "sample_per_part": self.sample_per_part,
            "group_size": self.group_size,
            "part_size": self.parts[0] if self.offset or self.mask else 0,
            "output_channels": self.output_channels,
        }

    @property
    def reference_arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``dcn_deploy.ops.reference.deform_roi_pool``."""
        return self.onnx_attributes

    @property
    def functional_arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``dcn_deploy.ops.deform_roi_pool`` (parts and channels follow from the shapes)."""
        from_shapes = ("part_size", "output_channels")
        return {key: value for key, value in self.onnx_attributes.items() if key not in from_shapes}


@dataclass(frozen=True)
class RoiInputs:
    """The tensors of one call, as NumPy arrays; ``offset`` and ``mask`` are None where the case has none."""

    X: Array
    rois: Array
    offset: Array | None
    mask: Array | None

    def in_order(self) -> tuple[Array, Array, Array | None, Array | None]:
        """The order of the ONNX node and of the torch operator: X, rois, offset, mask."""
        return self.X, self.rois, self.offset, self.mask

    def named(self) -> dict[str, Array]:
        """The inputs that are there, by the names of the operator's schema."""
        pairs = zip(("X", "rois", "offset", "mask"), self.in_order(), strict=True)
        return {name: array for name, array in pairs if array is not None}


_PSROI: dict[str, Any] = {"variant": "psroi"}
_NEITHER: dict[str, Any] = {"offset": False, "mask": False}
_DYADIC: dict[str, Any] = {"pooled_h": 2, "pooled_w": 4, "gamma": 0.25, "boxes": "dyadic", "offsets": "boundary"}

#: Finite RoIs and offsets, at least one RoI.
ROI_CASES: tuple[RoiCase, ...] = (
    # Awkward sizes.
    RoiCase("roi_size_1", h=1, w=1, r=9),
    RoiCase("roi_size_1_psroi", h=1, w=1, r=9, **_PSROI),
    RoiCase("roi_size_1x33", c=3, h=1, w=33, r=5, pooled_h=2, pooled_w=7),
    RoiCase("roi_size_33x1_psroi", c=3, h=33, w=1, r=5, pooled_h=7, pooled_w=2, part_size=3, **_PSROI),
    RoiCase("roi_size_19x7", n=2, c=3, h=19, w=7, r=5, pooled_h=3, pooled_w=5),
    RoiCase("roi_size_7x19_psroi", n=2, c=3, h=7, w=19, r=5, pooled_h=3, pooled_w=5, part_size=4, **_PSROI),
    RoiCase("roi_size_33", c=3, h=33, w=33, r=9, pooled_h=7, pooled_w=7),
    RoiCase("roi_size_33_psroi", c=3, h=33, w=33, r=4, pooled_h=7, pooled_w=7, **_PSROI),
    RoiCase("roi_channels_1", c=1, h=19, w=19, r=4, pooled_h=7, pooled_w=7),
    RoiCase("roi_channels_1_psroi", c=1, h=19, w=19, r=4, **_PSROI),
    RoiCase("roi_channels_67", c=67, h=7, w=19, r=4, notes="above one vector block, with a rest"),
    RoiCase("roi_channels_67_psroi", c=67, h=19, w=7, r=4, **_PSROI),
    RoiCase("roi_one", c=5, h=19, w=33, r=1, pooled_h=7, pooled_w=7, boxes="inside"),
    RoiCase("roi_batch_3", n=3, c=5, h=7, w=9, r=19),
    RoiCase("roi_batch_3_psroi", n=3, c=5, h=7, w=9, r=19, **_PSROI),
    # Pooled sizes.
    RoiCase("roi_pooled_1", c=5, h=19, w=7, r=9, pooled_h=1, pooled_w=1),
    RoiCase("roi_pooled_1_psroi", c=5, h=19, w=7, r=9, pooled_h=1, pooled_w=1, **_PSROI),
    RoiCase("roi_pooled_2x7", c=5, h=19, w=33, r=4, pooled_h=2, pooled_w=7),
    RoiCase("roi_pooled_7x2_psroi", c=5, h=19, w=33, r=4, pooled_h=7, pooled_w=2, **_PSROI),
    RoiCase("roi_pooled_larger_than_map", c=3, h=3, w=5, r=4, pooled_h=7, pooled_w=7, boxes="whole"),
    # Scales.
    RoiCase("roi_scale_quarter", n=2, c=3, h=19, w=33, r=9, spatial_scale=0.25),
    RoiCase("roi_scale_quarter_psroi", n=2, c=3, h=19, w=33, r=9, spatial_scale=0.25, **_PSROI),
    RoiCase("roi_scale_sixteenth", n=2, c=3, h=33, w=19, r=9, pooled_h=7, pooled_w=7, spatial_scale=1 / 16),
    RoiCase("roi_scale_sixteenth_psroi", n=2, c=3, h=33, w=19, r=9, spatial_scale=1 / 16, **_PSROI),
    RoiCase("roi_scale_0.3", c=3, h=19, w=19, r=9, pooled_h=3, pooled_w=5, spatial_scale=0.3),
    RoiCase("roi_scale_0.3_psroi", c=3, h=19, w=19, r=9, pooled_h=5, pooled_w=3, spatial_scale=0.3, **_PSROI),
    RoiCase("roi_scale_2", c=3, h=19, w=33, r=9, spatial_scale=2.0, notes="a map larger than the image"),
    # Numbers of samples.
    RoiCase("roi_sampling_ratio_0", c=5, h=19, w=33, r=9, pooled_h=3, pooled_w=5, sampling_ratio=0),
    RoiCase("roi_sampling_ratio_0_scale", n=2, c=5, h=33, w=19, r=9, sampling_ratio=0, spatial_scale=0.3),
    RoiCase("roi_sampling_ratio_1", c=5, h=19, w=7, r=9, sampling_ratio=1),
    RoiCase("roi_sampling_ratio_3", c=5, h=7, w=19, r=9, sampling_ratio=3),
    RoiCase("roi_sample_per_part_1", c=5, h=19, w=7, r=9, sample_per_part=1, **_PSROI),
    RoiCase("roi_sample_per_part_3", c=5, h=7, w=19, r=9, sample_per_part=3, **_PSROI),
    # Groups of channels, parts and classes.
    RoiCase("roi_group_2", c=12, h=19, w=7, r=5, pooled_h=2, pooled_w=2, group_size=2, **_PSROI),
    RoiCase("roi_group_3", n=2, c=27, h=7, w=19, r=5, group_size=3, **_PSROI),
    RoiCase("roi_group_7", c=98, h=19, w=19, r=2, pooled_h=7, pooled_w=7, group_size=7, **_PSROI, notes="R-FCN"),
    RoiCase("roi_group_2_pooled_3x5", c=20, h=19, w=7, r=5, pooled_w=5, group_size=2, **_PSROI),
    RoiCase("roi_group_3_pooled_2x7", c=18, h=7, w=19, r=4, pooled_h=2, pooled_w=7, group_size=3, **_PSROI),
    RoiCase("roi_group_7_pooled_3", c=49, h=19, w=19, r=5, group_size=7, **_PSROI, notes="some groups are unused"),
    RoiCase("roi_part_1", c=4, h=19, w=7, r=5, pooled_h=3, pooled_w=5, part_size=1, **_PSROI),
    RoiCase("roi_part_2_pooled_7", c=4, h=19, w=19, r=2, pooled_h=7, pooled_w=7, part_size=2, **_PSROI),
    RoiCase("roi_part_7_pooled_2x3", c=4, h=19, w=7, r=5, pooled_h=2, part_size=7, **_PSROI),
    RoiCase("roi_classes_2", n=2, c=6, h=19, w=7, r=5, classes=2, **_PSROI),
    RoiCase("roi_classes_3_group_2", c=36, h=7, w=19, r=4, classes=3, group_size=2, part_size=4, **_PSROI),
    RoiCase("roi_classes_3_no_mask", c=9, h=7, w=19, r=5, classes=3, mask=False, **_PSROI),
    RoiCase("roi_classes_3_no_offset", c=9, h=19, w=7, r=5, classes=3, part_size=2, offset=False, **_PSROI),
    # Optional inputs.
    RoiCase("roi_no_mask", n=2, c=6, h=19, w=7, r=9, mask=False),
    RoiCase("roi_no_offset", n=2, c=6, h=7, w=19, r=9, offset=False),
    RoiCase("roi_neither", n=2, c=6, h=19, w=19, r=9, **_NEITHER),
    RoiCase("roi_neither_sampling_ratio_0", n=2, c=6, h=19, w=33, r=9, sampling_ratio=0, **_NEITHER),
    RoiCase("roi_no_mask_psroi", n=2, c=6, h=19, w=7, r=9, mask=False, **_PSROI),
    RoiCase("roi_no_offset_psroi", n=2, c=6, h=7, w=19, r=9, offset=False, **_PSROI),
    RoiCase("roi_neither_psroi", n=2, c=6, h=19, w=19, r=9, **_NEITHER, **_PSROI),
    RoiCase("roi_neither_group_3", n=2, c=18, h=19, w=19, r=9, group_size=3, **_NEITHER, **_PSROI),
    # RoIs of every kind.
    *(RoiCase(f"roi_{kind}", n=2, c=3, h=19, w=7, r=6, boxes=kind) for kind in _MIXED_KINDS),
    *(
        RoiCase(f"roi_{kind}_psroi", n=2, c=3, h=7, w=19, r=6, part_size=2, boxes=kind, **_PSROI)
        for kind in _MIXED_KINDS
    ),
    RoiCase("roi_huge", c=3, h=5, w=7, r=3, sampling_ratio=0, boxes="huge"),
    RoiCase("roi_huge_psroi", c=3, h=7, w=5, r=3, pooled_h=1, pooled_w=1, sample_per_part=33, boxes="huge", **_PSROI),
    RoiCase("roi_inverted_sampling_ratio_0", c=3, h=19, w=7, r=9, sampling_ratio=0, boxes="inverted"),
    RoiCase("roi_zero_size_sampling_ratio_0", c=3, h=19, w=7, r=3, sampling_ratio=0, boxes="zero_size"),
    # Offsets of every kind.
    RoiCase("roi_offsets_zero", n=2, c=5, h=19, w=7, r=9, offsets="zero"),
    RoiCase("roi_offsets_zero_psroi", n=2, c=5, h=7, w=19, r=9, offsets="zero", **_PSROI),
    RoiCase("roi_offsets_large", c=5, h=19, w=33, r=9, offset_scale=8.0, notes="many leave the map"),
    RoiCase("roi_offsets_large_psroi", c=5, h=33, w=19, r=9, offset_scale=8.0, **_PSROI),
    RoiCase("roi_offsets_far", c=5, h=7, w=19, r=9, offsets="far"),
    RoiCase("roi_offsets_far_psroi", c=5, h=19, w=7, r=9, offsets="far", **_PSROI),
    RoiCase("roi_gamma_0", c=5, h=7, w=19, r=5, gamma=0.0),
    RoiCase("roi_gamma_negative", c=5, h=7, w=19, r=5, gamma=-0.3),
    RoiCase("roi_boundary", n=2, c=5, h=7, w=19, r=9, sampling_ratio=1, **_DYADIC),
    RoiCase("roi_boundary_size_1", c=5, h=1, w=1, r=9, sampling_ratio=2, **_DYADIC),
    RoiCase("roi_boundary_psroi", n=2, c=5, h=19, w=7, r=9, sample_per_part=1, part_size=4, **_DYADIC, **_PSROI),
    RoiCase("roi_boundary_size_1_psroi", c=5, h=1, w=1, r=9, sample_per_part=2, part_size=4, **_DYADIC, **_PSROI),
)

#: NaN, ±Inf and values beyond every integer among the offsets, NaN and ±Inf among the RoIs.
NONFINITE_ROI_CASES: tuple[RoiCase, ...] = (
    RoiCase("roi_offsets_nonfinite", n=2, c=5, h=7, w=19, r=9, offsets="nonfinite"),
    RoiCase("roi_offsets_nonfinite_size_1", c=5, h=1, w=1, r=9, offsets="nonfinite"),
    RoiCase("roi_offsets_nonfinite_sampling_ratio_0", c=5, h=9, w=9, r=9, sampling_ratio=0, offsets="nonfinite"),
    RoiCase("roi_offsets_nonfinite_psroi", n=2, c=6, h=19, w=7, r=9, classes=2, offsets="nonfinite", **_PSROI),
    RoiCase("roi_offsets_nonfinite_size_1_psroi", c=5, h=1, w=1, r=9, offsets="nonfinite", **_PSROI),
    RoiCase("roi_nonfinite", n=2, c=5, h=7, w=19, r=19, boxes="nonfinite"),
    RoiCase("roi_nonfinite_sampling_ratio_0", c=5, h=7, w=19, r=19, sampling_ratio=0, mask=False, boxes="nonfinite"),
    RoiCase("roi_nonfinite_psroi", n=2, c=5, h=19, w=7, r=19, boxes="nonfinite", **_PSROI),
    RoiCase("roi_nonfinite_neither_psroi", c=5, h=19, w=7, r=9, boxes="nonfinite", **_NEITHER, **_PSROI),
)

#: No RoI at all, or not even an image.
EMPTY_ROI_CASES: tuple[RoiCase, ...] = (
    RoiCase("roi_none", n=2, c=5, h=7, w=19, r=0),
    RoiCase("roi_none_neither", c=5, h=7, w=7, r=0, sampling_ratio=0, **_NEITHER),
    RoiCase("roi_none_psroi", c=12, h=7, w=19, r=0, group_size=2, classes=3, part_size=2, **_PSROI),
    RoiCase("roi_none_of_no_image", n=0, c=5, h=7, w=7, r=0),
    RoiCase("roi_none_of_no_image_psroi", n=0, c=5, h=7, w=7, r=0, mask=False, **_PSROI),
)

ALL_ROI_CASES: tuple[RoiCase, ...] = ROI_CASES + NONFINITE_ROI_CASES + EMPTY_ROI_CASES

_AnyCase = TypeVar("_AnyCase", Case, RoiCase)


def name_of(case: Case | RoiCase) -> str:
    """For ``ids=`` of ``pytest.mark.parametrize``."""
    return case.name


def by_name(name: str) -> Any:
    """The ``Case`` or ``RoiCase`` of that name (RoI cases' names start with ``roi_``); KeyError if there is none."""
    for case in (*ALL_CASES, *ALL_ROI_CASES):
        if case.name == name:
            return case
    raise KeyError(name)


def where(
    condition: Callable[[_AnyCase], bool],
    among: Iterable[_AnyCase] = CASES,  # type: ignore[assignment]
) -> tuple[_AnyCase, ...]:
    """The cases that fulfil ``condition``."""
    return tuple(case for case in among if condition(case))


def base_locations(case: Case) -> tuple[Array, Array]:
    """Undeformed sampling locations (y, x), each float64 of shape (kH, kW, Ho, Wo)."""
    i, j, ho, wo = np.ogrid[: case.kernel_h, : case.kernel_w, : case.out_h, : case.out_w]
    full = (case.kernel_h, case.kernel_w, case.out_h, case.out_w)
    y = ho * case.stride_h - case.pad_top + i * case.dilation_h
    x = wo * case.stride_w - case.pad_left + j * case.dilation_w
    return np.broadcast_to(y, full).astype(np.float64), np.broadcast_to(x, full).astype(np.float64)


def _boundary_places(size: int, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    exact = np.array([-1, -0.5, 0, size - 1, size - 0.5, size], np.float32)
    beside = [np.nextafter(exact, np.float32(-np.inf)), np.nextafter(exact, np.float32(np.inf))]
    return rng.choice(np.concatenate([exact, *beside]).astype(np.float64), shape)


def _outside_places(size: int, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    distance = 1.0 + rng.exponential(50.0, shape)
    return np.where(rng.random(shape) < 0.5, -1.0 - distance, size + distance)


def make_offsets(case: Case, rng: np.random.Generator) -> Array:
    """Offsets of the case's kind, float64 of ``case.offset_shape``."""
    shape = (case.n, case.offset_group, case.kernel_h, case.kernel_w, 2, case.out_h, case.out_w)
    if case.offsets in ("boundary", "outside"):
        place = _boundary_places if case.offsets == "boundary" else _outside_places
        half = (*shape[:4], *shape[5:])
        y, x = base_locations(case)
        offset = np.empty(shape)
        offset[:, :, :, :, 0] = place(case.h, half, rng) - y
        offset[:, :, :, :, 1] = place(case.w, half, rng) - x
    else:
        offset = rng.normal(0.0, case.offset_scale, shape)
        if case.offsets == "zero":
            offset = np.zeros(shape)
        elif case.offsets == "integer":
            offset = np.rint(offset)
        elif case.offsets == "nonfinite":
            wild = rng.choice(np.array(WILD_OFFSETS), shape)
            offset = np.where(rng.random(shape) < 0.25, wild, offset)
    return offset.reshape(case.offset_shape)


def make_inputs(
    case: Case,
    rng: np.random.Generator,
    dtype: Any = np.float32,
    coordinate_dtype: Any = None,
) -> Inputs:
    """Draw the tensors of a case.

    The feature map is N(0, 1), the weight N(0, 1/K) with K the number of products summed, so that the
    output is of order one; the mask lies in (0, 1), as after a sigmoid. Everything is drawn in float64 and
    rounded to ``dtype`` once; ``coordinate_dtype`` (default: ``dtype``) is that of offset and mask.
    """
    coordinate_dtype = dtype if coordinate_dtype is None else coordinate_dtype
    X = rng.normal(0.0, 1.0, case.x_shape)
    W = rng.normal(0.0, 1.0, case.weight_shape) / math.sqrt(case.reduction)
    B = rng.normal(0.0, 1.0, case.bias_shape) if case.bias else None
    offset = make_offsets(case, rng)
    mask = 1.0 / (1.0 + np.exp(-rng.normal(0.0, 1.5, case.mask_shape))) if case.mask else None
    with np.errstate(over="ignore"):  # a wild offset becomes infinite in half precision: still wild
        return Inputs(
            X.astype(dtype),
            W.astype(dtype),
            offset.astype(coordinate_dtype),
            None if B is None else B.astype(dtype),
            None if mask is None else mask.astype(coordinate_dtype),
        )


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def random_case(
    rng: np.random.Generator,
    *,
    name: str = "random",
    max_locations: int = 2_000,
    max_macs: int = 100_000,
) -> Case:
    """Draw a valid case of bounded cost, reaching every attribute, size and kind of finite offsets.

    Args:
        rng: source of randomness; the same state gives the same case.
        name: name of the case.
        max_locations: upper bound of ``case.locations``.
        max_macs: upper bound of ``case.macs``.
    """
    sizes = np.array([1, 2, 3, 5, 7, 8, 11, 13, 19, 33])
    while True:
        multiple = int(rng.choice([1, 1, 2, 3, 4, 8]))
        c = multiple * int(rng.integers(1, 9))
        group = int(rng.choice(_divisors(c)))
        m = group * int(rng.integers(1, max(2, 12 // group + 1)))
        fields: dict[str, Any] = {
            "n": int(rng.choice([1, 1, 1, 2, 3])),
            "c": c,
            "h": int(rng.choice(sizes)),
            "w": int(rng.choice(sizes)),
            "m": m,
            "kernel_h": int(rng.choice([1, 2, 3, 3, 3, 4, 5])),
            "kernel_w": int(rng.choice([1, 2, 3, 3, 3, 4, 5])),
            "stride_h": int(rng.choice([1, 1, 2, 3])),
            "stride_w": int(rng.choice([1, 1, 2, 3])),
            "pad_top": int(rng.integers(0, 4)),
            "pad_left": int(rng.integers(0, 4)),
            "pad_bottom": int(rng.integers(0, 4)),
            "pad_right": int(rng.integers(0, 4)),
            "dilation_h": int(rng.choice([1, 1, 2, 3])),
            "dilation_w": int(rng.choice([1, 1, 2, 3])),
            "group": group,
            "offset_group": int(rng.choice(_divisors(c))),
            "bias": bool(rng.random() < 0.7),
            "mask": bool(rng.random() < 0.7),
            "offset_scale": float(rng.choice([0.1, 1.0, 2.0, 2.0, 8.0])),
            "offsets": str(rng.choice(["normal"] * 6 + ["zero", "integer", "boundary", "outside"])),
        }
        try:
            case = Case(name=name, **fields)
        except ValueError:  # the dilated kernel is larger than the padded map
            continue
        if case.locations <= max_locations and case.macs <= max_macs:
            return case


def _interval(kind: str, size: int, scale: float, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """First and last coordinate in image pixels, along an axis of ``size`` map pixels: two arrays [count]."""
    first, second = np.sort(rng.uniform(0.0, size, (2, count)), axis=0)
    if kind == "inside":
        wider = np.minimum(0.3 * size, 1.0)  # so that most bins have an extent worth sampling
        first, second = np.maximum(first - wider, 0.0), np.minimum(second + wider, float(size))
    elif kind in ("partly", "integer", "halves"):
        edge = np.where(rng.random(count) < 0.5, 0.0, float(size))
        extent = rng.uniform(1.0, size + 1.0, (2, count))
        first, second = edge - extent[0], edge + extent[1]
    elif kind == "whole":
        first, second = -rng.uniform(0.0, 1.0, count), size + rng.uniform(0.0, 1.0, count)
    elif kind == "tiny":
        second = first + rng.uniform(0.02, 0.1, count)
    elif kind == "zero_size":
        second = first
    elif kind == "outside":
        extent, distance = rng.uniform(0.5, 5.0, count), 3.0 + rng.exponential(10.0, count)
        first = np.where(rng.random(count) < 0.5, -distance - extent, size + distance)
        second = first + extent
    elif kind == "huge":
        around = size * rng.uniform(10.0, 20.0, (2, count))
        first, second = size / 2 - around[0], size / 2 + around[1]
    first, second = first / scale, second / scale
    if kind == "integer":
        first, second = np.rint(first), np.rint(second)
    elif kind == "halves":
        first, second = np.floor(first) + 0.5, np.floor(second) + 0.5
    return first, second


def _dyadic_interval(case: RoiCase, size: int, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    length = 2.0 ** rng.integers(0, 4, count)
    first = rng.integers(-4, 2 * size + 4, count) / 2
    if not case.is_aligned:  # both corners are rounded, and one is added to the second
        first, length = np.rint(first), length - 1.0
    return first / case.scale, (first + length) / case.scale


def _draw_boxes(case: RoiCase, kinds: Array, rng: np.random.Generator) -> Array:
    """(x1, y1, x2, y2) in image pixels for each kind, float64 [len(kinds), 4]."""
    boxes = np.empty((len(kinds), 4))
    for kind in sorted(set(kinds.tolist())):
        own = kinds == kind
        count = int(own.sum())
        for column, size in ((0, case.w), (1, case.h)):
            if kind == "dyadic":
                first, second = _dyadic_interval(case, size, count, rng)
            else:
                first, second = _interval("inside" if kind == "inverted" else kind, size, case.scale, count, rng)
            boxes[own, column], boxes[own, column + 2] = first, second
    for r in np.flatnonzero(kinds == "inverted"):
        for column in ((0,), (1,), (0, 1))[rng.integers(3)]:
            boxes[r, [column, column + 2]] = boxes[r, [column + 2, column]]
    return boxes


def _boundary_offsets(case: RoiCase, boxes: Array, rng: np.random.Generator) -> Array:
    """Offsets that put the first sample of each bin on a boundary of the sampler, float64 of ``offset_shape``."""
    offset = np.zeros(case.offset_shape)
    for channel, (size, pooled, parts) in enumerate(
        ((case.w, case.pooled_w, case.parts[1]), (case.h, case.pooled_h, case.parts[0]))
    ):
        first, last = boxes[:, channel] * case.scale, boxes[:, channel + 2] * case.scale
        length = last - first + (0.0 if case.is_aligned else case.scale)
        # The bin that a part belongs to: where there are more bins than parts, the first of them.
        bins = -(-np.arange(parts) * pooled // parts) if parts < pooled else np.arange(parts) * pooled // parts
        step = length[:, None] / pooled
        natural = first[:, None] - 0.5 + bins * step
        if case.is_aligned:
            natural = natural + 0.5 * step / case.sampling_ratio
        exact = np.array([-1, -0.5, 0, size - 1, size - 0.5, size])
        places = np.concatenate([exact, exact - 1 / 64, exact + 1 / 64])
        along_y = channel == 1
        shape = (case.r, *case.parts)
        natural = np.broadcast_to(natural[:, :, None] if along_y else natural[:, None, :], shape)
        shift = rng.choice(places, shape) - natural
        offset[:, channel] = shift / (case.factor * length[:, None, None])
    return offset


def _is_short_dyadic(length: float, scale: float, parts: int) -> bool:
    """Whether half of ``length``/``parts`` and its multiples are exact in float32 however they are computed."""
    step = Fraction(length) / (2 * parts)
    return step.denominator & (step.denominator - 1) == 0 and step.denominator <= 4096 and math.frexp(scale)[0] == 0.5


def _axis_margin(case: RoiCase, box: Array, shift_units: Array, along_y: bool) -> float:
    """Distance of one RoI, along one axis, from the nearest place where the result jumps, less the rounding.

    A position jumps where the sampler drops it, and the grid of ``sampling_ratio`` 0 where a bin's extent is a
    whole number. Positions that every implementation computes exactly are no danger and are left out.
    ``shift_units``: offsets of the axis, [classes, parts] or whatever; finite ones count.
    """
    size = case.h if along_y else case.w
    pooled = case.pooled_h if along_y else case.pooled_w
    first, second = box[1 if along_y else 0], box[3 if along_y else 2]
    if case.is_aligned:
        start = first * case.scale - 0.5
        length = (second * case.scale - 0.5) - start
        edges = np.array([-1.0, float(size)])
    else:
        first, second = (math.copysign(math.floor(abs(v) + 0.5), v) for v in (first, second))
        start = first * case.scale - 0.5
        length = max((second + 1.0) * case.scale - 0.5 - start, 0.1)
        edges = np.array([-0.5, size - 0.5])
    step = length / pooled
    margin = math.inf
    if not case.is_aligned:
        grid, half = case.sample_per_part, 0.0
    elif case.sampling_ratio:
        grid, half = case.sampling_ratio, 0.5
    else:
        grid, half = math.ceil(step), 0.5
        exact = step == round(step) and (step == 0.0 or math.frexp(case.scale)[0] == 0.5)
        margin = math.inf if exact else abs(step - round(step))
    if grid <= 0:
        return margin - 1e-4
    with np.errstate(invalid="ignore", over="ignore"):
        shifts = np.unique(shift_units) * case.factor * length
        shifts = shifts[np.isfinite(shifts)][:, None, None]
        within = np.arange(pooled)[:, None] * step + (np.arange(grid) + half) * step / grid
        position = start + within + shifts
        gap = np.abs(position[..., None] - edges)
        plain = (shifts == 0) & ((within == 0) | _is_short_dyadic(length, case.scale, pooled * grid))
        gap[(gap == 0) & plain[..., None]] = math.inf
        rounding = 1e-4 + 1e-6 * (abs(start) + abs(length) + np.abs(shifts[..., None]))
        return min(margin - 1e-4, float((gap - rounding).min(initial=math.inf)))


def _is_near_a_jump(case: RoiCase, box: Array, offset: Array) -> bool:
    """Whether rounding in float32 could change the result of a RoI by more than rounding. ``offset`` is its own."""
    pairs = offset.reshape(case.classes, 2, *case.parts)
    return any(_axis_margin(case, box, pairs[:, channel], along_y) <= 0 for channel, along_y in ((0, False), (1, True)))


def coordinate_dtypes(dtype: Any, coordinate_dtype: Any) -> dict[str, Any]:
    """The dtypes of rois, offset and mask, from one for all of them or one for each by name."""
    names = ("rois", "offset", "mask")
    if isinstance(coordinate_dtype, Mapping):
        return {name: coordinate_dtype.get(name, dtype) for name in names}
    return dict.fromkeys(names, dtype if coordinate_dtype is None else coordinate_dtype)


def make_roi_inputs(
    case: RoiCase,
    rng: np.random.Generator,
    dtype: Any = np.float32,
    coordinate_dtype: Any = None,
) -> RoiInputs:
    """Draw the tensors of a case.

    The feature map is N(0, 1), the mask lies in (0, 1), as after a sigmoid. Everything is drawn in float64 and
    rounded once to its type. A RoI that lies, after that, so near to a jump of the operator that rounding of
    its positions in float32 could decide is drawn again: see the kind ``boundary`` for what happens there.

    Args:
        case: the RoI pooling.
        rng: source of randomness.
        dtype: type of X.
        coordinate_dtype: type of rois, offset and mask (default: ``dtype``), or a mapping with a type for each
            of these names.
    """
    dtypes = coordinate_dtypes(dtype, coordinate_dtype)
    X = rng.normal(0.0, 1.0, case.x_shape)
    drawn_from = {"mixed": _MIXED_KINDS, "nonfinite": _MIXED_KINDS}.get(case.boxes, (case.boxes,))
    kinds = np.resize(np.array(drawn_from, dtype=object), case.r)
    rois = np.zeros(case.rois_shape)
    rois[:, 0] = rng.permutation(np.resize(np.arange(case.n), case.r)) if case.n else 0.0
    rois[:, 1:] = _draw_boxes(case, kinds, rng)
    rois = rois.astype(dtypes["rois"])
    if case.offsets == "boundary":
        offset = _boundary_offsets(case, rois[:, 1:].astype(np.float64), rng)
    elif case.offsets == "zero" or not case.offset:
        offset = np.zeros(case.offset_shape)
    elif case.offsets == "far":
        offset = 10.0 ** rng.uniform(3.0, 6.0, case.offset_shape) * rng.choice([-1.0, 1.0], case.offset_shape)
    else:
        offset = rng.normal(0.0, case.offset_scale, case.offset_shape)
        if case.offsets == "nonfinite":
            wild = rng.choice(np.array(WILD_OFFSETS), case.offset_shape)
            offset = np.where(rng.random(case.offset_shape) < 0.25, wild, offset)
    mask = 1.0 / (1.0 + np.exp(-rng.normal(0.0, 1.5, case.mask_shape)))
    with np.errstate(over="ignore"):  # a wild offset becomes infinite in half precision: still wild
        offset = offset.astype(dtypes["offset"])
    if case.boxes != "dyadic":
        for r in range(case.r):
            for attempt in range(1000):
                box = rois[r, 1:].astype(np.float64)
                if not _is_near_a_jump(case, box, offset[r].astype(np.float64)):
                    break
                # Where whole coordinates meet a small map, every RoI of a kind may be on a jump.
                kind = kinds[r : r + 1] if attempt < 200 else rng.choice(np.array(_MIXED_KINDS, dtype=object), 1)
                rois[r, 1:] = _draw_boxes(case, kind, rng)[0].astype(dtypes["rois"])
            else:
                raise RuntimeError(f"{case}: every RoI is near a jump")
    if case.boxes == "nonfinite":
        wild = rng.choice(np.array([math.nan, math.inf, -math.inf]), (case.r, 4)).astype(rois.dtype)
        rois[:, 1:] = np.where(rng.random((case.r, 4)) < 0.25, wild, rois[:, 1:])
    return RoiInputs(
        X.astype(dtype),
        rois,
        offset if case.offset else None,
        mask.astype(dtypes["mask"]) if case.mask else None,
    )


def random_roi_case(
    rng: np.random.Generator,
    *,
    name: str = "roi_random",
    variant: str | None = None,
    max_locations: int = 600,
    **fixed: Any,
) -> RoiCase:
    """Draw a valid case of bounded cost, reaching every attribute, size and kind of finite RoIs and offsets.

    Args:
        rng: source of randomness; the same state gives the same case.
        name: name of the case.
        variant: ``"aligned"``, ``"psroi"`` or None for either.
        max_locations: upper bound of ``case.locations``.
        fixed: fields that are given, not drawn.
    """
    sizes = np.array([1, 2, 3, 5, 7, 8, 13, 19, 33])
    while True:
        chosen = str(rng.choice(["aligned", "psroi"])) if variant is None else variant
        fields: dict[str, Any] = {
            "variant": chosen,
            "n": int(rng.choice([1, 1, 2, 3])),
            "c": int(rng.integers(1, 9)),
            "h": int(rng.choice(sizes)),
            "w": int(rng.choice(sizes)),
            "r": int(rng.integers(1, 7)),
            "pooled_h": int(rng.choice([1, 2, 3, 4, 5, 7])),
            "pooled_w": int(rng.choice([1, 2, 3, 4, 5, 7])),
            "spatial_scale": float(rng.choice([1.0, 1.0, 0.5, 0.25, 0.0625, 0.3, 1.7])),
            "gamma": float(rng.choice([0.1, 0.1, 1.0, 0.0, -0.3])),
            "offset": bool(rng.random() < 0.7),
            "mask": bool(rng.random() < 0.6),
            "boxes": str(rng.choice(["mixed"] * 6 + [*_MIXED_KINDS])),
            "offset_scale": float(rng.choice([0.1, 1.0, 1.0, 4.0])),
            "offsets": str(rng.choice(["normal"] * 8 + ["zero", "far"])),
        }
        if chosen == "aligned":
            fields["sampling_ratio"] = int(rng.choice([0, 0, 1, 2, 2, 3]))
        else:
            classes = int(rng.choice([1, 1, 2, 3])) if fields["offset"] or fields["mask"] else 1
            group_size = int(rng.choice([1, 1, 2, 3, 4, 7]))
            fields |= {
                "sample_per_part": int(rng.choice([1, 2, 3, 4])),
                "group_size": group_size,
                "classes": classes,
                "part_size": int(rng.integers(1, 8)),
                "c": classes * int(rng.integers(1, 4)) * group_size**2,
            }
        case = RoiCase(name=name, **{**fields, **fixed})
        if case.locations <= max_locations:
            return case
