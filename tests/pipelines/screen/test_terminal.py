"""The live board in a real terminal, at several widths; and no control codes where nobody draws."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import RunError
from posttrain.pipelines.screen.terminal import plain

BOARD_RUN = Path(__file__).parents[1] / "board_run.py"
CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
LONG = "a_stage_whose_name_is_much_longer_than_any_that_a_sensible_person_would_give_to_a_stage_of_theirs"
TMUX = shutil.which("tmux")
in_tmux = pytest.mark.skipif(TMUX is None, reason="no tmux on the PATH (Debian: apt install tmux)")


class Terminal:
    """One command in a terminal of tmux, on a server of its own."""

    def __init__(self, command: str, width: int, height: int, folder: Path) -> None:
        self.width = width
        self._tmux = [str(TMUX), "-L", f"posttrain-{uuid.uuid4().hex[:8]}", "-f", os.devnull]
        size = ("-x", str(width), "-y", str(height))
        # The shell outlives the command, so that its last screen can be read.
        self._do("new-session", "-d", *size, "-c", str(folder), f"{command}; echo EXIT $?; sleep 600")

    def _do(self, *arguments: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name not in ("TMUX", "COLUMNS", "LINES")}
        environment["LC_ALL"] = "C.UTF-8"
        done = subprocess.run([*self._tmux, *arguments], capture_output=True, text=True, timeout=30, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def resize(self, width: int, height: int) -> None:
        self.width = width
        self._do("resize-window", "-x", str(width), "-y", str(height))

    def lines(self) -> list[str]:
        """What stands on the screen, one string a line that was printed, also where it needed two rows."""
        return [line.rstrip() for line in self._do("capture-pane", "-p", "-J").splitlines() if line.strip()]

    def wait(self, until: Callable[[list[str]], bool]) -> list[str]:
        """The screen once it is as wanted; the last one, if that never comes."""
        for _ in range(600):
            if until(lines := self.lines()):
                break
            time.sleep(0.1)
        assert until(lines), "\n".join(lines)
        return lines

    def close(self) -> None:
        self._do("kill-server")


@pytest.fixture
def start(runner: Any) -> Iterator[Callable[[int, int], Terminal]]:
    """Starts the run of `board_run.py` in a terminal of that size; it stands in the middle of `rl`."""
    started: list[Terminal] = []

    def begin(width: int, height: int) -> Terminal:
        command = f"{sys.executable} {BOARD_RUN} r.yaml run"
        started.append(Terminal(command, width, height, runner.folder))
        return started[-1]

    yield begin
    for terminal in started:
        terminal.close()


def board(lines: list[str]) -> list[str]:
    """The last board on the screen: from the first of its stages on."""
    marked = [at for at, line in enumerate(lines) if line.startswith("✓ queries")]
    return lines[marked[-1] :] if marked else []


def whole(lines: list[str]) -> bool:
    """Whether the board shows all that it promises, now that `rl` has done three of six steps."""
    shown = board(lines)
    text = " ".join(" ".join(shown).split())
    states = [line.split()[:2] for line in shown if line[0] in "✓▶·"]
    wanted = ["queries", "chat", "cold", "eval-cold", "rl", "fusion", "eval-fusion"]
    return (
        [name for _, name in states] == wanted
        and [mark for mark, _ in states] == ["✓"] * 4 + ["▶"] + ["·"] * 2
        and all(part in text for part in ("step 3/6", "reward 0.731", "2048 tokens/s", " left"))
    )


@in_tmux
@pytest.mark.parametrize(("width", "height"), [(80, 24), (160, 50), (44, 30), (80, 17)])
def test_the_board_shows_stages_step_rewards_speed_and_time_left_within_the_width(
    start: Callable[[int, int], Terminal], width: int, height: int
) -> None:
    shown = board(start(width, height).wait(whole))
    assert max(map(len, shown)) <= width
    assert len([line for line in shown if "━" in line]) == 1


@in_tmux
def test_a_name_of_any_length_leaves_marks_and_states_in_sight(
    runner: Any, start: Callable[[int, int], Terminal]
) -> None:
    runner.recipe.write_text(runner.text.replace("chat", LONG))
    at_step = "step 3/6"
    lines = board(start(80, 24).wait(lambda lines: at_step in "".join(lines) and board(lines)[1].startswith("✓")))
    assert max(map(len, lines)) <= 80
    assert re.fullmatch(r"✓ a_stage_whose\w+…\s+sample\s+0\.\d s", lines[1])
    assert re.fullmatch(r"▶ rl\s+grpo\s+running", lines[4])


@in_tmux
@pytest.mark.parametrize(("before", "after"), [((120, 40), (50, 30)), ((50, 30), (120, 40)), ((80, 24), (60, 20))])
def test_a_resized_terminal_gets_a_whole_board_again_and_the_run_goes_on(
    runner: Any, start: Callable[[int, int], Terminal], before: tuple[int, int], after: tuple[int, int]
) -> None:
    terminal = start(*before)
    terminal.wait(whole)
    terminal.resize(*after)
    terminal.wait(lambda lines: whole(lines) and max(map(len, board(lines))) <= after[0])
    (runner.folder / "go").touch()
    terminal.wait(lambda lines: "EXIT 0" in lines)
    assert (runner.run_dir / "eval-fusion" / "artifact" / "manifest.json").exists()


@in_tmux
def test_a_low_terminal_keeps_the_running_stage_and_its_step_in_sight(start: Callable[[int, int], Terminal]) -> None:
    wanted = {"▶", "step", "loss"}
    lines = start(80, 11).wait(lambda lines: wanted <= {line.split()[0] for line in lines})
    assert [line for line in lines if "and 4 more" in line]


@in_tmux
def test_the_board_is_gone_when_the_run_ends(runner: Any, start: Callable[[int, int], Terminal]) -> None:
    (runner.folder / "go").touch()
    lines = start(100, 60).wait(lambda lines: "EXIT 0" in lines)
    assert board(lines) == []
    assert "[5/7] rl (grpo): start" in lines


# ---------------------------------------------------------------- pipes


def test_a_run_in_a_pipe_writes_plain_lines(first: subprocess.CompletedProcess[bytes]) -> None:
    assert first.returncode == 0, first.stderr
    assert b"cold_start (sft): step 2/2" in first.stdout
    assert CONTROL.findall(first.stdout + first.stderr) == []


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("run recipe.yaml SMALLER", b"cold_start (sft): reused"),
        ("plan recipe.yaml SMALLER", b"0 of 6 stages need work"),
        ("status runs/mine", b"cold_start"),
        ("report runs/mine", b"cold_start:sums:default:accuracy = "),
        ("compare runs/mine runs/mine", b"  +0.000 (n=2)"),
        ("generate builtin:tiny --prompt 1+1? --max-tokens 4", b""),
        ("prune builtin:tiny --keep 2 --out small", b"layers 0, "),
    ],
)
@pytest.mark.usefixtures("first")
def test_a_pipe_gets_no_control_codes(project: Any, command: str, says: bytes) -> None:
    done = project(*(part for word in command.split() for part in (project.smaller if word == "SMALLER" else (word,))))
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
    assert CONTROL.findall(done.stdout + done.stderr) == []


def test_an_error_of_another_library_moves_no_cursor(runner: Any) -> None:
    def fail(context: Any) -> None:
        raise RunError("\x1b[36mray::step()\x1b[39m \x1b]0;owned\x07 10%\r\x1b[2Jlost")

    runner.during = fail
    assert runner.run() == 1
    assert CONTROL.findall(runner.printed.encode()) == []
    assert "lost" in runner.printed


@pytest.mark.parametrize("text", ["plain", "three\nlines\tof text\n ", "naïve – 日本 ✓", ""])
def test_text_without_codes_stays_as_it_is(text: str) -> None:
    assert plain(text) == text
