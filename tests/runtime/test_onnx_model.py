"""What tells whether an ONNX file has changed: its own hash, and that of the weights outside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dcn_deploy.errors import InvalidModelError, ModelSourceError
from dcn_deploy.runtime import engine_metadata, onnx_model


def _outside(array: Any, name: str, location: str) -> onnx.TensorProto:
    """A tensor whose data lies in a file."""
    tensor = numpy_helper.from_array(array, name)
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    return tensor


@pytest.fixture
def scattered(tmp_path: Path, make_model: Any) -> Path:
    """A model whose tensors lie in a.bin (initializer), b.bin (of a subgraph) and c.bin (attribute)."""
    values = np.arange(4, dtype=np.float32)
    inside = helper.make_graph(
        [
            helper.make_node("Constant", [], ["c"], value=_outside(values, "", "c.bin")),
            helper.make_node("Add", "bc", "r"),
        ],
        "then",
        [],
        [helper.make_tensor_value_info("r", TensorProto.FLOAT, [4])],
        [_outside(values, "b", "b.bin")],
    )
    model = make_model(
        [helper.make_node("If", ["x"], ["y"], then_branch=inside, else_branch=inside)],
        [("x", TensorProto.BOOL, [])],
        [("y", TensorProto.FLOAT, [4])],
    )
    model.graph.initializer.append(_outside(values, "a", "a.bin"))
    for name in ("a.bin", "b.bin", "c.bin"):
        (tmp_path / name).write_bytes(values.tobytes())
    path = tmp_path / "scattered.onnx"
    onnx.save(model, path)
    return path


def test_without_external_data_it_is_the_hash_of_the_file(tmp_path: Path, make_model: Any) -> None:
    path = tmp_path / "m.onnx"
    node = helper.make_node("Neg", ["x"], ["y"])
    onnx.save(make_model([node], [("x", TensorProto.FLOAT, [4])], [("y", TensorProto.FLOAT, [4])]), path)
    assert onnx_model.source_hash(path, "a test") == engine_metadata.file_hash(path)[0]


@pytest.mark.parametrize("name", ["a.bin", "b.bin", "c.bin"])
def test_external_data_counts_wherever_its_tensor_is(scattered: Path, name: str) -> None:
    before = onnx_model.source_hash(scattered, "a test")
    assert before == onnx_model.source_hash(scattered, "a test") != engine_metadata.file_hash(scattered)[0]
    weights = scattered.with_name(name)
    weights.write_bytes(bytes(16))
    assert onnx_model.source_hash(scattered, "a test") != before
    weights.unlink()
    with pytest.raises(InvalidModelError, match=rf"that cannot be read: .*{name}'\. Keep that file beside it\."):
        onnx_model.source_hash(scattered, "a test")


def test_files_that_change_places_are_noticed(scattered: Path) -> None:
    scattered.with_name("a.bin").write_bytes(b"one")
    before = onnx_model.source_hash(scattered, "a test")
    scattered.with_name("a.bin").rename(scattered.with_name("d.bin"))
    scattered.with_name("b.bin").rename(scattered.with_name("a.bin"))
    scattered.with_name("d.bin").rename(scattered.with_name("b.bin"))
    assert onnx_model.source_hash(scattered, "a test") != before


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match=r"ONNX file: expected the path of a file, got '.*none\.onnx'"):
        onnx_model.source_hash(tmp_path / "none.onnx", "a test")
