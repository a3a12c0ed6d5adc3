"""Which inputs get boxes instead of normal numbers, and what those look like."""

from __future__ import annotations

import cases
import numpy as np
import onnx
import onnx.parser
import peers
import pytest

from dcn_deploy.boxes import Boxes
from dcn_deploy.errors import InvalidArgumentError
from dcn_deploy.export import convert
from dcn_deploy.export.expansion import ORIGINAL
from dcn_deploy.runtime import onnx_model
from dcn_deploy.runtime.runner import TensorSpec
from dcn_deploy.validation import inputs
from dcn_deploy.validation.roi_inputs import with_boxes

POOL = 'Y = dcn_deploy.DeformRoIPool2d<output_size=[2, 2], spatial_scale=0.25, variant="psroi">'


def model(inputs_text: str, body: str, initializers: str = "") -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20, "dcn_deploy" : 1]>\n'
        f"agraph ({inputs_text}) => (float[r, c, 2, 2] Y) {initializers} {{ {body} }}"
    )


def boxes(proto: onnx.ModelProto) -> dict[str, Boxes]:
    specs = with_boxes(onnx_model.input_specs(proto), proto)
    return {spec.name: spec.boxes for spec in specs if spec.boxes is not None}


IMAGE = "float[n, 3, h, w] image"
CONV = "X = Conv<strides=[4, 4]>(image, W)\n"
WEIGHT = "<float[8, 3, 4, 4] W>"


class TestFinding:
    def test_the_map_is_an_input(self):
        proto = model("float[n, 8, h, w] X, float[r, 5] rois", f"{POOL}(X, rois)")
        assert boxes(proto) == {"rois": Boxes("X", 0.25)}

    def test_the_map_is_an_input_of_another_type(self):
        proto = model("float16[n, 8, h, w] x, float[r, 5] rois", f"X = Cast<to=1>(x)\n{POOL}(X, rois)")
        assert boxes(proto) == {"rois": Boxes("x", 0.25)}

    def test_the_map_is_computed(self):
        proto = model(f"float[r, 5] b, {IMAGE}", f"{CONV}{POOL}(X, b)", WEIGHT)
        assert boxes(proto) == {"b": Boxes()}

    def test_offsets_and_other_inputs_keep_their_numbers(self):
        proto = model(f"{IMAGE}, float[r, 5] rois, float[r, 2, 5] o", f"{CONV}{POOL}(X, rois, o)", WEIGHT)
        assert list(boxes(proto)) == ["rois"]
        proto = model(f"{IMAGE}, float[r, 5] rois", f"{CONV}Y = Conv(X, W)", WEIGHT)
        assert boxes(proto) == {}

    @pytest.mark.parametrize(
        "path",
        [
            "b = Cast<to=1>(rois)",
            "b = Identity(rois)",
            "s = Constant<value_ints=[-1, 5]>()\nb = Reshape(rois, s)",
            "s = Constant<value_ints=[0]>()\ne = Constant<value_ints=[2]>()\nb = Slice(rois, s, e)",
            "i = Constant<value_ints=[0, 0, 1]>()\nb = Gather(rois, i)",
            "b = Concat<axis=0>(rois, rois)",
            "k = Constant<value_floats=[1.0, 0.5, 0.5, 0.5, 0.5]>()\nb = Mul(rois, k)",
        ],
    )
    def test_through_what_moves_or_scales(self, path):
        proto = model(f"{IMAGE}, float[r, 5] rois", f"{CONV}{path}\n{POOL}(X, b)", WEIGHT)
        assert boxes(proto) == {"rois": Boxes()}

    @pytest.mark.parametrize("path", ["b = Mul(rois, other)", "b = Relu(rois)", "b = Gather(table, rois)"])
    def test_not_through_what_computes(self, path):
        given = f"{IMAGE}, float[r, 5] rois, float[r, 5] other, float[r, 5] table"
        proto = model(given, f"{CONV}{path}\n{POOL}(X, b)", WEIGHT)
        assert "rois" not in boxes(proto)

    def test_corners_and_index_that_are_joined(self):
        given = f"{IMAGE}, float[r, 4] corners, int64[r] which"
        path = (
            "a = Constant<value_ints=[1]>()\nu = Unsqueeze(which, a)\nf = Cast<to=1>(u)\nb = Concat<axis=1>(f, corners)"
        )
        proto = model(given, f"{CONV}{path}\n{POOL}(X, b)", WEIGHT)
        assert boxes(proto) == {"corners": Boxes(columns="corners"), "which": Boxes(columns="index")}

    def test_the_standard_operators(self):
        proto = model(
            f"{IMAGE}, float[r, 4] corners, int64[r] which",
            f"{CONV}Y = RoiAlign<output_height=2, output_width=2, spatial_scale=0.25>(X, corners, which)",
            WEIGHT,
        )
        assert boxes(proto) == {"corners": Boxes(columns="corners"), "which": Boxes(columns="index")}
        proto = model(f"{IMAGE}, float[r, 5] b", f"{CONV}Y = MaxRoiPool<pooled_shape=[2, 2]>(X, b)", WEIGHT)
        assert boxes(proto) == {"b": Boxes()}

    def test_an_operator_of_that_name_in_another_domain(self):
        proto = model("float[n, 8, h, w] X, float[r, 5] rois", f"{POOL}(X, rois)".replace("dcn_deploy.", "other."))
        proto.opset_import.append(onnx.helper.make_opsetid("other", 1))
        assert boxes(proto) == {}


IMAGE_SPEC = TensorSpec("image", np.dtype(np.float32), ("n", 3, "h", "w"))


