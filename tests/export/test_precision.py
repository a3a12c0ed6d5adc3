"""Element types: which tensor has which, what stays float32, and what it does to the numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from engine_networks import small_network
from onnx import TensorProto, helper, numpy_helper

from dcn_deploy.errors import InvalidArgumentError
from dcn_deploy.export import convert, convert_file, infer_shapes, metadata
from dcn_deploy.runtime import create
from dcn_deploy.validation import compare

SINGLE, HALF, BRAIN, DOUBLE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor, as shape inference finds it, checked by the onnx package's own checker first."""
    onnx.checker.check_model(model, full_check=False)
    inferred = infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in inferred.initializer}


def inputs_of(model: onnx.ModelProto, name: str) -> list[int]:
    """Element types of a node's inputs; 0 where nothing is connected."""
    types = types_of(model)
    (node,) = (node for node in model.graph.node if node.name == name)
    return [types.get(tensor, 0) for tensor in node.input]


def nodes_of(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def run(model: onnx.ModelProto, **feed: np.ndarray) -> np.ndarray:
    with create("onnxruntime", model) as runner:
        (result,) = runner.infer(feed).values()
    return result


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, 4, 6, 7)).astype(np.float32)


@pytest.mark.parametrize(("precision", "own"), [("fp16", HALF), ("bf16", BRAIN)])
def test_every_tensor_in_one_type(precision: str, own: int) -> None:
    model = convert(small_network(mask=True), precision=precision)
    assert inputs_of(model, "conv_offset") == [own, own]
    assert inputs_of(model, "sigmoid") == [own]
    assert inputs_of(model, "dcn") == [own, own, own, 0, own]
    assert metadata.read(model)["precision"] == precision


def test_mixed_keeps_the_branch_of_the_offsets_in_float32() -> None:
    model = convert(small_network(mask=True), precision="mixed")
    assert inputs_of(model, "conv_offset") == [SINGLE, SINGLE]
    assert inputs_of(model, "sigmoid") == [SINGLE]
    assert inputs_of(model, "dcn") == [HALF, HALF, SINGLE, 0, SINGLE]
    assert metadata.read(model)["precision"] == "mixed"
    # The input is float32 already, so that one Cast in and one out are all there is.
    assert nodes_of(model).count("Cast") == 2


def test_inputs_and_outputs_keep_their_types() -> None:
    for precision in ("fp16", "bf16", "mixed"):
        model = convert(small_network(), precision=precision)
        types = types_of(model)
        assert (types["x"], types["y"]) == (SINGLE, SINGLE)
        assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["x", "y"]


def test_bfloat16_raises_the_opset() -> None:
    model = convert(small_network(), precision="bf16")
    assert next(entry.version for entry in model.opset_import if not entry.domain) == 22


def test_the_way_back_restores_nodes_and_types() -> None:
    source = small_network(mask=True)
    for precision in ("fp16", "mixed"):
        again = convert(convert(source, precision=precision), precision="fp32")
        assert nodes_of(again) == nodes_of(source)
        assert set(types_of(again).values()) == {SINGLE, TensorProto.INT64}


def test_double_becomes_float32() -> None:
    source = small_network()
    for value in (*source.graph.input, *source.graph.output):
        value.type.tensor_type.elem_type = DOUBLE
    for tensor in source.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    model = convert(source, precision="fp32")
    assert inputs_of(model, "dcn") == [SINGLE] * 3
    assert (types_of(model)["x"], types_of(model)["y"]) == (DOUBLE, DOUBLE)


@pytest.mark.parametrize("form", ["plugin", "decomposed", "standard"])
@pytest.mark.parametrize("precision", ["fp16", "mixed"])
def test_results_are_within_half_precision(form: str, precision: str) -> None:
    """ONNX Runtime in half against the float64 reference of the network in float32."""
    source = small_network(mask=True)
    with create("reference", source) as runner:
        exact = runner.infer({"x": image()})["y"]
    half = run(convert(source, form, precision=precision), x=image())
    # Offsets of about a pixel in half precision are off by up to 2⁻¹¹, mixed ones are not.
    limit = 1.5e-3 if precision == "mixed" else 5e-3
    assert 1e-5 < compare(half, exact).relative_rms < limit


def test_bfloat16_rounds_weights_and_nothing_else_is_lost() -> None:
    """ONNX Runtime's CPU has no convolution in bfloat16: back in float32, what is left is the weights' rounding."""
    source = small_network()
    again = convert(convert(source, precision="bf16"), precision="fp32")
    for tensor in source.graph.initializer:
        rounded = numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    np.testing.assert_array_equal(run(again, x=image()), run(source, x=image()))


