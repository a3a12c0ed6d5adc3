"""Operators of the ONNX standard that the evaluator of the ``onnx`` package lacks, or computes otherwise, in NumPy.

Which these are depends on the release of the package; each is here because a comparison with ONNX Runtime over the
opsets 7 to 22 found it refused or wrong. The formulas are those of the standard's operator pages, in the version of
the opset that a graph or function is in.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]


def standard_operators() -> list[type]:
    """Return the operators as classes for the evaluator's ``new_ops``."""
    from onnx.reference.op_run import OpRun

    def operator(name: str, function: Callable[..., Any]) -> type:
        def run(self: Any, *inputs: Any, **attributes: Any) -> tuple[Any, ...]:
            opset = self.run_params["opsets"].get("", 1)
            # Those of the node; the evaluator adds defaults of the newest version of the operator.
            own = {attribute.name for attribute in self.onnx_node.attribute}
            given = {key: value for key, value in attributes.items() if key in own}
            result = function(opset, *inputs, **given)
            return result if isinstance(result, tuple) else (result,)

        # The evaluator finds an operator by the name of its class.
        return type(name, (OpRun,), {"op_domain": "", "__doc__": function.__doc__, "_run": run})

    return [operator(name, function) for name, function in _FUNCTIONS.items()] + _extended()


def _extended() -> list[type]:
    """Return operators that are the evaluator's own but for a part of what they are asked for."""
    from onnx.reference.ops import op_max_pool, op_roi_align

    class MaxPool(op_max_pool.MaxPool):
        """Our own where no places are asked for."""

        def _run(self, x: Any, **attributes: Any) -> tuple[Any, ...]:  # type: ignore[override]
            if len(self.onnx_node.output) == 1:
                return (max_pool(self.run_params["opsets"].get("", 1), x, **attributes),)
            evaluate: Any = super()._run
            result: tuple[Any, ...] = evaluate(x, **attributes)
            return result

    class RoiAlign(op_roi_align.RoiAlign):
        """Below opset 16 without the offset of half a pixel."""

        def _run(self, *inputs: Any, **attributes: Any) -> tuple[Any, ...]:
            if self.run_params["opsets"].get("", 1) < 16:
                attributes["coordinate_transformation_mode"] = "output_half_pixel"
            evaluate: Any = super()._run
            result: tuple[Any, ...] = evaluate(*inputs, **attributes)
            return result

    return [MaxPool, RoiAlign]


