"""The GPU benchmark's arithmetic: ratios, targets, sets of inputs, floors; with made-up figures."""

from __future__ import annotations

import contextlib
import gc
import math
import signal
import time
import types
import weakref
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_check import bench, counters, engines, roofline
from benchmarks.gpu_check.native import How
from benchmarks.gpu_check.stages import Failed
from dcn_deploy.models.suite import SUITE

SHAPES = {shape.name: shape for shape in SUITE}
H100 = roofline.gpu_called("NVIDIA H100 80GB HBM3")


def row(name: str, precision: str, layout: str, **seconds: float) -> dict[str, Any]:
    shape = SHAPES[name]
    names = {"ours": bench.OURS, "again": bench.SELF, "dense": bench.DENSE}
    return {
        "shape": name,
        "precision": precision,
        "layout": layout,
        "parameters": {**asdict(shape), "padding": shape.padding, "macs": shape.macs},
        "chosen": {"algorithm": "tensor", "tile": [128, 64], "splits": 2},
        "seconds": {names.get(key, key): {"median": value} for key, value in seconds.items()},
    }


ROWS = [
    row("det_res4", "float16", "nhwc", ours=10e-6, again=10.1e-6, torchvision=80e-6, deformops=16e-6, dense=8e-6),
    row("center_64", "float16", "nhwc", ours=4e-6, again=4e-6, torchvision=8e-6, dense=1e-6),
    row("det_res4", "float16", "nchw", ours=12e-6, again=12e-6, torchvision=80e-6, dense=8e-6),
    row("det_res4", "float32", "nhwc", ours=100e-6, again=100e-6, torchvision=150e-6, dense=90e-6),
]


def test_ratios() -> None:
    said = bench.ratios(ROWS[0])
    assert said["faster_than_torchvision"] == pytest.approx(8.0)
    assert said["faster_than_deformops"] == pytest.approx(1.6)
    assert said["times_dense"] == pytest.approx(1.25)
    assert said["self"] == pytest.approx(1.01)
    assert said["mixed"] is None
    assert bench.ratios({**ROWS[0], "roofline": {"seconds": 5e-6}})["fraction_of_roofline"] == pytest.approx(0.5)


def test_verdicts_name_what_is_reached_and_what_is_missed() -> None:
    lines = {what: (bound, value, verdict) for what, bound, value, verdict in bench.verdicts(bench.summarise(ROWS))}
    assert lines["float16 nhwc: × torchvision"] == ("≥ 5", "4.00", "missed")
    assert lines["float16 nhwc: × deformops"] == ("≥ 1.5", "1.60", "reached")
    assert lines["float16 nhwc: / dense, C ≥ 256"] == ("≤ 1.5", "1.25", "reached")
    assert lines["float16 nhwc: / dense, C = 64"] == ("≤ 2.5", "4.00", "missed")
    assert lines["float16: NCHW / NHWC"] == ("≤ 1.25", "1.20", "reached")
    assert lines["float32 nhwc: × torchvision"] == ("≥ 2", "1.50", "missed")
    assert "float32 nhwc: / dense, C ≥ 256" not in lines


def test_the_targets_are_those_of_the_project() -> None:
    assert [bench.dense_target(c) for c in (64, 128, 256, 512)] == [2.5, 2.5, 1.5, 1.5]
    assert bench.TORCHVISION_TARGET == {"float16": 5, "bfloat16": 5, "tf32": 2, "float32": 2}


def test_a_method_that_does_not_hold_is_seen() -> None:
    assert bench.self_check(bench.summarise(ROWS)) < 0.01
    assert bench.self_check(bench.summarise([row("det_res4", "float16", "nhwc", ours=1.0, again=1.2)])) > 0.05
    assert math.isnan(bench.self_check(bench.summarise([])))


def test_the_rows_that_are_farthest_from_the_dense_convolution_are_profiled() -> None:
    assert counters.slowest(ROWS, 1) == [("center_64", "float16", "nhwc")]
    assert counters.slowest([]) == []


def test_table_of_rows() -> None:
    said: list[str] = []
    bench.print_rows(ROWS, said.append)
    text = "\n".join(said)
    assert "float16 nhwc, µs" in text
    line = next(line for line in said if line.startswith("det_res4"))
    assert line.split() == ["det_res4", "tensor", "128x64/2", "10.0", "80.0", "16.0", "8.0", "1.25", "-"]


