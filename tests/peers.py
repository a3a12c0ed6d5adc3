"""Implementations of the operators that this project did not write, and ONNX models to drive them and ours.

Tests write ``import peers``. What each peer can be asked is stated at its function: a case outside that
range proves nothing about anybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import cases
import numpy as np
from cases import Array, Case, Inputs, RoiCase, RoiInputs

AnyInputs = TypeVar("AnyInputs", Inputs, RoiInputs)

#: Newest IR version that every ONNX Runtime from 1.21 on reads.
IR_VERSION = 10


def element_type(dtype: Any) -> int:
    """The ONNX element type of a NumPy dtype (``ml_dtypes.bfloat16`` included)."""
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _input_names(case: Case, suffix: str) -> list[str]:
    names = [f"X{suffix}", f"W{suffix}", f"offset{suffix}"]
    if case.bias:
        names.append(f"B{suffix}")
    elif case.mask:
        names.append("")  # absent, but not the last
    if case.mask:
        names.append(f"mask{suffix}")
    return names


def as_float64(inputs: AnyInputs) -> AnyInputs:
    """The same values in float64."""
    return type(inputs)(*(None if a is None else a.astype(np.float64) for a in inputs.in_order()))  # type: ignore[arg-type]


def _shapes(case: Case) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "X": case.x_shape,
        "W": case.weight_shape,
        "offset": case.offset_shape,
    }
    if case.bias:
        shapes["B"] = case.bias_shape
    if case.mask:
        shapes["mask"] = case.mask_shape
    return shapes


def model(
    several: Case | Sequence[Case],
    *,
    form: str = "standard",
    opset: int = 22,
    dtype: Any = np.float32,
    coordinate_dtype: Any = None,
    static: bool = True,
    attributes: dict[str, Any] | None = None,
) -> Any:
    """An ``onnx.ModelProto`` with one node for each case, every tensor an input of the graph.

    With one case the tensors are called as in the schema (X, W, offset, B, mask; Y). With several, those of
    the i-th have the suffix ``_i``.

    Args:
        several: one case or several, which share nothing.
        form: ``"standard"`` (``DeformConv``) or ``"plugin"`` (``dcn_deploy::DeformConv2d``).
        opset: version of the standard operators.
        dtype: element type of X, W, B and Y.
        coordinate_dtype: that of offset and mask; ``dtype`` if None.
        static: whether the shapes are written into the graph's inputs; otherwise only the ranks are.
        attributes: attributes that replace those of the case (None removes one).
    """
    from onnx import helper

    op_type, domain = {"standard": ("DeformConv", ""), "plugin": ("DeformConv2d", "dcn_deploy")}[form]
    main = element_type(dtype)
    types = dict.fromkeys("XWBY", main)
    types["offset"] = types["mask"] = main if coordinate_dtype is None else element_type(coordinate_dtype)
    batch = [several] if isinstance(several, Case) else list(several)
    nodes, graph_inputs, graph_outputs = [], [], []
    for index, case in enumerate(batch):
        suffix = "" if isinstance(several, Case) else f"_{index}"
        wanted = {**case.onnx_attributes, **(attributes or {})}
        nodes.append(
            helper.make_node(
                op_type,
                _input_names(case, suffix),
                [f"Y{suffix}"],
                name=f"{case.name}{suffix}",
                domain=domain,
                **{key: value for key, value in wanted.items() if value is not None},
            )
        )
        for name, shape in _shapes(case).items():
            extents: Sequence[int | None] = shape if static else [None] * len(shape)
            graph_inputs.append(helper.make_tensor_value_info(f"{name}{suffix}", types[name], extents))
        graph_outputs.append(helper.make_tensor_value_info(f"Y{suffix}", main, [None] * 4))
    opsets = [helper.make_opsetid("", opset)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    graph = helper.make_graph(nodes, "deformable", graph_inputs, graph_outputs)
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def _roi_input_names(case: RoiCase, suffix: str) -> list[str]:
    names = [f"X{suffix}", f"rois{suffix}"]
    if case.offset:
        names.append(f"offset{suffix}")
    elif case.mask:
        names.append("")  # absent, but not the last
    if case.mask:
        names.append(f"mask{suffix}")
    return names


def roi_model(
    several: RoiCase | Sequence[RoiCase],
    *,
    dtype: Any = np.float32,
    coordinate_dtype: Any = None,
    static: bool = True,
    attributes: dict[str, Any] | None = None,
    opset: int = 22,
) -> Any:
    """An ``onnx.ModelProto`` with one ``dcn_deploy::DeformRoIPool2d`` for each case, every tensor a graph input.

    With one case the tensors are called as in the schema (X, rois, offset, mask; Y). With several, those of the
    i-th have the suffix ``_i``.

    Args:
        several: one case or several, which share nothing.
        dtype: element type of X and Y.
        coordinate_dtype: that of rois, offset and mask (``dtype`` if None), or a mapping with a type for each.
        static: whether the shapes are written into the graph's inputs; otherwise only the ranks are.
        attributes: attributes that replace those of the case (None removes one).
        opset: version of the standard operators.
    """
    from onnx import helper

    main = element_type(dtype)
    types = {name: element_type(each) for name, each in cases.coordinate_dtypes(dtype, coordinate_dtype).items()}
    types["X"] = main
    batch = [several] if isinstance(several, RoiCase) else list(several)
    nodes, graph_inputs, graph_outputs = [], [], []
    for index, case in enumerate(batch):
        suffix = "" if isinstance(several, RoiCase) else f"_{index}"
        wanted = {**case.onnx_attributes, **(attributes or {})}
        names = _roi_input_names(case, suffix)
        nodes.append(
            helper.make_node(
                "DeformRoIPool2d",
                names,
                [f"Y{suffix}"],
                name=f"{case.name}{suffix}",
                domain="dcn_deploy",
                **{key: value for key, value in wanted.items() if value is not None},
            )
        )
        shapes = {"X": case.x_shape, "rois": case.rois_shape, "offset": case.offset_shape, "mask": case.mask_shape}
        for name, shape in shapes.items():
            if f"{name}{suffix}" in names:
                extents: Sequence[int | None] = shape if static else [None] * len(shape)
                graph_inputs.append(helper.make_tensor_value_info(f"{name}{suffix}", types[name], extents))
        graph_outputs.append(helper.make_tensor_value_info(f"Y{suffix}", main, [None] * 4))
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("dcn_deploy", 1)]
    graph = helper.make_graph(nodes, "deformable", graph_inputs, graph_outputs)
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def feed(several: Inputs | RoiInputs | Sequence[Inputs | RoiInputs]) -> dict[str, Array]:
    """What the inputs of :func:`model` or :func:`roi_model` are to be given."""
    if isinstance(several, Inputs | RoiInputs):
        return several.named()
    return {f"{k}_{i}": v for i, inputs in enumerate(several) for k, v in inputs.named().items()}


def run_onnx_reference_evaluator(case: Case, inputs: Inputs, opset: int = 22) -> Array:
    """The ONNX reference evaluator's answer.

    It samples with coordinates divided by H - 1 and W - 1, in float32 whatever the inputs are, and multiplied
    again. So it divides by zero on a map one pixel high or wide, yields NaN for a non-finite location, and
    has an error of a few float32 roundings of max(H, W) in each coordinate; see :func:`fits_onnx_reference`.
    """
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(model(case, opset=opset, dtype=inputs.X.dtype))
    (y,) = evaluator.run(None, inputs.named())
    return np.asarray(y)


def fits_onnx_reference(case: Case) -> bool:
    """Whether the ONNX reference evaluator is defined on the case, and done with it in about a second.

    Its innermost step is a whole ``GridSample`` for each output pixel and pair of channels.
    """
    steps = case.n * case.m * case.c // case.group * case.out_h * case.out_w
    return case.h > 1 and case.w > 1 and case.n > 0 and case.offsets != "nonfinite" and steps <= 1800


def fits_openvino(case: Case) -> bool:
    """Whether OpenVINO's operator is defined on the case: it indexes with whatever a NaN converts to."""
    return case.n > 0 and case.offsets != "nonfinite"


