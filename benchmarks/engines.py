"""The engines that the CPU benchmark times, each as one function that runs one deformable convolution.

All get the same arrays. The weight and the bias are constants of the graph, as in a deployed network, so that an
engine may pack them beforehand; feature map, offset and mask are inputs that lie in the engine's own tensors
already, and the output goes to memory that was allocated before (PyTorch allocates its own).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from dcn_deploy.models import ConvShape

Array = np.ndarray[Any, np.dtype[np.float32]]

#: Newest IR version that every ONNX Runtime from 1.21 on reads.
_IR_VERSION = 10
_OPSET = 22
#: ONNX Runtime has a DeformConv of its own since this version.
_FIRST_WITH_DEFORM_CONV = (1, 25)


@dataclass(frozen=True)
class Tensors:
    """Inputs of one convolution; ``mask`` is None for v1."""

    X: Array
    W: Array
    B: Array
    offset: Array
    mask: Array | None

    @classmethod
    def random(cls, shape: ConvShape, seed: int) -> Tensors:
        """Draw features and weights from N(0, 1), offsets from N(0, 2²) pixels, the mask from sigmoid(N(0, 1))."""
        rng = np.random.default_rng(seed)

        def normal(dims: tuple[int, ...], scale: float = 1.0) -> Array:
            return (rng.standard_normal(dims) * scale).astype(np.float32)

        reduction = shape.c // shape.group * shape.kernel**2
        return cls(
            X=normal(shape.input_shape),
            W=normal(shape.weight_shape, reduction**-0.5),
            B=normal((shape.m,)),
            offset=normal(shape.offset_shape, 2.0),
            mask=None if shape.mask_shape is None else 1 / (1 + np.exp(-normal(shape.mask_shape))),
        )


@dataclass(frozen=True)
class Prepared:
    """One engine with one convolution, ready to run.

    Attributes:
        run: computes once; takes the number of the round, which does not matter here.
        output: returns what the last run computed, float32 [N, M, Ho, Wo].
    """

    run: Callable[[int], object]
    output: Callable[[], Array]


Prepare = Callable[["ConvShape", Tensors, int], Prepared]


@dataclass(frozen=True)
class Engine:
    """One row of the table of engines.

    Attributes:
        name: in tables and files.
        description: what it is, for a reader of the results.
        prepare: makes it ready for a shape, its tensors and a number of threads.
        deformable: whether it computes the operator; the dense convolution does not, it is the floor.
        missing: returns what is not installed, or None.
        places_threads: whether it gives its threads cores of their own by itself.
    """

    name: str
    description: str
    prepare: Prepare
    deformable: bool
    missing: Callable[[], str | None]
    places_threads: bool = False


def _onnx_model(shape: ConvShape, tensors: Tensors, op_type: str, domain: str) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    inputs = [("X", shape.input_shape), ("offset", shape.offset_shape)]
    names = ["X", "W", "offset", "B"]
    if shape.mask_shape is not None:
        inputs.append(("mask", shape.mask_shape))
        names.append("mask")
    node = helper.make_node(
        op_type,
        names,
        ["Y"],
        name=shape.name,
        domain=domain,
        kernel_shape=[shape.kernel] * 2,
        strides=[shape.stride] * 2,
        pads=[shape.padding] * 4,
        dilations=[shape.dilation] * 2,
        group=shape.group,
        offset_group=shape.offset_group,
    )
    graph = helper.make_graph(
        [node],
        shape.name,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in inputs],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, shape.output_shape)],
        [numpy_helper.from_array(tensors.W, "W"), numpy_helper.from_array(tensors.B, "B")],
    )
    opsets = [helper.make_opsetid("", _OPSET), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    return bytes(model.SerializeToString())


def _onnxruntime(shape: ConvShape, tensors: Tensors, threads: int, *, ours: bool) -> Prepared:
    from dcn_deploy.schema import DEFORM_CONV2D, DOMAIN

    if ours:
        model = _onnx_model(shape, tensors, DEFORM_CONV2D.op_type, DOMAIN)
    else:
        model = _onnx_model(shape, tensors, "DeformConv", "")
    given = {"X": tensors.X, "offset": tensors.offset, "mask": tensors.mask}
    fed = {name: array for name, array in given.items() if array is not None}
    return bound_session(model, fed, shape.output_shape, threads, ours=ours)


def bound_session(
    model: bytes, given: Mapping[str, Any], output_shape: Sequence[int], threads: int, *, ours: bool
) -> Prepared:
    """A session of ONNX Runtime whose inputs, arrays by name, and output Y are in its own tensors."""
    import onnxruntime

    import dcn_deploy

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if ours:
        options.register_custom_ops_library(str(dcn_deploy.library_path("onnxruntime")))
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, array in given.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    y = onnxruntime.OrtValue.ortvalue_from_numpy(np.empty(output_shape, np.float32))
    binding.bind_ortvalue_output("Y", y)
    return Prepared(lambda _: session.run_with_iobinding(binding), lambda: np.array(y.numpy()))


def _ours(shape: ConvShape, tensors: Tensors, threads: int) -> Prepared:
    return _onnxruntime(shape, tensors, threads, ours=True)


def _theirs(shape: ConvShape, tensors: Tensors, threads: int) -> Prepared:
    return _onnxruntime(shape, tensors, threads, ours=False)


def _openvino(shape: ConvShape, tensors: Tensors, threads: int) -> Prepared:
    import openvino
    from openvino import opset8

    given = {"X": tensors.X, "offset": tensors.offset, "mask": tensors.mask}
    parameters = {
        name: opset8.parameter(list(array.shape), np.float32, name=name)
        for name, array in given.items()
        if array is not None
    }
    convolution = opset8.deformable_convolution(
        parameters["X"],
        parameters["offset"],
        opset8.constant(tensors.W),
        [shape.stride] * 2,
        [shape.padding] * 2,
        [shape.padding] * 2,
        [shape.dilation] * 2,
        mask=parameters.get("mask"),
        group=shape.group,
        deformable_group=shape.offset_group,
        # Each corner outside the map counts as zero on its own: the meaning of the ONNX operator.
        bilinear_interpolation_pad=True,
    )
    y = opset8.add(convolution, opset8.constant(tensors.B[None, :, None, None]))
    graph = openvino.Model([y], list(parameters.values()), shape.name)
    config = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = openvino.Core().compile_model(graph, "CPU", config).create_infer_request()
    for name, array in given.items():
        if array is not None:
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
    return Prepared(lambda _: request.infer(), lambda: np.array(request.get_output_tensor().data))


def _torch(shape: ConvShape, tensors: Tensors, threads: int, *, deformable: bool) -> Prepared:
    import torch

    torch.set_num_threads(threads)
    x, w, b, offset = (torch.from_numpy(a) for a in (tensors.X, tensors.W, tensors.B, tensors.offset))
    last: list[torch.Tensor] = []
    geometry = (shape.stride, shape.padding, shape.dilation)

    if deformable:
        import torchvision

        mask = None if tensors.mask is None else torch.from_numpy(tensors.mask)

        def compute() -> torch.Tensor:
            return torchvision.ops.deform_conv2d(x, offset, w, b, *geometry, mask)
    else:

        def compute() -> torch.Tensor:
            return torch.conv2d(x, w, b, *geometry, shape.group)

    def run(_: int) -> None:
        with torch.inference_mode():
            last[:] = [compute()]

    return Prepared(run, lambda: last[0].numpy())


def _torchvision(shape: ConvShape, tensors: Tensors, threads: int) -> Prepared:
    return _torch(shape, tensors, threads, deformable=True)


def _dense(shape: ConvShape, tensors: Tensors, threads: int) -> Prepared:
    return _torch(shape, tensors, threads, deformable=False)


def _needs(*packages: str) -> Callable[[], str | None]:
    def missing() -> str | None:
        absent = [package for package in packages if importlib.util.find_spec(package) is None]
        return f"{', '.join(absent)} not installed" if absent else None

    return missing


def _needs_our_library() -> str | None:
    import dcn_deploy
    from dcn_deploy.errors import LibraryNotBuiltError

    try:
        dcn_deploy.library_path("onnxruntime")
    except LibraryNotBuiltError as error:
        return str(error)
    return _needs("onnxruntime")()


def _needs_deform_conv() -> str | None:
    missing = _needs("onnxruntime")()
    if missing is None:
        import onnxruntime

        version = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
        if version < _FIRST_WITH_DEFORM_CONV:
            return f"onnxruntime {onnxruntime.__version__} has no DeformConv of its own (1.25 has)"
    return missing


OURS = "dcn_deploy"
DENSE = "dense conv"

#: Every engine: this project's first, then its peers, then the floor.
ENGINES = {
    engine.name: engine
    for engine in (
        Engine(OURS, "custom operator of this project in ONNX Runtime", _ours, True, _needs_our_library),
        Engine("onnxruntime", "ONNX Runtime's own DeformConv", _theirs, True, _needs_deform_conv),
        Engine("openvino", "OpenVINO's DeformableConvolution (opset 8)", _openvino, True, _needs("openvino"), True),
        Engine("torchvision", "torchvision.ops.deform_conv2d", _torchvision, True, _needs("torch", "torchvision")),
        Engine(DENSE, "dense convolution of the same shape, oneDNN through torch", _dense, False, _needs("torch")),
    )
}
PEERS = tuple(name for name, engine in ENGINES.items() if engine.deformable and name != OURS)
