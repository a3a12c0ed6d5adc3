"""The fenced blocks of a Markdown document and what a reader would do with them. Tests ``import markdown_blocks``.

A comment on the line before a block (blank lines between are fine) changes what is done with it:

    <!-- not run: reason -->     nothing; the reason is required
    <!-- file: net.py -->        the block is saved under that name, for later blocks to use

A shell comment ``# exit status 1`` behind a command, with any text around these words, says how it ends.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

_FENCE = re.compile(r"^(?P<indent>\s*)(?P<fence>`{3,}|~{3,})\s*(?P<language>[\w+-]*)[^`]*$")
_COMMENT = re.compile(r"^\s*<!--\s*(?P<key>not run|file):\s*(?P<value>.*?)\s*-->\s*$")
SHELL = {"bash", "sh", "shell", "console"}
PYTHON = {"python", "py"}


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, text, first line number in the document, and the comment before it."""

    language: str
    text: str
    line: int
    not_run: str | None = None
    file: str | None = None


@dataclass(frozen=True)
class Command:
    """One command of a shell block; ``program`` is the last part of its first word's path."""

    text: str
    line: int
    program: str
    exit_status: int


def blocks(document: str) -> list[Block]:
    """Every fenced block, in order."""
    found: list[Block] = []
    comment: dict[str, str] = {}
    lines = document.splitlines()
    index = 0
    while index < len(lines):
        marked = _COMMENT.match(lines[index])
        opened = _FENCE.match(lines[index])
        if marked:
            comment[marked["key"]] = marked["value"]
        elif opened:
            start = index + 1
            index = start
            closing = re.compile(rf"^\s*{re.escape(opened['fence'])}\s*$")
            while index < len(lines) and not closing.match(lines[index]):
                index += 1
            if index == len(lines):
                raise ValueError(f"line {start}: the block is never closed")
            indent = len(opened["indent"])
            text = "\n".join(line[indent:] if line[:indent].isspace() else line for line in lines[start:index])
            found.append(
                Block(
                    opened["language"].lower(),
                    text,
                    start + 1,
                    not_run=comment.get("not run"),
                    file=comment.get("file"),
                )
            )
            comment = {}
        elif lines[index].strip():
            comment = {}
        index += 1
    return found


def commands(block: Block) -> list[Command]:
    """The commands of a shell block.

    Lines ending in a backslash are joined. In a ``console`` block only lines after a ``$`` are commands, the
    others are their output.
    """
    found = []
    pending, start = "", 0
    for number, line in enumerate(block.text.splitlines(), block.line):
        text = line.strip()
        if not pending:
            if text.startswith("$ "):
                text = text[2:]
            elif block.language == "console" or not text or text.startswith("#"):
                continue
            start = number
        elif block.language == "console" and text.startswith("> "):
            text = text[2:]
        if text.endswith("\\"):
            pending += text[:-1]
            continue
        full = pending + text
        pending = ""
        words = shlex.split(full, comments=True)
        first = next((word for word in words if not re.match(r"^[A-Za-z_]\w*=", word)), "")
        said = re.search(r"\s#.*\bexit status (\d+)", full)
        found.append(Command(full, start, first.rpartition("/")[2], int(said[1]) if said else 0))
    if pending:
        raise ValueError(f"line {start}: the last line ends in a backslash")
    return found
