"""Sizes, strides and pads of a convolution, attributes of a pooling: plain integer arithmetic, also on symbolic sizes.

Order is height before width everywhere.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsFloat, TypeGuard

from dcn_deploy.errors import InvalidArgumentError, describe


@dataclass(frozen=True)
class Geometry:
    """The attributes of a convolution, as the torch operator takes them; ``pads`` is [top, left, bottom, right]."""

    stride: list[int]
    pads: list[int]
    dilation: list[int]
    group: int
    offset_group: int


@dataclass(frozen=True)
class RoiPooling:
    """The attributes of RoI pooling that matter once its tensors are known to fit; ``output_size`` is (pH, pW)."""

    variant: str
    output_size: tuple[int, int]
    spatial_scale: float
    gamma: float
    sampling_ratio: int
    sample_per_part: int
    group_size: int

    @property
    def fixed_grid(self) -> int:
        """Samples of a bin along each axis; 0 where they depend on the size of the RoI."""
        return self.sampling_ratio if self.variant == "aligned" else self.sample_per_part


def output_size(size: int, pad_begin: int, pad_end: int, dilation: int, kernel: int, stride: int) -> int:
    """Return floor((size + pads − dilation·(kernel − 1) − 1)/stride) + 1, the extent of the output on one axis.

    Written in the form torch's own convolution uses, so that symbolic sizes of both compare equal.
    """
    return (size + pad_begin + pad_end - dilation * (kernel - 1) - 1) // stride + 1


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def whole(name: str, value: object, minimum: int, maximum: int | None = None) -> int:
    """Return ``value`` if it is an int in [minimum, maximum].

    Raises:
        InvalidArgumentError: if it is not.
    """
    if not _is_int(value) or value < minimum or (maximum is not None and value > maximum):
        most = "" if maximum is None else f" and at most {maximum}"
        raise InvalidArgumentError(describe(name, expected=f"an int of at least {minimum}{most}", actual=repr(value)))
    return value


def spatial_scale_of(value: object) -> float:
    """Return a spatial scale as an ONNX file stores it, in float32.

    Raises:
        InvalidArgumentError: unless it is a number above 0 that float32 can hold.
    """
    scale = _as_float32(value)
    if scale is None or scale <= 0:
        raise InvalidArgumentError(
            describe(
                "spatial_scale",
                expected="a finite number above 0",
                actual=repr(value),
                remedy="It is the map's size divided by the image's, e.g. 1/16.",
            )
        )
    return scale


def gamma_of(value: object) -> float:
    """Return the factor of RoI offsets as an ONNX file stores it, in float32.

    Raises:
        InvalidArgumentError: unless it is a number that float32 can hold.
    """
    gamma = _as_float32(value)
    if gamma is None:
        raise InvalidArgumentError(describe("gamma", expected="a finite number", actual=repr(value)))
    return gamma


def _as_float32(value: object) -> float | None:
    """Round to float32, so that PyTorch and a file mean the same number; None for what it cannot hold."""
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        return None
    try:
        # struct rounds to nearest, and refuses what is beyond float32.
        rounded: float = struct.unpack("f", struct.pack("f", float(value)))[0]
    except (OverflowError, ValueError, TypeError):
        return None
    return rounded if math.isfinite(rounded) else None


def pair(name: str, value: int | Sequence[int], minimum: int) -> tuple[int, int]:
    """Return (height, width) from an int or a sequence of two.

    Raises:
        InvalidArgumentError: for anything else, or a value below ``minimum``.
    """
    if _is_int(value):
        values: tuple[int, ...] = (value, value)
    else:
        values = tuple(value) if isinstance(value, Sequence) else ()
    if len(values) != 2 or not all(_is_int(v) and v >= minimum for v in values):
        raise InvalidArgumentError(
            describe(name, expected=f"an int or (height, width), each at least {minimum}", actual=repr(value))
        )
    return values[0], values[1]


def padding4(name: str, value: int | Sequence[int]) -> tuple[int, int, int, int]:
    """Return (top, left, bottom, right) from an int, (height, width) or all four, the order of ONNX ``pads``.

    Raises:
        InvalidArgumentError: for anything else, or a negative value.
    """
    if _is_int(value):
        values: tuple[int, ...] = (value,) * 4
    elif isinstance(value, Sequence):
        values = tuple(value) * (2 if len(value) == 2 else 1)
    else:
        values = ()
    if len(values) != 4 or not all(_is_int(v) and v >= 0 for v in values):
        raise InvalidArgumentError(
            describe(
                name,
                expected="an int, (height, width) or (top, left, bottom, right), each at least 0",
                actual=repr(value),
            )
        )
    return values[0], values[1], values[2], values[3]
