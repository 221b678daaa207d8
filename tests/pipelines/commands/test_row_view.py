"""`data show` prints what is trained on, and nothing that a terminal would obey; long rows are found before a run."""

from __future__ import annotations

import io
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from posttrain.configs.load import load_recipe
from posttrain.errors import DataError, InputError
from posttrain.pipelines.commands.cli import app
from posttrain.pipelines.commands.row_view import ShownRow, plain_lines, print_rows, printable, shown_rows
from posttrain.pipelines.graph.dag import build_dag
from posttrain.pipelines.planning.plan import make_plan
from posttrain.pipelines.preflight.data_checks import check_data
from posttrain.pipelines.preflight.stage_reading import StageReading
from posttrain.stages.data.store import write_rows
from posttrain.stages.data.training_rows import build_sources

RECIPE = """
name: r
seed: 5
base: builtin:tiny
stages:
  answers: {kind: sample, model: builtin:oracle, prompts: {from: builtin:arithmetic, n: 4}}
  tuned:
    kind: sft
    model: base
    data: [{from: rows.jsonl, flag: mixed, in_system: 0.5, hard_switch: 0.5}, {from: builtin:chat, n: 30}]
    multi_turn: 0.5
  later: {kind: sft, model: tuned, data: answers}
  rl: {kind: grpo, model: tuned, prompts: {from: builtin:arithmetic, n: 4, mode: closed}, rewards: math}
  table: {kind: evaluate, model: base, suites: [{name: s, prompts: builtin:arithmetic}]}
"""
ROWS = [{"prompt": f"{i}+1?", "response": f"<think>\n\n</think>\n\n{i + 1}", "mode": "no_think"} for i in range(20)]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path / "r.yaml"


def shown(recipe: Path, stage: str, n: int = 3) -> list[ShownRow]:
    return list(shown_rows(load_recipe(str(recipe), ()), stage, n, recipe.parent / "run"))


def test_what_is_shown_is_what_the_stage_trains_on(recipe: Path) -> None:
    loaded = load_recipe(str(recipe), ())
    node = build_dag(loaded)["tuned"]
    stage = StageReading(loaded=loaded, node=node, inputs={})
    chat = stage.chat()
    trained = [samples[:12] for samples in build_sources(stage, chat, node.spec)]  # type: ignore[arg-type]
    rows = shown(recipe, "tuned", 12)
    assert len(rows) == 24
    for sample, row in zip((s for samples in trained for s in samples), rows, strict=True):
        assert (row.tokens, row.targets) == (sample.tokens, int(sample.loss_mask.sum()))
        assert "".join(text for text, _ in row.parts) == chat.tokenizer.decode(sample.ids)
        targets = "".join(text for text, trained_on in row.parts if trained_on)
        assert targets == chat.tokenizer.decode(sample.ids[sample.loss_mask > 0])


def test_rows_are_named_by_file_and_line(recipe: Path) -> None:
    assert [re.sub(r".*/", "", row.where) for row in shown(recipe, "tuned", 2)] == [
        "rows.jsonl:1", "rows.jsonl:2", "builtin:chat:1", "builtin:chat:2",
    ]  # fmt: skip


def test_what_a_finished_stage_left_is_shown_with_its_responses_marked(recipe: Path) -> None:
    folder = recipe.parent / "run" / "answers" / "artifact"
    folder.mkdir(parents=True)
    rows = [
        {"messages": [{"role": "user", "content": "1+1?"}], "response": "2", "mode": m} for m in ("closed", "think")
    ]
    write_rows(folder, rows)
    (folder / "manifest.json").write_text('{"key": "x"}')
    closed, soft = shown(recipe, "answers")
    assert [text for text, trained in closed.parts if trained] == ["2<|im_end|>"]
    assert "1+1? /think<|im_end|>" in soft.parts[0][0]


