"""Entropy control: the band's weight, and which tokens are held back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from posttrain.configs.schema import Covariance, EntropyControl
from posttrain.stages.evaluation.reward_watch import Look, suspicion
from posttrain.stages.learner.losses.entropy import EntropyBand, covariances, hold_back
from posttrain.types import Sample


def band(**fields: object) -> EntropyBand:
    return EntropyBand(
        control=EntropyControl.model_validate({"band": [0.2, 0.5], "step": 0.01, "most": 0.03, **fields})
    )


def test_below_the_band_the_bonus_grows_to_its_limit_and_inside_it_goes() -> None:
    control = band()
    found = []
    for entropy in (0.1, 0.1, 0.1, 0.1, 0.3, 0.3, 0.3, 0.3):
        control.update(entropy)
        found.append(round(control.weight, 6))
    assert found == [0.01, 0.02, 0.03, 0.03, 0.02, 0.01, 0.0, 0.0]


def test_above_the_band_entropy_costs() -> None:
    control = band()
    for _ in range(9):
        control.update(0.9)
    assert control.weight == pytest.approx(-0.03)
    control.update(0.4)
    assert control.weight == pytest.approx(-0.02)


def test_a_controlled_system_comes_back_into_its_band() -> None:
    """A policy whose entropy falls by itself and rises with the bonus ends inside the band."""
    control, entropy = band(step=0.002, most=0.1), 0.6
    for _ in range(400):
        entropy += 0.2 * control.weight - 0.002
        control.update(entropy)
    assert 0.15 < entropy < 0.55


def samples(seed: int = 0) -> list[Sample]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(5):
        mask = np.zeros(12, np.float32)
        mask[4:] = 1
        made.append(
            Sample(
                ids=np.arange(12), loss_mask=mask, advantage=float(rng.normal()),
                engine_logprobs=(-rng.random(12) * 3).astype(np.float32),
            )
        )  # fmt: skip
    return made


def test_covariances_equal_a_loop() -> None:
    chosen = samples()
    pairs = [(s.advantage, float(s.engine_logprobs[t])) for s in chosen for t in range(4, 12)]  # type: ignore[index]
    a = sum(p[0] for p in pairs) / len(pairs)
    b = sum(p[1] for p in pairs) / len(pairs)
    assert covariances(chosen) == pytest.approx([(x - a) * (y - b) for x, y in pairs])


def test_clip_cov_silences_a_share_drawn_from_the_band() -> None:
    chosen = samples()
    found = covariances(chosen)
    rule = Covariance(kind="clip", share=0.1, band=(0.2, 9.0))
    held, count = hold_back(chosen, rule, seed=3)
    assert count == 4  # 10 % of 40
    silent = [
        8 * i + t - 4
        for i, s in enumerate(held)
        for t in range(4, 12)
        if s.token_advantages is not None and s.advantage + s.token_advantages[t] == 0
    ]
    assert len(silent) == 4
    assert all(found[t] >= 0.2 for t in silent)
    assert [s.loss_mask.tolist() for s in held] == [s.loss_mask.tolist() for s in chosen]  # the normaliser stays


def test_clip_cov_silences_the_teachers_part_too() -> None:
    chosen = [replace(s, token_advantages=np.ones(12, np.float32)) for s in samples()]
    held, _ = hold_back(chosen, Covariance(kind="clip", share=0.1, band=(0.2, 9.0)), seed=3)
    totals = np.concatenate([s.advantage + s.token_advantages[4:] for s in held])  # type: ignore[index]
    assert (np.abs(totals) < 1e-6).sum() == 4


def test_kl_cov_penalises_the_highest() -> None:
    chosen = samples()
    held, count = hold_back(chosen, Covariance(kind="kl", share=0.05, weight=0.7), seed=0)
    assert count == 2
    marked = np.concatenate([np.zeros(8) if s.penalties is None else s.penalties[4:] for s in held])
    assert marked[np.argsort(-covariances(chosen))[:2]] == pytest.approx([0.7, 0.7])
    assert (marked > 0).sum() == 2


# ---------------------------------------------------------------- the watch


def look(step: int, reward: float, heldout: float, error: float = 0.02) -> Look:
    return Look(step=step, reward=reward, heldout=heldout, error=error)


@pytest.mark.parametrize(
    ("looks", "suspicious"),
    [
        ([look(1, 0.2, 0.2)], False),
        ([look(1, 0.2, 0.2), look(2, 0.5, 0.2)], True),  # the reward alone
        ([look(1, 0.2, 0.2), look(2, 0.5, 0.45)], False),  # both
        ([look(1, 0.2, 0.2), look(2, 0.25, 0.2)], False),  # neither
        ([look(1, 0.2, 0.2), look(2, 0.5, 0.21)], True),  # held-out within its error
        ([look(1, 0.2, 0.3), look(2, 0.3, 0.3), look(3, 0.4, 0.3)], True),  # slowly
        ([look(1, 0.5, 0.2), look(2, 0.2, 0.2)], False),  # it fell
    ],
)
def test_only_a_reward_that_rises_alone_is_suspicious(looks: list[Look], suspicious: bool) -> None:
    assert bool(suspicion(looks, 0.1)) == suspicious
