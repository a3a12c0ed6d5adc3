"""The packed RoI pooling layers."""

from __future__ import annotations

import math

import pytest
import torch

from dcn_deploy.errors import InvalidArgumentError
from dcn_deploy.nn import (
    DeformConv2d,
    DeformRoIPool2d,
    ModulatedDeformRoIPool2d,
    PredictsOffsets,
    parameter_groups,
)
from dcn_deploy.ops import deform_roi_pool

LAYERS = [DeformRoIPool2d, ModulatedDeformRoIPool2d]
FORMS = [
    {},
    {"output_size": (2, 5), "sampling_ratio": 2, "gamma": 0.5},
    {"branch": "mmcv"},
    {"branch": "mmcv", "output_size": (3, 2), "sampling_ratio": 1},
    {"variant": "psroi"},
    {"variant": "psroi", "output_size": (4, 2), "part_size": 3, "sample_per_part": 2},
]
ROIS = torch.tensor([[0, 3.2, 5.1, 30.3, 22.7], [1, -4.0, 2, 17, 39], [1, 8, 8, 12, 11], [0, 20, 0, 60, 60]])


def make(kind, **arguments):
    torch.manual_seed(1)
    return kind(**{"in_channels": 6, "output_size": 3, "spatial_scale": 0.25, "hidden_channels": 16, **arguments})


def disturbed(layer, std=0.5):
    """The layer with a branch that predicts something."""
    for last in layer.offset_layers():
        torch.nn.init.normal_(last.weight, std=std)
        torch.nn.init.normal_(last.bias, std=std)
    return layer


def features(n=2, dtype=torch.float32):
    torch.manual_seed(2)
    return torch.randn(n, 6, 9, 11, dtype=dtype)


def pool(layer, x, offset=None, mask=None, rois=ROIS):
    return deform_roi_pool(
        x, rois, offset, mask, variant=layer.variant, output_size=layer.output_size, spatial_scale=layer.spatial_scale,
        gamma=layer.gamma, sampling_ratio=layer.sampling_ratio, sample_per_part=layer.sample_per_part,
    )  # fmt: skip


@pytest.mark.parametrize("arguments", FORMS, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_new_layer_is_plain_pooling(kind, arguments):
    layer = make(kind, **arguments)
    x = features()
    share = 1.0 if kind is DeformRoIPool2d else 0.5  # sigmoid(0)
    y = layer(x, ROIS)
    assert y.shape == (4, 6, *layer.output_size)
    torch.testing.assert_close(y, share * pool(layer, x))


def test_the_form_of_the_first_paper():
    """Dai et al. 2017, section 2.2: one fully connected layer on the pooled features gives the offsets."""
    layer = disturbed(make(DeformRoIPool2d, variant="psroi", part_size=2, gamma=0.3))
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "offset_fc.weight": (2 * 2 * 2, 6 * 9),
        "offset_fc.bias": (2 * 2 * 2,),
    }
    x = features()
    offset = torch.nn.functional.linear(pool(layer, x).reshape(4, -1), layer.offset_fc.weight, layer.offset_fc.bias)
    torch.testing.assert_close(layer(x, ROIS), pool(layer, x, offset.reshape(4, 2, 2, 2)))
    assert not torch.allclose(layer(x, ROIS), pool(layer, x))


def test_the_form_of_the_second_paper():
    """Zhu et al. 2019, section 3.2: two hidden layers, then 2K offsets and K mask logits."""
    layer = make(ModulatedDeformRoIPool2d, output_size=(2, 3), hidden_channels=200)
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "offset_mask_fc.0.weight": (200, 36),
        "offset_mask_fc.0.bias": (200,),
        "offset_mask_fc.2.weight": (200, 200),
        "offset_mask_fc.2.bias": (200,),
        "offset_mask_fc.4.weight": (18, 200),
        "offset_mask_fc.4.bias": (18,),
    }
    for i in (0, 2):
        assert layer.offset_mask_fc[i].weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert not layer.offset_mask_fc[i].bias.any()
        torch.nn.init.normal_(layer.offset_mask_fc[i].weight, std=0.3)
    disturbed(layer)
    x = features()
    hidden = pool(layer, x).reshape(4, -1)
    for i in (0, 2):
        hidden = torch.relu(hidden @ layer.offset_mask_fc[i].weight.T)
    predicted = hidden @ layer.offset_mask_fc[4].weight.T + layer.offset_mask_fc[4].bias
    offset, mask = predicted[:, :12].reshape(4, 2, 2, 3), torch.sigmoid(predicted[:, 12:]).reshape(4, 1, 2, 3)
    torch.testing.assert_close(layer(x, ROIS), pool(layer, x, offset, mask), rtol=1e-4, atol=1e-5)


