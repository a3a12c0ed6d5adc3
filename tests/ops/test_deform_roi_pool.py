"""The torch operator for RoI pooling: values, gradients, and how it behaves inside PyTorch."""

from __future__ import annotations

import math

import cases
import numpy as np
import pytest
import torch

from dcn_deploy.errors import DtypeError, InvalidArgumentError
from dcn_deploy.ops import deform_roi_pool, reference
from dcn_deploy.ops import deform_roi_pool_vectorized as vectorized

# Relative RMS against the float64 reference (inputs rounded to the storage type first).
BOUNDS = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
FINITE = cases.ROI_CASES
WIDE = cases.RoiCase("roi_wide", c=4, h=130, w=160, r=9, pooled_h=3, pooled_w=5, boxes="inside", offset_scale=0.5)


def tensors(case, rng, dtype=torch.float64, coordinates=None):
    """(X, rois, offset, mask) of a case as tensors; coordinates are float32 numbers whatever the type."""
    arrays = cases.make_roi_inputs(case, rng, np.float64, np.float32).in_order()
    coordinates = coordinates or dtype
    dtypes = (dtype, coordinates, coordinates, coordinates)
    return [None if a is None else torch.from_numpy(a).to(t) for a, t in zip(arrays, dtypes, strict=True)]


def differentiable(inputs):
    """The same, requiring gradients wherever there are any: all but the RoIs."""
    return [t if t is None or i == 1 else t.requires_grad_() for i, t in enumerate(inputs)]


def run(case, X, rois, offset, mask):
    return deform_roi_pool(X, rois, offset, mask, **case.functional_arguments)


def expected(case, tensors_):
    arrays = [None if t is None else t.detach().double().numpy() for t in tensors_]
    return reference.deform_roi_pool(*arrays, **case.reference_arguments)


def relative_rms(actual, wanted):
    return np.linalg.norm(actual - wanted) / max(np.linalg.norm(wanted), 1e-30)


def operator_arguments(case, *tensors_):
    """What the function hands over to the torch operator."""
    return (
        *tensors_,
        case.variant,
        list(case.output_size),
        case.scale,
        case.factor,
        case.sampling_ratio,
        case.sample_per_part,
        case.group_size,
        0 if case.is_aligned or not (case.offset or case.mask) else case.parts[0],
        case.output_channels,
    )


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("case", cases.ALL_ROI_CASES, ids=cases.name_of)
def test_agrees_with_the_reference(case, dtype, rng):
    inputs = tensors(case, rng, dtype)
    actual = run(case, *inputs)
    assert actual.dtype == dtype
    assert actual.shape == case.output_shape
    assert actual.is_contiguous()
    assert relative_rms(actual.double().numpy(), expected(case, inputs)) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("variant", ["aligned", "psroi"])
def test_mixed_mode_keeps_coordinates_exact(variant, dtype, rng):
    case = cases.RoiCase(**{**vars(WIDE), "variant": variant})
    mixed = tensors(case, rng, dtype, torch.float32)
    assert relative_rms(run(case, *mixed).double().numpy(), expected(case, mixed)) < BOUNDS[dtype]
    # The same RoIs in half precision are elsewhere: far more than the storage type's own rounding.
    half = [mixed[0], mixed[1].to(dtype), *mixed[2:]]
    assert relative_rms(run(case, *half).double().numpy(), expected(case, mixed)) > 3 * BOUNDS[dtype]


@pytest.mark.parametrize("wide", ["rois", "offset", "mask"])
def test_each_coordinate_may_be_float32_on_its_own(wide, rng):
    case = cases.by_name("roi_classes_2")
    inputs = tensors(case, rng, torch.float16)
    position = ("X", "rois", "offset", "mask").index(wide)
    inputs[position] = inputs[position].float()
    assert relative_rms(run(case, *inputs).double().numpy(), expected(case, inputs)) < BOUNDS[torch.float16]


def test_float64_features_with_float32_coordinates(rng):
    case = cases.by_name("roi_sampling_ratio_0")
    inputs = tensors(case, rng, torch.float64, torch.float32)
    assert relative_rms(run(case, *inputs).numpy(), expected(case, inputs)) < BOUNDS[torch.float64]


@pytest.mark.parametrize("case", cases.EMPTY_ROI_CASES, ids=cases.name_of)
def test_no_roi(case, rng):
    inputs = differentiable(tensors(case, rng))
    y = run(case, *inputs)
    assert y.shape == case.output_shape
    y.sum().backward()
    for i, t in enumerate(inputs):
        if t is not None and i != 1:
            assert t.grad is not None
            assert t.grad.shape == t.shape
            assert not t.grad.any()


