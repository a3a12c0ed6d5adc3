"""The shapes on which deformable convolutions are benchmarked: one table for every program that measures.

They are taken from where the operator is used: classification, detection, segmentation, video alignment,
text detection, and the corners of the attribute space (depthwise, 5×5, many offset groups, no mask).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ConvShape:
    """One deformable convolution; its kernel, stride and dilation are square, its padding keeps the size.

    Attributes:
        name: what it is called in tables and on command lines.
        n: batch size.
        c: input channels.
        h: input height in pixels.
        w: input width in pixels.
        m: output channels.
        kernel: height and width of the kernel.
        stride: step between output pixels, in input pixels.
        dilation: distance between taps, in input pixels.
        group: number of convolution groups.
        offset_group: number of channel groups with offsets of their own.
        mask: whether every sample is multiplied by a modulation value (v2) or not (v1).
    """

    name: str
    n: int
    c: int
    h: int
    w: int
    m: int
    kernel: int
    stride: int
    dilation: int
    group: int
    offset_group: int
    mask: bool

    @property
    def padding(self) -> int:
        """Zeros around the map on each side: half the dilated kernel."""
        return self.dilation * (self.kernel - 1) // 2

    @property
    def out_h(self) -> int:
        """Height of the output in pixels."""
        return self._output_extent(self.h)

    @property
    def out_w(self) -> int:
        """Width of the output in pixels."""
        return self._output_extent(self.w)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of X: ``(N, C, H, W)``."""
        return (self.n, self.c, self.h, self.w)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Shape of W: ``(M, C/group, kH, kW)``."""
        return (self.m, self.c // self.group, self.kernel, self.kernel)

    @property
    def offset_shape(self) -> tuple[int, int, int, int]:
        """Shape of offset: ``(N, offset_group·kH·kW·2, Ho, Wo)``."""
        return (self.n, self.offset_group * self.kernel**2 * 2, self.out_h, self.out_w)

    @property
    def mask_shape(self) -> tuple[int, int, int, int] | None:
        """Shape of mask: ``(N, offset_group·kH·kW, Ho, Wo)``; None where there is no mask."""
        return (self.n, self.offset_group * self.kernel**2, self.out_h, self.out_w) if self.mask else None

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """Shape of Y: ``(N, M, Ho, Wo)``."""
        return (self.n, self.m, self.out_h, self.out_w)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the convolution itself, without the bilinear sampling."""
        return self.n * self.m * self.out_h * self.out_w * (self.c // self.group) * self.kernel**2

    def _output_extent(self, extent: int) -> int:
        from dcn_deploy.ops.geometry import output_size  # here, since dcn_deploy.ops loads torch

        return output_size(extent, self.padding, self.padding, self.dilation, self.kernel, self.stride)


def _row(
    name: str,
    nchw: tuple[int, int, int, int],
    m: int,
    kernel: int,
    stride: int,
    dilation: int,
    group: int,
    offset_group: int,
    mask: bool = True,
) -> ConvShape:
    n, c, h, w = nchw
    return ConvShape(
        name=name,
        n=n,
        c=c,
        h=h,
        w=w,
        m=m,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        group=group,
        offset_group=offset_group,
        mask=mask,
    )


#: name, (N, C, H, W), M, kernel, stride, dilation, group, offset_group
SUITE: tuple[ConvShape, ...] = (
    _row("cls_res3", (1, 128, 28, 28), 128, 3, 1, 1, 1, 1),
    _row("cls_res4", (1, 256, 14, 14), 256, 3, 1, 1, 1, 1),
    _row("cls_res5", (1, 512, 7, 7), 512, 3, 1, 1, 1, 1),
    _row("cls_res4_b8", (8, 256, 14, 14), 256, 3, 1, 1, 1, 1),
    _row("det_res3", (1, 128, 100, 168), 128, 3, 1, 1, 1, 1),
    _row("det_res4", (1, 256, 50, 84), 256, 3, 1, 1, 1, 1),
    _row("det_res5_s2", (1, 512, 50, 84), 512, 3, 2, 1, 1, 1),
    _row("seg_res5_d2", (1, 512, 33, 33), 512, 3, 1, 2, 1, 1),
    _row("vsr_align", (1, 128, 180, 320), 64, 3, 1, 1, 1, 16),
    _row("center_64", (1, 64, 128, 128), 64, 3, 1, 1, 1, 1),
    _row("ocr_db", (1, 256, 40, 40), 256, 3, 1, 1, 1, 1),
    _row("depthwise", (1, 256, 28, 28), 256, 3, 1, 1, 256, 1),
    _row("v1_det_res5", (1, 512, 25, 42), 512, 3, 1, 1, 1, 4, mask=False),
    _row("wide_k5", (1, 64, 60, 80), 96, 5, 1, 1, 1, 2),
)
