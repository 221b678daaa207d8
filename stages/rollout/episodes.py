"""Multi-turn rollouts: the policy calls tools, an environment answers, until there is a final answer (report, 4.4).

Every turn continues the ids of the turns before it: nothing is rendered or encoded again. What the tools said is
marked Source.TOOL, and is context for the loss, never a target. A group goes on as soon as its last episode is over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from posttrain.configs.nodes.agents import EnvironmentUse
from posttrain.errors import RewardError
from posttrain.rewards.environments.client import EnvironmentPool, EpisodeFailed
from posttrain.rewards.rules.tools import OPEN, read_calls
from posttrain.stages.rollout.pool import RolloutPool
from posttrain.thinking import answer_of
from posttrain.types import Completion, FinishReason, Group, Message, Prompt, SamplingParams, Source, Turn

Environments = Callable[[EnvironmentUse], EnvironmentPool]
"""Gives the processes of an environment; they live as long as the run."""

THREADS = 16
"""Tool calls that are waited for at once."""

MALFORMED = 'error: no tool was called: write {"name": ..., "arguments": {...}} as JSON between the tool_call marks'


@dataclass(kw_only=True)
class _Episode:
    """One completion in the making."""

    prompt: Prompt
    index: int
    pool: EnvironmentPool
    use: EnvironmentUse
    room: int
    parts: list[Completion] = field(default_factory=list)
    """What the policy said, turn by turn."""
    turns: list[Message] = field(default_factory=list)
    waiting: Future[list[str]] | None = None
    ending: Future[dict[str, Any]] | None = None
    finish: FinishReason | None = None
    outcome: dict[str, Any] = field(default_factory=dict)
    failure: str = ""

    @property
    def name(self) -> str:
        return f"{self.prompt.id}#{self.index}"

    def fail(self, error: Exception) -> None:
        self.failure = self.failure or str(error)
        self.finish = self.finish or "abort"


def rollouts(
    pool: RolloutPool,
    prompts: Sequence[Prompt],
    n: int,
    params: SamplingParams,
    *,
    seed: int,
    environments: Environments,
) -> Iterator[Group]:
    """`n` completions a prompt, handed on as each group is done; with its environment where a prompt names one.

    `params.max_tokens` bounds a whole episode: all turns, and what the tools said in between.

    Raises:
        RunError: see RolloutPool.generate.
        RewardError: an environment can't be loaded, or says different things of one prompt.
    """
    alone = [p for p in prompts if not p.environment]
    if alone:
        yield from pool.generate(alone, n, params, seed=seed)
    acting = [p for p in prompts if p.environment]
    if acting:
        threads = ThreadPoolExecutor(max_workers=THREADS)
        try:
            yield from _Rounds(pool, params, seed, environments, threads).run(acting, n)
        finally:
            threads.shutdown(cancel_futures=True)


class _Rounds:
    """One assistant turn of all episodes that go on, then the next."""

    def __init__(
        self, pool: RolloutPool, params: SamplingParams, seed: int, environments: Environments, threads: Any
    ) -> None:
        self._pool, self._params, self._seed = pool, params, seed
        self._environments, self._threads = environments, threads

    def run(self, prompts: Sequence[Prompt], n: int) -> Iterator[Group]:
        """See `rollouts`."""
        episodes = [
            _Episode(prompt=p, index=i, pool=self._environments(use), use=use, room=self._params.max_tokens)
            for p in prompts
            for use in [EnvironmentUse.model_validate_json(p.environment)]
            for i in range(n)
        ]
        try:
            yield from self._play(self._start(episodes), n)
        finally:  # stopped halfway: what the environments hold must not outlive the rollout
            for episode in episodes:
                with contextlib.suppress(EpisodeFailed, RewardError):
                    episode.pool.end(episode.name)

    def _play(self, groups: dict[str, list[_Episode]], n: int) -> Iterator[Group]:
        asked, heard = [episodes[0].prompt for episodes in groups.values()], 0
        for heard, group in enumerate(self._pool.generate(asked, n, self._params, seed=self._seed), 1):  # noqa: B007
            for episode, completion in zip(groups[group.prompt.id], group.completions, strict=True):
                self._heard(episode, completion)
        turn = 1
        while groups and heard == len(asked):  # fewer: the workers were told to stop, and nobody waits for the rest
            for name in [name for name, episodes in groups.items() if all(e.finish for e in episodes)]:
                yield self._finished(groups.pop(name))
            going = {e.name: e for episodes in groups.values() for e in episodes if not e.finish}
            turn += 1
            asked = [p for e in going.values() if (p := self._continued(e, turn)) is not None]
            answers = self._pool.generate(asked, 1, self._params, seed=self._seed) if asked else ()
            heard = 0
            for heard, group in enumerate(answers, 1):  # noqa: B007  it is read when the round is over
                self._heard(going[group.prompt.id.rpartition("@")[0]], group.completions[0])

    def _start(self, episodes: Sequence[_Episode]) -> dict[str, list[_Episode]]:
        """Resets an environment for every completion; what they say becomes part of the prompt."""
        said = [self._threads.submit(e.pool.start, e.name, e.prompt.columns) for e in episodes]
        groups: dict[str, list[_Episode]] = {}
        told: dict[str, str] = {}
        for episode, answer in zip(episodes, said, strict=True):
            groups.setdefault(episode.prompt.id, []).append(episode)
            try:
                text = answer.result()
            except EpisodeFailed as error:
                episode.fail(error)
                continue
            if told.setdefault(episode.prompt.id, text) != text:
                raise RewardError(
                    f"environment {episode.use.use!r}: reset says different things of one prompt, {episode.prompt.id}",
                    fix="derive what is random from the row's columns: a group shares its prompt",
                )
        for name, members in groups.items():
            shown = with_observation(members[0].prompt, told.get(name, ""), members[0].pool.tools())
            for episode in members:
                episode.prompt = shown
        return groups

    def _heard(self, episode: _Episode, completion: Completion) -> None:
        """Takes an assistant turn, and has its calls answered."""
        if completion.token_ids.size or not episode.parts:  # else nothing was left to say it with: the results go too
            episode.parts.append(completion)
            episode.turns.append({"role": "assistant", "content": completion.text})
        elif episode.turns and episode.turns[-1]["role"] == "tool":
            while episode.turns[-1]["role"] == "tool":
                episode.turns.pop()
        answer = answer_of(completion.text)
        if episode.finish:  # its reset failed
            return
        if completion.finish_reason != "stop" or OPEN not in answer:
            episode.finish = completion.finish_reason
            self._over(episode)
            return
        if len(episode.parts) == episode.use.max_turns:
            episode.finish = "turns"
            self._over(episode)
            return
        calls = read_calls(answer)
        if calls is None:
            episode.waiting = self._threads.submit(lambda: [MALFORMED])
        else:
            made = [(call.name, call.arguments) for call in calls]
            episode.waiting = self._threads.submit(episode.pool.call, episode.name, made)

    def _continued(self, episode: _Episode, turn: int) -> Prompt | None:
        """The prompt of the episode's next turn, once the tools have answered."""
        assert episode.waiting is not None
        try:
            results = episode.waiting.result()
        except EpisodeFailed as error:
            episode.fail(error)
            return None
        episode.turns += [{"role": "tool", "content": text} for text in results]
        last, first = episode.parts[-1], episode.parts[0]
        ids = np.concatenate([last.prompt_ids, last.token_ids])
        room = episode.room - (len(ids) - len(first.prompt_ids))
        return replace(
            episode.prompt,
            id=f"{episode.name}@{turn}",
            continues=Turn(ids=ids, results=tuple(results), room=room),
            begun=(),
        )

    def _over(self, episode: _Episode) -> None:
        """Ends it in its environment, once: what that holds isn't needed until the whole group is done."""
        if episode.ending is None:
            episode.ending = self._threads.submit(episode.pool.end, episode.name)

    def _finished(self, episodes: Sequence[_Episode]) -> Group:
        for episode in episodes:
            self._over(episode)
            assert episode.ending is not None
            try:
                episode.outcome = episode.ending.result()
            except EpisodeFailed as error:
                episode.fail(error)
        return Group(prompt=episodes[0].prompt, completions=tuple(map(joined, episodes)))


