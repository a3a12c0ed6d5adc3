"""Example inputs from shapes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dcn_deploy.boxes import Boxes
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


class Head(nn.Module):
    def forward(self, image: Tensor, rois: Tensor) -> Tensor:
        return image.sum() + rois.sum()


def assert_inside(rois: Tensor, batch: int, height: int, width: int) -> None:
    index, x1, y1, x2, y2 = rois.unbind(1)
    assert torch.equal(index, index.floor())
    assert ((index >= 0) & (index < batch)).all()
    assert ((x1 >= 0) & (x1 < x2) & (x2 <= width)).all()
    assert ((y1 >= 0) & (y1 < y2) & (y2 <= height)).all()


def test_an_input_called_rois_gets_boxes_inside_the_image() -> None:
    tensors, names = example_inputs(Head(), {"rois": (200, 5), "image": (3, 3, 60, 90)})
    assert names == ("image", "rois")
    assert_inside(tensors[1], 3, 60, 90)
    assert set(tensors[1][:, 0].tolist()) == {0, 1, 2}
    assert tensors[1][:, 3].max() > 60  # the axes are not mixed up
    again, _ = example_inputs(Head(), {"rois": (200, 5), "image": (3, 3, 60, 90)})
    assert torch.equal(tensors[1], again[1])


def test_boxes_follow_the_image_whichever_shape_is_given() -> None:
    own = (torch.zeros(1, 3, 400, 400), torch.tensor([[0, 300.0, 300, 390, 390]]))
    inside = {"boxes": Boxes(of="picture")}

    def drawn(shapes: dict[str, tuple[int, ...]]) -> tuple[Tensor, ...]:
        return example_inputs(Head(), shapes, inputs=own, names=("picture", "boxes"), boxes=inside)[0]

    assert drawn({})[1] is own[1]
    assert drawn({"picture": (1, 3, 400, 400)})[1] is own[1]
    small = drawn({"picture": (2, 3, 64, 96)})
    assert small[1].shape == (1, 5)
    assert_inside(small[1], 2, 64, 96)
    many = drawn({"boxes": (30, 5)})
    assert many[0] is own[0]
    assert_inside(many[1], 1, 400, 400)
    assert len(many[1]) == 30


def test_boxes_without_room_for_their_columns_are_refused() -> None:
    own = (torch.zeros(1, 3, 8, 8), torch.zeros(1, 5))
    with pytest.raises(
        InvalidArgumentError, match=r"'rois': expected \[…, 5\]: \(batch index, x1, y1, x2, y2\), got \[20, 4\]"
    ):
        example_inputs(
            Head(), {"rois": (20, 4)}, inputs=own, names=("image", "rois"), boxes={"rois": Boxes(of="image")}
        )
