"""Planted faults: each must fail the validation, and the layers must name the node that has it."""

from __future__ import annotations

import io
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from dcn_deploy import runtime
from dcn_deploy.errors import InvalidArgumentError, UnsupportedError
from dcn_deploy.runtime.runner import TensorSpec
from dcn_deploy.validation import Feed, first_divergence, inputs, validate


def copy_of(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def node_of(model, name):
    return next(node for node in model.graph.node if node.name == name)


def change_weight(model, name, change):
    for tensor in model.graph.initializer:
        if tensor.name == name:
            values = numpy_helper.to_array(tensor).copy()
            tensor.CopyFrom(numpy_helper.from_array(change(values), name))
            return
    raise KeyError(name)


def insert_before(model, name, *nodes):
    """Put nodes in front of the node called ``name``."""
    place = [node.name for node in model.graph.node].index(name)
    for offset, node in enumerate(nodes):
        model.graph.node.insert(place + offset, node)


def perturbed_weight(model):
    def change(values):
        values[2, 1, 0, 1] += 0.002  # 1 % of a typical weight, one weight of 216
        return values

    change_weight(model, "dcn.weight", change)


def transposed_weight(model):
    change_weight(model, "dcn.weight", lambda values: np.ascontiguousarray(values.transpose(0, 1, 3, 2)))


def swapped_offsets(model):
    order = np.arange(18).reshape(9, 2)[:, ::-1].reshape(-1)
    model.graph.initializer.append(numpy_helper.from_array(order.astype(np.int64).copy(), "order"))
    insert_before(model, "dcn", helper.make_node("Gather", ["offset", "order"], ["offset_xy"], "swap", axis=1))
    node_of(model, "dcn").input[2] = "offset_xy"


def dropped_mask(model):
    node_of(model, "dcn").input.remove("mask")


def mask_without_sigmoid(model):
    node_of(model, "dcn").input[4] = "logits"


def half_coordinates(model):
    insert_before(
        model,
        "dcn",
        helper.make_node("Cast", ["offset"], ["offset_half"], "to_half", to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["offset_half"], ["offset_rounded"], "from_half", to=TensorProto.FLOAT),
    )
    node_of(model, "dcn").input[2] = "offset_rounded"


def swapped_pads(model):
    pads = next(attribute for attribute in node_of(model, "dcn").attribute if attribute.name == "pads")
    pads.ints[:] = [2, 1, 0, 1]


def wrong_stem_bias(model):
    change_weight(model, "stem.bias", lambda values: values + np.float32(1e-3))


#: fault, node at which it shows, what the report must say of the difference between the files
FAULTS = [
    (perturbed_weight, "dcn", "input 1 (W) of 'dcn', 'dcn.weight', differs by"),
    (transposed_weight, "dcn", "input 1 (W) of 'dcn', 'dcn.weight', differs by"),
    (swapped_offsets, "dcn", "input 2 (offset) of 'dcn' is 'offset_xy' here and 'offset' in the reference."),
    (dropped_mask, "dcn", "input 4 (mask) of 'dcn' is 'mask' in the reference and absent here."),
    (mask_without_sigmoid, "dcn", "input 4 (mask) of 'dcn' is 'logits' here and 'mask' in the reference."),
    (half_coordinates, "dcn", "input 2 (offset) of 'dcn' is 'offset_rounded' here and 'offset' in the reference."),
    (swapped_pads, "dcn", "attribute pads of 'dcn' is [2, 1, 0, 1] here and [1, 1, 1, 1] in the reference."),
    (wrong_stem_bias, "stem", "input 2 of 'stem', 'stem.bias', differs by"),
]


@pytest.mark.parametrize(("fault", "node", "difference"), FAULTS, ids=[fault.__name__ for fault, *_ in FAULTS])
def test_planted_fault_is_caught_and_named(network, seed, fault, node, difference):
    good = network(seed)
    bad = copy_of(good)
    fault(bad)
    onnx.checker.check_model(bad)
    with runtime.create("onnxruntime", bad) as candidate, runtime.create("reference", good) as reference:
        feeds = inputs.generated(candidate.inputs, count=2, seed=seed, shapes={"input": (2, 3, 9, 9)})
        report = validate([candidate], reference, feeds, model=bad)
        assert not report.passed
        divergence = first_divergence(bad, candidate, reference, feeds, reference_model=good)
    assert divergence.first is not None
    assert divergence.first.node == node
    assert any(difference in line for line in divergence.differences), divergence.differences
    assert divergence.first.own is not None
    assert divergence.first.own > divergence.first.own_limit
    before = divergence.steps[: divergence.steps.index(divergence.first)]
    assert not any(step.reason for step in before)
    assert f"part at node '{node}'" in divergence.summary
    assert "The error begins here" in divergence.summary


def test_the_same_file_agrees_everywhere(network, seed):
    model = network(seed)
    with runtime.create("onnxruntime", model) as candidate, runtime.create("reference", model) as reference:
        feeds = inputs.generated(candidate.inputs, seed=seed)
        divergence = first_divergence(model, candidate, reference, feeds, reference_model=model)
    model_tensors = [name for node in model.graph.node for name in node.output]
    assert divergence.first is None
    assert divergence.differences == ()
    assert "agree on all 12 tensors" in divergence.summary
    assert [step.tensor for step in divergence.steps] == model_tensors
    for step in divergence.steps:
        assert step.own is None or step.own <= step.own_limit, step


def test_a_fault_behind_the_first_is_not_named(network, seed):
    good = network(seed)
    bad = copy_of(good)
    perturbed_weight(bad)
    change_weight(bad, "head.weight", lambda values: values * np.float32(1.1))
    with runtime.create("onnxruntime", bad) as candidate, runtime.create("reference", good) as reference:
        feeds = inputs.generated(candidate.inputs, seed=seed)
        divergence = first_divergence(bad, candidate, reference, feeds, reference_model=good)
    assert divergence.first is not None
    assert divergence.first.node == "dcn"
    head = next(step for step in divergence.steps if step.node == "head")
    assert head.own is not None
    # On the reference's inputs the head alone is 10 % off, whatever came in: a second fault can be seen.
    assert head.own == pytest.approx(0.1, rel=0.2)
    assert not head.inputs_agree


def test_forms_are_matched_at_the_tensors_that_both_name(network, seed):
    """Where one file has many nodes for the other's one, they make up one step."""
    one = network(seed)
    many = copy_of(one)
    # relu(d) as max(d, 0) in three nodes of other names
    place = [node.name for node in many.graph.node].index("dcn_relu")
    del many.graph.node[place]
    many.graph.initializer.append(numpy_helper.from_array(np.array(0.02, np.float32), "shift"))
    for offset, node in enumerate(
        [
            helper.make_node("Add", ["d", "shift"], ["d_up"], "up"),
            helper.make_node("Sub", ["d_up", "shift"], ["d_down"], "down"),
            helper.make_node("Relu", ["d_down"], ["r"], "last"),
        ]
    ):
        many.graph.node.insert(place + offset, node)
    with runtime.create("onnxruntime", many) as candidate, runtime.create("reference", one) as reference:
        feeds = inputs.generated(candidate.inputs, seed=seed)
        agree = first_divergence(many, candidate, reference, feeds, reference_model=one)
        assert agree.first is None
        step = next(step for step in agree.steps if step.tensor == "r")
        assert step.nodes == ("up", "down", "last")
        assert set(step.inputs) == {"d", "shift"}
        assert step.own is not None
        assert 0 < step.own < 1e-5
    many.graph.node[place + 1].input[1] = "other_shift"
    many.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "other_shift"))
    with runtime.create("onnxruntime", many) as candidate, runtime.create("reference", one) as reference:
        parts = first_divergence(many, candidate, reference, feeds, reference_model=one)
    assert parts.first is not None
    assert parts.first.nodes == ("up", "down", "last")
    assert "at the end of 3 nodes that begin with 'up'" in parts.summary


