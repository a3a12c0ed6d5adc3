"""PyTorch → ONNX: every form, static and dynamic, against PyTorch in ONNX Runtime; what is refused, and how."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import dcn_deploy
from dcn_deploy.errors import ExportError, InvalidArgumentError
from dcn_deploy.export import FORMS, form_of, metadata
from dcn_deploy.nn import DeformConv2d, ModulatedDeformConv2d
from dcn_deploy.ops import deform_conv2d

# How much larger than PyTorch's own float32 error (against float64) the error of a form may be. Two deformable layers
# in a row amplify the rounding of the first through the second one's offsets: no absolute bound would be tight.
FACTOR = {"plugin": 4.0, "standard": 4.0, "decomposed": 12.0}


class Network(nn.Module):
    """Both layers, a stride, groups and an operator in between that the form does not concern."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.v2 = ModulatedDeformConv2d(8, 8, 3, padding=1, offset_groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.v1 = DeformConv2d(8, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.v1(torch.relu(self.norm(self.v2(self.stem(x)))))


@pytest.fixture
def network(seed: int) -> Network:
    torch.manual_seed(seed)
    result = Network().eval()
    with torch.no_grad():  # a new layer's offsets are zero: shake it
        for parameter in result.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return result


def assert_as_good_as_pytorch(network: nn.Module, x: Tensor, y: Any, form: str) -> None:
    import copy

    with torch.no_grad():
        own, exact = network(x), copy.deepcopy(network).double()(x.double())
    assert y.shape == tuple(own.shape)
    assert relative_rms(y, exact) <= FACTOR[form] * relative_rms(own.numpy(), exact) + 5e-7


def relative_rms(actual: Any, wanted: Tensor) -> float:
    reference = wanted.double().numpy()
    return float(np.linalg.norm(actual.astype(np.float64) - reference) / np.linalg.norm(reference))


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("form", FORMS)
def test_network_computes_the_same(
    form: str, dynamic: bool, network: Network, tmp_path: Path, make_session: Any
) -> None:
    axes = {"image": {0: "n", 2: "h", 3: "w"}} if dynamic else None
    path = tmp_path / "network.onnx"
    result = dcn_deploy.export(
        network,
        torch.randn(1, 3, 33, 19),
        path,
        form=form,
        dynamic_shapes=axes,
        input_names=["image"],
        output_names=["features"],
    )
    assert result.nodes == 2
    assert result.inputs == {"image": ("n", 3, "h", "w") if dynamic else (1, 3, 33, 19)}
    assert list(result.outputs) == ["features"]
    assert form_of(path) == form
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version <= 10
    deformable = [n for n in model.graph.node if n.op_type in ("DeformConv2d", "DeformConv")]
    assert len(deformable) == (0 if form == "decomposed" else 2)
    session = make_session(path)
    for shape in [(1, 3, 33, 19), *([(2, 3, 19, 40), (1, 3, 1, 1), (3, 3, 7, 64)] if dynamic else [])]:
        x = torch.randn(shape)
        (y,) = session.run(None, {"image": x.numpy()})
        assert_as_good_as_pytorch(network, x, y, form)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("form", FORMS)
