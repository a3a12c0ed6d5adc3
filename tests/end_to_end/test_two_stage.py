"""Detection heads from a PyTorch network to ONNX Runtime's answers on real photographs, in both forms.

Every head of the zoo, on a ResNet-18 to be quick, is exported by the command line with free image sizes and a free
number of boxes, and its answers in ONNX Runtime are compared with PyTorch's.
"""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch

from dcn_deploy import models
from dcn_deploy.export import form_of
from dcn_deploy.runtime import RunnerOptions, create

HEADS = ("faster_rcnn_dcn_v1", "faster_rcnn_dcn_v2", "rfcn_dcn")
FORMS = ("plugin", "decomposed")
SOURCE = """
from dcn_deploy import models

def build():
    return models.create({name!r}, backbone="resnet18"), dict(
        zip(models.entry({name!r}).inputs, models.example_inputs({name!r}), strict=True)
    )
"""


@pytest.fixture(scope="module", params=HEADS)
def head(request, tmp_path_factory, command):
    """(zoo name, folder with head.py, plugin.onnx and decomposed.onnx)."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "head.py").write_text(SOURCE.format(name=request.param))
    for form in FORMS:
        status = command(
            "export", f"{folder / 'head.py'}:build", "-o", folder / f"{form}.onnx", "--form", form,
            "--shape", "image=1,3,96,128", "--dynamic", "image=n,,h,w", "--dynamic", "rois=r", "--quiet",
        )  # fmt: skip
        assert status == 0
    return request.param, folder


def answers_of_torch(name, image, rois):
    with torch.inference_mode():
        network = models.create(name, backbone="resnet18")
        return [x.numpy() for x in network(torch.from_numpy(image), torch.from_numpy(rois))]


def of_one(rois, index=1):
    """The boxes in one photograph, for a batch of that one alone."""
    own = rois[rois[:, 0] == index].copy()
    own[:, 0] = 0
    return own


def answers_of(path, image, rois):
    with create("onnxruntime", path, options=RunnerOptions(threads=1)) as runner:
        return list(runner.infer({"image": image, "rois": rois}).values())


def feeds(photographs, seed):
    """Name → image and rois: one box, the boxes of one photograph, of both, and several hundred around those."""
    image, rois = photographs.image, photographs.rois
    random = np.random.default_rng(seed)
    many = np.repeat(rois, 25, axis=0)
    many[:, 1:] += random.normal(0, 4, size=(len(many), 4)).astype(np.float32)
    return {
        "one box": (image[:1], rois[:1]),
        "one photograph": (image[1:], of_one(rois)),
        "both photographs": (image, rois),
        "many boxes": (image, random.permutation(many)),
    }


def test_the_boxes_are_those_of_both_photographs(photographs):
    assert photographs.image.shape == (2, 3, 142, 213)
    assert photographs.rois.shape == (12, 5)
    assert len(photographs.names) == 12
    # the flower's boxes hold warm colours, what is around them does not
    (box,) = (photographs.rois[index] for index, name in enumerate(photographs.names) if name == "dahlia")
    _, x1, y1, x2, y2 = box.round().astype(int)
    red, blue = photographs.pixels[1, :, :, 0].astype(int), photographs.pixels[1, :, :, 2].astype(int)
    warm = red > blue + 60
    assert warm[y1:y2, x1:x2].mean() > 0.6
    warm[y1:y2, x1:x2] = False
    assert warm.mean() < 0.05


@pytest.mark.parametrize("form", FORMS)
def test_validation_on_photographs(head, form, photographs, seed, command, tmp_path):
    _, folder = head
    arguments = []
    for key, (image, rois) in feeds(photographs, seed).items():
        path = tmp_path / f"{key.replace(' ', '-')}.npz"
        np.savez(path, image=image, rois=rois)
        arguments += ["--inputs", path]
    status = command(
        "validate", folder / f"{form}.onnx", "--backend", "onnxruntime", *arguments, "--threads", 1,
        "--json", tmp_path / "report.json",
    )  # fmt: skip
    report = json.loads((tmp_path / "report.json").read_text())
    assert status == 0, report
    assert report["feeds"]["count"] == 4
    (candidate,) = report["candidates"]
    assert len(candidate["outputs"]) == 2
    for output in candidate["outputs"]:
        # equal to PyTorch, and not for want of a difference
        assert 0 < output["worst"]["relative_rms"] < 1e-4


def test_predictions_equal_pytorchs(head, photographs, seed):
    name, folder = head
    image, rois = feeds(photographs, seed)["many boxes"]
    expected_scores, expected_deltas = answers_of_torch(name, image, rois)
    assert len(set(expected_scores.argmax(axis=1))) > 1  # they do not all get one answer
    for form in FORMS:
        scores, deltas = answers_of(folder / f"{form}.onnx", image, rois)
        assert scores.shape == (300, 21)
        assert deltas.shape == expected_deltas.shape
        np.testing.assert_array_equal(scores.argmax(axis=1), expected_scores.argmax(axis=1), err_msg=form)


@pytest.mark.parametrize("form", FORMS)
def test_no_box_at_all(head, form, photographs):
    name, folder = head
    scores, deltas = answers_of(folder / f"{form}.onnx", photographs.image[:1], photographs.rois[:0])
    assert scores.shape == (0, 21)
    assert deltas.shape == (0, 8 if name == "rfcn_dcn" else 84)


def test_the_files_hold_what_the_forms_say(head):
    name, folder = head
    plugin, decomposed = (onnx.load(folder / f"{form}.onnx") for form in FORMS)
    assert [form_of(folder / f"{form}.onnx") for form in FORMS] == list(FORMS)
    pools = [node for node in plugin.graph.node if node.op_type == "DeformRoIPool2d"]
    assert len(pools) == models.entry(name).deformable_pools
    assert not [node for node in decomposed.graph.node if node.domain]
    for model in (plugin, decomposed):
        shapes = {x.name: [d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim] for x in model.graph.input}
        assert shapes == {"image": ["n", 3, "h", "w"], "rois": ["r", 5]}


@pytest.mark.parametrize("fault", ["no offset", "gamma 1 % larger"])
def test_a_faulty_pooling_fails_the_validation(head, fault, photographs, command, tmp_path):
    _, folder = head
    model = onnx.load(folder / "plugin.onnx")
    pool = next(node for node in model.graph.node if node.op_type == "DeformRoIPool2d" and len(node.input) > 2)
    if fault == "no offset":
        pool.input[2] = ""
    else:
        (gamma,) = (attribute for attribute in pool.attribute if attribute.name == "gamma")
        gamma.f *= 1.01
    onnx.save(model, tmp_path / "faulty.onnx")
    np.savez(tmp_path / "flower.npz", image=photographs.image[1:], rois=of_one(photographs.rois))
    status = command(
        "validate", tmp_path / "faulty.onnx", "--inputs", tmp_path / "flower.npz", "--threads", 1,
        "--reference", f"{folder / 'head.py'}:build", "--json", tmp_path / "report.json",
    )  # fmt: skip
    assert status == 1
    assert json.loads((tmp_path / "report.json").read_text())["passed"] is False
