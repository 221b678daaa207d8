import io
import json
import threading
from dataclasses import replace
from typing import Any

import pytest

from posttrain.errors import InputError, SandboxError
from posttrain.rewards.cli import score_lines
from posttrain.sandbox import tiers
from posttrain.sandbox.cli import judge_lines
from posttrain.sandbox.codec import CodecError, decode, encode
from posttrain.sandbox.jobs import Job, Verdict
from posttrain.sandbox.judging.counters import Counters
from posttrain.sandbox.pool import LocalJudgePool, same_jobs
from posttrain.sandbox.supervisor import Judge


def job(i: int) -> Job:
    return Job(id=str(i), code=f"def f(): return {i}", tests=(f"assert f() == {i}",))


@pytest.fixture
def known_tier(judge_b: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Probing takes a second; here the answer is known."""
    monkeypatch.setattr(tiers, "probe", lambda: tiers.TierReport(tier="B", reason="no namespaces", fix="allow them"))


@pytest.mark.usefixtures("known_tier")
def test_a_pool_keeps_the_order() -> None:
    with LocalJudgePool(2) as pool:
        verdicts = pool.judge([job(i) for i in range(12)])
    assert [v.id for v in verdicts] == [str(i) for i in range(12)]
    assert {v.outcome for v in verdicts} == {"pass"}


@pytest.mark.usefixtures("known_tier")
def test_json_lines() -> None:
    lines = [json.dumps({"id": i, "code": "def f(): return 1", "tests": "assert f() == 1"}) for i in range(2)]
    out = io.StringIO()
    assert judge_lines(io.StringIO("\n".join([*lines, "no json"])), out, "B") == 0
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(r["id"], r["outcome"]) for r in rows] == [(0, "pass"), (1, "pass"), (None, "infra_error")]
    assert set(rows[0]) == {"id", "outcome", "passed", "total", "seconds", "message"}


@pytest.mark.usefixtures("known_tier")
def test_a_broken_line_costs_itself_only() -> None:
    good = json.dumps(
        {"id": 1, "code": "def f(): return 1", "tests": ["assert f() == 1", "assert f()"], "results": True}
    )
    stdin = io.TextIOWrapper(io.BytesIO(b'\xff\xfe{"id": 2\n[]\n{"id": 3, "code": 5, "tests": 1}\n' + good.encode()))
    out = io.StringIO()
    judge_lines(stdin, out, "B")
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [r["outcome"] for r in rows] == ["infra_error"] * 3 + ["pass"]
    assert (rows[2]["id"], rows[3]["results"]) == (3, ["pass", "pass"])


@pytest.mark.usefixtures("known_tier")
def test_a_weaker_host_is_refused() -> None:
    with pytest.raises(SandboxError) as error:
        judge_lines(io.StringIO(""), io.StringIO(), "A")
    assert all(text in str(error.value) for text in ("tier B", "no namespaces", "fix:"))


@pytest.mark.parametrize(("option", "name"), [("preload", "os"), ("languages", "cobol")])
def test_a_name_that_nobody_knows_is_wrong_input_and_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, option: str, name: str
) -> None:
    monkeypatch.setattr(tiers, "probe", lambda: pytest.fail("started"))
    options: dict[str, Any] = {option: [name]}
    for judge in (judge_lines, lambda *files, **opted: score_lines("code", *files, **opted)):
        with pytest.raises(InputError, match=name) as error:
            judge(io.StringIO(), io.StringIO(), **options)  # type: ignore[operator]
        assert error.value.exit_code == 2


def test_a_reward_that_runs_no_code_takes_no_libraries() -> None:
    with pytest.raises(InputError, match="runs no code"):
        score_lines("exact", io.StringIO(), io.StringIO(), preload=["numpy"])


@pytest.mark.usefixtures("known_tier")
def test_a_code_reward_may_opt_for_a_library() -> None:
    pytest.importorskip("numpy")
    row = {"id": 1, "completion": "```python\nimport numpy\ndef f(): return int(numpy.sum([1]))\n```",
           "tests": "assert f() == 1"}  # fmt: skip
    for preload, score in ((["numpy"], 1.0), ([], 0.0)):
        out = io.StringIO()
        assert score_lines("code", io.StringIO(json.dumps(row)), out, preload=preload) == 0
        assert json.loads(out.getvalue())["score"] == score


def test_the_self_test_passes(judge: Judge) -> None:
    assert tiers.self_test(judge) == []


def test_the_self_test_sees_a_hole(judge_b: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tiers._ATTACKS, "read a host file", "return open(os.__file__).read()")
    assert [f.split(":")[0] for f in tiers.self_test(judge_b)] == ["read a host file"]


def test_threads_may_share_a_judge(judge_b: Judge) -> None:
    outcomes: list[str] = []
    threads = [threading.Thread(target=lambda: outcomes.append(judge_b.run(job(1)).outcome)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == ["pass"] * 4


def test_plain_data_survives_the_codec() -> None:
    value = {"a": [1, (2.5, None), {3}, frozenset([4]), b"x", bytearray(b"y"), 10**50, range(3), 1j], (1,): "ü\ud800"}

    def refuse(data: object) -> object:
        raise CodecError("no handle")

    assert decode(encode(value), refuse) == value
    for malformed in (["list", ["nope"]], ["int", "x"], [], [1], ["dict", [1]], ["set", ["list"]], {"a": 1}):
        with pytest.raises(CodecError):
            decode(malformed, refuse)
    with pytest.raises(CodecError):
        encode([0] * 300_000)


@pytest.mark.usefixtures("known_tier")
def test_a_pool_counts_what_became_of_its_jobs() -> None:
    denied = "import os\ndef f():\n    try: os.fork()\n    except OSError: return 0"
    jobs = [
        job(1),
        job(2),
        Job(id="3", code=denied, tests=("assert f() == 1",)),
        Job(id="4", code="(", tests=("assert f()",)),
    ]
    with LocalJudgePool(1) as pool:
        pool.judge(jobs)
        found = pool.metrics()
        assert pool.metrics() == {}
    assert {k: v for k, v in found.items() if v and k != "seconds"} == {
        "jobs": 4, "pass": 0.5, "wrong": 0.25, "compile_error": 0.25, "denied": 0.25,
    }  # fmt: skip


def test_an_unwell_sandbox_sounds_an_alarm() -> None:
    counters = Counters()
    counters.add([Verdict(id="x", outcome="infra_error")] + [Verdict(id="x", outcome="pass")] * 60)
    with pytest.warns(UserWarning, match=r"1\.6%"):
        counters.drain()


def test_the_same_job_is_known_again() -> None:
    one = Job(id="1", code="a", tests=(([1], 1),), kind="calls", entry=("f",))
    others = [replace(one, id="2"), replace(one, tests=(([True], True),)), replace(one, code="b"),
              replace(one, timeout_s=1), replace(one, id="3", code="b")]  # fmt: skip
    assert same_jobs([one, *others]) == [0, 0, 2, 3, 4, 3]
