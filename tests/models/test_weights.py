"""Weight files: what loads, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dcn_deploy import models
from dcn_deploy.errors import ModelSourceError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "with a space"
    path.mkdir()
    return path


def same(network: torch.nn.Module, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("ending", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_loads(folder: Path, ending: str, wrapper: str | None, prefix: str) -> None:
    state = models.create("digits_dcn", seed=7).state_dict()
    path = folder / f"weights{ending}"
    stored = {prefix + key: value for key, value in state.items()}
    if ending == ".safetensors":
        save_file(stored, path)
    else:
        torch.save(stored if wrapper is None else {wrapper: stored, "epoch": 3}, path)
    resolved = models.resolve("digits_dcn", path)
    assert same(resolved.module, state)
    assert resolved.weights_path == path
    assert not resolved.module.training


def test_missing_unexpected_and_misshapen_names_are_all_told(folder: Path) -> None:
    state = models.create("digits_plain", seed=7).state_dict()
    del state["conv1.weight"]
    state["extra.weight"] = torch.zeros(2)
    state["classifier.bias"] = torch.zeros(7)
    torch.save(state, folder / "weights.pt")
    network = models.create("digits_plain")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ModelSourceError) as caught:
        models.load_weights(network, folder / "weights.pt")
    text = str(caught.value)
    assert "1 missing in the file: conv1.weight" in text
    assert "1 unexpected in the file: extra.weight" in text
    assert "classifier.bias (10,) (file: (7,))" in text
    assert "Give the weights of this network" in text
    assert same(network, before), "a refused file must change nothing"


def test_plain_weights_for_a_deformable_network(folder: Path) -> None:
    state = models.create("digits_plain", seed=7).state_dict()
    torch.save(state, folder / "plain.pt")
    with pytest.raises(ModelSourceError, match=r"6 missing.*may_be_missing=\('\*conv_offset\.\*',\)"):
        models.resolve("digits_dcn", folder / "plain.pt")
    network = models.create("digits_dcn")
    models.load_weights(network, folder / "plain.pt", may_be_missing=("*conv_offset.*",))
    assert torch.equal(network.state_dict()["conv2.weight"], state["conv2.weight"])


def test_files_older_than_the_batch_counter_load(folder: Path) -> None:
    state = models.create("digits_plain", seed=7).state_dict()
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    save_file(old, folder / "old.safetensors")
    assert same(models.resolve("digits_plain", folder / "old.safetensors").module, state)


def test_pickled_network_is_refused_without_running_it(folder: Path) -> None:
    torch.save(models.create("digits_plain"), folder / "network.pt")
    with pytest.raises(ModelSourceError, match=r"tensors only.*torch\.save\(network\.state_dict\(\), path\)") as caught:
        models.resolve("digits_plain", folder / "network.pt")
    assert "weights_only=False" not in str(caught.value)


@pytest.mark.parametrize(("content", "actual"), [([1, 2], "a list"), ({"epoch": 3}, "a mapping with 'epoch': int")])
def test_not_a_state_dict(folder: Path, content: object, actual: str) -> None:
    torch.save(content, folder / "weights.pt")
    with pytest.raises(ModelSourceError, match=f"expected a state_dict .*got {actual}"):
        models.resolve("digits_plain", folder / "weights.pt")


@pytest.mark.parametrize("name", ["broken.pt", "broken.safetensors"])
def test_broken_file(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"not weights at all")
    with pytest.raises(ModelSourceError, match=name):
        models.resolve("digits_plain", folder / name)


def test_absent_file(folder: Path) -> None:
    with pytest.raises(ModelSourceError, match=r"expected a file .*absent\.pt', which is not there"):
        models.resolve("digits_plain", folder / "absent.pt")
    with pytest.raises(ModelSourceError, match="which is a folder"):
        models.resolve("digits_plain", folder)


def test_unknown_ending(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(b"")
    with pytest.raises(ModelSourceError, match=r"ends in \.pt, \.pth or \.safetensors, got '\.bin'"):
        models.resolve("digits_plain", folder / "weights.bin")
