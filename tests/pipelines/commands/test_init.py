"""`posttrain init`: what it writes works as it is, and what it refuses stays untouched."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from posttrain.configs.load import load_recipe
from posttrain.errors import InputError
from posttrain.pipelines.commands import project
from posttrain.pipelines.commands.project import FILES, TEMPLATES, run_name, write_project
from posttrain.stages.generators.builtin import held_out


def command(*arguments: str, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, cwd=cwd, timeout=240, input=stdin
    )


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    write_project(tmp_path / "mine")
    return tmp_path / "mine"


def test_it_writes_a_project_that_plans_and_says_what_is_next(tmp_path: Path, posttrain: Any) -> None:
    done = posttrain("init", "My sums!", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "My sums!"
    assert files(folder) == set(FILES)
    assert [path.name for path in tmp_path.iterdir()] == ["My sums!"]
    written, _, following = done.stdout.partition("next:\n")
    assert written.splitlines() == [f"wrote My sums!/{name}" for name in FILES]
    assert following.split("\n")[0] == "  cd 'My sums!'"
    assert "  posttrain run recipe.yaml\n" in following
    planned = posttrain("plan", "recipe.yaml", "--check", cwd=folder)
    assert planned.returncode == 0, planned.stderr
    assert "data/prompts.jsonl: 40 rows" in planned.stdout
    assert "runs/My-sums" in planned.stdout


def test_every_template_is_written() -> None:
    assert {name for name in files(TEMPLATES) if "__pycache__" not in name} == set(FILES)


@pytest.mark.parametrize("name", ["2024", "null", "1e3", "mine.v2", "über uns", "___", "-x"])
def test_the_recipe_is_named_after_the_folder(tmp_path: Path, name: str) -> None:
    write_project(tmp_path / name)
    assert load_recipe(tmp_path / name / "recipe.yaml").recipe.name == run_name(tmp_path / name)
    assert f"runs/{run_name(tmp_path / name)}/report.html" in (tmp_path / name / "README.md").read_text()


def test_an_empty_folder_is_filled(tmp_path: Path, posttrain: Any) -> None:
    done = posttrain("init", ".", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path) == set(FILES)
    assert "cd " not in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {name.split("/")[0] for name in FILES}


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("full", "full: the folder isn't empty: it has notes.txt"),
        ("full/notes.txt", "notes.txt: is a file, and a project is a folder"),
        ("full/notes.txt/in", "full/notes.txt is a file, not a folder"),
        ("no/such", "no/such: there is no folder no"),
    ],
)
def test_what_is_there_or_can_not_be_made_is_refused(tmp_path: Path, target: str, says: str, posttrain: Any) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    done = posttrain("init", target, cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert says in done.stderr
    assert "fix: " in done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "notes.txt"]
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_init_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, error: BaseException
) -> None:
    folder = tmp_path / "mine"
    if there:
        folder.mkdir()
    calls = 0

    def rename(*paths: object) -> None:
        nonlocal calls
        calls += 1
        if calls == (3 if there else 1):
            raise error
        real(*paths)  # type: ignore[arg-type]

    real = os.rename
    monkeypatch.setattr(project.os, "rename", rename)
    with pytest.raises((InputError, KeyboardInterrupt)):
        write_project(folder)
    assert list(tmp_path.rglob("*")) == ([folder] if there else [])


def test_its_reward_test_passes(made: Path) -> None:
    done = command("pytest", "-q", "-p", "no:cacheprovider", cwd=made)
    assert done.returncode == 0, done.stdout
    assert re.search(r"\b9 passed", done.stdout)


def test_its_reward_scores_as_the_test_file_shows(made: Path) -> None:
    shown = (made / "test_rewards.py").read_text().split('"""')[1]
    line = re.search(r"echo '(.*)'", shown)
    assert line is not None
    given = line[1].replace("\\\\", "\\")  # as the docstring reads
    done = command("posttrain", "rewards", "score", "rewards.py:shown_work", cwd=made, stdin=given)
    assert json.loads(done.stdout) == json.loads(shown.strip().splitlines()[-1])


def test_its_data_is_right_and_not_held_out(made: Path) -> None:
    rows = [json.loads(line) for line in (made / "data" / "prompts.jsonl").read_text().splitlines()]
    sums = [re.search(r"\d+(?:[+-]\d+)+", row["prompt"]) for row in rows]
    assert len(rows) == 40
    assert [str(eval(found[0])) for found in sums if found] == [row["answer"] for row in rows]
    assert [found[0] for found in sums if found and held_out(found[0])] == []


@pytest.mark.timeout(280)
def test_its_recipe_runs(project: Any, first: subprocess.CompletedProcess[bytes]) -> None:
    assert first.returncode == 0, first.stdout + first.stderr
    assert b"reasoning_rl:work:default:accuracy = " in first.stdout
    assert (project.folder / "runs" / "mine" / "reasoning_rl" / "artifact" / "model.safetensors").exists()
