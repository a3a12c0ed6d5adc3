"""What must hold for any deformable RoI pooling, whoever computes it: property tests with Hypothesis.

Each property is a function of an engine, a case and a seed for its tensors. All are checked on the torch operator and
the reference in float64, where the bounds are tight, and on the ONNX Runtime custom operator in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cases
import numpy as np
import peers
import pytest
import roi_engines
from cases import Array, RoiCase, RoiInputs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from roi_engines import RoiEngine


@st.composite
def small_cases(draw: st.DrawFn) -> RoiCase:
    """Valid cases of at most some thousand samples, shrinking towards one pixel, one channel and one RoI."""

    def small(low: int, high: int) -> int:
        return draw(st.integers(low, high))

    fields: dict[str, Any] = {
        "n": small(1, 3),
        "h": small(1, 9),
        "w": small(1, 9),
        "r": small(1, 5),
        "pooled_h": small(1, 4),
        "pooled_w": small(1, 4),
        "spatial_scale": draw(st.sampled_from([1.0, 0.5, 0.25, 0.3])),
        "gamma": draw(st.sampled_from([0.1, 1.0, -0.5])),
        "offset": draw(st.booleans()),
        "mask": draw(st.booleans()),
        "offset_scale": draw(st.sampled_from([0.3, 1.0, 5.0])),
        "boxes": draw(st.sampled_from(["inside", "partly", "whole", "tiny", "zero_size", "inverted", "mixed"])),
    }
    if draw(st.booleans()):
        return RoiCase("roi_drawn", c=small(1, 4), sampling_ratio=small(0, 3), **fields)
    group_size = small(1, 3)
    classes = small(1, 3) if fields["offset"] or fields["mask"] else 1
    return RoiCase(
        "roi_drawn",
        variant="psroi",
        c=classes * small(1, 2) * group_size**2,
        group_size=group_size,
        classes=classes,
        part_size=small(1, 4),
        sample_per_part=small(1, 3),
        **fields,
    )


def _combine(a: Array, b: Array) -> Array:
    return (2.0 * a.astype(np.float64) - 0.5 * b.astype(np.float64)).astype(a.dtype)


def _parts(case: RoiCase, array: Array) -> Array:
    """[R, classes, parts...] → [R, Cout, pH, pW]: what each output element takes of a mask."""
    rows, columns = (np.arange(n) * q // n for n, q in zip(case.output_size, case.parts, strict=True))
    own = np.repeat(array, case.output_channels // case.classes, axis=1)
    return own[:, :, rows[:, None], columns]


def linear_in_the_features(engine: RoiEngine, case: RoiCase, seed: int) -> None:
    first = engine.draw(case, seed)
    second = replace(first, X=engine.draw(case, seed + 1).X)
    combined = replace(first, X=_combine(first.X, second.X))
    expected = 2.0 * engine.run(case, first) - 0.5 * engine.run(case, second)
    bound = sum(factor * engine.bound(case, each) for factor, each in ((2.0, first), (0.5, second), (1.0, combined)))
    # 2a - b/2 is rounded once itself, and its rounding is one of the combined input's.
    peers.assert_within(engine.run(case, combined), expected, 2.0 * np.asarray(bound))


def the_mask_is_a_factor(engine: RoiEngine, case: RoiCase, seed: int) -> None:
    case = replace(case, mask=True)
    inputs = engine.draw(case, seed)
    assert inputs.mask is not None
    without = replace(case, mask=False, classes=case.classes if case.offset else 1)
    plain = engine.run(without, replace(inputs, mask=None))
    bound = engine.bound(case, inputs) + engine.bound(without, replace(inputs, mask=None))
    peers.assert_within(engine.run(case, inputs), plain * _parts(case, inputs.mask.astype(np.float64)), bound)


def no_mask_is_a_mask_of_ones(engine: RoiEngine, case: RoiCase, seed: int) -> None:
    without = replace(case, mask=False, classes=case.classes if case.offset else 1)
    inputs = engine.draw(without, seed)
    ones = replace(inputs, mask=np.ones(without.mask_shape, engine.dtype))
    y = engine.run(replace(without, mask=True), ones)
    peers.assert_within(engine.run(without, inputs), y, 2 * engine.bound(without, inputs))


def no_offset_is_an_offset_of_zeros(engine: RoiEngine, case: RoiCase, seed: int) -> None:
    without = replace(case, offset=False, classes=case.classes if case.mask else 1)
    inputs = engine.draw(without, seed)
    zeros = replace(inputs, offset=np.zeros(without.offset_shape, engine.dtype))
    y = engine.run(replace(without, offset=True), zeros)
    peers.assert_within(engine.run(without, inputs), y, 2 * engine.bound(without, inputs))


def rois_permute(engine: RoiEngine, case: RoiCase, seed: int) -> None:
    inputs = engine.draw(case, seed)
    order = np.random.default_rng(seed).permutation(case.r)
    rois, offset, mask = (None if a is None else a[order] for a in inputs.in_order()[1:])
    assert rois is not None
    y = engine.run(case, RoiInputs(inputs.X, rois, offset, mask))
    peers.assert_within(y, engine.run(case, inputs)[order], 2 * engine.bound(case, inputs)[order])


def rois_do_not_meet(engine: RoiEngine, case: RoiCase, seed: int) -> None:
    inputs = engine.draw(case, seed)
    one = replace(case, r=1)
    singles = [
        RoiInputs(inputs.X, *(None if a is None else a[r : r + 1] for a in inputs.in_order()[1:]))  # type: ignore[arg-type]
        for r in range(case.r)
    ]
    expected = np.concatenate([engine.run(one, single) for single in singles])
    peers.assert_within(engine.run(case, inputs), expected, 2 * engine.bound(case, inputs))


def images_permute(engine: RoiEngine, case: RoiCase, seed: int) -> None:
    case = replace(case, n=3)
    inputs = engine.draw(case, seed)
    order = np.random.default_rng(seed).permutation(case.n)
    rois = inputs.rois.copy()
    rois[:, 0] = np.argsort(order)[rois[:, 0].astype(int)]
    y = engine.run(case, replace(inputs, X=inputs.X[order], rois=rois))
    peers.assert_within(y, engine.run(case, inputs), 2 * engine.bound(case, inputs))


def channels_do_not_meet(engine: RoiEngine, case: RoiCase, seed: int) -> None:
    """An output channel alone, from the channels of its groups and the offsets and mask of its class."""
    inputs = engine.draw(case, seed)
    block = case.group_size**2
    per_class = case.output_channels // case.classes
    one = replace(case, c=block, classes=1)
    outputs = []
    for channel in range(case.output_channels):
        k = channel // per_class
        single = RoiInputs(
            inputs.X[:, channel * block : (channel + 1) * block].copy(),
            inputs.rois,
            None if inputs.offset is None else inputs.offset[:, 2 * k : 2 * k + 2].copy(),
            None if inputs.mask is None else inputs.mask[:, k : k + 1].copy(),
        )
        outputs.append(engine.run(one, single))
    expected = np.concatenate(outputs, axis=1)
    peers.assert_within(engine.run(case, inputs), expected, 2 * engine.bound(case, inputs))


def classes_with_equal_offsets_are_one(engine: RoiEngine, case: RoiCase, seed: int) -> None:
    one = replace(case, classes=1)
    inputs = engine.draw(one, seed)
    offset, mask = (None if a is None else np.tile(a, (1, case.classes, 1, 1)) for a in inputs.in_order()[2:])
    y = engine.run(case, replace(inputs, offset=offset, mask=mask))
    peers.assert_within(y, engine.run(one, inputs), 2 * engine.bound(one, inputs))


def equal_parts_are_one(engine: RoiEngine, case: RoiCase, seed: int) -> None:
    if case.is_aligned:
        case = replace(case, variant="psroi")
    one = replace(case, part_size=1)
    inputs = engine.draw(one, seed)
    times = case.parts[0]
    offset, mask = (None if a is None else np.tile(a, (1, 1, times, times)) for a in inputs.in_order()[2:])
    y = engine.run(case, replace(inputs, offset=offset, mask=mask))
    peers.assert_within(y, engine.run(one, inputs), 2 * engine.bound(one, inputs))


def equal_groups_are_one(engine: RoiEngine, case: RoiCase, seed: int) -> None:
    """Position-sensitive pooling of a map whose groups are copies is plain pooling."""
    one = replace(case, c=case.output_channels, group_size=1)
    inputs = engine.draw(one, seed)
    y = engine.run(case, replace(inputs, X=np.repeat(inputs.X, case.group_size**2, axis=1)))
    peers.assert_within(y, engine.run(one, inputs), 2 * engine.bound(one, inputs))


def height_and_width_are_alike(engine: RoiEngine, case: RoiCase, seed: int) -> None:
    """Everything transposed: map, RoIs, the offsets' two channels, their parts, the mask and the channel groups."""
    inputs = engine.draw(case, seed)
    other = replace(case, h=case.w, w=case.h, pooled_h=case.pooled_w, pooled_w=case.pooled_h)
    if not case.is_aligned:
        other = replace(other, part_size=case.parts[0])
    g = case.group_size
    X = inputs.X.reshape(case.n, -1, g, g, case.h, case.w).transpose(0, 1, 3, 2, 5, 4)
    offset = mask = None
    if inputs.offset is not None:
        pairs = inputs.offset.reshape(case.r, case.classes, 2, *case.parts)
        offset = np.ascontiguousarray(pairs[:, :, ::-1].swapaxes(3, 4)).reshape(other.offset_shape)
    if inputs.mask is not None:
        mask = np.ascontiguousarray(inputs.mask.swapaxes(2, 3))
    swapped = RoiInputs(np.ascontiguousarray(X).reshape(other.x_shape), inputs.rois[:, [0, 2, 1, 4, 3]], offset, mask)
    y = engine.run(other, swapped).swapaxes(2, 3)
    peers.assert_within(y, engine.run(case, inputs), 2 * engine.bound(case, inputs))


