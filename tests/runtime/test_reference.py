"""The backend ``reference``: float64 throughout, and right where the evaluator is not."""

from __future__ import annotations

from typing import Any

import cases
import ml_dtypes
import numpy as np
import peers
import pytest
import torch
from onnx import TensorProto, helper

from dcn_deploy import runtime
from dcn_deploy.errors import BackendError, InvalidArgumentError, InvalidModelError
from dcn_deploy.ops import reference
from dcn_deploy.runtime import RunnerOptions
from dcn_deploy.runtime.reference import grid_sample_2d
from dcn_deploy.schema import OPERATORS

F32 = TensorProto.FLOAT


def run(model: Any, feed: dict[str, Any], **options: Any) -> dict[str, Any]:
    with runtime.create("reference", model, options=RunnerOptions(**options)) as runner:
        return runner.infer(feed)


@pytest.mark.parametrize(("op_type", "domain"), [("DeformConv", ""), ("DeformConv2d", "dcn_deploy")])
def test_both_deformable_nodes_are_the_float64_operator(op_type: str, domain: str, make_deformable: Any) -> None:
    from onnx import numpy_helper

    model, feed = make_deformable(op_type, domain)
    weight, bias = (numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    result = run(model, feed, keep_intermediates=True)
    expected = reference.deform_conv2d(
        feed["x"],
        weight,
        feed["offset"],
        bias,
        feed["mask"],
        strides=(2, 1),
        pads=(1, 0, 2, 1),
        dilations=(1, 2),
        group=2,
        offset_group=4,
    )
    np.testing.assert_array_equal(result["conv"], expected)
    np.testing.assert_array_equal(result["y"], np.maximum(expected, 0))


def test_defaults_of_the_attributes(make_model: Any, rng: Any) -> None:
    model = make_model(
        [helper.make_node("DeformConv2d", ["x", "w", "o"], ["y"], domain="dcn_deploy")],
        [("x", F32, [1, 2, 3, 3]), ("w", F32, [1, 2, 2, 2]), ("o", F32, [1, 8, 2, 2])],
        [("y", F32, [1, 1, 2, 2])],
    )
    feed = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in (("x", (1, 2, 3, 3)), ("w", (1, 2, 2, 2)), ("o", (1, 8, 2, 2)))
    }
    np.testing.assert_array_equal(run(model, feed)["y"], reference.deform_conv2d(feed["x"], feed["w"], feed["o"]))


_ROI_CASES = [cases.by_name(name) for name in ("roi_sampling_ratio_0_scale", "roi_no_offset", "roi_classes_3_group_2")]


@pytest.mark.parametrize("case", _ROI_CASES, ids=cases.name_of)
def test_the_roi_node_is_the_float64_operator(case: Any, rng: Any) -> None:
    inputs = cases.make_roi_inputs(case, rng)
    actual = run(peers.roi_model(case), peers.feed(inputs))["Y"]
    np.testing.assert_array_equal(actual, reference.deform_roi_pool(*inputs.in_order(), **case.reference_arguments))


def test_features_and_coordinates_of_unequal_types(rng: Any) -> None:
    case = cases.by_name("roi_scale_0.3_psroi")
    kinds = {"rois": np.float32, "offset": np.float16, "mask": np.float32}
    inputs = cases.make_roi_inputs(case, rng, np.float16, kinds)
    actual = run(peers.roi_model(case, dtype=np.float16, coordinate_dtype=kinds), peers.feed(inputs))["Y"]
    assert actual.dtype == np.float64
    np.testing.assert_array_equal(actual, reference.deform_roi_pool(*inputs.in_order(), **case.reference_arguments))


@pytest.mark.parametrize("missing", ["gamma", "group_size", "part_size", "sample_per_part", "spatial_scale"])
def test_defaults_of_the_roi_attributes(missing: str, rng: Any) -> None:
    case = cases.RoiCase("defaults", c=4, h=19, w=19, variant="psroi")  # every attribute of this case is its default
    inputs = cases.make_roi_inputs(case, rng)
    actual = run(peers.roi_model(case, attributes={missing: None}), peers.feed(inputs))["Y"]
    # gamma 0.1 is the float32 number next to it
    np.testing.assert_array_equal(actual, reference.deform_roi_pool(*inputs.in_order(), **case.reference_arguments))


