"""Where a step's groups come from: generated when they are asked for, or ahead of training.

    Now     take(k): generate batch k with the weights of step k, wait for its scores
    Ahead   take(k): batches k+1 ... k+ahead are under way; the oldest groups that are done are the step's

`Ahead` keeps, for every group under way, the step at which it was begun. A group trains at most `staleness` steps
later: the learner waits for those whose time has come, and takes others in the order in which they were begun.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from posttrain.configs.schema import Asynchronous
from posttrain.errors import RunError
from posttrain.rewards.mixture.mix import Scorer
from posttrain.stages.data.supply import PromptSupply, numbered
from posttrain.stages.rollout.episodes import Environments, rollouts
from posttrain.stages.rollout.pool import GROUP_TIMEOUT, RolloutPool
from posttrain.stages.rollout.scoring import SCORERS, pass_rate, scored
from posttrain.types import Group, Prompt, SamplingParams, ScoredGroup

_LOOK = 0.5  # seconds between two looks at whether a stream failed


@dataclass(frozen=True, kw_only=True)
class GroupSettings:
    """How prompts become scored groups, the same for a whole stage."""

    pool: RolloutPool
    scorer: Scorer
    group_size: int
    params: SamplingParams
    environments: Environments
    supply: PromptSupply
    seed: Callable[[int], int]
    """The sampling seed of the batch with this serial number."""


@dataclass(kw_only=True)
class Clock:
    """Seconds since the last `read`, by what they went to."""

    spent: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, seconds: float) -> None:
        self.spent[name] = self.spent.get(name, 0.0) + seconds

    def read(self) -> dict[str, float]:
        """`seconds_generate` and the like; starts again from nothing."""
        found, self.spent = {f"seconds_{name}": value for name, value in self.spent.items()}, {}
        return found


class Feed(Protocol):
    """Gives a step its groups."""

    clock: Clock

    def take(self, step: int, count: int) -> list[ScoredGroup]:
        """The step's groups."""
        ...

    def more(self, step: int, count: int) -> list[ScoredGroup]:
        """As many more, for groups that had nothing to teach."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...


class Now:
    """Synchronous: what a step trains on was sampled by the policy that it starts from."""

    def __init__(self, asking: GroupSettings) -> None:
        self._asking = asking
        self.clock = Clock()
        self._round = 0

    def take(self, step: int, count: int) -> list[ScoredGroup]:
        """Generates and scores `count` groups."""
        self._round = 0
        return self._collect(step, count)

    def more(self, step: int, count: int) -> list[ScoredGroup]:
        """Another round of the same step."""
        self._round += 1
        return self._collect(step, count)

    def _collect(self, step: int, count: int) -> list[ScoredGroup]:
        asking = self._asking
        prompts, origin = numbered(asking.supply.take(count), self._round)
        began = time.monotonic()
        with ThreadPoolExecutor(max_workers=SCORERS) as threads:
            pending = {
                group.prompt.id: threads.submit(scored, asking.scorer, group, step)
                for group in rollouts(
                    asking.pool, prompts, asking.group_size, asking.params,
                    seed=asking.seed(step), environments=asking.environments,
                )
            }  # fmt: skip
            generated = time.monotonic()
            done = {name: future.result() for name, future in pending.items()}
        self.clock.add("generate", generated - began)
        self.clock.add("verify", time.monotonic() - generated)
        for prompt in prompts:
            asking.supply.saw(origin[prompt.id], pass_rate(done[prompt.id]))
        return [done[p.id] for p in prompts]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@dataclass(kw_only=True, eq=False)
class Underway:
    """A group that was begun and hasn't trained yet."""

    prompt: Prompt
    origin: str
    serial: int
    """Of the batch it was begun in: its sampling seed."""
    step: int
    """At which it was begun: the oldest weights that made a token of it."""
    group: Group | None = None
    """Once it is generated."""
    future: Future[ScoredGroup] = field(default_factory=Future)


