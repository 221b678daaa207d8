"""What the kinds decide, as pure functions: who is trained on what, what is kept, what a table says."""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.configs.schema import Grpo, Optimizer, PromptSource
from posttrain.errors import DataError
from posttrain.stages import curate, distill, evaluate, sample
from posttrain.stages.data.batch_schedule import BatchSchedule
from posttrain.stages.data.content import content
from posttrain.stages.data.load import check_source, load_prompts, load_rows
from posttrain.stages.data.store import read_rows, write_rows
from posttrain.stages.data.supply import numbered
from posttrain.stages.filters import FILTERS
from posttrain.stages.learner.experience import _shuffled, experience
from posttrain.stages.learner.losses.advantages import (
    EPSILON,
    group_advantages,
    multi_reward_advantages,
    zero_variance,
)
from posttrain.stages.learner.schedule import FLOOR, learning_rate
from posttrain.stages.models.locations import Locations
from posttrain.stages.rollout.scoring import rollout_rows, score_metrics
from posttrain.thinking import split_thinking
from posttrain.types import Completion, Group, Prompt, Score, ScoredGroup, Source

THOUGHT = "<think>\n1+1=2\n</think>\n\n\\boxed{2}"


def completion(text: str = THOUGHT, index: int = 0, tokens: int = 4, injected: int = 0, **changes: Any) -> Completion:
    """A completion of `tokens` tokens, the first `injected` of them forced."""
    sources = np.zeros(tokens, np.int8)
    sources[:injected] = Source.INJECTED
    made = Completion(
        prompt_id="p", index=index, prompt_ids=np.array([7, 8, 9]), token_ids=np.arange(tokens) + 20, text=text,
        sources=sources, logprobs=-np.arange(1, tokens + 1, dtype=np.float32), versions=np.zeros(tokens, np.int32),
        finish_reason="stop",
    )  # fmt: skip
    return replace(made, **changes)


def prompt(content: str = "1+1?", **fields: Any) -> Prompt:
    return Prompt(**{"id": "p", "messages": ({"role": "user", "content": content},), **fields})


def scored(values: list[float | None], **changes: Any) -> ScoredGroup:
    """A group with these scores; None is an infra error."""
    completions = tuple(completion(index=i, **changes) for i in range(len(values)))
    scores = tuple(Score(value=v, status="infra_error" if v is None else "ok") for v in values)
    return ScoredGroup(group=Group(prompt=prompt(), completions=completions), scores=scores)


def grpo_spec(**fields: Any) -> Grpo:
    return Grpo.model_validate({"kind": "grpo", "model": "base", "prompts": "x", "rewards": "math", **fields})


# ---------------------------------------------------------------- advantages and grpo


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_equal_the_written_out_formula(scale: Any) -> None:
    groups: list[list[float | None]] = [[1.0, 0.0, 0.5], [2.0, None, -1.0, 0.0]]
    everything = [r for group in groups for r in group if r is not None]
    for group, got in zip(groups, group_advantages(groups, scale), strict=True):
        known = [r for r in group if r is not None]
        std = {"group": statistics.stdev(known), "batch": statistics.stdev(everything), "none": 1.0 - EPSILON}[scale]
        expected = [np.nan if r is None else (r - statistics.mean(known)) / (std + EPSILON) for r in group]
        np.testing.assert_allclose(got, expected, atol=1e-12)


def trl_normalize_then_sum(table: Any, weights: Any, size: int) -> Any:
    """The formula of TRL's GRPOTrainer for `multi_objective_aggregation="normalize_then_sum"`, written out in torch."""
    from trl.trainer.utils import nanstd

    unscorable = torch.isnan(table).all(dim=1)
    grouped = table.view(-1, size, table.shape[1])
    mean = torch.nanmean(grouped, dim=1, keepdim=True)
    scaled = ((grouped - mean) / (nanstd(grouped, dim=1, keepdim=True) + 1e-4)).view(-1, table.shape[1])
    rewards = (scaled * weights).nansum(dim=1)
    rewards[unscorable] = torch.nan
    return (rewards - torch.nanmean(rewards)) / (nanstd(rewards) + 1e-4)


