"""PyTorch → ONNX with RoI pooling: each form, dynamic numbers of RoIs, against PyTorch in ONNX Runtime."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import dcn_deploy
from dcn_deploy.errors import ExportError, UnsupportedError
from dcn_deploy.export import form_of
from dcn_deploy.nn import ModulatedDeformConv2d, ModulatedDeformRoIPool2d
from dcn_deploy.ops import deform_roi_pool

#: How much larger than PyTorch's own float32 error (against float64) the error of a form may be; the network's RoI
#: pooling takes its offsets from another one's result, which amplifies any rounding.
FACTOR = {"plugin": 4.0, "decomposed": 12.0}
EXACT = float(np.float32(0.1))


class Network(nn.Module):
    """A deformable convolution, a packed v2 pooling on its map, and position-sensitive pooling beside it."""

    def __init__(self, sampling_ratio: int = 2) -> None:
        super().__init__()
        self.layer = ModulatedDeformConv2d(3, 12, 3, padding=1, stride=2)
        self.pool = ModulatedDeformRoIPool2d(
            12, (3, 2), 0.5, sampling_ratio=sampling_ratio, hidden_channels=16, branch="paper"
        )
        self.score = nn.Linear(12 * 3 * 2, 4)

    def forward(self, image: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        features = self.layer(image)
        pooled = self.pool(features, rois)
        shift = pooled[:, :2, :2, :2].tanh()
        votes = deform_roi_pool(
            features, rois, shift, variant="psroi", output_size=2, spatial_scale=0.5, group_size=2, sample_per_part=2
        )
        return self.score(pooled.flatten(1)), votes


@pytest.fixture
def network(seed: int) -> Network:
    return shaken(Network(), seed)


def shaken(module: Network, seed: int) -> Network:
    """With offsets that are not zero, as they are in a new layer."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def boxes(count: int, images: int, height: int, width: int, generator: np.random.Generator) -> Tensor:
    corner = generator.uniform(0, 0.5, (count, 2)) * (width, height)
    size = generator.uniform(0.1, 0.5, (count, 2)) * (width, height)
    numbers = generator.integers(0, images, (count, 1)) if count else np.zeros((0, 1))
    return torch.from_numpy(np.concatenate([numbers, corner, corner + size], 1).astype(np.float32))


def relative_rms(actual: Any, wanted: Tensor) -> float:
    exact = wanted.double().numpy()
    return float(np.linalg.norm(actual.astype(np.float64) - exact) / np.linalg.norm(exact))


def assert_as_good_as_pytorch(network: nn.Module, args: tuple[Tensor, ...], outputs: list[Any], form: str) -> None:
    with torch.no_grad():
        own = network(*args)
        exact = copy.deepcopy(network).double()(*(a.double() for a in args))
    for y, float32, float64 in zip(outputs, own, exact, strict=True):
        assert y.shape == tuple(float64.shape)
        if y.size:
            assert relative_rms(y, float64) <= FACTOR[form] * relative_rms(float32.numpy(), float64) + 1e-6


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("form", ["plugin", "decomposed"])
def test_network_computes_the_same(
    form: str, dynamic: bool, network: Network, rng: np.random.Generator, tmp_path: Path, make_session: Any
) -> None:
    axes = {"image": {0: "n", 2: "h", 3: "w"}, "rois": {0: "r"}} if dynamic else None
    path = tmp_path / "network.onnx"
    example = (torch.randn(2, 3, 33, 47), boxes(5, 2, 33, 47, rng))
    result = dcn_deploy.export(network, example, path, form=form, dynamic_shapes=axes)
    assert result.nodes == 4  # the packed layer pools twice
    assert result.opset == 18
    image = ("n", 3, "h", "w") if dynamic else (2, 3, 33, 47)
    assert result.inputs == {"image": image, "rois": ("r" if dynamic else 5, 5)}
    assert [shape[0] for shape in result.outputs.values()] == ["r" if dynamic else 5] * 2
    assert form_of(path) == form
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    kinds = [node.op_type for node in model.graph.node]
    assert (kinds.count("DeformRoIPool2d"), kinds.count("DeformConv2d")) == ((3, 1) if form == "plugin" else (0, 0))
    known = {v.name for v in [*model.graph.value_info, *model.graph.output] if v.type.tensor_type.HasField("shape")}
    assert {name for node in model.graph.node for name in node.output} <= known
    session = make_session(path)
    shapes = [(2, 33, 47, 5), *([(1, 19, 40, 1), (3, 64, 30, 37), (2, 20, 20, 0)] if dynamic else [])]
    for n, h, w, r in shapes:
        args = (torch.randn(n, 3, h, w), boxes(r, n, h, w, rng))
        outputs = session.run(None, {"image": args[0].numpy(), "rois": args[1].numpy()})
        assert_as_good_as_pytorch(network, args, outputs, form)


def attributes_of(path: Path) -> list[dict[str, Any]]:
    nodes = [node for node in onnx.load(path).graph.node if node.op_type == "DeformRoIPool2d"]
    return [{a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} for node in nodes]


