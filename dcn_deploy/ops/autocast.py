"""Rules of torch.autocast for operators with sampling coordinates."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from dcn_deploy._lazy import require

require("torch", "dcn_deploy.ops")
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

_LIBRARY = torch.library.Library("dcn_deploy", "FRAGMENT")  # type: ignore[no-untyped-call]


def _kernel(operator: Any, device_type: str, features: Collection[int], coordinates: Collection[int]) -> Any:
    def kernel(*arguments: Any) -> Tensor:
        dtype = torch.get_autocast_dtype(device_type)

        def converted(position: int, argument: Any) -> Any:
            if not isinstance(argument, Tensor):
                return argument
            if position in features and argument.is_floating_point() and argument.dtype != torch.float64:
                return argument.to(dtype)
            foreign = argument.dtype in (torch.float16, torch.bfloat16) and argument.dtype != dtype
            return argument.float() if position in coordinates and foreign else argument

        with torch.autocast(device_type, enabled=False):
            output: Tensor = operator(*(converted(i, argument) for i, argument in enumerate(arguments)))
            return output

    return kernel


def register_autocast(name: str, *, features: Collection[int], coordinates: Collection[int]) -> None:
    """Give an operator its kernels for torch.autocast: features go to its type; coordinates stay as they are.

    Casting them along, as autocast does by default, would put sampling coordinates on a half-precision grid: a
    quarter of a pixel near column 500.

    Args:
        name: the operator's full name, ``dcn_deploy::…``.
        features: positions of the arguments that hold features or weights.
        coordinates: positions of the arguments that hold RoIs, offsets or modulation. One that came out of another
            half-precision type than the features are cast to goes to float32.
    """
    short = name.partition("::")[2]
    operator = getattr(torch.ops.dcn_deploy, short)
    for device_type, key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):
        _LIBRARY.impl(short, _kernel(operator, device_type, features, coordinates), key)  # type: ignore[no-untyped-call]