def test_decomposed_in_mixed_has_a_float32_grid_and_goes_back() -> None:
    source = convert(small_network(mask=True), precision="mixed")
    model = convert(source, "decomposed")
    types = types_of(model)
    (sample,) = (node for node in model.graph.node if node.op_type == "GridSample")
    (product,) = (node for node in model.graph.node if node.name == "dcn")
    assert [types[tensor] for tensor in sample.input] == [SINGLE, SINGLE]
    assert [types[tensor] for tensor in product.input if tensor] == [HALF, HALF]
    again = convert(model, "plugin")
    assert nodes_of(again) == nodes_of(source)
    # And straight from the decomposed form, as from any.
    other = convert(convert(small_network(mask=True), "decomposed"), precision="mixed")
    assert nodes_of(other) == nodes_of(model)


def between(*nodes: onnx.NodeProto, constants: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """The small network behind nodes that make ``z`` of ``x``."""
    model = small_network()
    for index, node in enumerate(nodes):
        model.graph.node.insert(index, node)
    for node in model.graph.node[len(nodes) :]:
        for position, name in enumerate(node.input):
            node.input[position] = "z" if name == "x" else name
    for name, array in (constants or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def test_a_constant_beyond_float16_keeps_its_node_in_float32(tmp_path: Path) -> None:
    scale = np.array(1e5, np.float32)
    model = between(
        helper.make_node("Mul", ["x", "scale"], ["large"], name="up"),
        helper.make_node("Div", ["large", "scale"], ["z"], name="down"),
        constants={"scale": scale},
    )
    onnx.save(model, tmp_path / "m.onnx")
    result = convert_file(tmp_path / "m.onnx", tmp_path / "h.onnx", precision="fp16")
    assert result.kept_float32 == ("up", "down")
    assert result.to_json()["kept_float32"] == ["up", "down"]
    half = onnx.load(tmp_path / "h.onnx")
    assert inputs_of(half, "up") == [SINGLE, SINGLE]
    assert inputs_of(half, "dcn") == [HALF] * 3
    assert np.isfinite(run(half, x=image())).all()


def test_infinity_is_no_overflow() -> None:
    model = between(
        helper.make_node("Min", ["x", "bound"], ["z"], name="clip"), constants={"bound": np.array(np.inf, np.float32)}
    )
    assert inputs_of(convert(model, precision="fp16"), "clip") == [HALF, HALF]


def test_an_epsilon_keeps_what_divides_by_it_in_float32(tmp_path: Path) -> None:
    """As ``F.normalize`` is exported: in half, 1e-12 is 0, and a zero vector over its norm no number."""
    model = between(
        helper.make_node("ReduceL2", ["x", "axes"], ["norm"], name="norm"),
        helper.make_node("Clip", ["norm", "epsilon"], ["clipped"], name="clip"),
        helper.make_node("Shape", ["x"], ["extents"], name="shape"),
        helper.make_node("Expand", ["clipped", "extents"], ["divisor"], name="expand"),
        helper.make_node("Div", ["x", "divisor"], ["z"], name="div"),
        constants={"epsilon": np.array(1e-12, np.float32), "axes": np.array([1])},
    )
    onnx.save(model, tmp_path / "m.onnx")
    result = convert_file(tmp_path / "m.onnx", tmp_path / "h.onnx", precision="fp16")
    assert result.kept_float32 == ("clip", "expand", "div")
    half = onnx.load(tmp_path / "h.onnx")
    assert inputs_of(half, "norm")[0] == HALF
    assert inputs_of(half, "div") == [SINGLE, SINGLE]
    assert inputs_of(half, "dcn") == [HALF] * 3
    assert (run(half, x=0 * image()) == 0).all()


def test_an_epsilon_under_a_logarithm() -> None:
    """In a Constant node, behind a Cast: the Add still uses it, and the Log takes the sum unrounded."""
    model = between(
        helper.make_node("Constant", [], ["wide"], name="constant", value_float=1e-8),
        helper.make_node("Cast", ["wide"], ["epsilon"], name="cast", to=SINGLE),
        helper.make_node("Add", ["x", "epsilon"], ["sum"], name="add"),
        helper.make_node("Log", ["sum"], ["z"], name="log"),
    )
    half = convert(model, precision="fp16")
    assert inputs_of(half, "log") == [SINGLE]
    assert np.isfinite(run(half, x=0 * image())).all()


@pytest.mark.parametrize("small", [0.0, 2.0**-14, float("inf"), [1e-8, 1.0], [1e-8, 1e-8]])
def test_zero_what_float16_holds_and_weights_are_no_epsilon(small: float | list[float]) -> None:
    array = np.resize(np.array(small, np.float32), (7,) if isinstance(small, list) else ())
    model = between(helper.make_node("Add", ["x", "small"], ["z"], name="add"), constants={"small": array})
    assert inputs_of(convert(model, precision="fp16"), "add") == [HALF, HALF]


def resized(*nodes: onnx.NodeProto, constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    """``x`` [N, 4, H, W] resized as ``nodes`` say from ``extents``, its shape in float32: scales or sizes."""
    sizes = nodes[-1].output[0]
    graph = helper.make_graph(
        [
            helper.make_node("Shape", ["x"], ["shape"], name="shape"),
            helper.make_node("Cast", ["shape"], ["extents"], name="extents", to=SINGLE),
            *nodes,
            helper.make_node(
                "Resize", ["x", "", *(["scales"] if sizes == "scales" else ["", "sizes"])], ["y"], name="resize"
            ),
        ],
        "resized",
        [helper.make_tensor_value_info("x", SINGLE, ["n", 4, "h", "w"])],
        [helper.make_tensor_value_info("y", SINGLE, ["n", 4, "a", "b"])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)


@pytest.mark.parametrize("precision", ["fp16", "mixed"])
def test_arithmetic_on_extents_stays_float32(precision: str) -> None:
    """A tenth of ten is one; in half a tenth is less, and the floor 0."""
    model = resized(
        helper.make_node("Mul", ["extents", "factors"], ["scaled"], name="mul"),
        helper.make_node("Floor", ["scaled"], ["whole"], name="floor"),
        helper.make_node("Cast", ["whole"], ["sizes"], name="sizes", to=TensorProto.INT64),
        constants={"factors": np.array([1, 1, 0.1, 1 / 3], np.float32)},
    )
    half = convert(model, precision=precision)
    assert inputs_of(half, "resize") == [HALF, 0, 0, TensorProto.INT64]
    x = np.ones((1, 4, 10, 9), np.float32)
    assert run(model, x=x).shape == run(half, x=x).shape == (1, 4, 1, 3)


def test_extents_that_features_use_too_stay_float32_up_to_those() -> None:
    model = resized(
        helper.make_node("Sub", ["extents", "one"], ["less"], name="sub"),
        helper.make_node("Add", ["less", "one"], ["again"], name="add"),
        helper.make_node("Cast", ["again"], ["sizes"], name="sizes", to=TensorProto.INT64),
        constants={"one": np.array(1, np.float32)},
    )
    model.graph.node[-1].output[0] = "same"
    model.graph.node.append(helper.make_node("ReduceMax", ["less"], ["largest"], name="largest", keepdims=0))
    model.graph.node.append(helper.make_node("Div", ["same", "largest"], ["y"], name="div"))
    half = convert(model, precision="fp16")
    assert inputs_of(half, "sub") == inputs_of(half, "add") == [SINGLE, SINGLE]
    assert inputs_of(half, "largest") == [HALF]
    assert inputs_of(half, "div") == [HALF, HALF]
    # 4097 takes 13 bits, float16 has 11.
    assert run(half, x=np.ones((1, 4, 1, 4097), np.float32)).shape == (1, 4, 1, 4097)


def test_what_computes_scales_stays_float32() -> None:
    model = resized(
        helper.make_node("Mul", ["extents", "tenths"], ["scaled"], name="mul"),
        helper.make_node("Div", ["scaled", "extents"], ["scales"], name="div"),
        constants={"tenths": np.array([1, 1, 0.1, 0.1], np.float32)},
    )
    half = convert(model, precision="fp16")
    assert inputs_of(half, "mul") == inputs_of(half, "div") == [SINGLE, SINGLE]
    x = np.ones((1, 4, 4010, 10), np.float32)
    assert run(half, x=x).shape == run(model, x=x).shape


def test_indices_of_features_stay_float32_up_to_the_convolution() -> None:
    """What else uses a map keeps it in half, and weights are not needed in float32 for the sake of an index."""
    model = small_network()
    model.graph.node.append(helper.make_node("Mul", ["y", "levels"], ["steps"], name="mul"))
    model.graph.node.append(helper.make_node("Floor", ["steps"], ["whole"], name="floor"))
    model.graph.node.append(helper.make_node("Cast", ["whole"], ["index"], name="index", to=TensorProto.INT32))
    model.graph.initializer.append(numpy_helper.from_array(np.array(1000, np.float32), "levels"))
    model.graph.output.append(helper.make_tensor_value_info("index", TensorProto.INT32, [1, 8, 6, 7]))
    half = convert(model, precision="fp16")
    assert inputs_of(half, "mul") == [SINGLE, SINGLE]
    assert inputs_of(half, "floor") == [SINGLE]
    assert inputs_of(half, "dcn") == [HALF] * 3


@pytest.mark.parametrize("precision", ["fp16", "mixed", "bf16"])
def test_a_default_of_an_input_can_still_be_overridden(precision: str) -> None:
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "gain"], ["y"], name="mul")],
        "gained",
        [helper.make_tensor_value_info(name, SINGLE, shape) for name, shape in (("x", [3]), ("gain", []))],
        [helper.make_tensor_value_info("y", SINGLE, [3])],
        [numpy_helper.from_array(np.array(1, np.float32), "gain")],
    )
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    model = convert(source, precision=precision)
    assert types_of(model)["gain"] == SINGLE
    assert [value.name for value in model.graph.input] == ["x", "gain"]
    (mul,) = (node for node in model.graph.node if node.name == "mul")
    (cast,) = (node for node in model.graph.node if node.output[0] == mul.input[1])
    assert (cast.op_type, list(cast.input)) == ("Cast", ["gain"])
    if precision == "bf16":
        return  # ONNX Runtime's CPU has no products in it
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.array([1, 2, 3], np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], x)
    np.testing.assert_array_equal(session.run(None, {"x": x, "gain": np.array(2, np.float32)})[0], 2 * x)