def same_pads(
    extents: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    auto_pad: str,
) -> list[int]:
    """Return the pads (all that come first, then all that come last) with which an output has ceil(extent/stride).

    Args:
        extents: of the input, one an axis.
        kernel: extents of the window.
        strides: None for ones.
        dilations: None for ones.
        auto_pad: ``SAME_UPPER`` puts an odd pad at the end, ``SAME_LOWER`` at the beginning.
    """
    ones = [1] * len(extents)
    begins, ends = [], []
    for extent, size, stride, dilation in zip(extents, kernel, strides or ones, dilations or ones, strict=True):
        count = -(-extent // stride)
        # Below zero where a stride leaves out more than a window has: then the map is cut instead.
        total = (count - 1) * stride + (size - 1) * dilation + 1 - extent
        begins.append(int((total if auto_pad == "SAME_UPPER" else total + 1) / 2))
        ends.append(total - begins[-1])
    return begins + ends


def batch_normalization(
    opset: int, x: Array, scale: Array, bias: Array, mean: Array, variance: Array, **attributes: Any
) -> Array:
    """(X − mean)/√(variance + epsilon)·scale + B, of the given statistics."""
    import numpy as np

    if attributes.get("training_mode"):
        raise NotImplementedError("BatchNormalization in training mode; export the network in eval mode")
    if opset < 9 and attributes.get("spatial", 1) == 0:
        shape: tuple[int, ...] = (1, *scale.shape)
    else:
        shape = (1, -1, *[1] * (x.ndim - 2))
    s, b, m, v = (value.reshape(shape) for value in (scale, bias, mean, variance))
    result: Array = (x - m) / np.sqrt(v + float(attributes.get("epsilon", 1e-5))) * s + b
    return result


def conv_transpose(opset: int, x: Array, w: Array, b: Array | None = None, **attributes: Any) -> Array:
    """Transposed convolution: each element of X adds W, weighted, to Y from stride·place − pad on."""
    import numpy as np

    axes = x.ndim - 2
    kernel = w.shape[2:]
    strides, dilations, extra = (
        attributes.get(name) or [default] * axes
        for name, default in (("strides", 1), ("dilations", 1), ("output_padding", 0))
    )
    pads = list(attributes.get("pads") or [0] * 2 * axes)
    group, auto_pad = attributes.get("group", 1), attributes.get("auto_pad", "NOTSET")
    full = [
        stride * (extent - 1) + more + (size - 1) * dilation + 1
        for stride, extent, more, size, dilation in zip(strides, x.shape[2:], extra, kernel, dilations, strict=True)
    ]
    wanted = attributes.get("output_shape")
    if wanted is None and auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [stride * extent for stride, extent in zip(strides, x.shape[2:], strict=True)]
    if wanted is not None:
        for axis, extent in enumerate(wanted[-axes:]):
            total = full[axis] - extent
            small, large = total // 2, total - total // 2
            pads[axis], pads[axis + axes] = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
    elif auto_pad == "VALID":
        pads = [0] * 2 * axes
    outputs = w.shape[1]
    batch, channels = x.shape[:2]
    # The elements without pads, and room for pads below zero.
    sums = np.zeros((batch, group * outputs, *full), dtype=np.result_type(x, w))
    per_group = channels // group
    for g in range(group):
        own = x[:, g * per_group : (g + 1) * per_group]
        into = sums[:, g * outputs : (g + 1) * outputs]
        for tap in itertools.product(*map(range, kernel)):
            chosen: list[Any] = [slice(g * per_group, (g + 1) * per_group), slice(None), *tap]
            weights = w[tuple(chosen)]
            places = tuple(
                slice(t * dilation, t * dilation + stride * (extent - 1) + 1, stride)
                for t, dilation, stride, extent in zip(tap, dilations, strides, x.shape[2:], strict=True)
            )
            into[(slice(None), slice(None), *places)] += np.moveaxis(np.tensordot(own, weights, (1, 0)), -1, 1)
    result = _crop_and_pad(sums, [0, 0, *pads[:axes]], [0, 0, *pads[axes:]])
    return result if b is None else result + b.reshape(1, -1, *[1] * axes)


def _crop_and_pad(x: Array, begins: Sequence[int], ends: Sequence[int], value: float = 0) -> Array:
    """Take off what is positive; what is negative is added."""
    import numpy as np

    border = [(max(-first, 0), max(-last, 0)) for first, last in zip(begins, ends, strict=True)]
    x = np.pad(x, border, constant_values=value)
    return x[
        tuple(
            slice(max(first, 0), extent - max(last, 0))
            for first, last, extent in zip(begins, ends, x.shape, strict=True)
        )
    ]


def dequantize_linear(opset: int, x: Array, scale: Array, zero_point: Array | None = None, **attributes: Any) -> Array:
    """(x − zero point)·scale: for the whole tensor, along an axis (opset 13), or in blocks of it (21)."""
    import numpy as np

    axis, block = attributes.get("axis", 1), attributes.get("block_size", 0)

    def along(parameter: Array) -> Array:
        if parameter.ndim == 0 or parameter.size == 1:
            return parameter.reshape(())
        if block:
            return np.take(np.repeat(parameter, block, axis=axis), range(x.shape[axis]), axis=axis)
        shape = [1] * x.ndim
        shape[axis] = parameter.size
        return parameter.reshape(shape)

    whole = x.astype(np.int64) if np.issubdtype(x.dtype, np.integer) else x.astype(np.float64)
    if zero_point is not None:
        whole = whole - along(zero_point.astype(whole.dtype))
    result: Array = (whole * along(scale)).astype(scale.dtype)
    return result


def gather_elements(opset: int, x: Array, indices: Array, **attributes: Any) -> Array:
    """X at the place of each index, its coordinate along the axis replaced; the index may be smaller than X."""
    import numpy as np

    axis = attributes.get("axis", 0)
    places = list(np.indices(indices.shape))
    places[axis] = np.where(indices < 0, indices + x.shape[axis], indices)
    result: Array = x[tuple(places)]
    return result


def global_lp_pool(opset: int, x: Array, **attributes: Any) -> Array:
    """(Σ |x|^p)^(1/p) over all axes of the map."""
    import numpy as np

    p = attributes.get("p", 2)
    result: Array = (np.abs(x) ** p).sum(axis=tuple(range(2, x.ndim)), keepdims=True) ** (1 / p)
    return result


def hardmax(opset: int, x: Array, **attributes: Any) -> Array:
    """One at the first of the greatest elements, zero elsewhere."""
    import numpy as np

    def one_hot(rows: Array) -> Array:
        result = np.zeros_like(rows)
        result[np.arange(len(rows)), rows.argmax(axis=1)] = 1
        return result

    return _by_rows(opset, x, attributes, one_hot)


def log_softmax(opset: int, x: Array, **attributes: Any) -> Array:
    """X − log Σ exp(X)."""
    import numpy as np

    def logarithms(rows: Array) -> Array:
        below = rows - rows.max(axis=1, keepdims=True)
        result: Array = below - np.log(np.exp(below).sum(axis=1, keepdims=True))
        return result

    return _by_rows(opset, x, attributes, logarithms)


def softmax(opset: int, x: Array, **attributes: Any) -> Array:
    """Exp(X) / Σ exp(X)."""
    import numpy as np

    def shares(rows: Array) -> Array:
        powers = np.exp(rows - rows.max(axis=1, keepdims=True))
        result: Array = powers / powers.sum(axis=1, keepdims=True)
        return result

    return _by_rows(opset, x, attributes, shares)


def _by_rows(opset: int, x: Array, attributes: dict[str, Any], function: Callable[[Array], Array]) -> Array:
    """Apply a function of rows along an axis; below opset 13 to X flattened to two dimensions there."""
    import numpy as np

    if opset >= 13:
        moved = np.moveaxis(x, attributes.get("axis", -1), -1)
        rows = function(moved.reshape(-1, moved.shape[-1])).reshape(moved.shape)
        return np.moveaxis(rows, -1, attributes.get("axis", -1))
    axis = attributes.get("axis", 1)
    return function(x.reshape(math.prod(x.shape[: axis % x.ndim if axis < 0 else axis]), -1)).reshape(x.shape)


def lrn(opset: int, x: Array, **attributes: Any) -> Array:
    """X / (bias + alpha/size · Σ X²)^beta over (size − 1)/2 channels on either side, one more above if not whole."""
    import numpy as np

    size = attributes["size"]
    alpha, beta, bias = (
        float(attributes.get(name, default)) for name, default in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
    )
    square = np.zeros((x.shape[0], x.shape[1] + size - 1, *x.shape[2:]), dtype=np.float64)
    before = (size - 1) // 2
    square[:, before : before + x.shape[1]] = np.square(x, dtype=np.float64)
    total = sum(square[:, start : start + x.shape[1]] for start in range(size))
    result: Array = (x / (bias + alpha / size * total) ** beta).astype(x.dtype)
    return result


def average_pool(opset: int, x: Array, **attributes: Any) -> Array:
    """The mean of each window, of the map alone or (``count_include_pad``) with the pads as zeros."""
    import numpy as np

    _, borders, _ = pooling = _windows(x.shape[2:], attributes)
    if attributes.get("count_include_pad"):
        # What a window reaches over beyond the pads, by ceil_mode, is not counted.
        counted = np.ones([extent + sum(pads) for extent, pads in zip(x.shape[2:], borders, strict=True)])
        counted = _fold(np.add, counted[None, None], pooling, 0.0, padded=True)
    else:
        counted = _fold(np.add, np.ones((1, 1, *x.shape[2:])), pooling, 0.0)
    result: Array = _fold(np.add, x, pooling, 0.0) / counted
    return result


def lp_pool(opset: int, x: Array, **attributes: Any) -> Array:
    """(Σ |x|^p)^(1/p) of each window."""
    import numpy as np

    p = attributes.get("p", 2)
    result: Array = _fold(np.add, np.abs(x) ** p, _windows(x.shape[2:], attributes), 0.0) ** (1 / p)
    return result


def max_pool(opset: int, x: Array, **attributes: Any) -> Array:
    """The greatest element of each window; what lies outside the map counts for nothing."""
    import numpy as np

    least = -np.inf if np.issubdtype(x.dtype, np.floating) else np.iinfo(x.dtype).min
    return _fold(np.maximum, x, _windows(x.shape[2:], attributes), least)


#: Counts of windows, pads (first, last) that the operator names, and (kernel, strides, dilations), one an axis.
_Windows = tuple[list[int], list[tuple[int, int]], tuple[Sequence[int], Sequence[int], Sequence[int]]]


def _windows(extents: Sequence[int], attributes: dict[str, Any]) -> _Windows:
    axes = len(extents)
    kernel = attributes["kernel_shape"]
    strides, dilations = (attributes.get(name) or [1] * axes for name in ("strides", "dilations"))
    auto_pad = attributes.get("auto_pad") or "NOTSET"
    pads = attributes.get("pads") or [0] * 2 * axes
    if auto_pad != "NOTSET":
        same = auto_pad in ("SAME_UPPER", "SAME_LOWER")
        pads = same_pads(extents, kernel, strides, dilations, auto_pad) if same else [0] * 2 * axes
    counts = []
    for axis, extent in enumerate(extents):
        room = extent + pads[axis] + pads[axis + axes] - (kernel[axis] - 1) * dilations[axis] - 1
        count = (-(-room // strides[axis]) if attributes.get("ceil_mode") else room // strides[axis]) + 1
        # A window that would begin in the pad at the end is none.
        if attributes.get("ceil_mode") and (count - 1) * strides[axis] >= extent + pads[axis]:
            count -= 1
        counts.append(count)
    return counts, list(zip(pads[:axes], pads[axes:], strict=True)), (kernel, strides, dilations)


def _fold(function: Any, x: Array, windows: _Windows, outside: float, *, padded: bool = False) -> Array:
    """Reduce each window of the last axes by a function of two; ``padded`` says that the pads are part of X."""
    counts, pads, (kernel, strides, dilations) = windows
    borders = []
    for extent, count, (first, _), size, stride, dilation in zip(
        x.shape[2:], counts, pads, kernel, strides, dilations, strict=True
    ):
        before = 0 if padded else first
        borders.append((before, max((count - 1) * stride + (size - 1) * dilation + 1 - extent - before, 0)))
    every = [(0, 0), (0, 0), *borders]
    x = _crop_and_pad(x, [-first for first, _ in every], [-last for _, last in every], outside)
    result: Array | None = None
    for tap in itertools.product(*map(range, kernel)):
        places: list[Any] = [
            slice(t * dilation, t * dilation + (count - 1) * stride + 1, stride)
            for t, dilation, stride, count in zip(tap, dilations, strides, counts, strict=True)
        ]
        own = x[(slice(None), slice(None), *places)]
        result = own if result is None else function(result, own)
    assert result is not None
    return result


def mean_variance_normalization(opset: int, x: Array, **attributes: Any) -> Array:
    """(X − E X) / (√(E X² − (E X)²) + 1e-9), by default over all axes but the channels'."""
    import numpy as np

    axes = tuple(attributes.get("axes") or (0, 2, 3))
    mean = x.mean(axis=axes, keepdims=True)
    deviation = np.sqrt((x**2).mean(axis=axes, keepdims=True) - mean**2)
    result: Array = (x - mean) / (deviation + 1e-9)
    return result


def pad(
    opset: int,
    x: Array,
    pads: Array | None = None,
    value: Array | None = None,
    axes: Array | None = None,
    **attributes: Any,
) -> Array:
    """X with a border; a pad below zero takes off as much, before anything is added."""
    import numpy as np

    # Below opset 11 these are attributes, below 2 by another name.
    given = np.asarray(attributes["paddings"] if pads is None else pads)
    fill = 0 if value is None or np.size(value) == 0 else np.reshape(value, ()).item()
    chosen = range(x.ndim) if axes is None else [int(axis) % x.ndim for axis in axes]
    begins, ends = [0] * x.ndim, [0] * x.ndim
    for i, axis in enumerate(chosen):
        begins[axis], ends[axis] = int(given[i]), int(given[i + len(chosen)])
    x = _crop_and_pad(x, [max(-first, 0) for first in begins], [max(-last, 0) for last in ends])
    mode = attributes.get("mode", "constant")
    border = [(max(first, 0), max(last, 0)) for first, last in zip(begins, ends, strict=True)]
    if mode == "constant":
        return np.pad(x, border, constant_values=fill)
    return np.pad(x, border, mode=mode)


def scatter_elements(opset: int, x: Array, indices: Array, updates: Array, **attributes: Any) -> Array:
    """X with updates at the places of their indices, as Scatter (below opset 11) and ScatterElements have it."""
    import numpy as np

    axis, reduction = attributes.get("axis", 0), attributes.get("reduction", "none")
    places = list(np.indices(indices.shape))
    places[axis] = np.where(indices < 0, indices + x.shape[axis], indices)
    result = x.copy()
    if reduction == "none":
        result[tuple(places)] = updates
    else:
        {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[reduction].at(
            result, tuple(places), updates
        )
    return result


def resize(opset: int, x: Array, *inputs: Array | None, **attributes: Any) -> Array:
    """X sampled anew, one axis after the other: nearest, linear or cubic.

    Raises:
        NotImplementedError: for antialias, an aspect ratio that is to be kept, and tf_crop_and_resize.
    """
    if opset < 11:
        assert inputs[0] is not None
        return _resized(x, dict(enumerate(map(float, inputs[0]))), {}, {**attributes, **_OLD})
    kept = attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch"
    mode = attributes.get("coordinate_transformation_mode", "half_pixel")
    if attributes.get("antialias") or kept or mode == "tf_crop_and_resize":
        raise NotImplementedError("Resize with antialias, keep_aspect_ratio_policy or tf_crop_and_resize")
    axes = [axis % x.ndim for axis in attributes.get("axes") or range(x.ndim)]
    _, scales, sizes = (*inputs, None, None, None)[:3]
    by_scale = {} if scales is None else dict(zip(axes, map(float, scales), strict=False))
    by_size = {} if sizes is None else dict(zip(axes, map(int, sizes), strict=False))
    return _resized(x, by_scale, by_size, {"coordinate_transformation_mode": mode, **attributes})


def upsample(opset: int, x: Array, scales: Array | None = None, **attributes: Any) -> Array:
    """Resize of the opsets below 10."""
    factors = attributes.pop("scales", None) if scales is None else scales
    return _resized(x, dict(enumerate(map(float, factors))), {}, {**attributes, **_OLD})


#: Below opset 11. Nearest is the pixel below where an axis grows, and the one above where it shrinks: the text of the
#: standard says nothing of the latter, its test resize_downsample_nearest of opset 10 and ONNX Runtime do.
_OLD = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "old"}


def _resized(x: Array, scales: dict[int, float], sizes: dict[int, int], attributes: dict[str, Any]) -> Array:
    import numpy as np

    for axis, extent in enumerate(x.shape):
        if axis in sizes:
            count, scale = sizes[axis], sizes[axis] / extent
        else:
            scale = scales.get(axis, 1.0)
            count = math.floor(extent * scale)
        if count == extent and scale == 1:
            continue
        matrix = _interpolation(extent, count, scale, attributes)
        x = np.moveaxis(np.tensordot(x, matrix, (axis, 1)), -1, axis)
    return x


def _interpolation(extent: int, count: int, scale: float, attributes: dict[str, Any]) -> Array:
    """Weights [count, extent] by which the pixels of an axis make up those of the result."""
    import numpy as np

    mode = attributes.get("mode", "nearest")
    # Which of two pixels is nearest can hang on the last bit: it is decided in float32, as runtimes do.
    dtype = np.float32 if mode == "nearest" else np.float64
    at = _coordinates(extent, count, scale, attributes["coordinate_transformation_mode"], dtype)
    matrix = np.zeros((count, extent))
    rows = np.arange(count)
    if mode == "nearest":
        half = dtype(0.5)
        nearest = {
            "round_prefer_floor": np.ceil(at - half),
            "round_prefer_ceil": np.floor(at + half),
            "floor": np.floor(at),
            "ceil": np.ceil(at),
            "old": np.ceil(at) if scale < 1 else np.floor(at),
        }[attributes.get("nearest_mode", "round_prefer_floor")]
        matrix[rows, np.clip(nearest, 0, extent - 1).astype(int)] = 1
        return matrix
    first = np.floor(at).astype(int)
    fraction = at - first
    if mode == "linear":
        taps = {0: 1 - fraction, 1: fraction}
    else:
        a = float(attributes.get("cubic_coeff_a", -0.75))
        taps = {k: _cubic(np.abs(fraction - k), a) for k in (-1, 0, 1, 2)}
    for k, weight in taps.items():
        place = first + k
        if mode == "cubic" and attributes.get("exclude_outside"):
            weight = np.where((place >= 0) & (place < extent), weight, 0)
        np.add.at(matrix, (rows, np.clip(place, 0, extent - 1)), weight)
    return matrix / matrix.sum(axis=1, keepdims=True) if attributes.get("exclude_outside") else matrix


def _coordinates(extent: int, count: int, factor: float, mode: str, dtype: Any) -> Array:
    """Where on the axis each pixel of the result is sampled."""
    import numpy as np

    places, scale = np.arange(count, dtype=dtype), dtype(factor)
    if mode == "asymmetric":
        result: Array = places / scale
        return result
    if mode == "align_corners":
        return places * dtype(extent - 1) / dtype(count - 1) if count > 1 else np.zeros(count)
    if mode == "pytorch_half_pixel" and count == 1:
        return np.zeros(count)
    half: Array = (places + dtype(0.5)) / scale - dtype(0.5)
    if mode == "half_pixel_symmetric":
        half += dtype(extent / 2 * (1 - count / (factor * extent)))
    return half


def _cubic(distance: Array, a: float) -> Array:
    """Keys' cubic convolution (1981), with the coefficient ``a``, at distances below 2 and 1."""
    import numpy as np

    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "AveragePool": average_pool,
    "BatchNormalization": batch_normalization,
    "ConvTranspose": conv_transpose,
    "DequantizeLinear": dequantize_linear,
    "GatherElements": gather_elements,
    "GlobalLpPool": global_lp_pool,
    "Hardmax": hardmax,
    "LRN": lrn,
    "LogSoftmax": log_softmax,
    "LpPool": lp_pool,
    "MeanVarianceNormalization": mean_variance_normalization,
    "Pad": pad,
    "Resize": resize,
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "Softmax": softmax,
    "Upsample": upsample,
}
