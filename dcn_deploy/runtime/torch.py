"""The backend ``torch``: a PyTorch network as it is, in eval mode and without autograd."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from dcn_deploy._lazy import require
from dcn_deploy.errors import BackendError, InvalidArgumentError, UnsupportedError, describe
from dcn_deploy.runtime.base import ModelRunner
from dcn_deploy.runtime.feed import check_feed, check_outputs
from dcn_deploy.runtime.runner import RunnerOptions, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import torch
    from typing_extensions import Self


class TorchRunner(ModelRunner):
    """Runs a ``torch.nn.Module``.

    The inputs are the parameters of ``forward``; those with a default may be left out of a feed. The outputs
    are the tensors that ``forward`` returns, through tuples, lists and dicts in their order; their number, types
    and shapes are known after the first run.

    The memory format of the arrays is kept: a channels-last array stays channels-last.
    """

    backend: ClassVar[str] = "torch"

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        options: RunnerOptions,
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(model, options=options)
        self.input_names = None if input_names is None else tuple(input_names)
        self.output_names = None if output_names is None else tuple(output_names)
        self._optional: tuple[TensorSpec, ...] = ()
        self._were_training: list[torch.nn.Module] = []
        self._own_storages: frozenset[int] = frozenset()

    def replicate(self, **changes: Any) -> Self:
        """Return an inactive runner of the same network with other options; see :meth:`Runner.replicate`."""
        copy = super().replicate(**changes)
        copy.input_names, copy.output_names = self.input_names, self.output_names
        return copy

    def _load(self) -> None:
        torch = require("torch", "the backend 'torch'")
        if not isinstance(self.model, torch.nn.Module):
            raise InvalidArgumentError(
                describe(
                    "model of the backend 'torch'",
                    expected="a torch.nn.Module",
                    actual=type(self.model).__qualname__,
                )
            )
        required, optional = self._names_of_inputs()
        self._inputs = tuple(TensorSpec(name, None, None) for name in required)
        self._optional = tuple(TensorSpec(name, None, None) for name in optional)
        self._outputs = tuple(TensorSpec(name, None, None) for name in self.output_names or ())
        self._were_training = [module for module in self.model.modules() if module.training]
        self.model.eval()
        self._own_storages = frozenset(
            tensor.untyped_storage().data_ptr() for tensor in (*self.model.parameters(), *self.model.buffers())
        )

    def _free(self) -> None:
        for module in self._were_training:
            # Not module.train(): it would also reach submodules that were in eval mode.
            module.training = True
        self._were_training = []

    def _names_of_inputs(self) -> tuple[list[str], list[str]]:
        if self.input_names is not None:
            return list(self.input_names), []
        required: list[str] = []
        optional: list[str] = []
        for parameter in inspect.signature(self.model.forward).parameters.values():
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                raise InvalidArgumentError(
                    f"forward of {type(self.model).__qualname__} takes *{parameter.name}: expected named "
                    "parameters or input_names, got neither. Give input_names=(...) to runtime.create."
                )
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                continue
            (required if parameter.default is parameter.empty else optional).append(parameter.name)
        return required, optional

    def _check(self, feed: Mapping[str, np.ndarray[Any, Any]]) -> None:
        check_feed(self.backend, self._inputs, feed, optional=self._optional)

    def _wanted(self, outputs: Sequence[str] | None) -> list[str]:
        # Before the first run nothing is known about the outputs, so _run checks the names after it.
        return list(outputs) if outputs is not None else []

    def infer(
        self, feed: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Run once; see :meth:`Runner.infer`."""
        results = super().infer(feed)
        names = check_outputs(self.backend, self._outputs, outputs)
        return {name: results[name] for name in names}

    def _run(self, feed: Mapping[str, np.ndarray[Any, Any]], outputs: list[str]) -> dict[str, np.ndarray[Any, Any]]:
        import torch

        device = next((tensor.device for tensor in self.model.parameters()), torch.device("cpu"))
        tensors = {name: _to_tensor(array).to(device) for name, array in feed.items()}
        with torch.inference_mode(), _threads(self.options.threads):
            try:
                if self.input_names is not None:
                    result = self.model(*(tensors[name] for name in self.input_names))
                else:
                    result = self.model(**tensors)
            except Exception as error:
                raise BackendError(
                    f"{type(self.model).__qualname__} failed in PyTorch on "
                    f"{', '.join(f'{name} {tuple(a.shape)} {a.dtype}' for name, a in feed.items())}: "
                    f"{type(error).__name__}: {error}"
                ) from error
            shared = self._own_storages | {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
            arrays = [_to_array(tensor, shared) for tensor in _tensors_of(result)]
        names = self.output_names or tuple(f"output_{index}" for index in range(len(arrays)))
        if len(names) != len(arrays):
            raise InvalidArgumentError(
                describe(
                    f"output_names of {type(self.model).__qualname__}",
                    expected=f"one name for each of the {len(arrays)} tensors it returns",
                    actual=f"{len(names)}: {', '.join(names)}",
                )
            )
        if not self._outputs or self._outputs[0].dtype is None:
            self._outputs = tuple(
                TensorSpec(name, array.dtype, (None,) * array.ndim) for name, array in zip(names, arrays, strict=True)
            )
        return dict(zip(names, arrays, strict=True))


def _tensors_of(result: Any) -> Iterator[torch.Tensor]:
    import torch
    from torch.utils import _pytree as pytree

    for leaf in pytree.tree_leaves(result):
        if isinstance(leaf, torch.Tensor):
            yield leaf
        elif isinstance(leaf, bool | int | float):
            yield torch.tensor(leaf)
        elif leaf is not None:
            raise UnsupportedError(
                describe(
                    "output of a PyTorch network",
                    expected="tensors in tuples, lists and dicts",
                    actual=type(leaf).__qualname__,
                )
            )


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Set PyTorch's thread count, which is one number for the process, for one run only."""
    import torch

    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _to_tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    import numpy as np
    import torch

    if any(stride < 0 for stride in array.strides) or not array.flags.writeable:
        # from_numpy takes no negative strides, and warns about memory that it must not write.
        array = array.copy(order="K")
        array = np.ascontiguousarray(array) if any(stride < 0 for stride in array.strides) else array
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _to_array(tensor: torch.Tensor, shared: frozenset[int]) -> np.ndarray[Any, Any]:
    import torch

    tensor = tensor.detach().cpu()
    if tensor.untyped_storage().data_ptr() in shared:
        # What is given away must not change with the feed or with the parameters.
        tensor = tensor.clone()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
