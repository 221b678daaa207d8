"""Distillation's distances against what they are: sums over a vocabulary, TRL's loss, expectations over draws."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.configs.schema import Distill, LearnerCluster, Optimizer
from posttrain.errors import DataError, RunError
from posttrain.stages import distill
from posttrain.stages.learner.losses.divergences import (
    DivergenceKind,
    close_tail,
    divergence,
    sparse_cross_entropy,
    with_tail,
)
from posttrain.stages.learner.losses.losses import (
    PLACES,
    DivergenceLoss,
    PolicyLoss,
    PolicyTokens,
    by_place,
    policy_loss,
)
from posttrain.stages.learner.losses.surrogates import Sequences
from posttrain.stages.learner.rank import head as head_module
from posttrain.stages.learner.rank.frozen_models import head_weight
from posttrain.stages.learner.rank.guides import StoredGuide
from posttrain.stages.learner.rank.packing import pack, plan_micro_batches, token_weights
from posttrain.stages.models.model_files import ModelSpec
from posttrain.types import Prompt, Sample

from ..stand_ins import backward

KINDS = get_args(DivergenceKind)


def pair(seed: int, size: int = 9, rows: int = 4, spread: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    draw = [torch.randn(rows, size, generator=rng, dtype=torch.float64) * spread for _ in range(2)]
    return draw[0].requires_grad_(), torch.log_softmax(draw[1], -1)


def written_out(student: list[float], teacher: list[float], kind: str, beta: float) -> float:
    """The definitions, a term at a time."""

    def kl(left: list[float], right: list[float]) -> float:
        return sum(a * math.log(a / b) for a, b in zip(left, right, strict=True))

    def mix(share: float) -> list[float]:
        return [share * p + (1 - share) * q for p, q in zip(teacher, student, strict=True)]

    return {
        "forward_kl": lambda: kl(teacher, student),
        "reverse_kl": lambda: kl(student, teacher),
        "jsd": lambda: beta * kl(teacher, mix(beta)) + (1 - beta) * kl(student, mix(beta)),
        "skew_forward_kl": lambda: kl(teacher, mix(beta)),
        "skew_reverse_kl": lambda: kl(student, mix(1 - beta)),
    }[kind]()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_divergences_are_their_definitions(kind: str, beta: float) -> None:
    logits, teacher = pair(1)
    student = torch.log_softmax(logits, -1)
    got = divergence(student, teacher, kind, beta)
    for row in range(4):
        expected = written_out(student[row].exp().tolist(), teacher[row].exp().tolist(), kind, beta)
        assert got[row].item() == pytest.approx(expected)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_jsd_equals_trls(beta: float) -> None:
    """TRL's GKD loss, whose ends are the two KLs."""
    from trl.experimental.gkd import GKDTrainer

    logits, teacher = pair(2)
    kind = {0.0: "forward_kl", 1.0: "reverse_kl"}.get(beta, "jsd")
    got = divergence(torch.log_softmax(logits, -1), teacher, kind, beta or 0.5).mean()
    expected = GKDTrainer.generalized_jsd_loss(logits[None], teacher[None], beta=beta, reduction="sum") / 4
    assert got.item() == pytest.approx(expected.item())
    (ours,) = torch.autograd.grad(got, logits, retain_graph=True)
    (theirs,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(ours, theirs)


@given(st.integers(0, 10_000), st.integers(1, 7), st.sampled_from(KINDS), st.sampled_from(["teacher", "student"]))
@settings(max_examples=150, deadline=None)
def test_a_bucket_for_the_rest_never_exceeds_the_whole(seed: int, k: int, kind: str, support: str) -> None:
    logits, teacher = pair(seed)
    student = torch.log_softmax(logits.detach(), -1)
    ids = (teacher if support == "teacher" else student).topk(k, -1).indices
    whole = divergence(student, teacher, kind, 0.3)
    coarse = divergence(with_tail(student, ids), with_tail(teacher, ids), kind, 0.3)
    assert (coarse <= whole + 1e-9).all()
    assert (coarse >= -1e-9).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_bucket_over_all_ids_but_one_is_the_whole(kind: str) -> None:
    logits, teacher = pair(3)
    student = torch.log_softmax(logits, -1)
    ids = teacher.topk(8, -1).indices
    torch.testing.assert_close(
        divergence(with_tail(student, ids), with_tail(teacher, ids), kind, 0.4), divergence(student, teacher, kind, 0.4)
    )


def test_the_tail_is_what_is_left() -> None:
    _, teacher = pair(4)
    ids = torch.tensor([[0, 3], [1, 2], [5, 6], [7, 8]])
    closed = with_tail(teacher, ids)
    torch.testing.assert_close(closed.exp().sum(-1), torch.ones(4, dtype=torch.float64))
    assert closed[0, -1].exp().item() == pytest.approx(1 - teacher[0, [0, 3]].exp().sum().item())


def test_a_selection_with_all_the_mass_has_a_finite_tail_and_gradient() -> None:
    chosen = torch.tensor([[0.0, -40.0]], requires_grad=True)
    closed = close_tail(chosen)
    closed.sum().backward()
    assert torch.isfinite(closed).all()
    assert torch.isfinite(chosen.grad).all()  # type: ignore[arg-type]


# ---------------------------------------------------------------- draws


def test_drawn_targets_have_the_full_gradient_in_expectation() -> None:
    """RS-KD: over all sequences of two draws from a vocabulary of four, each with its probability, exactly."""
    logits, teacher = pair(5, size=4, rows=1)
    student = torch.log_softmax(logits, -1)
    (full,) = torch.autograd.grad(divergence(student, teacher, "forward_kl").sum(), logits, retain_graph=True)
    mean = torch.zeros_like(full)
    p = teacher.exp()[0].tolist()
    for first, second in itertools.product(range(4), repeat=2):
        ids, shares = torch.tensor([[first, second]]), torch.tensor([[0.5, 0.5]], dtype=torch.float64)
        loss = sparse_cross_entropy(student, ids, shares).sum()
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        mean += p[first] * p[second] * gradient
    torch.testing.assert_close(mean, full)


def test_a_student_that_is_its_teacher_is_left_alone_only_with_the_bucket() -> None:
    """Why it is there: without the rest, the optimum is p / (mass of the k), which is over-confident."""
    _, teacher = pair(6, rows=1)
    logits = teacher.clone().requires_grad_()
    student = torch.log_softmax(logits, -1)
    ids = teacher.topk(2, -1).indices
    closed = divergence(with_tail(student, ids), with_tail(teacher, ids), "forward_kl").sum()
    (bucket,) = torch.autograd.grad(closed, logits, retain_graph=True)
    assert bucket.abs().max() < 1e-12
    kept = (teacher.gather(-1, ids).exp() * (teacher.gather(-1, ids) - student.gather(-1, ids))).sum()
    (biased,) = torch.autograd.grad(kept, logits)
    assert biased.abs().max() > 1e-2


def test_sampled_tokens_have_the_reverse_kls_gradient_in_expectation() -> None:
    """The policy loss with A = log p - log q, over the vocabulary, each token with its q."""
    logits, teacher = pair(7, rows=1)
    student = torch.log_softmax(logits, -1)
    (full,) = torch.autograd.grad(divergence(student, teacher, "reverse_kl").sum(), logits, retain_graph=True)
    q, nothing = student.detach()[0].exp(), torch.zeros(9, dtype=torch.float64)
    tokens = PolicyTokens(
        logprobs=student[0], entropy=nothing, old=nothing * torch.nan, engine=student[0].detach(), reference=nothing,
        penalties=nothing, advantages=(teacher - student)[0].detach(),
    )  # fmt: skip
    loss, _ = policy_loss(tokens, Sequences.of(torch.arange(9)), PolicyLoss())
    (got,) = torch.autograd.grad((q * loss).sum(), logits)
    torch.testing.assert_close(got, full)


@pytest.mark.parametrize("kind", KINDS)
def test_stored_log_probabilities_of_different_widths_equal_each_alone(kind: str) -> None:
    logits, teacher = pair(8)
    ids = teacher.topk(5, -1).indices
    values = teacher.gather(-1, ids).clone()
    values[0, 3:] = -torch.inf  # this token kept three
    guide = StoredGuide(ids=ids, values=values, kind=kind, beta=0.3, drawn=False)
    distance, *_ = guide.compare(logits, ids[:, 0], ids, values)
    student = torch.log_softmax(logits, -1)
    for row, k in ((0, 3), (1, 5)):
        mine = ids[row : row + 1, :k]
        expected = divergence(
            with_tail(student[row : row + 1], mine), with_tail(teacher[row : row + 1], mine), kind, 0.3
        )
        assert distance[row].item() == pytest.approx(expected.item(), rel=1e-6)
    distance.sum().backward()
    assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]


