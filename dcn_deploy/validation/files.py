"""Validation of a model file from beginning to end: runners, oracle, feeds, report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dcn_deploy.errors import InvalidArgumentError, UnsupportedError, describe
from dcn_deploy.validation.comparison import Array
from dcn_deploy.validation.golden import golden_path, read_golden, save_golden
from dcn_deploy.validation.inputs import Feed, Feeds
from dcn_deploy.validation.layers import Divergence, first_divergence
from dcn_deploy.validation.oracle import Oracle, Resolve, find_oracle, network_oracle
from dcn_deploy.validation.report import Report
from dcn_deploy.validation.run import Progress, validate
from dcn_deploy.validation.subject import find_subject

if TYPE_CHECKING:
    from dcn_deploy.runtime.runner import Runner, TensorSpec

#: Makes feeds for a model's inputs.
MakeFeeds = Callable[["Sequence[TensorSpec]"], Feeds]


def validate_file(
    model: Path,
    backends: Sequence[str],
    *,
    resolve: Resolve,
    make_feeds: MakeFeeds | None = None,
    reference: str | None = None,
    reference_backend: str = "reference",
    weights: Path | None = None,
    tolerance: float | None = None,
    differing: float = 0.0,
    threads: int | None = None,
    device: int = 0,
    layers: bool = False,
    golden_target: Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Validate an ONNX file or an engine in one or several backends.

    Args:
        model: the file.
        backends: names of the backends to judge; none for ``onnxruntime``, or the one that an engine is for. ``torch``
            judges the network the file was exported from.
        resolve: builds networks, e.g. :func:`dcn_deploy.models.resolve`.
        make_feeds: inputs; None takes those of a golden reference, and one generated sample otherwise.
        reference: see :func:`dcn_deploy.validation.oracle.find_oracle`.
        reference_backend: runs ONNX references.
        weights: weights of a reference network.
        tolerance: largest relative RMS error, instead of the table's.
        differing: largest fraction of differing elements of integer and boolean outputs.
        threads: threads inside one operator, for every runner.
        device: number of the GPU, for every runner on one.
        layers: find also the node at which each backend parts from the reference, on its worst feed.
        golden_target: write the reference's inputs and outputs there.
        progress: told what is being done.

    Raises:
        DcnDeployError: for a file, network, backend or input that cannot be used.
    """
    from dcn_deploy import runtime

    subject = find_subject(model, backends)
    if threads is not None and threads < 1:
        raise InvalidArgumentError(describe("threads", expected="at least 1", actual=threads))
    if golden_target is not None:
        golden_target = golden_path(golden_target)  # before the work, not after it
    if layers and subject.is_engine:
        raise UnsupportedError(
            f"--layers: expected an ONNX file, got the engine '{model.name}', which gives its outputs alone since its "
            "layers are fused. Look at the ONNX file that it was built from: validate FILE.onnx --layers."
        )
    options = runtime.RunnerOptions(threads=threads, device=device)
    report_node = _NodeProgress(progress)
    slow = replace(options, progress=report_node)
    with ExitStack() as stack:
        candidates: list[Runner] = []
        specs, outputs, source = subject.inputs, subject.outputs, subject.recorded.get("source")
        for backend in backends or [subject.backend]:
            if backend == "torch":
                if source is None:
                    raise InvalidArgumentError(
                        describe(
                            "backend 'torch'",
                            expected="a file that names the network it was exported from",
                            actual=f"'{model.name}', which names none"
                            if subject.onnx is not None
                            else f"'{model.name}', an engine without its ONNX file",
                            remedy="Name the network with --reference instead, and another --backend.",
                        )
                    )
                network = network_oracle(
                    subject,
                    source,
                    resolve,
                    weights=weights,
                    options=options,
                )
                assert network.runner is not None
                candidates.append(stack.enter_context(network.runner))
            else:
                runner_options = slow if backend == "reference" else options
                candidates.append(stack.enter_context(runtime.create(backend, model, options=runner_options)))
        oracle = find_oracle(
            subject,
            reference,
            resolve=resolve,
            weights=weights,
            backend=reference_backend,
            options=slow if reference_backend == "reference" else options,
        )
        if oracle.runner is not None:
            stack.enter_context(oracle.runner)
        feeds = _feeds(oracle, make_feeds, specs, outputs)
        recorded: list[tuple[Mapping[str, Array], Mapping[str, Array]]] = []
        if golden_target is not None and oracle.runner is None:
            raise InvalidArgumentError(
                describe(
                    "--save-golden", expected="a reference that computes", actual=f"the golden file {oracle.golden}"
                )
            )
        report = validate(
            candidates,
            oracle.runner,
            feeds,
            # Without its own file, the reference's layers are the best guess at the engine's.
            model=subject.onnx if subject.onnx is not None else oracle.model,
            tolerance=tolerance,
            differing=differing,
            oracle=oracle.description,
            progress=report_node.around,
            record=lambda _, fed, answer: recorded.append((fed, answer)) if golden_target is not None else None,
        )
        notes = [*oracle.notes, *(f"{each.backend}: {note}" for each in candidates for note in each.notes)]
        own = oracle.runner is not None and oracle.runner.backend == "torch" and oracle.spec == source
        if own and any(candidate.backend == "torch" for candidate in candidates):
            notes.append("the backend 'torch' runs the very network that is the reference: its row proves nothing.")
        if golden_target is not None:
            origin = {"oracle": oracle.description, "model": model.name}
            sha256 = subject.recorded.get("weights_sha256")
            save_golden(golden_target, recorded[: len(feeds)], origin | ({"weights_sha256": sha256} if sha256 else {}))
        divergences: list[Divergence] = []
        if layers:
            for candidate, result in zip(candidates, report.candidates, strict=True):
                worst = max(result.outputs, key=lambda output: (not output.passed, output.worst.severity))
                feed = next(feed for feed in feeds if feed.name == worst.worst_feed)
                found, note = _layers(model, candidate, oracle, feed, tolerance, report_node.around)
                divergences.append(found)
                notes += [note] if note and note not in notes else []
        return replace(report, model=model.name, layers=tuple(divergences), notes=tuple(notes))


