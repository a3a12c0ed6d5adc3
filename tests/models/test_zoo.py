"""Every network of the zoo builds, runs, and is the same each time."""

from __future__ import annotations

import pytest
import torch

from dcn_deploy import models
from dcn_deploy.errors import InvalidArgumentError, ModelSourceError
from dcn_deploy.nn import DeformConv2d, ModulatedDeformConv2d

DEFORMABLE = [name for name in models.names() if models.entry(name).deformable_layers]


def deformable_layers(network: torch.nn.Module) -> list[torch.nn.Module]:
    return [layer for layer in network.modules() if isinstance(layer, DeformConv2d | ModulatedDeformConv2d)]


def outputs_of(network: torch.nn.Module, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    with torch.inference_mode():
        answer = network(*inputs)
    return answer if isinstance(answer, tuple) else (answer,)


def test_the_named_networks_exist() -> None:
    assert {
        "digits_dcn",
        "digits_plain",
        "resnet18",
        "resnet18_dcn",
        "resnet50",
        "faster_rcnn_dcn_v1",
        "faster_rcnn_dcn_v2",
        "resnet50_dcn",
        "rfcn_dcn",
        "single_dcn",
        "single_dcn_v1",
    } <= set(models.names())


@pytest.mark.parametrize("name", models.names())
def test_runs_at_its_example_shape(name: str) -> None:
    entry = models.entry(name)
    network = models.create(name)
    assert not network.training
    examples = models.example_inputs(name)
    assert {key: tuple(x.shape) for key, x in zip(entry.inputs, examples, strict=True)} == entry.inputs
    for output in outputs_of(network, *examples):
        assert output.shape[0] == examples[-1].shape[0]
        assert torch.isfinite(output).all()
        assert output.std() > 1e-3
    assert len(deformable_layers(network)) == entry.deformable_layers
    assert entry.description
    assert not entry.description.endswith(".")


@pytest.mark.parametrize("name", [name for name in models.names() if not models.entry(name).boxes])
def test_runs_at_other_sizes_and_batches(name: str) -> None:
    (shape,) = models.entry(name).inputs.values()
    images = torch.randn(3, shape[1], 41, 35, generator=torch.Generator().manual_seed(0))
    network = models.create(name)
    with torch.inference_mode():
        together = network(images)
        alone = network(images[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", models.names())
def test_weights_are_reproducible_and_leave_the_global_generator_alone(name: str) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = models.create(name).state_dict()
    assert torch.equal(torch.rand(3), expected)
    second = models.create(name).state_dict()
    other = models.create(name, seed=1).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", DEFORMABLE)
def test_random_branches_predict_offsets_of_about_a_pixel(name: str) -> None:
    network = models.create(name)
    spreads = []

    def record_offsets(branch: torch.nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        spreads.append(float(output.std()))

    def record_offsets_and_mask(branch: torch.nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        spreads.append(float(output[:, : output.shape[1] * 2 // 3].std()))

    for layer in deformable_layers(network):
        modulated = isinstance(layer, ModulatedDeformConv2d)
        layer.conv_offset.register_forward_hook(record_offsets_and_mask if modulated else record_offsets)
    with torch.inference_mode():
        network(*models.example_inputs(name))
    assert len(spreads) == models.entry(name).deformable_layers
    # far enough from the grid to matter, not so far that most samples leave the map
    assert all(0.1 < spread < 5 for spread in spreads), spreads


@pytest.mark.parametrize("name", DEFORMABLE)
def test_zero_branches(name: str) -> None:
    for layer in deformable_layers(models.create(name, offset_init="zero")):
        assert not layer.conv_offset.weight.any()
        assert not layer.conv_offset.bias.any()
        assert layer.weight.any()


def test_zero_branch_is_half_the_plain_convolution() -> None:
    network = models.create("single_dcn", offset_init="zero")
    (images,) = models.example_inputs("single_dcn")
    plain = torch.nn.functional.conv2d(images, network.layer.weight, padding=1) / 2 + network.layer.bias[:, None, None]
    with torch.inference_mode():
        torch.testing.assert_close(network(images), plain, rtol=1e-4, atol=1e-4)


def test_unknown_name_proposes_the_closest() -> None:
    with pytest.raises(ModelSourceError, match=r"expected one of .*got 'resnet50-dcn'\. Did you mean resnet50_dcn"):
        models.create("resnet50-dcn")


def test_unknown_option_names_the_known_ones() -> None:
    with pytest.raises(InvalidArgumentError, match=r"'digits_dcn': expected some of .*offset_init.*got colour"):
        models.create("digits_dcn", colour=True)


def test_unknown_offset_init() -> None:
    with pytest.raises(InvalidArgumentError, match=r"offset_init: expected 'random' or 'zero', got 'tiny'"):
        models.create("single_dcn", offset_init="tiny")


def test_stages_outside_the_network() -> None:
    with pytest.raises(InvalidArgumentError, match=r"expected some of 2, 3, 4, 5, got \[1, 6\]"):
        models.create("resnet50", deformable_stages=(1, 4, 6))


def test_twins_have_equal_width() -> None:
    deformable = models.create("digits_dcn").state_dict()
    plain = models.create("digits_plain").state_dict()
    assert {key: value.shape for key, value in deformable.items() if "conv_offset" not in key} == {
        key: value.shape for key, value in plain.items()
    }


def test_resnet_names_and_shapes_are_torchvisions() -> None:
    # written out from torchvision's published ResNet-50 and ResNet-18 state_dicts
    resnet50 = models.create("resnet50").state_dict()
    assert len(resnet50) == 320
    assert (
        sum(tensor.numel() for key, tensor in resnet50.items() if "running" not in key and "num" not in key)
        == 25_557_032
    )
    for key, shape in {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_var": (64,),
        "layer1.0.conv1.weight": (64, 64, 1, 1),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.0.downsample.1.num_batches_tracked": (),
        "layer2.0.conv2.weight": (128, 128, 3, 3),
        "layer3.5.conv3.weight": (1024, 256, 1, 1),
        "layer4.2.bn3.bias": (2048,),
        "fc.weight": (1000, 2048),
        "fc.bias": (1000,),
    }.items():
        assert tuple(resnet50[key].shape) == shape
    resnet18 = models.create("resnet18").state_dict()
    assert len(resnet18) == 122
    assert sum(t.numel() for key, t in resnet18.items() if "running" not in key and "num" not in key) == 11_689_512
    assert tuple(resnet18["layer4.0.downsample.0.weight"].shape) == (512, 256, 1, 1)


@pytest.mark.parametrize(("plain", "deformable"), [("resnet50", "resnet50_dcn"), ("resnet18", "resnet18_dcn")])
def test_plain_weights_fit_the_deformable_twin(plain: str, deformable: str) -> None:
    weights = models.create(plain, seed=3).state_dict()
    network = models.create(deformable)
    result = network.load_state_dict(weights, strict=False)
    assert not result.unexpected_keys
    assert result.missing_keys
    assert all(".conv2.conv_offset." in key for key in result.missing_keys)
    layers = {key.split(".")[0] for key in result.missing_keys}
    assert layers == {"layer2", "layer3", "layer4"}