@pytest.mark.parametrize(
    ("of_set", "cache", "expected"), [(100e6, 50e6, 3), (1e6, 50e6, 100), (10, 50e6, 256), (0, 0, 3)]
)
def test_sets_do_not_fit_into_the_cache(of_set: float, cache: float, expected: int) -> None:
    assert bench.count_of_sets(int(of_set), int(cache)) == expected


class Gpu:
    """Stands in for ``torch.cuda``: events, sleeps and graphs, and what was done in which order.

    Attributes:
        done: what was enqueued, in order.
        host_clocks: that the host takes to enqueue a work.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, host_clocks: int = 0) -> None:
        import torch

        self.done: list[str] = []
        self.host_clocks = host_clocks
        self.slept = 0
        gpu = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                gpu.done.append("|")

            def query(self) -> bool:
                return gpu.slept < gpu.host_clocks

            def synchronize(self) -> None:
                pass

            def elapsed_time(self, end: Any) -> float:
                return 6.0

        class Graph:
            def replay(self) -> None:
                gpu.done.append("replay")

        def sleep(clocks: int) -> None:
            gpu.slept = clocks
            gpu.done.append("sleep")

        stream = types.SimpleNamespace(wait_stream=lambda other: None)
        fakes: dict[str, Any] = {
            "Event": Event,
            "CUDAGraph": Graph,
            "_sleep": sleep,
            "synchronize": lambda: None,
            "Stream": lambda: stream,
            "current_stream": lambda: stream,
            "stream": lambda stream: contextlib.nullcontext(),
            "graph": lambda graph: contextlib.nullcontext(),
            "empty_cache": lambda: gc.collect(),
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)


def _work(enqueue: Any, sets: int = 3) -> bench.Timed:
    call: Any = engines.Call(lambda: None, None)
    return bench.Timed(enqueue, bench.GRAPH, (call,) * sets)


def test_engines_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch)
    works = {name: _work(lambda name=name: gpu.done.append(name)) for name in "abc"}  # type: ignore[misc]
    samples = bench.take_turns(works, 3)
    assert [word for word in gpu.done if word in works] == list("abc" + "abc" + "bca" + "cab")
    assert samples == {name: [pytest.approx(2e-3)] * 3 for name in "abc"}
    assert bench.take_turns({}, 3) == {}


def test_the_host_is_done_before_the_gpu_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the host takes to launch is no part of a figure: the GPU is kept busy before the first event."""
    gpu = Gpu(monkeypatch)
    work = _work(lambda: gpu.done.append("work"))
    assert bench.seconds_of(work) == pytest.approx(2e-3)
    assert gpu.done == ["sleep", "|", "work", "|"]
    assert (gpu.slept, work.in_time) == (bench.SLEEP_CLOCKS, True)
    # Where that was not enough it is done again behind a longer sleep, which the next timing begins with.
    gpu.host_clocks = 3 * bench.SLEEP_CLOCKS
    bench.seconds_of(work)
    assert (gpu.slept, work.clocks, work.in_time) == (4 * bench.SLEEP_CLOCKS, 4 * bench.SLEEP_CLOCKS, True)
    gpu.host_clocks = 2 * bench._MOST_CLOCKS
    bench.seconds_of(work)
    assert not work.in_time
    assert bench._how_timed(work)["note"] == "holds the time of launches on the host"


