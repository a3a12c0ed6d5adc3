"""The GPU check's way to the kernels, with the host as the GPU: ctypes, layouts, types, guards, references.

The very library that runs on a GPU, but for the compiler: its C interface and its kernels' source, built for the host.
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.machinery
import json
import re
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu_check import bench, checks, child, choices, devices, engines, execution, inside, native, roofline
from benchmarks.gpu_check.devices import MARGIN, HostDevice, TorchDevice, relative_rms
from benchmarks.gpu_check.native import How, Library, NativeError
from benchmarks.gpu_check.stages import Failed
from dcn_deploy.models.suite import SUITE, ConvShape

import cases  # isort: skip


@pytest.fixture(scope="module")
def library(rehearsal: Path) -> Library:
    return Library(rehearsal / "libdcn_deploy_cuda_c.so")


@pytest.fixture(scope="module")
def on(library: Library) -> dict[str, int]:
    return library.device()


def test_the_library_is_of_this_version(library: Library, checkout: Path) -> None:
    assert library.version == (checkout / "VERSION").read_text().strip()


@pytest.mark.parametrize("structure", ["Device", "Conv2d", "Conv2dInfo", "Conv2dTensors", "RoIPool"])
def test_structures_are_those_of_the_header(structure: str, checkout: Path) -> None:
    """A field that one side has and the other has not would shift all that come after it."""
    header = (checkout / "plugins" / "core" / "cuda" / "c_api.h").read_text()
    body = re.search(rf"typedef struct DcnDeployCuda{structure} {{(.*?)}} DcnDeployCuda{structure};", header, re.DOTALL)
    assert body is not None
    kinds = {"int64_t": ctypes.c_int64, "double": ctypes.c_double}
    fields = [
        (name, ctypes.c_void_p if star else kinds[kind])
        for kind, star, name in re.findall(r"^\s*(?:const )?(\w+)(\*?) (\w+);", body[1], re.MULTILINE)
    ]
    ours = {
        "Device": native._Device,
        "Conv2d": native._Conv,
        "Conv2dInfo": native._Info,
        "Conv2dTensors": native._Tensors,
        "RoIPool": native._Pool,
    }[structure]
    assert list(ours._fields_) == fields


def test_the_reference_is_held_against_the_loops() -> None:
    assert re.fullmatch(r"float64 operator equals the plain loops on \d+ cases", checks.check_reference(HostDevice()))


@pytest.mark.parametrize("name", ["size_1", "unequal_groups", "group_3_offset_group_2", "nonfinite_unequal"])
def test_every_kernel_on_a_case(name: str, library: Library, on: dict[str, int]) -> None:
    tally = checks.Tally()
    problem = checks.Problem(HostDevice(), cases.by_name(name), checks.expected_conv)
    checks.check_case(HostDevice(), library, on, problem, tally)
    assert tally.failures == []
    # Every tile of every algorithm in every precision, and every layout of each; of the fused ones with a block for a
    # tile and with several.
    tiles = {
        (precision.name, algorithm, f"{tile[0]}x{tile[1]}")
        for precision in checks.PRECISIONS
        for algorithm in precision.algorithms
        if algorithm != "auto"
        for tile in library.tiles(algorithm)
    }
    fused = {tile for tile in tiles if tile[1] != "direct"}
    assert {" ".join(tile) for tile in tiles} <= tally.kernels
    shared = {tuple(name.split("/")[0].split()) for name in tally.kernels if "/" in name}
    assert shared == fused
    assert tally.launches == 4 * (len(tiles) + len(fused) + len(checks.PRECISIONS))


def test_an_empty_batch(library: Library, on: dict[str, int]) -> None:
    tally = checks.Tally()
    problem = checks.Problem(HostDevice(), cases.by_name("empty_batch"), checks.expected_conv)
    checks.check_case(HostDevice(), library, on, problem, tally, layouts=(("nhwc", "nchw"),))
    assert tally.failures == []
    assert tally.launches > 0


def test_the_reduced_set_exists() -> None:
    assert {cases.by_name(name).name for name in checks.REDUCED} == set(checks.REDUCED)


def test_a_wrong_result_is_told_with_its_request(library: Library, on: dict[str, int]) -> None:
    tally = checks.Tally()
    case = cases.by_name("no_mask")
    problem = checks.Problem(HostDevice(), case, lambda case, inputs: 1.01 * checks.expected_conv(case, inputs))
    checks.check_case(HostDevice(), library, on, problem, tally, precisions=checks.PRECISIONS[:1])
    assert tally.is_hopeless or len(tally.failures) == tally.launches
    assert re.match(
        r"no_mask \[float32 float32 nchw->nchw auto, offset float32, mask float32\]: expected a relative RMS error of "
        r"at most 1e-06, got 9\.9\de-03",
        tally.failures[0],
    )


def test_the_margins_see_a_write_beside_the_output() -> None:
    device = HostDevice()
    y = device.poisoned((2, 3), "float16")
    assert np.isnan(y.astype(np.float64)).all()
    assert device.margins_are_poisoned(y)
    y[:] = 1
    assert device.margins_are_poisoned(y)
    whole = y.base if y.base.base is None else y.base.base
    whole[MARGIN + 6] = 1
    assert not device.margins_are_poisoned(y)


def test_results_that_are_not_finite_never_pass() -> None:
    ones = np.ones(3)
    assert relative_rms(np.array([1, 1, np.nan]), ones) == np.inf
    assert relative_rms(ones, np.zeros(3)) == np.inf
    assert relative_rms(np.zeros(3), np.zeros(3)) == 0
    assert relative_rms(1.1 * ones, ones) == pytest.approx(0.1)


def test_types_of_offset_and_mask_take_turns(library: Library) -> None:
    """Over the ways to compute, each mix of types meets each layout."""
    half = checks.PRECISIONS[2]
    ways = checks.hows(library, half, checks.LAYOUTS)
    met = {((number + number // 4) % 4, how.x_layout, how.y_layout) for number, how in ways}
    assert len(met) == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group": 3}, "group"),
        ({"kernel_h": 0}, "kernel_shape"),
        ({"stride_w": 0}, "strides"),
        ({"in_h": 1, "pad_top": 0, "pad_bottom": 0}, "height of X"),
        ({"offset_group": 0}, "offset_group"),
    ],
)
def test_requests_are_checked(change: dict[str, int], message: str, library: Library, on: dict[str, int]) -> None:
    sizes = {**checks.sizes_of(cases.by_name("size_7")), **change}
    with pytest.raises(NativeError, match=f"{message}.*expected.*got") as error:
        library.plan(sizes, How(), on)
    assert error.value.refused


def test_a_tile_that_does_not_exist_is_refused(library: Library, on: dict[str, int]) -> None:
    sizes = checks.sizes_of(cases.by_name("size_7"))
    with pytest.raises(NativeError, match="tile of 3x5: expected one that exists") as error:
        library.plan(sizes, How("float16", algorithm="tensor", tile=(3, 5)), on)
    assert error.value.refused
    old: dict[str, Any] = {**on, "compute_capability": 75}
    with pytest.raises(NativeError, match=r"tensor cores: expected compute capability 8\.0 or later, got 7\.5"):
        library.plan(sizes, How("float16", algorithm="tensor"), old)
    assert library.tiles("auto") == []


def test_the_document_has_the_choices_as_they_are_made(library: Library, checkout: Path) -> None:
    table = choices.markdown(library, SUITE)
    document = (checkout / "docs" / "gpu.md").read_text(encoding="utf-8")
    assert table in document, f"docs/gpu.md is out of date. Its table of tiles must be:\n\n{table}"
    assert len(table.splitlines()) == len(SUITE) - 1 + 2


def test_null_pointers_are_refused(library: Library, on: dict[str, int]) -> None:
    plan = library.plan(checks.sizes_of(cases.by_name("size_7")), How(), on)
    nothing: dict[str, int | None] = dict.fromkeys(("x", "offset", "bias", "mask", "y"))
    with pytest.raises(NativeError, match="x: expected a pointer, got null"):
        plan.run(nothing, 0, 0, dtypes=("float32", "float32"))
    with pytest.raises(NativeError, match="weight: expected a pointer, got null"):
        plan.pack(0, 0, 0)


@pytest.mark.parametrize("name", checks.INT8_CASES)
def test_int8_to_the_last_bit(name: str, library: Library, on: dict[str, int]) -> None:
    tally = checks.Tally()
    checks.check_int8(
        HostDevice(), library, on, cases.by_name(name), tally, layouts=(("nchw", "nhwc"), ("nhwc", "nchw"))
    )
    assert tally.failures == []
    # Types of Y × layouts × (the library's choice, every fused tile twice, and the direct kernel's).
    assert tally.launches == 2 * 2 * (1 + 2 * (4 + 1) + 1)


def test_int8_of_another_scale_fails(library: Library, on: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    from dcn_deploy.ops import reference_int8

    right = reference_int8.deform_conv2d_int8
    monkeypatch.setattr(
        reference_int8, "deform_conv2d_int8", lambda *a, x_scale, **k: right(*a, x_scale=1.001 * x_scale, **k)
    )
    tally = checks.Tally()
    checks.check_int8(HostDevice(), library, on, cases.by_name("size_7"), tally, layouts=(("nchw", "nchw"),))
    assert re.match(
        r"size_7 \[int8 Y float32 nchw->nchw auto\]: expected what the plain loops give, got \d+ other elements of \d+",
        tally.failures[0],
    )


def test_int8_on_pytorchs_tensors(on_host: None, library: Library, on: dict[str, int]) -> None:
    device, tally = TorchDevice(), checks.Tally()
    checks.check_int8(device, library, on, cases.by_name("group_3_offset_group_2"), tally, layouts=(("nhwc", "nchw"),))
    assert tally.failures == []
    y = device.poisoned((2, 3), "int8")
    y.fill_(1)
    assert device.margins_are_poisoned(y)
    y.as_strided((1,), (1,), y.storage_offset() + 6).fill_(1)
    assert not device.margins_are_poisoned(y)


def test_roi_pooling(library: Library) -> None:
    tally = checks.Tally()
    chosen = [case for case in cases.ALL_ROI_CASES if case.n and case.r <= 4][::5]
    checks.check_roi(HostDevice(), library, tally, chosen)
    assert tally.failures == []
    assert tally.launches == 12 * len(chosen)


# PyTorch's part, with its tensors in the host's memory.


@pytest.fixture
def on_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "DEVICE", "cpu")


@pytest.mark.parametrize("name", ["unequal_groups", "offset_group_16"])
def test_every_kernel_on_pytorchs_tensors(name: str, on_host: None, library: Library, on: dict[str, int]) -> None:
    device, tally = TorchDevice(), checks.Tally()
    problem = checks.Problem(device, cases.by_name(name), checks.expected_conv)
    checks.check_case(device, library, on, problem, tally, layouts=(("nhwc", "nchw"), ("nchw", "nhwc")))
    assert tally.failures == []
    # Layouts × (every tile, the fused ones once more, and the library's choice in every precision).
    assert tally.launches == 2 * (18 + 15 + 4)


def test_margins_of_pytorchs_tensors(on_host: None) -> None:
    device = TorchDevice()
    for dtype in ("float32", "float16", "bfloat16"):
        y = device.poisoned((2, 3), dtype)
        assert y.isnan().all()
        y.fill_(1)
        assert device.margins_are_poisoned(y)
        y.as_strided((1,), (1,), y.storage_offset() + 6).fill_(1)
        assert not device.margins_are_poisoned(y)


SMALL = {
    "wide": ConvShape(
        name="wide", n=1, c=32, h=5, w=6, m=48, kernel=3, stride=1, dilation=2, group=1, offset_group=2, mask=True
    ),
    "depthwise": ConvShape(
        name="depthwise", n=2, c=8, h=6, w=5, m=8, kernel=3, stride=2, dilation=1, group=8, offset_group=1, mask=False
    ),
}


@pytest.fixture
def peers_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins with the peers' signature: this project's operator in PyTorch."""
    import dcn_deploy.ops

    for package, *parts in (("torchvision", "ops"), ("deformops", "integrations", "torchvision")):
        name = package
        for part in ("", *parts):
            name = f"{name}.{part}" if part else name
            module: Any = types.ModuleType(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            module.__path__ = []
            module.deform_conv2d = dcn_deploy.ops.deform_conv2d
            monkeypatch.setitem(sys.modules, name, module)
    registry: Any = types.ModuleType("deformops.registry")
    registry.conv = _in_deformops_layout
    monkeypatch.setitem(sys.modules, "deformops.registry", registry)


def _in_deformops_layout(x: Any, offset: Any, w: Any, *, bias: Any, mask: Any, **options: Any) -> Any:
    """deformops' own function: [N, H, W, C], [N, OH, OW, OG, K, 2], [N, OH, OW, OG, K] → [N, OH, OW, M]."""
    import dcn_deploy.ops

    assert x.is_contiguous()
    assert offset.is_contiguous()
    n, out_h, out_w, groups, points, _ = offset.shape
    assert (groups, x.shape[3] // w.shape[1]) == (options.pop("offset_groups"), options.pop("groups"))
    planes = offset.permute(0, 3, 4, 5, 1, 2).reshape(n, 2 * groups * points, out_h, out_w)
    if mask is not None:
        mask = mask.permute(0, 3, 4, 1, 2).reshape(n, groups * points, out_h, out_w)
    y = dcn_deploy.ops.deform_conv2d(x.permute(0, 3, 1, 2), planes, w, bias, mask=mask, **options)
    return y.permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize("mode", bench.MODES, ids=lambda mode: f"{mode.precision}-{mode.layout}")
@pytest.mark.parametrize("name", list(SMALL))
def test_a_row_of_the_benchmark(
    name: str,
    mode: bench.Mode,
    on_host: None,
    peers_at_hand: None,
    library: Library,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of it but the GPU's clock: sets, layouts, types, every engine and tile, their comparison with float64."""

    monkeypatch.setattr(bench, "capture", _as_if_captured)
    monkeypatch.setattr(bench, "take_turns", _as_if_timed)
    gpu = roofline.gpu_called("NVIDIA H100 80GB HBM3")
    row = bench.bench(SMALL[name], mode, bench.Frame(library, gpu, cache_bytes=1))
    timed = set(row["seconds"])
    assert {bench.OURS, bench.SELF, bench.DENSE} <= timed
    assert (bench.MIXED in timed) == (mode.how.dtype != "float32")
    assert ("torchvision" in timed) == (mode.precision != "bfloat16"), row["left_out"]
    assert "deformops" in timed, row["left_out"]
    assert {name for name in timed if row["seconds"][name]["method"] != bench.GRAPH} <= {"torchvision"}
    assert ("note" in row["seconds"]["deformops"]) == (mode.layout == "nchw")
    for engine in (bench.OURS, bench.SELF):
        assert 0 < row["seconds"][engine]["relative_rms_error"] <= checks.BARS[mode.precision]
    if name == "wide":
        assert row["chosen"]["algorithm"] == ("simt" if mode.precision == "float32" else "tensor")
        assert {name.split("/")[0] for name in row["tiles"]} == {
            f"{row['chosen']['algorithm']} {rows}x{pixels}"
            for rows, pixels in library.tiles(row["chosen"]["algorithm"])
        }
        assert any("/" in name for name in row["tiles"])
    else:
        assert row["chosen"]["algorithm"] == "direct"
    assert row["roofline"]["binds"] in ("memory", "product", "sampling", "gather")
    assert bench.summarise([row])["by_mode"][f"{mode.precision} {mode.layout}"]["shapes"] == 1


def test_an_engine_that_computes_something_else_is_not_timed(
    on_host: None, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = engines.Engine("refusing", True, lambda *a: _refuse(), lambda how: None)
    shifted = engines.Engine("shifted", True, _changed(library, lambda y: y + 1), lambda how: None)
    monkeypatch.setattr(bench, "engines", lambda library, how: [engines.ours(library), refusing, shifted])
    monkeypatch.setattr(bench, "capture", _as_if_captured)
    monkeypatch.setattr(bench, "take_turns", _as_if_timed)
    row = bench.bench(SMALL["wide"], bench.MODES[0], bench.Frame(library, None, cache_bytes=1))
    assert set(row["seconds"]) == {bench.OURS}
    assert row["left_out"]["refusing"] == "RuntimeError: not this type"
    assert row["left_out"]["shifted"].startswith("computes something else: relative RMS error")


def _refuse() -> Any:
    raise RuntimeError("not\nthis type")


def _changed(library: Library, change: Any) -> Any:
    def prepare(shape: Any, tensors: Any, how: How) -> Any:
        run = engines.ours(library).prepare(shape, tensors, how)
        return engines.Call(lambda: change(run()), run.x)

    return prepare


def _as_if_captured(runs: Any) -> bench.Timed:
    """As a graph: each replay writes to the tensors of the capture."""
    kept = tuple(runs)
    y = kept[0]()

    def replay() -> Any:
        y.copy_(kept[0]())
        return y

    return bench.Timed(replay, bench.GRAPH, kept)


def _as_if_timed(works: dict[str, bench.Timed], rounds: int) -> dict[str, list[float]]:
    for work in works.values():
        work.enqueue()
    return {name: [1.0] * rounds for name in works}


def test_a_graph_that_lacks_a_kernel_is_seen(on_host: None, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its result looks right by what the capture's eager part has left in memory, until the features are others."""

    def lacks_all(runs: Any) -> bench.Timed:
        y = runs[0]()
        return bench.Timed(lambda: y, bench.GRAPH, tuple(runs))

    def lacks_the_first(runs: Any) -> bench.Timed:
        between = runs[0]().clone()
        y = between.clone()
        return bench.Timed(lambda: y.copy_(between), bench.GRAPH, tuple(runs))

    monkeypatch.setattr(bench, "engines", lambda library, how: [engines.ours(library)])
    monkeypatch.setattr(bench, "take_turns", _as_if_timed)
    for capture, error in ((lacks_all, "inf"), (lacks_the_first, r"\d")):
        monkeypatch.setattr(bench, "capture", capture)
        row = bench.bench(SMALL["wide"], bench.MODES[0], bench.Frame(library, None, cache_bytes=1))
        assert row["seconds"] == {}
        assert re.match(rf"computes something else: relative RMS error {error}", row["left_out"][bench.OURS])


def test_a_peer_whose_first_call_takes_too_long_is_given_up(
    on_host: None, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def prepare(shape: Any, tensors: Any, how: How) -> Any:
        calls.append(shape.name)
        time.sleep(30)

    slow = engines.Engine("deformops", True, prepare, lambda how: None)
    monkeypatch.setattr(bench, "engines", lambda library, how: [engines.ours(library), slow])
    monkeypatch.setattr(bench, "capture", _as_if_captured)
    monkeypatch.setattr(bench, "take_turns", _as_if_timed)
    frame = bench.Frame(library, None, cache_bytes=1, preparation=0.2)
    for name in SMALL:
        row = bench.bench(SMALL[name], bench.MODES[0], frame)
        assert row["left_out"] == {"deformops": "its first call on wide in float16, nhwc took over 0.2 s"}
        assert set(row["seconds"]) == {bench.OURS}
    assert calls == ["wide"]


def test_features_are_as_they_were_after_the_check(on_host: None, library: Library) -> None:
    import torch

    tensors = engines.TensorSet.random(SMALL["wide"], torch.float16, torch.Generator().manual_seed(1))
    before = tensors.X.clone()
    run = engines.ours(library).prepare(SMALL["wide"], tensors, How("float16"))
    bench.replayed(_as_if_captured([run]))
    assert torch.equal(tensors.X, before)


@pytest.mark.parametrize("fault", ["launch", "synchronize"])
def test_an_error_names_the_case_and_the_kernel(
    fault: str, library: Library, on: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came before it is kept, and a device that still works goes on."""
    device, tally, count = HostDevice(), checks.Tally(), 0
    real = checks.launch

    def broken(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise NativeError("an illegal memory access was encountered")
        if fault == "launch":
            real(*arguments)

    if fault == "launch":
        monkeypatch.setattr(checks, "launch", broken)
    else:
        monkeypatch.setattr(device, "synchronize", broken)
    problem = checks.Problem(device, cases.by_name("no_mask"), checks.expected_conv)
    checks.check_case(device, library, on, problem, tally, precisions=checks.PRECISIONS[:1])
    assert tally.failures == [
        "no_mask [float32 nhwc->nchw auto, offset float32, mask float32]: NativeError: an illegal memory access was "
        "encountered".replace("[float32", "[float32 float32")
    ]
    assert tally.launches == 4 * (1 + 2 + 1) - 1


def test_nothing_more_is_tried_on_a_device_that_has_stopped_to_work(
    library: Library, on: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    device, tally, saved = HostDevice(), checks.Tally(), []
    real, count = device.synchronize, 0

    def broken() -> None:
        nonlocal count
        count += 1
        if count > 5:
            raise RuntimeError("CUDA error: unspecified launch failure")
        real()

    monkeypatch.setattr(device, "synchronize", broken)
    monkeypatch.setattr(device, "trouble", lambda: "it is gone" if count > 5 else None)
    checks.check_all(device, library, on, left=60, reduced=True, tally=tally, after=lambda: saved.append(1))
    assert tally.launches == 5
    assert len(tally.failures) == 2
    assert re.match(r"size_1 \[.*\]: RuntimeError: CUDA error: unspecified launch failure", tally.failures[0])
    assert tally.failures[1].endswith("nothing more was tried: it is gone")
    assert tally.to_json()["results"] == 5
    assert saved == [1]


def test_what_there_was_no_time_for_is_named(library: Library, on: dict[str, int]) -> None:
    times = iter([0.0, 1.0, 60.0])
    tally = checks.check_all(HostDevice(), library, on, left=50, reduced=True, clock=lambda: next(times))
    assert tally.late == "size_19 and what comes after it: no time was left of 50 s"
    assert tally.failures == []


def test_nothing_that_a_kernel_reads_was_written_by_pytorch(on_host: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under initcheck only copies count: what goes to the device is of its type already, and nothing is made there."""
    import torch

    made: list[tuple[str, Any]] = []
    to, full = torch.Tensor.to, torch.full

    def watched_to(tensor: Any, *arguments: Any, **others: Any) -> Any:
        made.append(("to", arguments[0]))
        return to(tensor, *arguments, **others)

    def watched_full(*arguments: Any, **others: Any) -> Any:
        assert "device" not in others
        return full(*arguments, **others)

    monkeypatch.setattr(torch.Tensor, "to", watched_to)
    monkeypatch.setattr(torch, "full", watched_full)
    device = TorchDevice()
    assert device.put(np.ones((2, 3)), "float16").dtype == torch.float16
    device.poisoned((2, 3), "float16")
    device.scratch(5)
    # Rounding comes before the copy, which is the last that happens.
    assert made == [("to", torch.float16), ("to", "cpu"), ("to", "cpu"), ("to", "cpu")]


def test_results_repeat_bit_for_bit(on_host: None, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    case = dataclasses.replace(cases.by_name("offset_group_16"), name=execution._CASE)
    monkeypatch.setattr(checks, "suite_cases", lambda: (case,))
    for how in execution._HOWS:
        execution._repeats(TorchDevice(), library, how)


# What the stages' own processes do, in this one.


@pytest.fixture
def report(library: Library, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> child.Report:
    monkeypatch.setattr(inside, "library", lambda: library)
    return child.Report(tmp_path / "stage.json")


def test_the_stage_of_tests(on_host: None, report: child.Report, monkeypatch: pytest.MonkeyPatch) -> None:
    of_suite = (cases.by_name("no_mask"),)
    monkeypatch.setattr(checks, "suite_cases", lambda: of_suite)
    monkeypatch.setattr(cases, "ALL_CASES", tuple(map(cases.by_name, ("size_1", checks.INT8_CASES[0]))))
    monkeypatch.setattr(cases, "ALL_ROI_CASES", cases.ALL_ROI_CASES[:2])
    monkeypatch.setattr(checks, "INT8_CASES", checks.INT8_CASES[:1])
    detail = inside.tests(report, 300.0, inside.Options())
    assert re.match(r"\d+ results of \d+ kernels right; largest errors as a part of their bars: float32 \d+%", detail)
    assert report.found["results"] == int(detail.split()[0])
    assert (report.found["failures"], report.found["late"]) == ([], None)
    with pytest.raises(Failed, match=r"^size_1 and what comes after it: no time was left of -\d+ s\n0 results of 0"):
        inside.tests(report, -1.0, inside.Options())
    monkeypatch.setattr(checks, "launch", lambda *arguments: None)
    with pytest.raises(Failed, match=r"^\d+ failures over \d+ results:\nsize_1 \["):
        inside.tests(report, 300.0, inside.Options())
    assert report.found["failures"]


def test_the_stage_of_the_benchmark(
    on_host: None, report: child.Report, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch

    from dcn_deploy.models import suite

    properties = types.SimpleNamespace(name="NVIDIA H100 80GB HBM3", L2_cache_size=1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: properties)
    monkeypatch.setattr(suite, "SUITE", tuple(SMALL.values()))
    monkeypatch.setattr(bench, "warm_up", lambda: None)
    monkeypatch.setattr(bench.run, "__kwdefaults__", {**bench.run.__kwdefaults__, "modes": bench.MODES[:2]})
    monkeypatch.setattr(bench, "capture", _as_if_captured)
    monkeypatch.setattr(bench, "take_turns", _as_if_timed)
    detail = inside.bench(report, 300.0, inside.Options(["depthwise"], 3.0))
    assert detail == "2 rows; the same kernel timed twice agrees within 0.0%"
    assert [(row["shape"], row["layout"]) for row in report.found["rows"]] == [
        ("depthwise", "nhwc"),
        ("depthwise", "nchw"),
    ]
    saved = json.loads((tmp_path / "stage.json").read_text())
    assert (saved["status"], saved["found"]) == ("unfinished", report.found)
    assert saved["found"]["rows"][0]["roofline"]["gpu"] == "H100 SXM"
    said: list[str] = []
    bench.print_rows(saved["found"]["rows"], said.append)
    assert any(line.startswith("depthwise") for line in said)
    with pytest.raises(Failed, match="no rows: there was no time for any, 4 were left out"):
        inside.bench(report, -1.0, inside.Options())
    assert len(report.found["late"]) == 4


def test_the_stage_of_execution(report: child.Report, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(library: Library, left: float, *, now: Any) -> str:
        now("a kernel")
        return f"{left:.0f}"

    monkeypatch.setattr(execution, "check", check)
    assert inside.execution(report, 20.0, inside.Options()) == "20"
