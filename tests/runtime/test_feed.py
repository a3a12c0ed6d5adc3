"""Feeds that do not fit are refused with what was expected and what came."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from dcn_deploy.errors import InvalidArgumentError
from dcn_deploy.runtime import TensorSpec
from dcn_deploy.runtime.feed import check_feed, check_outputs

F32 = np.dtype(np.float32)
IMAGE = TensorSpec("image", F32, ("n", 3, 4, None))
SCALE = TensorSpec("scale", F32, ("n",))


def image(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype=dtype)


def test_a_fitting_feed_passes() -> None:
    check_feed("b", (IMAGE, SCALE), {"scale": image(2), "image": image(2, 3, 4, 9)})


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({"image": image(1, 3, 4, 5)}, r"expected the inputs image, scale, got image \(missing scale\)"),
        (
            {"image": image(1, 3, 4, 5), "scale": image(1), "mask": image(1)},
            r"got image, scale, mask \(unknown mask\)",
        ),
        ({}, r"got nothing \(missing image, scale\)"),
        (
            {"image": image(1, 3, 4, 5, dtype=np.float64), "scale": image(1)},
            r"input 'image' of the backend 'b': expected float32, got float64.*astype\('float32'\)",
        ),
        ({"image": image(3, 4, 5), "scale": image(1)}, r"expected n×3×4×\? \(rank 4\), got 3×4×5 \(rank 3\)"),
        ({"image": image(1, 3, 5, 5), "scale": image(1)}, r"expected n×3×4×\?: 4 on axis 2, got 1×3×5×5: 5"),
        (
            {"image": image(2, 3, 4, 5), "scale": image(1)},
            r"expected n: 'n' on axis 0 is 2 as in 'image' axis 0, got 1: 1",
        ),
        ({"image": [[1.0]], "scale": image(1)}, r"expected a NumPy array, got list"),
    ],
)
def test_what_does_not_fit_is_named(feed: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        check_feed("b", (IMAGE, SCALE), feed)


def test_optional_inputs_may_come_or_not() -> None:
    feed = {"image": image(1, 3, 4, 5)}
    check_feed("b", (IMAGE,), feed, optional=(SCALE,))
    check_feed("b", (IMAGE,), feed | {"scale": image(1)}, optional=(SCALE,))


@pytest.mark.parametrize("narrow", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_another_type_is_taken_only_for_floating_point(narrow: object) -> None:
    also = (np.dtype(np.float64),)
    spec = TensorSpec("x", np.dtype(narrow), (1,))
    check_feed("b", (spec,), {"x": image(1, dtype=np.float64)}, also=also)
    index = TensorSpec("x", np.dtype(np.int64), (1,))
    with pytest.raises(InvalidArgumentError, match="expected int64, got float64"):
        check_feed("b", (index,), {"x": image(1, dtype=np.float64)}, also=also)


def test_unknown_type_and_rank_take_anything() -> None:
    check_feed("b", (TensorSpec("x", None, None),), {"x": image(2, 2, dtype=np.int8)})


def test_outputs_are_checked_by_name() -> None:
    specs = (IMAGE, SCALE)
    assert check_outputs("b", specs, None) == ["image", "scale"]
    assert check_outputs("b", specs, ["scale"]) == ["scale"]
    with pytest.raises(InvalidArgumentError, match="expected some of image, scale, got boxes"):
        check_outputs("b", specs, ["boxes"])