def test_a_batch_index_out_of_range_names_the_roi(rng: Any) -> None:
    case = cases.by_name("roi_batch_3")
    inputs = cases.make_roi_inputs(case, rng)
    inputs.rois[4, 0] = 3
    message = r"failed at node 'roi_batch_3' \(DeformRoIPool2d\).* expected a batch index in \[0, 3\), got 3\.0"
    with pytest.raises(BackendError, match=message):
        run(peers.roi_model(case), peers.feed(inputs))


def test_every_operator_of_the_project_is_there() -> None:
    from dcn_deploy.runtime.reference import _operators

    known = {(operator.op_domain, operator.__name__) for operator in _operators()}
    assert known == {
        *((schema.domain, schema.op_type) for schema in OPERATORS.values()),
        *(("", schema.standard.op_type) for schema in OPERATORS.values() if schema.standard),
        ("", "GridSample"),
    }


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_one_pixel_map_and_wild_offsets(bad: float, make_model: Any) -> None:
    model = make_model(
        [helper.make_node("DeformConv", ["x", "w", "o"], ["y"], kernel_shape=[1, 1])],
        [("x", F32, [1, 1, 1, 1]), ("w", F32, [1, 1, 1, 1]), ("o", F32, [1, 2, 1, 1])],
        [("y", F32, [1, 1, 1, 1])],
    )
    one = np.ones((1, 1, 1, 1), np.float32)

    def at(dy: float, dx: float) -> float:
        return float(
            run(model, {"x": 3 * one, "w": one, "o": np.array([dy, dx], np.float32).reshape(1, 2, 1, 1)})["y"].item()
        )

    assert at(0, 0) == 3
    assert at(0.25, -0.5) == 3 * 0.75 * 0.5
    assert at(bad, 0) == 0
    assert at(0, bad) == 0


