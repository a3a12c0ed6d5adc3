"""Which profile a feed runs with, and what is said if there is none."""

from __future__ import annotations

from typing import Any

import pytest

from dcn_deploy.errors import InvalidArgumentError
from dcn_deploy.runtime.engine_tensors import choose_profile


def profile(**ranges: Any) -> Any:
    return {name: tuple(tuple(shape) for shape in shapes) for name, shapes in ranges.items()}


SMALL = profile(x=[(1, 3), (1, 3), (4, 3)], rois=[(0, 5), (8, 5), (16, 5)])
LARGE = profile(x=[(4, 3), (32, 3), (32, 3)], rois=[(0, 5), (8, 5), (16, 5)])
ANY = profile(x=[(1, 3), (8, 3), (64, 3)], rois=[(0, 5), (100, 5), (999, 5)])


@pytest.mark.parametrize(
    ("x", "rois", "expected"),
    [
        (1, 8, 0),
        (4, 8, 0),  # a quarter of a step from 1, three octaves from 32
        (5, 8, 1),
        (64, 8, 2),
        (2, 500, 2),
        (2, 0, 0),
    ],
)
def test_the_nearest_of_those_that_fit(x: int, rois: int, expected: int) -> None:
    assert choose_profile([SMALL, LARGE, ANY], {"x": (x, 3), "rois": (rois, 5), "fixed": (7,)}) == expected


def test_an_engine_without_free_axes_has_one_that_fits() -> None:
    assert choose_profile([{}], {"x": (2, 3)}) == 0


def test_the_first_of_equals() -> None:
    assert choose_profile([SMALL, SMALL], {"x": (2, 3), "rois": (1, 5)}) == 0


def test_every_range_is_listed_where_none_fits() -> None:
    with pytest.raises(
        InvalidArgumentError,
        match=r"shapes of the inputs: expected those of one of the engine's profiles \(profile 0: x 1×3 to 4×3, rois "
        r"0×5 to 16×5; profile 1: x 4×3 to 32×3, rois 0×5 to 16×5\), got x 5×3, rois 17×5\. Build the engine with a "
        r"profile that holds them",
    ):
        choose_profile([SMALL, LARGE], {"x": (5, 3), "rois": (17, 5)})
