"""Figures of a comparison against ones computed by hand, and the cases that a formula alone gets wrong."""

from __future__ import annotations

import json
import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dcn_deploy.validation import comparison
from dcn_deploy.validation.comparison import compare, element_kind


def test_figures_by_hand():
    # y - ref = (3, -1), ‖ref‖ = 5, y · ref = 4·5 = 20, ‖y‖ = 5
    result = compare(np.array([3.0, 4.0]), np.array([0.0, 5.0]))
    assert result.max_abs == 3.0
    assert result.relative_rms == pytest.approx(math.sqrt(10) / 5, rel=1e-15)
    assert result.cosine == pytest.approx(20 / 25, rel=1e-15)
    assert result.worst is not None
    assert result.worst.index == (0,)
    assert (result.worst.actual, result.worst.expected) == (3.0, 0.0)
    assert result.nonfinite_mismatches == 0
    assert not result.problem


def test_worst_index_counts_in_row_major_order_of_any_strides():
    expected = np.zeros((2, 3, 4))
    expected += np.arange(24).reshape(2, 3, 4)
    actual = np.asfortranarray(expected.copy())
    actual[1, 2, 0] += 0.5
    result = compare(actual, expected[:, :, ::1])
    assert result.worst is not None
    assert result.worst.index == (1, 2, 0)
    assert (result.worst.actual, result.worst.expected) == (20.5, 20.0)
    strided = np.zeros((4, 8))
    strided[3, 6] = 1.0
    result = compare(strided[:, ::2], np.zeros((4, 4)))
    assert result.worst is not None
    assert result.worst.index == (3, 3)


@pytest.mark.parametrize(
    ("actual", "expected", "relative_rms", "cosine"),
    [
        ([0.0, 0.0], [0.0, 0.0], 0.0, 1.0),
        ([1.0, 0.0], [0.0, 0.0], math.inf, 0.0),
        ([0.0, 0.0], [1.0, 0.0], 1.0, 0.0),
        ([-1.0, 0.0], [1.0, 0.0], 2.0, -1.0),
        ([], [], 0.0, 1.0),
    ],
)
def test_zero_and_empty(actual, expected, relative_rms, cosine):
    result = compare(np.array(actual), np.array(expected))
    assert result.relative_rms == relative_rms
    assert result.cosine == cosine


def test_nan_where_the_reference_has_a_number_is_a_mismatch():
    actual = np.array([1.0, np.nan, np.nan, np.inf, -np.inf, 2.0])
    expected = np.array([1.0, np.nan, 5.0, np.inf, np.inf, np.nan])
    result = compare(actual, expected)
    assert result.nonfinite_mismatches == 3
    assert [element.index for element in result.nonfinite] == [(2,), (4,), (5,)]
    assert result.finite == 1
    assert result.relative_rms == 0.0
    assert math.isnan(result.nonfinite[0].actual)
    assert result.nonfinite[0].expected == 5.0


def test_equal_nans_and_infinities_agree():
    values = np.array([np.nan, np.inf, -np.inf])
    result = compare(values, values.copy())
    assert result.nonfinite_mismatches == 0
    assert result.finite == 0
    assert math.isnan(result.relative_rms)


def test_figures_leave_out_what_is_not_finite():
    result = compare(np.array([np.nan, 3.0, 4.0]), np.array([7.0, 0.0, 5.0]))
    assert result.max_abs == 3.0
    assert result.relative_rms == pytest.approx(math.sqrt(10) / 5)


def test_only_the_first_positions_of_a_mismatch_are_kept():
    result = compare(np.full(100, np.nan), np.ones(100))
    assert result.nonfinite_mismatches == 100
    assert len(result.nonfinite) == comparison.KEPT_POSITIONS


def test_shape_mismatch_is_reported():
    result = compare(np.zeros((2, 3)), np.zeros((3, 2)))
    assert result.problem == "the shape is [2, 3], the reference has [3, 2]"
    assert math.isnan(result.relative_rms)
    assert compare(np.zeros(()), np.zeros((1,))).problem  # no broadcasting


def test_kind_mismatch_is_reported_and_width_is_not():
    result = compare(np.zeros(2, np.float32), np.zeros(2, np.int64))
    assert result.problem == "the element type is float32 (float), the reference has int64 (integer)"
    assert not compare(np.zeros(2, np.float16), np.zeros(2, np.float64)).problem
    assert not compare(np.zeros(2, np.int32), np.zeros(2, np.int64)).problem


