"""docs/validation.md has the table of tolerances as it is in the code."""

from __future__ import annotations

import inspect
import re

import pytest
import source_tree

from dcn_deploy.cli.validate import command
from dcn_deploy.validation import tolerances

DOCUMENT = (source_tree.CHECKOUT / "docs" / "validation.md").read_text(encoding="utf-8")


def test_the_table_is_the_one_of_the_code():
    table = tolerances.to_markdown()
    assert table in DOCUMENT, f"docs/validation.md is out of date. Its table of tolerances must be:\n\n{table}"
    assert len(table.splitlines()) == len(tolerances.TOLERANCES) + 2


def test_measured_figures_stand_next_to_the_limits_of_the_row():
    rows = re.findall(r"^\| (\d+) × (\d+) \| (\S+) \| (\S+) \|$", DOCUMENT, re.MULTILINE)
    assert len(rows) == 4
    row = tolerances.lookup("GridSample", "float32", "onnxruntime")
    for height, width, measured, limit in rows:
        assert float(limit) == pytest.approx(row.at((int(height), int(width))), rel=0.05)
        assert float(measured) < float(limit)


def test_what_the_text_says_of_the_rule():
    # c(H, W) = 2⁻²⁴·√(H² + W²)
    assert tolerances.coordinate_error(3, 4) == 5 * 2.0**-24
    assert f"d = {tolerances.OFFSET_PIXELS:g} pixels" in DOCUMENT
    assert tolerances.offset_error(1.0) == pytest.approx(6**0.5 * tolerances.OFFSET_PIXELS)


def test_every_option_it_names_exists():
    known = {"--" + name.replace("_", "-") for name in inspect.signature(command).parameters}
    exported = {"--dynamic", "--form"}  # options of export and convert, which the examples begin with
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", DOCUMENT))
    assert named - exported <= known
