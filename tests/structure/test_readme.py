"""The examples of README.md and docs/ are run as a reader would run them.

The blocks of one document run in order, in one empty folder: what an earlier block writes a later one finds,
and the Python blocks share their names. What is not run says why, in a comment before the block (see
``tests/markdown_blocks.py``).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import markdown_blocks
import pytest
import source_tree
from markdown_blocks import PYTHON, SHELL, Block

_DOCUMENTS = [
    path
    for path in (source_tree.CHECKOUT / "README.md", *sorted((source_tree.CHECKOUT / "docs").rglob("*.md")))
    if path.is_file()
]
#: Programs of this project and its interpreter: run.
_RUN = {"dcn-deploy", "python", "python3"}
#: What sets a machine or a checkout up; the test command itself and .ci/run prove those.
_SET_UP = {"make", "git", "cd", "pip", "apt-get", "sudo", "source", "."}
_TIMEOUT_S = 300

# Runs Python blocks from standard input one by one, all with the same names, and says how each went.
_INTERPRETER = """
import contextlib, io, json, sys, traceback
names = {"__name__": "__main__"}
for line in sys.stdin:
    task = json.loads(line)
    said, error = io.StringIO(), None
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            exec(compile(task["text"], task["where"], "exec"), names)
        except BaseException:
            error = traceback.format_exc()
    print(json.dumps({"error": error, "output": said.getvalue()}), file=sys.__stdout__, flush=True)
"""


def _name(path: Path) -> str:
    return path.relative_to(source_tree.CHECKOUT).as_posix()


class _Reader:
    """Someone who reads one document and does what it says, in ``folder``."""

    def __init__(self, document: str, folder: Path) -> None:
        self._document = document
        self._folder = folder
        programs = Path(sys.executable).parent
        self._environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
        # Examples are named relative to the checkout, where a reader of the README is.
        (folder / "examples").symlink_to(source_tree.CHECKOUT / "examples")
        self._interpreter: subprocess.Popen[str] | None = None

    def follow(self, block: Block) -> None:
        if block.not_run is not None:
            return
        if block.file is not None:
            target = self._folder / block.file
            assert target.resolve().is_relative_to(self._folder.resolve()), f"{block.file} is outside the folder"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text + "\n", encoding="utf-8")
        elif block.language in PYTHON:
            self._run_python(block)
        elif block.language in SHELL:
            self._run_shell(block)

    def _run_python(self, block: Block) -> None:
        if self._interpreter is None:
            self._interpreter = subprocess.Popen(
                [sys.executable, "-c", _INTERPRETER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                cwd=self._folder,
                env=self._environment,
            )
        assert self._interpreter.stdin is not None
        assert self._interpreter.stdout is not None
        where = f"{self._document}, line {block.line}"
        # Line numbers of a traceback are those of the document.
        text = "\n" * (block.line - 1) + block.text
        self._interpreter.stdin.write(json.dumps({"text": text, "where": self._document}) + "\n")
        self._interpreter.stdin.flush()
        answer = None
        for line in self._interpreter.stdout:
            if line.startswith('{"error":'):
                answer = json.loads(line)
                break
        assert answer is not None, f"{where}: the interpreter died"
        assert answer["error"] is None, f"{where}:\n{answer['output']}\n{answer['error']}"

    def _run_shell(self, block: Block) -> None:
        for command in markdown_blocks.commands(block):
            where = f"{self._document}, line {command.line}: {command.text}"
            if command.program in _SET_UP:
                continue
            assert command.program in _RUN, (
                f"{where}\nThis test runs {sorted(_RUN)} and leaves out {sorted(_SET_UP)}. Put a comment before the "
                f"block: <!-- not run: reason -->"
            )
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", re.sub(r"(^|\s)\S*\.venv/bin/", r"\1", command.text)],
                capture_output=True,
                text=True,
                cwd=self._folder,
                env=self._environment,
                timeout=_TIMEOUT_S,
                check=False,
            )
            assert done.returncode == command.exit_status, (
                f"{where}\nexit status {done.returncode}, expected {command.exit_status}. Where another than 0 is "
                f"meant, say so behind the command: # exit status 1\n{done.stdout}\n{done.stderr}"
            )

    def close(self) -> None:
        if self._interpreter is not None:
            self._interpreter.kill()
            self._interpreter.wait()


@pytest.mark.slow
@pytest.mark.parametrize("document", _DOCUMENTS, ids=_name)
def test_the_examples_work(document: Path, tmp_path: Path, library: Path) -> None:
    reader = _Reader(_name(document), tmp_path)
    try:
        for block in markdown_blocks.blocks(document.read_text(encoding="utf-8")):
            reader.follow(block)
    finally:
        reader.close()


def test_the_readme_has_examples_that_run() -> None:
    text = (source_tree.CHECKOUT / "README.md").read_text(encoding="utf-8")
    run = [block for block in markdown_blocks.blocks(text) if block.not_run is None]
    programs = {c.program for block in run if block.language in SHELL for c in markdown_blocks.commands(block)}
    assert "dcn-deploy" in programs
    assert any(block.language in PYTHON and block.file is None for block in run)


def test_the_readme_begins_with_the_two_commands() -> None:
    text = (source_tree.CHECKOUT / "README.md").read_text(encoding="utf-8")
    first_screen = "\n".join(text.splitlines()[:50])
    for command in ("make demo", "make test"):
        assert command in first_screen


@pytest.mark.parametrize("document", _DOCUMENTS, ids=_name)
def test_what_is_not_run_says_why(document: Path) -> None:
    for block in markdown_blocks.blocks(document.read_text(encoding="utf-8")):
        assert block.not_run is None or len(block.not_run) >= 8, f"{_name(document)}, line {block.line}"


_EVERY_DOCUMENT = [path for path in source_tree.tracked_files() if path.suffix == ".md"]


@pytest.mark.parametrize("document", _EVERY_DOCUMENT, ids=_name)
def test_local_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"^(`{3,}).*?^\1", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`\n]*`", "", text)
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)", text):
        if re.match(r"^[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (document.parent / path).resolve() if path else document
        assert found.exists(), f"{_name(document)}: no {target}"
        if anchor and found.suffix == ".md":
            headings = re.findall(r"^#+\s+(.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", h.strip().lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{_name(document)}: no heading for {target}"


# The reader itself.

_SAMPLE = """
Text.

