"""A file with a prompt that no model can answer, too long or answered: what checks and stages make of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.configs.load import load_recipe
from posttrain.errors import DataError
from posttrain.pipelines.planning.plan import make_plan
from posttrain.pipelines.preflight.data_checks import check_data

SKIPPING = "{from: rows.jsonl, on_bad_row: skip, max_bad_share: 0.5}"
RL = "  rl: {{kind: grpo, model: base, prompts: {}, rewards: math, prompts_per_step: 2, group_size: 2, steps: 1, {}}}\n"
SHORT = "sampling: {max_tokens: 4}"


def recipe(folder: Path, stages: str, more: str = "") -> Path:
    """Of two prompts the second fills the tiny model's context."""
    rows = [{"prompt": "1+1? " * n, "answer": "2"} for n in (1, 1500)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "r.yaml").write_text(f"name: r\nbase: builtin:tiny\nstages:\n{stages}{more}")
    return folder / "r.yaml"


def check(path: Path) -> None:
    loaded = load_recipe(path)
    check_data(loaded, make_plan(loaded, path.parent / "run"))


def test_a_few_may_be_skipped_before_the_run_as_in_it(run: Callable[[Path], tuple[int, str]], tmp_path: Path) -> None:
    code, said = run(recipe(tmp_path, RL.format(SKIPPING, SHORT)))
    assert code == 0, said
    assert "rl: rows.jsonl: skipped 1 malformed or too long rows" in said
    (line,) = (tmp_path / "run" / "rl" / "metrics.jsonl").read_text().splitlines()
    assert 0 < json.loads(line)["generated_tokens"] <= 2 * 2 * 4


def test_more_than_a_source_may_skip_are_told_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rl: 1 of 2 rows are malformed or too long.*: a prompt of \d+ tokens"):
        check(recipe(tmp_path, RL.format(SKIPPING.replace("0.5", "0.4"), SHORT)))


def test_malformed_and_long_rows_count_together_before_the_run_too(tmp_path: Path) -> None:
    path = recipe(tmp_path, RL.format(SKIPPING, SHORT))
    lines = ['{"prompt": ', *[json.dumps({"prompt": "1+1?", "answer": "2"})] * 2]
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write("\n".join(lines) + "\n")
    check(path)  # 2 of 5
    path.write_text(path.read_text().replace("max_bad_share: 0.5", "max_bad_share: 0.3"))
    with pytest.raises(DataError, match="2 of 5 rows are malformed or too long"):
        check(path)


def test_questions_of_a_watch_are_looked_at_too(tmp_path: Path) -> None:
    path = recipe(tmp_path, RL.format("builtin:arithmetic", SHORT + ", watch: {prompts: rows.jsonl}"))
    with pytest.raises(DataError, match=r"rl: a prompt of \d+ tokens"):
        check(path)


@pytest.mark.parametrize("kind", ["grpo", "sample", "distill"])
def test_training_data_are_no_prompts(tmp_path: Path, kind: str) -> None:
    path = recipe(tmp_path, f"  x: {{kind: {kind}, model: base, prompts: rows.jsonl, OF, {SHORT}}}\n")
    own = {"grpo": "rewards: math", "sample": "n: 1", "distill": "teacher: base"}[kind]
    path.write_text(path.read_text().replace("OF", own))
    done = {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}], "answer": "2"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(done) + "\n")
    with pytest.raises(DataError, match=r"x: the prompt ends with an assistant's turn.*") as told:
        check(path)
    assert str(told.value.where).startswith("rows.jsonl: row 1")


def test_an_evaluation_asks_all_or_none(tmp_path: Path) -> None:
    suites = f"evaluate:\n  suites: [{{name: sums, prompts: {SKIPPING}, {SHORT}}}]\n  after: [rl]\n"
    with pytest.raises(DataError, match=r"a prompt of \d+ tokens") as told:
        check(recipe(tmp_path, RL.format(SKIPPING, SHORT), suites))
    assert "on_bad_row" not in told.value.fix
