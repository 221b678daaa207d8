"""`extends`: what a recipe takes from another one, what it changes, and what errors say of the two."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from posttrain.configs.load import load_recipe
from posttrain.errors import InputError

PARENT = """name: parent
description: the parent's
base: {from: builtin:tiny, revision: abc}
cluster:
  learner: {workers: 4, zero: 3}
  teacher: {workers: 2}
stages:
  queries: {kind: curate, prompts: {from: builtin:arithmetic, n: 9}, limit: 50}
  cold:
    kind: sft
    model: base
    data: queries
    steps: 7
    optimizer: {lr: 1.0e-3, warmup: 3}
  rl:
    kind: grpo
    model: cold
    prompts: queries
    rewards: [math, format]
evaluate:
  suites: [{name: sums, prompts: builtin:arithmetic}]
  after: [cold]
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    (tmp_path / "parent.yaml").write_text(PARENT)

    def write(text: str, name: str = "child.yaml", *, extends: str | None = "parent.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"name: child\nextends: {extends}\n{text}" if extends else text)
        return path

    return write


def resolved(path: Path, *overrides: str) -> Any:
    return load_recipe(path, overrides).resolved


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load_recipe(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_what_the_child_leaves_out_is_the_parents(write: Write, tmp_path: Path) -> None:
    assert resolved(write("")) == {**resolved(tmp_path / "parent.yaml"), "name": "child"}


def test_mappings_are_merged_key_by_key(write: Write) -> None:
    child = resolved(write("stages: {cold: {optimizer: {lr: 1.0}}}\ncluster: {learner: {workers: 2}}"))
    cold, learner = child["stages"]["cold"], child["cluster"]["learner"]
    assert (cold["optimizer"]["lr"], cold["optimizer"]["warmup"], cold["steps"]) == (1.0, 3, 7)
    assert (learner["workers"], learner["zero"]) == (2, 3)


def test_lists_and_scalars_replace(write: Write) -> None:
    child = resolved(write("stages: {rl: {rewards: [exact]}}\nbase: other"))
    assert [use["use"] for use in child["stages"]["rl"]["rewards"]] == ["exact"]
    assert (child["base"]["from"], child["base"]["revision"]) == ("other", None)


def test_one_item_for_a_list_replaces_it_like_a_list(write: Write) -> None:
    """In both forms that say the same: nothing of the parent's source is left in the child's."""
    sources = ["{from: mine.jsonl}", "[{from: mine.jsonl}]", "mine.jsonl"]
    found = [resolved(write(f"stages: {{queries: {{prompts: {source}}}}}")) for source in sources]
    assert [child["stages"]["queries"]["prompts"][0]["n"] for child in found] == [None, None, None]


def test_a_mapping_adds_to_what_a_short_form_says(write: Write) -> None:
    model = resolved(write("stages: {cold: {model: {layers: [0, 1]}}}"))["stages"]["cold"]["model"]
    assert (model["from"], model["layers"]) == ("base", [0, 1])


def test_null_takes_a_mapping_away(write: Write) -> None:
    child = resolved(write("stages: {rl: ~}\ncluster: {teacher: ~}"))
    assert list(child["stages"]) == ["queries", "cold"]
    assert child["cluster"]["teacher"]["workers"] == 0


def test_null_brings_a_default_back(write: Write) -> None:
    assert resolved(write("stages: {cold: {steps: ~}}"))["stages"]["cold"]["steps"] == 100


def test_null_stays_null_where_it_is_a_value(write: Write) -> None:
    demos = "{kind: sample, model: base, prompts: queries, limit: 3}"
    write(f"name: mid\nextends: parent.yaml\nstages: {{demos: {demos}}}", "mid.yaml", extends=None)
    child = resolved(write("stages: {demos: {limit: ~}}", extends="mid.yaml"))
    assert child["stages"]["demos"]["limit"] is None


def test_null_for_what_the_parent_has_not_is_an_error(write: Write) -> None:
    assert "child.yaml:3: stages.rll" in refusal(write("stages: {rll: ~}"))


def test_another_kind_of_stage_takes_nothing_from_the_one_it_replaces(write: Write) -> None:
    child = resolved(write("stages: {rl: {kind: sft, model: cold, data: queries}}"))
    assert child["stages"]["rl"]["kind"] == "sft"
    assert "rewards" not in child["stages"]["rl"]


def test_the_last_of_a_chain_has_the_last_word(write: Write) -> None:
    write("name: mid\nextends: parent.yaml\nstages: {cold: {steps: 8, micro_tokens: 99}}", "mid.yaml", extends=None)
    cold = resolved(write("stages: {cold: {steps: 9}}", extends="mid.yaml"))["stages"]["cold"]
    assert (cold["steps"], cold["micro_tokens"], cold["optimizer"]["warmup"]) == (9, 99, 3)


def test_a_path_starts_at_the_file_that_says_it(write: Write) -> None:
    write("name: mid\nextends: ../parent.yaml\nseed: 3", "sub/mid.yaml", extends=None)
    child = resolved(write("", extends="sub/mid.yaml"))
    assert (child["seed"], list(child["stages"])) == (3, ["queries", "cold", "rl"])


def test_a_packaged_recipe_can_be_extended_even_under_its_own_name(write: Write) -> None:
    child = load_recipe(write("", "starter.yaml", extends="starter")).recipe
    assert child.stages == load_recipe("starter").recipe.stages


@pytest.mark.parametrize("own", [True, False])
def test_a_name_is_never_inherited(write: Write, own: bool) -> None:
    path = write("extends: parent.yaml\n" + ("name: own" if own else ""), extends=None)
    if own:
        assert resolved(path)["name"] == "own"
    else:
        assert "child.yaml:1: name: is missing" in refusal(path)


def test_a_circle_is_told_with_its_way_and_what_to_do(write: Write) -> None:
    write("name: a\nextends: b.yaml", "a.yaml", extends=None)
    text = refusal(write("name: b\nseed: 1\nextends: a.yaml", "b.yaml", extends=None))
    assert "a.yaml:2" in text
    assert re.search("circle: b.yaml -> a.yaml -> b.yaml(?! ->)", text)
    assert "take its `extends` out" in text


def test_a_recipe_that_extends_itself_is_a_circle(write: Write) -> None:
    assert "circle: child.yaml -> child.yaml" in refusal(write("", extends="child.yaml"))


@pytest.mark.parametrize(
    ("extends", "says"),
    [
        ("nowhere.yaml", "child.yaml:2: extends: nowhere.yaml: no such recipe"),
        ("startre", "did you mean `starter`?"),
        ("[parent.yaml, starter]", "child.yaml:2: `extends` names one recipe"),
        ("~", "child.yaml:2: `extends` names one recipe"),
        ("list.yaml", "a recipe is a mapping"),
        ("broken.yaml", "broken.yaml:2: not YAML"),
    ],
)
def test_a_parent_that_is_no_recipe_is_told(write: Write, extends: str, says: str) -> None:
    write("- a", "list.yaml", extends=None)
    write("a: 1\nb: ]", "broken.yaml", extends=None)
    assert says in refusal(write("", extends=extends))


@pytest.mark.parametrize(
    ("old", "new", "child", "says"),
    [
        ("steps: 7", "stpes: 7", "seed: 1", "parent.yaml:13: stages.cold.stpes: unknown key"),
        ("steps: 7", "stpes: 7", "stages: {cold: {batch_size: 1}}", "parent.yaml:13: stages.cold.stpes: unknown key"),
        ("steps: 7", "steps: x", "stages:\n  cold:\n    steps: y", "child.yaml:5: stages.cold.steps"),
        ("steps: 7", "steps: x", "stages: {cold: {steps: 3}}", ""),
        ("", "", "stages:\n  cold:\n    stpes: 3", "child.yaml:5: stages.cold.stpes: unknown key"),
        ("[math, format]", "[math, {ues: x}]", "seed: 1", "parent.yaml:19: stages.rl.rewards.1.ues: unknown key"),
        (
            "",
            "",
            "stages:\n  rl:\n    rewards:\n      - math\n      - {ues: y}",
            "child.yaml:7: stages.rl.rewards.1.ues",
        ),
        ("", "", "stages:\n  rl:\n    rewards: {ues: y}", "child.yaml:5: stages.rl.rewards.0.ues"),
    ],
)
def test_an_error_names_the_file_that_says_it(
    write: Write, tmp_path: Path, old: str, new: str, child: str, says: str
) -> None:
    assert old in PARENT
    (tmp_path / "parent.yaml").write_text(PARENT.replace(old, new, 1) if old else PARENT)
    assert says in refusal(write(child)) if says else load_recipe(write(child))


def test_an_unset_variable_of_the_parent_is_told_at_the_parent(write: Write, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("NOT_THERE", raising=False)
    (tmp_path / "parent.yaml").write_text(PARENT.replace("steps: 7", "steps: '${NOT_THERE}'"))
    assert "parent.yaml:13: stages.cold.steps: the environment variable NOT_THERE" in refusal(write("seed: 1"))


def test_overrides_come_after_the_merge(write: Write) -> None:
    child = resolved(write("stages: {cold: {steps: 9}}"), "stages.cold.steps=11", "stages.rl.steps=12")
    assert (child["stages"]["cold"]["steps"], child["stages"]["rl"]["steps"]) == (11, 12)


def test_an_override_cannot_extend(write: Write) -> None:
    assert "overrides come after it" in refusal(write(""), "extends=starter")


def test_a_resolved_recipe_extends_nothing_and_loads_without_its_parent(write: Write, tmp_path: Path) -> None:
    first = resolved(write("seed: 5"))
    (tmp_path / "parent.yaml").unlink()
    text = yaml.safe_dump(first)
    assert "extends" not in text
    assert resolved(write(text, "resolved.yaml", extends=None)) == first


def test_anchors_stay_in_their_file(write: Write, tmp_path: Path) -> None:
    (tmp_path / "parent.yaml").write_text(PARENT.replace("queries: {", "queries: &q {"))
    assert "child.yaml:3: not YAML" in refusal(write("stages: {more: *q}"))


def test_the_example_of_the_documentation_loads(write: Write) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "guides" / "recipes.md").read_text("utf-8")
    example = re.search(r"```yaml\n(.*?)```", text, re.S)
    assert example is not None
    child = load_recipe(write(example[1], extends=None)).recipe
    assert (child.name, child.cluster.teacher.workers, child.stages["on_policy"].steps) == ("my-8b", 0, 300)  # type: ignore[union-attr]
    assert child.stages["outputs"].model == load_recipe("qwen3-8b").recipe.stages["outputs"].model


@pytest.mark.parametrize("ref", ["~nobody-of-this-name/recipe.yaml", "a" * 300])
def test_a_name_that_no_file_can_have_is_told_as_such(ref: str) -> None:
    with pytest.raises(InputError, match="no recipe can have this name"):
        load_recipe(ref)