@pytest.mark.parametrize("make", [bench.capture, bench.queue])
def test_what_is_timed_keeps_its_tensors(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph holds pointers only: what they point into must live as long as it does."""
    gpu = Gpu(monkeypatch)

    class Tensor:
        pass

    def prepared(name: str) -> tuple[Any, weakref.ref[Any]]:
        tensor = Tensor()

        def run(tensor: Any = tensor) -> Any:
            gpu.done.append(name)
            return tensor

        return engines.Call(run, tensor), weakref.ref(tensor)

    (first, kept), (second, also_kept) = prepared("first"), prepared("second")
    runs = [first, second]
    work = make(runs)
    gpu.done.clear()
    del runs, first, second
    gc.collect()
    assert kept() is not None
    assert also_kept() is not None
    assert work.enqueue() is kept()
    assert gpu.done == (["replay"] if work.method == bench.GRAPH else ["first", "second"])
    del work
    gc.collect()
    assert kept() is None
    assert also_kept() is None


def test_torchvision_is_not_captured() -> None:
    """It launches on the default stream, so that a graph would lack its kernel."""
    library: Any = object()
    assert {engine.name for engine in engines.engines(library, How("float16")) if not engine.captured} == {
        "torchvision"
    }


def test_the_table_says_how_a_figure_was_taken() -> None:
    one = row("det_res4", "float16", "nchw", ours=1e-6, torchvision=2e-6, deformops=2e-6)
    one["seconds"]["torchvision"]["method"] = bench.QUEUE
    one["seconds"]["deformops"]["note"] = "its own change of layouts in every call"
    said: list[str] = []
    bench.print_rows([one], said.append)
    assert "torchvision (eager, queued)" in said[0]
    assert "deformops (its own change of layouts in every call)" in said[0]
    assert "dcn_deploy  " in said[0]


def _frame(**others: Any) -> bench.Frame:
    library: Any = object()
    return bench.Frame(library, None, 1, **others)


def _run(monkeypatch: pytest.MonkeyPatch, make: Any, **others: Any) -> bench.Found:
    monkeypatch.setattr(bench, "warm_up", lambda: None)
    monkeypatch.setattr(bench, "_free_memory", lambda: None)
    monkeypatch.setattr(bench, "onnxruntime_missing", lambda: "not here")
    monkeypatch.setattr(bench, "bench", make)
    found = bench.Found()
    shapes = [SHAPES[name] for name in ("det_res3", "det_res4", "center_64")]
    bench.run(shapes, _frame(), found, modes=bench.MODES[:1], say=lambda line: None, **others)
    return found


def _made(shape: Any, mode: bench.Mode, frame: bench.Frame) -> dict[str, Any]:
    if shape.name == "det_res4":
        raise RuntimeError("CUDA error:\nan illegal memory access was encountered")
    return {**row(shape.name, mode.precision, mode.layout, ours=1e-6, again=1e-6), "left_out": {}}


def test_a_row_that_breaks_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.devices, "trouble", lambda: None)
    saved: list[int] = []
    found = _run(monkeypatch, _made, after=lambda: saved.append(1))
    assert [one["shape"] for one in found.rows] == ["det_res3", "center_64"]
    assert found.broken == ["det_res4 float16 nhwc: RuntimeError: CUDA error: an illegal memory access was encountered"]
    assert len(saved) == 3
    with pytest.raises(Failed, match="det_res4 float16 nhwc: RuntimeError"):
        bench.conclude(found)


def test_rows_before_the_gpu_stops_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.devices, "trouble", lambda: "it is gone")
    found = _run(monkeypatch, _made)
    assert [one["shape"] for one in found.rows] == ["det_res3"]
    assert found.broken[1] == "after that the GPU does nothing more, and nothing more was tried: it is gone"


def test_a_row_that_the_time_ran_out_on_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(shape: Any, mode: bench.Mode, frame: bench.Frame) -> dict[str, Any]:
        one = row(shape.name, mode.precision, mode.layout, ours=1e-6)
        return {**one, "left_out": {bench.SELF: bench._LATE} if shape.name == "det_res4" else {}}

    found = _run(monkeypatch, cut)
    assert [one["shape"] for one in found.rows] == ["det_res3", "center_64"]
    assert (found.late, found.broken) == (["det_res4 float16 nhwc"], [])


def test_a_row_without_this_projects_kernel_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(shape: Any, mode: bench.Mode, frame: bench.Frame) -> dict[str, Any]:
        one = row(shape.name, mode.precision, mode.layout, dense=1e-6)
        return {**one, "left_out": {bench.OURS: "NativeError: wrong"}}

    with pytest.raises(
        Failed, match=r"det_res3 float16 nhwc: dcn_deploy: NativeError: wrong\n(.*\n)+.*no row has both"
    ):
        bench.conclude(_run(monkeypatch, without))


def test_the_conclusion() -> None:
    with pytest.raises(Failed, match="no rows: there was no time for any, 1 were left out"):
        bench.conclude(bench.Found(late=["a"]))
    with pytest.raises(Failed, match="no rows: every one that was tried broke\na: b"):
        bench.conclude(bench.Found(broken=["a: b"]))
    with pytest.raises(Failed, match=r"expected a ratio of 1 within 5% in geometric mean, got 20\.0% away"):
        bench.conclude(bench.Found([row("det_res4", "float16", "nhwc", ours=1.0, again=1.2)]))
    assert bench.conclude(bench.Found(ROWS, ["a"])) == (
        "4 rows; the same kernel timed twice agrees within 0.5%; 1 rows left out for want of time"
    )


def test_a_first_call_that_takes_too_long_is_broken_off() -> None:
    begin = time.monotonic()
    with pytest.raises(bench.TooLongError), bench.limit(0.1):
        time.sleep(30)
    assert time.monotonic() - begin < 10
    # One that catches it is still found out.
    with pytest.raises(bench.TooLongError), bench.limit(0.1), contextlib.suppress(bench.TooLongError):
        time.sleep(30)
    with bench.limit(30):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_figures() -> None:
    found = bench.figures([3.0, 1.0, 2.0], 1e-4)
    assert (found["median"], found["minimum"], found["maximum"], found["count"]) == (2.0, 1.0, 3.0, 3)
    assert found["p90"] == 3.0


def test_engines_say_why_they_are_left_out() -> None:
    library: Any = object()
    named = {engine.name: engine for engine in engines.engines(library, How("bfloat16"))}
    assert list(named) == [engines.OURS, engines.SELF, engines.MIXED, "torchvision", "deformops", engines.DENSE]
    assert named["torchvision"].missing(How("bfloat16")) == "torchvision's CUDA operator has no bfloat16"
    assert engines.MIXED not in {engine.name for engine in engines.engines(library, How("float32"))}


def test_requests_have_the_sizes_of_the_suite() -> None:
    sizes = engines.sizes_of(SHAPES["seg_res5_d2"])
    assert (sizes["kernel_h"], sizes["dilation_w"], sizes["pad_bottom"], sizes["stride_h"]) == (3, 2, 2, 1)
    assert (sizes["batch"], sizes["in_channels"], sizes["out_channels"], sizes["offset_group"]) == (1, 512, 512, 1)


# Floors.


def test_gpus_by_the_drivers_name() -> None:
    names = {
        "NVIDIA H100 80GB HBM3": "H100 SXM",
        "NVIDIA H100 PCIe": "H100 PCIe",
        "NVIDIA H200": "H200 SXM",
        "NVIDIA A100-SXM4-80GB": "A100 SXM 80GB",
        "NVIDIA A100-SXM4-40GB": "A100 SXM 40GB",
    }
    for driver, name in names.items():
        gpu = roofline.gpu_called(driver)
        assert gpu is not None
        assert gpu.name == name
    assert roofline.gpu_called("NVIDIA GeForce RTX 4090") is None


def test_floors_by_hand() -> None:
    assert H100 is not None
    assert (H100.bandwidth, H100.half, H100.single) == (3.35e12, 989e12, 67e12)
    shape = SHAPES["det_res4"]
    floor = roofline.floor(shape, "float16", H100)
    pixels, channels = 50 * 84, 256
    elements = channels * pixels + 256 * 256 * 9 + 18 * pixels + 9 * pixels + 256 * pixels + 256
    assert roofline.moved_bytes(shape, "float16") == 2 * elements
    assert floor.memory == pytest.approx(2 * elements / 3.35e12)
    assert floor.product == pytest.approx(2 * 256 * 256 * 9 * pixels / 989e12)
    assert floor.sampling == pytest.approx(8 * channels * 9 * pixels / 67e12)
    assert floor.gather == pytest.approx(4 * 2 * channels * 9 * pixels / 33.5e12)
    assert (floor.binds, floor.seconds) == ("product", floor.product)


def test_a_depthwise_product_is_not_for_tensor_cores() -> None:
    assert H100 is not None
    shape = SHAPES["depthwise"]
    assert roofline.floor(shape, "float16", H100).product == pytest.approx(2 * shape.macs / H100.single)


def test_no_mask_is_not_moved() -> None:
    shape = SHAPES["v1_det_res5"]
    pixels = 25 * 42
    elements = 2 * 512 * pixels + 512 * 512 * 9 + 4 * 18 * pixels + 512
    assert roofline.moved_bytes(shape, "float32") == 4 * elements


@pytest.mark.parametrize("driver", ["NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"])
def test_the_document_has_the_floors_as_they_are_computed(driver: str, checkout: Path) -> None:
    document = (checkout / "docs" / "gpu.md").read_text(encoding="utf-8")
    gpu = roofline.gpu_called(driver)
    assert gpu is not None
    table = roofline.markdown(SUITE, gpu)
    assert table in document, f"docs/gpu.md is out of date. Its table for the {gpu.name} must be:\n\n{table}"
    assert len(table.splitlines()) == len(SUITE) + 2
    peaks = f"{gpu.bandwidth / 1e12:g} TB/s, {gpu.half / 1e12:g} TFLOP/s"
    assert peaks in document


def test_the_document_says_that_nothing_was_measured(checkout: Path) -> None:
    """Until there is a result: then this sentence has to go, and a table has to come."""
    document = (checkout / "docs" / "gpu.md").read_text(encoding="utf-8")
    measured = list((checkout / "benchmarks" / "results").glob("gpu-*.json"))
    assert ("have not yet been run on a GPU" in document) == (not measured)
