"""The rollout workers as a stage sees them: prompts in, groups out as they finish; weights in by shared memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import ray

from posttrain.configs.schema import Cluster, RolloutCluster
from posttrain.errors import PosttrainError, RunError
from posttrain.stages.learner.modelfiles import ModelSpec, load_model
from posttrain.types import Group, Prompt, SamplingParams

START_TIMEOUT = 300.0
GROUP_TIMEOUT = 1800.0
CALLS = 64
"""Calls that a worker takes at once: new weights come while batches are generated."""


class RolloutWorker:
    """One actor: one engine, whose model changes between stages."""

    def __init__(self, settings: RolloutCluster, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.settings = settings
        self.engine: Any = None
        self.path = ""

    def load(self, spec: ModelSpec, seed: int = 0) -> None:
        """Put the model of `spec` into the engine; `seed` draws one that is random."""
        import torch
        from transformers import AutoTokenizer

        from posttrain.stages.rollout.engine import TransformersEngine

        self.free()
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.settings.dtype]
        model = load_model(spec, dtype, "sdpa", seed)
        tokenizer = AutoTokenizer.from_pretrained(spec.path, revision=spec.revision)
        model.eval().requires_grad_(False)
        if self.settings.gpus:
            model = model.cuda()
        self.engine = TransformersEngine(model, tokenizer, batch=self.settings.batch)

    def generate(self, prompts: Sequence[Prompt], n: int, params: SamplingParams, seed: int) -> Iterator[Group]:
        """Groups as they finish (a Ray streaming generator)."""
        yield from self.engine.generate(prompts, n, params, seed)

    def update_weights(self, weights: dict[str, Any], version: int) -> float:
        """New weights in place; returns their checksum."""
        self.engine.update_weights(weights, version)
        return self.engine.checksum()

    def partials(self) -> list[Group]:
        """What is being generated, as far as it is."""
        return [] if self.engine is None else self.engine.partials()

    def interrupt(self) -> None:
        """End what is being generated; the engine has to be loaded anew before it generates again."""
        if self.engine is not None:
            self.engine.interrupt()

    def free(self) -> None:
        """Drop the engine; the process stays."""
        import gc

        self.interrupt()
        self.engine = None
        gc.collect()


class RolloutPool:
    """A fixed set of workers. Which worker gets which prompt is a function of the list alone."""

    def __init__(self, cluster: Cluster) -> None:
        settings = cluster.rollout
        threads = settings.threads or max(1, (os.cpu_count() or 1) // (1 if settings.gpus else settings.workers))
        actor = ray.remote(RolloutWorker)
        self.actors = [
            actor.options(num_cpus=0, num_gpus=settings.gpus, max_concurrency=CALLS).remote(settings, threads)
            for _ in range(settings.workers)
        ]
        self._pushed: list[Any] = []

    def load(self, spec: ModelSpec, seed: int = 0) -> None:
        """Put the model of `spec` into every worker."""
        self._pushed = []
        self._all([a.load.remote(spec, seed) for a in self.actors], START_TIMEOUT, "load")

    def generate(self, prompts: Sequence[Prompt], n: int, params: SamplingParams, *, seed: int) -> Iterator[Group]:
        """Groups of `n` completions a prompt, handed on as soon as each is done.

        Raises:
            RunError: a worker died or took over GROUP_TIMEOUT seconds for one group.
        """
        ids = [p.id for p in prompts]
        if len(set(ids)) < len(ids):
            raise RunError("two prompts share an id: their samples would be equal")
        shares = [list(prompts[i :: len(self.actors)]) for i in range(len(self.actors))]
        streams = [
            actor.generate.options(num_returns="streaming").remote(share, n, params, seed)
            for actor, share in zip(self.actors, shares, strict=True)
            if share
        ]
        while streams:
            ready, _ = ray.wait(streams, num_returns=1, timeout=GROUP_TIMEOUT, fetch_local=False)
            if not ready:
                raise RunError(f"no rollout worker finished a group in {GROUP_TIMEOUT:.0f} s")
            stream = ready[0]
            try:
                yield self._get(next(stream))
            except StopIteration:
                streams.remove(stream)

    def update_weights(self, weights: Any, version: int) -> None:
        """Give every worker the weights behind a Ray reference. Raises RunError if their checksums differ after it."""
        self.push_weights(weights, version)
        self.settle()

    def push_weights(self, weights: Any, version: int) -> None:
        """The same without waiting: the weights before these must have arrived, these come between two tokens."""
        self.settle()
        self._pushed = [a.update_weights.remote(weights, version) for a in self.actors]

    def lagging(self) -> bool:
        """Whether some worker doesn't have the weights that were pushed last."""
        return bool(self._pushed) and bool(ray.wait(self._pushed, num_returns=len(self._pushed), timeout=0)[1])

    def settle(self) -> None:
        """Wait until the workers have the weights that were pushed last."""
        pushed, self._pushed = self._pushed, []
        sums = self._all(pushed, START_TIMEOUT, "update weights")
        if sums and max(sums) - min(sums) > 1e-6 * abs(sums[0]):
            raise RunError(f"rollout workers disagree on the new weights: checksums {sums}")

    def partials(self) -> list[Group]:
        """What all workers are generating, as far as it is."""
        found = self._all([a.partials.remote() for a in self.actors], START_TIMEOUT, "say what they have")
        return [group for groups in found for group in groups]

    def interrupt(self) -> None:
        """End what the workers generate; they have to be loaded anew before they generate again."""
        self._all([a.interrupt.remote() for a in self.actors], START_TIMEOUT, "stop generating")

    def free(self) -> None:
        """Drop the engines; the actors stay for the next stage."""
        self.settle()
        self._all([a.free.remote() for a in self.actors], START_TIMEOUT, "free")

    def close(self) -> None:
        """End the actors."""
        for actor in self.actors:
            ray.kill(actor)

    def _get(self, reference: Any) -> Any:
        return self._all([reference], GROUP_TIMEOUT, "generate")[0]

    @staticmethod
    def _all(references: list[Any], timeout: float, verb: str) -> list[Any]:
        try:
            return ray.get(references, timeout=timeout)
        except ray.exceptions.GetTimeoutError:
            raise RunError(f"the rollout workers didn't {verb} in {timeout:.0f} s") from None
        except ray.exceptions.RayActorError as error:
            raise RunError(f"a rollout worker died while it should {verb}: {str(error).splitlines()[0]}") from None
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, PosttrainError):
                raise error.cause from None
            raise
