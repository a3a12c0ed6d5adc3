"""The backend ``torch``."""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
import torch

from dcn_deploy import runtime
from dcn_deploy.errors import BackendError, InvalidArgumentError, UnsupportedError
from dcn_deploy.runtime import RunnerOptions


class TwoInputs(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = torch.nn.Dropout(0.9)
        self.frozen = torch.nn.BatchNorm2d(2).eval()

    def forward(self, left: torch.Tensor, right: torch.Tensor, scale: torch.Tensor | None = None) -> Any:
        total = self.dropout(left) - right
        return total if scale is None else total * scale


ONE, TWO = np.ones((1, 2), np.float32), np.full((1, 2), 2, np.float32)


def test_inputs_are_the_parameters_of_forward() -> None:
    with runtime.create("torch", TwoInputs()) as runner:
        assert [spec.name for spec in runner.inputs] == ["left", "right"]
        assert runner.infer({"right": TWO, "left": ONE})["output_0"].tolist() == [[-1, -1]]
        assert runner.infer({"right": TWO, "left": ONE, "scale": TWO})["output_0"].tolist() == [[-2, -2]]


def test_given_names_are_positional() -> None:
    runner = runtime.create("torch", TwoInputs(), input_names=("a", "b"), output_names=("difference",))
    with runner, runner.replicate(threads=1) as copy:
        for each in (runner, copy):
            assert [spec.name for spec in each.inputs] == ["a", "b"]
            assert each.infer({"b": TWO, "a": ONE})["difference"].tolist() == [[-1, -1]]


def test_eval_while_active_and_the_modes_back_afterwards() -> None:
    module = TwoInputs().train()
    module.frozen.eval()
    with runtime.create("torch", module) as runner:
        assert not module.training
        assert not module.dropout.training
        # Dropout that worked would zero most of it.
        assert (
            runner.infer({"left": np.ones((1, 99), np.float32), "right": np.zeros((1, 99), np.float32)})[
                "output_0"
            ].sum()
            == 99
        )
    assert module.training
    assert module.dropout.training
    assert not module.frozen.training


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


class Nested(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return {"a": x, "b": [x + 1, (x + 2, None)], "c": Pair(x + 3, x + 4), "d": 7}


def test_nested_outputs_are_flattened_in_their_order() -> None:
    with runtime.create("torch", Nested()) as runner:
        assert runner.outputs == ()
        result = runner.infer({"x": np.zeros(1, np.float32)})
        assert [(name, array.item()) for name, array in result.items()] == [
            ("output_0", 0),
            ("output_1", 1),
            ("output_2", 2),
            ("output_3", 3),
            ("output_4", 4),
            ("output_5", 7),
        ]
        assert [spec.name for spec in runner.outputs] == list(result)
        assert runner.outputs[0].dtype == np.float32
        assert list(runner.infer({"x": np.zeros(1, np.float32)}, ["output_3", "output_1"])) == ["output_3", "output_1"]


def test_wrong_number_of_output_names() -> None:
    with (
        runtime.create("torch", Nested(), output_names=("y",)) as runner,
        pytest.raises(InvalidArgumentError, match="expected one name for each of the 6 tensors it returns, got 1: y"),
    ):
        runner.infer({"x": np.zeros(1, np.float32)})


def test_what_is_no_tensor_is_refused() -> None:
    class Text(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> str:
            return "cat"

    with (
        runtime.create("torch", Text()) as runner,
        pytest.raises(UnsupportedError, match="expected tensors in tuples, lists and dicts, got str"),
    ):
        runner.infer({"x": ONE})


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int64, np.bool_])
def test_element_types_go_in_and_out(dtype: Any) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    with runtime.create("torch", torch.nn.Identity()) as runner:
        for feed in (array, array.T, array[:0]):
            result = runner.infer({"input": feed})["output_0"]
            assert result.dtype == np.dtype(dtype)
            np.testing.assert_array_equal(result, feed)


def test_channels_last_stays_channels_last() -> None:
    class Layout(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor(x.is_contiguous(memory_format=torch.channels_last))

    image = np.ascontiguousarray(np.zeros((2, 5, 6, 3), np.float32)).transpose(0, 3, 1, 2)
    with runtime.create("torch", Layout()) as runner:
        assert runner.infer({"x": image})["output_0"]
        assert not runner.infer({"x": np.ascontiguousarray(image)})["output_0"]


def test_threads_hold_during_the_run_only() -> None:
    class Threads(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor(torch.get_num_threads())

    before = torch.get_num_threads()
    with runtime.create("torch", Threads(), options=RunnerOptions(threads=before + 2)) as runner:
        assert runner.infer({"x": ONE})["output_0"] == before + 2
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


def test_threads_are_restored_after_an_error() -> None:
    class Failing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no luck")

    before = torch.get_num_threads()
    with (
        runtime.create("torch", Failing(), options=RunnerOptions(threads=before + 2)) as runner,
        pytest.raises(BackendError, match=r"Failing failed in PyTorch on x \(1, 2\) float32: RuntimeError: no luck"),
    ):
        runner.infer({"x": ONE})
    assert torch.get_num_threads() == before


def test_no_autograd_and_no_alias_of_parameters() -> None:
    class Weight(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(2))

        def forward(self, x: torch.Tensor) -> Any:
            return self.weight, torch.tensor((x + self.weight).requires_grad)

    module = Weight()
    with runtime.create("torch", module) as runner:
        result = runner.infer({"x": np.zeros(2, np.float32)})
    with torch.no_grad():
        module.weight += 1
    assert result["output_0"].tolist() == [0, 0]
    assert not result["output_1"]


def test_anonymous_parameters_need_names() -> None:
    class Star(torch.nn.Module):
        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            return tensors[0] - tensors[1]

    with pytest.raises(InvalidArgumentError, match=r"forward of .*Star takes \*tensors.*Give input_names"):
        runtime.create("torch", Star()).activate()
    with runtime.create("torch", Star(), input_names=("a", "b")) as runner:
        assert runner.infer({"b": ONE, "a": TWO})["output_0"].tolist() == [[1, 1]]


def test_a_wrong_model_leaves_nothing_behind() -> None:
    runner = runtime.create("torch", TwoInputs())
    runner.model = "text"  # type: ignore[attr-defined]
    with pytest.raises(InvalidArgumentError, match=r"expected a torch\.nn\.Module, got str"):
        runner.activate()


def test_node_times_are_empty() -> None:
    with runtime.create("torch", TwoInputs(), options=RunnerOptions(profile=True)) as runner:
        runner.infer({"left": ONE, "right": TWO})
        assert runner.node_times() == ()
