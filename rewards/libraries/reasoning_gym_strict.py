"""Answers that reasoning_gym 0.1.25 pays in full and that are wrong: looked at again before they are paid.

Its verifiers search an answer for numbers or letters, compare with `nan`, or take any text for true. A policy finds
that. The checks here are for answers that the library pays in full.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from posttrain.rewards.environments.calculator import evaluate

Item = Mapping[str, Any]

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d+)?")
_NO_NUMBER = re.compile(r"nan|inf", re.IGNORECASE)
_NEGATION = re.compile(r"\b(not|never|neither|nor|false|untrue|wrong|incorrect|den(y|ies|ied))\b|n't", re.IGNORECASE)
_FRACTION = re.compile(r"-?\d+\s*/\s*-?\d+|-?\\[dt]?frac\s*\{\s*-?\d+\s*\}\s*\{\s*-?\d+\s*\}")
_EXPRESSIONS = ("countdown", "puzzle24")
"""Data sets whose answer is an expression; the library pays 0.01 for any text."""
_ARITHMETIC = re.compile(r"[0-9+\-*/()\s]+", re.ASCII)


def paid(task: str, answer: str, item: Item, score: float) -> float:
    """What an answer is worth that the library scores `score`: as much, or less where full pay isn't deserved."""
    if task in _EXPRESSIONS and not _is_arithmetic(answer):
        return 0.0
    if score < 1 - 1e-9:
        return score
    check = _CHECKS.get(task)
    return 1.0 if check is None else min(1.0, check(answer.strip(), item))


def _is_arithmetic(answer: str) -> bool:
    """Whether it holds whole numbers, the four operators and parentheses, and nothing else."""
    return _ARITHMETIC.fullmatch(answer) is not None and "**" not in answer and "//" not in answer


def _sum_of(numbers: list[int], target: Fraction, answer: str) -> float:
    """Full pay for an expression of these whole numbers, each used once, whose exact value is the target."""
    try:
        right = evaluate(answer) == target
    except (ValueError, ZeroDivisionError):
        return 0.0
    return float(right and sorted(map(int, re.findall(r"\d+", answer))) == sorted(numbers))


def _countdown(answer: str, item: Item) -> float:
    return _sum_of(item["metadata"]["numbers"], Fraction(item["metadata"]["target"]), answer)


def _puzzle24(answer: str, item: Item) -> float:
    return _sum_of(item["metadata"]["numbers"], Fraction(24), answer)


def _coin_flip(answer: str, item: Item) -> float:
    given, gold = Fraction(answer.replace(",", "")), Fraction(item["answer"].replace(",", ""))
    if abs(given - gold) <= Fraction(1, 10_000):  # the library's own tolerance
        return 1.0
    texts = [f"{float(value):.10g}" for value in (given, gold)]
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False)))
    return same / max(map(len, texts))  # the share of the shorter text, which it takes, pays `0` in full


def _one_number(answer: str, item: Item) -> float:
    found = _NUMBER.findall(answer.replace("\N{MINUS SIGN}", "-"))
    if len(found) != 1 or ("%" in answer and "%" not in item["answer"]) or _NEGATION.search(answer):
        return 0.0
    return float(float(found[0].replace(",", "")) == float(item["answer"]))


def _sorted_numbers(answer: str, item: Item) -> float:
    given = [float(number) for number in json.loads(answer.replace("'", '"'))]
    gold = [float(number) for number in json.loads(item["answer"].replace("'", '"'))]
    return float(all(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9) for a, b in zip(given, gold, strict=True)))


def _same_word(answer: str, item: Item) -> float:
    return float(answer.rstrip(".").casefold() == str(item["answer"]).casefold())


def _spelled(answer: str, item: Item) -> float:
    return 1.0 if answer.lower() == item["answer"].lower() else 0.8  # what it pays where its sum is exactly 1


def _whole(pattern: str) -> Callable[[str, Item], float]:
    """Full pay for an answer that has this form and nothing else."""
    form = re.compile(pattern, re.IGNORECASE | re.ASCII)
    return lambda answer, item: float(form.fullmatch(answer) is not None)


def _fraction(answer: str, item: Item) -> float:
    return float(_FRACTION.fullmatch(answer.strip("$(). \\")) is not None or answer == item["answer"])


_CHECKS: dict[str, Callable[[str, Item], float]] = {
    "coin_flip": _coin_flip,
    "complex_arithmetic": lambda answer, item: float(_NO_NUMBER.search(answer) is None),
    "countdown": _countdown,
    "fraction_simplification": _fraction,
    "game_of_life_halting": _same_word,
    "gsm_symbolic": _one_number,
    "knights_knaves": lambda answer, item: float(_NEGATION.search(answer) is None),
    "number_sorting": _sorted_numbers,
    "puzzle24": _puzzle24,
    "quantum_lock": lambda answer, item: float(re.fullmatch(r"[A-Ca-c\s,;>\-\u2013\u2014\u2192]*", answer) is not None),
    "spell_backward": _spelled,
    "time_intervals": _whole(r"-?\d+(\s*days?)?\.?|(\d+ days?,\s*)?[\d:.\s]+([+-]\d\d:?\d\d)?"),
}
