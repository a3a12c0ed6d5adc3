"""Run models on the same feeds as a reference and judge every output."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dcn_deploy.errors import InvalidArgumentError, describe
from dcn_deploy.validation.bounds import Bounds, largest_map_of, row_of
from dcn_deploy.validation.comparison import Array, Comparison, compare, element_kind
from dcn_deploy.validation.inputs import Feed, conform
from dcn_deploy.validation.report import CandidateResult, OutputResult, Report
from dcn_deploy.validation.tolerances import ANY, DENSE, Limit, lookup

if TYPE_CHECKING:
    import onnx

    from dcn_deploy.runtime.runner import Runner, TensorSpec

#: Called as ``progress(done, total, text)``; total is None while unknown.
Progress = Callable[[int, "int | None", str], None]

#: Called as ``record(feed, inputs, outputs)``.
Record = Callable[[Feed, Mapping[str, Array], Mapping[str, Array]], None]

#: Backends that compute in float64, so that their own rounding need not be allowed for.
EXACT_BACKENDS = frozenset({"reference"})


def validate(
    candidates: Sequence[Runner],
    reference: Runner | Mapping[str, Array] | None,
    feeds: Iterable[Feed],
    *,
    model: str | Path | onnx.ModelProto | None = None,
    tolerance: float | None = None,
    differing: float = 0.0,
    names: Sequence[str] | None = None,
    oracle: str | None = None,
    reference_is_exact: bool | None = None,
    progress: Progress | None = None,
    record: Record | None = None,
) -> Report:
    """Compare every output of every candidate with the reference, on every feed.

    Each feed is rounded to the element types of the candidate's inputs; the reference gets those rounded
    numbers, in its own types. Outputs are matched by name; where no name is common but the numbers of outputs
    are the same, by position.

    Args:
        candidates: what is to be judged. Runners are activated as needed and left active.
        reference: a runner; or golden outputs by name, for a single feed; or None if every feed carries its
            golden outputs itself.
        feeds: what to run on, at least one.
        model: the ONNX file that the candidates run: the limits follow from its layers. None takes the
            limit of a single dense layer.
        tolerance: largest relative RMS error, instead of the table's.
        differing: largest fraction of the elements of an integer or boolean output that may differ.
        names: what the report calls the candidates; None for their backends.
        oracle: what the report calls the reference; None for its backend.
        reference_is_exact: whether the reference's own rounding is negligible; None decides by the backend, and
            for golden outputs by their element type (float64 is taken as exact).
        progress: told before each run.
        record: given what the reference got and answered, once for each feed and rounding of it.

    Raises:
        InvalidArgumentError: without candidates or feeds, if inputs or outputs cannot be matched, or if golden
            outputs for one feed meet several.
        BackendError: if a runtime fails.
    """
    if not candidates:
        raise InvalidArgumentError("validate: expected at least one candidate, got none. Name a backend.")
    labels = list(names) if names is not None else [candidate.backend for candidate in candidates]
    if len(labels) != len(candidates):
        raise InvalidArgumentError(
            describe("names of the candidates", expected=f"{len(candidates)}", actual=f"{len(labels)}")
        )
    limits = _Limits(_load(model), tolerance, differing)
    golden = None if reference is None or not isinstance(reference, Mapping) else reference
    runner = None if reference is None or isinstance(reference, Mapping) else reference
    judged = [_Judged(label, candidate.backend) for label, candidate in zip(labels, candidates, strict=True)]
    total = len(feeds) * len(candidates) if isinstance(feeds, Sized) else None
    count = 0
    for count, feed in enumerate(feeds, 1):
        if golden is not None and count > 1:
            raise InvalidArgumentError(
                "validate: expected a single feed for golden outputs given as one mapping, got several. "
                "Give each feed its own in Feed.expected."
            )
        limits.note_shapes(feed)
        answers = _Answers(runner, golden if golden is not None else feed.expected, feed, record)
        for place, (candidate, result) in enumerate(zip(candidates, judged, strict=True)):
            if progress is not None:
                progress((count - 1) * len(candidates) + place, total, f"{result.name}: {feed.name}")
            candidate.activate()
            arrays = conform(feed.arrays, candidate.inputs, feed.name)
            actual = candidate.infer(arrays)
            expected = answers.to(arrays)
            result.judge(feed, actual, expected, limits, candidate, runner, reference_is_exact)
    if count == 0:
        raise InvalidArgumentError("validate: expected at least one feed, got none.")
    if progress is not None:
        progress(count * len(candidates), total, "done")
    return Report(
        model=_model_name(model),
        oracle=oracle or (f"the backend '{runner.backend}'" if runner is not None else "golden outputs"),
        feeds=getattr(feeds, "description", f"{count} feed{'s' * (count > 1)}"),
        feed_count=count,
        candidates=tuple(result.finish() for result in judged),
    )


def _load(model: str | Path | onnx.ModelProto | None) -> onnx.ModelProto | None:
    if model is None:
        return None
    from dcn_deploy.runtime import onnx_model

    return onnx_model.load(model, "validation", external_data=False)


def _model_name(model: str | Path | onnx.ModelProto | None) -> str:
    if isinstance(model, str | Path):
        return Path(model).name
    return "model" if model is None else (model.graph.name or "model")


@dataclass(frozen=True)
class _Precision:
    """In what a runtime computed; ``dtype`` is None for one that kept to the element types of the file."""

    backend: str
    dtype: str | None = None
    tf32: bool = False

    def row(self, stored: str) -> str:
        """Return the table's name of a tensor's element type."""
        return row_of(self.dtype or stored, self.tf32)


def _precision(runner: Runner | None, expected: Array, is_exact: bool | None) -> _Precision | None:
    """Return how a reference rounded ``expected``; None if that is negligible."""
    if is_exact is None:
        is_exact = expected.dtype.name == "float64" if runner is None else runner.backend in EXACT_BACKENDS
    if is_exact:
        return None
    if runner is None:
        return _Precision(ANY, expected.dtype.name)
    return _Precision(runner.backend, "float32" if runner.backend == "torch" else None, runner.tf32)


class _Answers:
    """The reference's outputs for one feed, computed once for each rounding of it."""

    def __init__(
        self, runner: Runner | None, golden: Mapping[str, Array] | None, feed: Feed, record: Record | None
    ) -> None:
        if runner is None and golden is None:
            raise InvalidArgumentError(
                f"validate: expected a reference, or golden outputs in the feed '{feed.name}', got neither."
            )
        self._runner = runner
        self._golden = golden
        self._feed = feed
        self._record = record
        self._computed: dict[tuple[tuple[str, str], ...], Mapping[str, Array]] = {}

    def to(self, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return what the reference answers to ``arrays``, this feed as rounded for a candidate."""
        if self._golden is not None:
            return self._golden
        assert self._runner is not None
        key = tuple(sorted((name, array.dtype.name) for name, array in arrays.items()))
        if key not in self._computed:
            self._runner.activate()
            fed = for_reference(arrays, self._runner.inputs, self._feed.name)
            self._computed[key] = self._runner.infer(fed)
            if self._record is not None:
                self._record(self._feed, arrays, self._computed[key])
        return self._computed[key]


def for_reference(arrays: Mapping[str, Array], specs: Sequence[TensorSpec], name: str) -> dict[str, Array]:
    """Return a candidate's inputs, already rounded to its types, as the inputs of a reference.

    Inputs of other names are taken in their order, if there are as many. A reference of open element types, a
    PyTorch network, computes in float32: half-precision inputs are widened.
    """
    if {spec.name for spec in specs} != set(arrays) and len(specs) == len(arrays):
        arrays = {spec.name: array for spec, array in zip(specs, arrays.values(), strict=True)}
    fed = conform(arrays, specs, f"{name} for the reference")
    for spec in specs:
        if spec.dtype is None and fed[spec.name].dtype.name in ("float16", "bfloat16"):
            fed[spec.name] = fed[spec.name].astype(np.float32)
    return fed


class _Limits:
    """The limit of each output, from the model's layers or from the user."""

    def __init__(self, model: onnx.ModelProto | None, tolerance: float | None, differing: float) -> None:
        if tolerance is not None and not tolerance >= 0:
            raise InvalidArgumentError(describe("tolerance", expected="a number ≥ 0", actual=tolerance))
        if not 0 <= differing <= 1:
            raise InvalidArgumentError(describe("differing", expected="a fraction from 0 to 1", actual=differing))
        self._model = model
        self._tolerance = tolerance
        self._differing = differing
        self._largest: tuple[int, int] | None = None
        self._bounds: Bounds | None = None

    def note_shapes(self, feed: Feed) -> None:
        """Take the extents of a feed into account where the model leaves those of its maps open."""
        largest = largest_map_of(np.shape(array) for array in feed.arrays.values())
        if largest is not None and self._largest is not None:
            largest = (max(largest[0], self._largest[0]), max(largest[1], self._largest[1]))
        if largest is not None and largest != self._largest:
            self._largest, self._bounds = largest, None

    def of(self, output: str, array: Array, candidate: _Precision, reference: _Precision | None) -> Limit:
        """Return the limit of an output of ``candidate``; ``reference`` is None for an exact one."""
        absolute = _smallest_normal(array)
        if self._tolerance is not None:
            return Limit(self._tolerance, "given", absolute, self._differing)
        if element_kind(array.dtype) != "float":
            return Limit(0.0, "exact", 0.0, self._differing)
        if self._model is None:
            own = lookup(DENSE, candidate.row(array.dtype.name), candidate.backend).relative_rms
            other = 0.0
            if reference is not None:
                other = lookup(DENSE, reference.row(array.dtype.name), reference.backend).relative_rms
            origin = "one dense layer (no model given)"
        else:
            if self._bounds is None:
                self._bounds = Bounds(self._model, self._largest)
            own = self._bounds.limit(output, candidate.backend, tf32=candidate.tf32)
            other = 0.0
            if reference is not None:
                other = self._bounds.limit(output, reference.backend, dtype=reference.dtype, tf32=reference.tf32)
            count = len(self._bounds.layers_before(output))
            origin = f"{count} layer{'s' * (count != 1)}"
        origin += "" if reference is None else ", plus the reference's own rounding"
        return Limit(math.hypot(own, other), origin, absolute, self._differing)


def _smallest_normal(array: Array) -> float:
    """Return the smallest normal number of a tensor's type; 0 for types that hold no floating-point numbers."""
    if array.dtype.kind == "f":
        return float(np.finfo(array.dtype).smallest_normal)
    # bfloat16 has float32's exponents.
    return float(np.finfo(np.float32).smallest_normal) if array.dtype.name == "bfloat16" else 0.0


@dataclass
class _Judged:
    """What is known so far about one candidate."""

    name: str
    backend: str
    worst: dict[str, tuple[tuple[object, ...], Comparison, str, str, Limit]] = field(default_factory=dict)
    feeds: dict[str, int] = field(default_factory=dict)
    failed: dict[str, list[str]] = field(default_factory=dict)
    not_compared: list[str] = field(default_factory=list)

    def judge(
        self,
        feed: Feed,
        actual: Mapping[str, Array],
        expected: Mapping[str, Array],
        limits: _Limits,
        candidate: Runner,
        reference: Runner | None,
        reference_is_exact: bool | None,
    ) -> None:
        """Compare the outputs of one feed."""
        for output, counterpart in self._match(actual, expected).items():
            comparison = compare(actual[output], expected[counterpart])
            precision = _precision(reference, expected[counterpart], reference_is_exact)
            limit = limits.of(output, actual[output], _Precision(self.backend, tf32=candidate.tf32), precision)
            reason = limit.judge(comparison)
            self.feeds[output] = self.feeds.get(output, 0) + 1
            if reason:
                self.failed.setdefault(output, []).append(feed.name)
            # A failure is worse than any pass, whatever the figures.
            rank = (bool(reason), comparison.severity)
            if output not in self.worst or rank > self.worst[output][0]:
                self.worst[output] = (rank, comparison, feed.name, reason, limit)

    def _match(self, actual: Mapping[str, Array], expected: Mapping[str, Array]) -> dict[str, str]:
        common = [name for name in actual if name in expected]
        if common:
            for name in (*actual, *expected):
                if (name not in actual or name not in expected) and name not in self.not_compared:
                    self.not_compared.append(name)
            return {name: name for name in common}
        if len(actual) == len(expected) > 0:
            return dict(zip(actual, expected, strict=True))
        raise InvalidArgumentError(
            describe(
                f"outputs of '{self.name}'",
                expected=f"the reference's {', '.join(expected) or 'none'}",
                actual=", ".join(actual) or "none",
                remedy="Give the reference's outputs the names of the model's.",
            )
        )

    def finish(self) -> CandidateResult:
        """Return the result over all feeds."""
        outputs = tuple(
            OutputResult(
                output=output,
                limit=limit,
                worst=comparison,
                worst_feed=feed,
                feeds=self.feeds[output],
                failed_feeds=tuple(self.failed.get(output, ())),
                reason=reason,
            )
            for output, (_, comparison, feed, reason, limit) in self.worst.items()
        )
        return CandidateResult(self.name, self.backend, outputs, tuple(self.not_compared))