def test_a_large_default_of_an_input_is_no_constant() -> None:
    model = between(
        helper.make_node("Mul", ["x", "gain"], ["z"], name="mul"), constants={"gain": np.array(1e5, np.float32)}
    )
    assert inputs_of(convert(model, precision="fp16"), "mul") == [SINGLE, SINGLE]
    model.graph.input.append(helper.make_tensor_value_info("gain", SINGLE, []))
    assert inputs_of(convert(model, precision="fp16"), "mul") == [HALF, HALF]


def test_what_the_standard_fixes_stays_float32() -> None:
    model = between(
        helper.make_node("Resize", ["x", "", "scales"], ["z"], name="resize"),
        constants={"scales": np.array([1, 1, 1, 1], np.float32)},
    )
    half = convert(model, precision="fp16")
    assert inputs_of(half, "resize") == [HALF, 0, SINGLE]
    assert np.isfinite(run(half, x=image())).all()


def test_an_operator_without_half_stays_float32() -> None:
    """MatMulInteger and the like aside: the standard's TopK takes half, NonMaxSuppression does not."""
    model = small_network()
    boxes = helper.make_node("NonMaxSuppression", ["boxes", "scores"], ["kept"], name="nms")
    model.graph.node.append(boxes)
    model.graph.node.append(helper.make_node("Slice", ["y", "zero", "four", "last"], ["boxes_wide"], name="slice"))
    model.graph.node.append(helper.make_node("Reshape", ["boxes_wide", "as_boxes"], ["boxes"], name="reshape"))
    model.graph.node.append(helper.make_node("ReduceMax", ["boxes", "last"], ["best"], name="best", keepdims=1))
    model.graph.node.append(helper.make_node("Transpose", ["best"], ["scores"], name="scores", perm=[0, 2, 1]))
    nodes = [model.graph.node[i] for i in (0, 1, 2, 4, 5, 6, 7, 3)]
    constants = {"zero": [0], "four": [4], "last": [2], "as_boxes": [1, -1, 4]}
    for name, values in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(values), name))
    ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    model.graph.output.append(helper.make_tensor_value_info("kept", TensorProto.INT64, ["k", 3]))
    half = convert(model, precision="fp16")
    assert inputs_of(half, "nms") == [SINGLE, SINGLE]
    assert inputs_of(half, "best")[0] == HALF
    with create("onnxruntime", half) as runner:
        assert runner.infer({"x": image()})["kept"].shape[1] == 3


