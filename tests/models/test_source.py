"""What users may write for MODEL."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from dcn_deploy import models
from dcn_deploy.errors import ModelSourceError

SOURCE = """
import torch
from dcn_deploy.nn import ModulatedDeformConv2d
import neighbour

class Net(torch.nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.layer = ModulatedDeformConv2d(3, width, 3, padding=1)

    def forward(self, image, scale=None):
        return self.layer(image)

class Holder:
    @staticmethod
    def build():
        return Net(neighbour.WIDTH)

def build():
    return Net(neighbour.WIDTH).train()

def with_tuple():
    return Net(), (torch.zeros(1, 3, 8, 9),)

def with_dict():
    return Net(), {"picture": torch.zeros(1, 3, 8, 9)}

def with_numbers():
    return Net(), (1, 2)

def needs_argument(width):
    return Net(width)

def gives_text():
    return "a network"

def raises():
    raise KeyError("no such backbone")

ready = Net()
number = 3
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "my project"
    (folder / "pack").mkdir(parents=True)
    (folder / "net.py").write_text(SOURCE)
    (folder / "neighbour.py").write_text("WIDTH = 5\n")
    (folder / "pack" / "__init__.py").write_text("")
    (folder / "pack" / "nets_of_this_test.py").write_text(
        "from dcn_deploy import models\nbuild = lambda: models.create('digits_plain')\n"
    )
    (folder / "broken.py").write_text("import no_such_package_at_all\n")
    (folder / "raising.py").write_text("1 / 0\n")
    return folder


@pytest.fixture(autouse=True)
def unchanged_path():
    before = list(sys.path)
    yield
    assert sys.path == before
    for name in ("neighbour", "pack", "pack.nets_of_this_test"):
        sys.modules.pop(name, None)


def test_zoo_name_brings_example_inputs() -> None:
    resolved = models.resolve("digits_dcn")
    assert resolved.spec == "digits_dcn"
    assert resolved.input_names == ("input",)
    assert resolved.example_inputs is not None
    assert [tuple(tensor.shape) for tensor in resolved.example_inputs] == [(1, 1, 32, 32)]
    assert resolved.weights_path is None
    again = models.resolve("digits_dcn")
    assert again.example_inputs is not None
    assert torch.equal(resolved.example_inputs[0], again.example_inputs[0])


@pytest.mark.parametrize(("attribute", "width"), [("build", 5), ("Net", 4), ("Holder.build", 5), ("ready", 4)])
def test_file(project: Path, attribute: str, width: int) -> None:
    resolved = models.resolve(f"{project / 'net.py'}:{attribute}")
    assert resolved.module.layer.weight.shape == (width, 3, 3, 3)
    assert not resolved.module.training
    assert resolved.example_inputs is None
    assert resolved.input_names is None


@pytest.mark.parametrize(("attribute", "names"), [("with_tuple", ("image",)), ("with_dict", ("picture",))])
def test_file_with_example_inputs(project: Path, attribute: str, names: tuple[str, ...]) -> None:
    resolved = models.resolve(f"{project / 'net.py'}:{attribute}")
    assert resolved.input_names == names
    assert resolved.example_inputs is not None
    assert resolved.example_inputs[0].shape == (1, 3, 8, 9)


def test_relative_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    assert isinstance(models.resolve("net.py:build").module, torch.nn.Module)


def test_module_in_the_working_directory(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    network = models.resolve("pack.nets_of_this_test:build").module
    assert type(network).__name__ == "DigitsNet"


def test_two_files_of_one_name(project: Path) -> None:
    other = project / "pack" / "net.py"
    other.write_text("import torch\nbuild = torch.nn.Identity\n")
    assert type(models.resolve(f"{project / 'net.py'}:build").module).__name__ == "Net"
    assert type(models.resolve(f"{other}:build").module).__name__ == "Identity"


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("resnet50_dnc", r"expected one of .*got 'resnet50_dnc'\. Did you mean resnet50_dcn"),
        ("zzz", r"network: expected one of digits_dcn, .*got 'zzz'"),
        ("net.py", r"got 'net\.py'\. Name the callable: net\.py:build"),
        ("weights/model.onnx", r"expected a name of the zoo, package\.module:callable or .*\.py:callable"),
        (":build", r"expected a name of the zoo"),
        ("net.py:", r"expected a name of the zoo"),
        ("absent.py:build", r"expected an existing Python file, got '.*absent\.py'"),
        ("no_such_module_here:build", r"got no module named 'no_such_module_here'\. .*path/to/file\.py:callable"),
        ("pack.absent:build", r"got no module named 'pack\.absent'"),
        ("some/folder:build", r"got a path that does not end in \.py"),
        ("broken.py:build", r"importing it raised ModuleNotFoundError: .*no_such_package_at_all"),
        ("raising.py:build", r"importing it raised ZeroDivisionError: division by zero"),
        ("net.py:absent", r"expected an attribute 'absent', got 'net\.py' with .*build"),
        ("net.py:needs_argument", r"needs no argument, got needs_argument\(width\).*without arguments"),
        ("net.py:gives_text", r"expected a torch\.nn\.Module.*got a str\. Return the network"),
        ("net.py:raises", r"calling it raised KeyError: 'no such backbone'"),
        ("net.py:number", r"or a callable that returns one, got a int"),
        ("net.py:with_numbers", r"expected a tuple of tensors.*got int, int"),
    ],
)
def test_refusals(project: Path, monkeypatch: pytest.MonkeyPatch, spec: str, text: str) -> None:
    monkeypatch.chdir(project)
    with pytest.raises(ModelSourceError, match=text):
        models.resolve(spec)
