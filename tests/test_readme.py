"""What the README shows works: its recipe loads, its reward scores as printed, its Python names exist. It is short."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import yaml

import posttrain
from posttrain.configs.load import load_recipe
from posttrain.configs.schema import Cluster

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
LINES, NUMBERS = 140, 15
PROSE = re.sub(r"^```.*?^```$", "", README, flags=re.S | re.M)


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.S | re.M)
    return [text for named, text in found if named == language]


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= LINES
    numbers = re.findall(r"(?<![\w.-])\d[\d.,]*\b", re.sub(r"\]\([^)]*\)", "]", PROSE))
    assert len(numbers) <= NUMBERS, numbers


def test_the_recipe_loads(tmp_path: Path) -> None:
    (recipe,) = blocks("yaml")
    assert len(recipe.splitlines()) <= 15
    (tmp_path / "my.yaml").write_text(recipe)
    assert list(load_recipe(tmp_path / "my.yaml").recipe.stages) == ["cold_start", "queries", "reasoning_rl"]


def test_the_cluster_loads(tmp_path: Path) -> None:
    (cluster,) = re.findall(r"`(cluster: \{.*?\})`", PROSE.replace("\n", " "))
    recipe = yaml.safe_load(blocks("yaml")[0]) | yaml.safe_load(cluster)
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(recipe))
    assert load_recipe(tmp_path / "my.yaml").recipe.cluster != Cluster()


def test_the_reward_scores_as_printed(tmp_path: Path) -> None:
    (tmp_path / "my_rewards.py").write_text(blocks("python")[0])
    shown = next(block for block in blocks("") if "rewards score my_rewards" in block)
    line, printed = re.search(r"echo '(.*)'", shown), shown.splitlines()[-1]
    assert line is not None
    command = [sys.executable, "-m", "posttrain", "rewards", "score", "my_rewards.py:brevity"]
    done = subprocess.run(command, input=line[1], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert json.loads(done.stdout) == json.loads(printed)


def test_the_python_uses_what_there_is() -> None:
    tree = ast.parse(blocks("python")[1])
    attributes = {(node.value.id, node.attr) for node in ast.walk(tree)
                  if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}  # fmt: skip
    assert {name for owner, name in attributes if owner == "posttrain"} == {"run", "score", "generate"}
    assert {name for owner, name in attributes if owner == "run"} <= set(dir(posttrain.Run))
    call = next(
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "posttrain.run"
    )
    assert posttrain.plan(*map(ast.literal_eval, call.args), run_dir="nowhere").pending
    score = next(n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "posttrain.score")
    assert posttrain.score("math", **{k.arg: ast.literal_eval(k.value) for k in score.keywords if k.arg}).value == 1.0


def test_the_commands_exist() -> None:
    from posttrain.pipelines.commands.cli import app

    names = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    names |= {str(group.name) for group in app.registered_groups}
    shown = set(re.findall(r"^(?:\$ )?posttrain (\w+)", "\n".join(blocks("")), re.M))
    assert {"init", "plan", "run", "report", "doctor"} <= shown <= names


def test_named_files_exist() -> None:
    contributing = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    named = re.findall(r"`((?:stages|rewards|configs|pipelines|sandbox|tests)/[a-z_0-9/]+\.(?:py|yaml))`", contributing)
    assert [name for name in named if not (ROOT / name).exists()] == []
