"""Built-in generators: endless, seeded, with a held-out split by content.

A row's `key` names its content (the expression, the instruction). A key belongs to the held-out split iff its
hash says so, in every generator: what is evaluated was never trained on, in no stage and not in the base.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from posttrain.stages.generators.worked_solutions import selection
from posttrain.types import Row

WORDS = tuple(
    "red blue green black white pink gray gold cat dog bird fish fox bear wolf frog tree leaf rose sun moon star "
    "rain snow wind fire lake hill road door book lamp ship cup bell hat coat ring salt milk".split()
)
HELD_OUT_SHARE = 8  # one key in eight
MAX_TOTAL = 99
MAX_OPERAND = 20
_QUESTIONS = ("What is {}?", "Compute {}.", "Find {}.", "Work out {}.")


def held_out(key: str) -> bool:
    """Whether content `key` belongs to the held-out split."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % HELD_OUT_SHARE == 0


def _in_split(key: str, split: str) -> bool:
    return held_out(key) == (split == "heldout")


# ---------------------------------------------------------------- arithmetic


def _expression(rng: random.Random, terms: int) -> tuple[str, list[str]]:
    """A sum of `terms` numbers whose running totals stay in 0..99, and its steps."""
    total = rng.randint(1, MAX_TOTAL)
    text, steps = str(total), []
    for _ in range(terms - 1):
        operand = rng.randint(1, MAX_OPERAND)
        plus = rng.random() < 0.5
        if not 0 <= total + (operand if plus else -operand) <= MAX_TOTAL:
            plus = not plus
        result = total + (operand if plus else -operand)
        sign = "+" if plus else "-"
        text += f"{sign}{operand}"
        steps.append(f"{total}{sign}{operand}={result}")
        total = result
    return text, steps


def arithmetic(rng: random.Random, split: str, *, terms: tuple[int, int] = (2, 6)) -> Iterator[Row]:
    """Sums and differences of `terms[0]` to `terms[1]` numbers: "What is 23+7-12?"."""
    while True:
        expression, steps = _expression(rng, rng.randint(*terms))
        if not _in_split(expression, split):
            continue
        yield {
            "key": expression,
            "prompt": rng.choice(_QUESTIONS).format(expression),
            "answer": steps[-1].rpartition("=")[2] if steps else expression,
            "solution": "\n".join(steps),
            "task": "math",
            "domain": f"sum{len(steps) + 1}",
        }


# ---------------------------------------------------------------- instructions


Instruction = tuple[str, str, list[str]]
"""What is asked, its answer, and the steps that lead there."""


def _repeat(rng: random.Random) -> Instruction:
    words, n = " ".join(rng.sample(WORDS, rng.randint(1, 2))), rng.randint(2, 5)
    return f"Repeat {words} {n} times.", " ".join([words] * n), [f"{i}: {words}" for i in range(1, n + 1)]


def _count(rng: random.Random) -> Instruction:
    first, length = rng.randint(1, 80), rng.randint(3, 7)
    numbers = list(range(first, first + length))
    sign = "+" if rng.random() < 0.5 else "-"
    if sign == "-":
        numbers.reverse()
    steps = [f"{a}{sign}1={b}" for a, b in pairwise(numbers)]
    return f"Count from {numbers[0]} to {numbers[-1]}.", " ".join(map(str, numbers)), steps


def _sort(rng: random.Random) -> Instruction:
    numbers = rng.sample(range(1, 100), rng.randint(3, 5))
    steps = list(selection([*map(str, numbers)], falling=False))
    return f"Sort {' '.join(map(str, numbers))}.", " ".join(map(str, sorted(numbers))), steps


def _reverse(rng: random.Random) -> Instruction:
    words = rng.sample(WORDS, rng.randint(3, 5))
    steps = [f"{' '.join(words[:left])}: last {words[left - 1]}" for left in range(len(words), 0, -1)]
    return f"Reverse {' '.join(words)}.", " ".join(reversed(words)), steps


_INSTRUCTIONS: dict[str, Callable[[random.Random], Instruction]] = {
    "repeat": _repeat,
    "count": _count,
    "sort": _sort,
    "reverse": _reverse,
}


