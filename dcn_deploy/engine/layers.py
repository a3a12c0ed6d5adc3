"""The layer report: what the engine inspector says of an engine that was just built."""

from __future__ import annotations

from typing import Any

from dcn_deploy.errors import BackendError
from dcn_deploy.runtime import gpu
from dcn_deploy.runtime.engine_layers import layers_of
from dcn_deploy.runtime.engine_metadata import Device
from dcn_deploy.runtime.tensorrt_api import Api


def inspect(
    api: Api, plan: Any, device: Device | None, *, version_compatible: bool = False
) -> tuple[tuple[dict[str, Any], ...] | None, str]:
    """Return what each layer is, or why that cannot be said here.

    Args:
        api: the package that built the engine.
        plan: the engine, as something with a buffer.
        device: the GPU that it was built on, if that is known.
        version_compatible: whether it is a version-compatible engine.

    Returns:
        (one dict a layer, "") or (None, the reason). A layer has at least ``Name``; more if the engine was built
        with ``detailed``.
    """
    if device is None and gpu.find() is None:
        return None, "not listed: an engine can only be looked into on a machine with a GPU"
    with api.listening() as messages:
        try:
            runtime = api.create_runtime()
        except BackendError as error:
            return None, f"not listed: {error}"
        if version_compatible:
            # Such an engine brings the runtime of the version that built it along, as code.
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            # An engine for other GPUs than this machine's, say: it was built all the same.
            said = "; ".join(messages.errors) or "no reason given"
            return None, f"not listed: this machine's GPU does not load the engine ({' '.join(said.split())})"
        return tuple(map(dict, layers_of(api, engine))), ""
