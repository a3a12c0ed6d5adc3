"""The backend ``reference``: every node of an ONNX file in float64, one plain NumPy operator at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dcn_deploy._lazy import require
from dcn_deploy.errors import BackendError
from dcn_deploy.runtime import onnx_model
from dcn_deploy.runtime.base import ModelRunner
from dcn_deploy.runtime.feed import check_feed
from dcn_deploy.runtime.float64 import to_float64
from dcn_deploy.runtime.reference_operators import standard_operators
from dcn_deploy.runtime.runner import RunnerOptions, TensorSpec
from dcn_deploy.schema import DEFORM_CONV2D, DEFORM_ROI_POOL2D, OPERATORS, OperatorSchema

if TYPE_CHECKING:
    import numpy as np
    import onnx


class ReferenceRunner(ModelRunner):
    """Runs an ONNX file in the evaluator of the ``onnx`` package, with all tensors in float64.

    Where the evaluator rounds to float32 inside or fails on a boundary case, an operator of ours takes its
    place: this project's operators, the standard ``DeformConv``, the two-dimensional ``GridSample`` of the
    decomposed form, and those of :mod:`dcn_deploy.runtime.reference_operators`. It is slow, and every feed is taken in
    the model's element type or in float64; outputs that would be floating-point are float64.
    """

    backend: ClassVar[str] = "reference"

    def __init__(self, model: str | Path | onnx.ModelProto, *, options: RunnerOptions) -> None:
        super().__init__(model, options=options)
        self._evaluator: Any = None
        self._wide_inputs: frozenset[str] = frozenset()

    def _load(self) -> None:
        import numpy as np

        require("onnx", "the backend 'reference'")
        from onnx.reference import ReferenceEvaluator

        new_ops = [*_operators(), *standard_operators()]

        class Evaluator(ReferenceEvaluator):
            """Also for the functions and subgraphs of a model, for which it makes others of its class."""

            def __init__(self, proto: Any, **options: Any) -> None:
                super().__init__(proto, **{**options, "new_ops": new_ops})

        model = onnx_model.load(self.model, "the backend 'reference'")
        self._inputs = onnx_model.input_specs(model)
        wide = to_float64(model)
        self._wide_inputs = frozenset(
            spec.name for spec in onnx_model.input_specs(wide) if spec.dtype == np.dtype(np.float64)
        )
        try:
            self._evaluator = Evaluator(wide)
        except Exception as error:
            # The evaluator raises RuntimeError, NotImplementedError and others for a node it does not know.
            raise BackendError(
                f"the reference evaluator of the onnx package refused the model: {error}. It runs the operators of "
                "the ONNX standard and this project's; convert other domains first (dcn-deploy convert)."
            ) from error
        for index, node in enumerate(self._evaluator.rt_nodes_):
            node.run = self._guarded(node.run, node.onnx_node, index, len(self._evaluator.rt_nodes_))
        specs = {value.name: value for value in wide.graph.output}
        self._outputs = tuple(onnx_model.tensor_spec(value) for value in specs.values())
        if self.options.keep_intermediates:
            self._outputs += tuple(TensorSpec(name, None, None) for name in onnx_model.intermediate_names(model))

    def _free(self) -> None:
        self._evaluator = None

    def _check(self, feed: Mapping[str, np.ndarray[Any, Any]]) -> None:
        import numpy as np

        check_feed(self.backend, self._inputs, feed, also=(np.dtype(np.float64),))

    def _run(self, feed: Mapping[str, np.ndarray[Any, Any]], outputs: list[str]) -> dict[str, np.ndarray[Any, Any]]:
        import numpy as np

        wide = {name: array.astype(np.float64) if name in self._wide_inputs else array for name, array in feed.items()}
        # NaN and infinity are values like others here, as in the runtimes: no warning about them.
        with np.errstate(all="ignore"):
            results = self._evaluator.run(None, wide, intermediate=True)
        if self.options.progress is not None:
            total = len(self._evaluator.rt_nodes_)
            self.options.progress(total, total, "")
        # An intermediate of the top graph may be a sequence, which has no array.
        return {name: np.asarray(results[name]) for name in outputs if not isinstance(results[name], list)}

    def _guarded(self, run: Callable[..., Any], node: onnx.NodeProto, index: int, total: int) -> Callable[..., Any]:
        """Return ``run`` of one node with progress before it and its name in every error."""

        def guarded(*inputs: Any, **context: Any) -> Any:
            label = f"{node.name or node.output[0]} ({node.op_type})"
            if self.options.progress is not None:
                self.options.progress(index, total, label)
            try:
                return run(*inputs, **context)
            except Exception as error:
                shapes = ", ".join(
                    f"{name} {value.shape}"
                    for name, value in zip(node.input, inputs, strict=False)
                    if hasattr(value, "shape")
                )
                cause = error.__cause__ or error
                raise BackendError(
                    f"the reference evaluator failed at node '{node.name or node.output[0]}' ({node.op_type}) with "
                    f"the inputs {shapes or '(none)'}: {type(cause).__name__}: {cause}"
                ) from error

        return guarded


@dataclass(frozen=True)
class _Function:
    """The function of ``dcn_deploy.ops.reference`` that an operator is.

    Attributes:
        name: its name; it takes the operator's inputs in their order, and the attributes as keywords.
        left_out: attributes that it does not take, since they follow from the inputs' shapes.
        of_int8: name of the one in ``dcn_deploy.ops.reference_int8`` for a node with scales, which takes them too.
    """

    name: str
    left_out: frozenset[str] = frozenset()
    of_int8: str = ""


_FUNCTIONS = {
    DEFORM_CONV2D.op_type: _Function(
        "deform_conv2d", left_out=frozenset({"kernel_shape"}), of_int8="deform_conv2d_int8"
    ),
    DEFORM_ROI_POOL2D.op_type: _Function("deform_roi_pool"),
}


def _operators() -> list[type]:
    """Return the operators that take the place of the evaluator's own, as its ``new_ops``."""
    import numpy as np
    from onnx.reference.op_run import OpRun
    from onnx.reference.ops.op_grid_sample import GridSample as EvaluatorGridSample

    class GridSample(EvaluatorGridSample):
        def _run(
            self, X: Any, grid: Any, mode: Any = None, padding_mode: Any = None, align_corners: Any = None
        ) -> tuple[np.ndarray[Any, Any]]:
            if X.ndim == 4 and mode in ("bilinear", "linear") and padding_mode == "zeros":
                return (grid_sample_2d(X, grid, align_corners=bool(align_corners)),)
            evaluate: Any = super()._run
            # As the modes are called from opset 20 on, which is the version that the evaluator has.
            mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
            result: tuple[np.ndarray[Any, Any]] = evaluate(X, grid, mode, padding_mode, align_corners)
            return result

    def named(schema: OperatorSchema, op_type: str, domain: str) -> type:
        function = _FUNCTIONS[schema.op_type]
        taken = [attribute.name for attribute in schema.attributes if attribute.name not in function.left_out]
        quantisation = [attribute.name for attribute in schema.quantisation]
        # A file holds a float attribute in float32, and so do the runtimes its default.
        defaults = {
            attribute.name: float(np.float32(attribute.default))
            for attribute in schema.attributes
            if isinstance(attribute.default, float)
        }

        def run(_: Any, *inputs: Any, **attributes: Any) -> tuple[np.ndarray[Any, Any]]:
            from dcn_deploy.ops import reference, reference_int8

            given = {name: attributes[name] for name in taken if attributes.get(name) is not None}
            scales = {name: attributes[name] for name in quantisation if attributes.get(name) is not None}
            # The evaluator's np.float32 would draw every product with a Python number down to float32.
            given = {name: float(value) if isinstance(value, np.floating) else value for name, value in given.items()}
            given = {**defaults, **given}
            if scales:
                scales = {name: np.asarray(value, dtype=np.float64).tolist() for name, value in scales.items()}
                return (getattr(reference_int8, function.of_int8)(*inputs, **given, **scales),)
            return (getattr(reference, function.name)(*inputs, **given),)

        # The evaluator finds an operator by the name of its class.
        return type(op_type, (OpRun,), {"op_domain": domain, "__doc__": schema.op_type, "_run": run})

    ours = [named(schema, schema.op_type, schema.domain) for schema in OPERATORS.values()]
    standard = [named(schema, schema.standard.op_type, "") for schema in OPERATORS.values() if schema.standard]
    return [*ours, *standard, GridSample]


