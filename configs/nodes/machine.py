"""Where a run's actors stand. Nothing here enters a stage's key: changing it reuses what is done."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from posttrain.configs.nodes.strict import Strict, differing


class LearnerCluster(Strict):
    workers: int = Field(1, ge=1, description="DeepSpeed ranks")
    zero: Literal[0, 1, 2, 3] = Field(2, description="ZeRO's stage; in bfloat16 0 and 1 are taken for 2")
    gpus: float = Field(0, ge=0, description="GPUs a rank")
    threads: int | None = Field(None, ge=1, description="CPU threads a rank; all cores shared evenly if not given")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of weights and computation")
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass, for less memory"
    )
    kernels: Literal["auto", "torch", "liger", "compile"] = Field(
        "auto", description="norms, gates and rotary embeddings on a GPU; auto: liger-kernel's if it is installed"
    )
    float32_head: bool = Field(False, description="the output head multiplies in float32, whatever `dtype` is")
    offload_frozen: bool = Field(False, description="teachers and references wait in the host's memory between uses")
    offload_optimizer: bool = Field(False, description="the optimizer's state lies, and steps, in the host's memory")

    @property
    def stage(self) -> int:
        """ZeRO's stage as DeepSpeed is told: in bfloat16 the second at least.

        Without ZeRO, DeepSpeed can add micro-batches up in bfloat16 alone, where a sum of equal gradients stands still
        from the 257th on, and goes through the weights one by one, waiting for the GPU at each. Its first stage uses
        another optimizer for float32 sums, which keeps them whole on every rank and doesn't undo a bad step. With the
        second, weights and sums in float32 lie in one piece each.
        """
        return self.zero if self.dtype == "float32" else max(self.zero, 2)

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        if self.kernels in ("liger", "compile") and not self.gpus:
            raise ValueError(f"kernels: {self.kernels} is for a GPU: say gpus, or leave kernels out")
        if self.offload_optimizer and not self.stage:
            raise ValueError("offload_optimizer needs ZeRO: say zero: 1, 2 or 3")
        return self


class RolloutCluster(Strict):
    workers: int = Field(1, ge=1, description="actors that generate")
    engine: Literal["transformers", "vllm"] = Field(
        "transformers", description="transformers runs on CPUs too; vllm needs a GPU"
    )
    gpus: float = Field(0, ge=0, description="GPUs a worker; vllm splits the model over several")
    threads: int | None = Field(None, ge=1, description="CPU threads per worker; all cores shared evenly if not given")
    batch: int = Field(256, ge=1, description="sequences decoded together")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of weights and computation")
    memory: float | None = Field(
        None, gt=0, le=1, description="vllm: the share of its GPU that it takes; 0.9 of its part of it if not given"
    )
    max_context: int | None = Field(
        None, ge=1, description="vllm: tokens that prompt and completion may have; the model's own limit if not given"
    )
    eager: bool = Field(False, description="vllm: no CUDA graphs; starts sooner, decodes slower")
    sleep: bool = Field(False, description="vllm: gives its GPU memory to the learner while that trains")
    float32_head: bool = Field(False, description="vllm: the output head multiplies in float32; say so of both")
    check_weights: int = Field(10, ge=1, description="vllm: compare the sums of all weights at every so many transfers")

    @property
    def can_sleep(self) -> bool:
        """Whether vLLM can drop weights and cache: within a step if `sleep`, between stages if it shares its GPU."""
        return self.sleep or self.gpus < 1

    @model_validator(mode="after")
    def _fits_the_engine(self) -> Self:
        if self.engine == "vllm":
            if not self.gpus:
                raise ValueError("engine vllm needs a GPU: say gpus: 1, or 0.5 to share one with the learner")
            if self.gpus > 1 and self.gpus != int(self.gpus):
                raise ValueError("engine vllm takes a part of one GPU or whole ones: say gpus: 0.5, 1, 2, ...")
            return self
        own = {"memory", "max_context", "eager", "sleep", "float32_head", "check_weights"}
        asked = sorted(differing(self) & own)
        if asked:
            raise ValueError(f"{', '.join(asked)}: only with engine: vllm")
        return self


class TeacherCluster(Strict):
    workers: int = Field(0, ge=0, description="actors of the teachers; 0: they stand with the learner")
    gpus: float = Field(0, ge=0, description="GPUs per actor")
    threads: int | None = Field(None, ge=1, description="CPU threads per actor; all cores shared evenly if not given")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of weights and computation")


class SandboxCluster(Strict):
    workers: int = Field(1, ge=1, description="actors that run code")
    min_tier: Literal["A", "B", "C"] = Field("B", description="the weakest confinement that is accepted")
    preload: tuple[Literal["numpy"], ...] = Field((), description="libraries that code can import besides Python's own")
    languages: tuple[Literal["bash", "node", "cpp"], ...] = Field(
        (), description="languages besides Python that may be run; in tier A only"
    )


Actors = LearnerCluster | RolloutCluster | TeacherCluster
"""A group that may stand on GPUs."""


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """The groups whose actors take a part of a GPU each: actor i of each stands on GPU i."""

    parts: tuple[float, ...]
    """Of a GPU, a group."""
    gpus: int
    """As many as the largest group has actors."""

    @classmethod
    def of(cls, groups: Sequence[Actors]) -> Sharing:
        """What these groups share."""
        some = [group for group in groups if group.workers and 0 < group.gpus < 1]
        return cls(parts=tuple(g.gpus for g in some), gpus=max((g.workers for g in some), default=0))


def gpus_of(groups: Sequence[Actors]) -> int:
    """Whole GPUs that these actors take together."""
    sharing = Sharing.of(groups)
    shared = sharing.gpus if sharing.gpus > 1 else math.ceil(sum(sharing.parts))  # one of each: where Ray finds room
    return shared + sum(group.workers * int(group.gpus) for group in groups if group.gpus >= 1)


class Cluster(Strict):
    """Where things run; never part of a stage's key."""

    address: str | None = Field(None, description="an existing Ray cluster; else one is started and stopped here")
    learner: LearnerCluster = Field(LearnerCluster(), description="the actors that train")
    rollout: RolloutCluster = Field(RolloutCluster(), description="the actors that generate")
    sandbox: SandboxCluster = Field(SandboxCluster(), description="the actors that run model-written code")
    teacher: TeacherCluster = Field(TeacherCluster(), description="the actors of teachers")

    @property
    def sharing(self) -> Sharing:
        """What learner, rollout and teachers share of GPUs."""
        return Sharing.of((self.learner, self.rollout, self.teacher))

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        parts, gpus = self.sharing.parts, self.sharing.gpus
        if gpus > 1 and sum(parts) > 1:
            raise ValueError(
                f"actors that stand on one GPU take {' + '.join(f'{p:g}' for p in parts)} of it, more than there is: "
                "lower `gpus` of learner, rollout or teacher to 1 together, or give each whole GPUs"
            )
        return self
