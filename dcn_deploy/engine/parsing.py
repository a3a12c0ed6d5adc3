"""TensorRT's ONNX parser, with errors that say which node, why, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcn_deploy.errors import BackendError, UnsupportedError
from dcn_deploy.runtime.engine_metadata import numpy_dtype
from dcn_deploy.runtime.tensorrt_api import DTYPES, Api, Messages
from dcn_deploy.schema import BY_STANDARD_OP_TYPE, DOMAIN, OPERATORS

if TYPE_CHECKING:
    import numpy as np

# How many of several errors are shown.
_SHOWN = 3

# What the parser's errors say, and what to do about it. The first row whose words are in the text counts.
_REMEDIES = (
    ("Plugin not found", "TensorRT has no such operator: replace the node by ones of the ONNX standard"),
    ("MODEL_DESERIALIZE_FAILED", "the file is damaged, or larger than TensorRT reads"),
    ("Unsupported ONNX data type", "convert the network to float32: dcn-deploy convert --precision fp32"),
    ("DOUBLE", "convert the network to float32: dcn-deploy convert --precision fp32"),
    ("strongly typed", "give all inputs of the node one element type: export the network again, or insert a Cast"),
    ("same type", "give all inputs of the node one element type: export the network again, or insert a Cast"),
)
_OTHERWISE = (
    "export the network with another --opset, or fold its constants (torch.onnx.export does with optimize=True)"
)


def check_operators(api: Api, parser: Any, operators: Sequence[tuple[str, str]]) -> None:
    """Refuse operators that neither the parser nor the plugin registry has, before the parser stumbles over them.

    Args:
        api: the package.
        parser: its ``OnnxParser``.
        operators: (node, op_type) of every node.

    Raises:
        UnsupportedError: naming the first node and every such operator.
    """
    unknown: dict[str, str] = {}
    for node, op_type in operators:
        if op_type not in unknown and not parser.supports_operator(op_type) and not _is_plugin(api, op_type):
            unknown[op_type] = node
    if unknown:
        first, others = next(iter(unknown)), list(unknown)[1:]
        more = f" (nor {', '.join(others)})" if others else ""
        raise UnsupportedError(
            f"Node '{unknown[first]}': {api.title} has no operator {first}{more}. Replace the node by ones of the ONNX "
            "standard that it has, or run the file in ONNX Runtime."
        )


def _is_plugin(api: Api, op_type: str) -> bool:
    if not api.package.takes_plugins:
        return False
    # The stock plugin of a standard operator has another name, which only the parser knows.
    return op_type in OPERATORS or op_type in BY_STANDARD_OP_TYPE or op_type in registered(api)


def registered(api: Api) -> set[str]:
    """Return the names of the plugins in the registry."""
    return {creator.name for creator in api.registry.all_creators}


def parse(api: Api, parser: Any, path: Path, source: str, messages: Messages) -> None:
    """Parse a file into the parser's network.

    Args:
        api: the package.
        parser: its ``OnnxParser``.
        path: the file to parse.
        source: what to call it in an error.
        messages: what TensorRT says meanwhile.

    Raises:
        BackendError: naming each node at fault, the reason and what to do.
    """
    if parser.parse_from_file(str(path)):
        return
    errors = [describe_error(parser.get_error(i)) for i in range(parser.num_errors)]
    if not errors:
        raise api.error(f"it cannot read '{source}'", messages, _sentence(_OTHERWISE))
    more = f" ({len(errors) - _SHOWN} more errors)" if len(errors) > _SHOWN else ""
    raise BackendError(f"{api.title} cannot read '{source}': {' '.join(errors[:_SHOWN])}{more}")


def element_types(network: Any) -> dict[str, np.dtype[Any]]:
    """Return the element type of each input and output of a network, by name, as far as NumPy has it."""
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    tensors += [network.get_output(i) for i in range(network.num_outputs)]
    return {tensor.name: numpy_dtype(DTYPES[tensor.dtype.name]) for tensor in tensors if tensor.dtype.name in DTYPES}


def describe_error(error: Any) -> str:
    """Return node, operator, reason and remedy of a ``ParserError``."""
    reason = " ".join(str(error.desc()).split()).rstrip(".")
    code = str(error.code()).rpartition(".")[2]
    remedy = next((advice for words, advice in _REMEDIES if words in reason or words == code), _OTHERWISE)
    if error.node() < 0:
        return f"{reason}. {_sentence(remedy)}"
    operator = error.node_operator()
    domain = f" of the domain {DOMAIN}" if operator in OPERATORS else ""
    return f"node '{error.node_name()}' ({operator}{domain}): {reason}. {_sentence(remedy)}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
