"""Run in a process of its own by the tests: NVIDIA's own ONNX parser meets a plugin node.

The parser is that of TensorRT-RTX. It looks for the plugin's creator, reads the node's attributes into fields and has
the plugin created, as TensorRT's does; but TensorRT-RTX takes no plugins, and ends the process when it should add one.
"""

from __future__ import annotations

import sys
from typing import Any

import tensorrt_rtx as trt


class Logger(trt.ILogger):  # type: ignore[misc]
    """Prints at once: the process may end."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)

    def log(self, severity: Any, message: str) -> None:
        print(message, flush=True)


def main() -> None:
    library, model = sys.argv[1:]
    logger = Logger()
    builder = trt.Builder(logger)
    builder.get_plugin_registry().load_library(library)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    with open(model, "rb") as file:
        print("parsed:", parser.parse(file.read()))
    for index in range(parser.num_errors):
        print("error:", parser.get_error(index).desc())


main()