GRADCHECK = [
    "roi_size_19x7",
    "roi_size_1x33",
    "roi_size_7x19_psroi",
    "roi_pooled_2x7",
    "roi_sampling_ratio_0",
    "roi_sampling_ratio_0_scale",
    "roi_sampling_ratio_3",
    "roi_sample_per_part_3",
    "roi_group_2_pooled_3x5",
    "roi_group_7",
    "roi_classes_3_group_2",
    "roi_classes_3_no_mask",
    "roi_classes_3_no_offset",
    "roi_part_2_pooled_7",
    "roi_part_7_pooled_2x3",
    "roi_no_mask",
    "roi_no_offset",
    "roi_neither_sampling_ratio_0",
    "roi_neither_group_3",
    "roi_gamma_negative",
]


def gradcheck(case, rng, **options):
    inputs = differentiable(tensors(case, rng))
    rois = inputs[1]
    present = [t for i, t in enumerate(inputs) if t is not None and i != 1]

    def function(*given):
        rest = iter(given)
        return run(case, *[rois if i == 1 else None if t is None else next(rest) for i, t in enumerate(inputs)])

    return torch.autograd.gradcheck(function, present, **options)


@pytest.mark.parametrize("name", GRADCHECK)
def test_gradcheck(name, rng):
    assert gradcheck(cases.by_name(name), rng, fast_mode=True)


@pytest.mark.parametrize(
    "case",
    [
        cases.RoiCase("aligned", n=2, c=2, h=4, w=5, r=4, pooled_h=2, pooled_w=3, gamma=0.5),
        cases.RoiCase("aligned_adaptive", n=2, c=2, h=7, w=5, r=4, pooled_h=2, pooled_w=1, sampling_ratio=0),
        cases.RoiCase("psroi", n=2, c=8, h=4, w=5, r=4, pooled_w=2, variant="psroi", group_size=2, part_size=2),
        cases.RoiCase("psroi_classes", c=4, h=5, w=4, r=3, pooled_h=2, variant="psroi", classes=2, sample_per_part=3),
    ],
    ids=cases.name_of,
)
def test_gradcheck_slow_mode(case, rng):
    assert gradcheck(case, rng)


def slope_of(columns, x, **options):
    """∂(pooled)/∂(position) on a map of one row, of one sample at column ``x``."""
    image = torch.tensor([[columns]], dtype=torch.float64).reshape(1, 1, 1, -1)
    # A RoI one pixel long has its sample in the middle; gamma 1 makes the offset a shift in pixels.
    rois = torch.tensor([[0.0, x, 0.0, x + 1, 1.0]], dtype=torch.float64)
    offset = torch.zeros(1, 2, 1, 1, dtype=torch.float64, requires_grad=True)
    deform_roi_pool(image, rois, offset, output_size=1, gamma=1.0, sampling_ratio=1, **options).sum().backward()
    return offset.grad[0, 0, 0, 0].item(), offset.grad[0, 1, 0, 0].item()


@pytest.mark.parametrize(
    ("x", "slope"),
    [
        (0.0, 1.0),  # at an integer coordinate, the slope of the cell ahead
        (0.5, 1.0),
        (1.0, 9.0),
        (1.75, 9.0),
        (2.0, 0.0),  # the last column: what is ahead is flat
        (2.5, 0.0),  # moved to the last column
        (3.0, 0.0),  # as far out as a sample may be
        (3.5, 0.0),
        (-0.25, 0.0),
        (-1.0, 0.0),
        (-1.5, 0.0),
    ],
)
def test_gradient_of_the_offset_is_that_of_the_sample_as_it_is_moved(x, slope):
    along_x, along_y = slope_of([0.0, 1.0, 10.0], x)
    assert along_x == slope
    assert along_y == 0.0  # the only row is at both edges


def test_gradients_are_zero_for_samples_outside_or_not_finite():
    x = torch.randn(1, 1, 5, 5, requires_grad=True)
    rois = torch.tensor([[0, 0, 0, 4, 4], [0, 0, math.inf, 4, 4], [0, 1, 1, 3, 3]], dtype=torch.float32)
    offset = torch.zeros(3, 2, 2, 2)
    offset[0, 0] = math.nan
    offset[2, 1] = 1e9
    offset.requires_grad_()
    mask = torch.rand(3, 1, 2, 2, requires_grad=True)
    for variant in ("aligned", "psroi"):
        y = deform_roi_pool(x, rois, offset, mask, variant=variant, output_size=2)
        assert not y.any()
        for grad in torch.autograd.grad(y.sum(), [x, offset, mask]):
            assert not grad.any()
            assert not grad.isnan().any()


def test_a_roi_that_is_not_finite_pools_nothing_whatever_its_mask():
    x = torch.randn(1, 1, 5, 5)
    rois = torch.tensor([[0, math.nan, 0, 4, 4], [0, 0, 0, 4, 4]])
    mask = torch.full((2, 1, 2, 2), math.nan)
    y = deform_roi_pool(x, rois, None, mask, output_size=2)
    assert not y[0].any()
    assert y[1].isnan().all()


