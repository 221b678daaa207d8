"""The RL stage's decisions: presets, what a step trains on, teachers and references, alarms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import ValidationError

from posttrain.configs.kinds.algorithms import ALGORITHMS, Algorithm
from posttrain.configs.schema import Grpo
from posttrain.errors import RunError
from posttrain.stages import grpo
from posttrain.stages.learner.experience import experience, has_signal
from posttrain.stages.learner.losses.advantages import group_advantages
from posttrain.stages.learner.session import TrainingSession
from posttrain.stages.learner.trainer import PolicyTrainer
from posttrain.stages.rollout.group_source import Clock
from posttrain.stages.rollout.scoring import completion_metrics, pass_rate_histogram, repetition, rollout_rows
from posttrain.types import Completion, Group, Prompt, Sample, Score, ScoredGroup


def spec(**fields: Any) -> Grpo:
    return Grpo.model_validate({"kind": "grpo", "model": "base", "prompts": "x", "rewards": "math", **fields})


def group(values: list[float | None], name: str = "p", finish: Any = "stop") -> ScoredGroup:
    completions = tuple(
        Completion(
            prompt_id=name, index=i, prompt_ids=np.array([7, 8]), token_ids=np.arange(3) + 20, text="x",
            sources=np.array([0, 1, 0], np.int8), logprobs=np.array([-1.0, 0.0, -2.0], np.float32),
            versions=np.array([4, 4, 5], np.int32), finish_reason=finish,
        )
        for i in range(len(values))
    )  # fmt: skip
    scores = tuple(Score(value=v, status="infra_error" if v is None else "ok") for v in values)
    return ScoredGroup(group=Group(prompt=Prompt(id=name, messages=({"content": "q"},)), completions=completions),
                       scores=scores)  # fmt: skip


# ---------------------------------------------------------------- algorithms


@pytest.mark.parametrize("name", get_args(Algorithm))
def test_an_algorithm_is_what_is_written_out(name: str) -> None:
    """The same node, so the same key: `algorithm` is a short form, and nothing else reads it."""
    assert spec(algorithm=name) == spec(**ALGORITHMS[name])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("grpo", ("clip", (0.2, 0.2), "sequence", "group", 1)),  # 2402.03300, eq. 3
        ("dapo", ("clip", (0.2, 0.28), "token", "group", 1)),  # 2503.14476, 3.1 and 3.3
        ("dr_grpo", ("clip", (0.2, 0.2), "constant", "none", 1)),  # 2503.20783
        ("lite_ppo", ("clip", (0.2, 0.2), "token", "batch", 1)),  # 2508.08221
        ("gspo", ("gspo", (3e-4, 4e-4), "sequence", "group", 4)),  # 2507.18071, 5.1
    ],
)
def test_presets_have_the_papers_numbers(name: str, expected: tuple[Any, ...]) -> None:
    node = spec(algorithm=name)
    assert (node.surrogate, node.clip, node.aggregate, node.scale_advantages, node.minibatches) == expected


def test_what_the_recipe_says_wins() -> None:
    node = spec(algorithm="gspo", clip=[0.1, 0.2], minibatches=2)
    assert (node.surrogate, node.clip, node.minibatches, node.aggregate) == ("gspo", (0.1, 0.2), 2, "sequence")


def test_an_unknown_algorithm_is_refused() -> None:
    with pytest.raises(ValidationError, match="dapo"):
        spec(algorithm="dappo")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"covariance": "kl"}, "minibatches over 1"),
        ({"entropy": [0.5, 0.2]}, "low < high"),
        ({"asynchronous": {"ahead": 2, "staleness": 2}}, "staleness over ahead"),
        ({"importance": {"old": "engine", "mode": "sequence_mis"}}, "leave mode out"),
        ({"importance": {"floor": 3.0}}, "floor below cap"),
        ({"dual_clip": 1.2}, "1.28"),
        ({"teacher": "base", "sampling": {"max_tokens": 8, "temperature": 0.7}}, "temperature 1"),
        ({"watch": {"prompts": []}}, "at least 1"),
        ({"tau": [0.0, 1.0]}, "must be greater than 0"),
        ({"kl": {"weight": 0.1, "placed": "reward"}, "combine": "normalize_then_sum"}, "no one reward"),
        ({"dual_clip": 0.9}, "greater than 1"),
        ({"teacher": "base", "dynamic_sampling": {}}, "every group"),
    ],
)
def test_what_contradicts_itself_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        spec(**fields)


# ---------------------------------------------------------------- what a step trains on


class Feed:
    """Gives groups from a list: what a step asks for is told."""

    def __init__(self, groups: list[ScoredGroup]) -> None:
        self.groups, self.asked, self.clock = groups, list[int](), Clock()

    def take(self, step: int, count: int) -> list[ScoredGroup]:
        self.asked.append(count)
        given, self.groups = self.groups[:count], self.groups[count:]
        return given

    more = take


EQUAL, UNLIKE = [1.0, 1.0], [1.0, 0.0]


def gathered(rows: list[list[float]], **fields: Any) -> tuple[list[str], dict[str, float], list[int]]:
    feed = Feed([group(list(values), name=str(i)) for i, values in enumerate(rows)])
    kept, metrics = grpo.gather(feed, spec(prompts_per_step=4, group_size=2, **fields), 5)  # type: ignore[arg-type]
    return [g.group.prompt.id for g in kept], metrics, feed.asked


def test_without_dynamic_sampling_all_groups_train() -> None:
    kept, _, asked = gathered([EQUAL, UNLIKE, EQUAL, UNLIKE, UNLIKE])
    assert (kept, asked) == (["0", "1", "2", "3"], [4])


def test_groups_without_signal_are_replaced() -> None:
    kept, metrics, asked = gathered([EQUAL, UNLIKE, EQUAL, UNLIKE, EQUAL, UNLIKE, UNLIKE], dynamic_sampling={})
    assert kept == ["1", "3", "5", "6"]
    assert asked == [4, 2, 1]
    assert (metrics["groups_extra"], metrics["groups_missing"]) == (3.0, 0.0)


def test_rewards_that_differ_apart_are_signal_where_each_is_normalised_by_itself() -> None:
    scored = group([0.5, 0.5])
    terms = ({"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 0.5})
    apart = replace(scored, scores=tuple(replace(s, terms=t) for s, t in zip(scored.scores, terms, strict=True)))
    assert not has_signal(apart)
    assert has_signal(apart, "normalize_then_sum")
    assert not has_signal(replace(apart, scores=(apart.scores[0],) * 2), "normalize_then_sum")


def test_a_step_without_any_score_has_no_samples_and_does_not_fail() -> None:
    found = experience([group([None, None])], spec(teacher="base"), 0, weights={}, learner=Frozen(teacher0=-1.0))  # type: ignore[arg-type]
    assert found.samples == []


def test_gspo_by_hand_has_a_sequences_clip() -> None:
    assert spec(surrogate="gspo").clip == (3e-4, 4e-4)
    assert spec(surrogate="gspo", clip=[0.1, 0.1]).clip == (0.1, 0.1)


def test_the_budget_bounds_replacements_and_the_step_trains_on_what_it_has() -> None:
    kept, metrics, asked = gathered([UNLIKE, *[EQUAL] * 20], dynamic_sampling={"extra": 1.0})
    assert kept == ["0"]
    assert asked == [4, 3, 1]  # one more batch of four, and no more
    assert (metrics["groups_extra"], metrics["groups_missing"]) == (4.0, 3.0)


def test_rewards_are_reported_over_all_that_was_sampled() -> None:
    _, metrics, _ = gathered([EQUAL, EQUAL, EQUAL, UNLIKE, UNLIKE, UNLIKE, UNLIKE], dynamic_sampling={})
    assert metrics["reward"] == pytest.approx((3 * 2 + 4) / 14)  # those that were dropped too: no selection bias


def test_staleness_is_counted_in_steps() -> None:
    _, metrics, _ = gathered([UNLIKE] * 4, asynchronous={})
    assert metrics["stale_versions"] == pytest.approx((1 + 1 + 0) / 3)
    assert metrics["stale_versions_max"] == 1.0


def test_truncated_answers_give_no_gradient_and_keep_their_place_in_the_baseline() -> None:
    cut, whole = group([0.0, 1.0, 1.0], finish="length"), group([0.0, 1.0, 1.0])
    mixed = replace(whole, group=replace(whole.group, completions=(
        cut.group.completions[0], *whole.group.completions[1:])))  # fmt: skip
    found = experience([mixed], spec(mask_truncated=True), 0, weights={})
    (expected,) = group_advantages([[0.0, 1.0, 1.0]])
    assert [s.advantage for s in found.samples] == pytest.approx(expected[1:].tolist())


def test_the_histogram_counts_groups_by_what_passed() -> None:
    found = pass_rate_histogram([group([1.0, 0.0]), group([1.0, 1.0]), group([0.5, None]), group([None, None])], 2)
    assert found == {
        "pass_rate_hist/0_of_2": pytest.approx(1 / 3),
        "pass_rate_hist/1_of_2": pytest.approx(1 / 3),
        "pass_rate_hist/2_of_2": pytest.approx(1 / 3),
    }


def test_repetition_is_the_share_of_runs_that_were_there_before() -> None:
    assert repetition(np.array([1, 2, 3])) == 0.0
    assert repetition(np.arange(50)) == 0.0
    assert repetition(np.array([1, 2, 3, 4] * 5)) == pytest.approx(1 - 4 / 17)
    assert completion_metrics([group([1.0]).group])["repetition"] == 0.0


def test_kept_rollouts_name_group_and_advantage() -> None:
    rows = rollout_rows([group(UNLIKE), group(EQUAL, "q")], advantages=[np.array([0.7, -0.7]), np.zeros(2)])
    assert [(r["prompt_id"], r["group"], r["advantage"]) for r in rows] == [
        ("p", 0, 0.7), ("p", 0, -0.7), ("q", 1, 0.0), ("q", 1, 0.0),
    ]  # fmt: skip


# ---------------------------------------------------------------- teachers and references


class Frozen:
    """A learner whose frozen models say the same of every token."""

    def __init__(self, **levels: float) -> None:
        self.levels, self.temperatures = levels, dict[str, float]()

    def logprobs(
        self, samples: list[Sample], *, micro_tokens: int, temperature: float = 1.0, frozen: str
    ) -> list[np.ndarray]:
        self.temperatures[frozen] = temperature
        return [(self.levels[frozen] * s.loss_mask).astype(np.float32) for s in samples]


def test_a_teacher_adds_its_log_ratio_to_every_sampled_token() -> None:
    learner = Frozen(teacher0=-1.5)
    node = spec(teacher={"from": "base", "weight": 0.2})
    found = experience([group(UNLIKE)], node, 0, weights={}, learner=learner)  # type: ignore[arg-type]
    (expected,) = group_advantages([UNLIKE])
    for sample, advantage in zip(found.samples, expected, strict=True):
        assert sample.advantage == pytest.approx(advantage)
        assert sample.token_advantages is not None
        assert sample.token_advantages == pytest.approx([0, 0, 0.2 * (-1.5 + 1), 0, 0.2 * (-1.5 + 2)])
    assert learner.temperatures == {"teacher0": 1.0}
    assert found.metrics["teacher_kl"] == pytest.approx(-(-0.5 + 0.5) / 2, abs=1e-6)


def test_a_teacher_alone_leaves_the_rewards_out_and_is_bounded() -> None:
    node = spec(teacher={"from": "base", "reward_weight": 0.0, "bound": 0.25})
    found = experience([group(UNLIKE)], node, 0, weights={}, learner=Frozen(teacher0=-9.0))  # type: ignore[arg-type]
    assert [s.advantage for s in found.samples] == [0.0, 0.0]
    assert found.samples[0].token_advantages == pytest.approx([0, 0, -0.25, 0, -0.25])


def test_a_kl_in_the_reward_is_summed_over_the_completion() -> None:
    """Two equal rewards: the completion nearer the reference is the better one."""
    near, far = group(EQUAL).group.completions
    far = replace(far, logprobs=np.array([-0.5, 0, -0.5], np.float32))
    scored = group(EQUAL)
    scored = replace(scored, group=replace(scored.group, completions=(near, far)))
    node = spec(kl={"weight": 0.1, "placed": "reward"}, scale_advantages="none")
    found = experience([scored], node, 0, weights={}, learner=Frozen(reference=-1.5))  # type: ignore[arg-type]
    distances = np.array([(-1 + 1.5) + (-2 + 1.5), (-0.5 + 1.5) * 2])
    expected = -0.1 * (distances - distances.mean())
    assert [s.advantage for s in found.samples] == pytest.approx(expected.tolist(), rel=1e-3)


# ---------------------------------------------------------------- a long run's safety


def session(tmp_path: Path, said: list[str], **fields: Any) -> TrainingSession:
    context = SimpleNamespace(name="rl", spec=spec(**fields), dir=tmp_path, say=said.append)
    return TrainingSession(context=context, learner=None, chat=None, path="", source=None, total=100)  # type: ignore[arg-type]


def test_steps_without_effect_end_the_run_only_in_a_row(tmp_path: Path) -> None:
    said: list[str] = []
    running = session(tmp_path, said, max_skipped=3)
    for bad in (1.0, 1.0, 0.0, 1.0, 1.0):
        running._count_skipped(0, {"skipped_step": bad})
    assert len(said) == 4
    (tmp_path / "checkpoints" / "step-000040").mkdir(parents=True)
    with pytest.raises(RunError, match=r"3 steps in a row") as caught:
        running._count_skipped(6, {"skipped_step": 1.0})
    assert "step-000040" in str(caught.value)


def test_a_stretch_of_steps_that_teach_nothing_is_told_once(tmp_path: Path) -> None:
    said: list[str] = []
    trainer = PolicyTrainer.__new__(PolicyTrainer)
    trainer._context = SimpleNamespace(name="rl", say=said.append)  # type: ignore[assignment]
    trainer._spec, trainer._flat = spec(), False
    ids, mask = np.arange(4), np.ones(4, np.float32)
    for step, advantage in enumerate([0.0, -1.4e-13, 0.7, 0.0]):  # a mean of equal numbers may be off by rounding
        samples = [Sample(ids=ids, loss_mask=mask, advantage=a) for a in (0.0, advantage)]
        trainer._say_if_flat([group([1.0, 1.0], finish="length")], samples, step)
    assert [line.split(":")[2].split()[1] for line in said] == ["1", "4"]
    assert "2 of 2 were cut at max_tokens 64" in said[0]


def test_the_mismatch_alarm_speaks_once_a_time(tmp_path: Path) -> None:
    said: list[str] = []
    trainer = PolicyTrainer.__new__(PolicyTrainer)
    trainer._context = SimpleNamespace(name="rl", say=said.append)  # type: ignore[assignment]
    trainer._spec, trainer._alarmed = spec(), False
    found = []
    for level in (0.001, 0.5, 0.4, 0.001, 0.5):
        metrics = {"mismatch_k3": level}
        trainer._sound_alarm(metrics, 3)
        found.append(metrics["mismatch_alarm"])
    assert found == [0.0, 1.0, 1.0, 0.0, 1.0]
    assert len(said) == 2
    assert "0.5 nats" in said[0]
