"""What a validation is about: an ONNX file, or an engine and the ONNX file that it was built from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dcn_deploy.errors import ModelSourceError, describe

if TYPE_CHECKING:
    from dcn_deploy.runtime.runner import TensorSpec


@dataclass(frozen=True)
class Subject:
    """A model file.

    Attributes:
        file: what the backends run.
        backend: the one that runs it unless another is asked for.
        inputs: what it takes.
        outputs: names of what it gives.
        onnx: the file itself; for an engine the ONNX file that it was built from, None if that is not at hand.
        recorded: what the ONNX file says about its origin.
    """

    file: Path
    backend: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    onnx: Path | None
    recorded: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_engine(self) -> bool:
        """Whether it is an engine."""
        return self.onnx != self.file


def find_subject(file: Path, backends: Sequence[str]) -> Subject:
    """Return what is known about a model file.

    Args:
        file: ONNX file or engine.
        backends: those that are asked for.

    Raises:
        ModelSourceError: if there is no such file.
        InvalidArgumentError: for an engine of which nobody says which backend it is for.
        InvalidModelError: if the file cannot be read.
    """
    from dcn_deploy.export import metadata
    from dcn_deploy.runtime import engine_files, model_kind, onnx_model
    from dcn_deploy.validation.roi_inputs import with_boxes

    if not file.is_file():
        raise ModelSourceError(
            describe("model", expected="an ONNX file or an engine", actual=f"'{file}', which is no file")
        )
    if model_kind.kind_of(file) != "engine":
        proto = onnx_model.load(file, "validation", external_data=False)
        inputs = with_boxes(onnx_model.input_specs(proto), proto)
        outputs = tuple(value.name for value in proto.graph.output)
        return Subject(file, "onnxruntime", inputs, outputs, file, metadata.read(file))
    backend = engine_files.backend_of(file, backends)
    inputs, given = engine_files.interface_of(file, backend)
    source = engine_files.source_of(file)
    recorded = {} if source is None else metadata.read(source)
    return Subject(file, backend, inputs, tuple(spec.name for spec in given), source, recorded)
