"""Sums as a crawl would bring them: most rows are fine, a share has one fault each, of every kind that filters are for.

`fault` says which it is, so that anybody can see what became of it; no filter reads it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from posttrain.stages.generators.builtin import arithmetic
from posttrain.types import Row

WORD_PROBLEMS = (
    ("A baker has 64 rolls on the shelf, sells 17 before noon and bakes 25 new ones. How many rolls has he now?", 72),
    ("On Monday 38 children ride the red bus, 12 get off at the park and 9 get on. How many are on the bus then?", 35),
    ("Mira saved 45 coins, gave 16 of them to her brother and found 8 under the sofa. How many coins has she?", 37),
    ("The library lends 57 books, gets 23 of them back and lends 14 more. How many books are out in the end?", 48),
    ("A farmer counts 81 sheep in the valley, sells 33 and buys 19 young ones. How many sheep has the farm?", 67),
)
"""The held-out split: crawls hold copies of what is kept for evaluation."""


def scraped(rng: random.Random, split: str, *, terms: tuple[int, int] = (3, 6), faults: float = 0.1) -> Iterator[Row]:
    """Sums with worked responses; a share `faults` of the rows has a fault, each kind in turn."""
    if split == "heldout":
        yield from (_row(text, text, str(answer), "") for text, answer in WORD_PROBLEMS)
        return
    sums = arithmetic(rng, split, terms=terms)
    kinds = list(FAULTS)
    number = faulty = 0
    last: Row = {}
    while True:
        row = next(sums)
        made = _row(row["key"], row["prompt"], row["answer"], row["solution"])
        if last and rng.random() < faults:
            kind = kinds[faulty % len(kinds)]
            made = {**FAULTS[kind](made, last), "fault": kind}
            faulty += 1
        else:
            last = made
        number += 1
        yield {**made, "place": str(number)}


def _row(key: str, prompt: str, answer: str, solution: str) -> Row:
    response = _response(solution, answer)
    return {"key": key, "prompt": prompt, "answer": answer, "response": response, "task": "math", "domain": "sum"}


def _response(thinking: str, answer: str) -> str:
    return f"<think>\n{thinking}\n</think>\n\n\\boxed{{{answer}}}"


def _thinking(row: Row) -> str:
    return str(row["response"]).removeprefix("<think>\n").partition("\n</think>")[0]


def _asks(form: str) -> Callable[[Row, Row], Row]:
    """Another question of the same sum."""
    return lambda row, last: {**row, "prompt": form.format(row["key"])}


def _thinks(form: Callable[[Row], str]) -> Callable[[Row, Row], Row]:
    return lambda row, last: {**row, "response": _response(form(row), row["answer"])}


def _off_by_one(row: Row) -> str:
    head, _, result = _thinking(row).rpartition("=")
    return f"{head}={int(result) + 1}"


_POLITE = "Please work out the following sum for me and tell me what comes out of it in the end: 20+30-5+1. {}"
_POLITE_STEPS = "20+30=50\n50-5=45\n45+1=46"
_THANKS = ("Thanks!", "Cheers.", "Bye.", "Greetings!")

FAULTS: dict[str, Callable[[Row, Row], Row]] = {
    # Of the query: `curate` drops them.
    "no answer": lambda row, last: {**row, "answer": None},
    "several questions": _asks("What is {}? Is it an even number?"),
    "proof": _asks("Prove that {} is a whole number."),
    "open": _asks("Write a poem about {}."),
    "duplicate": lambda row, last: {**last, "prompt": f"Tell me what {last['key']} is."},
    "kept for evaluation": lambda row, last: _row("", f"Solve this. {WORD_PROBLEMS[0][0]}", "72", "64-17=47\n47+25=72"),
    "near duplicate": lambda row, last: _row("", _POLITE.format(_THANKS[int(row["answer"]) % 4]), "46", _POLITE_STEPS),
    # Of the response: `sample` does.
    "wrong": lambda row, last: {**row, "response": _response(_off_by_one(row), str(int(row["answer"]) + 1))},
    "left open": lambda row, last: {**row, "response": f"<think>\n{_thinking(row)}"},
    "in a loop": _thinks(lambda row: _thinking(row) + "\nWait, let me check this sum once more." * 9),
    "guessed": _thinks(lambda row: "No idea how to do this, I just guess."),
    "inconsistent": _thinks(_off_by_one),
    "two languages": _thinks(lambda row: f"{_thinking(row)}\n所以我们已经得到了这个题目的最后答案。"),
    "quotes what is kept": _thinks(lambda row: f"It is like: {WORD_PROBLEMS[1][0]}\n{_thinking(row)}"),
}
"""What is wrong with a row, and how it is made of a right one and the last right one before it."""

GENERATORS: dict[str, Callable[..., Iterator[Row]]] = {"scraped": scraped}