def grid_sample_2d(
    image: np.ndarray[Any, Any], grid: np.ndarray[Any, Any], *, align_corners: bool
) -> np.ndarray[Any, Any]:
    """ONNX ``GridSample`` in two dimensions, bilinear with zeros outside, in float64.

    A coordinate g in [−1, 1] is the pixel (g + 1)/2·(size − 1) with aligned corners, else ((g + 1)·size − 1)/2; each
    of the four pixels around it that lies outside the image counts as zero. A NaN or infinite coordinate
    samples zero.

    Args:
        image: [N, C, H, W].
        grid: [N, Ho, Wo, (x, y)].
        align_corners: whether −1 and 1 are the centres of the corner pixels, or their outer edges.

    Returns:
        [N, C, Ho, Wo].
    """
    import numpy as np

    count, channels, height, width = image.shape
    result = np.zeros((count, channels, *grid.shape[1:3]), dtype=np.float64)
    for n in range(count):
        # Infinity times a one-pixel map's size − 1 = 0 is NaN, which samples zero as well.
        with np.errstate(invalid="ignore", over="ignore"):
            x, y = (
                (grid[n, ..., axis] + 1) / 2 * (size - 1)
                if align_corners
                else ((grid[n, ..., axis] + 1) * size - 1) / 2
                for axis, size in ((0, width), (1, height))
            )
        # Written so that a NaN compares false and samples zero.
        inside = (y > -1) & (y < height) & (x > -1) & (x < width)
        y, x = np.where(inside, y, -2), np.where(inside, x, -2)
        top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
        for row in (top, top + 1):
            for column in (left, left + 1):
                valid = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                weight = np.where(valid, (1 - np.abs(y - row)) * (1 - np.abs(x - column)), 0.0)
                pixels = image[n][:, np.where(valid, row, 0), np.where(valid, column, 0)]
                result[n] += np.where(valid, weight * pixels, 0.0)
    return result
