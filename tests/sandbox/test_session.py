"""An interpreter that keeps its state from cell to cell, under the limits of a job."""

from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest

from posttrain.errors import SandboxError
from posttrain.sandbox.judging.rounds import Ends, Round, ZygoteGone
from posttrain.sandbox.rooms.cells import MAX_TEXT
from posttrain.sandbox.session import Session


def open_session(tier: str, **limits: float) -> Session:
    try:
        return Session(tier, **limits)  # type: ignore[arg-type]
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture
def session() -> Iterator[Session]:
    with open_session("B", timeout_s=5, cell_timeout_s=1, memory_mb=256) as session:
        yield session


@pytest.mark.parametrize("tier", ["A", "B", "C"])
def test_cells_share_a_namespace(tier: str) -> None:
    with open_session(tier, timeout_s=5) as session:
        assert session.run("import math\nx = 20").outcome == "ok"
        cell = session.run("print('hi')\nx + math.gcd(4, 6)")
        assert (cell.outcome, cell.output, cell.value, cell.error) == ("ok", "hi\n", "22", "")
        assert session.run("_ * 2").value == "44"


def test_an_error_is_told_and_the_session_goes_on(session: Session) -> None:
    session.run("def f():\n    return 1 / 0")
    cell = session.run("f()")
    assert cell.outcome == "error"
    assert "return 1 / 0" in cell.error
    assert "cells.py" not in cell.error
    assert session.run("1 +").outcome == "error"
    assert session.run("1").value == "1"


def test_output_is_capped(session: Session) -> None:
    cell = session.run("for _ in range(1000): print('x' * 1000)\n'y' * 10**6")
    assert (len(cell.output), len(cell.value)) == (MAX_TEXT, MAX_TEXT)


def test_memory_is_bounded(session: Session) -> None:
    assert session.run("x = bytearray(1 << 30)").outcome == "memory"
    assert session.run("1").outcome == "ok"


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("import time\ntime.sleep(1000)", "timeout"),
        ("import os\nos._exit(0)", "ended"),
        ("exit()", "ended"),
        ("import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'\\xff' * 64)\n    except OSError: pass", "ended"),
        ("import os\nos.closerange(0, 64)", "ended"),
    ],
)
def test_what_ends_a_session_ends_it_for_good(session: Session, code: str, outcome: str) -> None:
    assert session.run(code).outcome == outcome
    after = session.run("1")
    assert (after.outcome, after.value) == ("ended", "")
    assert psutil.Process(session._judge.zygote_pid).children() == []


def test_processor_time_is_bounded() -> None:
    with open_session("B", timeout_s=1, cell_timeout_s=10) as session:
        cell = session.run("while True: pass")
    assert (cell.outcome, "processor time" in cell.error) == ("timeout", True)


@pytest.mark.parametrize("fault", ["no answer", "ticks"])
def test_a_loaded_host_does_not_hide_that_the_time_is_over(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    finish = Round.finish

    def late(self: Round) -> Ends:
        ends = finish(self)
        if fault == "no answer":
            raise ZygoteGone("the zygote doesn't answer: timed out")
        return replace(ends, solution=replace(ends.solution, cpu_s=0.8))

    monkeypatch.setattr(Round, "finish", late)
    if fault == "ticks":
        monkeypatch.setattr(Round, "spent_s", lambda self: 0.8)
    with open_session("B", timeout_s=1, cell_timeout_s=10) as session:
        cell = session.run("while True: pass")
    assert (cell.outcome, "processor time" in cell.error) == ("timeout", True)


def test_too_many_threads_end_a_session(session: Session) -> None:
    code = "import threading, time\nthreading.stack_size(32768)\nwhile True:\n"
    cell = session.run(code + "    threading.Thread(target=time.sleep, args=(99,), daemon=True).start()")
    assert (cell.outcome, "threads" in cell.error) == ("ended", True)


def test_the_host_is_out_of_reach(session: Session) -> None:
    for code in ("open('/etc/passwd')", "import socket\nsocket.socket()", "import os\nos.fork()"):
        assert "PermissionError" in session.run(code).error


def test_sessions_do_not_see_each_other(session: Session) -> None:
    session.run("import math\nmath.x = x = 1")
    with open_session("B") as other:
        assert other.run("import math\n'x' in globals(), hasattr(math, 'x')").value == "(False, False)"


def test_a_closed_session_leaves_no_process() -> None:
    session = open_session("B")
    pid = session._judge.zygote_pid
    session.close()
    assert pid is not None
    assert not psutil.pid_exists(pid)
    assert session.run("1").outcome == "ended"
