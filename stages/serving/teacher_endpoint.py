"""A teacher behind an OpenAI-compatible endpoint: groups of completions like those of rollout workers, without ids.

What a server keeps apart as reasoning is put back into a think block. A request that fails costs its own candidate,
as no answer; one that can never be answered (a wrong key, no such model) stops the stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posttrain.configs.schema import JudgeModel, Sampling
from posttrain.errors import InputError
from posttrain.flags import with_mode
from posttrain.rewards.contract import RowError
from posttrain.rewards.models.endpoint import Endpoint
from posttrain.stages.data.load import derive_seed
from posttrain.thinking import CLOSE, OPEN
from posttrain.types import Completion, FinishReason, Group, Prompt

_CUT = "\x00cut\x00"
"""In front of a text that the token limit cut off: no text of a model has it."""


class EndpointTeacher:
    """Asks for `n` candidates a prompt, each with a seed of its own."""

    def __init__(self, endpoint: JudgeModel, sampling: Sampling, n: int, seed: int) -> None:
        request = {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature}
        more = {"top_p": sampling.top_p, **({"top_k": sampling.top_k} if sampling.top_k else {})}
        self.model, self._timeout = endpoint, endpoint.timeout * (endpoint.retries + 1)
        self._asked = [
            {
                hard: Endpoint(_with(endpoint, request, {**more, "seed": derive_seed(seed, i) % 2**31}, hard), _read)
                for hard in (False, True)
            }
            for i in range(n)
        ]

    def groups(self, prompts: Sequence[Prompt]) -> list[Group]:
        """One group a prompt, in order. Raises InputError for prompts with an environment."""
        if any(prompt.environment for prompt in prompts):
            raise InputError("a teacher at an endpoint has no environments", fix="name a model that the run holds")
        made: list[list[Completion]] = [[] for _ in prompts]
        for index, by_mode in enumerate(self._asked):
            for hard, endpoint in by_mode.items():
                mine = [i for i, prompt in enumerate(prompts) if (prompt.mode == "closed") == hard]
                rounds = max(1, -(-len(mine) // self.model.concurrency))
                asked = [with_mode(prompts[i]) for i in mine]
                for i, answer in zip(mine, endpoint.ask(asked, self._timeout * rounds), strict=True):
                    made[i].append(_completion(prompts[i].id, index, answer))
        return [Group(prompt=p, completions=tuple(made[i])) for i, p in enumerate(prompts)]

    def close(self) -> None:
        """Ends all requests."""
        for by_mode in self._asked:
            for endpoint in by_mode.values():
                endpoint.close()


def _with(endpoint: JudgeModel, request: dict[str, Any], more: dict[str, Any], hard: bool) -> JudgeModel:
    extra = {**more, **endpoint.extra}
    if hard:
        extra["chat_template_kwargs"] = {**extra.get("chat_template_kwargs", {}), "enable_thinking": False}
    return endpoint.model_copy(update={**request, "extra": extra})


def _read(reply: Any, model: JudgeModel) -> str | RowError:
    choices = getattr(reply, "choices", None)
    if not choices:
        return RowError(f"{model.endpoint} doesn't speak the chat completions API: it said {str(reply)[:120]!r}")
    message = choices[0].message
    thought = next(
        (t for n in ("reasoning_content", "reasoning") if isinstance(t := getattr(message, n, None), str)), ""
    )
    text = message.content if isinstance(message.content, str) else ""
    if not text and not thought:
        return RowError(f"the teacher said nothing ({choices[0].finish_reason})")
    if thought.strip() and CLOSE not in text:
        closed = f"\n{CLOSE}\n\n" if text else ""
        text = f"{OPEN}\n{thought.strip(chr(10))}{closed}{text}"
    return _CUT + text if choices[0].finish_reason == "length" else text


def _completion(prompt_id: str, index: int, answer: str | RowError) -> Completion:
    failure = answer.detail if isinstance(answer, RowError) else ""
    text = "" if isinstance(answer, RowError) else answer
    reason: FinishReason = "abort" if failure else "length" if text.startswith(_CUT) else "stop"
    return Completion.of_text(prompt_id, text.removeprefix(_CUT), index=index, finish_reason=reason, failure=failure)