def test_mixed_precision(form: str, dtype: torch.dtype, tmp_path: Path, make_session: Any, seed: int) -> None:
    """Half features, float32 offsets and mask."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 4, 3, 3, dtype=dtype) / 6)

        def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
            half = x.to(dtype)
            return deform_conv2d(half, offset, self.weight, None, padding=1, mask=mask).float()

    torch.manual_seed(seed)
    module = Mixed().eval()
    args = (torch.randn(2, 4, 9, 11), 2 * torch.randn(2, 18, 9, 11), torch.rand(2, 9, 9, 11))
    path = tmp_path / "mixed.onnx"
    result = dcn_deploy.export(module, args, path, form=form)
    assert result.opset == (22 if dtype == torch.bfloat16 else 19 if form == "standard" else 18)
    assert result.metadata["precision"] == ("bf16" if dtype == torch.bfloat16 else "fp16")
    if dtype == torch.bfloat16 and form == "decomposed":
        return  # ONNX Runtime has no bfloat16 Conv on the CPU; the checker has seen the file
    with torch.no_grad():
        wanted = module(*args)
    names = [value.name for value in onnx.load(path).graph.input]
    feeds = {name: tensor.numpy() for name, tensor in zip(names, args, strict=True)}
    (y,) = make_session(path).run(None, feeds)
    assert relative_rms(y, wanted) <= (8e-3 if dtype == torch.bfloat16 else 1e-3)


def test_functional_call_without_mask_and_bias(tmp_path: Path) -> None:
    class Functional(nn.Module):
        def forward(self, x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
            return deform_conv2d(x, offset, weight, padding=(1, 2, 0, 1), stride=(1, 2))

    path = tmp_path / "functional.onnx"
    args = (torch.randn(1, 4, 9, 9), torch.randn(1, 18, 8, 5), torch.randn(2, 4, 3, 3))
    dcn_deploy.export(Functional().eval(), args, path)
    (node,) = onnx.load(path).graph.node
    assert (node.domain, node.op_type, list(node.input)) == ("dcn_deploy", "DeformConv2d", ["x", "weight", "offset"])
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert attributes == {
        "dilations": [1, 1],
        "group": 1,
        "kernel_shape": [3, 3],
        "offset_group": 1,
        "pads": [1, 2, 0, 1],
        "strides": [1, 2],
    }


def test_exported_program_is_taken_too(network: Network, tmp_path: Path) -> None:
    x = torch.randn(1, 3, 33, 19)
    program = torch.export.export(network, (x,))
    dcn_deploy.export(program, x, tmp_path / "program.onnx")
    assert form_of(tmp_path / "program.onnx") == "plugin"


def test_every_value_has_type_and_shape(network: Network, tmp_path: Path) -> None:
    for form in FORMS:
        path = tmp_path / f"{form}.onnx"
        dcn_deploy.export(
            network, torch.randn(2, 3, 33, 19), path, form=form, dynamic_shapes={"x": {0: "n", 2: "h", 3: "w"}}
        )
        graph = onnx.load(path).graph
        known = {v.name for v in [*graph.value_info, *graph.output] if v.type.tensor_type.HasField("shape")}
        assert {name for node in graph.node for name in node.output} <= known


def test_metadata_says_where_the_file_comes_from(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    x = torch.randn(1, 3, 33, 19)
    dcn_deploy.export(network, x, path, form="standard", source="zoo_name", weights="/somewhere/else/best.pt")
    read = metadata.read(path)
    digest = read.pop("weights_sha256")
    assert read == {
        "form": "standard",
        "opset": "19",
        "precision": "fp32",
        "source": "zoo_name",
        "version": dcn_deploy.__version__,
        "weights": "best.pt",
    }
    assert len(digest) == 64
    assert digest == metadata.state_dict_sha256(network.state_dict())
    with torch.no_grad():
        network.v1.weight[0, 0, 0, 0] += 1
    assert digest != metadata.state_dict_sha256(network.state_dict())
    assert onnx.load(path).producer_name == "dcn_deploy"


def test_same_network_gives_same_bytes_and_no_paths_of_this_machine(network: Network, tmp_path: Path) -> None:
    x = torch.randn(1, 3, 33, 19)
    for form in FORMS:
        for name in ("a", "b"):
            dcn_deploy.export(network, x, tmp_path / f"{name}.onnx", form=form, dynamic_shapes={"x": {0: "n"}})
        content = (tmp_path / "a.onnx").read_bytes()
        assert content == (tmp_path / "b.onnx").read_bytes()
        assert str(Path(__file__).parent).encode() not in content
        assert str(Path(torch.__file__).parent).encode() not in content


def test_external_data(network: Network, tmp_path: Path, make_session: Any) -> None:
    x = torch.randn(1, 3, 33, 19)
    path = tmp_path / "network.onnx"
    result = dcn_deploy.export(network, x, path, external_data=True)
    assert result.external_data == tmp_path / "network.onnx.data"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["network.onnx", "network.onnx.data"]
    (y,) = make_session(path).run(None, {"x": x.numpy()})
    assert_as_good_as_pytorch(network, x, y, "plugin")


@pytest.mark.parametrize(("form", "opset"), [("plugin", 18), ("plugin", 21), ("standard", 22), ("decomposed", 20)])
def test_chosen_opset(form: str, opset: int, network: Network, tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    result = dcn_deploy.export(network, torch.randn(1, 3, 33, 19), path, form=form, opset=opset)
    assert result.opset == opset
    assert {e.domain: e.version for e in onnx.load(path).opset_import}[""] == opset


def test_weights_and_training_flags_are_left_alone(network: Network, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    dcn_deploy.export(network, torch.randn(1, 3, 33, 19), tmp_path / "n.onnx", form="decomposed")
    assert not network.training
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


# ---- torchvision's operator ----

_TORCHVISION = """
    import sys
    from pathlib import Path
    import numpy as np
    import onnx
    import torch
    from torch import nn

    library = torch.library.Library("torchvision", "DEF")
    library.define(
        "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, "
        "SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, "
        "SymInt offset_groups, bool use_mask) -> Tensor"
    )

    import dcn_deploy
    from dcn_deploy.ops import deform_conv2d
    from dcn_deploy.export import FORMS

    @torch.library.impl(library, "deform_conv2d", "CPU")
    def _(input, weight, offset, mask, bias, sh, sw, ph, pw, dh, dw, groups, offset_groups, use_mask):
        return deform_conv2d(input, offset, weight, bias, (sh, sw), (ph, pw), (dh, dw), mask if use_mask else None)

    @torch.library.register_fake("torchvision::deform_conv2d")
    def _(input, weight, offset, mask, bias, sh, sw, ph, pw, dh, dw, groups, offset_groups, use_mask):
        return input.new_empty((input.shape[0], weight.shape[0], *offset.shape[2:]))

    class Layer(nn.Module):
        def __init__(self, use_mask, bias):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 2, 3, 2))
            self.bias = nn.Parameter(torch.randn(6)) if bias else None
            self.use_mask = use_mask

        def forward(self, x, offset, mask):
            # As torchvision.ops.deform_conv2d calls it.
            bias = torch.zeros(6) if self.bias is None else self.bias
            mask = mask if self.use_mask else torch.zeros((x.shape[0], 1))
            return torch.ops.torchvision.deform_conv2d(
                x, self.weight, offset, mask, bias, 2, 1, 1, 0, 1, 2, 2, 2, self.use_mask
            )

    torch.manual_seed(0)
    folder = Path(sys.argv[1])
    args = (torch.randn(2, 4, 9, 7), torch.randn(2, 24, 5, 5), torch.rand(2, 12, 5, 5))
    import onnxruntime
    for use_mask, bias in ((True, True), (False, False), (True, False)):
        layer = Layer(use_mask, bias).eval()
        for form in FORMS:
            path = folder / f"{form}_{use_mask}_{bias}.onnx"
            dcn_deploy.export(layer, args, path, form=form, input_names=["x", "offset", "mask"])
            model = onnx.load(path)
            if form != "decomposed":
                (node,) = [n for n in model.graph.node if n.op_type.startswith("DeformConv")]
                given = list(node.input) + [""] * (5 - len(node.input))
                assert (given[3] != "", given[4] != "") == (bias, use_mask), given
            options = onnxruntime.SessionOptions()
            options.register_custom_ops_library(str(dcn_deploy.library_path("onnxruntime")))
            session = onnxruntime.InferenceSession(str(path), options)
            feeds = {v.name: args[["x", "offset", "mask"].index(v.name)].numpy() for v in session.get_inputs()}
            (y,) = session.run(None, feeds)
            with torch.no_grad():
                wanted = layer(*args).numpy()
            assert np.linalg.norm(y - wanted) <= 3e-6 * np.linalg.norm(wanted), (form, use_mask, bias)
    print("all equal")
