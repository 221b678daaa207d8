"""ZeRO 0 to 3 on one rank and on two: how the model is cut over processes changes no loss and no weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.configs.schema import Cluster, LearnerCluster, Lora, Optimizer, TeacherCluster
from posttrain.stages.learner.distributions import DistributionForm
from posttrain.stages.learner.losses.losses import CrossEntropy, DivergenceLoss, Loss, PolicyLoss
from posttrain.stages.learner.losses.off_policy import Importance
from posttrain.stages.models.model_files import ModelSpec
from posttrain.types import Sample

MICRO_TOKENS = 80  # the samples below need several micro-batches a rank
HEAD_ROWS = 7  # and these several head calls a micro-batch
OPTIMIZER = Optimizer(lr=1e-3, clip_norm=0.5, weight_decay=0.01)
LOSSES: dict[str, Loss] = {
    "sft": CrossEntropy(),
    "grpo": PolicyLoss(kl=0.1, temperature=0.8),
    "gspo": PolicyLoss(surrogate="gspo", entropy=0.01, importance=Importance(mode="sequence_tis", cap=3.0)),
}
SETTINGS = [(ranks, zero) for ranks in (1, 2) for zero in (0, 1, 2, 3)][1:]  # all but the one they are compared with

Result = tuple[list[dict[str, float]], dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def learners(ray_session: None) -> Iterator[dict[int, Any]]:
    """A learner of one rank and one of two; tests change the ZeRO stage inside."""
    import ray

    from posttrain.stages.actors.gpus import Gpus
    from posttrain.stages.learner.ranks import Learner

    clusters = [Cluster(learner=LearnerCluster(workers=ranks, zero=0, threads=1)) for ranks in (1, 2)]
    made = {cluster.learner.workers: Learner(cluster, Gpus(cluster)) for cluster in clusters}
    for learner in made.values():
        ray.get([actor.__ray_call__.remote(small_chunks(HEAD_ROWS)) for actor in learner.actors], timeout=120)
    yield made
    for learner in made.values():
        learner.close()


def small_chunks(rows: int) -> Callable[[Any], None]:
    """Makes an actor compute its head `rows` targets at a time."""

    def patch(worker: Any) -> None:
        from posttrain.stages.learner.rank import head

        head.CHUNK_ELEMENTS = rows * 476

    return patch


def make_samples(lengths: tuple[int, ...]) -> list[Sample]:
    rng = np.random.default_rng(3)
    samples = []
    for index, length in enumerate(lengths):
        mask = np.zeros(length, np.float32)
        mask[max(1, length // 3) :] = 1
        samples.append(
            Sample(
                ids=rng.integers(10, 400, length),
                loss_mask=mask,
                advantage=float(rng.normal()),
                old_logprobs=(-rng.random(length) * 6).astype(np.float32),
                engine_logprobs=(-rng.random(length) * 6).astype(np.float32),
                reference_logprobs=(-rng.random(length) * 6).astype(np.float32),
                group=index,
            )
        )
    return samples


STEPS = [
    make_samples((70, 3, 12, 25, 40, 9, 66, 31)),  # several micro-batches a rank, of very different lengths
    make_samples((50,)),  # fewer samples than ranks: one rank has only a filler
    make_samples((78, 2, 2)),  # one rank needs many head calls, the other one
]


def train(learner: Any, spec: ModelSpec, zero: int, loss: Loss) -> Result:
    """Three steps from `spec`; their metrics and the weights they end in."""
    import ray

    learner.load(spec, OPTIMIZER, total_steps=len(STEPS), zero=zero)
    if isinstance(loss, DivergenceLoss):
        learner.load_frozen(ModelSpec(path=spec.path, layers=(1,)), "teacher0")
    metrics = [learner.step(samples, loss, step=step, micro_tokens=MICRO_TOKENS) for step, samples in enumerate(STEPS)]
    return metrics, ray.get(learner.weights(), timeout=60)


def assert_same(got: Result, expected: Result) -> None:
    for ours, theirs in zip(got[0], expected[0], strict=True):
        assert ours == pytest.approx(theirs, abs=2e-5, rel=2e-4)
    assert set(got[1]) == set(expected[1])
    for name, weight in expected[1].items():
        np.testing.assert_allclose(got[1][name], weight, atol=2e-5, err_msg=name)


@pytest.fixture(scope="module")
def one_rank(learners: dict[int, Any], random_model: Path) -> dict[str, Result]:
    """What one rank without ZeRO does: what all others must do."""
    spec = ModelSpec(path=str(random_model))
    losses = {**LOSSES, "distill": DivergenceLoss(kind="reverse_kl")}
    return {name: train(learners[1], spec, 0, loss) for name, loss in losses.items()}


def test_the_steps_move_the_weights(one_rank: dict[str, Result], learners: dict[int, Any], random_model: Path) -> None:
    import ray

    learners[1].load(ModelSpec(path=str(random_model)), OPTIMIZER)
    start = ray.get(learners[1].weights(), timeout=60)
    for _, weights in one_rank.values():
        assert all(np.abs(weights[name] - value).max() > 1e-4 for name, value in start.items())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("ranks", "zero"), SETTINGS)
def test_every_cut_gives_the_same_losses_and_weights(
    learners: dict[int, Any], random_model: Path, one_rank: dict[str, Result], ranks: int, zero: int, name: str
) -> None:
    got = train(learners[ranks], ModelSpec(path=str(random_model)), zero, LOSSES[name])
    assert_same(got, one_rank[name])


@pytest.fixture
def dtype(request: pytest.FixtureRequest, learners: dict[int, Any]) -> Iterator[str]:
    """Of the learner of two ranks, for a test."""
    import ray

    def say(name: str) -> None:
        settings = LearnerCluster(workers=2, zero=0, threads=1, dtype=name)  # type: ignore[arg-type]

        def patch(worker: Any) -> None:
            worker.settings = settings

        ray.get([actor.__ray_call__.remote(patch) for actor in learners[2].actors], timeout=60)

    say(request.param)
    yield request.param
    say("float32")


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"], indirect=True)
def test_what_is_not_finite_on_one_rank_moves_no_weight_on_any(
    learners: dict[int, Any], random_model: Path, zero: int, dtype: str
) -> None:
    import ray

    learner, spec = learners[2], ModelSpec(path=str(random_model))
    learner.load(spec, OPTIMIZER, total_steps=2, zero=zero)
    before = ray.get(learner.weights(), timeout=60)
    bad = [replace(STEPS[0][0], advantage=float("nan")), *STEPS[0][1:]]
    found = learner.step(bad, PolicyLoss(), step=0, micro_tokens=MICRO_TOKENS)
    assert found["skipped_step"] == 1.0
    after = ray.get(learner.weights(), timeout=60)
    assert all(np.array_equal(after[name], value) for name, value in before.items())
    good = learner.step(STEPS[0], PolicyLoss(), step=0, micro_tokens=MICRO_TOKENS)
    assert good["skipped_step"] == 0.0
    got = ray.get(learner.weights(), timeout=60)
    learner.load(spec, OPTIMIZER, total_steps=2, zero=zero)
    learner.step(STEPS[0], PolicyLoss(), step=0, micro_tokens=MICRO_TOKENS)
    expected = ray.get(learner.weights(), timeout=60)
    assert all(np.array_equal(got[name], value) for name, value in expected.items())


@pytest.mark.parametrize("zero", [0, 3])
@pytest.mark.parametrize("dtype", ["bfloat16"], indirect=True)
def test_many_passes_add_up(learners: dict[int, Any], random_model: Path, zero: int, dtype: str) -> None:
    """In bfloat16 a sum stands still from the 257th equal gradient on."""
    sample, norms = make_samples((40,))[0], list[float]()
    for count in (1, 400):  # on each of two ranks
        learners[2].load(ModelSpec(path=str(random_model)), OPTIMIZER, total_steps=1, zero=zero)
        found = learners[2].step([sample] * 2 * count, CrossEntropy(), step=0, micro_tokens=40)
        norms.append(found["grad_norm"])
    assert norms[1] == pytest.approx(norms[0], rel=1e-2)


@pytest.mark.parametrize("zero", [2, 3])
def test_a_refreshed_reference_is_the_policy_and_survives_a_checkpoint(
    learners: dict[int, Any], random_model: Path, tmp_path: Path, zero: int
) -> None:
    learner, spec = learners[2], ModelSpec(path=str(random_model))
    learner.load(spec, OPTIMIZER, total_steps=2, zero=zero)
    learner.load_frozen(spec, "reference")

    def distance() -> float:
        own = learner.logprobs(STEPS[0], micro_tokens=MICRO_TOKENS)
        reference = learner.logprobs(STEPS[0], micro_tokens=MICRO_TOKENS, frozen="reference")
        return float(max(np.abs(a - b).max() for a, b in zip(own, reference, strict=True)))

    learner.step(STEPS[0], CrossEntropy(), step=0, micro_tokens=MICRO_TOKENS)
    assert distance() > 1e-3
    learner.refresh("reference")
    assert distance() < 1e-5
    learner.save_frozen("reference", tmp_path / "r.safetensors")
    learner.load_frozen(spec, "reference")
    assert distance() > 1e-3
    learner.restore_frozen("reference", tmp_path / "r.safetensors")
    assert distance() < 1e-5


def test_distillation_under_zero_3_equals_one_rank(
    learners: dict[int, Any], random_model: Path, one_rank: dict[str, Result]
) -> None:
    got = train(learners[2], ModelSpec(path=str(random_model)), 3, DivergenceLoss(kind="reverse_kl"))
    assert got[0][0]["divergence"] > 0.01
    assert_same(got, one_rank["distill"])


def test_a_teacher_in_an_actor_of_its_own_equals_one_beside_the_learner(
    learners: dict[int, Any], random_model: Path, one_rank: dict[str, Result]
) -> None:
    """Hidden states over Ray, heads in the learner, two ranks, ZeRO-3."""
    import ray

    from posttrain.stages.actors.gpus import Gpus
    from posttrain.stages.learner.teachers import TeacherPool

    cluster = Cluster(teacher=TeacherCluster(workers=1, threads=1))
    pool = TeacherPool(cluster, Gpus(cluster))
    try:
        learner, teacher = learners[2], ModelSpec(path=str(random_model), layers=(1,))
        learner.load(ModelSpec(path=str(random_model)), OPTIMIZER, total_steps=len(STEPS), zero=3)
        learner.load_frozen(teacher, "teacher0", head=True)
        pool.load([teacher])
        loss = DivergenceLoss(kind="reverse_kl")
        metrics = [
            learner.step(samples, loss, step=step, micro_tokens=MICRO_TOKENS, teachers=pool)
            for step, samples in enumerate(STEPS)
        ]
        assert_same((metrics, ray.get(learner.weights(), timeout=60)), one_rank["distill"])
    finally:
        pool.close()


def test_a_sharded_head_is_whole_where_it_is_used(learners: dict[int, Any]) -> None:
    """Five rows on two ranks: three each, one of them filling up."""
    import ray

    def probe(_: Any) -> tuple[tuple[int, ...], Any, Any]:
        import torch

        from posttrain.stages.learner.rank.frozen_models import Head

        weight, states = torch.arange(15.0).view(5, 3), torch.tensor([[1.0, -2.0, 0.5]])
        head = Head(weight, sharded=True)
        return tuple(head.weight.shape), head(states).numpy(), (states @ weight.T).numpy()

    for kept, got, expected in ray.get([a.__ray_call__.remote(probe) for a in learners[2].actors], timeout=60):
        assert kept == (3, 3)
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("kind", ["top_k", "draws"])
def test_stored_targets_are_the_teachers_whatever_the_ranks(
    learners: dict[int, Any], random_model: Path, kind: Any
) -> None:
    """Top ids and their log-probabilities are those of a plain forward pass; drawn ones follow its distribution."""
    import torch
    from transformers import AutoModelForCausalLM

    learner = learners[2]
    learner.free()
    learner.load_frozen(ModelSpec(path=str(random_model)), "teacher0")
    form = DistributionForm(kind=kind, count=5 if kind == "top_k" else 60)
    told = learner.with_targets(STEPS[0], form, frozen="teacher0", micro_tokens=MICRO_TOKENS, seed=3)
    model = AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float32)
    likely, count = 0.0, 0
    for got, sample in zip(told, STEPS[0], strict=True):
        targets = np.flatnonzero(sample.loss_mask)
        with torch.no_grad():
            logprobs = model(torch.from_numpy(sample.ids)[None]).logits[0].log_softmax(-1)[targets - 1]
        assert got.teacher_ids is not None
        assert got.teacher_values is not None
        if kind == "top_k":
            expected = logprobs.topk(5, -1)
            np.testing.assert_allclose(got.teacher_values[targets], expected.values.numpy(), atol=1e-4)
        else:
            shares = np.maximum(got.teacher_values[targets], 0)
            np.testing.assert_allclose(shares.sum(1), 1.0, atol=1e-5)
            mine = logprobs.gather(-1, torch.from_numpy(got.teacher_ids[targets]).long()).numpy()
            likely += float((shares * mine).sum())
            count += len(targets)
    if kind == "draws":
        # The mean log-probability of draws is minus the entropy; a uniform choice would be far below.
        assert likely / count > -np.log(logprobs.shape[-1]) + 0.05


def test_gradients_are_clipped_by_their_global_norm(one_rank: dict[str, Result]) -> None:
    assert min(metrics["grad_norm"] for metrics in one_rank["sft"][0]) > OPTIMIZER.clip_norm


def test_exported_shards_are_the_whole_model(
    learners: dict[int, Any], random_model: Path, one_rank: dict[str, Result], tmp_path: Path
) -> None:
    from safetensors.numpy import load_file

    train(learners[2], ModelSpec(path=str(random_model)), 3, CrossEntropy())
    learners[2].export(tmp_path, str(random_model))
    exported = load_file(tmp_path / "model.safetensors")
    expected = one_rank["sft"][1]
    assert set(exported) == set(expected) - {"lm_head.weight"}  # tied
    for name, weight in exported.items():
        np.testing.assert_allclose(weight, expected[name], atol=2e-5, err_msg=name)


def test_log_probabilities_come_back_in_the_samples_order(learners: dict[int, Any], random_model: Path) -> None:
    spec = ModelSpec(path=str(random_model))
    learners[1].load(spec, None)
    expected = learners[1].logprobs(STEPS[0], micro_tokens=4096)
    learners[2].load(spec, OPTIMIZER, zero=3)
    got = learners[2].logprobs(STEPS[0], micro_tokens=MICRO_TOKENS)
    for ours, theirs, sample in zip(got, expected, STEPS[0], strict=True):
        assert np.count_nonzero(ours) == int(sample.loss_mask.sum())
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("zero", [2, 3])
def test_two_ranks_go_on_bit_for_bit_from_a_checkpoint(
    learners: dict[int, Any], random_model: Path, tmp_path: Path, zero: int
) -> None:
    import ray

    learner = learners[2]
    learner.load(ModelSpec(path=str(random_model)), OPTIMIZER, total_steps=2, zero=zero)
    learner.step(STEPS[0], CrossEntropy(), step=0, micro_tokens=MICRO_TOKENS)
    learner.save(tmp_path)
    learner.step(STEPS[2], CrossEntropy(), step=1, micro_tokens=MICRO_TOKENS)
    expected = ray.get(learner.weights(), timeout=60)
    learner.load(ModelSpec(path=str(random_model)), OPTIMIZER, total_steps=2, zero=zero)
    learner.restore(tmp_path)
    learner.step(STEPS[2], CrossEntropy(), step=1, micro_tokens=MICRO_TOKENS)
    for name, weight in ray.get(learner.weights(), timeout=60).items():
        assert np.array_equal(weight, expected[name]), name


def test_adapters_under_zero_3_are_merged_as_on_one_rank(learners: dict[int, Any], random_model: Path) -> None:
    spec = ModelSpec(path=str(random_model), lora=Lora(rank=2))
    expected = train(learners[1], spec, 0, CrossEntropy())
    got = train(learners[2], spec, 3, CrossEntropy())
    assert_same(got, expected)


def test_the_kl_to_the_own_start_is_zero_and_grows(learners: dict[int, Any], random_model: Path) -> None:
    spec = ModelSpec(path=str(random_model))
    learner, loss = learners[2], PolicyLoss(kl=0.1, temperature=0.7)
    learner.load(spec, OPTIMIZER, total_steps=2, zero=3)
    learner.load_frozen(spec, "reference")
    values = learner.logprobs(STEPS[0], micro_tokens=MICRO_TOKENS, temperature=0.7, frozen="reference")
    samples = [replace(s, reference_logprobs=v) for s, v in zip(STEPS[0], values, strict=True)]
    first, second = (learner.step(samples, loss, step=step, micro_tokens=MICRO_TOKENS) for step in (0, 1))
    assert first["kl"] == pytest.approx(0.0, abs=1e-6)
    assert second["kl"] > 1e-5
