"""Our ONNX Runtime custom operator against the float64 reference and ONNX Runtime's own DeformConv."""

from __future__ import annotations

from typing import Any

import cases
import ml_dtypes
import numpy as np
import peers
import pytest
from cases import Array, Case, Inputs

from dcn_deploy.ops import reference
from dcn_deploy.validation.tolerances import lookup

# Features and coordinates.
_DTYPES = [
    pytest.param(np.float32, np.float32, id="float32"),
    pytest.param(np.float16, np.float32, id="float16-mixed"),
    pytest.param(np.float16, np.float16, id="float16"),
    pytest.param(ml_dtypes.bfloat16, np.float32, id="bfloat16-mixed"),
    pytest.param(ml_dtypes.bfloat16, ml_dtypes.bfloat16, id="bfloat16"),
]


def _ort_value(array: Array) -> Any:
    import onnxruntime

    if array.dtype == ml_dtypes.bfloat16:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, peers.element_type(array.dtype))
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _run(session: Any, inputs: Inputs) -> Array:
    feed = {name: _ort_value(array) for name, array in inputs.named().items()}
    (y,) = session.run_with_ort_values(None, feed)
    if y.element_type() == peers.element_type(ml_dtypes.bfloat16):
        # OrtValue.numpy() knows no bfloat16; its bytes are those of an unsigned 16-bit tensor.
        import ctypes

        count = int(np.prod(y.shape()))
        memory = (ctypes.c_uint16 * count).from_address(y.data_ptr()) if count else ()
        return np.array(memory, np.uint16).view(ml_dtypes.bfloat16).reshape(y.shape())
    return np.asarray(y.numpy())


@pytest.mark.parametrize("static", [True, False], ids=["static", "dynamic"])
@pytest.mark.parametrize(("dtype", "coordinate_dtype"), _DTYPES)
@pytest.mark.parametrize("case", cases.ALL_CASES, ids=cases.name_of)
def test_reference(
    case: Case,
    dtype: Any,
    coordinate_dtype: Any,
    static: bool,
    rng: Any,
    make_session: Any,
    agreed: Any,
) -> None:
    """Inputs rounded to the storage type first, then relative RMS error against the float64 reference."""
    inputs = cases.make_inputs(case, rng, dtype, coordinate_dtype)
    expected = reference.deform_conv2d(*peers.as_float64(inputs).in_order(), **case.reference_arguments)
    model = peers.model(case, form="plugin", dtype=dtype, coordinate_dtype=coordinate_dtype, static=static)
    actual = _run(make_session(model), inputs)
    assert actual.dtype == dtype
    assert actual.shape == case.output_shape
    assert np.isfinite(actual.astype(np.float64)).all()
    limit = lookup("DeformConv2d", np.dtype(dtype).name, "onnxruntime").at((case.h, case.w))
    assert peers.relative_rms(actual, expected) <= limit
    if dtype == np.float32:
        peers.assert_within(actual, expected, peers.error_bound(case, inputs, "float32"))
    agreed("DeformConv2d", "ONNX Runtime custom op", "float64 reference")


@pytest.mark.parametrize("case", cases.ALL_CASES, ids=cases.name_of)
def test_onnxruntime(case: Case, rng: Any, make_session: Any, make_plain_session: Any, agreed: Any) -> None:
    """Two float32 implementations of one operator are apart by the rounding of two at most."""
    inputs = cases.make_inputs(case, rng, np.float32)
    feed = peers.feed(inputs)
    (ours,) = make_session(peers.model(case, form="plugin")).run(None, feed)
    (theirs,) = make_plain_session(peers.model(case)).run(None, feed)
    peers.assert_within(ours, theirs, 2 * peers.error_bound(case, inputs, "float32"))
    agreed("DeformConv2d", "ONNX Runtime custom op", "ONNX Runtime's DeformConv")


@pytest.mark.parametrize("missing", ["kernel_shape", "dilations", "strides", "pads", "group", "offset_group"])
def test_defaults_of_attributes(missing: str, rng: Any, make_session: Any, make_plain_session: Any) -> None:
    """An attribute that is left out has the standard operator's default (kernel_shape: the shape of W)."""
    case = Case("defaults", c=4, m=4, h=7, w=9)  # every attribute of this case is its default
    inputs = cases.make_inputs(case, rng, np.float32)
    models = [peers.model(case, form=form, attributes={missing: None}) for form in ("plugin", "standard")]
    (ours,) = make_session(models[0]).run(None, peers.feed(inputs))
    (theirs,) = make_plain_session(models[1]).run(None, peers.feed(inputs))
    peers.assert_within(ours, theirs, 2 * peers.error_bound(case, inputs, "float32"))
