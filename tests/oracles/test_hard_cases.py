"""What breaks kernels that pass every ordinary test: huge counts, threads, poisoned memory, odd memory layouts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cases
import numpy as np
import peers
import pytest
import torch
from cases import Array, Case, Inputs

from dcn_deploy import ops
from dcn_deploy.ops import reference

# Large enough that a kernel splits its work among threads, in every direction it might.
_SPLIT = (
    Case("wide", n=2, c=64, h=33, w=35, m=64, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1),
    Case("few_pixels", c=256, h=7, w=7, m=130, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1, offset_group=4),
    Case("depthwise_wide", c=96, h=33, w=19, m=96, group=96, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1),
    Case("many_images", n=13, c=5, h=7, w=9, m=3, kernel_h=2, kernel_w=3),
)


def _to_torch(inputs: Inputs) -> list[torch.Tensor | None]:
    return [None if a is None else torch.from_numpy(a) for a in inputs.in_order()]


def _run_torch(case: Case, tensors: list[Any]) -> Array:
    x, w, offset, b, mask = tensors
    return np.asarray(ops.deform_conv2d(x, offset, w, b, **case.functional_arguments, mask=mask).numpy())


# Threads.


@pytest.mark.parametrize("case", cases.CASES + _SPLIT, ids=cases.name_of)
def test_number_of_threads_does_not_change_a_bit(case: Case, rng: Any, make_session: Any) -> None:
    inputs = cases.make_inputs(case, rng, np.float32)
    model = peers.model(case, form="plugin")
    one, two, three = (make_session(model, threads).run(None, peers.feed(inputs))[0] for threads in (1, 2, 3))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("case", _SPLIT, ids=cases.name_of)
def test_split_work_is_right(case: Case, rng: Any, make_session: Any, make_plain_session: Any) -> None:
    inputs = cases.make_inputs(case, rng, np.float32)
    exact = make_plain_session(peers.model(case, dtype=np.float64))
    (expected,) = exact.run(None, peers.feed(peers.as_float64(inputs)))
    bound = peers.error_bound(case, inputs, "float32")
    (y,) = make_session(peers.model(case, form="plugin"), 2).run(None, peers.feed(inputs))
    peers.assert_within(y, expected, bound)
    peers.assert_within(_run_torch(case, _to_torch(inputs)), expected, bound)


@pytest.mark.parametrize("threads", [1, 2])
def test_eight_callers_of_one_session_get_identical_results(threads: int, rng: Any, make_session: Any) -> None:
    """Eight threads run one session at once, each with its own data: every answer is the one it gets alone."""
    callers, rounds = 8, 10
    case = _SPLIT[0]
    session = make_session(peers.model(case, form="plugin"), threads)
    feeds = [peers.feed(cases.make_inputs(case, rng, np.float32)) for _ in range(callers)]
    alone = [session.run(None, feed)[0] for feed in feeds]

    def call(caller: int) -> list[Array]:
        return [session.run(None, feeds[caller])[0] for _ in range(rounds)]

    with ThreadPoolExecutor(callers) as pool:
        together = list(pool.map(call, range(callers)))
    for caller, answers in enumerate(together):
        for answer in answers:
            np.testing.assert_array_equal(answer, alone[caller], err_msg=f"caller {caller}")


def test_eight_sessions_at_once(rng: Any, make_session: Any) -> None:
    """Sessions are created, run and dropped by eight threads at once: nothing is shared between them."""
    case = cases.by_name("unequal_groups")
    inputs = cases.make_inputs(case, rng, np.float32)
    model = peers.model(case, form="plugin").SerializeToString()
    expected = make_session(model).run(None, peers.feed(inputs))[0]

    def call(_: int) -> Array:
        return np.asarray(make_session(model).run(None, peers.feed(inputs))[0])

    with ThreadPoolExecutor(8) as pool:
        for answer in pool.map(call, range(40)):
            np.testing.assert_array_equal(answer, expected)


# Memory.


@pytest.mark.parametrize("case", cases.CASES + cases.NONFINITE_CASES + _SPLIT, ids=cases.name_of)
def test_every_output_element_is_written(case: Case, rng: Any, make_session: Any) -> None:
    """The result does not depend on what the output's memory held before."""
    import onnxruntime

    inputs = cases.make_inputs(case, rng, np.float32)
    session = make_session(peers.model(case, form="plugin"), 2)
    answers = []
    for poison in (np.nan, np.inf, -3e38):
        output = onnxruntime.OrtValue.ortvalue_from_numpy(np.full(case.output_shape, poison, np.float32))
        binding = session.io_binding()
        for name, array in peers.feed(inputs).items():
            binding.bind_cpu_input(name, array)
        binding.bind_ortvalue_output("Y", output)
        session.run_with_iobinding(binding)
        answers.append(output.numpy().copy())
        assert np.isfinite(answers[-1]).all()
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_a_sample_outside_ignores_what_the_map_holds(engine: str, rng: Any, make_session: Any) -> None:
    """NaN and infinity in the map reach nobody who samples outside, not even as 0 · NaN."""
    case = Case("poisoned", n=2, c=6, h=7, w=9, m=4, offset_group=2, offsets="outside")
    inputs = cases.make_inputs(case, rng, np.float32)
    inputs.X[:] = rng.choice(np.array([np.nan, np.inf, -np.inf], np.float32), case.x_shape)
    if engine == "torch":
        y = _run_torch(case, _to_torch(inputs))
    else:
        (y,) = make_session(peers.model(case, form="plugin")).run(None, peers.feed(inputs))
    assert inputs.B is not None
    np.testing.assert_array_equal(y, np.broadcast_to(inputs.B[:, None, None], case.output_shape))


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_a_corner_beside_the_map_reads_nothing(engine: str, rng: Any, make_session: Any) -> None:
    """A location just beyond an edge blends one row of the map with zeros, not with what lies behind in memory.

    The first pixels of the next channel are infinite, so that reading one of them would show.
    """
    case = Case("beside", c=3, h=4, w=5, m=1, kernel_h=1, kernel_w=1, bias=False, mask=False, offsets="zero")
    inputs = cases.make_inputs(case, rng, np.float32)
    inputs.X[0, 0] = inputs.X[0, 2] = np.inf
    inputs.W[0, :, 0, 0] = (0, 1, 0)
    inputs = Inputs(inputs.X[:, 1:2].copy(), inputs.W[:, 1:2].copy(), inputs.offset, None, None)
    case = Case("beside", c=1, h=4, w=5, m=1, kernel_h=1, kernel_w=1, bias=False, mask=False, offsets="zero")
    base_y, base_x = (base[0, 0] for base in cases.base_locations(case))
    for y, x in ((-0.5, 2.25), (3.5, 2.25), (1.5, -0.25), (1.5, 4.75), (-0.5, -0.5), (3.75, 4.5)):
        inputs.offset[0, 0], inputs.offset[0, 1] = y - base_y, x - base_x
        if engine == "torch":
            # Inside a larger buffer of infinities.
            around = torch.full((1, 3, 4, 5), torch.inf)
            around[:, 1] = torch.from_numpy(inputs.X[:, 0])
            tensors = [around[:, 1:2], *_to_torch(inputs)[1:]]
            actual = _run_torch(case, tensors)
        else:
            around_numpy = np.full((1, 3, 4, 5), np.inf, np.float32)
            around_numpy[:, 1] = inputs.X[:, 0]
            view = np.ascontiguousarray(around_numpy)[:, 1:2]
            assert view.flags.c_contiguous
            feed = {**peers.feed(inputs), "X": view}
            (actual,) = make_session(peers.model(case, form="plugin")).run(None, feed)
        expected = reference.deform_conv2d(*peers.as_float64(inputs).in_order())
        peers.assert_within(actual, expected, peers.error_bound(case, inputs, "float32"))


