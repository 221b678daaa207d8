"""What `compare` must not confuse: questions, sides, versions, evaluations; and what it must not be sure of."""

from __future__ import annotations

import io
import json
import random
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from posttrain.errors import InputError
from posttrain.pipelines.compare import Comparison, compare_runs
from posttrain.pipelines.compare.numbers import ComparedNumber
from posttrain.pipelines.compare.tables import print_comparison
from posttrain.pipelines.graph.keys import Hashes
from posttrain.pipelines.records.ledger import Ledger
from posttrain.pipelines.records.results import Figure

from ..comparing import Runs, better, edit, even, make_runs, number


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_runs: Any) -> Runs:
    return make_runs(tmp_path, monkeypatch, kept_runs)


def varied(stage: str, question: int, sample: int) -> float | None:
    """Each question has a mean of its own."""
    return random.Random(f"{question} {sample}").random()


def varied_better(stage: str, question: int, sample: int) -> float | None:
    """As `varied`, and a little more, by question."""
    return (varied(stage, question, sample) or 0.0) + 0.01 + 0.02 * (question % 7)


def printed(compared: Comparison, *, terminal: bool = False, width: int = 200) -> str:
    out = io.StringIO()
    print_comparison(compared, Console(file=out, force_terminal=terminal, width=width))
    return out.getvalue()


def sign(run: Path, name: str, file: str) -> None:
    """Make the manifest say what the file holds now."""
    artifact = run / name / "artifact"
    manifest = json.loads((artifact / "manifest.json").read_text())
    manifest["files"][file] = {"size": (artifact / file).stat().st_size, "sha256": Hashes().file(artifact / file)}
    (artifact / "manifest.json").write_text(json.dumps(manifest))


def change_table(run: Path, **values: Any) -> None:
    """Another value in the row of the number that `number` looks for."""
    path = run / "eval-rl" / "artifact" / "table.json"
    table = json.loads(path.read_text())
    wanted = {"suite": "held-out", "mode": "think", "metric": "accuracy"}
    (row,) = [row for row in table["rows"] if row | wanted == row]
    row |= values
    path.write_text(json.dumps(table))
    sign(run, "eval-rl", "table.json")


# ---------------------------------------------------------------- questions


def test_each_question_is_paired_with_itself_whatever_the_order(runs: Runs) -> None:
    a, b = runs.run("a", scores=varied), runs.run("b", scores=varied_better)
    before = number(compare_runs(a, b))
    assert 0 < before.low < before.high < 0.2  # questions differ by far more than this between each other
    edit(b, "eval-rl", lambda rows: random.Random(1).sample(rows, len(rows)))
    after = number(compare_runs(a, b))
    found, expected = [(n.difference, n.low, n.high) for n in (after, before)]
    assert after.basis == "paired"
    assert found == pytest.approx(expected)


def test_completions_that_nearly_give_the_number_are_not_it(runs: Runs) -> None:
    a, b = runs.run("a"), runs.run("b")

    def one_more(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        at = next(i for i, r in enumerate(rows) if (r["suite"], r["ask"], r["score"]) == ("held-out", "think", 0.0))
        return [{**row, "score": 1.0} if i == at else row for i, row in enumerate(rows)]

    edit(b, "eval-rl", one_more)
    assert number(compare_runs(a, b)).basis == "means only"


def test_completions_of_more_questions_than_the_table_counts_are_not_it(runs: Runs) -> None:
    a, b = runs.run("a"), runs.run("b")
    change_table(b, n=39)
    assert number(compare_runs(a, b)).basis == "means only"


def test_runs_of_versions_that_read_recipes_differently_are_not_compared(runs: Runs) -> None:
    a, b = runs.run("a"), runs.run("b")
    path = b / "eval-rl" / "spec.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": -1}))
    found = number(compare_runs(a, b))
    assert (found.basis, found.why) == ("suites differ", "they were made by versions that read a recipe differently")


def test_of_two_evaluations_of_a_stage_on_one_suite_the_first_counts(runs: Runs) -> None:
    again = "again: {kind: evaluate, model: rl, suites: [{name: held-out, prompts: train.jsonl, modes: [think]}]}"
    runs.text = runs.text.replace("evaluate:\n", f"  {again}\nevaluate:\n")
    a, b = runs.run("a"), runs.run("b")
    stages = json.loads((a / "plan.json").read_text())["stages"]
    first = next(stage["name"] for stage in stages if stage["evaluates"] == "rl")
    assert number(compare_runs(a, b)).questions == {"eval-rl": 40, "again": 5}[first]


# ---------------------------------------------------------------- what judges and asks

JUDGED = """name: r
base: {model}
stages:
  judge: {{kind: sft, model: base, data: train.jsonl, steps: 4}}
  rl: {{kind: grpo, model: base, prompts: train.jsonl, rewards: math, steps: 6}}
evaluate:
  suites:
    - name: held-out
      prompts: held.jsonl
      rewards: {{use: judge_rubric, params: {{rubric: "It is right."}}, judge: {{from: {by}}}}}
    - {{name: plain, prompts: held.jsonl}}
  after: [rl]
"""


