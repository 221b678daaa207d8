"""One answer of one model, in this process: `posttrain generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.configs.schema import ModelSource
from posttrain.stages.models.locations import builtin_path
from posttrain.thinking import split_thinking
from posttrain.types import Prompt, SamplingParams


def generate_text(
    model: str,
    prompt: str,
    *,
    no_think: bool = False,
    thinking_budget: int | None = None,
    max_tokens: int = 512,
    temperature: float = 0.6,
    seed: int = 0,
    recipe_dir: Path = Path(),
) -> dict[str, Any]:
    """Ask `model` (a folder, a built-in or a Hub id) one question: {"thinking", "answer", "tokens"}.

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
    question = Prompt(id="0", messages=({"role": "user", "content": prompt},), mode="closed" if no_think else "default")
    params = SamplingParams(
        max_tokens=max_tokens, temperature=temperature, top_p=0.95, top_k=20, thinking_budget=thinking_budget
    )
    completion = next(engine.generate([question], 1, params, seed)).completions[0]
    split = split_thinking(completion.text)
    return {"thinking": split.thinking, "answer": split.answer, "tokens": len(completion.token_ids)}
