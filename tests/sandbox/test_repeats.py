"""A program that ran out of its time limit twice isn't given that time again; any other verdict is always fresh."""

from dataclasses import replace

import pytest

from posttrain.sandbox.jobs import Job, Outcome, Verdict
from posttrain.sandbox.judging import repeats
from posttrain.sandbox.judging.repeats import Repeats
from posttrain.sandbox.pool import SandboxPool

LOOP = Job(id="1", code="while True: pass", tests=("assert f(1) == 1",))


def noted(*outcomes: Outcome) -> Repeats:
    found = Repeats()
    for outcome in outcomes:
        found.note(LOOP, Verdict(id="1", outcome=outcome, seconds=3.0))
    return found


def test_one_timeout_may_be_the_hosts_fault_and_two_are_not() -> None:
    assert noted("timeout").known(LOOP) is None
    assert noted("timeout", "timeout").known(replace(LOOP, id="2")) == Verdict(id="2", outcome="timeout")


@pytest.mark.parametrize("outcome", ["pass", "wrong", "memory", "crash", "infra_error"])
def test_nothing_but_a_timeout_is_remembered(outcome: Outcome) -> None:
    assert noted(outcome, outcome, outcome).known(LOOP) is None
    assert noted("timeout", outcome, "timeout").known(LOOP) is None


@pytest.mark.parametrize(
    "change", [{"code": "while 1: pass"}, {"tests": ("assert f(True) == 1",)}, {"timeout_s": 4.0}, {"memory_mb": 64}]
)
def test_another_program_or_other_tests_or_limits_are_another_matter(change: dict[str, object]) -> None:
    assert noted("timeout", "timeout").known(replace(LOOP, **change)) is None  # type: ignore[arg-type]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "MOST", 2)
    found = Repeats()
    for number in range(4):
        for _ in range(2):
            found.note(replace(LOOP, code=str(number)), Verdict(id="1", outcome="timeout"))
    known = [found.known(replace(LOOP, code=str(number))) is not None for number in range(4)]
    assert known == [False, False, True, True]


@pytest.mark.usefixtures("ray_session", "judge_b")
def test_a_pool_runs_an_endless_program_twice_and_tells_how_many_it_did_not_run() -> None:
    honest = Job(id="honest", code="def f(x): return x", tests=("assert f(1) == 1",))
    jobs = [replace(LOOP, timeout_s=0.2), honest]
    with SandboxPool(1, "C") as pool:
        outcomes = [[v.outcome for v in pool.judge(jobs)] for _ in range(3)]
        assert pool.metrics()["remembered"] == pytest.approx(1 / 6)
    assert outcomes == [["timeout", "pass"]] * 3
