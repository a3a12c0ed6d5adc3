"""What must hold for any shape and any attributes, whoever computes it: property tests with Hypothesis.

Each property is a function of an engine, a case and a seed for its tensors. All are checked on the torch
operator in float64, where the bounds are tight, and on the ONNX Runtime custom operator in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cases
import numpy as np
import peers
import pytest
import torch
from cases import Array, Case, Inputs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dcn_deploy import ops


@dataclass(frozen=True)
class Engine:
    """One implementation, and the element type it is asked to work in."""

    dtype: str
    run: Callable[[Case, Inputs], Array]

    def draw(self, case: Case, seed: int) -> Inputs:
        return cases.make_inputs(case, np.random.default_rng(seed), np.dtype(self.dtype))

    def bound(self, case: Case, inputs: Inputs) -> Array:
        return peers.error_bound(case, inputs, self.dtype)


def _run_torch(case: Case, inputs: Inputs) -> Array:
    x, w, offset, b, mask = (None if a is None else torch.from_numpy(a) for a in inputs.in_order())
    assert x is not None
    assert w is not None
    assert offset is not None
    y = ops.deform_conv2d(x, offset, w, b, **case.functional_arguments, mask=mask)
    return np.asarray(y.numpy())


_TORCH = Engine("float64", _run_torch)


@st.composite
def small_cases(draw: st.DrawFn) -> Case:
    """Valid cases of at most some ten thousand multiply-adds, shrinking towards one pixel and one channel."""

    def small(low: int, high: int) -> int:
        return draw(st.integers(low, high))

    group, offset_group = draw(st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2), (2, 4), (3, 2), (2, 3), (4, 1)]))
    c = int(np.lcm(group, offset_group)) * small(1, 2)
    fields: dict[str, Any] = {
        "n": small(1, 3),
        "c": c,
        "h": small(1, 9),
        "w": small(1, 9),
        "m": group * small(1, 3),
        "group": group,
        "offset_group": offset_group,
        "bias": draw(st.booleans()),
        "mask": draw(st.booleans()),
        "offset_scale": draw(st.sampled_from([0.3, 2.0, 6.0])),
    }
    for axis, first, last, size in (("h", "top", "bottom", fields["h"]), ("w", "left", "right", fields["w"])):
        kernel, dilation = small(1, 4), small(1, 3)
        begin, end = small(0, 3), small(0, 3)
        while size + begin + end < dilation * (kernel - 1) + 1:
            kernel -= 1
        fields |= {f"kernel_{axis}": kernel, f"dilation_{axis}": dilation, f"stride_{axis}": small(1, 3)}
        fields |= {f"pad_{first}": begin, f"pad_{last}": end}
    return Case("drawn", **fields)


def zero_offsets_are_the_ordinary_convolution(engine: Engine, case: Case, seed: int) -> None:
    case = replace(case, mask=False, offsets="zero")
    inputs = engine.draw(case, seed)
    expected = peers.run_dense_convolution(case, peers.as_float64(inputs))
    peers.assert_within(engine.run(case, inputs), expected, 2 * engine.bound(case, inputs))


def integer_offsets_are_a_shifted_gather(engine: Engine, case: Case, seed: int) -> None:
    """At a whole pixel nothing is interpolated: the sample is that pixel, or zero beside the map."""
    case = replace(case, offsets="integer")
    inputs = engine.draw(case, seed)
    wide = peers.as_float64(inputs)
    shape = (case.n, case.offset_group, case.kernel_h, case.kernel_w, 2, case.out_h, case.out_w)
    offset = wide.offset.reshape(shape)
    y, x = (base + offset[:, :, :, :, axis] for axis, base in enumerate(cases.base_locations(case)))
    on_map = (y >= 0) & (y < case.h) & (x >= 0) & (x < case.w)
    row, column = (np.where(on_map, a, 0).astype(int) for a in (y, x))
    modulation = on_map if wide.mask is None else on_map * wide.mask.reshape(on_map.shape)
    expected = (
        np.zeros(case.output_shape)
        if wide.B is None
        else np.broadcast_to(wide.B[:, None, None], case.output_shape).copy()
    )
    inputs_per_group, outputs_per_group = case.c // case.group, case.m // case.group
    for n, m in np.ndindex(case.n, case.m):
        for local in range(inputs_per_group):
            channel = m // outputs_per_group * inputs_per_group + local
            o = channel // (case.c // case.offset_group)
            taps = modulation[n, o] * wide.X[n, channel, row[n, o], column[n, o]]
            expected[n, m] += np.tensordot(wide.W[m, local], taps, axes=2)
    peers.assert_within(engine.run(case, inputs), expected, 2 * engine.bound(case, inputs))


def _assert_linear(engine: Engine, case: Case, first: Inputs, second: Inputs, combined: Inputs) -> None:
    expected = 2.0 * engine.run(case, first) - 0.5 * engine.run(case, second)
    bound = sum(
        factor * engine.bound(case, inputs) for factor, inputs in ((2.0, first), (0.5, second), (1.0, combined))
    )
    # 2a - b/2 is rounded once itself, and its rounding is one of the combined input's.
    peers.assert_within(engine.run(case, combined), expected, 2.0 * np.asarray(bound))


def _combine(a: Array, b: Array) -> Array:
    return (2.0 * a.astype(np.float64) - 0.5 * b.astype(np.float64)).astype(a.dtype)


def linear_in_the_features(engine: Engine, case: Case, seed: int) -> None:
    case = replace(case, bias=False)
    first, other = engine.draw(case, seed), engine.draw(case, seed + 1)
    _assert_linear(engine, case, first, replace(first, X=other.X), replace(first, X=_combine(first.X, other.X)))


def linear_in_the_weight(engine: Engine, case: Case, seed: int) -> None:
    case = replace(case, bias=False)
    first, other = engine.draw(case, seed), engine.draw(case, seed + 1)
    _assert_linear(engine, case, first, replace(first, W=other.W), replace(first, W=_combine(first.W, other.W)))


def linear_in_the_mask(engine: Engine, case: Case, seed: int) -> None:
    case = replace(case, bias=False, mask=True)
    first, other = engine.draw(case, seed), engine.draw(case, seed + 1)
    assert first.mask is not None
    assert other.mask is not None
    _assert_linear(
        engine, case, first, replace(first, mask=other.mask), replace(first, mask=_combine(first.mask, other.mask))
    )


def no_mask_is_a_mask_of_ones(engine: Engine, case: Case, seed: int) -> None:
    without = replace(case, mask=False)
    inputs = engine.draw(without, seed)
    ones = replace(inputs, mask=np.ones(case.mask_shape, engine.dtype))
    y = engine.run(replace(case, mask=True), ones)
    peers.assert_within(engine.run(without, inputs), y, 2 * engine.bound(without, inputs))


def no_bias_is_a_bias_of_zeros(engine: Engine, case: Case, seed: int) -> None:
    without = replace(case, bias=False)
    inputs = engine.draw(without, seed)
    zeros = replace(inputs, B=np.zeros(case.bias_shape, engine.dtype))
    y = engine.run(replace(case, bias=True), zeros)
    peers.assert_within(engine.run(without, inputs), y, 2 * engine.bound(without, inputs))


def padding_is_zeros_around_the_map(engine: Engine, case: Case, seed: int) -> None:
    """Writing the padding into the map changes nothing, although the sampler tests against the unpadded map."""
    inputs = engine.draw(case, seed)
    widths = ((0, 0), (0, 0), (case.pad_top, case.pad_bottom), (case.pad_left, case.pad_right))
    padded = replace(
        case,
        h=case.h + case.pad_top + case.pad_bottom,
        w=case.w + case.pad_left + case.pad_right,
        pad_top=0,
        pad_left=0,
        pad_bottom=0,
        pad_right=0,
    )
    wide = replace(inputs, X=np.pad(inputs.X, widths))
    bound = engine.bound(case, inputs) + engine.bound(padded, wide)
    peers.assert_within(engine.run(padded, wide), engine.run(case, inputs), bound)


def translating_map_and_offsets_changes_nothing(engine: Engine, case: Case, seed: int) -> None:
    """Move the map down and right on a larger canvas, add the same to every offset: the same samples."""
    down, right = case.pad_bottom, case.pad_right  # the canvas grows by what the padding shrinks
    moved = replace(case, h=case.h + down, w=case.w + right, pad_bottom=0, pad_right=0)
    inputs = engine.draw(case, seed)
    shape = (case.n, case.offset_group * case.taps, 2, case.out_h, case.out_w)
    shift = np.array([down, right], engine.dtype)[None, None, :, None, None]
    offset = (inputs.offset.reshape(shape) + shift).reshape(case.offset_shape)
    X = np.pad(inputs.X, ((0, 0), (0, 0), (down, 0), (right, 0)))
    other = replace(inputs, X=X, offset=offset)
    bound = engine.bound(case, inputs) + engine.bound(moved, other)
    peers.assert_within(engine.run(moved, other), engine.run(case, inputs), bound)


def far_outside_only_the_bias_is_left(engine: Engine, case: Case, seed: int) -> None:
    """Exactly, not to rounding: adding zeros does not round."""
    case = replace(case, offsets="outside")
    inputs = engine.draw(case, seed)
    bias = np.zeros(case.m, engine.dtype) if inputs.B is None else inputs.B
    y = engine.run(case, inputs)
    np.testing.assert_array_equal(y, np.broadcast_to(bias[:, None, None], case.output_shape))


def offset_groups_permute_with_their_channels(engine: Engine, case: Case, seed: int) -> None:
    case = replace(case, group=1)
    inputs = engine.draw(case, seed)
    order = np.random.default_rng(seed).permutation(case.offset_group)

    def permute(array: Array, axis: int) -> Array:
        blocks = np.split(array, case.offset_group, axis)
        return np.concatenate([blocks[i] for i in order], axis)

    other = Inputs(
        permute(inputs.X, 1),
        permute(inputs.W, 1),
        permute(inputs.offset, 1),
        inputs.B,
        None if inputs.mask is None else permute(inputs.mask, 1),
    )
    peers.assert_within(engine.run(case, other), engine.run(case, inputs), 2 * engine.bound(case, inputs))


def offset_groups_are_shared_offsets(engine: Engine, case: Case, seed: int) -> None:
    """Giving each channel its own copy of its group's offsets and mask changes nothing."""
    inputs = engine.draw(case, seed)
    each = replace(case, offset_group=case.c)
    times = case.c // case.offset_group

    def copies(array: Array) -> Array:
        split = array.reshape(case.n, case.offset_group, -1, case.out_h, case.out_w)
        return np.repeat(split, times, axis=1).reshape(case.n, -1, case.out_h, case.out_w)

    other = replace(inputs, offset=copies(inputs.offset), mask=None if inputs.mask is None else copies(inputs.mask))
    peers.assert_within(engine.run(each, other), engine.run(case, inputs), 2 * engine.bound(case, inputs))


