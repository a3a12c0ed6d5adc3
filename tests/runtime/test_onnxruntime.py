"""The backend ``onnxruntime``: all three forms, element types, options, node times and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import dcn_deploy.runtime.onnxruntime as module
from dcn_deploy import runtime
from dcn_deploy._libraries import LIBRARY_DIR_VARIABLE, library_path
from dcn_deploy.errors import BackendError, InvalidModelError, LibraryNotBuiltError, UnsupportedError
from dcn_deploy.runtime import RunnerOptions

F32 = TensorProto.FLOAT
FORMS = ("standard", "plugin", "decomposed")


def run(model: Any, feed: dict[str, Any], backend: str = "onnxruntime", **options: Any) -> dict[str, Any]:
    with runtime.create(backend, model, options=RunnerOptions(threads=1, **options)) as runner:
        return runner.infer(feed)


@pytest.fixture
def forms(make_deformable: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same network in each form, and a feed."""
    from dcn_deploy.export.conversion import convert

    model, feed = make_deformable()
    return {"standard": model} | {form: convert(model, form) for form in FORMS[1:]}, feed


@pytest.mark.parametrize("form", FORMS)
def test_each_form_agrees_with_the_reference(form: str, forms: Any, library: Path, relative_error: Any) -> None:
    models, feed = forms
    expected = run(models["standard"], feed, "reference")["y"]
    assert relative_error(run(models[form], feed, "reference")["y"], expected) < 1e-14
    assert relative_error(run(models[form], feed)["y"], expected) < 1e-6


@pytest.mark.parametrize(("dtype", "bound"), [(np.float16, 1e-3), (ml_dtypes.bfloat16, 8e-3)])
def test_half_types_go_in_and_out(
    dtype: Any, bound: float, make_deformable: Any, library: Path, relative_error: Any
) -> None:
    model, feed = make_deformable("DeformConv2d", "dcn_deploy", dtype)
    # ONNX Runtime has no bfloat16 Relu on the CPU.
    del model.graph.node[1:]
    model.graph.node[0].output[0] = "y"
    with runtime.create("onnxruntime", model) as runner:
        assert [spec.dtype for spec in (*runner.inputs, *runner.outputs)] == [np.dtype(dtype)] * 4
        actual = runner.infer(feed)["y"]
        transposed = {name: np.asfortranarray(array) for name, array in feed.items()}
        np.testing.assert_array_equal(runner.infer(transposed)["y"].astype(np.float32), actual.astype(np.float32))
    assert actual.dtype == np.dtype(dtype)
    assert relative_error(actual, run(model, feed, "reference")["y"]) < bound
    empty = run(model, {name: array[:0] for name, array in feed.items()})["y"]
    assert empty.dtype == np.dtype(dtype)
    assert empty.shape == (0, 6, 4, 6)


def test_specs_are_the_models(make_deformable: Any) -> None:
    model, _ = make_deformable()
    with runtime.create("onnxruntime", model) as runner:
        assert [(spec.name, spec.dtype, spec.shape) for spec in runner.inputs] == [
            ("x", np.float32, ("n", 4, 7, 7)),
            ("offset", np.float32, ("n", 48, 4, 6)),
            ("mask", np.float32, ("n", 24, 4, 6)),
        ]
        assert [(spec.name, spec.shape) for spec in runner.outputs] == [("y", ("n", 6, 4, 6))]


def test_keep_intermediates_gives_every_tensor(make_deformable: Any, relative_error: Any) -> None:
    model, feed = make_deformable()
    before = model.SerializeToString()
    with runtime.create("onnxruntime", model, options=RunnerOptions(keep_intermediates=True)) as runner:
        assert [(spec.name, spec.dtype) for spec in runner.outputs] == [("y", np.float32), ("conv", np.float32)]
        result = runner.infer(feed)
        assert list(runner.infer(feed, ["conv"])) == ["conv"]
        assert runner.infer(feed, []) == {}
    assert model.SerializeToString() == before
    reference = run(model, feed, "reference", keep_intermediates=True)
    for name in ("y", "conv"):
        assert relative_error(result[name], reference[name]) < 1e-6


