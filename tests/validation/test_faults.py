"""What a validation with the table's limits lets through: a correct decomposed export, and none of the usual faults.

The decomposed form is the one with the widest limits, and the one whose subgraph other exporters get wrong.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import dcn_deploy
from dcn_deploy import models
from dcn_deploy.errors import LibraryNotBuiltError
from dcn_deploy.export import convert
from dcn_deploy.validation import inputs, validate_file

NETWORKS = ("single_dcn", "resnet18_dcn")


@pytest.fixture(scope="module", params=NETWORKS)
def standard(request, tmp_path_factory):
    """A network of the zoo at its example shape, exported with the standard operator."""
    resolved = models.resolve(request.param)
    path = tmp_path_factory.mktemp(request.param) / "standard.onnx"
    dcn_deploy.export(
        resolved.module,
        resolved.example_inputs,
        path,
        form="standard",
        input_names=resolved.input_names,
        source=request.param,
    )
    return path


def swap_y_and_x(model):
    """Read each pair of offset channels as (Δx, Δy)."""
    for node in _deformable(model):
        channels = 2 * _taps(model, node)
        order = np.arange(channels).reshape(-1, 2)[:, ::-1].reshape(-1)
        _insert(
            model,
            node,
            2,
            lambda source, result, order=order: [
                helper.make_node("Gather", [source, result + ".order"], [result], axis=1)
            ],
            {".order": order.astype(np.int64)},
        )


def halve_coordinates(model):
    """Round position plus offset to half precision, as a kernel does that keeps its coordinates in half."""
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.value_info, *model.graph.input)
    }
    for node in _deformable(model):
        taps = _taps(model, node)
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        _, _, height, width = shapes[node.input[2]]
        stride, pads = attributes.get("strides", [1, 1]), attributes.get("pads", [0] * 4)
        assert attributes.get("dilations", [1, 1]) == [1, 1]
        side = int(taps**0.5)
        base = np.zeros((1, 2 * taps, height, width), np.float32)
        for tap in range(taps):
            base[0, 2 * tap] = (np.arange(height) * stride[0] - pads[0] + tap // side)[:, None]
            base[0, 2 * tap + 1] = np.arange(width) * stride[1] - pads[1] + tap % side

        def steps(source, result):
            return [
                helper.make_node("Add", [source, result + ".base"], [result + ".position"]),
                helper.make_node("Cast", [result + ".position"], [result + ".half"], to=TensorProto.FLOAT16),
                helper.make_node("Cast", [result + ".half"], [result + ".rounded"], to=TensorProto.FLOAT),
                helper.make_node("Sub", [result + ".rounded", result + ".base"], [result]),
            ]

        _insert(model, node, 2, steps, {".base": base})


def drop_mask(model):
    """Compute v1 where the network has v2."""
    for node in _deformable(model):
        node.input[4] = ""


def _deformable(model):
    found = [node for node in model.graph.node if node.op_type == "DeformConv"]
    assert found
    return found


def _taps(model, node):
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    return int(np.prod(weight.dims[2:]))


def _insert(model, node, place, steps, constants):
    source = node.input[place]
    result = f"{node.output[0]}.input{place}"
    for suffix, array in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(array, result + suffix))
    at = list(model.graph.node).index(node)
    for offset, added in enumerate(steps(source, result)):
        model.graph.node.insert(at + offset, added)
    node.input[place] = result


def _judge(path, backend="onnxruntime"):
    return validate_file(
        path, [backend], resolve=models.resolve, make_feeds=lambda specs: inputs.generated(specs, count=1, seed=3)
    )


@pytest.mark.slow
@pytest.mark.parametrize("form", ["standard", "decomposed", "plugin"])
def test_a_correct_export_passes(standard, tmp_path, form):
    if form == "plugin":
        try:
            dcn_deploy.library_path("onnxruntime")
        except LibraryNotBuiltError:
            pytest.skip("the ONNX Runtime library is not built")
    onnx.save(convert(onnx.load(standard), form), tmp_path / "m.onnx")
    report = _judge(tmp_path / "m.onnx")
    (output,) = report.candidates[0].outputs
    assert output.passed, output
    assert output.worst.relative_rms > 0


@pytest.mark.slow
@pytest.mark.parametrize("form", ["standard", "decomposed"])
@pytest.mark.parametrize("fault", [swap_y_and_x, halve_coordinates, drop_mask])
def test_a_fault_fails(standard, tmp_path, form, fault):
    model = onnx.load(standard)
    fault(model)
    onnx.save(convert(model, form), tmp_path / "m.onnx")
    report = _judge(tmp_path / "m.onnx")
    (output,) = report.candidates[0].outputs
    assert not output.passed
    assert "is above" in output.reason