def groups_are_separate_convolutions(engine: Engine, case: Case, seed: int) -> None:
    case = replace(case, offset_group=case.c)  # so that every group of channels has offsets to itself
    inputs = engine.draw(case, seed)
    part = replace(case, c=case.c // case.group, m=case.m // case.group, group=1, offset_group=case.c // case.group)
    parts = [
        Inputs(
            np.split(inputs.X, case.group, 1)[g],
            np.split(inputs.W, case.group, 0)[g],
            np.split(inputs.offset, case.group, 1)[g],
            None if inputs.B is None else np.split(inputs.B, case.group)[g],
            None if inputs.mask is None else np.split(inputs.mask, case.group, 1)[g],
        )
        for g in range(case.group)
    ]
    parts = [Inputs(*(None if a is None else np.ascontiguousarray(a) for a in p.in_order())) for p in parts]  # type: ignore[arg-type]
    expected = np.concatenate([engine.run(part, each) for each in parts], axis=1)
    peers.assert_within(engine.run(case, inputs), expected, 2 * engine.bound(case, inputs))


def images_of_a_batch_do_not_meet(engine: Engine, case: Case, seed: int) -> None:
    case = replace(case, n=3)
    inputs = engine.draw(case, seed)
    one = replace(case, n=1)
    singles = [
        Inputs(
            inputs.X[i : i + 1],
            inputs.W,
            inputs.offset[i : i + 1],
            inputs.B,
            None if inputs.mask is None else inputs.mask[i : i + 1],
        )
        for i in range(case.n)
    ]
    expected = np.concatenate([engine.run(one, single) for single in singles])
    peers.assert_within(engine.run(case, inputs), expected, 2 * engine.bound(case, inputs))


def a_wild_offset_is_a_masked_sample(engine: Engine, case: Case, seed: int) -> None:
    """NaN, ±Inf or a huge value in either coordinate equals a mask of zero at that tap, whatever is in X."""
    case = replace(case, mask=True)
    inputs = engine.draw(case, seed)
    rng = np.random.default_rng(seed)
    assert inputs.mask is not None
    pairs = (case.n, case.offset_group * case.taps, 2, case.out_h, case.out_w)
    offset = inputs.offset.reshape(pairs).copy()
    hit = rng.random(pairs) < 0.3
    offset[hit] = rng.choice(np.array(cases.WILD_OFFSETS), hit.sum()).astype(engine.dtype)
    wild = replace(inputs, offset=offset.reshape(case.offset_shape))
    masked = replace(inputs, mask=np.where(hit.any(axis=2), 0, inputs.mask).astype(engine.dtype))
    y = engine.run(case, wild)
    assert np.isfinite(y).all()
    peers.assert_within(y, engine.run(case, masked), 2 * engine.bound(case, inputs))


def moving_every_location_a_little_moves_the_result_a_little(engine: Engine, case: Case, seed: int) -> None:
    """The sampler is continuous, at the edge of the map too: ``peers.error_bound`` relies on it."""
    case = replace(case, offsets="boundary")
    inputs = engine.draw(case, seed)
    step = 1e-3
    signs = np.random.default_rng(seed).choice([-step, 0.0, step], case.offset_shape).astype(engine.dtype)
    moved = replace(inputs, offset=inputs.offset + signs)
    bound = engine.bound(case, inputs) + peers.error_bound(case, inputs, engine.dtype, coordinate_slack=step)
    peers.assert_within(engine.run(case, moved), engine.run(case, inputs), bound)


def float32_is_float64_to_rounding(engine: Engine, case: Case, seed: int) -> None:
    inputs = cases.make_inputs(case, np.random.default_rng(seed), np.float32)
    run = _run_torch if engine.dtype == "float64" else engine.run
    exact = _run_torch(case, peers.as_float64(inputs))
    peers.assert_within(run(case, inputs), exact, peers.error_bound(case, inputs, "float32"))


_PROPERTIES = [
    zero_offsets_are_the_ordinary_convolution,
    integer_offsets_are_a_shifted_gather,
    linear_in_the_features,
    linear_in_the_weight,
    linear_in_the_mask,
    no_mask_is_a_mask_of_ones,
    no_bias_is_a_bias_of_zeros,
    padding_is_zeros_around_the_map,
    translating_map_and_offsets_changes_nothing,
    far_outside_only_the_bias_is_left,
    offset_groups_permute_with_their_channels,
    offset_groups_are_shared_offsets,
    groups_are_separate_convolutions,
    images_of_a_batch_do_not_meet,
    a_wild_offset_is_a_masked_sample,
    moving_every_location_a_little_moves_the_result_a_little,
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
@settings(max_examples=60, **_COMMON)
@given(case=small_cases(), data_seed=_SEEDS)
def test_torch_operator(holds: Callable[[Engine, Case, int], None], case: Case, data_seed: int) -> None:
    holds(_TORCH, case, data_seed)


@pytest.mark.parametrize("holds", _PROPERTIES, ids=lambda holds: holds.__name__)
@settings(max_examples=25, **_COMMON)
@given(case=small_cases(), data_seed=_SEEDS)
def test_onnxruntime_operator(
    holds: Callable[[Engine, Case, int], None], case: Case, data_seed: int, make_session: Any
) -> None:
    def run(one: Case, inputs: Inputs) -> Array:
        (y,) = make_session(peers.model(one, form="plugin")).run(None, peers.feed(inputs))
        return np.asarray(y)

    holds(Engine("float32", run), case, data_seed)