"""


def test_torchvision_operator_exports_in_every_form(tmp_path: Path, library: Path) -> None:
    """In a process of its own, since an operator once defined stays; torchvision itself is not needed."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(_TORCHVISION))
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "all equal" in done.stdout


# ---- refusals ----


def test_training_mode_is_refused(network: Network, tmp_path: Path) -> None:
    x = torch.randn(1, 3, 33, 19)
    with pytest.raises(
        ExportError, match=r"Network cannot be exported: expected eval mode, but it is .* Call model.eval\(\)"
    ):
        dcn_deploy.export(network.train(), x, tmp_path / "n.onnx")
    network.eval()
    network.norm.train()
    with pytest.raises(ExportError, match=r"its module 'norm' \(BatchNorm2d\) is in training mode"):
        dcn_deploy.export(network, x, tmp_path / "n.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("network.pt", r"path: expected a file name ending in \.onnx, got 'network\.pt'"),
        ("missing/network.onnx", r"path: expected a file in an existing folder, got .*Create the folder: mkdir -p"),
    ],
)
def test_unusable_paths_are_refused_at_once(path: str, message: str, network: Network, in_folder: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        dcn_deploy.export(network, torch.randn(1, 3, 33, 19), path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"form": "onnx"}, r"form: expected one of plugin, standard, decomposed, got 'onnx'"),
        ({"opset": 17}, r"opset: expected 18 \(which torch.onnx.export needs\) to 23, got 17"),
        (
            {"opset": 18, "form": "standard"},
            r"expected 19 \(which the standard operator DeformConv needs\) to 23, got 18",
        ),
        ({"opset": 99}, r"opset: expected 18 .* to 23, got 99"),
        ({"dynamic_shapes": {"image": {0: "n"}}}, r"dynamic_shapes: expected names of inputs \(x\), got 'image'"),
        ({"dynamic_shapes": {"x": {0: "n+1"}}}, r"dynamic_shapes\['x'\]\[0\]: expected a name made of letters"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str, network: Network, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        dcn_deploy.export(network, torch.randn(1, 3, 33, 19), tmp_path / "n.onnx", **arguments)


def test_something_else_than_a_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"model: expected a torch.nn.Module or .*, got int"):
        dcn_deploy.export(3, torch.randn(1), tmp_path / "n.onnx")


