"""Generating ahead of training: nothing lost, nothing twice, nothing older than promised, no error swallowed."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.configs.schema import Asynchronous, Difficulty
from posttrain.errors import RunError
from posttrain.stages.data.supply import PromptSupply
from posttrain.stages.rollout import group_source
from posttrain.stages.rollout.group_source import Ahead, GroupSettings, Now
from posttrain.stages.rollout.in_flight_groups import restore_ahead, save_ahead
from posttrain.types import Completion, Group, Prompt, SamplingParams, Score, ScoredGroup

ROWS = [Prompt(id=f"q{i}", messages=({"role": "user", "content": str(i)},)) for i in range(40)]


class Pool:
    """Stands in for rollout workers: a group is done when `delay` says, with the version that it began with."""

    def __init__(self, delay: Callable[[Prompt], float] = lambda _: 0.0) -> None:
        self.delay, self.version, self.seeds = delay, 0, dict[str, int]()
        self.halted = threading.Event()
        self.late = False

    def generate(self, prompts: Sequence[Prompt], n: int, params: SamplingParams, *, seed: int) -> Iterator[Group]:
        version = max(0, self.version - self.late)
        began = [(time.monotonic() + self.delay(p), version, p) for p in prompts]
        for due, version, prompt in sorted(began, key=lambda item: item[0]):
            if self.halted.wait(max(0.0, due - time.monotonic())):
                return
            self.seeds[prompt.id] = seed
            yield group(prompt, version, n)

    def partials(self) -> list[Group]:
        return []

    def lagging(self) -> bool:
        """New weights are on their way: what is begun now begins with those before."""
        return self.late

    def interrupt(self) -> None:
        self.halted.set()


def group(prompt: Prompt, version: int, n: int = 2, finish: Any = "stop") -> Group:
    return Group(
        prompt=prompt,
        completions=tuple(
            Completion(
                prompt_id=prompt.id, index=i, prompt_ids=np.array([1]), token_ids=np.array([5, 6]), text="56",
                sources=np.zeros(2, np.int8), logprobs=np.array([-0.1, -1 / 3], np.float32),
                versions=np.full(2, version, np.int32), finish_reason=finish,
            )
            for i in range(n)
        ),
    )  # fmt: skip


class Scorer:
    """Scores by a function of the prompt's text."""

    def __init__(self, value: Callable[[str, int], float] = lambda text, i: float(i)) -> None:
        self.value = value

    def score(self, items: Sequence[tuple[Prompt, Completion]], *, step: int = 0) -> list[Score]:
        return [Score(value=self.value(str(p.messages[-1]["content"]), c.index)) for p, c in items]


def asking(pool: Any, scorer: Any = None, supply: PromptSupply | None = None) -> GroupSettings:
    return GroupSettings(
        pool=pool, scorer=scorer or Scorer(), group_size=2, params=SamplingParams(max_tokens=4),
        environments=None, supply=supply or PromptSupply([ROWS], [1.0], seed=0), seed=lambda serial: 1000 + serial,
    )  # type: ignore[arg-type]  # fmt: skip


def train(feed: Any, pool: Pool, steps: range, count: int = 4) -> list[list[ScoredGroup]]:
    """Takes every step's groups; each step makes the next version of the weights."""
    found = []
    for step in steps:
        pool.version = step
        found.append(feed.take(step, count))
    return found


def names(groups: Sequence[ScoredGroup]) -> list[str]:
    return [g.group.prompt.id for g in groups]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("ahead", "staleness"), [(1, 2), (2, 3), (2, 4)])
def test_every_group_trains_once_and_within_its_time(ahead: int, staleness: int, late: bool) -> None:
    rng = np.random.default_rng(0)
    pool = Pool(lambda _: float(rng.random() * 0.05))
    pool.late = late
    rule = Asynchronous(ahead=ahead, staleness=staleness)
    with Ahead(asking(pool), rule, first=0, last=9, batch=4) as feed:
        steps = train(feed, pool, range(10))
    taken = [name for groups in steps for name in names(groups)]
    assert [len(groups) for groups in steps] == [4] * 10
    assert len(set(taken)) == 40
    assert {name.split("+")[0] for name in taken} == {p.id for p in ROWS}
    for step, groups in enumerate(steps):
        for g in groups:
            assert step - g.group.completions[0].versions.min() <= staleness


