"""The float64 reference against implementations that this project did not write.

Each comparison covers all cases of the table on which the peer is defined; which those are is said, with the
reason, at the peer in ``tests/peers.py``. Where a bound is checked it is ``peers.error_bound``: what rounding
alone can do in the precision the peer works in.
"""

from __future__ import annotations

from typing import Any

import cases
import numpy as np
import peers
import pytest
from cases import Array, Case, Inputs

from dcn_deploy.ops import reference


def _reference(case: Case, inputs: Inputs) -> Array:
    return reference.deform_conv2d(*inputs.in_order(), **case.reference_arguments)


@pytest.mark.parametrize("opset", [19, 22])
@pytest.mark.parametrize("case", cases.ALL_CASES, ids=cases.name_of)
def test_onnxruntime_in_float64(case: Case, opset: int, rng: Any, make_plain_session: Any, agreed: Any) -> None:
    """ONNX Runtime's DeformConv computes in float64 too: the two agree to float64 rounding, on every case."""
    inputs = cases.make_inputs(case, rng, np.float64)
    session = make_plain_session(peers.model(case, opset=opset, dtype=np.float64))
    (y,) = session.run(None, peers.feed(inputs))
    peers.assert_within(y, _reference(case, inputs), peers.error_bound(case, inputs, "float64"))
    agreed("DeformConv2d", "float64 reference", "ONNX Runtime's DeformConv, float64")


@pytest.mark.parametrize("case", cases.where(peers.fits_onnx_reference), ids=cases.name_of)
def test_onnx_reference_evaluator(case: Case, rng: Any, agreed: Any) -> None:
    """The evaluator of the ONNX project, which samples with GridSample, on maps of at least 2x2."""
    inputs = cases.make_inputs(case, rng, np.float64)
    y = peers.run_onnx_reference_evaluator(case, inputs)
    # Its grid is float32: (y / (size - 1) * 2 - 1 + 1) / 2 * (size - 1), four roundings of up to size.
    slack = 4 * peers.UNIT_ROUNDOFF["float32"] * max(case.h, case.w)
    bound = peers.error_bound(case, inputs, "float32", coordinate_slack=slack)
    peers.assert_within(y, _reference(case, inputs), bound)
    agreed("DeformConv2d", "float64 reference", "evaluator of the onnx package")


def test_onnx_reference_evaluator_covers_enough() -> None:
    """The restriction of that comparison must not empty it."""
    fitting = cases.where(peers.fits_onnx_reference)
    assert len(fitting) >= 20
    assert {"unequal_small", "asymmetric_pads", "kernel_1_pad"} <= {case.name for case in fitting}
    assert {"normal", "zero", "integer"} <= {case.offsets for case in fitting}


@pytest.mark.parametrize("case", cases.where(peers.fits_openvino), ids=cases.name_of)
def test_openvino(case: Case, rng: Any, agreed: Any) -> None:
    """OpenVINO's DeformableConvolution, float32, with bilinear_interpolation_pad: the same on every finite case."""
    inputs = cases.make_inputs(case, rng, np.float32)
    y = peers.run_openvino(case, inputs, interpolation_pad=True)
    peers.assert_within(y, _reference(case, inputs), peers.error_bound(case, inputs, "float32"))
    agreed("DeformConv2d", "float64 reference", "OpenVINO's DeformableConvolution")


def test_openvino_without_interpolation_pad_is_another_operator(rng: Any) -> None:
    """The other setting drops or clamps samples within one pixel of the map: equal inside, different outside.

    A converter that forgets ``bilinear_interpolation_pad`` changes the result, so it must not pass as equal.
    """
    edge = cases.by_name("size_7")
    inputs = cases.make_inputs(edge, rng, np.float32)
    y = peers.run_openvino(edge, inputs, interpolation_pad=False)
    assert peers.relative_rms(y, _reference(edge, inputs)) > 1e-2
    inside = Case("inside", c=3, h=19, w=19, m=2, kernel_h=1, kernel_w=1, offsets="zero")
    inputs = cases.make_inputs(inside, rng, np.float32)
    # Every location is at least half a pixel inside [0, size - 1].
    places = rng.uniform(0.5, 17.5, (2, inside.out_h, inside.out_w)).astype(np.float32)
    base = np.stack([a[0, 0] for a in cases.base_locations(inside)])
    inputs.offset[0] = places - base
    y = peers.run_openvino(inside, inputs, interpolation_pad=False)
    peers.assert_within(y, _reference(inside, inputs), peers.error_bound(inside, inputs, "float32"))


@pytest.mark.parametrize("case", cases.where(lambda case: case.offsets != "nonfinite"), ids=cases.name_of)
def test_dense_convolution(case: Case, rng: Any, agreed: Any) -> None:
    """With offsets of zero and no mask, the operator is PyTorch's conv2d, at every shape of the table."""
    drawn = cases.make_inputs(case, rng, np.float64)
    inputs = Inputs(drawn.X, drawn.W, np.zeros_like(drawn.offset), drawn.B, None)
    y = peers.run_dense_convolution(case, inputs)
    bound = peers.error_bound(case, inputs, "float64")
    peers.assert_within(y, _reference(case, inputs), 2 * bound)  # either side rounds
    agreed("DeformConv2d", "float64 reference", "PyTorch's convolution, no offsets")


def test_the_table_names_each_case_once() -> None:
    names = [case.name for case in cases.ALL_CASES]
    assert len(names) == len(set(names))


def test_the_table_covers_what_it_promises() -> None:
    """Each size, kind of offsets, pair of optional inputs and inequality that the tests rely on is there."""
    assert {1, 7, 19, 33} <= {case.h for case in cases.CASES} & {case.w for case in cases.CASES}
    assert {case.offsets for case in cases.ALL_CASES} == set(cases.OFFSET_KINDS)
    assert {(case.bias, case.mask) for case in cases.CASES} == {(a, b) for a in (True, False) for b in (True, False)}
    for height, width in (("kernel_h", "kernel_w"), ("stride_h", "stride_w"), ("dilation_h", "dilation_w")):
        assert any(getattr(case, height) != getattr(case, width) for case in cases.CASES)
    assert any(len(set(case.pads)) == 4 for case in cases.CASES)
    assert any(case.group == case.c > 1 for case in cases.CASES)
    assert any(case.group % case.offset_group and case.offset_group % case.group for case in cases.CASES)
    assert {1, 2, 3, 5} <= {case.kernel_h for case in cases.CASES}


def test_random_cases_are_valid_reproducible_and_bounded(seed: int) -> None:
    first, second = np.random.default_rng(seed), np.random.default_rng(seed)
    drawn = [cases.random_case(first) for _ in range(300)]
    assert drawn == [cases.random_case(second) for _ in range(300)]
    assert max(case.locations for case in drawn) <= 2_000
    assert max(case.macs for case in drawn) <= 100_000
    assert {case.offsets for case in drawn} == set(cases.OFFSET_KINDS) - {"nonfinite"}
    assert any(not case.symmetric_pads for case in drawn)
    assert any(case.group != case.offset_group for case in drawn)