def _transposed(tensor: torch.Tensor) -> torch.Tensor:
    axes = list(range(tensor.dim()))[::-1]
    return tensor.permute(axes).contiguous().permute(axes)


def _every_second(tensor: torch.Tensor) -> torch.Tensor:
    wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), torch.nan, dtype=tensor.dtype)
    wide[..., ::2] = tensor
    return wide[..., ::2]


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


_LAYOUTS: list[Callable[[torch.Tensor], torch.Tensor]] = [_transposed, _every_second, _channels_last]


@pytest.mark.parametrize("layout", _LAYOUTS, ids=lambda layout: layout.__name__.strip("_"))
@pytest.mark.parametrize("name", ["unequal_groups", "depthwise", "size_19", "kernel_1"])
def test_memory_layout_does_not_matter_to_torch(
    name: str, layout: Callable[[torch.Tensor], torch.Tensor], rng: Any
) -> None:
    case = cases.by_name(name)
    inputs = cases.make_inputs(case, rng, np.float64)
    tensors = _to_torch(inputs)
    strided = [None if t is None else layout(t) for t in tensors]
    assert any(t is not None and not t.is_contiguous() for t in strided)
    bound = 2 * peers.error_bound(case, inputs, "float64")
    peers.assert_within(_run_torch(case, strided), _run_torch(case, tensors), bound)


