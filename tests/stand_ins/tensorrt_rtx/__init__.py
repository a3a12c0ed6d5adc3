"""A stand-in for TensorRT-RTX's Python package: see ``tensorrt_stand_in.py`` beside this folder."""

from tensorrt_stand_in import *  # noqa: F403
from tensorrt_stand_in import (  # noqa: F401
    CudaGraphStrategy,
    DynamicShapesKernelSpecializationStrategy,
    IRuntimeConfig,
)
from tensorrt_stand_in import RtxCudaEngine as ICudaEngine  # noqa: F401
from tensorrt_stand_in import RtxRuntime as Runtime  # noqa: F401
from tensorrt_stand_in import __version_rtx__ as __version__  # noqa: F401
