"""The method of measuring, with a clock of our own: nothing here depends on the machine's speed."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import Any

import pytest

from dcn_deploy.errors import InvalidArgumentError
from dcn_deploy.profiling import Method, let_idle_threads_sleep, measure


class World:
    """A clock, a sleep that moves it, and engines that take the time they are told to."""

    def __init__(self) -> None:
        self.now = 0
        self.log: list[tuple[str, Any]] = []

    def clock(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.log.append(("sleep", seconds))
        self.now += round(seconds * 1e9)

    def engine(self, name: str, duration: Callable[[int], float]) -> Callable[[int], None]:
        calls = 0

        def call(number: int) -> None:
            nonlocal calls
            self.log.append((name, number))
            self.now += round(duration(calls) * 1e9)
            calls += 1

        return call

    def measure(self, calls: dict[str, Callable[[int], None]], method: Method, **others: Any) -> Any:
        return measure(calls, method, clock=self.clock, sleep=self.sleep, **others)


@pytest.fixture
def world() -> World:
    return World()


def test_rounds_rotate_and_each_measurement_is_the_second_after_a_pause(world: World) -> None:
    engines = {name: world.engine(name, lambda calls: 0.001) for name in "abc"}
    world.measure(engines, Method(runs=4, seconds=None, warmup=0, pause=0.02))
    turns = []
    for index in range(0, len(world.log), 3):
        pause, first, second = world.log[index : index + 3]
        assert pause == ("sleep", 0.02)
        assert first == second
        turns.append(second)
    assert turns == [(name, number) for number, order in enumerate(("abc", "bca", "cab", "abc")) for name in order]


def test_only_the_second_call_is_timed(world: World) -> None:
    # Every first call is slow, as after another engine has emptied the caches.
    engine = world.engine("a", lambda calls: 0.25 if calls % 2 == 0 else 0.125)
    samples = world.measure({"a": engine}, Method(runs=3, seconds=None, warmup=0))["a"]
    assert samples.seconds == (0.125, 0.125, 0.125)


def test_untimed_calls_fill_the_lead(world: World) -> None:
    # After a pause three calls are slow, as while a second thread is not at work yet.
    engine = world.engine("a", lambda calls: 0.008 if calls % 4 < 3 else 0.004)
    method = Method(runs=5, seconds=None, warmup=0, pause=0.01, lead=0.02)
    assert world.measure({"a": engine}, method)["a"].seconds == (0.004,) * 5
    assert [name for name, _ in world.log] == ["sleep", "a", "a", "a", "a"] * 5


def test_a_call_longer_than_the_lead_is_made_once_before(world: World) -> None:
    engine = world.engine("a", lambda calls: 0.03)
    world.measure({"a": engine}, Method(runs=2, seconds=None, warmup=0, lead=0.02))
    assert [name for name, _ in world.log] == ["sleep", "a", "a"] * 2


def test_a_slow_engine_is_called_once_a_turn(world: World) -> None:
    engine = world.engine("slow", lambda calls: 2.0)
    samples = world.measure({"slow": engine}, Method(runs=4, seconds=None, warmup=0))["slow"]
    assert samples.seconds == (2.0,) * 4
    assert sum(name == "slow" for name, _ in world.log) == 5


@pytest.mark.parametrize(
    ("method", "duration", "runs"),
    [
        (Method(runs=3, seconds=None, warmup=0), 0.1, 3),
        (Method(runs=3, seconds=100, warmup=0), 0.1, 3),
        # 2 engines × 1 s; a round takes 2 × (0.01 + 2·0.09) s
        (Method(seconds=1, warmup=0), 0.09, 6),
        (Method(seconds=1, warmup=0), 0.4, 5),
        (Method(runs=2, seconds=1, warmup=0), 0.4, 2),
        (Method(seconds=1000, warmup=0, most_runs=50), 0.001, 50),
    ],
)
def test_number_of_runs(method: Method, duration: float, runs: int, world: World) -> None:
    engines = {name: world.engine(name, lambda calls: duration) for name in "ab"}
    samples = world.measure(engines, method)
    assert [len(samples[name].seconds) for name in "ab"] == [runs, runs]


def test_warm_up_lasts_until_the_times_are_stable(world: World) -> None:
    # Halving from 1 s down to 10 ms: stable once two windows of five lie on the floor.
    engine = world.engine("a", lambda calls: max(0.01, 0.5**calls))
    samples = world.measure({"a": engine}, Method(runs=1, seconds=None))["a"]
    assert samples.stable is True
    # The eighth call reaches the floor; the first window whose median is on it is that of calls 6 to 10.
    assert samples.warmup == 15
    assert samples.seconds == (0.01,)


def test_warm_up_that_never_settles_ends_after_its_time(world: World) -> None:
    engine = world.engine("a", lambda calls: 0.01 * 1.1**calls)
    samples = world.measure({"a": engine}, Method(runs=1, seconds=None, warmup_seconds=2))["a"]
    assert samples.stable is False
    assert 2 <= sum(0.01 * 1.1**call for call in range(samples.warmup)) < 2.4


def test_warm_up_makes_at_least_one_call(world: World) -> None:
    engine = world.engine("a", lambda calls: 100.0)
    samples = world.measure({"a": engine}, Method(runs=1, seconds=None))["a"]
    assert (samples.warmup, samples.stable) == (1, False)


def test_given_warm_up(world: World) -> None:
    engine = world.engine("a", lambda calls: 0.001)
    samples = world.measure({"a": engine}, Method(runs=1, seconds=None, warmup=7))["a"]
    assert (samples.warmup, samples.stable) == (7, None)
    assert [number for name, number in world.log if name == "a"] == [*range(7), 0, 0]


def test_no_garbage_collection_while_timing(world: World) -> None:
    states = []
    engine = world.engine("a", lambda calls: states.append(gc.isenabled()) or 0.001)  # type: ignore[func-returns-value]
    assert gc.isenabled()
    world.measure({"a": engine}, Method(runs=2, seconds=None, warmup=1))
    assert states == [False] * 5
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        world.measure({"a": lambda number: 1 / 0}, Method(runs=1))  # type: ignore[dict-item, return-value]
    assert gc.isenabled()


def test_times_on_the_device_are_asked_for_after_each_timed_call(world: World) -> None:
    asked: list[int] = []

    def always() -> float:
        # Nothing has come since the call that was timed.
        assert world.log[-1][0] == "a"
        asked.append(world.now)
        return world.now * 1e-9

    samples = world.measure(
        {name: world.engine(name, lambda call: 1.0) for name in ("a", "b", "c")},
        Method(runs=3, warmup=0),
        device_seconds={"a": always, "b": lambda: None if len(asked) == 3 else 1.0},
    )
    assert samples["a"].device_seconds == tuple(now * 1e-9 for now in asked)
    assert len(asked) == 3
    # A device that tells of some calls alone tells of none.
    assert samples["b"].device_seconds == samples["c"].device_seconds == ()


def test_progress(world: World) -> None:
    steps: list[Any] = []
    engine = world.engine("a", lambda calls: 0.001)
    world.measure({"a": engine}, Method(runs=2, seconds=None, warmup=0), progress=lambda *step: steps.append(step))
    assert steps == [(0, 2, "warming up a"), (0, 2, "timing a"), (1, 2, "timing a")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runs": 0}, "runs: expected at least 1, got 0"),
        ({"warmup": -1}, "warmup: expected at least 0, got -1"),
        ({"seconds": -0.5}, r"seconds: expected at least 0\.0, got -0\.5"),
        ({"seconds": float("nan")}, "seconds: expected at least"),
        ({"runs": None, "seconds": None}, "runs and seconds: expected at least one, got None for both"),
    ],
)
def test_methods_that_make_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        Method(**arguments)


def test_what_the_user_has_set_for_openmp_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("KMP_BLOCKTIME", "200")
    let_idle_threads_sleep()
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["KMP_BLOCKTIME"]) == ("PASSIVE", "200")