def test_expanded_inputs_in_torch(rng: Any) -> None:
    """Stride 0: one image and one weight, seen as many."""
    case = Case("expanded", n=3, c=4, h=7, w=9, m=5)
    inputs = cases.make_inputs(case, rng, np.float64)
    x, w, offset, b, mask = _to_torch(inputs)
    assert x is not None
    assert w is not None
    tensors = [x[:1].expand(3, -1, -1, -1), w[:1].expand(5, -1, -1, -1), offset, b, mask]
    expected = reference.deform_conv2d(*(t.numpy() for t in tensors), **case.reference_arguments)
    peers.assert_within(_run_torch(case, tensors), expected, 2 * peers.error_bound(case, _numpy(tensors), "float64"))


def _numpy(tensors: list[Any]) -> Inputs:
    return Inputs(*(None if t is None else np.ascontiguousarray(t.numpy()) for t in tensors))  # type: ignore[arg-type]


def test_non_contiguous_arrays_in_onnxruntime(rng: Any, make_session: Any) -> None:
    case = cases.by_name("unequal_groups")
    inputs = cases.make_inputs(case, rng, np.float32)
    session = make_session(peers.model(case, form="plugin"))
    (expected,) = session.run(None, peers.feed(inputs))
    strided = {name: np.asfortranarray(array) for name, array in peers.feed(inputs).items()}
    assert not strided["X"].flags.c_contiguous
    (actual,) = session.run(None, strided)
    np.testing.assert_array_equal(actual, expected)


# Counts beyond 2^31: right, or refused with an error.


@pytest.mark.parametrize(
    "case",
    [
        Case("map", c=3, h=40_000, w=60_001, m=2, kernel_h=3, kernel_w=3),
        Case("batch", n=100_000, c=256, h=14, w=14, m=256, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1),
        Case("offsets", c=16, h=9_000, w=9_000, m=1, offset_group=16, kernel_h=5, kernel_w=5),
        Case("one_side", c=1, h=1, w=2**31 + 10, m=1, kernel_h=1, kernel_w=1),
    ],
    ids=cases.name_of,
)
def test_shapes_beyond_2_to_the_31_in_torch(case: Case) -> None:
    """Meta tensors: the fake kernel computes shapes in 64 bits and allocates nothing."""
    assert max(np.prod(case.x_shape), np.prod(case.offset_shape)) > 2**31
    x, w, offset, b, mask = (
        torch.empty(shape, device="meta")
        for shape in (case.x_shape, case.weight_shape, case.offset_shape, case.bias_shape, case.mask_shape)
    )
    y = ops.deform_conv2d(x, offset, w, b, **case.functional_arguments, mask=mask)
    assert y.device.type == "meta"
    assert tuple(y.shape) == case.output_shape


def test_output_shape_beyond_2_to_the_31_is_inferred_in_64_bits(make_session: Any) -> None:
    case = Case("huge_output", c=1, h=4_097, w=4_099, m=300, kernel_h=1, kernel_w=1)
    session = make_session(peers.model(case, form="plugin"))
    assert session.get_outputs()[0].shape == [1, 300, 4_097, 4_099]


