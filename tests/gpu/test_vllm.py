"""vLLM on the learner's GPU: what it samples the learner scores alike, and new weights come between two tokens."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from posttrain.configs.schema import Cluster, LearnerCluster, Optimizer, RolloutCluster
from posttrain.stages.learner.experience import sequence
from posttrain.stages.learner.losses.losses import CrossEntropy, PolicyLoss
from posttrain.stages.models.chat import ChatFormat
from posttrain.stages.models.locations import builtin_path
from posttrain.stages.models.model_files import ModelSpec
from posttrain.stages.rollout import weights
from posttrain.stages.rollout.engines.thinking_budget import ThinkingBudget
from posttrain.types import Completion, Prompt, SamplingParams, Source

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]
pytest.importorskip("vllm")

MEAN_GAP, LARGEST_GAP = 0.01, 0.3
"""Nats, in bfloat16 on both sides."""


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory, shape: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Learner and rollout worker on one GPU, the worker with the learner's weights."""
    from posttrain.pipelines.running.cluster import ClusterWorkers

    cluster = Cluster(
        learner=LearnerCluster(gpus=0.5, dtype="bfloat16", zero=1),
        rollout=RolloutCluster(
            engine="vllm", gpus=0.5, dtype="bfloat16", memory=0.2, max_context=1024, sleep=True, check_weights=1
        ),
    )
    folder = tmp_path_factory.mktemp("run")
    workers = ClusterWorkers(cluster, folder, folder)
    learner, pool = workers.learner(), workers.rollout()
    spec = ModelSpec(path=str(builtin_path("builtin:tiny")), scratch=shape)
    learner.load(spec, Optimizer(lr=1e-2))
    pool.follow(learner)
    pool.load(spec)
    pool.update_weights(0)
    yield learner, pool
    pool.free()
    workers.close()


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    from transformers import AutoTokenizer

    return ChatFormat(AutoTokenizer.from_pretrained(Path(str(builtin_path("builtin:tiny")))))


def prompts(count: int) -> list[Prompt]:
    return [Prompt(id=str(i), messages=({"role": "user", "content": f"Compute {'1+' * i}2."},)) for i in range(count)]


def sampled(pool: Any, params: SamplingParams, count: int = 16) -> list[Completion]:
    return [c for group in pool.generate(prompts(count), 4, params, seed=2) for c in group.completions]


def gaps(learner: Any, completions: list[Completion], temperature: float = 1.0) -> np.ndarray:
    """|learner's log-probability - engine's| of every sampled token, in nats."""
    samples = [sequence(c, 0) for c in completions]
    found = learner.logprobs(samples, micro_tokens=4096, temperature=temperature)
    pairs = zip(found, samples, strict=True)
    return np.concatenate([np.abs(f - s.engine_logprobs)[s.loss_mask > 0] for f, s in pairs])


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_learner_gives_what_was_sampled_the_same_log_probability(beside: Any, temperature: float) -> None:
    learner, pool = beside
    found = gaps(learner, sampled(pool, SamplingParams(max_tokens=64, temperature=temperature)), temperature)
    print(f"temperature {temperature}: mean {found.mean():.5f}, largest {found.max():.4f} nats, {len(found)} tokens")
    assert found.mean() < MEAN_GAP
    assert found.max() < LARGEST_GAP


def test_greedy_takes_the_likeliest_and_members_of_a_group_differ(beside: Any) -> None:
    _, pool = beside
    greedy = sampled(pool, SamplingParams(max_tokens=16, temperature=0), 2)
    assert len({tuple(c.token_ids.tolist()) for c in greedy}) == 2
    drawn = sampled(pool, SamplingParams(max_tokens=16), 1)
    assert len({tuple(c.token_ids.tolist()) for c in drawn}) == 4


@pytest.mark.parametrize("budget", [0, 5, 20])
def test_a_thinking_budget_is_exact(beside: Any, chat: ChatFormat, budget: int) -> None:
    """Checked by the watcher itself, token by token, over what came."""
    _, pool = beside
    cut = 0
    for c in sampled(pool, SamplingParams(max_tokens=400, thinking_budget=budget), 24):
        watch, forced = ThinkingBudget.watch(chat, budget, c.prompt_ids), list[int]()
        for place, (token, source) in enumerate(zip(c.token_ids.tolist(), c.sources.tolist(), strict=True)):
            forced = forced or watch.inject(c.token_ids[:place].tolist())
            assert (source == Source.INJECTED) == bool(forced)
            if forced:
                assert token == forced.pop(0)
                assert c.logprobs[place] == 0
        cut += Source.INJECTED in c.sources
    print(f"budget {budget}: {cut} of 96 were cut")
    assert cut


