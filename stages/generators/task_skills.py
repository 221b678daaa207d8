"""Generators of general-RL tasks on tools and special skills (report, 4.4); rows as in `task_text`."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from posttrain.stages.generators.task_text import NAMES, in_split, thought
from posttrain.types import Row

CITIES = ("Oslo", "Bern", "Rome", "Lima", "Cairo", "Quito", "Paris", "Delhi", "Tunis", "Riga", "Accra", "Hanoi")
_NOUNS = {"cat": "Katze", "dog": "Hund", "moon": "Mond", "house": "Haus", "tree": "Baum", "ship": "Schiff",
          "bird": "Vogel", "book": "Buch", "road": "Straße", "lamp": "Lampe"}  # fmt: skip
_ARTICLES = {"Katze": "Die", "Hund": "Der", "Mond": "Der", "Haus": "Das", "Baum": "Der", "Schiff": "Das",
             "Vogel": "Der", "Buch": "Das", "Straße": "Die", "Lampe": "Die"}  # fmt: skip
_ADJECTIVES = {"old": "alt", "new": "neu", "big": "groß", "small": "klein", "red": "rot", "quiet": "still"}


def _tool(name: str, what: str, **arguments: str) -> Row:
    properties = {argument: {"type": kind} for argument, kind in arguments.items()}
    schema = {"type": "object", "properties": properties, "required": list(arguments)}
    return {"type": "function", "function": {"name": name, "description": what, "parameters": schema}}


TOOLS = (
    _tool("weather", "The weather in a city", city="string", days="integer"),
    _tool("add", "The sum of two numbers", a="integer", b="integer"),
)


def _call(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def _expected(name: str, **arguments: Any) -> Row:
    return {name: {argument: [value] for argument, value in arguments.items()}}


def _request(rng: random.Random) -> tuple[str, str, dict[str, Any]]:
    if rng.random() < 0.5:
        city, days = rng.choice(CITIES), rng.randint(1, 9)
        return f"the weather in {city} for {days} days", "weather", {"city": city, "days": days}
    a, b = rng.randint(100, 999), rng.randint(100, 999)
    return f"{a} plus {b}", "add", {"a": a, "b": b}


def call_tool(rng: random.Random, split: str, *, calls: int = 1) -> Iterator[Row]:
    """Call the right tools with the right arguments: one, or several at once."""

    def make(rng: random.Random) -> Row:
        wanted = [_request(rng) for _ in range(calls)]
        right = "\n".join(_call(name, **arguments) for _, name, arguments in wanted)
        _, name, arguments = wanted[0]
        wrong = {key: value if isinstance(value, str) else value + 1 for key, value in arguments.items()}
        return {"prompt": f"Tell me {' and '.join(text for text, _, _ in wanted)}.", "tools": list(TOOLS),
                "expected_calls": [_expected(name, **arguments) for _, name, arguments in wanted],
                "gold": thought(right), "adversarial": thought(f"{right}\n{_call(name, **wrong)}")}  # fmt: skip

    return in_split(make, rng, split)


def no_tool(rng: random.Random, split: str) -> Iterator[Row]:
    """Tools are there, and none is of use: say something instead of calling."""

    def make(rng: random.Random) -> Row:
        name, city = rng.choice(NAMES), rng.choice(CITIES)
        return {"prompt": f"Wish {name} a good trip to {city}.", "tools": list(TOOLS),
                "expected_calls": [], "keywords": [name, city],
                "gold": thought(f"Have a good trip to {city}, {name}!"),
                "adversarial": thought(_call("weather", city=city, days=1))}  # fmt: skip

    return in_split(make, rng, split)


def documents(rng: random.Random, split: str) -> Iterator[Row]:
    """Answer from documents, name the one that says it, and keep out what the others say (RAG)."""

    def make(rng: random.Random) -> Row:
        people, cities = rng.sample(NAMES, 3), rng.sample(CITIES, 3)
        which = rng.randrange(3)
        listed = " ".join(
            f"[{i}] {person} lives in {city}." for i, (person, city) in enumerate(zip(people, cities, strict=True), 1)
        )
        return {
            "prompt": f"{listed} Question: where does {people[which]} live? Cite the document as [n].",
            "required": [cities[which]], "forbidden": [c for c in cities if c != cities[which]],
            "supporting": [which + 1], "documents": 3,
            "gold": thought(f"{people[which]} lives in {cities[which]} [{which + 1}]."),
            "adversarial": thought(f"In {cities[0]} [1], {cities[1]} [2] or {cities[2]} [3]."),
        }  # fmt: skip

    return in_split(make, rng, split)


def premises(rng: random.Random, split: str) -> Iterator[Row]:
    """Spot a false premise, and let a true one stand (CounterFactQA; report, 4.7)."""

    def make(rng: random.Random) -> Row:
        name = rng.choice(NAMES)
        born, moved = rng.sample(CITIES, 2)
        true = rng.random() < 0.5
        told = born if true else rng.choice([c for c in CITIES if c not in (born, moved)])
        prompt = f"{name} was born in {born} and moved to {moved}. Why did {name} leave {told}, where {name} was born?"
        rejects = f"That is not correct: {name} wasn't born there. The city of birth is {born}."
        answers = f"The text says only that {name} went from there to {moved}."
        return {"prompt": prompt, "premise": true, "keywords": [moved if true else born],
                "corrects": [] if true else [born],
                "assumes": [] if true else [told], "gold": thought(answers if true else rejects),
                "adversarial": thought(rejects if true else answers)}  # fmt: skip

    return in_split(make, rng, split)


def translation(rng: random.Random, split: str) -> Iterator[Row]:
    """Translate a short sentence into German."""

    def make(rng: random.Random) -> Row:
        noun, adjective = rng.choice(list(_NOUNS)), rng.choice(list(_ADJECTIVES))
        night = rng.choice(("today", "now", "here"))
        source = f"The {noun} is {adjective} {night}."
        later = {"today": "heute", "now": "jetzt", "here": "hier"}[night]
        german = _NOUNS[noun]
        reference = f"{_ARTICLES[german]} {german} ist {later} {_ADJECTIVES[adjective]}."
        return {"prompt": f"Translate into German: {source}", "source": source, "reference": reference,
                "gold": thought(reference), "adversarial": thought(source)}  # fmt: skip

    return in_split(make, rng, split)


def functions(rng: random.Random, split: str) -> Iterator[Row]:
    """Write a Python function; tests that the prompt doesn't show count too."""

    def make(rng: random.Random) -> Row:
        a, b = rng.randint(2, 9), rng.randint(1, 20)
        tests = [f"assert f({x}) == {a * x + b}" for x in (0, 1)]
        hidden = [f"assert f({x}) == {a * x + b}" for x in rng.sample(range(2, 50), 3)]
        body = f"```python\ndef f(x):\n    return {a} * x + {b}\n```"
        cheat = f"```python\ndef f(x):\n    return {{0: {b}, 1: {a + b}}}[x]\n```"
        return {"prompt": f"Write f(x) in Python: {a} times x, plus {b}.", "tests": tests, "hidden_tests": hidden,
                "entry": "f", "gold": thought(body), "adversarial": thought(cheat)}  # fmt: skip

    return in_split(make, rng, split)


def programs(rng: random.Random, split: str) -> Iterator[Row]:
    """Write a Python program that reads a number and prints one."""

    def make(rng: random.Random) -> Row:
        a = rng.randint(2, 99)
        cases = [{"input": str(x), "output": str(x + a)} for x in rng.sample(range(100), 3)]
        shown = cases[0]["output"]
        return {"prompt": f"Write a Python program: read a number, print it plus {a}.", "tests": cases,
                "gold": thought(f"```python\nprint(int(input()) + {a})\n```"),
                "adversarial": thought(f"```python\nprint({shown})\n```")}  # fmt: skip

    return in_split(make, rng, split)


GENERATORS: dict[str, Callable[..., Iterator[Row]]] = {
    "task-call-tool": call_tool,
    "task-no-tool": no_tool,
    "task-documents": documents,
    "task-premises": premises,
    "task-translation": translation,
    "task-functions": functions,
    "task-programs": programs,
}
