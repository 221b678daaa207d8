"""Who may begin in an actor: jobs that run for long don't hold up new ones, unless memory is short."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from posttrain.sandbox.judging import places
from posttrain.sandbox.judging.places import AT_WORK, MOST, Places

PLENTY, SHORT = 1e9, 0.0


class Holders:
    """Threads that hold a place until the end of the test."""

    def __init__(self, shared: Places, stack: ExitStack) -> None:
        self._places, self._stack, self._end = shared, stack, threading.Event()
        stack.callback(self._end.set)

    def begin(self, *, wait_s: float = 10.0) -> bool:
        """Whether one more got a place in time."""
        there = threading.Event()

        def hold() -> None:
            with self._places.take(1024):
                there.set()
                self._end.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(self._end.set)
        return there.wait(wait_s)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def hold(stack: ExitStack, available_mb: float) -> tuple[Places, Holders]:
    shared = Places(lambda: available_mb)
    return shared, Holders(shared, stack)


def test_new_jobs_hold_their_places(monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> None:
    monkeypatch.setattr(places, "LONG_S", 1e9)
    shared, holders = hold(stack, PLENTY)
    assert all(holders.begin() for _ in range(AT_WORK))
    assert not shared._fits(1024)


def test_jobs_that_run_for_long_make_room_up_to_a_bound(monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> None:
    monkeypatch.setattr(places, "LONG_S", 0.0)
    shared, holders = hold(stack, PLENTY)
    assert all(holders.begin() for _ in range(MOST))
    assert not shared._fits(1024)


def test_without_memory_to_spare_they_do_not(monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> None:
    monkeypatch.setattr(places, "LONG_S", 0.0)
    shared, holders = hold(stack, SHORT)
    assert all(holders.begin() for _ in range(AT_WORK))
    assert not shared._fits(1024)


def test_a_place_that_is_given_back_is_the_next_ones(monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> None:
    monkeypatch.setattr(places, "LONG_S", 1e9)
    _, holders = hold(stack, PLENTY)
    for _ in range(AT_WORK - 1):
        holders.begin()
    shared = holders._places
    got: list[bool] = []
    with shared.take(1024):
        waiting = threading.Thread(target=lambda: got.append(holders.begin()))
        waiting.start()
        assert not shared._fits(1024)
        assert got == []
    waiting.join()
    assert got == [True]
