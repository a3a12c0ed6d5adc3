"""Peak memory, measured in a process of its own, against sizes that are known."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from dcn_deploy import runtime
from dcn_deploy.errors import BackendError
from dcn_deploy.profiling import peak_memory

MEBI = 2**20


@pytest.fixture
def network_of(tmp_path: Any) -> Any:
    """``network_of(mebibytes)``: path of a file with weights of that size, y = x + w summed."""

    def make(mebibytes: int) -> Any:
        weight = np.ones(mebibytes * MEBI // 4, np.float32)
        graph = helper.make_graph(
            [helper.make_node("Mul", ["x", "w"], ["p"]), helper.make_node("ReduceSum", ["p"], ["y"], keepdims=0)],
            "large",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
            [numpy_helper.from_array(weight, "w")],
        )
        path = tmp_path / f"{mebibytes}.onnx"
        onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
        return path

    return make


def test_growth_follows_the_size_of_the_weights(network_of: Any) -> None:
    feed = {"x": np.ones(1, np.float32)}
    peaks = {
        size: peak_memory(runtime.create("onnxruntime", network_of(size)), feed, packages=("onnxruntime", "onnx"))
        for size in (1, 64)
    }
    # Weights and their product with x are 63 MiB larger each; reading the file takes further copies, which ONNX
    # Runtime may or may not have freed.
    growth = (peaks[64].bytes - peaks[1].bytes) / MEBI
    assert 2 * 63 - 8 < growth < 6 * 63
    assert peaks[1].bytes < peaks[1].total_bytes
    assert peaks[1].bytes < 40 * MEBI


def test_a_network_of_pytorch_is_sent_along() -> None:
    network = torch.nn.Linear(4096, 4096)
    recipe = runtime.create("torch", network)
    peak = peak_memory(recipe, {"input": np.zeros((1, 4096), np.float32)}, packages=("torch",))
    # 64 MiB of weights.
    assert 60 * MEBI < peak.bytes < 400 * MEBI


def test_a_recipe_may_be_a_function(network_of: Any) -> None:
    recipe = functools.partial(runtime.create, "onnxruntime", network_of(1))
    assert peak_memory(recipe, {"x": np.ones(1, np.float32)}, packages=("onnxruntime", "onnx")).bytes > 0


def test_what_cannot_be_sent_says_so() -> None:
    class Local(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    with pytest.raises(BackendError, match=r"this model cannot be sent to it.*Local.*Give it as a file"):
        peak_memory(runtime.create("torch", Local()), {"x": np.zeros(1, np.float32)}, packages=())


def test_a_failure_in_the_other_process_is_told(tmp_path: Any) -> None:
    runner = runtime.create("onnxruntime", tmp_path / "none.onnx")
    with pytest.raises(BackendError, match=r"ended with status 1: .*expected the path of a file, got '.*none\.onnx'"):
        peak_memory(runner, {}, packages=("onnxruntime",))


def test_time_limit(network_of: Any) -> None:
    runner = runtime.create("onnxruntime", network_of(1))
    with pytest.raises(BackendError, match=r"took longer than 0\.001 s"):
        peak_memory(runner, {"x": np.ones(1, np.float32)}, packages=("onnxruntime",), seconds=0.001)
