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
from posttrain.errors import InputError, RecipeError
from posttrain.pipelines.plan import make_plan
from posttrain.stages.data import smollm2

needs_package = pytest.mark.skipif(
    not any(d.metadata["Name"] == smollm2.PACKAGE for d in metadata.distributions()),
    reason="the model's package isn't installed (make smollm2)",
)

SMALL = [
    "cluster.learner.gpus=0",
    "cluster.rollout.gpus=0",
    *(f"stages.demonstrations.prompts.{i}.n=2" for i in range(4)),
    *(f"stages.queries.prompts.{i}.n=4" for i in range(4)),
    *(f"evaluate.suites.{suite}.prompts.{i}.n=1" for suite in (0, 1) for i in range(4)),
    *(f"evaluate.suites.{suite}.prompts.0.n=2" for suite in (2, 3)),
    *(f"evaluate.suites.{suite}.sampling.max_tokens=16" for suite in range(4)),
    "evaluate.suites.0.k=1",
    *(f"stages.{stage}.steps=2" for stage in ("cold_start", "reasoning_rl", "fusion", "general_rl")),
    *(f"stages.{stage}.batch_size=4" for stage in ("cold_start", "fusion")),
    *(f"stages.{stage}.prompts_per_step=2" for stage in ("reasoning_rl", "general_rl")),
    *(f"stages.{stage}.group_size=2" for stage in ("reasoning_rl", "general_rl")),
    *(f"stages.{stage}.sampling.max_tokens=16" for stage in ("queries", "reasoning_rl", "thinking", "general_rl")),
    "stages.queries.n=1",
    "stages.queries.limit=8",
    "stages.queries.keep.pass_rate=[0, 1]",  # two steps teach nothing: nothing may be dropped for it
    "stages.thinking.n=1",
    "stages.thinking.filters=[]",
    "stages.fusion.data.1.n=8",
]


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
    from posttrain.stages.rollout.generate import generate_text

    answer: dict[str, Any] = generate_text(
        str(folder), "What is the capital of France?", temperature=0.0, max_tokens=16
    )
    assert "Paris" in answer["answer"]


@needs_package
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_recipe_runs_from_end_to_end_on_a_cpu(tmp_path: Path) -> None:
    pytest.importorskip("reasoning_gym")
    from posttrain.pipelines.run import run_recipe

    out = io.StringIO()
    code = run_recipe(load_recipe("smollm2", SMALL), tmp_path / "run", console=Console(file=out, width=200))
    assert code == 0, out.getvalue()
    table = json.loads((tmp_path / "run" / "eval-general_rl" / "artifact" / "table.json").read_text())
    assert {row["suite"] for row in table["rows"]} == {"modes", "instructions", "flags"}
