"""`posttrain compare`: what recipes say differently, and numbers with intervals that a slow reference gives too."""

from __future__ import annotations

import io
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from posttrain.errors import InputError
from posttrain.pipelines.compare import compare_runs
from posttrain.pipelines.compare.recipes import differences
from posttrain.pipelines.compare.tables import print_comparison
from posttrain.stages.evaluation.intervals import RESAMPLES

from ..comparing import Runs, better, edit, even, make_runs, number, scores


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_runs: Any) -> Runs:
    return make_runs(tmp_path, monkeypatch, kept_runs)


# ---------------------------------------------------------------- numbers


def test_identical_runs_differ_by_exactly_nothing(runs: Runs) -> None:
    first = runs.run("a")
    runs.kept.runs.clear()  # a copy would be identical anyway
    compared = compare_runs(first, runs.run("b"))
    known = [n for n in compared.numbers if n.basis == "paired"]
    assert {n.difference for n in known} == {0.0}
    assert all(np.isnan((n.low, n.high)).all() for n in known)  # there is no spread to draw from
    assert (compared.recipe, compared.notes) == ((), ())


def test_every_number_is_made_again_from_the_completions_except_by_domain(runs: Runs) -> None:
    compared = compare_runs(runs.run("a"), runs.run("b"))
    unpaired = {n.a.metric for n in compared.numbers if n.basis != "paired"}
    assert unpaired == {"accuracy/d0", "accuracy/d1"}
    metrics = {n.a.metric for n in compared.numbers} - unpaired
    assert metrics == {
        "accuracy", "pass@4", "no_verdict", "think_format", "tokens", "truncated", "accuracy/task/t0",
        "accuracy/task/t1", "accuracy@0", "accuracy@16", "turns", "dialogues", "turns/think", "turns/no_think",
    }  # fmt: skip


def test_a_paired_interval_is_what_a_slow_bootstrap_by_question_gives(runs: Runs) -> None:
    a, b = runs.run("a"), runs.run("b", scores=better)
    found = number(compare_runs(a, b))
    before, after = scores(a), scores(b)
    questions = sorted(before)
    mean = {q: sum(after[q]) / len(after[q]) - sum(before[q]) / len(before[q]) for q in questions}
    assert (found.basis, found.questions) == ("paired", 40)
    assert found.difference == pytest.approx(sum(mean.values()) / len(mean))
    rng, draws = random.Random(5), []
    for _ in range(8000):
        drawn = [mean[rng.choice(questions)] for _ in questions]
        draws.append(sum(drawn) / len(drawn))
    draws.sort()
    low, high = draws[int(0.025 * len(draws))], draws[int(0.975 * len(draws)) - 1]
    assert found.high > found.low > 0
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_an_unpaired_interval_draws_both_question_sets_again(runs: Runs) -> None:
    runs.rows("held.jsonl", 40)
    runs.text = runs.text.replace("prompts: held.jsonl, k", "prompts: {from: held.jsonl, n: 40}, k")
    a, b = runs.run("a"), runs.run("b", "evaluate.suites.0.prompts.0.n=25", scores=better)
    found = number(compare_runs(a, b))
    assert (found.basis, found.questions) == ("unpaired", 65)
    assert "question sets differ: 40 in A, 25 in B, 25 in both" in found.why
    before = [sum(s) / len(s) for s in scores(a).values()]
    after = [sum(s) / len(s) for s in scores(b).values()]
    assert found.difference == pytest.approx(sum(after) / 25 - sum(before) / 40)
    rng, draws = random.Random(5), []
    for _ in range(8000):
        draws.append(sum(rng.choices(after, k=25)) / 25 - sum(rng.choices(before, k=40)) / 40)
    draws.sort()
    low, high = draws[200], draws[-201]
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_intervals_are_the_same_at_every_look(runs: Runs) -> None:
    a, b = runs.run("a"), runs.run("b", scores=better)
    assert compare_runs(a, b).to_json() == compare_runs(a, b).to_json()
    assert RESAMPLES >= 1000


def test_pairing_goes_by_id_whatever_the_order(runs: Runs) -> None:
    a, b = runs.run("a"), runs.run("b", scores=better)
    before = number(compare_runs(a, b))
    edit(b, "eval-rl", lambda rows: random.Random(1).sample(rows, len(rows)))
    after = number(compare_runs(a, b))
    assert (after.basis, after.difference) == ("paired", before.difference)


