"""How far one tensor is from what it should be.

Two floating-point tensors y and ref are compared in float64, over the elements where both are finite::

    max abs       = max |y - ref|
    relative RMS  = ‖y - ref‖ / ‖ref‖      (0 if both are zero, infinite if only ref is)
    cosine        = y · ref / (‖y‖ ‖ref‖)  (1 if both are zero, 0 if only one is)

NaN and infinities are compared for themselves: NaN agrees with NaN, an infinity with the same infinity;
anything else is a mismatch and no figure can make up for it. Tensors of any other element type (integers,
booleans, strings, complex numbers) are compared exactly, by the number of elements that differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]

#: Elements that are widened to float64 at a time: bounds the scratch memory of a comparison to some 40 MiB.
CHUNK = 1 << 20
#: How many positions of a mismatch are kept; all of them are counted.
KEPT_POSITIONS = 8


@dataclass(frozen=True)
class Element:
    """One position of a tensor, with what both sides have there."""

    index: tuple[int, ...]
    actual: float | int | bool | str
    expected: float | int | bool | str

    def to_json(self) -> dict[str, Any]:
        """Return the element as JSON values; non-finite numbers become strings (``"nan"``, ``"inf"``)."""
        return {
            "index": list(self.index),
            "actual": _json_value(self.actual),
            "expected": _json_value(self.expected),
        }


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found.

    Attributes:
        shape: shape of the tensor under test.
        expected_shape: shape of the reference.
        dtype: element type of the tensor under test.
        expected_dtype: element type of the reference. A different width is no fault (a float64 reference
            judges a float32 output); a different kind, float against integer, is.
        exact: whether the two were compared for equality instead of by distance.
        size: number of elements compared.
        finite: number of those that are finite on both sides, which the figures are taken over; all of them in
            an exact comparison.
        max_abs: largest absolute difference where both are finite; NaN if nothing could be compared.
        relative_rms: ‖actual − expected‖ / ‖expected‖ where both are finite; NaN if nothing could be compared.
        cosine: cosine of the angle between the two; NaN if nothing could be compared.
        worst: the element with the largest absolute difference; None if all are equal.
        nonfinite_mismatches: number of elements where NaN or an infinity stands against something else.
        nonfinite: the first of those, at most :data:`KEPT_POSITIONS`.
        differing: number of unequal elements of an exact comparison; None for a comparison by distance.
        problem: why the two cannot be compared at all (shape or kind of element); empty if they can.
    """

    shape: tuple[int, ...]
    expected_shape: tuple[int, ...]
    dtype: str
    expected_dtype: str
    exact: bool
    size: int
    finite: int
    max_abs: float
    relative_rms: float
    cosine: float
    worst: Element | None
    nonfinite_mismatches: int
    nonfinite: tuple[Element, ...]
    differing: int | None
    problem: str

    @property
    def severity(self) -> tuple[int, int, float]:
        """Key that orders comparisons of one output from harmless to hopeless."""
        if self.problem:
            return (2, 0, 0.0)
        if self.exact:
            return (0, 0, (self.differing or 0) / max(self.size, 1))
        return (1 if self.nonfinite_mismatches else 0, self.nonfinite_mismatches, self.relative_rms)

    def to_json(self) -> dict[str, Any]:
        """Return every field as a JSON value; figures that are not finite become null."""
        return {
            "shape": list(self.shape),
            "expected_shape": list(self.expected_shape),
            "dtype": self.dtype,
            "expected_dtype": self.expected_dtype,
            "exact": self.exact,
            "size": self.size,
            "finite": self.finite,
            "max_abs": finite_or_none(self.max_abs),
            "relative_rms": finite_or_none(self.relative_rms),
            "cosine": finite_or_none(self.cosine),
            "worst": self.worst.to_json() if self.worst else None,
            "nonfinite_mismatches": self.nonfinite_mismatches,
            "nonfinite": [element.to_json() for element in self.nonfinite],
            "differing": self.differing,
            "problem": self.problem,
        }