def test_a_long_group_joins_a_later_step_and_does_not_stall_this_one() -> None:
    slow = {"at": 0.0}
    pool = Pool(lambda p: 0.6 if p.messages[-1]["content"] == slow["name"] else 0.0)  # type: ignore[arg-type]
    supply = PromptSupply([ROWS], [1.0], seed=0)
    first = PromptSupply([ROWS], [1.0], seed=0).take(1)[0]
    slow["name"] = first.messages[-1]["content"]  # type: ignore[assignment]
    with Ahead(asking(pool, supply=supply), Asynchronous(ahead=1, staleness=3), first=0, last=3, batch=4) as feed:
        steps = train(feed, pool, range(4))
    where = next(i for i, groups in enumerate(steps) if first.id in names(groups))
    assert 0 < where <= 3
    assert all(len(groups) == 4 for groups in steps)


def test_a_group_whose_time_has_come_is_waited_for() -> None:
    pool = Pool(lambda p: 0.5 if "+" not in p.id else 0.0)  # the first batch is slow, the next ones aren't
    with Ahead(asking(pool), Asynchronous(ahead=1, staleness=2), first=0, last=3, batch=4) as feed:
        steps = [set(names(groups)) for groups in train(feed, pool, range(4))]
    slow = {name for groups in steps for name in groups if "+" not in name}
    assert len(slow) == 4
    assert slow <= steps[0] | steps[1] | steps[2]


def test_a_batch_may_take_long_as_long_as_groups_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_source, "GROUP_TIMEOUT", 1.0)
    monkeypatch.setattr(group_source, "_LOOK", 0.05)
    due = itertools.count(1)
    with Ahead(asking(Pool(lambda _: 0.5 * next(due))), Asynchronous(), first=0, last=0, batch=4) as slow:
        assert len(slow.take(0, 4)) == 4  # the last after 2 s
    with Ahead(asking(Pool(lambda _: 60.0)), Asynchronous(), first=0, last=0, batch=4) as stalled:
        began = time.monotonic()
        with pytest.raises(RunError, match="no group was generated or scored in 1 s"):
            stalled.take(0, 4)
    assert 1 <= time.monotonic() - began < 10


def test_an_error_of_a_stream_or_a_reward_reaches_the_learner() -> None:
    class Broken(Pool):
        def generate(self, *args: Any, **kwargs: Any) -> Iterator[Group]:
            raise RunError("the worker died")
            yield

    def bad(text: str, index: int) -> float:
        raise RunError("the reward failed")

    for pool, scorer, says in ((Broken(), Scorer(), "worker died"), (Pool(), Scorer(bad), "reward failed")):
        with (
            pytest.raises(RunError, match=says),
            Ahead(asking(pool, scorer), Asynchronous(), first=0, last=3, batch=4) as feed,
        ):
            feed.take(0, 4)


def test_leaving_ends_what_is_under_way() -> None:
    pool = Pool(lambda p: 0.0 if "+" not in p.id else 60.0)
    began = time.monotonic()
    with Ahead(asking(pool), Asynchronous(), first=0, last=9, batch=4) as feed:
        feed.take(0, 4)
    assert pool.halted.is_set()
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("kind", ["now", "ahead"])
def test_replacements_are_fresh_prompts(kind: str) -> None:
    pool = Pool()
    feed = Now(asking(pool)) if kind == "now" else Ahead(asking(pool), Asynchronous(), first=0, last=0, batch=4)
    with feed:
        first, more = feed.take(0, 4), feed.more(0, 2)
    assert len(more) == 2
    assert not {n.split("+")[0] for n in names(first)} & {n.split("+")[0] for n in names(more)}


def test_now_takes_prompts_in_their_order_whatever_is_done_first() -> None:
    rng = np.random.default_rng(1)
    steps = train(Now(asking(Pool(lambda _: float(rng.random() * 0.02)))), Pool(), range(3))
    expected = PromptSupply([ROWS], [1.0], seed=0).take(12)
    assert [n for groups in steps for n in names(groups)] == [p.id for p in expected]


def test_difficulty_hears_of_every_group() -> None:
    supply = PromptSupply([ROWS], [1.0], seed=0, difficulty=Difficulty())
    train(Now(asking(Pool(), Scorer(lambda text, i: float(int(text) % 2)), supply)), Pool(), range(10))
    assert supply.state["pass_rates"] == {p.id: float(int(p.id[1:]) % 2) for p in ROWS}


