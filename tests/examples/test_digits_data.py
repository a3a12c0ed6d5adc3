"""The demonstration's data: real scans, split before anything else, warped reproducibly."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(autouse=True)
def examples_on_path(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "digits"]:
        del sys.modules[name]


def test_no_scan_is_on_both_sides() -> None:
    from digits.data import held_out_images, load_split, warp

    train, test = load_split()
    assert len(train) + len(test) == 1797
    assert len(set(train.indices.tolist()) | set(test.indices.tolist())) == 1797
    trained_on = set(warp(train, torch.Generator().manual_seed(3)).indices.tolist())
    shown = held_out_images(test, 4)
    assert len(shown.labels) == 4 * len(test)
    assert set(shown.indices.tolist()) == set(test.indices.tolist())
    assert not trained_on & set(shown.indices.tolist())


def test_scans_are_scikit_learns() -> None:
    from digits.data import load_split
    from sklearn.datasets import load_digits

    digits = load_digits()
    for scans in load_split():
        assert torch.equal((scans.images[:, 0] * 16).double(), torch.from_numpy(digits.images)[scans.indices])
        assert torch.equal(scans.labels, torch.from_numpy(digits.target)[scans.indices])


def test_no_scan_on_one_side_equals_one_on_the_other() -> None:
    from digits.data import load_split

    train, test = load_split()
    distances = torch.cdist(test.images.flatten(1), train.images.flatten(1))
    assert distances.min() > 0


def test_every_digit_is_held_out_alike() -> None:
    from digits.data import load_split

    train, test = load_split()
    shares = test.labels.bincount(minlength=10) / (test.labels.bincount(minlength=10) + train.labels.bincount())
    assert ((shares > 0.24) & (shares < 0.26)).all()


def test_warps_differ_between_images_and_repeat_with_the_seed() -> None:
    from digits.data import CANVAS, held_out_images, load_split, warp

    _, test = load_split()
    first = warp(test, torch.Generator().manual_seed(1))
    again = warp(test, torch.Generator().manual_seed(1))
    other = warp(test, torch.Generator().manual_seed(2))
    assert first.images.shape == (len(test), 1, CANVAS, CANVAS)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert first.images.min() >= 0
    assert first.images.max() <= 1
    assert first.rotation.abs().max() <= 40
    assert first.rotation.std() > 15
    # ink survives the warp: no image is empty
    assert (first.images.flatten(1).max(1).values > 0.5).all()
    held_out = held_out_images(test, 2)
    assert not torch.equal(held_out.images[: len(test)], held_out.images[len(test) :])
    assert torch.equal(held_out.images, held_out_images(test, 2).images)


def test_unwarped_place_shows_the_scan_upright(monkeypatch: pytest.MonkeyPatch) -> None:
    # with every range closed the warp only enlarges: orientation and axes must not be swapped
    from digits import data

    for name in ("ROTATION", "SHEAR", "SHIFT", "ELASTIC"):
        monkeypatch.setattr(data, name, 0.0)
    monkeypatch.setattr(data, "SCALE", (1.0, 1.0))
    scan = torch.zeros(1, 1, 8, 8)
    scan[0, 0, 1, 6] = 1  # top right
    image = data.warp(data.Scans(scan, torch.tensor([0]), torch.tensor([0])), torch.Generator().manual_seed(0))
    y, x = divmod(int(image.images[0, 0].argmax()), data.CANVAS)
    middle, step = (data.CANVAS - 1) / 2, data.DIGIT_SIZE / 8
    assert abs(y - (middle + (1 - 3.5) * step)) <= 1
    assert abs(x - (middle + (6 - 3.5) * step)) <= 1
