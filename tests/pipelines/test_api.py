"""The Python interface, against one small run with real models."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import posttrain
from posttrain import api
from posttrain.configs.load import load_recipe, packaged_recipes, recipe_from_data
from posttrain.errors import InputError, RecipeError, RewardError, RunError, Stopped
from posttrain.stages.context import StageContext

RIGHT = "<think>\n2+2=4\n</think>\n\n\\boxed{4}"
SMALLER = {
    "stages.demonstrations.prompts.0.n": 12,
    "stages.cold_start.steps": 2,
    "stages.cold_start.batch_size": 4,
    "stages.reasoning_rl.steps": 2,
    "stages.reasoning_rl.prompts_per_step": 2,
    "stages.reasoning_rl.group_size": 2,
    "stages.reasoning_rl.sampling.max_tokens": 16,
    "evaluate.suites.0.prompts.0.n": 2,
    "evaluate.suites.0.sampling.max_tokens": 16,
    "evaluate.after": ["reasoning_rl"],
    "logging.rollouts_every": 1,
    "thresholds": ["reasoning_rl:sums:default:accuracy >= 2"],
}


@pytest.fixture(scope="session")
def tiny(kept_run: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> posttrain.Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("posttrain.pipelines.running.run.run_recipe", kept_run)
        return posttrain.run("starter", SMALLER, run_dir=tmp_path_factory.mktemp("api") / "run", quiet=True)


def test_import_loads_nothing_heavy_and_is_instant() -> None:
    script = (
        "import sys, time\nbegan = time.process_time()\nimport posttrain\ntook = time.process_time() - began\n"
        "heavy = ('torch', 'ray', 'transformers', 'datasets', 'pandas', 'numpy', 'pydantic', 'yaml', 'typer')\n"
        "print(took < 0.2, [name for name in heavy if name in sys.modules], posttrain.__version__)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.split(maxsplit=1) == ["True", f"[] {posttrain.__version__}\n"], done.stderr


def test_the_package_has_every_name_of_the_interface() -> None:
    assert sorted(posttrain._API) == sorted(api.__all__)
    assert all(getattr(posttrain, name) is getattr(api, name) for name in api.__all__)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = posttrain.nothing_like_it


def test_a_run_has_results_stages_models_and_thresholds(tiny: posttrain.Run) -> None:
    assert tiny.name == "starter"
    assert [stage.state for stage in tiny.stages.values()] == ["done"] * 4
    accuracy = tiny.results.query("stage == 'reasoning_rl' and metric == 'accuracy'")
    assert list(accuracy.columns) == ["stage", "suite", "mode", "metric", "value", "low", "high", "n"]
    assert accuracy["n"].tolist() == [2]
    assert not tiny.passed
    assert tiny.missed[0].startswith("reasoning_rl:sums:default:accuracy >= 2")
    assert tiny.model == tiny.stages["reasoning_rl"].model == tiny.path / "reasoning_rl" / "artifact"
    assert tiny.report.is_file()


def test_a_stage_has_metrics_rollouts_and_rows(tiny: posttrain.Run) -> None:
    rl = tiny.stages["reasoning_rl"]
    assert (rl.kind, rl.steps) == ("grpo", (1, 2))
    assert rl.metrics["step"].tolist() == [1, 2]
    rollouts = rl.rollouts(1)
    assert len(rollouts) == 4
    assert {"prompt", "text", "score", "advantage", "reward/math", "reward/format"} <= {*rollouts.columns}
    assert rl.rollouts().equals(rl.rollouts(2))
    assert len(tiny.stages["demonstrations"].rows) == 12


def test_what_a_stage_lacks_is_an_error_that_says_so(tiny: posttrain.Run) -> None:
    with pytest.raises(InputError, match="saved steps: 1, 2"):
        tiny.stages["reasoning_rl"].rollouts(7)
    with pytest.raises(InputError, match="saved no rollouts"):
        tiny.stages["cold_start"].rollouts()
    with pytest.raises(InputError, match="has no model"):
        _ = tiny.stages["demonstrations"].model
    with pytest.raises(InputError, match="has no data"):
        _ = tiny.stages["reasoning_rl"].rows


def test_a_notebook_shows_the_pipeline_and_the_table(tiny: posttrain.Run) -> None:
    shown = tiny._repr_html_()
    assert "<svg" in shown
    assert "accuracy" in shown
    assert "<script" not in shown


def test_open_run_refuses_other_folders(tiny: posttrain.Run, tmp_path: Path) -> None:
    assert posttrain.open_run(tiny.path).results.equals(tiny.results)
    with pytest.raises(InputError, match="run folder"):
        posttrain.open_run(tmp_path)


def test_a_finished_run_is_reused_by_any_form_of_its_recipe(tiny: posttrain.Run) -> None:
    data = posttrain.read_recipe("starter", SMALLER)
    for form in (data, load_recipe("starter", api._overrides(SMALLER)).recipe):
        made = posttrain.plan(form, run_dir=tiny.path, check=True)
        assert [stage.action for stage in made.stages] == ["reuse"] * 4


@pytest.mark.parametrize("name", packaged_recipes())
def test_every_packaged_recipe_survives_being_read_as_data(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_recipe(name)
    data = posttrain.read_recipe(name)
    assert recipe_from_data(data, loaded.recipe_dir, "<test>").recipe == loaded.recipe


def test_a_recipe_is_edited_in_python() -> None:
    recipe = posttrain.read_recipe("starter")
    recipe["stages"]["reasoning_rl"]["group_size"] = 5
    made = posttrain.plan(recipe, {"stages.reasoning_rl.steps": 3}, run_dir="nowhere")
    spec: Any = next(stage.node.spec for stage in made.stages if stage.name == "reasoning_rl")
    assert (spec.group_size, spec.steps) == (5, 3)
    assert posttrain.read_recipe("starter")["stages"]["reasoning_rl"].get("group_size") is None
    recipe["stages"]["reasoning_rl"]["stpes"] = 5
    with pytest.raises(RecipeError, match="did you mean `steps`"):
        posttrain.plan(recipe)
    with pytest.raises(InputError, match="not a int"):
        posttrain.plan(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not a text"):
        posttrain.plan("starter", "stages.reasoning_rl.steps=3")


def test_a_run_that_fails_raises(runner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(context: StageContext) -> None:
        if context.name == "rl":
            raise reasons[-1]

    reasons: list[Exception] = [RuntimeError("no memory"), Stopped("asked to")]
    runner.during = fail
    monkeypatch.setattr("posttrain.pipelines.running.run.run_recipe", lambda *arguments, **options: runner.run())
    with pytest.raises(Stopped, match="resumes"):
        posttrain.run(runner.recipe, run_dir=runner.run_dir)
    reasons.pop()
    with pytest.raises(RunError, match="`rl` failed: RuntimeError: no memory"):
        posttrain.run(runner.recipe, run_dir=runner.run_dir)


def test_one_completion_or_many_are_scored() -> None:
    assert posttrain.score("math", completion=RIGHT, answer="4").value == 1.0
    many = posttrain.score("math", completion=[RIGHT, "\\boxed{5}"], answer=["4", "4"])
    assert [found.value for found in many] == [1.0, 0.0]
    assert posttrain.score("regex", completion="4", params={"pattern": "[0-9]", "full": True}).value == 1.0


def test_a_function_is_scored_as_a_run_calls_it(tmp_path: Path) -> None:
    def right(prompts: Any, completions: Any, answer: Any, **columns: Any) -> list[float | None]:
        assert prompts[0][-1]["content"] == "2+2?"
        return [None if a is None else float(a in c[-1]["content"]) for c, a in zip(completions, answer, strict=True)]

    found = posttrain.score(right, prompt="2+2?", completion=["4", "5", "6"], answer=["4", "4", None])
    assert [(one.value, one.status) for one in found] == [(1.0, "ok"), (0.0, "ok"), (None, "not_applicable")]

    def compute_score(data_source: Any, solution_str: str, ground_truth: str, extra_info: Any) -> float:
        return float(solution_str == ground_truth)

    assert posttrain.score(compute_score, completion="4", answer="4").value == 1.0
    assert posttrain.score(compute_score, completion="4").status == "infra_error"
    (tmp_path / "mine.py").write_text("def half(prompts, completions, **c):\n    return [0.5 for _ in completions]\n")
    assert posttrain.score("mine.py:half", completion="4", recipe_dir=tmp_path).value == 0.5


def test_wrong_scoring_says_what_is_wrong() -> None:
    with pytest.raises(InputError, match="there is no reward 'maths'"):
        posttrain.score("maths", completion="4", answer="4")
    with pytest.raises(InputError, match="column 'answer'"):
        posttrain.score("math", completion="4")
    with pytest.raises(InputError, match="each of the 2 completions"):
        posttrain.score("math", completion=["4", "5"], answer="4")

    def broken(prompts: Any, completions: Any) -> list[float]:
        raise KeyError("gold")

    with pytest.raises(RewardError, match="KeyError"):
        posttrain.score(broken, completion="4")


def test_a_model_answers_one_question_or_many(tiny: posttrain.Run) -> None:
    one = posttrain.generate(tiny.model, "What is 2+2?", thinking=False, max_tokens=8)
    assert (one.thinking, one.tokens <= 8) == ("", True)
    assert len(posttrain.generate(tiny.model, ["What is 2+2?", "What is 3+3?"], max_tokens=4)) == 2
    with pytest.raises(InputError, match="no effect"):
        posttrain.generate(tiny.model, "?", thinking=False, thinking_budget=3)
    with pytest.raises(InputError):
        posttrain.generate("nowhere", "?")


def test_distill_runs_both_phases(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def finished(loaded: Any, run_dir: Path, **options: Any) -> int:
        asked.append(loaded.recipe.stages)
        return 143

    monkeypatch.setattr("posttrain.pipelines.running.run.run_recipe", finished)
    with pytest.raises(Stopped):
        posttrain.distill("builtin:tiny", "builtin:tiny-mini", "builtin:arithmetic", steps=3, run_dir=tmp_path / "d")
    assert [stage.kind for stage in asked[0].values()] == ["sample", "sft", "distill"]
    assert asked[0]["on_policy"].steps == 3
