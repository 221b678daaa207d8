"""The `transformers` engine: batched decoding of prompt groups with per-row budgets, for CPUs and as a fallback.

A group's prompt is prefilled once and its cache repeated; rows leave the batch as they finish, and a group is
handed on with its last row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from posttrain.errors import InputError
from posttrain.stages.models.chat import ChatFormat
from posttrain.stages.rollout.engines.attention import NAME
from posttrain.stages.rollout.engines.cache import RowCache
from posttrain.stages.rollout.engines.decoding import DecodedSequence, as_group, encode, room, unspoken
from posttrain.stages.rollout.engines.sampling import draw, uniforms
from posttrain.stages.rollout.engines.thinking_budget import ThinkingBudget
from posttrain.stages.rollout.engines.weight_gate import WeightGate
from posttrain.types import Group, Prompt, SamplingParams, Source

CROWDED = 0.85
"""Rows that are done leave the batch once this share is alive: moving the cache costs about as much as a token."""


class TransformersEngine:
    """Generates with plain transformers forward passes and a cache of our own."""

    def __init__(self, model: Any, tokenizer: Any, *, batch: int = 256) -> None:
        self.model, self.tokenizer, self.batch = model, tokenizer, batch
        model.set_attn_implementation(NAME)
        self.chat = ChatFormat(tokenizer)
        self.version = 0
        self.gate = WeightGate()
        self._halted = False
        self._running: list[tuple[list[Prompt], list[DecodedSequence]]] = []
        self.device = model.device
        self.dtype = next(model.parameters()).dtype

    def generate(self, prompts: Sequence[Prompt], n: int, params: SamplingParams, seed: int) -> Iterator[Group]:
        """Groups of `n` completions, in the order in which they finish within a batch.

        Raises:
            InputError: prompt and completion don't fit the model's context.
        """
        encoded = [encode(self.chat, p) for p in prompts]
        fits = [i for i, p in enumerate(prompts) if room(p, encoded[i], params) > 0]
        left = sorted({*range(len(prompts))} - {*fits})
        yield from (unspoken(self.chat, prompts[i], encoded[i], n) for i in left)
        per_batch = max(1, self.batch // n)
        for begun in (True, False):
            # Like lengths share a batch; what was begun has rows of different lengths, and one of its own.
            order = sorted((i for i in fits if bool(prompts[i].begun) == begun), key=lambda i: len(encoded[i]))
            for start in range(0, len(order), per_batch):
                if self._halted:
                    return
                chosen = order[start : start + per_batch]
                yield from self._batch([prompts[i] for i in chosen], [encoded[i] for i in chosen], n, params, seed)

    @torch.inference_mode()
    def _batch(
        self, prompts: list[Prompt], encoded: list[NDArray[np.int64]], n: int, params: SamplingParams, seed: int
    ) -> Iterator[Group]:
        rooms = [room(p, ids, params) for p, ids in zip(prompts, encoded, strict=True)]
        capacity = max(len(ids) + most for ids, most in zip(encoded, rooms, strict=True))
        limit = getattr(self.model.config, "max_position_embeddings", capacity)
        if capacity > limit:
            raise InputError(
                f"prompt and completion need {capacity} tokens, the model has {limit}", fix="lower max_tokens"
            )
        rows = [
            DecodedSequence(group=g, index=i, prompt_ids=encoded[g], most=rooms[g],
                 random=uniforms(seed, prompts[g].id, i, params.max_tokens),
                 budget=ThinkingBudget.watch(self.chat, params.thinking_budget, encoded[g]))
            for g in range(len(prompts))
            for i in range(n)
        ]  # fmt: skip
        for row in rows:
            if prompts[row.group].begun:
                row.take_up(prompts[row.group].begun[row.index])
        with self.gate.alone():
            self._running.append((prompts, rows))
        try:
            yield from self._decode(prompts, encoded, rows, capacity, n, params)
        finally:
            with self.gate.alone():
                self._running = [r for r in self._running if r[1] is not rows]

    def _decode(
        self, prompts: list[Prompt], encoded: list[NDArray[np.int64]], rows: list[DecodedSequence], capacity: int,
        n: int, params: SamplingParams,
    ) -> Iterator[Group]:  # fmt: skip
        """One token of every row that goes on, then the next. Nothing is held at the gate while a group is given."""
        with self.gate.token():
            slots, cache, logits = self._open(encoded, rows, capacity, n)
            version = self.version
        done = [sum(r.group == g and r.finish is not None for r in rows) for g in range(len(prompts))]
        yield from (self._group(prompts[g], rows[g * n : g * n + n]) for g in range(len(prompts)) if done[g] == n)
        while slots and not self._halted:
            with self.gate.token():
                alive = [i for i, row in enumerate(slots) if row.finish is None]
                chosen = logits[torch.tensor(alive, device=self.device)]
                self._choose([slots[i] for i in alive], chosen, params, version)
            ended = [slots[i].group for i in alive if slots[i].finish is not None]
            for group in ended:
                done[group] += 1
            for group in sorted(set(ended)):
                if done[group] == n:
                    yield self._group(prompts[group], rows[group * n : group * n + n])
            alive = [i for i in alive if slots[i].finish is None]
            if not alive:
                return
            with self.gate.token():
                if len(alive) <= CROWDED * len(slots):
                    cache.select(torch.tensor(alive, device=self.device))
                    slots = [slots[i] for i in alive]
                # Rows that are done and still there repeat their last token, which nobody reads.
                tokens = torch.tensor([[r.ids[-1]] for r in slots], device=self.device)
                positions = torch.tensor([[len(r.prompt_ids) + len(r.ids) - 1] for r in slots], device=self.device)
                logits, version = self._forward(tokens, positions, cache)[:, -1], self.version

    def _open(
        self, encoded: list[NDArray[np.int64]], rows: list[DecodedSequence], capacity: int, n: int
    ) -> tuple[list[DecodedSequence], RowCache, torch.Tensor]:
        """The rows that go on, their cache, and the logits of their next tokens."""
        if not any(row.ids for row in rows):
            return list(rows), *self._prefill(encoded, capacity, n)
        slots = [row for row in rows if row.finish is None]
        spoken = [np.concatenate([r.prompt_ids, np.array(r.ids, np.int64)]) for r in slots]
        return slots, *self._prefill(spoken or encoded, capacity, 1)

    def _prefill(self, encoded: list[NDArray[np.int64]], capacity: int, n: int) -> tuple[RowCache, torch.Tensor]:
        longest = max(map(len, encoded))
        ids = torch.zeros(len(encoded), longest, dtype=torch.long)
        for row, prompt in zip(ids, encoded, strict=True):
            row[: len(prompt)] = torch.from_numpy(np.array(prompt))
        cache = RowCache(self.model.config, len(encoded), capacity, self.dtype, self.device)
        positions = torch.arange(longest, device=self.device).expand(len(encoded), -1)
        last = torch.tensor([len(p) - 1 for p in encoded], device=self.device)
        logits = self._forward(ids.to(self.device), positions, cache, last)
        # Slots behind a shorter prompt hold leftovers; they are overwritten before any query may look at them.
        repeat = torch.arange(len(encoded), device=self.device).repeat_interleave(n)
        cache.select(repeat)
        return cache, logits[repeat]

    def _forward(
        self, ids: torch.Tensor, positions: torch.Tensor, cache: RowCache, last: torch.Tensor | None = None
    ) -> torch.Tensor:
        cache.place(positions)
        hidden = self.model.base_model(
            input_ids=ids, attention_mask=cache.mask(), position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state
        if last is not None:
            return self.model.lm_head(hidden[torch.arange(len(last), device=self.device), last])
        return self.model.lm_head(hidden)

    def _choose(self, alive: list[DecodedSequence], logits: torch.Tensor, params: SamplingParams, version: int) -> None:
        """Give each row its next token: drawn from its logits, which `version` made, or forced by its budget."""
        random = torch.tensor([r.random[len(r.ids)] for r in alive], device=self.device)
        tokens, logprobs = draw(logits, random, params)
        stops, sampled = self.chat.stops, Source.SAMPLED
        for row, token, logprob in zip(alive, tokens.tolist(), logprobs.tolist(), strict=True):
            source = sampled
            if row.over_budget():
                source, token, logprob = Source.INJECTED, row.forced.pop(0), 0.0
            row.add(token, logprob, source, version, stops)

    def _group(self, prompt: Prompt, rows: list[DecodedSequence]) -> Group:
        return as_group(self.chat, prompt, rows)

    def update_weights(self, weights: dict[str, NDArray[Any]], version: int) -> None:
        """Copy new weights in place, between two tokens of what is being generated; every name must fit.

        Keys and values that are cached stay as the older weights made them (PipelineRL, 2509.19128): what was sampled
        with what is recorded, token by token, as log-probability and version.
        """
        own = dict(self.model.named_parameters())
        if set(own) - set(weights):
            missing = sorted(set(own) - set(weights))
            raise InputError(f"the new weights lack {missing[:3]} and {max(0, len(missing) - 3)} more")
        with self.gate.alone(), torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(torch.from_numpy(np.array(weights[name])))
            self.version = version

    def partials(self) -> list[Group]:
        """The groups that are being generated, as far as they are: unfinished completions end with `abort`."""
        with self.gate.alone():
            return [
                self._group(prompt, rows[g * n : g * n + n])
                for prompts, rows in self._running
                for n in [len(rows) // len(prompts)]
                for g, prompt in enumerate(prompts)
            ]

    def interrupt(self) -> None:
        """End all that is being generated at its next token; what is unfinished isn't handed on."""
        self._halted = True

    @torch.no_grad()
    def checksum(self) -> float:
        """A sum over all weights that agrees with the learner's after a sync."""
        return float(sum(p.double().abs().sum() for p in self.model.parameters()))
