"""Training of the demonstration: repeatable, the same images for both networks, and it learns."""

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


@pytest.fixture
def data():
    from digits.data import held_out_images, load_split

    train_scans, test_scans = load_split()
    return train_scans.first(96), held_out_images(test_scans.first(30), 1)


def test_one_seed_gives_one_network(data) -> None:
    from digits.train import train

    first, again, other = (train("digits_dcn", *data, seed=seed, epochs=2) for seed in (5, 5, 6))
    for name, value in first.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name
    assert first.epochs == again.epochs
    assert torch.equal(first.logits, again.logits)
    assert not torch.equal(first.logits, other.logits)


def test_both_networks_see_the_same_images(data, monkeypatch: pytest.MonkeyPatch) -> None:
    from digits import train

    seen: dict[str, list[torch.Tensor]] = {}

    def watched(scans, generator, warp=train.warp):
        images = warp(scans, generator)
        seen.setdefault(current, []).append(images.images)
        return images

    monkeypatch.setattr(train, "warp", watched)
    for current in train.NETWORKS:
        train.train(current, *data, seed=1, epochs=2)
    deformable, plain = (torch.stack(seen[name]) for name in train.NETWORKS)
    assert torch.equal(deformable, plain)
    assert not torch.equal(deformable[0], deformable[1]), "every epoch has warps of its own"


def test_training_moves_the_offset_branches_and_lowers_the_loss(data) -> None:
    from digits.train import train

    training = train("digits_dcn", *data, seed=0, epochs=6)
    assert training.epochs[-1].loss < training.epochs[0].loss
    assert not training.network.training
    branches = [value for name, value in training.network.named_parameters() if "conv_offset.weight" in name]
    assert len(branches) == 3
    assert all(branch.abs().max() > 0 for branch in branches)
    assert training.test_accuracy == int((training.logits.argmax(1) == data[1].labels).sum()) / 30


def test_differing_predictions_are_named_and_only_ties_are_excused() -> None:
    import numpy as np
    from digits.data import WarpedImages
    from digits.deploy import compare_predictions

    labels = torch.tensor([0, 1, 2])
    test = WarpedImages(torch.zeros(3, 1, 32, 32), labels, torch.tensor([10, 11, 12]), torch.zeros(3))
    expected = np.zeros((3, 10), np.float32)
    expected[[0, 1, 2], [0, 1, 2]] = 5.0
    expected[1, 7] = 5.0 - 1e-6  # PyTorch itself hardly tells 1 from 7
    actual = expected.copy()
    actual[1, 7] = 5.0 + 1e-6
    actual[2, 4] = 6.0  # plainly another answer
    result = compare_predictions(actual, expected, test, limit=1e-5)
    assert (result["images"], result["right"], result["equal_to_torch"]) == (3, 1, 1)
    tie, fault = ({key: value for key, value in row.items() if key != "margin"} for row in result["differing"])
    assert tie == {"image": 1, "scan": 11, "label": 1, "torch": 1, "deployed": 7, "explained": True}
    assert fault == {"image": 2, "scan": 12, "label": 2, "torch": 2, "deployed": 4, "explained": False}
    assert compare_predictions(expected, expected, test, limit=1e-5)["differing"] == []
