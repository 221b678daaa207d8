"""Packing: many samples in one row without padding, in equal numbers of micro-batches a rank.

Worked example, samples A (3 tokens, the last one is the target) and B (2 tokens, likewise):

    ids        a0 a1 a2 b0 b1      position  0 1 2 0 1      lengths  3 2
    targets    index 2 (predicted from the hidden state at 1), index 4 (from 3)

What precedes the first target of several samples alike (a group's prompt) stands in the row once. A and C with the
prompt p0 p1, one target each:

    ids        p0 p1 a2 c2         position  0 1 2 2        lengths  3 3
    rows       0 1 2, 0 1 3        targets   2 and 3, both predicted from the hidden state at 1

Exact, backward too: under causal attention a prompt's states don't depend on what follows, and its gradient is the sum
over its samples (as in Prefix Grouper, 2506.05433, there with two attention calls).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.errors import RunError
from posttrain.types import Sample

LEAST_SHARED = 8
"""Tokens from which on a common prefix is shared: plain documents that begin alike by chance aren't kept together."""
TWICE = 0.02
"""Share of the tokens that may be computed again, prompts in each part of a cut group, for fewer micro-batches."""
Family = tuple[list[int], int]
"""Indices of samples that share a prefix, and their tokens with it once."""


@dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """One forward pass. T tokens in all, S of them targets; float fields have shape [S]."""

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    lengths: tuple[int, ...]
    rows: NDArray[np.int64]
    """[sum of lengths]: where each token of each sample stands in ids; every place is named at least once."""
    targets: NDArray[np.int64]
    """Indices into ids of the tokens to predict; never the first token of a sample."""
    sources: NDArray[np.int64]
    """[S], where in ids the token before each target stands, whose hidden state predicts it."""
    weights: NDArray[np.float32]
    """Share of each target in the loss, before the global normaliser; 0 in a filler batch."""
    advantages: NDArray[np.float32]
    engine_logprobs: NDArray[np.float32]
    """nan where the engine isn't corrected for."""
    old_logprobs: NDArray[np.float32]
    """nan where the policy of before the step is the present one."""
    reference_logprobs: NDArray[np.float32]
    penalties: NDArray[np.float32]
    samples: NDArray[np.int64]
    """Which sample (index in the step's list) each target belongs to."""
    teacher: int = 0
    teacher_ids: NDArray[np.int32] | None = None
    """[S, k], or None where no targets are stored."""
    teacher_values: NDArray[np.float32] | None = None


