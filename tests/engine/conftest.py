"""Networks to build engines from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import engine_networks
import onnx
import pytest


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """``saved(model)`` or ``saved(shape=..., mask=...)``: the path of an ONNX file."""

    def save(model: onnx.ModelProto | None = None, **options: Any) -> Path:
        path = tmp_path / "network.onnx"
        onnx.save(model or engine_networks.small_network(**options), path)
        return path

    return save
