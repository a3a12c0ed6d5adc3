"""What the torch operators check of their tensors: sizes that are known, ranks, devices and element types."""

from __future__ import annotations

from collections.abc import Iterable

from dcn_deploy._lazy import require

require("torch", "dcn_deploy.ops")
import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402

from dcn_deploy.errors import DtypeError, InvalidArgumentError, describe  # noqa: E402

#: Element types that features may have.
FEATURE_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def known(*numbers: float) -> bool:
    """Whether all are plain numbers; comparing symbolic ones would specialise an export."""
    return not any(isinstance(number, torch.SymInt | torch.SymFloat) for number in numbers)


def check_extent(what: str, actual: int, expected: int, meaning: str, remedy: str = "") -> None:
    """Refuse an extent that is known to differ from the expected one; ``meaning`` says what that stands for."""
    if known(actual, expected) and actual != expected:
        raise InvalidArgumentError(
            describe(what, expected=f"{meaning} = {expected}", actual=str(actual), remedy=remedy)
        )


def check_layout(input: Tensor, tensors: Iterable[tuple[str, Tensor | None, int]]) -> None:
    """Refuse a tensor that has not its number of dimensions, or is not on the device of ``input``."""
    for name, tensor, rank in tensors:
        if tensor is not None and tensor.dim() != rank:
            raise InvalidArgumentError(
                describe(f"{name}.shape", expected=f"{rank} dimension(s)", actual=str(list(tensor.shape)))
            )
        if tensor is not None and tensor.device != input.device:
            raise InvalidArgumentError(
                describe(f"{name}.device", expected=f"that of input ({input.device})", actual=str(tensor.device))
            )


def check_feature_dtypes(input: Tensor, others: Iterable[tuple[str, Tensor | None]] = ()) -> None:
    """Refuse features of a type that no operator takes, and others (weight, bias) of another type than theirs."""
    if input.dtype not in FEATURE_DTYPES:
        raise DtypeError(
            describe(
                "input.dtype",
                expected=f"one of {', '.join(map(str, FEATURE_DTYPES))}",
                actual=str(input.dtype),
            )
        )
    for name, tensor in others:
        if tensor is not None and tensor.dtype != input.dtype:
            raise DtypeError(
                describe(
                    f"{name}.dtype",
                    expected=f"that of input ({input.dtype})",
                    actual=str(tensor.dtype),
                    remedy=f"Convert one of the two, e.g. {name}.to(input.dtype).",
                )
            )


def check_coordinate_dtypes(input: Tensor, coordinates: Iterable[tuple[str, Tensor | None]]) -> None:
    """Refuse coordinates and modulation that are neither float32 nor of the features' type."""
    for name, tensor in coordinates:
        if tensor is not None and tensor.dtype not in (input.dtype, torch.float32):
            raise DtypeError(
                describe(
                    f"{name}.dtype",
                    expected=f"torch.float32 or that of input ({input.dtype})",
                    actual=str(tensor.dtype),
                    remedy="float32 is recommended whatever the features are.",
                )
            )


def _has_tangent(tensor: Tensor) -> bool:
    """Whether forward-mode differentiation goes through a tensor, or through one that a transform of it wraps."""
    functorch = torch._C._functorch
    while forward_ad.unpack_dual(tensor).tangent is None:  # type: ignore[no-untyped-call]
        if not functorch.is_functorch_wrapped_tensor(tensor):
            return False
        tensor = functorch.get_unwrapped(tensor)
    return True


def check_no_forward_mode(operator: str, tensors: Iterable[Tensor | None]) -> None:
    """Refuse forward-mode differentiation, of which ``torch.library.custom_op`` would make zeros without a word.

    Raises:
        InvalidArgumentError: if one of the tensors has a tangent.
    """
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return
    if any(tensor is not None and _has_tangent(tensor) for tensor in tensors):
        raise InvalidArgumentError(
            describe(
                operator,
                expected="reverse-mode differentiation",
                actual="tensors with tangents of the forward mode (torch.func.jvp, jacfwd)",
                remedy="Use Tensor.backward or torch.autograd.grad, a pass for each output.",
            )
        )
