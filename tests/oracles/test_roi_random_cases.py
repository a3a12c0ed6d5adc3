"""Thousands of random RoI poolings: each of this project's implementations against the float64 reference.

Two bounds hold for each case. Element by element the error is below ``peers.roi_error_bound``, what rounding can do at
worst. In norm it is below 1e-6 relative to the result (1e-12 in float64), or, where the result is itself small against
what was summed, below an eighth of that bound: roundings of random sign stay far below the worst case.
"""

from __future__ import annotations

from typing import Any

import cases
import numpy as np
import peers
import pytest
import roi_engines
from cases import Array, RoiCase, RoiInputs
from roi_engines import RoiEngine

from dcn_deploy.validation.tolerances import DECOMPOSED_ROI_POOL, lookup

_CASES = 2500
_CASES_PER_MODEL = 25
_SHARE_OF_BOUND = 1 / 8


@pytest.fixture(params=["torch float64", "torch float32", "onnxruntime"])
def engine(request: pytest.FixtureRequest) -> RoiEngine:
    if request.param == "onnxruntime":
        return roi_engines.onnxruntime_operator(request.getfixturevalue("make_session"))
    return roi_engines.torch_operator(str(request.param).removeprefix("torch "))


def _check(case: RoiCase, inputs: RoiInputs, engine: RoiEngine, actual: Array, expected: Array) -> tuple[float, float]:
    """Assert both bounds and return the squares of error and size."""
    bound = engine.bound(case, inputs)
    peers.assert_within(actual, expected, bound)
    error, size = (float(np.linalg.norm(a)) for a in (actual.astype(np.float64) - expected, expected))
    limit = lookup("DeformRoIPool2d", engine.dtype, "onnxruntime").relative_rms
    assert error <= max(limit * size, _SHARE_OF_BOUND * float(np.linalg.norm(bound))), case
    return error**2, size**2


def test_random_cases_agree_with_the_reference(engine: RoiEngine, rng: Any, agreed: Any) -> None:
    exact = roi_engines.reference()
    seen, squares = set(), np.zeros(2)
    for first in range(0, _CASES, _CASES_PER_MODEL):
        batch = [cases.random_roi_case(rng, name=f"roi_random_{first + i}") for i in range(_CASES_PER_MODEL)]
        inputs = [cases.make_roi_inputs(case, rng, np.dtype(engine.dtype)) for case in batch]
        answers = engine.run_all(batch, inputs)
        for case, given, actual in zip(batch, inputs, answers, strict=True):
            squares += _check(case, given, engine, actual, exact.run(case, given))
            seen |= {case.variant, case.boxes, case.offsets, (case.offset, case.mask), case.sampling_ratio}
    assert {"aligned", "psroi", "normal", "zero", "far", (True, True), (False, False), 0, 3} <= seen
    assert {*cases.BOX_KINDS} - {"huge", "dyadic", "nonfinite"} <= seen
    # Pooled over all cases nothing is small against what was summed, so that the plain target must hold.
    assert np.sqrt(squares[0] / squares[1]) <= lookup("DeformRoIPool2d", engine.dtype, "onnxruntime").relative_rms / 2
    agreed("DeformRoIPool2d", engine.name, exact.name, _CASES)


def test_random_cases_in_the_decomposed_form(make_plain_session: Any, rng: Any, agreed: Any) -> None:
    """Its positions are float32, so the norm may be off by the roundings of the coordinates too."""
    engine, exact = roi_engines.decomposed_form(make_plain_session), roi_engines.reference()
    wanted, batch_size, done = 500, 10, 0
    while done < wanted:
        drawn = (cases.random_roi_case(rng, name=f"roi_{done + i}", max_locations=300) for i in range(10 * batch_size))
        batch = [case for case in drawn if roi_engines.fits_decomposition(case)][:batch_size]
        inputs = [cases.make_roi_inputs(case, rng) for case in batch]
        for case, given, actual in zip(batch, inputs, engine.run_all(batch, inputs), strict=True):
            expected = exact.run(case, given)
            bound = engine.bound(case, given)
            peers.assert_within(actual, expected, bound)
            limit = lookup(DECOMPOSED_ROI_POOL, "float32", "onnxruntime").at((case.h, case.w))
            error, size = (float(np.linalg.norm(a)) for a in (actual.astype(np.float64) - expected, expected))
            assert error <= max(limit * size, _SHARE_OF_BOUND * float(np.linalg.norm(bound))), case
        done += len(batch)
    agreed("DeformRoIPool2d", engine.name, exact.name, done)


@pytest.mark.parametrize("case", cases.ALL_ROI_CASES, ids=cases.name_of)
def test_the_table_agrees_with_the_reference(case: RoiCase, engine: RoiEngine, rng: Any, agreed: Any) -> None:
    exact = roi_engines.reference()
    inputs = cases.make_roi_inputs(case, rng, np.dtype(engine.dtype))
    _check(case, inputs, engine, engine.run(case, inputs), exact.run(case, inputs))
    agreed("DeformRoIPool2d", engine.name, exact.name)
