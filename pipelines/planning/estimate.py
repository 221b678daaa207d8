"""Rough sizes before anything runs: parameters, memory a rank, disk, tokens. Good for choosing a machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from posttrain.configs.load import LoadedRecipe
from posttrain.configs.schema import LearnerCluster, ModelSource
from posttrain.pipelines.graph.dag import Node
from posttrain.pipelines.graph.model_lookup import config_of

GIB = float(1 << 30)
_ZERO3_BUFFER = 500_000_000
"""Elements of the buffer in which ZeRO-3 collects gradients: DeepSpeed's `reduce_bucket_size` if nobody sets it."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """None where it isn't known before the run: a model that isn't here yet, rows of another stage."""

    devices: str
    parameters: int | None = None
    memory_gib: float | None = None
    """Weights, gradients, AdamW's state and ZeRO-3's buffer of one rank; activations come on top."""
    disk_gib: float | None = None
    tokens: int | None = None
    """At most: every completion as long as it may be."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def estimate(loaded: LoadedRecipe, node: Node) -> Estimate:
    """The estimate of one stage."""
    cluster, declared = loaded.recipe.cluster, node.declaration
    learner = f"{cluster.learner.workers} x {'GPU' if cluster.learner.gpus else 'CPU'} learner"
    rollout = f"{cluster.rollout.workers} x {'GPU' if cluster.rollout.gpus else 'CPU'} rollout"
    training = declared.training
    if training is None:
        return Estimate(devices=rollout, tokens=declared.tokens)
    parameters = _parameters(loaded, training.model)
    devices = f"{learner}, {rollout}" if "rollout" in declared.actors else learner
    if parameters is None:
        return Estimate(devices=devices, tokens=declared.tokens)
    copies = 1 + (training.keep_checkpoints * 3 if training.checkpoint_every else 0)  # a checkpoint: weights and AdamW
    return Estimate(
        devices=devices,
        parameters=parameters,
        memory_gib=round(_bytes_a_rank(parameters, cluster.learner) / GIB, 3),
        disk_gib=round(parameters * 4 * copies / GIB, 3),
        tokens=declared.tokens,
    )


def _bytes_a_rank(parameters: int, learner: LearnerCluster) -> float:
    """Each part split over the ranks from its ZeRO level on. DeepSpeed keeps float32 weights of its own beside bfloat16
    ones, and from ZeRO-1 on beside float32 ones too; bfloat16 gradients it adds up in float32, below ZeRO-3 beside
    those of the pass. With the optimizer ZeRO-3 offloads these sums too.
    """
    stage = learner.stage
    split = [parameters / learner.workers if stage >= level else parameters for level in (3, 2, 1)]
    weights, gradients, states = split
    width = 2 if learner.dtype == "bfloat16" else 4
    master = 4 if stage or width == 2 else 0
    kept = 0 if learner.offload_optimizer else (8 + master) * states
    summed = 6 if width == 2 and stage < 3 else 4
    if stage == 3 and learner.offload_optimizer:
        summed = 0
    return width * weights + summed * gradients + kept + (width * _ZERO3_BUFFER if stage == 3 else 0)


def _parameters(loaded: LoadedRecipe, model: ModelSource) -> int | None:
    """Parameters of a model whose config is at hand."""
    return _count(config_of(loaded, model))


def _count(config: Mapping[str, Any]) -> int | None:
    """Parameters of a dense decoder (Qwen3, Llama) by its config; None if the config doesn't say enough."""
    try:
        hidden, layers, inner = (config[k] for k in ("hidden_size", "num_hidden_layers", "intermediate_size"))
        heads = config["num_attention_heads"]
        vocabulary = config.get("vocab_size", 0)
    except KeyError:
        return None
    width = config.get("head_dim") or hidden // heads
    key_values = config.get("num_key_value_heads") or heads
    attention = hidden * width * (2 * heads + 2 * key_values)
    embeddings = vocabulary * hidden * (1 if config.get("tie_word_embeddings", False) else 2)
    return int(layers * (attention + 3 * hidden * inner + 2 * hidden) + embeddings + hidden)
