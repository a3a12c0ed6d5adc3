"""The custom-op library for the CUDA provider, as far as a machine without a GPU shows it.

In the rehearsal the host plays the GPU: the library's own source in ONNX Runtime's CPU provider, with the kernels' own
source under it, goes through every test of the operator that the CPU's library goes through.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cases
import numpy as np
import onnxruntime
import peers
import pytest

import dcn_deploy
from dcn_deploy.errors import LibraryNotBuiltError

#: The rehearsal runs one kernel at a time; and a GPU gives zeros for a RoI of no image, where the CPU refuses it.
_NOT_FOR_IT = (
    "test_one_session_in_several_threads",
    "test_one_session_in_eight_threads",
    "test_batch_index_outside_the_batch_is_refused",
    "test_rois_of_no_image_are_refused",
)


@pytest.mark.slow
def test_the_cpu_tests_pass_with_the_cuda_library(rehearsal: Path, tmp_path: Path, checkout: Path) -> None:
    shutil.copy(rehearsal / "libdcn_deploy_onnxruntime_cuda.so", tmp_path / "libdcn_deploy_onnxruntime.so")
    folder = checkout / "tests" / "onnxruntime_op"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", str(folder)]
    command += [f"--ignore={Path(__file__)}", "-k", " and ".join(f"not {name}" for name in _NOT_FOR_IT)]
    environment = {**os.environ, "DCN_DEPLOY_LIBRARY_DIR": str(tmp_path)}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=checkout, env=environment, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 900


def test_a_roi_of_no_image_gives_zeros(rehearsal: Path) -> None:
    """A GPU cannot refuse it without waiting for the device."""
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(rehearsal / "libdcn_deploy_onnxruntime_cuda.so"))
    case = cases.RoiCase("two", n=2, r=4, offset=False, mask=False)
    inputs = cases.make_roi_inputs(case, np.random.default_rng(1))
    inputs.rois[:, 0] = [0, 2, -1, math.nan]
    model = peers.roi_model(case).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, inputs.named())
    assert np.any(y[0])
    assert not np.any(y[1:])


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
