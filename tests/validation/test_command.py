"""``dcn-deploy validate`` from the command line to its exit status, on real backends and exported networks."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

import dcn_deploy
from dcn_deploy import models
from dcn_deploy.cli.main import main
from dcn_deploy.errors import LibraryNotBuiltError

FORMS = ("plugin", "standard", "decomposed")


def library_is_built():
    try:
        dcn_deploy.library_path("onnxruntime")
    except LibraryNotBuiltError:
        return False
    return True


needs_library = pytest.mark.skipif(not library_is_built(), reason="the ONNX Runtime library is not built")


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs ``dcn-deploy validate …``: exit status, standard output, standard error."""
    # Wide enough that no sentence is broken where a test looks for it.
    monkeypatch.setenv("COLUMNS", "300")

    def call(*arguments):
        with pytest.raises(SystemExit) as left:
            main(["validate", *map(str, arguments)])
        captured = capsys.readouterr()
        return left.value.code or 0, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The demonstration's network in three forms, and weights of it that differ from the initial ones."""
    import torch

    folder = tmp_path_factory.mktemp("exported")
    resolved = models.resolve("digits_dcn")
    other = models.create("digits_dcn", seed=7)
    torch.save(other.state_dict(), folder / "trained.pt")
    trained = models.resolve("digits_dcn", folder / "trained.pt")
    for form in FORMS:
        dcn_deploy.export(
            resolved.module,
            resolved.example_inputs,
            folder / f"{form}.onnx",
            form=form,
            input_names=resolved.input_names,
            output_names=("logits",),
            dynamic_shapes={"input": {0: "n"}},
            source="digits_dcn",
        )
    dcn_deploy.export(
        trained.module,
        trained.example_inputs,
        folder / "trained.onnx",
        form="standard",
        input_names=trained.input_names,
        output_names=("logits",),
        source="digits_dcn",
        weights=folder / "trained.pt",
    )
    return folder


def test_a_file_without_a_source_is_compared_with_itself(run, network, saved, tmp_path):
    path = saved(network(0))
    status, out, _ = run(path, "--backend", "onnxruntime,reference", "--samples", 2, "--json", tmp_path / "r.json")
    assert status == 0
    assert "PASSED" in out
    assert "this checks the runtime, not the export" in out
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["passed"] is True
    assert content["model"] == "model.onnx"
    assert [candidate["backend"] for candidate in content["candidates"]] == ["onnxruntime", "reference"]
    assert content["feeds"]["count"] == 2
    errors = [output["worst"]["relative_rms"] for output in content["candidates"][0]["outputs"]]
    assert 0 < errors[0] < 1e-6
    assert content["candidates"][1]["outputs"][0]["worst"]["relative_rms"] == 0


def test_a_perturbed_weight_fails_and_layers_name_the_node(run, network, saved):
    good = network(1)
    bad = onnx.ModelProto()
    bad.CopyFrom(good)
    for tensor in bad.graph.initializer:
        if tensor.name == "dcn.conv_offset.weight":
            values = numpy_helper.to_array(tensor).copy()
            values[3] *= 1.001
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    status, out, err = run(saved(bad, "bad.onnx"), "--reference", saved(good, "good.onnx"), "--layers", "--json", "-")
    assert status == 1
    content = json.loads(out)
    assert content["passed"] is False
    (layers,) = content["layers"]
    assert layers["first"]["node"] == "dcn.conv_offset"
    assert "'dcn.conv_offset.weight', differs by" in layers["differences"][0]
    assert "FAILED" in err  # with JSON on standard output the table moves to standard error


def test_several_backends_and_other_reference_backend(run, network, saved):
    path = saved(network(0))
    status, out, _ = run(path, "--reference", path, "--reference-backend", "onnxruntime", "--layers")
    assert status == 0
    assert "model.onnx in the backend 'onnxruntime'" in out


def test_tolerance_decides(run, network, saved):
    path = saved(network(0))
    assert run(path, "--tolerance", "1e-3")[0] == 0
    assert run(path, "--rtol-rms", "1e-12")[0] == 1


