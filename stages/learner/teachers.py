"""Teachers in actors of their own: packed ids in, final hidden states out.

A state is d numbers a token, a distribution as many as the vocabulary: for Qwen3-8B 8 KB against 304 KB in bfloat16.
The learner holds the teacher's head and applies it chunk by chunk, so the divergence is exact.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import ray

from posttrain.configs.schema import Cluster, TeacherCluster
from posttrain.stages.actors.gpus import Gpus
from posttrain.stages.actors.ray_calls import LOAD_TIMEOUT, answers
from posttrain.stages.learner.rank.frozen_names import teacher_name
from posttrain.stages.learner.rank.packing import PackedBatch
from posttrain.stages.models.model_files import ModelSpec


class TeacherWorker:
    """One actor: the teachers of a stage, by number."""

    def __init__(self, settings: TeacherCluster, threads: int) -> None:
        import torch

        from posttrain.stages.learner.rank.frozen_models import FrozenModels

        torch.set_num_threads(threads)
        self.device = torch.device("cuda" if settings.gpus else "cpu")
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[settings.dtype]
        self.models = FrozenModels(self.device, dtype, offload=False)

    def load(self, specs: Sequence[ModelSpec]) -> None:
        """Load these and no others."""
        self.models.clear()
        for number, spec in enumerate(specs):
            self.models.load(teacher_name(number), spec)

    def states(self, batches: Sequence[PackedBatch]) -> list[Any]:
        """The teacher's hidden states at each batch's targets: tensors [S, d], in the teacher's precision."""
        return [self.models.states(teacher_name(batch.teacher), batch).cpu() for batch in batches]


class TeacherPool:
    """The teachers' actors; which one scores a rank's share is a function of the rank."""

    def __init__(self, cluster: Cluster, gpus: Gpus) -> None:
        settings = cluster.teacher
        threads = settings.threads or max(1, (os.cpu_count() or 1) // (1 if settings.gpus else settings.workers))
        actor = ray.remote(TeacherWorker)
        self.actors = [
            actor.options(num_cpus=0, **place).remote(settings, threads)
            for place in gpus.options(settings.workers, settings.gpus)
        ]

    def load(self, specs: Sequence[ModelSpec]) -> None:
        """Put the stage's teachers into every actor."""
        answers([a.load.remote(list(specs)) for a in self.actors], LOAD_TIMEOUT, "the teachers", "load")

    def states(self, shares: Sequence[Sequence[PackedBatch]]) -> list[Any]:
        """Ray references to each rank's states, a list with one tensor a micro-batch; being made while this returns."""
        return [self.actors[r % len(self.actors)].states.remote(list(share)) for r, share in enumerate(shares)]

    def free(self) -> None:
        """Drop the models; the actors stay."""
        self.load([])

    def close(self) -> None:
        """End the actors."""
        for actor in self.actors:
            ray.kill(actor)
