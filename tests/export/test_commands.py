"""The commands export, convert and lint: files, reports, messages and exit statuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cases
import numpy as np
import onnx
import peers
import pytest
from quantised import LEFT_CASE, qdq_model

from dcn_deploy.export import form_of, metadata

Result = subprocess.CompletedProcess[str]


def dcn_deploy(*arguments: object) -> Result:
    command = [sys.executable, "-m", "dcn_deploy.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def plugin_file(in_folder: Path) -> Path:
    path = in_folder / "plugin.onnx"
    onnx.save(peers.model(cases.by_name("unequal"), form="plugin", opset=18), path)
    return path


def test_export_from_the_zoo_with_dynamic_axes(in_folder: Path) -> None:
    done = dcn_deploy(
        "export", "single_dcn", "-o", "out.onnx", "--form", "decomposed", "--dynamic", "input=n,,h,w", "--json", "-"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["form"] == form_of("out.onnx") == "decomposed"
    assert report["inputs"]["input"] == ["n", 64, "h", "w"]
    assert metadata.read("out.onnx")["source"] == "single_dcn"


def test_export_of_a_users_file_with_weights(in_folder: Path) -> None:
    Path("network.py").write_text(
        "from dcn_deploy.nn import ModulatedDeformConv2d\n"
        "def build():\n"
        "    return ModulatedDeformConv2d(4, 4, 3, padding=1)\n"
    )
    script = "import network, torch; torch.manual_seed(1); torch.save(network.build().state_dict(), 'w.pt')"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    arguments = ("export", "network.py:build", "--weights", "w.pt", "-o", "out.onnx")
    done = dcn_deploy(*arguments, "--shape", "input=1,4,9,7")
    assert done.returncode == 0, done.stderr
    assert metadata.read("out.onnx")["weights"] == "w.pt"
    assert "out.onnx" in done.stdout
    without_shape = dcn_deploy(*arguments)
    assert without_shape.returncode == 2
    assert "error: example inputs: expected the shape of each input" in without_shape.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("single_dcn", "-o", "out.pt"), "--output: expected a file name ending in .onnx"),
        (("single_dcn", "-o", "out.onnx", "--form", "onnx"), "form: expected one of plugin, standard, decomposed"),
        (("single_dcn", "-o", "out.onnx", "--opset", "7"), "opset: expected 18"),
        (("single_dcn", "-o", "out.onnx", "--shape", "input=x"), "--shape: expected whole numbers"),
        (("no_such_network", "-o", "out.onnx"), "no_such_network"),
    ],
)
def test_export_with_bad_arguments(arguments: tuple[str, ...], message: str, in_folder: Path) -> None:
    done = dcn_deploy("export", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not list(in_folder.iterdir())


def test_convert_there_and_back(plugin_file: Path) -> None:
    for form in ("standard", "decomposed", "plugin"):
        done = dcn_deploy("convert", plugin_file, "-o", f"{form}.onnx", "--form", form, "--json", f"{form}.json")
        assert done.returncode == 0, done.stderr
        assert form_of(f"{form}.onnx") == form
        report: dict[str, Any] = json.loads(Path(f"{form}.json").read_text())
        assert (report["form"], report["nodes"]) == (form, 1)
    done = dcn_deploy("convert", "decomposed.onnx", "-o", "back.onnx", "--form", "plugin")
    assert done.returncode == 0, done.stderr
    assert onnx.load("back.onnx").graph.node[0] == onnx.load(plugin_file).graph.node[0]


def test_convert_with_bad_input(plugin_file: Path) -> None:
    done = dcn_deploy("convert", "absent.onnx", "-o", "out.onnx", "--form", "plugin")
    assert (done.returncode, "expected the path of an ONNX file" in done.stderr) == (2, True)
    done = dcn_deploy("convert", plugin_file, "-o", "out.onnx", "--form", "other")
    assert (done.returncode, "form: expected one of" in done.stderr) == (2, True)
    done = dcn_deploy("convert", plugin_file, "-o", "out.onnx")
    assert (done.returncode, "--form" in done.stderr) == (2, True)


def test_convert_folds_quantisation_and_writes_it_out_again(in_folder: Path, rng: Any) -> None:
    model, _ = qdq_model(LEFT_CASE, rng)
    onnx.save(model, "qdq.onnx")
    folded = dcn_deploy("convert", "qdq.onnx", "-o", "int8.onnx", "--form", "plugin", "--int8", "folded", "--json", "-")
    assert folded.returncode == 0, folded.stderr
    report = json.loads(folded.stdout)
    assert (report["folded"], report["left"]) == (["conv"], [])
    refused = dcn_deploy("convert", "int8.onnx", "-o", "out.onnx", "--form", "decomposed")
    assert (refused.returncode, "dcn-deploy convert --int8 qdq" in refused.stderr) == (2, True)
    back = dcn_deploy("convert", "int8.onnx", "-o", "back.onnx", "--form", "decomposed", "--int8", "qdq")
    assert back.returncode == 0, back.stderr
    assert form_of("back.onnx") == "decomposed"

    onnx.save(qdq_model(LEFT_CASE, rng, x_zero=np.int8(3))[0], "asymmetric.onnx")
    left = dcn_deploy("convert", "asymmetric.onnx", "-o", "out.onnx", "--form", "plugin", "--int8", "folded")
    assert left.returncode == 0, left.stderr
    assert "left.conv" in left.stdout
    assert "Quantise symmetrically." in left.stdout
    unknown = dcn_deploy("convert", "qdq.onnx", "-o", "out.onnx", "--form", "plugin", "--int8", "yes")
    assert (unknown.returncode, "int8: expected folded or qdq, got 'yes'" in unknown.stderr) == (2, True)


def test_lint_exit_statuses(plugin_file: Path) -> None:
    fine = dcn_deploy("lint", plugin_file)
    assert (fine.returncode, "nothing found" in fine.stdout) == (0, True)
    wrong = dcn_deploy("lint", plugin_file, "--target", "tensorrt-rtx", "--json", "-")
    assert wrong.returncode == 1
    (finding,) = json.loads(wrong.stdout)["findings"]
    assert (finding["rule"], finding["severity"]) == ("no-plugins", "error")
    assert "no-plugins" in wrong.stderr  # the table makes way for the JSON
    dcn_deploy("convert", plugin_file, "-o", "standard.onnx", "--form", "standard")
    notes = dcn_deploy("lint", "standard.onnx", "--target", "onnxruntime")
    assert (notes.returncode, "onnxruntime-version" in notes.stdout) == (0, True)
    unknown = dcn_deploy("lint", plugin_file, "--target", "phone")
    assert (unknown.returncode, "target: expected one of" in unknown.stderr) == (2, True)
    unreadable = dcn_deploy("lint", "absent.onnx")
    assert (unreadable.returncode, "expected the path of an ONNX file" in unreadable.stderr) == (2, True)


def test_lint_says_nothing_but_its_findings(in_folder: Path) -> None:
    """onnx's shape inference complains of a domain without a version; the finding says so already."""
    model = peers.model(cases.by_name("unequal"), form="plugin", opset=18)
    del model.opset_import[1]
    onnx.save(model, "in.onnx")
    done = dcn_deploy("lint", "in.onnx", "--json", "-")
    assert done.returncode == 1
    assert [finding["rule"] for finding in json.loads(done.stdout)["findings"]] == ["domain-version"]
    assert "Traceback" not in done.stderr
    assert "WARNING" not in done.stderr.upper().replace("0 WARNING", "")


