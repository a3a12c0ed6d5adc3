"""The demonstration: train on real scans, export, check against PyTorch, time, report.

    python examples/digits/run.py [--output demo-output] [--seed 0] [--quick]
    python examples/digits/run.py --seeds 0 1 2 --results examples/digits/results.json

The first trains a deformable network and its plain twin, exports the deformable one in three forms, runs them in
ONNX Runtime and writes a folder with the files, result.json and report.html. The second only trains, over several
seeds, and stores the accuracies.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # this folder is the package `digits`, from wherever it is run

SCHEMA = "dcn_deploy.digits-demo/1"
#: Below this the networks have not learned to read, and equality of predictions would prove little.
LEAST_ACCURACY = 0.8


@dataclass(frozen=True)
class Settings:
    """How much of everything.

    Attributes:
        epochs: passes over the training scans.
        train_scans: number of training scans used; None for all.
        variants: warped images of each test scan.
        test_scans: number of test scans used; None for all.
        batches: batch sizes to time.
        seconds: of timing, per engine and batch size.
    """

    epochs: int = 30
    train_scans: int | None = None
    variants: int = 4
    test_scans: int | None = None
    batches: tuple[int, ...] = (1, 16)
    seconds: float = 3.0


FULL = Settings()
QUICK = Settings(epochs=4, train_scans=320, variants=1, test_scans=100, batches=(1, 4), seconds=0.3)


@dataclass
class Steps:
    """Names the step that is running, for messages, and adds up how long each took."""

    current: str = "starting"
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time the block under ``name``; if it raises, the name stays for the message."""
        self.current = name
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; return 0 if it passed, 1 if a step failed or a check said no."""
    options = _parser().parse_args(arguments)
    if (options.seeds is None) != (options.results is None):
        _parser().error("--seeds and --results go together: the one says what to train, the other where to write")
    steps = Steps()
    try:
        from dcn_deploy.errors import DcnDeployError
        from dcn_deploy.profiling import let_idle_threads_sleep
    except ImportError as error:
        print(
            f"The demonstration needs dcn_deploy and its extra 'demo' in this Python ({error}). "
            "Run it with `make demo`, which sets both up.",
            file=sys.stderr,
        )
        return 1
    let_idle_threads_sleep()  # before PyTorch is loaded: it reads the setting once
    try:
        if options.seeds is not None:
            return run_seeds(options, steps)
        return run(options, steps)
    except DcnDeployError as error:
        print(f"The demonstration failed while {steps.current}: {error}", file=sys.stderr)
        return 1
    except Exception:
        print(f"The demonstration failed while {steps.current}, unexpectedly:", file=sys.stderr)
        raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("demo-output"), metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=0, help="of weights and training images (default 0)")
    parser.add_argument("--epochs", type=int, help=f"passes over the training scans (default {FULL.epochs})")
    parser.add_argument(
        "--threads", type=int, help="for training and every engine (default: the usable cores, at most 4)"
    )
    parser.add_argument("--quick", action="store_true", help="a minute's run to see that all steps work")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help="only train, once for each seed")
    parser.add_argument("--results", type=Path, metavar="FILE", help="where --seeds writes the accuracies")
    return parser


def run(options: argparse.Namespace, steps: Steps) -> int:
    """Train, export, validate, time and report; return the exit status."""
    with steps.step("loading PyTorch"):
        import numpy as np
        from safetensors.torch import save

        from digits import deploy, report, seeds
        from digits.data import warp_ranges
        from digits.errors import DemonstrationError
        from digits.provenance import provenance
        from digits.train import NETWORKS

        threads = _set_threads(options.threads)
    settings = _settings(options)
    folder: Path = options.output.resolve()
    with steps.step("making the output folder"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DemonstrationError(
                f"--output: expected a folder that can be written, got '{folder}' ({error})."
            ) from error
    with steps.step("loading the digits"):
        train_scans, test_scans, test = _data(settings)
        committed = seeds.load_seeds_result(seeds.COMMITTED) if seeds.COMMITTED.exists() else None

    deformable_name, plain_name = NETWORKS
    with _progress() as bar:
        with steps.step("training"):
            trainings = _train(settings, [options.seed], train_scans, test, bar)
            deformable, plain = trainings
        with steps.step("exporting"):
            bar.show("exporting")
            weights = folder / f"{deformable_name}.safetensors"
            weights.write_bytes(save(deformable.network.state_dict()))  # save_file would make it private
            example = test.images[:2]
            deployed = deploy.export_forms(deformable.network, example, folder, deformable_name)
            plain_path = folder / f"{plain_name}.onnx"
            deploy.export(plain.network, example, plain_path, "plugin", plain_name)
            images_path = folder / "held_out.npz"
            np.savez_compressed(images_path, **{deploy.INPUT: test.images[:64].numpy()})
        with steps.step("validating"):
            checked = deploy.validate_forms(
                deformable.network, deployed, test, threads=threads, progress=bar.show_count
            )
        with steps.step("timing"):
            latency = deploy.profile_engines(
                deformable.network,
                deployed,
                plain_path,
                test.images,
                batches=settings.batches,
                threads=threads,
                seconds=settings.seconds,
                progress=bar.show_count,
            )
    with steps.step("writing the report"):
        forms = {form.form: {**deploy.describe_file(form), **checked[form.form]} for form in deployed}
        result: dict[str, Any] = {
            "schema": SCHEMA,
            "quick": options.quick,
            "provenance": provenance(threads),
            "settings": asdict(settings),
            "seed": options.seed,
            "data": {
                "train_scans": len(train_scans),
                "test_scans": len(test_scans),
                "test_images": len(test.labels),
                "warp": warp_ranges(),
            },
            "training": {
                training.name: {
                    "parameters": training.parameters,
                    "seconds": training.seconds,
                    "test_accuracy": training.test_accuracy,
                    "right": int((training.logits.argmax(1) == test.labels).sum()),
                    "epochs": [asdict(epoch) for epoch in training.epochs],
                }
                for training in trainings
            },
            "paired": _paired(deformable.logits, plain.logits, test.labels),
            "forms": forms,
            "latency": latency,
            "files": sorted(
                path.name for path in (*(form.path for form in deployed), plain_path, weights, images_path)
            ),
        }
        result["checks"] = _checks(result)
        result["passed"] = all(check["passed"] for check in result["checks"])
        result["seconds"] = dict(steps.seconds)
        (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        page = report.render(
            result,
            committed,
            report.Pictures.of(deformable.network, deformable.logits, train_scans, test),
        )
        (folder / "report.html").write_text(page, encoding="utf-8")
    _print_summary(result, committed, folder)
    if not result["passed"]:
        for check in result["checks"]:
            if not check["passed"]:
                print(f"The demonstration failed: {check['name']}: {check['detail']}", file=sys.stderr)
        return 1
    return 0


def run_seeds(options: argparse.Namespace, steps: Steps) -> int:
    """Train both networks with each seed and store the accuracies; return the exit status."""
    with steps.step("loading PyTorch"):
        from digits import seeds

        threads = _set_threads(options.threads)
    settings = _settings(options)
    with steps.step("loading the digits"):
        train_scans, _, test = _data(settings)
    with steps.step("training"), _progress() as bar:
        trainings = _train(settings, options.seeds, train_scans, test, bar)
    with steps.step("writing the accuracies"):
        result = seeds.seeds_result(trainings, test_images=len(test.labels), threads=threads)
        options.results.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, values in result["summary"].items():
        spread = "" if values["std"] is None else f" ± {100 * values['std']:.2f}"
        print(f"{name}: {100 * values['mean']:.2f}{spread} % over {values['n']} seeds")
    print(f"Written to {options.results}")
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    settings = QUICK if options.quick else FULL
    return Settings(**{**asdict(settings), "epochs": options.epochs}) if options.epochs else settings


def _set_threads(wanted: int | None) -> int:
    """Set PyTorch's threads and make it repeatable; return the number of threads."""
    import torch

    from dcn_deploy.runtime.processor import usable_cpus

    threads = wanted or min(usable_cpus(), 4)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    return threads