def judged(runs: Runs, by: str, *overrides: str) -> Comparison:
    """Two runs whose suite `held-out` is judged by `by`, which differs; suite `plain` asks no model."""
    (runs.folder / "model").mkdir()
    config = runs.folder / "model" / "config.json"
    config.write_text("{}")
    runs.text = JUDGED.format(model="model" if by in ("base", "model") else "builtin:tiny", by=by)
    a = runs.run("a")
    if by in ("base", "model"):
        config.write_text("{ }")
    return compare_runs(a, runs.run("b", *overrides))


@pytest.mark.parametrize(
    ("by", "overrides", "says"),
    [
        ("judge", ("stages.judge.steps=9",), "it takes `judge` for its questions or verdicts, which isn't the same"),
        ("base", (), "it takes the base model for its verdicts, which isn't the same in both"),
        ("model", (), "model doesn't hold the same in both"),
        ("rl", ("stages.rl.steps=9",), "it takes `rl` for its questions or verdicts"),
    ],
)
def test_numbers_of_another_judge_are_never_paired(runs: Runs, by: str, overrides: tuple[str, ...], says: str) -> None:
    compared = judged(runs, by, *overrides)
    found = number(compared, "rl:held-out:default:accuracy")
    assert (found.basis, np.isnan(found.difference)) == ("suites differ", True)
    assert says in found.why
    assert number(compared, "rl:plain:default:accuracy").basis == "paired"


def test_the_same_judge_is_no_other_suite(runs: Runs) -> None:
    compared = judged(runs, "judge", "stages.rl.steps=9")
    assert number(compared, "rl:held-out:default:accuracy").basis == "paired"


def test_questions_from_another_stage_are_another_suite(runs: Runs) -> None:
    runs.text = runs.text.replace("  cold:", "  asked: {kind: curate, prompts: held.jsonl}\n  cold:")
    runs.text = runs.text.replace("{name: held-out, prompts: held.jsonl", "{name: held-out, prompts: asked")
    runs.data = (runs.folder / "held.jsonl").read_text()
    found = number(compare_runs(runs.run("a"), runs.run("b", "stages.asked.seed=9")))
    assert (found.basis, "it takes `asked`" in found.why) == ("suites differ", True)


# ---------------------------------------------------------------- sides


def test_a_and_b_keep_their_sides_everywhere(runs: Runs) -> None:
    a = runs.run("a")
    runs.reward = 0.75
    compared = compare_runs(a, runs.run("b", "stages.rl.steps=9", scores=better))
    found = number(compared)
    assert found.a.value < found.b.value
    assert {cost.stage: cost for cost in compared.costs}["rl"].metrics["reward"] == (0.25, 0.75)
    values = [f"{side.value:.3f} [{side.low:.2f}, {side.high:.2f}]" for side in (found.a, found.b)]
    piped = printed(compared)
    assert f"rl:held-out:think:accuracy: {values[0]} -> {values[1]}  +" in piped
    assert "metric rl:reward: 0.25 -> 0.75" in piped
    drawn = re.sub(r"\x1b\[[0-9;]*m", "", printed(compared, terminal=True))
    (line,) = [line for line in drawn.splitlines() if "held-out think accuracy" in line and values[1] in line]
    assert [cell.strip() for cell in line.split("│")][3:5] == values
    lines = [[cell.strip() for cell in line.split("│")] for line in drawn.splitlines()]
    assert ["reward", "0.25", "0.75"] in [line[2:5] for line in lines]


def test_packages_that_differ_are_told(runs: Runs) -> None:
    a, b = runs.run("a"), runs.run("b")
    path = b / "environment.json"
    machine = json.loads(path.read_text())
    machine["packages"]["torch"] = "0.1"
    path.write_text(json.dumps(machine))
    (found,) = compare_runs(a, b).recipe
    assert (found.path, found.b) == ("packages.torch", "0.1")


def test_a_long_value_is_cut_for_people_and_whole_in_the_json(runs: Runs) -> None:
    a, text = runs.run("a"), "It says so. " * 30
    runs.text = runs.text.replace("name: r\n", f"name: r\ndescription: '{text}'\n")
    compared = compare_runs(a, runs.run("b"))
    (line,) = [line for line in printed(compared).splitlines() if line.startswith("recipe description")]
    assert len(line) < 200
    assert "..." in line
    assert text.strip() in json.dumps(compared.to_json())


# ---------------------------------------------------------------- how sure it is


@pytest.mark.parametrize(
    ("low", "high", "clear"),
    [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (0.0, 0.1, False), (np.nan, np.nan, False)],
)
def test_a_difference_is_clear_and_bold_where_its_interval_leaves_0_out(
    runs: Runs, low: float, high: float, clear: bool
) -> None:
    side = Figure(stage="rl", suite="s", mode="think", metric="accuracy", value=0.5, low=0.4, high=0.6, n=40)
    made = ComparedNumber(a=side, b=side, basis="paired", difference=0.125, low=low, high=high, questions=40)
    assert made.clear is clear
    run = compare_runs(runs.run("a", until="cold"), runs.run("b", until="cold"))
    compared = Comparison(a=run.a, b=run.b, recipe=(), numbers=(made,), costs=(), notes=())
    (line,) = [line for line in printed(compared, terminal=True).splitlines() if "+0.125" in line]
    assert bool(re.search(r"\x1b\[1m\+0\.125", line)) is clear


