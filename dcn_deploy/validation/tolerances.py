r"""How far from the float64 reference a result may be: one table, and two rules that follow from it.

Every figure is a relative RMS error ‖y − ref‖/‖ref‖ with the inputs already rounded to the storage type.

**One operator.** The error of a sum of products does not depend on the map. That of a sampling location does: a
coordinate x of a map of width W that is held in float32 is off by up to ε·W/2 pixels (ε = 2⁻²³), uniformly, so by
ε·W/(2√3) in the root of the mean square. A bilinear sample answers with its slope times that. On white noise, the
roughest data without structure, the slope along one axis is √3 times the sample itself (variances 4/3 and 4/9 of the
map's), so the two axes together give a relative error of at most::

    c(H, W) = ε/2 · √(H² + W²)            per rounding of the coordinates

and n independent roundings of that size √n times as much. Adding the offset to the position is one; a kernel that
keeps the whole pixels of the position apart from the fraction of the offset has none. The decomposed form adds
those of the normalised grid, in units of ε·W/2: the product with 2/(W−1), that constant itself, the subtraction of
1 (half a unit), the runtime's addition of 1 and its product with (W−1)/2; with the first,
1 + 1 + 1 + 1/4 + 1 + 1 = 5.25 units squared. A row allows::

    limit = relative_rms + √(coordinate_roundings) · c(H, W)

RoI pooling answers likewise. The samples of a bin are averaged, and so are their slopes, which fall faster with the
number of pixels in the bin than the mean itself; the rounding of a box is the same for all of them. So c(H, W) bounds
a bin as it bounds a sample. The operator itself has its positions in float64. Its decomposed form has them in float32,
start + size·(f + γ·δ) with a constant f between 0 and 1. Each step counts as a rounding of a coordinate's size: the
first corner's product with the scale and its subtraction of ½, the difference of the corners and its product with the
scale, γ·δ, its sum with f, the product and the sum: 8 units squared.

**A predicted offset.** An offset of d pixels that a branch predicts with the relative error ε moves the sample by
ε·d. By the same slope, along both axes, the layer is off by √6·d·ε, for which d = 2 pixels is allowed
(:data:`OFFSET_PIXELS`) and the dense row's limit as ε; this adds in quadrature to the layer's own limit. An offset δ of
RoI pooling is γ·δ·(RoI size) pixels: 2 pixels are δ = 1 with γ = 0.1 in a RoI of 20 map pixels, or 320 of the image at
the scale 1/16. A box is given, not predicted: one that the file itself computes may need a limit of its own.

**An edge.** RoI pooling jumps where a sample leaves the map. A sample that lies there within its rounding may count on
one side and not on the other, and its bin is then off by up to a whole sample of its grid. The limits have no term for
that: it needs a coordinate within about 1e-6 of the edge, or offsets in half precision, whose own term is larger. Only
``psroi`` without offsets, whose RoIs are whole pixels, meets the edge often, and only beyond the image's last pixel.

**A network.** Roundings of different layers are independent, so their squares add, over the layers with a sum of
products (or a sampling) that lie before a tensor::

    limit = gain · √(Σ limit(layer)²)

``gain`` would cover what the data do to an error on its way. No network that was measured needs one, so it is 1:
docs/validation.md has the figures.

Where the reference itself was computed in a rounded type (a PyTorch network in float32), its own limit is added, in
quadrature again: its roundings are as independent as any.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from dcn_deploy.errors import InvalidArgumentError, describe
from dcn_deploy.validation.comparison import Comparison

#: Any backend.
ANY = "*"
#: The name in the table of every operator that is a plain sum of products: convolution, matrix product, ...
DENSE = "dense"
#: The name in the table of RoI pooling in its decomposed form, whose nodes together are one layer.
DECOMPOSED_ROI_POOL = "DeformRoIPool2d, decomposed"
#: The name in the table of the rule for many layers.
NETWORK = "network"

_EPSILON_FLOAT32 = 2.0**-23


@dataclass(frozen=True)
class Tolerance:
    """One row of the table.

    Attributes:
        relative_rms: largest relative RMS error against float64, apart from the coordinates.
        coordinate_roundings: how many roundings of size ε·W/2 a sampling coordinate goes through, in
            quadrature.
        gain: for :data:`NETWORK`: factor on the root of the sum of the layers' squares.
        reason: where the figures come from.
    """

    relative_rms: float
    reason: str
    coordinate_roundings: float = 0.0
    gain: float = 1.0

    def at(self, extent: tuple[int, int] | None) -> float:
        """Return the limit for an operator that samples a map of ``extent`` (H, W); None for one that samples none."""
        if extent is None or not self.coordinate_roundings:
            return self.relative_rms
        return self.relative_rms + math.sqrt(self.coordinate_roundings) * coordinate_error(*extent)


def coordinate_error(height: int, width: int) -> float:
    """Return c(H, W): the relative error that one float32 rounding of both coordinates brings on white noise."""
    return _EPSILON_FLOAT32 / 2 * math.hypot(height, width)


#: Standard deviation of an offset along one axis, in pixels, whose own relative error the limits allow for: that of
#: the project's benchmarks.
OFFSET_PIXELS = 2.0


def offset_error(relative: float) -> float:
    """Return what a relative error of predicted offsets brings, on white noise."""
    return math.sqrt(6.0) * OFFSET_PIXELS * relative


_TARGET = "target of the project"
_SPLIT = "; position and offset are never added, so the coordinate is exact"
_POSITION = "; position plus offset is one float32 rounding"
_GRID = "; the normalised grid adds 4.25 roundings to that of position plus offset"
_BOXES = "; positions are float64"
_BOXES_FLOAT32 = "; positions are float32: eight roundings of a coordinate's size"
_NETWORK_ITSELF = "the network has this package's operator here, whatever the form of the file"
# F(4×4, 3×3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), in float32 on white noise,
# summed channel by channel: 1.1e-6 for 16 channels to 4.5e-6 for 512.
_WINOGRAD = "the runtime may convolve by Winograd's algorithm, whose transforms cost a digit"
_FLOAT64 = "float64 throughout"

#: (operator or "network", element type it stores, backend or "*") → row. "tf32" stands for float32 storage with
#: products in TF32.
TOLERANCES: dict[tuple[str, str, str], Tolerance] = {
    ("DeformConv2d", "float64", ANY): Tolerance(1e-12, _FLOAT64),
    ("DeformConv2d", "float32", ANY): Tolerance(1e-6, _TARGET + _SPLIT),
    ("DeformConv2d", "tf32", ANY): Tolerance(1e-3, _TARGET + _SPLIT),
    ("DeformConv2d", "float16", ANY): Tolerance(1e-3, _TARGET + _SPLIT),
    ("DeformConv2d", "bfloat16", ANY): Tolerance(8e-3, _TARGET + _SPLIT),
    ("DeformConv", "float64", ANY): Tolerance(1e-12, _FLOAT64),
    ("DeformConv", "float32", ANY): Tolerance(1e-6, _TARGET + _POSITION, coordinate_roundings=1),
    ("DeformConv", "float32", "torch"): Tolerance(1e-6, _NETWORK_ITSELF + _SPLIT),
    ("DeformConv", "tf32", ANY): Tolerance(1e-3, _TARGET + _POSITION, coordinate_roundings=1),
    ("DeformConv", "float16", ANY): Tolerance(1e-3, _TARGET + _POSITION, coordinate_roundings=1),
    ("DeformConv", "bfloat16", ANY): Tolerance(8e-3, _TARGET + _POSITION, coordinate_roundings=1),
    ("GridSample", "float64", ANY): Tolerance(1e-12, _FLOAT64),
    ("GridSample", "float32", ANY): Tolerance(1e-6, _TARGET + _GRID, coordinate_roundings=5.25),
    ("GridSample", "float32", "torch"): Tolerance(1e-6, _NETWORK_ITSELF + _SPLIT),
    ("GridSample", "tf32", ANY): Tolerance(1e-6, "sampling multiplies in float32" + _GRID, coordinate_roundings=5.25),
    ("GridSample", "float16", ANY): Tolerance(1e-3, _TARGET + _GRID, coordinate_roundings=5.25),
    ("GridSample", "bfloat16", ANY): Tolerance(8e-3, _TARGET + _GRID, coordinate_roundings=5.25),
    ("DeformRoIPool2d", "float64", ANY): Tolerance(1e-12, _FLOAT64),
    ("DeformRoIPool2d", "float32", ANY): Tolerance(1e-6, _TARGET + _BOXES),
    ("DeformRoIPool2d", "tf32", ANY): Tolerance(1e-6, "pooling multiplies in float32" + _BOXES),
    ("DeformRoIPool2d", "float16", ANY): Tolerance(1e-3, _TARGET + _BOXES),
    ("DeformRoIPool2d", "bfloat16", ANY): Tolerance(8e-3, _TARGET + _BOXES),
    (DECOMPOSED_ROI_POOL, "float64", ANY): Tolerance(1e-12, _FLOAT64),
    (DECOMPOSED_ROI_POOL, "float32", ANY): Tolerance(1e-6, _TARGET + _BOXES_FLOAT32, coordinate_roundings=8),
    (DECOMPOSED_ROI_POOL, "float32", "torch"): Tolerance(1e-6, _NETWORK_ITSELF + _BOXES),
    (DECOMPOSED_ROI_POOL, "tf32", ANY): Tolerance(1e-3, _TARGET + _BOXES_FLOAT32, coordinate_roundings=8),
    (DECOMPOSED_ROI_POOL, "float16", ANY): Tolerance(1e-3, _TARGET + _BOXES_FLOAT32, coordinate_roundings=8),
    (DECOMPOSED_ROI_POOL, "bfloat16", ANY): Tolerance(8e-3, _TARGET + _BOXES_FLOAT32, coordinate_roundings=8),
    (DENSE, "float64", ANY): Tolerance(1e-12, _FLOAT64),
    (DENSE, "float32", ANY): Tolerance(1e-6, _TARGET),
    (DENSE, "float32", "onnxruntime-cuda"): Tolerance(1e-5, _WINOGRAD),
    (DENSE, "float32", "tensorrt"): Tolerance(1e-5, _WINOGRAD),
    (DENSE, "float32", "tensorrt-rtx"): Tolerance(1e-5, _WINOGRAD),
    (DENSE, "tf32", ANY): Tolerance(1e-3, _TARGET),
    (DENSE, "float16", ANY): Tolerance(1e-3, _TARGET),
    (DENSE, "bfloat16", ANY): Tolerance(8e-3, _TARGET),
    (NETWORK, ANY, ANY): Tolerance(0.0, "independent roundings add in quadrature", gain=1.0),
}


def lookup(operator: str, dtype: str, backend: str) -> Tolerance:
    """Return the row of an operator: the backend's own if there is one, else that of any backend.

    Args:
        operator: ONNX op_type, or :data:`NETWORK`. One without rows of its own is taken as :data:`DENSE`.
        dtype: NumPy's name of the stored element type, or ``"tf32"``.
        backend: name of the backend that computed.

    Raises:
        InvalidArgumentError: if the table has no row for that element type.
    """
    name = operator if any(key[0] == operator for key in TOLERANCES) else DENSE
    for key in ((name, dtype, backend), (name, dtype, ANY), (name, ANY, ANY)):
        if key in TOLERANCES:
            return TOLERANCES[key]
    raise InvalidArgumentError(
        describe(
            f"tolerance of {operator}",
            expected=f"an element type of {', '.join(sorted({key[1] for key in TOLERANCES} - {ANY}))}",
            actual=dtype,
            remedy="Set the limit yourself with --tolerance.",
        )
    )


def network_limit(limits: Iterable[float]) -> float:
    """Return the limit of a tensor behind layers of these limits.

    A single layer keeps its own; none at all (element-wise arithmetic only) counts as one dense float32 layer.
    """
    values = list(limits) or [TOLERANCES[DENSE, "float32", ANY].relative_rms]
    if len(values) == 1:
        return values[0]
    return TOLERANCES[NETWORK, ANY, ANY].gain * math.sqrt(math.fsum(value * value for value in values))


@dataclass(frozen=True)
class Limit:
    """What one output has to keep to pass.

    Attributes:
        relative_rms: largest relative RMS error of a floating-point output.
        absolute: a floating-point output whose largest absolute error is at most this passes whatever the
            relative one: below the smallest normal number, runtimes may flush to zero.
        differing: largest fraction of elements of an integer or boolean output that may differ.
        origin: where the figure comes from, for reports.
    """

    relative_rms: float
    origin: str
    absolute: float = 0.0
    differing: float = 0.0

    def judge(self, comparison: Comparison) -> str:
        """Return why ``comparison`` fails, or an empty string if it passes."""
        if comparison.problem:
            return comparison.problem
        if comparison.exact:
            share = (comparison.differing or 0) / max(comparison.size, 1)
            if share <= self.differing:
                return ""
            return (
                f"{comparison.differing} of {comparison.size} elements differ, "
                f"at most a fraction of {self.differing:.3g} may"
            )
        if comparison.nonfinite_mismatches:
            first = comparison.nonfinite[0]
            return (
                f"{comparison.nonfinite_mismatches} of {comparison.size} elements are NaN or infinite on one side only "
                f"or differently, first at {list(first.index)}: {first.actual} instead of {first.expected}"
            )
        if comparison.max_abs <= self.absolute or comparison.finite == 0:
            return ""
        # Written so that a NaN fails.
        if comparison.relative_rms <= self.relative_rms:
            return ""
        return f"relative RMS error {comparison.relative_rms:.2e} is above {self.relative_rms:.2e}"


def to_markdown() -> str:
    """Return the table as Markdown, for docs/validation.md; :func:`coordinate_error` is its c(H, W)."""
    rows = ["| operator | stored in | backend | limit | why |", "|---|---|---|---|---|"]
    for (operator, dtype, backend), row in TOLERANCES.items():
        if operator == NETWORK:
            limit = ("" if row.gain == 1 else f"{row.gain:g}·") + "√(Σ limit(layer)²)"
        elif row.coordinate_roundings:
            factor = "" if row.coordinate_roundings == 1 else f"√{row.coordinate_roundings:g}·"
            limit = f"{row.relative_rms:.0e} + {factor}c(H, W)"
        else:
            limit = f"{row.relative_rms:.0e}"
        cells = (
            operator if operator in (DENSE, NETWORK) else "`{}`{}{}".format(*operator.partition(",")),
            "any" if dtype == ANY else dtype,
            "any" if backend == ANY else f"`{backend}`",
            limit.replace("e-0", "e-"),
            row.reason,
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"