def only_the_product_with_the_scale_counts(engine: RoiEngine, case: RoiCase, seed: int) -> None:
    """Boxes twice as large at half the scale are the same boxes on the map, where nothing is rounded."""
    case = replace(case, variant="aligned", c=case.output_channels, group_size=1, classes=1, part_size=0)
    inputs = engine.draw(case, seed)
    rois = inputs.rois * np.array([1, 2, 2, 2, 2], engine.dtype)
    y = engine.run(replace(case, spatial_scale=case.scale / 2), replace(inputs, rois=rois))
    peers.assert_within(y, engine.run(case, inputs), 2 * engine.bound(case, inputs))


def translating_map_and_rois_changes_nothing(engine: RoiEngine, case: RoiCase, seed: int) -> None:
    """Move the map down and right on a larger canvas, and RoIs that lie well inside with it: the same samples."""
    rng = np.random.default_rng(seed)
    down, right = (int(v) for v in rng.integers(0, 5, 2))
    case = replace(case, h=case.h + 3, w=case.w + 3, spatial_scale=float(rng.choice([1.0, 0.5, 0.25])))
    inputs = engine.draw(case, seed)
    for column, size in ((1, case.w), (2, case.h)):
        # Between the first pixel and the last but one, so that a shift of a tenth of a pixel stays on the map.
        ends = np.sort(rng.uniform(1.0, size - 2.0, (2, case.r)), axis=0) / case.scale
        inputs.rois[:, column], inputs.rois[:, column + 2] = ends
    small = None if inputs.offset is None else (0.01 * np.tanh(inputs.offset) / case.factor).astype(engine.dtype)
    inputs = replace(inputs, offset=small)
    moved = replace(case, h=case.h + down, w=case.w + right)
    X = np.pad(inputs.X, ((0, 0), (0, 0), (down, 0), (right, 0)), constant_values=1e6)
    rois = inputs.rois + (np.array([0, right, down, right, down]) / case.scale).astype(engine.dtype)
    # A float32 coordinate in the image is rounded once more where it is moved.
    slack = peers.UNIT_ROUNDOFF[engine.dtype] * (max(case.h, case.w) + 5)
    bound = 2 * engine.bound(case, inputs) + 8 * slack * np.abs(inputs.X).max()
    peers.assert_within(engine.run(moved, replace(inputs, X=X, rois=rois)), engine.run(case, inputs), bound)


