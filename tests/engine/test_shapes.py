"""Shape profiles: what fits a network, and what is said where something does not."""

from __future__ import annotations

import numpy as np
import pytest

from dcn_deploy.engine.shapes import check_profiles, fixed
from dcn_deploy.errors import InvalidArgumentError
from dcn_deploy.runtime.runner import TensorSpec

_FLOAT = np.dtype(np.float32)
_IMAGE = TensorSpec("image", _FLOAT, ("n", 3, "h", None))
_ROIS = TensorSpec("rois", _FLOAT, ("r", 5))
_STATIC = TensorSpec("scale", _FLOAT, (1, 2))

_RANGE = ((1, 3, 8, 8), (2, 3, 16, 8), (4, 3, 32, 8))


def test_static_inputs_need_no_profile() -> None:
    assert check_profiles([], [_STATIC]) == ()
    assert check_profiles([{"scale": fixed((1, 2))}], [_STATIC]) == ()


def test_several_profiles_hold_the_dynamic_inputs() -> None:
    profiles = [
        {"image": _RANGE, "rois": fixed((7, 5)), "scale": fixed((1, 2))},
        {"image": fixed((1, 3, 4, 4)), "rois": fixed((0, 5))},
    ]
    assert check_profiles(profiles, [_IMAGE, _ROIS, _STATIC]) == (
        {"image": _RANGE, "rois": fixed((7, 5))},
        {"image": fixed((1, 3, 4, 4)), "rois": fixed((0, 5))},
    )


@pytest.mark.parametrize(
    ("profiles", "words"),
    [
        ([], r"dynamic inputs 'image' \(n×3×h×\?\), 'rois' \(r×5\): .*Give --shape image=n,3,h,\? --shape rois=r,5"),
        ([{"image": _RANGE}], r"dynamic inputs 'rois' .*--profile 'rois=MIN:OPT:MAX'"),
        ([{"image": _RANGE, "boxes": fixed((1, 5))}], "name of an input: expected one of image, rois, scale, got 'box"),
        ([{"image": fixed((1, 4, 8, 8)), "rois": fixed((1, 5))}], "smallest shape of 'image': expected n×3×h×\\?, got"),
        ([{"image": fixed((1, 3, 8)), "rois": fixed((1, 5))}], r"expected n×3×h×\?, got 1×3×8"),
        ([{"image": (_RANGE[1], _RANGE[0], _RANGE[2]), "rois": fixed((1, 5))}], "expected smallest ≤ optimal ≤ larg"),
        ([{"image": fixed((-1, 3, 8, 8)), "rois": fixed((1, 5))}], "expected whole numbers, got -1×3×8×8"),
        ([{"image": _RANGE, "rois": fixed((1, 5)), "scale": fixed((2, 2))}], "'scale': expected 1×2, got 2×2"),
        ([{"image": _RANGE, "rois": fixed((1, 5))}, {"rois": fixed((1, 5))}], "'image' .* in profile 2"),
    ],
)
def test_what_does_not_fit_is_refused(profiles: list[dict[str, tuple[tuple[int, ...], ...]]], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        check_profiles(profiles, [_IMAGE, _ROIS, _STATIC])  # type: ignore[arg-type]


def test_extents_of_one_name_agree() -> None:
    pair = [TensorSpec("a", _FLOAT, ("n", 2)), TensorSpec("b", _FLOAT, ("n", 3))]
    check_profiles([{"a": fixed((4, 2)), "b": fixed((4, 3))}], pair)
    with pytest.raises(InvalidArgumentError, match="smallest shape of 'b': expected 'n' on axis 0 to be 4 as in 'a' a"):
        check_profiles([{"a": fixed((4, 2)), "b": fixed((5, 3))}], pair)