def test_questions_of_one_text_stay_two(runs: Runs) -> None:
    rows = [json.loads(line) for line in (runs.folder / "held.jsonl").read_text().splitlines()]
    held = [{**row, "prompt": "7+1?"} for row in rows[:10]]
    (runs.folder / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
    found = number(compare_runs(runs.run("a"), runs.run("b")))
    assert (found.basis, found.questions) == ("paired", 10)


def test_a_missing_verdict_leaves_its_question_out_and_is_no_zero(runs: Runs) -> None:
    def silent(stage: str, question: int, sample: int) -> float | None:
        return None if question < 4 else even(stage, question, sample)

    found = number(compare_runs(runs.run("a"), runs.run("b", scores=silent)))
    assert (found.difference, found.questions) == (0.0, 36)
    assert "4 questions without a verdict in one of them are left out" in found.why
    assert found.b.n == 36


def test_completions_that_do_not_give_the_number_are_never_paired(runs: Runs) -> None:
    a, b = runs.run("a"), runs.run("b")
    edit(b, "eval-rl", lambda rows: [{**row, "score": 1.0} for row in rows])
    found = number(compare_runs(a, b))
    assert (found.basis, np.isnan(found.low), found.difference) == ("means only", True, 0.0)


def test_a_run_that_kept_no_completions_gives_its_means(runs: Runs) -> None:
    a, b = runs.run("a"), runs.run("b", scores=better)
    artifact = b / "eval-rl" / "artifact"
    (artifact / "completions.parquet").unlink()
    manifest = json.loads((artifact / "manifest.json").read_text())
    del manifest["files"]["completions.parquet"]
    (artifact / "manifest.json").write_text(json.dumps(manifest))
    found = number(compare_runs(a, b))
    assert (found.basis, found.difference) == ("means only", found.b.value - found.a.value)


# ---------------------------------------------------------------- suites that are not the same


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("evaluate.suites.0.sampling.max_tokens=128", "sampling.max_tokens 64 in A, 128 in B"),
        ("evaluate.suites.0.sampling.thinking_budget=9", "sampling.thinking_budget null in A, 9 in B"),
        ("evaluate.suites.0.rewards=exact", "rewards.0.use math in A, exact in B"),
        ("evaluate.suites.0.prompts=train.jsonl", "prompts.0.from held.jsonl in A, train.jsonl in B"),
    ],
)
def test_other_definitions_or_budgets_give_no_difference(runs: Runs, override: str, says: str) -> None:
    a, b = runs.run("a"), runs.run("b", override, scores=better)
    found = number(compare_runs(a, b))
    assert (found.basis, np.isnan(found.difference), np.isnan(found.low)) == ("suites differ", True, True)
    assert says in found.why
    assert number(compare_runs(a, b), "rl:budget:think:accuracy@0").basis == "paired"  # the other suites stay


def test_a_question_file_of_other_content_is_another_suite(runs: Runs) -> None:
    a = runs.run("a")
    text = (runs.folder / "held.jsonl").read_text()
    (runs.folder / "held.jsonl").write_text(text.replace('"answer": "8"', '"answer": "9"'))
    found = number(compare_runs(a, runs.run("b")))
    assert (found.basis, found.why) == ("suites differ", "held.jsonl doesn't hold the same in both")


def test_a_file_counts_for_the_suites_that_name_it_alone(runs: Runs) -> None:
    runs.rows("more.jsonl", 5)
    runs.text = runs.text.replace("measure: budget, prompts: held.jsonl", "measure: budget, prompts: more.jsonl")
    a = runs.run("a")
    runs.rows("more.jsonl", 6)
    compared = compare_runs(a, runs.run("b"))
    assert number(compared, "rl:budget:think:accuracy@0").basis == "suites differ"
    assert number(compared).basis == "paired"


def test_other_code_of_a_reward_is_another_suite(runs: Runs) -> None:
    code = "def grade(prompts, completions, **columns):\n    return [1.0] * len(completions)\n"
    (runs.folder / "mine.py").write_text(code)
    runs.text = runs.text.replace("prompts: held.jsonl, k: 4", 'prompts: held.jsonl, k: 4, rewards: "mine.py:grade"')
    a = runs.run("a")
    (runs.folder / "mine.py").write_text(code.replace("1.0", "0.5"))
    assert number(compare_runs(a, runs.run("b"))).why == "mine.py doesn't hold the same in both"


def test_another_model_under_one_name_is_no_other_suite(runs: Runs) -> None:
    (runs.folder / "model").mkdir()
    (runs.folder / "model" / "config.json").write_text("{}")
    suite = "{name: held-out, prompts: held.jsonl, modes: [think]}"
    runs.text = f"name: e\nstages:\n  evaluation: {{kind: evaluate, model: model, suites: [{suite}]}}\n"
    a = runs.run("a")
    (runs.folder / "model" / "config.json").write_text("{ }")
    compared = compare_runs(a, runs.run("b"))
    assert number(compared, "evaluation:held-out:think:accuracy").basis == "paired"
    assert [one.path for one in compared.recipe] == ["content of model"]


