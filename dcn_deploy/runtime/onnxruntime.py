"""The backend ``onnxruntime``: ONNX Runtime on the CPU, all three forms of a file. Other providers derive from it."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dcn_deploy._lazy import require
from dcn_deploy._libraries import library_path
from dcn_deploy.errors import BackendError, DcnDeployError, LibraryNotBuiltError, UnsupportedError, describe
from dcn_deploy.runtime import onnx_model
from dcn_deploy.runtime.base import ModelRunner
from dcn_deploy.runtime.runner import NodeTime, RunnerOptions, TensorSpec
from dcn_deploy.schema import DOMAIN

if TYPE_CHECKING:
    import numpy as np
    import onnx

#: A serialised model may not be larger than this: a limit of protobuf.
_LARGEST_MESSAGE = 2**31 - 1

#: ONNX Runtime's element types by ONNX's numbers, as far as they differ from NumPy's names.
_ONNX_BFLOAT16 = 16


class OnnxRuntimeRunner(ModelRunner):
    """Runs an ONNX file in ONNX Runtime's CPU provider.

    The project's custom-op library is registered when the model contains nodes of its domain. A model given by
    its path is read by ONNX Runtime itself, so weights may lie in files of their own and be of any size.
    """

    backend: ClassVar[str] = "onnxruntime"
    #: Kind of the custom-op library, as ``library_path`` has it.
    library: ClassVar[str] = "onnxruntime"

    def __init__(self, model: str | Path | onnx.ModelProto, *, options: RunnerOptions) -> None:
        super().__init__(model, options=options)
        self._session: Any = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._origins = _Origins(())

    def _load(self) -> None:
        ort = require("onnxruntime", f"the backend '{self.backend}'")
        proto = onnx_model.load(self.model, f"the backend '{self.backend}'", external_data=False)
        nodes = list(onnx_model.all_nodes(proto))
        self._origins = _Origins(proto.graph.node if self.options.profile else ())
        options = self._session_options(ort, needs_library=any(node.domain == DOMAIN for node in nodes))
        source = self._source(proto, options)
        try:
            self._session = ort.InferenceSession(source, options, providers=self._providers())
        except Exception as error:
            raise _backend_error("ONNX Runtime refused the model", error, ort.__version__) from error
        self._inputs = tuple(_spec(value) for value in self._session.get_inputs())
        wanted = {value.name for value in proto.graph.output}
        self._outputs = tuple(
            _spec(value)
            for value in self._session.get_outputs()
            # An intermediate may be a sequence or an optional; it is left out, while a true output may not be.
            if value.name in wanted or value.type.startswith("tensor(")
        )

    def _providers(self) -> list[Any]:
        """Return what to hand to ``InferenceSession``."""
        return ["CPUExecutionProvider"]

    def _free(self) -> None:
        self._session = None
        self._origins = _Origins(())
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _run(self, feed: Mapping[str, np.ndarray[Any, Any]], outputs: list[str]) -> dict[str, np.ndarray[Any, Any]]:
        # ONNX Runtime's own message for "no output wanted" is an empty list taken for all of them.
        if not outputs:
            return {}
        try:
            results = self._compute(feed, outputs)
        except DcnDeployError:
            raise
        except Exception as error:
            import onnxruntime as ort

            raise _backend_error("ONNX Runtime failed while running", error, ort.__version__) from error
        return dict(zip(outputs, results, strict=True))

    def _compute(self, feed: Mapping[str, np.ndarray[Any, Any]], outputs: list[str]) -> list[np.ndarray[Any, Any]]:
        """Run the session; whatever ONNX Runtime raises comes out of it."""
        if any(spec.dtype is not None and spec.dtype.name == "bfloat16" for spec in (*self._inputs, *self._outputs)):
            values = {name: to_ort_value(array) for name, array in feed.items()}
            return [from_ort_value(value) for value in self._session.run_with_ort_values(outputs, values)]
        results: list[np.ndarray[Any, Any]] = self._session.run(outputs, dict(feed))
        return results

    def node_times(self, skip: int = 0) -> tuple[NodeTime, ...]:
        """Return what each node took; see :meth:`Runner.node_times`. From ONNX Runtime's own profiler."""
        self._require_recording(self._folder)
        assert self._folder is not None
        events = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        self._folder.cleanup()
        self._folder = None
        return self._times_of(events, skip)

    def _times_of(self, events: list[dict[str, Any]], skip: int) -> tuple[NodeTime, ...]:
        runs = sorted(event["ts"] for event in events if event.get("name") == "model_run")
        if skip >= len(runs):
            return ()
        durations: dict[tuple[str, str], list[float]] = {}
        for event in sorted(events, key=lambda event: event.get("ts", 0)):
            name = event.get("name", "")
            if event.get("cat") != "Node" or not name.endswith("_kernel_time") or event["ts"] < runs[skip]:
                continue
            key = (name.removesuffix("_kernel_time"), event["args"].get("op_name", ""))
            durations.setdefault(key, []).append(event["dur"] * 1e-6)
        return tuple(self._node_time(name, op_type, seconds) for (name, op_type), seconds in durations.items())

    def _node_time(self, name: str, op_type: str, durations: list[float]) -> NodeTime:
        node = self._origins.find(name, op_type)
        domain = node.domain if node is not None else ""
        metadata = {entry.key: entry.value for entry in node.metadata_props} if node is not None else {}
        return NodeTime(name, op_type, domain, metadata, tuple(durations))

    def _session_options(self, ort: Any, *, needs_library: bool) -> Any:
        options = ort.SessionOptions()
        # 4 = fatal: errors come as exceptions, and printing them a second time would garble a progress bar.
        options.log_severity_level = 4
        options.inter_op_num_threads = 1
        if self.options.threads is not None:
            options.intra_op_num_threads = self.options.threads
        if not self.options.spinning:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self.options.profile:
            self._folder = tempfile.TemporaryDirectory(prefix="dcn_deploy-profile-")
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(self._folder.name) / "nodes")
        if needs_library:
            self._register_library(ort, options)
        return options

    def _register_library(self, ort: Any, options: Any) -> None:
        try:
            path = library_path(self.library)
        except LibraryNotBuiltError as error:
            raise LibraryNotBuiltError(
                f"the model contains nodes of domain '{DOMAIN}', which ONNX Runtime runs with a library of this "
                f"project. {error} Or convert the file: dcn-deploy convert --form standard (ONNX Runtime 1.25 or "
                "later; convolutions alone) or --form decomposed (any version)."
            ) from error
        try:
            options.register_custom_ops_library(str(path))
        except Exception as error:
            raise BackendError(
                f"ONNX Runtime {ort.__version__} cannot load {path}: {_plain(error)}. Expected a library built "
                "against the API of this version or an older one: reinstall dcn-deploy, or update onnxruntime."
            ) from error

    def _source(self, proto: onnx.ModelProto, options: Any) -> str | bytes:
        """Return what to hand to ``InferenceSession``: a path or the serialised model."""
        by_path = isinstance(self.model, str | Path)
        if by_path and not self.options.keep_intermediates:
            return str(self.model)
        if self.options.keep_intermediates:
            import onnx

            changed = onnx.ModelProto()
            changed.CopyFrom(proto)
            # Without a type: ONNX Runtime fills in the one that it has inferred itself.
            changed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in onnx_model.intermediate_names(proto))
            proto = changed
        if by_path:
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", str(Path(self.model).resolve().parent)
            )
        if proto.ByteSize() > _LARGEST_MESSAGE:
            return self._write_large(proto)
        serialized: bytes = proto.SerializeToString()
        return serialized

    def _write_large(self, proto: onnx.ModelProto) -> str:
        import onnx

        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="dcn_deploy-model-")
        path = Path(self._folder.name) / "model.onnx"
        # save_model empties the tensors of what it is given.
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        onnx.save_model(copy, path, save_as_external_data=True, location="weights.bin")
        return str(path)


