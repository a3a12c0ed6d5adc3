"""The library that registers the plugins when it is opened: with stand-ins for TensorRT's registry, and real ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import source_tree

_ON_LOAD = source_tree.CHECKOUT / "plugins" / "tensorrt" / "on_load"
_PLUGINS = "libdcn_deploy_tensorrt.so"

# Opens the first libraries as their callers do, and then the last one; "global" is said of those that all may see.
_PROGRAM = """
import ctypes, os, sys
for word in sys.argv[1:]:
    path, _, visibility = word.partition(":")
    ctypes.CDLL(path, mode=os.RTLD_GLOBAL if visibility == "global" else os.RTLD_LOCAL)
"""


@pytest.fixture(scope="module")
def compile_library(headers):
    """``compile_library(source, output, *arguments)``: a shared library on TensorRT's headers."""
    if not headers["tensorrt"] or shutil.which("nvcc") is None:
        pytest.skip("TensorRT's headers and those of CUDA are needed")
    cuda = subprocess.run(["nvcc", "--dryrun", "-x", "cu", "/dev/null"], capture_output=True, text=True, check=True)
    (include,) = {
        word.strip('"')[2:]
        for line in cuda.stderr.splitlines()
        if line.startswith("#$ INCLUDES=")
        for word in line.partition("=")[2].split()
        if word.strip('"').endswith("/include")
    }

    def run(source, output, *arguments):
        command = [shutil.which("c++"), "-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
        command += ["-Werror", "-isystem", headers["tensorrt"], "-isystem", include, *arguments]
        done = subprocess.run([*command, source, "-o", output], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    return run


@pytest.fixture(scope="module")
def register(compile_library, tmp_path_factory):
    """The library, in a folder with a space in its name."""
    path = tmp_path_factory.mktemp("register") / "some folder" / "libdcn_deploy_tensorrt_register.so"
    path.parent.mkdir()
    include = f"-I{source_tree.CHECKOUT / 'plugins' / 'include'}"
    exports = f"-Wl,--version-script={_ON_LOAD / 'exports.map'},--no-undefined"
    compile_library(_ON_LOAD / "register.cc", path, include, exports, '-DDCN_DEPLOY_VERSION="1"')
    return path


@pytest.fixture(scope="module")
def make_registry(compile_library, tmp_path_factory):
    """``make_registry(version)``: a library with the stand-in registry, named as TensorRT's of that version."""

    def make(version):
        path = tmp_path_factory.mktemp("registry") / f"libnvinfer.so.{version // 10000}"
        name = f"-Wl,-soname,{path.name}"
        source = source_tree.CHECKOUT / "tests" / "cmake_package" / "stand_in_registry.cc"
        compile_library(source, path, f"-DSTAND_IN_VERSION={version}", name, "-Wno-deprecated-declarations")
        return path

    return make


@pytest.fixture(scope="module")
def version_of_headers(headers):
    """Major version of TensorRT's headers."""
    from pathlib import Path

    text = (Path(headers["tensorrt"]) / "NvInferVersion.h").read_text()
    (major,) = {
        line.split()[2]
        for line in text.splitlines()
        if line.startswith(("#define NV_TENSORRT_MAJOR ", "#define TRT_MAJOR_ENTERPRISE "))
        and line.split()[2].isdigit()
    }
    return int(major)


def _open(*words, **environment):
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("visibility", ["global", "local"])
def test_it_has_the_registry_load_the_plugins_beside_it(visibility, register, make_registry, version_of_headers):
    registry = make_registry(version_of_headers * 10000 + 100)
    done = _open(f"{registry}:{visibility}", register)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"loadLibrary {register.parent / _PLUGINS}\n"


def test_plugins_that_are_registered_are_left_alone(register, make_registry, version_of_headers, tmp_path):
    """TensorRT takes no plugin a second time."""
    again = shutil.copy(register, tmp_path / "again.so")
    done = _open(make_registry(version_of_headers * 10000), register, again)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("loadLibrary") == 1


def test_plugins_that_are_refused_are_told_of(register, make_registry, version_of_headers, tmp_path):
    copy = shutil.copy(register, tmp_path / "librefused.so")
    folder = tmp_path / "refused"
    folder.mkdir()
    copy = shutil.move(copy, folder)
    done = _open(make_registry(version_of_headers * 10000), copy)
    assert done.returncode == 0
    assert done.stderr == (
        f"dcn_deploy: no plugins registered: TensorRT did not take {folder / _PLUGINS}. See what its logger says.\n"
    )


def test_another_version_is_not_called(register, make_registry, version_of_headers):
    """Its registry has its functions in other places."""
    registry = make_registry((version_of_headers + 1) * 10000)
    done = _open(f"{registry}:global", register)
    assert (done.returncode, done.stdout) == (0, "")
    assert f"expected TensorRT {version_of_headers}, whose headers" in done.stderr
    assert f"found {version_of_headers + 1}. Hand {_PLUGINS}, which serves both" in done.stderr


def test_without_tensorrt_it_says_so(register, version_of_headers):
    if _open(f"libnvinfer.so.{version_of_headers}").returncode == 0:
        pytest.skip("TensorRT is installed here")
    done = _open(register)
    assert done.returncode == 0
    wanted = f"expected TensorRT {version_of_headers} in this process or where the loader looks, found none. Load it"
    assert wanted in done.stderr


def test_it_looks_for_tensorrt_that_is_not_loaded_yet(register, make_registry, version_of_headers):
    """Whoever opens plugins first and TensorRT afterwards gets the same one, if it is where the loader looks."""
    registry = make_registry(version_of_headers * 10000)
    done = _open(register, LD_LIBRARY_PATH=str(registry.parent))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"loadLibrary {register.parent / _PLUGINS}\n"


@pytest.mark.parametrize(
    ("package", "name", "version"),
    [("tensorrt_lean_libs", "libnvinfer_lean.so.11", "11"), ("tensorrt_rtx_libs", "libtensorrt_rtx.so.1", "1")],
)
def test_real_registries_of_other_versions_are_left_alone(package, name, version, register, version_of_headers):
    if str(version_of_headers) == version:
        pytest.skip("the headers are of this version")
    (folder,) = pytest.importorskip(package, reason="one of NVIDIA's packages").__path__
    done = _open(f"{folder}/{name}:global", register)
    assert done.returncode == 0, done.stderr
    assert f"expected TensorRT {version_of_headers}, whose headers this library was built with, found {version}." in (
        done.stderr
    )
