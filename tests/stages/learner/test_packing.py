"""Packing: nothing is lost, padded or shared; what a step sums up doesn't depend on how it was cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.errors import RunError
from posttrain.stages.learner.rank.packing import (
    LEAST_SHARED,
    first_fit_decreasing,
    pack,
    plan_micro_batches,
    token_weights,
)
from posttrain.types import Sample


def sample(length: int, targets: int, start: int = 0) -> Sample:
    mask = np.zeros(length, np.float32)
    mask[length - targets :] = 1
    return Sample(ids=np.arange(start, start + length), loss_mask=mask, advantage=float(start))


lengths = st.lists(st.integers(2, 60), min_size=1, max_size=40)


@given(lengths)
def test_bins_hold_every_index_once_within_budget(sizes: list[int]) -> None:
    bins = first_fit_decreasing(sizes, 64)
    assert sorted(i for b in bins for i in b) == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in b) <= 64 for b in bins)


@given(lengths, st.integers(1, 4))
def test_every_rank_gets_equally_many_micro_batches(sizes: list[int], ranks: int) -> None:
    shares = plan_micro_batches([sample(n, 1, start=100 * i) for i, n in enumerate(sizes)], ranks, 64)
    assert len(shares) == ranks
    assert len({len(share) for share in shares}) == 1
    assert sorted(i for share in shares for b in share for i in b) == list(range(len(sizes)))


def test_ranks_are_balanced_by_tokens() -> None:
    sizes = [60, 50, 10, 10, 10, 10, 10, 40]
    shares = plan_micro_batches([sample(n, 1, start=100 * i) for i, n in enumerate(sizes)], 2, 4096)
    loads = [sum(sizes[i] for b in share for i in b) for share in shares]
    assert max(loads) - min(loads) <= 60
    assert min(loads) > 0


def row_tokens(samples: list[Sample], indices: list[int]) -> int:
    """What a forward pass of these computes: a shared prompt once."""
    return len(pack(samples, [s.loss_mask for s in samples], indices).ids)


@given(lengths, st.integers(1, 4))
def test_no_rank_makes_more_passes_than_first_fit_and_none_is_over_the_budget(sizes: list[int], ranks: int) -> None:
    samples = [sample(n, 1, start=100 * i) for i, n in enumerate(sizes)]
    shares = plan_micro_batches(samples, ranks, 64)
    assert all(row_tokens(samples, b) <= 64 for share in shares for b in share if b)
    assert len(shares[0]) <= -(-len(first_fit_decreasing(sizes, 64)) // ranks)


def test_documents_that_fill_no_bin_to_the_last_token_leave_no_pass_of_a_few() -> None:
    sizes = [int(n) for n in np.random.default_rng(0).integers(100, 1200, 60)]
    budget = sum(sizes) // 2  # two ranks, a pass each, if nothing were left over
    samples = [sample(n, 1, start=2000 * i) for i, n in enumerate(sizes)]
    loads = [sum(sizes[i] for i in b) for share in plan_micro_batches(samples, 2, budget) for b in share]
    assert max(loads) < 1.1 * min(loads)


def test_a_sample_over_the_budget_runs_alone() -> None:
    assert first_fit_decreasing([8, 65, 50, 6], 64) == [[1], [2, 0, 3]]


@pytest.mark.parametrize("aggregate", ["token", "sequence"])
def test_weights_sum_to_one(aggregate: str) -> None:
    weights = token_weights([sample(9, 3), sample(5, 1), sample(30, 20)], aggregate)
    assert sum(float(w.sum()) for w in weights) == pytest.approx(1.0, abs=1e-6)


def test_sequence_aggregation_gives_every_sample_the_same_share() -> None:
    weights = token_weights([sample(9, 3), sample(30, 20)], "sequence")
    assert float(weights[0].sum()) == pytest.approx(float(weights[1].sum()))


def test_positions_restart_and_targets_point_at_their_tokens() -> None:
    samples = [sample(4, 2, start=10), sample(3, 1, start=20)]
    batch = pack(samples, [s.loss_mask for s in samples], [0, 1])
    assert batch.positions.tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert batch.ids[batch.targets].tolist() == [12, 13, 22]
    assert batch.samples.tolist() == [0, 0, 1]


def group(prompt: int, completions: list[int], start: int = 0) -> list[Sample]:
    """Samples with one prompt and completions of their own, all of which are targets."""
    made = []
    for number, count in enumerate(completions):
        own = np.arange(count) + start + 1000 * (number + 1)
        mask = np.concatenate([np.zeros(prompt, np.float32), np.ones(count, np.float32)])
        made.append(Sample(ids=np.concatenate([np.arange(prompt) + start, own]), loss_mask=mask))
    return made


groups = st.lists(
    st.tuples(st.integers(1, 30), st.lists(st.integers(1, 20), min_size=1, max_size=5)), min_size=1, max_size=4
)


@given(groups, st.randoms())
def test_a_row_with_shared_prompts_holds_every_sample_whole(shapes: list[tuple[int, list[int]]], random: Any) -> None:
    samples = [s for g, (prompt, counts) in enumerate(shapes) for s in group(prompt, counts, start=100_000 * g)]
    order = list(range(len(samples)))
    random.shuffle(order)
    batch = pack(samples, [s.loss_mask for s in samples], order)
    ends = np.cumsum(batch.lengths)
    for index, end in zip(order, ends, strict=True):
        place = batch.rows[end - samples[index].tokens : end]
        assert batch.ids[place].tolist() == samples[index].ids.tolist()
        assert batch.positions[place].tolist() == list(range(samples[index].tokens))
        mine = batch.samples == index
        targets = np.flatnonzero(samples[index].loss_mask)
        assert batch.targets[mine].tolist() == place[targets].tolist()
        assert batch.sources[mine].tolist() == place[targets - 1].tolist()
    assert set(batch.rows.tolist()) == set(range(len(batch.ids)))


def test_a_prompt_of_several_samples_stands_in_the_row_once() -> None:
    samples = group(20, [3, 5, 4]) + group(20, [6], start=500)
    assert len(pack(samples, [s.loss_mask for s in samples], [0, 1, 2, 3]).ids) == 20 + 3 + 5 + 4 + 20 + 6


def test_samples_that_begin_alike_by_a_few_tokens_share_nothing() -> None:
    samples = group(LEAST_SHARED - 1, [3, 5])
    assert len(pack(samples, [s.loss_mask for s in samples], [0, 1]).ids) == 2 * (LEAST_SHARED - 1) + 8


def test_a_shared_prompt_counts_once_in_a_plan_and_stays_together() -> None:
    samples = [s for g in range(3) for s in group(40, [10, 10, 10], start=100_000 * g)]
    (share,) = plan_micro_batches(samples, 1, 70)
    assert sorted(share) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_a_group_over_the_budget_is_cut() -> None:
    samples = group(40, [10] * 6)
    (share,) = plan_micro_batches(samples, 1, 70)
    assert sorted(share) == [[0, 1, 2], [3, 4, 5]]


def test_groups_of_just_over_half_a_budget_are_cut_to_fill_it() -> None:
    samples = [s for g in range(16) for s in group(10, [128] * 8, start=100_000 * g)]  # 1,034 tokens each
    shares = plan_micro_batches(samples, 2, 2000)
    assert len(shares[0]) == 5  # whole, one group a pass: 8
    assert all(row_tokens(samples, b) <= 2000 for share in shares for b in share)
    assert sum(row_tokens(samples, b) for share in shares for b in share) < 1.02 * 16 * 1034


def test_a_sample_over_the_budget_changes_nothing_for_the_others() -> None:
    samples = [s for g in range(16) for s in group(10, [128] * 8, start=100_000 * g)]
    shares = plan_micro_batches([*samples, sample(20_000, 1, start=10_000_000)], 2, 2000)
    assert [128] in [b for share in shares for b in share]
    assert len(shares[0]) == 5  # ten passes, its own among them; whole groups would take nine a rank


@given(groups, st.integers(1, 4))
def test_no_sample_of_a_group_is_lost_and_none_goes_over_the_budget(
    shapes: list[tuple[int, list[int]]], ranks: int
) -> None:
    samples = [s for g, (prompt, counts) in enumerate(shapes) for s in group(prompt, counts, start=100_000 * g)]
    shares = plan_micro_batches(samples, ranks, 45)  # the longest sample has 50
    assert sorted(i for share in shares for b in share for i in b) == list(range(len(samples)))
    assert all(row_tokens(samples, b) <= 45 or len(b) == 1 for share in shares for b in share if b)
    assert len({len(share) for share in shares}) == 1
    assert all(any(share) for share in shares) or len(samples) < ranks


def test_groups_with_long_prompts_stay_whole() -> None:
    samples = [s for g in range(16) for s in group(500, [66] * 8, start=100_000 * g)]  # half of 1,028 tokens shared
    shares = plan_micro_batches(samples, 2, 2000)
    assert sorted(b for share in shares for b in share) == [list(range(8 * g, 8 * g + 8)) for g in range(16)]


def test_one_group_is_enough_work_for_two_ranks() -> None:
    shares = plan_micro_batches(group(40, [10] * 6), 2, 4096)
    assert [len(b) for share in shares for b in share] == [3, 3]


@pytest.mark.parametrize(("groups_", "size", "ranks"), [(7, 8, 8), (2, 16, 4), (1, 16, 2)])
def test_fewer_groups_than_ranks_are_parted_not_scattered(groups_: int, size: int, ranks: int) -> None:
    samples = [s for g in range(groups_) for s in group(1000, [100] * size, start=100_000 * g)]
    shares = plan_micro_batches(samples, ranks, 8192)
    assert all(any(share) for share in shares)
    assert max(len({i // size for i in b}) for share in shares for b in share) <= 2
    computed = sum(row_tokens(samples, b) for share in shares for b in share)
    assert computed <= 2 * groups_ * (1000 + 100 * size)  # each group in two parts at the most


def test_a_first_token_as_target_is_refused() -> None:
    with pytest.raises(RunError, match="first token"):
        pack([Sample(ids=np.array([1, 2]), loss_mask=np.ones(2, np.float32))], [np.ones(2, np.float32)], [0])
