"""Broken models are found by lint and refused by every conversion, and odd but sound ones are not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dcn_deploy.errors import InvalidModelError
from dcn_deploy.export import (
    convert,
    convert_file,
    fold_quantisation,
    lint,
    soundness,
    unfold_quantisation,
)

node = helper.make_node


def value(name: str, *shape: int, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto] = (value("x", 3),),
    output: str = "y",
    weights: Sequence[onnx.TensorProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, [value(output, 3)], weights)
    imports = [helper.make_opsetid(domain, version) for domain, version in (("", 19), ("local", 1), ("dcn_deploy", 1))]
    return helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=10)


def choice(then: onnx.GraphProto, otherwise: onnx.GraphProto) -> onnx.NodeProto:
    return node("If", ["condition"], ["y"], "choice", then_branch=then, else_branch=otherwise)


def branch(*nodes: onnx.NodeProto, output: str) -> onnx.GraphProto:
    return helper.make_graph(nodes, f"branch_{output}", [], [value(output, 3)])


def function(*used: str) -> onnx.FunctionProto:
    body = [node("Add", ["a", used[0]], ["b"], "inside")]
    return helper.make_function("local", "F", ["a"], ["b"], body, [helper.make_opsetid("", 19)])


def changed(tensor: onnx.TensorProto, change: Callable[[onnx.TensorProto], object]) -> onnx.TensorProto:
    change(tensor)
    return tensor


def too_few_numbers() -> onnx.TensorProto:
    result = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3])
    result.float_data.extend([1, 2])
    return result


CONDITION = (value("x", 3), value("condition", kind=TensorProto.BOOL))
GOOD_BRANCH = branch(node("Neg", ["x"], ["o"]), output="o")

#: what is wrong, as lint says it, and a model of which it is true
BROKEN: list[tuple[str, Callable[[], onnx.ModelProto]]] = [
    (
        "node 'n': input 1: expected a value that a node makes, or an input or initializer of the graph, got 'nowhere'",
        lambda: model([node("Add", ["x", "nowhere"], ["y"], "n")]),
    ),
    (
        "node 'inside': input 0: expected .* got 'nowhere'",
        lambda: model(
            [choice(GOOD_BRANCH, branch(node("Neg", ["nowhere"], ["p"], "inside"), output="p"))], inputs=CONDITION
        ),
    ),
    (
        "node 'inside': input 1: expected .* got 't'",
        lambda: model([node("F", ["x"], ["y"], domain="local")], functions=[function("t")]),
    ),
    ("no node makes 'nope', an output of the graph", lambda: model([node("Neg", ["x"], ["y"])], output="nope")),
    (
        "no node makes 'nope', an output of 'branch_nope'",
        lambda: model([choice(GOOD_BRANCH, branch(output="nope"))], inputs=CONDITION),
    ),
    (
        "node 'n': its inputs depend on its own output, through 'n'",
        lambda: model([node("Add", ["x", "y"], ["y"], "n")]),
    ),
    (
        "node 'first': its inputs depend on its own output, through 'first' → 'third' → 'second'",
        lambda: model(
            [
                node("Add", ["x", "c"], ["a"], "first"),
                node("Neg", ["a"], ["b"], "second"),
                node("Neg", ["b"], ["c"], "third"),
                node("Neg", ["c"], ["y"], "behind"),
            ]
        ),
    ),
    (
        "node 'choice': its inputs depend on its own output, through 'choice'",
        lambda: model([choice(GOOD_BRANCH, branch(node("Neg", ["y"], ["p"]), output="p"))], inputs=CONDITION),
    ),
    (
        r"weight 'w' \(float32 2×3\): expected 24 bytes, got 5 bytes",
        lambda: model(
            [node("MatMul", ["w", "x"], ["y"])],
            weights=[changed(weight("w", 2, 3), lambda t: setattr(t, "raw_data", bytes(5)))],
        ),
    ),
    (
        r"weight 'w' \(float32 3\): expected 12 bytes, got others",
        lambda: model([node("Add", ["w", "x"], ["y"])], weights=[too_few_numbers()]),
    ),
    (
        r"weight 'w' \(float32 3\): expected 12 bytes, got 16 bytes",
        lambda: model(
            [
                node("Constant", [], ["k"], value=changed(weight("w", 3), lambda t: setattr(t, "raw_data", bytes(16)))),
                node("Add", ["k", "x"], ["y"]),
            ]
        ),
    ),
]


@pytest.mark.parametrize(("message", "broken"), BROKEN)
def test_broken(
    message: str, broken: Callable[[], onnx.ModelProto], in_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    onnx.save(broken(), "broken.onnx")
    for source in (broken(), "broken.onnx"):
        (finding,) = lint(source)
        assert finding.rule in ("broken-graph", "broken-weight")
        assert finding.severity == "error"
        with pytest.raises(InvalidModelError, match=message) as caught:
            convert(source, "plugin")
        assert finding.remedy in str(caught.value)
    with pytest.raises(InvalidModelError, match=rf"'broken.onnx' is broken: {message}"):
        convert_file("broken.onnx", "out.onnx", "plugin")
    for unfolded in (fold_quantisation, unfold_quantisation):
        with pytest.raises(InvalidModelError, match=message):
            unfolded(broken())
    assert [path.name for path in in_folder.iterdir()] == ["broken.onnx"]
    assert not caplog.records


@pytest.mark.parametrize(
    "sound",
    [
        lambda: model([node("Neg", ["b"], ["y"]), node("Neg", ["x"], ["b"])]),  # runtimes sort the nodes themselves
        lambda: model([node("Clip", ["x", "", "m"], ["y"])], inputs=(value("x", 3), value("m"))),
        lambda: model([node("Dropout", ["x"], ["y", ""])]),
        lambda: model(
            [node("Neg", ["a"], ["b"]), choice(GOOD_BRANCH, branch(output="b"))], inputs=(*CONDITION, value("a", 3))
        ),
        lambda: model(
            [node("Add", ["x", "w"], ["y"])], inputs=(value("x", 3), value("w", 3)), weights=[weight("w", 3)]
        ),
        lambda: model([node("F", ["x"], ["y"], domain="local")], functions=[function("a")]),
        lambda: model([node("Unknown", ["x"], ["y"], domain="com.microsoft")]),
        lambda: model(
            [node("Neg", ["x"], ["y"])],
            weights=[
                weight("empty", 0, 3),
                weight("scalar"),
                helper.make_tensor("half", TensorProto.FLOAT16, [3], [1, 2, 3]),
                helper.make_tensor("text", TensorProto.STRING, [2], [b"a", b"b"]),
                helper.make_tensor("int4", TensorProto.INT4, [3], [1, 2, 3]),
                helper.make_tensor("complex", TensorProto.COMPLEX64, [2], [1j, 2]),
                helper.make_tensor("float8", TensorProto.FLOAT8E4M3FN, [3], [1, 2, 3]),
                helper.make_tensor("bools", TensorProto.BOOL, [3], [True, False, True]),
            ],
        ),
    ],
)
def test_odd_but_sound(sound: Callable[[], onnx.ModelProto]) -> None:
    assert lint(sound()) == []
    convert(sound(), "plugin")


def test_a_name_given_twice_is_named(in_folder: Path) -> None:
    twice = model([node("Neg", ["x"], ["y"]), node("Relu", ["x"], ["y"])])
    onnx.save(twice, "twice.onnx")
    for source in (twice, "twice.onnx"):
        with pytest.raises(InvalidModelError, match=r"cannot be read as an ONNX model \(.*'y'.*\)"):
            lint(source)


def test_a_long_graph_takes_no_longer_than_reading_it() -> None:
    import onnx_ir as ir

    nodes = [node("Neg", [f"v{i}"], [f"v{i + 1}"]) for i in range(20000)]
    loaded = ir.from_proto(model(nodes[::-1], inputs=[value("v0", 3)], output="v20000"))
    started = time.perf_counter()
    assert not list(soundness.graph_problems(loaded))
    assert time.perf_counter() - started < 10


# ---- files of weights ----


def write(folder: Path, *, location: str = "big.data", **entries: Any) -> None:
    """Write ``in.onnx`` with two weights in a data file."""
    tensors = [weight("w", 4, 3), weight("v", 4, 3)]
    data = b""
    for tensor in tensors:
        onnx.external_data_helper.set_external_data(tensor, location, len(data), entries.get("length", 48))
        data += tensor.raw_data
        tensor.ClearField("raw_data")
    (folder / "big.data").write_bytes(data)
    nodes = [node("MatMul", ["w", "x"], ["a"]), node("MatMul", ["v", "x"], ["b"]), node("Add", ["a", "b"], ["y"])]
    (folder / "in.onnx").write_bytes(model(nodes, weights=tensors).SerializeToString())


def refusal_of(path: str) -> str:
    (finding,) = [finding for finding in lint(path) if finding.severity == "error"]
    assert finding.rule == "broken-weight"
    with pytest.raises(InvalidModelError) as caught:
        convert_file(path, "out.onnx", "plugin")
    assert not Path("out.onnx").exists()
    assert str(caught.value) == f"'{path}' is broken: {finding.message} {finding.remedy}"
    return finding.message


def test_a_data_file_that_is_missing_short_or_another(in_folder: Path) -> None:
    write(in_folder)
    assert lint("in.onnx") == []
    Path("big.data").write_bytes(bytes(50))
    assert refusal_of("in.onnx") == (
        "weight 'v' (float32 4×3): expected 48 bytes from byte 48 on in 'big.data', got a file of 50 bytes."
    )
    Path("big.data").write_bytes(bytes(3))
    assert refusal_of("in.onnx") == (
        "weight 'w' (float32 4×3): expected 48 bytes from byte 0 on in 'big.data', got a file of 3 bytes. "
        "The same goes for 1 more of that file's weights."
    )
    Path("big.data").unlink()
    assert refusal_of("in.onnx").startswith(
        "weight 'w' (float32 4×3): expected 48 bytes in 'big.data', got no such file (No such file or directory)."
    )
    write(in_folder, length=40)
    assert "expected 48 bytes, got a reference to 40 bytes of 'big.data'" in refusal_of("in.onnx")
    write(in_folder)
    os.link("big.data", "second.data")
    assert "expected 48 bytes in 'big.data', got a file that is not read: " in refusal_of("in.onnx")
    (in_folder / "below").mkdir()
    write(in_folder / "below", location="../second.data")
    assert "in 'below/../second.data', got a file that is not read: " in refusal_of("below/in.onnx")


def test_references_of_a_model_in_memory_are_not_followed(in_folder: Path) -> None:
    write(in_folder)
    loaded = onnx.load("in.onnx", load_external_data=False)
    Path("big.data").unlink()
    assert lint(loaded) == []