def with_observation(prompt: Prompt, text: str, tools: Sequence[Mapping[str, Any]]) -> Prompt:
    """The prompt with the environment's tools, and what it says at the start behind the last user turn."""
    columns = {**prompt.columns, "tools": [*tools]}
    if not text:
        return replace(prompt, columns=columns)
    last = max(i for i, m in enumerate(prompt.messages) if m["role"] == "user")
    turn = {**prompt.messages[last], "content": f"{prompt.messages[last]['content']}\n{text}"}
    return replace(prompt, columns=columns, messages=(*prompt.messages[:last], turn, *prompt.messages[last + 1 :]))


def joined(episode: _Episode) -> Completion:
    """The episode as one completion: the ids between two turns are what the template put there for the tools."""
    first, parts = episode.parts[0], episode.parts
    ids, sources, logprobs, versions = [], [], [], []
    length = len(first.prompt_ids)
    for part in parts:
        between = part.prompt_ids[length:]
        ids += [between, part.token_ids]
        sources += [np.full(len(between), Source.TOOL, np.int8), part.sources]
        logprobs += [np.zeros(len(between), np.float32), part.logprobs]
        versions += [np.full(len(between), part.versions[:1], np.int32), part.versions]
        length = len(part.prompt_ids) + len(part.token_ids)
    return replace(
        first,
        prompt_id=episode.prompt.id,
        index=episode.index,
        token_ids=np.concatenate(ids),
        sources=np.concatenate(sources),
        logprobs=np.concatenate(logprobs),
        versions=np.concatenate(versions),
        text=transcript(episode.turns),
        finish_reason=episode.finish or "abort",
        turns=tuple(episode.turns),
        outcome=episode.outcome,
        failure=episode.failure,
    )


def transcript(turns: Sequence[Message]) -> str:
    """An episode as text, for a person.

    >>> transcript([{"role": "assistant", "content": "2+2?"}, {"role": "tool", "content": "4"}])
    '2+2?\\n<tool_response>\\n4\\n</tool_response>'
    """
    return "\n".join(
        f"<tool_response>\n{m['content']}\n</tool_response>" if m["role"] == "tool" else str(m["content"])
        for m in turns
    )
