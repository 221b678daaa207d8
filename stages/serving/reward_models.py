"""Scalar reward models in actors: sequence classifiers with one label, batched; a score never depends on its batch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import ray

from posttrain.configs.schema import Cluster, RolloutCluster
from posttrain.errors import InputError, RunError
from posttrain.rewards.contract import Conversation, RowError
from posttrain.stages.actors.gpus import Gpus
from posttrain.stages.actors.ray_calls import answers
from posttrain.stages.models.model_files import ModelSpec
from posttrain.stages.rollout.pool import START_TIMEOUT
from posttrain.stages.serving.judges import Actors

SCORE_TIMEOUT = 1800.0
BATCH_TOKENS = 16_384
"""Tokens of one forward pass, padding included: no head over the vocabulary, so activations are small."""


class RewardModelWorker:
    """One actor: one classifier, which changes between stages."""

    def __init__(self, settings: RolloutCluster, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.settings = settings
        self.model: Any = None
        self.tokenizer: Any = None

    def load(self, spec: ModelSpec) -> None:
        """Load the classifier of `spec`.

        Raises:
            InputError: it isn't one: it has another number of labels, no trained head, or no chat template.
        """
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.free()
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.settings.dtype]
        model, report = AutoModelForSequenceClassification.from_pretrained(
            spec.path, revision=spec.revision, dtype=dtype, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(spec.path, revision=spec.revision)
        what = _problem(model, tokenizer, report)
        if what:
            fix = "name a sequence-classification checkpoint with one label, as TRL's RewardTrainer saves it"
            raise InputError(f"{spec.path} is no reward model: {what}", fix=fix)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        # The model takes the score at the last token that isn't this one: it must be what the rows are padded with.
        model.config.pad_token_id = tokenizer.pad_token_id
        tokenizer.padding_side = "right"  # behind a causal mask, no token sees what follows it
        model = model.eval().requires_grad_(False)
        self.model, self.tokenizer = model.cuda() if self.settings.gpus else model, tokenizer

    def score(self, conversations: Sequence[Conversation]) -> list[float | RowError]:
        """One number a conversation, in order; an error for one that is longer than the model's context."""
        rows = [self._ids(conversation) for conversation in conversations]
        limit = getattr(self.model.config, "max_position_embeddings", None) or max(map(len, rows), default=0)
        values: list[float | RowError] = [
            RowError(f"the conversation has {len(ids)} tokens, and the reward model reads {limit}") for ids in rows
        ]
        fit = [i for i, ids in enumerate(rows) if len(ids) <= limit]
        for batch in _batches(sorted(fit, key=lambda i: len(rows[i])), rows, self.settings.batch):
            for i, value in zip(batch, self._forward([rows[i] for i in batch]), strict=True):
                values[i] = value
        return values

    def free(self) -> None:
        """Drop the model; the process stays."""
        import gc

        self.model = self.tokenizer = None
        gc.collect()

    def _ids(self, conversation: Conversation) -> list[int]:
        return list(
            self.tokenizer.apply_chat_template([dict(m) for m in conversation], tokenize=True, return_dict=False)
        )

    def _forward(self, rows: Sequence[Sequence[int]]) -> list[float]:
        import torch

        padded = self.tokenizer.pad({"input_ids": [list(ids) for ids in rows]}, return_tensors="pt")
        with torch.inference_mode():
            logits = self.model(**padded.to(self.model.device), use_cache=False).logits
        return [float(value) for value in logits[:, 0].float().cpu()]


def _problem(model: Any, tokenizer: Any, report: dict[str, Any]) -> str | None:
    if model.config.num_labels != 1:
        return f"it has {model.config.num_labels} labels, not one"
    missing = sorted(report["missing_keys"])
    if missing:  # transformers would make them up, and only warn
        return f"its weights lack {', '.join(missing[:3])}"
    return None if tokenizer.chat_template else "its tokenizer has no chat template"


def _batches(order: Sequence[int], rows: Sequence[Sequence[int]], most: int) -> Iterator[list[int]]:
    """Indices by length, in batches of up to `most` rows and BATCH_TOKENS padded tokens, at least one row each."""
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) == most or (len(batch) + 1) * len(rows[i]) > BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


class RewardModelPool:
    """As many actors as there are rollout workers; each scores its share."""

    def __init__(self, cluster: Cluster, gpus: Gpus, *, held: bool) -> None:
        settings = cluster.rollout
        threads = settings.threads or max(1, (os.cpu_count() or 1) // (1 if settings.gpus else settings.workers))
        actor = ray.remote(RewardModelWorker)
        self.actors = [
            actor.options(num_cpus=0, **place).remote(settings, threads)
            for place in gpus.options(settings.workers, settings.gpus, held=held)
        ]

    def load(self, spec: ModelSpec) -> None:
        """Put the classifier into every actor. Raises InputError if it is none, RunError if it can't be loaded."""
        self._all([a.load.remote(spec) for a in self.actors], START_TIMEOUT, "load")

    def score(self, conversations: Sequence[Conversation]) -> list[float | RowError]:
        """One number a conversation, in order. Raises RunError if an actor dies."""
        count = len(self.actors)
        shares = [[list(map(dict, c)) for c in conversations[i::count]] for i in range(count)]
        found = self._all(
            [actor.score.remote(share) for actor, share in zip(self.actors, shares, strict=True) if share],
            SCORE_TIMEOUT,
            "score",
        )
        values: list[float | RowError] = [RowError("not scored")] * len(conversations)
        for i, share in enumerate(found):
            values[i::count] = share
        return values

    def free(self) -> None:
        """Drop the models; the actors stay."""
        self._all([a.free.remote() for a in self.actors], START_TIMEOUT, "free")

    def close(self) -> None:
        """End the actors."""
        for actor in self.actors:
            ray.kill(actor)

    @staticmethod
    def _all(references: list[Any], timeout: float, verb: str) -> list[Any]:
        try:
            found: list[Any] = answers(references, timeout, "the reward models", verb)
        except ray.exceptions.RayTaskError as error:
            raise RunError(f"the reward model didn't {verb}: {str(error.cause).strip().splitlines()[-1]}") from error
        return found


class RewardModelHolder:
    """A classifier in actors; see `held.Holder`."""

    def __init__(self, spec: ModelSpec, actors: Actors) -> None:
        self._spec, self._actors = spec, actors
        self._pool: RewardModelPool | None = None

    def load(self) -> None:
        """See RewardModelPool.load."""
        self._pool = self._actors.take(RewardModelPool)
        self._pool.load(self._spec)

    def answers(
        self, keys: Sequence[str], conversations: Sequence[Conversation]
    ) -> Iterator[tuple[str, float | RowError]]:
        """See Holder."""
        assert self._pool is not None
        yield from zip(keys, self._pool.score(conversations), strict=True)

    def free(self) -> None:
        """See Holder."""
        if self._pool is not None:
            self._pool.free()
            self._actors.give_back(self._pool)
            self._pool = None
