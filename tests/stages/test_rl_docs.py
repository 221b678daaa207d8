"""docs/guides/reasoning-rl.md: its YAML is valid, and what it says of names and defaults is what the schema says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from posttrain.configs.kinds.algorithms import ALGORITHMS
from posttrain.configs.schema import Grpo

TEXT = (Path(__file__).parents[2] / "docs" / "guides" / "reasoning-rl.md").read_text("utf-8")
NEEDED = {"kind": "grpo", "model": "base", "prompts": "x", "rewards": "math"}


def blocks() -> list[dict[str, Any]]:
    found = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.S)]
    return [next(iter(b.values())) if list(b) == ["reasoning_rl"] else b for b in found]


def test_every_block_is_part_of_a_stage() -> None:
    assert len(blocks()) >= 6
    for block in blocks():
        fields = {**NEEDED, **block}
        fields.pop("dynamic_sampling", None) if "teacher" in fields else None
        Grpo.model_validate(fields)


def test_every_algorithm_is_in_the_table() -> None:
    table = TEXT.split("## Algorithms")[1].split("The single choices")[0]
    assert set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`.*?) \|", table, re.M)))) - {"algorithm"} == set(
        ALGORITHMS
    )


def test_defaults_in_the_table_are_the_schemas() -> None:
    table = TEXT.split("The single choices")[1].split("```yaml")[0]
    rows = re.findall(r"^\| (`[^|]*?) \|([^|]*)\|", table, re.M)
    assert len(rows) > 7
    for names, default in rows:
        fields = re.findall(r"`(\w+)`", names)
        expected = [Grpo.model_fields[name].default for name in fields]
        said = default.strip(" `") or "null"
        values = yaml.safe_load(f"[{said}]")
        assert [list(e) if isinstance(e, tuple) else e for e in expected] == values, names


def test_defaults_of_nodes_are_the_schemas() -> None:
    node = Grpo.model_validate(NEEDED)
    (importance,) = [b["importance"] for b in blocks() if "importance" in b]
    assert node.importance.model_dump() == importance
    given = {k: b[k] for b in blocks() for k in ("dynamic_sampling", "difficulty", "asynchronous") if k in b}
    empty = Grpo.model_validate({**NEEDED, **{key: {} for key in given}})
    assert {k: getattr(empty, k).model_dump() for k in given} == given