def test_a_question_that_says_something_else_is_another_suite(runs: Runs) -> None:
    a, b = runs.run("a"), runs.run("b")
    edit(
        b,
        "eval-rl",
        lambda rows: [{**row, "prompt": "?" if row["prompt_id"] == "q3" else row["prompt"]} for row in rows],
    )
    assert number(compare_runs(a, b)).why == "question q3 doesn't say the same in both"


def test_another_model_or_more_samples_leave_a_suite_what_it_is(runs: Runs) -> None:
    changes = ("stages.rl.steps=9", "evaluate.suites.0.k=2", "evaluate.suites.0.modes=[think]")
    compared = compare_runs(runs.run("a"), runs.run("b", *changes))
    found = number(compared)
    assert (found.basis, found.why) == ("paired", "k is 4 in A, 2 in B")
    assert not [n for n in compared.numbers if n.a.mode == "no_think"]


def test_two_models_that_are_no_stages_are_compared_by_their_evaluation(runs: Runs) -> None:
    """As two `posttrain eval MODEL --run-dir` leave them."""
    suite = "{name: held-out, prompts: held.jsonl, modes: [think]}"
    runs.text = f"name: e\nstages:\n  evaluation: {{kind: evaluate, model: builtin:tiny, suites: [{suite}]}}\n"
    a, b = runs.run("a"), runs.run("b", "stages.evaluation.model=builtin:oracle", scores=lambda *_: 1.0)
    compared = compare_runs(a, b)
    assert number(compared, "evaluation:held-out:think:accuracy").basis == "paired"
    assert [one.path for one in compared.recipe] == ["stages.evaluation.model.from"]


# ---------------------------------------------------------------- recipes and costs


def test_a_change_of_the_recipe_appears_with_its_path(runs: Runs) -> None:
    changes = ("stages.rl.optimizer.lr=2e-6", "stages.rl.rewards.1.gate=true", "seed=5", "cluster.learner.zero=1")
    changes = (*changes, "stages.rl.checkpoint_every=3")
    compared = compare_runs(runs.run("a"), runs.run("b", *changes))
    found = {one.path: (one.a, one.b, one.decides) for one in compared.recipe}
    assert found == {
        "seed": (17, 5, True),
        "cluster.learner.zero": (2, 1, False),
        "stages.rl.checkpoint_every": (0, 3, False),
        "stages.rl.optimizer.lr": (1e-4, 2e-6, True),
        "stages.rl.rewards.1.gate": (False, True, True),
    }


def test_stages_in_one_run_only_are_named_once(runs: Runs) -> None:
    a, text = runs.run("a"), runs.text
    runs.text = text.replace("  rl:", "  more: {kind: sft, model: cold, data: train.jsonl, steps: 2}\n  rl:")
    compared = compare_runs(a, runs.run("b"))
    assert [(one.path, one.b) for one in compared.recipe] == [("stages.more", "sft")]
    assert {cost.stage: cost.a is None for cost in compared.costs}["more"]


def test_an_item_put_first_moves_no_other(runs: Runs) -> None:
    a, b = (
        [{"use": "math", "w": 1}, {"use": "format", "w": 2}],
        [{"use": "x"}, {"use": "math", "w": 3}, {"use": "format", "w": 2}],
    )
    found = [(one.path, one.a) for one in differences({"rewards": a}, {"rewards": b}) if one.path != "rewards.[x]"]
    assert found == [("rewards.[math].w", 1)]


def test_data_of_other_content_under_one_name_is_told(runs: Runs) -> None:
    a = runs.run("a")
    runs.rows("train.jsonl", 6, first=100)
    (found,) = compare_runs(a, runs.run("b")).recipe
    assert found.path == "content of train.jsonl"


def test_costs_and_final_metrics_stand_by_stage(runs: Runs) -> None:
    compared = compare_runs(runs.run("a"), runs.run("b"))
    costs = {cost.stage: cost for cost in compared.costs}
    rl, evaluated = costs["rl"], costs["eval-rl"]
    assert rl.a is not None
    assert evaluated.b is not None
    assert (rl.a.trained, rl.a.generated, rl.metrics["reward"]) == (100, 40, (0.25, 0.25))
    assert rl.a.seconds is not None
    assert evaluated.b.generated == 40


# ---------------------------------------------------------------- as a person calls it