```python
x = 1
```

<!-- file: sub/net.py -->
```python
value = 41
```

```python
import sys; sys.path.insert(0, "sub")
import net
assert net.value + x == 42
open("made.txt", "w").write("hello")
```

```console
$ python -c "assert open('made.txt').read() == \\
> 'hello'"
this is output, not a command
$ make everything
```

```bash
VARIABLE=1 .venv/bin/python -c "import os, sys; sys.exit(2 + int(os.environ['VARIABLE']))"  # exit status 3: no
python -c "pass"  # a comment
```

<!-- not run: needs a GPU -->
```bash
no-such-program
```

```text
not a program at all
```
"""


def test_the_reader_follows(tmp_path: Path) -> None:
    found = markdown_blocks.blocks(_SAMPLE)
    assert [block.language for block in found] == ["python", "python", "python", "console", "bash", "bash", "text"]
    assert [block.not_run for block in found][-2:] == ["needs a GPU", None]
    reader = _Reader("sample", tmp_path)
    try:
        for block in found:
            reader.follow(block)
    finally:
        reader.close()
    assert (tmp_path / "made.txt").read_text() == "hello"


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ("```python\nassert 1 == 2\n```", "AssertionError"),
        ("```python\nraise SystemExit(1)\n```", "SystemExit"),
        ("```bash\npython -c 'raise SystemExit(1)'\n```", "exit status 1, expected 0"),
        ("```bash\npython -c '' | no-such-program-here\n```", "exit status"),
        ("```bash\nrm -rf elsewhere\n```", "not run: reason"),
        ("```bash\npython -c ''  # exit status 1\n```", "exit status 0, expected 1"),
        ("<!-- file: ../outside.py -->\n```python\n1\n```", "outside the folder"),
    ],
)
def test_the_reader_notices(sample: str, message: str, tmp_path: Path) -> None:
    reader = _Reader("sample", tmp_path)
    try:
        with pytest.raises(AssertionError, match=message):
            reader.follow(markdown_blocks.blocks(sample)[0])
    finally:
        reader.close()


def test_a_block_that_is_never_closed_is_an_error() -> None:
    with pytest.raises(ValueError, match="never closed"):
        markdown_blocks.blocks("```python\n1\n")
