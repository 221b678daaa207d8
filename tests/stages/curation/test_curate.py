"""Which queries are kept, and that every other one is told why, in the table, the funnel and the log."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain.configs.schema import Curate, PromptSource
from posttrain.errors import DataError, Stopped
from posttrain.stages import curate
from posttrain.stages.curation import model_passes, row_rules, scan
from posttrain.stages.curation.query_rules import open_generation, proof, several_questions
from posttrain.stages.data.load import load_prompts
from posttrain.stages.data.store import read_rows
from posttrain.stages.models.locations import Locations
from posttrain.types import Prompt

from ..stand_ins import Context, write


def node(**fields: Any) -> Curate:
    return Curate.model_validate({"kind": "curate", "prompts": "rows.jsonl", **fields})


class Result:
    """What a stage left."""

    def __init__(self, folder: Path, context: Context) -> None:
        self.folder, self.context = folder / "out", context
        self.rows = read_rows(self.folder / "data.parquet")
        dropped = self.folder / "dropped.parquet"
        self.dropped = read_rows(dropped) if dropped.exists() else []
        self.funnel = json.loads((self.folder / "funnel.json").read_text())

    @property
    def ids(self) -> list[str]:
        return [row["id"] for row in self.rows]

    @property
    def reasons(self) -> dict[str, str]:
        return {row["id"]: row["reason"] for row in self.dropped}


def curated(folder: Path, rows: list[dict[str, Any]], **fields: Any) -> Result:
    write(folder / "rows.jsonl", rows)
    shutil.rmtree(folder / "out", ignore_errors=True)
    context = Context(folder, "queries", node(**fields), seed=0)
    curate.run(context)  # type: ignore[arg-type]
    return Result(folder, context)


def six(*more: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"id": f"q{i}", "prompt": f"{i}?", "answer": str(i)} for i in range(6)] + list(more)


def with_rates(monkeypatch: pytest.MonkeyPatch, rates: dict[str, float | None], key: str = "pass rate") -> None:
    """A model whose completions are paid at these rates, by id; others at 0.5."""

    def answers(context: Any, spec: Any, model: Any, prompts: Any, step: str, **how: Any) -> Iterator[Any]:
        for place, prompt in prompts:
            name = prompt.id.partition("@")[0]
            yield place, rates.get(name, 0.5) if step == key else 0.5

    monkeypatch.setattr(model_passes, "_rates", answers)


# ---------------------------------------------------------------- what each pass drops


def test_every_drop_has_a_reason_and_the_funnel_adds_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "used.jsonl", [{"prompt": "5?"}])
    with_rates(monkeypatch, {"q1": 0.0, "q2": 1.0, "q3": 0.25, "q4": None})
    rows = six(
        {"id": "twice", "prompt": " 0? ", "answer": "0"},
        {"id": "bare", "prompt": "What is left?"},
        {"id": "poem", "prompt": "Write a poem.", "answer": "x"},
    )
    result = curated(tmp_path, rows, exclude="used.jsonl", model="base", keep={"pass_rate": [0.1, 0.9]})
    assert result.ids == ["q0", "q3"]
    assert result.reasons == {
        "q1": "too hard", "q2": "too easy", "q4": "no verdict", "q5": "used by an excluded source",
        "twice": "duplicate", "bare": "nothing to verify with", "poem": "open generation",
    }  # fmt: skip
    assert (result.funnel["rows_in"], result.funnel["rows_out"]) == (9, 2)
    assert result.funnel["steps"][-1]["left"] == 2
    assert Counter(result.reasons.values()) == {s["reason"]: s["dropped"] for s in result.funnel["steps"]}
    assert next(row for row in result.dropped if row["id"] == "twice")["detail"] == "of q0"
    assert all(reason in result.context.said[-1] for reason in result.reasons.values())
    assert {row["id"]: row["pass_rate"] for row in result.rows} == {"q0": 0.5, "q3": 0.25}


def test_what_leaves_an_answer_no_room_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_rates(monkeypatch, {})
    rows = six({"id": "long", "prompt": "How much is " + "1+" * 1500 + "1?", "answer": "2"})
    result = curated(tmp_path, rows, model="base", sampling={"max_tokens": 1500})
    assert result.reasons == {"long": "too long for the model that answers"}


def test_what_an_excluded_source_used_is_known_by_content_and_by_where_it_came_from(tmp_path: Path) -> None:
    write(
        tmp_path / "cold.jsonl", [{"prompt": "Reworded: what is two?", "origin": "rows.jsonl#q2"}, {"prompt": " 4? "}]
    )
    result = curated(tmp_path, six(), exclude="cold.jsonl")
    assert result.reasons == {"q2": "used by an excluded source", "q4": "used by an excluded source"}
    assert [row["origin"] for row in result.rows] == [f"rows.jsonl#q{i}" for i in (0, 1, 3, 5)]


def test_near_duplicates_go_and_other_numbers_make_another_problem(tmp_path: Path) -> None:
    story = "Tom has {} apples in his basket and picks {} more in the garden, how many apples has he got now"
    rows = [
        {"id": "first", "prompt": story.format(3, 4) + "?", "answer": "7"},
        {"id": "case", "prompt": story.format(3, 4).upper() + " ?", "answer": "7"},
        {"id": "word", "prompt": "So: " + story.format(3, 4) + "?", "answer": "7"},
        {"id": "numbers", "prompt": story.format(5, 6) + "?", "answer": "11"},
        {"id": "other", "prompt": "How many days has the month of May in a leap year of our calendar?", "answer": "31"},
    ]
    result = curated(tmp_path, rows)
    assert result.reasons == {"case": "near duplicate", "word": "near duplicate"}
    assert {row["detail"] for row in result.dropped} == {"of first"}
    loose = curated(tmp_path, rows, deduplicate={"same_numbers": False, "near": 0.7, "ngram": 1})
    assert loose.ids == ["first", "other"]
    assert curated(tmp_path, rows, deduplicate={"near": None}).reasons == {}


def test_what_is_near_an_evaluation_set_goes_and_says_to_which_item(tmp_path: Path) -> None:
    held = "A ship sails 120 miles on the first day and 95 miles on the second day, how far has it sailed"
    write(tmp_path / "eval.jsonl", [{"prompt": held + "?"}])
    rows = [
        {"id": "same", "prompt": held.lower() + " ?", "answer": "215"},
        {"id": "changed", "prompt": held.replace("120", "80").replace("95", "70") + "?", "answer": "150"},
        {"id": "inside", "prompt": "Solve this riddle. " + held + "? Answer with a number.", "answer": "215"},
        {"id": "free", "prompt": "A ship carries 40 boxes of 12 bottles, how many bottles is that?", "answer": "480"},
    ]
    result = curated(tmp_path, rows, held_out="eval.jsonl")
    assert result.ids == ["free"]
    assert set(result.reasons.values()) == {"near a held-out item"}
    assert all("eval.jsonl: a ship sails 120 miles" in row["detail"] for row in result.dropped)


def test_a_validation_split_is_reserved_first_and_nothing_near_it_is_kept(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"q{i}",
            "prompt": f"A baker bakes {i} loaves in {i + 1} ovens a day, how many in a week?",
            "answer": "1",
        }
        for i in range(20)
    ]
    rows += [{"id": f"x{i}", "prompt": f"Name the number {i}.", "answer": str(i)} for i in range(20)]
    rows += [{"id": "again", "prompt": rows[0]["prompt"], "answer": "1"}]
    result = curated(tmp_path, rows, validation=8)
    reserved = read_rows(tmp_path / "out/validation.parquet")
    assert len(reserved) == 8
    kept = {row["messages"][0]["content"] for row in result.rows}
    assert kept.isdisjoint({row["messages"][0]["content"] for row in reserved})
    assert {r["id"] for r in reserved} == {n for n, r in result.reasons.items() if r == "reserved for validation"}
    if any(row["id"].startswith("q") for row in reserved):  # one template: all the others are near it
        assert not any(name.startswith("q") for name in result.ids)
    source = PromptSource.model_validate({"from": "queries", "split": "validation"})
    (prompts,) = load_prompts(
        [source], locations=Locations(recipe_dir=tmp_path, inputs={"queries": tmp_path / "out"}), seed=0
    )
    assert [p.id for p in prompts] == [r["id"] for r in reserved]


def test_a_validation_split_that_is_not_there_is_refused(tmp_path: Path) -> None:
    curated(tmp_path, six())
    source = PromptSource.model_validate({"from": "queries", "split": "validation"})
    with pytest.raises(DataError, match="no split validation"):
        load_prompts([source], locations=Locations(recipe_dir=tmp_path, inputs={"queries": tmp_path / "out"}), seed=0)
    with pytest.raises(DataError, match="only 6 queries can be reserved"):
        curated(tmp_path, six(), validation=7)


def test_what_is_known_without_thinking_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_rates(monkeypatch, {"q0": 1.0, "q1": 0.5}, key="without thinking")
    result = curated(tmp_path, six(), without_thinking={"model": "base", "n": 2})
    assert result.reasons == {"q0": "answered correctly without thinking"}
    assert result.dropped[0]["detail"] == "100% of 2"


def test_a_limit_keeps_the_hardest_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_rates(monkeypatch, {f"q{i}": 1.0 - i / 10 for i in range(6)})
    result = curated(tmp_path, six(), model="base", limit=2)
    assert result.ids == ["q4", "q5"]
    assert set(result.reasons.values()) == {"over the limit"}


def test_domains_come_from_a_column_or_words_and_are_balanced_by_hardness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_rates(monkeypatch, {"a": 0.9, "b": 0.1, "c": 0.5})
    rows = [
        {"id": "a", "prompt": "Area of a triangle of base 2 and height 4?", "answer": "4"},
        {"id": "b", "prompt": "How many sides has a triangle's dual?", "answer": "3"},
        {"id": "c", "prompt": "The angle sum of a triangle?", "answer": "180"},
        {"id": "d", "prompt": "Which word comes last?", "answer": "x", "topic": "logic"},
        {"id": "e", "prompt": "What rhymes with cat in the list?", "answer": "hat"},
    ]
    domains = {"column": "topic", "words": {"geometry": ["triangle", "circle"]}, "most": "even"}
    result = curated(tmp_path, rows, model="base", domains=domains)
    assert {row["id"]: row["domain"] for row in result.rows} == {"b": "geometry", "d": "logic", "e": ""}
    assert set(result.reasons.values()) == {"over the balance of its domain"}
    assert curated(tmp_path, rows, model="base", domains={**domains, "most": 2}).ids == ["b", "c", "d", "e"]


def test_malformed_rows_stand_in_the_funnel(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", six())
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write("{\n")
    source = {"from": "rows.jsonl", "on_bad_row": "skip", "max_bad_share": 0.5}
    context = Context(tmp_path, "queries", node(prompts=source), seed=0)
    curate.run(context)  # type: ignore[arg-type]
    result = Result(tmp_path, context)
    assert result.funnel["steps"] == [{"reason": "malformed", "dropped": 1, "left": 6}]
    assert "rows.jsonl:7" in result.dropped[0]["id"]


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no prompt is left of 1: \{'open generation': 1\}"):
        curated(tmp_path, [{"prompt": "Write an essay about rain.", "answer": "x"}])


def test_ids_stay_unique_and_prompts_come_back(tmp_path: Path) -> None:
    rows = [{"id": "same", "prompt": f"{i}?", "answer": "1", "deep": {"er": [1, None]}} for i in range(3)]
    result = curated(tmp_path, rows)
    assert len(set(result.ids)) == 3
    (prompts,) = load_prompts(
        [PromptSource.model_validate({"from": "queries"})],
        locations=Locations(recipe_dir=tmp_path, inputs={"queries": tmp_path / "out"}),
        seed=0,
    )
    assert [p.messages[0]["content"] for p in prompts] == ["0?", "1?", "2?"]
    assert prompts[0].columns["deep"] == {"er": [1, None]}


# ---------------------------------------------------------------- scale and resume


def test_shards_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "used.jsonl", [{"prompt": "5?"}])
    rows = six(*six(), {"id": "p", "prompt": "Prove that 2 is prime.", "answer": "1"})
    whole = curated(tmp_path, rows, exclude="used.jsonl")
    monkeypatch.setattr(scan, "SHARD", 4)
    parts = curated(tmp_path, rows, exclude="used.jsonl")
    assert (whole.rows, whole.dropped, whole.funnel) == (parts.rows, parts.dropped, parts.funnel)


@pytest.mark.parametrize("stop_after", [0, 1, 2, 3])
def test_an_interrupted_stage_goes_on_behind_its_last_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    rows = six(*[{**row, "id": row["id"] + "x"} for row in six()])
    expected = curated(tmp_path, rows)
    monkeypatch.setattr(scan, "SHARD", 4)
    judged: list[str] = []
    real = row_rules.unverifiable
    monkeypatch.setattr(row_rules, "unverifiable", lambda p, *more: judged.append(p.id) or real(p, *more))
    with pytest.raises(Stopped):
        curate.run(Context(tmp_path, "queries", node(), 0, stop_after))  # type: ignore[arg-type]
    (tmp_path / "queries/scan/signatures").open("ab").write(b"half a shard")
    (tmp_path / "queries/scan/shard-000009.parquet").write_bytes(b"half")
    context = Context(tmp_path, "queries", node(), seed=0)
    curate.run(context)  # type: ignore[arg-type]
    again = Result(tmp_path, context)
    assert len(judged) == len(rows)  # no row was judged twice
    assert (again.rows, again.dropped) == (expected.rows, expected.dropped)
    assert not (tmp_path / "queries/scan").exists()


# ---------------------------------------------------------------- a judge


def judge_of(server: Any) -> dict[str, Any]:
    return {"endpoint": server.endpoint, "model": "judge", "retries": 0, "timeout": 5}


def grading(verdict: Callable[[str, str], int | None]) -> Callable[[dict[str, Any]], str]:
    """A judge that gives `verdict(query, task)`; None breaks the form."""
    import re

    def reply(body: dict[str, Any]) -> str:
        text = body["messages"][-1]["content"]
        tag = re.findall(r"GRADE ([0-9a-f]{8}): N", text)[-1]
        query = text.partition("begins ---\n")[2].partition("\n--- query")[0]
        number = verdict(query, text)
        return "I can't say." if number is None else f"Well.\nGRADE {tag}: {number}"

    return reply


def test_a_judge_drops_what_it_calls_unverifiable_and_its_silence_drops_nothing(
    tmp_path: Path, chat_server: Callable[..., Any]
) -> None:
    server = chat_server(grading(lambda query, _: {"1?": 0, "2?": None}.get(query, 1)))
    result = curated(tmp_path, six(), judge=judge_of(server))
    assert result.reasons == {"q1": "unverifiable, says the judge"}
    assert len(server.requests) == 6


def test_a_judge_names_the_domain_of_rows_that_have_none(tmp_path: Path, chat_server: Callable[..., Any]) -> None:
    def verdict(query: str, task: str) -> int:
        return 2 if "Which domain" in task and query == "3?" else 1

    rows = six({"id": "own", "prompt": "6?", "answer": "6", "domain": "chess"})
    server = chat_server(grading(verdict))
    domains = {"judge": ["math", "code", "logic"]}
    result = curated(tmp_path, rows, judge=judge_of(server), domains=domains)
    found = {row["id"]: row["domain"] for row in result.rows}
    assert found == {**{f"q{i}": "code" for i in range(6)}, "q3": "logic", "own": "chess"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"without_thinking": {"n": 2}}, "`without_thinking` asks a model"),
        ({"domains": {"judge": ["a", "b"]}}, "asks the stage's `judge`"),
        ({"rules": ["prof"]}, "no_answer"),
        ({"keep": {"pass_rate": [0.9, 0.1]}}, "pass-rate window"),
    ],
)
def test_a_curate_stage_that_cannot_work_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        node(**fields)


# ---------------------------------------------------------------- the rules


ONE_QUESTION = (
    "What is 3+4? Answer with a number.", "Which is right? (A) 12 (B) 14 (C) 16 (D) 18",
    "Find x and y with x+y=5 and x-y=1.", "How many primes are below 100, if 1 isn't counted?",
    'He asked "Where? When? Why?" and left. How many questions did he ask?',
    "A train leaves at 9. It arrives at 11. How long does it take?",
    "Let f(a) be even and f(b) odd. Is f(a)+f(b) odd?",
)  # fmt: skip
SEVERAL = (
    "Is 7 prime? Why?", "(a) Find f(2). (b) Find f(3).", "a) Compute the sum. b) Compute the product.",
    "What is the area? What is the perimeter?", "1. Find the mean.\n2. Find the median.",
    "What is the capital of Peru, and how many people live there?",
    "Part A: Determine the speed. Part B: Determine the time.", "Find the root. Then, sketch the graph.",
)  # fmt: skip
PROOFS = (
    "Prove that the square root of 2 is irrational.", "Show that n^2+n is even.",
    "Give a short proof of Fermat's little theorem.",
    "Beweise, dass es unendlich viele Primzahlen gibt.", "证明根号二是无理数。",
)  # fmt: skip
NO_PROOFS = (
    "How many steps has Euclid's proof?", "Show your work: what is 12*12?", "What does the theorem say about n=3?",
    "The method proved useful. What is 2+2?",
)  # fmt: skip
OPEN = (
    "Write an essay about the sea.", "Can you compose a short poem for my mother?", "Explain how photosynthesis works.",
    "What do you think about taxes?", "Give me some ideas for a party.", "Describe a sunset.", "Tell me a joke.",
    "Summarize the following text.", "Discuss the causes of the war.", "Hello there!", "List three reasons for sleep.",
)  # fmt: skip
CLOSED = (
    "Write 3/4 as a decimal.", "Write a number between 1/3 and 1/2 with denominator 12.",
    "What is the title of the poem that starts with 'Tyger'?", "Describe all real x with |x|<2 as an interval.",
    "How many letters has the word essay?", "Name the capital of France.", "Give the remainder of 17 by 5.",
    "Which story of the building is the 7th from the top of 20?",
)  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        (several_questions, SEVERAL, ONE_QUESTION),
        (proof, PROOFS, (*NO_PROOFS, *ONE_QUESTION)),
        (open_generation, OPEN, (*CLOSED, *ONE_QUESTION)),
    ],
)
def test_rules_tell_the_unverifiable_from_its_neighbours(
    rule: Any, bad: tuple[str, ...], good: tuple[str, ...]
) -> None:
    assert [text for text in bad if not rule(text)] == []
    assert [text for text in good if rule(text)] == []


def test_generated_queries_with_an_answer_are_verifiable() -> None:
    from posttrain.configs.schema import RewardUse
    from posttrain.stages.curation.query_rules import unverifiable

    source = PromptSource.model_validate({"from": "builtin:arithmetic", "n": 200})
    (prompts,) = load_prompts([source], locations=Locations(recipe_dir=Path()), seed=0)
    rules, uses = ("no_answer", "several_questions", "open_generation", "proof"), (RewardUse(use="math"),)
    assert {unverifiable(p, rules, uses, {"math": ("answer",)}) for p in prompts} == {None}


def test_a_tested_program_may_be_told_at_length() -> None:
    from posttrain.stages.curation.query_rules import unverifiable

    text = "Write a story generator. What does it return? Why?"
    told = Prompt(id="x", messages=({"role": "user", "content": text},), columns={"tests": ["assert f(1)"]})
    assert unverifiable(told, ("several_questions", "open_generation"), (), {}) is None
