"""Where a run's actors run. Nothing here is part of a stage's key: changing it reuses finished stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from posttrain.configs.nodes.strict import Strict, differing


class LearnerCluster(Strict):
    workers: int = Field(1, ge=1, description="Number of DeepSpeed ranks.")
    zero: Literal[0, 1, 2, 3] = Field(2, description="ZeRO stage. In bfloat16, stage 2 is used in place of 0 and 1.")
    gpus: float = Field(0, ge=0, description="GPUs per rank; 0 trains on CPUs, and a fraction shares a GPU.")
    threads: int | None = Field(None, ge=1, description="CPU threads per rank; default: all cores, shared evenly.")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description=(
            "Number format of the weights in forward and backward passes. The optimizer's copy is always float32."
        ),
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, more time."
    )
    kernels: Literal["auto", "torch", "liger", "compile"] = Field(
        "auto",
        description=(
            "Implementation of norms, gates and rotary embeddings on a GPU. `auto` uses liger-kernel if "
            "it is installed."
        ),
    )
    float32_head: bool = Field(False, description="Multiply the output head in float32, whatever `dtype` is.")
    offload_frozen: bool = Field(False, description="Keep teachers and reference models in host memory between uses.")
    offload_optimizer: bool = Field(
        False, description="Keep the optimizer's state in host memory, and update the weights there."
    )

    @property
    def stage(self) -> int:
        """The ZeRO stage that DeepSpeed gets: in bfloat16 at least the second.

        Without ZeRO, DeepSpeed can add micro-batches up in bfloat16 alone, where a sum of equal gradients stops growing
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
    workers: int = Field(1, ge=1, description="Number of rollout workers.")
    engine: Literal["transformers", "vllm"] = Field(
        "transformers", description="Generation engine. `vllm` needs GPUs and the extra `posttrain[vllm]`."
    )
    gpus: float = Field(
        0, ge=0, description="GPUs per worker. vLLM splits the model over several; a fraction shares a GPU."
    )
    threads: int | None = Field(None, ge=1, description="CPU threads per worker; default: all cores, shared evenly.")
    batch: int = Field(256, ge=1, description="Sequences that are decoded together.")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Number format of the weights.")
    memory: float | None = Field(
        None,
        gt=0,
        le=1,
        description="vLLM: share of the GPU's memory to use; default: 0.9 of the worker's share of the GPU.",
    )
    max_context: int | None = Field(
        None, ge=1, description="vLLM: most tokens of prompt and completion together; default: the model's own limit."
    )
    eager: bool = Field(False, description="vLLM: run without CUDA graphs. It starts sooner and decodes more slowly.")
    sleep: bool = Field(False, description="vLLM: release GPU memory while the learner trains.")
    float32_head: bool = Field(
        False, description="vLLM: multiply the output head in float32. Set the learner's `float32_head` as well."
    )
    check_weights: int = Field(
        10, ge=1, description="vLLM: number of weight transfers between comparisons of the weights' checksums."
    )

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
    workers: int = Field(0, ge=0, description="Number of actors that hold teachers; 0 keeps teachers with the learner.")
    gpus: float = Field(0, ge=0, description="GPUs per actor.")
    threads: int | None = Field(None, ge=1, description="CPU threads per actor; default: all cores, shared evenly.")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Number format of the teachers' weights.")


class SandboxCluster(Strict):
    workers: int = Field(1, ge=1, description="Number of sandbox workers.")
    min_tier: Literal["A", "B", "C"] = Field(
        "B", description="Weakest confinement to accept: A is the strongest tier, C the weakest."
    )
    preload: tuple[Literal["numpy"], ...] = Field(
        (), description="Libraries that code can import besides the standard library."
    )
    languages: tuple[Literal["bash", "node", "cpp"], ...] = Field(
        (), description="Languages besides Python that may be run. They need tier A."
    )


Actors = LearnerCluster | RolloutCluster | TeacherCluster
"""A group whose actors may use GPUs."""


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """The groups whose actors take a part of a GPU each: actor i of each uses GPU i."""

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

    address: str | None = Field(
        None, description=("Address of a Ray cluster, or `auto`; default: start a local Ray and stop it with the run.")
    )
    learner: LearnerCluster = Field(LearnerCluster(), description="Where models are trained.")
    rollout: RolloutCluster = Field(RolloutCluster(), description="Where completions are generated.")
    sandbox: SandboxCluster = Field(SandboxCluster(), description="Where code is judged.")
    teacher: TeacherCluster = Field(TeacherCluster(), description="Where teachers are held.")

    @property
    def sharing(self) -> Sharing:
        """What learner, rollout and teachers share of GPUs."""
        return Sharing.of((self.learner, self.rollout, self.teacher))

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        parts, gpus = self.sharing.parts, self.sharing.gpus
        if gpus > 1 and sum(parts) > 1:
            raise ValueError(
                f"actors that share a GPU take {' + '.join(f'{p:g}' for p in parts)} of it, more than there is: "
                "lower `gpus` of learner, rollout or teacher to 1 together, or give each whole GPUs"
            )
        return self
