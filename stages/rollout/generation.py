"""Answers of one model, in this process: `posttrain generate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.configs.schema import ModelSource
from posttrain.stages.models.locations import builtin_path
from posttrain.thinking import split_thinking
from posttrain.types import Mode, Prompt, SamplingParams


def generate_text(model: str, prompt: str, **options: Any) -> dict[str, Any]:
    """Ask `model` one question: {"thinking", "answer", "tokens"}. See `generate_texts`."""
    return generate_texts(model, [prompt], **options)[0]


def generate_texts(
    model: str,
    prompts: Sequence[str],
    *,
    no_think: bool = False,
    thinking_budget: int | None = None,
    max_tokens: int = 512,
    temperature: float = 0.6,
    seed: int = 0,
    recipe_dir: Path = Path(),
) -> list[dict[str, Any]]:
    """Ask `model` (a folder, a built-in or a Hub id) each of `prompts`: {"thinking", "answer", "tokens"} per prompt.

    `no_think` is the hard switch: an empty think block is prefilled.
    """
    import torch
    from transformers import AutoTokenizer

    from posttrain.stages.models.model_files import ModelSpec, load_model
    from posttrain.stages.rollout.engines.transformers_engine import TransformersEngine

    source = ModelSource.model_validate({"from": model})
    path = builtin_path(source.source) or str(recipe_dir / model if (recipe_dir / model).is_dir() else model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    loaded = load_model(ModelSpec(path=path), dtype, "sdpa").to(device).eval()
    engine = TransformersEngine(loaded, AutoTokenizer.from_pretrained(path))
    mode: Mode = "closed" if no_think else "default"
    questions = [
        Prompt(id=str(i), messages=({"role": "user", "content": prompt},), mode=mode)
        for i, prompt in enumerate(prompts)
    ]
    params = SamplingParams(
        max_tokens=max_tokens, temperature=temperature, top_p=0.95, top_k=20, thinking_budget=thinking_budget
    )
    by_id = {group.prompt.id: group.completions[0] for group in engine.generate(questions, 1, params, seed)}
    answers = []
    for question in questions:
        completion = by_id[question.id]
        split = split_thinking(completion.text)
        answers.append({"thinking": split.thinking, "answer": split.answer, "tokens": len(completion.token_ids)})
    return answers