def test_rois_have_no_gradient():
    x = torch.randn(1, 1, 5, 5, requires_grad=True)
    rois = torch.tensor([[0.0, 0, 0, 4, 4]], requires_grad=True)
    deform_roi_pool(x, rois, output_size=2).sum().backward()
    assert x.grad is not None
    assert rois.grad is None


@pytest.mark.parametrize("plans", [True, False], ids=["cpu", "gpu"])
@pytest.mark.parametrize("variant", ["aligned", "psroi"])
def test_an_infinite_feature_stays_where_it_is(variant, plans, monkeypatch):
    monkeypatch.setattr(vectorized, "_can_plan", lambda device, pooling: plans)
    x = torch.ones(1, 1, 6, 6)
    x[0, 0, 0, 0] = x[0, 0, 5, 5] = math.inf
    rois = torch.tensor(
        [
            [0, 2.5, 2.5, 4, 4],
            [0, 2.5, 0, 14.5, 5],  # half of its samples are off the map
            [0, -30, -30, -20, -20],
            [0, math.nan, 0, 1, 1],
            [0, 0, 0, 4, 4],
        ]
    )
    pool = {"variant": variant, "output_size": (1, 1), "sampling_ratio": 2, "sample_per_part": 2}
    y = deform_roi_pool(x, rois, **pool)[:, 0, 0, 0]
    assert torch.isfinite(y[:4]).all()
    assert y[:2].all()
    assert not y[2:4].any()
    assert y[4] == math.inf
    # The one sample is on row and column 4, so that the pixel after it has weight 0.
    one = torch.tensor([[0.0, 4, 4, 5, 5]]) if variant == "aligned" else torch.tensor([[0.0, 9, 9, 9, 9]])
    scale = 1.0 if variant == "aligned" else 0.5
    y = deform_roi_pool(x, one, **{**pool, "spatial_scale": scale, "sampling_ratio": 1, "sample_per_part": 1})
    assert y.item() == 1.0


