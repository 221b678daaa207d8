"""Help is complete: a sentence for every command and option, an example for every command, and `-h`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import posttrain as package
from posttrain.pipelines.commands.cli import app


def commands(group: Any = None, name: str = "posttrain") -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its full name."""
    group = typer.main.get_command(app) if group is None else group
    for key, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} {key}")
        else:
            yield f"{name} {key}", command


COMMANDS = dict(commands())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_a_sentence_an_example_and_no_silent_option(name: str) -> None:
    command = COMMANDS[name]
    assert command.help[0].isupper()
    assert command.help.rstrip().endswith(".")
    assert command.epilog.startswith(f"Example: {name}")
    silent = [parameter.name for parameter in command.params if not getattr(parameter, "help", None)]
    assert silent == []
    unended = [p.name for p in command.params if p.name != "help" and not p.help.rstrip().endswith((".", "'", "}"))]
    assert unended == []


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_names_options_that_exist(name: str) -> None:
    command = COMMANDS[name]
    words = shlex.split(command.epilog.removeprefix("Example: ").partition(" < ")[0].partition(" > ")[0])
    known = {option for parameter in command.params for option in parameter.opts}
    assert [word for word in words if word.startswith("-") and word not in known] == []


@pytest.mark.parametrize("name", ["posttrain", *COMMANDS, "posttrain rewards", "posttrain sandbox", "posttrain data"])
def test_h_is_help(name: str, posttrain: Any, tmp_path: Path) -> None:
    done = posttrain(*name.split()[1:], "-h", cwd=tmp_path)
    assert (done.returncode, "Usage" in done.stdout) == (0, True)


def test_the_version_is_printed(posttrain: Any, tmp_path: Path) -> None:
    assert posttrain("--version", cwd=tmp_path).stdout == f"posttrain {package.__version__}\n"


def test_rewards_are_listed_as_json(posttrain: Any, tmp_path: Path) -> None:
    listed = json.loads(posttrain("rewards", "list", "--json", cwd=tmp_path).stdout)
    assert listed["math"]["columns"] == ["answer"]
    assert listed["regex"]["required_parameters"] == ["pattern"]
    assert listed["length_window"]["parameters"]["max_words"] is None


def test_the_report_is_printed_as_json(runner: Any, posttrain: Any) -> None:
    runner.take_finished()
    done = posttrain("report", "run", "--json", cwd=runner.folder)
    found = json.loads(done.stdout)
    assert found["results"][0] == {
        "stage": "cold", "suite": "sums", "mode": "default", "metric": "accuracy",
        "value": 0.2, "low": 0.2, "high": 0.2, "n": 9,
    }  # fmt: skip
    assert [threshold["passed"] for threshold in found["thresholds"]] == [True]