def first_fit_decreasing(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Bins of indices whose lengths sum to at most `budget`; deterministic; a longer item has a bin of its own."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    bins: list[list[int]] = []
    room: list[int] = []
    for i in order:
        slot = next((b for b, free in enumerate(room) if free >= lengths[i]), None)
        if slot is None:
            bins.append([i])
            room.append(budget - lengths[i])
        else:
            bins[slot].append(i)
            room[slot] -= lengths[i]
    return bins


def prefix(sample: Sample) -> bytes:
    """What precedes a sample's first target, to compare: empty if there is none, or too little to be worth sharing."""
    targets = np.flatnonzero(sample.loss_mask)
    first = int(targets[0]) if len(targets) else 0
    return sample.ids[:first].tobytes() if first >= LEAST_SHARED else b""


def _prefix_tokens(sample: Sample) -> int:
    return len(prefix(sample)) // sample.ids.itemsize


def _families(samples: Sequence[Sample], budget: int) -> list[Family]:
    """Samples that share a prefix, cut where their tokens pass `budget`: indices, and tokens with the prefix once."""
    families: list[Family] = []
    latest: dict[bytes, int] = {}
    for index, sample in enumerate(samples):
        common = prefix(sample)
        family = latest.get(common) if common else None
        if family is not None:
            indices, tokens = families[family]
            together = tokens + sample.tokens - _prefix_tokens(sample)
            if together <= budget:
                families[family] = ([*indices, index], together)
                continue
        latest[common] = len(families)
        families.append(([index], sample.tokens))
    return families


def _parted(samples: Sequence[Sample], families: list[Family], parts: int) -> list[Family]:
    """Each family in up to `parts` of equally many neighbours, each with the prefix once."""
    found: list[Family] = []
    for indices, _ in families:
        for chosen in np.array_split(indices, min(parts, len(indices))):
            again = (len(chosen) - 1) * _prefix_tokens(samples[indices[0]])
            found.append((chosen.tolist(), sum(samples[i].tokens for i in chosen) - again))
    return found


def plan_micro_batches(samples: Sequence[Sample], ranks: int, budget: int) -> list[list[list[int]]]:
    """Indices by rank and micro-batch: few, filled evenly where they can be, equally many on every rank.

    Samples with a common prefix stay together, and it counts once. They are cut where a rank would have no work, and
    where that makes fewer micro-batches and computes at most `TWICE` of the tokens again. A rank with less work gets
    empty micro-batches (unequal counts hang ZeRO-3).
    """
    loads = [0] * ranks
    shares: list[list[list[int]]] = [[] for _ in range(ranks)]
    for indices, tokens in sorted(_micro_batches(samples, ranks, budget), key=lambda batch: -batch[1]):
        rank = min(range(ranks), key=lambda r: (len(shares[r]), loads[r]))
        shares[rank].append(sorted(indices))
        loads[rank] += tokens
    return shares


def _micro_batches(samples: Sequence[Sample], ranks: int, budget: int) -> list[Family]:
    """Indices and tokens of each, a multiple of `ranks` in all: whole families, unless cutting them serves."""
    whole = families = _families(samples, budget)
    total, parts = sum(tokens for _, tokens in whole), 1
    while len(families) < ranks <= len(samples):
        parts += 1
        families = _parted(samples, whole, parts)
    bins = _level_bins([tokens for _, tokens in families], ranks, budget)
    fewest = ranks * -(-sum(min(tokens, budget) for _, tokens in families) // (ranks * budget))
    for part in (2, 4, 8):  # families of just over half a budget would leave the other half empty
        if len(bins) <= fewest or all(len(indices) == 1 for indices, _ in families):
            break
        cut = _families(samples, budget // part)
        if sum(tokens for _, tokens in cut) > (1 + TWICE) * total:
            break
        if len(cut) < ranks or len(cut) == len(families):
            continue
        smaller = _level_bins([tokens for _, tokens in cut], ranks, budget)
        if len(smaller) < len(bins):
            families, bins = cut, smaller
    return [([i for f in chosen for i in families[f][0]], sum(families[f][1] for f in chosen)) for chosen in bins]


def _level_bins(sizes: Sequence[int], ranks: int, budget: int) -> list[list[int]]:
    """As many bins as first fit needs, rounded up to a multiple of `ranks`, filled evenly where that fits.

    Ranks wait for each other at every pass, and a pass of a few tokens costs a GPU what its launches cost.
    """
    bins = first_fit_decreasing(sizes, budget)
    bins += [[] for _ in range(-len(bins) % ranks)]
    level: list[list[int]] = [[] for _ in bins]
    loads = [(0, place) for place in range(len(bins))]  # a heap: the least loaded first
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        load, place = loads[0]
        level[place].append(i)
        heapq.heapreplace(loads, (load + sizes[i], place))
    return level if all(load <= budget or len(level[place]) == 1 for load, place in loads) else bins


def token_weights(samples: Sequence[Sample], aggregate: str, longest: int = 0) -> list[NDArray[np.float32]]:
    """Each token's share of the loss, summing to 1 over all samples (but for `constant`).

    `token`: every target counts the same (DAPO, 2503.14476, eq. 8). `sequence`: every sample counts the same,
    its targets share it (GRPO, 2402.03300, eq. 3). `prompt`: every group counts the same, its targets share it
    (ScaleRL, 2510.13786). `constant`: 1 / (samples x `longest`) a target, so that a token's weight depends on no
    length (Dr. GRPO, 2503.20783, 3.2).
    """
    masks = [s.loss_mask * np.float32(s.weight) for s in samples]
    if aggregate == "constant":
        return [(m / max(len(samples) * longest, 1)).astype(np.float32) for m in masks]
    if aggregate == "sequence":
        masks = [m / max(float(s.loss_mask.sum()), 1.0) for m, s in zip(masks, samples, strict=True)]
    if aggregate == "prompt":
        targets: dict[int, float] = {}
        for s in samples:
            targets[s.group] = targets.get(s.group, 0.0) + float(s.loss_mask.sum())
        masks = [m / max(targets[s.group], 1.0) for m, s in zip(masks, samples, strict=True)]
    total = float(sum(m.sum() for m in masks))
    return [(m / max(total, 1e-30)).astype(np.float32) for m in masks]


def pack(samples: Sequence[Sample], weights: Sequence[NDArray[np.float32]], indices: Sequence[int]) -> PackedBatch:
    """One row of the samples at `indices`, all of one teacher; no index gives a filler of two tokens and weight 0."""
    stored = [s for s in samples if s.teacher_ids is not None]
    width = max((s.teacher_ids.shape[1] for s in stored if s.teacher_ids is not None), default=0)
    if not indices:
        zero = np.zeros(1, np.float32)
        return PackedBatch(
            ids=np.zeros(2, np.int64), positions=np.arange(2), lengths=(2,), rows=np.arange(2), targets=np.array([1]),
            sources=np.array([0]), weights=zero, advantages=zero, engine_logprobs=zero * np.nan,
            old_logprobs=zero * np.nan, reference_logprobs=zero, penalties=zero, samples=np.array([-1]),
            teacher_ids=np.zeros((1, width), np.int32) if stored else None,
            teacher_values=np.zeros((1, width), np.float32) if stored else None,
        )  # fmt: skip
    chosen = [samples[i] for i in indices]
    local = [np.flatnonzero(s.loss_mask) for s in chosen]
    if any(len(t) and t[0] == 0 for t in local):
        raise RunError("the first token of a sample can't be a target: nothing precedes it")
    pick = list(zip(chosen, local, strict=True))
    places, kept = _place(chosen)

    def field(values: Sequence[NDArray[np.float32] | None], absent: float = 0.0) -> NDArray[np.float32]:
        parts = [np.full(len(t), absent) if v is None else v[t] for v, t in zip(values, local, strict=True)]
        return np.concatenate(parts).astype(np.float32)

    def wide(name: str, dtype: type, absent: float) -> NDArray[Any] | None:
        if not stored:
            return None
        parts = [getattr(s, name)[t] for s, t in pick]
        return np.concatenate(
            [np.pad(p, ((0, 0), (0, width - p.shape[1])), constant_values=absent) for p in parts]
        ).astype(dtype)

    return PackedBatch(
        ids=np.concatenate([s.ids[n:] for s, n in zip(chosen, kept, strict=True)]),
        positions=np.concatenate([np.arange(n, s.tokens) for s, n in zip(chosen, kept, strict=True)]),
        lengths=tuple(s.tokens for s in chosen),
        rows=np.concatenate(places),
        targets=np.concatenate([p[t] for p, t in zip(places, local, strict=True)]),
        sources=np.concatenate([p[t - 1] for p, t in zip(places, local, strict=True)]),
        weights=field([weights[i] for i in indices]),
        advantages=field([s.token_advantages for s in chosen])
        + np.concatenate([np.full(len(t), s.advantage, np.float32) for s, t in pick]),
        engine_logprobs=field([s.engine_logprobs for s in chosen], np.nan),
        old_logprobs=field([s.old_logprobs for s in chosen], np.nan),
        reference_logprobs=field([s.reference_logprobs for s in chosen]),
        penalties=field([s.penalties for s in chosen]),
        samples=np.concatenate([np.full(len(t), i) for i, t in zip(indices, local, strict=True)]),
        teacher=chosen[0].teacher,
        teacher_ids=wide("teacher_ids", np.int32, 0),
        teacher_values=wide("teacher_values", np.float32, -np.inf),
    )


def _place(samples: Sequence[Sample]) -> tuple[list[NDArray[np.int64]], list[int]]:
    """Each sample's tokens' places in the row, and how many of its first ones an earlier sample has put there."""
    places: list[NDArray[np.int64]] = []
    kept: list[int] = []
    earlier: dict[bytes, NDArray[np.int64]] = {}
    end = 0
    for sample in samples:
        common = prefix(sample)
        before = earlier.get(common, np.zeros(0, np.int64))
        own = np.arange(end, end + sample.tokens - len(before))
        end += len(own)
        places.append(np.concatenate([before, own]))
        kept.append(len(before))
        if common:
            earlier[common] = places[-1][: len(common) // sample.ids.itemsize]
    return places, kept
