"""What is timed on a GPU: this project's kernels, their peers, and the dense convolution as the floor."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.gpu_check import devices
from benchmarks.gpu_check.native import How, Library, Plan

#: Deviation of the offsets, in pixels.
OFFSET_SCALE = 2.0


@dataclass
class TensorSet:
    """One set of inputs on the GPU, NCHW and contiguous; each engine makes of it what it needs."""

    X: Any
    W: Any
    offset: Any
    B: Any
    mask: Any | None

    @staticmethod
    def random(shape: Any, dtype: Any, generator: Any) -> TensorSet:
        """Draw a set for a ``ConvShape``."""
        import torch

        def draw(dims: tuple[int, ...], scale: float) -> Any:
            return (torch.randn(dims, generator=generator, device=devices.DEVICE) * scale).to(dtype)

        reduction = shape.weight_shape[1] * shape.kernel**2
        mask = None
        if shape.mask_shape is not None:
            mask = torch.sigmoid(draw(shape.mask_shape, 1.5).float()).to(dtype)
        return TensorSet(
            draw(shape.input_shape, 1.0),
            draw(shape.weight_shape, 1 / math.sqrt(reduction)),
            draw(shape.offset_shape, OFFSET_SCALE),
            draw((shape.m,), 1.0),
            mask,
        )


class Run(Protocol):
    """Enqueues one convolution and returns Y as [N, M, H, W].

    Attributes:
        x: the features that it reads, as it reads them: whoever changes these changes its result.
        note: what its time has that those of others have not; None for nothing.
    """

    x: Any
    note: str | None

    def __call__(self) -> Any:
        """Enqueue it."""


@dataclass
class Call:
    """A :class:`Run` made of a function."""

    run: Callable[[], Any]
    x: Any
    note: str | None = None

    def __call__(self) -> Any:
        """Enqueue it."""
        return self.run()


@dataclass(frozen=True)
class Engine:
    """One engine.

    Attributes:
        name: in the result.
        deformable: whether it computes the operator, not only something of the same size.
        prepare: gives a call for a set of tensors.
        missing: says why it cannot be timed here.
        captured: whether a CUDA graph may record it. It may not if it launches on another stream than PyTorch's
            current one: the graph would lack those kernels, and find their results from before in its memory.
    """

    name: str
    deformable: bool
    prepare: Callable[[Any, TensorSet, How], Run]
    missing: Callable[[How], str | None]
    captured: bool = True


@dataclass
class _Ours:
    """One convolution of ours, and everything that its pointers point into."""

    plan: Plan
    pointers: dict[str, int | None]
    packed: Any
    coordinates: str
    x: Any
    y: Any
    kept: tuple[Any, ...]
    note: str | None = None

    def __call__(self) -> Any:
        kinds = (self.coordinates, self.coordinates)
        self.plan.run(self.pointers, self.packed.data_ptr(), devices.current_stream(), dtypes=kinds)
        return self.y


def ours(library: Library, name: str = "dcn_deploy", *, coordinates: str | None = None, tile: Any = None) -> Engine:
    """This project's kernel.

    Args:
        library: the kernels.
        name: of the engine.
        coordinates: type of offset and mask; None for that of the features.
        tile: see :func:`forced`; None lets the library choose.
    """

    def prepare(shape: Any, tensors: TensorSet, how: How) -> Run:
        import torch

        channels_last = how.x_layout == "nhwc"
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        x = tensors.X.contiguous(memory_format=memory_format)
        y = torch.empty(shape.output_shape, dtype=x.dtype, device=devices.DEVICE).contiguous(
            memory_format=memory_format
        )
        kind = coordinates or how.dtype
        offset = tensors.offset.to(getattr(torch, kind))
        mask = None if tensors.mask is None else tensors.mask.to(getattr(torch, kind))
        plan = library.plan(sizes_of(shape), how if tile is None else forced(how, tile))
        packed = torch.empty(plan.info["packed_bytes"], dtype=torch.uint8, device=devices.DEVICE)
        plan.pack(tensors.W.data_ptr(), packed.data_ptr(), devices.current_stream())
        pointers = {
            "x": x.data_ptr(),
            "offset": offset.data_ptr(),
            "bias": tensors.B.data_ptr(),
            "mask": None if mask is None else mask.data_ptr(),
            "y": y.data_ptr(),
        }
        return _Ours(plan, pointers, packed, kind, x, y, (offset, mask, tensors))

    return Engine(name, True, prepare, lambda how: None)


def forced(how: How, tile: tuple[str, tuple[int, int], int]) -> How:
    """``how`` with an algorithm, a tile and a number of blocks that share its sum of one's own."""
    return dataclasses.replace(how, algorithm=tile[0], tile=tile[1], splits=tile[2])


