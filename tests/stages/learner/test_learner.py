"""The learner against oracles: transformers' loss, TRL's loss and gradients, one document at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.configs.schema import LearnerCluster, Optimizer
from posttrain.stages.learner.losses.losses import CrossEntropy, DivergenceLoss
from posttrain.stages.learner.rank import attention
from posttrain.stages.learner.rank import head as head_module
from posttrain.stages.learner.rank.packing import PackedBatch, pack, plan_micro_batches, token_weights
from posttrain.stages.models.model_files import ModelSpec
from posttrain.types import Sample

from ..stand_ins import backward


@pytest.fixture(scope="module")
def worker(learner_worker: Any) -> Any:
    learner_worker.settings = LearnerCluster(zero=0)
    return learner_worker


@pytest.fixture
def loaded(worker: Any, random_model: Path) -> Any:
    worker.load(ModelSpec(path=str(random_model)), Optimizer(clip_norm=1e9), 0)
    return worker


def make_samples(count: int = 7, seed: int = 0) -> list[Sample]:
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(count):
        length = int(rng.integers(6, 40))
        mask = np.zeros(length, np.float32)
        mask[int(rng.integers(1, length - 1)) :] = 1
        samples.append(
            Sample(
                ids=rng.integers(10, 400, length),
                loss_mask=mask,
                advantage=float(rng.normal()),
                old_logprobs=(-rng.random(length) * 6).astype(np.float32),
                reference_logprobs=(-rng.random(length) * 6).astype(np.float32),
            )
        )
    return samples


def batches(samples: list[Sample], budget: int, aggregate: str = "token") -> list[PackedBatch]:
    weights = token_weights(samples, aggregate)
    return [pack(samples, weights, b) for b in plan_micro_batches(samples, 1, budget)[0]]


def test_packed_sft_loss_equals_transformers_loss(loaded: Any, random_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    samples = make_samples()
    model = AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float32)
    total, targets = 0.0, 0
    for s in samples:
        labels = torch.from_numpy(np.where(s.loss_mask > 0, s.ids, -100))[None]
        n = int(s.loss_mask.sum())
        total += model(input_ids=torch.from_numpy(s.ids)[None], labels=labels).loss.item() * n
        targets += n
    value, _ = backward(loaded, batches(samples, 4096), CrossEntropy())
    assert value == pytest.approx(total / targets, abs=1e-5)


def test_how_a_step_is_cut_changes_neither_loss_nor_gradient(loaded: Any) -> None:
    samples = make_samples()
    whole, expected = backward(loaded, batches(samples, 4096), CrossEntropy())
    cut, got = backward(loaded, batches(samples, 41), CrossEntropy())
    assert cut == pytest.approx(whole, abs=1e-5)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-5, rtol=1e-4)


def shared_prompts(groups: int = 3, size: int = 4, targets_from: int = 0) -> list[Sample]:
    """Groups of samples with a prompt in common, in one case with a stretch that is no target between two turns."""
    rng = np.random.default_rng(5)
    samples = []
    for _ in range(groups):
        prompt = rng.integers(10, 400, int(rng.integers(9, 30)))
        for _ in range(size):
            own = rng.integers(10, 400, int(rng.integers(4, 25)))
            mask = np.concatenate([np.zeros(len(prompt)), np.ones(len(own))]).astype(np.float32)
            mask[len(prompt) + 1 : len(prompt) + 1 + targets_from] = 0
            samples.append(Sample(ids=np.concatenate([prompt, own]), loss_mask=mask))
    return samples


@pytest.mark.parametrize("gap", [0, 2])
def test_sharing_a_prompt_changes_neither_loss_nor_gradient(loaded: Any, gap: int) -> None:
    samples = shared_prompts(targets_from=gap)
    weights = token_weights(samples, "token")
    alone, expected = backward(loaded, [pack(samples, weights, [i]) for i in range(len(samples))], CrossEntropy())
    row = pack(samples, weights, list(range(len(samples))))
    assert len(row.ids) < sum(row.lengths)
    together, got = backward(loaded, [row], CrossEntropy())
    assert together == pytest.approx(alone, abs=1e-5)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-5, rtol=1e-4)


def test_documents_in_several_parts_change_nothing(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = shared_prompts()
    row = [pack(samples, token_weights(samples, "token"), list(range(len(samples))))]
    whole, expected = backward(loaded, row, CrossEntropy())
    monkeypatch.setattr(attention, "PART", 5)
    assert len(attention.Layout.of(row[0], torch.device("cpu")).parts) == 3
    cut, got = backward(loaded, row, CrossEntropy())
    assert cut == pytest.approx(whole, abs=1e-5)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("shared", [True, False])
def test_the_kernel_for_gpus_sees_the_same_documents(shared: bool) -> None:
    samples = shared_prompts() if shared else make_samples()
    row = pack(samples, token_weights(samples, "token"), list(range(len(samples))))
    layout = attention.Layout.of(row, torch.device("cuda"))
    assert (layout.rows is not None) == shared
    parts = torch.randn(3, 1, len(row.ids), 4, 32, device="cuda").transpose(2, 3)
    query, key, value = (p.bfloat16().requires_grad_() for p in parts)
    plain = [p.detach().float().requires_grad_() for p in (query, key, value)]
    fast, _ = attention.packed_attention(None, query, key[:, :2], value[:, :2], None, layout=layout)  # type: ignore[arg-type]
    slow, _ = attention.packed_attention(None, plain[0], plain[1][:, :2], plain[2][:, :2], None, layout=layout)  # type: ignore[arg-type]
    torch.testing.assert_close(fast.float(), slow, atol=0.03, rtol=0.03)
    direction = torch.randn_like(slow)
    (fast.float() * direction).sum().backward()
    (slow * direction).sum().backward()
    for mine, exact in zip((query, key, value), plain, strict=True):
        assert mine.grad is not None
        assert exact.grad is not None
        torch.testing.assert_close(mine.grad.float(), exact.grad, atol=0.2, rtol=0.05)


def test_head_chunks_change_nothing(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = batches(make_samples(), 4096)
    whole, expected = backward(loaded, packed, CrossEntropy())
    monkeypatch.setattr(head_module, "CHUNK_ELEMENTS", 476 * 5)
    assert loaded._chunks(packed[0], CrossEntropy()) > 3
    chunked, got = backward(loaded, packed, CrossEntropy())
    assert chunked == pytest.approx(whole, abs=1e-5)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-5, rtol=1e-4)


def test_another_document_in_the_row_moves_nothing(loaded: Any) -> None:
    samples = make_samples(3)
    other = Sample(ids=(samples[0].ids + 37) % 400 + 10, loss_mask=samples[0].loss_mask)
    changed = [other, *samples[1:]]

    def logprobs(chosen: list[Sample]) -> np.ndarray:
        batch = pack(chosen, [s.loss_mask for s in chosen], [0, 1, 2])
        return loaded.logprobs([batch], 1.0)[0][batch.samples > 0]

    np.testing.assert_allclose(logprobs(samples), logprobs(changed), atol=1e-6)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_a_teacher_that_is_its_own_student_gives_no_loss(loaded: Any, random_model: Path, kind: Any) -> None:
    loaded.load_frozen(ModelSpec(path=str(random_model)), "teacher0")
    value, grads = backward(loaded, batches(make_samples(), 4096), DivergenceLoss(kind=kind))
    assert value == pytest.approx(0.0, abs=1e-6)
    assert max(g.abs().max().item() for g in grads.values()) < 1e-5


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_divergence_equals_the_written_out_sum(kind: Any) -> None:
    from posttrain.stages.learner.losses.divergences import divergence

    generator = torch.Generator().manual_seed(0)
    student = torch.randn(5, 11, generator=generator, dtype=torch.double).log_softmax(-1)
    teacher = torch.randn(5, 11, generator=generator, dtype=torch.double).log_softmax(-1)
    expected = []
    for q, p in zip(student.exp().tolist(), teacher.exp().tolist(), strict=True):
        m = [0.3 * a + 0.7 * b for a, b in zip(p, q, strict=True)]
        forward = sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))
        reverse = sum(b * np.log(b / a) for a, b in zip(p, q, strict=True))
        to_p = sum(a * np.log(a / c) for a, c in zip(p, m, strict=True))
        to_q = sum(b * np.log(b / c) for b, c in zip(q, m, strict=True))
        expected.append({"forward_kl": forward, "reverse_kl": reverse, "jsd": 0.3 * to_p + 0.7 * to_q}[kind])
    got = divergence(student, teacher, kind, 0.3).tolist()
    assert got == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_moves_no_weight_and_leaves_no_trace(
    loaded: Any, random_model: Path, weight: float
) -> None:
    before = {n: p.clone() for n, p in loaded.policy.model.named_parameters()}
    samples = make_samples()
    bad = [Sample(ids=samples[0].ids, loss_mask=samples[0].loss_mask, weight=weight), *samples[1:]]
    found = loaded.step(batches(bad, 64), CrossEntropy(), 1e-3)
    assert not np.isfinite(found["grad_norm"])
    for name, parameter in loaded.policy.model.named_parameters():
        assert torch.equal(parameter, before[name])
    loaded.step(batches(samples, 64), CrossEntropy(), 1e-3)
    after = {n: p.clone() for n, p in loaded.policy.model.named_parameters()}
    loaded.load(ModelSpec(path=str(random_model)), Optimizer(clip_norm=1e9), 0)
    loaded.step(batches(samples, 64), CrossEntropy(), 1e-3)
    for name, parameter in loaded.policy.model.named_parameters():
        assert torch.equal(parameter, after[name])


def test_a_restored_engine_goes_on_bit_for_bit(loaded: Any, tmp_path: Path) -> None:
    packed = batches(make_samples(), 4096)
    loaded.step(packed, CrossEntropy(), 1e-3)
    loaded.save(str(tmp_path))
    loaded.step(packed, CrossEntropy(), 1e-3)
    expected = loaded.weights()
    loaded.restore(str(tmp_path))
    loaded.step(packed, CrossEntropy(), 1e-3)
    for name, value in loaded.weights().items():
        assert np.array_equal(value, expected[name]), name


def test_lora_trains_only_adapters_and_exports_merged_weights(worker: Any, random_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from posttrain.configs.schema import Lora

    worker.load(ModelSpec(path=str(random_model), lora=Lora(rank=4)), Optimizer(), 0)
    packed = batches(make_samples(), 4096)
    before = worker.logprobs(packed, 1.0)[0]
    for _ in range(3):
        worker.step(packed, CrossEntropy(), 1e-2)
    after = worker.logprobs(packed, 1.0)[0]
    assert np.abs(after - before).max() > 1e-2
    worker.export(str(tmp_path), str(random_model), "float32")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert not any("lora" in name for name, _ in plain.named_parameters())
    worker.load(ModelSpec(path=str(tmp_path)), None, 0)
    np.testing.assert_allclose(worker.logprobs(packed, 1.0)[0], after, atol=1e-4)


def test_reading_merged_weights_moves_no_bit_of_the_base(worker: Any, random_model: Path) -> None:
    from posttrain.configs.schema import Lora

    worker.load(ModelSpec(path=str(random_model), lora=Lora(rank=4)), Optimizer(), 0)
    worker.step(batches(make_samples(), 4096), CrossEntropy(), 1e-2)
    base = {n: p.detach().clone() for n, p in worker.policy.model.named_parameters()}
    first = worker.weights()
    for _ in range(5):
        again = worker.weights()
    assert all(torch.equal(p, base[n]) for n, p in worker.policy.model.named_parameters())
    assert all(np.array_equal(again[name], value) for name, value in first.items())


def test_a_pruned_student_keeps_the_layers_it_was_told(worker: Any, random_model: Path) -> None:
    worker.load(ModelSpec(path=str(random_model), layers=(1,)), None, 0)
    assert len(worker.policy.model.model.layers) == 1
    worker.logprobs(batches(make_samples(2), 4096), 1.0)
