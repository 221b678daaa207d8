"""Generators of tasks that a policy does with tools, turn by turn (report, 4.4: agent ability); rows as in `task_text`.

`builtin:tool-transcripts` writes out whole episodes with the calculator, to start from.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator

from posttrain.stages.generators.task_skills import CITIES
from posttrain.stages.generators.task_text import NAMES, in_split, thought
from posttrain.types import Row

_BOXED = "Put the result in \\boxed{}."
_VILLAGES = (
    "Ard", "Bray", "Colm", "Dunmere", "Elsing", "Farrow", "Glen", "Hale", "Iver", "Kells", "Lund", "Marsh", "Nore",
    "Ost", "Pell", "Quarr", "Rill", "Stowe", "Thorn", "Ulm", "Vane", "Wick", "Yarl", "Zell",
)  # fmt: skip
_TRADES = ("baker", "tailor", "miller", "painter", "carpenter", "gardener", "printer", "weaver")
CALCULATOR = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Works out an arithmetic expression.",
        "parameters": {
            "type": "object",
            "properties": {
                "expression": {
                    "type": "string",
                    "description": "numbers with + - * / // % ^ and parentheses, e.g. 12 * (34 + 5)",
                }
            },
            "required": ["expression"],
        },
    },
}
"""What the environment `calculator` shows a model; a test compares."""


def calculate(rng: random.Random, split: str, *, digits: int = 4) -> Iterator[Row]:
    """A product of two numbers of `digits` digits: the environment `calculator` works it out."""

    def make(rng: random.Random) -> Row:
        a, b = (rng.randint(10 ** (digits - 1), 10**digits - 1) for _ in range(2))
        return {"prompt": f"What is {a} * {b}? {_BOXED}", "answer": str(a * b), "expression": f"{a} * {b}",
                "gold": thought(f"\\boxed{{{a * b}}}"),
                "adversarial": thought(f"\\boxed{{{a * b}}} or \\boxed{{{a * b + 1}}}")}  # fmt: skip

    return in_split(make, rng, split)


def compute(rng: random.Random, split: str) -> Iterator[Row]:
    """What takes a program to find: the environment `python` runs it."""

    def make(rng: random.Random) -> Row:
        base, power, low = rng.randint(3, 19), rng.randint(20, 60), rng.randint(50, 500)
        question, right = rng.choice((
            (f"the sum of the digits of {base} to the power of {power}", sum(map(int, str(base**power)))),
            (f"the smallest prime number above {low}", _next_prime(low)),
            (f"the number of divisors of {low}", sum(low % d == 0 for d in range(1, low + 1))),
        ))  # fmt: skip
        return {"prompt": f"Find {question}. {_BOXED}", "answer": str(right),
                "gold": thought(f"\\boxed{{{right}}}"),
                "adversarial": thought(f"It is {right + 1}, or {right}.")}  # fmt: skip

    return in_split(make, rng, split)


def _next_prime(low: int) -> int:
    number = low + 1
    while any(number % d == 0 for d in range(2, int(number**0.5) + 1)):
        number += 1
    return number


def look_up(rng: random.Random, split: str) -> Iterator[Row]:
    """A question whose answer takes two look-ups in a corpus that only the environment `search` can see."""

    def make(rng: random.Random) -> Row:
        people, cities = rng.sample(NAMES, 5), rng.sample(CITIES, 5)
        trades = rng.sample(_TRADES, 5)
        village = rng.choice(_VILLAGES)
        corpus = [f"The {trade} of {village} is {name}." for trade, name in zip(trades, people, strict=True)]
        corpus += [f"{name} was born in {city}." for name, city in zip(people, cities, strict=True)]
        rng.shuffle(corpus)
        which = rng.randrange(5)
        right = cities[which]
        return {"prompt": f"Where was the {trades[which]} of {village} born? Answer with the city alone.",
                "answer": right, "corpus": corpus, "gold": thought(right),
                "adversarial": thought(" or ".join(cities))}  # fmt: skip

    return in_split(make, rng, split)


def transcripts(rng: random.Random, split: str, *, digits: int = 4) -> Iterator[Row]:
    """Whole episodes of `calculate`, as rows to train on: the call, what the calculator says, the answer."""
    for row in calculate(rng, split, digits=digits):
        call = json.dumps({"name": "calculator", "arguments": {"expression": row["expression"]}})
        called = thought(f"<tool_call>\n{call}\n</tool_call>", "The calculator knows.")
        yield {
            "key": row["key"],
            "tools": [CALCULATOR],
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": called},
                {"role": "tool", "content": row["answer"]},
                {"role": "assistant", "content": thought(f"\\boxed{{{row['answer']}}}", "That is the result.")},
            ],
        }  # fmt: skip


GENERATORS: dict[str, Callable[..., Iterator[Row]]] = {
    "task-calculate": calculate,
    "task-compute": compute,
    "task-look-up": look_up,
    "tool-transcripts": transcripts,
}