class _Origins:
    """Finds the node of the model that a node of the optimised graph stems from.

    ONNX Runtime keeps most names. A convolution that it moves to its blocked layout is called after its output,
    which is that of the activation where it has fused one; other fusions put a word before the name. Where it takes
    slices apart at once, the work is done under the name of one of them.
    """

    def __init__(self, nodes: Iterable[onnx.NodeProto]) -> None:
        self._by_name: dict[str, onnx.NodeProto] = {}
        self._by_output: dict[str, onnx.NodeProto] = {}
        for index, node in enumerate(nodes):
            self._by_name[node.name or f"{node.op_type}_{index}"] = node
            self._by_output.update(dict.fromkeys(node.output, node))

    def find(self, name: str, op_type: str) -> onnx.NodeProto | None:
        """Return the node that does the work of an executed one; None for what only the optimiser made."""
        names = (name, name.removeprefix("fused "), name.removesuffix("/GatherSliceToSplitFusion"))
        found = next((self._by_name[each] for each in names if each in self._by_name), None)
        if found is not None:
            return found
        producer = self._by_output.get(name.removesuffix("_nchwc"))
        # Back from the activation to the operator that it was fused into.
        while producer is not None and producer.op_type != op_type:
            producer = self._by_output.get(producer.input[0]) if producer.input else None
        return producer


def _spec(value: Any) -> TensorSpec:
    match = re.fullmatch(r"tensor\((\w+)\)", value.type)
    if match is None:
        raise UnsupportedError(describe(f"type of '{value.name}'", expected="a dense tensor", actual=value.type))
    # ONNX Runtime writes an unnamed dynamic axis as None and a dynamic one by its name.
    shape = None if value.shape is None else tuple(value.shape)
    return TensorSpec(value.name, _dtype(match[1], value.name), shape)


