"""A language model that a data stage asks: at an endpoint, or in the rollout workers while the stage runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from posttrain.configs.nodes.inputs import judge_source
from posttrain.configs.schema import JudgeModel
from posttrain.rewards.contract import ChatClient, Conversation, RowError
from posttrain.rewards.models.endpoint import EndpointHost
from posttrain.stages.context import StageContext
from posttrain.stages.data.load import derive_seed
from posttrain.stages.rollout.pool import RolloutPool
from posttrain.stages.rollout.scoring import load_policy
from posttrain.types import Prompt, SamplingParams

PATIENCE = 32
"""Requests of one worker that a batch may wait for, one behind the other."""


@contextmanager
def chat_client(context: StageContext, judge: JudgeModel) -> Iterator[ChatClient]:
    """Someone to ask, until the block ends."""
    if judge.source is None:
        host = EndpointHost()
        try:
            yield host.chat(judge, judge.timeout * PATIENCE)
        finally:
            host.close()
        return
    pool, _ = load_policy(context, judge_source(judge))
    try:
        yield _Held(pool, judge, derive_seed(context.seed, context.name, "judge"))
    finally:
        pool.free()


class _Held:
    """The rollout workers as a judge: asked without thinking (the hard switch)."""

    def __init__(self, pool: RolloutPool, judge: JudgeModel, seed: int) -> None:
        self._pool, self._seed = pool, seed
        self._params = SamplingParams(max_tokens=judge.max_tokens or 0, temperature=judge.temperature or 0.0)

    def ask(self, conversations: Sequence[Conversation]) -> list[str | RowError]:
        """See ChatClient."""
        asked = [Prompt(id=str(i), messages=tuple(c), mode="closed") for i, c in enumerate(conversations)]
        said: dict[str, str | RowError] = {}
        for group in self._pool.generate(asked, 1, self._params, seed=self._seed):
            completion = group.completions[0]
            cut = completion.finish_reason == "length"
            said[group.prompt.id] = RowError("the judge's answer was cut") if cut else completion.text
        return [said[prompt.id] for prompt in asked]
