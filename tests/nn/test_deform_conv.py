"""The packed layers."""

from __future__ import annotations

import pytest
import torch

from dcn_deploy.errors import InvalidArgumentError
from dcn_deploy.nn import DeformConv2d, ModulatedDeformConv2d, parameter_groups
from dcn_deploy.ops import deform_conv2d

LAYERS = [DeformConv2d, ModulatedDeformConv2d]
SHAPES = [
    {},
    {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "kernel_size": (3, 2)},
    {"groups": 2, "offset_groups": 3, "padding": 1},
    {"padding": (0, 1, 2, 3)},
    {"padding": "same", "kernel_size": (3, 4), "dilation": (2, 1)},
    {"padding": "valid", "bias": False},
]


def make(kind, **arguments):
    torch.manual_seed(1)
    return kind(6, 4, **{"kernel_size": 3, **arguments})


def plain(layer, x):
    top, left, bottom, right = layer.padding
    x = torch.nn.functional.pad(x, (left, right, top, bottom))
    return torch.nn.functional.conv2d(x, layer.weight, None, layer.stride, 0, layer.dilation, layer.groups)


@pytest.mark.parametrize("arguments", SHAPES, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_new_layer_is_the_plain_convolution(kind, arguments):
    layer = make(kind, **arguments)
    x = torch.randn(2, 6, 9, 11)
    share = 1.0 if kind is DeformConv2d else 0.5  # sigmoid(0)
    wanted = share * plain(layer, x)
    if layer.bias is not None:
        wanted = wanted + layer.bias[:, None, None]
    torch.testing.assert_close(layer(x), wanted)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_branch_is_laid_out_as_in_mmcv(kind):
    layer = make(kind, offset_groups=2, padding=1)
    assert list(layer.state_dict()) == ["weight", "bias", "conv_offset.weight", "conv_offset.bias"]
    taps = 2 * 9
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.2)
    torch.nn.init.normal_(layer.conv_offset.bias)
    x = torch.randn(2, 6, 7, 8)
    predicted = layer.conv_offset(x)
    if kind is DeformConv2d:
        assert predicted.shape[1] == 2 * taps
        mask = None
    else:
        o1, o2, logits = predicted.chunk(3, dim=1)  # how mmcv and the DCNv2 forks write it
        predicted, mask = torch.cat((o1, o2), dim=1), torch.sigmoid(logits)
    wanted = deform_conv2d(x, predicted, layer.weight, layer.bias, 1, 1, 1, mask)
    torch.testing.assert_close(layer(x), wanted)


@pytest.mark.parametrize("kind", LAYERS)
def test_weights_of_a_plain_convolution_load(kind):
    convolution = torch.nn.Conv2d(6, 4, 3)
    layer = make(kind)
    missing, unexpected = layer.load_state_dict(convolution.state_dict(), strict=False)
    assert missing == ["conv_offset.weight", "conv_offset.bias"]
    assert unexpected == []


@pytest.mark.parametrize("kind", LAYERS)
def test_it_trains(kind):
    layer = make(kind, padding=1)
    target = torch.randn(4, 4, 8, 8)
    x = torch.randn(4, 6, 8, 8)
    optimiser = torch.optim.Adam(parameter_groups(layer, lr=0.02))
    losses = []
    for _ in range(25):
        optimiser.zero_grad()
        loss = (layer(x) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert layer.conv_offset.weight.any()


def test_parameter_groups():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 1), DeformConv2d(6, 6, 3), torch.nn.Sequential(ModulatedDeformConv2d(6, 6, 3))
    )
    network[0].bias.requires_grad_(False)
    by_rate = {group["lr"]: group for group in parameter_groups(network, 2.0, weight_decay=0.5)}
    assert set(by_rate) == {2.0, 0.2}  # v1's branch at 1×, v2's at 0.1×
    branch = network[2][0].conv_offset
    assert {id(p) for p in by_rate[0.2]["params"]} == {id(p) for p in branch.parameters()}
    everything = [id(p) for group in by_rate.values() for p in group["params"]]
    assert len(everything) == len(set(everything)) == len(list(network.parameters())) - 1
    assert all(group["weight_decay"] == 0.5 for group in by_rate.values())
    forced = {group["lr"]: len(group["params"]) for group in parameter_groups(network, 2.0, offset_lr_mult=0.01)}
    assert forced == {2.0: 5, 0.02: 4}
    torch.optim.SGD(parameter_groups(network, 2.0))