def test_axis_that_the_network_fixes_is_an_error(tmp_path: Path) -> None:
    """torch itself would go on with a fixed axis."""

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3 * 8 * 8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x.flatten(1))

    with pytest.raises(
        ExportError, match=r"(?s)(axis 2 of input 'x': expected the dynamic extent 'h', got 8|dynamic_shapes)"
    ):
        dcn_deploy.export(
            Flat().eval(), torch.randn(1, 3, 8, 8), tmp_path / "n.onnx", dynamic_shapes={"x": {0: "n", 2: "h"}}
        )
    assert not list(tmp_path.iterdir())


class TwoInputs(nn.Module):
    def __init__(self, fixed: bool = False) -> None:
        super().__init__()
        self.fixed = fixed

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x.reshape(2, 3) if self.fixed else x) + y.sum()


@pytest.mark.parametrize(
    "dynamic",
    [
        {"x": {0: "n"}},
        {"first": {0: "n"}},
        ({0: "n"}, None),
        {"x": {0: torch.export.Dim("n")}, "y": None},
    ],
    ids=["argument", "input_name", "tuple", "Dim"],
)
def test_ways_to_write_dynamic_shapes(dynamic: Any, tmp_path: Path) -> None:
    args = (torch.randn(2, 3), torch.randn(4))
    names = ["first", "second"]
    result = dcn_deploy.export(TwoInputs().eval(), args, tmp_path / "n.onnx", dynamic_shapes=dynamic, input_names=names)
    assert result.inputs == {"first": ("n", 3), "second": (4,)}
    with pytest.raises(
        ExportError, match=r"axis 0 of input 'first': expected the dynamic extent 'n', got 2|dynamic_shapes"
    ):
        dcn_deploy.export(
            TwoInputs(fixed=True).eval(), args, tmp_path / "m.onnx", dynamic_shapes=dynamic, input_names=names
        )
    assert not (tmp_path / "m.onnx").exists()


def test_data_dependent_control_flow_is_explained(tmp_path: Path) -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if x.sum() > 0 else x - 1

    with pytest.raises(
        ExportError, match=r"Branch cannot be exported .*depend on the values of tensors; use torch.cond"
    ):
        dcn_deploy.export(Branch().eval(), torch.randn(1, 3), tmp_path / "n.onnx")


