"""What the README shows works: its YAML loads, its reward scores as printed, its links lead somewhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.configs.load import load_recipe
from posttrain.configs.schema import Cluster

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.S | re.M)
    return [text for named, text in found if named == language]


def test_the_recipe_loads(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(blocks("yaml")[0])
    assert list(load_recipe(tmp_path / "my.yaml").recipe.stages) == ["cold_start", "queries", "reasoning_rl"]


def test_the_cluster_loads(tmp_path: Path) -> None:
    recipe, cluster = blocks("yaml")[0], next(block for block in blocks("yaml") if block.startswith("cluster:"))
    (tmp_path / "my.yaml").write_text(f"{recipe}\n{cluster}")
    assert load_recipe(tmp_path / "my.yaml").recipe.cluster != Cluster()


def test_the_tasks_load(tmp_path: Path) -> None:
    tasks = next(block for block in blocks("yaml") if "tasks:" in block)
    (tmp_path / "my.yaml").write_text(
        blocks("yaml")[0].replace("stages:\n", f"stages:\n{tasks}", 1).replace("fusion", "base")
    )
    general_rl = load_recipe(tmp_path / "my.yaml").recipe.stages["general_rl"]
    assert general_rl.prompts[-1].task == "mine"
    assert "fusion" in tasks


def test_the_reward_scores_as_printed(tmp_path: Path) -> None:
    (tmp_path / "my_rewards.py").write_text(blocks("python")[0])
    shown = next(block for block in blocks("") if "rewards score my_rewards" in block)
    line, printed = re.search(r"echo '(.*)'", shown), shown.splitlines()[-1]
    assert line is not None
    command = [sys.executable, "-m", "posttrain", "rewards", "score", "my_rewards.py:brevity"]
    done = subprocess.run(command, input=line[1], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert json.loads(done.stdout) == json.loads(printed)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_links_and_files_exist(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")
    targets = re.findall(r"\]\((?!http)([^)]+)\)", text)
    named = re.findall(r"`((?:stages|rewards|configs|pipelines|sandbox|tests)/[a-z_0-9/]+\.(?:py|yaml))`", text)
    assert [name for name in (*targets, *named) if not (ROOT / name).exists()] == []


def test_every_command_is_named() -> None:
    from posttrain.pipelines.commands.cli import app

    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    names += [str(group.name) for group in app.registered_groups]
    listed = next(block for block in blocks("") if "posttrain status" in block)
    assert [name for name in names if not re.search(rf"\b{name}\b", listed)] == []