def an_offset_is_a_moved_roi(engine: RoiEngine, case: RoiCase, seed: int) -> None:
    """With one bin, shifting its samples by whole RoIs is moving the RoI, also across the edges: exact positions."""
    case = replace(
        case,
        pooled_h=1,
        pooled_w=1,
        part_size=0 if case.is_aligned else 1,
        spatial_scale=0.5,
        gamma=0.25,
        offset=True,
        classes=1,
        boxes="dyadic",
        sampling_ratio=2,
        sample_per_part=2,
    )
    inputs = engine.draw(case, seed)
    step = 1 if case.is_aligned else 4  # a whole number of image pixels, since psroi rounds
    units = step * np.random.default_rng(seed).integers(-4, 5, case.offset_shape)
    length = inputs.rois[:, 3:] - inputs.rois[:, 1:3] + (0 if case.is_aligned else 1)
    move = 0.25 * units[:, :, 0, 0] * length
    rois = inputs.rois.copy()
    rois[:, 1:] += np.concatenate([move, move], axis=1)
    shifted = replace(inputs, offset=units.astype(engine.dtype))
    moved = replace(inputs, rois=rois, offset=np.zeros_like(shifted.offset))
    peers.assert_within(engine.run(case, shifted), engine.run(case, moved), 2 * engine.bound(case, moved))


def a_constant_map_gives_itself(engine: RoiEngine, case: RoiCase, seed: int) -> None:
    """psroi: the mean of the samples kept, so the constant or nothing; aligned: no more than it."""
    case = replace(case, mask=False, classes=case.classes if case.offset else 1)
    inputs = engine.draw(case, seed)
    inputs.X[:] = 3.0
    y = engine.run(case, inputs).astype(np.float64)
    bound = engine.bound(case, inputs)
    assert ((y >= -bound) & (y <= 3.0 + bound)).all()
    if not case.is_aligned:
        assert ((np.abs(y) <= bound) | (np.abs(y - 3.0) <= bound)).all()