def test_stored_inputs_and_golden_outputs(run, network, saved, tmp_path, rng):
    path = saved(network(0))
    np.savez(tmp_path / "in.npz", **{f"{i}/input": rng.standard_normal((2, 3, 9, 9)) for i in range(2)})
    golden = tmp_path / "golden.npz"
    status, _, _ = run(path, "--inputs", tmp_path / "in.npz", "--save-golden", golden)
    assert status == 0
    status, out, _ = run(path, "--reference", golden)
    assert status == 0
    assert "golden file golden.npz (from the same file in the backend 'reference')" in " ".join(out.split())
    changed = dict(np.load(golden))
    changed["1/output:logit"] = changed["1/output:logit"] + 1e-4
    np.savez(tmp_path / "changed.npz", **changed)
    status, out, _ = run(path, "--reference", tmp_path / "changed.npz")
    assert status == 1
    assert "on 1 of 2 feeds, worst: changed.npz[1]" in out
    # A golden file has no layers of its own: they are compared with the same file in float64.
    status, out, _ = run(path, "--reference", tmp_path / "changed.npz", "--layers", "--json", tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["layers"][0]["first"] is None
    assert "look at export and weights" in " ".join(content["notes"])


def test_images_of_a_folder(run, network, saved, tmp_path, rng):
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(5):
        pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    path = saved(network(0))
    status, out, _ = run(path, "--images", folder, "--batch", 2, "--limit", 3, "--mean", "0.5", "--std", "0.25")
    assert status == 0
    assert "3 images from the folder images at 9×9, batch 2" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "nothing"], "backend: expected one of .*, got 'nothing'"),
        (["--backend", "tensorrt"], r"expected the path of an engine, got an ONNX model\. Build one: dcn-deploy build"),
        (["--backend", "torch"], "backend 'torch': expected a file that names the network it was exported from"),
        (["--reference", "absent.npz"], r"--reference: expected a file, got 'absent\.npz'"),
        (["--reference", "no_such_network"], "network: expected one of .*, got 'no_such_network'"),
        (["--inputs", "absent.npz"], r"expected an \.npz file, got no file 'absent\.npz'"),
        (["--images", "absent"], "--images: expected a folder, got no folder 'absent'"),
        (["--samples", "0"], "number of samples: expected at least 1, got 0"),
        (["--samples", "1", "--images", "."], "inputs: expected one source, got --images and --samples"),
        (["--batch", "2"], "--batch: expected --images DIR, got none"),
        (["--shape", "input=1,3,8,8"], r"expected \[n, 3, 9, 9\], got \[1, 3, 8, 8\]"),
        (["--weights", "w.pt"], "--weights: expected a reference that is a PyTorch network"),
        (["--images", ".", "--mean", "a,b"], "--mean: expected numbers separated by commas"),
        (["--tolerance", "-1"], "tolerance: expected a number ≥ 0, got -1"),
        (["--seed", "-1"], "seed: expected a whole number ≥ 0, got -1"),
        (["--threads", "0"], "threads: expected at least 1, got 0"),
        (["--save-golden", "a.txt"], r"golden file: expected a path that ends in \.npz, got 'a\.txt'"),
        (["--save-golden", "absent/a.npz"], "golden file: expected a folder to write it in, got no folder 'absent'"),
    ],
)
def test_bad_input_is_status_2_with_one_line(run, network, saved, arguments, message):
    status, out, err = run(saved(network(0)), *arguments)
    assert status == 2
    assert out == ""
    import re

    assert re.search(message, err), err
    assert len(err.strip().splitlines()) == 1


def test_files_that_are_no_model(run, tmp_path):
    status, _, err = run(tmp_path / "absent.onnx")
    assert status == 2
    assert "expected an ONNX file or an engine, got '" in err
    (tmp_path / "text.onnx").write_text("no model")
    status, _, err = run(tmp_path / "text.onnx")
    assert status == 2
    assert "expected an ONNX model" in err


HALF = """
import torch
from torch import nn
from dcn_deploy.nn import ModulatedDeformConv2d

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.deformable = ModulatedDeformConv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return self.deformable(self.norm(self.stem(x)).relu())

def half():
    return Network().eval().half()
"""