def run_openvino(case: Case, inputs: Inputs, *, interpolation_pad: bool = True) -> Array:
    """OpenVINO's ``DeformableConvolution`` (opset 8) on its CPU plugin, in float32, one thread.

    With ``bilinear_interpolation_pad`` each corner outside the map counts as zero on its own, which is the
    meaning of the ONNX operator. Without it, samples between -1 and 0 are dropped and those between size - 1
    and size are clamped. The operator has no bias; it is added here.
    """
    import openvino
    from openvino import opset8

    parameters = {
        name: opset8.parameter(list(array.shape), array.dtype.type, name=name)
        for name, array in inputs.named().items()
        if name != "B"
    }
    y = opset8.deformable_convolution(
        parameters["X"],
        parameters["offset"],
        parameters["W"],
        list(case.strides),
        [case.pad_top, case.pad_left],
        [case.pad_bottom, case.pad_right],
        list(case.dilations),
        mask=parameters.get("mask"),
        group=case.group,
        deformable_group=case.offset_group,
        bilinear_interpolation_pad=interpolation_pad,
    )
    graph = openvino.Model([y], list(parameters.values()), case.name)
    config = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(graph, "CPU", config)
    answer = compiled({name: array for name, array in inputs.named().items() if name != "B"})[0]
    return np.array(answer) if inputs.B is None else answer + inputs.B[None, :, None, None]