def test_multi_reward_advantages_equal_trl() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(12, 3)) * [1.0, 10.0, 0.1]
    table[2, 1] = table[7] = np.nan
    weights = {"a": 1.0, "b": 0.5, "c": -2.0}
    rows = [
        None if np.isnan(row).all() else {n: v for n, v in zip(weights, row, strict=True) if not np.isnan(v)}
        for row in table
    ]
    got = multi_reward_advantages([rows[i : i + 4] for i in (0, 4, 8)], weights)
    expected = trl_normalize_then_sum(torch.tensor(table), torch.tensor(list(weights.values())), 4)
    np.testing.assert_allclose(np.concatenate(got), expected.numpy(), rtol=1e-6)


def test_gdpo_tells_apart_what_a_sum_does_not() -> None:
    rows = [{"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}, {"a": 0.0, "b": 1.0}, {"a": 0.0, "b": 1.0}]
    (summed,) = group_advantages([[sum(row.values()) for row in rows]])
    (kept,) = multi_reward_advantages([rows], {"a": 1.0, "b": 0.5})
    assert not summed.any()
    assert kept[0] > 0 > kept[1]


def test_a_reward_of_small_spread_counts_like_one_of_large_spread() -> None:
    rows = [{"small": 0.01 * i, "large": 100.0 * (3 - i)} for i in range(4)]
    (got,) = multi_reward_advantages([rows], {"small": 1.0, "large": 0.9})
    assert (np.diff(got) > 0).all()  # they pull in opposite directions, and the heavier one wins


def make_samples(groups: Any, spec: Any, seed: int, weights: Any = None) -> tuple[list[Any], dict[str, float]]:
    found = experience(groups, spec, seed, weights=weights or {})
    return found.samples, found.metrics


def test_grpo_combines_rewards_as_the_recipe_says() -> None:
    group = scored([1.0, 1.0, None])
    terms = ({"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}, {})
    group = replace(group, scores=tuple(replace(s, terms=t) for s, t in zip(group.scores, terms, strict=True)))
    apart, _ = make_samples([group], grpo_spec(combine="normalize_then_sum"), 0, {"a": 3.0, "b": 1.0})
    same, _ = make_samples([group], grpo_spec(), 0, {"a": 3.0, "b": 1.0})
    assert [s.advantage > 0 for s in apart] == [True, False]
    assert [s.advantage for s in same] == [0.0, 0.0]


def test_a_lone_reward_has_no_baseline_and_no_advantage() -> None:
    (got,) = group_advantages([[None, 3.0, None]])
    assert got[1] == 0.0
    assert np.isnan(got[[0, 2]]).all()


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8))
def test_advantages_of_a_group_sum_to_zero(rewards: list[float]) -> None:
    (got,) = group_advantages([rewards])
    assert abs(float(got.sum())) < 1e-6


def test_groups_of_equal_rewards_are_counted_whatever_is_missing() -> None:
    assert zero_variance([[1.0, 1.0], [1.0, 0.0], [None, 1.0], [None, None], [0.0, None, 1.0]]) == 3


def test_a_completion_without_a_score_leaves_its_group() -> None:
    samples, _ = make_samples([scored([1.0, None, 0.0]), scored([None, None])], grpo_spec(), 0)
    (expected,) = group_advantages([[1.0, 0.0]])
    assert [s.advantage for s in samples] == pytest.approx(expected.tolist())
    assert {s.group for s in samples} == {0}


def test_a_failed_score_is_no_zero() -> None:
    assert score_metrics([scored([1.0, None])])["reward"] == 1.0


def test_injected_tokens_are_context_and_no_targets() -> None:
    samples, _ = make_samples([scored([1.0, 0.0], injected=2)], grpo_spec(), 0)
    assert samples[0].loss_mask.tolist() == [0, 0, 0, 0, 0, 1, 1]
    (distilled, *_) = distill.make_samples([scored([1.0, 0.0], injected=2).group], {"p": 0})
    assert distilled.loss_mask.tolist() == samples[0].loss_mask.tolist()


def test_the_engines_logprobs_stand_at_their_tokens() -> None:
    samples, _ = make_samples([scored([1.0, 0.0])], grpo_spec(), 0)
    assert samples[0].ids.tolist() == [7, 8, 9, 20, 21, 22, 23]
    assert samples[0].engine_logprobs is not None
    assert samples[0].engine_logprobs.tolist() == [0, 0, 0, -1, -2, -3, -4]


def test_groups_without_signal_stay_in_the_normaliser_and_are_counted() -> None:
    samples, metrics = make_samples([scored([1.0, 1.0]), scored([1.0, 0.0])], grpo_spec(), 0)
    assert metrics["zero_variance_groups"] == 0.5
    assert [s.advantage for s in samples[:2]] == [0.0, 0.0]
    assert len(samples) == 4


def test_shuffled_rewards_are_the_same_rewards_elsewhere() -> None:
    rewards: list[list[float | None]] = [[float(4 * g + i) for i in range(4)] for g in range(6)]
    mixed = _shuffled(rewards, seed=3)
    assert [len(group) for group in mixed] == [4] * 6
    assert sorted(r for group in mixed for r in group if r is not None) == [float(i) for i in range(24)]
    assert mixed != rewards
    assert mixed == _shuffled(rewards, seed=3)


def test_shuffling_changes_the_advantages() -> None:
    groups = [scored([1.0, 1.0, 0.0, 0.0]), scored([0.0, 0.0, 0.0, 0.0])]
    plain, _ = make_samples(groups, grpo_spec(), 1)
    mixed, _ = make_samples(groups, grpo_spec(shuffle_rewards=True), 1)
    assert [s.advantage for s in plain] != [s.advantage for s in mixed]


def test_a_prompt_that_comes_twice_in_a_step_gets_two_ids() -> None:
    twice, origin = numbered([prompt(), prompt(), prompt(id="q"), prompt()], 0)
    assert [p.id for p in twice] == ["p", "p.1", "q", "p.2"]
    assert origin == {"p": "p", "p.1": "p", "q": "q", "p.2": "p"}
    again, _ = numbered([prompt(), prompt()], 3)
    assert [p.id for p in again] == ["p+3", "p+3.1"]


# ---------------------------------------------------------------- curate


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (prompt("What is  1+1?\n"), prompt("what is 1+1?"), True),
        (prompt("What is 1+1?", columns={"key": "1+1"}), prompt("Compute 1+1.", columns={"key": "1+1"}), True),
        (prompt("1+1?"), prompt("1+2?"), False),
        (prompt("1+1?", mode="think"), prompt("1+1?", mode="no_think"), True),
    ],
)
def test_two_prompts_are_one_question_by_key_or_by_words(left: Prompt, right: Prompt, same: bool) -> None:
    assert (content(left) == content(right)) == same


