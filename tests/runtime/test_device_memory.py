"""Device memory over both packages, with stand-ins for them; what is missing, said in one sentence."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dcn_deploy.errors import BackendError, InvalidArgumentError, MissingDependencyError, UnsupportedError
from dcn_deploy.runtime import device_memory
from dcn_deploy.runtime.device_memory import Device, open_device

BINDINGS = dict(zip(("cuda-bindings", "pycuda"), device_memory._BINDINGS, strict=True))


@pytest.fixture(params=BINDINGS)
def binding(request: pytest.FixtureRequest, stand_ins: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(device_memory, "_BINDINGS", (BINDINGS[request.param],))
    return str(request.param)


@pytest.fixture
def device(binding: str) -> Iterator[Device]:
    device = open_device(0, "the test")
    with device.current():
        yield device


def test_what_the_gpu_is(binding: str, device: Device) -> None:
    assert device.package == f"{binding} stand-in"
    assert device.properties == device_memory.DeviceProperties("Stand-in 0", (8, 9), 256 * 2**20)
    before = device.memory_in_use()
    buffer = device.buffer(1000)
    assert device.memory_in_use() == before + 1000
    buffer.free()
    buffer.free()
    assert device.memory_in_use() == before


def test_bytes_go_there_and_come_back(device: Device, rng: Any) -> None:
    data = rng.integers(0, 256, 1000, dtype=np.uint8)
    stream, memory = device.stream(), device.buffer(1000)
    there, back = device.host_buffer(1000), device.host_buffer(1500)
    there.array(1000)[:] = data
    stream.copy_to_device(memory, there, 1000)
    stream.copy_to_host(back, memory, 1000)
    assert not np.array_equal(back.array(1000), data), "the stand-in copies when somebody waits, as a busy GPU does"
    stream.synchronize()
    np.testing.assert_array_equal(back.array(1000), data)
    for each in (memory, there, back, stream):
        each.free()


def test_nothing_has_an_address_and_is_not_copied(device: Device) -> None:
    memory, host, stream = device.buffer(0), device.host_buffer(0), device.stream()
    assert memory.address != 0
    assert host.array(0).size == 0
    stream.copy_to_device(memory, host, 0)
    stream.copy_to_host(host, memory, 0)
    stream.synchronize()
    for each in (memory, host, stream):
        each.free()


def test_events_measure_what_lies_between(device: Device) -> None:
    stream, start, end = device.stream(), device.event(), device.event()
    start.record(stream)
    end.record(stream)
    with pytest.raises(BackendError, match=r"CUDA: \w+ failed"):
        end.seconds_since(start)
    stream.synchronize()
    assert 0 <= end.seconds_since(start) < 1
    for each in (start, end, stream):
        each.free()


def test_what_was_freed_is_refused(device: Device) -> None:
    memory, host, stream, event = device.buffer(8), device.host_buffer(8), device.stream(), device.event()
    for each in (memory, host, stream, event):
        each.free()
    uses = (
        (lambda: memory.address, "device memory"),
        (lambda: host.array(8), "page-locked memory"),
        (lambda: stream.handle, "stream"),
        (lambda: event.seconds_since(event), "event"),
    )
    for use, what in uses:
        with pytest.raises(BackendError, match=f"{what}: expected one that is in use, got one that was freed"):
            use()


def test_too_much_memory_is_refused_with_what_to_do(device: Device) -> None:
    with pytest.raises(
        BackendError, match=r"^CUDA: cu\w+ failed.*\. Take a smaller batch or image, or close what else"
    ):
        device.buffer(2**40)


def test_the_device_before_is_current_again(binding: str, stand_ins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCN_DEPLOY_STAND_IN_GPUS", "2")
    first, second = open_device(0, "the test"), open_device(1, "the test")
    with first.current():
        with second.current():
            assert stand_ins.machine.current == 1
            buffer = second.buffer(10)
            assert second.memory_in_use() == 10
        assert stand_ins.machine.current == 0
        assert first.memory_in_use() == 0
    with second.current():
        buffer.free()


def test_a_gpu_that_is_not_there(binding: str) -> None:
    for number in (1, -1):
        with pytest.raises(
            InvalidArgumentError, match=rf"device: expected the number of a GPU, from 0 to 0, got {number}"
        ):
            open_device(number, "the test")


def test_no_gpu(binding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCN_DEPLOY_STAND_IN_GPUS", "0")
    missing = device_memory.what_is_missing()
    assert missing is not None
    assert "GPU" in missing[0] or "NoDevice" in missing[0]
    assert missing[1].startswith("install NVIDIA's driver on a machine with an NVIDIA GPU")
    with pytest.raises(BackendError):
        open_device(0, "the test")


def test_no_driver(binding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCN_DEPLOY_STAND_IN_GPUS", "-1")
    missing = device_memory.what_is_missing()
    assert missing is not None
    assert re.fullmatch(r"no usable NVIDIA driver \(cu\w+ failed.*InsufficientDriver[^.]*\)", missing[0])


def test_graphs_are_recorded_and_launched(stand_ins: Any) -> None:
    device = open_device(0, "the test")
    device.require_graphs()
    with device.current():
        stream, memory, host = device.stream(), device.buffer(4), device.host_buffer(4)
        graph = stream.capture(lambda: stream.copy_to_device(memory, host, 4))
        for value in (1, 2):
            host.array(4)[:] = value
            graph.launch(stream)
            stream.synchronize()
            assert stand_ins.read(memory.address, 4) == bytes([value] * 4)
        for each in (graph, memory, host, stream):
            each.free()
        with pytest.raises(BackendError, match="graph: expected one that is in use"):
            graph.launch(stream)


def test_a_recording_that_fails_leaves_the_stream_usable(stand_ins: Any) -> None:
    device = open_device(0, "the test")
    with device.current():
        stream = device.stream()
        with pytest.raises(ZeroDivisionError):
            stream.capture(lambda: 1 // 0)
        with pytest.raises(BackendError, match=r"cudaErrorStreamCaptureUnsupported.*leave cuda_graph off"):
            stream.capture(stream.synchronize)
        stream.synchronize()
        stream.capture(lambda: None).free()
        stream.free()


def test_pycuda_has_no_graphs(stand_ins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_memory, "_BINDINGS", (BINDINGS["pycuda"],))
    with pytest.raises(
        UnsupportedError, match=r"cuda_graph: expected the package cuda-bindings.*got pycuda stand-in\. Install it: pip"
    ):
        open_device(0, "the test").require_graphs()


def test_a_fault_of_the_gpu_is_told(stand_ins: Any) -> None:
    device = open_device(0, "the test")
    with device.current():
        stream, memory, host = device.stream(), device.buffer(4), device.host_buffer(4)
        stream.copy_to_device(memory, host, 4)
        memory.free()
        with pytest.raises(BackendError, match=r"cudaStreamSynchronize failed with cudaErrorIllegalAddress"):
            stream.synchronize()
        with pytest.raises(BackendError, match="cudaErrorIllegalAddress"):
            device.buffer(4)
    stand_ins.reset()


@pytest.mark.parametrize(
    ("blocked", "taken"), [("pycuda.driver", "cuda-bindings"), ("cuda.bindings.runtime", "pycuda")]
)
def test_the_package_that_imports_is_taken(
    blocked: str, taken: str, stand_ins: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    importlib.import_module("pycuda.driver")  # before its stand-in misses what it builds on
    monkeypatch.setitem(sys.modules, blocked, None)
    assert device_memory.find_binding("the test").package == taken


def test_no_package_at_all(stand_ins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pycuda.driver", "cuda.bindings.runtime"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        MissingDependencyError,
        match=r"the test needs the package 'cuda-bindings' or 'pycuda', neither of which can be imported "
        r"\(cuda-bindings: .*; pycuda: .*\)\. Install it: pip install cuda-bindings",
    ):
        device_memory.find_binding("the test")
    missing = device_memory.what_is_missing()
    assert missing is not None
    assert missing[0].startswith("the package 'cuda-bindings' or 'pycuda', neither of which can be imported")
    assert missing[1] == "pip install cuda-bindings"
