"""The library in its host: several nodes, several sessions, subgraphs, threads."""

from __future__ import annotations

import gc
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cases
import numpy as np
import peers
import pytest

from dcn_deploy.ops import reference

CASE = cases.by_name("unequal_groups")
SEVERAL = [cases.by_name(name) for name in ("unequal_groups", "depthwise", "kernel_1", "no_bias", "no_mask", "size_1")]


def _expected(case: Any, inputs: Any) -> Any:
    return reference.deform_conv2d(*peers.as_float64(inputs).in_order(), **case.reference_arguments)


def _assert_right(case: Any, inputs: Any, actual: Any) -> None:
    peers.assert_within(actual, _expected(case, inputs), peers.error_bound(case, inputs, "float32"))


@pytest.mark.parametrize("threads", [1, 3])
def test_several_nodes_in_one_session(threads: int, rng: Any, make_session: Any) -> None:
    inputs = [cases.make_inputs(case, rng, np.float32) for case in SEVERAL]
    session = make_session(peers.model(SEVERAL, form="plugin"), threads=threads)
    answers = session.run(None, peers.feed(inputs))
    for case, given, actual in zip(SEVERAL, inputs, answers, strict=True):
        _assert_right(case, given, actual)


def test_one_node_behind_another(rng: Any, make_model: Any, make_session: Any) -> None:
    """The first's output is the second's X; both have constant weights of their own."""
    from onnx import helper, numpy_helper

    case = cases.by_name("size_7")
    first, second = (cases.make_inputs(case, rng, np.float32) for _ in range(2))
    model = make_model(case, constants={"W": first.W, "B": first.B})
    node = model.graph.node[0]
    later = helper.make_node("DeformConv2d", ["Y", "W2", "offset", "B2", "mask"], ["Z"], name="z", domain=node.domain)
    later.attribute.extend(node.attribute)
    model.graph.node.append(later)
    model.graph.initializer.extend([numpy_helper.from_array(second.W, "W2"), numpy_helper.from_array(second.B, "B2")])
    model.graph.output.append(helper.make_empty_tensor_value_info("Z"))
    y, z = make_session(model).run(None, {"X": first.X, "offset": first.offset, "mask": first.mask})
    _assert_right(case, first, y)
    _assert_right(case, replace(second, X=y, offset=first.offset, mask=first.mask), z)


def test_the_refusal_names_the_node_that_is_wrong(make_session: Any) -> None:
    pair = [replace(CASE, name="good"), replace(CASE, name="bad")]
    model = peers.model(pair, form="plugin")
    model.graph.node[1].input[2] = "offset_0"  # fits
    make_session(model)
    model.graph.node[1].input[2] = "mask_1"
    with pytest.raises(Exception, match="'bad_1': input offset, axis 1: expected 36") as error:
        make_session(model)
    assert "good" not in str(error.value)


def test_library_registered_twice_in_one_session(rng: Any, library: Path, make_model: Any, make_session: Any) -> None:
    """ONNX Runtime takes a domain once: it refuses that session, in which nothing of ours could tell, and no other."""
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library))
    options.register_custom_ops_library(str(library))
    serialised = make_model(CASE).SerializeToString()
    with pytest.raises(Fail, match="Domain already set"):
        onnxruntime.InferenceSession(serialised, options)
    inputs = cases.make_inputs(CASE, rng, np.float32)
    _assert_right(CASE, inputs, make_session(serialised).run(None, inputs.named())[0])


def test_options_serve_several_sessions(rng: Any, library: Path, make_model: Any) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(library))
    inputs = cases.make_inputs(CASE, rng, np.float32)
    sessions = [onnxruntime.InferenceSession(make_model(CASE).SerializeToString(), options) for _ in range(2)]
    del options
    for session in sessions:
        _assert_right(CASE, inputs, session.run(None, inputs.named())[0])


def test_a_session_outlives_the_others(rng: Any, make_model: Any, make_session: Any) -> None:
    """Each has its own packed weights; releasing one leaves the others alone."""
    several = [cases.make_inputs(CASE, rng, np.float32) for _ in range(3)]
    sessions = [make_session(make_model(CASE, constants={"W": i.W, "B": i.B})) for i in several]
    while sessions:
        for session, inputs in zip(sessions, several, strict=True):
            _assert_right(CASE, inputs, session.run(None, {n: inputs.named()[n] for n in ("X", "offset", "mask")})[0])
        del session
        sessions.pop(0)
        several.pop(0)
        gc.collect()


