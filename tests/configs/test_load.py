"""Loading a recipe: errors that teach, overrides, and references that stay references."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from posttrain.configs.load import LoadedRecipe, load_recipe, packaged_recipes
from posttrain.errors import InputError, RecipeError

RECIPE = """name: r
base: builtin:tiny
stages:
  queries: {kind: curate, prompts: builtin:arithmetic}
  cold:
    kind: sft
    model: base
    data: queries
  rl:
    kind: grpo
    model: cold
    prompts: queries
    rewards: [math, {use: format, gate: true}]
"""


@pytest.fixture
def write(tmp_path: Path):  # type: ignore[no-untyped-def]
    def write(text: str) -> Path:
        path = tmp_path / "r.yaml"
        path.write_text(text)
        return path

    return write


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load_recipe(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_short_forms_are_written_out(write) -> None:  # type: ignore[no-untyped-def]
    loaded = load_recipe(write(RECIPE))
    assert loaded.resolved["stages"]["cold"]["data"][0]["from"] == "queries"
    assert loaded.resolved["stages"]["rl"]["rewards"][1] == loaded.resolved["stages"]["rl"]["rewards"][0] | {
        "use": "format", "gate": True,
    }  # fmt: skip
    assert loaded.recipe.base is not None
    assert loaded.recipe.base.source == "builtin:tiny"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("data: queries", "data: queries\n    stpes: 3", "r.yaml:9: stages.cold.stpes: unknown key; did you mean `st"),
        ("kind: grpo", "kind: grop", "r.yaml:10: stages.rl.kind: unknown kind 'grop'; did you mean `grpo`?"),
        ("    kind: sft\n", "", "stages.cold.kind: is missing; one of curate"),
        ("    data: queries", "", "r.yaml:5: stages.cold.data: is missing; expected a list"),
        ("model: cold", "model: cold\n    group_size: x", "r.yaml:12: stages.rl.group_size: should be a valid integer"),
        ("model: cold", "model: cold\n    aggregate: tokens", "'tokens' isn't valid here; did you mean `token`?"),
        ("gate: true", "gaet: true", "stages.rl.rewards.1.gaet: unknown key; did you mean `gate`?"),
        ("model: base", "model: {from: base, layer: [1]}", "model.layer: unknown key; did you mean `layers`?"),
        ("name: r", "name: r\ncluster: {learner: {workers: 0}}", "greater than or equal to 1, got 0"),
        ("name: r", "nam: r", "r.yaml:1: nam: unknown key; did you mean `name`?"),
        # What stands one level down, and what other trainers say.
        ("data: queries", "data: queries\n    lr: 1", "stages.cold.lr: unknown key; did you mean `optimizer.lr`?"),
        ("data: queries", "data: queries\n    learning_rate: 1", "did you mean `optimizer.lr`?"),
        ("data: queries", "data: queries\n    num_train_epochs: 1", "did you mean `epochs`?"),
        ("kind: grpo", "kind: grpo\n    batch_size: 1", "did you mean `prompts_per_step`?"),
        ("kind: grpo", "kind: grpo\n    max_completion_length: 1", "did you mean `sampling.max_tokens`?"),
    ],
)  # fmt: skip
def test_a_wrong_recipe_is_told_where_and_what(write, old: str, new: str, says: str) -> None:  # type: ignore[no-untyped-def]
    assert old in RECIPE
    assert says in refusal(write(RECIPE.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("group_size: 2", "with `stored` the student samples nothing: leave group_size out"),
        ("sampling: {max_tokens: 65}", "leave sampling out"),
        ("alarm: 0.2", "leave alarm out"),
        ("support: student", "leave support out"),
        ("stored: {from: outputs, n: 5}", "all that `outputs` stored is read, as it is: leave n out"),
        ("steps: 5", ""),
    ],
)
def test_what_has_no_effect_on_stored_distributions_is_refused(write, field: str, says: str) -> None:  # type: ignore[no-untyped-def]
    stored = "" if field.startswith("stored") else "    stored: outputs\n"
    text = f"""name: r
base: builtin:tiny
stages:
  outputs: {{kind: sample, model: base, prompts: builtin:arithmetic, store: {{draws: 8}}}}
  learned:
    kind: distill
    model: base
{stored}    {field}
    divergence: forward_kl
