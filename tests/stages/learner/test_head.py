"""The output head: what is compiled on a GPU has one graph, jobs inside its call change nothing, float32 is float32."""

from __future__ import annotations

import itertools
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from posttrain.errors import InputError
from posttrain.stages.learner.rank import head as head_module
from posttrain.stages.learner.rank.fused_functions import compile_variants
from posttrain.stages.learner.rank.guides import compare_whole
from posttrain.stages.learner.rank.kernels import use_kernels
from posttrain.stages.learner.rank.policy import token_statistics

KINDS = ["forward_kl", "reverse_kl", "jsd", "skew_forward_kl", "skew_reverse_kl"]


def one_graph(function: Any) -> Any:
    """Compiled as for a GPU, but for the last step, which needs a compiler of the machine's: no break is allowed."""
    torch._dynamo.reset()
    return torch.compile(function.__wrapped__, fullgraph=True, backend="aot_eager")


def rows(seed: int, n: int = 7, vocabulary: int = 50) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, n, vocabulary, generator=rng)
    return student.requires_grad_(), teacher, torch.randint(0, vocabulary, (n,), generator=rng)


@pytest.mark.parametrize("kind", KINDS)
def test_a_divergence_compiles_whole(kind: str) -> None:
    student, teacher, labels = rows(0)
    got, expected = (f(student, teacher, labels, kind, 0.3) for f in (one_graph(compare_whole), compare_whole))
    torch.testing.assert_close(got, expected)
    for ours, theirs in zip(*(torch.autograd.grad(c[0].sum(), student) for c in (got, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("entropy_gradient", [True, False])
def test_token_statistics_compile_whole(entropy_gradient: bool) -> None:
    logits, _, labels = rows(1)
    got, expected = (f(logits, labels, 0.7, entropy_gradient) for f in (one_graph(token_statistics), token_statistics))
    torch.testing.assert_close(got, expected)
    assert got[1].requires_grad == entropy_gradient


def test_a_whole_runs_variants_stay_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """One learner serves all stages of a run: over twenty combinations, and none falls back."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch._dynamo.config, "fail_on_recompile_limit_hit", True)
    compiled = compile_variants(compare_whole.__wrapped__, "eager")  # type: ignore[attr-defined]
    for vocabulary, kind, beta in itertools.product((50, 60), KINDS, (0.3, 0.5)):
        student, teacher, labels = rows(2, vocabulary=vocabulary)
        got, expected = (f(student, teacher, labels, kind, beta) for f in (compiled, compare_whole))
        torch.testing.assert_close(got, expected)
        with torch.no_grad():
            compiled(student, teacher, labels, kind, beta)


@pytest.mark.parametrize("chunks", [2, 5])
@pytest.mark.parametrize("trained", [True, False])
def test_a_job_gives_the_loss_its_columns_and_both_gradients(chunks: int, trained: bool) -> None:
    """More chunks than targets make empty ones; a head that isn't trained gets no gradient."""
    head = nn.Linear(6, 50, bias=False).requires_grad_(trained)
    assert head_module.prepare_head(head, float32=False)
    hidden, labels = torch.randn(4, 6, requires_grad=True), torch.tensor([3, 49, 0, 7])
    weights = torch.tensor([0.5, 2.0, 0.0, 1.5])

    def losses(logits: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return F.cross_entropy(logits, label, reduction="none"), logits.argmax(-1)

    loss, columns, best = head_module.weighted(head, losses, hidden, weights, (labels,), chunks)
    plain = F.cross_entropy(F.linear(hidden, head.weight), labels, reduction="none")
    torch.testing.assert_close(columns, plain.detach())
    torch.testing.assert_close(best, F.linear(hidden, head.weight).argmax(-1))
    wanted = [hidden, head.weight] if trained else [hidden]
    got, expected = (torch.autograd.grad(3 * value, wanted) for value in (loss, (plain * weights).sum()))
    torch.testing.assert_close(got, expected)


def test_a_head_in_float32_multiplies_in_float32() -> None:
    head = nn.Linear(64, 30, bias=False, dtype=torch.bfloat16)
    hidden = torch.randn(5, 64).bfloat16()
    rounded = head(hidden)
    assert head_module.prepare_head(head, float32=True)
    torch.testing.assert_close(head(hidden), hidden.float() @ head.weight.float().T)
    assert not torch.equal(head(hidden), rounded.float())


def test_an_adapted_head_is_left_alone() -> None:
    class Adapted(nn.Linear):
        pass

    for head in (Adapted(3, 4, bias=False), nn.Linear(3, 4)):
        assert not head_module.prepare_head(head, float32=False)
        with pytest.raises(InputError, match="plain linear layer"):
            head_module.prepare_head(head, float32=True)


@pytest.mark.parametrize("float32_head", [True, False])
def test_a_reference_with_the_policys_weights_is_the_policy(random_model: Path, float32_head: bool) -> None:
    """In bfloat16, to the last bit: a KL that isn't 0 at the start would pull."""
    from posttrain.configs.schema import LearnerCluster
    from posttrain.stages.learner.rank.packing import pack
    from posttrain.stages.learner.rank.worker import LearnerWorker
    from posttrain.stages.models.model_files import ModelSpec
    from posttrain.types import Sample

    worker = LearnerWorker(0, 1, LearnerCluster(dtype="bfloat16", float32_head=float32_head), 1)
    worker.zero = 0
    spec = ModelSpec(path=str(random_model))
    worker.load(spec, None, 0)
    worker.load_frozen(spec, "reference")
    mask = np.ones(30, np.float32)
    mask[0] = 0
    batch = pack([Sample(ids=np.arange(30) + 10, loss_mask=mask)], [mask], [0])
    policy, reference = (worker.logprobs([batch], 1.0, name)[0] for name in ("", "reference"))
    np.testing.assert_array_equal(policy, reference)


@pytest.mark.skipif(find_spec("liger_kernel") is not None, reason="liger-kernel is installed")
def test_kernels_that_are_asked_for_and_not_there_are_named() -> None:
    with pytest.raises(InputError, match="liger-kernel"):
        use_kernels(nn.Linear(2, 2), "liger")
    assert not use_kernels(nn.Linear(2, 2), "auto")
