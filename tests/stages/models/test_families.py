"""Every model family that is taken is computed as transformers computes it, windows and all; others are refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from posttrain.configs.load import load_recipe
from posttrain.errors import InputError
from posttrain.pipelines.planning.plan import make_plan
from posttrain.stages.learner.rank.attention import NAME, Layout, packed_attention
from posttrain.stages.learner.rank.packing import pack
from posttrain.stages.learner.rank.policy import Policy
from posttrain.stages.models.families import FAMILIES
from posttrain.stages.models.model_files import ModelSpec, load_model
from posttrain.stages.rollout.engines.attention import row_attention
from posttrain.stages.rollout.engines.cache import RowCache
from posttrain.stages.rollout.engines.transformers_engine import TransformersEngine
from posttrain.types import Sample

WINDOW = 8
COMMON = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
OWN: dict[str, dict[str, Any]] = {
    "gemma": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8, "sliding_window": WINDOW, "query_pre_attn_scalar": 8, "sliding_window_pattern": 2},
    "mistral": {"sliding_window": WINDOW},
    "mixtral": {"sliding_window": WINDOW, "num_local_experts": 4},
    "phi3": {"sliding_window": WINDOW},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 32},
    "qwen3": {"head_dim": 8, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    "qwen3_moe": {"head_dim": 8, **EXPERTS},
    "smollm3": {"no_rope_layer_interval": 2},
    "starcoder2": {"sliding_window": WINDOW},
}
WINDOWED = {kind for kind, own in OWN.items() if "sliding_window" in own}


def made(kind: str, attention: str, **fields: Any) -> Any:
    config = AutoConfig.for_model(kind, **{**COMMON, **OWN.get(kind, {}), **fields})
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation=attention).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():  # large: what is far away shall count
            weight.copy_(torch.randn_like(weight) * 0.3)
    return model


def plain_logprobs(model: Any, ids: np.ndarray) -> torch.Tensor:
    """Of each token but the first, by transformers' own forward pass over one document."""
    tokens = torch.from_numpy(ids)
    with torch.no_grad():
        logits = model(input_ids=tokens[None]).logits[0].float()
    return torch.log_softmax(logits, -1)[:-1].gather(-1, tokens[1:, None])[:, 0]


def packed_logprobs(model: Any, documents: list[np.ndarray]) -> torch.Tensor:
    masks = [np.concatenate([[0], np.ones(len(ids) - 1)]).astype(np.float32) for ids in documents]
    samples = [Sample(ids=ids, loss_mask=mask) for ids, mask in zip(documents, masks, strict=True)]
    batch = pack(samples, masks, list(range(len(samples))))
    there = [torch.from_numpy(np.array(a)) for a in (batch.ids, batch.positions, batch.sources, batch.targets)]
    with torch.no_grad():
        layout = Layout.of(batch, torch.device("cpu"))
        return Policy(model)(there[0], there[1], layout, there[2], there[3], 1)["logprobs"]


def documents() -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.integers(3, 64, length) for length in (40, 5, 23)]


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_learner_scores_packed_documents_as_transformers_does_each(kind: str) -> None:
    plain = made(kind, "eager")
    found = packed_logprobs(made(kind, NAME), documents())
    wanted = torch.cat([plain_logprobs(plain, ids) for ids in documents()])
    assert torch.allclose(found, wanted, atol=2e-4), float((found - wanted).abs().max())


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_engine_decodes_with_the_same_logits(kind: str) -> None:
    """A prompt of 20 tokens, then a token at a time: beyond any window."""
    plain, model = made(kind, "eager"), made(kind, "sdpa")
    ids = torch.from_numpy(np.stack([np.random.default_rng(row).integers(3, 64, 28) for row in range(2)]))
    engine = TransformersEngine.__new__(TransformersEngine)
    model.set_attn_implementation("posttrain_rows")
    engine.model, engine.device = model, torch.device("cpu")
    cache = RowCache(model.config, 2, 48, torch.float32, engine.device)
    with torch.no_grad():
        found = [engine._forward(ids[:, :20], torch.arange(20).expand(2, -1), cache)]
        found += [engine._forward(ids[:, [at]], torch.full((2, 1), at), cache) for at in range(20, 28)]
        wanted = plain(input_ids=ids).logits
    together = torch.cat(found, 1)
    assert torch.allclose(together.log_softmax(-1), wanted.log_softmax(-1), atol=2e-4)


@pytest.mark.parametrize("kind", sorted(WINDOWED))
def test_the_windows_of_these_tests_matter(kind: str) -> None:
    """Else the two above would pass without them."""
    ids = documents()[0]
    near, far = (plain_logprobs(made(kind, "eager", sliding_window=size), ids) for size in (WINDOW, 256))
    assert torch.allclose(near[: WINDOW - 1], far[: WINDOW - 1], atol=1e-4)
    assert (near - far).abs().max() > 0.05


@pytest.mark.parametrize("kind", ["granite", "gemma2", "cohere", "gpt_oss", "mamba"])
def test_a_family_that_would_be_computed_differently_is_refused(kind: str, tmp_path: Path) -> None:
    AutoConfig.for_model(kind, **{k: v for k, v in COMMON.items() if "token" not in k}).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=rf"'{kind}' aren't known"):
        load_model(ModelSpec(path=str(tmp_path)), torch.float32, "sdpa")


@pytest.mark.parametrize("keyword", ["softcap", "s_aux"])
@pytest.mark.parametrize("attention", [row_attention, packed_attention])
def test_what_a_layer_asks_for_and_would_not_get_is_refused(attention: Any, keyword: str) -> None:
    states = torch.zeros(1, 2, 3, 4)
    layout = {"layout": object()} if attention is packed_attention else {}
    with pytest.raises(InputError, match=keyword):
        attention(torch.nn.Identity(), states, states, states, None, **{keyword: 30.0}, **layout)


def test_the_plan_refuses_it_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "granite").mkdir()
    (tmp_path / "granite" / "config.json").write_text('{"model_type": "granite"}')
    recipe = tmp_path / "r.yaml"
    answers = "  answers: {kind: sample, model: granite, prompts: {from: builtin:arithmetic, n: 2}}\n"
    trained = "  tuned: {kind: sft, model: granite, data: {from: builtin:chat, n: 2}}\n"
    vllm = "cluster: {learner: {gpus: 1}, rollout: {gpus: 1, engine: vllm}}\n"
    for stages, cluster in ((answers, ""), (trained, ""), (trained, vllm)):
        recipe.write_text(f"name: r\n{cluster}stages:\n{stages}")
        with pytest.raises(InputError, match="'granite' aren't known") as refused:
            make_plan(load_recipe(str(recipe)), tmp_path / "run")
        assert f"r.yaml:{4 if cluster else 3}" in str(refused.value.where)
    recipe.write_text(f"name: r\n{vllm}stages:\n{answers}")
    make_plan(load_recipe(str(recipe)), tmp_path / "run")  # vLLM computes it by itself
