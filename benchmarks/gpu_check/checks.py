"""Stage ``tests``: every kernel against the float64 reference, on whatever device the library is for.

The cases are the project's own (tests/cases.py) and the shapes of the benchmark suite. Inputs are rounded to their
storage types first; the bars are those of the project: relative RMS error 1e-6 for float32, 1e-3 for TF32 and float16,
8e-3 for bfloat16. int8 is compared for equality, on positions and masks that float32 samples without rounding.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_check.devices import Array, Device, relative_rms, to_nchw, to_nhwc
from benchmarks.gpu_check.native import DTYPES, How, Library, NativeError, Plan, tile_name
from benchmarks.gpu_check.native import LAYOUTS as LAYOUT_NUMBERS

CHECKOUT = Path(__file__).resolve().parents[2]
if str(CHECKOUT / "tests") not in sys.path:
    sys.path.insert(0, str(CHECKOUT / "tests"))

import cases  # noqa: E402

SEED = 20170317
#: Relative RMS error that a result may have.
BARS = {"float32": 1e-6, "tf32": 1e-3, "float16": 1e-3, "bfloat16": 8e-3}
#: Blocks that share a tile's sum: they take turns, see :func:`hows`.
SPLITS = (2, 3, 8, 5)
LAYOUTS = tuple(itertools.product(("nchw", "nhwc"), repeat=2))
#: Enough for every path of every kernel, few enough for a tool that slows each of them down a hundredfold.
REDUCED = (
    "size_1",
    "size_19",
    "unequal_groups",
    "group_3_offset_group_2",
    "depthwise",
    "offset_group_16",
    "channels_67",
    "v1_offset_group_4",
    "no_bias",
    "nonfinite",
)
_MOST_FAILURES = 20


@dataclass
class Tally:
    """What a run of checks has found so far.

    Attributes:
        launches: results that were compared.
        left_out: requests that the device has no room for.
        failures: what is wrong, in words.
        late: what was not tried for want of time.
        trouble: what the device says since it has stopped to work.
        worst: the largest error of each precision, as a fraction of its bar, and where it was.
        kernels: every kernel that ran.
        now: gets the case and kernel before each launch, so that what breaks or hangs has a name.
    """

    launches: int = 0
    left_out: int = 0
    failures: list[str] = field(default_factory=list)
    late: str | None = None
    trouble: str | None = None
    worst: dict[str, tuple[float, str]] = field(default_factory=dict)
    kernels: set[str] = field(default_factory=set)
    now: Callable[[str], None] = lambda where: None

    @contextlib.contextmanager
    def trying(self, where: str, device: Device) -> Iterator[None]:
        """Note any exception as a failure of ``where``, and whether the device still works after it."""
        self.now(where)
        try:
            yield
        except Exception as error:
            if self.trouble is not None:
                return  # the inner one has told it
            self.fail(f"{where}: {type(error).__name__}: {' '.join(str(error).split())[:500]}")
            self.trouble = device.trouble()
            if self.trouble is not None:
                self.fail(f"after that the device does nothing more, and nothing more was tried: {self.trouble}")

    def to_json(self) -> dict[str, Any]:
        """Ready for ``json.dumps``."""
        return {
            "results": self.launches,
            "left_out": self.left_out,
            "failures": self.failures,
            "late": self.late,
            "kernels": sorted(self.kernels),
            "worst": {name: {"of_bar": value, "where": where} for name, (value, where) in self.worst.items()},
        }

    def judge(self, precision: str, error: float, where: str) -> None:
        """Count a result."""
        self.launches += 1
        fraction = error / BARS[precision]
        if fraction > self.worst.get(precision, (-1.0, ""))[0]:
            self.worst[precision] = (fraction, where)
        if not fraction <= 1:
            self.fail(f"{where}: expected a relative RMS error of at most {BARS[precision]:g}, got {error:.2e}")

    def fail(self, text: str) -> None:
        """Note a failure."""
        self.failures.append(text)

    @property
    def is_hopeless(self) -> bool:
        """Whether so much is wrong that more of it would not help, or the device has stopped to work."""
        return self.trouble is not None or len(self.failures) >= _MOST_FAILURES


@dataclass(frozen=True)
class Precision:
    """A storage type of the features, and whether float32 may go through tensor cores."""

    name: str
    dtype: str
    allow_tf32: bool
    algorithms: tuple[str, ...]


PRECISIONS = (
    Precision("float32", "float32", False, ("auto", "simt", "direct")),
    Precision("tf32", "float32", True, ("auto", "tensor")),
    Precision("float16", "float16", False, ("auto", "tensor", "simt", "direct")),
    Precision("bfloat16", "bfloat16", False, ("auto", "tensor", "simt", "direct")),
)


#: Fields that a ``cases.Case`` and the C interface call the same.
_SAME_NAMES = (
    *("kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w", "group", "offset_group"),
    *("pad_top", "pad_left", "pad_bottom", "pad_right"),
)


def sizes_of(case: Any) -> dict[str, int]:
    """A ``cases.Case`` as the C interface has it."""
    return {
        "batch": case.n,
        "in_channels": case.c,
        "in_h": case.h,
        "in_w": case.w,
        "out_channels": case.m,
        **{name: getattr(case, name) for name in _SAME_NAMES},
    }


def suite_cases() -> tuple[Any, ...]:
    """The benchmark's shapes as cases."""
    from dcn_deploy.models.suite import SUITE

    return tuple(
        cases.Case(
            name=s.name,
            n=s.n,
            c=s.c,
            h=s.h,
            w=s.w,
            m=s.m,
            kernel_h=s.kernel,
            kernel_w=s.kernel,
            stride_h=s.stride,
            stride_w=s.stride,
            pad_top=s.padding,
            pad_left=s.padding,
            pad_bottom=s.padding,
            pad_right=s.padding,
            dilation_h=s.dilation,
            dilation_w=s.dilation,
            group=s.group,
            offset_group=s.offset_group,
            mask=s.mask,
        )
        for s in SUITE
    )


