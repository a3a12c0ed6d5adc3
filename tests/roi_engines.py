"""This project's implementations of deformable RoI pooling, each as a function of a case and its tensors.

Tests write ``import roi_engines``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cases
import numpy as np
import peers
from cases import Array, RoiCase, RoiInputs


@dataclass(frozen=True)
class RoiEngine:
    """One implementation, and the element type it is asked to work in.

    Attributes:
        name: as reports have it.
        dtype: "float32" or "float64".
        run_all: gives the outputs of several cases, which share nothing.
        coordinate_dtype: type of its positions.
    """

    name: str
    dtype: str
    run_all: Callable[[Sequence[RoiCase], Sequence[RoiInputs]], list[Array]]
    coordinate_dtype: str = "float64"

    def run(self, case: RoiCase, inputs: RoiInputs) -> Array:
        return self.run_all([case], [inputs])[0]

    def draw(self, case: RoiCase, seed: int) -> RoiInputs:
        return cases.make_roi_inputs(case, np.random.default_rng(seed), np.dtype(self.dtype))

    def bound(self, case: RoiCase, inputs: RoiInputs) -> Array:
        return peers.roi_error_bound(case, inputs, self.dtype, coordinate_dtype=self.coordinate_dtype)


def reference() -> RoiEngine:
    """The float64 reference."""
    from dcn_deploy.ops import reference as functions

    def run(case: RoiCase, inputs: RoiInputs) -> Array:
        return functions.deform_roi_pool(*peers.as_float64(inputs).in_order(), **case.reference_arguments)

    return RoiEngine("float64 reference", "float64", lambda several, inputs: [*map(run, several, inputs)])


def torch_operator(dtype: str = "float32") -> RoiEngine:
    """The torch operator on the CPU."""
    import torch

    from dcn_deploy import ops

    def run(case: RoiCase, inputs: RoiInputs) -> Array:
        x, rois, offset, mask = (None if a is None else torch.from_numpy(a) for a in inputs.in_order())
        assert x is not None
        assert rois is not None
        return np.asarray(ops.deform_roi_pool(x, rois, offset, mask, **case.functional_arguments).numpy())

    name = "torch operator" if dtype == "float32" else f"torch operator, {dtype}"
    return RoiEngine(name, dtype, lambda several, inputs: [*map(run, several, inputs)])


def onnxruntime_operator(make_session: Any) -> RoiEngine:
    """The ONNX Runtime custom operator, all cases in one session."""

    def run_all(several: Sequence[RoiCase], inputs: Sequence[RoiInputs]) -> list[Array]:
        answers: list[Array] = make_session(peers.roi_model(several)).run(None, peers.feed(inputs))
        return answers

    return RoiEngine("ONNX Runtime custom op", "float32", run_all)


def decomposed_form(make_plain_session: Any) -> RoiEngine:
    """The decomposed form in ONNX Runtime without our library; ``fits_decomposition`` says what it has."""

    def run_all(several: Sequence[RoiCase], inputs: Sequence[RoiInputs]) -> list[Array]:
        from dcn_deploy.export.conversion import convert

        model = convert(peers.roi_model(several), "decomposed")
        answers: list[Array] = make_plain_session(model).run(None, peers.feed(inputs))
        return answers

    return RoiEngine("decomposed form in ONNX Runtime", "float32", run_all, coordinate_dtype="float32")


def fits_decomposition(case: RoiCase) -> bool:
    """Whether the case has a decomposed form: not with a grid that follows the RoI's size."""
    return not case.is_aligned or case.sampling_ratio > 0
