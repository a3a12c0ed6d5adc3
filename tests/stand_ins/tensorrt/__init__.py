"""A stand-in for TensorRT's Python package: see ``tensorrt_stand_in.py`` beside this folder."""

from tensorrt_stand_in import *  # noqa: F403
from tensorrt_stand_in import __version_tensorrt__ as __version__  # noqa: F401