@pytest.mark.parametrize("static", [True, False], ids=["at_creation", "at_run"])
@pytest.mark.parametrize(
    ("h", "w", "message"),
    [
        (2**16, 2**16, r"expected at most 2\^31 - 1 pixels in a channel, got 65536x65536"),
        (1, 2**31 + 8, r"width of X.*expected at most 2\^30 = 1073741824 pixels.*got size 2147483656"),
        (2**30 + 2, 1, r"height of X.*expected at most 2\^30 = 1073741824 pixels.*got size 1073741826"),
    ],
    ids=["pixels", "width", "height"],
)
def test_a_map_that_32_bit_coordinates_cannot_address_is_refused(
    h: int, w: int, message: str, static: bool, make_session: Any
) -> None:
    """The refusal names node, expected and actual, and comes as soon as the shape is known."""
    strides = {"stride_h": max(1, h // 2), "stride_w": max(1, w // 2)}
    case = Case("huge_map", c=1, h=h, w=w, m=1, kernel_h=1, kernel_w=1, mask=False, **strides)
    model = peers.model(case, form="plugin", dtype=np.float16, coordinate_dtype=np.float32, static=static)
    inputs = Inputs(
        np.zeros(case.x_shape, np.float16),  # fresh pages of the system, never touched
        np.zeros(case.weight_shape, np.float16),
        np.zeros(case.offset_shape, np.float32),
        np.zeros(case.bias_shape, np.float16),
        None,
    )
    with pytest.raises(Exception, match=rf"huge_map.*{message}"):
        make_session(model).run(None, peers.feed(inputs))


_MANY_CHANNELS = Case(
    "many_channels",
    c=2**17 + 8,
    h=128,
    w=128,
    m=2,
    kernel_h=1,
    kernel_w=1,
    stride_h=64,
    stride_w=64,
    bias=False,
)
_LARGE_MAP = Case(
    "large_map",
    c=2,
    h=2**15 + 1,
    w=2**15 + 1,
    m=2,
    kernel_h=1,
    kernel_w=1,
    stride_h=2**13,
    stride_w=2**13,
    bias=False,
)
_LONG_ROW = Case("long_row", c=3, h=1, w=2**30, m=2, kernel_h=1, kernel_w=1, stride_w=2**28, bias=False)
_HUGE_CASES = (_LONG_ROW, _MANY_CHANNELS, _LARGE_MAP)


def _huge_inputs(case: Case, rng: Any, dtype: Any) -> Inputs:
    """Zeros that no memory backs, but for the very last sampled pixels of the last channel."""
    X = np.zeros(case.x_shape, dtype)  # fresh pages of the system: reading them costs no memory
    assert X.size > 2**31
    last_y, last_x = (case.out_h - 1) * case.stride_h, (case.out_w - 1) * case.stride_w
    X[0, -1, last_y, last_x] = 3.0
    X[0, 0, 0, 0] = 2.0
    W = np.zeros(case.weight_shape, dtype)
    W[0, -1], W[1, 0] = 0.5, 0.25
    offset = np.zeros(case.offset_shape, np.float32)
    mask = np.ones(case.mask_shape, np.float32)
    return Inputs(X, W, offset, None, mask)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float16, np.float32], ids=["float16", "float32"])
@pytest.mark.parametrize("case", _HUGE_CASES, ids=cases.name_of)
def test_more_than_2_to_the_31_elements_in_onnxruntime(case: Case, dtype: Any, rng: Any, make_session: Any) -> None:
    inputs = _huge_inputs(case, rng, dtype)
    model = peers.model(case, form="plugin", dtype=dtype, coordinate_dtype=np.float32)
    (y,) = make_session(model).run(None, peers.feed(inputs))
    expected = np.zeros(case.output_shape)
    expected[0, 0, -1, -1] = 1.5
    expected[0, 1, 0, 0] = 0.5
    np.testing.assert_array_equal(y, expected)


_TORCH_PROGRAM = """
import resource, torch
limit = 6 << 30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
from dcn_deploy.ops import deform_conv2d
x = torch.ones(1, 1, 1, 1).expand(1, 3, 30000, 30000)
offset = torch.full((1, 2, 2, 2), 0.25)
weight = torch.full((2, 3, 1, 1), 0.5)
try:
    y = deform_conv2d(x, offset, weight, stride=15000)
except (RuntimeError, MemoryError) as error:
    assert "memory" in str(error), error
    print("refused")
else:
    assert torch.equal(y, torch.full((1, 2, 2, 2), 1.5)), y
    print("right")
"""


def test_more_than_2_to_the_31_elements_in_torch() -> None:
    """An expanded input of 2.7·10⁹ elements with 6 GiB of address space: right, or an error about memory."""
    done = subprocess.run(
        [sys.executable, "-c", _TORCH_PROGRAM], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("right", "refused")