@pytest.mark.parametrize("name", ["roi_sampling_ratio_0", "roi_classes_3_group_2", "roi_batch_3", "roi_batch_3_psroi"])
def test_nothing_depends_on_the_chunks(name, monkeypatch):
    case = cases.by_name(name)
    results = []
    budgets = ((1 << 25, 1 << 18, 1 << 21), (1, 1, 1), (1 << 25, 1 << 18, 700), (1 << 25, 40, 1 << 21))
    for column, bins, entry in budgets:
        monkeypatch.setattr(vectorized, "_COLUMN_BUDGET", column)
        monkeypatch.setattr(vectorized, "_BIN_BUDGET", bins)
        monkeypatch.setattr(vectorized, "_ENTRY_BUDGET", entry)
        inputs = differentiable(tensors(case, np.random.default_rng(5)))
        y = run(case, *inputs)
        y.pow(2).sum().backward()
        results.append([y.detach(), *(t.grad for t in inputs if t is not None and t.grad is not None)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("case", [c for c in FINITE if c.variant == "psroi" or c.sampling_ratio], ids=cases.name_of)
def test_the_way_of_a_gpu_gives_the_same(case, monkeypatch):
    """Where the host must not wait for the device, a fixed grid is pooled without a look at the positions."""
    results = []
    for can_plan in (vectorized._can_plan, lambda device, pooling: not pooling.fixed_grid):
        monkeypatch.setattr(vectorized, "_can_plan", can_plan)
        inputs = differentiable(tensors(case, np.random.default_rng(5)))
        y = run(case, *inputs)
        y.pow(2).sum().backward()
        results.append([y.detach(), *(t.grad for t in inputs if t is not None and t.grad is not None)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "name",
    ["roi_sampling_ratio_0", "roi_classes_3_group_2", "roi_no_mask", "roi_neither_psroi", "roi_none", "roi_size_1"],
)
def test_opcheck(name, rng):
    case = cases.by_name(name)
    for dtype in (torch.float64, torch.bfloat16):
        inputs = differentiable(tensors(case, rng, dtype))
        torch.library.opcheck(torch.ops.dcn_deploy.deform_roi_pool.default, operator_arguments(case, *inputs))


@pytest.mark.parametrize("name", ["roi_sampling_ratio_0_scale", "roi_classes_3_group_2", "roi_scale_0.3"])
def test_torch_compile(name, rng):
    case = cases.by_name(name)
    inputs = differentiable(tensors(case, rng, torch.float32))
    leaves = [t for i, t in enumerate(inputs) if i != 1]
    compiled = torch.compile(lambda *given: run(case, *given).sin(), fullgraph=True, backend="aot_eager")
    y = compiled(*inputs)
    torch.testing.assert_close(y, run(case, *inputs).sin(), rtol=0, atol=0)
    grads = torch.autograd.grad(y.sum(), leaves)
    for a, b in zip(grads, torch.autograd.grad(run(case, *inputs).sin().sum(), leaves), strict=True):
        torch.testing.assert_close(a, b)


SCALES = [(1.0, 0.1), (0.5, 0.2), (1 / 3, 1 / 7), (0.1, 0.3)]  # of the last two, no number is a float32 one


@pytest.mark.parametrize("dynamic", [None, True], ids=["automatic", "dynamic"])
@pytest.mark.parametrize("name", ["roi_sampling_ratio_0", "roi_classes_3_group_2"])
def test_torch_compile_with_numbers_that_are_not_constants(name, dynamic, rng):
    """What rounds them to float32 is the operator: Dynamo cannot."""
    case = cases.by_name(name)
    inputs = differentiable(tensors(case, rng))
    leaves = [t for i, t in enumerate(inputs) if i != 1]
    attributes = {k: v for k, v in case.functional_arguments.items() if k not in ("spatial_scale", "gamma")}

    def pool(scale, gamma, *given):
        return deform_roi_pool(*given, spatial_scale=scale, gamma=gamma, **attributes)

    for backend in ("eager", "aot_eager"):
        torch.compiler.reset()
        compiled = torch.compile(pool, fullgraph=True, backend=backend, dynamic=dynamic)
        for scale, gamma in SCALES:
            y, wanted = compiled(scale, gamma, *inputs), pool(scale, gamma, *inputs)
            assert torch.equal(y, wanted)
            slope = torch.rand_like(y)
            pairs = zip(torch.autograd.grad(y, leaves, slope), torch.autograd.grad(wanted, leaves, slope), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)
        assert torch.equal(compiled(2, 1, *inputs), pool(2, 1, *inputs))  # whole numbers may be symbolic too


@pytest.mark.parametrize("dynamic", [None, True], ids=["automatic", "dynamic"])
def test_torch_compile_refuses_the_same_numbers(dynamic):
    def pool(scale, gamma):
        return deform_roi_pool(**{**good(), "spatial_scale": scale, "gamma": gamma})

    for backend in ("eager", "aot_eager"):
        torch.compiler.reset()
        compiled = torch.compile(pool, backend=backend, dynamic=dynamic)
        for scale, gamma in SCALES:
            compiled(scale, gamma)
        for scale in (0.0, -1.0, math.nan, 1e-60, True):
            with pytest.raises(Exception, match=r"spatial_scale: expected a finite number above 0, got"):
                compiled(scale, 0.1)
        for gamma in (math.inf, 1e300):
            with pytest.raises(Exception, match=r"gamma: expected a finite number, got"):
                compiled(1.0, gamma)


def test_the_operator_rounds_numbers_itself(rng):
    case = cases.by_name("roi_sampling_ratio_0")
    inputs = tensors(case, rng)
    arguments = list(operator_arguments(case, *inputs))
    arguments[6:8] = [1 / 3, 1 / 7]
    y = torch.ops.dcn_deploy.deform_roi_pool(*arguments)
    arguments[6:8] = [float(np.float32(1 / 3)), float(np.float32(1 / 7))]
    assert torch.equal(y, torch.ops.dcn_deploy.deform_roi_pool(*arguments))


class _Pool(torch.nn.Module):
    def __init__(self, **arguments):
        super().__init__()
        self.arguments = arguments

    def forward(self, input, rois, offset, mask):
        return deform_roi_pool(input, rois, offset, mask, **self.arguments)


@pytest.mark.parametrize("name", ["roi_sampling_ratio_0", "roi_group_2", "roi_classes_2"])
def test_torch_export_with_a_dynamic_number_of_rois(name, rng):
    case = cases.RoiCase(**{**vars(cases.by_name(name)), "n": 2})
    inputs = tensors(case, rng, torch.float32)
    dynamic = torch.export.Dim.DYNAMIC
    shapes = {
        "input": {0: dynamic, 2: dynamic, 3: dynamic},
        "rois": {0: dynamic},
        "offset": {0: dynamic},
        "mask": {0: dynamic},
    }
    pool = _Pool(**case.functional_arguments)
    program = torch.export.export(pool, tuple(inputs), dynamic_shapes=shapes)
    nodes = [node for node in program.graph.nodes if "deform" in str(node.target)]
    assert [str(node.target) for node in nodes] == ["dcn_deploy.deform_roi_pool.default"]
    for r in (0, 1, 17):
        other = tensors(cases.RoiCase(**{**vars(case), "n": 3, "h": 11, "w": 6, "r": r}), rng, torch.float32)
        torch.testing.assert_close(program.module()(*other), pool(*other), rtol=0, atol=0)


@pytest.mark.parametrize("strict", [False, True])
def test_the_node_carries_what_a_file_would(strict):
    """Numbers are float32 ones; parts and channels are resolved; the other variant's stay at their defaults."""
    x, rois, offset = torch.randn(1, 18, 8, 8), torch.tensor([[0.0, 1, 1, 6, 6]]), torch.zeros(1, 4, 5, 5)

    def node(**arguments):
        given = (x, rois, offset if arguments["variant"] == "psroi" else None, None)
        program = torch.export.export(_Pool(**arguments), given, strict=strict)
        return next(node for node in program.graph.nodes if "deform" in str(node.target)).args[4:]

    scale, gamma = float(np.float32(0.3)), float(np.float32(0.1))
    arguments = {"output_size": (2, 3), "spatial_scale": 0.3}
    psroi = node(variant="psroi", group_size=3, **arguments)
    assert psroi == ("psroi", [2, 3], scale, gamma, 0, 4, 3, 5, 2)
    assert node(variant="aligned", **arguments) == ("aligned", [2, 3], scale, gamma, 0, 4, 1, 0, 18)


def test_autocast_leaves_coordinates_alone(rng):
    inputs = tensors(WIDE, rng, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = run(WIDE, *inputs)
    assert y.dtype == torch.bfloat16
    rounded = [inputs[0].bfloat16(), *inputs[1:]]
    assert relative_rms(y.double().numpy(), expected(WIDE, rounded)) < BOUNDS[torch.bfloat16]
    with torch.autocast("cpu", torch.bfloat16):
        leaves = differentiable([t.clone() for t in inputs])
        run(WIDE, *leaves).float().sum().backward()
        # A mask that came out of a half-precision layer of another type.
        assert run(WIDE, *inputs[:3], inputs[3].half()).dtype == torch.bfloat16
    for leaf in (leaves[0], *leaves[2:]):
        assert leaf.grad.dtype == torch.float32
        assert leaf.grad.any()


@pytest.mark.parametrize("name", ["roi_batch_3", "roi_classes_3_group_2"])
def test_memory_formats_and_strides(name, rng):
    case = cases.by_name(name)
    inputs = tensors(case, rng)
    wanted = run(case, *inputs)
    channels_last = [t.to(memory_format=torch.channels_last) if t.dim() == 4 else t for t in inputs]
    torch.testing.assert_close(run(case, *channels_last), wanted)
    leaves = differentiable([t.clone(memory_format=torch.preserve_format) for t in channels_last])
    grads = torch.autograd.grad(run(case, *leaves).pow(2).sum(), [leaves[0], *leaves[2:]])
    plain = differentiable([t.clone() for t in inputs])
    for a, b in zip(grads, torch.autograd.grad(run(case, *plain).pow(2).sum(), [plain[0], *plain[2:]]), strict=True):
        torch.testing.assert_close(a, b)

    assert all(grad.is_contiguous() for grad in grads)  # as the fake kernel says

    def strided(t):
        wide = torch.full([2 * extent for extent in t.shape], float("nan"), dtype=t.dtype)
        view = wide[tuple(slice(None, None, 2) for _ in t.shape)]
        view.copy_(t)
        return view

    views = [strided(t) for t in inputs]
    assert not views[0].is_contiguous()
    torch.testing.assert_close(run(case, *views), wanted)
    expanded = inputs[0][:1].expand(3, -1, -1, -1)
    rois = inputs[1].clone()
    rois[:, 0] = 2
    torch.testing.assert_close(
        run(case, expanded, rois, *inputs[2:]), run(case, inputs[0], rois * torch.tensor([0, 1, 1, 1, 1]), *inputs[2:])
    )


def test_the_same_again_bit_by_bit(rng):
    case = cases.RoiCase("dense", n=2, c=7, h=9, w=9, r=60, sampling_ratio=0)
    results = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(3):
            inputs = differentiable(tensors(case, np.random.default_rng(1), torch.float32))
            y = run(case, *inputs)
            y.sum().backward()
            results.append([y.detach(), inputs[0].grad, inputs[2].grad, inputs[3].grad])
    finally:
        torch.use_deterministic_algorithms(False)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_an_enormous_roi_visits_only_the_map():
    """With sampling ratio 0 its grid has more samples than any memory holds; the mean is over all of them."""
    x = torch.randn(1, 3, 9, 11, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, -1e9, -1e9, 1e9, 1e9]], dtype=torch.float64)
    y = deform_roi_pool(x, rois, output_size=2)
    # The samples are at whole coordinates. Of those of the first bin, only the one at -1 counts; the second begins at
    # 0, and its last that counts is at H or W. Both of these are moved to the edge.
    rows, columns = torch.zeros(2, 9, dtype=torch.float64), torch.zeros(2, 11, dtype=torch.float64)
    for weights in (rows, columns):
        weights[0, 0] = 1
        weights[1] = 1
        weights[1, -1] = 2
    wanted = torch.einsum("nchw,ph,qw->ncpq", x, rows, columns) / 1e9**2
    torch.testing.assert_close(y, wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(y.sum(), x), torch.autograd.grad(wanted.sum(), x), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("extent", [1e12, 1e18, 3e38])
@pytest.mark.parametrize("variant", ["aligned", "psroi"])
def test_a_roi_beyond_any_number_of_samples_is_nearly_nothing(variant, extent, dtype):
    x = torch.randn(1, 3, 9, 11, dtype=dtype, requires_grad=True)
    rois = torch.tensor([[0, -extent, -extent, extent, extent]], dtype=dtype)
    offset = torch.zeros(1, 2, 3, 3, dtype=dtype, requires_grad=True)
    y = deform_roi_pool(x, rois, offset, variant=variant, output_size=3, sample_per_part=3)
    assert torch.isfinite(y).all()
    assert not y.any() if variant == "psroi" else y.abs().max() < 1e-20
    for grad in torch.autograd.grad(y.sum(), [x, offset]):
        assert torch.isfinite(grad).all()


@pytest.mark.parametrize("side", [300, 3000])
def test_a_huge_roi_has_the_mean_of_the_map(side):
    """A RoI around a constant map: its bins' means are the share of samples that lie on the map."""
    x = torch.ones(1, 1, 9, 11, dtype=torch.float64)
    rois = torch.tensor([[0, -side, -side, side, side]], dtype=torch.float64)
    y = deform_roi_pool(x, rois, output_size=1)
    grid = 2 * side  # a sample a pixel, at whole coordinates
    rows, columns = 9 + 2, 11 + 2  # -1 to H and -1 to W, both included
    assert y.item() == pytest.approx(rows * columns / grid**2, rel=1e-12)


def test_hundreds_of_thousands_of_rois(rng):
    r = 200_000
    x = torch.randn(2, 3, 19, 23)
    corner = rng.uniform(-5, 20, (r, 2))
    size = rng.uniform(0, 12, (r, 2))
    rois = np.concatenate([rng.integers(0, 2, (r, 1)), corner, corner + size], 1).astype(np.float32)
    chosen = rng.choice(r, 20, replace=False)
    y = deform_roi_pool(x, torch.from_numpy(rois), output_size=(2, 3))
    wanted = reference.deform_roi_pool(x.numpy(), rois[chosen], output_size=(2, 3))
    assert relative_rms(y[chosen].double().numpy(), wanted) < BOUNDS[torch.float32]


def test_more_elements_than_int32_holds():
    """Shapes beyond int32 come out right on the meta device."""
    x = torch.empty(1, 1, 1, 1, device="meta").expand(1, 256, 1 << 8, 1 << 8)
    y = deform_roi_pool(x, torch.empty(1 << 20, 5, device="meta"), output_size=7)
    assert y.shape == (1 << 20, 256, 7, 7)
    assert y.numel() > 1 << 33


def test_a_mask_factor_and_a_shift_are_what_they_say(rng):
    """Independently of the reference: a RoI of one bin, moved by its offset, is the RoI somewhere else."""
    x = torch.randn(1, 3, 19, 23, dtype=torch.float64)
    rois = torch.tensor([[0.0, 4, 5, 12, 9]], dtype=torch.float64)
    offset = torch.tensor([0.5, -0.25], dtype=torch.float64).view(1, 2, 1, 1)  # x first
    mask = torch.full((1, 1, 1, 1), 0.25, dtype=torch.float64)
    moved = rois + torch.tensor([0.0, 4, -1, 4, -1], dtype=torch.float64)  # half of 8 along x, -1/4 of 4 along y
    y = deform_roi_pool(x, rois, offset, mask, output_size=1, gamma=1.0)
    torch.testing.assert_close(y, 0.25 * deform_roi_pool(x, moved, output_size=1))


# What is refused.


def good():
    return {
        "input": torch.zeros(2, 8, 5, 6),
        "rois": torch.zeros(3, 5),
        "offset": torch.zeros(3, 2, 2, 4),
        "mask": torch.zeros(3, 1, 2, 4),
        "output_size": (2, 4),
    }


def psroi(**change):
    return {
        "variant": "psroi",
        "offset": torch.zeros(3, 4, 3, 3),
        "mask": torch.zeros(3, 2, 3, 3),
        "group_size": 2,
        **change,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": torch.zeros(8, 5, 6)}, r"input\.shape: expected 4 dimension"),
        ({"input": torch.zeros(2, 0, 5, 6)}, r"input channels: expected at least 1, got 0"),
        ({"input": torch.zeros(2, 8, 0, 6)}, r"input\.shape: expected a map of at least 1×1 pixel"),
        ({"rois": torch.zeros(3)}, r"rois\.shape: expected 2 dimension"),
        ({"rois": torch.zeros(3, 4)}, r"rois\.shape\[1\]: expected \(batch index, x1, y1, x2, y2\) = 5, got 4"),
        ({"offset": torch.zeros(3, 2, 2)}, r"offset\.shape: expected 4 dimension"),
        ({"offset": torch.zeros(2, 2, 2, 4)}, r"offset\.shape\[0\]: expected R = 3, got 2"),
        ({"offset": torch.zeros(3, 3, 2, 4)}, r"offset\.shape\[1\]: expected a positive multiple of 2, got 3"),
        ({"offset": torch.zeros(3, 4, 2, 4)}, r"offset\.shape\[1\]: expected \(x, y\) = 2, got 4.*no classes"),
        ({"offset": torch.zeros(3, 2, 4, 4)}, r"offset\.shape\[2\]: expected pH = 2, got 4.*offset for each bin"),
        ({"offset": torch.zeros(3, 2, 2, 2)}, r"offset\.shape\[3\]: expected pW = 4, got 2"),
        ({"mask": torch.zeros(2, 1, 2, 4)}, r"mask\.shape\[0\]: expected R = 3, got 2"),
        ({"mask": torch.zeros(3, 2, 2, 4)}, r"mask\.shape\[1\]: expected one mask = 1, got 2"),
        ({"mask": torch.zeros(3, 1, 4, 2)}, r"mask\.shape\[2\]: expected pH = 2, got 4"),
        ({"variant": "align"}, r"variant: expected 'aligned' or 'psroi', got 'align'"),
        ({"output_size": 0}, r"output_size: expected an int or \(height, width\), each at least 1, got 0"),
        ({"output_size": (1, 2, 3)}, r"output_size: expected an int or \(height, width\)"),
        ({"spatial_scale": 0.0}, r"spatial_scale: expected a finite number above 0, got 0\.0.*1/16"),
        ({"spatial_scale": 1e-60}, r"spatial_scale: expected a finite number above 0, got 1e-60"),
        ({"spatial_scale": "a quarter"}, r"spatial_scale: expected a finite number above 0, got 'a quarter'"),
        ({"gamma": 1e300}, r"gamma: expected a finite number, got 1e\+300"),
        ({"gamma": None}, r"gamma: expected a finite number, got None"),
        ({"sampling_ratio": 2.0}, r"sampling_ratio: expected an int of at least 0 and at most 65536, got 2\.0"),
        ({"sampling_ratio": True}, r"sampling_ratio: expected an int of at least 0 and at most 65536, got True"),
        ({"sampling_ratio": 1 << 62}, r"sampling_ratio: expected an int of at least 0 and at most 65536, got 4611"),
        ({"spatial_scale": math.nan}, r"spatial_scale: expected a finite number above 0, got nan"),
        ({"gamma": math.inf}, r"gamma: expected a finite number, got inf"),
        ({"sampling_ratio": -1}, r"sampling_ratio: expected an int of at least 0.*, got -1"),
        ({"sample_per_part": 0}, r"sample_per_part: expected an int of at least 1.*, got 0"),
        ({"group_size": 0}, r"group_size: expected an int of at least 1.*, got 0"),
        ({"group_size": 2}, r"group_size: expected that of variant 'aligned' = 1, got 2.*'psroi' has channel groups"),
        ({"part_size": -1}, r"part_size: expected an int of at least 0.*, got -1"),
        ({"output_channels": 4}, r"output_channels: expected C = 8, got 4"),
        (psroi(group_size=3), r"input channels: expected a multiple of group_size² = 9, got 8"),
        (psroi(output_channels=8), r"output_channels: expected C/group_size² = 2, got 8"),
        (psroi(output_channels=-1), r"output_channels: expected an int of at least 0.*, got -1"),
        (psroi(part_size=-2), r"part_size: expected an int of at least 0.*, got -2"),
        (psroi(part_size=4), r"offset\.shape\[2\]: expected part_size = 4, got 3"),
        (
            psroi(offset=torch.zeros(3, 4, 3, 2)),
            r"offset\.shape\[3\]: expected the extent of the parts = 3, got 2.*square",
        ),
        (psroi(mask=torch.zeros(3, 2, 2, 2)), r"mask\.shape\[2\]: expected the extent of the parts = 3, got 2"),
        (psroi(offset=None, mask=torch.zeros(3, 2, 3, 2)), r"mask\.shape\[3\]: expected the extent of the parts = 3"),
        (psroi(offset=None, mask=torch.zeros(3, 0, 3, 3)), r"mask\.shape\[1\]: expected at least 1, got 0"),
        (psroi(offset=torch.zeros(3, 4, 0, 0), mask=None), r"offset\.shape\[2\]: expected at least 1, got 0"),
        (psroi(mask=torch.zeros(3, 1, 3, 3)), r"mask\.shape\[1\]: expected classes of offset = 2, got 1"),
        (
            psroi(offset=torch.zeros(3, 6, 3, 3), mask=torch.zeros(3, 3, 3, 3)),
            r"output_channels: expected a multiple of the 3 classes that offset and mask have, got 2",
        ),
    ],
)
def test_refusals(change, message):
    deform_roi_pool(**good())
    with pytest.raises(InvalidArgumentError, match=message):
        deform_roi_pool(**{**good(), **change})


def test_what_psroi_takes():
    assert deform_roi_pool(**{**good(), **psroi()}).shape == (3, 2, 2, 4)
    assert deform_roi_pool(**{**good(), **psroi(part_size=3, output_channels=2)}).shape == (3, 2, 2, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": torch.zeros(2, 8, 5, 6).int()}, r"input\.dtype: expected one of"),
        ({"rois": torch.zeros(3, 5).half()}, r"rois\.dtype: expected torch\.float32 or that of input"),
        ({"rois": torch.zeros(3, 5).double()}, r"rois\.dtype: expected torch\.float32 or that of input"),
        ({"offset": torch.zeros(3, 2, 2, 4).half()}, r"offset\.dtype: expected torch\.float32 or that of input"),
        ({"mask": torch.zeros(3, 1, 2, 4).double()}, r"mask\.dtype: expected torch\.float32 or that of input"),
    ],
)
def test_dtype_refusals(change, message):
    with pytest.raises(DtypeError, match=message):
        deform_roi_pool(**{**good(), **change})


@pytest.mark.parametrize(
    ("index", "shown"),
    [(2.0, "2"), (-1.0, "-1"), (-0.5, "-0.5"), (math.nan, "nan"), (math.inf, "inf"), (1e10, r"1e\+10")],
)
def test_a_batch_index_out_of_range_is_refused(index, shown):
    rois = torch.zeros(5, 5)
    rois[3, 0] = index
    with pytest.raises(
        InvalidArgumentError, match=rf"rois\[3, 0\], the batch index: expected a number in \[0, 2\), got {shown}\."
    ):
        deform_roi_pool(torch.zeros(2, 8, 5, 6), rois, output_size=2)


def test_a_batch_index_of_no_image_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"expected a number in \[0, 0\), got 0"):
        deform_roi_pool(torch.zeros(0, 8, 5, 6), torch.zeros(1, 5), output_size=2)