def test_a_cast_of_the_network_changes_its_target() -> None:
    model = between(
        helper.make_node("Shape", ["x"], ["shape"], name="shape"),
        helper.make_node("Cast", ["shape"], ["extents"], name="cast", to=SINGLE),
        helper.make_node("ReduceMax", ["extents"], ["largest"], name="largest", keepdims=0),
        helper.make_node("Div", ["x", "largest"], ["z"], name="scale"),
    )
    half = convert(model, precision="fp16")
    assert inputs_of(half, "largest") == [HALF]
    assert inputs_of(half, "scale") == [HALF, HALF]
    assert np.isfinite(run(half, x=image())).all()


def test_subgraphs_keep_their_types() -> None:
    """Both branches see ``x`` from outside; nothing in them changes, and the node around them gives float32."""
    doubled = helper.make_graph(
        [helper.make_node("Add", ["positive", "positive"], ["doubled"], name="add")],
        "then",
        [],
        [helper.make_tensor_value_info("doubled", SINGLE, None)],
    )
    same = helper.make_graph(
        [helper.make_node("Identity", ["positive"], ["same"], name="identity")],
        "else",
        [],
        [helper.make_tensor_value_info("same", SINGLE, None)],
    )
    model = between(
        helper.make_node("Relu", ["x"], ["positive"], name="relu"),
        helper.make_node("If", ["condition"], ["z"], name="if", then_branch=doubled, else_branch=same),
        constants={"condition": np.array(True)},
    )
    half = convert(model, precision="fp16")
    assert inputs_of(half, "relu") == [HALF]
    (inner,) = (node for node in half.graph.node if node.op_type == "If")
    graphs = {attribute.name: attribute.g for attribute in inner.attribute}
    assert [node.op_type for node in graphs["then_branch"].node] == ["Add"]
    assert [node.op_type for node in graphs["else_branch"].node] == ["Identity"]
    assert compare(run(half, x=image()), run(model, x=image())).relative_rms < 5e-3


