"""The learner as a stage sees it: four verbs over all ranks. Packs, balances, normalises; Ray stays in here."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import ray
from numpy.typing import NDArray

from posttrain.configs.schema import Cluster, Optimizer
from posttrain.errors import RunError
from posttrain.stages.actors.gpus import Gpus
from posttrain.stages.actors.ray_calls import LOAD_TIMEOUT, answers
from posttrain.stages.learner.distributions import DistributionForm, merged_draws
from posttrain.stages.learner.losses.losses import Loss
from posttrain.stages.learner.rank.memory import MEMORY, most
from posttrain.stages.learner.rank.packing import PackedBatch, pack, plan_micro_batches, token_weights
from posttrain.stages.learner.rank.worker import LearnerWorker
from posttrain.stages.learner.schedule import learning_rate
from posttrain.stages.learner.teachers import TeacherPool
from posttrain.stages.models.model_files import ModelSpec
from posttrain.types import Sample

START_TIMEOUT = 300.0
CALL_TIMEOUT = 3600.0
_TIMEOUTS = {"join": START_TIMEOUT, "connect": START_TIMEOUT, "load": LOAD_TIMEOUT, "load_frozen": LOAD_TIMEOUT}
"""Seconds that other methods than those of a step may take."""

P = ParamSpec("P")
T = TypeVar("T")


class Learner:
    """A group of ranks. Built once a run; `load` changes the model inside."""

    def __init__(self, cluster: Cluster, gpus: Gpus) -> None:
        settings = cluster.learner
        self.ranks, self.settings = settings.workers, settings
        threads = settings.threads or max(1, (os.cpu_count() or 1) // (1 if settings.gpus else settings.workers))
        actor = ray.remote(LearnerWorker)
        self.actors = [
            actor.options(num_cpus=0 if not settings.gpus else 1, max_concurrency=1, **place).remote(
                rank, self.ranks, settings, threads
            )
            for rank, place in enumerate(gpus.options(self.ranks, settings.gpus))
        ]
        self.sizes: dict[str, float] = {}
        self.local = not cluster.address
        """Whether all actors stand on this host."""
        self._met = False

    def _meet(self) -> None:
        """Bring the ranks together where rank 0 stands: on a cluster that may be another node than this one."""
        first, address = self.actors[0], "127.0.0.1" if self.local else ""
        try:
            address = address or ray.get(first.__ray_call__.remote(_node_address), timeout=START_TIMEOUT)
            port = ray.get(first.host.remote(address), timeout=START_TIMEOUT)
        except ray.exceptions.GetTimeoutError:
            raise RunError(
                f"the learner's first rank didn't start in {START_TIMEOUT:.0f} s", fix="see whether its node has room"
            ) from None
        self._met = True  # to join is a call, too
        self._all(LearnerWorker.join, address, port)

    def _all(self, method: Callable[Concatenate[LearnerWorker, P], T], *args: P.args, **kwargs: P.kwargs) -> list[T]:
        """Call a method of the worker on all ranks, with the same arguments. The first call waits until they are up."""
        return self._each(method, [args] * self.ranks, **kwargs)

    def _each(self, method: Callable[..., T], arguments: Sequence[tuple[Any, ...]], **kwargs: Any) -> list[T]:
        """Call a method of the worker on each rank, with the rank's own positional arguments.

        The first call waits until the ranks are up: other actors can start beside them until then.
        """
        if not self._met:
            self._meet()
        name = method.__name__
        calls = [getattr(actor, name).remote(*own, **kwargs) for actor, own in zip(self.actors, arguments, strict=True)]
        found: list[T] = answers(calls, _TIMEOUTS.get(name, CALL_TIMEOUT), "the learner's ranks", f"finish `{name}`")
        return found

    def load(
        self,
        spec: ModelSpec,
        optimizer: Optimizer | None,
        *,
        total_steps: int = 1,
        seed: int = 0,
        zero: int | None = None,
    ) -> None:
        """Put a model into the engines, fresh optimizer, step counter at 0; `zero` overrules the recipe's stage."""
        self.optimizer, self.total_steps = optimizer, total_steps
        self.sizes = self._all(LearnerWorker.load, spec, optimizer, seed, zero)[0]

    def load_frozen(self, spec: ModelSpec, name: str, head: bool = False) -> None:
        """Add a model that isn't trained beside the one that is, or its head alone."""
        self._all(LearnerWorker.load_frozen, spec, name, head)

    def refresh(self, name: str) -> None:
        """Give a frozen model the weights that are being trained."""
        self._all(LearnerWorker.refresh, name)

    def save_frozen(self, name: str, path: Path) -> None:
        """Write a frozen model's weights."""
        self._all(LearnerWorker.save_frozen, name, str(path))

    def restore_frozen(self, name: str, path: Path) -> None:
        """Read what `save_frozen` wrote."""
        self._all(LearnerWorker.restore_frozen, name, str(path))

    def step(
        self,
        samples: Sequence[Sample],
        loss: Loss,
        *,
        step: int,
        micro_tokens: int,
        aggregate: str = "token",
        longest: int = 0,
        teachers: TeacherPool | None = None,
    ) -> dict[str, float]:
        """One optimizer step over all `samples`; returns the means over targets of the loss's metrics.

        Beside them `tokens` of the samples, and `packed_tokens` that were computed: a shared prompt counts once; and on
        a GPU what `memory` gives.

        The loss is normalised over the whole batch: how it's cut into ranks and micro-batches changes nothing.
        Where loss or gradient isn't finite, all ranks leave the weights alone together: `skipped_step` is 1.
        """
        if self.optimizer is None:
            raise RunError("the learner was loaded without an optimizer")
        weights = token_weights(samples, aggregate, longest)
        shares = self._pack(samples, weights, micro_tokens)
        lr = learning_rate(self.optimizer, step, self.total_steps)
        states = teachers.states(shares) if teachers is not None else [None] * self.ranks
        results = self._each(
            LearnerWorker.step, [(share, loss, lr, s) for share, s in zip(shares, states, strict=True)]
        )
        targets = sum(r["targets"] for r in results) or 1.0
        metrics = {
            name: sum(r[name] for r in results) / targets
            for name in results[0]
            if name not in ("loss", "targets", "grad_norm", *MEMORY)
        }
        metrics |= {"loss": sum(r["loss"] for r in results), "grad_norm": results[0]["grad_norm"], "lr": lr}
        metrics["skipped_step"] = float(not np.isfinite(metrics["grad_norm"]))
        metrics |= most(results)
        packed = sum(len(b.ids) for share in shares for b in share if b.samples[0] >= 0)
        return metrics | {
            "targets": targets, "tokens": float(sum(s.tokens for s in samples)), "packed_tokens": float(packed),
        }  # fmt: skip

    def logprobs(
        self, samples: Sequence[Sample], *, micro_tokens: int, temperature: float = 1.0, frozen: str = ""
    ) -> list[NDArray[np.float32]]:
        """log pi of every masked token of every sample; arrays as long as the samples, 0 where not masked.

        Of the model that is trained, or of the frozen one that is named.
        """
        if not samples:
            return []
        shares = self._pack(samples, [s.loss_mask for s in samples], micro_tokens)
        results = self._each(LearnerWorker.logprobs, [(share, temperature, frozen) for share in shares])
        out = [np.zeros(s.tokens, np.float32) for s in samples]
        for batches, values in zip(shares, results, strict=True):
            for batch, row in zip(batches, values, strict=True):
                for index in np.unique(batch.samples[batch.samples >= 0]):
                    out[index][np.flatnonzero(samples[index].loss_mask)] = row[batch.samples == index]
        return out

    def with_targets(
        self, samples: Sequence[Sample], form: DistributionForm, *, frozen: str, micro_tokens: int, seed: int
    ) -> list[Sample]:
        """The samples with a frozen model's distribution at their targets, as `form` keeps it."""
        if not samples:
            return []
        shares = self._pack(samples, [s.loss_mask for s in samples], micro_tokens)
        arguments = [(share, frozen, form.kind, form.count, seed) for share in shares]
        results = self._each(LearnerWorker.targets, arguments)
        found: list[Sample] = list(samples)
        for batches, values in zip(shares, results, strict=True):
            for batch, (ids, levels) in zip(batches, values, strict=True):
                near, told = merged_draws(ids) if form.kind == "draws" else (ids.astype(np.int32), levels)
                for index in np.unique(batch.samples[batch.samples >= 0]):
                    mine = batch.samples == index
                    found[index] = _told(samples[index], near[mine], told[mine])
        return found

    def _pack(
        self, samples: Sequence[Sample], weights: Sequence[NDArray[np.float32]], micro_tokens: int
    ) -> list[list[PackedBatch]]:
        """Micro-batches by rank, those of one teacher after those of another: each has one teacher alone."""
        shares: list[list[PackedBatch]] = [[] for _ in range(self.ranks)]
        for teacher in sorted({s.teacher for s in samples}):
            mine = [i for i, s in enumerate(samples) if s.teacher == teacher]
            plan = plan_micro_batches([samples[i] for i in mine], self.ranks, micro_tokens)
            for share, batches in zip(shares, plan, strict=True):
                packed = (pack(samples, weights, [mine[i] for i in indices]) for indices in batches)
                share += [replace(batch, teacher=teacher) for batch in packed]
        return shares

    def weights(self) -> Any:
        """A Ray reference to the full weights {name: array}: in shared memory on one host."""
        references = [actor.weights.remote() for actor in self.actors]  # gathering is collective: ask them all
        return references[0]

    def connect(self, sender: Any) -> None:
        """Give every rank a sender of weights (rollout/weights.py); it meets the rollout workers."""
        self._all(LearnerWorker.connect, sender)

    def send_weights(self, version: int, check: bool) -> list[Any]:
        """Have the ranks send their weights; Ray references to wait for."""
        return [actor.send_weights.remote(version, check) for actor in self.actors]

    def export(self, folder: Path, tokenizer_path: str, dtype: str = "float32") -> None:
        """Write a Hugging Face checkpoint into `folder`."""
        self._all(LearnerWorker.export, str(folder), tokenizer_path, dtype)

    def save(self, folder: Path) -> None:
        """Write a resumable checkpoint into `folder` (the caller renames it once it's whole)."""
        self._all(LearnerWorker.save, str(folder))

    def restore(self, folder: Path) -> None:
        """Continue from a checkpoint of the same rank count."""
        self._all(LearnerWorker.restore, str(folder))

    def free(self) -> None:
        """Drop the models; the actors stay for the next stage."""
        self._all(LearnerWorker.free)

    def memory(self) -> dict[str, float]:
        """What `measure` says of the GPUs, GiB: of each figure the largest of all ranks."""
        return most(self._all(LearnerWorker.memory))

    def close(self) -> None:
        """End the actors."""
        for actor in self.actors:
            ray.kill(actor)


def _told(sample: Sample, ids: NDArray[np.int32], values: NDArray[np.float32]) -> Sample:
    """The sample with [targets, k] spread over its tokens."""
    all_ids = np.zeros((sample.tokens, ids.shape[1]), np.int32)
    all_values = np.full((sample.tokens, ids.shape[1]), -np.inf, np.float32)
    targets = np.flatnonzero(sample.loss_mask)
    all_ids[targets], all_values[targets] = ids, values
    return replace(sample, teacher_ids=all_ids, teacher_values=all_values)


def _node_address(_: Any) -> str:
    return str(ray.util.get_node_ip_address())
