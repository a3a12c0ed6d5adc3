"""Packed deformable convolution layers: the convolution and the branch that predicts its offsets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from dcn_deploy._lazy import require

require("torch", "dcn_deploy.nn")
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from dcn_deploy.errors import InvalidArgumentError, describe  # noqa: E402
from dcn_deploy.nn.offset_branch import PredictsOffsets  # noqa: E402
from dcn_deploy.ops.functional import deform_conv2d  # noqa: E402
from dcn_deploy.ops.geometry import padding4, pair, whole  # noqa: E402


def _pads(
    padding: int | str | Sequence[int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, int, int, int]:
    """Return (top, left, bottom, right); ``"same"`` and ``"valid"`` as in ``torch.nn.Conv2d``."""
    if not isinstance(padding, str):
        return padding4("padding", padding)
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        if stride != (1, 1):
            raise InvalidArgumentError(describe("stride with padding='same'", expected="1", actual=str(stride)))
        total_h, total_w = (dilation[axis] * (kernel[axis] - 1) for axis in (0, 1))
        top, left = total_h // 2, total_w // 2
        return top, left, total_h - top, total_w - left
    raise InvalidArgumentError(describe("padding", expected="ints, 'same' or 'valid'", actual=repr(padding)))


class _PackedDeformConv2d(PredictsOffsets):
    """What both versions share. ``conv_offset`` sees the same window as the layer itself."""

    #: channels that the branch predicts for each tap
    _channels_per_tap: ClassVar[int]

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        offset_groups: int = 1,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = whole("in_channels", in_channels, 1)
        self.out_channels = whole("out_channels", out_channels, 1)
        self.kernel_size = pair("kernel_size", kernel_size, 1)
        self.stride = pair("stride", stride, 1)
        self.dilation = pair("dilation", dilation, 1)
        self.padding = _pads(padding, self.kernel_size, self.stride, self.dilation)
        self.groups = whole("groups", groups, 1)
        self.offset_groups = whole("offset_groups", offset_groups, 1)
        for name, channels, parts in (
            ("in_channels", in_channels, groups),
            ("out_channels", out_channels, groups),
            ("in_channels", in_channels, offset_groups),
        ):
            if channels % parts:
                raise InvalidArgumentError(
                    describe(name, expected=f"a multiple of {parts} (groups, offset_groups)", actual=str(channels))
                )
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.empty((out_channels, in_channels // groups, *self.kernel_size), **factory))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_channels, **factory))
        else:
            self.register_parameter("bias", None)
        self._taps = offset_groups * self.kernel_size[0] * self.kernel_size[1]
        symmetric = self.padding[:2] == self.padding[2:]
        self.conv_offset = nn.Conv2d(
            in_channels,
            self._channels_per_tap * self._taps,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding[:2] if symmetric else 0,
            dilation=self.dilation,
            **factory,
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as ``torch.nn.Conv2d`` does, and the branch to zero."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)
        self._zero_offset_layers()

    def offset_branches(self) -> tuple[nn.Module, ...]:
        """Return the convolution that predicts offsets and mask logits."""
        return (self.conv_offset,)

    def offset_layers(self) -> tuple[nn.Conv2d | nn.Linear, ...]:
        """Return the same convolution: the branch is one layer."""
        return (self.conv_offset,)

    def _predict(self, input: Tensor) -> Tensor:
        """Output of the branch: [N, channels_per_tap·offset_groups·kH·kW, Ho, Wo]."""
        top, left, bottom, right = self.padding

        def branch(x: Tensor) -> Tensor:
            if (top, left) != (bottom, right):
                x = F.pad(x, (left, right, top, bottom))
            predicted: Tensor = self.conv_offset(x)
            return predicted

        return self._in_full_precision(branch, input)

    def extra_repr(self) -> str:
        """Return the arguments that differ from the defaults, as ``torch.nn.Conv2d`` prints them."""
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        if any(self.padding):
            symmetric = self.padding[:2] == self.padding[2:]
            parts.append(f"padding={self.padding[:2] if symmetric else self.padding}")
        if self.dilation != (1, 1):
            parts.append(f"dilation={self.dilation}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.offset_groups != 1:
            parts.append(f"offset_groups={self.offset_groups}")
        if self.bias is None:
            parts.append("bias=False")
        return ", ".join(parts)


class DeformConv2d(_PackedDeformConv2d):
    """Deformable convolution v1 that predicts its own offsets (Dai et al. 2017, section 2.1).

    A drop-in for ``torch.nn.Conv2d``: one convolution with the layer's own kernel, stride, padding and dilation
    predicts 2·offset_groups·kH·kW channels of offsets. It starts at zero, so a new layer is the plain convolution.
    Exported to ONNX the layer is that convolution and one ``DeformConv2d`` node.

    Parameters are named as in mmcv: ``weight`` [M, C/groups, kH, kW], ``bias`` [M], ``conv_offset.weight`` and
    ``conv_offset.bias``.

    Args:
        in_channels: C.
        out_channels: M.
        kernel_size: int or (height, width).
        stride: int or (height, width).
        padding: int, (height, width), (top, left, bottom, right), ``"same"`` or ``"valid"``.
        dilation: int or (height, width).
        groups: convolution groups; divides C and M.
        offset_groups: groups of channels with offsets of their own; divides C.
        bias: whether to add a bias [M].
        device, dtype: of the parameters.

    Shape:
        input [N, C, H, W] → output [N, M, Ho, Wo].

    Raises:
        InvalidArgumentError: for arguments that do not fit together.
    """

    _channels_per_tap = 2
    offset_lr_mult = 1.0

    def forward(self, input: Tensor) -> Tensor:
        """Return the deformable convolution of ``input`` [N, C, H, W]: [N, M, Ho, Wo]."""
        return deform_conv2d(
            input, self._predict(input), self.weight, self.bias, self.stride, self.padding, self.dilation
        )


class ModulatedDeformConv2d(_PackedDeformConv2d):
    """Modulated deformable convolution (DCNv2) that predicts its own offsets and mask (Zhu et al. 2019, section 3.2).

    As :class:`DeformConv2d`, but the branch predicts 3·offset_groups·kH·kW channels: the first two thirds are offsets,
    the last third mask logits, which go through a sigmoid. With the branch at zero every mask value is 0.5, so a new
    layer is half of the plain convolution (plus the bias). The paper trains the branch at 0.1 times the learning
    rate: see :func:`dcn_deploy.nn.parameter_groups`.

    Args, shapes, parameter names and errors are those of :class:`DeformConv2d`.
    """

    _channels_per_tap = 3
    offset_lr_mult = 0.1

    def forward(self, input: Tensor) -> Tensor:
        """Return the modulated deformable convolution of ``input`` [N, C, H, W]: [N, M, Ho, Wo]."""
        predicted = self._predict(input)
        offset, logits = torch.split(predicted, [2 * self._taps, self._taps], dim=1)
        return deform_conv2d(
            input,
            offset,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            mask=torch.sigmoid(logits),
        )
