"""Stage ``engine``: the demonstration's network as an engine of every TensorRT that is installed.

Built, compared with the float64 reference and timed by the project's own commands, as a user would call them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_check import plugin, programs
from benchmarks.gpu_check.machine import Gpu
from benchmarks.gpu_check.stages import Failed, Missing

CHECKOUT = Path(__file__).resolve().parents[2]
NETWORK = "digits_dcn"
#: What the commands need besides PyTorch; the rest of the check does without. Of two names in one, either will do.
PACKAGES = ("onnx", "onnxscript", "onnxruntime", "rich", "safetensors", "typer", "cuda.bindings|pycuda")
#: What ``build`` says of a GPU that the package makes no engines for, as TensorRT-RTX for those of data centres.
NOT_FOR_THIS_GPU = "compute capability to build for"
#: The zoo's network takes (N, 1, 32, 32); engines are built for a range of N.
PROFILE = "input=1,1,32,32:8,1,32,32:16,1,32,32"
SHAPE = "input=8,1,32,32"


@dataclass(frozen=True)
class Package:
    """A package that runs engines.

    Attributes:
        backend: the backend's name, as on the command line.
        module: what is imported.
        names_capability: whether the build is told which GPU it is for; otherwise it is the one at hand.
    """

    backend: str
    module: str
    names_capability: bool


ENGINES = (Package("tensorrt", "tensorrt", False), Package("tensorrt-rtx", "tensorrt_rtx", True))


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it would be part of is not there
        return False


def installed() -> list[Package]:
    """The packages that are installed here.

    Raises:
        Missing: if there is none, or the commands lack a package.
    """
    lacking = [names for names in PACKAGES if not any(map(_is_there, names.split("|")))]
    if lacking:
        packages = [names.split("|")[0].replace(".", "-") for names in lacking]
        raise Missing(
            f"the commands of dcn_deploy need {', '.join(packages)}. Install them for {sys.executable}: pip install "
            f"{' '.join(packages)}"
        )
    found = [package for package in ENGINES if _is_there(package.module)]
    if not found:
        raise Missing(
            "neither TensorRT nor TensorRT-RTX is installed for Python. Install one: pip install tensorrt, or pip "
            "install tensorrt-rtx-cu13"
        )
    return found


def export_command(folder: Path) -> list[str]:
    """Arguments of ``dcn-deploy`` that write the network."""
    return ["export", NETWORK, "-o", str(folder / "model.onnx"), "--dynamic", "input=n"]


def commands(package: Package, folder: Path, capability: tuple[int, int]) -> list[list[str]]:
    """Arguments of ``dcn-deploy`` that build, compare and time the engine of one package, in order."""
    model, built = str(folder / "model.onnx"), str(folder / f"{package.backend}.engine")
    build = ["build", model, "-o", built, "--backend", package.backend, "--profile", PROFILE]
    if package.names_capability:
        build += ["--compute-capability", f"{capability[0]}.{capability[1]}"]
    validate = ["validate", built, "--reference", model, "--backend", package.backend, "--shape", SHAPE]
    profile = ["profile", built, "--backend", package.backend, "--shape", SHAPE, "--seconds", "2"]
    return [
        [*arguments, "--json", str(folder / f"{package.backend}.{arguments[0]}.json")]
        for arguments in (build, validate, profile)
    ]


def environment() -> dict[str, str]:
    """The environment of a command: this checkout's package, and the plugin library of the stage ``plugin``."""
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    given = os.environ.get("DCN_DEPLOY_LIBRARY_DIR")
    library = given if given else str(plugin.LIBRARY_FOLDER)
    return {**os.environ, "PYTHONPATH": path, "DCN_DEPLOY_LIBRARY_DIR": library}


def call(arguments: Sequence[str], left: float) -> None:
    """Run one command.

    Raises:
        Failed: with the last lines of what it said.
    """
    command = [sys.executable, "-c", "from dcn_deploy.cli.main import main; main()", *arguments]
    try:
        status, output, errors = programs.run(command, left, cwd=CHECKOUT, environment=environment())
    except programs.TooSlowError as error:
        raise Failed(f"dcn-deploy {arguments[0]}: {error}") from error
    if status != 0:
        last = "\n".join((output + errors).strip().splitlines()[-25:])
        raise Failed(f"'dcn-deploy {' '.join(arguments)}' ended with status {status}:\n{last}")


def check(gpu: Gpu, folder: Path, left: float, say: Callable[[str], None], reports: dict[str, Any]) -> str:
    """Build, compare and time an engine of each installed package; one that fails does not hide the other.

    Args:
        gpu: the GPU at hand.
        folder: for the files.
        left: seconds.
        say: prints a line of progress.
        reports: gets the commands' reports by backend and command.

    Returns:
        What was found in one line.

    Raises:
        Missing: without a package that runs engines.
        Failed: with what each command that failed said.
    """
    packages = installed()
    end = time.monotonic() + left
    folder.mkdir(parents=True, exist_ok=True)
    call(export_command(folder), end - time.monotonic())
    said, wrong, unfit = [], [], []
    for package in packages:
        found: dict[str, Any] = reports.setdefault(package.backend, {})
        try:
            for arguments in commands(package, folder, gpu.compute_capability):
                call(arguments, end - time.monotonic())
                found[arguments[0]] = json.loads(Path(arguments[-1]).read_text(encoding="utf-8"))
                say(f"   {package.backend}: {arguments[0]} done")
        except Failed as error:
            (unfit if NOT_FOR_THIS_GPU in str(error) else wrong).append(str(error))
        else:
            said.append(f"{package.backend} {found['build']['version']}: built, right, timed")
    if wrong:
        raise Failed("\n".join([*wrong, *unfit]))
    if unfit and not said:
        raise Missing("\n".join(unfit))
    return "; ".join([*said, *(line.splitlines()[-1] for line in unfit)])