class _MmcvPack(torch.nn.Module):
    """mmcv's packs, written from their documentation: the names are theirs, the pooling ours."""

    def __init__(self, modulated, channels, size, hidden):
        super().__init__()
        bins = size[0] * size[1]
        linear, relu = torch.nn.Linear, torch.nn.ReLU
        self.offset_fc = torch.nn.Sequential(
            linear(bins * channels, hidden), relu(), linear(hidden, hidden), relu(), linear(hidden, bins * 2)
        )
        if modulated:
            self.mask_fc = torch.nn.Sequential(
                linear(bins * channels, hidden), relu(), linear(hidden, bins), torch.nn.Sigmoid()
            )

    def forward(self, layer, x):
        flat = pool(layer, x).view(len(ROIS), -1)
        offset = self.offset_fc(flat).view(len(ROIS), 2, *layer.output_size)
        y = pool(layer, x, offset)
        return y * self.mask_fc(flat).view(len(ROIS), 1, *layer.output_size) if hasattr(self, "mask_fc") else y


@pytest.mark.parametrize("kind", LAYERS)
def test_weights_of_mmcv_load(kind):
    torch.manual_seed(3)
    layer = make(kind, branch="mmcv", output_size=(3, 2))
    theirs = _MmcvPack(kind is ModulatedDeformRoIPool2d, 6, (3, 2), 16)
    assert list(layer.state_dict()) == list(theirs.state_dict())
    layer.load_state_dict(theirs.state_dict())
    x = features()
    torch.testing.assert_close(layer(x, ROIS), theirs(layer, x))