def rois_spec(dtype=np.float32, shape=("r", 5), **boxes_of):
    return TensorSpec("rois", np.dtype(dtype), shape, Boxes(**boxes_of))


def drawn(specs, seed, **arguments):
    return next(iter(inputs.generated(specs, seed=seed, **arguments))).arrays


def assert_inside(rois, n, height, width):
    index, x1, y1, x2, y2 = rois.astype(np.float64).T
    np.testing.assert_array_equal(index, np.floor(index))
    assert ((index >= 0) & (index < n)).all()
    assert ((x1 >= 0) & (x1 < x2) & (x2 <= max(width - 1, width / 2))).all()
    assert ((y1 >= 0) & (y1 < y2) & (y2 <= max(height - 1, height / 2))).all()


class TestDrawing:
    @pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64])
    def test_boxes_lie_inside_the_image(self, seed, dtype):
        arrays = drawn([rois_spec(dtype), IMAGE_SPEC], seed, shapes={"image": (3, 3, 50, 400), "rois": (300, 5)})
        assert arrays["rois"].dtype == dtype
        assert arrays["rois"].shape == (300, 5)
        assert_inside(arrays["rois"], 3, 50, 400)
        assert set(arrays["rois"][:, 0].tolist()) == {0, 1, 2}
        wide = arrays["rois"][:, 3] - arrays["rois"][:, 1]
        assert wide.max() > 200
        assert wide.min() < 100
        assert abs(arrays["image"].std() - 1) < 0.05

    def test_of_a_feature_map_they_have_its_scale(self, seed):
        specs = [TensorSpec("X", np.dtype(np.float32), (2, 8, 10, 20)), rois_spec(of="X", spatial_scale=1 / 16)]
        rois = drawn(specs, seed, shapes={"rois": (200, 5)})["rois"]
        assert_inside(rois, 2, 160, 320)
        assert rois[:, 3].max() > 160

    def test_the_largest_image_counts_in_either_layout(self, seed):
        small = TensorSpec("small", np.dtype(np.float32), (1, 3, 8, 8))
        last = TensorSpec("last", np.dtype(np.float32), (2, 60, 90, 3))
        rois = drawn([small, last, rois_spec()], seed, shapes={"rois": (200, 5)})["rois"]
        assert_inside(rois, 2, 60, 90)
        assert rois[:, 3].max() > 60

    def test_a_free_number_of_boxes(self, seed):
        assert drawn([IMAGE_SPEC, rois_spec()], seed)["rois"].shape == (16, 5)
        assert drawn([IMAGE_SPEC, rois_spec()], seed, shapes={"rois": (0, 5)})["rois"].shape == (0, 5)

    def test_corners_and_index_apart(self, seed):
        corners = TensorSpec("corners", np.dtype(np.float32), ("n", "r", 4), Boxes(columns="corners"))
        which = TensorSpec("which", np.dtype(np.int64), ("r",), Boxes(columns="index"))
        arrays = drawn([IMAGE_SPEC, corners, which], seed, shapes={"image": (2, 3, 40, 60)})
        assert arrays["corners"].shape == (2, 16, 4)
        assert arrays["which"].shape == (16,)
        flat = np.column_stack([np.resize(arrays["which"], 32), arrays["corners"].reshape(-1, 4)])
        assert_inside(flat, 2, 40, 60)

    def test_samples_differ_and_can_be_had_again(self, seed):
        specs = [IMAGE_SPEC, rois_spec()]
        first, second = (feed.arrays["rois"] for feed in inputs.generated(specs, count=2, seed=seed))
        assert not np.array_equal(first, second)
        np.testing.assert_array_equal(first, drawn(specs, seed)["rois"])

    def test_the_report_says_so(self):
        feeds = inputs.generated([IMAGE_SPEC, rois_spec()], seed=3)
        assert feeds.description == (
            "1 generated sample, seed 3 (image 1×3×224×224, rois 16×5: boxes inside the image)"
        )

    def test_no_room_for_the_columns(self):
        with pytest.raises(
            InvalidArgumentError,
            match=r"shape of input 'rois': expected \[…, 5\]: \(batch index, x1, y1, x2, y2\), got \[16, 6\]",
        ):
            inputs.generated([IMAGE_SPEC, rois_spec(shape=("r", "c"))], shapes={"rois": (16, 6)})


class TestForms:
    """The same inputs are found whichever form a pooling is written in, and whether shapes are known or not."""

    @pytest.mark.parametrize("case", cases.ROI_CASES, ids=lambda case: case.name)
    def test_every_case(self, case):
        expected = {"rois": Boxes("X", float(np.float32(case.spatial_scale)))}
        plugin = peers.roi_model(case)
        assert boxes(plugin) == boxes(peers.roi_model(case, static=False)) == expected
        if case.variant == "psroi" or case.sampling_ratio:
            assert boxes(convert(plugin, "decomposed")) == expected

    def test_an_open_shape_gets_columns(self, seed):
        specs = with_boxes(
            [
                TensorSpec("X", np.dtype(np.float32), (1, 67, 7, 33)),
                TensorSpec("rois", np.dtype(np.float32), (None, None)),
            ],
            peers.roi_model(cases.ROI_CASES[0], static=False),
        )
        assert drawn(specs, seed)["rois"].shape == (16, 5)

    def test_metadata_of_another_tool_is_no_reason_to_stop(self):
        case = next(case for case in cases.ROI_CASES if case.variant == "psroi")
        decomposed = convert(peers.roi_model(case), "decomposed")
        for node in decomposed.graph.node:
            for entry in node.metadata_props:
                if entry.key == ORIGINAL:
                    entry.value = "{}"
        assert boxes(decomposed) == {}