# ---------------------------------------------------------------- sample and its filters


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("correct", THOUGHT, None),
        ("complete", THOUGHT, None),
        ("complete", "<think>\n1+1", "think block left open"),
        ("repetition", " ".join(map(str, range(60))), None),
        ("repetition", "so I add one and one again and " * 9, "repetition"),
        ("repetition", "no no no", None),
        ("guesswork", THOUGHT, None),
        ("guesswork", "<think>\n\n</think>\n\n2", "no reasoning"),
        ("guesswork", "2", "no reasoning"),
        ("consistent", THOUGHT, None),
        ("consistent", "<think>\n1+1=3\n</think>\n\n\\boxed{2}", "inconsistent summary"),
        ("consistent", "<think>\n1+1=12\n</think>\n\n\\boxed{2}", "inconsistent summary"),
        ("consistent", "<think>\n1-3=-2\n</think>\n\n\\boxed{-2}", None),
        ("consistent", "<think>\nhm\n</think>\n\nyes", None),
        ("language", THOUGHT, None),
        ("language", "<think>\n一加一等于二\n</think>\n\n2", "language mixing"),
        ("language", "naïve café, 1+1=2", None),
    ],
)
def test_each_filter_drops_what_it_names(name: str, text: str, reason: str | None) -> None:
    assert FILTERS[name](prompt(), completion(text), Score(value=1.0)) == reason


@pytest.mark.parametrize(("value", "reason"), [(None, "no verdict"), (0.0, "wrong answer"), (0.99, "wrong answer")])
def test_only_full_reward_is_correct(value: float | None, reason: str) -> None:
    assert FILTERS["correct"](prompt(), completion(), Score(value=value)) == reason


def test_an_answer_cut_by_the_length_limit_is_not_complete() -> None:
    assert FILTERS["complete"](prompt(), completion(finish_reason="length"), Score(value=1.0)) == "truncated"


@pytest.mark.parametrize("mode", ["no_think", "closed"])
def test_nobody_has_to_think_who_was_told_not_to(mode: str) -> None:
    empty = completion("<think>\n\n</think>\n\n2")
    assert FILTERS["guesswork"](prompt(mode=mode), empty, Score(value=1.0)) is None


