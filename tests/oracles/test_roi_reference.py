"""The float64 reference of deformable RoI pooling against implementations and results that this project did not write.

Where a bound is checked it is ``peers.roi_error_bound``: what rounding alone can do in the precision the peer works in.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import cases
import numpy as np
import peers
import pytest
from cases import Array, RoiCase, RoiInputs

from dcn_deploy.ops import reference

_CASES_PER_MODEL = 25
_PLAIN = {"variant": "aligned", "offset": False, "mask": False}


def _reference(case: RoiCase, inputs: RoiInputs) -> Array:
    return reference.deform_roi_pool(*peers.as_float64(inputs).in_order(), **case.reference_arguments)


def _plain_case(rng: Any, name: str, fits: Callable[[RoiCase], bool] = peers.fits_roi_align) -> RoiCase:
    """A random case that RoiAlign is defined on."""
    while True:
        case = cases.random_roi_case(rng, name=name, **_PLAIN)
        if fits(case):
            return case


# RoiAlign, which `aligned` is without offset and mask.


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_onnxruntime_roi_align(dtype: str, rng: Any, make_plain_session: Any, agreed: Any) -> None:
    """2,500 cases with ONNX Runtime's RoiAlign (avg, half_pixel): equal wherever the grid's extents are not negative.

    RoIs inside, across an edge, off the map, on whole and half coordinates, smaller than a pixel, without any extent,
    and inverted ones with a given number of samples; any scale and pooled size; 0 to 3 samples.
    """
    wanted, kinds, worst = 2500, set(), 0.0
    for first in range(0, wanted, _CASES_PER_MODEL):
        batch = [_plain_case(rng, f"roi_{first + i}") for i in range(_CASES_PER_MODEL)]
        inputs = [cases.make_roi_inputs(case, rng, np.dtype(dtype)) for case in batch]
        answers = make_plain_session(peers.roi_align_model(batch, dtype=np.dtype(dtype))).run(
            None, peers.roi_align_feed(inputs)
        )
        for case, given, y in zip(batch, inputs, answers, strict=True):
            bound = peers.roi_error_bound(case, given, dtype, coordinate_dtype=dtype)
            expected = _reference(case, given)
            peers.assert_within(y, expected, bound)
            kinds.add((case.boxes, case.sampling_ratio))
            worst = max(worst, float(np.abs(expected).max()))
    assert worst > 1.0  # it was not all zeros
    assert {kind for kind, _ in kinds} == {*cases.BOX_KINDS} - {"huge", "dyadic", "nonfinite"}
    assert {ratio for _, ratio in kinds} == {0, 1, 2, 3}
    agreed("DeformRoIPool2d", "float64 reference", f"ONNX Runtime's RoiAlign, {dtype}", wanted)


@pytest.mark.parametrize("case", cases.where(peers.fits_roi_align, cases.ROI_CASES), ids=cases.name_of)
def test_onnxruntime_roi_align_on_the_table(case: RoiCase, rng: Any, make_plain_session: Any, agreed: Any) -> None:
    inputs = cases.make_roi_inputs(case, rng, np.float64)
    (y,) = make_plain_session(peers.roi_align_model([case], dtype=np.float64)).run(None, peers.roi_align_feed([inputs]))
    bound = peers.roi_error_bound(case, inputs, "float64")
    peers.assert_within(y, _reference(case, inputs), bound)
    agreed("DeformRoIPool2d", "float64 reference", "ONNX Runtime's RoiAlign, float64")


def test_onnx_reference_evaluator(rng: Any, agreed: Any) -> None:
    """The evaluator of the onnx package, in Python: equal on inverted RoIs with ``sampling_ratio`` 0 as well."""
    from onnx.reference import ReferenceEvaluator

    for i in range(150):
        case = cases.random_roi_case(rng, name=f"roi_{i}", max_locations=200, **_PLAIN)
        inputs = cases.make_roi_inputs(case, rng, np.float32)
        (y,) = ReferenceEvaluator(peers.roi_align_model([case])).run(None, peers.roi_align_feed([inputs]))
        bound = peers.roi_error_bound(case, inputs, "float32", coordinate_dtype="float32")
        peers.assert_within(y, _reference(case, inputs), bound)
        agreed("DeformRoIPool2d", "float64 reference", "evaluator of the onnx package (RoiAlign)")


def test_openvino_roi_align(rng: Any, agreed: Any) -> None:
    """OpenVINO's ROIAlign with ``half_pixel_for_nn``, float32: equal wherever a RoI's grid is not empty."""
    for i in range(200):
        case = _plain_case(rng, f"roi_{i}", peers.fits_openvino_roi_align)
        inputs = cases.make_roi_inputs(case, rng, np.float32)
        bound = peers.roi_error_bound(case, inputs, "float32", coordinate_dtype="float32")
        peers.assert_within(peers.run_openvino_roi_align(case, inputs), _reference(case, inputs), bound)
        agreed("DeformRoIPool2d", "float64 reference", "OpenVINO's ROIAlign, half_pixel_for_nn")


# Where RoiAlign is another operator, and why.


def _one_roi(*corners: float, **fields: Any) -> tuple[RoiCase, RoiInputs]:
    case = RoiCase("roi_one", c=2, h=9, w=11, r=1, pooled_h=3, pooled_w=2, **_PLAIN, **fields)
    ramp = np.arange(99, dtype=np.float32).reshape(1, 1, 9, 11)
    rois = np.array([[0, *corners]], np.float32)
    return case, RoiInputs(np.concatenate([ramp, -ramp * ramp / 99], 1), rois, None, None)


def _roi_align(case: RoiCase, inputs: RoiInputs, make_plain_session: Any, **options: Any) -> Array:
    session = make_plain_session(peers.roi_align_model([case], **options))
    return np.asarray(session.run(None, peers.roi_align_feed([inputs]))[0])


def test_output_half_pixel_is_another_operator(make_plain_session: Any) -> None:
    """It does not subtract ½: its RoI is ours moved by half a map pixel, as long as it is a pixel wide and high."""
    case, inputs = _one_roi(4, 2, 18, 14, spatial_scale=0.5)
    theirs = _roi_align(case, inputs, make_plain_session, mode="output_half_pixel")
    bound = peers.roi_error_bound(case, inputs, coordinate_dtype="float32")
    assert (np.abs(theirs - _reference(case, inputs)) > 100 * bound).all()
    moved = RoiInputs(inputs.X, inputs.rois + np.array([0, 1, 1, 1, 1], np.float32), None, None)  # ½ / scale
    peers.assert_within(theirs, _reference(case, moved), bound)


@pytest.mark.parametrize("corners", [(4.0, 2.0, 4.5, 2.25), (6.0, 5.0, 2.0, 1.0)], ids=["tiny", "inverted"])
def test_output_half_pixel_makes_small_rois_a_pixel_large(corners: tuple[float, ...], make_plain_session: Any) -> None:
    """Its RoI is at least one map pixel in each direction. In half_pixel mode, as here, no size is too small."""
    case, inputs = _one_roi(*corners)
    theirs = _roi_align(case, inputs, make_plain_session, mode="output_half_pixel")
    bound = peers.roi_error_bound(case, inputs, coordinate_dtype="float32")
    moved = inputs.rois + np.array([0, 0.5, 0.5, 0.5, 0.5], np.float32)
    assert (np.abs(theirs - _reference(case, RoiInputs(inputs.X, moved, None, None))) > 100 * bound).any()
    moved[0, 3:] = moved[0, 1:3] + 1
    peers.assert_within(theirs, _reference(case, RoiInputs(inputs.X, moved, None, None)), bound)


def test_an_inverted_roi_with_an_adaptive_grid_is_zero_here_and_an_error_there(make_plain_session: Any) -> None:
    """A grid of −2 samples is empty: 0 here. ONNX Runtime computes the size of a table from it and overflows."""
    case, inputs = _one_roi(8, 1, 4, 7, sampling_ratio=0)
    assert not _reference(case, inputs).any()
    with pytest.raises(Exception, match="Integer overflow"):
        _roi_align(case, inputs, make_plain_session)
    # Inverted along both axes the table's size is positive again, and the result is 0 there too.
    case, inputs = _one_roi(8, 7, 4, 1, sampling_ratio=0)
    assert not _reference(case, inputs).any()
    assert not _roi_align(case, inputs, make_plain_session).any()


def test_an_empty_grid_is_zero_here_and_not_a_number_in_openvino() -> None:
    """A RoI without extent and with ``sampling_ratio`` 0 has no samples: 0 here and in ONNX Runtime, 0/0 there."""
    case, inputs = _one_roi(4, 2, 4, 2, sampling_ratio=0)
    assert not _reference(case, inputs).any()
    assert np.isnan(peers.run_openvino_roi_align(case, inputs)).all()


def test_a_coordinate_that_is_not_a_number_is_outside(rng: Any) -> None:
    """ONNX does not say; its runtimes convert the NaN to an index. Here it pools nothing, in either variant."""
    for variant in ("aligned", "psroi"):
        case = RoiCase("roi_nan", c=2, h=9, w=11, r=12, variant=variant, boxes="inside")
        inputs = cases.make_roi_inputs(case, rng)
        for r, bad in enumerate((np.nan, np.inf, -np.inf)):
            for column in range(4):
                inputs.rois[4 * r + column, 1 + column] = bad
        assert not _reference(case, inputs).any()


@pytest.mark.parametrize("index", [-1.0, 2.0, np.nan, np.inf])
def test_a_batch_index_out_of_range_is_an_error(index: float, rng: Any, make_plain_session: Any) -> None:
    """On a CPU both refuse it; ours says which RoI it is. RoiAlign's index is an integer, so it can be no NaN."""
    case = RoiCase("roi_index", n=2, c=1, r=3, boxes="inside", **_PLAIN)
    inputs = cases.make_roi_inputs(case, rng)
    inputs.rois[1, 0] = index
    with pytest.raises(IndexError, match=r"rois\[1, 0\]: expected a batch index in \[0, 2\), got"):
        _reference(case, inputs)
    if np.isfinite(index):
        with pytest.raises(Exception, match="batch_ind"):
            _roi_align(case, inputs, make_plain_session)


