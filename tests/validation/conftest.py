"""Small ONNX files with a deformable layer, and runners that answer from a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from dcn_deploy.runtime.runner import Runner, RunnerOptions, TensorSpec


class FakeRunner(Runner):
    """A runner whose answer is any function of the feed."""

    backend: ClassVar[str] = "fake"

    def __init__(
        self,
        answer: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]],
        inputs: Sequence[TensorSpec],
        outputs: Sequence[str] = ("y",),
        backend: str = "fake",
        tf32: bool = False,
    ) -> None:
        self.answer = answer
        self._inputs = tuple(inputs)
        self._outputs = tuple(TensorSpec(name, None, None) for name in outputs)
        self.backend = backend  # type: ignore[misc]
        self._tf32 = tf32
        self.active = False
        self.calls: list[dict[str, np.ndarray]] = []
        self.options = RunnerOptions()

    def activate(self) -> None:
        self.active = True

    def infer(self, feed: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        assert self.active, "infer before activate"
        self.calls.append(dict(feed))
        return self.answer(feed)

    def close(self) -> None:
        self.active = False

    @property
    def tf32(self) -> bool:
        return self._tf32

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._outputs


@pytest.fixture
def fake() -> type[FakeRunner]:
    return FakeRunner


def _network(seed: int, *, channels: int = 4, size: int = 9, domain: str = "") -> Any:
    """conv → relu → deformable v2 layer with its branch → relu → mean → fully connected, as an ONNX model."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(seed)

    def weight(name: str, *shape: int, scale: float | None = None) -> onnx.TensorProto:
        spread = scale if scale is not None else float(np.prod(shape[1:])) ** -0.5
        return numpy_helper.from_array((random.standard_normal(shape) * spread).astype(np.float32), name)

    taps = 9
    kernel = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    initializers = [
        weight("stem.weight", channels, 3, 3, 3),
        weight("stem.bias", channels, scale=0.1),
        weight("dcn.conv_offset.weight", 3 * taps, channels, 3, 3, scale=0.2),
        weight("dcn.conv_offset.bias", 3 * taps, scale=0.5),
        weight("dcn.weight", 6, channels, 3, 3),
        weight("dcn.bias", 6, scale=0.1),
        weight("head.weight", 5, 6),
        weight("head.bias", 5, scale=0.1),
        numpy_helper.from_array(np.array([0], dtype=np.int64), "zero"),
        numpy_helper.from_array(np.array([2 * taps], dtype=np.int64), "offsets"),
        numpy_helper.from_array(np.array([3 * taps], dtype=np.int64), "branch_channels"),
        numpy_helper.from_array(np.array([1], dtype=np.int64), "channel_axis"),
    ]
    deformable = (
        helper.make_node(
            "DeformConv2d", ["h", "dcn.weight", "offset", "dcn.bias", "mask"], ["d"], "dcn", domain=domain, **kernel
        )
        if domain
        else helper.make_node("DeformConv", ["h", "dcn.weight", "offset", "dcn.bias", "mask"], ["d"], "dcn", **kernel)
    )
    nodes = [
        helper.make_node("Conv", ["input", "stem.weight", "stem.bias"], ["s"], "stem", **kernel),
        helper.make_node("Relu", ["s"], ["h"], "stem_relu"),
        helper.make_node(
            "Conv", ["h", "dcn.conv_offset.weight", "dcn.conv_offset.bias"], ["o"], "dcn.conv_offset", **kernel
        ),
        helper.make_node("Slice", ["o", "zero", "offsets", "channel_axis"], ["offset"], "take_offset"),
        helper.make_node("Slice", ["o", "offsets", "branch_channels", "channel_axis"], ["logits"], "take_mask"),
        helper.make_node("Sigmoid", ["logits"], ["mask"], "mask_sigmoid"),
        deformable,
        helper.make_node("Relu", ["d"], ["r"], "dcn_relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "head.weight", "head.bias"], ["logit"], "head", transB=1),
        helper.make_node("ArgMax", ["logit"], ["label"], "argmax", axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, size, size])],
        [
            helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["n", 5]),
            helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]),
        ],
        initializer=initializers,
    )
    opsets = [helper.make_opsetid("", 19)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.checker.check_model(model)
    return model


@pytest.fixture
def network() -> Callable[..., Any]:
    """Makes the small network: ``network(seed)``; ``domain="dcn_deploy"`` for the plugin form."""
    return _network


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any, str], Path]:
    """Writes a model to a file of a given name."""

    def save(model: Any, name: str = "model.onnx") -> Path:
        import onnx

        path = tmp_path / name
        onnx.save(model, path)
        return path

    return save
