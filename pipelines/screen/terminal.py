"""What reaches a terminal, a pipe or a log: tables and bars on the first alone, and nobody's control codes."""

from __future__ import annotations

import os
import sys
import unicodedata

from rich.console import Console
from rich.text import Text


def make_console(*, stderr: bool = False) -> Console:
    """A console that draws on a terminal only: FORCE_COLOR, which CI sets, would draw bars into its log."""
    stream = sys.stderr if stderr else sys.stdout
    draws = stream.isatty() and os.environ.get("TERM") != "dumb"
    return Console(emoji=False, stderr=stderr, force_terminal=draws)  # else a suite called flags prints a flag


def silence_bars() -> None:
    """Before libraries are imported: their bars are for terminals, and fill a log with carriage returns."""
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")


def plain(text: str) -> str:
    r"""`text` without colours and control codes: what a library or a model wrote moves nobody's cursor.

    >>> plain("\x1b[36mray::step()\x1b[39m\n 10%\r100%\x07")
    'ray::step()\n100%'
    """
    if text.isprintable():
        return text
    shown = Text.from_ansi(text).plain
    return "".join(c for c in shown if c in "\n\t" or unicodedata.category(c) != "Cc")


def print_line(console: Console, text: str) -> None:
    """Print one line as it is: no markup, no colours, never broken."""
    console.print(plain(text), markup=False, emoji=False, highlight=False, soft_wrap=True)
