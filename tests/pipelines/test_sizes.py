"""The recipes of the Qwen3 family fit the GPUs that they are written for, by the plan's own estimate.

Shapes: the Qwen3 report (2505.09388), tables 1 and 2, and the configs on the Hub.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.configs.load import LoadedRecipe, load_recipe
from posttrain.configs.schema import Distill, SampleStage
from posttrain.pipelines.planning.estimate import GIB, _count
from posttrain.pipelines.planning.plan import make_plan

SHAPES = {  # layers, width, inner width, query heads, tied embeddings
    "0.6b": (28, 1024, 3072, 16, True),
    "1.7b": (28, 2048, 6144, 16, True),
    "4b": (36, 2560, 9728, 32, True),
    "8b": (36, 4096, 12288, 32, False),
    "14b": (40, 5120, 17408, 40, False),
    "32b": (64, 5120, 25600, 64, False),
}
GPUS = {"0.6b": 1, "1.7b": 8, "4b": 8, "8b": 8, "14b": 8, "32b": 64}
GPU = 80e9 / GIB
LEARNER = 0.8 * GPU
"""Of a GPU of its own, for weights, gradients and optimizer: a fifth is left for activations."""
ENGINE = 0.9
"""vLLM's share of a GPU that it has for itself."""


def config(size: str) -> dict[str, Any]:
    layers, width, inner, heads, tied = SHAPES[size]
    return {
        "num_hidden_layers": layers, "hidden_size": width, "intermediate_size": inner, "num_attention_heads": heads,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936, "tie_word_embeddings": tied,
    }  # fmt: skip


def size_of(model: str) -> str:
    """`Qwen/Qwen3-4B-Base` -> `4b`."""
    return model.removeprefix("Qwen/Qwen3-").removesuffix("-Base").lower()


def weights(size: str) -> float:
    """GiB in bfloat16."""
    return 2 * (_count(config(size)) or 0) / GIB


def teacher_of(loaded: LoadedRecipe) -> str | None:
    found = [size_of(spec.teacher[0].source) for spec in loaded.recipe.stages.values() if isinstance(spec, Distill)]
    return found[0] if found else None


@pytest.mark.parametrize(
    ("size", "billions"), [("0.6b", 0.6), ("1.7b", 1.7), ("4b", 4.0), ("8b", 8.2), ("14b", 14.8), ("32b", 32.8)]
)
def test_the_shapes_have_the_published_sizes(size: str, billions: float) -> None:
    """The model cards' numbers of parameters."""
    assert round((_count(config(size)) or 0) / 1e9, 1) == billions


@pytest.mark.parametrize("size", GPUS)
def test_a_rank_of_the_learner_fits_its_gpu(size: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config(size)))
    loaded = load_recipe(f"qwen3-{size}", [f"base={tmp_path}"])
    cluster = loaded.recipe.cluster
    teacher = teacher_of(loaded) if not cluster.teacher.workers else None
    found = [stage.estimate.memory_gib for stage in make_plan(loaded, tmp_path / "run").stages]
    ranks = [memory + (weights(teacher) if teacher else 0) for memory in found if memory is not None]
    assert ranks
    assert max(ranks) <= LEARNER * min(1, cluster.learner.gpus)


@pytest.mark.parametrize("size", GPUS)
def test_the_recipe_takes_the_gpus_that_it_names(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QWEN3_32B_BASE", raising=False)
    loaded = load_recipe(f"qwen3-{size}")
    cluster = loaded.recipe.cluster
    actors = (cluster.learner, cluster.rollout, cluster.teacher)
    assert sum(actor.workers * actor.gpus for actor in actors) == GPUS[size]
    assert f"on {'one GPU' if GPUS[size] == 1 else f'{GPUS[size]} GPUs'} of 80 GB" in loaded.recipe.description
    assert loaded.recipe.base is not None
    assert size_of(loaded.recipe.base.source) == size


@pytest.mark.parametrize("size", GPUS)
def test_an_engine_has_room_for_what_it_samples_and_its_longest_sequence(size: str) -> None:
    """Keys and values: 2 x 8 heads x 128 numbers of 2 bytes a layer and token."""
    loaded = load_recipe(f"qwen3-{size}")
    rollout = loaded.recipe.cluster.rollout
    models = {size} | {
        size_of(spec.model.source)
        for spec in loaded.recipe.stages.values()
        if isinstance(spec, SampleStage) and spec.model is not None and spec.model.source.startswith("Qwen/")
    }
    room = (rollout.memory or ENGINE * min(1, rollout.gpus)) * GPU * max(1, rollout.gpus)
    for model in models:
        cache = 32_768 * SHAPES[model][0] * 2 * 8 * 128 * 2 / GIB
        assert weights(model) + cache <= room


@pytest.mark.parametrize("size", GPUS)
def test_a_teacher_of_its_own_leaves_its_gpu_room_for_a_forward_pass(size: str) -> None:
    """Three tensors of its widest layer, at the tokens of one pass; and all else, as much again."""
    loaded = load_recipe(f"qwen3-{size}")
    teacher, cluster = teacher_of(loaded), loaded.recipe.cluster.teacher
    if teacher is None or not cluster.workers:
        assert size in ("0.6b", "32b")
        return
    micro_tokens = max(spec.micro_tokens for spec in loaded.recipe.stages.values() if isinstance(spec, Distill))
    assert weights(teacher) + 2 * 3 * micro_tokens * SHAPES[teacher][2] * 2 / GIB <= GPU


def test_the_smaller_sizes_are_distilled_and_the_largest_goes_through_the_four_stages() -> None:
    """The report, section 4."""
    kinds = {size: {s.kind for s in load_recipe(f"qwen3-{size}").recipe.stages.values()} for size in GPUS}
    assert {size: "distill" in found for size, found in kinds.items()} == {size: size != "32b" for size in GPUS}
    assert list(load_recipe("qwen3-32b").recipe.stages) == [
        "queries", "demonstrations", "cold_start", "rl_queries", "reasoning_rl", "thinking", "non_thinking", "fusion",
        "general_rl",
    ]  # fmt: skip
