"""An exported model is everybody's: plain transformers loads it, and it talks as its parent does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from posttrain.stages.models.model_files import export_model


@pytest.fixture(scope="module")
def exported(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    parent = AutoModelForCausalLM.from_pretrained(random_model)
    export_model(parent.config, parent.state_dict(), AutoTokenizer.from_pretrained(random_model), folder)
    return folder


def test_plain_transformers_loads_the_same_function(exported: Path, random_model: Path, tokenizer: Any) -> None:
    ids = torch.tensor([tokenizer.encode("What is 2+3?")])
    with torch.no_grad():
        ours, parents = (
            AutoModelForCausalLM.from_pretrained(folder)(ids).logits for folder in (exported, random_model)
        )
    assert torch.equal(ours, parents)


def test_the_chat_template_is_the_parents(exported: Path, tokenizer: Any) -> None:
    assert AutoTokenizer.from_pretrained(exported).chat_template == tokenizer.chat_template


def test_the_vocabulary_is_the_parents(exported: Path, tokenizer: Any) -> None:
    assert AutoTokenizer.from_pretrained(exported).get_vocab() == tokenizer.get_vocab()


def test_generation_stops_at_both_ends(exported: Path, tokenizer: Any) -> None:
    stops = GenerationConfig.from_pretrained(exported).eos_token_id
    assert set(stops) == set(tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))
