"""The rollout workers as a stage sees them: prompts in, groups out as they finish, new weights in between."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import ray

from posttrain.configs.schema import Cluster, RolloutCluster
from posttrain.errors import RunError
from posttrain.stages.actors.gpus import Gpus
from posttrain.stages.actors.ray_calls import LOAD_TIMEOUT, answers
from posttrain.stages.models.model_files import ModelSpec, load_model
from posttrain.stages.rollout.weights import WeightPath, path_between
from posttrain.types import Group, Prompt, SamplingParams

if TYPE_CHECKING:
    from posttrain.stages.learner.ranks import Learner

START_TIMEOUT = 300.0
SYNC_TIMEOUT = 3600.0
"""For all weights: the sides' own waits, for a bucket each, say more and come first."""
GROUP_TIMEOUT = 1800.0
CLOSE_TIMEOUT = 20.0
CALLS = 64
"""Calls that a worker takes at once: new weights come while batches are generated."""


class RolloutWorker:
    """One actor: one engine, whose model changes between stages.

    A vLLM stays up in between, asleep if it shares its GPU.
    """

    def __init__(self, settings: RolloutCluster, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        if settings.engine == "transformers":  # for seconds: now that other actors start, not when a model is loaded
            import posttrain.stages.rollout.engines.transformers_engine  # noqa: F401
        self.settings = settings
        self.engine: Any = None
        self.path = ""

    def load(self, spec: ModelSpec, seed: int = 0, backend: str = "") -> None:
        """Put the model of `spec` into the engine; `seed` draws one that is random.

        `backend`: how vLLM gets new weights (see WeightPath).
        """
        self.free()
        if self.settings.engine == "vllm":
            from posttrain.stages.rollout.engines.vllm_start import engine_for

            try:
                self.engine = engine_for(self.settings, spec, backend, seed, self.engine)
            except BaseException:
                self.close()
                raise
        else:
            self._load_transformers(spec, seed)

    def _load_transformers(self, spec: ModelSpec, seed: int) -> None:
        import torch
        from transformers import AutoTokenizer

        from posttrain.stages.rollout.engines.transformers_engine import TransformersEngine

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

    def connect(self, info: dict[str, Any]) -> None:
        """See VllmEngine, of this method and the next four."""
        self.engine.connect(info)

    def begin_update(self) -> None:
        self.engine.begin_update()

    def receive(self, info: dict[str, Any]) -> None:
        self.engine.receive(info)

    def end_update(self, version: int, expected: float | None) -> None:
        self.engine.end_update(version, expected)

    def rest(self) -> None:
        self.engine.rest()

    def partials(self) -> list[Group]:
        """What is being generated, as far as it is."""
        return [] if self.engine is None else self.engine.partials()

    def interrupt(self) -> None:
        """End what is being generated; the engine has to be loaded anew before it generates again."""
        if self.engine is not None:
            self.engine.interrupt()

    def free(self) -> None:
        """Drop the engine, or keep a vLLM for the next model; the process stays."""
        import gc

        if self.settings.engine == "vllm" and self.engine is not None:
            if not self.engine.park(sleep=self.settings.can_sleep):
                self.close()
            return
        self.interrupt()
        self.engine = None
        gc.collect()

    def close(self) -> None:
        """End vLLM and its processes."""
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.close()


class RolloutPool:
    """A fixed set of workers. Which worker gets which prompt is a function of the list alone."""

    def __init__(self, cluster: Cluster, gpus: Gpus, *, held: bool = False) -> None:
        settings = cluster.rollout
        threads = settings.threads or max(1, (os.cpu_count() or 1) // (1 if settings.gpus else settings.workers))
        self.settings = settings
        actor = ray.remote(RolloutWorker)
        self.actors = [
            actor.options(num_cpus=0, max_concurrency=CALLS, **place).remote(settings, threads)
            for place in gpus.options(settings.workers, settings.gpus, held=held)
        ]
        self._pushed: list[Any] = []
        self._path: WeightPath | None = None
        self._sent = 0

    def follow(self, learner: Learner) -> None:
        """What is loaded next takes its weights from this learner, until it's freed."""
        settings = self.settings
        self._path = path_between(
            learner, self.actors, settings.engine, parallel=max(1, int(settings.gpus)), dtype=settings.dtype,
            sleep=settings.sleep,
        )  # fmt: skip
        self._sent = 0

    def load(self, spec: ModelSpec, seed: int = 0) -> None:
        """Put the model of `spec` into every worker."""
        self._pushed = []
        backend = self._path.backend if self._path else ""
        loading = [a.load.remote(spec, seed, backend) for a in self.actors]
        self._all(loading, LOAD_TIMEOUT, "load")
        if self._path:
            self._path.open()

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

    def update_weights(self, version: int) -> None:
        """Give every worker the weights of the learner that it follows, as `version`.

        Raises:
            RunError: it follows none; or their sums differ after it.
        """
        self.push_weights(version)
        self.settle()

    def push_weights(self, version: int) -> None:
        """The same without waiting: the weights before these must have arrived, these come between two tokens."""
        if self._path is None:
            raise RunError("the rollout workers follow no learner: call `follow` before `load`")
        self.settle()
        self._pushed = self._path.send(version, self._sent % self.settings.check_weights == 0)
        self._sent += 1

    def lagging(self) -> bool:
        """Whether some worker doesn't have the weights that were pushed last."""
        return bool(self._pushed) and bool(ray.wait(self._pushed, num_returns=len(self._pushed), timeout=0)[1])

    def settle(self) -> None:
        """Wait until the workers have the weights that were pushed last."""
        pushed, self._pushed = self._pushed, []
        # A path that compares the sums by itself gives none.
        sums = [found for found in self._all(pushed, SYNC_TIMEOUT, "update weights") if found is not None]
        if sums and max(sums) - min(sums) > 1e-6 * abs(sums[0]):
            raise RunError(f"rollout workers disagree on the new weights: checksums {sums}")

    def partials(self) -> list[Group]:
        """What all workers are generating, as far as it is."""
        found = self._all([a.partials.remote() for a in self.actors], START_TIMEOUT, "say what they have")
        return [group for groups in found for group in groups]

    def interrupt(self) -> None:
        """End what the workers generate; they have to be loaded anew before they generate again."""
        self._all([a.interrupt.remote() for a in self.actors], START_TIMEOUT, "stop generating")

    def rest(self) -> None:
        """Give the GPUs' memory to the learner until it sends new weights, where the recipe says `sleep`."""
        if self.settings.sleep:
            self.settle()
            self._all([a.rest.remote() for a in self.actors], START_TIMEOUT, "sleep")

    def free(self) -> None:
        """Drop the engines; the actors stay for the next stage."""
        self.settle()
        self._path = None
        self._all([a.free.remote() for a in self.actors], START_TIMEOUT, "free")

    def close(self) -> None:
        """End the actors."""
        if self.settings.engine == "vllm":  # its processes aren't Ray's: each engine ends its own
            ray.wait([a.close.remote() for a in self.actors], num_returns=len(self.actors), timeout=CLOSE_TIMEOUT)
        for actor in self.actors:
            ray.kill(actor)

    def _get(self, reference: Any) -> Any:
        return self._all([reference], GROUP_TIMEOUT, "generate")[0]

    @staticmethod
    def _all(references: list[Any], timeout: float, verb: str) -> list[Any]:
        found: list[Any] = answers(references, timeout, "the rollout workers", verb)
        return found
