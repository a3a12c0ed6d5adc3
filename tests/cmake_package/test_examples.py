"""The programs of examples/cpp: built against the installed package, without warnings, and run as far as they go."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import source_tree

# What no GPU and no TensorRT is needed for: a runtime library that is of the right version and nothing else.
_STAND_IN = """
#include <NvInferVersion.h>
#include <cstdint>
extern "C" {
__attribute__((visibility("default"))) int32_t getInferLibVersion() {
  return NV_TENSORRT_MAJOR * 10000 + NV_TENSORRT_MINOR * 100 + NV_TENSORRT_PATCH;
}
__attribute__((visibility("default"))) void* createInferRuntime_INTERNAL(void*, int32_t) { return nullptr; }
}
"""


@pytest.fixture(scope="module")
def programs(configure, cmake, package, headers, tmp_path_factory):
    """Folder with the built programs."""
    assert headers["onnxruntime"]
    build = tmp_path_factory.mktemp("examples")
    arguments = [f"-Ddcn_deploy_DIR={package}", "-DDCN_DEPLOY_EXAMPLES_WERROR=ON"]
    arguments += [f"-DONNXRUNTIME_ROOT={headers['onnxruntime']}", f"-DTENSORRT_ROOT={headers['tensorrt']}"]
    done = configure(source_tree.CHECKOUT / "examples" / "cpp", build, *arguments)
    assert done.returncode == 0, done.stderr
    built = subprocess.run(
        [*cmake, "--build", str(build), "--parallel", "2"], capture_output=True, text=True, timeout=300, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return build


@pytest.fixture(scope="module")
def time_engine(programs, headers):
    """The program for engines."""
    program = programs / "time_engine"
    if not program.is_file():
        assert not (headers["tensorrt"] and shutil.which("nvcc")), (
            "its headers and CUDA are there, but it was not built"
        )
        pytest.skip("time_engine needs TensorRT's headers and the CUDA toolkit to be compiled")
    return program


@pytest.fixture(scope="module")
def onnxruntime_library():
    """The library in ONNX Runtime's own wheel."""
    import onnxruntime

    (library,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")
    return library


def _run(program, *arguments):
    # No GPU is seen where there is one, so that the sentences are the same everywhere.
    return subprocess.run(
        [str(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )


def _refuses(done, message):
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.search(message, done.stderr), done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An ONNX file with a deformable convolution and dynamic sizes."""
    import torch

    import dcn_deploy
    from dcn_deploy.nn import ModulatedDeformConv2d

    torch.manual_seed(20170317)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=2), ModulatedDeformConv2d(8, 5, 3, padding=1))
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    dcn_deploy.export(
        network.eval(),
        (torch.zeros(1, 3, 16, 16),),
        path,
        input_names=["image"],
        dynamic_shapes={"image": {0: "n", 2: "h", 3: "w"}},
    )
    return path


def test_time_onnx_computes_what_python_computes(programs, model, onnxruntime_library, make_session, rng, tmp_path):
    image = rng.normal(size=(2, 3, 19, 33)).astype(np.float32)
    image.tofile(tmp_path / "image.bin")
    session = make_session(model)
    (expected,) = session.run(None, {"image": image})
    done = _run(
        programs / "time_onnx",
        model,
        *("--runtime", onnxruntime_library, "--shape", "image=2,3,19,33", "--data", f"image={tmp_path / 'image.bin'}"),
        *("--save", tmp_path, "--runs", 3, "--warm-up", 1, "--threads", 1),
    )
    assert done.returncode == 0, done.stderr
    (name,) = (output.name for output in session.get_outputs())
    actual = np.fromfile(tmp_path / f"{name}.bin", np.float32).reshape(expected.shape)
    np.testing.assert_array_equal(actual, expected)
    assert f"output {name} {'x'.join(map(str, expected.shape))}" in done.stdout
    times = re.search(r"^run +min ([\d.]+) ms  mean ([\d.]+) ms  p50 ([\d.]+) ms  p90 ([\d.]+) ms", done.stdout, re.M)
    assert times, done.stdout
    least, mean, median, ninety = map(float, times.groups())
    assert 0 < least <= median <= ninety
    assert least <= mean


def test_time_onnx_without_the_plugin(programs, model, onnxruntime_library):
    done = _run(programs / "time_onnx", model, "--runtime", onnxruntime_library, "--no-plugin")
    _refuses(done, "time_onnx: .*DeformConv2d.* is not a registered")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "time_onnx: expected MODEL, got none; see --help"),
        (["MODEL", "other"], "expected one MODEL, got '.*model.onnx' and 'other'"),
        (["MODEL", "--fast"], "expected one of the options that --help lists, got '--fast'"),
        (["MODEL", "--runs"], "--runs: expected N behind it, got nothing"),
        (["MODEL", "--runs", "0"], "--runs: expected a whole number of at least 1, got '0'"),
        (["MODEL", "--runs", "3x"], "--runs: expected a whole number of at least 1, got '3x'"),
        (["MODEL", "--shape", "image"], "--shape: expected NAME=VALUE, got 'image'"),
        (["MODEL", "--runtime", "libno.so"], r"--runtime: expected a library that can be loaded.*Pass the path"),
        (["MODEL", "--runtime", "libm.so.6"], r"expected a library with the function OrtGetApiBase, got libm.so.6"),
        (["MODEL"], "'image': expected a shape without open sizes, got .*Give the shapes .* with --shape"),
        (["MODEL", "--shape", "pixels=1"], "'image': expected a shape without open sizes"),
        (
            ["MODEL", "--shape", "image=1,3,9,9", "--shape", "pixels=1"],
            "--shape: expected an input of the model, got 'pixels'",
        ),
        (
            ["MODEL", "--shape", "image=1,3,9,9", "--data", "image=MODEL"],
            r"--data image: expected 972 bytes \(1x3x9x9\), got \d+ in '.*model.onnx'",
        ),
        (["MODEL", "--plugin", "libno.so"], "libno.so: expected a plugin library of dcn_deploy"),
        (["MODEL", "--shape", "image=1,3,9,9", "--save", "no/such"], "--save: expected a folder that can be written"),
    ],
)
def test_time_onnx_says_what_is_wrong(programs, model, onnxruntime_library, arguments, message):
    arguments = [argument.replace("MODEL", str(model)) for argument in arguments]
    # What comes later counts.
    _refuses(_run(programs / "time_onnx", "--runtime", onnxruntime_library, *arguments), message)


def test_time_engine_has_help(time_engine):
    done = _run(time_engine, "--help")
    assert done.returncode == 0
    for word in ("--runtime", "--plugin", "--profile", "--graph", "Exit status: 0 done", "libnvinfer.so."):
        assert word in done.stdout


def test_time_engine_needs_an_engine(time_engine, tmp_path):
    _refuses(
        _run(time_engine, tmp_path / "no.engine"), "time_engine: expected a file that can be read, got '.*no.engine'"
    )
    _refuses(_run(time_engine, tmp_path), "expected a file that can be read")


def test_time_engine_needs_the_runtime(time_engine, model):
    done = _run(time_engine, model, "--runtime", "libnvinfer_that_is_not_there.so")
    _refuses(done, r"--runtime: expected a library that can be loaded, got .*Pass the path of libnvinfer.so")


def test_time_engine_refuses_a_runtime_of_another_version(time_engine, model):
    """The interfaces of its headers are not those of the library: nothing of it may be called."""
    rtx = pytest.importorskip("tensorrt_rtx_libs", reason="needs TensorRT-RTX")
    (folder,) = rtx.__path__
    done = _run(time_engine, model, "--runtime", f"{folder}/libtensorrt_rtx.so.1")
    _refuses(done, r"expected a library of major version 1\d, whose headers .* got 1 in .*Compile it with the headers")


def test_time_engine_needs_a_gpu(time_engine, model, headers, tmp_path):
    (tmp_path / "stand_in.cc").write_text(_STAND_IN)
    library = tmp_path / "libnvinfer_stand_in.so"
    compiler = shutil.which("c++")
    command = [compiler, "-shared", "-fPIC", f"-I{headers['tensorrt']}", "-o", library, tmp_path / "stand_in.cc"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    done = _run(time_engine, model, "--runtime", library)
    _refuses(done, r"expected a GPU that CUDA can use, got none \(.*\). An engine runs only on a machine with")
    assert f"runtime {library}, version 1" in done.stdout