def test_openvinos_own_half_pixel_is_another_operator() -> None:
    """It adds ½ in the image before it scales and subtracts ½ on the map: equal at scale 1 to no shift at all."""
    case, inputs = _one_roi(4, 2, 18, 14, spatial_scale=0.5)
    theirs = peers.run_openvino_roi_align(case, inputs, aligned_mode="half_pixel")
    bound = peers.roi_error_bound(case, inputs, coordinate_dtype="float32")
    assert (np.abs(theirs - _reference(case, inputs)) > 100 * bound).all()
    moved = RoiInputs(inputs.X, inputs.rois + np.array([0, 0.5, 0.5, 0.5, 0.5], np.float32), None, None)
    peers.assert_within(theirs, _reference(case, moved), bound)


# grid_sample as the sampler, both variants, with everything.


@pytest.mark.parametrize("case", cases.ALL_ROI_CASES, ids=cases.name_of)
def test_grid_sample(case: RoiCase, rng: Any, agreed: Any) -> None:
    inputs = cases.make_roi_inputs(case, rng, np.float64)
    bound = peers.roi_error_bound(case, inputs, "float64")
    peers.assert_within(peers.run_grid_sample_roi_pool(case, inputs), _reference(case, inputs), bound)
    agreed("DeformRoIPool2d", "float64 reference", "PyTorch's grid_sample, positions by the formulas")