def expected_conv(case: Any, inputs: dict[str, Array]) -> Array:
    """The convolution in float64 by PyTorch's operator of this project, on the GPU where there is one."""
    import torch

    from dcn_deploy.ops.deform_conv2d_vectorized import forward
    from dcn_deploy.ops.geometry import Geometry

    if case.n == 0:
        return np.zeros(case.output_shape)
    on = "cuda" if torch.cuda.is_available() else "cpu"
    x, w, offset, b, mask = (
        torch.from_numpy(np.ascontiguousarray(inputs[name])).to(on) if name in inputs else None
        for name in ("X", "W", "offset", "B", "mask")
    )
    geometry = Geometry(list(case.strides), list(case.pads), list(case.dilations), case.group, case.offset_group)
    with torch.inference_mode():
        result: Array = forward(x, w, offset, b, mask, geometry).cpu().numpy()
    return result


class Problem:
    """One case's tensors on the device, in every type and layout asked for, and what must come out."""

    def __init__(self, device: Device, case: Any, expect: Callable[[Any, dict[str, Array]], Array]) -> None:
        self.case = case
        self._device = device
        self._expect = expect
        drawn = cases.make_inputs(case, np.random.default_rng([SEED, *case.name.encode()]), np.float64)
        self._drawn: dict[str, Array] = drawn.named()
        self._put: dict[tuple[str, str, str], Any] = {}
        self._expected: dict[tuple[str, str, str], Array] = {}

    def has(self, name: str) -> bool:
        """Whether the case has such an input."""
        return name in self._drawn

    def tensor(self, name: str, dtype: str, layout: str = "nchw") -> Any:
        """An input on the device."""
        key = (name, dtype, layout)
        if key not in self._put:
            array = self._drawn[name]
            self._put[key] = self._device.put(to_nhwc(array) if layout == "nhwc" else array, dtype)
        return self._put[key]

    def expected(self, dtype: str, offset_dtype: str, mask_dtype: str) -> Array:
        """The result in float64 of the inputs as they are after rounding."""
        key = (dtype, offset_dtype, mask_dtype)
        if key not in self._expected:
            types = {"offset": offset_dtype, "mask": mask_dtype}
            rounded = {name: self._device.get(self.tensor(name, types.get(name, dtype))) for name in self._drawn}
            self._expected[key] = self._expect(self.case, rounded)
        return self._expected[key]


