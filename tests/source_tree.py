"""What the checkout contains: modules, tracked files. Tests write ``import source_tree``."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGE = CHECKOUT / "dcn_deploy"
#: Folders of the checkout that are installed inside the package under the same name (links in ``dcn_deploy/``).
INSTALLED_INSIDE = ("cli", "models")
_NOT_OURS = {".git", ".venv", "build", "dist", "demo-output", "__pycache__"}


def modules() -> dict[str, Path]:
    """Every module of the package, dotted name → file; those in ``cli`` and ``models`` included."""
    found: dict[str, Path] = {}

    def walk(folder: Path, prefix: str) -> None:
        for entry in sorted(folder.iterdir()):
            if entry.is_dir() and entry.name != "__pycache__":
                if any(entry.glob("*.py")):
                    walk(entry, f"{prefix}.{entry.name}")
            elif entry.suffix == ".py":
                found[prefix if entry.stem == "__init__" else f"{prefix}.{entry.stem}"] = entry

    walk(PACKAGE, "dcn_deploy")
    return found


def tree_of(path: Path) -> ast.Module:
    """Syntax tree of a Python file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def tracked_files() -> list[Path]:
    """The files that are under version control or about to be: what a clone of this checkout would hold."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        names = [name for name in listed.stdout.decode().split("\0") if name]
        paths = [CHECKOUT / name for name in names]
    else:  # an unpacked source archive
        paths = list(_walk(CHECKOUT))
    return sorted(path for path in paths if path.is_file() and not path.is_symlink())


def _walk(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.name in _NOT_OURS or entry.is_symlink():
            continue
        if entry.is_dir():
            yield from _walk(entry)
        else:
            yield entry


def text_of(path: Path) -> str | None:
    """Contents of a text file; None for a binary one."""
    data = path.read_bytes()
    if b"\0" in data:
        return None
    return data.decode("utf-8", errors="replace")
