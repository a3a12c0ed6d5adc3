"""Element types: each combination of features, offset and mask, and the refusal of every other."""

from __future__ import annotations

import itertools
from typing import Any

import cases
import ml_dtypes
import numpy as np
import peers
import pytest

from dcn_deploy.ops import reference
from dcn_deploy.validation.tolerances import lookup

CASE = cases.by_name("unequal_groups")
FEATURES = (np.float32, np.float16, ml_dtypes.bfloat16)
ALL = (*FEATURES, np.float64)

# ONNX Runtime's names of the types of a graph's outputs.
_ORT_NAME = {"float32": "tensor(float)", "float16": "tensor(float16)", "bfloat16": "tensor(bfloat16)"}


def _name(dtype: Any) -> str:
    return np.dtype(dtype).name


def _allowed(features: Any) -> tuple[Any, ...]:
    """Types of offset and mask that go with the features: float32, or the features' own."""
    return (np.float32,) if features == np.float32 else (np.float32, features)


COMBINATIONS = [
    (features, offset, mask)
    for features in FEATURES
    for offset, mask in itertools.product(_allowed(features), _allowed(features))
]


def _types(features: Any, offset: Any, mask: Any) -> dict[str, Any]:
    return {"X": features, "W": features, "offset": offset, "B": features, "mask": mask}


def _with_casts(model: Any, dtypes: dict[str, Any]) -> Any:
    """The model with float32 at its borders, since NumPy has no bfloat16 to feed: a Cast at each input, one after Y."""
    from onnx import TensorProto, helper

    (node,) = model.graph.node
    casts = []
    for index, value in enumerate(model.graph.input):
        casts.append(
            helper.make_node("Cast", [value.name], [f"{value.name}_cast"], to=peers.element_type(dtypes[value.name]))
        )
        value.type.tensor_type.elem_type = TensorProto.FLOAT
        node.input[index] = f"{value.name}_cast"
    node.output[0] = "Y_before_cast"
    last = helper.make_node("Cast", ["Y_before_cast"], ["Y"], to=TensorProto.FLOAT)
    del model.graph.node[:]
    model.graph.node.extend([*casts, node, last])
    return model


@pytest.mark.parametrize("static", [True, False], ids=["static", "dynamic"])
@pytest.mark.parametrize(("features", "offset", "mask"), COMBINATIONS, ids=_name)
def test_combination_is_right(
    features: Any, offset: Any, mask: Any, static: bool, rng: Any, make_model: Any, make_session: Any
) -> None:
    dtypes = _types(features, offset, mask)
    shapes = {} if static else dict.fromkeys(dtypes)
    session = make_session(_with_casts(make_model(CASE, dtypes=dtypes, shapes=shapes), dtypes))
    drawn = cases.make_inputs(CASE, rng, np.float32).named()
    # What the Cast nodes will round, rounded already: the feed is exact in its type.
    rounded = {name: array.astype(dtypes[name]).astype(np.float32) for name, array in drawn.items()}
    (y,) = session.run(None, rounded)
    expected = reference.deform_conv2d(
        *(rounded[name].astype(np.float64) for name in ("X", "W", "offset", "B", "mask")), **CASE.reference_arguments
    )
    limit = lookup("DeformConv2d", _name(features), "onnxruntime").at((CASE.h, CASE.w))
    assert peers.relative_rms(y, expected) <= limit


@pytest.mark.parametrize("features", FEATURES[1:], ids=_name)
def test_float32_offsets_are_used_in_float32(features: Any, rng: Any, make_model: Any, make_session: Any) -> None:
    """The recommended mixed mode: offsets that half precision would round are not rounded."""
    dtypes = _types(features, np.float32, np.float32)
    session = make_session(_with_casts(make_model(CASE, dtypes=dtypes), dtypes))
    feed = cases.make_inputs(CASE, rng, np.float32).named()
    (fine,) = session.run(None, feed)
    (coarse,) = session.run(None, {**feed, "offset": feed["offset"].astype(features).astype(np.float32)})
    assert not np.array_equal(fine, coarse)


@pytest.mark.parametrize(("features", "offset", "mask"), COMBINATIONS, ids=_name)
def test_type_of_the_output_is_inferred(
    features: Any, offset: Any, mask: Any, make_model: Any, make_session: Any
) -> None:
    """The graph's output declares neither type nor shape; nothing but X decides."""
    session = make_session(make_model(CASE, dtypes=_types(features, offset, mask)))
    (y,) = session.get_outputs()
    assert y.type == _ORT_NAME[_name(features)]
    assert tuple(y.shape) == CASE.output_shape


def _wrong() -> list[Any]:
    rows = []
    for features in FEATURES:
        right = _types(features, features, features)
        for name in ("W", "B", "offset", "mask"):
            allowed = _allowed(features) if name in ("offset", "mask") else (features,)
            for dtype in (*ALL, np.int64):
                if dtype in allowed:
                    continue
                expected = f"the type of X, {_name(features)}"
                if len(allowed) == 2:
                    expected = f"float32 or {expected}"
                message = f"input {name}: expected {expected}, got {_name(dtype)}"
                rows.append(
                    pytest.param({**right, name: dtype}, message, id=f"{_name(features)}-{name}-{_name(dtype)}")
                )
    return rows


@pytest.mark.parametrize("static", [True, False], ids=["static", "unknown-ranks"])
@pytest.mark.parametrize(("dtypes", "message"), _wrong())
def test_wrong_combination_is_refused(
    dtypes: dict[str, Any], message: str, static: bool, make_model: Any, refused: Any
) -> None:
    refused(make_model(CASE, dtypes=dtypes, shapes={} if static else dict.fromkeys(dtypes)), message)


@pytest.mark.parametrize("dtype", [np.float16, np.float64], ids=_name)
def test_wrong_type_of_a_constant_weight_is_refused(dtype: Any, make_model: Any, refused: Any) -> None:
    model = make_model(CASE, constants={"W": np.ones(CASE.weight_shape, dtype)})
    refused(model, f"input W: expected the type of X, float32, got {_name(dtype)}")


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.uint8], ids=_name)
def test_features_of_another_type_have_no_kernel(dtype: Any, make_model: Any, make_session: Any) -> None:
    """X tells the overloads apart, so ONNX Runtime refuses by itself."""
    with pytest.raises(Exception, match="DeformConv2d"):
        make_session(make_model(CASE, dtypes=_types(dtype, dtype, dtype)))
