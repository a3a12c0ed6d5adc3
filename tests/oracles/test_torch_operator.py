"""The torch operator against the float64 reference and ONNX Runtime's DeformConv, in every element type."""

from __future__ import annotations

from typing import Any

import cases
import ml_dtypes
import numpy as np
import peers
import pytest
import torch
from cases import Array, Case, Inputs

from dcn_deploy import ops
from dcn_deploy.ops import reference
from dcn_deploy.validation.tolerances import lookup

_NUMPY = {
    torch.float64: np.float64,
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.bfloat16: ml_dtypes.bfloat16,
}
# Features and coordinates.
_DTYPES = [
    pytest.param(torch.float64, torch.float64, id="float64"),
    pytest.param(torch.float32, torch.float32, id="float32"),
    pytest.param(torch.float16, torch.float32, id="float16-mixed"),
    pytest.param(torch.float16, torch.float16, id="float16"),
    pytest.param(torch.bfloat16, torch.float32, id="bfloat16-mixed"),
    pytest.param(torch.bfloat16, torch.bfloat16, id="bfloat16"),
]


def _to_torch(array: Array | None) -> torch.Tensor | None:
    if array is None:
        return None
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _run(case: Case, inputs: Inputs) -> Array:
    x, w, offset, b, mask = (_to_torch(a) for a in inputs.in_order())
    assert x is not None
    assert w is not None
    assert offset is not None
    y = ops.deform_conv2d(x, offset, w, b, **case.functional_arguments, mask=mask)
    assert y.dtype == x.dtype
    assert tuple(y.shape) == case.output_shape
    return y.double().numpy()


@pytest.mark.parametrize(("dtype", "coordinate_dtype"), _DTYPES)
@pytest.mark.parametrize("case", cases.ALL_CASES, ids=cases.name_of)
def test_reference(case: Case, dtype: torch.dtype, coordinate_dtype: torch.dtype, rng: Any, agreed: Any) -> None:
    """Inputs rounded to the storage type first, then relative RMS error against the float64 reference."""
    inputs = cases.make_inputs(case, rng, _NUMPY[dtype], _NUMPY[coordinate_dtype])
    expected = reference.deform_conv2d(*peers.as_float64(inputs).in_order(), **case.reference_arguments)
    actual = _run(case, inputs)
    assert np.isfinite(actual).all()
    limit = lookup("DeformConv2d", str(dtype).removeprefix("torch."), "torch").at((case.h, case.w))
    assert peers.relative_rms(actual, expected) <= limit
    if dtype in (torch.float64, torch.float32):
        bound = peers.error_bound(case, inputs, str(dtype).removeprefix("torch."))
        peers.assert_within(actual, expected, bound)
    agreed("DeformConv2d", "torch operator", "float64 reference")


@pytest.mark.parametrize("case", cases.ALL_CASES, ids=cases.name_of)
def test_onnxruntime(case: Case, rng: Any, make_plain_session: Any, agreed: Any) -> None:
    """ONNX Runtime's DeformConv and the torch operator, both float32: apart by the rounding of two at most."""
    inputs = cases.make_inputs(case, rng, np.float32)
    (y,) = make_plain_session(peers.model(case)).run(None, peers.feed(inputs))
    peers.assert_within(_run(case, inputs), y, 2 * peers.error_bound(case, inputs, "float32"))
    agreed("DeformConv2d", "torch operator", "ONNX Runtime's DeformConv")


def test_order_of_the_torch_operator_is_that_of_the_node(rng: Any) -> None:
    """torch.ops.dcn_deploy.deform_conv2d takes (input, weight, offset, bias, mask), unlike the functional API."""
    case = cases.by_name("unequal_groups")
    inputs = cases.make_inputs(case, rng, np.float64)
    tensors = [_to_torch(a) for a in inputs.in_order()]
    y = torch.ops.dcn_deploy.deform_conv2d(
        *tensors, case.strides, case.pads, case.dilations, case.group, case.offset_group
    )
    np.testing.assert_array_equal(y.numpy(), _run(case, inputs))
