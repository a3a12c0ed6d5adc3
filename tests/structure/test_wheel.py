"""The wheel that users install: what it holds, and that it works away from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import source_tree

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the checkout, in a build folder of its own: the one of the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps"]
    command += ["--config-settings", f"build-dir={folder / 'build'}"]
    # Their absence would be a reason to fail, not to build less.
    command += ["--config-settings", "cmake.define.DCN_DEPLOY_ONNXRUNTIME=ON"]
    if shutil.which("nvcc") is not None:
        command += ["--config-settings", "cmake.define.DCN_DEPLOY_TENSORRT=ON"]
    # One architecture shows whether the library gets into the wheel.
    command += ["--config-settings", "cmake.define.DCN_DEPLOY_CUDA_ARCHITECTURES=80-real"]
    command += ["--wheel-dir", str(folder / "dist"), str(source_tree.CHECKOUT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_only_one_name_at_top_level(names: list[str]) -> None:
    """``cli`` and ``models`` would be taken by whoever else has such a folder."""
    top = {name.split("/")[0] for name in names}
    version = (source_tree.CHECKOUT / "VERSION").read_text().strip()
    assert top == {"dcn_deploy", f"dcn_deploy-{version}.dist-info"}


def test_every_module_is_in_it(names: list[str]) -> None:
    wanted = {f"dcn_deploy/{path.relative_to(source_tree.PACKAGE)}" for path in source_tree.modules().values()}
    assert wanted <= set(names)


def test_nothing_else_is_in_it(names: list[str]) -> None:
    """Sources of the native part, tests, results and caches stay in the checkout."""
    allowed = {".py", ".so", ".typed", ".j2", ".json", ".h", ".cmake"}
    odd = [n for n in names if ".dist-info/" not in n and Path(n).suffix not in allowed]
    assert not odd
    assert not [n for n in names if "__pycache__" in n or "/tests/" in n]


def test_the_native_library_is_in_it(names: list[str]) -> None:
    assert "dcn_deploy/lib/libdcn_deploy_onnxruntime.so" in names
    has_nvcc = shutil.which("nvcc") is not None
    for library in ("onnxruntime_cuda", "tensorrt", "tensorrt_register"):
        assert (f"dcn_deploy/lib/libdcn_deploy_{library}.so" in names) == has_nvcc, library
    assert len([name for name in names if name.endswith(".so")]) <= 4, "the rest is for tests and benchmarks"


def test_the_cmake_package_is_in_it(names: list[str]) -> None:
    """Beside the libraries, as in any other prefix: ``dcn_deploy`` is the prefix here."""
    package = "dcn_deploy/lib/cmake/dcn_deploy"
    wanted = {f"{package}/dcn_deploy-{part}.cmake" for part in ("config", "config-version", "targets")}
    assert {*wanted, "dcn_deploy/include/dcn_deploy/plugins.h"} <= set(names)


def test_platform_tag_and_license(wheel: Path, names: list[str]) -> None:
    """Native code, but no part of it speaks to Python: one wheel for each platform, not for each interpreter."""
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("-any.whl")
    assert [n for n in names if n.endswith("LICENSE") and ".dist-info/" in n]


_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import dcn_deploy, dcn_deploy.cli.main, dcn_deploy.models
for module in (dcn_deploy, dcn_deploy.cli.main, dcn_deploy.models):
    assert module.__file__.startswith(sys.argv[1]), module.__file__
print(dcn_deploy.library_path("onnxruntime"))
print(dcn_deploy.cmake_path())
for name in ("cli", "models"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(f"'{name}' can be imported as a top-level package")
import numpy, onnxruntime, torch
options = onnxruntime.SessionOptions()
options.register_custom_ops_library(str(dcn_deploy.library_path("onnxruntime")))
network = dcn_deploy.models.create("single_dcn")
shape, = dcn_deploy.models.entry("single_dcn").inputs.values()
example = torch.zeros(shape)
print(network(example).shape)
"""


def test_it_works_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    """Installed into a folder of its own, seen before the checkout's installation, from another folder."""
    target = tmp_path / "installed here"  # a space, as users have them
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    # -P -S keep the checkout's editable installation out; the packages it needs are added behind.
    import sysconfig

    site_packages = sysconfig.get_paths()["purelib"]
    program = f"import sys; sys.path.append({site_packages!r})\n{_PROGRAM}"
    run = [sys.executable, "-S", "-c", program, str(target)]
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    library, package = done.stdout.splitlines()[:2]
    assert library == str(target / "dcn_deploy" / "lib" / "libdcn_deploy_onnxruntime.so")
    consumer = source_tree.CHECKOUT / "tests" / "cmake_package" / "consumer"
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert cmake is not None
    configure = [cmake, "-S", str(consumer), "-B", str(tmp_path / "consumer"), f"-Ddcn_deploy_DIR={package}"]
    done = subprocess.run(configure, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert library in (tmp_path / "consumer" / "libraries.txt").read_text().splitlines()


def test_the_command_is_declared(wheel: Path, names: list[str]) -> None:
    (entry_points,) = [n for n in names if n.endswith("entry_points.txt")]
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(entry_points).decode()
    assert "dcn-deploy = dcn_deploy.cli.main:main" in text.replace("=dcn", "= dcn").replace("deploy=", "deploy =")