def far_outside_nothing_is_left(engine: RoiEngine, case: RoiCase, seed: int) -> None:
    """Exactly zero, whatever the map holds."""
    inputs = engine.draw(replace(case, boxes="outside", offsets="zero"), seed)
    inputs.X[:] = np.random.default_rng(seed).choice([np.nan, np.inf, -np.inf], case.x_shape)
    assert not engine.run(case, inputs).any()


def a_wild_offset_empties_its_bins(engine: RoiEngine, case: RoiCase, seed: int) -> None:
    """NaN, ±Inf or a huge value in either coordinate: the bins of that part and class are zero, the others as ever."""
    case = replace(case, offset=True, boxes="inside")
    inputs = engine.draw(case, seed)
    assert inputs.offset is not None
    rng = np.random.default_rng(seed)
    pairs = (case.r, case.classes, 2, *case.parts)
    offset = inputs.offset.reshape(pairs).copy()
    hit = rng.random(pairs) < 0.3
    offset[hit] = rng.choice(np.array(cases.WILD_OFFSETS), hit.sum()).astype(engine.dtype)
    y = engine.run(case, replace(inputs, offset=offset.reshape(case.offset_shape)))
    expected = engine.run(case, inputs) * ~_parts(case, hit.any(axis=2))
    peers.assert_within(y, expected, 2 * engine.bound(case, inputs))


def a_roi_that_is_no_number_is_zero(engine: RoiEngine, case: RoiCase, seed: int) -> None:
    inputs = engine.draw(case, seed)
    rng = np.random.default_rng(seed)
    rois = inputs.rois.copy()
    hit = rng.random((case.r, 4)) < 0.2
    rois[:, 1:][hit] = rng.choice([np.nan, np.inf, -np.inf], hit.sum())
    expected = engine.run(case, inputs) * ~hit.any(axis=1)[:, None, None, None]
    peers.assert_within(engine.run(case, replace(inputs, rois=rois)), expected, 2 * engine.bound(case, inputs))


def float32_is_float64_to_rounding(engine: RoiEngine, case: RoiCase, seed: int) -> None:
    inputs = cases.make_roi_inputs(case, np.random.default_rng(seed), np.float32)
    exact = roi_engines.torch_operator("float64").run(case, peers.as_float64(inputs))
    peers.assert_within(engine.run(case, inputs), exact, peers.roi_error_bound(case, inputs, "float32"))


_PROPERTIES = [
    linear_in_the_features,
    the_mask_is_a_factor,
    no_mask_is_a_mask_of_ones,
    no_offset_is_an_offset_of_zeros,
    rois_permute,
    rois_do_not_meet,
    images_permute,
    channels_do_not_meet,
    classes_with_equal_offsets_are_one,
    equal_parts_are_one,
    equal_groups_are_one,
    height_and_width_are_alike,
    only_the_product_with_the_scale_counts,
    translating_map_and_rois_changes_nothing,
    an_offset_is_a_moved_roi,
    a_constant_map_gives_itself,
    far_outside_nothing_is_left,
    a_wild_offset_empties_its_bins,
    a_roi_that_is_no_number_is_zero,
    float32_is_float64_to_rounding,
]

# derandomize: the same examples in each run. A failure prints the case and the seed of its tensors.
_COMMON: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow],
}
_SEEDS = st.integers(0, 2**32 - 2)


@pytest.mark.parametrize("holds", _PROPERTIES, ids=lambda holds: holds.__name__)
@settings(max_examples=30, **_COMMON)
@given(case=small_cases(), data_seed=_SEEDS)
def test_reference(holds: Callable[[RoiEngine, RoiCase, int], None], case: RoiCase, data_seed: int) -> None:
    holds(roi_engines.reference(), case, data_seed)


@pytest.mark.parametrize("holds", _PROPERTIES, ids=lambda holds: holds.__name__)
@settings(max_examples=40, **_COMMON)
@given(case=small_cases(), data_seed=_SEEDS)
def test_torch_operator(holds: Callable[[RoiEngine, RoiCase, int], None], case: RoiCase, data_seed: int) -> None:
    holds(roi_engines.torch_operator("float64"), case, data_seed)


@pytest.mark.parametrize("holds", _PROPERTIES, ids=lambda holds: holds.__name__)
@settings(max_examples=25, **_COMMON)
@given(case=small_cases(), data_seed=_SEEDS)
def test_onnxruntime_operator(
    holds: Callable[[RoiEngine, RoiCase, int], None], case: RoiCase, data_seed: int, make_session: Any
) -> None:
    holds(roi_engines.onnxruntime_operator(make_session), case, data_seed)