# ---------------------------------------------------------------- through the learner


@pytest.fixture(scope="module")
def loaded(learner_worker: Any, random_model: Path) -> Any:
    learner_worker.settings = LearnerCluster(zero=0)
    learner_worker.load(ModelSpec(path=str(random_model)), Optimizer(clip_norm=1e9), 0)
    learner_worker.load_frozen(ModelSpec(path=str(random_model), layers=(1,)), "teacher0")
    return learner_worker


def make_samples(count: int = 5, teacher: int = 0) -> list[Sample]:
    rng = np.random.default_rng(1)
    made = []
    for _ in range(count):
        length = int(rng.integers(8, 40))
        mask = np.zeros(length, np.float32)
        mask[3:] = 1
        made.append(Sample(ids=rng.integers(10, 400, length), loss_mask=mask, teacher=teacher))
    return made


def passed(
    worker: Any, samples: list[Sample], loss: DivergenceLoss, remote: bool = False
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients; `remote`: with the teacher's states given, as another process would send them."""
    weights = token_weights(samples, "token")
    packed = [pack(samples, weights, b) for b in plan_micro_batches(samples, 1, 4096)[0]]
    return backward(worker, packed, loss, [worker.frozen.states("teacher0", b) for b in packed] if remote else None)


def assert_same(got: tuple[float, dict[str, Any]], expected: tuple[float, dict[str, Any]]) -> None:
    assert got[0] == pytest.approx(expected[0], rel=1e-5)
    for name, gradient in expected[1].items():
        torch.testing.assert_close(got[1][name], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top_k", [0, 8])
def test_chunks_equal_the_naive_computation(
    loaded: Any, random_model: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, top_k: int
) -> None:
    """Forward and backward, against one tensor [tokens, vocabulary] and plain transformers."""
    from transformers import AutoModelForCausalLM

    from posttrain.stages.models.model_files import keep_layers

    samples = make_samples()
    monkeypatch.setattr(head_module, "CHUNK_ELEMENTS", 7 * loaded.policy.vocabulary)
    got = passed(loaded, samples, DivergenceLoss(kind=kind, beta=0.3, top_k=top_k))
    student, teacher = (AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float32) for _ in range(2))
    keep_layers(teacher, (1,))
    total, targets = torch.zeros(()), 0
    for s in samples:
        ids = torch.from_numpy(s.ids)[None]
        q = student(input_ids=ids).logits[0, 2:-1].log_softmax(-1)
        with torch.no_grad():
            p = teacher(input_ids=ids).logits[0, 2:-1].log_softmax(-1)
        if top_k:
            chosen = p.topk(top_k, -1).indices
            q, p = with_tail(q, chosen), with_tail(p, chosen)
        total = total + divergence(q, p, kind, 0.3).sum()
        targets += len(q)
    (total / targets).backward()
    naive = {n: p.grad for n, p in student.named_parameters()}
    assert_same(got, (total.item() / targets, naive))


def test_states_from_elsewhere_equal_a_teacher_that_stands_here(loaded: Any, random_model: Path) -> None:
    """The head alone, read from the checkpoint, and the states that another process would send."""
    loaded.load_frozen(ModelSpec(path=str(random_model)), "teacher0", head=True)
    samples, loss = make_samples(), DivergenceLoss()
    assert_same(passed(loaded, samples, loss, remote=True), passed(loaded, samples, loss))


def test_a_head_is_read_alone(random_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float32)
    torch.testing.assert_close(head_weight(ModelSpec(path=str(random_model))), model.get_output_embeddings().weight)
    with pytest.raises(RunError, match="random teacher"):
        head_weight(ModelSpec(path=str(random_model), scratch={}))


def test_stored_targets_equal_the_teacher_they_came_from(loaded: Any) -> None:
    """All ids but one, stored: the same divergence and gradient as with the teacher beside the student."""
    samples = make_samples(3)
    stored = []
    for s in samples:
        states = loaded.frozen.states("teacher0", pack([s], [s.loss_mask], [0]))
        with torch.no_grad():
            logits = loaded.frozen.get("teacher0").logits(states).log_softmax(-1)
        top = logits.topk(logits.shape[-1] - 1, -1)
        ids = np.zeros((s.tokens, top.indices.shape[1]), np.int32)
        values = np.zeros((s.tokens, top.indices.shape[1]), np.float32)
        ids[s.loss_mask > 0], values[s.loss_mask > 0] = top.indices.numpy(), top.values.numpy()
        stored.append(replace(s, teacher_ids=ids, teacher_values=values))
    for kind in ("forward_kl", "reverse_kl"):
        loss = DivergenceLoss(kind=kind)  # type: ignore[arg-type]
        assert_same(passed(loaded, stored, loss), passed(loaded, samples, loss))


def test_two_teachers_in_one_step_are_kept_apart(loaded: Any, random_model: Path) -> None:
    """The student itself as the second teacher: only the first one's rows have a distance."""
    loaded.load_frozen(ModelSpec(path=str(random_model)), "teacher1")
    weights = token_weights(make_samples(2), "token")
    for number, expected in ((0, False), (1, True)):
        batch = pack(make_samples(2, teacher=number), weights, [0, 1])
        value, _ = loaded._loss(batch, DivergenceLoss())
        assert (value.item() < 1e-6) == expected


# ---------------------------------------------------------------- what a step reports


def test_places_count_from_the_completions_start() -> None:
    samples = torch.tensor([4] * 20 + [9] * 3)
    values = {"divergence": torch.arange(23.0), "agreement": torch.ones(23)}
    found = by_place(values, samples)
    assert [found[f"targets_at/{s}"].sum().item() for s in PLACES] == [19, 4, 0, 0, 0]
    assert found["divergence_at/16"].sum().item() == 16 + 17 + 18 + 19
    means = distill.in_places({"loss": 1.0, **{k: float(v.mean()) for k, v in found.items()}})
    assert means["divergence_at/16"] == pytest.approx(17.5)
    assert "divergence_at/64" not in means
    assert means["loss"] == 1.0


def test_rising_truncation_is_told_once() -> None:
    said: list[str] = []
    context: Any = SimpleNamespace(name="kd", say=said.append)
    watch = distill.Truncation(limit=0.2)
    found = [watch.after(context, share, i) for i, share in enumerate([0.1] * 10 + [0.5] * 8)]
    assert found[9] == {}
    assert [f["truncation_alarm"] for f in found[10:]] == [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert len(said) == 1


def spec(**fields: Any) -> Distill:
    return Distill.model_validate({"kind": "distill", "model": "s", "teacher": "t", "prompts": "x", **fields})


def test_rows_choose_their_teacher() -> None:
    node = spec(teacher=[{"from": "a", "when": {"task": "math"}}, {"from": "b", "when": {"domain": ["x", "y"]}}])
    prompts = [Prompt(id="1", messages=(), task="math"), Prompt(id="2", messages=(), domain="y")]
    assert distill.choose_teachers(node, prompts) == {"1": 0, "2": 1}
    with pytest.raises(DataError, match="prompt 3 has no teacher"):
        distill.choose_teachers(node, [*prompts, Prompt(id="3", messages=())])