def test_operator_without_translation_is_named(tmp_path: Path) -> None:
    @torch.library.custom_op("dcn_deploy_test::untranslatable", mutates_args=())
    def untranslatable(x: Tensor) -> Tensor:
        return x.clone()

    @untranslatable.register_fake
    def _(x: Tensor) -> Tensor:
        return torch.empty_like(x)

    class Foreign(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return untranslatable(x)

    with pytest.raises(ExportError, match=r"(?s)untranslatable.*This operator has no ONNX translation"):
        dcn_deploy.export(Foreign().eval(), torch.randn(1, 3), tmp_path / "n.onnx")


def test_wrong_inputs_are_explained(network: Network, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"Network cannot be exported \(.*\)\. Check that the example inputs fit"):
        dcn_deploy.export(network, (torch.randn(1, 3, 33, 19), torch.randn(1)), tmp_path / "n.onnx")


def test_errors_of_our_own_operator_come_through(tmp_path: Path) -> None:
    class Wrong(nn.Module):
        def forward(self, x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
            return deform_conv2d(x, offset, weight)

    args = (torch.randn(1, 4, 9, 9), torch.randn(1, 18, 3, 3), torch.randn(2, 4, 3, 3))
    with pytest.raises(ExportError, match=r"Wrong cannot be exported.*offset\.shape\[2\]: expected Ho = 7, got 3"):
        dcn_deploy.export(Wrong().eval(), args, tmp_path / "n.onnx")


class TakesDict(nn.Module):
    """The last input is a dict: torch.onnx.export takes such a one for keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = ModulatedDeformConv2d(4, 4, 3, padding=1)

    def forward(self, image: Tensor, extra: dict[str, Tensor], gain: Tensor | None = None) -> Tensor:
        y: Tensor = self.layer(image) * extra["scale"]
        return y if gain is None else y * gain


@pytest.mark.parametrize("gain", [False, True])
def test_a_dict_as_the_last_input(gain: bool, tmp_path: Path) -> None:
    network, image, extra = TakesDict().eval(), torch.randn(1, 4, 6, 5), {"scale": torch.tensor([3.0])}
    kwargs = {"gain": torch.tensor([-2.0])} if gain else None
    path = tmp_path / "n.onnx"
    result = dcn_deploy.export(
        network, (image, extra), path, form="standard", kwargs=kwargs, dynamic_shapes={"image": {0: "n"}}
    )
    assert list(result.inputs) == ["image", "extra_scale", *(["gain"] if gain else [])]
    assert result.inputs["image"][0] == "n"
    inputs = {"image": image, "extra_scale": extra["scale"], **(kwargs or {})}
    with dcn_deploy.runtime.create("onnxruntime", path) as runner:
        (y,) = runner.infer({name: value.numpy() for name, value in inputs.items()}).values()
    np.testing.assert_allclose(y, network(image, extra, **(kwargs or {})).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"input_names": ["a", "b", "c"]}, r"input_names: expected at most 2 name\(s\).*got 3 \(a, b, c\)"),
        ({"output_names": ["a", "b"]}, r"output_names: expected at most 1 name\(s\).*got 2 \(a, b\)"),
        ({"input_names": ["a", "a"]}, r"input_names\[1\]: expected a name of its own, got 'a', the name of input_n"),
        (
            {"input_names": ["a"], "output_names": ["a"]},
            r"output_names\[0\]: expected a name of its own, got 'a', the name of input_names\[0\]",
        ),
        ({"output_names": ["layer.weight"]}, "expected a name of its own, got 'layer.weight', the name of a weight"),
        ({"input_names": [""]}, r"input_names\[0\]: expected a name, got ''"),
        ({"input_names": "image"}, r"input_names: expected a sequence of names, got 'image'\. Write \['image'\]"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value),
)
def test_names_that_no_graph_can_have_are_refused(names: dict[str, Any], message: str, tmp_path: Path) -> None:
    args = (torch.randn(1, 4, 6, 5), {"scale": torch.tensor([3.0])})
    with pytest.raises(InvalidArgumentError, match=message):
        dcn_deploy.export(TakesDict().eval(), args, tmp_path / "n.onnx", **names)
    assert list(tmp_path.iterdir()) == []
