"""What a recipe says of the sandbox: `plan --check` refuses what isn't here."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from posttrain.configs.load import load_recipe
from posttrain.errors import RecipeError, SandboxError
from posttrain.pipelines.commands import doctor
from posttrain.pipelines.planning.plan import make_plan
from posttrain.pipelines.preflight.data_checks import check_data
from posttrain.pipelines.preflight.sandbox_checks import check_rooms
from posttrain.sandbox import languages
from posttrain.sandbox.pool import LocalJudgePool

RECIPE = """name: x
base: builtin:tiny
cluster: {{sandbox: {{{sandbox}}}}}
stages:
  rl:
    kind: grpo
    model: base
    prompts: prompts.jsonl
    rewards: [{{use: code_stdio, params: {{{params}}}}}]
    steps: 1
"""


def plan(folder: Path, sandbox: str = "", params: str = "") -> tuple[Any, Any]:
    """(recipe, plan) of a stage that judges programs."""
    row = {"id": "a", "prompt": "double", "tests": [{"input": "1", "output": "2"}]}
    (folder / "prompts.jsonl").write_text(json.dumps(row))
    (folder / "recipe.yaml").write_text(RECIPE.format(sandbox=sandbox, params=params))
    loaded = load_recipe(str(folder / "recipe.yaml"))
    return loaded, make_plan(loaded, folder / "run")


def test_an_absent_interpreter_is_refused_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, made = plan(tmp_path, "languages: [bash, node]")
    monkeypatch.setattr(languages, "_PATH", "/nowhere")
    with pytest.raises(RecipeError, match=r"language 'bash': there is no bash in /nowhere") as error:
        check_data(loaded, made)
    assert "recipe.yaml:3" in str(error.value)
    assert "leave it out" in str(error.value)


def test_a_library_that_is_not_installed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, made = plan(tmp_path, "preload: [numpy]")
    monkeypatch.setattr("posttrain.sandbox.isolation.preloads.importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="isn't installed"):
        check_rooms(loaded, made)


def test_a_language_has_to_be_opted_for(tmp_path: Path) -> None:
    loaded, made = plan(tmp_path, params="language: cpp")
    with pytest.raises(RecipeError, match="opted") as error:
        check_rooms(loaded, made)
    assert "languages: [cpp]" in str(error.value)


def test_a_language_needs_the_strongest_tier(tmp_path: Path) -> None:
    loaded, made = plan(tmp_path, "languages: [bash]")
    check_rooms(loaded, made)
    with pytest.raises(RecipeError, match="tier A"):
        check_rooms(loaded, made, "B")


@pytest.mark.parametrize("sandbox", ["languages: [cobol]", "preload: [os]"])
def test_other_names_are_no_recipe(tmp_path: Path, sandbox: str) -> None:
    with pytest.raises(RecipeError):
        plan(tmp_path, sandbox)


def test_the_settings_reach_the_judges() -> None:
    pytest.importorskip("numpy")
    try:
        pool = LocalJudgePool(min_tier="C", preload=["numpy"], languages=["bash"])
    except SandboxError as error:
        pytest.skip(str(error))
    with pool:
        judge = pool._all[0]
        assert (judge._languages, [p.partition("=")[0] for p in judge._libraries]) == (("bash",), ["numpy"])


def test_the_command_takes_them_too() -> None:
    pytest.importorskip("numpy")
    line = {"id": 1, "code": "import numpy as np\ndef f(): return np.arange(3)", "tests": "assert f().sum() == 3"}
    command = [sys.executable, "-m", "posttrain", "sandbox", "judge", "--min-tier", "C", "--preload", "numpy"]
    done = subprocess.run(command, input=json.dumps(line), capture_output=True, text=True, timeout=60, check=False)
    assert json.loads(done.stdout)["outcome"] == "pass", done.stderr
    other = [*command[:-1], "os"]
    wrong = subprocess.run(other, input="", capture_output=True, text=True, timeout=60, check=False)
    assert (wrong.returncode, "use numpy" in wrong.stderr) == (2, True)


def test_the_doctor_names_the_languages_that_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(languages, "_PATH", "/nowhere")
    assert doctor._languages().text.startswith("python;")
    monkeypatch.setattr(languages, "locate", lambda command: f"/usr/bin/{command}")
    assert doctor._languages().text.startswith("python, bash, node, cpp;")