"""
    if says:
        told = refusal(write(text))
        assert "r.yaml:5: stages.learned" in told
        assert says in told
    else:
        assert load_recipe(write(text)).recipe.stages["learned"].steps == 5  # type: ignore[union-attr]


def test_all_problems_are_told_at_once(write) -> None:  # type: ignore[no-untyped-def]
    wrong = RECIPE.replace("kind: grpo", "kind: grop").replace("data: queries", "data: queries\n    stpes: 3")
    text = refusal(write(wrong))
    assert "2 things are wrong" in text
    assert "stpes" in text
    assert "grop" in text


def test_overrides_reach_every_kind_of_node(write) -> None:  # type: ignore[no-untyped-def]
    loaded = load_recipe(
        write(RECIPE),
        [
            "stages.rl.steps=50",
            "stages.cold.optimizer.lr=1e-3",
            "stages.cold.data.0.n=5",
            "stages.cold.model.revision=abc",
            "stages.rl.rewards.1.params.deep.er=[1, 2]",
            "stages.queries.prompts=[a.jsonl, b.jsonl]",
            "seed=3",
        ],
    )
    stages = loaded.recipe.stages
    assert stages["rl"].steps == 50  # type: ignore[union-attr]
    assert stages["cold"].optimizer.lr == 1e-3  # type: ignore[union-attr]
    assert stages["cold"].data[0].n == 5  # type: ignore[union-attr]
    assert stages["cold"].model.revision == "abc"  # type: ignore[union-attr]
    assert stages["rl"].rewards[1].params == {"deep": {"er": [1, 2]}}  # type: ignore[union-attr]
    assert [p.source for p in stages["queries"].prompts] == ["a.jsonl", "b.jsonl"]  # type: ignore[union-attr]
    assert loaded.recipe.seed == 3


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("stages.rll.steps=1", "no such stage; did you mean `rl`?"),
        ("stages.rl.step=1", "stages.rl.step: no such key; did you mean `steps`?"),
        ("stages.rl.rewards.7.use=x", "stages.rl.rewards.7: no such key; valid: 0, 1"),
        ("stages.rl.steps.x=1", "stages.rl.steps.x: no such key"),
        ("stages.rl.steps=many", "override stages.rl.steps=many: stages.rl.steps: should be a valid integer"),
        ("stages.rl.steps", "an override is key=value"),
        ("stages.rl.steps=[", "not YAML"),
    ],
)
def test_a_wrong_override_is_refused(write, override: str, says: str) -> None:  # type: ignore[no-untyped-def]
    assert says in refusal(write(RECIPE), override)


def test_references_are_seen_by_stages_and_kept_in_what_is_written(write, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("WHERE", "s3cret-bucket")
    monkeypatch.delenv("STEPS", raising=False)
    text = RECIPE.replace("builtin:arithmetic", "'${WHERE}/p.jsonl'").replace(
        "    model: cold", "    model: cold\n    steps: ${STEPS:-7}"
    )
    loaded = load_recipe(write(text))
    assert loaded.recipe.stages["rl"].steps == 7  # type: ignore[union-attr]
    assert loaded.recipe.stages["queries"].prompts[0].source == "s3cret-bucket/p.jsonl"  # type: ignore[union-attr]
    assert loaded.resolved["stages"]["queries"]["prompts"][0]["from"] == "${WHERE}/p.jsonl"
    assert loaded.resolved["stages"]["rl"]["steps"] == "${STEPS:-7}"
    assert "s3cret" not in repr(loaded.resolved) + repr(loaded.raw)
    assert loaded.mask("opening s3cret-bucket/p.jsonl") == "opening ${WHERE}/p.jsonl"


def test_a_variable_that_is_not_set_is_named_with_its_line(write, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.delenv("NOT_THERE", raising=False)
    text = refusal(write(RECIPE.replace("builtin:arithmetic", "'${NOT_THERE}'")))
    assert "r.yaml:4: stages.queries.prompts.0.from: the environment variable NOT_THERE isn't set" in text


def test_errors_do_not_print_values_from_the_environment(write, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("STEPS", "s3cret-steps")
    wrong = RECIPE.replace("model: cold", "model: cold\n    steps: ${STEPS}\n    aggregate: ${STEPS}")
    text = refusal(write(wrong))
    assert "stages.rl.steps: should be a valid integer" in text
    assert "s3cret" not in text


def test_an_unknown_name_suggests_a_packaged_one() -> None:
    with pytest.raises(RecipeError, match="did you mean `starter`"):
        load_recipe("startre")


@pytest.mark.parametrize("name", packaged_recipes())
def test_packaged_recipes_load(name: str, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    loaded = load_recipe(name)
    assert isinstance(loaded, LoadedRecipe)


STORED = """name: r
base: builtin:tiny
stages:
  outputs: {kind: sample, model: base, prompts: builtin:arithmetic, store: {draws: 8}}
  learned: {kind: distill, model: base, stored: outputs, divergence: forward_kl}
  rl:
    kind: grpo
    model: base
    prompts: builtin:arithmetic
    importance: {old: engine}
    rewards: [{use: judge_checklist, judge: {from: base}}]
"""


@pytest.mark.parametrize("name", [*packaged_recipes(), STORED])
def test_a_resolved_recipe_is_a_recipe_and_resolves_to_itself(write, name: str) -> None:  # type: ignore[no-untyped-def]
    loaded = load_recipe(write(name) if "\n" in name else name)
    again = load_recipe(write(yaml.safe_dump(loaded.resolved)))
    assert again.resolved == loaded.resolved