def test_integers_are_compared_exactly():
    result = compare(np.array([[1, 2], [3, 9]]), np.array([[1, 2], [4, 4]]))
    assert result.exact
    assert result.differing == 2
    assert result.max_abs == 5.0
    assert result.worst is not None
    assert (result.worst.index, result.worst.actual, result.worst.expected) == ((1, 1), 9, 4)


def test_integers_beyond_float64_are_told_apart():
    result = compare(np.array([2**53 + 1]), np.array([2**53]))
    assert result.differing == 1
    assert result.max_abs == 1.0
    extremes = compare(np.array([2**63 - 1]), np.array([-(2**63)]))
    assert extremes.max_abs == float(2**64 - 1)


def test_booleans_and_text_are_compared_exactly():
    assert compare(np.array([True, False]), np.array([True, True])).differing == 1
    texts = compare(np.array(["a", "b"], object), np.array(["a", "c"], object))
    assert texts.differing == 1
    assert texts.worst is not None
    assert texts.worst.actual == "b"


def test_half_types_are_widened():
    values = np.array([1.0, 2.0, 3.0])
    for dtype in (np.float16, ml_dtypes.bfloat16):
        result = compare(values.astype(dtype), values)
        assert result.relative_rms == 0.0
        assert not result.exact
    assert element_kind(np.dtype(ml_dtypes.bfloat16)) == "float"
    assert element_kind(np.dtype(ml_dtypes.int4)) == "integer"


def test_magnitudes_whose_squares_overflow_or_vanish():
    for scale in (1e-300, 1e300):
        result = compare(np.array([3.0, 4.0]) * scale, np.array([0.0, 5.0]) * scale)
        assert result.relative_rms == pytest.approx(math.sqrt(10) / 5)
        assert result.cosine == pytest.approx(0.8)
    assert compare(np.array([1.7e308]), np.array([-1.7e308])).relative_rms == math.inf


def test_chunks_do_not_change_the_figures(monkeypatch, rng):
    expected = rng.standard_normal((7, 33, 19))
    actual = expected + 1e-3 * rng.standard_normal(expected.shape)
    actual[3, 2, 1] = np.nan
    whole = compare(actual, expected)
    monkeypatch.setattr(comparison, "CHUNK", 37)
    pieces = compare(actual, expected)
    assert pieces.relative_rms == pytest.approx(whole.relative_rms, rel=1e-12)
    assert pieces.cosine == pytest.approx(whole.cosine, rel=1e-12)
    assert (pieces.max_abs, pieces.worst, pieces.finite) == (whole.max_abs, whole.worst, whole.finite)
    assert [element.index for element in pieces.nonfinite] == [(3, 2, 1)]
    integers = rng.integers(0, 3, (50, 7))
    assert compare(integers, integers[::-1]).differing == int((integers != integers[::-1]).sum())


def test_json_has_only_json_values():
    result = compare(np.array([np.nan, 1.0, np.inf]), np.array([1.0, 0.0, np.inf]))
    text = json.dumps(result.to_json(), allow_nan=False)
    assert json.loads(text)["nonfinite"][0] == {"index": [0], "actual": "nan", "expected": 1.0}
    assert json.loads(text)["relative_rms"] is None  # infinite: the finite part of the reference is zero


finite = st.floats(-1e6, 1e6, width=32)


@given(arrays.arrays(np.float64, arrays.array_shapes(max_dims=3, max_side=6), elements=finite), st.data())
@settings(max_examples=150, deadline=None)
def test_agrees_with_the_plain_formula(expected, data):
    actual = data.draw(arrays.arrays(np.float64, expected.shape, elements=finite))
    result = compare(actual, expected)
    assert result.max_abs == np.abs(actual - expected).max()
    norm = np.linalg.norm(expected)
    if norm > 0:
        assert result.relative_rms == pytest.approx(np.linalg.norm(actual - expected) / norm, rel=1e-9, abs=1e-300)
    both = np.linalg.norm(actual) * norm
    if both > 0:
        assert result.cosine == pytest.approx(float((actual * expected).sum() / both), abs=1e-9)


@given(
    arrays.arrays(np.float32, arrays.array_shapes(max_dims=2, max_side=8), elements=st.floats(width=32)),
)
@settings(max_examples=100, deadline=None)
def test_anything_agrees_with_itself(values):
    result = compare(values, values.copy())
    assert result.nonfinite_mismatches == 0
    assert result.worst is None
    assert result.finite == int(np.isfinite(values).sum())