@needs_library
@pytest.mark.slow
def test_a_network_in_half_precision_is_compared_in_float32(run, tmp_path):
    (tmp_path / "networks.py").write_text(HALF)
    source, file = f"{tmp_path / 'networks.py'}:half", tmp_path / "half.onnx"
    command = [sys.executable, "-m", "dcn_deploy.cli.main", "export", source, "-o", str(file), "--shape", "x=1,3,12,14"]
    subprocess.run(command, check=True, capture_output=True)
    status, out, err = run(file, "--json", "-")
    assert status == 0, out + err
    content = json.loads(out)
    assert content["oracle"].endswith("in float32")
    # That of half precision: nothing else was rounded.
    assert 1e-5 < content["candidates"][0]["outputs"][0]["worst"]["relative_rms"] < 3e-3


@pytest.mark.slow
class TestExported:
    @pytest.mark.parametrize("form", [pytest.param("plugin", marks=needs_library), "standard", "decomposed"])
    def test_every_form_agrees_with_the_network_it_came_from(self, run, exported, form):
        status, out, _ = run(exported / f"{form}.onnx", "--shape", "input=3,1,32,32", "--samples", 2, "--json", "-")
        content = json.loads(out)
        assert status == 0, content
        assert content["oracle"] == "the PyTorch network digits_dcn in float32"
        assert 0 < content["candidates"][0]["outputs"][0]["worst"]["relative_rms"] < 5e-6

    @needs_library
    def test_forms_agree_with_each_other_layer_by_layer(self, run, exported):
        status, out, _ = run(
            exported / "decomposed.onnx", "--reference", exported / "plugin.onnx", "--layers", "--json", "-"
        )
        assert status == 0
        (layers,) = json.loads(out)["layers"]
        assert layers["first"] is None
        deformable = [step for step in layers["steps"] if len(step["nodes"]) > 4]
        assert len(deformable) == 3
        assert all(step["own"] <= step["own_limit"] for step in layers["steps"] if step["own"] is not None)

    def test_the_network_itself_can_be_judged(self, run, exported):
        status, out, _ = run(
            exported / "standard.onnx", "--backend", "torch", "--reference", exported / "standard.onnx"
        )
        assert status == 0, out

    def test_other_weights_of_the_same_network_are_refused(self, run, exported, tmp_path):
        moved = tmp_path / "trained.onnx"
        moved.write_bytes((exported / "trained.onnx").read_bytes())
        status, _, err = run(moved)
        assert status == 2
        assert "reference network digits_dcn: expected the weights of 'trained.pt' (SHA-256" in err
        assert "Give them with --weights trained.pt." in err
        status, out, _ = run(moved, "--weights", exported / "trained.pt")
        assert status == 0, out
        assert "digits_dcn with trained.pt" in out

    def test_recorded_weights_beside_the_file_are_found(self, run, exported):
        status, out, _ = run(exported / "trained.onnx")
        assert status == 0, out

    def test_another_network_is_compared_and_said_to_be_another(self, run, exported):
        status, out, _ = run(exported / "standard.onnx", "--reference", "digits_plain", "--json", "-")
        assert status == 1
        assert "the weights of the reference digits_plain are others" in json.loads(out)["notes"][0]

    def test_a_source_that_cannot_be_built_here(self, run, exported, tmp_path):
        model = onnx.load(exported / "standard.onnx")
        next(entry for entry in model.metadata_props if entry.key == "dcn_deploy.source").value = "gone.module.Net"
        onnx.save(model, tmp_path / "m.onnx")
        status, _, err = run(tmp_path / "m.onnx")
        assert status == 2
        assert "'m.onnx' says that it was exported from gone.module.Net, which cannot be built here: " in err
        assert f"or compare the file with itself: --reference {tmp_path / 'm.onnx'}." in err
        assert run(tmp_path / "m.onnx", "--reference", tmp_path / "m.onnx")[0] == 0

    def test_golden_outputs_of_other_weights_are_refused(self, run, exported, tmp_path):
        golden = tmp_path / "golden.npz"
        assert run(exported / "trained.onnx", "--save-golden", golden)[0] == 0
        assert run(exported / "trained.onnx", "--reference", golden)[0] == 0
        status, _, err = run(exported / "standard.onnx", "--reference", golden)
        assert status == 2
        assert "expected outputs of the weights that the model was exported with" in err