def _data(settings: Settings) -> Any:
    from digits.data import held_out_images, load_split

    train, test = load_split()
    train, test = train.first(settings.train_scans), test.first(settings.test_scans)
    return train, test, held_out_images(test, settings.variants)


def _train(settings: Settings, seeds: Sequence[int], train_scans: Any, test: Any, bar: Bar) -> Any:
    from digits.train import NETWORKS, batches_per_epoch, train

    total = batches_per_epoch(len(train_scans)) * settings.epochs
    trainings = []
    for seed in seeds:
        for name in NETWORKS:
            label = f"training {name}" + (f", seed {seed}" if len(seeds) > 1 else "")
            with bar.counting(label, total) as after_batch:
                trainings.append(
                    train(name, train_scans, test, seed=seed, epochs=settings.epochs, after_batch=after_batch)
                )
    return trainings


def _paired(deformable: Any, plain: Any, labels: Any) -> dict[str, int]:
    """Return on how many images which of the two networks is right."""
    ours, twins = deformable.argmax(1) == labels, plain.argmax(1) == labels
    return {
        "both_right": int((ours & twins).sum()),
        "only_deformable_right": int((ours & ~twins).sum()),
        "only_plain_right": int((~ours & twins).sum()),
        "both_wrong": int((~ours & ~twins).sum()),
    }


