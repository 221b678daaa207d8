"""The policy losses against oracles: TRL's trainer where it has them, a slow written-out form where it has not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.configs.schema import LearnerCluster, Optimizer
from posttrain.stages.learner.losses.losses import PolicyLoss, PolicyTokens, kl_estimate, policy_loss
from posttrain.stages.learner.losses.off_policy import Importance, importance_weights, stale_mask
from posttrain.stages.learner.losses.surrogates import SURROGATES, Sequences
from posttrain.stages.learner.rank.packing import PackedBatch, pack, plan_micro_batches, token_weights
from posttrain.stages.models.model_files import ModelSpec
from posttrain.types import Sample

from ..stand_ins import backward

LONGEST = 40
BOUNDED = Importance(mode="none")


@pytest.fixture(scope="module")
def loaded(learner_worker: Any, random_model: Path) -> Any:
    learner_worker.settings = LearnerCluster(zero=0)
    learner_worker.load(ModelSpec(path=str(random_model)), Optimizer(clip_norm=1e9), 0)
    return learner_worker


def make_samples(count: int = 6, seed: int = 3, spread: float = 0.4) -> list[Sample]:
    """Samples whose old log-probabilities are near a random model's, so that ratios fall on both sides of a clip."""
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        length = int(rng.integers(8, LONGEST))
        mask = np.zeros(length, np.float32)
        mask[int(rng.integers(2, length - 2)) :] = 1

        def near(level: float, n: int = length) -> Any:
            return (level + spread * rng.normal(size=n)).astype(np.float32)

        samples.append(
            Sample(
                ids=rng.integers(10, 400, length), loss_mask=mask, advantage=float(rng.normal()), group=number // 2,
                old_logprobs=near(-6.2), engine_logprobs=near(-6.2), reference_logprobs=near(-6.2),
            )
        )  # fmt: skip
    return samples


def cut(samples: Sequence[Sample], budget: int, aggregate: str) -> list[PackedBatch]:
    weights = token_weights(samples, aggregate, LONGEST)
    return [pack(samples, weights, b) for b in plan_micro_batches(samples, 1, budget)[0]]


# (TRL's settings, our loss, our aggregate)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "grpo": ({"loss_type": "grpo"}, {}, "sequence"),
    "bnpo": ({"loss_type": "bnpo"}, {}, "token"),
    "dapo": ({"loss_type": "dapo"}, {}, "token"),
    "dr_grpo": ({"loss_type": "dr_grpo"}, {}, "constant"),
    "dual_clip": ({"loss_type": "grpo", "delta": 1.3}, {"dual_clip": 1.3}, "sequence"),
    "cispo": ({"loss_type": "cispo", "epsilon_high": 1.5}, {"surrogate": "cispo", "cap": 1.5}, "token"),
    "sapo": ({"loss_type": "sapo"}, {"surrogate": "sapo"}, "sequence"),
    "gspo": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.05, "epsilon_high": 0.07},
        {"surrogate": "gspo", "clip_low": 0.05, "clip_high": 0.07},
        "sequence",
    ),
    "kl": ({"loss_type": "grpo", "beta": 0.1}, {"kl": 0.1}, "sequence"),
    "kl_plain": (
        {"loss_type": "dapo", "beta": 0.1, "use_bias_correction_kl": False},
        {"kl": 0.1, "kl_estimator": "k3_plain"},
        "token",
    ),
    "entropy": ({"loss_type": "dapo", "entropy_coef": 0.05}, {"entropy": 0.05}, "token"),
    "drop_stale": ({"loss_type": "dapo", "off_policy_mask_threshold": 0.05}, {"drop_stale": 0.05}, "token"),
}


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_equal_trl(loaded: Any, random_model: Path, tmp_path: Path, case: str) -> None:
    settings, ours, aggregate = CASES[case]
    samples = make_samples()
    trainer = trl_trainer(random_model, tmp_path, settings)
    value = trainer._compute_loss(trainer.model, trl_inputs(samples, case == "drop_stale"))
    value.backward()
    loss = PolicyLoss(temperature=0.7, importance=BOUNDED, **{"clip_low": 0.2, "clip_high": 0.28, **ours})
    got, gradients = backward(loaded, cut(samples, 4096, aggregate), loss)
    assert got == pytest.approx(value.item(), abs=1e-5)
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-3)


