"""Example inputs from shapes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dcn_deploy.errors import InvalidArgumentError
from dcn_deploy.export import example_inputs


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, dtype=torch.float16))

    def forward(self, image: Tensor, extra: Tensor) -> Tensor:
        return image * self.scale + extra


def test_shapes_by_argument_in_any_order() -> None:
    tensors, names = example_inputs(Two(), {"extra": (1, 2), "image": (3, 2)})
    assert names == ("image", "extra")
    assert [tuple(t.shape) for t in tensors] == [(3, 2), (1, 2)]
    assert all(t.dtype == torch.float16 for t in tensors)
    again, _ = example_inputs(Two(), {"extra": (1, 2), "image": (3, 2)})
    assert all(torch.equal(a, b) for a, b in zip(tensors, again, strict=True))


def test_other_names_are_given_in_order() -> None:
    tensors, names = example_inputs(Two(), {"input": (3, 2), "second": (1, 2)})
    assert names == ("input", "second")
    assert [tuple(t.shape) for t in tensors] == [(3, 2), (1, 2)]


def test_own_examples_are_replaced_where_a_shape_is_given() -> None:
    own = (torch.zeros(2, 2), torch.zeros(1, dtype=torch.float64))
    tensors, names = example_inputs(Two(), {"b": (4,)}, inputs=own, names=("a", "b"))
    assert names == ("a", "b")
    assert tensors[0] is own[0]
    assert tuple(tensors[1].shape) == (4,)
    assert tensors[1].dtype == torch.float64
    with pytest.raises(InvalidArgumentError, match=r"name of an input: expected one of a, b, got 'c'"):
        example_inputs(Two(), {"c": (4,)}, inputs=own, names=("a", "b"))


def test_missing_shapes_are_refused() -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"expected the shape of each input \(image, extra\), got none, .* --shape image="
    ):
        example_inputs(Two(), {})
    with pytest.raises(InvalidArgumentError, match=r"example inputs: expected a shape for 'image', got extra"):
        example_inputs(Two(), {"extra": (1, 2)})
