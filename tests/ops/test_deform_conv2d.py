"""The torch operator: values, gradients, and how it behaves inside PyTorch."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import cases
import numpy as np
import pytest
import torch

from dcn_deploy.errors import DtypeError, InvalidArgumentError
from dcn_deploy.ops import deform_conv2d, reference
from dcn_deploy.ops import deform_conv2d_vectorized as vectorized

# Relative RMS against the float64 reference (inputs rounded to the storage type first).
BOUNDS = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def tensors(case, rng, dtype=torch.float64, coordinates=None):
    """(X, W, offset, B, mask) of a case as tensors."""
    arrays = cases.make_inputs(case, rng, np.float64).in_order()
    coordinates = coordinates or dtype
    dtypes = (dtype, dtype, coordinates, dtype, coordinates)
    return [None if a is None else torch.from_numpy(a).to(t) for a, t in zip(arrays, dtypes, strict=True)]


def run(case, X, W, offset, B, mask):
    return deform_conv2d(X, offset, W, B, mask=mask, **case.functional_arguments)


def expected(case, tensors_):
    arrays = [None if t is None else t.double().numpy() for t in tensors_]
    return reference.deform_conv2d(*arrays, **case.reference_arguments)


def relative_rms(actual, wanted):
    return np.linalg.norm(actual - wanted) / max(np.linalg.norm(wanted), 1e-30)


def operator_arguments(case, X, W, offset, B, mask):
    return (
        X,
        W,
        offset,
        B,
        mask,
        list(case.strides),
        list(case.pads),
        list(case.dilations),
        case.group,
        case.offset_group,
    )


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("case", cases.CASES + cases.NONFINITE_CASES, ids=cases.name_of)
def test_agrees_with_the_reference(case, dtype, rng):
    inputs = tensors(case, rng, dtype)
    actual = run(case, *inputs)
    assert actual.dtype == dtype
    assert actual.shape == case.output_shape
    wanted = expected(case, inputs)
    if case.offsets == "boundary" and dtype is not torch.float64:
        # One float32 step beside −1 or H the sampler is continuous, so a flip of the cell is harmless.
        assert np.abs(actual.double().numpy() - wanted).max() < 50 * BOUNDS[dtype]
    else:
        assert relative_rms(actual.double().numpy(), wanted) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_mixed_mode_keeps_coordinates_in_float32(dtype, rng):
    case = cases.Case("wide", c=4, h=130, w=160, m=2, kernel_h=1, kernel_w=1, offset_scale=40.0)
    mixed = tensors(case, rng, dtype, torch.float32)
    assert relative_rms(run(case, *mixed).double().numpy(), expected(case, mixed)) < BOUNDS[dtype]
    # The same offsets in half precision move the samples: far more than the storage type's own rounding.
    half = [*mixed[:2], mixed[2].to(dtype), *mixed[3:]]
    assert relative_rms(run(case, *half).double().numpy(), expected(case, mixed)) > 3 * BOUNDS[dtype]


@pytest.mark.parametrize("case", cases.EMPTY_CASES, ids=cases.name_of)
def test_empty_batch(case, rng):
    inputs = [t if t is None else t.requires_grad_() for t in tensors(case, rng)]
    y = run(case, *inputs)
    assert y.shape == case.output_shape
    y.sum().backward()
    assert all(t is None or (t.grad is not None and t.grad.shape == t.shape and not t.grad.any()) for t in inputs)


GRADCHECK = [
    "size_1",
    "unequal",
    "unequal_groups",
    "asymmetric_pads",
    "group_4_offset_group_2",
    "group_3_offset_group_2",
    "depthwise_multiplier",
    "no_mask",
    "no_bias_no_mask",
    "kernel_1_pad",
    "offsets_small",
]


@pytest.mark.parametrize("name", GRADCHECK)
def test_gradcheck(name, rng):
    case = cases.by_name(name)
    inputs = [t if t is None else t.requires_grad_() for t in tensors(case, rng)]
    present = [t for t in inputs if t is not None]

    def function(*given):
        rest = iter(given)
        return run(case, *[None if t is None else next(rest) for t in inputs])

    assert torch.autograd.gradcheck(function, present, fast_mode=True)


def test_gradcheck_slow_mode(rng):
    case = cases.Case("small", n=2, c=4, h=4, w=5, m=2, pad_top=1, pad_right=2, stride_w=2, offset_group=2, group=2)
    inputs = [t.requires_grad_() for t in tensors(case, rng)]
    assert torch.autograd.gradcheck(lambda *given: run(case, *given), inputs)


def test_gradient_at_integer_coordinates_is_forward_sided():
    ramp = torch.tensor([[[[0.0, 1.0, 10.0]]]], dtype=torch.float64)  # slopes 1, then 9
    offset = torch.zeros(1, 2, 1, 3, dtype=torch.float64, requires_grad=True)
    deform_conv2d(ramp, offset, torch.ones(1, 1, 1, 1, dtype=torch.float64)).sum().backward()
    assert offset.grad[0, 1, 0].tolist() == [1.0, 9.0, -10.0]  # the last falls to the zeros outside
    assert offset.grad[0, 0, 0].tolist() == [0.0, -1.0, -10.0]


def test_gradients_are_zero_for_samples_outside_or_not_finite():
    x = torch.ones(1, 1, 3, 3, requires_grad=True)
    offset = torch.full((1, 2, 3, 3), float("nan"))
    offset[:, 0] = 100.0
    offset.requires_grad_()
    deform_conv2d(x, offset, torch.ones(1, 1, 1, 1)).sum().backward()
    assert not x.grad.any()
    assert not offset.grad.any()


def test_an_infinite_feature_stays_where_it_is():
    x = torch.ones(1, 1, 4, 4)
    x[0, 0, 0, 0] = float("inf")
    offset = torch.zeros(1, 2, 4, 4)
    offset[0, :, 3, 3] = 50.0  # outside: must not pick up 0·inf from pixel (0, 0)
    y = deform_conv2d(x, offset, torch.ones(1, 1, 1, 1))
    assert y[0, 0, 3, 3] == 0
    assert torch.isfinite(y[0, 0, 2:]).all()


def test_gradients_do_not_depend_on_the_chunks(rng, monkeypatch):
    case = cases.Case("batch", n=5, c=4, h=6, w=5, m=4, pad_top=1, group=2, offset_group=2)
    results = []
    for budget in (1 << 25, 1):
        monkeypatch.setattr(vectorized, "_COLUMN_BUDGET", budget)
        inputs = [t.requires_grad_() for t in tensors(case, np.random.default_rng(5))]
        run(case, *inputs).pow(2).sum().backward()
        results.append([t.grad for t in inputs])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["unequal_groups", "no_mask", "no_bias", "empty_batch", "size_1"])
def test_opcheck(name, rng):
    case = cases.by_name(name)
    for dtype in (torch.float64, torch.bfloat16):
        inputs = [t if t is None else t.requires_grad_() for t in tensors(case, rng, dtype)]
        torch.library.opcheck(torch.ops.dcn_deploy.deform_conv2d.default, operator_arguments(case, *inputs))


def test_torch_compile(rng):
    case = cases.by_name("unequal_groups")
    inputs = [t.requires_grad_() for t in tensors(case, rng, torch.float32)]
    compiled = torch.compile(lambda *given: run(case, *given).sin(), fullgraph=True, backend="aot_eager")
    y = compiled(*inputs)
    torch.testing.assert_close(y, run(case, *inputs).sin())
    grads = torch.autograd.grad(y.sum(), inputs)
    for a, b in zip(grads, torch.autograd.grad(run(case, *inputs).sin().sum(), inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_leaves_coordinates_alone(rng):
    case = cases.Case("wide", c=4, h=130, w=160, m=2, kernel_h=1, kernel_w=1, offset_scale=40.0)
    inputs = tensors(case, rng, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = run(case, *inputs)
    assert y.dtype == torch.bfloat16
    rounded = [t if t is None or i in (2, 4) else t.bfloat16() for i, t in enumerate(inputs)]
    assert relative_rms(y.double().numpy(), expected(case, rounded)) < BOUNDS[torch.bfloat16]
    with torch.autocast("cpu", torch.bfloat16):
        leaf = inputs[0].clone().requires_grad_()
        run(case, leaf, *inputs[1:]).float().sum().backward()
    assert leaf.grad.dtype == torch.float32
    assert leaf.grad.any()


def test_memory_formats_and_strides(rng):
    case = cases.by_name("unequal_groups")
    inputs = tensors(case, rng)
    wanted = run(case, *inputs)
    channels_last = [t.to(memory_format=torch.channels_last) if t.dim() == 4 else t for t in inputs]
    torch.testing.assert_close(run(case, *channels_last), wanted)

    def strided(t):
        wide = torch.full([2 * extent for extent in t.shape], float("nan"), dtype=t.dtype)
        view = wide[tuple(slice(None, None, 2) for _ in t.shape)]
        view.copy_(t)
        return view

    views = [strided(t) for t in inputs]
    assert not views[0].is_contiguous()
    torch.testing.assert_close(run(case, *views), wanted)
    expanded = inputs[0][:1].expand(3, -1, -1, -1)
    y = deform_conv2d(
        expanded, inputs[2][:1].expand(3, -1, -1, -1), inputs[1], inputs[3], mask=inputs[4][:1].expand(3, -1, -1, -1),
        **case.functional_arguments,
    )  # fmt: skip
    torch.testing.assert_close(y[2], wanted[0])


def test_more_elements_than_int32_holds():
    """A stride-0 batch of 2³¹ elements takes no memory; shapes beyond int32 come out right on the meta device."""
    x = torch.empty(1, 1, 1, 1, device="meta").expand(1 << 16, 4, 1 << 8, 1 << 8)
    offset = torch.empty(1, device="meta").expand(1 << 16, 18, 1 << 8, 1 << 8)
    y = deform_conv2d(x, offset, torch.empty(8, 4, 3, 3, device="meta"), padding=1)
    assert y.shape == (1 << 16, 8, 1 << 8, 1 << 8)
    assert y.numel() > 1 << 34


def good():
    return {
        "input": torch.zeros(2, 4, 5, 6),
        "offset": torch.zeros(2, 18, 3, 4),
        "weight": torch.zeros(6, 4, 3, 3),
        "bias": torch.zeros(6),
        "mask": torch.zeros(2, 9, 3, 4),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": torch.zeros(4, 5, 6)}, r"input\.shape: expected 4 dimensions, got \(4, 5, 6\)"),
        ({"input": torch.zeros(2, 5, 5, 6)}, r"weight\.shape\[1\].*: expected a positive divisor of 5, got 4"),
        ({"offset": torch.zeros(2, 17, 3, 4)}, r"offset\.shape\[1\]: expected a multiple of 2·kH·kW = 18, got 17"),
        ({"offset": torch.zeros(2, 54, 3, 4)}, r"offset_group: expected a divisor of C = 4, got 3"),
        ({"offset": torch.zeros(2, 18, 5, 6)}, r"offset\.shape\[2\]: expected Ho = 3, got 5.*same kernel"),
        ({"offset": torch.zeros(1, 18, 3, 4)}, r"offset\.shape\[0\]: expected N = 2, got 1"),
        ({"mask": torch.zeros(2, 18, 3, 4)}, r"mask\.shape\[1\]: expected offset_group·kH·kW = 9, got 18"),
        ({"bias": torch.zeros(5)}, r"bias\.shape\[0\]: expected M = 6, got 5"),
        ({"bias": torch.zeros(6, 1)}, r"bias\.shape: expected 1 dimension"),
        ({"stride": 0}, r"stride: expected an int or \(height, width\), each at least 1, got 0"),
        ({"stride": (1, 2, 3)}, r"stride: expected an int or \(height, width\)"),
        ({"padding": -1}, r"padding: expected .*each at least 0, got -1"),
        ({"dilation": 7}, r"output size: expected at least 1×1, got -9×-8.*smaller than the dilated kernel"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(InvalidArgumentError, match=message):
        deform_conv2d(**{**good(), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(6, 4, 3, 3).half()}, r"weight\.dtype: expected that of input \(torch\.float32\)"),
        ({"offset": torch.zeros(2, 18, 3, 4).half()}, r"offset\.dtype: expected torch\.float32 or that of input"),
        ({"input": torch.zeros(2, 4, 5, 6).int()}, r"input\.dtype: expected one of"),
    ],
)
def test_dtype_refusals(change, message):
    with pytest.raises(DtypeError, match=message):
        deform_conv2d(**{**good(), **change})


def test_four_sided_padding_equals_padding_by_hand(rng):
    case = cases.by_name("asymmetric_pads")
    inputs = tensors(case, rng)
    zero = torch.zeros_like(inputs[2])
    y = run(case, inputs[0], inputs[1], zero, None, None)
    top, left, bottom, right = case.pads
    padded = torch.nn.functional.pad(inputs[0], (left, right, top, bottom))
    torch.testing.assert_close(y, torch.nn.functional.conv2d(padded, inputs[1]))


# torchvision's compiled operator does not load beside every PyTorch build, so its place is taken here by an operator
# of the same schema that counts its calls and knows no NaN, as the real one.
STAND_IN = """
    import sys
    import torch
    library = torch.library.Library("torchvision", "DEF")
    arguments = ("Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, "
                 "SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, "
                 "SymInt offset_groups, bool use_mask")
    library.define(f"deform_conv2d({arguments}) -> Tensor")
    library.define(f"_deform_conv2d_backward(Tensor grad, {arguments}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)")
    from dcn_deploy.ops import deform_conv2d, deform_conv2d_vectorized as v
    from dcn_deploy.ops.geometry import Geometry
    calls = []
    def split(i, w, o, m, b, sh, sw, ph, pw, dh, dw, g, og, use_mask):
        assert torch.isfinite(o).all()
        geometry = Geometry([sh, sw], [ph, pw, ph, pw], [dh, dw], g, og)
        return i, w, o, b, m if use_mask else None, geometry
    def forward(*a):
        calls.append("forward")
        return v.forward(*split(*a))
    def backward(grad, *a):
        calls.append("backward")
        i, w, o, b, m, geometry = split(*a)
        gi, gw, go, gm = v.backward(grad, i, w, o, m, geometry, [True, True, True, m is not None])
        return gi, gw, go, gm if m is not None else torch.zeros_like(a[3]), grad.sum((0, 2, 3))
    library.impl("deform_conv2d", forward, "CPU")
    library.impl("_deform_conv2d_backward", backward, "CPU")
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 7, requires_grad=True)
    w = torch.randn(6, 2, 3, 3, requires_grad=True)
    o = torch.randn(2, 36, 6, 7) * 2
    o[0, 0] = float("nan")
    o.requires_grad_()
    m = torch.rand(2, 18, 6, 7, requires_grad=True)
    grad = torch.randn(2, 6, 6, 7)
    import os
    def run(choice, padding=1, mask=m):
        os.environ["DCN_DEPLOY_TORCHVISION"] = choice
        y = deform_conv2d(x, o, w, None, 1, padding, 1, mask)
        wanted = [t for t in (x, w, o, mask) if t is not None]
        return [y, *torch.autograd.grad(y, wanted, grad)]
    for mask in (m, None):
        del calls[:]
        ours = run("never", mask=mask)
        assert calls == []
        theirs = run("always", mask=mask)
        assert calls == ["forward", "backward"], calls
        for a, b in zip(ours, theirs):
            torch.testing.assert_close(a, b)
    del calls[:]
    run("auto")
    run("always", padding=(0, 1, 2, 1))
    y = deform_conv2d(x.half(), o.half(), w.half(), None, 1, 1, 1, m.half())
    assert calls == [], calls
    try:
        run("sometimes")
    except ValueError as error:
        assert "expected auto, always or never, got 'sometimes'" in str(error)
    else:
        raise AssertionError
    print("done")
"""


def test_torchvisions_operator_is_used_where_it_fits():
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(STAND_IN)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "done"


def test_the_forward_mode_is_refused():
    """It would give zeros: torch.library.custom_op knows the reverse mode alone."""

    def run(x):
        return deform_conv2d(x, torch.zeros(1, 18, 5, 5), torch.ones(2, 2, 3, 3), padding=1)

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