def trl_trainer(model: Path, folder: Path, settings: dict[str, Any]) -> Any:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    defaults = {"epsilon": 0.2, "epsilon_high": 0.28, "beta": 0.0}
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        reward_funcs=lambda completions, **_: [0.0 for _ in completions],
        args=GRPOConfig(
            output_dir=str(folder), temperature=0.7, per_device_train_batch_size=6, num_generations=6,
            gradient_checkpointing=False, bf16=False, use_cpu=True, report_to=[], max_completion_length=LONGEST,
            **{**defaults, **settings},
        ),
        train_dataset=Dataset.from_list([{"prompt": "1"}]),
        processing_class=AutoTokenizer.from_pretrained(model),
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


def trl_inputs(samples: list[Sample], sampling: bool) -> dict[str, torch.Tensor]:
    """The samples as TRL pads them: prompts to the left, completions to the right."""
    prompts = [s.ids[s.loss_mask == 0] for s in samples]
    completions = [s.ids[s.loss_mask == 1] for s in samples]
    width, room = max(map(len, prompts)), max(map(len, completions))

    def left(rows: list[np.ndarray]) -> torch.Tensor:
        return torch.stack([torch.from_numpy(np.pad(r, (width - len(r), 0))) for r in rows])

    def right(rows: list[np.ndarray]) -> torch.Tensor:
        return torch.stack([torch.from_numpy(np.pad(r, (0, room - len(r)))) for r in rows])

    def values(name: str) -> torch.Tensor:
        return right([getattr(s, name)[s.loss_mask == 1] for s in samples])

    found = {
        "prompt_ids": left(prompts),
        "prompt_mask": left([np.ones(len(p), np.int64) for p in prompts]),
        "completion_ids": right(completions),
        "completion_mask": right([np.ones(len(c), np.int64) for c in completions]),
        "advantages": torch.tensor([s.advantage for s in samples]),
        "old_per_token_logps": values("old_logprobs"),
        "ref_per_token_logps": values("reference_logprobs"),
        "num_items_in_batch": torch.tensor(float(sum(map(len, completions)))),
    }
    return found | ({"sampling_per_token_logps": values("engine_logprobs")} if sampling else {})


# ---------------------------------------------------------------- written out


def rows(seed: int = 0, lengths: Sequence[int] = (3, 1, 5)) -> tuple[torch.Tensor, ...]:
    """log pi, log old, log mu, advantages and sequence numbers of a micro-batch."""
    rng = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    pi, old, mu = (-2 + 0.5 * torch.randn(total, generator=rng, dtype=torch.float64) for _ in range(3))
    index = torch.tensor([i for i, n in enumerate(lengths) for _ in range(n)])
    return pi.requires_grad_(), old, mu, torch.randn(len(lengths), generator=rng, dtype=torch.float64)[index], index


def test_gspo_token_is_gspo_where_a_sequence_has_one_advantage() -> None:
    """2507.18071, 4.3: equal value, clip and gradient, once a sequence's mean is taken."""
    pi, old, _, advantages, index = rows()
    sequences, spec = Sequences.of(index), PolicyLoss(clip_low=0.1, clip_high=0.1)
    found = []
    for name in ("gspo", "gspo_token"):
        loss = sequences.mean(SURROGATES[name](pi - old, pi, advantages, sequences, spec).loss).sum()
        found.append((loss.item(), torch.autograd.grad(loss, pi)[0]))
    assert found[0][0] == pytest.approx(found[1][0])
    torch.testing.assert_close(found[0][1] * 1.0, found[1][1])


def test_gspo_token_gives_each_token_its_own_advantage() -> None:
    pi, old, _, _, index = rows()
    advantages = torch.linspace(-1, 1, len(pi), dtype=torch.float64)
    sequences = Sequences.of(index)
    loss = SURROGATES["gspo_token"](pi - old, pi, advantages, sequences, PolicyLoss(clip_low=0.99, clip_high=1e9)).loss
    (got,) = torch.autograd.grad(loss.sum(), pi)
    for t in range(len(pi)):
        mine = index == index[t]
        s = math.exp(float((pi - old).detach()[mine].mean()))
        assert got[t].item() == pytest.approx(-s * advantages[t].item())