def instructions(rng: random.Random, split: str, *, tasks: tuple[str, ...] = tuple(_INSTRUCTIONS)) -> Iterator[Row]:
    """Short instructions with one right answer: repeat, count, sort, reverse."""
    while True:
        task = rng.choice(tasks)
        prompt, answer, steps = _INSTRUCTIONS[task](rng)
        if _in_split(prompt, split):
            yield {
                "key": prompt,
                "prompt": prompt,
                "answer": answer,
                "solution": "\n".join(steps),
                "task": "instruction",
                "domain": task,
            }


def final_answer(task: str, answer: Any) -> str:
    """The form in which an answer is expected: as text by an instruction, in a box by everything else."""
    return str(answer) if task == "instruction" else f"\\boxed{{{answer}}}"


def chat(rng: random.Random, split: str, *, math: float = 0.3, terms: tuple[int, int] = (2, 6)) -> Iterator[Row]:
    """Non-thinking conversations with answers: instructions, and a share `math` of sums answered at once."""
    questions, sums = instructions(rng, split), arithmetic(rng, split, terms=terms)
    while True:
        row = next(sums) if rng.random() < math else next(questions)
        yield {**row, "mode": "no_think", "response": final_answer(row["task"], row["answer"])}


# ---------------------------------------------------------------- the tiny base's corpus


def _facts(rng: random.Random) -> str:
    facts = []
    for _ in range(rng.randint(4, 9)):
        facts += _expression(rng, 2)[1]
    return rng.choice(("\n", ", ", "; ")).join(facts)


def _worked(rng: random.Random) -> str:
    """Worked sums in running text, in several forms; none is the cold start's."""
    expression, steps = _expression(rng, rng.randint(2, 5))
    if held_out(expression):
        return _facts(rng)
    form = rng.randrange(3)
    if form == 0:
        return f"{expression}: {', '.join(steps)}"
    parts = re.findall(r"[+-]\d+", expression)
    totals = [step.rpartition("=")[2] for step in steps]
    if form == 1:  # 23+7-12 = 30-12 = 18
        rests = [total + "".join(parts[i + 1 :]) for i, total in enumerate(totals)]
        return " = ".join([expression, *rests])
    moves = [f"{'add' if part[0] == '+' else 'take'} {part[1:]}" for part in parts]
    start = re.match(r"\d+", expression)
    assert start is not None
    return f"start {start[0]}, " + ", ".join(f"{m}: {t}" for m, t in zip(moves, totals, strict=True)) + "."


def _direct(rng: random.Random) -> str:
    lines = []
    for _ in range(rng.randint(2, 5)):
        expression, steps = _expression(rng, rng.randint(2, 4))
        if not held_out(expression):
            lines.append(f"{expression}={steps[-1].rpartition('=')[2]}")
    return "\n".join(lines)


def _tasks(rng: random.Random) -> str:
    lines = []
    for _ in range(rng.randint(2, 4)):
        prompt, answer, _ = _INSTRUCTIONS[rng.choice(tuple(_INSTRUCTIONS))](rng)
        if not held_out(prompt):
            lines.append(f"{prompt} {answer}")
    return "\n".join(lines)


def _dialog(rng: random.Random) -> str:
    """Questions answered at once, in the chat format: bases have read such text."""
    turns = []
    for _ in range(rng.randint(1, 3)):
        if rng.random() < 0.3:
            expression, steps = _expression(rng, rng.randint(2, 4))
            question, answer = rng.choice(_QUESTIONS).format(expression), steps[-1].rpartition("=")[2]
            key = expression
        else:
            question, answer, _ = _INSTRUCTIONS[rng.choice(tuple(_INSTRUCTIONS))](rng)
            key = question
        if not held_out(key):
            turns.append(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n")
    return "".join(turns)


CORPUS_SHARES = {_facts: 0.15, _worked: 0.45, _direct: 0.05, _tasks: 0.15, _dialog: 0.2}


def corpus(rng: random.Random, split: str) -> Iterator[Row]:
    """Plain documents for the tiny base: facts, worked sums, direct sums, small tasks, short conversations."""
    del split  # one corpus; held-out keys are left out of every kind of document
    while True:
        text = rng.choices(tuple(CORPUS_SHARES), tuple(CORPUS_SHARES.values()))[0](rng)
        if text:
            yield {"text": text, "key": text}


GENERATORS: dict[str, Callable[..., Iterator[Row]]] = {
    "arithmetic": arithmetic,
    "instructions": instructions,
    "chat": chat,
    "corpus": corpus,
}