def test_a_prompt_in_a_script_may_be_answered_in_it() -> None:
    answer = completion("<think>\n一加一等于二\n</think>\n\n2")
    assert FILTERS["language"](prompt("一加一？"), answer, Score(value=1.0)) is None


# ---------------------------------------------------------------- batches and rates


SOURCES = st.lists(st.tuples(st.integers(1, 30), st.floats(0.1, 9)), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(SOURCES, st.integers(1, 9), st.integers(0, 99))
def test_batches_are_full_keep_the_shares_and_bring_every_row_once_an_epoch(
    shapes: list[tuple[int, float]], size: int, seed: int
) -> None:
    sources = [[(i, row) for row in range(rows)] for i, (rows, _) in enumerate(shapes)]
    weights = [weight for _, weight in shapes]
    schedule = BatchSchedule(sources, weights, size=size, seed=seed)
    taken: list[list[int]] = [[] for _ in sources]
    for step in range(25):
        batch = schedule.batch(step)
        assert len(batch) == size
        for source, row in batch:
            taken[source].append(row)
        for source, weight in enumerate(weights):
            exact = size * (step + 1) * weight / sum(weights)
            assert abs(len(taken[source]) - exact) < len(sources)
    for source, rows in enumerate(taken):
        n = shapes[source][0]
        for start in range(0, len(rows), n):
            epoch = rows[start : start + n]
            assert len(set(epoch)) == len(epoch)


def test_a_batch_is_a_function_of_its_step_alone() -> None:
    def schedule() -> BatchSchedule[int]:
        return BatchSchedule([list(range(7)), list(range(100, 111))], [1.0, 2.5], size=4, seed=8)

    in_order = schedule()
    expected = [in_order.batch(step) for step in range(12)]
    backwards = schedule()
    assert [backwards.batch(step) for step in reversed(range(12))] == expected[::-1]


def test_epochs_differ_in_order() -> None:
    schedule = BatchSchedule([list(range(20))], [1.0], size=20, seed=0)
    assert schedule.batch(0) != schedule.batch(1)


@pytest.mark.parametrize(
    ("schedule", "halfway", "end"), [("constant", 1.0, 1.0), ("linear", 0.55, FLOOR), ("cosine", 0.55, FLOOR)]
)
def test_rates_warm_up_to_the_peak_and_end_at_the_floor(schedule: Any, halfway: float, end: float) -> None:
    optimizer = Optimizer(lr=2.0, warmup=4, schedule=schedule)
    rates = [learning_rate(optimizer, step, 24) for step in range(25)]
    assert rates[:4] == pytest.approx([0.4, 0.8, 1.2, 1.6])
    assert rates[4] == 2.0
    assert rates[14] == pytest.approx(2 * halfway)
    assert rates[24] == pytest.approx(2 * end)
    assert learning_rate(optimizer, 99, 24) == pytest.approx(2 * end)


# ---------------------------------------------------------------- evaluate


def test_a_summary_is_the_mean_over_questions_and_leaves_out_the_unjudged() -> None:
    values = np.array([[1.0, 0.0, np.nan], [1.0, 1.0, 1.0], [np.nan, np.nan, np.nan]])
    row = evaluate.summary("think", "accuracy", values)
    assert row["value"] == 0.75  # by question, whatever the number of its verdicts
    assert row["n"] == 2


def test_a_summary_of_nothing_is_no_number() -> None:
    row = evaluate.summary("think", "accuracy", np.full((2, 2), np.nan))
    assert np.isnan([row["value"], row["low"], row["high"]]).all()
    assert row["n"] == 0


def test_intervals_cover_the_truth_when_samples_of_a_question_agree() -> None:
    # 60 questions, 8 samples each that always agree: an interval over 480 samples would be far too narrow.
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(200):
        values = np.repeat((rng.random((60, 1)) < 0.4).astype(float), 8, axis=1)
        row = evaluate.summary("think", "accuracy", values)
        covered.append(row["low"] <= 0.4 <= row["high"])
    assert 0.89 <= np.mean(covered) <= 0.99


def test_a_table_has_a_hole_where_there_is_no_verdict() -> None:
    passed = evaluate.pass_at(np.array([[1, np.nan], [0, np.nan], [np.nan, np.nan], [0, 0.5]]), 2)
    np.testing.assert_array_equal(passed, [[np.nan], [np.nan], [np.nan], [0]])
    table = evaluate.score_table([scored([1.0, None]), scored([0.0, 0.5])])
    np.testing.assert_array_equal(table, [[1.0, np.nan], [0.0, 0.5]])


def test_asking_in_a_mode_changes_the_mode_alone() -> None:
    (asked,) = evaluate.with_mode([prompt(columns={"answer": "2"})], "no_think")
    assert asked == prompt(columns={"answer": "2"}, mode="no_think")


# ---------------------------------------------------------------- rows in and out


def source(name: str, **fields: Any) -> PromptSource:
    return PromptSource.model_validate({"from": name, **fields})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "a"}\n{"prompt": \n', r"rows\.jsonl:2: not JSON"),
        ('{"prompt": "a"}\n[1]\n', r"rows\.jsonl:2: a row is an object"),
        ('{"prompt": "a"}\n{"question": "b"}\n', r"rows\.jsonl:2: .*neither `messages` nor `prompt`.*question"),
        ('{"messages": []}\n', r"rows\.jsonl:1: `messages` must be a non-empty list"),
        ('{"messages": [{"content": "a"}]}\n', r"rows\.jsonl:1: a message needs role and content"),
        ('{"prompt": "a"}\n\n{"question": "b"}\n', r"rows\.jsonl:2: an empty line"),
        ('{"prompt": "  "}\n', r"rows\.jsonl:1: "),
        ("", r"rows\.jsonl: there isn't a single row"),
        ('{"prompt": "a"}\n{"prompt": ' + "9" * 5000 + "}", r"rows\.jsonl:2: can't be read"),
        ('{"prompt": "a"}\n' + "[" * 200_000, r"rows\.jsonl:2: can't be read"),
        ('{"prompt": "a"}\n{"prompt": "b", "mode": "nothink"}', r"rows\.jsonl:2: no mode 'nothink'; .*`no_think`"),
        ('{"prompt": "a"}\n{"prompt": "b", "mode": 3}', r"rows\.jsonl:2: no mode 3"),
    ],
)
def test_a_malformed_row_is_reported_with_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        check_source(source("rows.jsonl"), tmp_path, form="prompts")


