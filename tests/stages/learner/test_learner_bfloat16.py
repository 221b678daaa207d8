"""The learner in bfloat16 with float32 weights beside them, on one rank."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from posttrain.configs.schema import LearnerCluster, Optimizer
from posttrain.stages.learner.losses.losses import CrossEntropy
from posttrain.stages.models.model_files import ModelSpec
from posttrain.types import Sample

from .test_learner import batches, make_samples

LR = 1e-3
ADAM = Optimizer(lr=LR, clip_norm=0.5, weight_decay=0.0)


@pytest.fixture(scope="module", params=[False, True], ids=["", "offloaded"])
def worker(request: pytest.FixtureRequest, learner_worker: Any) -> Any:
    """In ZeRO-2, for which 0 and 1 are taken."""
    learner_worker.settings = LearnerCluster(zero=0, dtype="bfloat16", offload_optimizer=request.param)
    return learner_worker


@pytest.fixture
def loaded(worker: Any, random_model: Path) -> Any:
    worker.load(ModelSpec(path=str(random_model)), ADAM, 0)
    return worker


def weights(worker: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.clone() for name, parameter in worker.policy.model.named_parameters()}


def test_steps_are_adams_on_float32_weights_with_clipped_bfloat16_gradients(worker: Any, random_model: Path) -> None:
    """Against the update written out: two steps, gradients of the same bfloat16 model."""
    (batch,) = batches(make_samples(), 4096)
    worker.load(ModelSpec(path=str(random_model)), None, 0)
    model = worker.policy
    master = {name: p.detach().float().clone() for name, p in model.named_parameters()}
    adam = torch.optim.AdamW(list(master.values()), lr=LR, betas=ADAM.betas, weight_decay=0.0)
    expected, norms = [], []
    for _ in range(2):
        model.zero_grad()
        worker._statistics(model, batch, CrossEntropy(), weights=worker._tensor(batch.weights))["loss"].backward()
        for name, p in model.named_parameters():
            master[name].grad = p.grad.float()
        norms.append(float(torch.nn.utils.clip_grad_norm_(list(master.values()), ADAM.clip_norm)))
        adam.step()
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(master[name])
        expected.append({name: p.detach().clone() for name, p in model.named_parameters()})
    assert norms[0] > ADAM.clip_norm
    worker.load(ModelSpec(path=str(random_model)), ADAM, 0)
    for wanted, norm in zip(expected, norms, strict=True):
        found = worker.step([batch], CrossEntropy(), LR)
        assert found["grad_norm"] == pytest.approx(norm, rel=1e-2)
        for name, p in worker.policy.named_parameters():
            # An Adam step is at most about LR: a hundredth of it, and bfloat16's rounding of the weight.
            torch.testing.assert_close(p.float(), wanted[name].float(), atol=LR / 100, rtol=2**-8)


def test_how_a_step_is_cut_changes_its_gradient_by_rounding_alone(loaded: Any, random_model: Path) -> None:
    samples = make_samples(12)
    assert len(batches(samples, 64)) > 3
    whole = loaded.step(batches(samples, 4096), CrossEntropy(), LR)
    loaded.load(ModelSpec(path=str(random_model)), ADAM, 0)
    cut = loaded.step(batches(samples, 64), CrossEntropy(), LR)
    assert cut["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-2)
    assert cut["loss"] == pytest.approx(whole["loss"], rel=1e-2)


def test_many_passes_add_up(loaded: Any, random_model: Path) -> None:
    """In bfloat16 a sum stands still from the 257th equal gradient on."""
    (batch,) = batches(make_samples(1), 4096)
    whole = loaded.step([batch], CrossEntropy(), LR)
    loaded.load(ModelSpec(path=str(random_model)), ADAM, 0)
    part = replace(batch, weights=batch.weights / 400)
    cut = loaded.step([part] * 400, CrossEntropy(), LR)
    assert cut["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-2)


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_what_is_not_finite_moves_no_weight_and_leaves_no_trace(loaded: Any, random_model: Path, weight: float) -> None:
    before, samples = weights(loaded), make_samples()
    bad = [Sample(ids=samples[0].ids, loss_mask=samples[0].loss_mask, weight=weight), *samples[1:]]
    found = loaded.step(batches(bad, 64), CrossEntropy(), LR)
    assert not np.isfinite(found["grad_norm"])
    assert all(torch.equal(p, before[name]) for name, p in weights(loaded).items())
    loaded.step(batches(samples, 64), CrossEntropy(), LR)
    after = weights(loaded)
    assert not all(torch.equal(p, before[name]) for name, p in after.items())
    loaded.load(ModelSpec(path=str(random_model)), ADAM, 0)
    loaded.step(batches(samples, 64), CrossEntropy(), LR)
    assert all(torch.equal(p, after[name]) for name, p in weights(loaded).items())


def test_one_gradient_that_is_not_finite_is_enough(loaded: Any) -> None:
    before, poisoned = weights(loaded), loaded.policy.model.model.norm.weight
    hook = poisoned.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([3]), float("inf")))
    found = loaded.step(batches(make_samples(), 4096), CrossEntropy(), LR)
    hook.remove()
    assert not np.isfinite(found["grad_norm"])
    assert all(torch.equal(p, before[name]) for name, p in weights(loaded).items())


def test_a_restored_engine_goes_on_bit_for_bit(loaded: Any, tmp_path: Path) -> None:
    packed = batches(make_samples(), 4096)
    loaded.step(packed, CrossEntropy(), LR)
    loaded.save(str(tmp_path))
    loaded.step(packed, CrossEntropy(), LR)
    expected = weights(loaded)
    loaded.restore(str(tmp_path))
    loaded.step(packed, CrossEntropy(), LR)
    assert all(torch.equal(p, expected[name]) for name, p in weights(loaded).items())


def test_a_step_waits_for_the_device_no_oftener_for_more_weights(
    learner_worker: Any, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads a value of the GPU has emptied its queue, and launches run late from there on.

    Nor does it look through the gradients one by one (amax) for what isn't finite.
    """
    monkeypatch.setattr(learner_worker, "settings", LearnerCluster(zero=0, dtype="bfloat16"))

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen[str(function)] += 1
            return function(*args, **(kwargs or {}))

    found = []
    for layers in (1, 4):
        shape = {"hidden_size": 32, "num_hidden_layers": layers, "intermediate_size": 32, "num_attention_heads": 2,
                 "num_key_value_heads": 1, "head_dim": 16}  # fmt: skip
        learner_worker.load(ModelSpec(path=str(random_model), scratch=shape), ADAM, 0)
        packed, seen = batches(make_samples(), 4096), Counter[str]()
        learner_worker.step(packed, CrossEntropy(), LR)
        with Reads():
            learner_worker.step(packed, CrossEntropy(), LR)
        found.append([sum(n for name, n in seen.items() if what in name) for what in ("_local_scalar_dense", "amax")])
    assert found[0] == found[1]
