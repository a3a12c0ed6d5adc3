"""A stand-in for NVIDIA's cuda-bindings: see ``runtime.py``."""

__version__ = "stand-in"