@pytest.mark.parametrize("name", SURROGATES)
def test_at_ratio_one_every_surrogate_is_the_policy_gradient(name: str) -> None:
    """-A grad log pi, summed over a sequence (GSPO's tokens share one ratio, so only their sum is comparable)."""
    pi, _, _, advantages, index = rows()
    sequences = Sequences.of(index)
    loss = SURROGATES[name](pi - pi.detach(), pi, advantages, sequences, PolicyLoss()).loss
    (got,) = torch.autograd.grad(loss.sum(), pi)
    torch.testing.assert_close(sequences.total(got), sequences.total(-advantages))


@pytest.mark.parametrize("mode", ["token_tis", "sequence_tis", "token_mis", "sequence_mis", "geometric_mis", "none"])
def test_importance_weights_equal_a_loop(mode: Any) -> None:
    _, old, mu, _, index = rows(seed=5)
    spec = Importance(mode=mode, cap=1.4, floor=0.7)
    got = importance_weights(old - mu, Sequences.of(index), spec)
    kept = []
    for t in range(len(old)):
        mine = [float(old[i] - mu[i]) for i in range(len(old)) if index[i] == index[t]]
        own = math.exp(float(old[t] - mu[t]))
        product, mean = math.exp(sum(mine)), math.exp(sum(mine) / len(mine))
        expected = {
            "none": 1.0,
            "token_tis": min(own, 1.4),
            "sequence_tis": min(product, 1.4),
            "token_mis": own if 0.7 <= own <= 1.4 else 0.0,
            "sequence_mis": product if 0.7 <= product <= 1.4 else 0.0,
            "geometric_mis": min(own, 1.4) if 0.7 <= mean <= 1.4 else 0.0,
        }[mode]
        assert got[t].item() == pytest.approx(expected)
        kept.append(expected)
    assert mode == "none" or len(set(kept)) > 1


def test_importance_is_a_weight_of_the_surrogate_alone() -> None:
    """rho multiplies the policy term and its gradient; not the KL's."""
    pi, old, mu, advantages, index = rows(seed=2)
    sequences = Sequences.of(index)
    tokens = PolicyTokens(
        logprobs=pi, entropy=torch.zeros_like(old), old=old, engine=mu, advantages=advantages,
        reference=old - 0.3, penalties=torch.zeros_like(old),
    )  # fmt: skip
    spec = PolicyLoss(kl=0.5, importance=Importance(mode="token_tis", cap=1.2))
    both, _ = policy_loss(tokens, sequences, spec)
    plain, _ = policy_loss(replace(tokens, engine=torch.full_like(mu, torch.nan)), sequences, replace(spec, kl=0.0))
    expected = plain * (old - mu).exp().clamp(max=1.2) + 0.5 * kl_estimate(pi, old - 0.3, pi - old, "k3")
    torch.testing.assert_close(both, expected)


def test_a_missing_old_policy_is_the_present_one() -> None:
    pi, old, mu, advantages, index = rows(seed=4)
    nan = torch.full_like(old, torch.nan)
    tokens = PolicyTokens(
        logprobs=pi, entropy=torch.zeros_like(old), old=nan, engine=mu, advantages=advantages, reference=old,
        penalties=torch.zeros_like(old),
    )  # fmt: skip
    loss, metrics = policy_loss(tokens, Sequences.of(index), PolicyLoss(importance=Importance(cap=1.1)))
    (got,) = torch.autograd.grad(loss.sum(), pi)
    torch.testing.assert_close(got, -advantages * (pi.detach() - mu).exp().clamp(max=1.1))
    assert metrics["ratio"].tolist() == [1.0] * len(pi)


def test_the_distance_from_the_old_policy_is_a_kl_over_its_own_tokens() -> None:
    """Summed over a whole vocabulary, by what the old policy gives each token."""
    old, pi = torch.tensor([0.7, 0.2, 0.1]).log(), torch.tensor([0.3, 0.3, 0.4]).log()
    nothing = torch.zeros(3)
    tokens = PolicyTokens(
        logprobs=pi, entropy=nothing, old=old, engine=old, advantages=nothing, reference=old, penalties=nothing
    )
    _, metrics = policy_loss(tokens, Sequences.of(torch.arange(3)), PolicyLoss(importance=BOUNDED))
    found = (old.exp() * metrics["approx_kl"]).sum()
    torch.testing.assert_close(found, (old.exp() * (old - pi)).sum())


