"""The model families that the learner and the transformers engine compute as transformers does.

Both go through a model's layers themselves: documents packed into one row, rows of their own lengths, the head apart
from the rest. What a family does elsewhere would be left out without a word: scaled or capped logits (Granite, Cohere,
Gemma 2), sinks (gpt-oss), attention in chunks (Llama 4), states that run over a whole row (Mamba, recurrences). So
these alone are taken: each is compared with transformers' own forward pass, in tests/stages/models/test_families.py.
"""

from __future__ import annotations

from typing import Any

from posttrain.errors import InputError

FAMILIES = (
    "gemma", "gemma3_text", "llama", "mistral", "mixtral", "olmo2", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe",
    "smollm3", "starcoder2",
)  # fmt: skip
"""transformers' names of them (`model_type` in config.json)."""
CHANGES_SCORES = ("softcap", "s_aux", "position_bias")
"""Keywords of transformers' attention interface that neither attention here computes."""


def check_family(kind: str, where: str) -> None:
    """Refuse a model of another family. Raises InputError."""
    if kind not in FAMILIES:
        raise InputError(
            f"models of the family {kind!r} aren't known to be computed rightly here", where=where,
            fix=f"take one of {', '.join(FAMILIES)}; as a teacher or judge that only samples, serve it with "
            "cluster.rollout.engine: vllm or behind an endpoint",
        )  # fmt: skip


def check_scores(kind: str, keywords: dict[str, Any]) -> None:
    """Refuse what an attention layer asks for and doesn't get. Raises InputError."""
    asked = [name for name in CHANGES_SCORES if keywords.get(name) is not None]
    if asked:
        raise InputError(f"attention with {', '.join(asked)} isn't computed here", where=kind)