@pytest.mark.parametrize("kind", LAYERS)
def test_autocast_predicts_offsets_in_float32(kind):
    layer = make(kind, padding=1)
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.3)
    x = torch.randn(2, 6, 8, 8)
    seen = []
    layer.conv_offset.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert seen == [torch.float32]
    assert y.dtype == torch.bfloat16
    assert (y.float() - layer(x)).norm() / layer(x).norm() < 8e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", LAYERS)
def test_other_types(kind, dtype):
    layer = make(kind, padding=1).to(dtype)
    assert layer(torch.randn(1, 6, 5, 5, dtype=dtype)).dtype == dtype
    assert kind(6, 4, 3, dtype=dtype, device="cpu").weight.dtype == dtype


@pytest.mark.parametrize("kind", LAYERS)
def test_torch_export_with_dynamic_sizes(kind):
    layer = make(kind, padding=1, stride=2).eval()
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.export.export(
        layer, (torch.randn(2, 6, 9, 11),), dynamic_shapes={"input": {0: dynamic, 2: dynamic, 3: dynamic}}
    )
    names = [str(node.target) for node in program.graph.nodes if "deform" in str(node.target)]
    assert names == ["dcn_deploy.deform_conv2d.default"]
    x = torch.randn(3, 6, 14, 8)
    torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.parametrize("kind", LAYERS)
def test_torch_compile(kind):
    layer = make(kind, padding=1)
    x = torch.randn(2, 6, 7, 7)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))


def test_repr_shows_what_was_asked_for():
    text = repr(make(ModulatedDeformConv2d, stride=2, padding=(0, 1, 2, 3), offset_groups=2, bias=False))
    assert "6, 4, kernel_size=(3, 3), stride=(2, 2), padding=(0, 1, 2, 3), offset_groups=2, bias=False" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 0}, r"in_channels: expected an int of at least 1, got 0"),
        ({"kernel_size": 0}, r"kernel_size: expected an int or \(height, width\), each at least 1"),
        ({"groups": 4}, r"in_channels: expected a multiple of 4"),
        ({"groups": 3}, r"out_channels: expected a multiple of 3"),
        ({"offset_groups": 4}, r"in_channels: expected a multiple of 4"),
        ({"padding": "full"}, r"padding: expected ints, 'same' or 'valid', got 'full'"),
        ({"padding": "same", "stride": 2}, r"stride with padding='same': expected 1, got \(2, 2\)"),
        ({"padding": (1, 2, 3)}, r"padding: expected an int"),
    ],
)
@pytest.mark.parametrize("kind", LAYERS)
def test_refusals(kind, arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        kind(**{"in_channels": 6, "out_channels": 4, "kernel_size": 3, **arguments})


@pytest.mark.parametrize("kind", LAYERS)
def test_the_meta_device_tells_shapes(kind):
    """A network that is built without memory runs for its shapes, and takes its weights afterwards."""
    wanted = make(kind, padding=1)
    with torch.device("meta"):
        layer = make(kind, padding=1)
        y = layer(torch.empty(2, 6, 9, 11))
    assert (y.device.type, y.shape) == ("meta", (2, 4, 9, 11))
    assert make(kind, padding=1, device="meta")(torch.empty(1, 6, 5, 5, device="meta")).shape == (1, 4, 5, 5)
    layer.to_empty(device="cpu").load_state_dict(wanted.state_dict())
    x = torch.randn(2, 6, 9, 11)
    torch.testing.assert_close(layer(x), wanted(x), rtol=0, atol=0)