def test_convert_and_lint_of_a_broken_file(in_folder: Path) -> None:
    model = peers.model(cases.by_name("unequal"), form="plugin", opset=18)
    model.graph.node[0].input[2] = "nowhere"
    onnx.save(model, "in.onnx")
    converted = dcn_deploy("convert", "in.onnx", "-o", "out.onnx", "--form", "decomposed")
    assert converted.returncode == 2
    assert "error: 'in.onnx' is broken: " in converted.stderr
    assert not Path("out.onnx").exists()
    linted = dcn_deploy("lint", "in.onnx")
    assert linted.returncode == 1
    assert "broken-graph" in linted.stdout
    assert linted.stderr == ""


NOISY = """
import ctypes, os, sys
import torch
from dcn_deploy.nn import ModulatedDeformConv2d

def noise(when):
    print("python", when)
    print("first stream", when, file=sys.__stdout__)
    os.write(1, f"descriptor {when}\\n".encode())
    ctypes.CDLL(None).puts(f"library {when}".encode())

noise("import")

class Network(ModulatedDeformConv2d):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(4, 4, 3, padding=1)
        noise("construction")

    def forward(self, x):
        print("python forward")
        return super().forward(x)
"""


def test_json_on_stdout_is_alone_there_whatever_a_network_prints(in_folder: Path) -> None:
    Path("noisy.py").write_text(NOISY)
    exported = dcn_deploy("export", "noisy.py:Network", "--shape", "x=1,4,8,8", "-o", "out.onnx", "--json", "-")
    validated = dcn_deploy("validate", "out.onnx", "--reference", "noisy.py:Network", "--json", "-")
    timing = ("--backend", "torch", "--source", "noisy.py:Network", "--runs", 2, "--warmup", 1)
    profiled = dcn_deploy("profile", "out.onnx", *timing, "--json", "-")
    in_csv = dcn_deploy("profile", "out.onnx", *timing, "--no-memory", "--csv", "-")
    for done in (exported, validated, profiled, in_csv):
        assert done.returncode in (0, 1), done.stderr
        for how in ("python", "first stream", "descriptor", "library"):
            for when in ("import", "construction"):
                assert f"{how} {when}" in done.stderr
        assert "python forward" in done.stderr
    for done in (exported, validated, profiled):
        assert json.loads(done.stdout)
    assert in_csv.stdout.splitlines()[0].count(",") > 3
    without = dcn_deploy("export", "noisy.py:Network", "--shape", "x=1,4,8,8", "-o", "out.onnx")
    assert "python import" in without.stdout
