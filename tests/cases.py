"""The one table of convolution cases, used at every level of the tests.

Tests write ``import cases``: ``tests/conftest.py`` puts this folder on ``sys.path``. The module needs NumPy
and the standard library only, and derives every shape by itself, so that it can be an oracle for the shapes.

    @pytest.mark.parametrize("case", cases.CASES, ids=cases.name_of)
    def test_something(case, rng):
        inputs = cases.make_inputs(case, rng, np.float32)

The table covers each awkward size (1, 7, 19, 33), each attribute unequal between height and width, every
combination of bias and mask, and offsets of each kind in ``OFFSET_KINDS``. A case is small: no more than a
few thousand sampling locations, so that the float64 reference takes a fraction of a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

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


def name_of(case: Case) -> str:
    """For ``ids=`` of ``pytest.mark.parametrize``."""
    return case.name


def by_name(name: str) -> Case:
    """The case of that name; KeyError if there is none."""
    for case in ALL_CASES:
        if case.name == name:
            return case
    raise KeyError(name)


def where(condition: Callable[[Case], bool], among: Iterable[Case] = CASES) -> tuple[Case, ...]:
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
