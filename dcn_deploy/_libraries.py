"""Where the native libraries of this installation are."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from dcn_deploy.errors import InvalidArgumentError, LibraryNotBuiltError, describe


@dataclass(frozen=True)
class NativeLibrary:
    """One shared library of the project, and what to do where it is missing."""

    filename: str
    remedy: str


# One row a library. The file name is what CMake calls the target's output.
LIBRARIES = {
    "onnxruntime": NativeLibrary(
        "libdcn_deploy_onnxruntime.so",
        "It needs a C++17 compiler and the ONNX Runtime C API headers (ONNXRUNTIME_ROOT, or libonnxruntime-dev); "
        "reinstall with -C cmake.define.DCN_DEPLOY_ONNXRUNTIME=ON, which fails with the reason if one is missing",
    ),
    "onnxruntime_cuda": NativeLibrary(
        "libdcn_deploy_onnxruntime_cuda.so",
        "It needs nvcc of CUDA 12.8 or later and the ONNX Runtime C API headers (ONNXRUNTIME_ROOT, or "
        "libonnxruntime-dev); reinstall with -C cmake.define.DCN_DEPLOY_CUDA=ON -C "
        "cmake.define.DCN_DEPLOY_ONNXRUNTIME=ON, which fails with the reason if one is missing. On the CPU there is "
        "the library 'onnxruntime'",
    ),
    "tensorrt": NativeLibrary(
        "libdcn_deploy_tensorrt.so",
        "It needs nvcc of CUDA 12.8 or later and the headers of TensorRT 10.1 or later (TENSORRT_ROOT, or pip install "
        "--no-deps kernel-lens); reinstall with -C cmake.define.DCN_DEPLOY_CUDA=ON -C "
        "cmake.define.DCN_DEPLOY_TENSORRT=ON, which fails with the reason if one is missing. TensorRT reads the forms "
        "'standard' and 'decomposed' without it",
    ),
    "tensorrt_register": NativeLibrary(
        "libdcn_deploy_tensorrt_register.so",
        "It is built with the library 'tensorrt': reinstall with -C cmake.define.DCN_DEPLOY_CUDA=ON -C "
        "cmake.define.DCN_DEPLOY_TENSORRT=ON, which fails with the reason if something is missing",
    ),
}

#: Environment variable that names a folder to look in first (a CMake build folder, say).
LIBRARY_DIR_VARIABLE = "DCN_DEPLOY_LIBRARY_DIR"


def _search_path() -> list[Path]:
    folders = []
    override = os.environ.get(LIBRARY_DIR_VARIABLE)
    if override:
        folders.append(Path(override))
    folders.append(Path(__file__).resolve().parent / "lib")
    # In an editable installation the sources lie in the checkout and the libraries in site-packages.
    from importlib.metadata import PackageNotFoundError, distribution

    with contextlib.suppress(PackageNotFoundError):
        folders.append(Path(str(distribution("dcn-deploy").locate_file("dcn_deploy/lib"))))
    return folders


def library_path(kind: str) -> Path:
    """Return the path of a native library of this installation.

    Args:
        kind: ``"onnxruntime"``: custom-op library for ``SessionOptions.register_custom_ops_library``;
            ``"onnxruntime_cuda"``: the same for the CUDA provider;
            ``"tensorrt"``: plugin library for TensorRT's plugin registry;
            ``"tensorrt_register"``: library that puts it there when it is opened, for programs that do no more with
            a plugin library than to open it.

    Raises:
        InvalidArgumentError: for an unknown ``kind``.
        LibraryNotBuiltError: if the library is not there; the message names the missing piece.
    """
    library = LIBRARIES.get(kind)
    if library is None:
        raise InvalidArgumentError(
            describe("library_path(kind)", expected=f"one of {', '.join(LIBRARIES)}", actual=repr(kind))
        )
    folders = _search_path()
    for folder in folders:
        path = folder / library.filename
        if path.is_file():
            return path
    raise LibraryNotBuiltError(
        f"{library.filename} is not part of this installation (looked in {', '.join(map(str, folders))}). "
        f"{library.remedy}. 'dcn-deploy doctor' shows what was found."
    )


def cmake_path() -> Path:
    """Return the folder of this installation's CMake package: ``cmake -Ddcn_deploy_DIR=<folder>`` finds it.

    ``find_package(dcn_deploy)`` then makes a target of each native library, and ``dcn_deploy::headers``.

    Raises:
        LibraryNotBuiltError: if the installation has none.
    """
    folders = [folder / "cmake" / "dcn_deploy" for folder in _search_path()]
    for folder in folders:
        if (folder / "dcn_deploy-config.cmake").is_file():
            return folder
    raise LibraryNotBuiltError(
        f"dcn_deploy-config.cmake is not part of this installation (looked in {', '.join(map(str, folders))}). "
        "It comes with the native part; reinstall dcn-deploy from a wheel or a checkout"
    )