def test_a_sequence_among_the_intermediates_is_left_out(make_model: Any) -> None:
    nodes = [helper.make_node("SplitToSequence", ["x"], ["s"]), helper.make_node("SequenceLength", ["s"], ["y"])]
    model = make_model(nodes, [("x", F32, [3])], [("y", TensorProto.INT64, [])])
    result = run(model, {"x": np.zeros(3, np.float32)}, keep_intermediates=True)
    assert {name: array.item() for name, array in result.items()} == {"y": 3}


def test_a_sequence_as_an_output_is_refused(make_model: Any) -> None:
    model = make_model([helper.make_node("SplitToSequence", ["x"], ["s"])], [("x", F32, [3])], [])
    model.graph.output.append(helper.make_tensor_sequence_value_info("s", F32, None))
    with pytest.raises(UnsupportedError, match=r"type of 's': expected a dense tensor, got seq\(tensor\(float\)\)"):
        runtime.create("onnxruntime", model).activate()


@pytest.fixture
def with_external_data(tmp_path: Path, make_model: Any) -> Path:
    model = make_model(
        [helper.make_node("Add", ["x", "w"], ["a"]), helper.make_node("Neg", ["a"], ["y"])],
        [("x", F32, [64])],
        [("y", F32, [64])],
        {"w": np.arange(64, dtype=np.float32)},
    )
    path = tmp_path / "a folder" / "model.onnx"
    path.parent.mkdir()
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("relative", [False, True])
def test_weights_in_a_file_of_their_own(
    keep: bool, relative: bool, with_external_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path: str | Path = with_external_data
    if relative:
        monkeypatch.chdir(with_external_data.parent)
        path = with_external_data.name
    result = run(path, {"x": np.ones(64, np.float32)}, keep_intermediates=keep)
    assert result["y"].tolist() == [-1 - i for i in range(64)]
    assert ("a" in result) == keep


def test_missing_weights_file(with_external_data: Path) -> None:
    (with_external_data.parent / "weights.bin").unlink()
    with pytest.raises(BackendError, match=r"refused the model .*weights\.bin.*keep that file beside it"):
        runtime.create("onnxruntime", with_external_data).activate()


@pytest.mark.parametrize("options", [{}, {"keep_intermediates": True}, {"profile": True}])
def test_a_model_too_large_for_one_message_goes_through_a_file(
    options: dict[str, bool], make_deformable: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, feed = make_deformable()
    expected = run(model, feed)["y"]
    before = model.SerializeToString()
    monkeypatch.setattr(module, "_LARGEST_MESSAGE", 100)
    runner = runtime.create("onnxruntime", model, options=RunnerOptions(threads=1, **options))
    with runner:
        folder = Path(runner._folder.name)  # type: ignore[attr-defined]
        assert (folder / "model.onnx").is_file()
        np.testing.assert_array_equal(runner.infer(feed)["y"], expected)
    assert not folder.exists()
    assert model.SerializeToString() == before


@pytest.mark.parametrize("content", ["", "no model at all, but a text", "\x00" * 64])
def test_what_is_no_model(content: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_text(content)
    with pytest.raises(InvalidModelError, match=r"'.*model\.onnx': expected an ONNX model, got a file"):
        runtime.create("onnxruntime", path).activate()


def test_session_options(make_deformable: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = make_deformable()
    seen = []
    original = onnxruntime.InferenceSession

    def spy(source: Any, options: Any, **others: Any) -> Any:
        seen.append((options, others))
        return original(source, options, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    runtime.create("onnxruntime", model, options=RunnerOptions(threads=3, spinning=False)).activate()
    runtime.create("onnxruntime", model).activate()
    (asked, others), (default, _) = seen
    assert others == {"providers": ["CPUExecutionProvider"]}
    assert (asked.intra_op_num_threads, asked.inter_op_num_threads) == (3, 1)
    assert asked.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert (default.intra_op_num_threads, default.enable_profiling) == (0, False)
    with pytest.raises(RuntimeError):
        default.get_session_config_entry("session.intra_op.allow_spinning")


def test_library_is_registered_only_for_its_nodes(forms: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models, feed = forms
    elsewhere = tmp_path / library_path("onnxruntime").name
    elsewhere.write_bytes(b"this is no library")
    monkeypatch.setenv(LIBRARY_DIR_VARIABLE, str(tmp_path))
    for form in ("standard", "decomposed"):
        run(models[form], feed)
    with pytest.raises(
        BackendError, match=rf"ONNX Runtime {onnxruntime.__version__} cannot load .*reinstall dcn-deploy"
    ):
        runtime.create("onnxruntime", models["plugin"]).activate()


def test_missing_library_names_both_ways_out(forms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(kind: str) -> Path:
        raise LibraryNotBuiltError(f"{kind} was not built.")

    models, _ = forms
    monkeypatch.setattr(module, "library_path", missing)
    with pytest.raises(
        LibraryNotBuiltError,
        match=r"nodes of domain 'dcn_deploy'.*onnxruntime was not built.*--form standard.*--form decomposed",
    ):
        runtime.create("onnxruntime", models["plugin"]).activate()


def test_plugin_node_inside_a_subgraph_is_found(make_model: Any, library: Path) -> None:
    branch = helper.make_graph(
        [helper.make_node("DeformConv2d", ["x", "w", "o"], ["b"], domain="dcn_deploy")],
        "branch",
        [],
        [helper.make_tensor_value_info("b", F32, [1, 1, 1, 1])],
    )
    model = make_model(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
        [
            ("c", TensorProto.BOOL, []),
            ("x", F32, [1, 1, 1, 1]),
            ("w", F32, [1, 1, 1, 1]),
            ("o", F32, [1, 2, 1, 1]),
        ],
        [("y", F32, [1, 1, 1, 1])],
    )
    model.opset_import.append(helper.make_opsetid("dcn_deploy", 1))
    feed = {
        "c": np.array(True),
        "x": np.full((1, 1, 1, 1), 4, np.float32),
        "w": np.full((1, 1, 1, 1), 2, np.float32),
        "o": np.full((1, 2, 1, 1), 0.5, np.float32),
    }
    assert run(model, feed)["y"].item() == 2
    assert run(model, feed, "reference")["y"].item() == 2


def test_malformed_deformable_node_is_refused_by_name(make_deformable: Any, library: Path) -> None:
    model, _ = make_deformable("DeformConv2d", "dcn_deploy")
    group = next(attribute for attribute in model.graph.node[0].attribute if attribute.name == "group")
    group.i = 3
    with pytest.raises(BackendError, match=r"refused the model at node 'dcn'.*expected"):
        runtime.create("onnxruntime", model).activate()


def test_failure_while_running_names_the_node(make_model: Any) -> None:
    model = make_model(
        [helper.make_node("Reshape", ["x", "s"], ["y"], name="reshape_it")],
        [("x", F32, ["n", 4])],
        [("y", F32, None)],
        {"s": np.array([3, 3])},
    )
    with pytest.raises(
        BackendError,
        match=r"failed while running at node 'reshape_it' \(Reshape\) \(version [\d.]+\): .*cannot be reshaped"
        r".*\{2,4\}, requested shape:\{3,3\}",
    ) as caught:
        run(model, {"x": np.zeros((2, 4), np.float32)})
    assert "std::" not in str(caught.value)
    assert "onnxruntime::" not in str(caught.value)


@pytest.mark.parametrize(
    ("opset", "ir_version", "message"),
    [(20, 99, "Unsupported model IR version: 99.*Update onnxruntime"), (99, 10, "Opset 99 .*lower --opset")],
)
def test_a_newer_file_says_so(opset: int, ir_version: int, message: str, make_model: Any) -> None:
    model = make_model(
        [helper.make_node("Neg", ["x"], ["y"])], [("x", F32, [1])], [("y", F32, [1])], (), opset, ir_version
    )
    with pytest.raises(BackendError, match=message):
        runtime.create("onnxruntime", model).activate()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for DeformConv(19) node with "
            "name '/layer1/conv'",
            r"at node '/layer1/conv' \(DeformConv\).*from 1\.25 on.*--form plugin or --form decomposed",
        ),
        (
            "[ONNXRuntimeError] : 1 : FAIL : Fatal error: DeformConv(-1) is not a registered function/op",
            r"from 1\.25 on",
        ),
        (
            "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for Relu(14) node with "
            "name 'r'",
            r"at node 'r' \(Relu\).*no kernel for that node",
        ),
        ("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc", "Not enough memory"),
        (
            "[ONNXRuntimeError] : 1 : FAIL : /build/onnxruntime_src/onnxruntime/core/graph/model.cc:180 "
            "void onnxruntime::Model::Check(const onnx::ModelProto&, bool) const the model is odd",
            r"\(version 1\.0\): the model is odd\.$",
        ),
    ],
)
def test_messages_of_other_versions(text: str, expected: str) -> None:
    error = module._backend_error("ONNX Runtime refused the model", RuntimeError(text), "1.0")
    assert "ONNXRuntimeError" not in str(error)
    import re

    assert re.search(expected, str(error)), str(error)


def test_node_times(forms: Any, library: Path) -> None:
    models, feed = forms
    with runtime.create("onnxruntime", models["plugin"], options=RunnerOptions(profile=True, threads=1)) as runner:
        folder = Path(runner._folder.name)  # type: ignore[attr-defined]
        for _ in range(7):
            runner.infer(feed)
        times = runner.node_times(skip=2)
        assert not folder.exists()
        with pytest.raises(BackendError, match="an earlier call has ended"):
            runner.node_times()
        runner.infer(feed)
    assert [(time.name, time.op_type, time.domain) for time in times] == [
        ("dcn", "DeformConv2d", "dcn_deploy"),
        ("relu", "Relu", ""),
    ]
    assert all(len(time.durations) == 5 for time in times)
    assert all(0 <= seconds < 10 for time in times for seconds in time.durations)


def test_node_times_know_whose_part_a_node_is(forms: Any) -> None:
    models, feed = forms
    nodes = {node.name: node for node in models["decomposed"].graph.node}
    with runtime.create("onnxruntime", models["decomposed"], options=RunnerOptions(profile=True)) as runner:
        runner.infer(feed)
        times = runner.node_times()
    by_name = {time.name: time for time in times}
    sample = next(name for name, node in nodes.items() if node.op_type == "GridSample")
    assert by_name[sample].metadata["dcn_deploy.part_of"] == "dcn"


def test_node_times_need_the_option(make_deformable: Any) -> None:
    model, feed = make_deformable()
    with runtime.create("onnxruntime", model) as runner:
        runner.infer(feed)
        with pytest.raises(BackendError, match=r"RunnerOptions\(profile=True\), got profile=False"):
            runner.node_times()
    with runtime.create("onnxruntime", model, options=RunnerOptions(profile=True)) as runner:
        assert runner.node_times(skip=0) == ()


def test_origin_of_nodes_that_the_optimiser_renamed() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Neg", ["r"], ["y"]),
    ]
    origins = module._Origins(nodes)
    for name, op_type, expected in (
        ("conv", "Conv", "conv"),
        ("fused conv", "FusedConv", "conv"),
        ("c_nchwc", "Conv", "conv"),
        ("r_nchwc", "Conv", "conv"),
        ("ReorderOutput", "ReorderOutput", None),
        ("ReorderInput_token_6", "ReorderInput", None),
    ):
        found = origins.find(name, op_type)
        assert (found.name if found is not None else None) == expected, name
    unnamed = origins.find("Neg_2", "Neg")
    assert unnamed is not None
    assert unnamed.output[0] == "y"


def test_profile_events_of_the_warm_up_are_left_out() -> None:
    def event(name: str, ts: int, dur: int, category: str = "Node", **arguments: str) -> dict[str, Any]:
        return {"cat": category, "name": name, "ts": ts, "dur": dur, "args": arguments}

    # The runs' events come after those of their nodes, and in no particular order in the file.
    events = json.loads(
        json.dumps(
            [
                event("a_kernel_time", 110, 50, op_name="Relu"),
                event("model_run", 100, 70, "Session"),
                event("b_kernel_time", 230, 3, op_name="Neg"),
                event("a_kernel_time", 210, 20, op_name="Relu"),
                event("a_fence_before", 205, 1, op_name="Relu"),
                event("model_run", 200, 40, "Session"),
                event("model_run", 300, 40, "Session"),
                event("a_kernel_time", 310, 10, op_name="Relu"),
            ]
        )
    )
    runner = module.OnnxRuntimeRunner("m.onnx", options=RunnerOptions(profile=True))
    times = runner._times_of(events, 1)
    assert [(time.name, time.op_type, time.durations) for time in times] == [
        ("a", "Relu", pytest.approx((20e-6, 10e-6))),
        ("b", "Neg", pytest.approx((3e-6,))),
    ]
    assert runner._times_of(events, 3) == ()