def test_a_pipe_gets_one_fact_a_line(runs: Runs, posttrain: Any) -> None:
    runs.run("a")
    runs.run("b", "stages.rl.steps=9", "evaluate.suites.1.sampling.max_tokens=9", scores=better)
    lines = posttrain("compare", "a", "b", cwd=runs.folder).stdout.splitlines()
    assert lines[:3] == ["A: a (r)", "B: b (r)", "recipe stages.rl.steps: 6 -> 9"]
    assert "recipe evaluate.suites.1.sampling.max_tokens: 64 -> 9" in lines
    (line,) = [line for line in lines if line.startswith("rl:held-out:think:accuracy: ")]
    found = number(compare_runs(runs.folder / "a", runs.folder / "b"))
    assert line.endswith(f"  {found.difference:+.3f} (n=40) [{found.low:+.3f}, {found.high:+.3f}]")
    assert [line for line in lines if line.startswith("rl:budget:") and line.endswith("  suites differ")]
    assert "note: rl:budget:think: suites differ: sampling.max_tokens 64 in A, 9 in B" in lines


@pytest.mark.parametrize("width", [80, 160])
def test_a_terminal_gets_tables_within_its_width_and_whole_numbers(runs: Runs, width: int) -> None:
    compared = compare_runs(runs.run("a"), runs.run("b", "stages.rl.steps=9", scores=better))
    out = io.StringIO()
    print_comparison(compared, Console(file=out, force_terminal=True, color_system=None, width=width))
    tables = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines() if line[:1] in "┏┃┡│├└"]
    assert max(map(cell_len, tables)) <= width
    text = "\n".join(tables)
    assert "…" not in text
    found = number(compared)
    for part in ("stages.rl.steps", f"{found.difference:+.3f}", f"[{found.low:+.3f}, {found.high:+.3f}]", "reward"):
        assert part in text


def test_json_is_what_every_reader_takes(runs: Runs, posttrain: Any) -> None:
    runs.run("a")
    runs.run("b", "evaluate.suites.0.sampling.max_tokens=9")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    told = json.loads(posttrain("compare", "a", "b", "--json", cwd=runs.folder).stdout, parse_constant=refuse)
    assert set(told) == {"a", "b", "recipe", "numbers", "costs", "notes"}
    name = {"stage": "rl", "suite": "held-out", "mode": "think", "metric": "accuracy"}
    (row,) = [n for n in told["numbers"] if n | name == n]
    assert (row["basis"], row["difference"], row["low"]) == ("suites differ", None, None)
    assert set(row["a"]) == {"value", "low", "high", "n"}


def test_a_run_that_is_not_finished_is_compared_as_far_as_it_is(runs: Runs) -> None:
    compared = compare_runs(runs.run("a"), runs.run("b", until="eval-cold"))
    assert {n.a.stage for n in compared.numbers} == {"cold"}
    assert any(note.startswith("B isn't finished: rl (pending), eval-rl (pending)") for note in compared.notes)
    assert "evaluated in A only: rl:held-out, rl:budget, rl:flags" in compared.notes


def test_runs_without_any_number_in_common_say_so(runs: Runs) -> None:
    assert any(
        "no numbers to compare" in note for note in compare_runs(runs.run("a"), runs.run("b", until="cold")).notes
    )


def damage_completions(run: Path) -> None:
    path = run / "eval-rl" / "artifact" / "completions.parquet"
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("harm", "says", "fix"),
    [
        (shutil.rmtree, "this isn't a run folder: it has no plan.json", "posttrain run"),
        (lambda run: (run / "resolved.yaml").unlink(), "resolved.yaml: can't read the recipe", "run its recipe again"),
        (lambda run: (run / "resolved.yaml").write_text("a: ["), "can't read the recipe", "run its recipe again"),
        (lambda run: (run / "resolved.yaml").write_text("[]"), "it has no stages", "run its recipe again"),
        (damage_completions, "the evaluation `eval-rl` is damaged: completions.parquet has", "--force eval-rl"),
        (lambda run: (run / "eval-rl" / "spec.json").unlink(), "spec.json says nothing of suites", "--force eval-rl"),
    ],
)
def test_what_cannot_be_read_is_said_with_what_to_do(runs: Runs, harm: Any, says: str, fix: str) -> None:
    a, b = runs.run("a"), runs.run("b")
    harm(b)
    with pytest.raises(InputError) as caught:
        compare_runs(a, b)
    assert says in str(caught.value)
    assert fix in (caught.value.fix or "")
    assert caught.value.where is not None


def test_a_wrong_folder_exits_2_without_a_traceback(runs: Runs, posttrain: Any) -> None:
    runs.run("a")
    done = posttrain("compare", "a", "nowhere", cwd=runs.folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: nowhere: this isn't a run folder")