class Ahead:
    """Asynchronous: rollout workers go on while the learner trains; new weights reach them between two tokens.

    Raises, from `take`: what a stream or a reward raised; RunError if no group was done in GROUP_TIMEOUT seconds.
    """

    def __init__(self, asking: GroupSettings, rule: Asynchronous, *, first: int, last: int, batch: int) -> None:
        self._asking, self._rule, self._last, self._batch = asking, rule, last, batch
        self.clock = Clock()
        self.underway: list[Underway] = []
        """In the order in which they were begun."""
        self._begun = self._serial = first
        """The next batch to begin, and the next serial number."""
        self._streams = ThreadPoolExecutor(max_workers=rule.ahead + rule.staleness + 2)
        self._scorers = ThreadPoolExecutor(max_workers=SCORERS)
        self._changed = threading.Condition()
        self._closing = False

    @property
    def begun(self) -> tuple[int, int]:
        """How many batches were begun, and the next serial number: what a checkpoint keeps beside `underway`."""
        return self._begun, self._serial

    def partials(self) -> list[Group]:
        """What the workers have of the groups that aren't done."""
        return self._asking.pool.partials()

    def restore(self, begun: int, serial: int, groups: Sequence[tuple[Prompt, str, int, int, Group | None]]) -> None:
        """Go on with groups under way: (prompt, origin, serial, step, the group if it was done)."""
        self._begun, self._serial = begun, serial
        by_batch: dict[tuple[int, int], list[tuple[Prompt, str]]] = {}
        for prompt, origin, number, step, group in groups:
            if group is not None:
                item = self._item(prompt, origin, number, step)
                item.group = group
                self._scorers.submit(self._score, item)
            else:
                by_batch.setdefault((number, step), []).append((prompt, origin))
        for (number, step), members in by_batch.items():
            self._stream([p for p, _ in members], [o for _, o in members], number, step)
        self.underway.sort(key=lambda u: (u.step, u.serial))

    def take(self, step: int, count: int) -> list[ScoredGroup]:
        """The step's groups, once they are done; begins the batches that this step allows."""
        while self._begun <= min(step + self._rule.ahead, self._last):
            self._begin(step, self._batch)
            self._begun += 1
        return self._ready(step, count)

    def more(self, step: int, count: int) -> list[ScoredGroup]:
        """Begins fresh groups, and takes as many of those that are next."""
        self._begin(step, count)
        return self._ready(step, count)

    def _begin(self, step: int, count: int) -> None:
        prompts, origin = numbered(self._asking.supply.take(count), self._serial)
        # The newest weights may be on their way: then the first tokens are of those before.
        self._stream(prompts, list(origin.values()), self._serial, step - self._asking.pool.lagging())
        self._serial += 1

    def _stream(self, prompts: Sequence[Prompt], origins: Sequence[str], serial: int, step: int) -> None:
        items = {p.id: self._item(p, o, serial, step) for p, o in zip(prompts, origins, strict=True)}
        self._streams.submit(self._follow, items, serial)

    def _item(self, prompt: Prompt, origin: str, serial: int, step: int) -> Underway:
        item = Underway(prompt=prompt, origin=origin, serial=serial, step=step)
        item.future.add_done_callback(self._wake)
        self.underway.append(item)
        return item

    def _follow(self, items: Mapping[str, Underway], serial: int) -> None:
        """Hands each group of a batch on to be scored; an error is every waiting group's."""
        asking = self._asking
        try:
            groups = rollouts(
                asking.pool, [i.prompt for i in items.values()], asking.group_size, asking.params,
                seed=asking.seed(serial), environments=asking.environments,
            )  # fmt: skip
            for group in groups:
                if self._closing:
                    return
                items[group.prompt.id].group = group
                self._scorers.submit(self._score, items[group.prompt.id])
        except BaseException as error:  # noqa: BLE001  it isn't swallowed: `take` raises it
            for item in items.values():
                if not item.future.done():
                    item.future.set_exception(error)

    def _score(self, item: Underway) -> None:
        assert item.group is not None
        try:
            found = scored(self._asking.scorer, item.group, item.step)
        except BaseException as error:  # noqa: BLE001  it isn't swallowed: `take` raises it
            if not item.future.done():
                item.future.set_exception(error)
        else:
            if not item.future.done():  # else its stream failed meanwhile
                item.future.set_result(found)

    def _wake(self, _: object) -> None:
        with self._changed:
            self._changed.notify_all()

    def _ready(self, step: int, count: int) -> list[ScoredGroup]:
        began = changed = time.monotonic()
        if not self.underway:
            return []
        done = -1
        with self._changed:
            while not (chosen := self._chosen(step, count)):
                before, done = done, sum((u.group is not None) + u.future.done() for u in self.underway)
                if done != before:  # a long batch isn't a stalled one
                    changed = time.monotonic()
                elif time.monotonic() - changed > GROUP_TIMEOUT:
                    raise RunError(f"no group was generated or scored in {GROUP_TIMEOUT:.0f} s")
                self._changed.wait(_LOOK)
        self.clock.add("wait", time.monotonic() - began)
        self.underway = [u for u in self.underway if u not in chosen]
        for item in chosen:
            self._asking.supply.saw(item.origin, pass_rate(item.future.result()))
        return [item.future.result() for item in chosen]

    def _chosen(self, step: int, count: int) -> list[Underway]:
        """The oldest `count` groups that are done, if none is missing whose time has come."""
        done = [u for u in self.underway if u.future.done()]
        for failed in (u for u in done if u.future.exception()):
            failed.future.result()
        overdue = [u for u in self.underway if u.step + self._rule.staleness <= step and not u.future.done()]
        wanted = min(count, len(self.underway))
        return [] if len(done) < wanted or overdue[:wanted] else done[:wanted]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Ends what is under way."""
        self._closing = True
        try:
            if self.underway:
                self._asking.pool.interrupt()
        finally:
            self._streams.shutdown(wait=True, cancel_futures=True)
            self._scorers.shutdown(wait=True, cancel_futures=True)