def test_a_refused_session_leaves_the_next_one_alone(rng: Any, make_model: Any, make_session: Any) -> None:
    inputs = cases.make_inputs(CASE, rng, np.float32)
    for _ in range(3):
        with pytest.raises(Exception, match=r"strides\[0\]"):
            make_session(make_model(CASE, attributes={"strides": [0, 1]}))
        _assert_right(CASE, inputs, make_session(make_model(CASE)).run(None, inputs.named())[0])


def test_one_session_in_several_threads(rng: Any, make_model: Any, make_session: Any) -> None:
    several = [cases.make_inputs(CASE, rng, np.float32) for _ in range(4)]
    session = make_session(make_model(CASE), threads=2)
    alone = [session.run(None, inputs.named())[0] for inputs in several]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda i: session.run(None, several[i % 4].named())[0], range(40)))
    for number, answer in enumerate(answers):
        np.testing.assert_array_equal(answer, alone[number % 4])


def test_number_of_threads_changes_no_bit(rng: Any, make_model: Any, make_session: Any) -> None:
    feed = cases.make_inputs(CASE, rng, np.float32).named()
    (one,) = make_session(make_model(CASE), threads=1).run(None, feed)
    for threads in (2, 3):
        np.testing.assert_array_equal(make_session(make_model(CASE), threads=threads).run(None, feed)[0], one)


# Subgraphs.


def _in_a_branch(model: Any, case: Any) -> Any:
    """The model's node in the then-branch of an If, whose tensors are those of the graph around it."""
    from onnx import TensorProto, helper

    (node,) = model.graph.node
    node.output[0] = "Y_then"
    then = helper.make_graph(
        [node], "then", [], [helper.make_tensor_value_info("Y_then", TensorProto.FLOAT, [None] * 4)]
    )
    zero = helper.make_node(
        "ConstantOfShape", ["shape"], ["Y_else"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [0.0])
    )
    otherwise = helper.make_graph(
        [zero], "else", [], [helper.make_tensor_value_info("Y_else", TensorProto.FLOAT, [None] * 4)]
    )
    model.graph.initializer.append(helper.make_tensor("shape", TensorProto.INT64, [4], case.output_shape))
    model.graph.input.append(helper.make_tensor_value_info("deform", TensorProto.BOOL, []))
    del model.graph.node[:]
    model.graph.node.append(
        helper.make_node("If", ["deform"], ["Y"], name="if", then_branch=then, else_branch=otherwise)
    )
    return model


@pytest.mark.parametrize("constant", [True, False], ids=["constant-weights", "fed-weights"])
def test_node_in_a_branch_of_an_if(constant: bool, rng: Any, make_model: Any, make_session: Any) -> None:
    inputs = cases.make_inputs(CASE, rng, np.float32)
    feed = inputs.named()
    constants = {name: feed.pop(name) for name in ("W", "B")} if constant else {}
    session = make_session(_in_a_branch(make_model(CASE, constants=constants), CASE))
    for deform in (True, False, True):
        (y,) = session.run(None, {**feed, "deform": np.array(deform)})
        if deform:
            _assert_right(CASE, inputs, y)
        else:
            np.testing.assert_array_equal(y, np.zeros(CASE.output_shape))


def test_wrong_node_in_a_branch_is_refused(make_model: Any, refused: Any) -> None:
    refused(
        _in_a_branch(make_model(CASE, attributes={"pads": [-1, 0, 0, 0]}), CASE),
        "attribute pads[0] (top): expected at least 0, got -1",
    )


# What is not there.


def test_without_the_library_the_operator_is_unknown(make_model: Any, make_plain_session: Any) -> None:
    with pytest.raises(Exception, match="dcn_deploy"):
        make_plain_session(make_model(CASE))


def test_the_process_ends_cleanly_with_sessions_open(library: Path, make_model: Any, tmp_path: Path) -> None:
    """The domain lives as long as the library: an exit with open sessions must not crash."""
    (tmp_path / "model.onnx").write_bytes(make_model(CASE).SerializeToString())
    script = (
        "import sys, onnxruntime\n"
        "options = onnxruntime.SessionOptions()\n"
        "options.register_custom_ops_library(sys.argv[1])\n"
        "sessions = [onnxruntime.InferenceSession(sys.argv[2], options) for _ in range(2)]\n"
        "print(sessions[1].get_outputs()[0].shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(library), str(tmp_path / "model.onnx")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(list(CASE.output_shape))