def test_a_node_carries_its_own_variants_attributes_in_numbers(tmp_path: Path) -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor, rois: Tensor, mask: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return (
                deform_roi_pool(x, rois, None, mask, output_size=(3, 2), sampling_ratio=2, spatial_scale=0.3),
                deform_roi_pool(x, rois, offset, variant="psroi", output_size=3, group_size=2, gamma=-0.5),
                deform_roi_pool(x, rois, variant="psroi", output_size=(1, 2), sample_per_part=3),
            )

    path = tmp_path / "both.onnx"
    args = (torch.randn(1, 8, 9, 9), torch.rand(4, 5), torch.rand(4, 1, 3, 2), torch.randn(4, 2, 5, 5))
    dcn_deploy.export(Both().eval(), args, path)
    scale = float(np.float32(0.3))
    common = {"gamma": EXACT, "spatial_scale": 1.0, "variant": b"psroi"}
    aligned, grouped, plain = attributes_of(path)
    assert aligned == {
        "gamma": EXACT, "output_size": [3, 2], "sampling_ratio": 2, "spatial_scale": scale, "variant": b"aligned"
    }  # fmt: skip
    assert grouped == {
        **common, "gamma": -0.5, "output_size": [3, 3], "sample_per_part": 4, "group_size": 2, "part_size": 5,
        "output_channels": 2,
    }  # fmt: skip
    assert plain == {
        **common, "output_size": [1, 2], "sample_per_part": 3, "group_size": 1, "part_size": 0, "output_channels": 8
    }  # fmt: skip
    inputs = [list(node.input) for node in onnx.load(path).graph.node if node.op_type == "DeformRoIPool2d"]
    assert inputs == [["x", "rois", "", "mask"], ["x", "rois", "offset"], ["x", "rois"]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("form", ["plugin", "decomposed"])
def test_mixed_precision(
    form: str, dtype: torch.dtype, rng: np.random.Generator, tmp_path: Path, make_session: Any
) -> None:
    """Half features; rois, offset and mask in float32."""

    class Mixed(nn.Module):
        def forward(self, x: Tensor, rois: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
            pooled = deform_roi_pool(x.to(dtype), rois, offset, mask, output_size=3, sampling_ratio=2, gamma=0.2)
            return pooled.float()

    module = Mixed().eval()
    args = (
        torch.randn(2, 4, 9, 11), boxes(6, 2, 9, 11, rng), torch.randn(6, 2, 3, 3), torch.rand(6, 1, 3, 3)
    )  # fmt: skip
    path = tmp_path / "mixed.onnx"
    result = dcn_deploy.export(module, args, path, form=form)
    # Constants of the expansion do not count.
    assert result.metadata.get("precision") is None
    with torch.no_grad():
        wanted = module(*args)
    names = [value.name for value in onnx.load(path).graph.input]
    (y,) = make_session(path).run(None, {name: tensor.numpy() for name, tensor in zip(names, args, strict=True)})
    assert relative_rms(y, wanted) <= (8e-3 if dtype == torch.bfloat16 else 1e-3)


def test_same_network_gives_same_bytes(network: Network, rng: np.random.Generator, tmp_path: Path) -> None:
    example = (torch.randn(2, 3, 33, 47), boxes(5, 2, 33, 47, rng))
    for form in ("plugin", "decomposed"):
        for name in ("a", "b"):
            dcn_deploy.export(network, example, tmp_path / f"{name}.onnx", form=form, dynamic_shapes={"rois": {0: "r"}})
        assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


# ---- refusals ----


def test_forms_that_a_network_does_not_have_are_refused(
    network: Network, seed: int, rng: np.random.Generator, tmp_path: Path
) -> None:
    example = (torch.randn(2, 3, 33, 47), boxes(5, 2, 33, 47, rng))
    with pytest.raises(
        UnsupportedError,
        match=r"Node '.+': the ONNX standard has no operator for DeformRoIPool2d\. Use the form plugin or decomposed\.",
    ):
        dcn_deploy.export(network, example, tmp_path / "n.onnx", form="standard")
    adaptive = shaken(Network(sampling_ratio=0), seed)
    with pytest.raises(
        UnsupportedError,
        match=r"Node '.+' cannot be decomposed: with sampling_ratio 0 .*fixed sampling_ratio, such as 2",
    ):
        dcn_deploy.export(adaptive, example, tmp_path / "n.onnx", form="decomposed")
    assert not list(tmp_path.iterdir())
    assert dcn_deploy.export(adaptive, example, tmp_path / "n.onnx").nodes == 4


def test_an_output_size_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    class Sized(nn.Module):
        def forward(self, x: Tensor, rois: Tensor, like: Tensor) -> Tensor:
            size = [like.shape[0], 2]
            return torch.ops.dcn_deploy.deform_roi_pool(x, rois, None, None, "aligned", size, 1.0, 0.1, 2, 4, 1, 0, 0)

    args = (torch.randn(1, 4, 9, 9), torch.rand(3, 5), torch.randn(6))
    with pytest.raises(
        ExportError, match=r"output_size of deform_roi_pool: expected two fixed numbers, got a dynamic extent"
    ):
        dcn_deploy.export(Sized().eval(), args, tmp_path / "n.onnx", dynamic_shapes={"like": {0: "size"}})


def test_errors_of_our_own_operator_come_through(tmp_path: Path) -> None:
    class Wrong(nn.Module):
        def forward(self, x: Tensor, rois: Tensor, offset: Tensor) -> Tensor:
            return deform_roi_pool(x, rois, offset, output_size=3)

    args = (torch.randn(1, 4, 9, 9), torch.rand(3, 5), torch.randn(3, 2, 3, 4))
    with pytest.raises(ExportError, match=r"Wrong cannot be exported.*offset.*expected.*3.*got 4"):
        dcn_deploy.export(Wrong().eval(), args, tmp_path / "n.onnx")
