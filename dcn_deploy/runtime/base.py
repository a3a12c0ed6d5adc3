"""What all runners of this package share: life cycle, checks of the feed, building again with other options."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dcn_deploy.errors import BackendError
from dcn_deploy.runtime.feed import check_feed, check_outputs
from dcn_deploy.runtime.runner import Runner, RunnerOptions, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import Self


class ModelRunner(Runner):
    """A runner that checks state and feed here and leaves ``_load``, ``_run`` and ``_free`` to the runtime."""

    def __init__(self, model: Any, *, options: RunnerOptions) -> None:
        self.model = model
        self.options = options
        self._active = False
        self._inputs: tuple[TensorSpec, ...] = ()
        self._outputs: tuple[TensorSpec, ...] = ()

    @abstractmethod
    def _load(self) -> None:
        """Load the model and set ``_inputs`` and ``_outputs``."""

    @abstractmethod
    def _run(self, feed: Mapping[str, np.ndarray[Any, Any]], outputs: list[str]) -> dict[str, np.ndarray[Any, Any]]:
        """Run once with a checked feed."""

    @abstractmethod
    def _free(self) -> None:
        """Free what ``_load`` took, also after it failed half-way."""

    def activate(self) -> None:
        """Load the model and make it ready; see :meth:`Runner.activate`."""
        if self._active:
            return
        try:
            self._load()
        except BaseException:
            self._free()
            raise
        self._active = True

    def infer(
        self, feed: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Run once; see :meth:`Runner.infer`."""
        self._require_active("infer")
        self._check(feed)
        return self._run(feed, self._wanted(outputs))

    def close(self) -> None:
        """Free what :meth:`activate` took; see :meth:`Runner.close`."""
        if self._active:
            self._active = False
            self._free()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What :meth:`infer` takes, in the model's order (active runner only)."""
        self._require_active("inputs")
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What :meth:`infer` gives, in the model's order (active runner only)."""
        self._require_active("outputs")
        return self._outputs

    def replicate(self, **changes: Any) -> Self:
        """Return an inactive runner of the same model with other options; see :meth:`Runner.replicate`."""
        return type(self)(self.model, options=dataclasses.replace(self.options, **changes))

    def _require_recording(self, recording: object) -> None:
        """Refuse :meth:`node_times` where nothing was recorded; ``recording`` is None once a call has ended it."""
        self._require_active("node_times")
        if not self.options.profile:
            raise BackendError(
                f"node_times of the backend '{self.backend}': expected a runner created with "
                "RunnerOptions(profile=True), got profile=False."
            )
        if recording is None:
            raise BackendError(
                f"node_times of the backend '{self.backend}': expected a recording, got one that an earlier call has "
                "ended. Activate a new runner for another."
            )

    def _check(self, feed: Mapping[str, np.ndarray[Any, Any]]) -> None:
        check_feed(self.backend, self._inputs, feed)

    def _wanted(self, outputs: Sequence[str] | None) -> list[str]:
        return check_outputs(self.backend, self._outputs, outputs)

    def _require_active(self, what: str) -> None:
        if not self._active:
            raise BackendError(
                f"{what} of the backend '{self.backend}': expected an active runner, got an inactive one. "
                "Call activate() first, or use the runner in a with statement."
            )
