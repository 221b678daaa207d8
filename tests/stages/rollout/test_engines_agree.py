"""Rollout engine and learner agree on what was sampled, and go on agreeing; a learner's process doesn't grow."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from posttrain.configs.schema import LearnerCluster, Optimizer
from posttrain.errors import InputError
from posttrain.stages.distill import make_samples
from posttrain.stages.learner.losses.losses import CrossEntropy
from posttrain.stages.learner.rank.packing import PackedBatch, pack, plan_micro_batches
from posttrain.stages.models.model_files import ModelSpec
from posttrain.stages.rollout.engines.transformers_engine import TransformersEngine
from posttrain.types import Completion, Group, Prompt, SamplingParams

GAP = 1e-4  # nats; a clip range is 2000 times as wide
OPTIMIZER = Optimizer(lr=1e-2)


@pytest.fixture(scope="module")
def worker(learner_worker: Any) -> Any:
    learner_worker.settings = LearnerCluster(zero=2)
    return learner_worker


@pytest.fixture
def engine(random_model: Path, tokenizer: Any) -> TransformersEngine:
    model = AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float32, attn_implementation="sdpa")
    return TransformersEngine(model.eval(), tokenizer, batch=12)


def sampled(engine: TransformersEngine, params: SamplingParams) -> list[Completion]:
    asked = [Prompt(id=str(i), messages=({"role": "user", "content": f"Compute {'1+' * i}2."},)) for i in range(7)]
    return [c for group in engine.generate(asked, 3, params, seed=2) for c in group.completions]


def packed(completions: list[Completion]) -> list[PackedBatch]:
    """The completions as the learner gets them in a step: several documents a row, several rows."""
    samples = make_samples([Group(prompt=Prompt(id="x", messages=()), completions=tuple(completions))], {"x": 0})
    (share,) = plan_micro_batches(samples, 1, 150)
    assert len(share) > 2
    return [pack(samples, [s.loss_mask for s in samples], indices) for indices in share]


def largest_gap(worker: Any, completions: list[Completion], temperature: float) -> float:
    """Between the log-probabilities that the engine sampled with and the learner's, over all tokens."""
    batches = packed(completions)
    gaps = []
    for batch, values in zip(batches, worker.logprobs(batches, temperature), strict=True):
        for index in np.unique(batch.samples):
            gaps.append(np.abs(values[batch.samples == index] - completions[index].logprobs).max())
    assert len(gaps) == len(completions)
    return float(max(gaps))


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(max_tokens=24),
        SamplingParams(max_tokens=24, temperature=0.6),
        SamplingParams(max_tokens=24, temperature=0.6, top_p=0.8, top_k=20),
    ],
)
def test_learner_and_engine_give_a_token_the_same_log_probability(
    worker: Any, engine: TransformersEngine, random_model: Path, params: SamplingParams
) -> None:
    worker.load(ModelSpec(path=str(random_model)), OPTIMIZER, 0)
    gap = largest_gap(worker, sampled(engine, params), params.temperature)
    print(f"largest gap at temperature {params.temperature}: {gap:.1e} nats")
    assert gap < GAP


def test_after_a_sync_they_agree_again_and_before_it_they_do_not(
    worker: Any, engine: TransformersEngine, random_model: Path
) -> None:
    params = SamplingParams(max_tokens=24)
    worker.load(ModelSpec(path=str(random_model)), OPTIMIZER, 0)
    completions = sampled(engine, params)
    worker.step(packed(completions)[:1], CrossEntropy(), 1e-2)
    assert largest_gap(worker, completions, 1.0) > 100 * GAP
    weights = worker.weights()
    engine.update_weights(weights, 5)
    again = sampled(engine, params)
    gap = largest_gap(worker, again, 1.0)
    print(f"largest gap after a sync: {gap:.1e} nats")
    assert gap < GAP
    assert [c.token_ids.tolist() for c in again] != [c.token_ids.tolist() for c in completions]


def test_checksums_agree_after_a_sync(worker: Any, engine: TransformersEngine, random_model: Path) -> None:
    worker.load(ModelSpec(path=str(random_model)), OPTIMIZER, 0)
    worker.step(packed(sampled(engine, SamplingParams(max_tokens=24))), CrossEntropy(), 1e-2)
    weights = worker.weights()
    expected = sum(np.abs(w.astype(np.float64)).sum() for name, w in weights.items() if name != "lm_head.weight")
    assert engine.checksum() != pytest.approx(expected, rel=1e-6)
    engine.update_weights(weights, 1)
    assert engine.checksum() == pytest.approx(expected, rel=1e-9)


def test_tokens_carry_the_version_of_the_weights_that_made_them(worker: Any, engine: TransformersEngine) -> None:
    weights = {name: parameter.numpy() for name, parameter in engine.model.state_dict().items()}
    engine.update_weights(weights, 41)
    assert {int(v) for c in sampled(engine, SamplingParams(max_tokens=4)) for v in c.versions} == {41}


def test_a_weight_that_is_missing_is_named(engine: TransformersEngine) -> None:
    weights = {name: parameter.numpy() for name, parameter in engine.model.state_dict().items()}
    del weights["model.norm.weight"]
    with pytest.raises(InputError, match=r"model\.norm\.weight"):
        engine.update_weights(weights, 1)


# ---------------------------------------------------------------- six changes of model in one process

WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
LOADS, KEPT_MIB, KEPT_FILES = 6, 30.0, 2
"""After the second load, the process may keep less than one model (with gradients and Adam's moments: 46 MiB)."""


def test_six_changes_of_model_keep_neither_memory_nor_files(worker: Any, random_model: Path) -> None:
    process = psutil.Process()
    spec = ModelSpec(path=str(random_model), scratch={**WIDE, "num_key_value_heads": 2, "head_dim": 64})
    completions = [
        Completion(
            prompt_id="x", index=i, prompt_ids=np.arange(10, 30), token_ids=np.arange(30, 60), text="",
            sources=np.zeros(30, np.int8), logprobs=np.zeros(30, np.float32), versions=np.zeros(30, np.int32),
            finish_reason="stop",
        )
        for i in range(12)
    ]  # fmt: skip
    sizes, files = [], []
    for _ in range(LOADS):
        loaded = worker.load(spec, OPTIMIZER, 0)
        worker.load_frozen(spec, "teacher0")
        worker.step(packed(completions), CrossEntropy(), 1e-3)
        worker.weights()
        worker.free()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what was freed, and not what glibc likes to keep of it
        sizes.append(process.memory_info().rss / 2**20)
        files.append(process.num_fds())
    print(f"MiB after each: {[round(s) for s in sizes]}; open files: {files}")
    assert loaded["parameters"] * 4 * 4 / 2**20 > KEPT_MIB  # the bound would catch one kept engine
    assert max(sizes[3:]) - max(sizes[:3]) < KEPT_MIB  # the allocator gives back and takes again: the peaks tell
    assert files[-1] - files[1] <= KEPT_FILES
