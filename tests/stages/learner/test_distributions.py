"""Stored distributions: what comes back is what went in, at the size that is promised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.errors import DataError
from posttrain.stages.learner import distributions
from posttrain.stages.learner.distributions import (
    DistributionForm,
    decode,
    encode,
    merged_draws,
    read_stored,
    write_stored,
)
from posttrain.types import Sample


@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_top_ids_come_back(seed: int, targets: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 151_936, (targets, k)).astype(np.int32)
    values = -(rng.random((targets, k)) * 30).astype(np.float32)
    values[np.arange(k)[None] >= rng.integers(0, k + 1, targets)[:, None]] = -np.inf
    form = DistributionForm(kind="top_k", count=k)
    entries, sizes = encode(form, ids, values)
    assert len(entries) == 7 * int(sizes.sum())
    back_ids, back = decode(form, entries, sizes)
    kept = values[:, : back.shape[1]] > -np.inf
    assert (back_ids[kept] == ids[:, : back.shape[1]][kept]).all()
    np.testing.assert_allclose(back[kept], values[:, : back.shape[1]][kept], atol=1 / 2048)
    assert (back[~kept] == -np.inf).all()


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 63))
@settings(max_examples=60, deadline=None)
def test_draws_come_back_exactly(seed: int, targets: int, draws: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, 9, (targets, draws)) * 16_000
    ids, shares = merged_draws(drawn)
    form = DistributionForm(kind="draws", count=draws)
    entries, sizes = encode(form, ids, shares)
    back_ids, back = decode(form, entries, sizes)
    assert len(entries) == 3 * int(sizes.sum())
    for row in range(targets):
        expected = {int(i): float(np.mean(drawn[row] == i)) for i in np.unique(drawn[row])}
        got = {int(i): float(s) for i, s in zip(back_ids[row], back[row], strict=True) if s > 0}
        assert got == pytest.approx(expected)


def test_an_id_that_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="262144"):
        encode(DistributionForm(kind="draws", count=4), np.array([[270_000]], np.int32), np.array([[1.0]], np.float32))


def sample(seed: int, form: DistributionForm) -> Sample:
    rng = np.random.default_rng(seed)
    length = int(rng.integers(4, 12))
    mask = np.zeros(length, np.float32)
    mask[2:] = 1
    ids, values = np.zeros((length, 3), np.int32), np.full((length, 3), -np.inf, np.float32)
    ids[2:], values[2:] = rng.integers(0, 400, (length - 2, 3)), -rng.integers(1, 4000, (length - 2, 3)) / 2048
    if form.kind == "draws":
        values = np.where(values > -np.inf, 1 / 3, -np.inf).astype(np.float32)
    return Sample(ids=rng.integers(0, 400, length), loss_mask=mask, teacher_ids=ids, teacher_values=values)


@pytest.mark.parametrize("kind", ["top_k", "draws"])
def test_a_folder_comes_back_over_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    monkeypatch.setattr(distributions, "ROWS_A_FILE", 2)
    form = DistributionForm(kind=kind, count=3)
    written = [sample(i, form) for i in range(5)]
    write_stored(tmp_path, form, written, {"vocabulary_sha256": "v"})
    assert len(list(tmp_path.glob("*.parquet"))) == 3
    found, fingerprint, back = read_stored(tmp_path)
    assert (found, fingerprint) == (form, {"vocabulary_sha256": "v"})
    for ours, theirs in zip(back, written, strict=True):
        assert ours.ids.tolist() == theirs.ids.tolist()
        assert ours.loss_mask.tolist() == theirs.loss_mask.tolist()
        np.testing.assert_allclose(ours.teacher_values, theirs.teacher_values, atol=1e-6)
        assert (ours.teacher_ids[2:] == theirs.teacher_ids[2:]).all()  # type: ignore[index]


def test_files_of_two_kinds_are_refused(tmp_path: Path) -> None:
    for number, form in enumerate((DistributionForm(kind="top_k", count=3), DistributionForm(kind="draws", count=3))):
        write_stored(tmp_path, form, [sample(0, form)], {}, first=number)
    with pytest.raises(DataError, match="of the form"):
        read_stored(tmp_path)
    with pytest.raises(DataError, match="no stored"):
        read_stored(tmp_path / "nothing")
