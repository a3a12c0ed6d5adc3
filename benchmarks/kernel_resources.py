"""Registers, spills and shared memory of the CUDA kernels, as ptxas reports them: no GPU, no timing.

    python benchmarks/kernel_resources.py                   every architecture; writes results/kernel-resources.json
    python benchmarks/kernel_resources.py --architectures 80 90a --output build/resources.json

Needs nvcc on PATH, or in CUDACXX. Ends with status 1 if a kernel spills more than :data:`KNOWN_SPILLS` says.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import record

SCHEMA = "dcn_deploy.kernel_resources/1"
PATH = record.RESULTS / "kernel-resources.json"
#: Those of DCN_DEPLOY_CUDA_ARCHITECTURES.
ARCHITECTURES = ("75", "80", "86", "89", "90a", "100", "120")
#: Enough to see a kernel that has come to spill: the oldest with tensor-core kernels, and the reference card's.
FEW_ARCHITECTURES = ("80", "90a")
#: What CMake gives a Release build, as far as it changes the code.
FLAGS = ("-std=c++17", "-O3")


@dataclass(frozen=True)
class KnownSpill:
    """Spills that are let pass: of the kernels whose name starts with ``kernel``, on ``architectures``."""

    kernel: str
    architectures: tuple[str, ...]
    most: int  # bytes of stores and loads together
    why: str


KNOWN_SPILLS: tuple[KnownSpill, ...] = ()


class MissingError(Exception):
    """What the figures come from is not there."""


@dataclass(frozen=True)
class Kernel:
    """One kernel on one architecture; sizes in bytes."""

    architecture: str
    name: str
    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    static_shared: int


_ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\w+)'")
_PROPERTIES = re.compile(r"Function properties for (\w+)")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


def parse(text: str) -> list[Kernel]:
    """The kernels in what ``ptxas -v`` says, by their linker names.

    A function that a kernel calls has no line of its own with registers: its stack and spills count as the kernel's.
    """
    kernels: list[Kernel] = []
    entry: tuple[str, str] | None = None
    own = False
    sizes = (0, 0, 0)
    for line in text.splitlines():
        if found := _ENTRY.search(line):
            entry = (found.group(1), found.group(2))
        elif found := _PROPERTIES.search(line):
            own = entry is not None and found.group(1) == entry[0]
        elif found := _SPILLS.search(line):
            read = (int(found.group(1)), int(found.group(2)), int(found.group(3)))
            if own:
                sizes = read
            elif kernels:
                last = kernels[-1]
                kernels[-1] = Kernel(
                    last.architecture,
                    last.name,
                    last.registers,
                    last.stack + read[0],
                    last.spill_stores + read[1],
                    last.spill_loads + read[2],
                    last.static_shared,
                )
        elif (found := _USED.search(line)) and entry is not None:
            shared = _SHARED.search(line)
            kernels.append(
                Kernel(entry[1], entry[0], int(found.group(1)), *sizes, int(shared.group(1)) if shared else 0)
            )
            entry, sizes = None, (0, 0, 0)
    return kernels


def _readable(names: Iterable[str]) -> dict[str, str]:
    """Linker name → C++ name without namespaces and parameters; the linker name where c++filt is missing."""
    linker = sorted(set(names))
    program = shutil.which("c++filt")
    if program is None or not linker:
        return {name: name for name in linker}
    done = subprocess.run([program], input="\n".join(linker), capture_output=True, text=True, check=True)
    readable = {}
    for name, full in zip(linker, done.stdout.splitlines(), strict=True):
        short = re.sub(r"\b(?:\w+|\(anonymous namespace\))::", "", full)
        readable[name] = re.sub(r"\([^()]*\)$", "", short).removeprefix("void ")
    return readable


def compiler() -> str:
    """The path of nvcc.

    Raises:
        MissingError: there is none.
    """
    found = shutil.which(os.environ.get("CUDACXX", "nvcc"))
    if found is None:
        raise MissingError("nvcc: expected it on PATH or in CUDACXX, got neither. Install the CUDA toolkit.")
    return found


def sources() -> list[Path]:
    """The files that are compiled for the GPU."""
    return [path for path in record.kernel_sources("cuda") if path.suffix == ".cu"]


def _ptxas_says(nvcc: str, source: Path, architecture: str, folder: str) -> str:
    output = Path(folder) / f"{source.stem}.{architecture}.cubin"
    command = [nvcc, *FLAGS, f"-I{record.CHECKOUT / 'plugins'}", "-cubin", f"-arch=sm_{architecture}", "-Xptxas=-v"]
    done = subprocess.run([*command, str(source), "-o", str(output)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{source.name} for sm_{architecture}: nvcc ended with {done.returncode}:\n{done.stderr}")
    return done.stderr


def measure(nvcc: str, architectures: Sequence[str], files: Sequence[Path], jobs: int) -> list[Kernel]:
    """Compile ``files`` for each architecture and read what ptxas says, by architecture and name."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        pairs = [(file, architecture) for architecture in architectures for file in files]
        texts = pool.map(lambda pair: _ptxas_says(nvcc, pair[0], pair[1], folder), pairs)
        kernels = [kernel for text in texts for kernel in parse(text)]
    readable = _readable(kernel.name for kernel in kernels)
    named = [Kernel(**{**asdict(kernel), "name": readable[kernel.name]}) for kernel in kernels]
    order = {architecture: i for i, architecture in enumerate(architectures)}
    return sorted(named, key=lambda kernel: (order[kernel.architecture], kernel.name))


