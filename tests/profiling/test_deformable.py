"""Which nodes count as deformable, and what share they have."""

from __future__ import annotations

from pathlib import Path

import cases
import numpy as np
import peers
import pytest
from onnx import helper

from dcn_deploy import runtime
from dcn_deploy.export.conversion import convert
from dcn_deploy.profiling import deformable_share, is_deformable
from dcn_deploy.runtime import NodeTime, RunnerOptions


def node(name: str, op_type: str, *milliseconds: float, domain: str = "", **metadata: str) -> NodeTime:
    return NodeTime(
        name,
        op_type,
        domain,
        {f"dcn_deploy.{key}": value for key, value in metadata.items()},
        tuple(1e-3 * value for value in milliseconds),
    )


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (node("a", "DeformConv2d", domain="dcn_deploy"), True),
        (node("a", "DeformRoIPool2d", domain="dcn_deploy"), True),
        (node("a", "DeformConv"), True),
        (node("a/sample", "GridSample", part_of="a", role="sample"), True),
        (node("dcn_deploy/base", "Range", shared="base"), True),
        (node("a", "Conv"), False),
        (node("a", "DeformConv", domain="somebody"), False),
        (node("a", "SomethingElse", domain="dcn_deploy"), False),
        (node("a", "GridSample", version="1"), False),
    ],
)
def test_which_nodes_are_deformable(made: NodeTime, expected: bool) -> None:
    assert is_deformable(made) == expected


def test_share_of_known_times() -> None:
    share = deformable_share(
        [
            node("stem", "Conv", 2, 2, 2),
            # One run was interrupted: the median is not.
            node("dcn", "DeformConv", 3, 90, 3),
            # In a loop: twice in each run.
            node("part", "GridSample", 1, 1, 1, 1, 1, 1, part_of="x"),
            node("head", "Conv", 1, 1, 1),
        ],
        runs=3,
    )
    assert share.nodes == 2
    assert share.seconds == pytest.approx(5e-3)
    assert [(each.name, each.deformable) for each in share.by_node] == [
        ("dcn", True),
        ("stem", False),
        ("part", True),
        ("head", False),
    ]
    assert [each.seconds for each in share.by_node] == pytest.approx([3e-3, 2e-3, 2e-3, 1e-3])
    assert share.total_seconds == pytest.approx(8e-3)
    assert share.share == pytest.approx(5 / 8)
    assert list(share.by_op_type) == ["DeformConv", "Conv", "GridSample"]
    assert share.by_op_type["Conv"] == pytest.approx(3e-3)


def test_no_time_at_all() -> None:
    assert deformable_share([], 1).share == 0
    assert deformable_share([node("dcn", "DeformConv", 0)], 1).share == 0


@pytest.mark.parametrize("form", ["standard", "plugin", "decomposed"])
def test_share_in_a_real_network(form: str, deformable_files: dict[str, Path], library: Path) -> None:
    options = RunnerOptions(profile=True, threads=1)
    with runtime.create("onnxruntime", deformable_files[form], options=options) as runner:
        for _ in range(6):
            runner.infer({"x": np.zeros((1, 3, 20, 24), np.float32)})
        times = runner.node_times(skip=1)
    deformable = [time for time in times if is_deformable(time)]
    others = [time for time in times if not is_deformable(time)]
    if form == "decomposed":
        assert {time.metadata.get("dcn_deploy.part_of") for time in deformable} <= {
            "layer1/deform",
            "layer2/deform",
            None,
        }
        assert [time.op_type for time in deformable].count("GridSample") == 2
        # The convolution at the end of each expansion, under whatever name the optimiser has given it.
        assert [time.op_type for time in deformable].count("Conv") == 2
    else:
        assert [time.name for time in deformable] == ["layer1/deform", "layer2/deform"]
    assert [time.op_type for time in others].count("Conv") == 3
    share = deformable_share(times, 5)
    assert share.nodes == len(deformable)
    # On random maps the sampling outweighs three small convolutions by far on any machine; all of it it cannot be.
    assert 0.2 < share.share < 0.999


@pytest.mark.parametrize("form", ["plugin", "decomposed"])
@pytest.mark.parametrize("name", ["roi_scale_quarter", "roi_classes_3_group_2"])
def test_share_of_roi_pooling(name: str, form: str, rng: np.random.Generator, library: Path) -> None:
    case = cases.by_name(name)
    model = peers.roi_model(case)
    model.graph.node.append(helper.make_node("Relu", ["Y"], ["Z"], "head"))
    model.graph.output[0].name = "Z"
    model = convert(model, form)
    with runtime.create("onnxruntime", model, options=RunnerOptions(profile=True, threads=1)) as runner:
        for _ in range(6):
            runner.infer(peers.feed(cases.make_roi_inputs(case, rng)))
        times = runner.node_times(skip=1)
    deformable = [time for time in times if is_deformable(time)]
    others = {time.op_type for time in times if not is_deformable(time)}
    if form == "plugin":
        assert [(time.name, time.op_type) for time in deformable] == [(name, "DeformRoIPool2d")]
        assert others == {"Relu"}
    else:
        # Slices that ONNX Runtime takes at once are counted, but not its squeezes behind them, which move nothing.
        assert others <= {"Relu", "Squeeze"}
        assert {"Gather", "MatMul", "Split"} <= {time.op_type for time in deformable}
        assert len(deformable) > 50
    assert 0.2 < deformable_share(times, 5).share < 0.999