def test_a_byte_that_is_not_utf8_is_reported_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"prompt": "a"}\n{"prompt": "b"}\n{"prompt": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:3: not UTF-8: byte 0xe9"):
        check_source(source("rows.jsonl"), tmp_path, form="prompts")


def test_the_line_of_a_bad_byte_is_right_behind_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\n\xe9')
    with pytest.raises(DataError, match=r"rows\.jsonl:2: not UTF-8: byte 0xe9"):
        check_source(source("rows.jsonl"), tmp_path, form="prompts")


def test_a_byte_order_mark_and_windows_line_ends_are_no_content(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n{"prompt": "b"}\r\n')
    rows = load_rows(source("rows.jsonl"), locations=Locations(recipe_dir=tmp_path), seed=0)
    assert rows == [{"prompt": "a"}, {"prompt": "b"}]


def test_a_broken_parquet_source_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"rows\.parquet: can't be read as Parquet"):
        check_source(source("rows.parquet"), tmp_path, form="prompts")


@pytest.mark.parametrize("response", ["null", "3", '["a"]'])
def test_a_response_that_is_no_text_is_refused_with_file_and_line(tmp_path: Path, response: str) -> None:
    (tmp_path / "rows.jsonl").write_text(
        f'{{"prompt": "a", "response": "b"}}\n{{"prompt": "a", "response": {response}}}'
    )
    with pytest.raises(DataError, match=r"rows\.jsonl:2: `response` must be text, this is .*" + re.escape(response)):
        check_source(source("rows.jsonl"), tmp_path, form="conversations")


def test_a_mode_that_the_source_overrides_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "mode": "exam"}\n')
    assert check_source(source("rows.jsonl", mode="think"), tmp_path, form="prompts").rows == 1
    with pytest.raises(DataError, match=r"rows\.jsonl:1: no mode 'exam'"):
        load_prompts([source("rows.jsonl")], locations=Locations(recipe_dir=tmp_path), seed=0)


def test_a_line_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a\u2028b"}\r\n{"prompt": "c"}\n', newline="")
    rows = load_rows(source("rows.jsonl"), locations=Locations(recipe_dir=tmp_path), seed=0)
    assert [row["prompt"] for row in rows] == ["a\u2028b", "c"]


def test_a_missing_column_names_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"question": "a", "gold": "1"}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:2: no column 'text'.*gold.*question"):
        load_rows(source("rows.jsonl", columns={"prompt": "text"}), locations=Locations(recipe_dir=tmp_path), seed=0)