def pack(device: Device, problem: Problem, plan: Plan, dtype: str) -> Any:
    """The packed weights of a plan."""
    packed = device.scratch(plan.info["packed_bytes"])
    weight = problem.tensor("W", dtype)
    plan.pack(device.pointer(weight), device.pointer(packed), device.stream())
    return packed


def launch(
    device: Device, problem: Problem, plan: Plan, how: How, packed: Any, coordinates: tuple[str, str], y: Any
) -> None:
    """Enqueue one convolution into ``y``."""
    pointers: dict[str, int | None] = {
        "x": device.pointer(problem.tensor("X", how.dtype, how.x_layout)),
        "offset": device.pointer(problem.tensor("offset", coordinates[0])),
        "bias": device.pointer(problem.tensor("B", how.dtype)) if problem.has("B") else None,
        "mask": device.pointer(problem.tensor("mask", coordinates[1])) if problem.has("mask") else None,
        "y": device.pointer(y),
    }
    plan.run(pointers, device.pointer(packed), device.stream(), dtypes=coordinates)


def output_shape(case: Any, layout: str) -> tuple[int, ...]:
    """Shape of Y in memory."""
    n, m, h, w = case.output_shape
    return (n, m, h, w) if layout == "nchw" else (n, h, w, m)


def hows(library: Library, precision: Precision, layouts: Sequence[tuple[str, str]]) -> Iterator[tuple[int, How]]:
    """Every way to compute in a precision, numbered: algorithm × tile × layouts, alone and with a tile's sum shared."""
    number = 0
    for algorithm in precision.algorithms:
        for tile in [(0, 0)] if algorithm == "auto" else library.tiles(algorithm):
            # The tile of a direct kernel is the only one it has: it is not asked for.
            asked = (0, 0) if algorithm == "direct" else tile
            shared = SPLITS if algorithm in ("tensor", "simt") else ()
            for x_layout, y_layout in layouts:
                how = How(precision.dtype, x_layout, y_layout, precision.allow_tf32, algorithm, asked)
                if not shared:
                    yield number, how
                    number += 1
                    continue
                for splits in (1, shared[number // 2 % len(shared)]):
                    yield number, dataclasses.replace(how, splits=splits)
                    number += 1


def _plan(library: Library, sizes: dict[str, int], how: How, on: dict[str, int], tally: Tally) -> Plan | None:
    """A plan; None, and counted, for a tile whose shared memory the device has not, or tensor cores that it has not.

    Of blocks that share a sum there are at most as many as it has steps, and as the device lets read each other.
    """
    try:
        if how.splits < 2:
            return library.plan(sizes, how, on)
        alone = library.plan(sizes, dataclasses.replace(how, splits=1), on)
        splits = min(how.splits, alone.info["steps"], on["cluster_blocks"])
        return library.plan(sizes, dataclasses.replace(how, splits=splits), on)
    except NativeError as error:
        if not error.refused:
            raise
        tally.left_out += 1
        return None


def check_case(
    device: Device,
    library: Library,
    on: dict[str, int],
    problem: Problem,
    tally: Tally,
    *,
    layouts: Sequence[tuple[str, str]] = LAYOUTS,
    precisions: Sequence[Precision] = PRECISIONS,
) -> None:
    """Compare every kernel with the reference on one case."""
    case = problem.case
    for precision in precisions:
        packed_for: dict[tuple[str, int], Any] = {}
        types = ("float32",) if precision.dtype == "float32" else ("float32", precision.dtype)
        mixes = tuple(itertools.product(types, repeat=2))
        for number, how in hows(library, precision, layouts):
            # Types of offset and mask take turns, so that each meets each kernel and layout over the cases.
            coordinates = mixes[(number + number // len(mixes)) % len(mixes)]
            where = f"{case.name} [{precision.name} {how}, offset {coordinates[0]}, mask {coordinates[1]}]"
            with tally.trying(where, device):
                plan = _plan(library, sizes_of(case), how, on, tally)
                if plan is None:
                    continue
                key = (plan.algorithm, plan.info["packed_bytes"])
                if key not in packed_for:
                    packed_for[key] = pack(device, problem, plan, precision.dtype)
                y = device.poisoned(output_shape(case, how.y_layout), precision.dtype)
                launch(device, problem, plan, how, packed_for[key], coordinates, y)
                device.synchronize()
                actual = device.get(y)
                actual = to_nchw(actual) if how.y_layout == "nhwc" else actual
                tally.kernels.add(f"{precision.name} {plan.algorithm} {tile_name(plan.tile, plan.splits)}")
                tally.judge(precision.name, relative_rms(actual, problem.expected(how.dtype, *coordinates)), where)
                if not device.margins_are_poisoned(y):
                    tally.fail(f"{where}: expected nothing to be written beside Y, got something")
            if tally.is_hopeless:
                return


def check_reference(device: Device) -> str:
    """Hold the fast float64 operator, which the kernels are compared with, against the plain loops.

    Raises:
        AssertionError: if the two differ.
    """
    from dcn_deploy.ops import reference

    chosen = [case for case in cases.ALL_CASES if case.n and case.locations * case.m < 20_000][::4]
    for case in chosen:
        problem = Problem(device, case, expected_conv)
        inputs = {name: device.get(problem.tensor(name, "float32")) for name in ("X", "W", "offset", "B", "mask")
                  if problem.has(name)}  # fmt: skip
        slow = reference.deform_conv2d(
            inputs["X"], inputs["W"], inputs["offset"], inputs.get("B"), inputs.get("mask"), **case.reference_arguments
        )
        error = relative_rms(expected_conv(case, inputs), slow)
        if not error < 1e-12:
            raise AssertionError(f"{case.name}: the float64 operator and the plain loops differ by {error:.2e}")
    return f"float64 operator equals the plain loops on {len(chosen)} cases"


#: Of int8: the plain loops are its reference, so they are few and small.
INT8_CASES = (
    "size_7",
    "unequal_small",
    "group_3_offset_group_2",
    "depthwise",
    "offset_group_16",
    "channels_67",
    "no_bias",
)


def check_int8(
    device: Device,
    library: Library,
    on: dict[str, int],
    case: Any,
    tally: Tally,
    *,
    layouts: Sequence[tuple[str, str]] = LAYOUTS,
) -> None:
    """Compare every kernel of int8 with the plain loops, to the last bit.

    Positions and masks are multiples of a quarter and scales powers of two, so that nothing but the operator's own
    roundings takes place, ties included.
    """
    from dcn_deploy.ops.reference_int8 import deform_conv2d_int8

    rng = np.random.default_rng([SEED, *case.name.encode()])
    drawn = cases.make_inputs(case, rng, np.float64)
    x = rng.integers(-128, 128, case.x_shape).astype(np.float64)
    w = rng.integers(-128, 128, case.weight_shape).astype(np.float64)
    offset = np.rint(4 * drawn.offset) / 4
    mask = None if drawn.mask is None else np.rint(4 * drawn.mask) / 4
    bias = None if drawn.B is None else np.rint(64 * drawn.B) / 64
    x_scale, weight_scale = 2.0**-8, 2.0 ** -rng.integers(6, 9, case.m).astype(np.float64)
    tensors = {
        "offset": device.put(offset, "float32"),
        "bias": None if bias is None else device.put(bias, "float32"),
        "mask": None if mask is None else device.put(mask, "float32"),
        "scale": device.put(x_scale * weight_scale, "float32"),
    }
    maps = {"nchw": device.put(x, "int8"), "nhwc": device.put(to_nhwc(x), "int8")}
    weight = device.put(w, "int8")
    pointers = {name: None if tensor is None else device.pointer(tensor) for name, tensor in tensors.items()}
    for y_dtype, y_scale in (("float32", None), ("int8", 2.0**-2)):
        expected = deform_conv2d_int8(
            x, w, offset, bias, mask,
            x_scale=x_scale, weight_scale=weight_scale.tolist(), y_scale=y_scale, **case.reference_arguments,
        )  # fmt: skip
        for _, how in hows(library, Precision("int8", "int8", False, ("auto", "tensor", "simt", "direct")), layouts):
            how = dataclasses.replace(how, y_dtype=y_dtype, y_scale=y_scale or 1.0)
            where = f"{case.name} [{how}]"
            with tally.trying(where, device):
                plan = _plan(library, sizes_of(case), how, on, tally)
                if plan is None:
                    continue
                packed = device.scratch(plan.info["packed_bytes"])
                plan.pack(device.pointer(weight), device.pointer(packed), device.stream())
                y = device.poisoned(output_shape(case, how.y_layout), y_dtype)
                own: dict[str, int | None] = {**pointers, "x": device.pointer(maps[how.x_layout])}
                own["y"] = device.pointer(y)
                plan.run(own, device.pointer(packed), device.stream(), dtypes=("float32", "float32"))
                device.synchronize()
                actual = device.get(y)
                actual = to_nchw(actual) if how.y_layout == "nhwc" else actual
                tally.launches += 1
                tally.kernels.add(f"int8 {plan.algorithm} {tile_name(plan.tile, plan.splits)}")
                if not np.array_equal(actual, expected):
                    unequal = int((actual != expected).sum())
                    tally.fail(
                        f"{where}: expected what the plain loops give, got {unequal} other elements of {actual.size}"
                    )
                if not device.margins_are_poisoned(y):
                    tally.fail(f"{where}: expected nothing to be written beside Y, got something")
            if tally.is_hopeless:
                return


def roi_fields(case: Any) -> dict[str, Any]:
    """A ``cases.RoiCase`` as the C interface has it, with coordinates in float32."""
    return {
        "variant": 0 if case.is_aligned else 1,
        "batch": case.n,
        "in_channels": case.c,
        "in_h": case.h,
        "in_w": case.w,
        "rois": case.r,
        "out_h": case.pooled_h,
        "out_w": case.pooled_w,
        "sampling_ratio": case.sampling_ratio,
        "sample_per_part": case.sample_per_part,
        "group_size": case.group_size,
        "classes": case.classes,
        "part_h": case.parts[0],
        "part_w": case.parts[1],
        "output_channels": case.output_channels,
        "spatial_scale": case.scale,
        "gamma": case.factor,
        "rois_dtype": DTYPES["float32"],
        "offset_dtype": DTYPES["float32"],
        "mask_dtype": DTYPES["float32"],
    }


def check_roi(device: Device, library: Library, tally: Tally, chosen: Sequence[Any] | None = None) -> None:
    """Compare deformable RoI pooling with the plain loops in float64."""
    from dcn_deploy.ops import reference

    for case in cases.ALL_ROI_CASES if chosen is None else chosen:
        # Coordinates in float32: the recommended mixed mode; the cases keep away from its jumps.
        drawn = cases.make_roi_inputs(case, np.random.default_rng([SEED, *case.name.encode()]), np.float32)
        x = drawn.X.astype(np.float64)
        coordinates = {
            name: device.put(array, "float32")
            for name, array in (("boxes", drawn.rois), ("offset", drawn.offset), ("mask", drawn.mask))
            if array is not None
        }
        for dtype in ("float32", "float16", "bfloat16"):
            rounded = device.get(device.put(x, dtype))
            expected = reference.deform_roi_pool(
                rounded, drawn.rois, drawn.offset, drawn.mask, **case.reference_arguments
            )
            for x_layout, y_layout in LAYOUTS:
                where = f"{case.name} [{dtype} {x_layout}->{y_layout}]"
                with tally.trying(where, device):
                    tensors = {"x": device.put(to_nhwc(x) if x_layout == "nhwc" else x, dtype), **coordinates}
                    y = device.poisoned(output_shape(case, y_layout), dtype)
                    pointers: dict[str, int | None] = {
                        name: device.pointer(tensors[name]) if name in tensors else None
                        for name in ("x", "boxes", "offset", "mask")
                    }
                    fields = {**roi_fields(case), "dtype": DTYPES[dtype], "x_layout": LAYOUT_NUMBERS[x_layout]}
                    fields["y_layout"] = LAYOUT_NUMBERS[y_layout]
                    library.pool(fields, {**pointers, "y": device.pointer(y)}, device.stream())
                    device.synchronize()
                    actual = device.get(y)
                    tally.kernels.add(f"{dtype} roi {case.variant}")
                    tally.judge(dtype, relative_rms(to_nchw(actual) if y_layout == "nhwc" else actual, expected), where)
                    if not device.margins_are_poisoned(y):
                        tally.fail(f"{where}: expected nothing to be written beside Y, got something")
                if tally.is_hopeless:
                    return


def check_all(
    device: Device,
    library: Library,
    on: dict[str, int],
    *,
    left: float,
    reduced: bool = False,
    suite: bool = True,
    clock: Callable[[], float] = time.monotonic,
    tally: Tally | None = None,
    after: Callable[[], None] = lambda: None,
) -> Tally:
    """Compare every kernel on every case, as far as the time goes.

    Args:
        device: where the library's memory is.
        library: the kernels.
        on: the device as the library describes it.
        left: seconds; what does not fit is named in the tally's ``late``.
        reduced: only the cases of :data:`REDUCED`, in two pairs of layouts.
        suite: also the shapes of the benchmark.
        clock: seconds from any start.
        tally: is added to; None begins a new one.
        after: called after each case.
    """
    begin = clock()
    tally = Tally() if tally is None else tally
    layouts = (("nchw", "nchw"), ("nhwc", "nhwc")) if reduced else LAYOUTS

    def on_case(case: Any, layouts: Sequence[tuple[str, str]]) -> None:
        check_case(device, library, on, Problem(device, case, expected_conv), tally, layouts=layouts)

    def on_int8(case: Any) -> None:
        check_int8(device, library, on, case, tally, layouts=layouts)

    parts: list[tuple[str, Callable[[], None]]] = []
    for case in [cases.by_name(name) for name in REDUCED] if reduced else cases.ALL_CASES:
        parts.append((case.name, functools.partial(on_case, case, layouts)))
    for name in INT8_CASES:
        parts.append((f"int8 {name}", functools.partial(on_int8, cases.by_name(name))))
    for case in [case for case in cases.ROI_CASES if case.r <= 4][:6] if reduced else cases.ALL_ROI_CASES:
        parts.append((f"RoI {case.name}", functools.partial(check_roi, device, library, tally, [case])))
    for case in suite_cases() if suite and not reduced else ():
        parts.append((case.name, functools.partial(on_case, case, LAYOUTS)))
    for name, part in parts:
        if tally.is_hopeless:
            break
        if clock() - begin > left:
            tally.late = f"{name} and what comes after it: no time was left of {left:.0f} s"
            break
        with tally.trying(name, device):
            part()
        after()
    return tally