def _feeds(oracle: Oracle, make_feeds: MakeFeeds | None, specs: Sequence[TensorSpec], outputs: Sequence[str]) -> Feeds:
    from dcn_deploy.validation.inputs import generated

    if oracle.golden is not None:
        return read_golden(oracle.golden, specs, outputs, None if make_feeds is None else make_feeds(specs))
    return generated(specs) if make_feeds is None else make_feeds(specs)


def _layers(
    model: Path,
    candidate: Runner,
    oracle: Oracle,
    feed: Feed,
    tolerance: float | None,
    progress: Progress | None,
) -> tuple[Divergence, str]:
    """Compare layers with the oracle where it is an ONNX file, else with the file itself in float64."""
    from dcn_deploy import runtime

    note = ""
    runner, reference_model = oracle.runner, oracle.model
    if runner is None or reference_model is None:
        runner, reference_model = runtime.create("reference", model), model
        note = (
            f"{oracle.description} gives no intermediate tensors by the names of the file, so layers are compared "
            "with the same file in float64: that finds a fault of the runtime. If outputs fail while all layers "
            "agree, the file itself differs from the reference: look at export and weights."
        )
    divergence = first_divergence(
        model,
        candidate,
        runner,
        [feed],
        reference_model=reference_model if reference_model != model else None,
        tolerance=tolerance,
        names=(candidate.backend, f"{reference_model.name} in '{runner.backend}'"),
        progress=progress,
    )
    return divergence, note


class _NodeProgress:
    """Adds what a slow reference is at to the text of the progress around it."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._last: tuple[int, int | None, str] = (0, None, "")

    def around(self, done: int, total: int | None, text: str) -> None:
        """Take the progress of the whole."""
        self._last = (done, total, text)
        if self._progress is not None:
            self._progress(done, total, text)

    def __call__(self, done: int, total: int, node: str) -> None:
        """Take the progress within one run."""
        if self._progress is not None and node:
            self._progress(self._last[0], self._last[1], f"{self._last[2]} (reference {done}/{total}: {node})")
