"""A kind of stage that a user brings: checked, planned, run, resumed and reported like the packaged ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from posttrain.configs.load import load_recipe
from posttrain.configs.loading.editors import json_schema
from posttrain.errors import DataError, RecipeError
from posttrain.pipelines.graph.dag import build_dag
from posttrain.pipelines.planning.plan import make_plan
from posttrain.pipelines.preflight.data_checks import check_data

STAGE = '''
from pydantic import Field

from posttrain.configs.nodes.declaration import Declaration, source_inputs
from posttrain.configs.nodes.inputs import PromptSource
from posttrain.configs.nodes.stage import StageBase
from posttrain.stages.context import StageContext, StageResult
from posttrain.stages.data.load import load_all
from posttrain.stages.data.store import write_rows


class Shout(StageBase):
    """Prompts in capital letters."""

    prompts: tuple[PromptSource, ...]
    marks: int = Field(1, ge=0, description="exclamation marks")

    def declare(self) -> Declaration:
        return Declaration(gives="data", inputs=source_inputs("prompts", self.prompts, "prompts"))


def run(context: StageContext) -> StageResult:
    prompts = [prompt for found in load_all(context, context.spec.prompts) for prompt in found]
    context.progress.start(len(prompts))
    for number, prompt in enumerate(prompts):
        context.check_stop()
        context.metrics.write(number, {"length": len(prompt.messages[-1]["content"])})
    rows = [
        {**prompt.columns, "prompt": prompt.messages[-1]["content"].upper() + "!" * context.spec.marks}
        for prompt in prompts
    ]
    write_rows(context.artifact_dir, rows)
    return StageResult(kind="data", metrics={"rows": float(len(rows))})
'''
RECIPE = """name: own
base: builtin:tiny
stages:
  loud: {kind: "shout.py:Shout", prompts: rows.jsonl, marks: 2}
  copied: {kind: curate, prompts: loud, rules: []}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "shout.py").write_text(STAGE)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1+1?", "answer": "2"}\n{"prompt": "two?", "answer": "3"}\n')
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path / "r.yaml"


def edited(recipe: Path, old: str, new: str) -> Path:
    assert old in recipe.read_text()
    recipe.write_text(recipe.read_text().replace(old, new))
    return recipe


def refusal(recipe: Path, *overrides: str) -> RecipeError:
    with pytest.raises(RecipeError) as error:
        load_recipe(recipe, overrides)
    return error.value


def test_its_fields_are_checked_by_its_class_with_file_and_line(recipe: Path) -> None:
    assert "marks" in refusal(edited(recipe, "marks: 2", "marks: -2")).what
    what = refusal(edited(recipe, "marks: -2", "mark: 2")).what
    assert "r.yaml:4" in what
    assert "did you mean `marks`?" in what


def test_overrides_and_short_forms_know_its_fields(recipe: Path) -> None:
    loaded = load_recipe(recipe, ["stages.loud.marks=3", "stages.loud.prompts=builtin:arithmetic"])
    assert loaded.resolved["stages"]["loud"]["marks"] == 3
    assert loaded.resolved["stages"]["loud"]["prompts"][0]["from"] == "builtin:arithmetic"
    assert "no such key" in refusal(recipe, "stages.loud.steps=3").what


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("shout.py", "shut.py", "there is no file"),
        (":Shout", ":Shot", "the file has no class Shot"),
        (":Shout", ":Field", "isn't a subclass"),
    ],
)
def test_a_kind_that_leads_nowhere_is_refused_where_the_recipe_names_it(
    recipe: Path, old: str, new: str, says: str
) -> None:
    error = refusal(edited(recipe, old, new))
    assert says in error.what
    assert error.where == f"{recipe}:4"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("def declare", "def declares", "has no `declare`"),
        ("def run(", "def runs(", "no function `run(context)`"),
        ("from pydantic import Field", "import nothing_of_this_name", "can't be imported: ModuleNotFoundError"),
    ],
)
def test_a_file_that_makes_no_stage_is_refused(recipe: Path, old: str, new: str, says: str) -> None:
    file = recipe.parent / "shout.py"
    file.write_text(STAGE.replace(old, new))
    assert says in refusal(recipe).what


def test_it_has_its_place_in_the_graph_and_its_rows_are_checked(recipe: Path) -> None:
    loaded = load_recipe(recipe)
    assert list(build_dag(loaded)) == ["loud", "copied"]
    (recipe.parent / "rows.jsonl").write_text('{"answer": "2"}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:1"):
        check_data(loaded, make_plan(loaded, recipe.parent / "run"))


def test_editors_take_it(recipe: Path) -> None:
    assert list(jsonschema.Draft202012Validator(json_schema()).iter_errors(yaml.safe_load(RECIPE))) == []


def test_it_runs_and_is_reused_until_its_fields_or_its_code_change(recipe: Path, posttrain: Any) -> None:
    folder = recipe.parent

    def run(*overrides: str) -> str:
        done = posttrain("run", str(recipe), "--run-dir", str(folder / "run"), *overrides, cwd=folder)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    assert "loud (shout.py:Shout): done" in run()
    told = json.loads((folder / "run" / "plan.json").read_text())["stages"][0]
    assert (told["kind"], told["gives"]) == ("shout.py:Shout", "data")
    assert (folder / "run" / "loud" / "metrics.jsonl").read_text().count("length") == 2
    assert "loud" in (folder / "run" / "report.html").read_text()
    assert "loud (shout.py:Shout): reused" in run()
    assert "loud (shout.py:Shout): done" in run("stages.loud.marks=3")
    (folder / "shout.py").write_text(STAGE.replace(".upper()", ".lower()"))
    assert "loud (shout.py:Shout): done" in run("stages.loud.marks=3")


def test_it_goes_on_after_a_failure(recipe: Path, posttrain: Any) -> None:
    file = recipe.parent / "shout.py"
    file.write_text(STAGE.replace("    write_rows(", '    raise ValueError("no room left")\n    write_rows('))
    asked = (str(recipe), "--run-dir", str(recipe.parent / "run"))
    assert posttrain("run", *asked, cwd=recipe.parent).returncode == 1
    stages = json.loads(posttrain("plan", *asked, "--json", cwd=recipe.parent).stdout)["stages"]
    assert (stages[0]["action"], stages[1]["action"]) == ("resume", "run")