def sizes_of(shape: Any) -> dict[str, int]:
    """A ``ConvShape`` as the C interface has it."""
    sizes = {"batch": shape.n, "in_channels": shape.c, "in_h": shape.h, "in_w": shape.w, "out_channels": shape.m}
    for name, value in (("kernel", shape.kernel), ("stride", shape.stride), ("dilation", shape.dilation)):
        sizes |= {f"{name}_h": value, f"{name}_w": value}
    sizes |= {f"pad_{side}": shape.padding for side in ("top", "left", "bottom", "right")}
    return sizes | {"group": shape.group, "offset_group": shape.offset_group}


def _absent(package: str) -> str | None:
    return None if importlib.util.find_spec(package) is not None else f"{package} is not installed"


def _like_torchvision(operator: Callable[..., Any], shape: Any, tensors: TensorSet, note: str | None = None) -> Run:
    geometry = {name: (getattr(shape, name),) * 2 for name in ("stride", "padding", "dilation")}
    x, w, offset, b, mask = tensors.X, tensors.W, tensors.offset, tensors.B, tensors.mask
    return Call(lambda: operator(x, offset, w, b, mask=mask, **geometry), x, note)


def _torchvision(shape: Any, tensors: TensorSet, how: How) -> Run:
    from torchvision.ops import deform_conv2d

    return _like_torchvision(deform_conv2d, shape, tensors)


def _no_torchvision(how: How) -> str | None:
    if how.dtype == "bfloat16":
        return "torchvision's CUDA operator has no bfloat16"
    return _absent("torchvision")


def _deformops(shape: Any, tensors: TensorSet, how: How) -> Run:
    if how.x_layout == "nhwc":
        try:
            from deformops.registry import conv
        except ImportError:
            pass
        else:
            return _deformops_in_its_layout(conv, shape, tensors)
    from deformops.integrations.torchvision import deform_conv2d

    return _like_torchvision(deform_conv2d, shape, tensors, "its own change of layouts in every call")


def _deformops_in_its_layout(operator: Callable[..., Any], shape: Any, tensors: TensorSet) -> Run:
    """X and Y are [N, H, W, C], offset [N, OH, OW, OG, K, 2] and mask [N, OH, OW, OG, K]: as it takes them itself."""
    n, points, groups = shape.n, shape.kernel**2, shape.offset_group
    x = tensors.X.permute(0, 2, 3, 1).contiguous()
    out = (shape.out_h, shape.out_w)
    offset = tensors.offset.reshape(n, groups, points, 2, *out).permute(0, 4, 5, 1, 2, 3).contiguous()
    mask = None
    if tensors.mask is not None:
        mask = tensors.mask.reshape(n, groups, points, *out).permute(0, 3, 4, 1, 2).contiguous()
    options = {name: (getattr(shape, name),) * 2 for name in ("stride", "padding", "dilation")}
    options |= {"groups": shape.group, "offset_groups": groups, "bias": tensors.B, "mask": mask}
    w = tensors.W
    return Call(lambda: operator(x, offset, w, **options).permute(0, 3, 1, 2), x)


def _dense(shape: Any, tensors: TensorSet, how: How) -> Run:
    import torch

    memory_format = torch.channels_last if how.x_layout == "nhwc" else torch.contiguous_format
    x, w = (tensor.contiguous(memory_format=memory_format) for tensor in (tensors.X, tensors.W))
    b, geometry = tensors.B, (shape.stride, shape.padding, shape.dilation, shape.group)
    return Call(lambda: torch.conv2d(x, w, b, *geometry), x)


OURS = "dcn_deploy"
SELF = "dcn_deploy again"
MIXED = "dcn_deploy, float32 offsets"
DENSE = "dense conv"
PEERS = ("torchvision", "deformops")


def engines(library: Library, how: How) -> list[Engine]:
    """Everything that is timed in one precision and layout, this project's first."""
    result = [
        ours(library, OURS),
        ours(library, SELF),
        # torchvision 0.26 launches on CUDA's default stream whatever the current one is (pytorch/vision issue 9513).
        Engine("torchvision", True, _torchvision, _no_torchvision, captured=False),
        Engine("deformops", True, _deformops, lambda how: _absent("deformops")),
        Engine(DENSE, False, _dense, lambda how: None),
    ]
    if how.dtype != "float32":
        result.insert(2, ours(library, MIXED, coordinates="float32"))
    return result