@pytest.mark.parametrize("arguments", FORMS, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_it_trains(kind, arguments):
    layer = make(kind, **arguments)
    x, target = features(), torch.randn(4, 6, *layer.output_size)
    optimiser = torch.optim.Adam(parameter_groups(layer, lr=0.02, offset_lr_mult=1.0))
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = (layer(x, ROIS) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert all(last.weight.any() for last in layer.offset_layers())


def test_parameter_groups():
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = DeformConv2d(3, 6, 3)
            self.v1 = make(DeformRoIPool2d)
            self.v2 = make(ModulatedDeformRoIPool2d)
            self.mmcv = make(DeformRoIPool2d, branch="mmcv")
            self.classifier = torch.nn.Linear(4, 4)

    network = Network()
    by_rate = {group["lr"]: group["params"] for group in parameter_groups(network, 2.0)}
    assert set(by_rate) == {2.0, 0.02}  # Dai et al. 2017: 0.01 times; the others train as everything does
    assert {id(p) for p in by_rate[0.02]} == {id(p) for p in network.v1.parameters()}
    assert len(by_rate[2.0]) == len(list(network.parameters())) - 2
    forced = {group["lr"]: len(group["params"]) for group in parameter_groups(network, 2.0, offset_lr_mult=0.5)}
    assert forced == {2.0: 2 + 2, 1.0: 2 + 2 + 6 + 6}  # the convolution's own two, the classifier's two; the branches
    assert sum(isinstance(layer, PredictsOffsets) for layer in network.modules()) == 4


@pytest.mark.parametrize("branch", ["paper", "mmcv"])
@pytest.mark.parametrize("kind", LAYERS)
def test_autocast_predicts_offsets_in_float32(kind, branch):
    layer = disturbed(make(kind, branch=branch))
    x = features()
    seen = []
    for last in layer.offset_layers():
        last.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x, ROIS)
    assert seen == [torch.float32] * len(layer.offset_layers())
    assert y.dtype == torch.bfloat16
    # The branch sees features that were rounded to bfloat16, so its offsets differ a little.
    assert (y.float() - layer(x, ROIS)).norm() / layer(x, ROIS).norm() < 2e-2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", LAYERS)
def test_other_types(kind, dtype):
    layer = disturbed(make(kind).to(dtype))
    y = layer(features(dtype=dtype), ROIS)  # the RoIs stay float32
    assert y.dtype == dtype
    assert torch.isfinite(y).all()
    assert all(p.dtype == dtype for p in make(kind, dtype=dtype, device="cpu").parameters())


@pytest.mark.parametrize("arguments", FORMS, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_torch_export_with_dynamic_sizes(kind, arguments):
    layer = disturbed(make(kind, **arguments)).eval()
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.export.export(
        layer,
        (features(), ROIS),
        dynamic_shapes={"input": {0: dynamic, 2: dynamic, 3: dynamic}, "rois": {0: dynamic}},
    )
    names = [str(node.target) for node in program.graph.nodes if "deform" in str(node.target)]
    assert names == ["dcn_deploy.deform_roi_pool.default"] * 2
    x = torch.randn(3, 6, 14, 8)
    for rois in (ROIS, ROIS[:1], ROIS[:0], torch.cat([ROIS] * 3)):
        torch.testing.assert_close(program.module()(x, rois), layer(x, rois))


@pytest.mark.parametrize("dynamic", [None, True], ids=["automatic", "dynamic"])
@pytest.mark.parametrize("kind", LAYERS)
def test_torch_compile(kind, dynamic):
    layer = disturbed(make(kind, spatial_scale=0.3))
    x = features()
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    torch.testing.assert_close(compiled(x, ROIS), layer(x, ROIS))


@pytest.mark.parametrize("kind", LAYERS)
def test_no_roi(kind):
    layer = make(kind)
    x = features().requires_grad_()
    y = layer(x, ROIS[:0])
    assert y.shape == (0, 6, 3, 3)
    y.sum().backward()
    assert not x.grad.any()


def test_repr_shows_what_was_asked_for():
    text = repr(make(ModulatedDeformRoIPool2d, variant="psroi", part_size=2, gamma=0.2))
    assert (
        "6, output_size=(3, 3), spatial_scale=0.25, variant='psroi', sample_per_part=4, part_size=2, gamma=0.2" in text
    )
    assert "6, output_size=(3, 3), spatial_scale=0.25, sampling_ratio=2, branch='mmcv'" in repr(
        make(DeformRoIPool2d, sampling_ratio=2, branch="mmcv")
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 0}, r"in_channels: expected an int of at least 1, got 0"),
        ({"hidden_channels": 0}, r"hidden_channels: expected an int of at least 1, got 0"),
        ({"output_size": 0}, r"output_size: expected an int or \(height, width\), each at least 1"),
        ({"spatial_scale": 0}, r"spatial_scale: expected a finite number above 0, got 0.*1/16"),
        ({"gamma": math.nan}, r"gamma: expected a finite number, got nan"),
        ({"sampling_ratio": -1}, r"sampling_ratio: expected an int of at least 0 and at most 65536, got -1"),
        ({"sampling_ratio": 1.5}, r"sampling_ratio: expected an int of at least 0 and at most 65536, got 1\.5"),
        ({"sample_per_part": 0}, r"sample_per_part: expected an int of at least 1 and at most 65536, got 0"),
        ({"variant": "roi"}, r"variant: expected 'aligned' or 'psroi', got 'roi'"),
        ({"branch": "mmdet"}, r"branch: expected 'paper' or 'mmcv', got 'mmdet'"),
        (
            {"part_size": 3},
            r"part_size: expected None with variant 'aligned', got 3.*each bin has an offset of its own",
        ),
        ({"variant": "psroi", "part_size": 0}, r"part_size: expected an int of at least 1, got 0"),
        ({"variant": "psroi", "output_size": (2, 3)}, r"part_size: expected an int where output_size \(2, 3\) is not"),
        ({"variant": "psroi", "branch": "mmcv"}, r"branch with variant 'psroi': expected 'paper', got 'mmcv'"),
        ({"variant": "psroi", "group_size": 7}, r"group_size: expected 1, got 7.*dcn_deploy\.ops\.deform_roi_pool"),
    ],
)
@pytest.mark.parametrize("kind", LAYERS)
def test_refusals(kind, arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        make(kind, **arguments)


@pytest.mark.parametrize("kind", LAYERS)
def test_other_channels_are_refused(kind):
    with pytest.raises(
        InvalidArgumentError, match=r"input\.shape: expected \[N, 6, H, W\] \(in_channels\), got \[1, 5"
    ):
        make(kind)(torch.zeros(1, 5, 9, 9), ROIS[:1])


@pytest.mark.parametrize("kind", LAYERS)
def test_the_meta_device_tells_shapes(kind):
    wanted = make(kind)
    with torch.device("meta"):
        layer = make(kind)
        y = layer(torch.empty(2, 6, 9, 11), torch.empty(4, 5))
    assert (y.device.type, y.shape) == ("meta", (4, 6, 3, 3))
    layer.to_empty(device="cpu").load_state_dict(wanted.state_dict())
    x = torch.randn(2, 6, 9, 11)
    torch.testing.assert_close(layer(x, ROIS), wanted(x, ROIS), rtol=0, atol=0)
