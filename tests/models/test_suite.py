"""The benchmark suite says the same as its own arithmetic and can be built without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dcn_deploy.models import SUITE, ConvShape


def test_names_are_unique() -> None:
    names = [shape.name for shape in SUITE]
    assert len(names) == len(set(names)) == 14


@pytest.mark.parametrize("shape", SUITE, ids=lambda shape: shape.name)
def test_channels_divide_into_groups(shape: ConvShape) -> None:
    assert shape.c % shape.group == 0
    assert shape.m % shape.group == 0
    assert shape.c % shape.offset_group == 0
    assert shape.weight_shape[1] * shape.group == shape.c


@pytest.mark.parametrize("shape", SUITE, ids=lambda shape: shape.name)
def test_output_shape_is_that_of_torch_conv2d(shape: ConvShape) -> None:
    import torch

    # on the meta device: shapes only, nothing is computed
    dense = torch.nn.functional.conv2d(
        torch.empty(shape.input_shape, device="meta"),
        torch.empty(shape.weight_shape, device="meta"),
        stride=shape.stride,
        padding=shape.padding,
        dilation=shape.dilation,
        groups=shape.group,
    )
    assert tuple(dense.shape) == shape.output_shape
    assert shape.offset_shape[2:] == shape.output_shape[2:]
    if shape.mask:
        assert shape.mask_shape is not None
        assert shape.mask_shape[1] * 2 == shape.offset_shape[1]
    else:
        assert shape.mask_shape is None


def test_known_rows() -> None:
    by_name = {shape.name: shape for shape in SUITE}
    assert by_name["det_res5_s2"].output_shape == (1, 512, 25, 42)
    assert by_name["vsr_align"].offset_shape == (1, 288, 180, 320)
    assert by_name["depthwise"].weight_shape == (256, 1, 3, 3)
    assert by_name["v1_det_res5"].mask_shape is None
    assert by_name["cls_res4"].macs == 256 * 256 * 9 * 14 * 14


def test_table_needs_no_torch() -> None:
    code = "import sys; from dcn_deploy.models import SUITE, ZOO, names; names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