def test_an_enlarged_error_is_named_where_it_is_enlarged():
    """A cosine near its zero enlarges the error of its input, which is within its own limit."""
    scale = numpy_helper.from_array(np.eye(4, dtype=np.float32) * 3, "scale")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "scale"], ["a"], "first"),
            helper.make_node("Cos", ["a"], ["y"], "steep"),
        ],
        "steep",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        initializer=[scale],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    # cos near π/2: relative error of the value is the absolute error of the argument over its distance
    x = np.full((1, 4), (np.pi / 2 + 1e-4) / 3, np.float32)
    with runtime.create("onnxruntime", model) as candidate, runtime.create("reference", model) as reference:
        divergence = first_divergence(model, candidate, reference, [Feed("near a zero", {"x": x})])
    assert divergence.first is not None
    assert divergence.first.node == "steep"
    assert divergence.first.inherited < 1e-6
    assert divergence.first.comparison.relative_rms > 1e-5


def test_different_operators_and_models_without_common_tensors(network, seed):
    good = network(seed)
    other = copy_of(good)
    node_of(other, "dcn_relu").op_type = "Abs"
    with runtime.create("onnxruntime", other) as candidate, runtime.create("reference", good) as reference:
        feeds = inputs.generated(candidate.inputs, seed=seed)
        divergence = first_divergence(other, candidate, reference, feeds, reference_model=good, run_alone=False)
    assert divergence.differences == ("'dcn_relu' is Abs here and Relu in the reference.",)
    assert divergence.first is not None
    assert divergence.first.own is None
    assert "The error begins here: its inputs are off by" in divergence.summary


def test_given_tolerance_and_no_feeds(network, seed):
    good = network(seed)
    bad = copy_of(good)
    perturbed_weight(bad)
    with runtime.create("onnxruntime", bad) as candidate, runtime.create("reference", good) as reference:
        feeds = inputs.generated(candidate.inputs, seed=seed)
        assert first_divergence(bad, candidate, reference, feeds, tolerance=0.5).first is None
        with pytest.raises(InvalidArgumentError, match="at least one feed"):
            first_divergence(bad, candidate, reference, [])


def test_table_and_json(network, seed):
    good = network(seed)
    bad = copy_of(good)
    dropped_mask(bad)
    with runtime.create("onnxruntime", bad) as candidate, runtime.create("reference", good) as reference:
        feeds = inputs.generated(candidate.inputs, seed=seed)
        divergence = first_divergence(bad, candidate, reference, feeds, reference_model=good, names=("new", "old"))
    stream = io.StringIO()
    Console(file=stream, width=200).print(divergence.to_table())
    text = stream.getvalue()
    assert "new against old, layer by layer" in text
    assert any("dcn" in line and "◀ here" in line for line in text.splitlines())
    content = json.loads(json.dumps(divergence.to_json(), allow_nan=False))
    assert content["first"]["node"] == "dcn"
    assert set(content) == {"candidate", "reference", "feeds", "summary", "first", "differences", "steps"}
    # The sigmoid is still there, unread; every tensor of the good file is in the bad one.
    assert [step["tensor"] for step in content["steps"]][:3] == ["s", "h", "o"]


def test_fake_runners_cannot_be_built_again(network, fake, seed):
    spec = TensorSpec("input", np.dtype(np.float32), (1, 3, 9, 9))
    runner = fake(lambda feed: {}, [spec])
    with pytest.raises(UnsupportedError, match="cannot be built a second time"):
        first_divergence(network(seed), runner, runner, inputs.generated([spec]))