def compare(actual: Array, expected: Array) -> Comparison:
    """Compare a tensor with its reference; disagreement is reported, never raised.

    Args:
        actual: the tensor under test, any shape and element type (``ml_dtypes`` included).
        expected: the reference, of the same shape; its element type may be wider.

    Returns:
        The figures defined at the head of this module. Positions are counted in row-major order.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.shape != expected.shape:
        return _incomparable(
            actual, expected, f"the shape is {list(actual.shape)}, the reference has {list(expected.shape)}"
        )
    kinds = (element_kind(actual.dtype), element_kind(expected.dtype))
    if kinds[0] != kinds[1]:
        return _incomparable(
            actual,
            expected,
            f"the element type is {actual.dtype} ({kinds[0]}), the reference has {expected.dtype} ({kinds[1]})",
        )
    if kinds[0] == "float":
        return _compare_floats(actual, expected)
    return _compare_exactly(actual, expected)


def element_kind(dtype: np.dtype[Any]) -> str:
    """Return ``"float"``, ``"integer"``, ``"boolean"``, ``"complex"`` or ``"text"``.

    The types of ``ml_dtypes`` say of themselves only that they are opaque, so they go by their names.
    """
    name = dtype.name
    if dtype.kind == "f" or name.startswith(("bfloat", "float")):
        return "float"
    if dtype.kind in "iu" or name.startswith(("int", "uint")):
        return "integer"
    if dtype.kind == "b":
        return "boolean"
    return "complex" if dtype.kind == "c" else "text"


def finite_or_none(value: float) -> float | None:
    """Return ``value``, or None where JSON has no word for it."""
    return float(value) if math.isfinite(value) else None


def _json_value(value: float | int | bool | str) -> float | int | bool | str:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _incomparable(actual: Array, expected: Array, problem: str) -> Comparison:
    return Comparison(
        shape=actual.shape,
        expected_shape=expected.shape,
        dtype=str(actual.dtype),
        expected_dtype=str(expected.dtype),
        exact=element_kind(expected.dtype) != "float",
        size=0,
        finite=0,
        max_abs=math.nan,
        relative_rms=math.nan,
        cosine=math.nan,
        worst=None,
        nonfinite_mismatches=0,
        nonfinite=(),
        differing=None,
        problem=problem,
    )


def _chunks(array: Array) -> Iterator[Array]:
    # .flat walks any strides in row-major order without the full copy that reshape(-1) would make.
    flat = array.reshape(-1) if array.flags.c_contiguous else array.flat
    for start in range(0, array.size, CHUNK):
        yield flat[start : start + CHUNK]


def _index(position: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(position, shape))


def _float_chunks(actual: Array, expected: Array) -> Iterator[tuple[Array, Array]]:
    with np.errstate(invalid="ignore"):
        for a, e in zip(_chunks(actual), _chunks(expected), strict=True):
            yield a.astype(np.float64), e.astype(np.float64)


def _difference(a: Array, e: Array) -> Array:
    # Of two values near ±1.8e308 the difference overflows: an infinite error is the right answer then.
    with np.errstate(over="ignore"):
        difference: Array = np.abs(a - e)
    return difference


def _compare_floats(actual: Array, expected: Array) -> Comparison:
    # First pass: extremes, the worst element and the non-finite ones. The norms are taken in a second pass,
    # scaled by the extremes, so that squares neither overflow nor underflow.
    largest = {"actual": 0.0, "expected": 0.0, "difference": 0.0}
    worst_position = -1
    mismatches = 0
    positions: list[int] = []
    compared = 0
    start = 0
    for a, e in _float_chunks(actual, expected):
        both = np.isfinite(a) & np.isfinite(e)
        if not both.all():
            agree = both | (np.isnan(a) & np.isnan(e)) | (a == e)
            found = np.flatnonzero(~agree)
            mismatches += found.size
            positions.extend(start + int(i) for i in found[: KEPT_POSITIONS - len(positions)])
            a, e = np.where(both, a, 0.0), np.where(both, e, 0.0)
        compared += int(np.count_nonzero(both))
        difference = _difference(a, e)
        place = int(np.argmax(difference))
        if difference[place] > largest["difference"]:
            largest["difference"] = float(difference[place])
            worst_position = start + place
        largest["actual"] = max(largest["actual"], float(np.abs(a).max()))
        largest["expected"] = max(largest["expected"], float(np.abs(e).max()))
        start += a.size
    relative_rms, cosine = _relative_rms_and_cosine(actual, expected, largest)

    def element(position: int) -> Element:
        index = _index(position, actual.shape)
        return Element(index, float(actual[index]), float(expected[index]))

    nothing = actual.size > 0 and compared == 0
    return Comparison(
        shape=actual.shape,
        expected_shape=expected.shape,
        dtype=str(actual.dtype),
        expected_dtype=str(expected.dtype),
        exact=False,
        size=actual.size,
        finite=compared,
        max_abs=math.nan if nothing else largest["difference"],
        relative_rms=math.nan if nothing else relative_rms,
        cosine=math.nan if nothing else cosine,
        worst=element(worst_position) if worst_position >= 0 else None,
        nonfinite_mismatches=mismatches,
        nonfinite=tuple(element(position) for position in positions),
        differing=None,
        problem="",
    )


def _relative_rms_and_cosine(actual: Array, expected: Array, largest: Mapping[str, float]) -> tuple[float, float]:
    """Return ‖actual − expected‖/‖expected‖ and the cosine, given the largest magnitude of each of the three."""
    scale = {key: value if value > 0.0 and math.isfinite(value) else 1.0 for key, value in largest.items()}
    sums: dict[str, list[float]] = {"actual": [], "expected": [], "difference": [], "dot": []}
    if any(largest.values()):
        for a, e in _float_chunks(actual, expected):
            both = np.isfinite(a) & np.isfinite(e)
            if not both.all():
                a, e = np.where(both, a, 0.0), np.where(both, e, 0.0)
            difference = _difference(a, e) / scale["difference"]
            a, e = a / scale["actual"], e / scale["expected"]
            sums["actual"].append(float(np.dot(a, a)))
            sums["expected"].append(float(np.dot(e, e)))
            sums["difference"].append(float(np.dot(difference, difference)))
            sums["dot"].append(float(np.dot(a, e)))
    norm = {key: math.sqrt(math.fsum(sums[key])) for key in largest}
    if largest["difference"] == 0.0:
        relative_rms = 0.0
    elif largest["expected"] == 0.0 or math.isinf(largest["difference"]):
        relative_rms = math.inf
    else:
        relative_rms = (scale["difference"] / scale["expected"]) * (norm["difference"] / norm["expected"])
    if norm["actual"] == 0.0 or norm["expected"] == 0.0:
        return relative_rms, 1.0 if norm["actual"] == norm["expected"] else 0.0
    cosine = math.fsum(sums["dot"]) / (norm["actual"] * norm["expected"])
    return relative_rms, min(1.0, max(-1.0, cosine))


def _compare_exactly(actual: Array, expected: Array) -> Comparison:
    ordered = element_kind(actual.dtype) in ("integer", "boolean")
    differing = 0
    largest = 0
    worst: Element | None = None
    start = 0
    for a, e in zip(_chunks(actual), _chunks(expected), strict=True):
        found = np.flatnonzero(np.asarray(a != e, dtype=bool))
        if found.size:
            differing += found.size
            # float64 ranks the distances (integers of 64 bits overflow in their own type); Python's
            # integers then give the exact one.
            place = found[0]
            if ordered:
                distances = np.abs(a[found].astype(np.float64) - e[found].astype(np.float64))
                place = found[np.argmax(distances)]
            distance = abs(int(a[place]) - int(e[place])) if ordered else 1
            if distance > largest:
                index = _index(start + int(place), actual.shape)
                largest, worst = distance, Element(index, _plain(a[place]), _plain(e[place]))
        start += a.size
    return Comparison(
        shape=actual.shape,
        expected_shape=expected.shape,
        dtype=str(actual.dtype),
        expected_dtype=str(expected.dtype),
        exact=True,
        size=actual.size,
        finite=actual.size,
        max_abs=float(largest) if ordered else math.nan,
        relative_rms=math.nan,
        cosine=math.nan,
        worst=worst,
        nonfinite_mismatches=0,
        nonfinite=(),
        differing=differing,
        problem="",
    )


def _plain(value: Any) -> int | bool | str:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    return int(value) if isinstance(value, (int, np.integer)) else str(value)