def _checks(result: dict[str, Any]) -> list[dict[str, Any]]:
    checks = []
    for form, entry in result["forms"].items():
        outputs = entry["validation"]["outputs"]
        checks.append(
            {
                "name": f"{form}: every logit within tolerance of PyTorch's",
                "passed": entry["validation"]["passed"],
                "detail": "; ".join(
                    output["reason"]
                    or f"relative RMS error {output['worst']['relative_rms']:.1e}, "
                    f"allowed {output['limit']['relative_rms']:.1e}"
                    for output in outputs
                ),
            }
        )
        predictions = entry["predictions"]
        unexplained = [row for row in predictions["differing"] if not row["explained"]]
        detail = f"{predictions['equal_to_torch']} of {predictions['images']} predictions equal"
        if predictions["differing"]:
            named = ", ".join(str(row["image"]) for row in (unexplained or predictions["differing"])[:10])
            kind = "not explained by a tie of two logits" if unexplained else "all ties of two logits"
            detail += f"; images that differ ({kind}): {named}"
        checks.append(
            {
                "name": f"{form}: the same prediction as PyTorch for every image",
                "passed": not unexplained,
                "detail": detail,
            }
        )
        layers = 3
        checks.append(
            {
                "name": f"{form}: one sampling node for each deformable layer",
                "passed": entry["sampling_nodes"] == layers,
                "detail": f"expected {layers}, got {entry['sampling_nodes']}",
            }
        )
    if not result["quick"]:
        for name, training in result["training"].items():
            checks.append(
                {
                    "name": f"{name} has learned to read digits",
                    "passed": training["test_accuracy"] >= LEAST_ACCURACY,
                    "detail": f"expected at least {LEAST_ACCURACY:.0%} of the test images right, "
                    f"got {training['test_accuracy']:.1%}",
                }
            )
    return checks


class Bar:
    """Progress on standard error."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None)

    def show(self, text: str) -> None:
        """Say what is being done, of unknown length."""
        self.show_count(0, None, text)

    def show_count(self, done: int, total: int | None, text: str) -> None:
        """Say what is being done and how far it is; the form that profiling and validation call."""
        self._progress.update(self._task, completed=done, total=total, description=text)

    @contextlib.contextmanager
    def counting(self, text: str, total: int) -> Iterator[Callable[[], None]]:
        """Give a function that advances a bar of its own by one."""
        self._progress.update(self._task, visible=False)
        task = self._progress.add_task(text, total=total)
        yield lambda: self._progress.advance(task)
        self._progress.update(self._task, visible=True)


@contextlib.contextmanager
def _progress() -> Iterator[Bar]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("{task.description:34.34}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    ) as progress:
        yield Bar(progress)


def _print_summary(result: dict[str, Any], committed: dict[str, Any] | None, folder: Path) -> None:
    from digits.summary import lines

    print("\n".join(lines(result, committed, folder)))


if __name__ == "__main__":
    sys.exit(main())
