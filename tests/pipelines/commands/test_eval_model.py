"""`posttrain eval`: suites by name, of a recipe, of a file; what the command line changes; what it refuses."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import InputError
from posttrain.pipelines.commands.eval_model import Changes, evaluation, harness_lines, packaged_suites
from posttrain.pipelines.graph.dag import build_dag
from posttrain.stages.data.load import load_rows
from posttrain.stages.models.locations import Locations

RECIPE = """name: r
base: builtin:tiny
stages:
  cold: {kind: sft, model: base, data: a.jsonl}
evaluate:
  suites: [{name: mine, prompts: a.jsonl, k: 2}]
"""


def suites(*names: str, **changes: Any) -> list[Any]:
    return list(evaluation("builtin:tiny", names, Changes(**changes)).recipe.stages["evaluation"].suites)  # type: ignore[union-attr]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "r.yaml").write_text(RECIPE)
    for place in (tmp_path, tmp_path / "deep"):
        (place / "a.jsonl").write_text('{"prompt": "1+1?", "answer": "2"}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", packaged_suites())
def test_every_packaged_suite_asks_held_out_questions(name: str, folder: Path) -> None:
    loaded = evaluation("builtin:tiny", [name], Changes(n=2))
    assert build_dag(loaded)
    for suite in loaded.recipe.stages["evaluation"].suites:  # type: ignore[union-attr]
        assert suite.sampling.temperature is None  # the report's, by mode
        for source in suite.prompts:
            if source.source.startswith("builtin:"):
                assert source.split == "heldout"
                assert len(load_rows(source, locations=Locations(recipe_dir=folder), seed=1)) == 2


def test_a_file_is_a_suite_of_its_rows(folder: Path) -> None:
    (suite,) = suites("a.jsonl")
    assert (suite.name, suite.prompts[0].source, suite.rewards[0].use) == ("a", str(folder / "a.jsonl"), "math")


def test_a_suite_of_a_recipe_keeps_its_paths(folder: Path) -> None:
    loaded = evaluation("builtin:tiny", ["deep/r.yaml:mine"], Changes())
    assert loaded.recipe_dir == folder / "deep"
    assert loaded.recipe.stages["evaluation"].suites[0].k == 2  # type: ignore[union-attr]


def test_the_command_line_changes_a_suite(folder: Path) -> None:
    (suite,) = suites("sums", k=16, n=5, modes=("think", "no_think"), max_tokens=9, rewards=("exact",))
    assert (suite.k, suite.pass_at, suite.modes) == (16, (1, 4, 16), ("think", "no_think"))
    assert (suite.prompts[0].n, suite.sampling.max_tokens, suite.rewards[0].use) == (5, 9, "exact")
    assert suites("sums", k=6)[0].pass_at == (1, 4, 6)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("smus", "no suite 'smus'; did you mean `sums`"),
        ("deep/r.yaml:mien", "no suite 'mien'; did you mean `mine`"),
        ("nowhere.yaml:mine", "no such recipe"),
        ("nowhere.jsonl", "there is no file"),
    ],
)
def test_a_suite_that_is_not_there_is_refused(folder: Path, name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        build_dag(evaluation("builtin:tiny", [name], Changes()))


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_a_missing_harness_is_named_with_what_installs_it() -> None:
    from posttrain.pipelines.commands.eval_harness import require

    with pytest.raises(InputError, match=r"pip install 'posttrain\[lm-eval\]'"):
        require()


TASK = """task: local_sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n\\n"], max_gen_toks: 4, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


needs_harness = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs posttrain[lm-eval]")


@needs_harness
def test_the_harness_runs_a_task_of_a_file(tmp_path: Path) -> None:
    from posttrain.pipelines.commands.eval_harness import evaluate

    rows = [{"question": f"{i}+{i}=?", "answer": str(2 * i)} for i in range(3)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "task.yaml").write_text(TASK.format(data=tmp_path / "q.jsonl"))
    (found,) = evaluate("builtin:tiny", [str(tmp_path / "task.yaml")], limit=None)
    assert (found["suite"], found["metric"], found["n"]) == ("lm-eval:local_sums", "exact_match", 3)
    assert found["low"] <= found["value"] <= found["high"]
    with pytest.raises(InputError, match="no task 'nonsense_xyz'"):
        evaluate("builtin:tiny", ["nonsense_xyz"], limit=None)


@needs_harness
def test_a_task_whose_data_cannot_be_had_is_said(tmp_path: Path) -> None:
    from posttrain.pipelines.commands.eval_harness import evaluate

    (tmp_path / "task.yaml").write_text(TASK.format(data=tmp_path / "nowhere.jsonl"))
    with pytest.raises(InputError, match="can't load builtin:tiny or the data of local_sums"):
        evaluate("builtin:tiny", [str(tmp_path / "task.yaml")], limit=None)


@needs_harness
def test_the_harness_in_a_pipe_draws_no_bars_and_stands_beside_our_suites(tmp_path: Path) -> None:
    rows = [{"question": f"{i}+{i}=?", "answer": str(2 * i)} for i in range(3)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "task.yaml").write_text(TASK.format(data=tmp_path / "q.jsonl"))
    command = [sys.executable, "-m", "posttrain", "eval", "builtin:tiny", "--suite", "lm-eval:task.yaml"]
    done = subprocess.run([*command, "--suite", "sums", "--n", "2"], capture_output=True, cwd=tmp_path, timeout=250)
    assert done.returncode == 0, done.stderr
    assert re.findall(rb"[\x00-\x08\x0b-\x1f\x7f]", done.stdout + done.stderr) == []
    assert re.search(rb"^lm-eval:local_sums:exact_match = 0\.\d+ \[.*\] \(n=2\)$", done.stdout, re.M)
    assert re.search(rb"^builtin:tiny:sums:default:accuracy = ", done.stdout, re.M)


def test_rows_of_the_harness_are_told_with_their_intervals_and_ours_are_not_told_twice() -> None:
    row = {"suite": "lm-eval:t", "mode": "default", "metric": "acc", "value": 0.5, "low": 0.25, "high": 0.75, "n": 9}
    unsure = row | {"metric": "f1", "low": None, "high": None}
    assert harness_lines([row | {"suite": "sums"}, row, unsure]) == [
        "lm-eval:t:acc = 0.500 [0.25, 0.75] (n=9)", "lm-eval:t:f1 = 0.500 (n=9)",
    ]  # fmt: skip