def test_after_a_step_they_agree_again_and_before_it_they_do_not(beside: Any) -> None:
    learner, pool = beside
    params = SamplingParams(max_tokens=64)
    completions = sampled(pool, params)
    learner.step([sequence(c, 0) for c in completions], CrossEntropy(), step=0, micro_tokens=4096)
    before = gaps(learner, completions)
    began = time.monotonic()
    pool.update_weights(1)  # compares the sums
    taken = time.monotonic() - began
    fresh = sampled(pool, params)
    after = gaps(learner, fresh)
    print(f"mean before {before.mean():.4f}, after {after.mean():.5f} nats; {taken:.3f} s")
    assert {int(v) for c in fresh for v in c.versions} == {1}
    assert before.mean() > 10 * after.mean()
    assert after.mean() < MEAN_GAP


def test_steps_and_transfers_keep_no_memory(beside: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, pool = beside

    def small_buckets(_: Any) -> None:
        """Several a transfer: memory that is opened once PyTorch gets back."""
        weights.BUCKET = 1 << 20

    tiny = learner.optimizer.model_copy(update={"lr": 1e-9})  # others use this model, too
    monkeypatch.setattr(learner, "optimizer", tiny)
    ray.get(learner.actors[0].__ray_call__.remote(small_buckets))
    held, samples = [], [sequence(c, 0) for c in sampled(pool, SamplingParams(max_tokens=64))]
    samples = [replace(s, group=i // 4, advantage=float(i % 4) - 1.5) for i, s in enumerate(samples)]
    for _ in range(12):
        step = learner.step(samples, PolicyLoss(), step=0, micro_tokens=1024)
        pool.update_weights(1)
        held.append((step["gpu_gib"], learner.memory()["gpu_gib"]))
    print("GiB behind steps and transfers:", " ".join(f"{a:.3f}/{b:.3f}" for a, b in held))
    assert max(max(pair) for pair in held[2:]) < max(held[1]) + 0.02  # the smallest bucket is the embedding: 0.07


def test_it_gives_its_memory_away_and_comes_back_with_new_weights(beside: Any) -> None:
    import torch

    learner, pool = beside
    held = torch.cuda.mem_get_info()[0]
    pool.rest()
    freed = torch.cuda.mem_get_info()[0] - held
    pool.update_weights(2)
    began = time.monotonic()
    completions = sampled(pool, SamplingParams(max_tokens=64))
    print(f"gave {freed / 2**30:.1f} GiB back; first generation after it {time.monotonic() - began:.2f} s")
    assert freed > 0.1 * torch.cuda.mem_get_info()[1]
    assert {int(v) for c in completions for v in c.versions} == {2}
    assert gaps(learner, completions).mean() < MEAN_GAP


def test_new_weights_come_in_flight(beside: Any) -> None:
    learner, pool = beside
    found: list[Completion] = []
    params = SamplingParams(max_tokens=600)
    thread = threading.Thread(target=lambda: found.extend(sampled(pool, params, 128)))
    thread.start()
    partial: list[Completion] = []
    while thread.is_alive() and not any(len(c.token_ids) >= 17 for c in partial):
        partial = [c for g in pool.partials() for c in g.completions]
    pool.push_weights(3)
    pool.settle()
    thread.join(timeout=300)
    assert any(c.finish_reason == "abort" and len(c.token_ids) for c in partial)
    mixed = [c for c in found if {2, 3} == set(c.versions.tolist())]
    print(f"{len(mixed)} of {len(found)} completions have tokens of both versions")
    assert mixed
    assert all((np.diff(c.versions) >= 0).all() for c in found)
    # The weights are the same: over the cached prefix, the log-probabilities are too.
    assert gaps(learner, mixed).mean() < MEAN_GAP


def test_the_next_stages_model_takes_over_the_running_engine(beside: Any, tmp_path: Path) -> None:
    """Last: it changes what the others share."""
    learner, pool = beside
    tokenizer, params, engines, seconds = str(builtin_path("builtin:tiny")), SamplingParams(max_tokens=64), [], []
    for number in range(3):
        completions = sampled(pool, params)
        learner.step([sequence(c, 0) for c in completions], CrossEntropy(), step=number, micro_tokens=4096)
        stale = gaps(learner, completions)
        folder = tmp_path / str(number)
        learner.export(folder, tokenizer, "bfloat16")
        pool.free()
        began = time.monotonic()
        pool.load(ModelSpec(path=str(folder)))
        seconds.append(time.monotonic() - began)
        found = gaps(learner, sampled(pool, params))
        assert found.mean() < MEAN_GAP < stale.mean()
        engines.append(ray.get(pool.actors[0].__ray_call__.remote(lambda worker: id(worker.engine)), timeout=60))
    print(f"engines {engines}, started in {', '.join(f'{s:.1f}' for s in seconds)} s")
    assert len(set(engines)) == 1
