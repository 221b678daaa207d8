"""Models beside the one that is trained: teachers and references, whole on every rank, or only a teacher's head."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils.hub import cached_file

from posttrain.errors import RunError
from posttrain.stages.learner.rank.attention import NAME, Layout
from posttrain.stages.learner.rank.head import chunk_size
from posttrain.stages.learner.rank.kernels import use_kernels
from posttrain.stages.learner.rank.packing import PackedBatch
from posttrain.stages.learner.rank.policy import Policy
from posttrain.stages.models.model_files import ModelSpec, load_model

_HEADS = ("lm_head.weight", "model.embed_tokens.weight")
"""Where a checkpoint keeps its head: its own, or the embedding that it shares."""


class Head:
    """A teacher's output embedding alone: hidden states [n, d] to logits [n, V].

    `sharded`, each rank keeps its share of the rows, and all ranks call it equally often: the whole weight exists
    during a call. Qwen3-32B's has 1.5 GB in bfloat16.
    """

    def __init__(self, weight: Tensor, *, sharded: bool) -> None:
        self.rows, self.sharded = len(weight), sharded
        if sharded:
            rank, ranks = dist.get_rank(), dist.get_world_size()
            share = -(-self.rows // ranks)
            mine = weight[rank * share : (rank + 1) * share]
            weight = torch.cat([mine, mine.new_zeros(share - len(mine), weight.shape[1])])
        self.weight = weight.clone()  # a slice would keep all of the weight

    def __call__(self, states: Tensor) -> Tensor:
        return torch.nn.functional.linear(states.to(self.weight.dtype), self._whole())

    def _whole(self) -> Tensor:
        if not self.sharded:
            return self.weight
        whole = self.weight.new_empty(dist.get_world_size() * len(self.weight), self.weight.shape[1])
        dist.all_gather_into_tensor(whole, self.weight)
        return whole[: self.rows]


class FrozenModels:
    """By name. With `offload`, models wait in the host's memory between two uses."""

    def __init__(
        self, device: torch.device, dtype: torch.dtype, offload: bool, *, kernels: str = "torch",
        float32_head: bool = False,
    ) -> None:  # fmt: skip
        self.device, self.dtype, self.offload = device, dtype, offload
        self.kernels, self.float32_head = kernels, float32_head
        self.models: dict[str, Policy] = {}
        self.heads: dict[str, Head] = {}

    def load(self, name: str, spec: ModelSpec) -> None:
        """Load a model; it isn't trained."""
        place = torch.device("cpu") if self.offload else self.device
        model = load_model(spec, self.dtype, NAME)
        if self.device.type == "cuda":
            use_kernels(model, self.kernels)
        self.models[name] = Policy(model, self.float32_head).to(place).eval().requires_grad_(False)

    def load_head(self, name: str, spec: ModelSpec, sharded: bool) -> None:
        """Load a teacher's head and nothing else of it: its states come from elsewhere."""
        self.heads[name] = Head(head_weight(spec).to(self.device, self.dtype), sharded=sharded)

    def get(self, name: str) -> Policy:
        """The model, on this rank's device. Raises RunError."""
        if name not in self.models:
            raise RunError(f"the learner has no model {name!r} to score with", fix="call load_frozen first")
        return self.models[name].to(self.device)

    def rest(self) -> None:
        """Give the device's memory back until the next use, if models are offloaded."""
        if self.offload:
            for model in self.models.values():
                model.to("cpu")

    @torch.no_grad()
    def refresh(self, name: str, weights: Iterator[tuple[str, Tensor]]) -> None:
        """Give a model new weights."""
        own = dict(self.models[name].model.named_parameters())
        for parameter, weight in weights:
            own[parameter].copy_(weight)

    def save(self, name: str, path: str) -> None:
        """Write a model's weights; tied ones once, under the name that parameters have."""
        save_file({n: p.contiguous() for n, p in self.models[name].model.named_parameters()}, path)

    @torch.no_grad()
    def restore(self, name: str, path: str) -> None:
        """Read what `save` wrote."""
        weights = load_file(path)
        for parameter, value in self.models[name].model.named_parameters():
            value.copy_(weights[parameter])

    @torch.no_grad()
    def states(self, name: str, batch: PackedBatch) -> Tensor:
        """A model's final hidden states at a micro-batch's targets, [S, d], on this rank's device."""
        ids, positions, sources = (
            torch.from_numpy(np.array(a)).to(self.device) for a in (batch.ids, batch.positions, batch.sources)
        )
        return self.get(name).hidden(ids, positions, Layout.of(batch, self.device), sources)

    @torch.no_grad()
    def targets(self, name: str, batch: PackedBatch, kind: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """The distribution at each target of a micro-batch: `count` likeliest ids and their log-probabilities, or
        `count` ids drawn from it (with replacement; no values): [S, count] each, on the CPU.
        """
        model, states = self.get(name), self.states(name, batch)
        dice = torch.Generator(self.device).manual_seed(seed)
        found = []
        for part in states.split(chunk_size(model.vocabulary, fused=False)):
            logprobs = torch.log_softmax(model.logits(part).float(), dim=-1)
            if kind == "top_k":
                top = logprobs.topk(min(count, logprobs.shape[-1] - 1), dim=-1)
                found.append((top.indices.cpu(), top.values.cpu()))
            else:
                drawn = torch.multinomial(logprobs.exp(), count, replacement=True, generator=dice).cpu()
                found.append((drawn, torch.zeros(0)))
        return torch.cat([f[0] for f in found]), torch.cat([f[1] for f in found])

    def clear(self) -> None:
        """Drop them all."""
        self.models, self.heads = {}, {}


def head_weight(spec: ModelSpec) -> Tensor:
    """The output embedding [V, d] of a checkpoint, read without the rest of it.

    Raises:
        RunError: there is none under a name that is known.
    """
    if spec.scratch is not None:
        raise RunError("a random teacher has no head on disk", fix="let it stand with the learner: teacher.workers: 0")
    for name in _HEADS:
        path = _file_of(spec, name)
        if path is not None:
            with safe_open(path, framework="pt") as file:
                if name in file.keys():  # noqa: SIM118  it is no dictionary
                    return file.get_tensor(name)
    raise RunError(f"no head in {spec.path}: looked for {' and '.join(_HEADS)} in its safetensors files")


def _file_of(spec: ModelSpec, name: str) -> str | None:
    index = cached_file(
        spec.path, "model.safetensors.index.json", revision=spec.revision, _raise_exceptions_for_missing_entries=False
    )
    if index is None:
        return cached_file(spec.path, "model.safetensors", revision=spec.revision)
    shard = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].get(name)
    return None if shard is None else cached_file(spec.path, shard, revision=spec.revision)
