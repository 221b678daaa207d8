"""Confined services: what they may not do, and that no call gets the reply, or the fate, of another one."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from posttrain.rewards.contract import RowError
from posttrain.rewards.mixture.rooms import decode, decode_all, decode_reply
from posttrain.sandbox.confined import ConfinedService, Permissions
from posttrain.sandbox.confined.service import CallFailed, CallTimeout, LoadFailed, Service

MODULE = """
import os, threading, time

state = []

class Echo:
    wants = ("a", "b")

    def __call__(self, call):
        what, value = call
        if what == "remember":
            state.append(value)
            return len(state)
        if what == "sleep":
            time.sleep(value)
        if what == "threads":
            for _ in range(value):
                threading.Thread(target=time.sleep, args=(30,)).start()
        if what == "raise":
            raise SystemExit(value)
        if what == "eval":
            return repr(eval(value))
        if what == "print":
            print("x" * value)
        return value

class Broken:
    def __init__(self):
        raise ValueError("no such table")

class Threaded(Echo):
    def __init__(self):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
"""


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ConfinedService]]:
    """Makes services of the module above."""
    (tmp_path / "echoing.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[ConfinedService] = []

    def make(attribute: str = "Echo", **options: object) -> ConfinedService:
        made.append(ConfinedService(Service(module="echoing", attribute=attribute), **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for service in made:
        service.close()


def test_a_fresh_room_remembers_nothing_and_one_room_does(services: Callable[..., ConfinedService]) -> None:
    fresh, kept = services(), services(fresh=False)
    assert [fresh.call(("remember", n), 5) for n in range(3)] == [1, 1, 1]
    assert [kept.call(("remember", n), 5) for n in range(3)] == [1, 2, 3]
    assert fresh.wants() == ("a", "b")


@pytest.mark.parametrize("fresh", [True, False])
def test_what_a_call_raises_is_passed_on_and_the_next_one_is_answered(
    services: Callable[..., ConfinedService], fresh: bool
) -> None:
    service = services(fresh=fresh)
    with pytest.raises(CallFailed, match="SystemExit"):
        service.call(("raise", 3), 5)
    with pytest.raises(CallFailed, match="Refused"):
        service.call(("eval", "1 + 1"), 5)
    with pytest.raises(CallTimeout):
        service.call(("sleep", 30), 1)
    assert service.call(("echo", "right"), 5) == "right"
    assert service.call(("print", 100_000), 5) == 100_000


@pytest.mark.parametrize("fresh", [True, False])
def test_a_room_with_too_many_threads_ends_alone(services: Callable[..., ConfinedService], fresh: bool) -> None:
    service = services(fresh=fresh, memory_mb=16_000)
    for _ in range(2):
        with contextlib.suppress(CallFailed):  # a fresh room may have answered before its threads are counted
            service.call(("threads", 700), 5)
        assert service.call(("echo", 1), 5) == 1


class _Rings(Exception):
    pass


@pytest.mark.parametrize("fresh", [True, False])
def test_an_interrupted_call_leaves_no_reply_behind(services: Callable[..., ConfinedService], fresh: bool) -> None:
    def ring(number: int, frame: object) -> None:
        raise _Rings

    service = services(fresh=fresh)
    service.call(("echo", 0), 5)
    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(_Rings):
            service.call(("sleep", 1), 5)
    finally:
        signal.signal(signal.SIGALRM, before)
    time.sleep(1)
    assert [service.call(("echo", n), 5) for n in range(3)] == [0, 1, 2]


def test_a_room_that_the_host_ends_is_opened_again(services: Callable[..., ConfinedService]) -> None:
    service = services()
    service.call(("echo", 0), 5)
    process = service._idle[0].process.process
    assert process is not None
    host = psutil.Process(process.pid)
    killed = []

    def kill() -> None:
        deadline = time.monotonic() + 5
        while not killed and time.monotonic() < deadline:
            for room in host.children():
                room.kill()
                killed.append(room.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    assert service.call(("sleep", 0.5), 5) == 0.5
    thread.join()
    assert killed


def test_a_fork_of_this_process_starts_hosts_of_its_own(services: Callable[..., ConfinedService]) -> None:
    service = services(fresh=False)
    assert service.call(("remember", 0), 5) == 1
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if service.call(("remember", 0), 20) == 1 else 1)
        finally:
            os._exit(2)
    assert service.call(("remember", 0), 5) == 2
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_calls_of_many_threads_get_their_own_replies(services: Callable[..., ConfinedService]) -> None:
    service, wrong = services(hosts=2), []

    def calls(start: int) -> None:
        wrong.extend(n for n in range(start, start + 10) if service.call(("echo", n), 5) != n)

    threads = [threading.Thread(target=calls, args=(100 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_many_calls_leave_no_descriptor_and_no_process(services: Callable[..., ConfinedService]) -> None:
    service, me = services(), psutil.Process()
    service.call(("echo", 0), 5)
    before = me.num_fds()
    for n in range(200):
        service.call(("echo", n), 5)
    assert me.num_fds() <= before
    service.close()
    assert not [p for p in me.children() if "echoing" in " ".join(p.cmdline())]


@pytest.mark.parametrize(("attribute", "says"), [("Broken", "no such table"), ("Threaded", "started threads")])
def test_what_cannot_be_loaded_says_why(services: Callable[..., ConfinedService], attribute: str, says: str) -> None:
    with pytest.raises(LoadFailed, match=says):
        services(attribute).wants()


def test_permissions_are_described() -> None:
    described = Permissions(network=True, environment=("TOKEN",), files=("/data",)).describe()
    assert described == "environment TOKEN, network, reads /data, no writes, no processes"


@pytest.mark.parametrize("reply", [7, None, "x", [], [[1.0], 3, 4], [[1.0], {}], {"values": [1.0]}])
def test_a_reply_of_another_shape_is_refused(reply: object) -> None:
    with pytest.raises(CallFailed):
        decode_reply(reply, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, True, "1.0", [1.0], {"error": 3}, {}])
def test_what_is_no_finite_number_is_an_error(value: object) -> None:
    assert isinstance(decode(value), RowError)
    assert all(isinstance(found, RowError) for found in decode_all([value], 2))


def test_of_a_reply_only_what_fits_is_read() -> None:
    reply = [[1.0], {"a": [1, "x", float("nan")], "b": "text"}, {"note": ["fine"], "other": ["one", "too many"]}]
    assert decode_reply(reply, 1) == ([1.0], {"a": [1.0]}, {"note": ["fine"]})