def test_a_branch_that_is_used_elsewhere_too_is_no_branch() -> None:
    model = small_network()
    model.graph.output.append(helper.make_tensor_value_info("predicted", SINGLE, [1, 18, 6, 7]))
    mixed = convert(model, precision="mixed")
    assert inputs_of(mixed, "conv_offset") == [HALF, HALF]
    assert inputs_of(mixed, "dcn") == [HALF, HALF, SINGLE]
    assert types_of(mixed)["predicted"] == SINGLE


def test_constants_used_in_both_types_exist_in_both() -> None:
    model = small_network()
    model.graph.node.insert(1, helper.make_node("Mul", ["predicted", "factor"], ["scaled"], name="scaled"))
    model.graph.node[2].input[0] = "scaled"
    model.graph.node[-1].output[0] = "unscaled"
    model.graph.node.append(helper.make_node("Mul", ["unscaled", "factor"], ["y"], name="result"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "factor"))
    mixed = convert(model, precision="mixed")
    assert inputs_of(mixed, "scaled") == [SINGLE, SINGLE]
    assert inputs_of(mixed, "result") == [HALF, HALF]


def test_a_network_without_deformable_nodes_is_converted_too() -> None:
    model = small_network()
    del model.graph.node[1:]
    model.graph.node[0].output[0] = "y"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 18
    half = convert(model, precision="fp16")
    assert inputs_of(half, "conv_offset") == [HALF, HALF]
    assert compare(run(half, x=image()), run(model, x=image())).relative_rms < 1e-3


def test_bad_requests() -> None:
    with pytest.raises(InvalidArgumentError, match="precision: expected one of fp32, fp16, bf16, mixed, got 'int8'"):
        convert(small_network(), precision="int8")
    with pytest.raises(InvalidArgumentError, match=r"expected at least one of --form, --precision and --int8"):
        convert(small_network())


def test_files_of_several_forms_need_to_be_told_one() -> None:
    model = small_network()
    model.graph.node[-1].output[0] = "map"
    model.graph.node.append(
        helper.make_node("DeformConv", ["x", "w", "offset"], ["other"], name="standard", pads=[1] * 4)
    )
    model.graph.node.append(helper.make_node("Add", ["map", "other"], ["y"], name="sum"))
    with pytest.raises(
        InvalidArgumentError, match="form: expected one of plugin, standard, decomposed, since the file"
    ):
        convert(model, precision="fp16")
    assert nodes_of(convert(model, "plugin", precision="fp16")).count("DeformConv2d") == 2


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dcn_deploy.cli.main import main

    onnx.save(small_network(mask=True), tmp_path / "m.onnx")
    call: Callable[[list[str]], None] = main
    arguments = ["convert", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "h.onnx"), "--precision", "mixed", "-q"]
    with pytest.raises(SystemExit) as left:
        call(arguments)
    assert not left.value.code
    assert "mixed" in capsys.readouterr().out
    assert metadata.read(tmp_path / "h.onnx")["precision"] == "mixed"
