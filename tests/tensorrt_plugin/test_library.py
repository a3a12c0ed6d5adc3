"""The library itself: built where it can be, and fit to be loaded anywhere."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import dcn_deploy
from dcn_deploy.errors import LibraryNotBuiltError


def test_it_is_built_where_there_is_nvcc() -> None:
    """The headers are fetched if need be, so that only nvcc decides."""
    try:
        built = dcn_deploy.library_path("tensorrt").is_file()
    except LibraryNotBuiltError:
        built = False
    assert built == (shutil.which("nvcc") is not None)


def test_its_version(plugin_library: Path) -> None:
    version = ctypes.CDLL(str(plugin_library)).dcn_deploy_version
    version.restype = ctypes.c_char_p
    assert version().decode() == dcn_deploy.__version__


def _lines(*command: str) -> list[str]:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_it_exports_what_tensorrt_looks_for_and_nothing_else(plugin_library: Path) -> None:
    lines = _lines("nm", "--dynamic", "--defined-only", str(plugin_library))
    names = {line.split()[-1].split("@")[0] for line in lines}
    assert names == {"getCreators", "setLoggerFinder", "dcn_deploy_version", "DCN_DEPLOY_1"}


def test_it_needs_neither_tensorrt_nor_cuda_nor_a_c_plus_plus_library(plugin_library: Path) -> None:
    lines = [line for line in _lines("readelf", "--dynamic", str(plugin_library)) if "(NEEDED)" in line]
    needed = {line.split("[")[1].rstrip("]").split(".so")[0] for line in lines}
    assert needed <= {"libgcc_s", "libc", "libm", "libdl", "libpthread", "librt", "ld-linux-x86-64"}


def test_its_source_names_nothing_that_tensorrt_calls_deprecated(checkout: Path) -> None:
    """The compiler refuses deprecated functions; of deprecated classes it says nothing."""
    package = importlib.util.find_spec("kernel_lens")
    if package is None or package.origin is None:
        pytest.skip("the package kernel-lens, which carries TensorRT's headers, is not installed")
    headers = (Path(package.origin).parent / "include" / "tensorrt").glob("*.h")
    text = "".join(path.read_text(encoding="utf-8") for path in headers)
    names = set(re.findall(r"class TRT_DEPRECATED (\w+)", text))
    assert {"IPluginV2", "IPluginV2Ext", "IPluginCreator"} <= names
    sources = sorted((checkout / "plugins" / "tensorrt").glob("*.[ch]*"))
    assert sources
    used = set(re.findall(r"nvinfer1::(\w+)", "".join(path.read_text(encoding="utf-8") for path in sources)))
    assert {"IPluginV3OneBuild", "IPluginCreatorV3One"} <= used
    assert not used & names
