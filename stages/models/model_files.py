"""A model in its files: loaded for training (weights, random, pruned, LoRA), exported as a Hugging Face checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from posttrain.configs.schema import Lora, ModelSource
from posttrain.errors import RecipeError
from posttrain.stages.models.families import check_family


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model to load: a folder or Hub id, and what to do with it."""

    path: str
    revision: str | None = None
    layers: tuple[int, ...] | None = None
    scratch: dict[str, Any] | None = None
    lora: Lora | None = None

    @classmethod
    def of(cls, path: str, source: ModelSource, lora: Lora | None = None) -> ModelSpec:
        return cls(path=path, revision=source.revision, layers=source.layers, scratch=source.scratch, lora=lora)


def load_model(spec: ModelSpec, dtype: torch.dtype, attention: str, seed: int = 0) -> Any:
    """The causal language model of `spec`, in training mode, trainable parameters marked.

    Raises:
        RecipeError: a layer to keep doesn't exist, or the scratch configuration has unknown fields.
        InputError: the model is of a family that isn't known here.
    """
    if spec.scratch is not None:
        return _random_model(spec, dtype, attention, seed)
    config = AutoConfig.from_pretrained(spec.path, revision=spec.revision)
    check_family(config.model_type, spec.path)
    model = AutoModelForCausalLM.from_pretrained(
        spec.path, config=config, revision=spec.revision, dtype=dtype, attn_implementation=attention
    )
    if spec.layers is not None:
        keep_layers(model, spec.layers)
    if spec.lora is not None:
        model = _with_lora(model, spec.lora, seed)
    model.train()
    return model


def _random_model(spec: ModelSpec, dtype: torch.dtype, attention: str, seed: int) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(spec.path, revision=spec.revision)
    fields = {"vocab_size": len(tokenizer), **(spec.scratch or {})}
    kind = fields.pop("model_type", "qwen3")
    check_family(kind, "scratch.model_type")
    config = AutoConfig.for_model(kind, **fields)
    unknown = [name for name in fields if name not in config.to_dict()]
    if unknown:
        raise RecipeError(
            f"`scratch` has unknown fields {unknown}", fix=f"use the fields of transformers' {kind} config"
        )
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    model.train()
    return model


def keep_layers(model: Any, layers: tuple[int, ...]) -> None:
    """Drop all decoder layers but `layers`, in place (a student made from its teacher)."""
    blocks = model.base_model.layers
    wrong = [i for i in layers if not 0 <= i < len(blocks)]
    if wrong:
        raise RecipeError(f"layers {wrong} don't exist: the model has {len(blocks)}", fix="name layers from 0")
    model.base_model.layers = nn.ModuleList([blocks[i] for i in layers])
    for index, block in enumerate(model.base_model.layers):
        block.self_attn.layer_idx = index
    model.config.num_hidden_layers = len(layers)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[i] for i in layers]


def _with_lora(model: Any, lora: Lora, seed: int) -> Any:
    from peft import LoraConfig, get_peft_model

    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):  # adapters start at random values: the same ones on every rank
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def merged_names(name: str) -> str | None:
    """A parameter's name in the plain model; None for adapter weights, which are merged into their base."""
    if ".lora_" in name:
        return None
    return name.replace("base_model.model.", "").replace(".base_layer.", ".")


def export_model(
    config: Any, state: dict[str, torch.Tensor], tokenizer: Any, folder: Path, dtype: torch.dtype = torch.float32
) -> None:
    """Write a Hugging Face checkpoint that plain transformers and vLLM load.

    generation_config names both stop tokens (Qwen3's: end of turn and end of text) and the thinking-mode sampling
    (report, 4.6).
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    stops = stop_ids(tokenizer)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.6, top_p=0.95, top_k=20, eos_token_id=stops, pad_token_id=tokenizer.pad_token_id
    )
    model.config.dtype = dtype
    tied = model.config.tie_word_embeddings
    state = {k: v.to(dtype) for k, v in state.items() if not (tied and k == "lm_head.weight")}
    model.save_pretrained(folder, state_dict=state)
    tokenizer.save_pretrained(folder)


def stop_ids(tokenizer: Any) -> list[int]:
    """End of turn and end of text, each once, as far as the tokenizer has them."""
    known = tokenizer.get_vocab()
    names = (tokenizer.eos_token, "<|im_end|>", "<|endoftext|>")
    return list(dict.fromkeys(known[name] for name in names if name in known))
