"""Packing: nothing is lost, padded or shared; what a step sums up doesn't depend on how it was cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.errors import RunError
from posttrain.stages.data.pack import first_fit_decreasing, pack, plan_micro_batches, token_weights
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
    shares = plan_micro_batches(sizes, ranks, 64)
    assert len(shares) == ranks
    assert len({len(share) for share in shares}) == 1
    assert sorted(i for share in shares for b in share for i in b) == list(range(len(sizes)))


def test_ranks_are_balanced_by_tokens() -> None:
    shares = plan_micro_batches([60, 50, 10, 10, 10, 10, 10, 40], 2, 4096)
    loads = [sum([60, 50, 10, 10, 10, 10, 10, 40][i] for b in share for i in b) for share in shares]
    assert max(loads) - min(loads) <= 60
    assert min(loads) > 0


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


def test_a_first_token_as_target_is_refused() -> None:
    with pytest.raises(RunError, match="first token"):
        pack([Sample(ids=np.array([1, 2]), loss_mask=np.ones(2, np.float32))], [np.ones(2, np.float32)], [0])
