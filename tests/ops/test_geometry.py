from __future__ import annotations

import pytest
import torch

from dcn_deploy.errors import InvalidArgumentError
from dcn_deploy.ops.geometry import output_size, padding4, pair


@pytest.mark.parametrize("size", [1, 7, 19, 33])
@pytest.mark.parametrize("kernel", [1, 2, 5])
@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("pad", [0, 3])
def test_output_size_is_torchs(size, kernel, stride, dilation, pad):
    wanted = output_size(size, pad, pad, dilation, kernel, stride)
    x, weight = torch.zeros(1, 1, size, 1), torch.zeros(1, 1, kernel, 1)
    arguments = (None, (stride, 1), (pad, 0), (dilation, 1))
    if wanted < 1:
        with pytest.raises(RuntimeError):
            torch.nn.functional.conv2d(x, weight, *arguments)
    else:
        assert torch.nn.functional.conv2d(x, weight, *arguments).shape[2] == wanted


def test_pair():
    assert pair("stride", 2, 1) == (2, 2)
    assert pair("stride", [3, 1], 1) == (3, 1)
    for bad in (0, (1,), (1, 0), "12", 1.5, True, None):
        with pytest.raises(InvalidArgumentError, match=r"stride: expected an int or \(height, width\)"):
            pair("stride", bad, 1)


def test_padding4():
    assert padding4("padding", 1) == (1, 1, 1, 1)
    assert padding4("padding", (1, 2)) == (1, 2, 1, 2)
    assert padding4("padding", [1, 2, 3, 4]) == (1, 2, 3, 4)
    for bad in (-1, (1, 2, 3), (1, -2), "same", 1.5):
        with pytest.raises(InvalidArgumentError, match="padding: expected an int"):
            padding4("padding", bad)