def unexpected_spills(kernels: Iterable[Kernel]) -> list[str]:
    """A line for each kernel that spills more than it may."""
    lines = []
    for kernel in kernels:
        known = (
            spill
            for spill in KNOWN_SPILLS
            if kernel.name.startswith(spill.kernel) and kernel.architecture in spill.architectures
        )
        allowed = max((spill.most for spill in known), default=0)
        spilled = kernel.spill_stores + kernel.spill_loads
        if spilled > allowed:
            lines.append(
                f"{kernel.name} on SM {kernel.architecture}: expected at most {allowed} bytes of spills, got "
                f"{kernel.spill_stores} of stores and {kernel.spill_loads} of loads"
            )
    return lines


def _version(nvcc: str) -> str:
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"V(\d+\.\d+\.\d+)", said)
    return found.group(1) if found else said.strip()


def _commit() -> str | None:
    command = ["git", "-C", str(record.CHECKOUT), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, print what is worth seeing, write the figures."""
    parser = argparse.ArgumentParser(description="Registers and spills of the CUDA kernels, from ptxas.")
    parser.add_argument("--architectures", nargs="+", default=list(ARCHITECTURES), metavar="SM")
    parser.add_argument("--jobs", type=int, default=2, help="compilations at a time (default: 2)")
    parser.add_argument("--output", type=Path, help=f"default: {PATH.relative_to(record.CHECKOUT)}")
    options = parser.parse_args(arguments)
    try:
        nvcc = compiler()
    except MissingError as error:
        print(error, file=sys.stderr)
        return 2
    before = record.kernel_hash("cuda")
    kernels = measure(nvcc, options.architectures, sources(), options.jobs)
    if record.kernel_hash("cuda") != before:
        print(
            "kernel sources: expected them to stay as they were while they were compiled, got a change. Run it again."
        )
        return 2
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "compiler": f"nvcc {_version(nvcc)}",
        "flags": list(FLAGS),
        "commit": _commit(),
        "command": " ".join(["kernel_resources.py", *(sys.argv[1:] if arguments is None else arguments)]),
        "kernel_sources": {"device": "cuda", "sha256": before},
        "known_spills": [asdict(spill) for spill in KNOWN_SPILLS],
        "kernels": [asdict(kernel) for kernel in kernels],
    }
    path = options.output
    if path is None and tuple(options.architectures) == ARCHITECTURES:
        path = PATH
    if path is not None:
        record.write(result, path)
        print(f"wrote {path}", file=sys.stderr)
    for kernel in kernels:
        if kernel.spill_stores or kernel.spill_loads:
            print(f"SM {kernel.architecture} {kernel.name}: {kernel.spill_stores} + {kernel.spill_loads} bytes spilled")
    unexpected = unexpected_spills(kernels)
    print("\n".join(unexpected or [f"{len(kernels)} kernels, no unexpected spill"]))
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
