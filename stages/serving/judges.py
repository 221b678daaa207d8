"""A judge in rollout workers of its own: any model of the run, a folder or a Hub id."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

import ray

from posttrain.configs.schema import JudgeModel
from posttrain.errors import InputError, RunError
from posttrain.rewards.contract import Conversation, RowError
from posttrain.stages.models.model_files import ModelSpec
from posttrain.stages.rollout.pool import RolloutPool
from posttrain.types import Prompt, SamplingParams

T = TypeVar("T")


class Actors(Protocol):
    """Gives out actors of a kind: see `held.ModelActors`."""

    def take(self, kind: type[T]) -> T: ...

    def give_back(self, pool: Any) -> None: ...


class JudgeHolder:
    """Asks a model without thinking (the hard switch), greedily if its temperature is 0; see `held.Holder`."""

    def __init__(self, judge: JudgeModel, spec: ModelSpec, actors: Actors) -> None:
        self._spec, self._actors = spec, actors
        self._params = SamplingParams(max_tokens=judge.max_tokens or 0, temperature=judge.temperature or 0.0)
        self._pool: RolloutPool | None = None

    def load(self) -> None:
        """Raises RunError if the model can't be loaded."""
        self._pool = self._actors.take(RolloutPool)
        try:
            self._pool.load(self._spec)
        except ray.exceptions.RayTaskError as error:
            raise RunError(str(error.cause).strip().splitlines()[-1]) from error

    def answers(
        self, keys: Sequence[str], conversations: Sequence[Conversation]
    ) -> Iterator[tuple[str, str | RowError]]:
        """See Holder. A conversation that doesn't fit the model's context costs itself, not its batch."""
        assert self._pool is not None
        prompts = [
            Prompt(id=key, messages=tuple(turns), mode="closed") for key, turns in zip(keys, conversations, strict=True)
        ]
        left = {prompt.id: prompt for prompt in prompts}
        try:
            for group in self._pool.generate(prompts, 1, self._params, seed=0):
                left.pop(group.prompt.id)
                yield group.prompt.id, self._text(group.completions[0])
        except InputError as error:
            if len(prompts) == 1:
                yield keys[0], RowError(f"the judge: {error.what}")
                return
            for prompt in left.values():
                yield from self.answers([prompt.id], [prompt.messages])

    def free(self) -> None:
        """See Holder."""
        if self._pool is not None:
            self._pool.free()
            self._actors.give_back(self._pool)
            self._pool = None

    def _text(self, completion: Any) -> str | RowError:
        if completion.finish_reason == "length":
            return RowError(
                f"the judge's answer was cut at {self._params.max_tokens} tokens: raise its `max_tokens`, or take a "
                "model that keeps to the form"
            )
        return str(completion.text)
