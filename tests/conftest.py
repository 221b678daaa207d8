"""Shared by all tests: one tiny random model, one learner process group, one Ray session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "tie_word_embeddings": True,
    "max_position_embeddings": 512,
}


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 of random weights with the tiny tokenizer: oracles need no skill."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    from posttrain.stages.data.models import builtin_path

    folder = tmp_path_factory.mktemp("random-model")
    tokenizer = AutoTokenizer.from_pretrained(builtin_path("builtin:tiny"))
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), **SHAPE))
    with torch.no_grad():  # far from uniform: differences show
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(random_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(random_model)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One embedded Ray for all tests that need actors."""
    import ray

    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR", object_store_memory=200 << 20)
    yield
    ray.shutdown()