def test_a_batch_index_is_truncated():
    x = torch.randn(2, 1, 5, 6)
    rois = torch.tensor([[1.9, 0, 0, 3, 3], [1, 0, 0, 3, 3]])
    y = deform_roi_pool(x, rois, output_size=2)
    assert torch.equal(y[0], y[1])


@pytest.mark.parametrize("index", [2.0, -1.0, -0.5, math.nan, math.inf, 1e10, -1e30])
def test_an_accelerator_makes_zeros_of_a_batch_index_out_of_range(index, monkeypatch):
    """What it computes is the same code, after a check that only a CPU makes."""
    monkeypatch.setattr("dcn_deploy.ops.deform_roi_pool_torch._check_batch_indices", lambda rois, n: None)
    x = torch.randn(2, 3, 5, 6, requires_grad=True)
    rois = torch.tensor([[index, 0, 0, 3, 3], [1, 0, 0, 3, 3]])
    mask = torch.rand(2, 1, 2, 2, requires_grad=True)
    y = deform_roi_pool(x, rois, None, mask, output_size=2)
    assert not y[0].any()
    assert y[1].all()
    y[0].sum().backward()
    assert not x.grad.any()
    assert not mask.grad.any()
    assert not deform_roi_pool(x[:0], rois, None, mask, output_size=2).any()