@pytest.mark.parametrize("variant", ["aligned", "psroi"])
def test_grid_sample_on_random_cases(variant: str, rng: Any, agreed: Any) -> None:
    for i in range(500):
        case = cases.random_roi_case(rng, name=f"roi_{i}", variant=variant)
        inputs = cases.make_roi_inputs(case, rng, np.float64)
        bound = peers.roi_error_bound(case, inputs, "float64")
        peers.assert_within(peers.run_grid_sample_roi_pool(case, inputs), _reference(case, inputs), bound)
        agreed("DeformRoIPool2d", "float64 reference", "PyTorch's grid_sample, positions by the formulas")


# What psroi can be worked out to by hand.


def _mean_position(first: int, last: int, extent: int, pooled: int, samples: int, p: int) -> Fraction:
    """Mean of the clamped positions of bin p along one axis, exactly: see the test that uses it."""
    step = Fraction(last + 1 - first, pooled * samples)
    mean = first - Fraction(1, 2) + (p * samples + Fraction(samples - 1, 2)) * step
    if first == 0:
        below = -(-Fraction(1, 2) // step)  # samples k = 0, 1, ... with k·step < ½, in the whole RoI
        n = min(max(below - p * samples, 0), samples)
        mean += (n * Fraction(1, 2) - step * (p * samples * n + Fraction(n * (n - 1), 2))) / samples
    if last == extent - 1:
        above = -(-Fraction(1, 2) // step) - 1  # samples k = 1, 2, ... from the end with k·step < ½
        behind = (pooled - p - 1) * samples
        m = min(max(above - behind, 0), samples)
        mean -= (m * Fraction(1, 2) - step * (behind * m + Fraction(m * (m + 1), 2))) / samples
    return mean


def _linear_case(rng: Any, name: str) -> tuple[RoiCase, RoiInputs, Array]:
    case = RoiCase(
        name,
        c=1,
        h=int(rng.integers(1, 20)),
        w=int(rng.integers(1, 20)),
        r=4,
        variant="psroi",
        pooled_h=int(rng.integers(1, 8)),
        pooled_w=int(rng.integers(1, 8)),
        sample_per_part=int(rng.integers(1, 6)),
        offset=bool(rng.random() < 0.5),
        mask=False,
        offsets="zero",
    )
    slope_y, slope_x = rng.integers(-8, 9, 2)
    X = (slope_y * np.arange(case.h)[:, None] + slope_x * np.arange(case.w)).astype(np.float32)[None, None]
    rois, expected = np.zeros((4, 5), np.float32), np.zeros(case.output_shape)
    for r in range(case.r):
        ends = []
        for extent in (case.h, case.w):
            first, last = sorted(int(v) for v in rng.integers(0, extent, 2))
            first = 0 if rng.random() < 0.3 else first
            ends.append((first, extent - 1 if rng.random() < 0.3 else last))
        rois[r, 1:] = ends[1][0], ends[0][0], ends[1][1], ends[0][1]
        for ph, pw in np.ndindex(case.output_size):
            y, x = (
                _mean_position(*end, extent, pooled, case.sample_per_part, p)
                for end, extent, pooled, p in zip(ends, (case.h, case.w), case.output_size, (ph, pw), strict=True)
            )
            expected[r, 0, ph, pw] = float(int(slope_y) * y + int(slope_x) * x)
    offset = np.zeros(case.offset_shape, np.float32) if case.offset else None
    return case, RoiInputs(X, rois, offset, None), expected


def test_closed_form_on_a_linear_image(rng: Any, agreed: Any) -> None:
    """Whole coordinates, scale 1, no offsets, group_size 1, on f(y, x) = a·y + b·x: derived here by hand.

    Bilinear interpolation is exact on f, so a bin is a·(mean y) + b·(mean x) of its clamped samples. Along an axis,
    with a RoI from first to last on a map of W pixels, 0 ≤ first ≤ last ≤ W − 1, P bins of S samples each and
    s = (last + 1 − first)/(P·S), sample k = p·S + i of the RoI lies at first − ½ + k·s. That is below last + ½ ≤ W − ½:
    all samples are kept. Over i = 0 … S − 1 the mean of k is p·S + (S − 1)/2, so that inside the map

        mean = first − ½ + (p·S + (S − 1)/2)·s

    At the left edge (first = 0) the samples with k·s < ½ are at a negative place and are moved to 0, up by ½ − k·s.
    There are ⌈½/s⌉ of them in the RoI, n = min(max(⌈½/s⌉ − p·S, 0), S) in bin p, and with k = p·S + i they add

        1/S · Σ_{i<n} (½ − (p·S + i)·s) = (n/2 − s·(p·S·n + n·(n − 1)/2))/S

    At the right edge (last = W − 1) sample k lies k'·s before W − ½, with k' = P·S − k = 1, 2, ... from the end, and is
    moved down to W − 1 by ½ − k'·s where that is positive: ⌈½/s⌉ − 1 samples of the RoI, and of bin p those with
    k' = (P − p − 1)·S + j, j = 1 … m, which subtract (m/2 − s·((P − p − 1)·S·m + m·(m + 1)/2))/S.
    """
    borders = 0
    for i in range(600):
        case, inputs, expected = _linear_case(rng, f"roi_linear_{i}")
        np.testing.assert_allclose(_reference(case, inputs), expected, rtol=0, atol=1e-11)
        borders += int((inputs.rois[:, 1:3] == 0).any())
        agreed("DeformRoIPool2d", "float64 reference", "closed form of psroi on a linear image")
    assert 200 < borders < 600


def test_each_bin_reads_its_own_channel_group(rng: Any, agreed: Any) -> None:
    """Every pixel of channel c holds c: output channel o of bin (ph, pw) is (o·g + g_h)·g + g_w, times its mask."""
    for i in range(500):
        case = cases.random_roi_case(rng, name=f"roi_{i}", variant="psroi", n=1, offsets="normal", boxes="inside")
        inputs = cases.make_roi_inputs(case, rng, np.float64)
        inputs.X[:] = np.arange(case.c)[None, :, None, None]
        y = _reference(case, inputs)
        counted = RoiInputs(np.ones_like(inputs.X), *inputs.in_order()[1:])
        weight = _reference(case, counted)  # 1 where a sample was kept, else 0; times the mask
        o, ph, pw = np.ogrid[: case.output_channels, : case.pooled_h, : case.pooled_w]
        g = case.group_size
        source = (o * g + ph * g // case.pooled_h) * g + pw * g // case.pooled_w
        np.testing.assert_allclose(y, weight * source, rtol=1e-12, atol=1e-12)
        if inputs.mask is None:
            assert np.isclose(weight, np.rint(weight), atol=1e-12).all()
        agreed("DeformRoIPool2d", "float64 reference", "channel that each bin of psroi reads")


# The table itself.


def test_the_table_names_each_case_once() -> None:
    names = [case.name for case in (*cases.ALL_CASES, *cases.ALL_ROI_CASES)]
    assert len(names) == len(set(names))
    assert all(case.name.startswith("roi_") for case in cases.ALL_ROI_CASES)


def test_the_table_covers_what_it_promises() -> None:
    """Each size, number, kind of RoIs and offsets, and pair of optional inputs that the tests rely on is there."""
    for variant in ("aligned", "psroi"):
        own = [case for case in cases.ROI_CASES if case.variant == variant]
        assert {1, 7, 19, 33} <= {case.h for case in own} & {case.w for case in own}
        assert {1, 3, 67} <= {case.c for case in own}
        assert {(1, 1), (7, 7), (3, 5)} <= {case.output_size for case in own}
        assert {1.0, 0.25, 1 / 16, 0.3} <= {case.spatial_scale for case in own}
        pairs = {(case.offset, case.mask) for case in own}
        assert pairs == {(a, b) for a in (True, False) for b in (True, False)}
        assert {case.boxes for case in own} == {*cases.BOX_KINDS} - {"nonfinite"}
        assert {case.offsets for case in own} == {*cases.ROI_OFFSET_KINDS} - {"nonfinite"}
        wild = [case for case in cases.NONFINITE_ROI_CASES if case.variant == variant]
        assert {case.boxes for case in wild} | {case.offsets for case in wild} >= {"nonfinite"}
    assert {0, 1, 2, 3} <= {case.sampling_ratio for case in cases.ROI_CASES}
    assert {1, 2, 3, 7} <= {case.group_size for case in cases.ROI_CASES}
    assert {1, 2, 3} <= {case.classes for case in cases.ROI_CASES}
    grouped = cases.where(lambda case: case.group_size > 1, cases.ROI_CASES)
    assert any(case.output_size == (case.group_size,) * 2 for case in grouped)
    assert any(case.output_size != (case.group_size,) * 2 for case in grouped)
    assert any(case.parts != case.output_size for case in cases.ROI_CASES)


@pytest.mark.parametrize("case", cases.where(lambda case: case.boxes == "dyadic", cases.ROI_CASES), ids=cases.name_of)
def test_boundary_cases_are_exact_in_float32(case: RoiCase, rng: Any) -> None:
    """Every position of the cases at a boundary is a float32 number, however it is computed: nothing may flip there."""
    inputs = cases.make_roi_inputs(case, rng, np.float32)
    assert inputs.offset is not None
    size = inputs.rois[:, 3:] - inputs.rois[:, 1:3] + np.float32(not case.is_aligned)
    start = inputs.rois[:, 1:3] - np.float32(0.5)
    for axis, pooled in ((0, case.pooled_w), (1, case.pooled_h)):
        shift = inputs.offset[:, axis] * np.float32(case.factor) * size[:, axis, None, None]
        step = size[:, axis] / np.float32(
            pooled * (case.sampling_ratio if case.is_aligned else case.sample_per_part) * 2
        )
        for value in (shift, step, start[:, axis]):
            scaled = value.astype(np.float64) * 64
            assert (scaled == np.rint(scaled)).all()
            assert np.abs(scaled).max() < 2**20


def test_random_cases_are_valid_reproducible_and_bounded(seed: int) -> None:
    first, second = np.random.default_rng(seed), np.random.default_rng(seed)
    drawn = [cases.random_roi_case(first) for _ in range(400)]
    assert drawn == [cases.random_roi_case(second) for _ in range(400)]
    assert max(case.locations for case in drawn) <= 600
    assert {case.variant for case in drawn} == {"aligned", "psroi"}
    assert {case.offsets for case in drawn} == {"normal", "zero", "far"}
    assert {case.boxes for case in drawn} == {*cases.BOX_KINDS} - {"huge", "dyadic", "nonfinite"}
    assert any(case.group_size > 1 and case.classes > 1 for case in drawn)