def _dtype(name: str, what: str) -> np.dtype[Any]:
    import numpy as np
    import onnx

    names = {"float": "FLOAT", "double": "DOUBLE", "string": "STRING", "bool": "BOOL"}
    element_type = names.get(name, name.upper())
    try:
        number = onnx.TensorProto.DataType.Value(element_type)
    except ValueError:
        raise UnsupportedError(
            f"'{what}' has the element type {name} of ONNX Runtime, which ONNX does not have."
        ) from None
    if element_type == "STRING":
        return np.dtype(object)
    return onnx_model.numpy_dtype(number, f"'{what}'")


def to_ort_value(array: np.ndarray[Any, Any]) -> Any:
    """Return an ``OrtValue`` in the host's memory with a copy or view of ``array``."""
    import numpy as np
    import onnxruntime as ort

    if array.dtype.name == "bfloat16":
        raw = np.ascontiguousarray(array).view(np.uint16)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(raw, _ONNX_BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def from_ort_value(value: Any) -> np.ndarray[Any, Any]:
    """Return what an ``OrtValue`` in the host's memory holds."""
    if value.data_type() != "tensor(bfloat16)":
        array: np.ndarray[Any, Any] = value.numpy()
        return array
    import ctypes

    import ml_dtypes
    import numpy as np

    # OrtValue.numpy() refuses bfloat16, for which NumPy has no type of its own.
    shape = tuple(value.shape())
    array = np.empty(shape, dtype=ml_dtypes.bfloat16)
    if array.nbytes:
        ctypes.memmove(array.ctypes.data, value.data_ptr(), array.nbytes)
    return array


# What ONNX Runtime's messages say, and what to do about it. The first row that matches counts.
_REMEDIES = (
    (
        r"DeformConv\b.*(not a registered function/op|Could not find an implementation)"
        r"|Could not find an implementation for DeformConv\b|No Op registered for DeformConv\b",
        "ONNX Runtime has the standard DeformConv from 1.25 on. Update onnxruntime, or convert the file: dcn-deploy "
        "convert --form plugin or --form decomposed.",
    ),
    (
        r"not a registered function/op|No Op registered|Could not find an implementation",
        "This version of ONNX Runtime has no kernel for that node and its element types on the CPU. Update "
        "onnxruntime, or export with another opset or element type.",
    ),
    (
        r"Type Error: Type '",
        "That node does not take this element type: export the network in float32.",
    ),
    (
        r"opset \d+ is under development|Unsupported model IR version|only \*guarantees\* support|max supported",
        "The file is newer than this ONNX Runtime. Update onnxruntime, or export with a lower --opset.",
    ),
    (
        r"external_data|external data|External data|model_path must not be empty|External initializer",
        "The weights lie in a file of their own. Give the path of the .onnx file and keep that file beside it.",
    ),
    (r"Failed to allocate memory|bad_alloc|bad allocation", "Not enough memory: take a smaller batch or image."),
)

_NODE_PATTERNS = (
    r"while running (?P<type>\S+) node\. Name:'(?P<name>[^']*)'",
    r"for (?P<type>\w+)\(\d+\) node with name '(?P<name>[^']*)'",
    r"Node \((?P<name>[^)]*)\) Op \((?P<type>[^)]*)\)",
    r"In Node, \(\"(?P<name>[^\"]*)\", (?P<type>\w+)",
    r"in node \((?P<name>[^)]*)\)",
    r"Node:\s*(?P<name>\S+)",
    r"node '(?P<name>[^']+)'",
)


def _backend_error(what: str, error: Exception, version: str) -> BackendError:
    text = _plain(error)
    node = ""
    for pattern in _NODE_PATTERNS:
        match = re.search(pattern, text)
        if match:
            kind = match.groupdict().get("type") or ""
            node = f" at node '{match['name']}'" + (f" ({kind})" if kind else "")
            break
    remedy = next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, text, re.DOTALL)), "")
    return BackendError(f"{what}{node} (version {version}): {text.rstrip('.')}.{' ' + remedy if remedy else ''}")


# Signature of the C++ function that raised: ReshapeHelper::ReshapeHelper(const onnxruntime::TensorShape&, bool)
_CPP_FUNCTION = re.compile(
    r"(?:\b(?:void|bool|[\w:]*Status) )?[\w:~]+"
    r"\((?:const|std::|onnxruntime::|onnx::|bool\b|int\b)[^()]*\)(?: const)? "
)


def _plain(error: Exception) -> str:
    """Return ONNX Runtime's message without its status code and where in its own sources it comes from."""
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error)).strip()
    text = re.sub(r"(?:\S*/)?\w+\.(?:cc|h):\d+ ", "", text)
    text = _CPP_FUNCTION.sub("", text)
    return " ".join(text.split())