def test_a_list_of_boxes_is_refused_with_the_remedy() -> None:
    with pytest.raises(InvalidArgumentError, match=r"rois: expected a tensor \[R, 5\].*got list.*torch\.cat"):
        deform_roi_pool(torch.zeros(1, 4, 5, 5), [torch.zeros(1, 4)], output_size=2)  # type: ignore[arg-type]


def test_the_forward_mode_is_refused():
    """It would give zeros: torch.library.custom_op knows the reverse mode alone."""

    def run(x):
        return deform_roi_pool(x, torch.tensor([[0.0, 0, 0, 3, 3]]), output_size=2)

    x = torch.randn(1, 2, 5, 5)
    with pytest.raises(InvalidArgumentError, match=r"reverse-mode differentiation, got tensors with tangents"):
        torch.func.jvp(run, (x,), (x,))
    with pytest.raises(InvalidArgumentError, match=r"Use Tensor\.backward or torch\.autograd\.grad"):
        torch.func.jacfwd(run)(x)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x)
        with pytest.raises(InvalidArgumentError, match="tangents"):
            run(dual)
        # One that has none is as welcome as ever.
        torch.testing.assert_close(run(x), run(x.clone().requires_grad_()))


def test_the_reference_takes_attributes_as_a_file_holds_them(rng):
    """0.3 and 0.1 are no numbers of float32; each deployed form has the nearest ones that are."""
    x, offset = rng.normal(size=(1, 2, 40, 40)), rng.normal(size=(1, 2, 2, 2))
    rois = [[0, 3, 5, 121, 130]]
    plain, rounded = (
        reference.deform_roi_pool(x, rois, offset, output_size=(2, 2), spatial_scale=scale, gamma=gamma)
        for scale, gamma in ((0.3, 0.1), (float(np.float32(0.3)), float(np.float32(0.1))))
    )
    np.testing.assert_array_equal(plain, rounded)
    inputs = (torch.from_numpy(x), torch.tensor(rois, dtype=torch.float64), torch.from_numpy(offset))
    ours = deform_roi_pool(*inputs, output_size=2, spatial_scale=0.3, gamma=0.1).numpy()
    assert relative_rms(ours, plain) < 1e-14
