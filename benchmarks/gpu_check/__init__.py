"""One command for a machine with an NVIDIA GPU: build the kernels, prove them, time them beside their peers.

    python -m benchmarks.gpu_check [STAGE ...]

See ``python -m benchmarks.gpu_check --help`` and docs/gpu.md. Nothing here needs the package installed, nor anything
but NumPy to be imported; PyTorch with CUDA is needed on the GPU.
"""
