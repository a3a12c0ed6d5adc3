"""Packed deformable RoI pooling layers: the pooling and the fully connected branch that predicts its offsets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

from dcn_deploy._lazy import require

require("torch", "dcn_deploy.nn")
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from dcn_deploy.errors import InvalidArgumentError, describe  # noqa: E402
from dcn_deploy.nn.offset_branch import PredictsOffsets  # noqa: E402
from dcn_deploy.ops.functional import deform_roi_pool  # noqa: E402
from dcn_deploy.ops.geometry import gamma_of, pair, spatial_scale_of, whole  # noqa: E402
from dcn_deploy.schema import DEFORM_ROI_POOL2D  # noqa: E402

_VARIANTS = DEFORM_ROI_POOL2D.attribute("variant").choices
_BRANCHES = ("paper", "mmcv")


def _one_of(name: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise InvalidArgumentError(describe(name, expected=" or ".join(map(repr, choices)), actual=repr(value)))
    return value


class _PackedDeformRoIPool2d(PredictsOffsets):
    """What both versions share: pool, flatten, predict, pool again where the prediction says."""

    #: learning rate of the branch in the paper's form
    _paper_lr_mult: ClassVar[float]

    def __init__(
        self,
        in_channels: int,
        output_size: int | Sequence[int],
        spatial_scale: float = 1.0,
        *,
        variant: Literal["aligned", "psroi"] = "aligned",
        sampling_ratio: int = 0,
        sample_per_part: int = 4,
        gamma: float = 0.1,
        part_size: int | None = None,
        group_size: int = 1,
        branch: Literal["paper", "mmcv"] = "paper",
        hidden_channels: int = 1024,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = whole("in_channels", in_channels, 1)
        self.output_size = pair("output_size", output_size, 1)
        spatial_scale_of(spatial_scale)
        self.spatial_scale = float(spatial_scale)
        self.variant = _one_of("variant", variant, _VARIANTS)
        limit = DEFORM_ROI_POOL2D.attribute
        self.sampling_ratio = whole("sampling_ratio", sampling_ratio, 0, limit("sampling_ratio").maximum)
        self.sample_per_part = whole("sample_per_part", sample_per_part, 1, limit("sample_per_part").maximum)
        gamma_of(gamma)
        self.gamma = float(gamma)
        self.branch = _one_of("branch", branch, _BRANCHES)
        self.hidden_channels = whole("hidden_channels", hidden_channels, 1)
        if group_size != 1:
            raise InvalidArgumentError(
                describe(
                    "group_size",
                    expected="1",
                    actual=repr(group_size),
                    remedy="Position-sensitive pooling takes its offsets from maps of their own: pool those with "
                    "dcn_deploy.ops.deform_roi_pool and give the result to a second call as its offset.",
                )
            )
        self.part_size = self._parts(part_size)
        self._channels = in_channels * self.output_size[0] * self.output_size[1]
        self._bins = self.part_size[0] * self.part_size[1]
        self.offset_lr_mult = self._paper_lr_mult if branch == "paper" else 1.0
        self._add_branches({"device": device, "dtype": dtype})
        self._zero_offset_layers()

    def _parts(self, part_size: int | None) -> tuple[int, int]:
        """(height, width) of the offsets: a part each, or for ``aligned`` a bin each."""
        if self.variant == "aligned":
            if part_size is not None:
                raise InvalidArgumentError(
                    describe(
                        "part_size",
                        expected="None with variant 'aligned'",
                        actual=repr(part_size),
                        remedy="There each bin has an offset of its own.",
                    )
                )
            return self.output_size
        if self.branch == "mmcv":
            raise InvalidArgumentError(
                describe(
                    "branch with variant 'psroi'", expected="'paper'", actual="'mmcv'", remedy="mmcv has 'aligned'."
                )
            )
        if part_size is None:
            if self.output_size[0] != self.output_size[1]:
                raise InvalidArgumentError(
                    describe(
                        "part_size",
                        expected=f"an int where output_size {self.output_size} is not square",
                        actual="None",
                    )
                )
            part_size = self.output_size[0]
        return (whole("part_size", part_size, 1),) * 2

    def _add_branches(self, factory: dict[str, Any]) -> None:
        raise NotImplementedError

    def _hidden(self, count: int, outputs: int, factory: dict[str, Any]) -> list[nn.Module]:
        """``count`` fully connected layers with ReLU, and one of ``outputs`` channels after them."""
        widths = [self._channels, *[self.hidden_channels] * count]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after, **factory), nn.ReLU(inplace=True)]
        return [*layers, nn.Linear(widths[-1], outputs, **factory)]

    def _pool(self, input: Tensor, rois: Tensor, offset: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return deform_roi_pool(
            input,
            rois,
            offset,
            mask,
            variant=self.variant,
            output_size=self.output_size,
            spatial_scale=self.spatial_scale,
            gamma=self.gamma,
            sampling_ratio=self.sampling_ratio,
            sample_per_part=self.sample_per_part,
        )

    def _features(self, input: Tensor, rois: Tensor) -> Tensor:
        """What the branches see: RoIs pooled where they are, [R, C·pH·pW]."""
        if input.dim() != 4 or input.shape[1] != self.in_channels:
            raise InvalidArgumentError(
                describe(
                    "input.shape",
                    expected=f"[N, {self.in_channels}, H, W] (in_channels)",
                    actual=str(list(input.shape)),
                )
            )
        return self._pool(input, rois).flatten(1)

    def _as_map(self, predicted: Tensor, channels: int) -> Tensor:
        """[R, channels·parts] → [R, channels, part_h, part_w]."""
        return predicted.reshape(predicted.shape[0], channels, *self.part_size)

    def extra_repr(self) -> str:
        """Return the arguments, those that have a default only where they differ from it."""
        parts = [f"{self.in_channels}, output_size={self.output_size}, spatial_scale={self.spatial_scale}"]
        if self.variant == "aligned":
            parts.append(f"sampling_ratio={self.sampling_ratio}")
        else:
            parts.append(f"variant='psroi', sample_per_part={self.sample_per_part}")
            if self.part_size != self.output_size:
                parts.append(f"part_size={self.part_size[0]}")
        if self.gamma != 0.1:
            parts.append(f"gamma={self.gamma}")
        if self.branch != "paper":
            parts.append(f"branch={self.branch!r}")
        return ", ".join(parts)


class DeformRoIPool2d(_PackedDeformRoIPool2d):
    """Deformable RoI pooling v1 that predicts its own offsets (Dai et al. 2017, section 2.2).

    The RoIs are pooled without offsets; one fully connected layer on the flattened result predicts the offsets, with
    which they are pooled again. That layer starts at zero, so that a new one is plain RoI pooling. The paper trains it
    at 0.01 times the learning rate: see :func:`dcn_deploy.nn.parameter_groups`. Exported to ONNX the layer is two
    ``DeformRoIPool2d`` nodes and one ``Gemm`` between them.

    Parameters are ``offset_fc.weight`` [2·K, C·pH·pW] and ``offset_fc.bias`` [2·K] for K parts, x offsets first. With
    ``branch="mmcv"`` the branch is that of mmcv's ``DeformRoIPoolPack``, under its names: three fully connected layers
    with ReLU between them, ``offset_fc.0``, ``offset_fc.2`` and ``offset_fc.4``, at the full learning rate.

    Args:
        in_channels: C, of the features and of the output.
        output_size: int or (height, width): bins along each axis, pH and pW.
        spatial_scale: map pixels for each image pixel.
        variant: ``"aligned"`` (RoIAlign) or ``"psroi"`` (the v1 paper's code, with one group of channels).
        sampling_ratio: of ``"aligned"``: samples of a bin along each axis; 0 for ceil(RoI size / pooled size).
        sample_per_part: of ``"psroi"``: samples of a bin along each axis.
        gamma: offset of 1 → this fraction of the RoI's size.
        part_size: of ``"psroi"``: parts along each axis, with an offset each; None for the output's size.
        group_size: 1. The offsets of position-sensitive pooling come from elsewhere; see
            :func:`dcn_deploy.ops.deform_roi_pool`.
        branch: ``"paper"`` or ``"mmcv"``, the form of the branch; mmcv's goes with ``"aligned"``.
        hidden_channels: width of the hidden fully connected layers, where the branch has any.
        device, dtype: of the parameters.

    Shape:
        input [N, C, H, W], rois [R, 5] (batch index, x1, y1, x2, y2) → output [R, C, pH, pW].

    Raises:
        InvalidArgumentError: for arguments that do not fit together.
    """

    _paper_lr_mult = 0.01
    offset_fc: nn.Linear | nn.Sequential

    def _add_branches(self, factory: dict[str, Any]) -> None:
        if self.branch == "paper":
            self.offset_fc = nn.Linear(self._channels, 2 * self._bins, **factory)
        else:
            self.offset_fc = nn.Sequential(*self._hidden(2, 2 * self._bins, factory))

    def offset_branches(self) -> tuple[nn.Module, ...]:
        """Return the module that predicts the offsets."""
        return (self.offset_fc,)

    def offset_layers(self) -> tuple[nn.Conv2d | nn.Linear, ...]:
        """Return its last fully connected layer."""
        last = self.offset_fc if isinstance(self.offset_fc, nn.Linear) else self.offset_fc[-1]
        assert isinstance(last, nn.Linear)
        return (last,)

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Return the deformably pooled ``input`` [N, C, H, W] of ``rois`` [R, 5]: [R, C, pH, pW]."""
        predicted = self._in_full_precision(self.offset_fc, self._features(input, rois))
        return self._pool(input, rois, self._as_map(predicted, 2))


class ModulatedDeformRoIPool2d(_PackedDeformRoIPool2d):
    """Modulated deformable RoI pooling (DCNv2) that predicts its own offsets and mask (Zhu et al. 2019, section 3.2).

    As :class:`DeformRoIPool2d`, but the branch has two hidden fully connected layers with ReLU, drawn from a normal
    distribution of standard deviation 0.01, and predicts 3·K channels for K parts: 2·K offsets, x first, then K mask
    logits, which go through a sigmoid. With its last layer at zero every mask value is 0.5, so a new layer is half of
    plain RoI pooling. The branch trains at the full learning rate: the authors' code sets no factor for it.

    Parameters are ``offset_mask_fc.0``, ``.2`` and ``.4``. With ``branch="mmcv"`` there are two branches as in mmcv's
    ``ModulatedDeformRoIPoolPack``, under its names: ``offset_fc.0``, ``.2``, ``.4`` for the offsets and ``mask_fc.0``,
    ``.2`` for the mask logits.

    Args, shapes and errors are those of :class:`DeformRoIPool2d`.
    """

    _paper_lr_mult = 1.0

    def _add_branches(self, factory: dict[str, Any]) -> None:
        if self.branch == "paper":
            self.offset_mask_fc = nn.Sequential(*self._hidden(2, 3 * self._bins, factory))
            for layer in self.offset_mask_fc:
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=0.01)
                    nn.init.zeros_(layer.bias)
        else:
            self.offset_fc = nn.Sequential(*self._hidden(2, 2 * self._bins, factory))
            self.mask_fc = nn.Sequential(*self._hidden(1, self._bins, factory), nn.Sigmoid())

    def offset_branches(self) -> tuple[nn.Module, ...]:
        """Return the modules that predict offsets and mask."""
        return (self.offset_mask_fc,) if self.branch == "paper" else (self.offset_fc, self.mask_fc)

    def offset_layers(self) -> tuple[nn.Conv2d | nn.Linear, ...]:
        """Return the last fully connected layer of each."""
        last = [self.offset_mask_fc[-1]] if self.branch == "paper" else [self.offset_fc[-1], self.mask_fc[-2]]
        return tuple(layer for layer in last if isinstance(layer, nn.Linear))

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Return the modulated deformably pooled ``input`` [N, C, H, W] of ``rois`` [R, 5]: [R, C, pH, pW]."""
        features = self._features(input, rois)
        if self.branch == "paper":
            predicted = self._in_full_precision(self.offset_mask_fc, features)
            offset, logits = torch.split(predicted, [2 * self._bins, self._bins], dim=1)
            mask = torch.sigmoid(logits)
        else:
            offset = self._in_full_precision(self.offset_fc, features)
            mask = self._in_full_precision(self.mask_fc, features)
        return self._pool(input, rois, self._as_map(offset, 2), self._as_map(mask, 1))