def test_a_bypassed_ratio_corrects_itself_and_the_mismatch_is_still_measured() -> None:
    pi, _, mu, advantages, index = rows(seed=6)
    tokens = PolicyTokens(
        logprobs=pi, entropy=torch.zeros_like(mu), old=torch.full_like(mu, torch.nan), engine=mu,
        advantages=advantages, reference=mu, penalties=torch.zeros_like(mu),
    )  # fmt: skip
    loss, metrics = policy_loss(tokens, Sequences.of(index), PolicyLoss(bypass=True, clip_low=0.99, clip_high=1e9))
    torch.testing.assert_close(loss, -(pi - mu).exp() * advantages)
    torch.testing.assert_close(metrics["mismatch_abs"], (pi.detach() - mu).abs())
    assert metrics["importance"].tolist() == [1.0] * len(mu)


def test_only_bad_answers_that_drifted_are_dropped() -> None:
    index = torch.tensor([0, 0, 1, 1, 2, 2])
    advantages = torch.tensor([-1.0, -1, -1, -1, 1, 1])
    log_ratio = torch.tensor([-1.0, -0.2, -0.1, -0.1, -3.0, -3.0])  # mean drifts 0.6, 0.1 and 3
    assert stale_mask(log_ratio, advantages, Sequences.of(index), 0.5).tolist() == [0, 0, 1, 1, 1, 1]
    assert stale_mask(log_ratio, advantages, Sequences.of(index), None).tolist() == [1] * 6


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_estimators_have_the_gradient_of_the_kl(estimator: Any) -> None:
    """In expectation over the vocabulary, at the policy that sampled, the gradient is the reverse KL's."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(7, generator=rng, dtype=torch.float64, requires_grad=True)
    reference = torch.log_softmax(torch.randn(7, generator=rng, dtype=torch.float64), -1)
    pi = torch.log_softmax(logits, -1)
    exact = torch.autograd.grad((pi.exp() * (pi - reference)).sum(), logits, retain_graph=True)[0]
    estimate = kl_estimate(pi, reference, pi - pi.detach(), estimator)
    got = torch.autograd.grad((pi.detach().exp() * estimate).sum(), logits)[0]
    torch.testing.assert_close(got, exact)


def test_the_plain_k3_has_another_gradient() -> None:
    """What GRPO's first form minimises isn't KL(pi || reference): why `k3` carries the ratio."""
    logits = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64, requires_grad=True)
    reference = torch.log_softmax(torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64), -1)
    pi = torch.log_softmax(logits, -1)
    exact = torch.autograd.grad((pi.exp() * (pi - reference)).sum(), logits, retain_graph=True)[0]
    estimate = kl_estimate(pi, reference, pi - pi.detach(), "k3_plain")
    got = torch.autograd.grad((pi.detach().exp() * estimate).sum(), logits)[0]
    assert (got - exact).abs().max() > 0.1


# ---------------------------------------------------------------- the cut


@pytest.mark.parametrize("aggregate", ["token", "sequence", "prompt", "constant"])
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_how_a_step_is_cut_changes_nothing(loaded: Any, surrogate: str, aggregate: str) -> None:
    samples = make_samples(8, seed=9)
    loss = PolicyLoss(surrogate=surrogate, entropy=0.01, importance=Importance(mode="sequence_tis"), drop_stale=0.1)
    whole, gradients = backward(loaded, cut(samples, 4096, aggregate), loss)
    pieces, others = backward(loaded, cut(samples, 48, aggregate), loss)
    assert whole == pytest.approx(pieces, rel=1e-5, abs=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, atol=1e-6, rtol=1e-4)


def test_token_advantages_add_to_the_sequences() -> None:
    sample = replace(make_samples(1)[0], advantage=2.0)
    own = np.arange(sample.tokens, dtype=np.float32)
    batch = cut([replace(sample, token_advantages=own)], 4096, "token")[0]
    assert batch.advantages.tolist() == [2.0 + t for t in np.flatnonzero(sample.loss_mask)]


def test_prompts_count_the_same_whatever_their_tokens() -> None:
    samples = make_samples(6)
    weights = token_weights(samples, "prompt")
    for group in range(3):
        assert sum(w.sum() for w, s in zip(weights, samples, strict=True) if s.group == group) == pytest.approx(1 / 3)