def run_dense_convolution(case: Case, inputs: Inputs) -> Array:
    """PyTorch's ordinary convolution, in float64: the answer when every offset is zero.

    The mask must be absent or constant over the output pixels: only then is the operator a convolution.
    """
    import torch
    from torch.nn import functional

    x, w, _, b, mask = (None if a is None else torch.from_numpy(a.astype(np.float64)) for a in inputs.in_order())
    assert x is not None
    assert w is not None
    assert mask is None, "a mask makes the weight depend on the place"
    left_right_top_bottom = (case.pad_left, case.pad_right, case.pad_top, case.pad_bottom)
    padded = functional.pad(x, left_right_top_bottom)
    y = functional.conv2d(padded, w, b, case.strides, 0, case.dilations, case.group)
    return np.asarray(y.numpy())


#: Largest relative error of one rounding to the nearest number of that type.
UNIT_ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53}


def error_bound(
    case: Case,
    inputs: Inputs,
    dtype: str = "float32",
    *,
    coordinate_slack: float = 0.0,
    products: float = 8.0,
) -> Array:
    """Bound, element by element, of what rounding alone can do to an implementation that works in ``dtype``.

    With unit roundoff u: a location y = base + Δ is off by at most δy = u·(|y| + |base| + |Δ|). The sampler is
    continuous: it falls linearly to zero towards -1 and towards the size, so it does not jump even where a
    rounded location flips across a boundary of a cell or of the map. Its slope is at most 2·max|x| over the
    pixels around. So the sample is off by at most 2·max|x|·(δy + δx), plus some ``products`` roundings of its
    own; summing K products and the bias adds K + 2 roundings of partial sums:

        |error| ≤ Σ |w|·|mask|·max|x|·(2·(δy + δx) + (K + products)·u) + (K + 2)·u·|bias|

    Args:
        case: the convolution.
        inputs: its tensors; infinite or NaN offsets sample outside and contribute nothing.
        dtype: ``"float32"`` or ``"float64"``.
        coordinate_slack: further error of a coordinate, in pixels, of an implementation that computes it in a
            roundabout way.
        products: roundings between the corner pixels and the product of mask and sample.

    Returns:
        float64 array of ``case.output_shape``.
    """
    from numpy.lib.stride_tricks import sliding_window_view

    u = UNIT_ROUNDOFF[dtype]
    x = np.abs(inputs.X.astype(np.float64))
    shape = (case.n, case.offset_group, case.kernel_h, case.kernel_w, 2, case.out_h, case.out_w)
    offset = inputs.offset.astype(np.float64).reshape(shape)
    base_y, base_x = cases.base_locations(case)
    with np.errstate(invalid="ignore", over="ignore"):
        y = base_y + offset[:, :, :, :, 0]
        z = base_x + offset[:, :, :, :, 1]
        # Two pixels wider than the map: a location that far out cannot be rounded onto it.
        on_map = (y > -2) & (y < case.h + 1) & (z > -2) & (z < case.w + 1)
        y, z = (np.where(on_map, a, 0.0) for a in (y, z))
        moved = [
            u * (np.abs(place) + np.where(on_map, np.abs(start) + np.abs(delta), 0.0)) + coordinate_slack
            for place, start, delta in ((y, base_y, offset[:, :, :, :, 0]), (z, base_x, offset[:, :, :, :, 1]))
        ]
    # Largest |x| within two pixels of the location, so that a flip into the next cell is covered.
    wide = np.pad(x, ((0, 0), (0, 0), (5, 5), (5, 5)))
    largest = sliding_window_view(wide, (6, 6), axis=(2, 3)).max(axis=(4, 5))
    row, column = (np.floor(a).astype(int) + 3 for a in (y, z))
    per_offset_group = case.c // case.offset_group
    channel_group = np.arange(case.c) // per_offset_group
    image = np.arange(case.n)[:, None, None, None, None, None]
    channel = np.arange(case.c)[None, :, None, None, None, None]
    near = largest[image, channel, row[:, channel_group], column[:, channel_group]]
    mask = np.ones(case.mask_shape) if inputs.mask is None else np.abs(inputs.mask.astype(np.float64))
    k = case.reduction
    relative = 2.0 * (moved[0] + moved[1]) + (k + products) * u
    weight_of_tap = mask.reshape(on_map.shape) * on_map * relative
    taps = near * weight_of_tap[:, channel_group]
    taps = taps.reshape(case.n, case.group, case.c // case.group, *taps.shape[2:])
    w = np.abs(inputs.W.astype(np.float64)).reshape(case.group, case.m // case.group, *case.weight_shape[1:])
    total = np.einsum("gmcij,ngcijyx->ngmyx", w, taps).reshape(case.output_shape)
    if inputs.B is not None:
        total = total + (k + 2) * u * np.abs(inputs.B.astype(np.float64))[None, :, None, None]
    return np.asarray(total)


def relative_rms(actual: Array, expected: Array) -> float:
    """‖actual - expected‖/‖expected‖ in float64; 0 where both are zero, inf where only ``expected`` is."""
    a, e = actual.astype(np.float64), expected.astype(np.float64)
    error, size = float(np.linalg.norm(a - e)), float(np.linalg.norm(e))
    return 0.0 if error == 0.0 else error / size if size > 0.0 else float("inf")


def assert_within(actual: Array, expected: Array, bound: Array) -> None:
    """Assert equal shapes, and |actual - expected| ≤ bound for each element (a NaN is never within)."""
    assert actual.shape == expected.shape, f"shape: expected {expected.shape}, got {actual.shape}"
    error = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    excess = ~(error <= bound)
    assert not excess.any(), (
        f"{excess.sum()} of {excess.size} elements are beyond the bound, the first at {np.argwhere(excess)[0]}: "
        f"{error[excess][0]:.3e} > {bound[excess][0]:.3e}"
    )


# RoI pooling.


def roi_align_model(several: Sequence[RoiCase], *, dtype: Any = np.float32, mode: str = "half_pixel") -> Any:
    """An ``onnx.ModelProto`` with one standard ``RoiAlign`` (avg, opset 16) for each case: X_i, boxes_i, index_i → Y_i.

    Args:
        several: cases of the variant ``aligned`` without offset and mask.
        dtype: element type of X, boxes and Y.
        mode: ``coordinate_transformation_mode``.
    """
    from onnx import TensorProto, helper

    kind = element_type(dtype)
    nodes, graph_inputs, graph_outputs = [], [], []
    for i, case in enumerate(several):
        assert case.is_aligned
        assert not case.offset
        assert not case.mask
        nodes.append(
            helper.make_node(
                "RoiAlign",
                [f"X_{i}", f"boxes_{i}", f"index_{i}"],
                [f"Y_{i}"],
                name=f"{case.name}_{i}",
                mode="avg",
                coordinate_transformation_mode=mode,
                output_height=case.pooled_h,
                output_width=case.pooled_w,
                sampling_ratio=case.sampling_ratio,
                spatial_scale=case.scale,
            )
        )
        graph_inputs += [
            helper.make_tensor_value_info(f"X_{i}", kind, case.x_shape),
            helper.make_tensor_value_info(f"boxes_{i}", kind, [case.r, 4]),
            helper.make_tensor_value_info(f"index_{i}", TensorProto.INT64, [case.r]),
        ]
        graph_outputs.append(helper.make_tensor_value_info(f"Y_{i}", kind, [None] * 4))
    graph = helper.make_graph(nodes, "roi_align", graph_inputs, graph_outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=IR_VERSION)


def roi_align_feed(several: Sequence[RoiInputs]) -> dict[str, Array]:
    """What the inputs of :func:`roi_align_model` are to be given."""
    found = {}
    for i, inputs in enumerate(several):
        found[f"X_{i}"] = inputs.X
        found[f"boxes_{i}"] = np.ascontiguousarray(inputs.rois[:, 1:])
        found[f"index_{i}"] = inputs.rois[:, 0].astype(np.int64)
    return found


def fits_roi_align(case: RoiCase) -> bool:
    """Whether ONNX ``RoiAlign`` (avg, half_pixel) can be asked the case, and ONNX Runtime answers it.

    It has no offset and no mask, and converts a coordinate that is NaN to some integer. With ``sampling_ratio`` 0 an
    inverted RoI has a negative number of samples, and ONNX Runtime fails with an integer overflow where one of its two
    axes is inverted.
    """
    negative = case.sampling_ratio == 0 and case.boxes in ("inverted", "mixed")
    return case.is_aligned and not case.offset and not case.mask and case.boxes != "nonfinite" and not negative


def fits_openvino_roi_align(case: RoiCase) -> bool:
    """Whether OpenVINO's ``ROIAlign`` is defined on the case: it divides by the number of samples, even by zero."""
    empty = case.sampling_ratio == 0 and case.boxes in ("zero_size", "mixed")
    return fits_roi_align(case) and not empty


def run_openvino_roi_align(case: RoiCase, inputs: RoiInputs, *, aligned_mode: str = "half_pixel_for_nn") -> Array:
    """OpenVINO's ``ROIAlign`` (opset 9, avg) on its CPU plugin, in float32, one thread.

    ``half_pixel_for_nn`` subtracts ½ on the map, which is the ``half_pixel`` of ONNX. Its own ``half_pixel`` adds ½ in
    the image first.
    """
    import openvino
    from openvino import opset9

    x = opset9.parameter(list(case.x_shape), np.float32, name="X")
    boxes = opset9.parameter([case.r, 4], np.float32, name="boxes")
    index = opset9.parameter([case.r], np.int32, name="index")
    sizes = (case.pooled_h, case.pooled_w, case.sampling_ratio, case.scale)
    y = opset9.roi_align(x, boxes, index, *sizes, "avg", aligned_mode=aligned_mode)
    graph = openvino.Model([y], [x, boxes, index], case.name)
    config = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(graph, "CPU", config)
    feed = {"X": inputs.X, "boxes": inputs.rois[:, 1:], "index": inputs.rois[:, 0].astype(np.int32)}
    return np.array(compiled(feed)[0])


def run_grid_sample_roi_pool(case: RoiCase, inputs: RoiInputs) -> Array:
    """Both variants by PyTorch's ``grid_sample`` in float64, all samples of a RoI and class at once.

    Positions come from the formulas in docs/operators.md; the interpolation, and the move of a sample to the nearest
    place on the map, are ``grid_sample``'s (``padding_mode="border"``). Grids as large as ``sampling_ratio`` 0 makes of
    a RoI must fit into memory.
    """
    import torch
    from torch.nn import functional

    x, rois, offset, mask = (None if a is None else a.astype(np.float64) for a in inputs.in_order())
    assert x is not None
    assert rois is not None
    output = np.zeros(case.output_shape)
    per_class = case.output_channels // case.classes
    extents = ((case.h, case.pooled_h), (case.w, case.pooled_w))
    for r in range(case.r):
        corners = rois[r, [2, 1, 4, 3]].reshape(2, 2)  # (first, second) × (y, x)
        if not np.isfinite(corners).all():
            continue
        if not case.is_aligned:
            corners = np.sign(corners) * np.floor(np.abs(corners) + 0.5) + np.array([[0.0], [1.0]])
        start, end = corners * case.scale - 0.5
        size = end - start if case.is_aligned else np.maximum(end - start, 0.1)
        for k in range(case.classes):
            positions, valid, counts = [], [], []
            for axis, (extent, pooled) in enumerate(extents):
                step = size[axis] / pooled
                p = np.arange(pooled)
                count = case.sample_per_part
                if case.is_aligned:
                    count = case.sampling_ratio or max(int(np.ceil(step)), 0)
                i = np.arange(count) + (0.5 if case.is_aligned else 0.0)
                # [pooled_h, pooled_w, samples]: a bin's shift may differ from its neighbour's along both axes
                place = start[axis] + p[:, None] * step + i * step / max(count, 1)
                place = place[:, None] if axis == 0 else place[None]
                if offset is not None:
                    part_h, part_w = (np.arange(n) * q // n for n, q in zip(case.output_size, case.parts, strict=True))
                    units = offset[r, 2 * k + (1 - axis)][np.ix_(part_h, part_w)]
                    with np.errstate(invalid="ignore", over="ignore"):
                        place = place + (units * case.factor * size[axis])[..., None]
                place = np.broadcast_to(place, (*case.output_size, count))
                low, high = (-1.0, extent) if case.is_aligned else (-0.5, extent - 0.5)
                with np.errstate(invalid="ignore"):
                    valid.append((place >= low) & (place <= high))
                positions.append(np.where(valid[-1], place, 0.0))
                counts.append(count)
            full = (*case.output_size, *counts)
            y = np.broadcast_to(positions[0][..., :, None], full)
            z = np.broadcast_to(positions[1][..., None, :], full)
            kept = valid[0][..., :, None] & valid[1][..., None, :]
            grid = np.stack([(2 * z + 1) / case.w - 1, (2 * y + 1) / case.h - 1], -1).reshape(1, 1, -1, 2)
            image = torch.from_numpy(x[int(rois[r, 0])][None])
            sampled = functional.grid_sample(image, torch.from_numpy(grid), "bilinear", "border", align_corners=False)
            values = sampled.numpy().reshape(case.c, *full) * kept
            number = max(counts[0] * counts[1], 1) if case.is_aligned else np.maximum(kept.sum((-2, -1)), 1)
            means = values.sum((-2, -1)) / number
            for c, ph, pw in np.ndindex(per_class, case.pooled_h, case.pooled_w):
                channel = k * per_class + c
                g_h, g_w = (p * case.group_size // n for p, n in ((ph, case.pooled_h), (pw, case.pooled_w)))
                source = (channel * case.group_size + g_h) * case.group_size + g_w
                place = (r, k, ph * case.parts[0] // case.pooled_h, pw * case.parts[1] // case.pooled_w)
                factor = 1.0 if mask is None else mask[place]
                output[r, channel, ph, pw] = factor * means[source, ph, pw]
    return output


def roi_error_bound(
    case: RoiCase, inputs: RoiInputs, dtype: str = "float32", *, coordinate_dtype: str = "float64"
) -> Array:
    """Bound, element by element, of what rounding alone can do to an implementation that works in ``dtype``.

    A bin is Σ weight·x with weights ≥ 0. Each product has a few relative roundings, 12 are allowed, and their sum as
    many as it has terms, four for each sample. That is relative to Σ weight·|x|, which the float64 reference gives
    for the absolute values. A position is off by a few roundings, 12 again, of the numbers that it is summed from; a
    RoI that has samples on the map has none much larger than ``reach``. The sample's slope is at most 2·max|x| on each
    axis. No bound holds where a sample is within its rounding of a place where the operator jumps:
    ``cases.make_roi_inputs`` avoids these.

    Args:
        case: the RoI pooling.
        inputs: its tensors.
        dtype: type of weights and sums.
        coordinate_dtype: type of the positions.

    Returns:
        float64 array of ``case.output_shape``.
    """
    from dcn_deploy.ops import reference

    x = np.abs(inputs.X.astype(np.float64))
    mask = None if inputs.mask is None else np.abs(inputs.mask.astype(np.float64))
    absolute = reference.deform_roi_pool(x, inputs.rois, inputs.offset, mask, **case.reference_arguments)
    samples = case.sample_per_part**2
    if case.is_aligned:
        # More samples than pixels are on the map only where there are more than one for each pixel.
        samples = case.sampling_ratio**2 or (case.h + 2) * (case.w + 2)
    u = UNIT_ROUNDOFF[dtype]
    reach = 4.0 * (max(case.h, case.w) + 2)
    if case.boxes == "huge":
        reach *= 20.0
    moved = 12 * UNIT_ROUNDOFF[coordinate_dtype] * reach
    slope = 2 * 2.0 * x.max(initial=0.0) * (1.0 if mask is None else mask.max(initial=0.0))
    return np.asarray((4 * samples + 12) * u * absolute + moved * slope)