def test_no_rounding_to_float32_on_the_way(make_model: Any) -> None:
    # 1 + 1e-12 is 1 in float32 and in half types.
    model = make_model(
        [
            helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
            helper.make_node("Constant", [], ["one"], value_float=1.0),
            helper.make_node("Sub", ["half", "one"], ["y"]),
        ],
        [("x", F32, [1])],
        [("y", F32, [1])],
    )
    result = run(model, {"x": np.array([1 + 1e-12])})["y"]
    assert result.dtype == np.float64
    assert result.item() == pytest.approx(1e-12, rel=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_feeds_in_the_models_type_or_float64(dtype: Any, make_model: Any) -> None:
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = make_model([helper.make_node("Neg", ["x"], ["y"])], [("x", element, [2])], [("y", element, [2])])
    with runtime.create("reference", model) as runner:
        assert runner.inputs[0].dtype == np.dtype(dtype)
        for given in (dtype, np.float64):
            assert runner.infer({"x": np.array([0.5, -2]).astype(given)})["y"].tolist() == [-0.5, 2]
        with pytest.raises(InvalidArgumentError, match=f"expected {np.dtype(dtype)}, got int32"):
            runner.infer({"x": np.array([1, 2], np.int32)})


@pytest.mark.parametrize("align", [False, True])
def test_grid_sample_is_pytorchs_in_float64(align: bool, rng: Any) -> None:
    image = rng.standard_normal((2, 3, 5, 7))
    grid = rng.uniform(-1.6, 1.6, (2, 4, 6, 2))
    expected = torch.nn.functional.grid_sample(
        torch.from_numpy(image), torch.from_numpy(grid), "bilinear", "zeros", align_corners=align
    )
    np.testing.assert_allclose(grid_sample_2d(image, grid, align_corners=align), expected.numpy(), atol=1e-14)


def test_grid_sample_on_edges_one_pixel_and_nan() -> None:
    image = np.full((1, 1, 1, 1), 5.0)
    grid = np.array([[[0.0, 0.0], [np.nan, 0.0], [0.0, np.inf], [1e300, 0.0], [-1.0, 1.0]]])[None]
    # With aligned corners every finite coordinate times size − 1 = 0 is the one pixel.
    assert grid_sample_2d(image, grid, align_corners=True).ravel().tolist() == [5, 0, 0, 5, 5]
    assert grid_sample_2d(image, grid, align_corners=False).ravel().tolist() == [5, 0, 0, 0, 1.25]
    assert grid_sample_2d(image, grid[:, :0], align_corners=True).shape == (1, 1, 0, 5)


def test_grid_sample_in_a_model_keeps_float64(make_model: Any) -> None:
    model = make_model(
        [helper.make_node("GridSample", ["x", "g"], ["y"], align_corners=1)],
        [("x", F32, [1, 1, 1, 2]), ("g", F32, [1, 1, 1, 2])],
        [("y", F32, [1, 1, 1, 1])],
    )
    x = 0.1234567891
    result = run(model, {"x": np.array([0.0, 1.0]).reshape(1, 1, 1, 2), "g": np.array([x, 0.0]).reshape(1, 1, 1, 2)})
    assert result["y"].item() == pytest.approx((x + 1) / 2, abs=1e-15)


def test_other_modes_of_grid_sample_are_the_evaluators(make_model: Any) -> None:
    model = make_model(
        [helper.make_node("GridSample", ["x", "g"], ["y"], mode="nearest", align_corners=1, padding_mode="border")],
        [("x", F32, [1, 1, 1, 2]), ("g", F32, [1, 1, 1, 2])],
        [("y", F32, [1, 1, 1, 1])],
    )
    feed = {"x": np.array([4.0, 8.0]).reshape(1, 1, 1, 2), "g": np.array([9.0, 0.0]).reshape(1, 1, 1, 2)}
    assert run(model, feed)["y"].item() == 8


def test_keep_intermediates_and_wanted_outputs(make_deformable: Any) -> None:
    model, feed = make_deformable()
    with runtime.create("reference", model, options=RunnerOptions(keep_intermediates=True)) as runner:
        assert [spec.name for spec in runner.outputs] == ["y", "conv"]
        assert list(runner.infer(feed)) == ["y", "conv"]
        assert list(runner.infer(feed, ["conv"])) == ["conv"]
    with runtime.create("reference", model) as runner:
        assert [(spec.name, spec.dtype, spec.shape) for spec in runner.outputs] == [("y", np.float64, ("n", 6, 4, 6))]


def test_a_sequence_among_the_intermediates_is_left_out(make_model: Any) -> None:
    model = make_model(
        [helper.make_node("SplitToSequence", ["x"], ["s"]), helper.make_node("SequenceLength", ["s"], ["y"])],
        [("x", F32, [3])],
        [("y", TensorProto.INT64, [])],
    )
    result = run(model, {"x": np.zeros(3, np.float32)}, keep_intermediates=True)
    assert {name: array.item() for name, array in result.items()} == {"y": 3}


def test_progress_goes_from_node_to_node(make_deformable: Any) -> None:
    model, feed = make_deformable()
    steps: list[tuple[int, int, str]] = []
    run(model, feed, progress=lambda *step: steps.append(step))
    assert steps == [(0, 2, "dcn (DeformConv)"), (1, 2, "relu (Relu)"), (2, 2, "")]


def test_errors_name_the_node_and_its_inputs(make_deformable: Any) -> None:
    model, feed = make_deformable()
    pads = next(attribute for attribute in model.graph.node[0].attribute if attribute.name == "pads")
    pads.ints[:] = [0, 0, 0, 0]
    with pytest.raises(BackendError, match=r"failed at node 'dcn' \(DeformConv\) with the inputs x \(2, 4, 7, 7\), w"):
        run(model, feed)


def test_unknown_operators_are_refused_with_a_remedy(make_model: Any) -> None:
    model = make_model(
        [helper.make_node("MMCVDeformConv2d", ["x"], ["y"], domain="mmdeploy")], [("x", F32, [1])], [("y", F32, [1])]
    )
    with pytest.raises(BackendError, match=r"refused the model: .*MMCVDeformConv2d.*dcn-deploy convert"):
        runtime.create("reference", model).activate()


def test_missing_external_data(tmp_path: Any, make_model: Any) -> None:
    import onnx

    model = make_model(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [("x", F32, [64])],
        [("y", F32, [64])],
        {"w": np.ones(64, np.float32)},
    )
    path = tmp_path / "model.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert run(path, {"x": np.zeros(64, np.float32)})["y"].sum() == 64
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(InvalidModelError, match=r"weights in a file of its own.*weights\.bin.*Keep that file beside"):
        runtime.create("reference", path).activate()


def test_empty_batch(make_deformable: Any) -> None:
    model, feed = make_deformable()
    assert run(model, {name: array[:0] for name, array in feed.items()})["y"].shape == (0, 6, 4, 6)


_OLD_OPSET = 11


@pytest.mark.parametrize("opset", [_OLD_OPSET, 13])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, 3, -1, -3])
@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax", "Hardmax"])
def test_softmax_and_its_like_are_those_of_their_opset(
    op_type: str, axis: int | None, opset: int, make_model: Any, rng: Any
) -> None:
    """Below opset 13 they flatten: ONNX Runtime does, the evaluator of the onnx package does not."""
    attributes = {} if axis is None else {"axis": axis}
    model = make_model(
        [helper.make_node(op_type, ["x"], ["y"], **attributes)],
        [("x", TensorProto.FLOAT, [2, 3, 4, 5])],
        [("y", TensorProto.FLOAT, [2, 3, 4, 5])],
    )
    _in_opset(model, opset)
    _as_onnxruntime(model, {"x": rng.standard_normal((2, 3, 4, 5)).astype(np.float32)})