# ---------------------------------------------------------------- checkpoints


def test_what_is_under_way_is_kept_and_goes_on(tmp_path: Path) -> None:
    """Stopped after step 1: finished groups come back as they are, unfinished ones are continued under their ids."""
    pool = Pool(lambda p: 0.0 if not p.id.endswith("+1") else 60.0)  # batch 1 never ends
    supply = PromptSupply([ROWS], [1.0], seed=0)
    rule = Asynchronous(ahead=2, staleness=4)
    with Ahead(asking(pool, supply=supply), rule, first=0, last=9, batch=4) as feed:
        before = train(feed, pool, range(1))
        while sum(u.future.done() for u in feed.underway) < 4:  # batch 2
            time.sleep(0.01)
        started = next(u.prompt for u in feed.underway if u.prompt.id.endswith("+1"))
        pool.partials = lambda: [group(started, 0, finish="abort")]  # type: ignore[method-assign]
        save_ahead(feed, tmp_path / "underway.jsonl")
        state, under = supply.state, [u.prompt.id for u in feed.underway]
    seen: dict[str, tuple[Completion, ...]] = {}

    class Continuing(Pool):
        def generate(self, prompts: Sequence[Prompt], *args: Any, **kwargs: Any) -> Iterator[Group]:
            seen.update({p.id: p.begun for p in prompts})
            yield from super().generate(prompts, *args, **kwargs)

    again, other = Continuing(), PromptSupply([ROWS], [1.0], seed=0)
    other.restore(state)
    with Ahead(asking(again, supply=other), rule, first=1, last=9, batch=4) as feed:
        restore_ahead(feed, tmp_path / "underway.jsonl", ROWS)
        after = train(feed, again, range(1, 10))
    taken = [n for groups in (*before, *after) for n in names(groups)]
    assert len(taken) == len(set(taken)) == 40
    assert set(under) <= set(taken)
    assert {n.split("+")[0] for n in taken} == {p.id for p in ROWS}
    assert again.seeds[started.id] == 1001  # the same random stream
    (begun, _) = seen[started.id]
    assert begun.token_ids.tolist() == [5, 6]
    assert begun.logprobs.tolist() == np.array([-0.1, -1 / 3], np.float32).tolist()
    assert not any(name.endswith("+2") for name in seen), "finished groups aren't generated again"


def test_what_a_checkpoint_brought_back_and_nobody_took_up_is_kept_again(tmp_path: Path) -> None:
    pool = Pool(lambda _: 60.0)  # it has nothing of any group yet
    begun = group(ROWS[0], 0, finish="abort").completions
    with Ahead(asking(pool), Asynchronous(), first=0, last=9, batch=4) as feed:
        feed.restore(1, 1, [(replace(ROWS[0], begun=begun), ROWS[0].id, 0, 0, None)])
        save_ahead(feed, tmp_path / "u")
    line = json.loads((tmp_path / "u").read_text().splitlines()[1])
    assert (line["done"], [c["token_ids"] for c in line["completions"]]) == (False, [[5, 6]] * len(begun))


def test_a_prompt_that_is_gone_is_named(tmp_path: Path) -> None:
    pool = Pool(lambda _: 60.0)
    feed = Ahead(asking(pool), Asynchronous(), first=0, last=9, batch=4)
    with feed:
        feed._begin(0, 4)
        save_ahead(feed, tmp_path / "u")
    with Ahead(asking(pool), Asynchronous(), first=0, last=9, batch=4) as other:
        with pytest.raises(RunError, match="isn't in the data any more"):
            restore_ahead(other, tmp_path / "u", ROWS[:1])


def test_a_group_with_an_environment_is_begun_again(tmp_path: Path) -> None:
    """Its episodes can't be kept: a first turn that is done is no episode that is done."""
    acting = [replace(p, environment='{"use": "calculator"}') for p in ROWS]
    feed = Ahead(asking(Pool()), Asynchronous(), first=0, last=9, batch=4)
    with feed:
        item = feed._item(acting[0], acting[0].id, 0, 0)
        feed.partials = lambda: [group(acting[0], 0)]  # type: ignore[method-assign]
        save_ahead(feed, tmp_path / "u")
        item.group = group(acting[0], 0)
        save_ahead(feed, tmp_path / "v")
    for name in "uv":
        line = json.loads((tmp_path / name).read_text().splitlines()[1])
        assert (line["done"], line["completions"]) == (False, None)