@pytest.mark.parametrize(("count", "interval"), [(1, False), (9, False), (10, True)])
def test_a_few_questions_give_no_interval_and_say_how_many_they_are(runs: Runs, count: int, interval: bool) -> None:
    runs.rows("held.jsonl", count)
    compared = compare_runs(runs.run("a", scores=lambda *_: 0.0), runs.run("b", scores=lambda s, q, i: float(q != 5)))
    found = number(compared)
    assert (found.basis, found.questions, found.clear) == ("paired", count, interval)
    assert np.isnan(found.low) != interval
    (line,) = [line for line in printed(compared).splitlines() if line.startswith("rl:held-out:think:accuracy: ")]
    assert (f"{found.difference:+.3f} (n={count})" in line, line.endswith("]")) == (True, interval)


def test_questions_that_all_differ_by_the_same_give_no_interval(runs: Runs) -> None:
    found = number(compare_runs(runs.run("a", scores=lambda *_: 0.0), runs.run("b", scores=lambda *_: 1.0)))
    assert (found.difference, found.questions, np.isnan(found.low), found.clear) == (1.0, 40, True, False)


def test_verdicts_that_one_side_lacks_are_counted_and_called_out(runs: Runs) -> None:
    """Where a scorer gives none on wrong answers only, the mean rises by that alone."""

    def silent(stage: str, question: int, sample: int) -> float | None:
        return even(stage, question, sample) or (None if sample < 3 else 0.0)

    compared = compare_runs(runs.run("a"), runs.run("b", scores=silent))
    found = number(compared)
    lost = found.missing[1]
    assert found.missing[0] == 0 < lost < 160
    assert f"no verdict on 0 of 160 samples in A, {lost} of 160 in B" in found.why
    assert f"note: rl:held-out:think: paired: no verdict on 0 of 160 samples in A, {lost} of 160" in printed(compared)
    assert number(compared, "rl:held-out:think:tokens").why == ""
    assert {"a": 0, "b": lost} in [n["missing"] for n in compared.to_json()["numbers"]]


def test_a_number_that_nothing_gave_is_no_verdict(runs: Runs) -> None:
    compared = compare_runs(runs.run("a"), runs.run("b", scores=lambda *_: None))
    (line,) = [line for line in printed(compared).splitlines() if line.startswith("rl:held-out:think:accuracy: ")]
    assert line.endswith(" -> no verdict  no verdict")
    for terminal in (True, False):
        assert not re.search(r"\bnan\b", printed(compared, terminal=terminal))


# ---------------------------------------------------------------- what isn't done, or damaged


def test_a_stage_that_is_not_done_has_no_final_metrics(runs: Runs) -> None:
    a, b = runs.run("a"), runs.run("b", until="cold")
    (b / "rl").mkdir()
    (b / "rl" / "metrics.jsonl").write_text('{"step": 2, "reward": 0.125}\n')
    compared = compare_runs(a, b)
    rl = {cost.stage: cost for cost in compared.costs}["rl"]
    assert (rl.b, rl.metrics["reward"]) == (None, (0.25, None))
    assert "`posttrain run` on its recipe goes on from there" in " ".join(compared.notes)


def test_a_run_that_goes_on_is_not_to_be_started_again(runs: Runs) -> None:
    a, b = runs.run("a"), runs.run("b", until="cold")
    with ExitStack() as held:
        held.enter_context(Ledger(b).lock())
        notes = " ".join(compare_runs(a, b).notes)
    assert "B is running: eval-cold (pending), rl (pending)" in notes
    assert "posttrain run" not in notes


@pytest.mark.parametrize("file", ["table.json", "completions.parquet"])
def test_a_damaged_file_of_the_same_size_is_named_with_what_mends_it(runs: Runs, file: str) -> None:
    a, b = runs.run("a"), runs.run("b")
    path = b / "eval-cold" / "artifact" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(InputError) as caught:
        compare_runs(a, b)
    assert file in str(caught.value)
    assert "--force eval-cold" in (caught.value.fix or "")


def test_completions_that_were_written_wrong_are_named_with_what_mends_them(runs: Runs) -> None:
    a, b = runs.run("a"), runs.run("b")
    (b / "eval-cold" / "artifact" / "completions.parquet").write_bytes(b"PAR1 and no more")
    sign(b, "eval-cold", "completions.parquet")
    with pytest.raises(InputError, match="the evaluation `eval-cold` is damaged: can't be read as Parquet") as caught:
        compare_runs(a, b)
    assert "--force eval-cold" in (caught.value.fix or "")