@pytest.mark.parametrize("opset", [_OLD_OPSET, 18])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
def test_lrn_reaches_over_its_neighbours(size: int, opset: int, make_model: Any, rng: Any) -> None:
    shape = [2, 6, 3, 4]
    model = make_model(
        [helper.make_node("LRN", ["x"], ["y"], size=size, alpha=0.5, beta=0.6, bias=1.5)],
        [("x", TensorProto.FLOAT, shape)],
        [("y", TensorProto.FLOAT, shape)],
    )
    _in_opset(model, opset)
    if size % 2 == 0:  # ONNX Runtime takes odd ones only
        x = rng.standard_normal(shape)
        with runtime.create("reference", model) as runner:
            y = runner.infer({"x": x})["y"]
        for c in range(6):
            near = x[:, max(0, c - (size - 1) // 2) : c + -(-(size - 1) // 2) + 1]
            expected = x[:, c] / (1.5 + 0.5 / size * (near**2).sum(axis=1)) ** float(np.float32(0.6))
            np.testing.assert_allclose(y[:, c], expected, rtol=1e-12)
        return
    _as_onnxruntime(model, {"x": rng.standard_normal(shape).astype(np.float32)})


@pytest.mark.parametrize("opset", [10, 12, 16])
def test_roi_align_has_half_a_pixel_since_opset_16(opset: int, make_model: Any, rng: Any) -> None:
    model = make_model(
        [
            helper.make_node(
                "RoiAlign", ["x", "rois", "image"], ["y"], output_height=3, output_width=3, sampling_ratio=2
            )
        ],
        [
            ("x", TensorProto.FLOAT, [1, 2, 9, 9]),
            ("rois", TensorProto.FLOAT, [2, 4]),
            ("image", TensorProto.INT64, [2]),
        ],
        [("y", TensorProto.FLOAT, [2, 2, 3, 3])],
    )
    _in_opset(model, opset)
    feed = {
        "x": rng.standard_normal((1, 2, 9, 9)).astype(np.float32),
        "rois": np.array([[0.5, 1, 6, 7], [2, 2, 8, 5]], dtype=np.float32),
        "image": np.zeros(2, dtype=np.int64),
    }
    _as_onnxruntime(model, feed)


def _in_opset(model: Any, opset: int) -> None:
    for entry in model.opset_import:
        if entry.domain == "":
            entry.version = opset
    model.ir_version = 8


def _as_onnxruntime(model: Any, feed: dict[str, Any]) -> None:
    results = []
    for backend in ("reference", "onnxruntime"):
        with runtime.create(backend, model) as runner:
            results.append(runner.infer(feed)["y"])
    np.testing.assert_allclose(results[0], results[1], rtol=2e-5, atol=2e-6)
