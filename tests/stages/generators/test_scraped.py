"""Each planted fault is dropped by the filter that it was made for, and what is fine goes through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain.configs.schema import Curate, SampleStage
from posttrain.stages import curate, sample
from posttrain.stages.data.store import read_rows
from posttrain.stages.generators.scraped import FAULTS

from ..stand_ins import Context

KEPT_ASIDE = {"from": "builtin:scraped", "split": "heldout", "n": 5}
FILTERS = ["complete", "correct", "repetition", "guesswork", "consistent", "language", "similar"]
OF_QUERIES = {
    "no answer": "nothing to verify with",
    "several questions": "several questions",
    "proof": "asks for a proof",
    "open": "open generation",
    "duplicate": "duplicate",
    "kept for evaluation": "near a held-out item",
    "near duplicate": "near duplicate",
}
OF_RESPONSES = {
    "wrong": "wrong answer",
    "left open": "think block left open",
    "in a loop": "repetition",
    "guessed": "guesswork",
    "inconsistent": "inconsistent summary",
    "two languages": "language mixing",
    "quotes what is kept": "similar to a held-out item",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of 600 rows: those kept and dropped by each stage."""
    folder = tmp_path_factory.mktemp("scraped")
    prompts = {"from": "builtin:scraped", "n": 600, "params": {"faults": 0.25}}
    spec = {"kind": "curate", "prompts": prompts, "validation": 20, "held_out": KEPT_ASIDE}
    first = Context(folder, "questions", Curate.model_validate(spec), seed=17)
    first.artifact_dir = folder / "questions-out"
    curate.run(first)  # type: ignore[arg-type]
    held = [{"from": "questions", "split": "validation"}, KEPT_ASIDE]
    node = {"kind": "sample", "model": "builtin:given", "prompts": "questions", "held_out": held, "filters": FILTERS}
    second = Context(folder, "demonstrations", SampleStage.model_validate(node), seed=17)
    second.inputs = {"questions": first.artifact_dir}
    sample.run(second)  # type: ignore[arg-type]
    return {
        "asked": read_rows(first.artifact_dir / "data.parquet"),
        "queries": read_rows(first.artifact_dir / "dropped.parquet"),
        "kept": read_rows(second.artifact_dir / "data.parquet"),
        "responses": read_rows(second.artifact_dir / "dropped.parquet"),
    }


def test_every_fault_is_named() -> None:
    assert list(FAULTS) == [*OF_QUERIES, *OF_RESPONSES]


@pytest.mark.parametrize("reason", sorted(set(OF_QUERIES.values())))
def test_each_filter_of_queries_has_dropped_a_row(made: dict[str, Any], reason: str) -> None:
    assert any(row["reason"] == reason for row in made["queries"])


@pytest.mark.parametrize("reason", sorted(set(OF_RESPONSES.values())))
def test_each_filter_of_responses_has_dropped_a_row(made: dict[str, Any], reason: str) -> None:
    assert any(row["reason"] == reason for row in made["responses"])


def test_what_is_fine_is_kept_and_what_has_a_fault_is_not(made: dict[str, Any]) -> None:
    faulty = {row["fault"] for row in made["kept"] if row.get("fault")}
    assert faulty <= {"near duplicate"}  # the first of its kind has no twin yet
    fine = sum(not row.get("fault") for row in made["asked"])
    assert sum(not row.get("fault") for row in made["kept"]) == fine > 350


def test_no_filter_reads_what_the_fault_is_called(made: dict[str, Any]) -> None:
    room = Path(curate.__file__).parent
    readers = [path.name for path in room.rglob("*.py") if '"fault"' in path.read_text("utf-8")]
    assert readers == ["scraped.py"]
