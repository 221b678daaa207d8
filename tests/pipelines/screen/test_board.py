"""What the board, a stage's view and `live.json` say, by a clock that the test turns."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from posttrain.pipelines.records.ledger import LIVE
from posttrain.pipelines.screen import stage_view
from posttrain.pipelines.screen.board import Board
from posttrain.pipelines.screen.stage_view import StageView
from posttrain.pipelines.screen.terminal import make_console

from ..clock import Clock


def drawn(board: Board, width: int = 44) -> list[str]:
    out = io.StringIO()
    Console(file=out, force_terminal=True, color_system=None, width=width).print(board)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def board_of(*stages: str, width: int = 44) -> Board:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width)
    return Board(console, [(stage, "sft") for stage in stages])


@pytest.mark.parametrize(("share", "cells"), [(0.0, 0), (0.25, 10), (0.5, 20), (1.0, 40)])
def test_the_bar_is_as_long_as_the_share_that_is_done(share: float, cells: int) -> None:
    board = board_of("cold")
    board.state("cold", "running")
    board.progress("step 1/4", share, "")
    assert sum(line.count("━") for line in drawn(board)) == cells


def test_each_state_has_its_mark() -> None:
    board = board_of("a", "b", "c", "d", "e")
    for stage, state in zip("abcd", ("reused", "done", "failed", "running"), strict=True):
        board.state(stage, state)
    assert [line[:3] for line in drawn(board)] == ["✓ a", "✓ b", "✗ c", "▶ d", "· e"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(stage_view, "time", made)
    return made


def told(folder: Path) -> dict[str, Any]:
    return json.loads((folder / LIVE).read_text())


def test_the_time_left_is_that_of_the_steps_to_come(tmp_path: Path, clock: Clock) -> None:
    out = io.StringIO()
    with StageView(Console(file=out, width=200), "rl", str, folder=tmp_path) as view:
        clock.now += 100  # a stage loads its model first
        view.start(12, done=2)
        for _ in range(4):
            clock.now += 5
            view.advance()
        assert told(tmp_path) == {
            "done": 6, "total": 12, "unit": "step", "rate": "5 s/step", "left": 30.0, "seconds": 120.0, "note": "",
        }  # fmt: skip
    assert "rl: step 6/12 (5 s/step, 30 s left)" in out.getvalue().splitlines()


def test_the_board_is_told_the_share_and_the_time_left(clock: Clock) -> None:
    board = board_of("rl", width=80)
    with board:
        board.state("rl", "running")
        with StageView(Console(file=io.StringIO()), "rl", str, board=board) as view:
            view.start(8)
            clock.now += 30
            view.advance(2)
            lines = drawn(board, 80)
    assert "  step 2/8  15 s/step  1 min 30 s left" in lines
    assert sum(line.count("━") for line in lines) == 15


def test_another_shell_hears_of_each_step_that_takes_a_second(tmp_path: Path, clock: Clock) -> None:
    with StageView(Console(file=io.StringIO()), "rl", str, folder=tmp_path) as view:
        view.start(100)
        heard = []
        for _ in range(4):
            clock.now += 1.5
            view.advance()
            heard.append(told(tmp_path)["done"])
        clock.now += 0.1
        view.advance()
        assert (heard, told(tmp_path)["done"]) == ([1, 2, 3, 4], 4)  # and no more often


@pytest.mark.parametrize(("term", "draws"), [("dumb", False), ("xterm-256color", True)])
def test_nothing_is_drawn_on_a_terminal_that_cannot(term: str, draws: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert make_console().is_terminal is draws
