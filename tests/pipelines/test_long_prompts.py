"""A file with a prompt that leaves its completion no room: what checks and stages make of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.configs.load import load_recipe
from posttrain.errors import DataError
from posttrain.pipelines.checks import check_data
from posttrain.pipelines.plan import make_plan

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
    with pytest.raises(DataError, match=r"1 of 2 rows are malformed or too long.*rl: a prompt of \d+ tokens"):
        check(recipe(tmp_path, RL.format(SKIPPING.replace("0.5", "0.4"), SHORT)))


def test_an_evaluation_asks_all_or_none(tmp_path: Path) -> None:
    suites = f"evaluate:\n  suites: [{{name: sums, prompts: {SKIPPING}, {SHORT}}}]\n  after: [rl]\n"
    with pytest.raises(DataError, match=r"a prompt of \d+ tokens") as told:
        check(recipe(tmp_path, RL.format(SKIPPING, SHORT), suites))
    assert "on_bad_row" not in told.value.fix
