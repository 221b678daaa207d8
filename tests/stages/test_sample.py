"""Which responses are kept, which are told why not, and what a person does with queries that always failed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.configs.schema import PromptSource, SampleStage
from posttrain.errors import DataError, RewardError, Stopped
from posttrain.stages import sample
from posttrain.stages.curation.decontamination import HeldOut
from posttrain.stages.data.load import load_prompts
from posttrain.stages.data.store import read_rows
from posttrain.stages.filters import bound
from posttrain.stages.filters.selection import OVER, SAME, choose
from posttrain.stages.models.locations import Locations
from posttrain.types import Completion, Prompt, Score

from .stand_ins import Context, write

ASKED = Prompt(id="p", messages=({"role": "user", "content": "1+1?"},), columns={"answer": "2"})


def completion(text: str, index: int = 0, tokens: int = 4) -> Completion:
    return Completion(
        prompt_id="p", index=index, prompt_ids=np.zeros(1, np.int64), token_ids=np.zeros(tokens, np.int64), text=text,
        sources=np.zeros(tokens, np.int8), logprobs=np.zeros(tokens, np.float32),
        versions=np.zeros(tokens, np.int32), finish_reason="stop",
    )  # fmt: skip


def spec(**fields: Any) -> SampleStage:
    return SampleStage.model_validate({"kind": "sample", "model": "builtin:oracle", "prompts": "rows.jsonl", **fields})


def chosen(pick: Any, take: int, *candidates: tuple[str, int, float]) -> Any:
    pairs = [(completion(t, i, n), Score(value=v)) for i, (t, n, v) in enumerate(candidates)]
    filters = [bound(use, HeldOut()) for use in spec(filters={"use": "correct", "at_least": 0.5}).filters]
    return choose(ASKED, pairs, filters, take=take, pick=pick)


@pytest.mark.parametrize(
    ("pick", "kept"), [("shortest", ["short", "middle"]), ("first", ["long", "short"]), ("best", ["middle", "short"])]
)
def test_the_wanted_ones_of_those_that_pass_are_kept(pick: str, kept: list[str]) -> None:
    candidates = (("long", 9, 0.6), ("wrong", 1, 0.0), ("short", 2, 0.6), ("short", 2, 0.6), ("middle", 5, 1.0))
    choice = chosen(pick, 2, *candidates)
    assert [c.text for c in choice.kept] == kept
    assert choice.dropped[1] == "wrong answer"
    assert choice.dropped[3] == SAME
    assert list(choice.dropped.values()).count(OVER) == 1
    assert len(choice.kept) + len(choice.dropped) == 5


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_response_is_none_whatever_the_filters_say(text: str) -> None:
    candidates = [(completion(text), Score(value=1.0)), (completion("2", 1), Score(value=0.0))]
    choice = choose(Prompt(id="p", messages=()), candidates, [], take=2)
    assert [c.text for c in choice.kept] == ["2"]
    assert choice.dropped == {0: "an empty response"}


def test_a_candidate_that_was_never_answered_is_no_wrong_answer() -> None:
    lost = replace(completion("", 0), failure="status 500")
    choice = choose(ASKED, [(lost, Score(value=None, status="infra_error"))], [], take=1)
    assert choice.dropped == {0: "not answered: status 500"}


ROWS = [{"id": f"q{i}", "prompt": f"{i}+1?", "answer": str(i + 1), "solution": f"{i}+1={i + 1}"} for i in range(6)]


def run(folder: Path, rows: list[dict[str, Any]], **fields: Any) -> Context:
    write(folder / "rows.jsonl", rows)
    context = Context(folder, "demos", spec(**fields), seed=3)
    sample.run(context)  # type: ignore[arg-type]
    return context


def test_every_dropped_row_has_its_reason_and_the_funnel_adds_up(tmp_path: Path) -> None:
    rows = [*ROWS, {**ROWS[0], "id": "bad", "answer": "9"}, {"id": "bare", "prompt": "?", "answer": "1"}]
    run(tmp_path, rows, filters=["correct", "consistent"], limit=4)
    dropped = {row["id"]: row["reason"] for row in read_rows(tmp_path / "out/dropped.parquet")}
    funnel = json.loads((tmp_path / "out/funnel.json").read_text())
    kept = read_rows(tmp_path / "out/data.parquet")
    assert dropped["bad"] == "inconsistent summary"  # the oracle boxes the answer that the row claims
    assert dropped["bare"] == "no worked solution"
    assert len(kept) == funnel["rows_out"] == 4
    assert funnel["rows_in"] == 8 == 4 + len(read_rows(tmp_path / "out/dropped.parquet"))
    assert [s["left"] for s in funnel["steps"]][-1] == 4
    assert {s["reason"]: s["dropped"] for s in funnel["steps"]}["over the limit"] == 2


def test_rows_say_where_they_come_from_and_who_made_them_and_give_no_solution_away(tmp_path: Path) -> None:
    run(tmp_path, ROWS[:1])
    (row,) = read_rows(tmp_path / "out/data.parquet")
    assert (row["origin"], row["made_by"]) == ("rows.jsonl#q0", "builtin:oracle")
    assert row["response"] == "<think>\n0+1=1\n</think>\n\n\\boxed{1}"
    assert "solution" not in row


def test_a_failed_query_goes_to_a_person_and_comes_back_as_they_decide(tmp_path: Path) -> None:
    failing = {**ROWS[1], "solution": "1+1=3"}
    run(tmp_path, [ROWS[0], failing, {**ROWS[2], "solution": "2+1=9"}], filters=["correct", "consistent"])
    review = [json.loads(line) for line in (tmp_path / "out/review.jsonl").read_text().splitlines()]
    assert [row["candidates"][0]["reason"] for row in review] == ["inconsistent summary"] * 2
    review[0]["response"] = "<think>\n1+1=2\n</think>\n\n\\boxed{2}"
    review[1]["accept"] = 0
    write(tmp_path / "review.jsonl", review)
    run(tmp_path, [ROWS[0], failing], filters=["correct", "consistent"], reviewed="review.jsonl")
    kept = read_rows(tmp_path / "out/data.parquet")
    assert [row["made_by"] for row in kept] == ["a person", "a person", "builtin:oracle"]
    assert kept[0]["response"] == review[0]["response"]
    assert kept[1]["response"] == review[1]["candidates"][0]["response"]
    assert all("candidates" not in row and "accept" not in row for row in kept)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"accept": 1}, r"review.jsonl:1: `accept` is 1, and there are 1 candidates"),
        ({"accept": True}, "`accept` is True"),
        ({"response": " "}, "`response` must be a text"),
        ({"accept": 0, "response": "x"}, "`accept` and `response`"),
    ],
)
def test_a_wrongly_filled_review_is_refused_with_its_line(tmp_path: Path, fields: Any, message: str) -> None:
    line = {"prompt": "2+2?", "answer": "4", "candidates": [{"number": 0, "response": "4"}], **fields}
    write(tmp_path / "review.jsonl", [line])
    with pytest.raises(DataError, match=message):
        run(tmp_path, ROWS, reviewed="review.jsonl")


def test_a_line_that_the_person_left_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path / "review.jsonl", [{"prompt": "0+1?", "candidates": [], "accept": None, "response": None}])
    run(tmp_path, ROWS, reviewed="review.jsonl")
    assert len(read_rows(tmp_path / "out/data.parquet")) == 6


def test_an_interrupted_stage_goes_on_behind_its_last_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "BATCH", 2)
    write(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(Stopped):
        sample.run(Context(tmp_path, "demos", spec(), 3, stop_after=2))  # type: ignore[arg-type]
    answered: list[str] = []
    monkeypatch.setattr(sample, "oracle_group", lambda p, real=sample.oracle_group: answered.append(p.id) or real(p))
    sample.run(Context(tmp_path, "demos", spec(), seed=3))  # type: ignore[arg-type]
    assert answered == ["q4", "q5"]
    assert [row["answer"] for row in read_rows(tmp_path / "out/data.parquet")] == list("123456")
    assert not (tmp_path / "demos/parts").exists()


# ---------------------------------------------------------------- a teacher at an endpoint


def asked_of(server: Any, **fields: Any) -> dict[str, Any]:
    endpoint = {"endpoint": server.endpoint, "model": "teacher", "retries": 0, "timeout": 5}
    return {"kind": "sample", "prompts": "rows.jsonl", "endpoint": endpoint, **fields}


def at_endpoint(folder: Path, server: Any, **fields: Any) -> list[dict[str, Any]]:
    write(folder / "rows.jsonl", ROWS[:2])
    context = Context(folder, "demos", SampleStage.model_validate(asked_of(server, **fields)), seed=3)
    sample.run(context)  # type: ignore[arg-type]
    return read_rows(folder / "out/data.parquet")


def solved(body: dict[str, Any]) -> str:
    first = body["messages"][-1]["content"].split("+")[0]
    return f"<think>\n{first}+1={int(first) + 1}\n</think>\n\n\\boxed{{{int(first) + 1}}}"


def test_an_endpoint_is_asked_n_times_a_query_each_with_a_seed_of_its_own(
    tmp_path: Path, chat_server: Callable[..., Any]
) -> None:
    server = chat_server(solved)
    rows = at_endpoint(
        tmp_path, server, n=3, mode="think", sampling={"max_tokens": 77, "temperature": 0.6, "top_p": 0.9}
    )
    assert len(server.requests) == 6
    assert len({request["seed"] for request in server.requests}) == 3
    assert {(r["max_tokens"], r["temperature"], r["top_p"]) for r in server.requests} == {(77, 0.6, 0.9)}
    assert all(r["messages"][-1]["content"].endswith("? /think") for r in server.requests)
    assert [row["response"] for row in rows] == [
        "<think>\n0+1=1\n</think>\n\n\\boxed{1}",
        "<think>\n1+1=2\n</think>\n\n\\boxed{2}",
    ]
    assert {row["made_by"] for row in rows} == {"teacher"}


def test_the_hard_switch_reaches_the_endpoint(tmp_path: Path, chat_server: Callable[..., Any]) -> None:
    server = chat_server(lambda body: "\\boxed{1}")
    at_endpoint(tmp_path, server, mode="closed", filters=[])
    assert all(r["chat_template_kwargs"] == {"enable_thinking": False} for r in server.requests)


def test_reasoning_that_a_server_keeps_apart_is_a_think_block(tmp_path: Path, chat_server: Callable[..., Any]) -> None:
    def reply(body: dict[str, Any]) -> dict[str, Any]:
        message = {"role": "assistant", "content": "\\boxed{1}", "reasoning_content": "0+1=1"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}

    rows = at_endpoint(tmp_path, chat_server(reply))
    assert [row["response"] for row in rows] == ["<think>\n0+1=1\n</think>\n\n\\boxed{1}"]


def test_what_the_endpoint_fails_at_is_dropped_as_unanswered(tmp_path: Path, chat_server: Callable[..., Any]) -> None:
    server = chat_server(lambda body: (400, {"error": {"message": "too long"}}) if "1+1" in str(body) else solved(body))
    rows = at_endpoint(tmp_path, server)
    (lost,) = read_rows(tmp_path / "out/dropped.parquet")
    assert len(rows) == 1
    assert (lost["id"], lost["reason"]) == ("q1", "not answered")
    assert "too long" in lost["detail"]


def test_a_wrong_key_stops_the_stage(tmp_path: Path, chat_server: Callable[..., Any]) -> None:
    with pytest.raises(RewardError, match="refuses"):
        at_endpoint(tmp_path, chat_server(lambda body: (401, {"error": {"message": "no"}})))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"endpoint": None}, "who answers"),
        ({"model": "base"}, "one of the two"),
        ({"endpoint": {"from": "base"}}, "named in `model`"),
        ({"filters": ["similar"]}, "compares with `held_out`"),
    ],
)
def test_a_sample_stage_that_cannot_work_is_refused(change: dict[str, Any], message: str) -> None:
    node = {"kind": "sample", "prompts": "x", "endpoint": {"endpoint": "http://h/v1", "model": "m"}, **change}
    with pytest.raises(ValueError, match=message):
        SampleStage.model_validate(node)


# ---------------------------------------------------------------- responses that a data set has


CHAT = [
    {"id": "good", "prompt": "Name three colours.", "response": "Red, green and blue."},
    {"id": "short", "prompt": "Name three colours.", "response": "Red."},
    {"id": "none", "prompt": "Name three colours.", "response": " "},
    {"id": "turns", "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]},
    {"id": "cut", "prompt": "Hi", "response": "Hello and"},
]


def test_given_responses_pass_the_filters_and_keep_their_mode(tmp_path: Path) -> None:
    fields = {"model": "builtin:given", "filters": ["checklist", "complete", "repetition"], "mode": "no_think"}
    run(tmp_path, CHAT, **fields)
    kept = read_rows(tmp_path / "out/data.parquet")
    assert [(row["response"], row["mode"], row["made_by"]) for row in kept] == [
        ("<think>\n\n</think>\n\nRed, green and blue.", "no_think", "builtin:given"),
        ("<think>\n\n</think>\n\nHello.", "no_think", "builtin:given"),
    ]
    assert [m["role"] for m in kept[1]["messages"]] == ["user"]
    dropped = {row["id"]: (row["reason"], row["detail"]) for row in read_rows(tmp_path / "out/dropped.parquet")}
    assert dropped["none"][0] == "no response"
    assert dropped["short"][0] == dropped["cut"][0] == "checklist"


def test_a_data_set_without_responses_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="builtin:given needs the column `response`"):
        run(tmp_path, ROWS, model="builtin:given")


def test_what_the_judge_says_of_a_checklist_decides_beside_the_rules() -> None:
    (use,) = spec(filters={"use": "checklist", "at_least": 0.8}).filters
    passes = bound(use, HeldOut())
    asked = Prompt(id="p", messages=({"role": "user", "content": "Name three colours."},))
    said = completion("<think>\n\n</think>\n\nRed, green and blue.")
    found = [passes(asked, said, Score(value=1.0, parts={"judge_checklist": value})) for value in (1.0, 0.8, 0.5, None)]
    assert found == [None, None, "checklist: the judge says 0.50", None]


def test_no_generated_conversation_fails_its_checklist() -> None:
    source = PromptSource.model_validate({"from": "builtin:chat", "n": 400})
    prompts = load_prompts([source], locations=Locations(recipe_dir=Path()), seed=1)[0]
    (use,) = spec(filters="checklist").filters
    failed = [
        reason
        for prompt in prompts
        if (reason := bound(use, HeldOut())(prompt, sample.given_group(prompt).completions[0], Score(value=1.0)))
    ]
    assert failed == []


def test_an_answer_that_a_verifier_would_evaluate_is_wrong_and_the_next_one_is_judged_as_ever(
    tmp_path: Path, chat_server: Callable[..., Any]
) -> None:
    reasoning_gym = pytest.importorskip("reasoning_gym")
    canary, items = tmp_path / "canary", list(reasoning_gym.create_dataset("n_queens", size=2, seed=7))
    columns = [{"prompt": f"{i}?", "task_name": "n_queens", "entry": json.dumps(item)} for i, item in enumerate(items)]
    write(tmp_path / "rows.jsonl", columns)
    takes_over = (
        "[setattr(__import__('reasoning_gym').games.n_queens.NQueensDataset,'score_answer',lambda *a,**k:1.0),"
        f"open({str(canary)!r},'w')]"
    )

    def reply(body: dict[str, Any]) -> str:
        first = body["messages"][-1]["content"].startswith("0?")
        return f"<answer>{takes_over if first else items[1]['answer']}</answer>"

    endpoint = {"endpoint": chat_server(reply).endpoint, "model": "teacher", "retries": 0, "timeout": 5}
    fields = {"kind": "sample", "prompts": "rows.jsonl", "endpoint": endpoint, "rewards": ["reasoning_gym"], "n": 4}
    sample.run(Context(tmp_path, "demos", SampleStage.model_validate({**fields, "filters": ["correct"]}), seed=3))  # type: ignore[arg-type]
    kept, lost = read_rows(tmp_path / "out/data.parquet"), read_rows(tmp_path / "out/dropped.parquet")
    assert not canary.exists()
    assert [json.dumps(row["messages"]).count("1?") for row in kept] == [1]
    assert {row["reason"] for row in lost if takes_over in json.dumps(row)} == {"wrong answer"}