def test_prompts_are_shown_as_they_are_asked(recipe: Path) -> None:
    rows = shown(recipe, "rl", 2)
    assert [row.targets for row in rows] == [0, 0]
    assert all(row.parts[0][0].endswith("assistant\n<think>\n\n</think>\n\n") for row in rows)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("later", "later reads what answers makes, and that hasn't run.*\n.*--until answers"),
        ("tund", "no stage 'tund'.*tuned"),
        ("table", "kind evaluate, which reads no rows"),
    ],
)
def test_a_stage_that_cannot_be_shown_says_why(recipe: Path, stage: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        shown(recipe, stage)


def test_a_pipe_gets_marks_and_no_control_characters(recipe: Path) -> None:
    hostile = {"prompt": "a\x1b[31mb\rc\x9b2J\u202ed\u2028e\tf", "response": "<think>\n\n</think>\n\n\x1b]0;x\x07"}
    with (recipe.parent / "rows.jsonl").open("w") as file:
        file.write(json.dumps(hostile) + "\n")
    done = CliRunner().invoke(app, ["data", "show", str(recipe), "tuned", "-n", "1", "--run-dir", "none"])
    assert done.exit_code == 0, done.output
    assert "\\x1b]0;x\\x07" in done.output
    assert {c for c in done.output if unicodedata.category(c) in ("Cc", "Zl") or c == "\u202e"} == {"\n"}
    marks = {line[0] for line in done.output.splitlines()}
    assert marks == {"-", "|", "+"}


@given(st.lists(st.tuples(st.text("ab\n+|~ ", min_size=1, max_size=6), st.booleans()), max_size=6))
def test_text_and_mask_can_be_read_back_from_the_plain_lines(parts: list[tuple[str, bool]]) -> None:
    read: list[tuple[str, bool]] = []
    for line in plain_lines(parts):
        if read and line[1] == " ":
            read[-1] = (read[-1][0] + "\n", read[-1][1])
        read += [(c, line[0] == "+") for c in line[2:]] or [("", line[0] == "+")]
    whole = "".join(text for text, _ in parts)
    assert "".join(text for text, _ in read) == whole.removesuffix("\n")
    flat = [(c, trained) for text, trained in parts for c in text if c != "\n"]
    assert [(c[0], trained) for c, trained in read if c.strip("\n")] == flat


@given(st.text())
def test_printable_text_has_no_control_but_the_line_end(text: str) -> None:
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in printable(text) if c != "\n")


def test_a_terminal_shows_targets_in_another_colour_than_context() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system="standard", no_color=False)
    print_rows([ShownRow(where="x:1", parts=(("[bold]asked", False), ("said", True)), tokens=5, targets=1)], console)
    assert re.search(r"\x1b\[2m\[bold\]asked\x1b\[0m\x1b\[1;32msaid\x1b\[0m", file.getvalue())


def test_without_colour_a_terminal_gets_the_marks() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, no_color=True)
    print_rows([ShownRow(where="x:1", parts=(("asked\n", False), ("said", True)), tokens=5, targets=1)], console)
    assert "| asked" in file.getvalue()
    assert "+ said" in file.getvalue()


# ---------------------------------------------------------------- rows that are too long, before a run


def checked(recipe: Path, **change: str) -> list[dict[str, Any]]:
    text = recipe.read_text()
    for old, new in change.items():
        text = text.replace(old, new)
    recipe.write_text(text)
    loaded = load_recipe(str(recipe), ())
    return check_data(loaded, make_plan(loaded, recipe.parent / "run")).sources


def long_row(recipe: Path, line: int) -> None:
    rows = [*ROWS[: line - 1], {"prompt": "1 + " * 400 + "1?", "response": "401"}, *ROWS[line - 1 :]]
    (recipe.parent / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_row_that_is_too_long_is_refused_before_anything_starts(recipe: Path) -> None:
    long_row(recipe, 7)
    with pytest.raises(DataError, match=r"rows\.jsonl:7: \d{4} tokens, more than max_length=1024"):
        checked(recipe)


def test_skipped_long_rows_are_counted_before_anything_starts(recipe: Path) -> None:
    long_row(recipe, 7)
    data = checked(recipe, **{"from: rows.jsonl,": "from: rows.jsonl, on_bad_row: skip, max_bad_share: 0.1,"})
    assert [(read["from"], read["too_long"]) for read in data if "too_long" in read] == [("rows.jsonl", 1)]


def test_more_long_rows_than_the_cap_are_refused_before_anything_starts(recipe: Path) -> None:
    long_row(recipe, 7)
    with pytest.raises(DataError, match="1 of 21 rows"):
        checked(recipe, **{"from: rows.jsonl,": "from: rows.jsonl, on_bad_row: skip,"})


def test_no_tokenizer_is_asked_about_rows_that_are_short_in_bytes(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StageReading, "chat", lambda self: pytest.fail("loaded a tokenizer"))
    assert checked(recipe)


@pytest.mark.parametrize("text", ["1+1" * 40, "日本語" * 30, '🙂\\"\n' * 25, "x" * 200, ""])
def test_no_row_has_more_tokens_than_its_estimate(recipe: Path, text: str) -> None:
    from posttrain.stages.data import training_rows
    from posttrain.stages.data.fusion import example

    loaded = load_recipe(str(recipe), ())
    node = build_dag(loaded)["tuned"]
    chat = StageReading(loaded=loaded, node=node, inputs={}).chat()
    turns = [{"role": role, "content": f"{text}{role}"} for role in ("system", "user", "assistant", "user")]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    for row in ({"messages": turns, "response": f"<think>\n{text}\n</think>\n\n{text}", "tools": [tool]}, ROWS[0]):
        made = example(row, node.spec.data[0], "x:1", 1)  # type: ignore[union-attr]
        (sample,) = training_rows.render(chat, node.spec, made, made)[0]  # type: ignore[arg-type]
        assert sample.tokens <= training_rows.most_tokens_of(row)
