"""Ask one model questions in this process: `posttrain generate` and `posttrain.generate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.errors import InputError
from posttrain.pipelines.graph.model_lookup import check_model_name


def ask_model(
    model: str,
    prompts: Sequence[str],
    *,
    no_think: bool = False,
    thinking_budget: int | None = None,
    max_tokens: int = 512,
    temperature: float = 0.6,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Ask `model` each of `prompts`: {"thinking", "answer", "tokens"} per prompt.

    Raises InputError if the model cannot be found or read, or a thinking budget is set where thinking is off.
    """
    if no_think and thinking_budget is not None:
        raise InputError("a thinking budget has no effect where thinking is off", fix="set one of the two")
    check_model_name(model, Path.cwd())
    from posttrain.stages.rollout.generation import generate_texts

    try:
        return generate_texts(
            model,
            prompts,
            no_think=no_think,
            thinking_budget=thinking_budget,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            recipe_dir=Path.cwd(),
        )
    except (OSError, ValueError) as error:  # what transformers raises for a model that it can't find or read
        raise InputError(f"can't load the model: {str(error).splitlines()[0]}", where=model) from None
