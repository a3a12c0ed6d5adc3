"""The custom-op library for the CUDA provider, as far as a machine without a GPU shows it.

In the rehearsal the host plays the GPU: the library's own source in ONNX Runtime's CPU provider, with the kernels' own
source under it, goes through every test of the operator that the CPU's library goes through.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

import dcn_deploy
from dcn_deploy.errors import LibraryNotBuiltError

#: Tests that ask for what the rehearsal has not: kernels in several threads at once.
_NEEDS_THREADS = ("test_sessions.py::test_one_session_in_several_threads",)


def test_the_cpu_tests_pass_with_the_cuda_library(rehearsal: Path, tmp_path: Path, checkout: Path) -> None:
    shutil.copy(rehearsal / "libdcn_deploy_onnxruntime_cuda.so", tmp_path / "libdcn_deploy_onnxruntime.so")
    folder = checkout / "tests" / "onnxruntime_op"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", str(folder)]
    command += [f"--ignore={Path(__file__)}"]
    command += [f"--deselect=tests/onnxruntime_op/{name}" for name in _NEEDS_THREADS]
    environment = {**os.environ, "DCN_DEPLOY_LIBRARY_DIR": str(tmp_path)}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=checkout, env=environment, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout


def test_an_onnxruntime_without_cuda_or_a_machine_without_a_gpu_is_told() -> None:
    """The real library, where it was built: it loads without CUDA, and its registration says why it cannot serve."""
    try:
        path = dcn_deploy.library_path("onnxruntime_cuda")
    except LibraryNotBuiltError as error:
        assert "nvcc" in str(error)  # noqa: PT017
        return
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        expected = "expected an NVIDIA GPU that CUDA can use"
    else:
        expected = "expected an ONNX Runtime with the provider CUDAExecutionProvider, got version"
    with pytest.raises(Exception, match=f"dcn_deploy: {expected}"):
        onnxruntime.SessionOptions().register_custom_ops_library(str(path))