def test_ids_are_unique_over_all_sources(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "x", "prompt": "1"}\n{"id": "x", "prompt": "2"}\n')
    (tmp_path / "b.jsonl").write_text('{"prompt": "1"}\n{"id": "x", "prompt": "3"}\n{"prompt": "1"}\n')
    groups = load_prompts([source("a.jsonl"), source("b.jsonl")], locations=Locations(recipe_dir=tmp_path), seed=0)
    ids = [p.id for group in groups for p in group]
    assert len(set(ids)) == len(ids) == 5
    assert ids[:2] == ["x", "x.1"]


@pytest.mark.parametrize("ids", [["a", "a", "a.1"], ["a.1", "a", "a"], ["a", "a", "a.1", "a.1", "a", "a.1.1"]])
def test_a_suffixed_id_meets_no_other_id(tmp_path: Path, ids: list[str]) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"id": i, "prompt": "1"}) for i in ids))
    (prompts,) = load_prompts([source("a.jsonl")], locations=Locations(recipe_dir=tmp_path), seed=0)
    assert len({p.id for p in prompts}) == len(ids)


def test_mixed_modes_belong_to_the_prompt_and_not_to_its_place(tmp_path: Path) -> None:
    rows = [f'{{"prompt": "{i}?"}}' for i in range(30)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    (tmp_path / "b.jsonl").write_text("\n".join(reversed(rows)))
    asked = [
        {
            p.id: p.mode
            for p in load_prompts([source(n, mode="mixed")], locations=Locations(recipe_dir=tmp_path), seed=s)[0]
        }
        for n, s in (("a.jsonl", 0), ("b.jsonl", 1))
    ]
    assert asked[0] == asked[1]
    assert set(asked[0].values()) == {"default", "think", "no_think"}


def test_columns_reach_the_rewards(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "1+1?", "gold": "2", "task": "old"}\n')
    wanted = source("a.jsonl", columns={"prompt": "question", "answer": "gold"}, task="math")
    ((got,),) = load_prompts([wanted], locations=Locations(recipe_dir=tmp_path), seed=0)
    assert got.columns["answer"] == "2"
    assert got.task == "math"
    assert got.messages == ({"role": "user", "content": "1+1?"},)


VALUES = st.one_of(st.text(max_size=8), st.none())
MESSAGE = st.fixed_dictionaries(
    {"role": st.just("user"), "content": st.text(max_size=8)}, optional={"reasoning_content": st.text(max_size=4)}
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"id": st.text(max_size=4)},
        optional={"answer": VALUES, "messages": st.lists(MESSAGE, max_size=3), "n": st.integers(-9, 9)},
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=50, deadline=None)
@given(ROWS)
def test_rows_come_back_as_they_were_written_without_their_nones(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    path = write_rows(tmp_path_factory.mktemp("rows"), rows)
    assert read_rows(path) == [{k: v for k, v in row.items() if v is not None} for row in rows]


def test_a_curated_prompt_comes_back_as_the_same_prompt(tmp_path: Path) -> None:
    asked = prompt(id="k", mode="think", task="math", domain="sums", columns={"answer": "2", "key": "1+1"})
    write_rows(tmp_path, [curate.as_row(asked)])
    ((got,),) = load_prompts(
        [source("queries")], locations=Locations(recipe_dir=tmp_path, inputs={"queries": tmp_path}), seed=0
    )
    assert got == asked


def test_the_oracle_writes_a_well_formed_solution() -> None:
    asked = prompt(columns={"answer": "2", "solution": "1+1=2"})
    (answer,) = sample.oracle_group(asked).completions
    assert split_thinking(answer.text).well_formed


def test_the_oracle_drops_rows_without_a_solution() -> None:
    worked = prompt(columns={"solution": "1+1=2", "answer": "2"})
    kept, without = sample.with_answers([prompt(), worked, prompt()], sample.ORACLE, "here")
    assert kept == [worked]
    assert len(without) == 2
    with pytest.raises(DataError, match="no row has it"):
        sample.with_answers([prompt()], sample.ORACLE, "here")


def test_any_text_can_be_written_down(tmp_path: Path) -> None:
    write_rows(tmp_path, rollout_rows([scored([1.0], text="a\ud800b")]), "rows.parquet")
    assert [row["text"] for row in read_rows(tmp_path / "rows.parquet")] == ["a?b"]
